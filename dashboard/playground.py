"""The playground of the Retrieval page: a query of yours, answered by the model before training and after it."""

import cached
import parts
import streamlit as st

from workbench.errors import WorkbenchError
from workbench.evaluation.projection import Stage
from workbench.run import Run
from workbench.views.map_view import has_vectors
from workbench.views.playground import answer as answer_query


def show(run: Run, evaluation: str) -> None:
    """A field for the query, and two rankings of the run's own documents."""
    if not has_vectors(run, evaluation):
        parts.empty(
            "No vectors to search",
            "The playground searches the documents' vectors that a run keeps, and this one keeps none of this "
            "evaluation. A run that is trained now keeps them.",
        )
        return
    query = st.text_input(
        "Your query",
        key="ask",
        bind="query-params",
        max_chars=2000,
        placeholder="Type a question and press Enter",
        help="It is encoded here, on this machine, by the run's two models; the first time they have to be loaded. "
        "Searched are the documents of which the run keeps vectors.",
    )
    if not query.strip():
        st.caption("Both models answer from the documents of this evaluation. Nothing leaves this machine.")
        return
    for column, (stage, title) in zip(st.columns(2), parts.TITLES.items(), strict=True):
        with column:
            answer(run, evaluation, stage, title, query.strip())


def answer(run: Run, evaluation: str, stage: Stage, title: str, query: str) -> None:
    """One model's ten best documents; a model that cannot be had says why."""
    try:
        vectors = cached.vectors(run, evaluation, stage)
        encode = cached.model(run, stage)
        with st.spinner("Searching …"):
            hits = answer_query(run, evaluation, stage, encode, vectors, query)
    except WorkbenchError as error:
        st.markdown(f"**{title}**")
        parts.problem("This model cannot answer.", str(error))
        return
    parts.ranking(title, hits, query, known=False)
