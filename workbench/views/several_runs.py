"""Several runs compared, as plain values: each run's Summary, and each other run beside the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.errors import RunError, WorkbenchError
from workbench.evaluation.compare import compare
from workbench.run import Run
from workbench.views.figures import metric_name, name_metrics, replace_names
from workbench.views.records import Pair, Several, Summary, Verdict, signed
from workbench.views.summary import field_text, metric_row, summarize

MOST = 26  # runs, a letter each
TONES = {"differs": "told", "no significant difference": "open", "not comparable": "open"}


def summarize_several(runs: Sequence[Run]) -> Several:
    """Read everything that a report of `runs` says; what cannot be read becomes a sentence.

    Raises RunError for no run, and for more than there are letters.
    """
    if not 1 < len(runs) <= MOST:
        raise RunError(f"expected 2 to {MOST} runs to put side by side, found {len(runs)}.")
    summaries = tuple(summarize(run) for run in runs)
    letters = tuple(chr(ord("A") + place) for place in range(len(runs)))
    gaps: dict[str, str] = {}
    pairs = []
    main = next((row.metric for each in summaries for row in each.metrics if row.metric == each.main_metric), "")
    for letter, other in zip(letters[1:], runs[1:], strict=True):
        try:
            found = compare(runs[0], other).to_dict()
        except WorkbenchError as error:
            gaps[letter] = str(error)
            found = {"verdict": "not comparable", "reasons": [str(error)], "notes": [], "rows": []}
        main = main or str(found.get("main_metric") or "")
        pairs.append(_pair(letter, found, dict(zip([run.name for run in runs], letters, strict=True))))
    listed = dict.fromkeys(row.metric for each in summaries for row in each.metrics)
    metrics = tuple(sorted(listed, key=lambda metric: metric != main))
    verdict = _verdict(pairs, main, letters)
    return Several(
        summaries, letters, verdict, metrics, main, tuple(pairs), _card(summaries), _differences(runs, gaps), gaps
    )


def _card(runs: Sequence[Summary]) -> dict[str, float]:
    """Metric -> the card's number: the card is one more run, where it is one."""
    if len({run.card for run in runs}) > 1:
        return {}
    return {row.metric: row.card for run in runs for row in run.metrics if row.card is not None}


def _pair(letter: str, found: dict[str, Any], letters: dict[str, str]) -> Pair:
    rows = tuple(map(metric_row, found["rows"]))
    metrics = [row.metric for row in rows]
    return Pair(
        letter,
        str(found["verdict"]),
        tuple(replace_names(name_metrics(why, metrics), letters) for why in found["reasons"]),
        tuple(name_metrics(note, metrics) for note in found["notes"]),
        rows,
    )


def _verdict(pairs: Sequence[Pair], main: str, letters: Sequence[str]) -> Verdict:
    """The strongest verdict of all pairs, with a sentence for each."""
    words = {pair.verdict for pair in pairs}
    word = next((each for each in TONES if each in words), "not comparable")
    name = metric_name(main) if main else "the main metric"
    meaning = {
        "differs": f"In {name} at least one of the runs differs from run {letters[0]}.",
        "no significant difference": f"No difference in {name} was shown between run {letters[0]} and the others.",
        "not comparable": f"The runs did not measure the same thing, so nothing is said about {name}.",
    }[word]
    return Verdict(word, TONES[word], meaning, tuple(_sentence(pair, main, letters[0]) for pair in pairs))


def _sentence(pair: Pair, main: str, first: str) -> str:
    row = next((row for row in pair.rows if row.metric == main), None)
    if row is None or row.difference is None or pair.verdict == "not comparable":
        why = " ".join(pair.reasons) or "It has no such metric, or no values per query."
        return f"{pair.letter} beside {first}: not comparable. {why}"
    low, high = row.difference_low, row.difference_high
    between = "" if low is None or high is None else f" (95 % interval {signed(low)} to {signed(high)})"
    return f"{pair.letter} beside {first}: {metric_name(main)} {signed(row.difference)}{between}, {row.verdict}."


def _differences(runs: Sequence[Run], gaps: dict[str, str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Fields in which any of the recipes differs from the first."""
    from workbench.recipe.schema import difference, leaves

    try:
        recipes = [run.recipe() for run in runs]
    except WorkbenchError as error:
        gaps["recipes"] = str(error)
        return ()
    paths = dict.fromkeys(path for other in recipes[1:] for path, _, _ in difference(recipes[0], other))
    values = [leaves(recipe) for recipe in recipes]
    return tuple((path, tuple(field_text(each.get(path)) for each in values)) for path in paths)
