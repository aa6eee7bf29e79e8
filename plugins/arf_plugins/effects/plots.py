"""The plots of effects: which stand out of the noise, how large they are, which pairs depend on each other.

Importing this needs matplotlib. Nothing here uses pyplot, so that no state of the process is touched.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
from attrs import frozen
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from arf.sdk.statistics import t_critical
from arf.types import Objective
from arf_plugins.effects.history import IdeaEffect, Importance
from arf_plugins.effects.model import Design, Effect, Finding, Fit, half_normal, holm_levels
from arf_plugins.effects.reading import Found
from arf_plugins.effects.sections import FEW_IDEAS, Picture, design_key
from arf_plugins.report.labels import Labels
from arf_plugins.report.results import one_line

BETTER, WORSE, UNPROVEN = "#2166ac", "#b2182b", "#9aa0a6"
LINES = ("#2166ac", "#d95f02", "#1b9e77", "#7570b3", "#666666")
SHADES = "RdBu"
"""Of the heat map: red is worse, white nothing, blue better, which the colour-blind can tell."""

WIDTH = 11.0
"""Of a picture in inches; a report shows it about as wide."""
DPI = 110
MOST_BARS = 16
MOST_NAMED = 10
MOST_IN_MAP = 16
MOST_PAIRS = 2
FEW = 6
"""Fewer effects than this make no half-normal plot: there is no crowd to stand out of."""
FEW_IN_MAP = 3
DWARFED = 20.0
"""Beyond so many times its margin, the largest effect makes the others invisible on a linear scale."""
PALE = 4.0
"""Standard errors of a pair whose shade is the darkest, if none is larger."""

_Unit = tuple[int, int]
"""What makes pairs: a factor and a level of it, or an idea and 1."""
_Gains = Mapping[tuple[_Unit, ...], tuple[float, float, bool]]
"""By unit or pair of them: the gain, its standard error (0 where it is unknown), and whether it is real."""


def pictures(found: Found, designs: Sequence[tuple[Design, Fit]]) -> dict[str, list[Picture]]:
    """Those of each section, by its key; none where there is too little to show."""
    objective, alpha = found.study.objective, found.study.rule.alpha
    metric = one_line(objective.metric)[:60]
    shown: dict[str, list[Picture]] = {}
    for design, fitted in designs:
        name, title = f"effects-{_slug(design.label)}", f"{one_line(design.label)[:60]}: gains in {metric}"
        shown[design_key(design)] = [
            Picture(name=f"{name}{end}.png", alt=f"{alt} of {one_line(design.label)}", png=png)
            for end, alt, png in (
                ("", "Effects", draw_sizes(title, bars_of(fitted)) if fitted.effects else b""),
                ("-pairs", "Interactions", draw_pairs(title, objective, fitted)),
            )
            if png
        ]
    if len(found.ideas) >= FEW_IDEAS:
        png = draw_sizes(f"ideas: gains in {metric}", bars_of_ideas(found.ideas, alpha))
        shown["ideas"] = [Picture(name="effects-ideas.png", alt="Gains of single ideas", png=png)]
    if png := draw_idea_pairs(f"pairs of ideas: gains in {metric}", found.ideas, found.pairs):
        shown["pairs"] = [Picture(name="effects-idea-pairs.png", alt="Pairs of ideas", png=png)]
    if found.importance is not None:
        png = draw_constants(found.importance)
        shown["constants"] = [Picture(name="effects-constants.png", alt="Importance of constants", png=png)]
    return shown


@frozen(kw_only=True)
class Bar:
    """An effect with what it is held against."""

    name: str
    gain: float
    error: float | None
    alone: float | None
    """The gain that would be real if it were the only one: Lenth's margin of error, if the noise is his."""
    among: float | None
    """The gain that is real at its rank among the others (Holm)."""
    finding: Finding

    @property
    def t(self) -> float:
        """Its size in standard errors; 0 where they are unknown."""
        return abs(self.gain) / self.error if self.error else 0.0

    @property
    def colour(self) -> str:
        return UNPROVEN if self.finding is not Finding.REAL else BETTER if self.gain > 0 else WORSE


