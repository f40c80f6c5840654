"""Card: what a card says, what the audit finds in it, and the recipe as written and corrected."""

from itertools import count
from typing import TYPE_CHECKING

import actions
import address
import cached
import pandas as pd
import parts
import streamlit as st

from workbench.cards.metric_names import metric_name
from workbench.cards.read import shipped_cards
from workbench.views import card_facts
from workbench.views.overview import find_run

if TYPE_CHECKING:
    from workbench.audit.finding import Finding
    from workbench.audit.rules import Audit
    from workbench.cards.card import Card
    from workbench.recipe.schema import Recipe

SEVERITIES = {
    "error": ("orange", ":material/error:", "Errors: the card contradicts itself"),
    "warning": ("yellow", ":material/warning:", "Warnings: something is hidden or doubtful"),
    "note": ("gray", ":material/info:", "Notes"),
}
KNOWN = {
    "on the card": "gray", "beside the card": "blue", "inferred": "blue", "missing": "orange", "not needed": "gray",
}  # fmt: skip
"""Status of a fact -> its color."""
VIEWS = ["findings", "text", "what it says", "what is needed", "recipe"]
SOURCES = (
    "card: stated on the card · file: a file beside the card · library: default of the library's version · "
    "inferred: implied by other facts · default: the workbench's · user: set by you · finding: a correction"
)


def finding_box(card: "Card", finding: "Finding") -> None:
    """The finding, and beside it the lines of the card that prove it."""
    color, icon, _ = SEVERITIES[finding.severity]
    with st.container(border=True):
        left, right = st.columns([4, 5], gap="medium")
        with left, st.container(gap="xsmall"):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.badge(finding.severity, color=color, icon=icon)  # type: ignore[arg-type]
                st.text(finding.code)
            st.text(finding.message)
            if finding.fix is not None:
                st.text(f"Correction: {finding.fix.sentence}")
            if finding.lines:
                first = min(finding.lines)
                st.button(
                    f"Line {first} in the text", key=f"{finding.code} {finding.lines}", on_click=go_to_line,
                    args=(first,), type="tertiary", icon=":material/subdirectory_arrow_right:",
                )  # fmt: skip
        with right:
            if finding.lines:
                parts.source(card_facts.excerpt(card, dict.fromkeys(finding.lines, " "), around=1))
            else:
                st.caption("Not about single lines: something is missing, or is in the files beside the card.")


def go_to_line(line: int) -> None:
    """Show a line in the text of the card."""
    address.write(view="text", line=str(line))


def on_line() -> None:
    go_to_line(int(st.session_state["lines"]["line"]))


def line_links() -> None:
    """Make the numbers of lines links to the text, and scroll to the line of the address."""
    line = st.query_params.get("line", "")
    wanted = int(line) if line.isdecimal() and st.query_params.get("view") == "text" else 0
    parts.line_links(key="lines", data={"line": wanted}, on_line_change=on_line)


def findings(card: "Card", audit: "Audit") -> None:
    if not len(audit):
        parts.empty("Nothing found", "The audit has no error, warning, or note on this card.")
    for severity, (_, _, heading) in SEVERITIES.items():
        mine = [finding for finding in audit if finding.severity == severity]
        if mine:
            st.subheader(f"{heading} ({len(mine)})", anchor=False)
            for finding in mine:
                finding_box(card, finding)


def what_it_says(card: "Card") -> None:
    left, right = st.columns([3, 2])
    with left:
        st.subheader("Facts", anchor=False)
        facts = pd.DataFrame([(fact.name, fact.value, fact.line_ranges) for fact in card_facts.card_facts(card)])
        facts.columns = ["Fact", "The card says", "Lines"]
        widths = {"The card says": st.column_config.TextColumn(width="large")}
        st.dataframe(facts, hide_index=True, height="content", column_config=widths)
    with right:
        st.subheader("Metrics", anchor=False)
        rows = [
            (on, metric_name(metric), value, line, metric) for on, metric, value, line in card_facts.card_metrics(card)
        ]
        metrics = pd.DataFrame(rows, columns=["Measured on", "Metric", "Value", "Line", "Name on the card"])
        config = {
            "Metric": st.column_config.TextColumn(help=parts.ABBREVIATIONS),
            "Value": st.column_config.NumberColumn(format="%.4f"),
        }
        if len(metrics):
            st.dataframe(metrics, hide_index=True, column_config=config, height="content")
        else:
            st.text("The card has no metric.")


def text(card: "Card", audit: "Audit") -> None:
    """The whole card; lines of findings are marked with their codes."""
    rows = card_facts.excerpt(card, card_facts.line_notes(audit))
    st.caption(f"{len(card.lines):,} lines; those of findings are marked with the code.")
    if len(rows) < len(card.lines):
        st.text(f"Only the first {len(rows):,} lines are shown.")
    with st.container(border=True, height=700):
        parts.source(rows)


