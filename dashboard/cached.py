"""What the pages read, each result kept until the files that it came from change.

The key of every cache is the identity of those files (path, time of the last change, size); the caches are bounded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from workbench.errors import CardError, RunError
from workbench.evaluation.projection import Method, Stage, Vectors, load_vectors
from workbench.run import Run, list_runs
from workbench.views import map_view as maps
from workbench.views import overview
from workbench.views.closeup import LogTail, Opened, encoder_of, model_files, sizes
from workbench.views.closeup import opened as opened_of
from workbench.views.closeup import paired as paired_of
from workbench.views.loss_curves import Axis, Curves, LogColumns, curves
from workbench.views.map_view import Scene
from workbench.views.overview import Identity, RunRow

if TYPE_CHECKING:
    import pandas as pd

    from workbench.audit.rules import Audit
    from workbench.cards.card import Card
    from workbench.recipe.schema import Recipe


def runs_folder() -> Path:
    """The folder that the command named; `runs` without one."""
    return Path(sys.argv[1] if len(sys.argv) > 1 else "runs")


def runs() -> list[Run]:
    """All runs of the folder, newest first."""
    return list_runs(runs_folder())


@contextmanager
def expected_form(name: str) -> Iterator[None]:
    """A run of another version, or edited by hand, is a sentence instead of a traceback."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"expected the files of run {name!r} in the form that this version writes, found something else "
            f"({type(error).__name__}: {error}); `workbench train` makes a new run."
        ) from error


def row(run: Run) -> RunRow:
    return _row(str(run.path), overview.identity(*overview.overview_files(run)))


@st.cache_data(max_entries=500, show_spinner=False)
def _row(path: str, files: Identity) -> RunRow:
    run = Run(Path(path))
    return overview.run_row(run, lambda: log(run))


def log(run: Run) -> LogColumns:
    """The run's log, of which only what was appended is read again; not to be changed."""
    return _tail(str(run.file("log"))).columns()


@st.cache_resource(max_entries=20, show_spinner=False)
def _tail(path: str) -> LogTail:
    return LogTail(Path(path))


def beside_card(run: Run, axis: Axis) -> Curves:
    """The card's log, corrected for what the audit knows, and the run's averaged as the card's is."""
    return _beside_card(str(run.path), axis, overview.identity(run.file("card"), run.file("log")))


@st.cache_resource(max_entries=50, show_spinner=False)
def _beside_card(path: str, axis: Axis, files: Identity) -> Curves:
    with expected_form(Path(path).name):
        return curves(Run(Path(path)), axis=axis, log=log(Run(Path(path))))


def scene(run: Run, evaluation: str, method: Method, together: bool) -> Scene | None:
    files = overview.identity(*maps.map_files(run, evaluation, method, together=together))
    return _scene(str(run.path), evaluation, method, together, files)


@st.cache_resource(max_entries=4, show_spinner="Reading the map …")
def _scene(path: str, evaluation: str, method: Method, together: bool, files: Identity) -> Scene | None:
    with expected_form(Path(path).name):
        return maps.scene(Run(Path(path)), evaluation, method, together=together)


def map_names(run: Run, evaluation: str, method: Method, together: bool) -> list[str]:
    files = overview.identity(*maps.map_files(run, evaluation, method, together=together))
    return _map_names(str(run.path), evaluation, method, together, files)


@st.cache_resource(max_entries=4, show_spinner=False)
def _map_names(path: str, evaluation: str, method: Method, together: bool, files: Identity) -> list[str]:
    found = _scene(path, evaluation, method, together, files)
    return maps.names(found) if found is not None else []


def vectors(run: Run, evaluation: str, moment: Stage) -> Vectors:
    """The full vectors of an evaluation; not to be changed."""
    file = run.file("vectors", evaluation, moment)
    return _vectors(str(run.path), evaluation, moment, overview.identity(file))


@st.cache_resource(max_entries=2, show_spinner="Reading the vectors …")
def _vectors(path: str, evaluation: str, moment: Stage, files: Identity) -> Vectors:
    with expected_form(Path(path).name):
        return load_vectors(Run(Path(path)), evaluation, moment)


@st.cache_data(max_entries=200, show_spinner="Finding the neighbours …")
def _neighbours(
    path: str, evaluation: str, moment: Stage, kind: str, ids: tuple[str, ...], files: Identity
) -> dict[str, list[tuple[str, float]]]:
    return maps.neighbours(vectors(Run(Path(path)), evaluation, moment), kind, ids)


def neighbours(
    run: Run, evaluation: str, moment: Stage, kind: str, ids: Sequence[str]
) -> dict[str, list[tuple[str, float]]]:
    """The nearest documents of each text by the full vectors: id -> (document id, cosine), nearest first."""
    file = run.file("vectors", evaluation, moment)
    return _neighbours(str(run.path), evaluation, moment, kind, tuple(ids), overview.identity(file))


def model(run: Run, moment: Stage) -> Any:
    """The function that encodes a query as the run's model does; two models are kept, those of one run."""
    return _model(str(run.path), moment, model_files(run))


@st.cache_resource(max_entries=2, show_spinner="Loading the model …")
def _model(path: str, moment: Stage, files: Identity) -> Any:
    with expected_form(Path(path).name):
        return encoder_of(Run(Path(path)), moment)


