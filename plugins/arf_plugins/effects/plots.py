"""The plots of `arf effects`: one picture for each design, and one of the constants.

Importing this needs matplotlib. Nothing here uses pyplot, so that no state of the process is touched.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from arf.effects import Design, Effect, Finding, Fit, half_normal
from arf.types import Objective
from arf_plugins.effects.history import Importance
from arf_plugins.report.results import one_line, replace

REAL, UNPROVEN, LINE, BASE = "#27ae60", "#9aa0a6", "#d64545", "#4a7fb5"
MOST_BARS = 16
MOST_LABELS = 8
MOST_IN_MAP = 16
LONGEST = 34
"""Characters of a name."""


def draw(
    directory: Path,
    objective: Objective,
    designs: Sequence[tuple[Design, Fit]],
    importance: Importance | None,
) -> list[Path]:
    """Write the plots into a folder; gives their paths. Raises OSError."""
    paths = []
    for design, fitted in designs:
        if fitted.effects:
            path = directory / f"effects-{_slug(design.label)}.png"
            replace(path, draw_design(objective, design.label, fitted))
            paths.append(path)
    if importance is not None:
        path = directory / "effects-constants.png"
        replace(path, draw_constants(importance))
        paths.append(path)
    return paths


def draw_design(objective: Objective, label: str, fitted: Fit) -> bytes:
    """Half-normal plot, Pareto chart, heat map of pairs, and the two largest interactions."""
    figure = Figure(figsize=(15, 10), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{one_line(label)}: {one_line(objective.metric)[:60]}, gains (positive is better)",
        fontsize=14,
        x=0.01,
        ha="left",
    )
    halves = figure.add_gridspec(2, 1)
    top, bottom = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
    left, right = top.subplots(1, 2)
    _half_normal(left, fitted)
    _pareto(right, fitted)
    pairs = [e for e in fitted.effects if not e.is_main]
    panels = bottom.subplots(1, 3, width_ratios=(1.4, 1, 1))
    _heat_map(panels[0], fitted)
    largest = sorted(pairs, key=lambda e: -abs(e.gain))[:2]
    for axes, effect in zip(panels[1:], largest, strict=False):
        _interaction(axes, objective, fitted, effect)
    if largest:
        low, high = zip(*(axes.get_ylim() for axes in panels[1 : 1 + len(largest)]), strict=True)
        for axes in panels[1 : 1 + len(largest)]:
            axes.set_ylim(min(low), max(high))
    for axes in panels[1 + len(largest) :]:
        axes.set_axis_off()
    return _png(figure)


def draw_constants(importance: Importance) -> bytes:
    """The share of the variance that goes with each constant."""
    shown = importance.constants[:MOST_BARS][::-1]
    figure = Figure(figsize=(9, 1.6 + 0.34 * len(shown)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = [REAL if c.finding is Finding.REAL else UNPROVEN for c in shown]
    axes.barh(range(len(shown)), [100 * c.share for c in shown], color=colours)
    axes.set_yticks(range(len(shown)), [_short(c.name) for c in shown], parse_math=False)
    axes.set_xlabel("share of the variance that is lost without it, %")
    axes.set_title(
        f"constants: {importance.commits:,} commits, {importance.explained:.0%} explained "
        "(green: stands after correction)",
        loc="left",
        fontsize=11,
    )
    _bare(axes)
    return _png(figure)


def _half_normal(axes: Axes, fitted: Fit) -> None:
    """Sizes against what they would be if all were noise, which is then on the line."""
    order = sorted(fitted.effects, key=lambda e: abs(e.gain))
    sizes = np.array([abs(e.gain) for e in order])
    scores = np.array(half_normal(len(order)))
    real = np.array([e.finding is Finding.REAL for e in order])
    axes.scatter(sizes[~real], scores[~real], c=UNPROVEN, s=36, label="within the noise")
    if real.any():
        axes.scatter(sizes[real], scores[real], c=REAL, s=46, label="real after correction (Holm)")
    errors = [e.error for e in order if e.error is not None]
    if errors and sizes[-1] > 0:
        slope = float(np.median(errors))
        end = min(float(scores[-1]) * 1.1, float(sizes[-1]) / slope if slope else 0.0)
        axes.plot([0, end * slope], [0, end], c=LINE, lw=1, label="where noise would be")
    axes.set_xlim(0, (float(sizes[-1]) or 1.0) * 1.32)
    axes.set_ylim(0, float(scores[-1]) * 1.18)
    for effect, x, y in list(zip(order, sizes, scores, strict=True))[::-1][:MOST_LABELS]:
        if effect.finding is Finding.REAL or y >= scores[-1] * 0.55:
            axes.annotate(
                _short(effect.name), (x, y), xytext=(7, -3), textcoords="offset points", fontsize=8,
                parse_math=False,
            )  # fmt: skip
    axes.set_xlabel("size of the effect")
    axes.set_ylabel("half-normal score")
    axes.set_title("half-normal plot", loc="left", fontsize=11)
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    _bare(axes)


def _pareto(axes: Axes, fitted: Fit) -> None:
    """The largest effects with their standard errors, and the margin that a main effect must pass."""
    shown = sorted(fitted.effects, key=lambda e: -abs(e.gain))[:MOST_BARS][::-1]
    colours = [REAL if e.finding is Finding.REAL else UNPROVEN for e in shown]
    axes.barh(range(len(shown)), [e.gain for e in shown], color=colours)
    if all(e.error is not None for e in shown):
        axes.errorbar(
            [e.gain for e in shown], range(len(shown)), xerr=[e.error or 0.0 for e in shown], fmt="none",
            ecolor="black", elinewidth=0.8, capsize=2,
        )  # fmt: skip
    largest = max((abs(e.gain) + (e.error or 0.0) for e in shown), default=0.0)
    if fitted.margin is not None and fitted.margin <= 1.5 * largest:
        for side in (-1, 1):
            axes.axvline(side * fitted.margin, c=LINE, lw=1, ls="--")
    axes.axvline(0, c="black", lw=0.8)
    axes.set_yticks(range(len(shown)), [_short(e.name) for e in shown], fontsize=8, parse_math=False)
    axes.set_xlabel("gain ± standard error (dashed: what the largest must pass)")
    more = len(fitted.effects) - len(shown)
    title = (
        f"effects by size (the largest {len(shown)} of {len(fitted.effects)})" if more else "effects by size"
    )
    axes.set_title(title, loc="left", fontsize=11)
    _bare(axes)


def _heat_map(axes: Axes, fitted: Fit) -> None:
    """Main effects on the diagonal, interactions below it; a dot where it is aliased with another."""
    mains = [e for e in fitted.effects if e.is_main][:MOST_IN_MAP]
    index = {e.term[0]: i for i, e in enumerate(mains)}
    grid = np.full((len(mains), len(mains)), np.nan)
    real: list[tuple[int, int]] = []
    for effect in fitted.effects:
        places = [index.get(one) for one in effect.term]
        if None in places:
            continue
        row, column = max(p for p in places if p is not None), min(p for p in places if p is not None)
        grid[row, column] = effect.gain
        if effect.finding is Finding.REAL:
            real.append((row, column))
    limit = float(np.nanmax(np.abs(grid))) if len(mains) else 1.0
    image = axes.imshow(np.ma.masked_invalid(grid), cmap="RdYlGn", vmin=-(limit or 1.0), vmax=limit or 1.0)
    power = math.floor(math.log10(limit)) if limit > 0 else 0
    for row in range(len(mains)):
        for column in range(row + 1):
            value = float(grid[row, column])
            if math.isnan(value):
                axes.text(column, row, "·", ha="center", va="center", color=UNPROVEN)
            elif len(mains) <= 10:
                axes.text(
                    column, row, f"{value / 10.0**power:+.1f}", ha="center", va="center", fontsize=9,
                    weight="bold" if (row, column) in real else "normal",
                    color="white" if abs(value) > 0.7 * limit else "black",
                )  # fmt: skip
    names = [_short(e.name, 22) for e in mains]
    axes.set_xticks(range(len(mains)), names, rotation=40, ha="right", fontsize=8, parse_math=False)
    axes.set_yticks(range(len(mains)), names, fontsize=8, parse_math=False)
    title = f"pairs, in 1e{power:+03d} (diagonal: main effects; bold: real; ·: aliased)"
    axes.set_title(title, loc="left", fontsize=10)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.figure.colorbar(image, ax=axes, shrink=0.8)


def _interaction(axes: Axes, objective: Objective, fitted: Fit, effect: Effect) -> None:
    """Mean gain of the cells by the levels of two factors: parallel lines would be no interaction."""
    (a, i), (b, j) = effect.term
    zero: dict[str, list[float]] = {}
    for cell in fitted.cells:
        zero.setdefault(cell.block, []).append(cell.mean)
    names = fitted.axes[a], fitted.axes[b]
    for level, colour, marker in ((0, BASE, "o"), (j, LINE, "s")):
        xs, ys = [], []
        for x, first in enumerate((0, i)):
            gains = [
                (objective.gain(float(np.mean(zero[cell.block])), cell.mean), cell.n)
                for cell in fitted.cells
                if cell.levels[a] == first and cell.levels[b] == level
            ]
            if gains:
                xs.append(x)
                ys.append(float(np.average([g for g, _ in gains], weights=[n for _, n in gains])))
        what = _short(names[1].levels[level - 1], 26) if level else f"{_short(names[1].name, 20)}: base"
        axes.plot(xs, ys, marker=marker, c=colour, label=what)
    axes.set_xticks([0, 1], ["base", _short(names[0].levels[i - 1], 26)], fontsize=8, parse_math=False)
    axes.set_xlim(-0.25, 1.25)
    axes.set_ylabel("gain against the mean of all cells", fontsize=9)
    title = _short(effect.name, 44)
    verdict = {Finding.REAL: "real", Finding.UNPROVEN: "unproven", Finding.UNKNOWN: "noise unknown"}
    axes.set_title(f"{title} ({verdict[effect.finding]})", loc="left", fontsize=10, parse_math=False)
    axes.legend(fontsize=8, frameon=False)
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.grid(True, alpha=0.2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _short(name: str, longest: int = LONGEST) -> str:
    clean = one_line(name)
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:60] or "design"


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a title may have characters that the font has not
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
