"""How well one way of measuring ranks things as another does: Kendall's tau-b and what follows from it.

For a cheap look at ideas (another tier, a shorter budget) that is to say which of them deserve a dear one.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import NormalDist

from attrs import frozen

FEWEST = 6
"""Pairs below which the interval is all of -1 to 1."""
MOST_RATIO = 5.0
"""The narrowest selection that is corrected for, as the ratio of standard deviations."""
_NORMAL = NormalDist()


@frozen(kw_only=True)
class Agreement:
    """Kendall's tau-b of two readings of the same things, with an interval."""

    tau: float
    """From -1 (the opposite order) to 1 (the same order)."""
    low: float
    high: float
    n: int
    """How many things were read twice."""

    def __str__(self) -> str:
        if self.n < FEWEST:
            return f"rank agreement not known yet ({self.n} pair{'s' * (self.n != 1)})"
        return f"rank agreement {self.tau:.2f} [{self.low:.2f}, {self.high:.2f}] of {self.n} pairs"


def agreement(
    pairs: Sequence[tuple[float, float]], *, level: float = 0.8, everything: Sequence[float] = ()
) -> Agreement:
    """How well the first of each pair ranks as the second does.

    If the pairs were selected by their first reading, `everything` is that of all there was to select from;
    the answer is then for all of those (see `unselected`).

    The interval is of Fisher's z, `atanh(tau) ± z sqrt(0.437 / (n - 4))` (Fieller, Hartley and Pearson,
    Biometrika 44, 1957; Bonett and Wright, Psychometrika 65, 2000, found it sound up to about |tau| = 0.8).
    A perfect order counts as one with a single swap, so that its interval has a width.
    """
    n = len(pairs)
    tau = kendall_tau_b(pairs)
    if n < FEWEST:
        return Agreement(tau=tau, low=-1.0, high=1.0, n=n)
    most = 1 - 4 / (n * (n - 1))
    centre = math.atanh(max(-most, min(most, tau)))
    margin = _NORMAL.inv_cdf((1 + level) / 2) * math.sqrt(0.437 / (n - 4))
    ratio = _ratio([x for x, _ in pairs], everything)
    tau, low, high = (
        unselected(value, ratio) for value in (tau, math.tanh(centre - margin), math.tanh(centre + margin))
    )
    return Agreement(tau=tau, low=low, high=high, n=n)


def unselected(tau: float, ratio: float) -> float:
    """The tau of all things, where that of a selection by the first reading is known.

    Among the best the order is mostly noise, so a selection looks as if the reading ranked worse than it
    does. `ratio` is the standard deviation of the first reading over all things, over that in the selection.
    Pearson's correction of a correlation for explicit selection (Phil. Trans. A 200, 1903; Thorndike's
    case 2, Personnel Selection, 1949), by way of Greiner's relation `rho = sin(pi tau / 2)`.
    """
    rho = math.sin(math.pi / 2 * tau)
    corrected = rho * ratio / math.sqrt(1 - rho * rho + rho * rho * ratio * ratio)
    return 2 / math.pi * math.asin(max(-1.0, min(1.0, corrected)))


def _ratio(selected: Sequence[float], everything: Sequence[float]) -> float:
    """By how much more all things are spread out than the selected ones; at least 1."""
    if len(everything) < FEWEST:
        return 1.0
    narrow, wide = _variance(selected), _variance(everything)
    return max(1.0, min(MOST_RATIO, math.sqrt(wide / narrow))) if narrow > 0 else 1.0


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def kendall_tau_b(pairs: Sequence[tuple[float, float]]) -> float:
    """Kendall's tau with his correction for ties (Biometrika 33, 1945); 0 where one side is all ties.

    Concordant less discordant pairs over the geometric mean of the pairs that are untied on either side.
    Discordant pairs are counted by insertion into a sorted list, as in Knight (JASA 61, 1966).
    """
    n = len(pairs)
    total = n * (n - 1) // 2
    ties_x = _tied(x for x, _ in pairs)
    ties_y = _tied(y for _, y in pairs)
    ties_both = _tied(pairs)
    untied = (total - ties_x) * (total - ties_y)
    if untied == 0:
        return 0.0
    discordant = 0
    before: list[float] = []
    for _, y in sorted(pairs):
        # Of those with a smaller x (and, of the same x, a smaller or equal y), the ones with a larger y.
        at = bisect_left(before, -y)
        discordant += at
        before.insert(at, -y)
    concordant = total - discordant - ties_x - ties_y + ties_both
    return (concordant - discordant) / math.sqrt(untied)


def _tied(values: Iterable[object]) -> int:
    """How many pairs of the values are equal."""
    return sum(count * (count - 1) // 2 for count in Counter(values).values())


def share_to_promote(tau: float, *, best: float = 0.1, recall: float = 0.8) -> float:
    """The share of ideas to promote, so that one of the truly best comes through with probability `recall`.

    `best` is the share of ideas that are meant; the average one of them counts. The two readings are taken
    as bivariate normal, with correlation `sin(pi tau / 2)` (Greiner's relation; Kruskal, JASA 53, 1958).
    An idea that the dear reading has at its `best` tail's mean, `phi(z) / best`, is read by the cheap one
    about `rho` times that with variance `1 - rho**2`. With tau = 1 that is 4 %, with tau = 0 it is `recall`.
    """
    rho = math.sin(math.pi / 2 * max(-1.0, min(1.0, tau)))
    typical = _NORMAL.pdf(_NORMAL.inv_cdf(1 - best)) / best
    threshold = rho * typical - math.sqrt(1 - rho * rho) * _NORMAL.inv_cdf(recall)
    return 1 - _NORMAL.cdf(threshold)
