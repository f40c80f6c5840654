"""Figures: what is drawn, in which color and dash, from which numbers."""

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.cards.card import Card, LogRow
from workbench.evaluation.comparison import MetricRow
from workbench.evaluation.replay import Number
from workbench.views import figures, figures_loss, smoothing, theme
from workbench.views.figures_loss import Curve
from workbench.views.records import QueryOutcome

HOSTILE = "</script><b onclick=x>5 & 6</b> $x^2$ %{y} \u2028\u202eevil"


def curve(**more) -> Curve:
    values = {"name": "run", "steps": [10, 20, 30], "values": [2.0, 1.0, 0.5], "epochs": [1.0, 2.0, 3.0]}
    return Curve(**{**values, **more})


QUERIES = [
    QueryOutcome("gained", 8, 1, 0.3, 1.0),
    QueryOutcome("found", None, 2, 0.0, 0.63),
    QueryOutcome("same", 1, 1, 1.0, 1.0),
    QueryOutcome("same too", 1, 1, 1.0, 1.0),
    QueryOutcome("lost", 2, 7, 0.63, 0.33),
]
METRICS = [
    MetricRow("nDCG@10", card=0.72, before=0.62, after=0.71, low=0.66, high=0.75),
    MetricRow("MAP@100", before=0.5, after=0.6),
]
LOSSES = [
    Number("Training Loss", "loss", "training", 10, 0.5, 0.50004, 12),
    Number("Training Loss", "loss", "training", 20, 0.4, 0.4003, 13),
    Number("Validation Loss", "loss", "training", 20, 0.3, 0.3, 14),
]
EVERY = {
    "loss": lambda **k: figures_loss.loss_curves(
        [curve(), curve(name="card", role="card", evaluated=[None, 1.1, 0.9])], **k
    ),
    "differences": lambda **k: figures_loss.loss_differences({"run": LOSSES}, **k),
    "metrics": lambda **k: figures.metric_bars(METRICS, **k),
    "ranks": lambda **k: figures.rank_changes(QUERIES, **k),
    "changes": lambda **k: figures.per_query_difference(QUERIES, **k),
}
EMPTY = {
    "loss": figures_loss.loss_curves([]),
    "differences": figures_loss.loss_differences({}),
    "metrics": figures.metric_bars([]),
    "ranks": figures.rank_changes([]),
    "changes": figures.per_query_difference([]),
}


def named(figure, start: str):
    return next(trace for trace in figure.data if (trace.name or "").startswith(start))


# --- text ---


def test_foreign_text_has_no_effect_on_a_label():
    assert theme.plain(HOSTILE) == "&lt;/script&gt;&lt;b onclick=x&gt;5 &amp; 6&lt;/b&gt; &#36;x^2&#36; &#37;{y} evil"
    assert "<" not in theme.plain_lines(HOSTILE * 9, width=20).replace("<br>", "")


def test_korean_and_sinhala_keep_every_character():
    for text in ("주택임대차보호법은 언제 적용됩니까?", "ශ්\u200dරී ලංකාවේ අගනුවර"):
        assert theme.plain(text) == text


@given(st.text(max_size=600), st.integers(2, 50))
def test_shortened_text_is_short_and_on_one_line(text, limit):
    short = theme.shorten(text, limit)
    assert len(short) <= limit
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", short)


def test_a_text_of_a_megabyte_is_cut_before_it_is_worked_on():
    assert theme.shorten("x" * 1_000_000, 300) == "x" * 299 + "…"


# --- colors ---


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    channels = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("palette", "paper"), [(theme.LIGHT, "#ffffff"), (theme.DARK, "#15181b")])
def test_colors_stand_out_from_the_background(palette, paper):
    for role in ("before", "after", "corrected", "better", "worse"):
        assert contrast(getattr(palette, role), paper) >= 3.0, role  # WCAG 1.4.11, graphical objects
    for role in ("ink", "muted"):
        assert contrast(getattr(palette, role), paper) >= 4.5, role  # WCAG 1.4.3, text


def test_roles_have_the_colors_of_okabe_and_ito():
    assert (theme.LIGHT.after, theme.LIGHT.worse, theme.LIGHT.better) == ("#0072b2", "#d55e00", "#009e73")


def test_every_light_color_has_one_dark_one():
    pairs = theme.to_dark()
    for name in theme.Palette.__dataclass_fields__:
        light, dark = getattr(theme.LIGHT, name), getattr(theme.DARK, name)
        assert [pairs[c] for c in ([light] if isinstance(light, str) else light)] == (
            [dark] if isinstance(dark, str) else list(dark)
        )


# --- what all figures share ---


@pytest.mark.parametrize("name", EVERY)
def test_axes_are_named_with_units(name):
    layout = EVERY[name]().layout
    titles = [layout.xaxis.title.text] + ([layout.yaxis.title.text] if name != "metrics" else [])
    assert all(re.fullmatch(r".+ \(.+\).*", title) for title in titles)


