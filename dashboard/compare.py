"""Compare: a run with its card, or with another run: numbers, intervals, verdict and its reasons."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import cached
import pandas as pd
import parts
import streamlit as st

from workbench import browse
from workbench.errors import WorkbenchError
from workbench.figures import metric_bars, metric_name
from workbench.report.summary import MEANINGS
from workbench.run import Run

if TYPE_CHECKING:
    from streamlit.elements.lib.column_types import ColumnConfig

CARD = "its card"
RUNS_MEANINGS = {
    "differs": "The other run's main metric differs from the first one's by more than chance.",
    "not told apart": "On these queries, no difference between the two runs was shown.",
    "not comparable": "The two runs were not measured on the same thing.",
}


def columns(first: str, last: str, with_card: bool) -> "dict[str, ColumnConfig]":
    """Headings of the metrics table; `before` and `after` are the two runs where runs are compared."""
    number = partial(st.column_config.NumberColumn, format="%.4f", width=80)
    found = {
        "metric": st.column_config.TextColumn("Metric", help="A mean over queries; * marks the main one", pinned=True)
    }
    if with_card:
        found["card"] = number("Card", help="The number that the card prints")
    return {
        **found,
        "before": number(first, help="The base model, before training" if with_card else "The run chosen first"),
        "after": number(last, help="The trained model" if with_card else "The run chosen second"),
        "low": number("Low", help=f"Lower end of the 95 % interval of {last}, over queries"),
        "high": number("High", help=f"Upper end of the 95 % interval of {last}, over queries"),
        "difference": number("Difference", format="%+.4f", width=95, help=f"{last} minus {first}"),
        "p_holm": number("p", help="How often chance alone gives so great a difference, corrected for all metrics"),
        "wins": st.column_config.NumberColumn("Wins", help=f"Queries for which {last} is better"),
        "losses": st.column_config.NumberColumn("Losses", help=f"Queries for which {last} is worse"),
        "verdict": st.column_config.TextColumn("Verdict"),
        "reason": st.column_config.TextColumn("Reason", width="large"),
    }


def verdict(found: dict[str, Any], with_card: bool) -> None:
    word = str(found.get("verdict") or "")
    meaning = MEANINGS.get(word, ("", ""))[1] if with_card else RUNS_MEANINGS.get(word, "")
    with st.container(border=True, gap="xsmall"):
        parts.verdict(word)
        if meaning:
            st.text(meaning)
        for reason in found.get("reasons") or []:
            st.text(f"· {reason}")


def numbers(found: dict[str, Any], with_card: bool) -> None:
    """The metrics as a figure and as a table, the main one marked."""
    rows = found.get("rows") or []
    if not rows:
        parts.empty("Nothing measured", "This comparison holds no metric.")
        return
    first, last = ("Before", "After") if with_card else ("First", "Other")
    marks = [replace(mark, metric=metric_name(mark.metric)) for mark in browse.marks_of(rows)]
    parts.chart(metric_bars, marks, key="bars", names=(first, last))
    table = pd.DataFrame(rows)
    main = found.get("main_metric")
    table["metric"] = [metric_name(str(name)) + (" *" if name == main else "") for name in table["metric"]]
    config = columns(first, last, with_card)
    shown = [name for name in config if name in table]
    st.dataframe(table[shown], column_config=config, hide_index=True, placeholder="–", height="content")
    for note in found.get("notes") or []:
        st.text(note)


def differences(run: Run, other: Run) -> None:
    """Recipe fields in which two runs differ."""
    from workbench.recipe import difference

    rows = [(path, str(mine), str(theirs)) for path, mine, theirs in difference(run.recipe(), other.recipe())]
    st.subheader("Differences of the recipes")
    if rows:
        st.dataframe(pd.DataFrame(rows, columns=["Field", run.name, other.name]), hide_index=True)
    else:
        st.text("None: both runs trained the same recipe.")


def show(run: Run, other: Run | None) -> None:
    found = cached.comparison(run, other)
    verdict(found, with_card=other is None)
    numbers(found, with_card=other is None)
    if other is not None:
        differences(run, other)


st.title("Compare")
runs = [run for run in cached.runs() if run.status != "broken"]
if not runs:
    parts.no_runs(str(cached.runs_folder()))
else:
    left, right = st.columns(2)
    with left:
        run = parts.choose_run(runs)
    others = [CARD, *(other.name for other in runs if run is None or other.name != run.name)]
    with right:
        against = st.selectbox("With", others, key="with", bind="query-params")
    if run is not None:
        try:
            show(run, browse.find_run(runs, against))
        except WorkbenchError as error:
            parts.problem("These cannot be compared.", str(error))