def draw_sizes(title: str, bars: Sequence[Bar]) -> bytes:
    """A half-normal plot where there are enough effects for it, and the effects by size."""
    shown = _by_size(bars)[:MOST_BARS]
    names = [_name(bar.name, 34) for bar in shown]
    rows = sum(1 + name.count("\n") for name in names)
    crowd = len(bars) >= FEW
    figure = _figure(title, max(4.6 if crowd else 0.0, 1.7 + 0.17 * rows + 0.15 * len(names)))
    panels = figure.subplots(1, 2, width_ratios=(1, 1.3)) if crowd else [figure.add_subplot()]
    _pareto(panels[-1], shown, names, len(bars))
    if crowd:
        with _unglyphed():
            _half_normal(figure, panels[0], bars)
    return _png(figure)


def draw_pairs(title: str, objective: Objective, fitted: Fit) -> bytes:
    """A heat map of the pairs of a design, and the strongest by the levels of both; empty without any."""
    strongest = _strongest(fitted)
    if not strongest:
        return b""
    mains = {effect.term[0]: effect.name for effect in fitted.effects if effect.is_main}
    if len(mains) < FEW_IN_MAP:
        figure = _figure(title, 4.6, width=0.6 * WIDTH)
        panels = [figure.add_subplot()]
    else:
        figure = _figure(title, max(6.6, 1.9 + 0.36 * min(len(mains), MOST_IN_MAP)))
        grid = figure.add_gridspec(len(strongest), 2, width_ratios=(1.8, 1))
        _heat_map(figure.add_subplot(grid[:, 0]), mains, _gains((e.term, e) for e in fitted.effects))
        panels = [figure.add_subplot(grid[row, 1]) for row in range(len(strongest))]
    for axes, effect in zip(panels, strongest, strict=True):
        _interaction(axes, objective, fitted, effect, list(mains))
    low, high = zip(*(axes.get_ylim() for axes in panels), strict=True)
    for axes in panels:
        axes.set_ylim(min(low), max(high))
    return _png(figure)


def draw_idea_pairs(title: str, ideas: Sequence[IdeaEffect], pairs: Sequence[IdeaEffect]) -> bytes:
    """A heat map of the pairs of ideas that were tried alone and together; empty if they are too few."""
    singles = {effect.ideas[0]: effect.name for effect in ideas}
    paired = sorted({idea for pair in pairs for idea in pair.ideas if idea in singles})
    if len(paired) < FEW_IN_MAP:
        return b""
    figure = _figure(title, 2.6 + 0.42 * min(len(paired), MOST_IN_MAP))
    gains = _gains((tuple((idea, 1) for idea in effect.ideas), effect) for effect in (*ideas, *pairs))
    _heat_map(figure.add_subplot(), {(idea, 1): singles[idea] for idea in paired}, gains)
    return _png(figure)


def draw_constants(importance: Importance) -> bytes:
    """The share of the variance that goes with each constant."""
    shown = importance.constants[:MOST_BARS][::-1]
    title = (
        f"constants over {importance.commits:,} commits: {importance.explained:.0%} of the variance explained"
    )
    figure = _figure(title, 1.7 + 0.32 * len(shown))
    axes = figure.add_subplot()
    for finding, colour, label in (
        (Finding.REAL, BETTER, "stands after correction for their number"),
        (Finding.UNPROVEN, UNPROVEN, "within the noise"),
        (Finding.UNKNOWN, UNPROVEN, "too few runs to tell"),
    ):
        rows = [(y, 100 * c.share) for y, c in enumerate(shown) if c.finding is finding]
        if rows:
            places, shares = zip(*rows, strict=True)
            axes.barh(places, shares, color=colour, label=label, height=0.7)
    axes.set_yticks(range(len(shown)), [_name(c.name, 40) for c in shown], parse_math=False)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel("drop in R² without this constant, %")
    _legend(axes)
    _bare(axes)
    return _png(figure)


