"""What a change of constants is likely to bring, from the results so far.

A Bayesian linear regression in the steps of each constant's scale, its squares and the products of the most
important pairs, centred on the base, so that the prediction is a gain over it. Priors are narrow for
constants that seldom matter and say that gains level off; results near the base count most. It sees a
bounded number of results, so an answer costs the same after ten experiments and after ten thousand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from arf.study import Study
from arf.types import Direction, Scalar
from arf_plugins.agent_offline.history import Row
from arf_plugins.agent_offline.scales import Choice, Ordered, Scale, same
from arf_plugins.agent_offline.space import Values

Vector = NDArray[np.float64]

_REACH = 4.0
"""Steps from the base beyond which a distance counts as this."""
_PAIRED = 8
"""So many constants of those that matter most have interactions."""
_BEND, _BEND_SD = -0.3, 0.5
"""Prior of the coefficient of a squared step, in units of the prior of the step."""
_PRODUCT_SD = 0.2
_MISFIT = 0.25
"""What the model cannot express, as a share of a typical effect."""
_WORST = 6.0
"""A result worse than this many typical effects counts as this: it may be any amount worse."""


class Basis:
    """What the regression sees of a change: its features. Made once for a base.

    Their order: the steps of each number, their squares, each other value of what has no order, and the
    products of pairs of steps. At the base all are 0.
    """

    def __init__(self, scales: Mapping[str, Scale]) -> None:
        self.ordered = [scale for scale in scales.values() if isinstance(scale, Ordered)]
        self.weights = np.array([scale.family.weight for scale in self.ordered])
        self._at = {scale.name: at for at, scale in enumerate(self.ordered)}
        n = len(self.ordered)
        self._choices: dict[str, list[tuple[Scalar, int]]] = {}
        chosen: list[float] = []
        for scale in scales.values():
            if isinstance(scale, Choice):
                for other in scale.moves():
                    self._choices.setdefault(scale.name, []).append((other, 2 * n + len(chosen)))
                    chosen.append(scale.family.weight)
        paired = list(combinations(range(min(_PAIRED, n)), 2))
        self._first = np.array([a for a, _ in paired], dtype=np.intp)
        self._second = np.array([b for _, b in paired], dtype=np.intp)
        joint = np.sqrt(self.weights[self._first] * self.weights[self._second])
        # Two learning rates do much the same: what counts is their product, -(a + b)^2 = -a^2 - 2ab - b^2.
        alike = np.array([float(self.ordered[a].family is self.ordered[b].family) for a, b in paired])
        zeros, others = np.zeros(n), np.array(chosen)
        self.prior_mean: Vector = np.concatenate(
            [zeros, _BEND * self.weights, np.zeros(len(chosen)), 2 * _BEND * alike * joint]
        )
        self.prior_sd: Vector = np.concatenate(
            [self.weights, _BEND_SD * self.weights, others, _PRODUCT_SD * joint]
        )
        self._rows: dict[str, Vector] = {}

    def of(self, values: Values) -> Vector:
        """The features of some constants; those that are not named are as in the base."""
        n = len(self.ordered)
        x = np.zeros(len(self.prior_mean))
        for name, value in values.items():
            if (at := self._at.get(name)) is not None:
                place = self.ordered[at].place(value)
                x[at] = 0.0 if place is None else min(max(place, -_REACH), _REACH)
            for other, k in self._choices.get(name, ()):
                x[k] = float(same(value, other))
        x[n : 2 * n] = x[:n] ** 2
        x[len(x) - len(self._first) :] = x[self._first] * x[self._second]
        return x

    def of_commit(self, commit: str, values: Values) -> Vector:
        """The same, remembered."""
        if commit not in self._rows:
            self._rows[commit] = self.of(values)
        return self._rows[commit]


class Model:
    """Made anew for each answer. All gains are in units of the objective; positive is better."""

    def __init__(self, basis: Basis, rows: Sequence[Row], study: Study) -> None:
        self._basis = basis
        sign = -1.0 if study.objective.direction is Direction.MIN else 1.0
        self.noise = _noise(study, rows)
        goodness = _goodness(rows, sign)
        self.typical = _typical(goodness, self.noise)
        self._fit(rows, np.maximum(goodness, -_WORST * self.typical))

    def predict(self, changes: Sequence[Values]) -> tuple[Vector, Vector]:
        """Means and standard deviations of the gains of some changes of the base."""
        if not changes:
            return np.zeros(0), np.zeros(0)
        x = np.array([self._basis.of(change) for change in changes])
        variances = np.einsum("ij,jk,ik->i", x, self._cov, x, optimize=True)
        return x @ self._mean, np.sqrt(np.maximum(variances, 0.0))

    def expect(self, values: Values) -> None:
        """Count a result that is under way: what it will tell need not be asked again."""
        x = self._basis.of(values)
        spread = self._cov @ x
        variance = self.noise**2 + (_MISFIT * self.typical) ** 2
        self._cov -= np.outer(spread, spread) / (variance + float(x @ spread))

    def _fit(self, rows: Sequence[Row], goodness: Vector) -> None:
        basis = self._basis
        sd, mean = basis.prior_sd * self.typical, basis.prior_mean * self.typical
        k = len(mean)
        if not rows:
            self._mean, self._cov = mean, np.diag(sd**2)
            return
        strata = sorted({row.group[1:] for row in rows}, key=repr)
        x = np.zeros((len(rows), k + len(strata)))
        for at, row in enumerate(rows):
            x[at, :k] = basis.of_commit(row.commit, row.values)
            x[at, k + strata.index(row.group[1:])] = 1.0
        # What the model cannot express grows with the distance from the base.
        far = x[:, : len(basis.weights)] ** 2 @ basis.weights
        runs = np.array([row.n for row in rows])
        variances = self.noise**2 / runs + (_MISFIT * self.typical) ** 2 * (1 + far)
        # The level of each tier and budget is anybody's guess.
        sd = np.concatenate([sd, np.full(len(strata), 100 * self.typical)])
        mean = np.concatenate([mean, np.zeros(len(strata))])
        scaled = x / np.sqrt(variances)[:, None]
        precision = scaled.T @ scaled + np.diag(1 / sd**2)
        right = scaled.T @ ((goodness - x @ mean) / np.sqrt(variances))
        cov = np.linalg.inv(precision)
        self._mean = (mean + cov @ right)[:k]
        self._cov = cov[:k, :k]


def _goodness(rows: Sequence[Row], sign: float) -> Vector:
    """Signed means, each against the median of its tier and budget."""
    levels: dict[tuple[str, float | None], list[float]] = {}
    for row in rows:
        levels.setdefault(row.group[1:], []).append(row.mean)
    medians = {key: float(np.median(values)) for key, values in levels.items()}
    return np.array([sign * (row.mean - medians[row.group[1:]]) for row in rows])


def _noise(study: Study, rows: Sequence[Row]) -> float:
    """The noise of one run, pooled over tiers and budgets; a guess while nothing was run twice."""
    strata = {row.group[1:] for row in rows}
    spreads = [study.spread(tier, budget) for tier, budget in strata]
    df = sum(spread.df for spread in spreads)
    if df:
        pooled = math.sqrt(sum(spread.sum_squares for spread in spreads) / df)
        if pooled > 0:
            return pooled
    means = [abs(row.mean) for row in rows]
    return max(0.002 * float(np.median(means)), 1e-12) if means else 1.0


def _typical(goodness: Vector, noise: float) -> float:
    """The size of an effect that is worth looking for."""
    if not len(goodness):
        return 1.0
    spread = float(np.quantile(np.abs(goodness), 0.75))
    return max(spread, 2 * noise, 1e-12)
