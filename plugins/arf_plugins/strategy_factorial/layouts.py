"""Which cells of a grid of factors to run: pure functions of the grid, the runs that fit, and a seed.

Two-level designs are made by pydoe. Its own search gives the highest resolution; the generators here give
the least aliasing among those (minimum aberration; Fries and Hunter, Technometrics 22, 1980), as tabulated in
Montgomery, Design and Analysis of Experiments, 8th ed., table 8.14.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np
from pydoe import fracfact, pbdesign

from arf_plugins.effects.model import Levels
from arf_plugins.strategy_factorial import Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

GENERATORS: dict[tuple[int, int], tuple[str, int]] = {
    (3, 4): ("a b ab", 3),
    (4, 8): ("a b c abc", 4),
    (5, 8): ("a b c ab ac", 3),
    (5, 16): ("a b c d abcd", 5),
    (6, 8): ("a b c ab ac bc", 3),
    (6, 16): ("a b c d abc bcd", 4),
    (6, 32): ("a b c d e abcde", 6),
    (7, 8): ("a b c ab ac bc abc", 3),
    (7, 16): ("a b c d abc bcd acd", 4),
    (7, 32): ("a b c d e abcd abde", 4),
    (7, 64): ("a b c d e f abcdef", 7),
    (8, 16): ("a b c d bcd acd abc abd", 4),
    (8, 32): ("a b c d e abc abd bcde", 4),
    (8, 64): ("a b c d e f abcd abef", 5),
    (8, 128): ("a b c d e f g abcdefg", 8),
}
"""(factors, runs): the columns as products of the first ones, and the resolution."""

CANDIDATES = 256
"""Cells among which an optimal design is sought; of a larger grid so many are drawn."""
PRIOR_OF_PAIRS = 1.0
"""What is taken to be known of an interaction beforehand, in runs: it makes main effects come first, and
interactions count as far as runs are left (Bayesian D-optimality; DuMouchel and Jones, Technometrics 36,
1994)."""
PRIOR_OF_MAINS = 1e-3
PASSES = 4
"""Exchanges over the whole design, at most; it rarely takes more than two."""

Pair = tuple[tuple[int, int], tuple[int, int]]
"""Two (factor, level) that do not go together."""


@lru_cache(maxsize=256)
def lay_out(
    levels: tuple[int, ...], runs: int, kind: Layout, seed: str, apart: frozenset[Pair] = frozenset()
) -> tuple[Levels, ...]:
    """The cells to run, in random order but for the fullest, which comes first: if its ideas merge, all do.

    `levels` has the number of levels of each factor, the base not counted. At most `runs` cells, and at
    least as many as there are main effects and a constant, which the caller sees to. Cells that hold a pair
    of `apart` are left out.
    """
    cells = _cells(levels, runs, kind, seed, apart)
    random.Random(seed).shuffle(cells)
    fullest = max(cells, key=lambda cell: sum(level > 0 for level in cell))
    cells.remove(fullest)
    return (fullest, *cells)


def resolution(factors: int, runs: int) -> int:
    """Of the best regular fraction of two-level factors; 0 if there is none, and 99 for all cells."""
    if runs >= 2**factors:
        return 99
    return max((res for (k, n), (_, res) in GENERATORS.items() if k == factors and n <= runs), default=0)


def _cells(
    levels: tuple[int, ...], runs: int, kind: Layout, seed: str, apart: frozenset[Pair]
) -> list[Levels]:
    total = int(np.prod([1 + count for count in levels]))
    if kind is Layout.AUTO and total <= runs:
        return [cell for cell in product(*(range(1 + n) for n in levels)) if allows(cell, apart)]
    if kind is Layout.OPTIMAL or apart or max(levels) > 1:
        return augment(levels, (), min(runs, total), seed, apart)
    k = len(levels)
    best = resolution(k, runs)
    screening_runs = 4 * (max(k, 11) // 4 + 1)
    if kind is Layout.SCREENING:
        screening_runs = screening_runs if runs >= screening_runs else 4 * (k // 4 + 1)
        return _two_levels(pbdesign(screening_runs - 1)[:, :k])
    if best <= 3 and runs >= screening_runs:
        return _two_levels(pbdesign(screening_runs - 1)[:, :k])
    size = max(n for (factors, n) in GENERATORS if factors == k and n <= runs)
    return _two_levels(fracfact(GENERATORS[k, size][0]))


def smallest(levels: tuple[int, ...]) -> int:
    """The fewest runs that tell the main effects of a grid apart."""
    contrasts = sum(levels)
    return 4 * (contrasts // 4 + 1) if max(levels, default=0) == 1 and contrasts > 2 else contrasts + 1


def _two_levels(design: NDArray[np.float64]) -> list[Levels]:
    return [tuple(int(x > 0) for x in row) for row in design]


def allows(cell: Levels, apart: frozenset[Pair]) -> bool:
    """Whether a cell holds no pair that is to be kept apart."""
    return not any(cell[a] == i and cell[b] == j for (a, i), (b, j) in apart)


# ---- D-optimal ----------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def candidates(levels: tuple[int, ...], seed: str) -> tuple[Levels, ...]:
    """The grid, or of a large one its corners of each factor and cells drawn at random."""
    sizes = [range(1 + count) for count in levels]
    if int(np.prod([len(size) for size in sizes])) <= CANDIDATES:
        return tuple(product(*sizes))
    drawn: dict[Levels, None] = {(0,) * len(levels): None, tuple(levels): None}
    for factor, count in enumerate(levels):
        for level in range(1, count + 1):
            drawn[tuple(level if i == factor else 0 for i in range(len(levels)))] = None
    chance = random.Random(f"{seed}/grid")
    while len(drawn) < CANDIDATES:
        drawn[tuple(chance.choice(size) for size in sizes)] = None
    return tuple(drawn)


def augment(
    levels: tuple[int, ...],
    there: Sequence[Levels],
    more: int,
    seed: str,
    apart: frozenset[Pair] = frozenset(),
    never: frozenset[Levels] = frozenset(),
) -> list[Levels]:
    """Up to `more` cells that, with those that are there, tell the most: Bayesian D-optimal.

    Built up one by one (Dykstra, Technometrics 13, 1971), then exchanged while that gains (Fedorov, Theory of
    Optimal Experiments, 1972). Cells that hold a pair of `apart`, or are in `never`, are not used.
    """
    pool = [
        cell
        for cell in candidates(levels, seed)
        if cell not in never and cell not in there and allows(cell, apart)
    ]
    more = min(more, len(pool))
    if more <= 0:
        return []
    random.Random(f"{seed}/augment").shuffle(pool)
    known = _Information(np.diag(1.0 / np.array(_prior(levels))), _model_rows(levels, pool))
    for row in _model_rows(levels, there):
        known.put(row, 1.0)
    free = np.ones(len(pool), dtype=bool)
    chosen: list[int] = []
    for _ in range(more):
        chosen.append(known.take_best(free))
    for _ in range(PASSES):
        if not _exchange(known, free, chosen):
            break
    return [pool[i] for i in chosen]


def _exchange(known: _Information, free: NDArray[np.bool_], chosen: list[int]) -> bool:
    """Replace each chosen cell by a better one, if there is one; whether any was replaced."""
    before = list(chosen)
    for place, old in enumerate(chosen):
        known.put(known.rows[old], -1.0)
        free[old] = True
        chosen[place] = known.take_best(free, at_least=old)
    return chosen != before


class _Information:
    """What the chosen cells tell: the inverse of their information matrix, kept up as they come and go."""

    def __init__(self, inverse: NDArray[np.float64], rows: NDArray[np.float64]) -> None:
        self.rows = rows
        self._inverse = inverse
        self._variance = ((rows @ inverse) * rows).sum(axis=1)
        """With which each cell of the pool is predicted."""

    def put(self, row: NDArray[np.float64], sign: float) -> None:
        """Add a run (or with -1 take it away): a change of rank one (Sherman and Morrison, 1950)."""
        image = self._inverse @ row
        scale = sign / (1.0 + sign * float(row @ image))
        self._inverse = self._inverse - scale * np.outer(image, image)
        self._variance = self._variance - scale * (self.rows @ image) ** 2

    def take_best(self, free: NDArray[np.bool_], at_least: int | None = None) -> int:
        """Add the free cell that multiplies the determinant by the most: that of the largest variance.

        Of equals, the first, but `at_least` if no other is better.
        """
        variance = np.where(free, np.round(self._variance, 9), -1.0)
        best = int(np.argmax(variance))
        if at_least is not None and variance[best] <= variance[at_least]:
            best = at_least
        free[best] = False
        self.put(self.rows[best], 1.0)
        return best


def _terms(levels: tuple[int, ...]) -> list[tuple[tuple[int, int], ...]]:
    mains = [(factor, level) for factor, count in enumerate(levels) for level in range(1, count + 1)]
    pairs = [(a, b) for a, b in combinations(mains, 2) if a[0] != b[0]]
    return [(), *((main,) for main in mains), *pairs]


def _prior(levels: tuple[int, ...]) -> list[float]:
    return [PRIOR_OF_PAIRS if len(term) == 2 else PRIOR_OF_MAINS for term in _terms(levels)]


def _model_rows(levels: tuple[int, ...], cells: Sequence[Levels]) -> NDArray[np.float64]:
    grid = np.array(cells, dtype=np.int64).reshape(len(cells), len(levels))
    columns = []
    for term in _terms(levels):
        column = np.ones(len(cells))
        for factor, level in term:
            mine = grid[:, factor]
            column = column * np.where(mine == level, 1.0, np.where(mine == 0, -1.0, 0.0))
        columns.append(column)
    return np.column_stack(columns)
