"""What a history tells that nobody designed: ideas on the commits that they were tried on, and constants.

Each part costs time in proportion to the experiments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from attrs import evolve, frozen

from arf.sdk.statistics import Noise, noise, t_tail
from arf.study import Group, Study
from arf.types import Role, Scalar
from arf_plugins.effects.model import Finding, holm

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_CONSTANTS = 60
"""The ones that were set most often."""
MOST_CATEGORIES = 12
ROUNDING = 1e-10
"""Of the total sum of squares, what is nothing; of the largest eigenvalue, what is collinear."""
LOGARITHMIC = 8.0
"""A constant whose positive values span such a factor is looked at on a logarithmic scale."""


@frozen(kw_only=True)
class IdeaEffect:
    """What ideas did on the commits that they were tried on: one idea, or two beyond the sum of each."""

    ideas: tuple[int, ...]
    name: str
    gain: float
    """One idea: its gain over its parent. Two: half of what both gain beyond the sum of each."""
    error: float | None
    df: float
    p: float | None
    """Two-sided."""
    adjusted: float | None
    """Corrected for the number of effects of its kind (Holm)."""
    finding: Finding
    runs: int
    bases: int
    """On how many commits it was tried."""


def idea_effects(study: Study, alpha: float) -> tuple[list[IdeaEffect], list[IdeaEffect]]:
    """(single ideas, pairs), those with the smallest p first.

    A run of one idea is compared with its parent on the same tier and budget, by the noise of replicates; an
    idea that was tried on several commits has the mean of its gains weighted by their precision (a
    fixed-effect meta-analysis; Cochran, Biometrics 10, 1954). A pair needs runs of both together and of each
    on one commit. This is least squares with a coefficient for every idea on every commit.
    """
    gains = _gains(study)
    singles: dict[tuple[int, ...], list[_Gain]] = {}
    pairs: dict[tuple[int, ...], list[_Gain]] = {}
    for (parent, tier, budget, ideas), gain in gains.items():
        if len(ideas) == 1:
            singles.setdefault(ideas, []).append(gain)
        elif len(ideas) == 2:
            alone = [gains.get((parent, tier, budget, (idea,))) for idea in ideas]
            if alone[0] is not None and alone[1] is not None:
                pairs.setdefault(ideas, []).append(_interaction(gain, alone[0], alone[1]))
    return _tested(study, singles, alpha), _tested(study, pairs, alpha)


@frozen
class _Gain:
    gain: float
    variance: float | None
    """None where the noise is unknown."""
    df: float
    runs: int
    base_share: float = 0.0
    """1 over the runs of the parent, in units of the noise's variance."""
    sigma2: float = 0.0


_Key = tuple[str, str, float | None, tuple[int, ...]]


def _gains(study: Study) -> dict[_Key, _Gain]:
    """By parent, tier, budget and ideas: the gain of a group over its parent's."""
    noises: dict[tuple[str, float | None], Noise | None] = {}
    found: dict[_Key, _Gain] = {}
    for experiment in study.experiments.values():
        key = (experiment.parent, experiment.tier, experiment.budget, tuple(sorted(experiment.ideas)))
        if not experiment.ideas or len(experiment.ideas) > 2 or key in found:
            continue
        group = study.group_of(experiment)
        base = study.group_at(experiment.parent, experiment.tier, experiment.budget)
        if base is None or not base.n or not group.n or base.tree == group.tree:
            continue
        series = (experiment.tier, experiment.budget)
        if series not in noises:
            noises[series] = noise(study, *series)
        found[key] = _gain(study, base, group, noises[series])
    return found


def _gain(study: Study, base: Group, group: Group, known: Noise | None) -> _Gain:
    gain = study.objective.gain(base.mean, group.mean)
    if known is None:
        return _Gain(gain, None, 0.0, group.n)
    square = known.sigma**2
    return _Gain(gain, square * (1 / group.n + 1 / base.n), known.df, group.n, 1 / base.n, square)


def _interaction(both: _Gain, one: _Gain, other: _Gain) -> _Gain:
    """`(y11 - y10 - y01 + y00) / 2`; the parent's runs are in all three gains, so they count once."""
    value = 0.5 * (both.gain - one.gain - other.gain)
    parts = (both.variance, one.variance, other.variance)
    if any(part is None for part in parts):
        return _Gain(value, None, 0.0, both.runs)
    shared = both.base_share * both.sigma2
    own = sum(part - shared for part in parts if part is not None)
    return _Gain(value, 0.25 * (own + shared), both.df, both.runs)


