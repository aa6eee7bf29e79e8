"""What the cheap looks say: the order of the ideas, how far it can be trusted, and who is promoted."""

from __future__ import annotations

import math
from collections.abc import Iterator

from attrs import define, field

from arf.agreement import FEWEST, Agreement, agreement, share_to_promote
from arf.stats import noise
from arf.study import Study
from arf.types import Experiment, ExperimentState, Role
from arf_plugins.strategy_two_tier.rungs import Rung

WINDOW = 128
"""Screening runs, the latest ones, among which an idea is ranked."""
TRUST_WINDOW = 64
"""Dear runs, the latest ones, from which the rank agreement is estimated."""
WORTHLESS = 0.1
"""With the upper end of the rank agreement's interval under this, screening says nothing."""


@define
class Screening:
    """What a screening rung says at a moment. The study must not move on meanwhile."""

    study: Study
    rung: Rung
    final: Rung
    recall: float
    most: float
    ranked: list[tuple[float, Experiment]] = field(init=False)
    """Screened ideas of the window with their gain over their parent on this rung, best first."""
    screened: int = field(init=False, default=0)
    """How many ideas of the window have been screened; those that crashed included."""
    trust: Agreement = field(init=False)
    """How well this rung has ranked, by what the final one said."""

    def __attrs_post_init__(self) -> None:
        self.ranked = self._rank()
        self.trust = agreement(self._pairs())

    @property
    def is_worthless(self) -> bool:
        return self.trust.n >= FEWEST and self.trust.high < WORTHLESS

    @property
    def share(self) -> float:
        """The share of the screened ideas that is promoted.

        Follows from the lower end of the rank agreement's interval: while little is known, more are promoted.
        """
        return min(self.most, share_to_promote(self.trust.low, recall=self.recall))

    def deserving(self) -> Iterator[tuple[int, Experiment]]:
        """Of the best `share` those that are still to be promoted, with their rank from 1."""
        for rank, (_, experiment) in enumerate(self.ranked[: int(self.share * self.screened)], 1):
            if not self.is_promoted(experiment):
                yield rank, experiment

    def runners_up(self, least: float) -> Iterator[tuple[int, Experiment]]:
        """Those whose gain is over so many standard errors and that are still to be promoted, best first."""
        known = noise(self.study, self.rung.tier, self.rung.budget)
        floor = least * (known.sigma * math.sqrt(2) if known else 0.0)
        for rank, (gain, experiment) in enumerate(self.ranked, 1):
            if gain <= floor:
                return
            if not self.is_promoted(experiment):
                yield rank, experiment

    def is_promoted(self, experiment: Experiment) -> bool:
        """Whether its idea has been run on the final rung, or cannot be on the incumbent."""
        if (self.study.incumbent_commit, experiment.ideas) in self.study.refusals:
            return True
        runs = (self.study.experiments[number] for number in self.study.with_idea(experiment.ideas[0]))
        return any(run.role is Role.CANDIDATE for run in runs)

    def _rank(self) -> list[tuple[float, Experiment]]:
        ranked = []
        for number in self.study.by_round(self.rung.round)[-WINDOW:]:
            experiment = self.study.experiments[number]
            if experiment.role is not Role.CELL or experiment.state is not ExperimentState.ENDED:
                continue
            self.screened += 1
            gain = self._gain(experiment, self.rung)
            if gain is not None:
                ranked.append((gain, experiment))
        return sorted(ranked, key=lambda item: (-item[0], item[1].id))

    def _gain(self, experiment: Experiment, rung: Rung) -> float | None:
        """How much better than its parent it is, both on one rung; None while one has no value there."""
        group = self.study.group_at(experiment.commit, rung.tier, rung.budget)
        parent = self.study.group_at(experiment.parent, rung.tier, rung.budget)
        if group is None or parent is None or not group.n or not parent.n:
            return None
        return self.study.objective.gain(parent.mean, group.mean)

    def _pairs(self) -> list[tuple[float, float]]:
        """(gain here, gain on the final rung) of the latest ideas that have run on both."""
        pairs = []
        for number in self.study.by_role(Role.CANDIDATE)[-TRUST_WINDOW:]:
            dear = self.study.experiments[number]
            cheap = self._screen_of(dear) if len(dear.ideas) == 1 else None
            if cheap is not None and dear.state is ExperimentState.ENDED:
                here, there = self._gain(cheap, self.rung), self._gain(dear, self.final)
                if here is not None and there is not None:
                    pairs.append((here, there))
        return pairs

    def _screen_of(self, dear: Experiment) -> Experiment | None:
        for number in self.study.with_idea(dear.ideas[0]):
            run = self.study.experiments[number]
            if run.role is Role.CELL and (run.tier, run.budget) == (self.rung.tier, self.rung.budget):
                return run
        return None

    # ---- For people ---------------------------------------------------------------------------

    def offset(self) -> str:
        """How the final rung reads the unchanged script against this one; empty while nobody knows.

        From the baseline, which was not chosen for its readings; by the two noises.
        """
        here = self.study.baseline_group(self.rung.tier, self.rung.budget)
        there = self.study.baseline_group(self.final.tier, self.final.budget)
        if here is None or there is None or not here.n or not there.n:
            return ""
        told = f"{self.final} reads {there.mean - here.mean:+.2g}"
        noises = noise(self.study, self.rung.tier, self.rung.budget), noise(self.study, self.final.tier)
        if noises[0] is not None and noises[1] is not None:
            told += f" ± {math.sqrt(noises[0].sigma ** 2 / here.n + noises[1].sigma ** 2 / there.n):.1g}"
        return told

    def promotion(self, rank: int, experiment: Experiment) -> str:
        """The title of a promotion."""
        title = self.study.ideas[experiment.ideas[0]].title
        facts = [f"{rank} of {self.screened} on {self.rung}", str(self.trust), self.offset()]
        return f"{title} (promoted: {'; '.join(fact for fact in facts if fact)})"
