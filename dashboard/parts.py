"""Layout shared by pages: figures, notices, the choice of a run, and selections kept between pages.

Text from cards and data goes through `st.text`, `st.code`, and tables, which render no markup; only the workbench's own
words are Markdown.
"""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import address
import cached
import password
import streamlit as st

from workbench.errors import WorkbenchError
from workbench.evaluation.projection import Stage
from workbench.run import Run, rate_text
from workbench.views.answers import Answer
from workbench.views.overview import RunRow, find_run, status_reason
from workbench.views.queries import compared_evaluations
from workbench.views.records import Hit, Verdict, duration
from workbench.views.theme import CONFIG, remove_controls
from workbench.views.words import shared_words

if TYPE_CHECKING:
    import pandas as pd

canvas = st.components.v2.component("map", js=Path(__file__).with_name("map.js").read_text(encoding="utf-8"))
"""The maps before and after, drawn in the browser; actions come back as `did`."""

line_links = st.components.v2.component("lines", js=Path(__file__).with_name("lines.js").read_text(encoding="utf-8"))
"""Numbers of lines as links: a click on one comes back as `line`; the line asked for is scrolled to."""

keys = st.components.v2.component("keys", js=Path(__file__).with_name("keys.js").read_text(encoding="utf-8"))
"""Keys of the page; J and K come back as `moved`, +1 or -1, and what is opened is scrolled into view."""

