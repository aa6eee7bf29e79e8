"""Climbing a function over points, one axis at a time."""

from __future__ import annotations

import numpy as np

from arf_plugins.strategy_bayes.axes import Levels, Vector
from arf_plugins.strategy_bayes.chances import Chances
from arf_plugins.strategy_bayes.process import Function, Process

RISK = 0.5
"""A point that is likelier to fail is not looked at."""


class Slope:
    """What every change of one axis is worth, from a point that moves."""

    def __init__(self, process: Process, function: Function, chances: Chances, allowed: Levels) -> None:
        """`allowed` is (axes, most levels): what may be chosen."""
        self._process = process
        self._f = function
        self._chances = chances
        self._allowed = allowed > 0
        basis = process.basis
        self._basis = basis
        self._linear = basis.padded(function.linear)

    def values(self, point: Levels) -> Vector:
        """(axes, most levels): the value with that level instead; minus infinity for what is out."""
        basis, f = self._basis, self._f
        n = len(basis.axes)
        x = basis.of_points(point[None, :])[0]
        pull = np.zeros_like(x)
        pull[f.paired] = f.quadratic @ x[f.paired]
        slope = self._linear + basis.padded(pull)
        found = np.einsum("ilr,ir->il", basis.table, slope)
        here = found[np.arange(n), point]
        total = float(x @ f.linear + 0.5 * x @ pull)
        found = total + found - here[:, None]
        if len(f.waves):
            found += self._waves(point)
        odds = self._chances.odds
        logit = self._chances.start + odds[np.arange(n), point].sum()
        risk = logit + odds - odds[np.arange(n), point][:, None]
        return np.where(self._allowed & (risk < np.log(RISK / (1 - RISK))), found, -np.inf)

    def _waves(self, point: Levels) -> Vector:
        """What the full-space term adds to each."""
        process, basis = self._process, self._basis
        numbers = basis.numbers
        n, most = basis.places.shape
        stretch = process.covariance.stretch(process.sizes)
        frequencies = process.covariance.frequencies
        z = (basis.places[numbers, point[numbers]] - basis.places[numbers, 0]) * stretch
        phase = frequencies @ z
        half = len(phase)
        cosines, sines = self._f.waves[:half] / np.sqrt(half), self._f.waves[half:] / np.sqrt(half)
        found = np.full((n, most), float(cosines @ (np.cos(phase) - 1) + sines @ np.sin(phase)))
        step = (basis.places[numbers] - basis.places[numbers, point[numbers]][:, None]) * stretch[:, None]
        turned = phase[None, None, :] + step[:, :, None] * frequencies.T[:, None, :]
        found[numbers] = (np.cos(turned) - 1) @ cosines + np.sin(turned) @ sines
        return found


def climb(slope: Slope, start: Levels, axes: int, *, worth: float = 0.0) -> tuple[Levels, float]:
    """The best point that is reached from `start` with changes of so many axes at most.

    Each step makes the one change that gains most, and no step gains less than `worth`. Also gives the value.
    """
    point = start.copy()
    changed: set[int] = set()
    rows = np.arange(len(point))
    for _ in range(4 * axes + 4):
        values = slope.values(point)
        now = float(values[rows, point].max())
        if len(changed) >= axes:
            values[[i for i in rows if i not in changed]] = -np.inf
        axis, level = divmod(int(np.argmax(values)), values.shape[1])
        if not values[axis, level] > now + max(worth, 1e-9):
            break
        point[axis] = level
        changed.add(axis)
    return point, float(slope.values(point)[0, point[0]])
