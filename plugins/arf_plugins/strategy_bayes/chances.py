"""How likely a point is to fail: to run out of memory, to diverge, to be refused.

A logistic regression on how far each axis is from the base, on either side of it (Bishop, Pattern Recognition
and Machine Learning, 2006, section 4.5). A sum of logarithms is the logarithm of a product, so what runs
out of memory by width times depth times batch is a straight edge to it.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from arf_plugins.strategy_bayes.axes import Basis, Levels, Vector

RARE = -3.5
"""Log odds of a failure of something that nobody knows."""
STEEP = 4.0
"""Prior standard deviation of the log odds that the whole way along a number, or a choice, adds."""
STEPS = 8


@frozen(kw_only=True, eq=False)
class Chances:
    """Log odds of failure, as a sum over axes."""

    odds: Vector
    """(axes, most levels): what a level adds."""
    start: float

    def of(self, points: Levels) -> Vector:
        """The probability that each fails."""
        n = points.shape[1]
        found: Vector = _sigmoid(self.start + self.odds[np.arange(n)[None, :], points].sum(axis=1))
        return found


def estimate(basis: Basis, points: Levels, failed: Levels) -> Chances:
    """From all that has run: `failed` is 1 where a run failed."""
    n, most = basis.places.shape
    odds = np.zeros((n, most))
    if not failed.any():
        return Chances(odds=odds, start=RARE)
    offsets = basis.places - basis.places[:, :1]
    columns: list[Vector] = []
    owners: list[tuple[int, Vector]] = []
    for i, axis in enumerate(basis.axes):
        if axis.is_number:
            sides = [np.maximum(offsets[i], 0.0), np.maximum(-offsets[i], 0.0)]
        else:
            sides = [(np.arange(most) == level).astype(float) for level in range(1, len(axis.values))]
        for side in sides:
            column = side[points[:, i]]
            if column[failed > 0].any():  # what no failure had is not to blame
                columns.append(column)
                owners.append((i, side))
    if not columns:
        return Chances(odds=odds, start=RARE)
    x = np.column_stack([*columns, np.ones(len(points))])
    precision = np.append(np.full(len(columns), STEEP**-2), 1.0)
    prior = np.append(np.zeros(len(columns)), RARE)
    w = prior.copy()
    for _ in range(STEPS):
        p = _sigmoid(x @ w)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.diag(precision)
        gradient = x.T @ (failed - p) - precision * (w - prior)
        step = np.linalg.solve(hessian, gradient)
        w = w + step * min(1.0, 4.0 / max(float(np.abs(step).max()), 1e-12))
    for weight, (i, side) in zip(w, owners, strict=False):
        odds[i] += weight * side
    return Chances(odds=odds, start=float(w[-1]))


def _sigmoid(z: Vector) -> Vector:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(z, -30.0, 30.0))))