def _tested(study: Study, gains: Mapping[tuple[int, ...], Sequence[_Gain]], alpha: float) -> list[IdeaEffect]:
    found = [_pooled(study, ideas, these) for ideas, these in gains.items()]
    known = [i for i, effect in enumerate(found) if effect.p is not None]
    adjusted = holm([p for effect in found if (p := effect.p) is not None])
    for i, value in zip(known, adjusted, strict=True):
        finding = Finding.REAL if value <= alpha else Finding.UNPROVEN
        found[i] = evolve(found[i], adjusted=value, finding=finding)
    return sorted(found, key=lambda e: (2.0 if e.p is None else e.p, -abs(e.gain), e.ideas))


def _pooled(study: Study, ideas: tuple[int, ...], gains: Sequence[_Gain]) -> IdeaEffect:
    known = [(g.gain, g.variance) for g in gains if g.variance is not None]
    name = " × ".join(study.ideas[idea].title for idea in ideas)
    runs = sum(g.runs for g in gains)
    if len(known) < len(gains) or not known:
        gain = math.fsum(g.gain for g in gains) / len(gains)
        return IdeaEffect(
            ideas=ideas, name=name, gain=gain, error=None, df=0.0, p=None, adjusted=None,
            finding=Finding.UNKNOWN, runs=runs, bases=len(gains),
        )  # fmt: skip
    if any(variance == 0.0 for _, variance in known):
        gain, error = math.fsum(g for g, _ in known) / len(known), 0.0
    else:
        weights = [1 / variance for _, variance in known]
        gain = math.fsum(w * g for w, (g, _) in zip(weights, known, strict=True)) / math.fsum(weights)
        error = 1 / math.sqrt(math.fsum(weights))
    df = min(g.df for g in gains)
    p = float(gain == 0.0) if error == 0.0 else min(1.0, 2 * t_tail(abs(gain) / error, df))
    return IdeaEffect(
        ideas=ideas, name=name, gain=gain, error=error, df=df, p=p, adjusted=None,
        finding=Finding.UNPROVEN, runs=runs, bases=len(gains),
    )  # fmt: skip


# ---- Constants ----------------------------------------------------------------------------------


@frozen(kw_only=True)
class ConstantEffect:
    """How much of what the experiments differ by goes with one constant."""

    name: str
    share: float
    """Of the variance of the gains: what the model loses without this constant (semi-partial R squared)."""
    p: float | None
    """Of the F test that it does nothing; None where too few runs are left to tell, or where others always
    changed with it, so that nothing tells them apart."""
    adjusted: float | None
    finding: Finding
    values: tuple[Scalar, ...]
    """Those that were run, in order."""
    best: Scalar
    """The one for which the model expects most, all else equal."""
    changed: int
    """Commits in which it is not what it was at the base."""


@frozen(kw_only=True)
class Importance:
    """A regression of the gains on the constants: linear and squared terms of numbers, each other value."""

    constants: tuple[ConstantEffect, ...]
    """The most important first."""
    explained: float
    """R squared of the whole model."""
    commits: int
    """How many went in, each with the mean of its runs on a tier."""


def importance(study: Study, base: Mapping[str, Scalar], alpha: float) -> Importance | None:
    """The importance of the constants over all experiments; None if there are too few.

    Weighted least squares of each commit's gain over the baseline of its tier; a constant is tested by the
    F test of its columns, given all others (Draper and Smith, Applied Regression Analysis, 3rd ed., section
    6.1), and its share is the loss of R squared without it. `base` has the values at the study's base.
    """
    names, rows = _settings(study, base)
    rows = [row for row in rows if math.isfinite(row[1])]
    blocks = [_columns([values.get(name) for values, _, _ in rows]) for name in names]
    kept = [(name, block) for name, block in zip(names, blocks, strict=True) if block.shape[1]]
    if not kept or len(rows) < 4:
        return None
    return _regressed(kept, rows, base, alpha)


_Row = tuple[Mapping[str, Scalar], float, int]
"""Values of the constants, gain over the baseline of the tier, runs."""


def _settings(study: Study, base: Mapping[str, Scalar]) -> tuple[list[str], list[_Row]]:
    counts: dict[str, int] = {}
    values: dict[str, Mapping[str, Scalar]] = {study.base: dict(base)}
    seen: set[tuple[str, str]] = set()
    rows: list[_Row] = []
    for experiment in study.experiments.values():
        if experiment.commit not in values:
            mine = dict(values.get(experiment.parent, base))
            for idea in experiment.ideas:
                mine.update(study.ideas[idea].constants)
                for name in study.ideas[idea].constants:
                    counts[name] = counts.get(name, 0) + 1
            values[experiment.commit] = mine
        if experiment.budget is not None or (experiment.tree, experiment.tier) in seen:
            continue
        group, zero = study.group_of(experiment), study.baseline_group(experiment.tier)
        if group.n and zero is not None and zero.n:
            seen.add((experiment.tree, experiment.tier))
            rows.append((values[experiment.commit], study.objective.gain(zero.mean, group.mean), group.n))
    return sorted(counts, key=lambda name: (-counts[name], name))[:MOST_CONSTANTS], rows


