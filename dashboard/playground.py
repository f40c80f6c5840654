"""The playground of the Retrieval page: your query, answered by the model before and after training."""

import address
import cached
import parts
import streamlit as st

from workbench.errors import WorkbenchError
from workbench.evaluation.projection import Stage
from workbench.run import Run
from workbench.views.playground import answer as answer_query


def show(run: Run, evaluation: str) -> None:
    """A field for the query, and two rankings of the run's documents."""
    query = address.choice(
        st.text_input,
        "Your query",
        key="ask",
        max_chars=2000,
        placeholder="Type a question and press Enter",
        help="Encoded on this machine by the run's two models, which are loaded the first time. Only documents with "
        "stored vectors are searched.",
    )
    if not query.strip():
        st.caption("Both models search the documents of this evaluation. Nothing leaves this machine.")
        return
    for column, (stage, title) in zip(st.columns(2), parts.TITLES.items(), strict=True):
        with column:
            answer(run, evaluation, stage, title, query.strip())


def answer(run: Run, evaluation: str, stage: Stage, title: str, query: str) -> None:
    """The top 10 of one model, or why there is no model."""
    try:
        vectors = cached.vectors(run, evaluation, stage)
        encode = cached.model(run, stage)
        with st.spinner("Searching …"):
            hits = answer_query(run, evaluation, stage, encode, vectors, query)
    except WorkbenchError as error:
        st.markdown(f"**{title}**")
        parts.problem("This model cannot answer.", str(error))
        return
    parts.rankings([(title, hits)], query, known=False)
