"""Effects and interactions of factors, with standard errors, correction for their number, and aliases.

A cell is a combination of levels that was run. The model is additive: a constant, an offset for each block
(tier), main effects, two-factor interactions. It is fitted by weighted least squares to the means of the
cells, whose weights are their runs. All effects are gains: positive is better, whatever the direction.

Sources, by short name: Montgomery, Design and Analysis of Experiments, 8th ed. (2013); Lenth, Quick and easy
analysis of unreplicated factorials, Technometrics 31 (1989); Holm, A simple sequentially rejective multiple
test procedure, Scandinavian Journal of Statistics 6 (1979); Box and Wilson, On the experimental attainment
of optimum conditions, JRSS B 13 (1951); Hamada and Wu, Analysis of designed experiments with complex
aliasing, Journal of Quality Technology 24 (1992).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import combinations, islice, product
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import field, frozen

from arf.sdk.statistics import Noise, noise, t_critical, t_tail
from arf.types import Experiment, Objective, Role

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from arf.study import Study

    Matrix = NDArray[np.float64]
    Vector = NDArray[np.float64]

Levels = tuple[int, ...]
"""A cell: for each factor the number of its level, where 0 is the base."""
Term = tuple[tuple[int, int], ...]
"""(factor, level) for a main effect, two of them for an interaction. Factors count from 0."""

ALIASED = 0.1
"""From this share on, a term that is not in the model counts as aliased with one that is."""
FRESH = 0.7
"""Of a contrast of a higher order, the share that no term before it explains, to count for Lenth's method."""
TOLERANCE_OF_MAINS = 0.15
"""A main effect enters with less, as where cells have crashed: its standard error tells the price."""
ROUNDING = 1e-12
"""Of the spread of the cells' means, what counts as nothing: where runs do not scatter, rounding does."""
FEW_CONTRASTS = 7
"""Lenth's method needs contrasts, most of them of nothing: those of an 8-run design at least."""
MOST_TERMS = 2048
"""Terms of a higher order that are looked at for a contrast: of 15 factors all up to the fourth order. Each
factor doubles their number, and cells that hold few of the combinations have a contrast in none of them."""


class Coding(StrEnum):
    """What an effect is averaged over."""

    SUM = "sum"
    """-1 for the base, +1 for the level: an effect is averaged over the levels of all other factors."""
    TREATMENT = "treatment"
    """0 for the base, 1 for the level: an effect is that of the level on the base of all other factors."""


class Finding(StrEnum):
    """What can be said of an effect."""

    REAL = "real"
    """Its Holm-adjusted p is at most alpha."""
    UNPROVEN = "unproven"
    UNKNOWN = "unknown"
    """There is nothing to tell noise from effects by."""


@frozen(kw_only=True)
class Axis:
    """A factor: its name, and the names of its levels without the base."""

    name: str
    levels: tuple[str, ...]


@frozen(kw_only=True)
class Cell:
    """The counted runs of one combination of levels in one block."""

    levels: Levels
    mean: float
    """Of the objective, in its own units."""
    n: int = 1
    block: str = ""
    sigma: float = 1.0
    """The standard deviation of a run in this block, in units of that of a run in the first one."""


@frozen(kw_only=True)
class Effect:
    """A main effect or an interaction of two factors.

    A main effect is the gain of a level over the base (Montgomery, section 6.2). An interaction is half the
    difference of the gains of one level with and without the other (section 6.2): twice it is what both
    together gain beyond the sum of each. In units of the objective.
    """

    term: Term
    name: str
    gain: float
    error: float | None
    """Standard error; None where the noise is unknown."""
    t: float | None
    p: float | None
    """Two-sided, for this effect alone."""
    adjusted: float | None
    """The p corrected for the number of effects in the model (Holm)."""
    finding: Finding
    aliases: tuple[tuple[str, float], ...] = ()
    """(name, share) of what cannot be told from it, the largest shares first: what is estimated is the
    effect plus each share times the other."""

    @property
    def is_main(self) -> bool:
        return len(self.term) == 1


