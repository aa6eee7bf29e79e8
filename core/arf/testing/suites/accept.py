"""What every rule of acceptance must do, shown by whole studies in memory on an objective of known truth."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import pytest

from arf.interfaces import AcceptRule, Judgement, Strategy
from arf.judge.rule import judge
from arf.plugins.guards import wrong_judgement
from arf.study import Study
from arf.testing.laboratory import Laboratory
from arf.types import Ask, Experiment, Plan, Tier, Verdict


class EachIdea(Strategy):
    """Every idea on the incumbent, once."""

    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        slots = sum(free.values())
        plans = [
            Plan(parent=study.incumbent_commit, ideas=(i,)) for i in islice(study.untried, max(0, slots))
        ]
        base = study.incumbent_commit
        return [*plans, *([] if study.exhausted(base) or study.open_asks else [Ask(n=8, base=base)])]


class Sound(AcceptRule):
    """A rule, with everything checked that it says."""

    def __init__(self, inner: AcceptRule) -> None:
        super().__init__(inner.options)
        self._inner = inner

    def judge(self, study: Study, candidates: Sequence[Experiment]) -> Judgement:
        given = self._inner.judge(study, candidates)
        assert not wrong_judgement(given, study, candidates)
        allowed = (Verdict.KEEP, Verdict.DISCARD, Verdict.MEASURED)
        assert all(verdict in allowed and reason for _, verdict, reason in given.verdicts)
        return given


def _few_matter(ideas: frozenset[int]) -> float:
    """One idea of eight is better by six standard deviations, the others do nothing."""
    return -6.0 * sum(idea % 8 == 0 for idea in ideas)


class AcceptRuleSuite(ABC):
    """Subclass it, implement `make`, and name it `Test…`."""

    @abstractmethod
    def make(self) -> AcceptRule:
        """A rule as a study would make it."""

    def laboratory(self, **settings: Any) -> Laboratory:
        given = {"ideas": 40, "tiers": [Tier(name="a", slots=3)], "truth": _few_matter, **settings}
        return Laboratory(EachIdea(), accept_rule=Sound(self.make()), **given)

    @pytest.mark.parametrize("seed", range(3))
    def test_what_is_far_better_is_accepted_and_nothing_is_left_undecided(self, seed: int) -> None:
        laboratory = self.laboratory(seed=seed)
        laboratory.run()
        assert laboratory.best <= -6.0
        assert not list(laboratory.study.undecided)
        assert not laboratory.study.running_count

    def test_what_is_worse_is_rejected(self) -> None:
        laboratory = self.laboratory(truth=lambda ideas: 20.0 * len(ideas), ideas=10)
        laboratory.run()
        assert laboratory.best == 0.0

    def test_several_tiers_are_never_compared_raw(self) -> None:
        laboratory = self.laboratory(tiers=[Tier(name="a", slots=2), Tier(name="b", slots=1)])
        laboratory.run()
        assert not list(laboratory.study.undecided)

    def test_failed_runs_hold_nothing_up(self) -> None:
        laboratory = self.laboratory(crash=lambda experiment: experiment.id % 3 == 0)
        laboratory.run()
        assert not list(laboratory.study.undecided)

    def test_the_same_study_gives_the_same_judgement_and_judging_changes_nothing(self) -> None:
        laboratory = self.laboratory()
        laboratory.run(turns=25)
        before = copy.deepcopy(vars(laboratory.study))
        assert judge(laboratory.study, self.make()) == judge(laboratory.study, self.make())
        assert vars(laboratory.study) == before

    def test_a_judgement_does_not_walk_over_the_whole_history(self) -> None:
        laboratory = self.laboratory(ideas=300)
        laboratory.run(turns=200)
        walks = laboratory.study.walks
        judge(laboratory.study, self.make())
        assert laboratory.study.walks == walks, "a judgement goes over all experiments: use the indexes"