@pytest.mark.parametrize("name", EVERY)
def test_light_and_dark_are_the_same_figure_in_other_colors(name):
    light, dark = (json.loads(figures.script_json(EVERY[name](dark=dark))) for dark in (False, True))
    pairs = theme.to_dark()
    text = re.sub(r"#[0-9a-f]{6}", lambda found: pairs[found[0]], json.dumps(light))
    assert json.loads(text) == dark


@pytest.mark.parametrize("name", EVERY)
def test_nothing_needs_webgl(name):
    assert {trace.type for trace in EVERY[name]().data} == {"scatter"}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_figure_says_so(name):
    assert [note.text for note in EMPTY[name].layout.annotations] == ["Nothing to draw yet"]


def test_json_for_a_script_element_cannot_leave_it():
    figure = figures.per_query_difference([QueryOutcome(HOSTILE, 2, 1, 0.5, 1.0)])
    figure.layout.title.text = HOSTILE
    text = figures.script_json(figure)
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text)["layout"]["title"]["text"] == HOSTILE


# --- loss ---


def test_the_card_is_ink_and_dashed_and_ours_blue_and_solid():
    figure = EVERY["loss"]()
    card, ours = named(figure, "card"), named(figure, "run")
    assert (card.line.color, card.line.dash) == (theme.LIGHT.ink, "dash")
    assert (ours.line.color, ours.line.dash) == ("#0072b2", "solid")
    checked = named(figure, "card, validation")
    assert (list(checked.x), list(checked.y), checked.marker.symbol) == ([20, 30], [1.1, 0.9], "square-open")


def test_over_epochs_and_on_a_log_axis():
    figure = figures_loss.loss_curves([curve(values=[2.0, 0.0, 0.5])], x="epoch", log=True)
    assert figure.layout.yaxis.type == "log"
    assert list(named(figure, "run").x) == [1.0, 3.0]  # a log axis has no place for zero


def test_the_raw_line_stays_under_the_smoothed_one():
    steps = list(range(1, 101))
    values = [float(step % 2) for step in steps]
    raw, smoothed = figures_loss.loss_curves([curve(steps=steps, values=values, epochs=())]).data
    assert list(raw.y) == values
    assert raw.opacity < 0.5
    assert max(abs(value - 0.5) for value in smoothed.y[10:-10]) < 0.2


def test_a_short_log_is_not_smoothed():
    (line,) = figures_loss.loss_curves([curve()]).data
    assert list(line.y) == [2.0, 1.0, 0.5]


def test_a_loss_that_is_not_finite_is_marked():
    figure = figures_loss.loss_curves([curve(values=[2.0, math.nan, math.inf])])
    cross = named(figure, "run, not a finite")
    assert (list(cross.x), list(cross.y), cross.marker.symbol) == ([20, 30], [2.0, 2.0], "x")


def test_the_kept_checkpoint_has_a_line():
    figure = figures_loss.loss_curves([curve(kept=20)], x="epoch")
    assert [shape.x0 for shape in figure.layout.shapes] == [2.0]
    assert figures_loss.loss_curves([curve(kept=25)], x="epoch").layout.shapes == ()  # no epoch is known for step 25


def test_curves_of_a_log_and_of_a_card():
    ours = Curve.of_log("run", [{"step": 5, "loss": 1.5, "epoch": 0.5}, {"step": 9, "eval_loss": 1.2}, {"loss": 3.0}])
    assert (list(ours.steps), list(ours.values), list(ours.evaluated)) == ([5, 9], [1.5, None], [None, 1.2])
    assert list(Curve.of_log("run", [{"step": 5, "grad_norm": 0.25}], key="grad_norm").values) == [0.25]
    log = (LogRow(None, -1, None, None, {}), LogRow(1.0, 7, 0.5, None, {}), LogRow(2.0, 14, None, 0.25, {}, saved=True))
    card = Curve.of_card(Card(name="a-card", kind="sentence-transformer", training_log=log))
    assert (card.name, list(card.steps), card.kept, card.role) == ("Card: a-card", [7, 14], 14, "card")


def test_smoothing_by_hand():
    # forwards: 4; (0.5*4+1)/1.5 = 2; (0.25*4+0.5*1+1)/1.75 = 10/7.  backwards: 1; 1; (0.25+0.5+4)/1.75 = 19/7
    assert smoothing.smooth([4.0, 1.0, 1.0], 0.5) == pytest.approx([(4 + 19 / 7) / 2, 1.5, (10 / 7 + 1) / 2])
    assert smoothing.smooth([3.0] * 5, 0.9) == pytest.approx([3.0] * 5)
    assert smoothing.smooth([1.0, math.nan, 1.0], 0.5) == pytest.approx([1.0] * 3)


