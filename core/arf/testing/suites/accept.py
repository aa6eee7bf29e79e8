"""What every rule of acceptance must do: decide each candidate in the end, by nothing but the study."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import define

from arf.interfaces import AcceptRule, Judgement
from arf.study import Study
from arf.types import Direction, Experiment, Verdict

if TYPE_CHECKING:
    from arf.testing.laboratory import Laboratory

GOOD = 7
"""The idea that is better by far in the suite's studies."""


@define
class _Checked(AcceptRule):
    """A rule whose every answer is checked."""

    suite: AcceptRuleSuite

    def judge(self, study: Study, candidates: Sequence[Experiment]) -> Judgement:
        before = _told(study)
        given = self.suite.make().judge(study, candidates)
        assert isinstance(given, Judgement)
        assert self.suite.make().judge(study, candidates) == given, "it has a state of its own"
        assert _told(study) == before, "it changes the study"
        numbers = [number for number, _, _ in given.verdicts]
        assert len(set(numbers)) == len(numbers), "two verdicts on one experiment"
        assert set(numbers) <= {one.id for one in candidates}, "a verdict on what was no candidate"
        for _, verdict, reason in given.verdicts:
            assert verdict in (Verdict.KEEP, Verdict.DISCARD, Verdict.MEASURED)
            assert reason, "a verdict without a reason"
            assert len(reason.splitlines()) == 1
        return given


class AcceptRuleSuite(ABC):
    """Subclass it, implement `make`, and name it `Test…`."""

    @abstractmethod
    def make(self) -> AcceptRule:
        """A rule as a study would make it."""

    def studied(self, direction: Direction = Direction.MIN, *, ideas: int = 12) -> Laboratory:
        """A whole study judged by the rule, in which one idea is better by far."""
        from arf.testing.fakes import FakeStrategy
        from arf.testing.laboratory import Laboratory

        laboratory = Laboratory(
            FakeStrategy(),
            ideas=ideas,
            accept_rule=_Checked(self),
            truth=lambda ideas: -50.0 if GOOD in ideas else 0.0,
            crash=lambda experiment: bool(experiment.ideas) and experiment.id % 5 == 0,
            direction=direction,
        )
        laboratory.run()
        return laboratory

    def test_every_experiment_gets_its_verdict(self) -> None:
        study = self.studied().study
        undecided = [one.id for one in study.experiments.values() if one.verdict is None]
        assert not undecided, "these stay undecided for ever, and so would a study"

    def test_what_is_better_by_far_is_accepted(self) -> None:
        laboratory = self.studied()
        tried = [one for one in laboratory.study.experiments.values() if GOOD in one.ideas]
        if any(one.value is not None for one in tried):
            assert laboratory.best == -50.0

    def test_more_may_be_better_as_well_as_less(self) -> None:
        """Two studies that are each other's mirror are judged alike."""
        verdicts = [
            [(one.id, one.verdict) for one in self.studied(direction).study.experiments.values()]
            for direction in Direction
        ]
        assert verdicts[0] == verdicts[1], "it does not heed the objective's direction"

    def test_a_study_without_ideas_ends_too(self) -> None:
        assert not self.studied(ideas=0).study.running_count


def _told(study: Study) -> Mapping[str, object]:
    """All that a study holds, but for how often it was walked over."""
    return {name: copy.deepcopy(value) for name, value in vars(study).items() if name != "walks"}
