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
from arf.types import Direction
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


class Model:
    """Made anew for each answer. All gains are in units of the objective; positive is better."""

    def __init__(self, scales: Mapping[str, Scale], base: Values, rows: Sequence[Row], study: Study) -> None:
        self._base = base
        self._ordered = [scale for scale in scales.values() if isinstance(scale, Ordered)]
        self._choices = [
            (scale, other)
            for scale in scales.values()
            if isinstance(scale, Choice)
            for other in scale.moves()
        ]
        self._pairs = list(combinations(range(min(_PAIRED, len(self._ordered))), 2))
        self._set_priors()
        sign = -1.0 if study.objective.direction is Direction.MIN else 1.0
        self.noise = _noise(study, rows)
        goodness = _goodness(rows, sign)
        self.typical = _typical(goodness, self.noise, rows)
        self._fit(rows, np.maximum(goodness, -_WORST * self.typical))

    def predict(self, change: Values) -> tuple[float, float]:
        """Mean and standard deviation of the gain of a change of the base."""
        x = self._features({**self._base, **change})
        return float(x @ self._mean), math.sqrt(max(0.0, float(x @ self._cov @ x)))

    def expect(self, values: Values) -> None:
        """Count a result that is under way: what it will tell need not be asked again."""
        x = self._features(values)
        spread = self._cov @ x
        variance = self.noise**2 + (_MISFIT * self.typical) ** 2
        self._cov -= np.outer(spread, spread) / (variance + float(x @ spread))

    # ---- Inside -----------------------------------------------------------------------------

    def _set_priors(self) -> None:
        weights = np.array([scale.family.weight for scale in self._ordered])
        chosen = np.array([scale.family.weight for scale, _ in self._choices])
        joint = np.array([math.sqrt(weights[a] * weights[b]) for a, b in self._pairs])
        # Two learning rates do much the same: what counts is their product, -(a + b)^2 = -a^2 - 2ab - b^2.
        alike = np.array([self._ordered[a].family is self._ordered[b].family for a, b in self._pairs], float)
        self._prior_mean = np.concatenate(
            [np.zeros_like(weights), _BEND * weights, np.zeros_like(chosen), 2 * _BEND * alike * joint]
        )
        self._prior_sd = np.concatenate([weights, _BEND_SD * weights, chosen, _PRODUCT_SD * joint])

    def _features(self, values: Values) -> Vector:
        steps = np.array([_steps(scale, values) for scale in self._ordered])
        chosen = np.array([float(same(values.get(scale.name), other)) for scale, other in self._choices])
        products = np.array([steps[a] * steps[b] for a, b in self._pairs])
        return np.concatenate([steps, steps**2, chosen, products])

    def _fit(self, rows: Sequence[Row], goodness: Vector) -> None:
        sd, mean = self._prior_sd * self.typical, self._prior_mean * self.typical
        k = len(mean)
        if not rows:
            self._mean, self._cov = mean, np.diag(sd**2)
            return
        strata = sorted({row.group[1:] for row in rows}, key=repr)
        x = np.zeros((len(rows), k + len(strata)))
        variances = np.empty(len(rows))
        weights = np.array([scale.family.weight for scale in self._ordered])
        for at, row in enumerate(rows):
            x[at, :k] = self._features(row.values)
            x[at, k + strata.index(row.group[1:])] = 1.0
            far = float(weights @ x[at, : len(weights)] ** 2) if len(weights) else 0.0
            misfit = (_MISFIT * self.typical) ** 2 * (1 + far)
            variances[at] = self.noise**2 / row.n + misfit
        # The level of each tier and budget is anybody's guess.
        sd = np.concatenate([sd, np.full(len(strata), 100 * self.typical)])
        mean = np.concatenate([mean, np.zeros(len(strata))])
        scaled = x / np.sqrt(variances)[:, None]
        precision = np.einsum("ij,ik->jk", scaled, scaled) + np.diag(1 / np.maximum(sd, 1e-300) ** 2)
        right = scaled.T @ ((goodness - x @ mean) / np.sqrt(variances))
        cov = np.linalg.inv(precision)
        self._mean = (mean + cov @ right)[:k]
        self._cov = cov[:k, :k]


def _steps(scale: Ordered, values: Values) -> float:
    place = scale.place(values.get(scale.name))
    return 0.0 if place is None else min(max(place, -_REACH), _REACH)


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
    return 0.002 * float(np.median(means)) if means else 1.0


def _typical(goodness: Vector, noise: float, rows: Sequence[Row]) -> float:
    """The size of an effect that is worth looking for."""
    if not rows:
        return 1.0
    spread = float(np.quantile(np.abs(goodness), 0.75))
    return max(spread, 2 * noise, 1e-12)
