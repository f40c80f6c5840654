"""What the pages read, each result kept until the files that it came from change.

The key of every cache is the identity of those files (path, time of the last change, size); the caches are bounded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import streamlit as st

from workbench.errors import CardError, RecipeError, RunError
from workbench.evaluation.projection import Method, Stage, Vectors, load_vectors
from workbench.run import Run, list_runs
from workbench.views import failures, loss_curves, overview, playground
from workbench.views import map_view as maps
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
    from workbench.evaluation.comparison import Comparison
    from workbench.evaluation.replay import Number
    from workbench.recipe.schema import Recipe

P = ParamSpec("P")
T = TypeVar("T")
Reader = Callable[Concatenate[Run, P], T]
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


def can_write() -> bool:
    """Whether notes of runs may be written here: only for readers on this machine, and not with `--read-only`."""
    return st.get_option("server.address") in ("127.0.0.1", "localhost", "::1") and "--read-only" not in sys.argv


def runs() -> list[Run]:
    """All runs of the folder, newest first."""
    return list_runs(runs_folder())


@contextmanager
def expected_form(name: str) -> Iterator[None]:
    """A run of another version, or edited by hand, is a sentence instead of a traceback."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"expected the files of run {name!r} in the form that this version writes, found something else "
            f"({type(error).__name__}: {error}); `workbench train` makes a new run."
        ) from error


def kept(
    files: Callable[..., Sequence[Path]], most: int, spinner: str | bool = False, *, shared: bool = False
) -> Callable[[Reader[P, T]], Reader[P, T]]:
    """Keep what a reader of a run returns, for `most` arguments, until one of `files(run, *arguments)` changes.

    `shared` values are the same object for everybody, and must not be changed; others are copied.
    """

    def decorate(read: Reader[P, T]) -> Reader[P, T]:
        def of_path(path: str, arguments: tuple[Any, ...], files: Identity) -> T:
            run = Run(Path(path))
            with expected_form(run.name):
                return read(run, *arguments)  # type: ignore[call-arg]

        of_path.__qualname__ = read.__qualname__  # Streamlit identifies a cache by it
        store = st.cache_resource if shared else st.cache_data
        stored: Any = store(max_entries=most, show_spinner=spinner)(of_path)

        @wraps(read)
        def reader(run: Run, *arguments: P.args, **_: P.kwargs) -> T:
            found: T = stored(str(run.path), arguments, identity(*files(run, *arguments)))
            return found

        return reader  # type: ignore[return-value]

    return decorate


# --- runs ---


@kept(overview.overview_files, 5_000, shared=True)
def _row(run: Run) -> RunRow:
    return overview.run_row(run)


def row(run: Run) -> RunRow:
    """The run's row of the overview, with its status as it is now: a process can end without a word."""
    return replace(_row(run), status=run.status)


def log(run: Run) -> LogColumns:
    """The run's log, of which only what was appended is read again; not to be changed."""
    return _tail(str(run.file("log"))).columns()


@st.cache_resource(max_entries=20, show_spinner=False)
def _tail(path: str) -> LogTail:
    return LogTail(Path(path))


@kept(lambda run, axis: [run.file("card"), run.file("log")], 50, shared=True)
def beside_card(run: Run, axis: Axis) -> Curves:
    """The corrected log of the card, and the run's averaged as the card's is."""
    return curves(run, axis=axis, log=log(run))


@kept(lambda run: [run.file("card"), run.file("log")], 50, shared=True)
def loss_numbers(run: Run) -> tuple[Number, ...]:
    """The card's logged losses beside the run's at the same steps."""
    card = card_of(run)
    return loss_curves.loss_numbers(card, log(run)) if card is not None and card.training_log else ()


def comparison(run: Run, others: Sequence[Run] = ()) -> Comparison:
    """A run with its card, as stored or computed now, or with other runs."""
    return _comparison(run, tuple(str(other.path) for other in others))


def _compared_files(run: Run, others: tuple[str, ...]) -> list[Path]:
    every = [run, *(Run(Path(path)) for path in others)]
    tables = [path for each in every for path in sorted(each.file("evaluations").glob("*/*.parquet"))]
    return [*(path for each in every for path in overview.overview_files(each)), *tables]


@kept(_compared_files, 50, "Comparing …")
def _comparison(run: Run, others: tuple[str, ...]) -> Comparison:
    from workbench.evaluation.compare import compare
    from workbench.views.summary import stored_comparison

    stored = None if others else stored_comparison(run)
    return stored if stored is not None else compare([run, *(Run(Path(path)) for path in others)])


# --- maps and vectors ---


def query_files(run: Run, evaluation: str, *_: object) -> list[Path]:
    return sorted(run.file("evaluations").glob(f"{evaluation}/*"))


