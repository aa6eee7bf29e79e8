"""`progress.png`: every experiment, and the best so far, in the manner of autoresearch's own plot.

Importing this needs matplotlib. Nothing here uses pyplot, so that no state of the process is touched.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from attrs import frozen
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from arf.types import Direction, Experiment, Role, Verdict
from arf_plugins.report.labels import Labels
from arf_plugins.report.report_data import Series, Story, better_by, series_of
from arf_plugins.report.results import one_line

GREEN, GREY, RED, BLUE = "#2ecc71", "#9aa0a6", "#d64545", "#4a7fb5"
MARKERS = ("o", "s", "D", "^", "v", "P")
MAX_LABELS = 40
MAX_LABEL = 46
"""Characters."""

MAX_VALUE = 1e100
"""Beyond it, matplotlib's arithmetic overflows."""


@frozen(kw_only=True)
class Point:
    """An experiment with a place in the plot."""

    x: float
    y: float
    experiment: Experiment


def draw(story: Story) -> bytes:
    """The plot as a PNG. A study without any value gives an axis and what happened."""
    figure = Figure(figsize=(14, 7), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    relative = len(story.series) > 1
    points = [point for e in story.experiments if (point := _point(story, e, relative)) is not None]
    line = _best_line(story, relative)
    _axes(axes, story, relative)
    _limit(axes, story, points, line)
    _dots(axes, story, points)
    _line(axes, story, line)
    _failures(axes, story)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9, frameon=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a title may have characters that the font has not
        figure.canvas.draw()
        _label(axes, line, points)
        out = io.BytesIO()
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _point(story: Story, experiment: Experiment, relative: bool) -> Point | None:
    """None without a value, or where it cannot be compared because the baseline has not run like this."""
    if experiment.value is None or abs(experiment.value) > MAX_VALUE:
        return None
    zero = story.reference.get(series_of(experiment)) if relative else 0.0
    return None if zero is None else Point(x=experiment.id, y=experiment.value - zero, experiment=experiment)


def _best_line(story: Story, relative: bool) -> list[Point]:
    """The kept experiments, each at the mean of all its runs, from left to right."""
    line: list[Point] = []
    for experiment in story.kept:
        zero = story.reference.get(series_of(experiment)) if relative else 0.0
        mean = story.mean(experiment)
        if zero is not None and mean is not None and abs(mean) <= MAX_VALUE:
            # A verdict that waited for replicates can come after that of a later experiment.
            x = max(experiment.id, line[-1].x) if line else experiment.id
            line.append(Point(x=x, y=mean - zero, experiment=experiment))
    return line


def _axes(axes: Axes, story: Story, relative: bool) -> None:
    summary, objective = story.summary, story.objective
    better = "lower is better" if objective.direction is Direction.MIN else "higher is better"
    metric = one_line(objective.metric)[:60]
    what = f"{metric} less the baseline's on the same tier" if relative else metric
    kept = max(0, len(story.kept) - 1)
    title = f"{one_line(summary['study'])[:60]}: {len(story.experiments):,} experiments, {kept} kept"
    best = summary.get("best")
    if best and kept and best["gain_percent"] is not None:
        title += f", {metric} {better_by(best['gain_percent'])}"
    axes.set_title(title, fontsize=14, loc="left", parse_math=False)
    axes.set_xlabel("experiment number", fontsize=11)
    axes.set_ylabel(f"{what} ({better})", fontsize=11, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(True, alpha=0.2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _limit(axes: Axes, story: Story, points: Sequence[Point], line: Sequence[Point]) -> None:
    """Shows from the best to somewhat worse than the baseline: a few bad runs must not flatten all others."""
    last = max(2, len(story.experiments))
    axes.set_xlim(1 - 0.02 * last, last + 0.04 * last)
    ys = np.array([point.y for point in points])
    if not len(ys):
        axes.set_ylim(0, 1)
        axes.set_yticks([])
        axes.text(
            0.5, 0.5, "no experiment has given a value", transform=axes.transAxes, ha="center", color=GREY
        )
        return
    sign = 1.0 if story.objective.direction is Direction.MIN else -1.0
    costs = sign * ys
    start = sign * (line[0].y if line else points[0].y)
    best = min(float(costs.min()), start)
    sigma = max((s for tier in story.summary["noise"] if (s := story.sigma(tier)) is not None), default=0.0)
    spread = max(start - best, 4 * sigma, 1e-9 * abs(start), 1e-12)
    worst = min(
        float(costs.max()), max(start + spread, float(np.quantile(costs, 0.75)) if len(ys) > 8 else 0)
    )
    worst = max(worst, start)
    margin = 0.12 * max(worst - best, spread * 0.5)
    low, high = best - 1.6 * margin, worst + margin
    axes.set_ylim(*((low, high) if sign > 0 else (-high, -low)))


def _dots(axes: Axes, story: Story, points: Sequence[Point]) -> None:
    """Every value by verdict, each series with its own marker; those out of sight as arrows at the edge."""
    size = 26 if len(points) <= 200 else 14 if len(points) <= 2000 else 6
    low, high = axes.get_ylim()
    inside = [point for point in points if low <= point.y <= high]
    outside = [point for point in points if not low <= point.y <= high]
    for number, series in enumerate(story.series):
        mine = [point for point in inside if series_of(point.experiment) == series]
        name = f" ({_series_name(series)})" if len(story.series) > 1 else ""
        for label, colour, wanted in (
            ("discarded", GREY, (Verdict.DISCARD, None)),
            ("measured (replicates, cells)", BLUE, (Verdict.MEASURED,)),
        ):
            chosen = [point for point in mine if point.experiment.verdict in wanted]
            if chosen:
                axes.scatter(
                    [p.x for p in chosen],
                    [p.y for p in chosen],
                    s=size,
                    c=colour,
                    marker=MARKERS[number % len(MARKERS)],
                    alpha=0.55,
                    linewidths=0,
                    zorder=2,
                    label=label + name,
                )
    if outside:
        worse = high if story.objective.direction is Direction.MIN else low
        axes.scatter(
            [p.x for p in outside],
            [worse] * len(outside),
            s=18,
            c=GREY,
            marker="^" if worse == high else "v",
            alpha=0.6,
            linewidths=0,
            clip_on=False,
            zorder=2,
            label=f"worse than shown ({len(outside)})",
        )


def _series_name(series: Series) -> str:
    tier, budget = series
    return one_line(tier)[:24] + ("" if budget is None else f", {budget:.0%} of the budget")


def _line(axes: Axes, story: Story, line: Sequence[Point]) -> None:
    """The best so far with the range in which 95 % of single runs of it would fall."""
    if not line:
        return
    xs = [point.x for point in line] + [max(axes.get_xlim()[1], line[-1].x)]
    ys = np.array([point.y for point in line] + [line[-1].y])
    sigmas = np.array([story.sigma(point.experiment.tier) or 0.0 for point in line])
    sigmas = np.append(sigmas, sigmas[-1])
    if sigmas.any():
        axes.fill_between(
            xs,
            ys - 2 * sigmas,
            ys + 2 * sigmas,
            step="post",
            color=GREEN,
            alpha=0.13,
            linewidth=0,
            zorder=1,
            label="noise of one run (±2σ)",
        )
    axes.step(xs, ys, where="post", color="#27ae60", linewidth=2, alpha=0.75, zorder=3, label="best so far")
    axes.scatter(
        [point.x for point in line],
        ys[:-1],
        s=52 if len(line) <= 60 else 22,
        c=GREEN,
        edgecolors="black",
        linewidths=0.6,
        zorder=4,
        label="kept (mean of its runs)",
    )


def _failures(axes: Axes, story: Story) -> None:
    """Crashes and the like have no value: they are marked at the lower margin."""
    for label, colour, verdicts in (
        ("crash, timeout", RED, (Verdict.CRASH, Verdict.TIMEOUT)),
        ("invalid, suspect, cancelled", "#e0a030", (Verdict.INVALID, Verdict.SUSPECT, Verdict.CANCELLED)),
    ):
        xs = [e.id for e in story.experiments if e.value is None and e.verdict in verdicts]
        if xs:
            axes.scatter(
                xs,
                [0.012] * len(xs),
                marker="x",
                s=22 if len(xs) < 100 else 10,
                c=colour,
                linewidths=1.1,
                transform=axes.get_xaxis_transform(),
                zorder=5,
                label=f"{label} ({len(xs)})",
            )


def _label(axes: Axes, line: Sequence[Point], points: Sequence[Point]) -> None:
    """Titles of what was kept, the biggest gains first."""
    if not line:
        return
    to_pixels = axes.transData.transform
    corners = to_pixels([(point.x, point.y) for point in line])
    end = to_pixels((axes.get_xlim()[1], line[-1].y))
    dots = to_pixels([(point.x, point.y) for point in points]) if points else np.empty((0, 2))
    labels = Labels(axes, np.vstack([corners, end]), dots)
    steps = [abs(point.y - before.y) for before, point in pairwise(line)]
    for i in [0, *(1 + int(i) for i in np.argsort(steps)[::-1])][:MAX_LABELS]:
        title = "baseline" if line[i].experiment.role is Role.BASELINE else one_line(line[i].experiment.title)
        title = title if len(title) <= MAX_LABEL else title[: MAX_LABEL - 1] + "…"
        labels.add(title, (line[i].x, line[i].y), corners[i])