def test_thinning_keeps_a_spike_of_one_point_in_100_000():
    y = [1.0] * 100_000
    y[54_321], y[77_777] = 9.0, -9.0
    x, kept = smoothing.thin(range(100_000), y, 2000)
    assert len(x) <= 2000
    assert (x[kept.index(9.0)], x[kept.index(-9.0)]) == (54_321, 77_777)
    assert (x[0], x[-1]) == (0, 99_999)
    assert x == sorted(x)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=300), st.integers(6, 40))
def test_thinning_keeps_ends_and_extremes(values, points):
    finite = [(x, y) for x, y in enumerate(values) if math.isfinite(y)]
    xs, ys = smoothing.thin(range(len(values)), values, points)
    assert set(zip(xs, ys, strict=True)) <= set(finite)
    assert len(xs) <= points
    if finite:
        assert (xs[0], xs[-1]) == (finite[0][0], finite[-1][0])
        assert (min(ys), max(ys)) == (min(y for _, y in finite), max(y for _, y in finite))


# --- metrics and queries ---


def test_a_metric_has_its_interval_and_the_card_its_dashed_line():
    figure = figures.metric_bars(METRICS)
    after = named(figure, "After")
    assert list(after.x) == [0.6, 0.71]  # drawn upwards: the last row first
    assert list(after.error_x.array) == pytest.approx([0.0, 0.04])
    assert list(after.error_x.arrayminus) == pytest.approx([0.0, 0.05])
    card = named(figure, "The card")
    assert card.x == (0.72, 0.72, None)
    assert (card.line.color, card.line.dash) == (theme.LIGHT.ink, "4px,3px")
    assert list(figure.layout.yaxis.ticktext) == ["MAP@100", "nDCG@10"]
    assert named(figure, "Before").marker.symbol == "circle-open"


def test_each_seed_is_a_dot_and_the_interval_is_that_of_the_card():
    seeds = (0.70, 0.72, 0.71)
    row = MetricRow("nDCG@10", card=0.73, before=0.6, after=0.70, low=0.6, high=0.8, values=seeds, mean=0.71)
    judged = MetricRow(**{**vars(row), "card_difference": 0.02, "card_low": -0.01, "card_high": 0.05})
    drawn = figures.metric_bars([judged])
    assert named(drawn, "Each seed").x == seeds
    after = named(drawn, "After, mean of 3 seeds")
    assert after.x == (0.71,)
    assert (after.error_x.array[0], after.error_x.arrayminus[0]) == pytest.approx((0.03, 0.03))
    between_runs = figures.metric_bars([MetricRow("nDCG@10", before=0.6, after=0.7, low=0.65, high=0.74)])
    assert not [trace for trace in between_runs.data if "seed" in (trace.name or "")]


def test_differences_of_losses_are_inside_the_band_or_crosses():
    drawn = figures_loss.loss_differences({"": LOSSES})
    equal, different = named(drawn, "Training loss, equal (1)"), named(drawn, "Training loss, different (1)")
    assert (equal.x, different.x) == ((10,), (20,))
    assert equal.y == pytest.approx((-0.00004,))
    assert different.y == pytest.approx((-0.0003,))
    assert different.marker.symbol == "circle-x-open"
    band = named(drawn, "Equal: half a printed digit")
    assert max(band.y) == pytest.approx(0.5e-4 + 2e-5 * 0.5)  # half a digit, and rounding of another machine
    assert named(drawn, "Validation loss, equal (1)").marker.symbol == "square"


def test_equal_ranks_share_a_mark_and_lost_ones_are_beyond_the_axis():
    figure = figures.rank_changes(QUERIES, depth=50)
    assert [trace.name for trace in figure.data if trace.name] == ["Better rank (2)", "Same rank (2)", "Worse rank (1)"]
    better = named(figure, "Better")
    assert list(zip(better.x, better.y, strict=True)) == [(8.0, 1.0), (100.0, 2.0)]  # 100 = beyond 50
    assert figure.layout.xaxis.ticktext[-1] == "&gt; 50"
    assert "rank &gt; 50 → 2, 1 query" in better.text[1]
    same = named(figure, "Same")
    assert len(same.x) == 1
    assert "2 queries" in same.text[0]
    assert same.marker.size[0] > better.marker.size[0]


def test_ranks_that_are_all_known_need_no_line_for_lost_ones():
    figure = figures.rank_changes([QueryOutcome("q", 3, 1)], depth=100)
    assert list(figure.layout.xaxis.ticktext) == ["1", "2", "3"]


def test_differences_are_sorted_and_counted():
    figure = figures.per_query_difference(QUERIES)
    assert [trace.name for trace in figure.data] == ["Higher", "No change", "Lower"]
    assert [y for trace in figure.data for y in trace.y] == pytest.approx([0.7, 0.63, 0, 0, -0.3])
    assert [x for trace in figure.data for x in trace.x] == [1, 2, 3, 4, 5]