def vector_files(run: Run, evaluation: str, stage: Stage, *_: object) -> list[Path]:
    return [run.file("vectors", evaluation, stage)]


def map_files(run: Run, evaluation: str, *_: object) -> list[Path]:
    folders = (run.file("map", evaluation, "", "").parent, run.file("vectors", evaluation, "").parent)
    files = [path for folder in folders for path in sorted(folder.glob(f"{evaluation}-*"))]
    return files + query_files(run, evaluation)


@kept(map_files, 4, "Reading the map …", shared=True)
def view(run: Run, evaluation: str, method: Method, together: bool) -> MapView | None:
    return maps.map_view(run, evaluation, method, together=together)


@kept(map_files, 4, "Looking for clusters …", shared=True)
def clustered(run: Run, evaluation: str, method: Method, together: bool) -> MapView | None:
    """The map with the clusters of its documents by the vectors of its last stage."""
    found = view(run, evaluation, method, together)
    return None if found is None else found.with_clusters(vectors(run, evaluation, found.stages[-1]))


@kept(map_files, 4, shared=True)
def map_names(run: Run, evaluation: str, method: Method, together: bool) -> list[str]:
    found = view(run, evaluation, method, together)
    return found.names() if found is not None else []


@kept(vector_files, 2, "Reading the vectors …", shared=True)
def vectors(run: Run, evaluation: str, stage: Stage) -> Vectors:
    return load_vectors(run, evaluation, stage)


@kept(vector_files, 200, "Finding the neighbors …")
def neighbors(
    run: Run, evaluation: str, stage: Stage, kind: str, ids: tuple[str, ...]
) -> dict[str, list[tuple[str, float]]]:
    """The nearest documents of each text by the full vectors: id -> (document id, cosine), nearest first."""
    return maps.neighbors(vectors(run, evaluation, stage), kind, ids)


@kept(lambda run, stage: playground.model_files(run), 2, "Loading the model …", shared=True)
def model(run: Run, stage: Stage) -> Any:
    """The function that encodes a query as the run's model does; the two models of one run are kept."""
    return playground.load_encoder(run, stage)


# --- queries ---


@kept(query_files, 20, "Reading the queries …")
def queries(run: Run, evaluation: str, metric: str) -> pd.DataFrame:
    return q.query_table(run, evaluation, metric)


def _cause_files(run: Run, evaluation: str) -> list[Path]:
    return query_files(run, evaluation) + failures.tokenizer_files(run)


@kept(_cause_files, 20, "Looking for causes …", shared=True)
def causes(run: Run, evaluation: str) -> dict[str, tuple[str, ...]]:
    """Why each query's first relevant document is not at rank 1: query id -> names of `failures.CAUSES`."""
    return failures.query_causes(run, evaluation, 1)


@kept(query_files, 100)
def query_metrics(run: Run, evaluation: str) -> tuple[str, ...]:
    return q.query_metrics(run, evaluation)


@kept(query_files, 200)
def opened(run: Run, evaluation: str, query_id: str) -> OpenedQuery:
    """The rankings of a query, and its relevant documents."""
    return q.open_queries(run, evaluation, [query_id])[query_id]


def _paired_files(run: Run, evaluation: str, metric: str, other: str) -> list[Path]:
    return query_files(run, evaluation) + query_files(Run(Path(other)), evaluation)


@kept(_paired_files, 20, "Reading the queries …")
def paired(run: Run, evaluation: str, metric: str, other: str) -> pd.DataFrame:
    """The queries of this run and of the run in the folder `other`."""
    return q.pair_queries(run, Run(Path(other)), evaluation, metric)


VECTORS = {"fewer dimensions": "at_dimensions", "quantized embeddings": "at_precisions"}
"""Groups that rank again by changed vectors -> the function of `slices`."""


@kept(map_files, 50, "Grouping …")
def grouped(run: Run, evaluation: str, by: str, metric: str) -> pd.DataFrame:
    """A metric by groups of queries, or by one of `VECTORS`."""
    from workbench.evaluation import slices

    if by in VECTORS:
        table: pd.DataFrame = getattr(slices, VECTORS[by])(run, evaluation)
        return table
    return slices.slice_queries(run, evaluation, by, metric=metric)


# --- cards ---


@kept(lambda run: [run.file("card")], 50)
def card_of(run: Run) -> Card | None:
    card: Card | None = run.card()
    return card


@st.cache_data(max_entries=50, show_spinner=False)
def shipped_card(name: str) -> Card:
    from workbench.cards.read import read_card

    return read_card(name)


@st.cache_data(max_entries=50, show_spinner="Asking the Hub …")
def hub_card(identity: str, revision: str) -> Card:
    from workbench.cards.read import read_hub_card

    return read_hub_card(identity, revision or "main")


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
