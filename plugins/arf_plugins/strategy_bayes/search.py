"""What to run next: joint Thompson draws, local moves of the best, and designs at the beginning."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from attrs import define, field

from arf_plugins.strategy_bayes.axes import Levels, Vector
from arf_plugins.strategy_bayes.chances import Chances
from arf_plugins.strategy_bayes.climb import RISK, Slope, climb
from arf_plugins.strategy_bayes.process import Process

TOP = 12
"""Points that have run and look best, which others start from."""
AT_ONCE = (1, 2, 2, 3, 3, 4, 6, 8)
"""How many axes a drawn function may change, each equally likely."""
LOCAL = 0.3
"""Share of runs that are local moves of the best."""
TRIES = 8
WORTHLESS = 0.25
"""What adds less than this, in units of the noise, is left out of what is shipped."""
NEIGHBOURS = 60
"""Neighbours of the best that are looked at where nothing else is new."""

Key = tuple[int, ...]


@define(eq=False)
class Search:
    """One state of knowledge."""

    process: Process
    chances: Chances
    allowed: Levels
    tops: Levels = field(init=False)
    means: Vector = field(init=False)

    def __attrs_post_init__(self) -> None:
        points = np.unique(self.process.readings.points, axis=0)
        values = self.process.values(self.process.mean, points)
        order = np.argsort(-values, kind="stable")[:TOP]
        self.tops, self.means = points[order], values[order]

    def best(self) -> Levels:
        point: Levels = self.tops[0]
        return point

    def choose(self, chance: np.random.Generator, is_open: Callable[[Levels], bool]) -> Levels | None:
        """A point that may be tried; None if none was found."""
        for _ in range(TRIES):
            local = chance.random() < LOCAL
            point = self._local(chance) if local else self._drawn(chance)
            if point is not None and is_open(point):
                return point
        return self._neighbour(chance, is_open)

    def shipped(self, allowed: Levels, most: int) -> Levels:
        """The best by the posterior mean, without what is worth next to nothing.

        Climbs from the best that has run, over what is `allowed`, and changes so many axes at most.
        """
        slope = Slope(self.process, self.process.mean, self.chances, allowed)
        point, _ = climb(slope, self.best(), most)
        least = WORTHLESS * self.process.noise
        while True:
            worth = self.worth(point)
            moved = np.flatnonzero(point)
            if not len(moved) or worth[moved].min() >= least:
                return point
            point[moved[np.argmin(worth[moved])]] = 0

    def worth(self, point: Levels) -> Vector:
        """What each axis of a point adds to it, by the posterior mean, in units of the objective."""
        without = np.tile(point, (len(point), 1))
        np.fill_diagonal(without, 0)
        values = self.process.values(self.process.mean, np.vstack([point[None, :], without]))
        return np.asarray(values[0] - values[1:])

    def _drawn(self, chance: np.random.Generator) -> Levels:
        function = self.process.draw(chance)
        slope = Slope(self.process, function, self.chances, self.allowed)
        u = chance.random()
        base = np.zeros_like(self.tops[0])
        if u < 0.6:
            start = self.tops[0]
        elif u < 0.85:
            start = self.tops[chance.integers(len(self.tops))]
        else:
            start = base
        if chance.random() < 0.3:
            start = self._crossed(start, chance)
        point, _ = climb(slope, start, int(chance.choice(AT_ONCE)))
        return point

    def _crossed(self, start: Levels, chance: np.random.Generator) -> Levels:
        other = self.tops[chance.integers(len(self.tops))]
        return np.asarray(np.where(chance.random(len(start)) < 0.5, start, other))

    def _local(self, chance: np.random.Generator) -> Levels | None:
        """One or two axes of one of the best, by a little."""
        top = int(chance.integers(min(3, len(self.tops))))
        point: Levels = self.tops[top].copy()
        for axis in chance.permutation(len(point))[: chance.integers(1, 3)]:
            levels = np.flatnonzero(self.allowed[axis])
            places = self.process.basis.places[axis]
            if self.process.basis.axes[axis].is_number:
                near = levels[np.abs(places[levels] - places[point[axis]]) <= 0.15]
                levels = near if len(near) > 1 else levels
            point[axis] = chance.choice(levels)
        return point if self._is_safe(point) else None

    def _is_safe(self, point: Levels) -> bool:
        return bool(self.chances.of(point[None, :])[0] < RISK)

    def _neighbour(self, chance: np.random.Generator, is_open: Callable[[Levels], bool]) -> Levels | None:
        """One of the best with one axis, or a few, anywhere."""
        for axes in range(1, NEIGHBOURS):
            point: Levels = self.tops[int(chance.integers(len(self.tops)))].copy()
            for axis in chance.permutation(len(point))[: 1 + axes // 10]:
                point[axis] = chance.choice(np.flatnonzero(self.allowed[axis]))
            if is_open(point) and self._is_safe(point):
                return point
        return None


def design(allowed: Levels, chance: np.random.Generator) -> Levels:
    """A point at random: about a quarter of the axes moved, fewer where there are many."""
    n = len(allowed)
    wanted = max(1, min(8, round(n / 4)))
    wanted = int(chance.integers(max(1, wanted // 2), wanted + wanted // 2 + 1))
    point = np.zeros(n, dtype=np.intp)
    for axis in chance.permutation(n)[:wanted]:
        levels = np.flatnonzero(allowed[axis][1:] > 0) + 1
        if len(levels):
            point[axis] = chance.choice(levels)
    return point


def key_of(point: Levels) -> Key:
    return tuple(map(int, point))
