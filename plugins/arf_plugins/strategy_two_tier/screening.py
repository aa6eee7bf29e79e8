"""What the cheap looks say: the order of the ideas, how far it can be trusted, and who is promoted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

from attrs import define

from arf.sdk.statistics import noise
from arf.sdk.strategies import STRONG, held_ideas
from arf.study import Study
from arf.types import Experiment, ExperimentState, Role
from arf_plugins.strategy_two_tier.rank_correlation import Agreement, agreement, share_to_promote
from arf_plugins.strategy_two_tier.rungs import Rung

WINDOW = 128
"""Screening runs, the latest ones, among which an idea is ranked."""
TRUST_WINDOW = 64
"""Dear runs, the latest ones, from which the rank agreement is estimated."""
FEWEST = 12
"""Pairs before which screening is not given up."""


@define(slots=False)
class Screening:
    """What a screening rung says at a moment. The study must not move on meanwhile."""

    study: Study
    rung: Rung
    final: Rung
    recall: float
    most: float

    @cached_property
    def held(self) -> set[int]:
        """The ideas that are in the incumbent."""
        return set(held_ideas(self.study))

    @cached_property
    def _ended(self) -> list[Experiment]:
        """The screening runs of the window that have ended."""
        experiments = self.study.experiments
        runs = (experiments[number] for number in self.study.by_round(self.rung.round)[-WINDOW:])
        return [run for run in runs if run.state is ExperimentState.ENDED]

    @cached_property
    def _pool(self) -> list[Experiment]:
        """Those that are ranked: screened on the incumbent, or on an older one and still of interest.

        What has been promoted by then has had its chance; and a change of a constant that the incumbent
        has changed itself by now says little about it.
        """
        constants = {name for idea in self.held for name in self.study.ideas[idea].constants}
        pool = []
        for run in self._ended:
            if run.parent != self.study.incumbent_commit:
                rival = constants and constants & self.study.ideas[run.ideas[0]].constants.keys()
                if rival or run.value is None or self.is_promoted(run):
                    continue
            pool.append(run)
        return pool

    @property
    def screened(self) -> int:
        """How many ideas are ranked; those that crashed included."""
        return len(self._pool)

    @cached_property
    def ranked(self) -> list[tuple[float, Experiment]]:
        """Screened ideas with their gain over their parent on this rung, best first."""
        gains = ((self._gain(run, self.rung), run) for run in self._pool)
        known = [(gain, run) for gain, run in gains if gain is not None]
        return sorted(known, key=lambda item: (-item[0], item[1].id))

    @cached_property
    def trust(self) -> Agreement:
        """How well this rung has ranked, by what the final one said."""
        gains = (self._gain(run, self.rung) for run in self._ended)
        return agreement(self._pairs(), everything=[gain for gain in gains if gain is not None])

    @property
    def is_worthless(self) -> bool:
        """Whether screening narrows nothing down, even if it ranks as well as it possibly may."""
        return self.trust.n >= FEWEST and share_to_promote(self.trust.high, recall=self.recall) > self.most

    @property
    def share(self) -> float:
        """The share of the screened ideas that is promoted.

        Follows from the lower end of the rank agreement's interval: while little is known, more are promoted.
        """
        return min(self.most, share_to_promote(self.trust.low, recall=self.recall))

    @cached_property
    def _best(self) -> list[tuple[float, Experiment]]:
        """The best `share`, and all that are clearly better than their parent, as far as `most` allows."""
        clear = sum(gain >= STRONG * self._error for gain, _ in self.ranked) if self._error else 0
        share, most = int(self.share * self.screened), int(self.most * self.screened)
        return self.ranked[: max(share, min(clear, most))]

    @cached_property
    def _error(self) -> float:
        """The standard error of a gain from one run each; 0 while it is not known."""
        known = noise(self.study, self.rung.tier, self.rung.budget)
        return math.sqrt(2) * known.sigma if known else 0.0

    def deserving(self) -> Iterator[tuple[int, Experiment]]:
        """Of the best those that are still to be promoted, with their rank from 1."""
        for rank, (_, experiment) in enumerate(self._best, 1):
            if not self.is_promoted(experiment):
                yield rank, experiment

    def runners_up(self, least: float) -> Iterator[tuple[int, Experiment]]:
        """Those whose gain is over so many standard errors and that are still to be promoted, best first."""
        floor = least * self._error
        for rank, (gain, experiment) in enumerate(self.ranked, 1):
            if gain <= floor:
                return
            if not self.is_promoted(experiment):
                yield rank, experiment

    def strong(self) -> list[tuple[int, ...]]:
        """Of the best those whose gain is clear and that have been in no candidate, best first."""
        clear = [run for gain, run in self._best if gain >= STRONG * self._error > 0]
        return [run.ideas for run in clear if not self.is_promoted(run) and not self._candidates(run)]

    def is_promoted(self, experiment: Experiment) -> bool:
        """Whether its idea has been run on the final rung, is there with others, or cannot be."""
        if (self.study.incumbent_commit, experiment.ideas) in self.study.refusals:
            return True
        if experiment.ideas[0] in self.held:
            return True
        return any(len(run.ideas) == 1 or run.verdict is None for run in self._candidates(experiment))

    def _candidates(self, experiment: Experiment) -> list[Experiment]:
        """The candidates that its idea has been in, by itself or with others."""
        runs = (self.study.experiments[number] for number in self.study.with_idea(experiment.ideas[0]))
        return [run for run in runs if run.role is Role.CANDIDATE]

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
