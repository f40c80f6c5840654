"""Embeddings: maps of queries and documents before and after training, side by side, with linked selection.

Maps are made by `workbench map`. Texts selected in one map are highlighted in the other and listed below, with their
neighbors by the full vectors.
"""

import json
from functools import partial
from typing import Any

import actions
import address
import cached
import pandas as pd
import parts
import streamlit as st

from workbench.evaluation.examples import unit
from workbench.evaluation.projection import Method
from workbench.run import Run
from workbench.views import map_view as maps
from workbench.views.map_view import MapView
from workbench.views.queries import compared_evaluations

METHODS: dict[Method, str] = {"umap": "UMAP", "pca": "PCA"}
METHOD_HELP = (
    "UMAP (uniform manifold approximation and projection) preserves neighborhoods; PCA (principal component analysis) "
    "preserves the two directions of largest variance. together: one map for both stages, so that positions can be "
    "compared; apart: one map for each."
)
PRESERVATION_HELP = (
    "Share of a point's nearest neighbors by the full vectors that are among its nearest on the map, a mean over up to "
    "1,000 points. A random map preserves nearly none."
)
COLOR_HELP = (
    "outcome: what training did to a query's rank · rank change (halvings): how often the rank was halved; negative: "
    "doubled, so −1 is from 5 to 10 · cluster: of documents after training, by HDBSCAN over the full vectors, named by "
    "the words that only it has · density: mean cosine of the 10 nearest documents after training"
)
LISTED = 300  # rows of the table of selected texts
WITH_NEIGHBORS = 40  # of them with their nearest documents
LINES = 300  # lines from queries to relevant documents


def command(run: Run, evaluation: str, *more: str) -> list[str]:
    return ["workbench", "map", run.name, "--evaluation", evaluation, *more, "--runs", str(cached.runs_folder())]


def no_map(run: Run, evaluation: str) -> None:
    """What to do without a map; nothing is projected here."""
    if not maps.has_vectors(run, evaluation):
        parts.empty(
            "No vectors, no map",
            "This run keeps no vectors of this evaluation. New runs keep them; choose another run or evaluation.",
        )
        return
    parts.empty(
        "No map yet",
        "This command makes the map by UMAP in seconds, or by PCA with --method pca.",
        command(run, evaluation),
    )
    actions.make_map(run, evaluation)


def nothing_mapped(run: Run) -> tuple[str, str]:
    """Why a run has neither vectors nor a map: heading and sentence."""
    if any(unit(run, name) != "queries" for name in compared_evaluations(run)):
        sentence = "This run was evaluated on pairs of texts; only queries and documents are mapped."
        return "Pairs have no map", sentence
    if run.status == "running":
        return "No map yet", "Vectors are stored when the model is evaluated; the map can be made then."
    return (
        "No vectors, no map",
        "This run keeps no vectors. New runs keep them.",
    )


def name_of(choice: tuple[Method, bool]) -> str:
    return f"{METHODS[choice[0]]}, {'together' if choice[1] else 'apart'}"


def on_did(view: MapView) -> None:
    """Put a selection on the canvas into the address."""
    did: Any = st.session_state["canvas"]["did"]
    if did["what"] == "area":
        address.write(area=maps.area_text(did["stage"], did["corners"]), find=None, pick=None)
    elif did["what"] == "pick":
        address.write(pick=view.point_name(int(did["row"])))
    else:
        address.write(area=None, pick=None, find=None)


def chosen_rows(view: MapView, words: str) -> list[int] | None:
    """Rows selected by the search or the drawn area; None without a selection."""
    if words.strip():
        return view.containing(words)
    area = maps.parse_area(st.query_params.get("area", ""))
    return None if area is None else view.inside(*area)


def draw(run: Run, evaluation: str, choice: tuple[Method, bool], view: MapView, by: str, lines: bool) -> None:
    """The maps of both stages."""
    rows = chosen_rows(view, st.session_state.get("find") or "")
    picked = view.row_of(st.query_params.get("pick", ""))
    drawn = view.canvas(
        by,
        titles=parts.TITLES,
        rows=rows,
        area=maps.parse_area(st.query_params.get("area", "")),
        lines=view.answer_lines(rows, picked, LINES if lines else 0),
        opened=picked,
        dark=parts.dark(),
    )
    names = cached.map_names(run, evaluation, *choice)
    drawn |= {"id": f"{run.name} {evaluation} {choice}", "labels": names, "help": PRESERVATION_HELP}
    data = json.dumps(drawn, ensure_ascii=False, separators=(",", ":")).encode()
    parts.canvas(key="canvas", data=data, on_did_change=partial(on_did, view))


def selected(run: Run, evaluation: str, view: MapView, by: str) -> None:
    """The selected texts with their nearest documents, and the opened one."""
    rows = chosen_rows(view, st.session_state.get("find") or "")
    picked = view.row_of(st.query_params.get("pick", ""))
    if rows is None and picked is None:
        st.caption(
            "Draw around points to list their texts, or click one to open it; both maps highlight the selection. "
            "Wheel: zoom. Double click: whole map. Escape: clear the selection."
        )
        return
    if rows is not None:
        listing(run, evaluation, view, rows, by)
    if picked is not None:
        with parts.opened():
            opened(run, evaluation, view, picked)


