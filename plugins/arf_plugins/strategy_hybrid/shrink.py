"""The smallest patch that keeps the gain, by leaving out one kept change at a time.

autoresearch keeps a simplification that costs nothing; here that is arithmetic. Every run is fresh: that a
change looked good when it was kept says nothing about what it adds now, with the others in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate

from attrs import frozen

from arf.sdk.statistics import noise, t_critical
from arf.sdk.strategies import Ideas, held_ideas
from arf.study import Study
from arf.types import Experiment, Plan, Role

LEVEL = 0.1
"""A change is needed if leaving it out is a loss at this level (one-sided Student's t)."""
FAILURES = 2
"""Failed runs of one set of ideas that are made up for."""


@frozen(kw_only=True)
class Loss:
    """What leaving something out costs."""

    value: float
    """In units of the objective; positive is worse without it."""
    error: float
    critical: float
    """Student's t beyond which it counts."""
    runs: int

    @property
    def is_real(self) -> bool:
        return self.value > self.critical * self.error

    def __str__(self) -> str:
        return f"{self.value:+.3g} ± {self.error:.2g} ({self.runs} runs without)"


def parts(study: Study) -> Ideas:
    """The changes that make up the incumbent, in order; those whose constants were all set anew left away."""
    held = held_ideas(study)
    needed: list[int] = []
    later: set[str] = set()
    for idea in reversed(held):
        constants = set(study.ideas[idea].constants)
        if not constants or not constants <= later:
            needed.append(idea)
        later |= constants
    return tuple(reversed(needed))


def cost(study: Study, runs: int) -> int:
    """Experiments that it takes, as far as can be said beforehand."""
    count = len(parts(study))
    return count * runs + _control_runs(count, runs) + runs if count > 1 else 0


def _control_runs(count: int, runs: int) -> int:
    """Runs of the whole, which every loss is against: by Dunnett (JASA 50, 1955) the root of their number."""
    return math.ceil(runs * math.sqrt(count))


def round_of(study: Study) -> str:
    return f"leave one out of #{study.incumbent_experiment}"


def missing_runs(study: Study, runs: int) -> Iterator[Plan]:
    """What is still to be run to know the smallest patch; nothing once it is known."""
    shrink = _Shrink.of(study)
    if shrink is None:
        return
    whole = _control_runs(len(shrink.ideas), runs) - shrink.started(())
    title = f"{round_of(study)}: all in"
    yield from [shrink.plan((), title)] * whole
    for idea in shrink.ideas:
        rest = shrink.without(idea)
        title = f"{round_of(study)}: without {study.ideas[idea].title}"
        yield from [shrink.plan(rest, title)] * shrink.lacking(rest, runs)
    if not shrink.is_measured(runs):
        return
    for smaller in shrink.smaller():
        lacking = shrink.lacking(smaller, runs)
        if lacking:
            title = f"{round_of(study)}: {len(smaller)} of {len(shrink.ideas)} changes"
            yield from [shrink.plan(smaller, title)] * lacking
            return
        loss = shrink.loss(smaller)
        if loss is None or not loss.is_real:
            return


def describe(study: Study) -> str:
    """A table for people of what each kept change is worth; empty if that was not measured."""
    shrink = _Shrink.of(study)
    if shrink is None or not shrink.runs:
        return ""
    lines = [f"What each change of the best (#{study.incumbent_experiment}) is worth, by leaving it out:", ""]
    for idea in shrink.ideas:
        loss = shrink.loss(shrink.without(idea))
        verdict = "cannot be taken out" if loss is None else ("needed" if loss.is_real else "not needed")
        lines.append(f"  {verdict:<20}{loss or ''!s:<36}{study.ideas[idea].title}")
    return "\n".join([*lines, "", _conclusion(study, shrink), ""])


def _conclusion(study: Study, shrink: _Shrink) -> str:
    for smaller in shrink.smaller():
        loss = shrink.loss(smaller)
        if loss is not None and not loss.is_real:
            run = shrink.first_run(smaller)
            titles = ", ".join(study.ideas[idea].title for idea in smaller)
            return (
                f"The smallest patch that keeps the gain has {len(smaller)} of {len(shrink.ideas)} changes "
                f"(experiment {run.id}, commit {run.commit[:12]}; loss {loss}): {titles}"
            )
    return f"All {len(shrink.ideas)} changes are needed, as far as these runs can tell."


@frozen(kw_only=True)
class _Shrink:
    """The leaving out from one incumbent, as far as it is."""

    study: Study
    ideas: Ideas
    tier: str
    runs: dict[Ideas, list[Experiment]]
    """By the ideas that were in; the empty set stands for the incumbent itself."""

    @classmethod
    def of(cls, study: Study) -> _Shrink | None:
        """None where there is nothing to leave out."""
        ideas = parts(study)
        if study.incumbent_experiment is None or len(ideas) < 2:
            return None
        runs: dict[Ideas, list[Experiment]] = {}
        for number in study.by_round(round_of(study)):
            run = study.experiments[number]
            runs.setdefault(run.ideas, []).append(run)
        tier = study.experiments[study.incumbent_experiment].tier
        return cls(study=study, ideas=ideas, tier=tier, runs=runs)

    def without(self, idea: int) -> Ideas:
        return tuple(other for other in self.ideas if other != idea)

    def plan(self, ideas: Ideas, title: str) -> Plan:
        parent = self.study.base if ideas else self.study.incumbent_commit
        return Plan(
            parent=parent,
            ideas=ideas,
            role=Role.REPLICATE,
            tier=self.tier,
            round=round_of(self.study),
            title=title,
        )

    def started(self, ideas: Ideas) -> int:
        """Runs of a set of ideas; some of those that failed do not count."""
        runs = self.runs.get(ideas, [])
        failed = sum(run.verdict is not None and run.value is None for run in runs)
        return len(runs) - min(failed, FAILURES)

    def lacking(self, ideas: Ideas, wanted: int) -> int:
        refused = (self.study.base, ideas) in self.study.refusals
        return 0 if refused else max(0, wanted - self.started(ideas))

    def values(self, ideas: Ideas) -> list[float]:
        return [run.value for run in self.runs.get(ideas, []) if run.value is not None]

    def is_measured(self, wanted: int) -> bool:
        """Whether every single change has been left out as often as wanted, and has ended."""
        if any(run.verdict is None for runs in self.runs.values() for run in runs):
            return False
        return not any(self.lacking(self.without(idea), wanted) for idea in self.ideas)

    def loss(self, ideas: Ideas) -> Loss | None:
        """What it costs to have only these in; None if that is not known."""
        whole, rest = self.values(()), self.values(ideas)
        known = noise(self.study, self.tier)
        if not whole or not rest or known is None:
            return None
        gain = self.study.objective.gain(math.fsum(rest) / len(rest), math.fsum(whole) / len(whole))
        error = known.sigma * math.sqrt(1 / len(whole) + 1 / len(rest))
        return Loss(value=gain, error=error, critical=t_critical(LEVEL, known.df), runs=len(rest))

    def smaller(self) -> Iterator[Ideas]:
        """Sets of changes that may do, the smallest first: without all that showed no loss by itself,
        then with one more of those back in, the one with the greatest loss first."""
        losses = {idea: self.loss(self.without(idea)) for idea in self.ideas}
        free = [(loss.value, idea) for idea, loss in losses.items() if loss is not None and not loss.is_real]
        back = [idea for _, idea in sorted(free, reverse=True)]
        if len(back) == len(self.ideas):
            back = back[1:]  # something must have brought the gain
        for returned in accumulate([()] + [(idea,) for idea in back], _joined):
            dropped = set(back) - set(returned)
            if not dropped:
                return
            yield tuple(idea for idea in self.ideas if idea not in dropped)

    def first_run(self, ideas: Ideas) -> Experiment:
        return self.runs[ideas][0]


def _joined(before: Ideas, more: Ideas) -> Ideas:
    return before + more