def what_is_needed(audit: "Audit") -> None:
    """Every fact that the recipe needs, and whether the card states it."""
    columns = ["Fact", "Status", "Value", "Lines", "Note"]
    config = {
        "Status": st.column_config.MultiselectColumn(options=list(KNOWN), color=list(KNOWN.values()), width=130),
        "Value": st.column_config.TextColumn(width=300),
        "Lines": st.column_config.TextColumn(help="Of the card", width=80),
        "Note": st.column_config.TextColumn(width="large"),
    }
    needed = card_facts.needed_facts(audit)
    rows = [(fact.name, [fact.source], fact.value, fact.line_ranges, fact.note) for fact in needed]
    facts = pd.DataFrame(rows, columns=columns)
    st.dataframe(facts, hide_index=True, column_config=config, height="content")


def recipe_view(card: "Card", written: "Recipe | None", corrected: "Recipe | None", why: str) -> None:
    if written is None or corrected is None:
        parts.problem("No recipe can be read from this card.", why)
        return
    from workbench.recipe.yaml_io import recipe_yaml

    fields = card_facts.recipe_fields(written, corrected)
    changed = [field for field in fields if field.changed]
    only = address.choice(st.toggle, f"Only corrected fields ({len(changed)})", key="changes", default=False)
    table = pd.DataFrame(
        [
            (f.name, f.value, f.other if f.changed else "", f.source, f.line_ranges, f.note)
            for f in (changed if only else fields)
        ],
        columns=["Field", "As written", "Corrected", "From", "Lines", "Note"],
    )
    config = {
        "As written": st.column_config.TextColumn(width=220),
        "Corrected": st.column_config.TextColumn(width=160, help="Only if a correction changes the field"),
        "From": st.column_config.TextColumn(help=SOURCES),
        "Note": st.column_config.TextColumn(width="large"),
    }
    st.dataframe(table, hide_index=True, column_config=config, height=520 if len(table) > 12 else "content")
    for note in written.notes:
        st.text(f"· {note}")
    with st.container(horizontal=True):
        for name, recipe in (("as written", written), ("corrected", corrected)):
            file = f"{card.name} {name}.yaml".replace(" ", "-")
            st.download_button(
                f"Recipe {name} (YAML)",
                recipe_yaml(recipe),
                file,
                "text/yaml",
                on_click="ignore",
                icon=":material/download:",
            )


def show(card: "Card", place: str | None = None) -> None:
    """The card; `place` is what names it in a command, if anything does."""
    audit, written, corrected, why = cached.understood(card)
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.text(card.title or card.name)
            for severity, (color, icon, _) in SEVERITIES.items():
                count = sum(finding.severity == severity for finding in audit)
                if count:
                    st.badge(f"{count} {severity}{'s' * (count > 1)}", color=color, icon=icon)  # type: ignore[arg-type]
        st.text(card_facts.missing_facts(audit))
        if place is not None:
            actions.run_form(place)
    view = parts.views(VIEWS)
    if view == "findings":
        findings(card, audit)
    elif view == "text":
        text(card, audit)
    elif view == "what it says":
        what_it_says(card)
    elif view == "what is needed":
        what_is_needed(audit)
    else:
        recipe_view(card, written, corrected, why)
    line_links()


def on_drop() -> None:
    """Keep a card that was dropped for this session, and choose it."""
    file = st.session_state["file"]
    if file is None:
        return
    cards = st.session_state.setdefault("dropped", {})
    name = next(
        name
        for name in (f"dropped {file.name}{f' ({number})' * (number > 1)}" for number in count(1))
        if cards.get(name, file.getvalue()) == file.getvalue()
    )
    cards[name] = file.getvalue()
    address.write(card=name, hub=None)


parts.title("Card", "What a model card states, what the audit finds, and the recipe.")
runs = [run for run in cached.runs() if run.file("card").exists()]
dropped: dict[str, bytes] = st.session_state.get("dropped", {})
names = [*dropped, *shipped_cards(), *(f"run {run.name}" for run in runs)]
gone = [name for name in st.query_params.get_all("card") if name.startswith("dropped ") and name not in dropped]
left, middle, right = st.columns([4, 3, 4])
with left:
    if names:
        label = "Shipped cards, and the cards of your runs" if runs else "Shipped cards"
        picked = address.choice(
            st.selectbox, label, names, key="card", pinned=True, forgets=("hub", "line"), index=None
        )
with middle:
    identity = address.choice(
        st.text_input, "Or a Hub id", key="hub", placeholder="owner/model", help="owner/model@revision, too"
    )
with right:
    st.file_uploader(
        "Or drop a README.md",
        type=["md"],
        key="file",
        on_change=on_drop,
        help="It is read by the server of this page, kept until this page is closed or reloaded, and not shared.",
    )
if gone:
    parts.problem(
        "This card was dropped in another session.", "A dropped card is not stored; drop the README.md again."
    )
elif identity:
    show(cached.hub_card(*identity.strip().partition("@")[::2]), None if "@" in identity else identity.strip())
elif picked in dropped:
    show(cached.dropped_card(dropped[picked], picked.removeprefix("dropped ").removesuffix(".md")))  # it has no path
elif parts.gone("card", names, "card"):
    pass
elif picked is not None:
    if picked.startswith("run "):
        found = find_run(runs, picked.removeprefix("run "))
        of_run = cached.card_of(found) if found is not None else None
        if of_run is not None:
            show(of_run, str(found.path) if found is not None else None)
    else:
        show(cached.shipped_card(picked), picked)
else:
    parts.empty("No card chosen", "Choose a card, name one of the Hub, or drop a README.md.")