def test_marks_know_their_query():
    twins = [QueryOutcome("a", 3, 1, 0.5, 1.0, "q7"), QueryOutcome("b", 3, 1, 0.5, 1.0, "q8")]
    assert figures.rank_changes(twins).data[-1].customdata == ("q7",)
    assert figures.per_query_difference(twins).data[0].customdata == ("q7", "q8")


def test_examples_are_on_an_axis_of_their_agreement():
    pair = QueryOutcome("a | b", None, None, 0.25, 0.5, ranked=False)
    figure = figures.per_query_difference([pair], metric="Spearman (cosine)")
    assert figure.layout.yaxis.title.text == "Agreement with gold, after − before (−1 to 1)"
    assert figure.data[0].text[0] == "+0.250, agreement 0.250 → 0.500<br>a | b"


def test_differences_of_many_queries_are_thinned_and_still_counted():
    many = [QueryOutcome(f"q{n}", 2, 1, 0.0, n / 5000) for n in range(1, 5001)]
    (trace,) = figures.per_query_difference(many, points=100).data
    assert (len(trace.x), trace.x[0], trace.x[-1], trace.name) == (100, 1, 5000, "Higher")


@pytest.mark.parametrize("name", ["loss", "metrics", "ranks", "changes"])
def test_hostile_names_and_texts_stay_text(name):
    figure = {
        "loss": lambda: figures_loss.loss_curves([curve(name=HOSTILE)]),
        "metrics": lambda: figures.metric_bars([MetricRow(HOSTILE, 0.5, 0.4, 0.6, 0.5, 0.7)]),
        "ranks": lambda: figures.rank_changes([QueryOutcome(HOSTILE, 1, 2)]),
        "changes": lambda: figures.per_query_difference([QueryOutcome(HOSTILE, 1, 2, 1.0, 0.5)], metric=HOSTILE),
    }[name]()
    text = json.dumps(figure.to_plotly_json(), default=str)
    assert "<b " not in text
    assert "$x" not in text
    assert "%{y} evil" not in text


def test_figures_are_not_uploaded():
    assert theme.CONFIG["showSendToCloud"] is False  # true by default in plotly.js 4
    assert theme.CONFIG["plotlyServerURL"] == ""
    assert theme.CONFIG["typesetMath"] is False


def test_a_learning_rate_is_drawn_as_it_was_logged():
    rows = [{"step": step, "learning_rate": 2e-5 * min(step / 40, 1), "loss": 1 / step} for step in range(1, 401)]
    rate, loss = (figures_loss.loss_curves([figures_loss.Curve.of_log("run", rows, key=key)], smoothing=weight)
                  for key, weight in (("learning_rate", 0.9), ("loss", None)))  # fmt: skip
    assert [trace.y[0] for trace in rate.data] == [rows[0]["learning_rate"]]
    assert len(loss.data) == 2  # as logged, and smoothed


def test_axes_have_no_prefixes_for_small_numbers():
    layout = theme_of(figures_loss.loss_curves([figures_loss.Curve("run", [1, 2], [2e-5, 1e-5])]))
    assert (layout.yaxis.exponentformat, layout.xaxis.exponentformat) == ("none", "none")


def theme_of(figure):
    return figure.layout.template.layout


def test_panels_share_their_axis_and_their_legend() -> None:
    loss = figures_loss.loss_curves([curve()], quantity="Loss")
    rate = figures_loss.loss_curves([curve(values=[1e-5, 2e-5, 1e-5])], quantity="Learning rate")
    made = figures_loss.stacked([loss, rate])
    assert {trace.xaxis for trace in made.data} == {"x"}  # so that they zoom together
    assert {trace.yaxis for trace in made.data} == {"y", "y2"}
    assert [made.layout.yaxis.title.text, made.layout.yaxis2.title.text] == ["Loss", "Learning rate"]
    assert made.layout.yaxis.domain[0] > made.layout.yaxis2.domain[1]
    assert made.layout.hoversubplots == "axis"
    assert sum(trace.showlegend for trace in made.data) == 1


def test_many_runs_have_a_color_and_a_line_of_the_legend_for_each_group() -> None:
    runs = [curve(name=f"run {number}", role="other") for number in range(6)]
    groups = {run.name: "corrected" if number % 2 else "as written" for number, run in enumerate(runs)}
    made = figures_loss.loss_curves(runs, groups=groups)
    lines = [trace for trace in made.data if trace.x[0] is not None]
    assert [trace.name for trace in made.data if trace.showlegend is not False] == ["as written", "corrected"]
    assert [trace.name for trace in lines] == [run.name for run in runs]  # for the hover
    assert len({trace.line.color for trace in lines}) == 2
