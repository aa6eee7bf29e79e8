"""The covariance of readings: what the terms of the model make of two runs.

The gain of a point over the base is

    sum over axes f_i(x_i)  +  sum over pairs f_ij(x_i, x_j)  +  g(all numbers together)

and a reading is that gain, plus the level of where it ran (tier, budget), of its node and of its time, plus
noise. Each term is a Gaussian process of its own, so that all of it is one.
"""

from __future__ import annotations

import numpy as np
from attrs import define, frozen

from arf_plugins.strategy_bayes.axes import Basis, Levels, Vector

WAVES = 128
"""Random Fourier features of the full-space term (Rahimi and Recht, NeurIPS 2007)."""
MOST_SMOOTH = 16
"""Numbers beyond which the full-space term says nothing."""
SPAN = 0.35
"""Length scale of the full-space term for one number, as a share of its range; it grows with their number."""
LEVELS_SD = 30.0
"""Prior of the level of a tier, in units of the spread of the readings."""
MEMORY = 0.2
"""How long a drift lasts, as a share of the study so far."""
GAIN = ("axes", "pairs", "whole")
"""The terms that are gain; the others are a nuisance."""


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
        """The readings of some rows."""
        return Readings(
            points=self.points[rows],
            y=self.y[rows],
            places=self.places[rows],
            nodes=self.nodes[rows],
            times=self.times[rows],
        )

    def with_others(self, others: Readings) -> Readings:
        """These, then others."""
        return Readings(
            points=np.vstack([self.points, others.points]),
            y=np.append(self.y, others.y),
            places=np.append(self.places, others.places),
            nodes=np.append(self.nodes, others.nodes),
            times=np.append(self.times, others.times),
        )

    @classmethod
    def at(cls, points: Levels) -> Readings:
        """Points as they would be read where it decides, at the beginning."""
        n = len(points)
        none = np.zeros(n, dtype=np.intp)
        return cls(points=points, y=np.zeros(n), places=none, nodes=none, times=np.zeros(n))


@define(eq=False, kw_only=True)
class Sizes:
    """The variances of the terms, in units of `scale` squared."""

    scale: float
    """In units of the objective."""
    axes: Vector
    active: Vector
    """How much each axis takes part in pairs; their mean is 1, or less where there are many axes."""
    paired: Levels
    """The features of the axes that take part."""
    pairs: float
    whole: float
    elsewhere: float
    """What axes do differently on another tier, relative to `axes`."""
    drift: float
    node: float
    noise: float


class Covariance:
    """Of the readings over a basis."""

    def __init__(self, basis: Basis, seed: int = 0) -> None:
        self.basis = basis
        n = len(basis.numbers)
        smooth = max(2.0, len(basis.axes) / 2) <= n <= MOST_SMOOTH
        waves = WAVES // 2 if smooth else 0
        self.frequencies: Vector = np.random.default_rng(seed).standard_normal((waves, n))
        self.columns = [np.flatnonzero(basis.owner == i) for i in range(len(basis.axes))]

    def parts(self, a: Readings, xa: Vector, b: Readings, xb: Vector, sizes: Sizes) -> dict[str, Vector]:
        """(a, b) for each term, in units of the scale; `xa` and `xb` are the features of the points."""
        main = (xa * sizes.axes[self.basis.owner]) @ xb.T
        parts = {"axes": main, "pairs": self._pairs(a, xa, b, xb, sizes)}
        if sizes.whole:
            parts["whole"] = sizes.whole * self.waves(a.points, sizes) @ self.waves(b.points, sizes).T
        same = a.places[:, None] == b.places[None, :]
        if a.places.any() or b.places.any():
            parts["elsewhere"] = sizes.elsewhere * main * (same & (a.places > 0)[:, None])
        parts["place"] = np.where(same, LEVELS_SD**2, 0.0)
        apart = (a.times[:, None] - b.times[None, :]) / MEMORY
        parts["drift"] = sizes.drift * np.exp(-0.5 * apart**2)
        if a.nodes.any() and b.nodes.any():
            same_node = (a.nodes[:, None] == b.nodes[None, :]) & (a.nodes > 0)[:, None]
            parts["node"] = sizes.node * same_node
        return parts

    def between(self, a: Readings, xa: Vector, b: Readings, xb: Vector, sizes: Sizes) -> Vector:
        """(a, b): all terms but the noise."""
        return np.asarray(sum(self.parts(a, xa, b, xb, sizes).values()))

    def _pairs(self, a: Readings, xa: Vector, b: Readings, xb: Vector, sizes: Sizes) -> Vector:
        """Products of two different axes: half of what the square of the sum has beyond the squares."""
        some = sizes.paired
        found: Vector = ((xa[:, some] * sizes.active[self.basis.owner[some]]) @ xb[:, some].T) ** 2
        for i in np.flatnonzero((sizes.active > 0) & a.points.any(axis=0) & b.points.any(axis=0)):
            mine = self.columns[i]
            found -= (sizes.active[i] * (xa[:, mine] @ xb[:, mine].T)) ** 2
        found *= 0.5 * sizes.pairs
        return found

    def stretch(self, sizes: Sizes) -> Vector:
        """How much each number counts in the full-space term: its place is multiplied by it."""
        known = sizes.axes[self.basis.numbers]
        share = 0.3 + 0.7 * np.sqrt(known / max(float(known.max(initial=0.0)), 1e-12))
        return np.asarray(share / (SPAN * np.sqrt(max(1, len(known)))))

    def waves(self, points: Levels, sizes: Sizes) -> Vector:
        """(points, waves) of the full-space term: 0 at the base."""
        numbers, places = self.basis.numbers, self.basis.places
        z = places[numbers[None, :], points[:, numbers]] - places[numbers, 0]
        phase = (z * self.stretch(sizes)) @ self.frequencies.T
        found = np.concatenate([np.cos(phase) - 1.0, np.sin(phase)], axis=1)
        return np.asarray(found / np.sqrt(max(1, len(self.frequencies))))