def _columns(values: Sequence[Scalar | None]) -> NDArray[np.float64]:
    """A constant's columns: none if it never varied."""
    known = {value for value in values if value is not None}
    if len(known) < 2:
        return np.empty((len(values), 0))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        numbers = np.array([np.nan if v is None else float(v) for v in values])
        low, high = np.nanmin(numbers), np.nanmax(numbers)
        if low > 0 and high / low >= LOGARITHMIC:
            numbers = np.log(numbers)
        numbers = np.where(np.isnan(numbers), np.nanmean(numbers), numbers)
        x = (numbers - numbers.mean()) / (numbers.std() or 1.0)
        return np.column_stack([x, x * x]) if len(known) > 2 else x[:, None]
    order = sorted(known, key=lambda value: (-list(values).count(value), str(value)))[1:MOST_CATEGORIES]
    return np.column_stack([[float(value == one) for value in values] for one in order])


def _regressed(
    kept: Sequence[tuple[str, NDArray[np.float64]]],
    rows: Sequence[_Row],
    base: Mapping[str, Scalar],
    alpha: float,
) -> Importance:
    root = np.sqrt(np.array([float(n) for _, _, n in rows]))
    x = np.column_stack([np.ones(len(rows)), *(block for _, block in kept)]) * root[:, None]
    y = np.array([gain for _, gain, _ in rows]) * root
    gram, moment = x.T @ x, x.T @ y
    beta, whole, rank = _solved(gram, moment)
    total = float(((y - root * (root @ y) / (root @ root)) ** 2).sum())
    residual = _at_least(ROUNDING * total, float(((y - x @ beta) ** 2).sum()))
    df = len(rows) - rank
    found = []
    start = 1
    for name, block in kept:
        own = slice(start, start + block.shape[1])
        start += block.shape[1]
        others = np.delete(np.arange(len(moment)), own)
        _, without, rank_without = _solved(gram[np.ix_(others, others)], moment[others])
        lost, mine = _at_least(ROUNDING * total, whole - without), rank - rank_without
        p = _f_tail(lost / mine, residual / df, mine, df) if df > 0 and mine else None
        found.append(_constant(name, lost / total if total else 0.0, p, block @ beta[own], rows, base))
    adjusted = iter(holm([one.p for one in found if one.p is not None]))
    told = [one if one.p is None else _told(one, next(adjusted), alpha) for one in found]
    return Importance(
        constants=tuple(sorted(told, key=lambda one: (-one.share, one.name))),
        explained=max(0.0, 1 - residual / total) if total else 0.0,
        commits=len(rows),
    )


def _solved(gram: NDArray[np.float64], moment: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, int]:
    """(coefficients, sum of squares that they explain, rank) of normal equations.

    The shortest solution where columns are collinear.
    """
    sizes, vectors = np.linalg.eigh(gram)
    kept = sizes > ROUNDING * sizes[-1]
    along = vectors[:, kept].T @ moment
    return vectors[:, kept] @ (along / sizes[kept]), float(along @ (along / sizes[kept])), int(kept.sum())


def _at_least(least: float, value: float) -> float:
    """A sum of squares; 0 where it may be nothing but rounding."""
    return value if value > least else 0.0


def _told(effect: ConstantEffect, adjusted: float, alpha: float) -> ConstantEffect:
    finding = Finding.REAL if adjusted <= alpha else Finding.UNPROVEN
    return evolve(effect, adjusted=adjusted, finding=finding)


def _constant(
    name: str,
    share: float,
    p: float | None,
    parts: NDArray[np.float64],
    rows: Sequence[_Row],
    base: Mapping[str, Scalar],
) -> ConstantEffect:
    values = [values.get(name) for values, _, _ in rows]
    expected = {value: float(part) for value, part in zip(values, parts, strict=True) if value is not None}
    return ConstantEffect(
        name=name,
        share=min(1.0, max(0.0, share)),
        p=p,
        adjusted=None,
        finding=Finding.UNKNOWN,
        values=tuple(
            sorted(expected, key=lambda v: (isinstance(v, str), v if isinstance(v, str) else float(v)))
        ),
        best=max(expected, key=lambda value: expected[value]),
        changed=sum(value is not None and value != base.get(name) for value in values),
    )


def _f_tail(over: float, under: float, df_over: int, df_under: int) -> float:
    from scipy.special import fdtrc

    if under <= 0.0:
        return 0.0 if over > 0.0 else 1.0
    return float(fdtrc(df_over, df_under, over / under))


def design_labels(study: Study) -> list[str]:
    """The rounds whose cells cross ideas, in order. One idea at a time, as in a screening, is no design."""
    cells = (study.experiments[number] for number in study.by_role(Role.CELL))
    return list(dict.fromkeys(cell.round for cell in cells if cell.round and len(cell.ideas) > 1))
