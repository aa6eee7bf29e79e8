"""What a comparison says: medians with intervals, ranks, paired tests, time and cost to the target.

- The interval of a median is the distribution-free one between order statistics (Conover, Practical
  Nonparametric Statistics, 3rd ed., section 3.2), at 95 % or more; from fewer than 6 runs it is
  their range.
- Pairs (same seed, same objective) are tested by Wilcoxon's signed ranks, zeros by Pratt's method (Conover,
  section 5.7), two-sided; the effect size is the matched-pairs rank-biserial correlation (Kerby,
  Comprehensive Psychology 3, 2014): 1 if every pair favours the arm. Holm's correction (Scandinavian Journal
  of Statistics 6, 1979) is over all tests of a comparison.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median

from attrs import evolve, frozen

from arf_plugins.compare.overall import Overall, Scaling, overall, scaling
from arf_plugins.compare.runs import MEASURES, Outcome

EQUAL = ("wall_hours", "slot_hours")
"""What is held equal in a judgement: the time on the wall, or the work of the machines."""

FEWEST = 6
"""Runs of which the interval of the median can be one at 95 %: with fewer, even their range is not."""


@frozen(kw_only=True)
class Middle:
    """A median with its interval; infinite where the target was not reached."""

    value: float
    low: float
    high: float
    n: int


@frozen(kw_only=True)
class Test:
    """An arm against the reference, over all seeds of one objective."""

    arm: str
    objective: str
    equal: str
    difference: float
    """The median of the paired differences; positive if the arm is better than the reference."""
    effect: float
    """Rank-biserial correlation, -1 to 1."""
    p: float
    p_holm: float
    pairs: int


@frozen(kw_only=True)
class Race:
    """What it took an arm to get where another one was at its end (the median of its final gains)."""

    objective: str
    arm: str
    level: float
    """The share of the possible gain to be reached."""
    reached: int
    of: int
    wall_hours: Middle
    slot_hours: Middle
    speed_up: float | None
    """The hours of the other arm's whole studies over those that it took; None if most never got there."""
    cost: float | None
    """The slot-hours that it took over those of the other arm's whole studies; None likewise."""


@frozen(kw_only=True)
class Verdict:
    """Everything that tables and plots show, by arm and objective."""

    arms: tuple[str, ...]
    objectives: tuple[str, ...]
    reference: str
    target: float
    level: Mapping[str, Mapping[str, float]]
    """By what is held equal and by objective: so much of it every arm has spent."""
    gain: Mapping[tuple[str, str, str], Middle]
    """(equal, objective, arm): share of the possible gain."""
    to_target: Mapping[tuple[str, str, str], Middle]
    """(measure, objective, arm): what the target took."""
    reached: Mapping[tuple[str, str], tuple[int, int]]
    """(objective, arm): how many runs reached the target, of how many."""
    ranks: Mapping[tuple[str, str], float]
    """(equal, arm): mean rank over all objectives and seeds; 1 is best."""
    tests: tuple[Test, ...]
    overall: tuple[Overall, ...] = ()
    scaling: tuple[Scaling, ...] = ()
    race: str = ""
    races: tuple[Race, ...] = ()


def judge(outcomes: Sequence[Outcome], *, reference: str, target: float, race: str = "") -> Verdict:
    """The verdict of the runs of a comparison; every arm has the same seeds."""
    arms = tuple(dict.fromkeys(outcome.arm for outcome in outcomes))
    objectives = tuple(dict.fromkeys(outcome.objective for outcome in outcomes))
    runs: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in sorted(outcomes, key=lambda o: o.seed):
        runs[(outcome.objective, outcome.arm)].append(outcome)
    level = {equal: {o: _common(runs, equal, o, arms) for o in objectives} for equal in EQUAL}
    gains = {
        (equal, o, arm): [_gain(run, equal, level[equal][o]) for run in runs[(o, arm)]]
        for equal in EQUAL
        for o in objectives
        for arm in arms
    }
    spent = {
        (measure, o, arm): middle([run.spent_for(measure, target) for run in runs[(o, arm)]])
        for measure in MEASURES
        for o in objectives
        for arm in arms
    }
    reached = {
        key: (sum(math.isfinite(run.spent_for("experiments", target)) for run in there), len(there))
        for key, there in runs.items()
    }
    return Verdict(
        arms=arms,
        objectives=objectives,
        reference=reference,
        target=target,
        level=level,
        gain={key: middle(values) for key, values in gains.items()},
        to_target=spent,
        reached=reached,
        ranks=_ranks(gains, arms, objectives),
        tests=_tests(gains, arms, objectives, reference),
        overall=overall(outcomes, target),
        scaling=scaling(outcomes, target),
        race=race,
        races=tuple(_race(runs, o, arm, race) for o in objectives for arm in arms) if race else (),
    )


