"""Records -> Plotly figures, for notebook, dashboard and report alike.

Pure functions: no files, and no computing beyond smoothing and thinning for display. Colours, fonts and the handling
of foreign text are those of `look`. All traces are SVG scatter traces: WebGL ones compile code at run time, which a
strict Content-Security-Policy forbids, and `thin` keeps SVG fast. Figures of very many points are in `figures_points`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any, Literal

from workbench.views.loss_curves import LogColumns
from workbench.views.smoothing import POINTS, spikes
from workbench.views.smoothing import smooth as smooth
from workbench.views.smoothing import thin as thin
from workbench.views.theme import FONT_FAMILY, FONT_SIZE, TICK_SIZE, Role, palette, plain, wrapped

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from plotly.graph_objects.layout import Template

    from workbench.cards.card import Card
    from workbench.evaluation.compare import MetricRow
    from workbench.views.loss_curves import Curves
    from workbench.views.records import QueryOutcome

HEIGHT = 400  # px, a figure over steps, queries or ranks
ROW_HEIGHT = 30  # px, one row of a dot plot
Along = Literal["step", "epoch", "rows", "time"]


# --- template ---------------------------------------------------------------------------------------------------


def template(*, dark: bool = False) -> Template:
    """The one Plotly template: fonts, hairline grid, legend above the plot, transparent ground."""
    from plotly import graph_objects as go

    colours = palette(dark=dark)
    axis = {
        "automargin": True,
        "gridcolor": colours.grid,
        "linecolor": colours.grid,
        "tickcolor": colours.grid,
        "tickfont": {"size": TICK_SIZE, "color": colours.muted},
        "title": {"font": {"size": FONT_SIZE, "color": colours.muted}, "standoff": 10},
        "zeroline": False,
    }
    return go.layout.Template(
        layout={
            "colorway": [colours.after, *colours.series],
            "font": {"family": FONT_FAMILY, "size": FONT_SIZE, "color": colours.ink},
            "hoverlabel": {
                "align": "left",
                "bgcolor": colours.surface,
                "bordercolor": colours.muted,
                "font": {"family": FONT_FAMILY, "size": TICK_SIZE, "color": colours.ink},
            },
            "hovermode": "closest",
            "legend": {
                "font": {"size": FONT_SIZE, "color": colours.ink},
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1.02,
                "yanchor": "bottom",
            },
            "margin": {"l": 8, "r": 16, "t": 8, "b": 8},
            "modebar": {
                "orientation": "v",
                "bgcolor": f"{colours.surface}e0",
                "color": colours.muted,
                "activecolor": colours.ink,
            },
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": axis,
            "yaxis": axis,
        }
    )


def figure_of(traces: Sequence[Any], *, x: str, y: str, dark: bool, height: int = HEIGHT, **layout: Any) -> Figure:
    """A figure with named axes on the template. With nothing to draw it says so instead of showing bare axes."""
    from plotly import graph_objects as go

    figure = go.Figure(traces)
    figure.update_layout(template=template(dark=dark), height=height, showlegend=True)
    figure.update_xaxes(title_text=x)
    figure.update_yaxes(title_text=y)
    figure.update_layout(**layout)
    if not traces:
        figure.add_annotation(text="Nothing to draw yet", showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
    return figure


def script_json(figure: Figure) -> str:
    """The figure's data and layout as JSON that may stand inside a `<script>` element: no `<`, `>`, `&`, U+2028."""
    from plotly.io import to_json

    text: str = to_json(figure, validate=False, engine="json", remove_uids=True)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def library() -> str:
    """The source of plotly.js that belongs to the installed Plotly, to be put into a page once."""
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    return source