@frozen(kw_only=True)
class Fit:
    """What a set of cells says."""

    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    effects: tuple[Effect, ...]
    """Main effects first, then interactions."""
    sigma: float | None
    """Standard deviation of one run in the first block; None where it is unknown."""
    df: float
    """Degrees of freedom of `sigma`."""
    source: str
    """Where `sigma` comes from, in words."""
    margin: float | None = field(default=None)
    """The smallest gain of a main effect that Holm's first step calls real; None where sigma is unknown."""
    missing: tuple[str, ...] = ()
    """Main effects that no cell tells anything about."""
    coding: Coding = Coding.SUM
    alpha: float = 0.05
    """For all effects together, by which they are called real."""
    coefficients: tuple[tuple[Term, float, float], ...] = ()
    """(term, coefficient of its column, its t) of all in the model but the constant and the blocks."""

    def predict(self, cells: Sequence[Levels], *, interactions: bool = True) -> list[float]:
        """The gain of each cell over the base cell that the model expects, each term shrunk by its noise.

        A coefficient is multiplied by `max(0, 1 - 1/t**2)`, the positive-part estimate of Stein's kind for
        one coordinate (Efron and Morris, JASA 70, 1975): what is within the noise counts for nothing, and
        what is far beyond it counts in full. Picking the best of many cells by raw sums would mostly pick
        noise. Equal sums come out equal: what rounding may add is cut off.
        """
        levels = np.array([(0,) * len(self.axes), *cells], dtype=np.int64).reshape(-1, len(self.axes))
        total = np.zeros(len(levels))
        for term, coefficient, t in self.coefficients:
            if (len(term) == 1 or interactions) and abs(t) > 1.0:
                total += (1.0 - 1.0 / (t * t)) * coefficient * _column(levels, term, self.coding)
        gains = total[1:] - total[0]
        scale = float(np.max(np.abs(gains), initial=0.0)) or 1.0
        return [float(value) * scale for value in np.round(gains / scale, 12)]