ROW_HEIGHT = 33  # px, a row of a table in the theme's font size
STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding: 3.25rem 2rem 3rem; max-width: 1760px; }
[data-testid="stMetric"] { padding: .1rem 0; }
[data-testid="stMetricValue"], [data-testid="stText"] { font-variant-numeric: tabular-nums; }
[data-testid="stText"] { overflow-wrap: anywhere; }
[data-testid="stCaptionContainer"] { color: inherit !important; opacity: .78 !important; }
[data-testid="stButtonGroup"] p::first-letter { text-transform: uppercase; }
[data-testid="stStatusWidget"]:not(:has([data-testid="stConnectionStatus"])) { display: none; }
.st-key-pages { position: fixed; top: 1.05rem; left: 4rem; z-index: 999991; width: auto; max-width: 90vw; }
.wb-hit { overflow-wrap: anywhere; line-height: 1.45; unicode-bidi: isolate; }
.wb-hit mark { background: none; color: inherit; font-weight: 650; text-decoration: underline .14em;
  text-underline-offset: .18em; text-decoration-color: #e69f00; }
.wb-ranks { display: grid; gap: .4rem 1rem; }
.wb-ranks h4 { margin: 0; padding: 0; font-size: 1rem; }
.wb-cell { border: 1px solid color-mix(in srgb, currentColor 22%, transparent); border-radius: 6px;
  padding: .35rem .6rem .45rem; }
.wb-cell .wb-facts { font-size: .85rem; gap: .1rem .9rem; }
.wb-relevant { border-left: 4px solid #009e73; }
.wb-facts { display: flex; flex-wrap: wrap; gap: .15rem 1.5rem; font-variant-numeric: tabular-nums; }
.wb-facts b { font-weight: 650; }
.wb-source { font: .8rem/1.5 ui-monospace, "Source Code Pro", Menlo, Consolas, "Noto Sans Mono", monospace; }
.wb-source div { display: flex; gap: .75rem; padding: 0 .4rem; border-left: 3px solid transparent; }
.wb-source a { color: inherit; text-decoration: none; }
.wb-source a:hover, .wb-source a:focus-visible { text-decoration: underline; }
.wb-source .wb-asked { outline: 2px solid #0072b2; }
.wb-source i { flex: 0 0 2.6rem; text-align: right; font-style: normal; opacity: .75; user-select: none; }
.wb-source span { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; flex: 1; }
.wb-source .wb-marked { background: rgba(230, 159, 0, .16); border-left-color: #e69f00; }
.wb-source .wb-note { flex: 0 0 auto; max-width: 40%; font-family: inherit; opacity: .75; text-align: right; }
.wb-source .wb-gap { opacity: .5; padding-left: 2.2rem; }
@media (max-width: 900px) { [data-testid="stMainBlockContainer"] { padding: 4rem 1rem 2rem; } }
</style>"""
STYLE_DARK = """<style>[data-testid="stMultiSelect"] [data-tag] * { color: #14171a !important; }</style>"""
TITLES: dict[Stage, str] = {"before": "Before: the base model", "after": "After: the trained model"}
ABBREVIATIONS = (
    "nDCG@10: normalized discounted cumulative gain of the top 10, at most 1 · MRR: mean reciprocal rank of the first "
    "relevant document · MAP: mean average precision. On cards the similarity comes first: cosine_ndcg@10"
)
COLORS = {"good": "green", "bad": "orange", "info": "blue", "open": "gray"}  # of a tone
ICONS = {
    "reproduced exactly": ":material/done_all:",
    "reproduced": ":material/check:",
    "differs": ":material/close:",
    "cannot tell": ":material/question_mark:",
    "not comparable": ":material/help:",
    "better": ":material/trending_up:",
    "worse": ":material/trending_down:",
    "equivalent": ":material/equal:",
    "no significant difference": ":material/drag_handle:",
}


def start(pages: Sequence[Any], about: str) -> None:
    """Show the chosen page, in the look of all; `about` says what the app does."""
    icon = str(Path(__file__).with_name("icon.svg"))
    items: Any = {"About": f"**Card Workbench** {about}"}
    st.set_page_config(page_title="Card Workbench", page_icon=icon, layout="wide", menu_items=items)
    st.html(STYLE + (STYLE_DARK if dark() else ""))
    st.logo(icon)
    page = st.navigation(pages, position="hidden")
    if not password.is_open():
        return
    address.start(page.url_path)
    links(pages, page)
    try:
        page.run()
    except WorkbenchError as error:
        problem("This cannot be shown.", str(error))


def links(pages: Sequence[Any], page: Any) -> None:
    """The navigation: each link has the run in its address, so that it is the same for Back, Forward, and a reader."""
    run = current_run() if len(pages) > 1 else None
    with st.container(horizontal=True, gap="xxsmall", key="pages"):
        for each in pages:
            shown = each.url_path == page.url_path
            place = {name: st.query_params.get_all(name) for name in st.query_params} if shown else place_of(each, run)
            if len(pages) > 1:
                st.page_link(each, query_params=place or None)
        keys(key="keys", data={})


def place_of(page: Any, run: str | None) -> dict[str, str]:
    """The parameters that open a page with a run."""
    if run is None or not page.url_path:
        return {}
    key, prefix = {"card": ("card", "run "), "loss": ("runs", "")}.get(page.url_path, ("run", ""))
    return {key: prefix + run}


def current_run() -> str | None:
    """The run of the address, or that seen last, or the newest that was evaluated before and after training."""
    card = address.read("card", "")
    asked = [*st.query_params.get_all("run"), *st.query_params.get_all("runs"), card.removeprefix("run ")]
    for name in (*asked, st.session_state.get("last_run")):
        if name and "/" not in name and Run(cached.runs_folder() / name).file("record").is_file():
            return str(name)
    runs = [run for run in cached.runs() if run.status != "broken"]
    return default_run(runs).name if runs else None


def default_run(runs: Sequence[Run]) -> Run:
    """The run seen last, or the newest that was evaluated before and after training, or the newest."""
    last = find_run(runs, st.session_state.get("last_run"))
    return last or next((run for run in runs if compared_evaluations(run)), runs[0])


def dark() -> bool:
    """Whether the dark theme is shown."""
    return st.context.theme.type == "dark"


def fragment(draw: Callable[..., None], *values: Any, run_every: float | None = None) -> None:
    """Show a part of a page that is updated without the rest; an unreadable run becomes a sentence in it."""

    def guarded(*given: Any) -> None:
        for run in (each for value in given for each in (value if isinstance(value, list) else [value])):
            if isinstance(run, Run) and not run.file("record").is_file():
                problem(
                    "This run was deleted.", f"Expected run {run.name!r}, found no folder of it; choose another run."
                )
                return
        try:
            draw(*given)
        except WorkbenchError as error:
            problem("This cannot be shown.", str(error))

    guarded.__qualname__ = f"{draw.__module__}.{draw.__qualname__}"  # Streamlit identifies a fragment by it
    st.fragment(guarded, run_every=run_every)(*values)


def title(words: str, sentence: str, help: str | None = None) -> None:
    """The title of a page and what it shows."""
    st.title(words, anchor=False)
    st.caption(sentence, help=help)


def chart(draw: Callable[..., Any], *values: Any, key: str, opens: str = "", **settings: Any) -> None:
    """Show the figure of a function of `workbench.views.figures`, in the current theme.

    `opens` is the parameter of the address that a click on a point sets to the point's id.
    """
    figure = draw(*values, dark=dark(), **settings)
    image = "-".join(re.findall(r"[\w.]+", f"{st.query_params.get('run', 'card-workbench')} {key}"))  # its file's name
    config = {**CONFIG, "toImageButtonOptions": {"filename": image, "scale": 2}}
    selection: dict[str, Any] = {}
    if opens:
        figure.update_traces(selected_marker_opacity=0.8, unselected_marker_opacity=0.8)  # the open one is elsewhere
        selection = {"on_select": partial(open_point, key, opens), "selection_mode": "points"}
    st.plotly_chart(figure, theme=None, config=config, key=key, **selection)


def open_point(key: str, parameter: str) -> None:
    """Put the point that was clicked into the address."""
    points = st.session_state[key]["selection"]["points"]
    found = points[0].get("customdata") if points else None
    if found:
        address.write(**{parameter: str(found[0] if isinstance(found, list) else found)})


def problem(title: str, detail: str) -> None:
    """An error: a title of ours, the reason as plain text."""
    with st.container(border=True, gap="xsmall"):
        st.markdown(f":material/error: **{title}**")
        st.text(detail)


def shell(command: Sequence[str]) -> None:
    """A command, in as many lines as it takes."""
    st.code(shlex.join(command), language="bash", wrap_lines=True)


def empty(title: str, sentence: str, command: Sequence[str] = ()) -> None:
    """An empty state, with the command that fills it."""
    with st.container(border=True, gap="xsmall"):
        st.markdown(f"**{title}**")
        st.text(sentence)
        if command:
            shell(command)


def rankings(sides: Sequence[tuple[str, Sequence[Hit]]], query: str, *, known: bool = True) -> None:
    """Rankings of a query side by side, a row for each position; its words are underlined, relevant documents marked
    if these are `known`."""
    cells = [f"<h4>{html.escape(title)}</h4>" for title, _ in sides]
    for place in range(max(1, *(len(hits) for _, hits in sides))):
        cells += [_hit(hits[place], query, known) if place < len(hits) else _no_hit(place) for _, hits in sides]
    columns = f"grid-template-columns: repeat({len(sides)}, minmax(0, 1fr))"
    st.html(f'<div class="wb-ranks" style="{columns}">{"".join(cells)}</div>')


def _no_hit(place: int) -> str:
    return "<div></div>" if place else "<p>The run keeps no ranking of this query.</p>"


def _hit(hit: Hit, query: str, known: bool) -> str:
    """A document of a ranking, escaped."""

    def text(words: str) -> str:
        return html.escape(remove_controls(words))

    marked = "".join(
        f"<mark>{text(part)}</mark>" if shared else text(part) for part, shared in shared_words(query, hit.document)
    )
    relevant = hit.relevant and known
    words = [
        "<b>◎ relevant</b>" if relevant else "",
        f"score {hit.score:.4f}",
        text(hit.note),
        text(hit.document_id[:60]),
    ]
    facts = "".join(f"<span>{each}</span>" for each in words if each)
    return (
        f'<div class="wb-cell{" wb-relevant" * relevant}"><div class="wb-facts"><b>{hit.position}</b>{facts}</div>'
        f'<div class="wb-hit" dir="auto">{marked or "The run does not keep the text of this document."}</div></div>'
    )


def no_runs(folder: str) -> None:
    """An empty runs folder."""
    empty(
        "No runs here yet",
        f"There are no runs in {folder!r}. This command makes one in a few minutes, offline and without a GPU, on "
        "stand-ins for the base model and the data:",
        [
            "workbench",
            "reproduce",
            "porsche-mxbai",
            "--base",
            "bundled:minilm",
            "--data",
            "sample:porsche",
            "--runs",
            folder,
        ],
    )


def answer(found: Answer) -> None:
    """A question with its answer as word, sign, and color, and the number that matters."""
    with st.container(border=True, gap="xsmall", height="stretch"):
        st.caption(found.question)
        st.markdown(f"### :{COLORS[found.tone]}[{ICONS.get(found.word, ':material/remove:')} {found.word}]")
        if found.value:
            st.markdown(f"**{found.value}**")
        for detail in found.details:
            st.text(detail)


def verdict(found: Verdict, question: str = "") -> None:
    """The verdict as word, sign, and color, with what it rests on."""
    with st.container(border=True, gap="xsmall", height="stretch"):
        if question:
            st.caption(question)
        if found.word in ICONS:
            st.markdown(f"### :{COLORS[found.tone]}[{ICONS[found.word]} {found.word}]")
        else:
            st.text(found.word or "no verdict yet")
        st.text(found.meaning)
        if found.sentence:
            st.text(found.sentence)
        facts(found.facts)
        for statement in found.statements:
            st.text(statement)
        for reason in found.reasons:
            st.text(f"· {reason}")


def facts(rows: Iterable[tuple[str, str]]) -> None:
    """Names and values on one line, escaped."""
    pieces = (f"<span>{html.escape(name)} <b>{html.escape(remove_controls(value))}</b></span>" for name, value in rows)
    if inner := "".join(pieces):
        st.html(f'<div class="wb-facts">{inner}</div>')


def views(names: Sequence[str], why: Mapping[str, str] | None = None) -> str:
    """The view of the page, in the address as `view`; `why` says of views that are not among the names why not."""
    asked = address.read("view", "")
    if why and asked in why:
        empty(f"No {asked} of this run", why[asked])
    settings: dict[str, Any] = {"required": True, "label_visibility": "collapsed"}
    return str(address.choice(st.segmented_control, "View", names, key="view", **settings))


def page_of_a_run(sentence: str, name: str, show: Callable[[Run, Any], None]) -> None:
    """A page about one run: title, choice of the run, and what `show(run, row)` lays out; `row` holds the choices."""
    title(name, sentence)
    runs = [run for run in cached.runs() if run.status != "broken"]
    if not runs:
        no_runs(str(cached.runs_folder()))
        return
    row = st.container(horizontal=True, vertical_alignment="bottom")
    with row:
        run = choose_run(runs, width=440)
    if not gone("run", [run.name for run in runs]) and run is not None:
        flag(cached.row(run))
        show(run, row)
        with row:
            stand_ins(cached.row(run).stand_ins)


def flag(row: RunRow) -> None:
    """What is wrong with a run, in a sentence."""
    if words := status_reason(row.status, row, command=False):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.badge("damaged" if row.status == "finished" else row.status, color="orange", icon=":material/error:")
            st.text(words)


def choose_run(runs: Sequence[Run], *, label: str = "Run", width: Any = "stretch") -> Run | None:
    """A select box of runs; the selection is in the address and kept from page to page."""
    names = [run.name for run in runs]
    settings: dict[str, Any] = {"index": None, "placeholder": "Choose a run", "width": width}
    default = default_run(runs).name
    name = address.choice(st.selectbox, label, names, key="run", default=default, pinned=True, **settings)
    run = find_run(runs, name)
    if run is not None:
        st.session_state["last_run"] = name
    return run


def gone(parameter: str, names: Sequence[str], what: str = "run") -> bool:
    """Whether the address names a run that is not there, which is said in place of the page."""
    asked = [name for name in st.query_params.get_all(parameter) if name and name not in names]
    if asked:
        shown = ", ".join(name[:200] for name in asked)
        problem(
            f"The {what} of this address is not here.",
            f"Expected {shown} in {str(cached.runs_folder())!r}, found none that can be read; it was deleted or "
            f"renamed, or is in another folder. Choose another {what}.",
        )
    return bool(asked)


def progress(row: RunRow, said: dict[str, Any] | None = None) -> None:
    """The progress of a running training; `said` is that in its run.json."""
    st.text(f"{row.label} is running")
    if row.steps:
        words = [f"step {row.step or 0:,} of {row.steps:,}", *pace(said or {})]
        st.progress(min((row.step or 0) / row.steps, 1.0), text=" · ".join(words))
    else:
        st.progress(0.0, text="preparing, no step yet")


def pace(said: dict[str, Any]) -> list[str]:
    """Speed and time left of a running training, if known."""
    rate, left = said.get("rows_per_second"), said.get("seconds_left")
    words = [rate_text(rate)] if isinstance(rate, int | float) and rate == rate else []
    if isinstance(left, int | float) and left == left:
        words.append(f"{duration(left)} left")
    phase = said.get("phase")
    if isinstance(phase, str) and phase.startswith("measure"):
        words.append("measuring")
    return words


def unsigned_zeros(table: pd.DataFrame, columns: dict[str, Any]) -> pd.DataFrame:
    """The table with 0 for a number that its column would show as "-0.0000"."""
    table = table.copy()
    for name, column in columns.items():
        digits = re.search(r"\.(\d)f$", str((column.get("type_config") or {}).get("format")))
        if digits and name in table:
            values = table[name].astype(float)
            table[name] = values.where(values.round(int(digits[1])) != 0, 0.0)
    return table


def pick_row(
    table: pd.DataFrame,
    names: Sequence[str],
    parameter: str,
    *,
    key: str,
    most: float,
    columns: dict[str, Any],
) -> str | None:
    """A table that opens a row by a click anywhere on it, by the arrow keys, or by J and K; returns its name.

    `names` are those of the rows; `most` rows are visible, half a row hints at more. The row is in the address under
    `parameter`. What it opens goes into `opened()`.
    """
    asked = st.query_params.get(parameter)
    rows = [names.index(asked)] if asked in names else []
    if key in st.session_state and list(st.session_state[key]["selection"]["rows"]) != rows:
        cells = [(row, column) for row in rows for _, column in st.session_state[key]["selection"]["cells"]]
        st.session_state[key] = {"selection": {"rows": rows, "columns": [], "cells": cells}}
    st.dataframe(
        unsigned_zeros(table, columns),
        hide_index=True,
        height="content" if len(names) <= most else round(ROW_HEIGHT * (most + 1)),
        placeholder="–",
        column_config=columns,
        on_select=partial(open_row, key, names, parameter),
        selection_mode=["single-row", "single-cell"],
        selection_default={"selection": {"rows": rows}},
        key=key,
    )
    place = rows[0] if rows else -1
    moved = partial(open_next, f"{key} keys", names, parameter, place)
    keys(key=f"{key} keys", data={"opened": names[place] if rows else ""}, on_moved_change=moved)
    return names[place] if rows else None


def open_row(key: str, names: Sequence[str], parameter: str) -> None:
    """Put the row whose box or cell was clicked into the address; a second click on its box closes it."""
    selection = st.session_state[key]["selection"]
    before = st.query_params.get(parameter)
    before = before if before in names else None
    row = next((names[row] for row in selection["rows"] if row < len(names)), None)
    cell = next((names[row] for row, _ in selection["cells"] if row < len(names)), None)
    picked = row if row != before else cell or row
    cells = [] if row != before else selection["cells"]
    rows = [] if picked is None else [names.index(picked)]
    st.session_state[key] = {"selection": {"rows": rows, "columns": [], "cells": cells}}
    address.write(**{parameter: picked})


def open_next(key: str, names: Sequence[str], parameter: str, place: int) -> None:
    """Put the next or the previous row into the address."""
    moved = place + int(st.session_state[key]["moved"])
    if 0 <= moved < len(names):
        address.write(**{parameter: names[moved]})


def opened() -> Any:
    """The container of what a row opens, which is scrolled into view."""
    return st.container(key="opened")


def stand_ins(notes: Sequence[str]) -> None:
    """A popover with the stand-ins of a run; nothing for a run on the card's own base and data."""
    if notes:
        with st.popover("Trained on stand-ins", icon=":material/info:", help="Base or data other than the card's"):
            for note in notes:
                st.text(note)


def source(lines: Iterable[tuple[int, str, str]]) -> None:
    """Lines of a card: number, text, and a note for a marked line; escaped. A number is a link, see `card_lines`."""
    rows = []
    last = None
    for number, text, note in lines:
        if last is not None and number > last + 1:
            rows.append('<div class="wb-gap">⋯</div>')
        last = number
        mark = f'<span class="wb-note">{html.escape(note.strip())}</span>' if note.strip() else ""
        kind = ' class="wb-marked"' if note else ""
        link = f"<i><a href='#line-{number}'>{number}</a></i>"
        words = f"<span dir='auto'>{html.escape(remove_controls(text))}</span>"
        rows.append(f"<div{kind} data-line='{number}'>{link}{words}{mark}</div>")
    st.html(f'<div class="wb-source">{"".join(rows)}</div>')
