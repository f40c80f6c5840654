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

from workbench.errors import CardError, RecipeError, RunError
from workbench.evaluation.projection import STAGES, Method, Stage, Vectors, load_vectors
from workbench.run import Run, list_runs
from workbench.views import map_view as maps
from workbench.views import overview, playground
from workbench.views import queries as q
from workbench.views.log_tail import LogTail
from workbench.views.loss_curves import Axis, Curves, LogColumns, curves
from workbench.views.map_view import MapView
from workbench.views.overview import RunRow
from workbench.views.records import OpenedQuery

if TYPE_CHECKING:
    import pandas as pd

    from workbench.audit.rules import Audit
    from workbench.cards.card import Card
    from workbench.recipe.schema import Recipe

Identity = tuple[tuple[str, int, int], ...]


def identity(*paths: Path) -> Identity:
    """(path, modified in ns, size in bytes) of the files that exist: two equal identities have equal content."""
    found = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((str(path), stat.st_mtime_ns, stat.st_size))
    return tuple(found)


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


# --- runs ---


def row(run: Run) -> RunRow:
    return _row(str(run.path), identity(*overview.overview_files(run)))


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
    """The corrected log of the card, and the run's averaged as the card's is."""
    return _beside_card(str(run.path), axis, identity(run.file("card"), run.file("log")))


@st.cache_resource(max_entries=50, show_spinner=False)
def _beside_card(path: str, axis: Axis, files: Identity) -> Curves:
    with expected_form(Path(path).name):
        return curves(Run(Path(path)), axis=axis, log=log(Run(Path(path))))


def comparison(run: Run, others: Sequence[Run] = ()) -> dict[str, Any]:
    """A run with its card, as stored or computed now, or with other runs."""
    every = [run, *others]
    tables = [path for each in every for path in sorted(each.file("evaluations").glob("*/*.parquet"))]
    files = identity(*(path for each in every for path in overview.overview_files(each)), *tables)
    return _comparison(tuple(str(each.path) for each in every), files)


@st.cache_data(max_entries=50, show_spinner="Comparing …")
def _comparison(paths: tuple[str, ...], files: Identity) -> dict[str, Any]:
    from workbench.evaluation.compare import compare

    runs = [Run(Path(path)) for path in paths]
    with expected_form(runs[0].name):
        stored = runs[0].comparison() if len(runs) == 1 else None
        return stored if stored is not None else compare(runs).to_dict()


# --- maps and vectors ---


def view(run: Run, evaluation: str, method: Method, together: bool) -> MapView | None:
    files = identity(*maps.map_files(run, evaluation, method, together=together))
    return _view(str(run.path), evaluation, method, together, files)


@st.cache_resource(max_entries=4, show_spinner="Reading the map …")
def _view(path: str, evaluation: str, method: Method, together: bool, files: Identity) -> MapView | None:
    with expected_form(Path(path).name):
        return maps.map_view(Run(Path(path)), evaluation, method, together=together)


def map_names(run: Run, evaluation: str, method: Method, together: bool) -> list[str]:
    files = identity(*maps.map_files(run, evaluation, method, together=together))
    return _map_names(str(run.path), evaluation, method, together, files)


@st.cache_resource(max_entries=4, show_spinner=False)
def _map_names(path: str, evaluation: str, method: Method, together: bool, files: Identity) -> list[str]:
    found = _view(path, evaluation, method, together, files)
    return found.names() if found is not None else []


def vectors(run: Run, evaluation: str, stage: Stage) -> Vectors:
    """The full vectors of an evaluation; not to be changed."""
    return _vectors(str(run.path), evaluation, stage, identity(run.file("vectors", evaluation, stage)))


@st.cache_resource(max_entries=2, show_spinner="Reading the vectors …")
def _vectors(path: str, evaluation: str, stage: Stage, files: Identity) -> Vectors:
    with expected_form(Path(path).name):
        return load_vectors(Run(Path(path)), evaluation, stage)


def neighbors(
    run: Run, evaluation: str, stage: Stage, kind: str, ids: Sequence[str]
) -> dict[str, list[tuple[str, float]]]:
    """The nearest documents of each text by the full vectors: id -> (document id, cosine), nearest first."""
    files = identity(run.file("vectors", evaluation, stage))
    return _neighbors(str(run.path), evaluation, stage, kind, tuple(ids), files)