def bars_of(fitted: Fit) -> list[Bar]:
    """Those of a design."""
    return _bars([(effect, fitted.df) for effect in fitted.effects], fitted.alpha)


def bars_of_ideas(ideas: Sequence[IdeaEffect], alpha: float) -> list[Bar]:
    """Those of single ideas of a history."""
    return _bars([(idea, idea.df) for idea in ideas], alpha)


def _bars(effects: Sequence[tuple[Effect | IdeaEffect, float]], alpha: float) -> list[Bar]:
    """Of effects, each with the degrees of freedom of its error."""
    levels = iter(holm_levels([effect.p for effect, _ in effects if effect.p is not None], alpha))
    found = []
    for effect, df in effects:
        alone = among = None
        if effect.p is not None:
            level = next(levels)
            if effect.error:
                alone = effect.error * t_critical(alpha / 2, df)
                among = effect.error * t_critical(level / 2, df)
        found.append(
            Bar(
                name=effect.name,
                gain=effect.gain,
                error=effect.error,
                alone=alone,
                among=among,
                finding=effect.finding,
            )
        )
    return found


def _by_size(bars: Sequence[Bar]) -> list[Bar]:
    """What is real first, then by size: with unequal errors a large gain may be all noise."""
    return sorted(bars, key=lambda bar: (bar.finding is not Finding.REAL, -abs(bar.gain)))


# ---- Sizes ---------------------------------------------------------------------------------------


def _half_normal(figure: Figure, axes: Axes, bars: Sequence[Bar]) -> None:
    """Sizes in standard errors against what they would be if all were noise, which is then on the line."""
    known = all(bar.error for bar in bars)
    order = sorted(bars, key=lambda bar: bar.t if known else abs(bar.gain))
    sizes = np.array([bar.t if known else abs(bar.gain) for bar in order])
    scores = np.array(half_normal(len(order)))
    dot = 34 if len(order) <= 60 else 12
    for colour, label in ((UNPROVEN, "within the noise"), (BETTER, "real, better"), (WORSE, "real, worse")):
        mine = np.array([bar.colour == colour for bar in order])
        if mine.any():
            axes.scatter(sizes[mine], scores[mine], c=colour, s=dot, label=label, zorder=3, linewidths=0)
    right = 1.12 * (float(sizes[-1]) or 1.0)
    top = 1.15 * float(scores[-1])
    if known:
        end = min(top, right)
        axes.plot([0, end], [0, end], c="black", lw=0.8, alpha=0.6, label="where noise would be", zorder=2)
        first = max((bar.among or 0.0) / bar.error for bar in order if bar.error)
        alone = max((bar.alone or 0.0) / bar.error for bar in order if bar.error)
        right = max(right, 1.15 * first if first < 2.5 * sizes[-1] else right)
        axes.axvline(alone, c="black", lw=0.9, ls=":", label="margin of one alone", zorder=1)
        axes.axvline(
            first, c="black", lw=0.9, ls="--", label=f"margin of the largest of {len(order)}", zorder=1
        )
    about = " / its standard error" if known else " (the noise is unknown)"
    if known and sizes[-1] > DWARFED * first:
        axes.set_xscale("symlog", linthresh=first, linscale=2)
        right, about = 2 * right, f"{about}\n(logarithmic from the dashed line on)"
    axes.set_xlim(0, right)
    axes.set_ylim(0, top)
    axes.set_xlabel(f"size of the effect{about}")
    axes.set_ylabel("half-normal score")
    axes.set_title("What stands out of the noise", loc="left", fontsize=11)
    _legend(axes)
    _bare(axes)
    figure.canvas.draw()
    dots = axes.transData.transform(np.column_stack([sizes, scores]))
    labels = Labels(axes, dots[-1:], dots, colour="#333333")
    for i in range(len(order) - 1, -1, -1)[:MOST_NAMED]:
        if order[i].finding is Finding.REAL or (known and order[i].t > alone):
            labels.add(_name(order[i].name, 26), (sizes[i], scores[i]), dots[i])