def _race(runs: Mapping[tuple[str, str], list[Outcome]], objective: str, arm: str, other: str) -> Race:
    goal, mine = runs[(objective, other)], runs[(objective, arm)]
    level = median(run.gain(run.total.truth) for run in goal)
    hours, slot_hours = (
        middle([run.spent_for(measure, level - 1e-9) for run in mine])
        for measure in ("wall_hours", "slot_hours")
    )
    total_hours, total_slot_hours = (
        median(getattr(run.total, measure) for run in goal) for measure in ("wall_hours", "slot_hours")
    )
    got_there = math.isfinite(hours.value) and hours.value > 0
    return Race(
        objective=objective,
        arm=arm,
        level=level,
        reached=sum(math.isfinite(run.spent_for("wall_hours", level - 1e-9)) for run in mine),
        of=len(mine),
        wall_hours=hours,
        slot_hours=slot_hours,
        speed_up=total_hours / hours.value if got_there else None,
        cost=slot_hours.value / total_slot_hours if got_there else None,
    )


def _common(
    runs: Mapping[tuple[str, str], list[Outcome]], equal: str, objective: str, arms: Sequence[str]
) -> float:
    """The most at which all arms can be compared: what the arm with the smallest budget could spend.

    A study that ended because nothing was left to try has its result from then on, whatever is spent.
    """
    totals = {arm: [getattr(run.total, equal) for run in runs[(objective, arm)]] for arm in arms}
    limited = [
        median(totals[arm])
        for arm in arms
        if any(run.reason.startswith("max_") for run in runs[(objective, arm)])
    ]
    return float(min(limited) if limited else max(max(spent) for spent in totals.values()))


def _gain(run: Outcome, equal: str, level: float) -> float:
    return run.best_at(equal, level * (1 + 1e-9))


def middle(values: Sequence[float]) -> Middle:
    """The median and its interval at 95 % or more."""
    from scipy.stats import binom

    ordered = sorted(values)
    n = len(ordered)
    skip = int(binom.ppf(0.025, n, 0.5))  # P(X < skip) <= 0.025 for X binomial, so both tails have 5 %
    skip = min(max(skip, 1), n) - 1
    return Middle(value=_median(ordered), low=ordered[skip], high=ordered[n - 1 - skip], n=n)


def spread_name(runs: int) -> str:
    """What `middle` gives around the median of so many runs."""
    return "range" if runs < FEWEST else "95 % interval"


def _median(ordered: list[float]) -> float:
    """Infinite where half of the runs or more are; never an average with infinity."""
    n = len(ordered)
    low, high = ordered[(n - 1) // 2], ordered[n // 2]
    return high if math.isinf(high) else (low + high) / 2


def _ranks(
    gains: Mapping[tuple[str, str, str], Sequence[float]], arms: Sequence[str], objectives: Sequence[str]
) -> dict[tuple[str, str], float]:
    """Mean ranks, ties shared."""
    from scipy.stats import rankdata

    found: dict[tuple[str, str], float] = {}
    for equal in EQUAL:
        rows = [
            rankdata([-round(gain, 12) for gain in row])
            for o in objectives
            for row in zip(*(gains[(equal, o, arm)] for arm in arms), strict=True)
        ]
        for arm, ranks in zip(arms, zip(*rows, strict=True), strict=True):
            found[(equal, arm)] = float(sum(ranks) / len(ranks))
    return found


def _tests(
    gains: Mapping[tuple[str, str, str], Sequence[float]],
    arms: Sequence[str],
    objectives: Sequence[str],
    reference: str,
) -> tuple[Test, ...]:
    tests = []
    for equal in EQUAL:
        for objective in objectives:
            for arm in arms:
                if arm != reference:
                    pairs = zip(
                        gains[(equal, objective, arm)], gains[(equal, objective, reference)], strict=True
                    )
                    differences = [round(mine - theirs, 12) for mine, theirs in pairs]
                    tests.append(_test(arm, objective, equal, differences))
    return _holm(tests)


def _test(arm: str, objective: str, equal: str, differences: Sequence[float]) -> Test:
    from scipy.stats import rankdata, wilcoxon

    p = effect = 0.0
    if any(differences):
        p = float(wilcoxon(differences, zero_method="pratt").pvalue)
        ranks = rankdata([abs(d) for d in differences])
        signed = sum(math.copysign(r, d) for r, d in zip(ranks, differences, strict=True) if d)
        effect = float(signed / sum(r for r, d in zip(ranks, differences, strict=True) if d))
    else:
        p = 1.0
    return Test(
        arm=arm,
        objective=objective,
        equal=equal,
        difference=float(median(differences)),
        effect=effect,
        p=p,
        p_holm=p,
        pairs=len(differences),
    )


def _holm(tests: Sequence[Test]) -> tuple[Test, ...]:
    """Holm's step-down: the smallest p times how many there are, the next times one less, never falling."""
    corrected: dict[int, float] = {}
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(tests)), key=lambda i: tests[i].p)):
        highest = max(highest, min(1.0, tests[index].p * (len(tests) - rank)))
        corrected[index] = highest
    return tuple(evolve(test, p_holm=corrected[index]) for index, test in enumerate(tests))