@st.cache_data(max_entries=200, show_spinner="Finding the neighbors …")
def _neighbors(
    path: str, evaluation: str, stage: Stage, kind: str, ids: tuple[str, ...], files: Identity
) -> dict[str, list[tuple[str, float]]]:
    return maps.neighbors(vectors(Run(Path(path)), evaluation, stage), kind, ids)


def model(run: Run, stage: Stage) -> Any:
    """The function that encodes a query as the run's model does; the two models of one run are kept."""
    return _model(str(run.path), stage, identity(*playground.model_files(run)))


@st.cache_resource(max_entries=2, show_spinner="Loading the model …")
def _model(path: str, stage: Stage, files: Identity) -> Any:
    with expected_form(Path(path).name):
        return playground.load_encoder(Run(Path(path)), stage)


# --- queries ---


def query_files(run: Run, evaluation: str) -> Identity:
    """Every file of the evaluation, but not its hits."""
    return identity(*sorted(run.file("evaluations").glob(f"{evaluation}/*")))


def queries(run: Run, evaluation: str, metric: str) -> pd.DataFrame:
    return _queries(str(run.path), evaluation, metric, query_files(run, evaluation))


@st.cache_data(max_entries=20, show_spinner="Reading the queries …")
def _queries(path: str, evaluation: str, metric: str, files: Identity) -> pd.DataFrame:
    with expected_form(Path(path).name):
        return q.query_table(Run(Path(path)), evaluation, metric)


def query_metrics(run: Run, evaluation: str) -> tuple[str, ...]:
    return _query_metrics(str(run.path), evaluation, query_files(run, evaluation))


@st.cache_data(max_entries=100, show_spinner=False)
def _query_metrics(path: str, evaluation: str, files: Identity) -> tuple[str, ...]:
    with expected_form(Path(path).name):
        return q.query_metrics(Run(Path(path)), evaluation)


def opened(run: Run, evaluation: str, query_id: str) -> OpenedQuery:
    """The rankings of a query, and its relevant documents."""
    return _opened(str(run.path), evaluation, query_id, query_files(run, evaluation))


@st.cache_data(max_entries=200, show_spinner=False)
def _opened(path: str, evaluation: str, query_id: str, files: Identity) -> OpenedQuery:
    with expected_form(Path(path).name):
        return q.open_queries(Run(Path(path)), evaluation, [query_id])[query_id]


def paired(run: Run, other: Run, evaluation: str, metric: str) -> pd.DataFrame:
    files = query_files(run, evaluation) + query_files(other, evaluation)
    return _paired(str(run.path), str(other.path), evaluation, metric, files)


@st.cache_data(max_entries=20, show_spinner="Reading the queries …")
def _paired(path: str, other: str, evaluation: str, metric: str, files: Identity) -> pd.DataFrame:
    with expected_form(Path(path).name):
        return q.pair_queries(Run(Path(path)), Run(Path(other)), evaluation, metric)


VECTORS = {"fewer dimensions": "at_dimensions", "quantized embeddings": "at_precisions"}
"""Groups that rank again by changed vectors -> the function of `slices`."""


def grouped(run: Run, evaluation: str, by: str, metric: str) -> pd.DataFrame:
    """A metric by groups of queries, or by one of `VECTORS`."""
    kept = [run.file("vectors", evaluation, stage) for stage in STAGES if by in VECTORS]
    return _grouped(str(run.path), evaluation, by, metric, query_files(run, evaluation) + identity(*kept))


@st.cache_data(max_entries=50, show_spinner="Grouping …")
def _grouped(path: str, evaluation: str, by: str, metric: str, files: Identity) -> pd.DataFrame:
    from workbench.evaluation import slices

    with expected_form(Path(path).name):
        run = Run(Path(path))
        if by in VECTORS:
            table: pd.DataFrame = getattr(slices, VECTORS[by])(run, evaluation)
            return table
        return slices.slice_queries(run, evaluation, by, metric=metric)


# --- cards ---


def card_of(run: Run) -> Card | None:
    return _card_of(str(run.path), identity(run.file("card")))


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
    """The audit, the recipe as written and corrected, and why there is no recipe."""
    from workbench.audit.rules import audit
    from workbench.recipe.from_card import recipe

    found = audit(card)
    try:
        return found, recipe(card), recipe(card, corrected=True), ""
    except (RecipeError, CardError) as error:
        return found, None, None, str(error)
