"""The dashboard: what training changed, in a browser. Start it with `workbench dashboard [RUNS_FOLDER]`.

Each page is a file that only lays out; `parts` is what they share, and `cached` reads. Nothing writes to a run folder.
"""

from pathlib import Path

import parts
import streamlit as st

from workbench.errors import WorkbenchError

ABOUT = "**Card Workbench** reads run folders on this machine, even while they are written, and never changes them."

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
