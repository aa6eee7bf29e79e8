"""Kendall's tau-b against scipy and by hand, and the coverage of its interval by simulation."""

import itertools
import math
import random

import pytest
from scipy.stats import kendalltau, norm

from arf_plugins.strategy_two_tier.rank_correlation import (
    FEWEST,
    agreement,
    kendall_tau_b,
    share_to_promote,
    unselected,
)


@pytest.mark.parametrize("levels", [4, 1000])
def test_tau_b_is_that_of_scipy_with_and_without_ties(levels: int) -> None:
    for seed in range(200):
        chance = random.Random(seed)
        size = chance.randint(2, 40)
        pairs = [(float(chance.randrange(levels)), float(chance.randrange(levels))) for _ in range(size)]
        theirs = kendalltau([x for x, _ in pairs], [y for _, y in pairs]).statistic
        assert kendall_tau_b(pairs) == pytest.approx(0.0 if math.isnan(theirs) else theirs)


def test_tau_b_by_hand() -> None:
    assert kendall_tau_b([(1, 1), (2, 2), (3, 3)]) == 1
    assert kendall_tau_b([(1, 3), (2, 2), (3, 1)]) == -1
    assert kendall_tau_b([(1, 1), (2, 3), (3, 2)]) == pytest.approx(1 / 3)
    assert kendall_tau_b([(1, 1), (1, 2), (2, 3)]) == pytest.approx(2 / math.sqrt(6))
    assert kendall_tau_b([]) == kendall_tau_b([(1, 1)]) == kendall_tau_b([(1, 1), (1, 2)]) == 0


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("size", [8, 30])
def test_the_interval_covers_the_truth_as_often_as_it_says(rho: float, size: int) -> None:
    true = 2 / math.pi * math.asin(rho)
    chance = random.Random(1)
    covered = 0
    for _ in range(600):
        pairs = []
        for _ in range(size):
            x = chance.gauss(0, 1)
            pairs.append((x, rho * x + math.sqrt(1 - rho * rho) * chance.gauss(0, 1)))
        found = agreement(pairs, level=0.8)
        covered += found.low <= true <= found.high
    assert 0.74 <= covered / 600 <= 0.90


def test_a_few_pairs_say_nothing() -> None:
    found = agreement([(i, i) for i in range(FEWEST - 1)])
    assert (found.low, found.high) == (-1, 1)
    assert "not known" in str(found)


def test_more_pairs_make_it_surer_and_perfection_is_not_certainty() -> None:
    few, many = (agreement([(i, i) for i in range(n)]) for n in (FEWEST, 60))
    assert few.low < many.low < 1
    assert few.tau == many.tau == 1


def test_the_share_to_promote_is_what_it_says() -> None:
    """Of ideas as good as the average of the best tenth, 80 % come through."""
    assert share_to_promote(0.0) == pytest.approx(0.8)
    assert share_to_promote(1.0) == pytest.approx(norm.sf(norm.pdf(norm.isf(0.1)) / 0.1))
    assert share_to_promote(-1.0) > 0.8
    shares = [share_to_promote(tau / 10) for tau in range(11)]
    assert all(wider >= narrower for wider, narrower in itertools.pairwise(shares))
    rho = 0.6
    threshold = norm.isf(share_to_promote(2 / math.pi * math.asin(rho)))
    typical = norm.pdf(norm.isf(0.1)) / 0.1
    chance = random.Random(0)
    readings = [rho * typical + math.sqrt(1 - rho * rho) * chance.gauss(0, 1) for _ in range(20_000)]
    assert sum(reading > threshold for reading in readings) / 20_000 == pytest.approx(0.8, abs=0.02)


def test_a_selection_by_the_first_reading_is_corrected_for() -> None:
    """Among the best fifth the order is mostly noise; the answer is still about all of them."""
    rho = 0.8
    true = 2 / math.pi * math.asin(rho)
    chance = random.Random(2)
    everything = [chance.gauss(0, 1) for _ in range(2000)]
    both = [(x, rho * x + math.sqrt(1 - rho * rho) * chance.gauss(0, 1)) for x in everything]
    best = sorted(both)[-400:]
    assert agreement(best).tau < true - 0.15
    assert agreement(best, everything=everything).tau == pytest.approx(true, abs=0.1)
    assert unselected(0.4, 1.0) == pytest.approx(0.4)
    assert unselected(0.0, 3.0) == 0
    assert unselected(-0.4, 2.0) == -unselected(0.4, 2.0)
