"""The hardware as it was measured: each tier against the first one, by runs of the same code on both.

Pure functions of runs. The baseline runs on every tier that there is, and what is kept often does: so a
study measures its hardware without a run of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from attrs import asdict, frozen

from arf.store.database import Store
from arf.study import Study
from arf.types import Experiment, Tier

COUNTERS = ("total_tokens_M", "num_steps", "steps", "step")
"""Metrics that say how much work a run did, the best first."""
TRAINING = ("training_seconds", "train_seconds")
"""Metrics that say how long a run trained."""
MEMORY_MB = {"peak_vram_mb": 1.0, "peak_memory_mb": 1.0, "peak_memory_gb": 1024.0}
"""Metrics that say how much memory a run needed, and their unit in MiB."""
SHARED_TREES = 8
"""So many of the newest kept trees are looked at, besides the baseline: the cost does not grow."""
NEWEST = 16
"""So many runs of each."""
SAME_TIME = 0.03
"""Runs without a counter of work whose times differ by less may have a fixed time: no speed follows."""

RunsOf = Callable[[str, str], Sequence[Experiment]]
"""The runs of a tree on a tier with the full budget."""
Sums = tuple[float, int]
"""Of a tier: the sum of squares within groups, and its degrees of freedom; their ratio is the variance."""


@frozen(kw_only=True)
class Measured:
    """One tier as its runs show it. All but `tier` and `runs` is None where it is not known."""

    tier: str
    runs: int
    """How many runs it was measured by."""
    seconds: float | None = None
    """A typical run, from its start to its end."""
    speed: float | None = None
    """Work a second against the first tier's; 1 on that."""
    memory_mb: float | None = None
    """The most that a run of the baseline needed."""
    sigma: float | None = None
    """The noise: standard deviation of the objective over runs of the same code."""
    df: int = 0
    """Degrees of freedom of `sigma`."""
    offset: float | None = None
    """What is to be added to the first tier's readings to get this one's, in units of the objective."""
    offset_error: float | None = None
    """The standard error of `offset`."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measured(study: Study) -> list[Measured]:
    """The tiers of a study on which anything has run well, in the backend's order."""

    def runs_of(tree: str, tier: str) -> Sequence[Experiment]:
        group = study.group(tree, tier)
        return [study.experiments[number] for number in group.experiments] if group else ()

    trees = [study.experiments[number].tree for number in study.kept[-SHARED_TREES:]]
    spreads = {tier.name: study.spread(tier.name) for tier in study.tiers}
    sums = {tier: (spread.sum_squares, spread.df) for tier, spread in spreads.items()}
    return measure(study.tiers, [study.base_tree, *trees], runs_of, sums)


def measured_in(store: Store, study: Study, kept: Sequence[Experiment]) -> list[Measured]:
    """The same from a study's database. `study` is as it began, `kept` what it has kept."""
    sums = {tier: both for (tier, budget), both in store.spreads().items() if budget is None}
    trees = [study.base_tree, *(experiment.tree for experiment in kept[-SHARED_TREES:])]
    return measure(study.tiers, trees, store.replicates, sums)


def measure(
    tiers: Sequence[Tier], trees: Sequence[str], runs_of: RunsOf, sums: Mapping[str, Sums]
) -> list[Measured]:
    """The tiers by the runs of some trees, the first of which is the baseline's."""
    seen = [_look(tier.name, dict.fromkeys(trees), runs_of, sums) for tier in tiers]
    seen = [one for one in seen if one.runs]
    return [_measured(one, seen[0]) for one in seen]


@frozen
class _Seen:
    """What ran well on a tier, by tree."""

    tier: str
    runs: Mapping[str, Sequence[Experiment]]
    sigma: float | None
    df: int


def _look(tier: str, trees: Iterable[str], runs_of: RunsOf, sums: Mapping[str, Sums]) -> _Seen:
    groups = {tree: [run for run in runs_of(tree, tier) if run.value is not None] for tree in trees}
    squares, df = sums.get(tier, (0.0, 0))
    sigma = math.sqrt(max(0.0, squares) / df) if df > 0 else None
    return _Seen(tier, {tree: runs[-NEWEST:] for tree, runs in groups.items() if runs}, sigma, df)


def _measured(here: _Seen, first: _Seen) -> Measured:
    baseline = next(iter(here.runs.values()))
    offset, error = (None, None) if here is first else _offset(here, first)
    return Measured(
        tier=here.tier,
        runs=sum(map(len, here.runs.values())),
        seconds=median(run.slot_s for run in baseline),
        speed=1.0 if here is first else _speed(here, first),
        memory_mb=max((mb for run in baseline if (mb := _memory_mb(run)) is not None), default=None),
        sigma=here.sigma,
        df=here.df,
        offset=offset,
        offset_error=error,
    )


def _speed(here: _Seen, first: _Seen) -> float | None:
    pairs = [
        (run, other) for tree, runs in here.runs.items() for run in runs for other in first.runs.get(tree, ())
    ]
    ratios = [ratio for run, other in pairs if (ratio := pace(other, run)) is not None]
    if not ratios:
        return None
    ratio = median(ratios)
    counted = any(_is_counted(run) for run, _ in pairs)
    return None if not counted and abs(ratio - 1) < SAME_TIME else ratio


def _offset(here: _Seen, first: _Seen) -> tuple[float | None, float | None]:
    """The mean difference of the trees that both ran, and its standard error.

    By the noise of both tiers; or, where the trees scatter more about their mean than that (an idea may do
    more on one tier than on the other), by their scatter.
    """
    pairs = [(runs, first.runs[tree]) for tree, runs in here.runs.items() if tree in first.runs]
    if not pairs:
        return None, None
    differences = [_mean(mine) - _mean(its) for mine, its in pairs]
    offset = math.fsum(differences) / len(pairs)
    if here.sigma is None or first.sigma is None:
        return offset, None
    variances = (here.sigma**2 / len(mine) + first.sigma**2 / len(its) for mine, its in pairs)
    error = math.sqrt(math.fsum(variances)) / len(pairs)
    if len(pairs) > 2:
        squares = math.fsum((difference - offset) ** 2 for difference in differences)
        error = max(error, math.sqrt(squares / (len(pairs) - 1) / len(pairs)))
    return offset, error


def _mean(runs: Sequence[Experiment]) -> float:
    return math.fsum(run.value or 0.0 for run in runs) / len(runs)


def pace(run: Experiment, other: Experiment) -> float | None:
    """How many times as long as another run a run took for the same work; None if that cannot be told.

    By what both counted (tokens, steps), else by their times: with a fixed training time and no counter it is
    always about 1.
    """
    mine, its = training_s(run) or run.slot_s, training_s(other) or other.slot_s
    if mine <= 0 or its <= 0:
        return None
    for name in COUNTERS:
        done, there = run.metrics.get(name, 0.0), other.metrics.get(name, 0.0)
        if done > 0 and there > 0:
            return (mine / done) / (its / there)
    return mine / its


def training_s(run: Experiment) -> float | None:
    """How long a run says that it trained; None if it does not say."""
    return next((run.metrics[name] for name in TRAINING if run.metrics.get(name, 0.0) > 0), None)


def _is_counted(run: Experiment) -> bool:
    return any(run.metrics.get(name, 0.0) > 0 for name in COUNTERS)


def _memory_mb(run: Experiment) -> float | None:
    return next((run.metrics[name] * unit for name, unit in MEMORY_MB.items() if run.metrics.get(name)), None)