def listing(run: Run, evaluation: str, view: MapView, rows: list[int], by: str) -> None:
    """A table of the selected texts."""
    total = len(rows)
    st.subheader(f"Selected: {total:,} {'text' if total == 1 else 'texts'}", anchor=False)
    if not rows:
        parts.empty("Nothing selected", "No point is in the area, or has these words.")
        return
    rows = view.queries_first(rows)[:LISTED]
    table = view.table.iloc[rows][["kind", "id", "text", *([by] if by != "type" else [])]].reset_index(drop=True)
    nearest = neighbor_columns(run, evaluation, view, rows[:WITH_NEIGHBORS])
    table = pd.concat([table, nearest], axis=1)
    config: dict[str, Any] = {
        "kind": st.column_config.TextColumn("Type", width=85),
        "id": st.column_config.TextColumn("Id", width=80),
        "text": st.column_config.TextColumn("Text", width=380),
        "nearest before": st.column_config.TextColumn(
            "Nearest document before", width=270, help="By the cosine of the full vectors, not by the map"
        ),
        "nearest after": st.column_config.TextColumn(
            "Nearest document after", width=270, help="By the cosine of the full vectors, not by the map"
        ),
    }
    if by in table and pd.api.types.is_numeric_dtype(table[by]):
        config[by] = st.column_config.NumberColumn(format="%.4f" if "@" in by else "%.4g", width=110)
    names = [view.point_name(row) for row in rows]
    parts.pick_row(table, names, "pick", columns=config, most=8.5, key="selected")
    cut = f"The first {LISTED:,} are listed, queries first. " if total > LISTED else ""
    st.caption(f"{cut}Click a row for its neighbors before and after.")


def neighbor_columns(run: Run, evaluation: str, view: MapView, rows: list[int]) -> pd.DataFrame:
    """The nearest document of each text at each stage, as text."""
    columns: dict[str, list[str]] = {}
    for stage in view.stages:
        found = {
            kind: cached.neighbors(run, evaluation, stage, kind, view.ids(rows, kind)) for kind in ("query", "document")
        }
        columns[f"nearest {stage}"] = view.nearest_texts(rows, found)
    return pd.DataFrame(columns)


def opened(run: Run, evaluation: str, view: MapView, row: int) -> None:
    """One text and its neighbors before and after."""
    kind, key, text = (str(view.table.at[row, name]) for name in ("kind", "id", "text"))
    with st.container(border=True, gap="xsmall"):
        st.caption(f"The {kind} and its nearest documents, by the cosine of the full vectors")
        st.text(f"{key}: {text or 'the run does not keep the text of this document'}")
        if kind == "query" and evaluation in compared_evaluations(run):
            place = {"run": run.name, "on": evaluation, "query": key}
            st.page_link("retrieval.py", label="Rankings", icon=":material/search:", query_params=place)
    found = {stage: cached.neighbors(run, evaluation, stage, kind, (key,)).get(key, []) for stage in view.stages}
    sides = [(parts.TITLES[stage], view.neighbor_hits(row, near)) for stage, near in found.items()]
    parts.rankings(sides, text, known=kind == "query")


def explore_map(run: Run, evaluation: str, choice: tuple[Method, bool]) -> None:
    """The part of the page that a click changes."""
    view = cached.view(run, evaluation, *choice)
    if view is None:
        parts.empty(
            "The map is older than the vectors",
            "The vectors have changed since this map was made. This command makes it again:",
            command(run, evaluation, "--method", choice[0], *([] if choice[1] else ["--apart"])),
        )
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        default = "outcome" if "outcome" in view.colorings else view.colorings[0]
        more = maps.CLUSTERS if maps.has_vectors(run, evaluation) else ()
        by = address.choice(
            st.selectbox, "Color by", [*view.colorings, *more], key="by", default=default, help=COLOR_HELP, width=240
        )
        address.choice(
            st.text_input, "Find texts", key="find", forgets=("area", "pick"), placeholder="words, or an id", width=280
        )
        lines = address.choice(
            st.toggle,
            "Lines to relevant documents",
            key="lines",
            default=False,
            help=f"From each selected query to its relevant documents; of all queries, the first {LINES}",
        )
    if by in maps.CLUSTERS:
        view = cached.clustered(run, evaluation, *choice) or view
    draw(run, evaluation, choice, view, by, lines)
    selected(run, evaluation, view, by)
    about(view)


def about(view: MapView) -> None:
    """How the map was made."""
    said = view.parameters
    words = [f"{said.get('queries', 0):,} queries and {said.get('documents', 0):,} documents at each stage"]
    if said.get("method") == "umap":
        words.append(f"{said.get('n_neighbors')} neighbors, minimum distance {said.get('min_dist')}")
    words.append(f"seed {said.get('seed')}")
    st.caption(
        " · ".join(words) + ". For visual inspection only: distances on a map are not similarities.",
    )


def show(run: Run, row: Any) -> None:
    """The choice of a map beside that of the run, and the map."""
    evaluations = maps.map_evaluations(run)
    if not evaluations:
        parts.empty(*nothing_mapped(run))
        return
    with row:
        evaluation = address.choice(st.selectbox, "Evaluation", evaluations, key="on", width=240)
        stored = maps.stored_maps(run, evaluation)
        options = {name_of(choice): choice for choice in stored}
        if options:
            named = address.choice(st.selectbox, "Map", list(options), key="map", help=METHOD_HELP, width=200)
    if not options:
        no_map(run, evaluation)
        return
    parts.fragment(explore_map, run, evaluation, options[named])
    if not any(method == "umap" for method, _ in stored):
        st.caption("This map is by PCA. This command adds one by UMAP:")
        parts.shell(command(run, evaluation))
        actions.make_map(run, evaluation)


parts.page_of_a_run("Maps of queries and documents before and after training.", "Embeddings", show)
