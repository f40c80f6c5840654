"""The two answers of a comparison, and the metrics that repeat others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from workbench.evaluation.comparison import Comparison, MetricRow
from workbench.views.answers import better_than_the_base, repeated_metrics

MAIN = MetricRow(
    "cosine_ndcg@10", before=0.5, after=0.55, difference=0.05, difference_low=0.02, difference_high=0.08,
    p=0.0004, p_adjusted=0.0008, wins=40, ties=90, losses=19,
)  # fmt: skip


def comparison(*rows: MetricRow) -> Comparison:
    return Comparison("card", ("card", "run"), "cannot tell", (), (), rows, "cosine_ndcg@10", unit="queries")


@pytest.mark.parametrize(
    ("change", "word", "tone"),
    [
        ({}, "better", "good"),
        ({"difference": -0.05, "difference_low": -0.08, "difference_high": -0.02}, "worse", "bad"),
        ({"difference": 0.01, "difference_low": -0.05, "difference_high": 0.07, "p_adjusted": 0.6},
         "no significant difference", "open"),
        ({"difference": 0.001, "difference_low": -0.004, "difference_high": 0.006, "p_adjusted": 0.6},
         "equivalent", "info"),
    ],
)  # fmt: skip
def test_the_change_by_training_is_said_in_one_word(change: dict[str, float], word: str, tone: str) -> None:
    found = better_than_the_base(comparison(replace(MAIN, **change)))  # type: ignore[arg-type]
    assert (found.word, found.tone) == (word, tone)


def test_the_answer_has_size_interval_and_queries() -> None:
    found = better_than_the_base(comparison(MAIN))
    assert found.value == "nDCG@10 +0.0500"
    assert found.details == (
        "0.5000 before, 0.5500 after",
        "95% CI of the change +0.0200 to +0.0800, p < 0.001",
        "40 queries better, 19 worse, 90 equal",
    )
    assert better_than_the_base(comparison()).word == "not measured"
    assert better_than_the_base(comparison(replace(MAIN, difference=None))).word == "not measured"


def test_metrics_that_repeat_others_are_known() -> None:
    rows = [
        MetricRow("cosine_accuracy@1", before=0.4, after=0.5),
        MetricRow("cosine_precision@1", before=0.4, after=0.5),
        MetricRow("cosine_accuracy@5", before=0.6, after=0.75),
        MetricRow("cosine_precision@5", before=0.12, after=0.15),
        MetricRow("cosine_recall@5", before=0.6, after=0.75),
        MetricRow("cosine_recall@10", before=0.6, after=0.76),
        MetricRow("cosine_precision@10", before=0.06, after=0.075),  # of another recall
        replace(MAIN),
    ]
    assert repeated_metrics(rows, "cosine_ndcg@10") == {
        "cosine_precision@1": "cosine_accuracy@1",
        "cosine_precision@5": "cosine_accuracy@5",
        "cosine_recall@5": "cosine_accuracy@5",
    }
    one_sided = [MetricRow("a@1", before=None, after=0.5), MetricRow("b@1", before=0.2, after=0.5)]
    assert repeated_metrics(one_sided, "a@1") == {}  # nothing is known of one of the two numbers


def test_a_number_of_the_card_that_does_not_repeat_is_shown() -> None:
    first = MetricRow("cosine_accuracy@5", card=0.7114, before=0.6, after=0.75, verdict="reproduced exactly")
    other = MetricRow("cosine_precision@5", card=0.1423, before=0.12, after=0.15, verdict="reproduced exactly")
    assert repeated_metrics([first, other], "") == {"cosine_precision@5": "cosine_accuracy@5"}
    assert repeated_metrics([first, replace(other, card=0.1523)], "") == {}
    assert repeated_metrics([first, replace(other, verdict="differs")], "") == {}
    assert repeated_metrics([first, replace(other, card=None)], "") == {}