def paired(run: Run, other: Run, evaluation: str, metric: str) -> pd.DataFrame:
    files = overview.identity(*overview.query_files(run, evaluation), *overview.query_files(other, evaluation))
    return _paired(str(run.path), str(other.path), evaluation, metric, files)


@st.cache_data(max_entries=20, show_spinner="Reading the queries …")
def _paired(path: str, other: str, evaluation: str, metric: str, files: Identity) -> pd.DataFrame:
    with expected_form(Path(path).name):
        return paired_of(Run(Path(path)), Run(Path(other)), evaluation, metric)


VECTORS = ("fewer dimensions", "coarser numbers")


def grouped(run: Run, evaluation: str, by: str, metric: str) -> pd.DataFrame:
    """A metric by groups of queries, or, for one of `VECTORS`, by what is kept of the vectors."""
    kept = [run.file("vectors", evaluation, moment) for moment in ("before", "after")]
    files = overview.identity(*overview.query_files(run, evaluation), *(kept if by in VECTORS else []))
    return _grouped(str(run.path), evaluation, by, metric, files)


@st.cache_data(max_entries=50, show_spinner="Grouping …")
def _grouped(path: str, evaluation: str, by: str, metric: str, files: Identity) -> pd.DataFrame:
    from workbench.evaluation.slices import at_dimensions, at_precisions, slice_queries

    with expected_form(Path(path).name):
        run = Run(Path(path))
        if by in VECTORS:
            return (at_dimensions if by == VECTORS[0] else at_precisions)(run, evaluation)
        return slice_queries(run, evaluation, by, metric=metric)


def card_of(run: Run) -> Card | None:
    return _card_of(str(run.path), overview.identity(run.file("card")))


@st.cache_data(max_entries=50, show_spinner=False)
def _card_of(path: str, files: Identity) -> Card | None:
    with expected_form(Path(path).name):
        card: Card | None = Run(Path(path)).card()
        return card


@st.cache_data(max_entries=50, show_spinner=False)
def shipped_card(name: str) -> Card:
    from workbench.cards.read import read_card

    return read_card(name)


@st.cache_data(max_entries=20, show_spinner=False)
def dropped_card(data: bytes, name: str) -> Card:
    from workbench.cards.read import parse_card

    return parse_card(data, name=name)


@st.cache_data(
    max_entries=50, show_spinner=False, hash_funcs={"workbench.cards.card.Card": lambda card: (card.name, card.sha256)}
)
def understood(card: Card) -> tuple[Audit, Recipe | None, Recipe | None, str]:
    """The audit, the recipe as written and corrected, and why there is no recipe where there is none."""
    from workbench.audit.rules import audit
    from workbench.errors import RecipeError
    from workbench.recipe.from_card import recipe

    found = audit(card)
    try:
        return found, recipe(card), recipe(card, corrected=True), ""
    except (RecipeError, CardError) as error:
        return found, None, None, str(error)


def queries(run: Run, evaluation: str, metric: str) -> pd.DataFrame:
    return _queries(str(run.path), evaluation, metric, overview.identity(*overview.query_files(run, evaluation)))


@st.cache_data(max_entries=20, show_spinner="Reading the queries …")
def _queries(path: str, evaluation: str, metric: str, files: Identity) -> pd.DataFrame:
    with expected_form(Path(path).name):
        run = Run(Path(path))
        table = overview.query_table(run, evaluation, metric)
        return table if "gold" in table else table.merge(sizes(run, evaluation), on="query_id", how="left")


def query_metrics(run: Run, evaluation: str) -> tuple[str, ...]:
    return _query_metrics(str(run.path), evaluation, overview.identity(*overview.query_files(run, evaluation)))


@st.cache_data(max_entries=100, show_spinner=False)
def _query_metrics(path: str, evaluation: str, files: Identity) -> tuple[str, ...]:
    with expected_form(Path(path).name):
        return overview.query_metrics(Run(Path(path)), evaluation)


def opened(run: Run, evaluation: str, query_id: str) -> Opened:
    """The ranking before, the ranking after, and the documents that answer the query."""
    return _opened(str(run.path), evaluation, query_id, overview.identity(*overview.query_files(run, evaluation)))


@st.cache_data(max_entries=200, show_spinner=False)
def _opened(path: str, evaluation: str, query_id: str, files: Identity) -> Opened:
    run = Run(Path(path))
    with expected_form(run.name):
        return opened_of(run, evaluation, query_id)


def comparison(run: Run, others: Sequence[Run] = ()) -> dict[str, Any]:
    """A run with its card, as stored or computed now, or with other runs."""
    paths = [run.path, *(other.path for other in others)]
    files = [
        file
        for path in paths
        for file in (*overview.overview_files(Run(path)), *sorted(Run(path).file("evaluations").glob("*/*.parquet")))
    ]
    return _comparison(tuple(map(str, paths)), overview.identity(*files))


@st.cache_data(max_entries=50, show_spinner="Comparing …")
def _comparison(paths: tuple[str, ...], files: Identity) -> dict[str, Any]:
    runs = [Run(Path(path)) for path in paths]
    with expected_form(runs[0].name):
        stored = runs[0].comparison() if len(runs) == 1 else None
        if stored is not None:
            return stored
        from workbench.evaluation.compare import compare

        return compare(runs).to_dict()