def _pareto(axes: Axes, shown: Sequence[Bar], names: Sequence[str], count: int) -> None:
    """Each effect with its standard error, and what it must pass, alone and at its rank."""
    gains, errors = [bar.gain for bar in shown], [bar.error or 0.0 for bar in shown]
    places = range(len(shown))[::-1]
    axes.barh(places, gains, color=[bar.colour for bar in shown], height=0.7, zorder=2)
    if any(errors):
        axes.errorbar(
            gains, places, xerr=errors, fmt="none", ecolor="black", elinewidth=0.9, capsize=2.5, zorder=3
        )
    alone = [(y, bar.alone) for y, bar in zip(places, shown, strict=True) if bar.alone]
    among = [(y, bar.among) for y, bar in zip(places, shown, strict=True) if bar.among]
    _limits(axes, alone, ":")
    _limits(axes, among, "--")
    axes.axvline(0, c="black", lw=0.8, zorder=4)
    low = min(0.0, *(gain - error for gain, error in zip(gains, errors, strict=True)))
    high = max(0.0, *(gain + error for gain, error in zip(gains, errors, strict=True)))
    reach = max(high, -low) or 1.0
    margin = max((limit for _, limit in among if limit <= 2 * reach), default=0.1 * reach)
    spare, scale = 1.06, ""
    if among and reach > DWARFED * among[0][1]:
        axes.set_xscale("symlog", linthresh=among[0][1], linscale=2)
        spare, scale = 1.6, "\n(logarithmic from the topmost dashed line on)"
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlim(spare * min(low, -margin), spare * max(high, margin))
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_yticks(places, names, fontsize=9, parse_math=False)
    told = f"\ndotted: margin of one alone, dashed: at its rank (Holm){scale}" if among else ""
    axes.set_xlabel(f"gain ± its standard error{told}" if any(errors) else "gain (the noise is unknown)")
    more = f" (the first {len(shown)} of {count})" if count > len(shown) else ""
    axes.set_title(f"Effects by size{more}", loc="left", fontsize=11)
    _bare(axes)


def _limits(axes: Axes, limits: Sequence[tuple[int, float]], style: Literal[":", "--"]) -> None:
    """A line across each bar's place on both sides, which make one line where all have the same limit."""
    for side in (-1, 1):
        axes.vlines(
            [side * limit for _, limit in limits], [y - 0.5 for y, _ in limits], [y + 0.5 for y, _ in limits],
            colors="black", linestyles=style, lw=0.9, zorder=4,
        )  # fmt: skip


# ---- Pairs ---------------------------------------------------------------------------------------


def _strongest(fitted: Fit) -> list[Effect]:
    """The strongest interactions, one for each pair of factors: by their t, by size where that is unknown."""
    found: dict[tuple[int, ...], Effect] = {}
    pairs = [effect for effect in fitted.effects if not effect.is_main]
    for effect in sorted(pairs, key=lambda e: (-abs(e.t or 0.0), -abs(e.gain))):
        found.setdefault(tuple(factor for factor, _ in effect.term), effect)
    return list(found.values())[:MOST_PAIRS]


def _gains(effects: Iterable[tuple[tuple[_Unit, ...], Effect | IdeaEffect]]) -> _Gains:
    return {term: (e.gain, e.error or 0.0, e.finding is Finding.REAL) for term, e in effects}


