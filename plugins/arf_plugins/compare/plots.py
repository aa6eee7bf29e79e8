"""A comparison's plots. Importing this needs matplotlib; nothing here uses pyplot."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from arf_plugins.compare.runs import MEASURES, Outcome
from arf_plugins.compare.verdict import Verdict, middle, spread_name

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000")
CROWDED = 300.0
"""An axis that spans such a factor has no room for labels at 2 and 5."""
LABELS = {
    "experiments": "experiments",
    "slot_hours": "slot-hours",
    "wall_hours": "hours on the wall",
    "usd": "US dollars",
}
POINTS = 120


def draw_all(outcomes: Sequence[Outcome], verdict: Verdict) -> dict[str, bytes]:
    """PNG data by file name: a figure for each objective."""
    names: dict[str, bytes] = {}
    for objective in verdict.objectives:
        runs = [run for run in outcomes if run.objective == objective]
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", objective)
        while f"{safe}.png" in names:
            safe += "-"
        names[f"{safe}.png"] = _draw(objective, runs, verdict)
    return names


def _draw(objective: str, runs: Sequence[Outcome], verdict: Verdict) -> bytes:
    priced = any(run.total.usd for run in runs)
    measures = [measure for measure in MEASURES if measure != "usd" or priced]
    figure = Figure(figsize=(4.2 * len(measures), 4.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=True):
        for number, arm in enumerate(verdict.arms):
            _curve(axes, [run for run in runs if run.arm == arm], measure, arm, number)
        axes.axhline(100 * verdict.target, color="#999999", linewidth=0.8, linestyle=":")
        axes.set_xlabel(LABELS[measure])
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < CROWDED * low else (1.0,)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("true gain of what is kept, % of possible")
    seeds = len({run.seed for run in runs})
    figure.suptitle(f"{objective}: medians with their {spread_name(seeds)}; seeds: {seeds}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _curve(axes: Axes, runs: Sequence[Outcome], measure: str, arm: str, number: int) -> None:
    """Medians on a grid up to what the typical run has spent; the grid is even on the logarithmic axis."""
    end = sorted(getattr(run.total, measure) for run in runs)[len(runs) // 2]
    starts = [getattr(run.points[0], measure) for run in runs if run.points]
    start = min((s for s in starts if s > 0), default=end / 100)
    if not 0 < start < end:
        return
    ratio = math.log(end / start)
    xs = [start * math.exp(ratio * k / (POINTS - 1)) for k in range(POINTS)]
    ys = [middle([100 * run.best_at(measure, x) for run in runs]) for x in xs]
    colour = COLOURS[number % len(COLOURS)]
    style = "-" if number < len(COLOURS) else "--"
    axes.step(
        xs, [y.value for y in ys], where="post", color=colour, linestyle=style, label=arm, linewidth=1.6
    )
    axes.fill_between(
        xs, [y.low for y in ys], [y.high for y in ys], step="post", color=colour, alpha=0.13, linewidth=0
    )
