"""What can vary in a study, as numbers: axes with levels, and the features that a level has.

An axis is a constant of the script, or an idea that is there or not. Level 0 of each is the study's base,
and a point is a level for each axis. The prior of what an axis does is a Gaussian process that is 0 at the
base: over the values of a number it is smooth (a squared exponential and a parabola, on the constant's
natural scale), and over choices every value is by itself. Its kernel is kept as a few features for each
level, whose products it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from arf.types import Scalar

Vector = NDArray[np.float64]
Levels = NDArray[np.intp]

LENGTH = 0.3
"""How far a number's value tells about others, as a share of its range."""
PARABOLA = 0.5
"""Share of the prior variance that is a parabola through the base: it tells about the whole range."""
RANK, LEAST_RANK = 6, 3
"""Features of a number; fewer where there are many axes."""
FEATURES = 360
"""Of all axes together, about; beyond that numbers get fewer."""
_GRID = np.linspace(0.0, 1.0, 33)


@frozen(kw_only=True, eq=False)
class Axis:
    """One thing that varies."""

    name: str
    """Of the constant; of an idea of code its number behind `#`."""
    values: tuple[Scalar | None, ...]
    """By level; the first is the base's. Of an idea of code: None, and the idea's number."""
    places: Vector
    """By level: where it is on its scale, the range being 0 to 1. All 0 where there is no order."""
    is_number: bool

    def features(self, rank: int) -> Vector:
        """(levels, features): inner products are the prior covariance; the mean variance is 1."""
        if not self.is_number:
            others = len(self.values) - 1
            return np.vstack([np.zeros((1, others)), np.eye(others)])
        base = self.places[0]
        variance = np.diag(_kernel(_GRID, _GRID, base)).mean()
        sizes, vectors = np.linalg.eigh(_kernel(_GRID, _GRID, base) / variance)
        top = slice(len(_GRID) - rank, None)
        found: Vector = _kernel(self.places, _GRID, base) / variance @ (vectors[:, top] / np.sqrt(sizes[top]))
        return np.asarray(found - found[0])


def _kernel(a: Vector, b: Vector, base: float) -> Vector:
    def smooth(a: Vector, b: Vector) -> Vector:
        found: Vector = np.exp(-0.5 * ((a[:, None] - b[None, :]) / LENGTH) ** 2)
        return found

    at = np.array([base])
    local = smooth(a, b) - smooth(a, at) @ smooth(at, b)
    reach = _GRID - base
    line, bend = np.mean(reach**2), np.mean(reach**4)
    da, db = (a - base)[:, None], (b - base)[None, :]
    parabola = 0.5 * (da * db / line + (da * db) ** 2 / bend)
    return (1 - PARABOLA) * local / np.mean(1 - smooth(_GRID, at) ** 2) + PARABOLA * parabola


@frozen(kw_only=True, eq=False)
class Basis:
    """The features of all axes, side by side."""

    axes: tuple[Axis, ...]
    table: Vector
    """(axes, most levels, most features): padded with zeros."""
    counts: Levels
    """Levels of each axis."""
    owner: Levels
    """Of each feature column that is used: its axis."""
    used: Levels
    """The used columns in the padded (axes x features)."""
    places: Vector
    """(axes, most levels): on the scales; 0 for what has no order."""
    numbers: Levels
    """The axes that are numbers."""

    @classmethod
    def of(cls, axes: Sequence[Axis]) -> Basis:
        numbers = [i for i, axis in enumerate(axes) if axis.is_number]
        others = sum(len(axis.values) - 1 for axis in axes if not axis.is_number)
        rank = (FEATURES - min(others, FEATURES // 2)) // max(1, len(numbers))
        rank = min(RANK, max(LEAST_RANK, rank))
        found = [axis.features(rank) for axis in axes]
        counts = np.array([len(f) for f in found], dtype=np.intp)
        width = max((f.shape[1] for f in found), default=1)
        table = np.zeros((len(axes), int(counts.max(initial=1)), width))
        places = np.zeros(table.shape[:2])
        used, owner = [], []
        for i, (axis, f) in enumerate(zip(axes, found, strict=True)):
            table[i, : f.shape[0], : f.shape[1]] = f
            places[i, : len(axis.places)] = axis.places
            used += [i * width + k for k in range(f.shape[1])]
            owner += [i] * f.shape[1]
        return cls(
            axes=tuple(axes),
            table=table,
            counts=counts,
            owner=np.array(owner, dtype=np.intp),
            used=np.array(used, dtype=np.intp),
            places=places,
            numbers=np.array(numbers, dtype=np.intp),
        )

    def of_points(self, points: Levels) -> Vector:
        """(points, features) of (points, axes) levels."""
        n = len(self.axes)
        padded = self.table[np.arange(n)[None, :], points]
        found: Vector = padded.reshape(len(points), -1)[:, self.used]
        return found

    def padded(self, features: Vector) -> Vector:
        """A vector over used columns as (axes, most features)."""
        full = np.zeros(len(self.axes) * self.table.shape[2])
        full[self.used] = features
        return full.reshape(len(self.axes), -1)
