"""The dashboard: what training changed, in a browser. Start it with `workbench dashboard [RUNS_FOLDER]`.

Each page is a file that only lays out; `parts` is what they share, `cached` reads, and `actions` acts when asked twice;
the notes of runs are beside them, see `workbench/run_notes.py`.
"""

import parts
import streamlit as st

parts.start(
    [
        st.Page("overview.py", title="Overview", icon=":material/table_rows:", default=True),
        st.Page("card.py", title="Card", icon=":material/description:"),
        st.Page("loss.py", title="Loss curves", icon=":material/show_chart:"),
        st.Page("embeddings.py", title="Embeddings", icon=":material/bubble_chart:"),
        st.Page("retrieval.py", title="Retrieval", icon=":material/search:"),
        st.Page("compare.py", title="Compare", icon=":material/balance:"),
    ],
    "reads run folders on this machine, even while they are written, and never changes what is in them.",
)