# --- lines over training ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """One training log for drawing. Sequences are parallel; None where nothing was logged at that step."""

    name: str
    steps: Sequence[float]  # optimizer steps
    values: Sequence[float | None]  # training loss, or another logged quantity
    evaluated: Sequence[float | None] = ()  # validation loss; empty for none at all
    epochs: Sequence[float | None] = ()
    role: Role = "after"
    kept: float | None = None  # step of the checkpoint that was kept
    times: Sequence[float | None] = ()  # minutes since the start
    rows: int | None = None  # training rows of one epoch
    saved: Sequence[int] = ()  # steps of the checkpoints that are still there
    means: Sequence[tuple[float, float]] = ()  # (x, mean) over the steps that a row of the card's log stands for

    @classmethod
    def of_log(
        cls,
        name: str,
        rows: LogColumns | Iterable[Mapping[str, Any]],
        *,
        role: Role = "after",
        key: str = "loss",
        kept: float | None = None,
        train_rows: int | None = None,
        saved: Sequence[int] = (),
    ) -> Curve:
        """From the rows of `Run.log()`, or the same by columns.

        `key` is the quantity: loss, learning_rate, grad_norm, rows_per_second, a metric, or one of the parts of a
        loss, "components/NAME". `train_rows` are those of one epoch.
        """
        log = rows if isinstance(rows, LogColumns) else LogColumns.of(rows)
        return cls(
            name=name,
            steps=log.steps,
            values=log.column(key),
            evaluated=log.column("eval_loss") if key == "loss" else (),
            epochs=log.column("epoch"),
            role=role,
            kept=kept,
            times=[None if time is None else time / 60 for time in log.column("time")],
            rows=train_rows,
            saved=tuple(saved),
        )

    @classmethod
    def of_card(cls, card: Card) -> Curve:
        """The log that the card prints; rows without a step, or measured outside training, are left out."""
        sizes = [dataset.size for dataset in card.datasets if dataset.role == "train"]
        rows = [row for row in card.training_log if row.step is not None and row.step >= 0]
        saved = [row.step for row in rows if row.saved]
        return cls(
            name=f"Card: {card.name}",
            steps=[row.step or 0 for row in rows],
            values=[row.training_loss for row in rows],
            evaluated=[row.validation_loss for row in rows],
            epochs=[row.epoch for row in rows],
            role="card",
            kept=saved[0] if saved else None,
            rows=sum(size or 0 for size in sizes) or None if None not in sizes else None,
        )

    @classmethod
    def of_curves(cls, found: Curves, card: Card) -> Curve:
        """The card's log along the axis of `found`, corrected for what the audit knows; the name says by how much."""
        train = dict(zip(found.card.steps, found.card.values, strict=True))
        held = dict(zip(found.card_validation.steps, found.card_validation.values, strict=True))
        parts = (found.card, found.card_validation)
        x = {step: at for part in parts for step, at in zip(part.steps, part.x, strict=True)}
        steps = sorted(x)
        return cls(
            name=f"Card: {card.name}" + (f", loss divided by {found.divided}" if found.divided > 1 else ""),
            steps=steps,
            values=[train.get(step) for step in steps],
            evaluated=[held.get(step) for step in steps],
            epochs=[x[step] for step in steps],  # the axis is epochs, or it is rows and one "epoch" is one row
            role="card",
            kept=next((row.step for row in card.training_log if row.saved and row.step), None),
            times=[x[step] / 60 for step in steps],
            rows=1,
        )

    def along(self, x: Along) -> Sequence[float | None]:
        """Where each logged row stands on the axis `x`; empty or None where that is not known."""
        if x == "rows":
            return [None if epoch is None or self.rows is None else epoch * self.rows for epoch in self.epochs]
        return {"step": self.steps, "epoch": self.epochs, "time": self.times}[x]

    def points(self, values: Sequence[float | None], x: Along) -> tuple[list[float], list[float]]:
        """The logged points of `values` over `x`; NaN and infinite values stay in."""
        along = self.along(x)
        there = [a is not None and b is not None for a, b in zip(along, values, strict=False)]
        return list(map(float, compress(along, there))), list(map(float, compress(values, there)))  # type: ignore[arg-type]


X_TITLES: dict[Along, str] = {
    "step": "Step (optimizer updates)",
    "epoch": "Epoch (passes over the training rows)",
    "rows": "Training rows seen (count)",
    "time": "Time since the start (minutes)",
}
SMOOTH_FROM = 40  # points; a shorter log is drawn as it is


