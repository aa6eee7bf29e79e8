"""A Gaussian process over everything that has run, and functions drawn from it.

The gain of a point over the base is

    sum over axes f_i(x_i)  +  sum over pairs f_ij(x_i, x_j)  +  g(all numbers together)

and a reading is that gain, plus the level of where it ran (tier, budget), of its node and of its time, plus noise. Each term is a
Gaussian process of its own, so that all of it is one; the sizes of the terms are estimated by maximum likelihood, by
the fixed-point iteration of Zhou, Hu, Zhou and Lange, "MM algorithms for variance components models", Journal of
Computational and Graphical Statistics 28 (2019), with a prior that keeps them from 0. Heavy tails: readings far off are given
less weight, as under Student's t (Lange, Little and Taylor, JASA 84, 1989).

Functions are drawn from the posterior by Matheron's rule (Wilson et al., "Pathwise conditioning of Gaussian
processes", JMLR 22, 2021): a function of the prior, corrected by what the data say. Since the kernel of an axis is a
product of features, a drawn function is a quadratic form in them, which is cheap to climb.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import define, evolve, field, frozen
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular

from arf_plugins.strategy_bayes.axes import Basis, Levels, Vector

WAVES = 128
"""Random Fourier features of the full-space term (Rahimi and Recht, NeurIPS 2007)."""
MOST_SMOOTH = 16
"""Numbers beyond which the full-space term says nothing."""
SPAN = 0.35
"""Length scale of the full-space term for one number, as a share of its range; it grows with their number."""
TAILS = 4.0
"""Degrees of freedom of the noise."""
ROUNDS = 12
"""Iterations of the sizes of the terms."""
PRIOR = 0.5
"""Weight of the prior of the size of a term."""
FITTED = 320
"""Readings that the sizes are estimated from, at most."""
LEVELS_SD = 30.0
"""Prior of the level of a tier, in units of the spread of the readings."""


@frozen(kw_only=True, eq=False)
class Readings:
    """What has run: one row a run that counts."""

    points: Levels
    """(runs, axes) levels."""
    y: Vector
    """Gains over the base, in units of the objective, up to the level of where it ran."""
    places: Levels
    """Where each ran, by tier and budget; 0 is the place that decides."""
    nodes: Levels
    """The node of each; 0 where that is not known."""
    times: Vector
    """When each ended; the study so far is 0 to 1."""

    def __len__(self) -> int:
        return len(self.y)

    def some(self, rows: Levels) -> Readings:
        return Readings(
            points=self.points[rows],
            y=self.y[rows],
            places=self.places[rows],
            nodes=self.nodes[rows],
            times=self.times[rows],
        )


@define(eq=False)
class Sizes:
    """The variances of the terms, in units of `scale` squared."""

    scale: float
    axes: Vector
    active: Vector
    """How much each axis takes part in pairs; their mean is 1."""
    pairs: float
    whole: float
    elsewhere: float
    """What axes do differently on another tier, relative to `axes`."""
    drift: float
    node: float
    noise: float


@frozen(kw_only=True, eq=False)
class Function:
    """A function over points: linear and quadratic in the features, plus waves."""

    linear: Vector
    quadratic: Vector
    waves: Vector

    def at(self, process: Process, points: Levels) -> Vector:
        x = process.basis.of_points(points)
        found = x @ self.linear + 0.5 * np.einsum("ij,ij->i", x @ self.quadratic, x)
        if len(self.waves):
            found = found + process.waves(points) @ self.waves
        return found


class Process:
    """The posterior given some readings. Values are in units of the objective."""

    def __init__(self, basis: Basis, readings: Readings, sizes: Sizes | None = None, *, seed: int = 0) -> None:
        self.basis = basis
        self._chance = np.random.default_rng(seed)
        n = len(basis.numbers)
        smooth = MOST_SMOOTH >= n >= max(2.0, len(basis.axes) / 2)
        self.frequencies = self._chance.standard_normal((WAVES // 2 if smooth else 0, n))
        self._blocks = basis.owner[:, None] != basis.owner[None, :]
        self.readings = readings
        self.sizes = sizes or self._fit(readings)
        self._set(readings)

    # ---- Sizes ----------------------------------------------------------------------------------

    def _start(self, readings: Readings) -> Sizes:
        n = len(self.basis.axes)
        y = readings.y
        centre = np.median(y)
        scale = float(1.4826 * np.median(np.abs(y - centre))) or float(np.std(y)) or 1.0
        changed = np.count_nonzero(readings.points, axis=1)
        each = 1.0 / max(1.0, float(changed[changed > 0].mean()) if changed.any() else 1.0)
        return Sizes(
            scale=scale,
            axes=np.full(n, each),
            active=np.ones(n),
            pairs=0.1 * each,
            whole=0.3 if len(self.frequencies) else 0.0,
            elsewhere=0.05,
            drift=0.01,
            node=0.01,
            noise=0.5,
        )

    def _fit(self, readings: Readings) -> Sizes:
        sizes = self._start(readings)
        if len(readings) > FITTED:  # the last ones, and the best of those before
            early = np.argsort(-readings.y[: -FITTED // 2])[: FITTED // 2]
            rows = np.concatenate([np.sort(early), np.arange(len(readings) - FITTED // 2, len(readings))])
            readings = readings.some(rows)
        weights = np.ones(len(readings))
        first = sizes.axes.copy(), sizes.pairs, sizes.whole
        x = self.basis.of_points(readings.points)
        for round_ in range(ROUNDS):
            sizes, weights = self._improve(readings, sizes, weights, x, first, robust=round_ >= ROUNDS // 3)
        return sizes

    def _improve(self, readings: Readings, sizes: Sizes, weights: Vector, x: Vector, first: tuple[Vector, float, float], *, robust: bool) -> tuple[Sizes, Vector]:
        """One round: every size moves by how much of its term the data show, over what they would by chance."""
        y = readings.y / sizes.scale
        parts = self._parts(readings, sizes, x)
        v = sum(parts.values()) + np.diag(sizes.noise / weights)
        inverse = np.linalg.inv(v)
        a = inverse @ y
        n = len(self.basis.axes)
        along = (x.T @ a) ** 2
        across = np.einsum("ij,ij->j", x, inverse @ x)
        q = np.bincount(self.basis.owner, along, n) * sizes.axes**2
        t = np.bincount(self.basis.owner, across, n)
        axes = _moved(sizes.axes, q, t, first[0])

        def one(name: str, size: float, prior: float) -> float:
            part = parts[name] / max(size, 1e-12)
            return float(_moved(np.array([size]), np.array([a @ part @ a]) * size**2, np.array([np.sum(inverse * part)]), np.array([prior]))[0])

        pairs = one("pairs", sizes.pairs, first[1])
        active = self._activities(sizes, x, a, inverse)
        whole = one("whole", sizes.whole, first[2]) if sizes.whole else 0.0
        elsewhere = one("elsewhere", sizes.elsewhere, 0.05) if "elsewhere" in parts else sizes.elsewhere
        drift = one("drift", sizes.drift, 0.01)
        node = one("node", sizes.node, 0.01) if "node" in parts else sizes.node
        precise = sizes.noise / weights
        noise = float(_moved(np.array([sizes.noise]), np.array([np.sum(a * a / weights)]) * sizes.noise**2, np.array([np.sum(np.diag(inverse) / weights)]), np.array([0.5]))[0])
        if robust:
            # The residual that leaving the reading out would have, and Student's weight of it.
            left_out = a / np.diag(inverse)
            spread = 1 / np.diag(inverse)
            weights = (TAILS + 1) / (TAILS + left_out**2 / np.maximum(spread, precise))
            weights = weights / np.mean(weights)
        return Sizes(scale=sizes.scale, axes=axes, active=active, pairs=pairs, whole=whole, elsewhere=elsewhere, drift=drift, node=node, noise=noise), weights

    def _activities(self, sizes: Sizes, x: Vector, a: Vector, inverse: Vector) -> Vector:
        n = len(self.basis.axes)
        found = sizes.active.copy()
        u = sizes.active[self.basis.owner]
        whole = (x * u) @ x.T
        for i in range(n):
            mine = self.basis.owner == i
            k = x[:, mine] @ x[:, mine].T
            c = k * (whole - sizes.active[i] * k)
            q, t = float(a @ c @ a), float(np.sum(inverse * c))
            s = sizes.pairs * sizes.active[i]
            found[i] *= ((q * s + 2 * PRIOR) / (t * s + 2 * PRIOR)) ** 0.5 if t > 0 else 1.0
        return found / max(float(found.mean()), 1e-12)

    # ---- Covariances ------------------------------------------------------------------------------

    def _parts(self, readings: Readings, sizes: Sizes, x: Vector) -> dict[str, Vector]:
        """The terms of the covariance of readings, in units of the scale."""
        parts = self._between(readings, x, readings, x, sizes)
        return parts

    def _between(self, a: Readings, xa: Vector, b: Readings, xb: Vector, sizes: Sizes) -> dict[str, Vector]:
        owner = self.basis.owner
        main = (xa * sizes.axes[owner]) @ xb.T
        ua = xa * sizes.active[owner]
        all_pairs = (ua @ xb.T) ** 2
        own = np.zeros_like(all_pairs)
        for i in np.flatnonzero(a.points.any(axis=0) & b.points.any(axis=0)):
            mine = owner == i
            own += (ua[:, mine] @ xb[:, mine].T) ** 2
        parts = {"axes": main, "pairs": sizes.pairs * 0.5 * (all_pairs - own)}
        if sizes.whole:
            parts["whole"] = sizes.whole * self._waves(a.points, sizes) @ self._waves(b.points, sizes).T
        same = a.places[:, None] == b.places[None, :]
        if a.places.any() or b.places.any():
            parts["elsewhere"] = sizes.elsewhere * main * (same & (a.places > 0)[:, None])
        parts["place"] = np.where(same, LEVELS_SD**2, 0.0)
        parts["drift"] = sizes.drift * np.exp(-0.5 * ((a.times[:, None] - b.times[None, :]) / 0.2) ** 2)
        if a.nodes.any() and b.nodes.any():
            parts["node"] = sizes.node * ((a.nodes[:, None] == b.nodes[None, :]) & (a.nodes > 0)[:, None])
        return parts

    def waves(self, points: Levels) -> Vector:
        return self._waves(points, self.sizes)

    @property
    def stretch(self) -> Vector:
        """What a number's place is multiplied with before the waves."""
        return self._stretch(self.sizes)

    def _stretch(self, sizes: Sizes) -> Vector:
        """How much each number counts in the full-space term."""
        numbers = self.basis.numbers
        share = np.sqrt(sizes.axes[numbers] / max(float(sizes.axes[numbers].max(initial=0.0)), 1e-12))
        share = 0.3 + 0.7 * share
        return np.asarray(share / (SPAN * np.sqrt(len(numbers))))

    def _waves(self, points: Levels, sizes: Sizes) -> Vector:
        """(points, waves): 0 at the base."""
        numbers = self.basis.numbers
        z = self.basis.places[numbers[None, :], points[:, numbers]] - self.basis.places[numbers, 0]
        phase = (z * self._stretch(sizes)) @ self.frequencies.T
        found = np.concatenate([np.cos(phase) - 1.0, np.sin(phase)], axis=1)
        found = found / np.sqrt(max(1, len(self.frequencies)))
        return np.asarray(found)

    # ---- The posterior ------------------------------------------------------------------------------

    def _set(self, readings: Readings) -> None:
        sizes = self.sizes
        x = self.basis.of_points(readings.points)
        v = sum(self._parts(readings, sizes, x).values())
        weights = np.ones(len(readings))
        y = readings.y / sizes.scale
        for _ in range(2):
            whole = v + np.diag(sizes.noise / weights)
            inverse = np.linalg.inv(whole)
            left_out = (inverse @ y) / np.diag(inverse)
            weights = (TAILS + 1) / (TAILS + left_out**2 * np.diag(inverse))
        self._x = x
        self._y = y
        self._variances = sizes.noise / weights
        self._factor = np.linalg.cholesky(v + np.diag(self._variances))
        self._waves_there = self._waves(readings.points, sizes)
        self._mean: Function | None = None

    def add(self, new: Readings) -> None:
        """Take in readings one by one; the sizes stay as they are."""
        for row in range(len(new)):
            self._add(new.some(np.array([row])))

    def _add(self, one: Readings) -> None:
        sizes = self.sizes
        x = self.basis.of_points(one.points)
        k = sum(self._between(self.readings, self._x, one, x, sizes).values())[:, 0]
        own = float(sum(self._between(one, x, one, x, sizes).values())[0, 0])
        row = solve_triangular(self._factor, k, lower=True)
        rest = max(own - float(row @ row), 0.0)
        y = one.y / sizes.scale
        residual = float(y[0] - row @ solve_triangular(self._factor, self._y, lower=True))
        weight = (TAILS + 1) / (TAILS + residual**2 / (rest + sizes.noise))
        variance = sizes.noise / weight
        n = len(self._y)
        factor = np.zeros((n + 1, n + 1))
        factor[:n, :n] = self._factor
        factor[n, :n] = row
        factor[n, n] = np.sqrt(rest + variance)
        self._factor = factor
        self._x = np.vstack([self._x, x])
        self._y = np.append(self._y, y)
        self._variances = np.append(self._variances, variance)
        self._waves_there = np.vstack([self._waves_there, self._waves(one.points, sizes)])
        self.readings = _joined(self.readings, one)
        self._mean = None

    def _function(self, r: Vector, prior: Function | None = None) -> Function:
        """What the data make of residuals `r`, on top of a function of the prior."""
        sizes = self.sizes
        v = cho_solve((self._factor, True), r)
        owner = self.basis.owner
        here = v * (1 + 0.0)
        linear = sizes.axes[owner] * (self._x.T @ here)
        u = sizes.active[owner]
        quadratic = sizes.pairs * ((self._x * v[:, None]).T @ self._x) * (u[:, None] * u[None, :]) * self._blocks
        waves = sizes.whole * (self._waves_there.T @ v)
        if prior is not None:
            linear, quadratic, waves = linear + prior.linear, quadratic + prior.quadratic, waves + prior.waves
        return Function(linear=linear * sizes.scale, quadratic=quadratic * sizes.scale, waves=waves * sizes.scale)

    @property
    def mean(self) -> Function:
        if self._mean is None:
            self._mean = self._function(self._y)
        return self._mean

    def draw(self, chance: np.random.Generator) -> Function:
        """A function of the posterior."""
        sizes = self.sizes
        owner = self.basis.owner
        p = len(owner)
        linear = chance.standard_normal(p) * np.sqrt(sizes.axes[owner])
        u = np.sqrt(sizes.active[owner])
        upper = np.triu(chance.standard_normal((p, p)), 1) * (u[:, None] * u[None, :]) * self._blocks * np.sqrt(sizes.pairs)
        quadratic = upper + upper.T
        waves = chance.standard_normal(self._waves_there.shape[1]) * np.sqrt(sizes.whole)
        there = self._x @ linear + 0.5 * np.einsum("ij,ij->i", self._x @ quadratic, self._x) + self._waves_there @ waves
        there = there + self._nuisance(chance) + chance.standard_normal(len(self._y)) * np.sqrt(self._variances)
        return self._function(self._y - there, Function(linear=linear, quadratic=quadratic, waves=waves))

    def _nuisance(self, chance: np.random.Generator) -> Vector:
        """A draw of what is no gain: levels of tiers and nodes, drift, and what other tiers do differently."""
        readings, sizes = self.readings, self.sizes
        found = LEVELS_SD * chance.standard_normal(int(readings.places.max(initial=0)) + 1)[readings.places]
        if readings.nodes.any():
            levels = chance.standard_normal(int(readings.nodes.max()) + 1)
            levels[0] = 0.0
            found = found + np.sqrt(sizes.node) * levels[readings.nodes]
        w = chance.standard_normal(24) / 0.2
        phase = np.outer(readings.times, w)
        c = chance.standard_normal((2, 24)) / np.sqrt(24)
        found = found + np.sqrt(sizes.drift) * (np.cos(phase) @ c[0] + np.sin(phase) @ c[1])
        for place in range(1, int(readings.places.max(initial=0)) + 1):
            effect = chance.standard_normal(self._x.shape[1]) * np.sqrt(sizes.elsewhere * sizes.axes[self.basis.owner])
            found = found + np.where(readings.places == place, self._x @ effect, 0.0)
        return np.asarray(found)

    def deviations(self, points: Levels) -> Vector:
        """Standard deviations of the gains of points."""
        sizes = self.sizes
        x = self.basis.of_points(points)
        n = len(points)
        there = Readings(points=points, y=np.zeros(n), places=np.zeros(n, dtype=np.intp), nodes=np.zeros(n, dtype=np.intp), times=np.zeros(n))
        terms = ("axes", "pairs", "whole")
        between = self._between(self.readings, self._x, there, x, sizes)
        k = sum(between[t] for t in terms if t in between)
        rows = solve_triangular(self._factor, k, lower=True)
        own = np.zeros(n)
        for at in range(n):
            one = there.some(np.array([at]))
            parts = self._between(one, x[at : at + 1], one, x[at : at + 1], sizes)
            own[at] = sum(parts[t][0, 0] for t in terms if t in parts)
        return sizes.scale * np.sqrt(np.maximum(own - np.sum(rows**2, axis=0), 0.0))


def _moved(size: Vector, q: Vector, t: Vector, prior: Vector) -> Vector:
    """The new size: minimises its bound of the likelihood with an inverse-gamma prior."""
    a, b = PRIOR, PRIOR * prior
    t = np.maximum(t, 1e-12)
    return np.asarray((-a + np.sqrt(a * a + 2 * t * (0.5 * q + b))) / t)


def _joined(a: Readings, b: Readings) -> Readings:
    return Readings(
        points=np.vstack([a.points, b.points]),
        y=np.append(a.y, b.y),
        places=np.append(a.places, b.places),
        nodes=np.append(a.nodes, b.nodes),
        times=np.append(a.times, b.times),
    )
