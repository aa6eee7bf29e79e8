"""The posterior of the gain of all points, and functions drawn from it.

Functions are drawn by Matheron's rule (Wilson et al., "Pathwise conditioning of Gaussian processes", JMLR 22,
2021): a function of the prior, corrected by what the data say. Since the kernel of an axis is a product of
features, a drawn function is a quadratic form in them, which is cheap to climb.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen
from scipy.linalg import cho_solve, solve_triangular

from arf_plugins.strategy_bayes.axes import Basis, Levels, Vector
from arf_plugins.strategy_bayes.covariance import GAIN, LEVELS_SD, MEMORY, Covariance, Readings
from arf_plugins.strategy_bayes.sizes import estimate, student_weights

DRIFTS = 24
"""Waves of a drawn drift."""
SETTLING = 2
"""Rounds of the weights of readings."""


@frozen(kw_only=True, eq=False)
class Function:
    """A function over points: linear and quadratic in the features, plus waves. In units of the objective."""

    linear: Vector
    quadratic: Vector
    """In the features of the axes that take part in pairs (`paired`)."""
    paired: Levels
    waves: Vector


class Process:
    """The posterior given some readings."""

    def __init__(self, basis: Basis, readings: Readings) -> None:
        self.basis = basis
        self.covariance = Covariance(basis)
        self.sizes = estimate(self.covariance, readings)
        self.readings = readings
        owner = basis.owner[self.sizes.paired]
        self._blocks = owner[:, None] != owner[None, :]
        self._condition()

    def _condition(self) -> None:
        readings, sizes = self.readings, self.sizes
        self._x = self.basis.of_points(readings.points)
        self._y = readings.y / sizes.scale
        self._waves = self.covariance.waves(readings.points, sizes)
        v = self.covariance.between(readings, self._x, readings, self._x, sizes)
        weights = np.ones(len(readings))
        for _ in range(SETTLING):
            inverse = np.linalg.inv(v + np.diag(sizes.noise / weights))
            diagonal = np.diag(inverse)
            weights = student_weights((inverse @ self._y) / diagonal, 1 / diagonal)
        self._variances = sizes.noise / weights
        self._factor = np.linalg.cholesky(v + np.diag(self._variances))
        self._mean: Function | None = None

    def add(self, new: Readings) -> None:
        """Take in readings one by one; the sizes stay as they are."""
        for row in range(len(new)):
            self._add(new.some(np.array([row])))

    def _add(self, one: Readings) -> None:
        """A row more of the Cholesky factor."""
        sizes, n = self.sizes, len(self._y)
        x = self.basis.of_points(one.points)
        k = self.covariance.between(self.readings, self._x, one, x, sizes)[:, 0]
        own = float(self.covariance.between(one, x, one, x, sizes)[0, 0])
        row = solve_triangular(self._factor, k, lower=True)
        rest = max(own - float(row @ row), 0.0)
        y = one.y / sizes.scale
        residual = y - row @ solve_triangular(self._factor, self._y, lower=True)
        variance = sizes.noise / student_weights(residual, np.array([rest + sizes.noise]))
        factor = np.zeros((n + 1, n + 1))
        factor[:n, :n] = self._factor
        factor[n, :n] = row
        factor[n, n] = np.sqrt(rest + float(variance[0]))
        self._factor = factor
        self._x = np.vstack([self._x, x])
        self._y = np.append(self._y, y)
        self._variances = np.append(self._variances, variance)
        self._waves = np.vstack([self._waves, self.covariance.waves(one.points, sizes)])
        self.readings = self.readings.with_others(one)
        self._mean = None

    # ---- Functions --------------------------------------------------------------------------------

    @property
    def mean(self) -> Function:
        """The posterior mean."""
        if self._mean is None:
            p, waves, paired = self._x.shape[1], self._waves.shape[1], self.sizes.paired
            none = np.zeros((len(paired), len(paired)))
            nothing = Function(linear=np.zeros(p), quadratic=none, paired=paired, waves=np.zeros(waves))
            self._mean = self._corrected(nothing, self._y)
        return self._mean

    def draw(self, chance: np.random.Generator) -> Function:
        """A function of the posterior."""
        sizes, owner, paired = self.sizes, self.basis.owner, self.sizes.paired
        linear = chance.standard_normal(len(owner)) * np.sqrt(sizes.axes[owner])
        u = np.sqrt(sizes.active[owner[paired]])
        upper = np.triu(chance.standard_normal(self._blocks.shape), 1) * self._blocks
        upper *= u[:, None] * (u * np.sqrt(sizes.pairs))[None, :]
        waves = chance.standard_normal(self._waves.shape[1]) * np.sqrt(sizes.whole)
        prior = Function(linear=linear, quadratic=upper + upper.T, paired=paired, waves=waves)
        x = self._x[:, paired]
        there = self._x @ linear + np.einsum("ij,ij->i", x @ upper, x) + self._waves @ waves
        there = there + self._nuisance(chance) + chance.standard_normal(len(there)) * np.sqrt(self._variances)
        return self._corrected(prior, self._y - there)

    def _corrected(self, prior: Function, residuals: Vector) -> Function:
        """A function of the prior with what the data make of what it leaves."""
        sizes, owner = self.sizes, self.basis.owner
        v = cho_solve((self._factor, True), residuals)
        u = sizes.active[owner[prior.paired]]
        x = self._x[:, prior.paired]
        pairs = (x * v[:, None]).T @ x
        pairs *= self._blocks
        pairs *= u[:, None] * (u * sizes.pairs)[None, :]
        return Function(
            linear=(prior.linear + sizes.axes[owner] * (self._x.T @ v)) * sizes.scale,
            quadratic=(prior.quadratic + pairs) * sizes.scale,
            paired=prior.paired,
            waves=(prior.waves + sizes.whole * (self._waves.T @ v)) * sizes.scale,
        )

    def _nuisance(self, chance: np.random.Generator) -> Vector:
        """A draw of what is no gain: levels of tiers and nodes, drift, what other tiers do differently."""
        readings, sizes = self.readings, self.sizes
        places = int(readings.places.max(initial=0)) + 1
        found: Vector = LEVELS_SD * chance.standard_normal(places)[readings.places]
        if readings.nodes.any():
            levels = chance.standard_normal(int(readings.nodes.max()) + 1)
            levels[0] = 0.0
            found += np.sqrt(sizes.node) * levels[readings.nodes]
        phase = np.outer(readings.times, chance.standard_normal(DRIFTS) / MEMORY)
        c = chance.standard_normal((2, DRIFTS)) * np.sqrt(sizes.drift / DRIFTS)
        found += np.cos(phase) @ c[0] + np.sin(phase) @ c[1]
        sd = np.sqrt(sizes.elsewhere * sizes.axes[self.basis.owner])
        for place in range(1, places):
            other = self._x @ (chance.standard_normal(len(sd)) * sd)
            found += np.where(readings.places == place, other, 0.0)
        return found

    @property
    def noise(self) -> float:
        """The standard deviation of a run, in units of the objective."""
        return float(self.sizes.scale * np.sqrt(self.sizes.noise))

    def values(self, function: Function, points: Levels) -> Vector:
        """The values of a function at points, in units of the objective."""
        x = self.basis.of_points(points)
        some = x[:, function.paired]
        found = x @ function.linear + 0.5 * np.einsum("ij,ij->i", some @ function.quadratic, some)
        return np.asarray(found + self.covariance.waves(points, self.sizes) @ function.waves)

    def errors(self, points: Levels) -> Vector:
        """Posterior standard deviations of the gains of points, in units of the objective."""
        sizes = self.sizes
        x = self.basis.of_points(points)
        there = Readings.at(points)
        k = self._gain(self.covariance.parts(self.readings, self._x, there, x, sizes))
        rows = solve_triangular(self._factor, k, lower=True)
        own = np.diag(self._gain(self.covariance.parts(there, x, there, x, sizes)))
        return np.asarray(sizes.scale * np.sqrt(np.maximum(own - np.sum(rows**2, axis=0), 0.0)))

    @staticmethod
    def _gain(parts: dict[str, Vector]) -> Vector:
        return np.asarray(sum(part for name, part in parts.items() if name in GAIN))