def axis_of(curves: Sequence[Curve]) -> Literal["step", "epoch"]:
    """Epochs where logs of different length would not fit one another over steps, else steps."""
    lengths = [max(curve.steps) for curve in curves if curve.steps]
    by_epoch = all(any(epoch is not None for epoch in curve.epochs) for curve in curves if curve.steps)
    return "epoch" if by_epoch and len(lengths) > 1 and max(lengths) > 1.1 * min(lengths) else "step"


def loss_curves(
    runs: Sequence[Curve],
    *,
    x: Along = "step",
    log: bool = False,
    smoothing: float | None = None,
    mark_spikes: bool = False,
    points: int = POINTS,
    quantity: str = "Loss (as the trainer logs it)",
    dark: bool = False,
    height: int = HEIGHT,
) -> Figure:
    """Training and validation loss of runs and of their card over steps, epochs, rows or minutes.

    The raw line stays visible under the smoothed one. `smoothing` is the weight of `smooth`; None smooths over a
    twentieth of a log of `SMOOTH_FROM` points or more (at most 50 points), and leaves shorter ones as they are.
    A value that is not finite is marked with a cross; `mark_spikes` marks those that `spikes` finds.
    """
    traces: list[Any] = []
    others = 0
    for run in runs:
        colour = palette(dark=dark).role(run.role, others)
        others += run.role == "other"
        traces += _curve_traces(run, x=x, colour=colour, smoothing=smoothing, points=points, log=log)
        traces += _marked_traces(run, x=x, dark=dark, log=log, mark_spikes=mark_spikes)
        traces += _broken_traces(run, x=x, colour=palette(dark=dark).worse, log=log)
    y_axis = {"type": "log"} if log else {"rangemode": "tozero"}
    figure = figure_of(
        traces, x=X_TITLES[x], y=quantity + (", log scale" if log else ""), dark=dark, height=height, yaxis=y_axis
    )
    end = max((at for run in runs for at in run.along(x) if at is not None), default=0.0)
    for run in runs:
        _mark_kept(figure, run, x=x, end=end, dark=dark)
    return figure


def _curve_traces(run: Curve, *, x: Along, colour: str, smoothing: float | None, points: int, log: bool) -> list[Any]:
    from plotly import graph_objects as go

    name = plain(run.name, 60)
    dash = {"card": "dash", "corrected": "dashdot"}.get(run.role, "solid")
    hover = f"{name}<br>{x} %{{x:,.4~f}}<br>%{{y:.4~g}}"
    traces = []
    raw_x, raw_y = run.points(run.values, x)
    few = len(raw_y) < SMOOTH_FROM
    span = min(max(len(raw_y) / 20, 1.0), 50.0) if len(raw_y) >= SMOOTH_FROM else 1.0
    weight = smoothing if smoothing is not None else 1 - 1 / span
    thin_x, thin_y = thin(raw_x, _drawable(raw_y, log), points)
    if thin_x and weight > 0:
        traces.append(
            go.Scatter(
                x=thin_x,
                y=thin_y,
                mode="lines",
                name=f"{name}, every logged point",
                legendgroup=name,
                line={"color": colour, "width": 1},
                opacity=0.4,
                showlegend=False,
                hovertemplate=f"{hover}, as logged<extra></extra>",
            )
        )
        thin_x, thin_y = thin(raw_x, _drawable(smooth(raw_y, weight), log), points)
        hover += f", smoothed with weight {weight:.2f}"
    if thin_x:
        traces.append(
            go.Scatter(
                x=thin_x,
                y=thin_y,
                mode="lines+markers" if few else "lines",
                name=name,
                legendgroup=name,
                cliponaxis=False,
                line={"color": colour, "width": 2.25, "dash": dash},
                marker={"color": colour, "size": 5},
                hovertemplate=f"{hover}<extra></extra>",
            )
        )
    eval_x, eval_y = thin(*_finite_points(run, x, log), points)
    if eval_x:
        symbol = "square-open" if run.role in ("card", "before") else "square"
        traces.append(
            go.Scatter(
                x=eval_x,
                y=eval_y,
                mode="markers",
                name=f"{name}, validation",
                legendgroup=name,
                cliponaxis=False,
                marker={"color": colour, "size": 9, "symbol": symbol, "line": {"color": colour, "width": 2}},
                hovertemplate=f"{name}, validation<br>{x} %{{x:,.4~f}}<br>%{{y:.4~g}}<extra></extra>",
            )
        )
    return traces