def _heat_map(axes: Axes, mains: Mapping[_Unit, str], effects: _Gains) -> None:
    """Interactions below the diagonal, which has the main effects; a dot where a pair cannot be told."""
    units = _chosen(mains, effects)
    size = len(units)
    pairs = {(i, j): effects.get((units[j], units[i])) for i in range(size) for j in range(i)}
    alone = {(i, i): effects.get((units[i],)) for i in range(size)}
    # What is within the noise stays pale, also where there is nothing else.
    limit = max((max(abs(gain[0]), PALE * gain[1]) for gain in pairs.values() if gain), default=0.0)
    largest = max((abs(gain[0]) for gain in (*pairs.values(), *alone.values()) if gain), default=0.0)
    power = max(_power(limit), _power(largest) - 1)
    grid = np.full((size, size), np.nan)
    for place, gain in pairs.items():
        if gain:
            grid[place] = gain[0]
    image = axes.imshow(
        np.ma.masked_invalid(grid), cmap=SHADES, vmin=-(limit or 1.0), vmax=limit or 1.0, aspect="auto"
    )
    for i in range(size):
        axes.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, color="#e4e7eb", linewidth=0))
    for (row, column), gain in {**pairs, **alone}.items():
        if gain is None and units[row][0] == units[column][0]:
            continue
        dark = gain is not None and row != column and abs(gain[0]) > 0.65 * limit
        axes.text(
            column, row, _signed(gain[0] / 10.0**power, size) if gain else "·", ha="center", va="center",
            fontsize=10 if size <= 8 else 8.5 if size <= 12 else 7, parse_math=False,
            weight="bold" if gain and gain[2] else "normal", color="white" if dark else "#222222",
        )  # fmt: skip
    numbers = [str(number) for number in range(1, size + 1)]
    names = [f"{_name(mains[unit], 24)}  {number}" for unit, number in zip(units, numbers, strict=True)]
    axes.set_xticks(range(size), numbers, fontsize=9)
    axes.set_yticks(range(size), names, fontsize=9, parse_math=False)
    axes.tick_params(length=0)
    left = len(mains) - size
    about = f"in units of {10.0**power:g}; bold: real; ·: cannot be told" + (
        f"; {left} left out" if left else ""
    )
    axes.set_title(f"Pairs: gain beyond the sum of each, halved\n{about}", loc="left", fontsize=11)
    axes.set_xlabel("on the diagonal, in grey: each alone")
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02, aspect=30)
    bar.set_label("worse together       better together", fontsize=9)
    bar.outline.set_visible(False)


def _chosen(mains: Mapping[_Unit, str], effects: _Gains) -> list[_Unit]:
    """Those of the strongest pairs, in their own order."""
    if len(mains) <= MOST_IN_MAP:
        return list(mains)
    found: dict[_Unit, None] = {}
    for term in sorted(effects, key=lambda term: (-len(term), -abs(effects[term][0]))):
        if len({*found, *term}) <= MOST_IN_MAP:
            found.update(dict.fromkeys(term))
    return [unit for unit in mains if unit in found]


def _interaction(
    axes: Axes, objective: Objective, fitted: Fit, effect: Effect, units: Sequence[_Unit]
) -> None:
    """Mean gain of the cells by the levels of two factors: parallel lines would be no interaction."""
    first, second = sorted((factor for factor, _ in effect.term), key=lambda f: -len(fitted.axes[f].levels))
    middle = _middles(fitted)
    for b, name in enumerate(_levels(fitted, second, units)):
        xs, ys, errors = [], [], []
        for a in range(1 + len(fitted.axes[first].levels)):
            cells = [c for c in fitted.cells if (c.levels[first], c.levels[second]) == (a, b)]
            if cells:
                gains = [objective.gain(middle[cell.block], cell.mean) for cell in cells]
                weights = [cell.n / cell.sigma**2 for cell in cells]
                xs.append(a)
                ys.append(float(np.average(gains, weights=weights)))
                errors.append((fitted.sigma or 0.0) / math.sqrt(math.fsum(weights)))
        axes.errorbar(
            xs, ys, yerr=errors if fitted.sigma else None, marker="os^Dv"[b % 5], c=LINES[b % len(LINES)],
            label=name, lw=1.6, capsize=3, elinewidth=0.9,
        )  # fmt: skip
    names = _levels(fitted, first, units)
    axes.set_xticks(range(len(names)), names, fontsize=9, parse_math=False)
    axes.set_xlabel(_name(fitted.axes[first].name, 32), fontsize=9, parse_math=False, loc="left")
    axes.set_xlim(-0.3, len(names) - 0.7)
    axes.margins(y=0.12)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylabel("gain (0: mean of all)", fontsize=9)
    verdict = {Finding.REAL: "real", Finding.UNPROVEN: "unproven", Finding.UNKNOWN: "noise unknown"}
    other = _name(fitted.axes[second].name, 32)
    pair = " × ".join(str(units.index(unit) + 1) for unit in effect.term if unit in units)
    if len(units) < FEW_IN_MAP:
        pair = "gain beyond the sum of each, halved"
    axes.set_title(
        f"{pair}: {effect.gain:+.2g} ({verdict[effect.finding]})", loc="left", fontsize=10, weight="bold",
        pad=48 if "\n" in other else 36,
    )  # fmt: skip
    legend = axes.legend(
        title=other, fontsize=8.5, title_fontsize=9, framealpha=0.0, loc="lower left",
        bbox_to_anchor=(0.0, 1.0), ncols=5, borderpad=0.0, alignment="left", columnspacing=0.8,
        handletextpad=0.3, handlelength=1.4,
    )  # fmt: skip
    for text in (legend.get_title(), *legend.get_texts()):
        text.set_parse_math(False)
    _bare(axes)