def fit(
    axes: Sequence[Axis],
    cells: Sequence[Cell],
    *,
    objective: Objective,
    known: Noise | None = None,
    alpha: float = 0.05,
    coding: Coding = Coding.SUM,
    tolerance: float = FRESH,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> Fit:
    """Main effects and two-factor interactions of the cells, as many as they tell apart.

    An interaction enters the model if at least `tolerance` of its column (as a share of its squared length)
    is not explained by the terms before it; what stays out is aliased, and is listed with what it is aliased
    with (the alias matrix of Box and Wilson). Among aliased interactions, the one of the factors with the
    larger main effects enters (effect heredity, Hamada and Wu). `pairs` are the pairs of factors whose
    interactions are considered; None for all.

    The noise is that of replicates (`known`); where those have fewer degrees of freedom than Lenth's method
    has (a third of the contrasts), it is pooled with Lenth's estimate by degrees of freedom, and without
    replicates it is Lenth's alone. Cost: cubic in the number of cells for designs, and linear in the cells
    for a fixed number of factors.
    """
    model = _Model(axes, cells, objective, coding)
    model.add(_mains(axes), min(tolerance, TOLERANCE_OF_MAINS))
    model.add(_by_heredity(model, axes, pairs), tolerance)
    sigma, df, source = _sigma(model, known)
    return _fit(model, sigma, df, source, alpha, pairs)


# ---- Formulas that stand alone ------------------------------------------------------------------


def lenth(contrasts: Sequence[float]) -> tuple[float, float]:
    """(standard error, degrees of freedom) of independent contrasts of equal variance, most of them zero.

    Lenth's pseudo standard error: `s0 = 1.5 median |c|`, then 1.5 times the median of those under 2.5 s0,
    with a third as many degrees of freedom as there are contrasts.
    """
    sizes = np.abs(np.asarray(contrasts, dtype=np.float64))
    first = 1.5 * float(np.median(sizes))
    if first == 0.0:
        return 0.0, len(sizes) / 3
    return 1.5 * float(np.median(sizes[sizes < 2.5 * first])), len(sizes) / 3


def holm(ps: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in the order given (Holm): strong control of any false claim."""
    adjusted = [0.0] * len(ps)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = highest
    return adjusted


def holm_levels(ps: Sequence[float], alpha: float) -> list[float]:
    """What each p is held against at its rank, in the order given: alpha over those not yet rejected."""
    levels = [0.0] * len(ps)
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        levels[index] = alpha / (len(ps) - rank)
    return levels


def half_normal(count: int) -> list[float]:
    """Where `count` sizes, in ascending order, are plotted (Daniel, Technometrics 1, 1959)."""
    from scipy.special import ndtri

    return [float(ndtri(0.5 + 0.5 * (rank + 0.5) / count)) for rank in range(count)]


# ---- Designs of a study -------------------------------------------------------------------------


@frozen(kw_only=True)
class Design:
    """The cells of a round of a study, as far as they have run."""

    label: str
    parent: str
    axes: tuple[Axis, ...]
    ideas: tuple[tuple[int, ...], ...]
    """For each factor, the ideas that are its levels."""
    cells: tuple[Cell, ...]
    """Those with a value; the base cell is among them where it is part of the design or ties blocks."""
    failed: tuple[Levels, ...]
    """Those that ran and gave no value."""
    open: int
    """How many have not ended."""
    tier: str
    """The tier with the most cells: the first block."""


def read_design(study: Study, label: str) -> Design | None:
    """The design of a round: its cells all have one parent. None if no cell of it has been accepted.

    Ideas that answered one factor are levels of it; any other idea is a factor of its own. The cost does
    not depend on how long the study is.
    """
    runs = [study.experiments[number] for number in study.by_round(label)]
    runs = [run for run in runs if run.role is Role.CELL]
    if not runs:
        return None
    runs = [run for run in runs if run.parent == runs[0].parent]
    axes, ideas = _axes_of(study, sorted({idea for run in runs for idea in run.ideas}))
    levels = {run.id: levels_of(ideas, run.ideas) for run in runs}
    tiers = sorted({run.tier for run in runs}, key=lambda t: (-sum(run.tier == t for run in runs), t))
    groups = [(levels[run.id], run.tier, study.group_of(run)) for run in runs]
    cells = [
        _cell(study, where, tier, tiers[0], group.n, group.mean) for where, tier, group in groups if group.n
    ]
    return Design(
        label=label,
        parent=runs[0].parent,
        axes=axes,
        ideas=ideas,
        cells=tuple(cells + _base_cells(study, runs[0], tiers, cells, len(axes))),
        failed=tuple(where for where, _, group in groups if group.failed and not group.n),
        open=sum(group.running > 0 for _, _, group in groups),
        tier=tiers[0],
    )


def levels_of(ideas: Sequence[Sequence[int]], chosen: Sequence[int]) -> Levels:
    """The cell that has these ideas in."""
    place = {idea: (f, level) for f, axis in enumerate(ideas) for level, idea in enumerate(axis, 1)}
    cell = [0] * len(ideas)
    for idea in chosen:
        if idea in place:
            cell[place[idea][0]] = place[idea][1]
    return tuple(cell)


def _axes_of(study: Study, ideas: Sequence[int]) -> tuple[tuple[Axis, ...], tuple[tuple[int, ...], ...]]:
    found: dict[tuple[int, str], list[int]] = {}
    for idea in ideas:
        ask = study.ideas[idea].ask
        factors = study.factors(ask) if ask is not None else ()
        name = next((factor.name for factor in factors if idea in factor.levels), None)
        key = (-idea, study.ideas[idea].title) if ask is None or name is None else (ask, name)
        found.setdefault(key, []).append(idea)
    axes = tuple(
        Axis(name=name, levels=tuple(study.ideas[idea].title for idea in levels))
        for (_, name), levels in found.items()
    )
    return axes, tuple(map(tuple, found.values()))


def _cell(study: Study, levels: Levels, tier: str, first: str, n: int, mean: float) -> Cell:
    here, there = noise(study, tier), noise(study, first)
    known = here is not None and there is not None and here.sigma > 0 and there.sigma > 0
    ratio = here.sigma / there.sigma if known and here is not None and there is not None else 1.0
    return Cell(levels=levels, mean=mean, n=n, block=tier, sigma=ratio)


def _base_cells(
    study: Study, run: Experiment, tiers: Sequence[str], cells: Sequence[Cell], factors: int
) -> list[Cell]:
    """The parent's own runs as the base cell: if it belongs to the design, or ties its tiers together.

    It belongs if it makes the levels more even. It weighs no more than any other cell, however often the
    parent has run, so that what the design has made orthogonal stays so.
    """
    if not cells:
        return []
    uneven = [sum(1 if cell.levels[i] else -1 for cell in cells) for i in range(factors)]
    belongs = sum(abs(count - 1) for count in uneven) <= sum(map(abs, uneven))
    if not belongs and len(tiers) == 1:
        return []
    weight = min(cell.n for cell in cells)
    found = []
    for tier in tiers:
        group = study.group_at(run.parent, tier, run.budget)
        if group is not None and group.n:
            n = min(group.n, weight)
            found.append(_cell(study, (0,) * factors, tier, tiers[0], n, group.mean))
    return found


# ---- The model ----------------------------------------------------------------------------------


def _column(levels: NDArray[np.int64], term: Term, coding: Coding) -> Vector:
    """The values of a term for cells, one in a row of `levels`."""
    value = np.ones(len(levels))
    base = -1.0 if coding is Coding.SUM else 0.0
    for factor, level in term:
        mine = levels[:, factor]
        value = value * np.where(mine == level, 1.0, np.where(mine == 0, base, 0.0))
    return value


def _mains(axes: Sequence[Axis]) -> list[Term]:
    return [((i, level),) for i, axis in enumerate(axes) for level in range(1, len(axis.levels) + 1)]


def _crossed(axes: Sequence[Axis], factors: Sequence[int]) -> Iterator[Term]:
    """Every interaction of the levels of these factors."""
    for levels in product(*(range(1, len(axes[i].levels) + 1) for i in factors)):
        yield tuple(zip(factors, levels, strict=True))


def _of_higher_order(axes: Sequence[Axis]) -> Iterator[Term]:
    """Interactions of three factors, then of four, and so on."""
    for order in range(3, len(axes) + 1):
        for factors in combinations(range(len(axes)), order):
            yield from _crossed(axes, factors)


class _Model:
    """Columns that are orthogonalised one by one (modified Gram-Schmidt), so that aliases show."""

    def __init__(
        self,
        axes: Sequence[Axis],
        cells: Sequence[Cell],
        objective: Objective,
        coding: Coding,
    ) -> None:
        self.axes = tuple(axes)
        self.cells = tuple(cells)
        self.coding = coding
        self.levels = np.array([cell.levels for cell in cells], dtype=np.int64).reshape(len(cells), len(axes))
        self.root = np.array([math.sqrt(cell.n) / cell.sigma for cell in cells])
        first = cells[0].mean if cells else 0.0
        gains = np.array([objective.gain(first, cell.mean) for cell in cells])
        self.y: Vector = self.root * gains
        spread = float(np.max(np.abs(gains), initial=0.0))
        self.nothing = max(ROUNDING * spread, 4 * float(np.finfo(np.float64).eps) * abs(first))
        """A coefficient up to this may be nothing but rounding."""
        self.columns: list[Vector] = []
        self.terms: list[Term | None] = []
        """None for the constant and the blocks."""
        self.basis: list[Vector] = []
        self.left_out: list[Term] = []
        for block in dict.fromkeys(cell.block for cell in cells):
            indicator = np.array([float(cell.block == block) for cell in cells])
            self._enter(None, self.root * indicator, 0.0)

    def column(self, term: Term) -> Vector:
        """The weighted column of a term."""
        return np.asarray(self.root * _column(self.levels, term, self.coding))

    def add(self, terms: Sequence[Term], tolerance: float) -> None:
        """Take in the terms that are told apart from those before, and vary at all."""
        for term in terms:
            if self._varies(term) and not self._enter(term, self.column(term), tolerance):
                self.left_out.append(term)

    def _varies(self, term: Term) -> bool:
        """Whether each factor has its level in some cells and not in others: not if all others crashed."""
        return all(
            0 < np.count_nonzero(self.levels[:, factor] == level) < len(self.cells) for factor, level in term
        )

    def _enter(self, term: Term | None, column: Vector, tolerance: float) -> bool:
        rest = _rest(column, self.basis)
        length = float(column @ column)
        left = float(rest @ rest)
        if length <= 0.0 or left <= max(tolerance, 1e-9) * length or len(self.basis) >= len(self.cells):
            return False
        self.columns.append(column)
        self.terms.append(term)
        self.basis.append(rest / math.sqrt(left))
        return True

    def contrasts(self) -> list[float]:
        """Independent contrasts, each with the variance of one run: of the terms and of higher orders."""
        own = [float(q @ self.y) for q, term in zip(self.basis, self.terms, strict=True) if term is not None]
        if self.coding is Coding.TREATMENT:
            return own
        basis = list(self.basis)
        for term in islice(_of_higher_order(self.axes), MOST_TERMS):
            if len(basis) >= len(self.cells):
                break
            rest = _rest(column := self.column(term), basis)
            left = float(rest @ rest)
            if left > FRESH * float(column @ column) > 0.0:
                basis.append(rest / math.sqrt(left))
                own.append(float(basis[-1] @ self.y))
        return own

    def solve(self) -> tuple[Vector, Matrix, Matrix]:
        """Coefficients, the inverse of the information matrix, and the matrix of columns."""
        x = np.column_stack(self.columns)
        inverse = np.asarray(np.linalg.pinv(x.T @ x))
        beta = np.asarray(inverse @ (x.T @ self.y))
        return np.where(np.abs(beta) > self.nothing, beta, 0.0), inverse, x


def _rest(column: Vector, basis: Sequence[Vector]) -> Vector:
    """What of a column is orthogonal to an orthonormal basis; twice, for the rounding."""
    rest = column
    if basis:
        q = np.column_stack(basis)
        for _ in range(2):
            rest = rest - q @ (q.T @ rest)
    return rest


def _by_heredity(model: _Model, axes: Sequence[Axis], pairs: Sequence[tuple[int, int]] | None) -> list[Term]:
    """Interactions, those of the factors with the larger main effects first."""
    wanted = list(combinations(range(len(axes)), 2)) if pairs is None else list(pairs)
    if not wanted:
        return []
    coefficients = model.solve()[0]
    size = [0.0] * len(axes)
    for term, value in zip(model.terms, coefficients, strict=True):
        if term is not None:
            size[term[0][0]] = max(size[term[0][0]], abs(float(value)))
    largest = max(size) or 1.0
    wanted.sort(key=lambda pair: (-round((size[pair[0]] + size[pair[1]]) / largest, 12), pair))
    return [term for pair in wanted for term in _crossed(axes, pair)]


def _sigma(model: _Model, known: Noise | None) -> tuple[float | None, float, str]:
    contrasts = model.contrasts()
    enough = len(contrasts) >= FEW_CONTRASTS and model.coding is Coding.SUM
    if known is not None and (not enough or known.df >= len(contrasts) / 3):
        return known.sigma, known.df, f"replicates ({known.df} degrees of freedom)"
    if not enough:
        return None, 0.0, "unknown: no replicates, and too few cells for Lenth's method"
    error, df = lenth(contrasts)
    if known is None:
        return error, df, f"Lenth's method ({len(contrasts)} contrasts)"
    pooled = math.sqrt((known.df * known.sigma**2 + df * error**2) / (known.df + df))
    source = f"replicates ({known.df} degrees of freedom) with Lenth's method ({len(contrasts)} contrasts)"
    return pooled, known.df + df, source


# ---- Effects ------------------------------------------------------------------------------------


def _fit(
    model: _Model,
    sigma: float | None,
    df: float,
    source: str,
    alpha: float,
    pairs: Sequence[tuple[int, int]] | None,
) -> Fit:
    beta, inverse, x = model.solve()
    terms = [term for term in model.terms if term is not None]
    rows = [_contrast(model, term) for term in terms]
    gains = [float(row @ beta) for row in rows]
    errors = [
        None if sigma is None else sigma * math.sqrt(max(0.0, float(row @ inverse @ row))) for row in rows
    ]
    ts = [_ratio(gain, error) for gain, error in zip(gains, errors, strict=True)]
    ps = [None if t is None else min(1.0, 2 * t_tail(abs(t), df)) for t in ts]
    adjusted = _adjusted(ps)
    aliases = _aliases(model, inverse, x)
    effects = tuple(
        Effect(
            term=term,
            name=term_name(model.axes, term),
            gain=gains[i],
            error=errors[i],
            t=ts[i],
            p=ps[i],
            adjusted=adjusted[i],
            finding=_finding(adjusted[i], alpha),
            aliases=aliases.get(term, ()),
        )
        for i, term in enumerate(terms)
    )
    main_errors = [e for e, term in zip(errors, terms, strict=True) if e is not None and len(term) == 1]
    return Fit(
        axes=model.axes,
        cells=model.cells,
        effects=effects,
        sigma=sigma,
        df=df,
        source=source,
        margin=max(main_errors) * t_critical(alpha / 2 / len(terms), df) if main_errors else None,
        missing=tuple(term_name(model.axes, term) for term in _mains(model.axes) if term not in terms),
        coding=model.coding,
        alpha=alpha,
        coefficients=_coefficients(model, beta, inverse, sigma),
    )


def term_name(axes: Sequence[Axis], term: Term) -> str:
    """`width = 512` where a factor has several levels, `width` where it has one; `a × b` for two."""
    parts = []
    for factor, level in term:
        axis = axes[factor]
        parts.append(f"{axis.name}: {axis.levels[level - 1]}" if len(axis.levels) > 1 else axis.name)
    return " × ".join(parts)


def _contrast(model: _Model, term: Term) -> Vector:
    """The effect of a term as weights of the coefficients: differences of cells, the rest at its average."""

    def row(chosen: dict[int, int]) -> Vector:
        return np.array([0.0 if t is None else _at(t, chosen, model.coding) for t in model.terms])

    (a, i) = term[0]
    if len(term) == 1:
        return row({a: i}) - row({a: 0})
    (b, j) = term[1]
    return 0.5 * (row({a: i, b: j}) - row({a: 0, b: j}) - row({a: i, b: 0}) + row({a: 0, b: 0}))


def _at(term: Term, chosen: dict[int, int], coding: Coding) -> float:
    """A term's value where some factors have a level and the others are at their average (or the base)."""
    value = 1.0
    for factor, level in term:
        if factor not in chosen:
            return 0.0
        if chosen[factor] != level:
            if coding is Coding.TREATMENT or chosen[factor] != 0:
                return 0.0
            value = -value
    return value


def _ratio(gain: float, error: float | None) -> float | None:
    if error is None:
        return None
    if error == 0.0:
        return math.copysign(math.inf, gain) if gain else 0.0
    return gain / error


def _adjusted(ps: Sequence[float | None]) -> list[float | None]:
    known = [p for p in ps if p is not None]
    return list(holm(known)) if len(known) == len(ps) else [None] * len(ps)


def _finding(adjusted: float | None, alpha: float) -> Finding:
    if adjusted is None:
        return Finding.UNKNOWN
    return Finding.REAL if adjusted <= alpha else Finding.UNPROVEN


def _coefficients(
    model: _Model, beta: Vector, inverse: Matrix, sigma: float | None
) -> tuple[tuple[Term, float, float], ...]:
    found = []
    for i, term in enumerate(model.terms):
        if term is not None:
            error = None if sigma is None else sigma * math.sqrt(max(0.0, float(inverse[i, i])))
            t = _ratio(float(beta[i]), error)
            found.append((term, float(beta[i]), math.inf if t is None else t))
    return tuple(found)


def _aliases(model: _Model, inverse: Matrix, x: Matrix) -> dict[Term, tuple[tuple[str, float], ...]]:
    """For each term in the model, what of the left-out terms is in its estimate (the alias matrix)."""
    if not model.left_out:
        return {}
    others = np.column_stack([model.column(term) for term in model.left_out])
    shares = inverse @ (x.T @ others)
    found: dict[Term, tuple[tuple[str, float], ...]] = {}
    for i, term in enumerate(model.terms):
        if term is None:
            continue
        mine = [
            (term_name(model.axes, other), round(float(share), 3))
            for other, share in zip(model.left_out, shares[i], strict=True)
            if abs(share) >= ALIASED
        ]
        if mine:
            found[term] = tuple(sorted(mine, key=lambda one: -abs(one[1])))
    return found


def to_json(fit: Fit) -> dict[str, Any]:
    """What `arf effects --json` prints of a fit."""
    return {
        "sigma": fit.sigma,
        "df": fit.df,
        "noise_from": fit.source,
        "margin": fit.margin,
        "cells": len(fit.cells),
        "runs": sum(cell.n for cell in fit.cells),
        "missing": list(fit.missing),
        "effects": [
            {
                "name": e.name,
                "kind": "main" if e.is_main else "interaction",
                "gain": e.gain,
                "error": e.error,
                "t": _finite(e.t),
                "p": e.p,
                "adjusted": e.adjusted,
                "finding": str(e.finding),
                "aliases": [{"name": name, "share": share} for name, share in e.aliases],
            }
            for e in fit.effects
        ],
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