def _marked_traces(run: Curve, *, x: Along, dark: bool, log: bool, mark_spikes: bool) -> list[Any]:
    """Marks on a logged line: spikes, steps of which a checkpoint is kept, means as the card's log has them."""
    from plotly import graph_objects as go

    along, values = run.points(run.values, x)
    values = _drawable(values, log)
    colours = palette(dark=dark)
    name = plain(run.name, 60)
    marks: list[tuple[str, list[tuple[float, float]], dict[str, Any]]] = []
    if mark_spikes and run.role != "card":
        places = [(along[place], values[place]) for place in spikes(values)]
        marks.append(("spike", places, {"color": colours.worse, "size": 9, "symbol": "triangle-up-open"}))
    if run.saved:
        saved = set(run.saved)
        where = {at for step, at in zip(run.steps, run.along(x), strict=False) if step in saved}
        places = [(at, value) for at, value in zip(along, values, strict=True) if at in where]
        marks.append(("saved checkpoint", places, {"color": colours.ink, "size": 9, "symbol": "circle-open"}))
    if run.means:
        colour = colours.role(run.role)
        marks.append(
            ("mean over the card's stretch", list(run.means), {"color": colour, "size": 10, "symbol": "circle"})
        )
    return [
        go.Scatter(
            x=[at for at, _ in places],
            y=[value for _, value in places],
            mode="markers",
            name=f"{name}, {word}",
            legendgroup=name,
            showlegend=False,
            cliponaxis=False,
            marker={**marker, "line": {"color": marker["color"], "width": 2}},
            hovertemplate=f"{name}, {word}<br>{x} %{{x:,.4~f}}<br>%{{y:.4~g}}<extra></extra>",
        )
        for word, places, marker in marks
        if places
    ]


def _finite_points(run: Curve, x: Along, log: bool) -> tuple[list[float], list[float]]:
    along, values = run.points(run.evaluated, x)
    return along, _drawable(values, log)


def _drawable(values: list[float], log: bool) -> list[float]:
    """Values that a log axis cannot show become NaN there, which `thin` leaves out."""
    return [math.nan if value <= 0 else value for value in values] if log else values


def _broken_traces(run: Curve, *, x: Along, colour: str, log: bool) -> list[Any]:
    """Crosses on the lowest drawn value where a loss was NaN or infinite."""
    from plotly import graph_objects as go

    along, values = run.points(run.values, x)
    broken = [a for a, value in zip(along, values, strict=True) if not math.isfinite(value)]
    if not broken:
        return []
    floor = min((value for value in _drawable(values, log) if math.isfinite(value)), default=1.0)
    name = plain(run.name, 60)
    return [
        go.Scatter(
            x=broken[:POINTS],
            y=[floor] * len(broken[:POINTS]),
            mode="markers",
            legendgroup=name,
            name=f"{name}, not a finite number",
            marker={"color": colour, "size": 9, "symbol": "x"},
            hovertemplate=f"{name}<br>{x} %{{x:,}}<br>not a finite number<extra></extra>",
        )
    ]