def _levels(fitted: Fit, factor: int, units: Sequence[_Unit]) -> list[str]:
    """The names of a factor's levels, the base first; of several levels by their number in the heat map."""
    levels = range(1, 1 + len(fitted.axes[factor].levels))
    if len(levels) == 1:
        return ["without", "with"]
    return ["base", *(str(units.index(u) + 1) if (u := (factor, j)) in units else "?" for j in levels)]


def _middles(fitted: Fit) -> dict[str, float]:
    """The mean of the cells of each block, which are not compared with each other."""
    means: dict[str, list[float]] = {}
    for cell in fitted.cells:
        means.setdefault(cell.block, []).append(cell.mean)
    return {block: math.fsum(values) / len(values) for block, values in means.items()}


# ---- Small things --------------------------------------------------------------------------------


def _figure(title: str, height: float, *, width: float = WIDTH) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    text = figure.suptitle(title, fontsize=12, x=0.01, ha="left", weight="bold")
    text.set_parse_math(False)
    return figure


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower right", fontsize=8.5, framealpha=0.9, edgecolor="none")


def _bare(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.grid(True, alpha=0.2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _power(value: float) -> int:
    return math.floor(math.log10(value)) if value > 0 else -99


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:60] or "design"


def _signed(value: float, size: int) -> str:
    """Short enough for a map of so many rows."""
    shown = f"{value:+.0f}" if size > 8 and abs(value) >= 9.95 else f"{value:+.1f}"
    return "0" if float(shown) == 0 else shown.replace("-", "−")


def _name(name: str, width: int) -> str:
    """A name in one line of so many characters or in two, cut in its middle if it is longer still."""
    clean = one_line(name)
    parts = clean.split(" × ")
    if len(clean) <= width:
        return clean
    if len(parts) == 2:
        return "\n× ".join(_cut(part, width - 2) for part in parts)
    shorter = _cut(clean, 2 * width - 6)
    for even in range(len(shorter) // 2, width + 1):
        if len(lines := textwrap.wrap(shorter, even)) <= 2:
            return "\n".join(lines)
    return _cut(clean, width)


def _cut(text: str, longest: int) -> str:
    """Both ends are kept, in whole words if there are any: names of levels differ at their ends."""
    if len(text) <= longest:
        return text
    head, tail = text[: longest * 3 // 5].rstrip(), text[longest * 3 // 5 + 1 - longest :].lstrip()
    if text[len(head)] != " " and len(head.rpartition(" ")[0]) > len(head) // 2:
        head = head.rpartition(" ")[0]
    if text[-len(tail) - 1] != " " and len(tail.partition(" ")[2]) > len(tail) // 2:
        tail = tail.partition(" ")[2]
    return f"{head} … {tail}" if " " in text else f"{head}…{tail}"


@contextmanager
def _unglyphed() -> Iterator[None]:
    """No warning about characters that the font has not: names come from agents."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ")
        yield


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    with _unglyphed():
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
