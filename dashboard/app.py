"""The dashboard: what training did, in a browser. `workbench dashboard [RUNS_FOLDER]` starts it.

This file holds the pages together; each page is a file of its own that lays out, `parts` is what they share, and
`cached` reads. Nothing here writes to a run folder.
"""

from pathlib import Path

import parts
import streamlit as st

from workbench.errors import WorkbenchError

ABOUT = "**Card Workbench** reads run folders on this machine, also while they are written, and never changes them."

st.set_page_config(
    page_title="Card Workbench",
    page_icon=str(Path(__file__).with_name("icon.svg")),
    layout="wide",
    menu_items={"About": ABOUT},
)

st.html(parts.STYLE + (parts.STYLE_DARK if parts.dark() else ""))
st.logo(str(Path(__file__).with_name("icon.svg")))
page = st.navigation(
    [
        st.Page("overview.py", title="Overview", icon=":material/table_rows:", default=True),
        st.Page("card.py", title="Card", icon=":material/description:"),
        st.Page("loss.py", title="Loss curves", icon=":material/show_chart:"),
        st.Page("embeddings.py", title="Embeddings", icon=":material/bubble_chart:"),
        st.Page("retrieval.py", title="Retrieval", icon=":material/search:"),
        st.Page("compare.py", title="Compare", icon=":material/balance:"),
    ],
    position="top",
)
parts.turn_to(page.url_path)
try:
    page.run()
except WorkbenchError as error:
    parts.problem("This cannot be shown.", str(error))