def _mark_kept(figure: Figure, run: Curve, *, x: Along, end: float, dark: bool) -> None:
    """A dotted line at the checkpoint that was kept; its name stands on the side where there is room up to `end`."""
    if run.kept is None:
        return
    position: float | None = run.kept
    if x != "step":
        by_step = {step: at for step, at in zip(run.steps, run.along(x), strict=False) if at is not None}
        position = by_step.get(run.kept)
    if position is not None:
        whose = "card kept" if run.role == "card" else "best, kept"
        colours = palette(dark=dark)
        figure.add_vline(x=position, line={"color": colours.muted, "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=position,
            y=1,
            yref="paper",
            yanchor="top",
            xanchor="left" if position < end / 3 else "right",
            text=f" {whose} ",
            showarrow=False,
            font={"size": TICK_SIZE, "color": colours.muted},
        )


# --- metrics ----------------------------------------------------------------------------------------------------


SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan", "energy")
METRIC_NAMES = {"ndcg": "nDCG", "mrr": "MRR", "map": "MAP", "ap": "AP"}


def metric_name(metric: str) -> str:
    """The name of a metric as people write it; that of a ranking without the similarity it was measured with.

    >>> metric_name("cosine_ndcg@10"), metric_name("dot_accuracy@1"), metric_name("spearman_cosine")
    ('nDCG@10', 'Accuracy@1', 'Spearman (cosine)')
    """
    words = metric.split("_")
    place = 0 if words[0] in SIMILARITIES else -1
    similarity = words.pop(place) if len(words) > 1 and words[place] in SIMILARITIES else ""
    name, at, depth = "_".join(words).partition("@")
    if not at and not similarity:
        return metric
    said = METRIC_NAMES.get(name, name.replace("_", " ").capitalize())
    return said + at + depth if at else f"{said} ({similarity})"


def metric_names(metrics: Iterable[str]) -> dict[str, str]:
    """Each of `metrics` and its `metric_name`; itself where two of them would be called the same.

    >>> metric_names(["cosine_mrr@10", "cosine_map@100"])
    {'cosine_mrr@10': 'MRR@10', 'cosine_map@100': 'MAP@100'}
    >>> metric_names(["cosine_mrr@10", "dot_mrr@10"])
    {'cosine_mrr@10': 'cosine_mrr@10', 'dot_mrr@10': 'dot_mrr@10'}
    """
    names = {metric: metric_name(metric) for metric in metrics}
    return names if len(set(names.values())) == len(names) else {metric: metric for metric in names}


def with_metric_names(sentence: str, metrics: Iterable[str]) -> str:
    """A sentence in which metrics are called as the library calls them, with their `metric_names`.

    >>> with_metric_names("cosine_mrr@10 tells them apart.", ["cosine_mrr@1", "cosine_mrr@10"])
    'MRR@10 tells them apart.'
    """
    return renamed(sentence, metric_names(metrics))


def renamed(sentence: str, names: Mapping[str, str]) -> str:
    """A sentence with each name replaced by what stands for it, the longest first: one may begin another.

    >>> renamed("run-12 beside run-1", {"run-1": "A", "run-12": "B"})
    'B beside A'
    """
    for name in sorted(names, key=len, reverse=True):
        sentence = sentence.replace(name, names[name])
    return sentence


def metric_bars(
    rows: Sequence[MetricRow],
    *,
    dark: bool = False,
    title: str = "Mean over queries (0 to 1)",
    names: tuple[str, str] = ("Before", "After"),
) -> Figure:
    """One row per metric: before (open, grey), after (filled, blue, with its interval), the card's (dashed, ink).

    Dots on a common scale, not bars from zero: the differences of interest are hundredths. `names` are the words of
    the legend, for two runs that are compared.
    """
    from plotly import graph_objects as go

    colours = palette(dark=dark)
    rows = list(rows)[::-1]  # Plotly draws upwards
    traces: list[Any] = []
    joined_x: list[float | None] = []
    joined_y: list[float | None] = []
    for y, row in enumerate(rows):
        if row.before is not None and row.after is not None:
            joined_x += [row.before, row.after, None]
            joined_y += [y, y, None]
    if joined_x:
        traces.append(
            go.Scatter(
                x=joined_x,
                y=joined_y,
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
                line={"color": colours.grid, "width": 5},
            )
        )
    traces += _dots(go, rows, "before", plain(names[0], 60), colours.before, "circle-open")
    traces += _dots(go, rows, "after", f"{plain(names[1], 60)}, with 95 % interval", colours.after, "circle")
    carded = [(y, row) for y, row in enumerate(rows) if row.card is not None]
    if carded:
        traces.append(
            go.Scatter(
                x=[value for _, row in carded for value in (row.card, row.card, None)],
                y=[value for y, _ in carded for value in (y - 0.38, y + 0.38, None)],
                mode="lines",
                name="The card's number",
                line={"color": colours.ink, "width": 2.25, "dash": "4px,3px"},
                text=[plain(row.metric) for _, row in carded for _ in range(3)],
                hovertemplate="%{text}<br>the card: %{x:.4f}<extra></extra>",
            )
        )
    metrics = [plain(row.metric, 40) for row in rows]
    y_axis = {
        "tickmode": "array",
        "tickvals": list(range(len(rows))),
        "ticktext": metrics,
        "showgrid": False,
        "range": [-0.6, len(rows) - 0.4],
        "tickfont": {"color": colours.ink},
    }
    height = ROW_HEIGHT * len(rows) + 120 if rows else HEIGHT // 2
    values = [v for row in rows for v in (row.card, row.before, row.after, row.low, row.high) if v is not None]
    return figure_of(traces, x=title, y="", dark=dark, height=height, yaxis=y_axis, xaxis=_airy(values))


def _airy(values: Sequence[float], *, share: float = 0.04) -> dict[str, Any]:
    """An axis range that leaves marks at its ends whole."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    air = (high - low or 1.0) * share
    return {"range": [low - air, high + air]}


def _dots(go: Any, rows: Sequence[MetricRow], field: str, name: str, colour: str, symbol: str) -> list[Any]:
    found = [(y, row, getattr(row, field)) for y, row in enumerate(rows) if getattr(row, field) is not None]
    if not found:
        return []
    error = None
    word = name.removesuffix(", with 95 % interval")
    notes = ["" for _ in found]
    if field == "after":
        ranges = [
            (row.low if row.low is not None else v, row.high if row.high is not None else v) for _, row, v in found
        ]
        error = {
            "type": "data",
            "symmetric": False,
            "color": colour,
            "thickness": 2,
            "width": 5,
            "array": [max(high - value, 0.0) for (_, high), (_, _, value) in zip(ranges, found, strict=True)],
            "arrayminus": [max(value - low, 0.0) for (low, _), (_, _, value) in zip(ranges, found, strict=True)],
        }
        notes = [
            f"<br>95 % interval {row.low:.4f} to {row.high:.4f}" if row.low is not None and row.high is not None else ""
            for _, row, _ in found
        ]
    return [
        go.Scatter(
            x=[value for _, _, value in found],
            y=[y for y, _, _ in found],
            mode="markers",
            name=name,
            error_x=error,
            marker={"color": colour, "size": 11, "symbol": symbol, "line": {"color": colour, "width": 2}},
            text=[
                f"{plain(row.metric)}<br>{word}: {value:.4f}{note}"
                for (_, row, value), note in zip(found, notes, strict=True)
            ],
            hovertemplate="%{text}<extra></extra>",
        )
    ]


# --- queries ----------------------------------------------------------------------------------------------------


def rank_changes(
    queries: Sequence[QueryOutcome], *, depth: int = 100, dark: bool = False, height: int = HEIGHT + 60
) -> Figure:
    """Rank before against rank after on log axes; below the diagonal is better. Equal pairs share one larger mark.

    A document not found among the `depth` best stands on a line of its own beyond the axis' last rank.
    """
    from plotly import graph_objects as go

    colours = palette(dark=dark)
    lost = depth * 2.0
    counts: Counter[tuple[float, float]] = Counter()
    examples: dict[tuple[float, float], list[str]] = defaultdict(list)
    for query in queries:
        place = (float(query.rank_before or lost), float(query.rank_after or lost))
        counts[place] += 1
        if len(examples[place]) < 3:
            examples[place].append(query.query)
    end = lost if any(lost in place for place in counts) else max((max(place) for place in counts), default=depth)
    groups = (
        ("Better rank", colours.better, "diamond", -1),
        ("Same rank", colours.before, "diamond-open", 0),
        ("Worse rank", colours.worse, "diamond", 1),
    )
    traces: list[Any] = []
    if queries:
        traces.append(
            go.Scatter(
                x=[1, end],
                y=[1, end],
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
                line={"color": colours.grid, "width": 1.5},
            )
        )
    for name, colour, symbol, sign in groups:
        places = sorted(place for place in counts if (place[1] > place[0]) - (place[1] < place[0]) == sign)
        if places:
            total = sum(counts[place] for place in places)
            traces.append(
                go.Scatter(
                    x=[place[0] for place in places],
                    y=[place[1] for place in places],
                    mode="markers",
                    name=f"{name} ({total:,})",
                    marker={
                        "color": colour,
                        "symbol": symbol,
                        "opacity": 0.8,
                        "line": {"color": colour, "width": 1.5},
                        "size": [min(7 + 2.5 * math.sqrt(counts[place] - 1), 34) for place in places],
                    },
                    cliponaxis=False,
                    text=[_rank_text(place, counts[place], examples[place], depth) for place in places],
                    hovertemplate="%{text}<extra></extra>",
                )
            )
    ticks = [rank for rank in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000) if rank <= min(end, depth)]
    missing = [lost] if end == lost else []
    axis = {
        "type": "log",
        "tickmode": "array",
        "tickvals": [*ticks, *missing],
        "ticktext": [*map(str, ticks), *[plain(f"> {depth}") for _ in missing]],
        "minor": {"showgrid": False},
        "range": [math.log10(0.82), math.log10(max(end, 2) * 1.3)],
    }
    return figure_of(
        traces,
        x="Rank before (1 is best, log scale)",
        y="Rank after (1 is best, log scale)",
        dark=dark,
        height=height,
        xaxis=axis,
        yaxis=axis,
    )


def _rank_text(place: tuple[float, float], count: int, examples: Sequence[str], depth: int) -> str:
    before, after = (plain(f"> {depth}") if rank > depth else f"{rank:.0f}" for rank in place)
    head = f"rank {before} → {after}, {count:,} {'query' if count == 1 else 'queries'}"
    return "<br>".join(
        [head, *(wrapped(text, limit=110) for text in examples), *(["…"] if count > len(examples) else [])]
    )


def per_query_difference(
    queries: Sequence[QueryOutcome],
    *,
    metric: str = "nDCG@10",
    dark: bool = False,
    points: int = POINTS,
    height: int = HEIGHT,
) -> Figure:
    """After minus before of every query, sorted from the greatest gain to the greatest loss.

    The areas show how many queries gained and lost, and how much: a mean hides both.
    """
    from plotly import graph_objects as go

    colours = palette(dark=dark)
    known = sorted(queries, key=lambda query: (-query.difference, query.query))
    ranked = [(place, query.difference, query) for place, query in enumerate(known, start=1)]
    groups = (
        ("Better", colours.better, [row for row in ranked if row[1] > 0]),
        ("No change", colours.before, [row for row in ranked if row[1] == 0]),
        ("Worse", colours.worse, [row for row in ranked if row[1] < 0]),
    )
    traces: list[Any] = []
    for name, colour, rows in groups:
        if not rows:
            continue
        shown = _spread(rows, points)
        traces.append(
            go.Scatter(
                x=[place for place, _, _ in shown],
                y=[change for _, change, _ in shown],
                mode="lines+markers",
                fill="tozeroy" if name != "No change" else None,
                name=f"{name} ({len(rows):,})",
                fillcolor=_faint(colour),
                line={"color": colour, "width": 1.5, "shape": "hvh"},
                marker={"color": colour, "size": 6, "symbol": "diamond" if name != "No change" else "diamond-open"},
                text=[
                    f"{change:+.3f}, rank {query.rank_before or 'not found'} → {query.rank_after or 'not found'}<br>"
                    f"{wrapped(query.query, limit=160)}"
                    for _, change, query in shown
                ],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    return figure_of(
        traces,
        x="Queries, sorted by change (count)",
        y=f"{plain(metric, 40)}, after − before (−1 to 1)",
        dark=dark,
        height=height,
        yaxis={"range": [-1.08, 1.08]},
        xaxis=_airy([1, max(len(ranked), 2)], share=0.03),
    )


def _spread(rows: Sequence[Any], points: int) -> list[Any]:
    """At most `points` rows, evenly spread, with the first and the last."""
    if len(rows) <= points:
        return list(rows)
    return [rows[round(place * (len(rows) - 1) / (points - 1))] for place in range(points)]


def _faint(colour: str) -> str:
    """`#rrggbb` with an opacity of one fifth."""
    return f"{colour}33"
