"""What every rule of claims must do, shown on studies in memory of known truth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from arf.interfaces import ClaimRule, Recommendation, Strategy
from arf.study import Study
from arf.testing.laboratory import Laboratory
from arf.types import Ask, Plan, Role, Tier


class Patch(Strategy):
    """Asks for ideas once, runs nothing, and recommends some of them."""

    def __init__(self, ideas: tuple[int, ...]) -> None:
        super().__init__(None)
        self._ideas = ideas

    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        if study.exhausted(study.base) or study.open_asks:
            return []
        return [Ask(n=max(self._ideas, default=1), base=study.base)]

    def recommend(self, study: Study) -> Recommendation | None:
        return Recommendation(parent=study.base, ideas=self._ideas, gain=0.0, error=1.0)


class ClaimRuleSuite(ABC):
    """Subclass it, implement `make`, and name it `Test…`."""

    @abstractmethod
    def make(self) -> ClaimRule:
        """A rule as a study would make it."""

    @staticmethod
    def laboratory_with(patch: tuple[int, ...], **settings: Any) -> Laboratory:
        """A study that has run its baseline, and whose strategy recommends a patch."""
        lab = Laboratory(
            Patch(patch), ideas=max(patch, default=1), tiers=[Tier(name="a", slots=3)], **settings
        )
        lab.run()
        return lab

    def test_what_is_far_better_is_proven_and_what_is_worse_is_not(self) -> None:
        for effect, proven in ((-8.0, True), (8.0, False)):
            lab = self.laboratory_with((1,), truth=lambda ideas, effect=effect: effect * len(ideas))
            claim = lab.claim(self.make())
            assert claim is not None
            assert claim.proven is proven
            assert claim.gain * effect < 0
            assert claim.text

    def test_its_runs_are_of_its_own_role_and_round_on_one_tier(self) -> None:
        lab = self.laboratory_with((1, 2, 3), truth=lambda ideas: -4.0 * len(ideas))
        lab.claim(self.make())
        runs = [lab.study.experiments[number] for number in lab.study.by_role(Role.CLAIM)]
        assert runs
        assert all(run.round.startswith("claim/1/") for run in runs)
        assert len({run.tier for run in runs}) == 1

    def test_it_goes_on_where_it_was_with_any_object(self) -> None:
        lab = self.laboratory_with((1, 2), truth=lambda ideas: -4.0 * len(ideas))
        patch = lab.strategy.recommend(lab.study)
        assert patch is not None
        plan = self.make().begin(lab.study, patch, 100, "a test")
        assert plan is not None
        lab.tell("begin_claim", plan)
        while wanted := self.make().plans(lab.study, plan):
            assert self.make().result(lab.study, plan) is None
            assert list(wanted) == list(self.make().plans(lab.study, plan))
            for item in list(wanted)[: lab.free()[plan.tier]]:
                lab.accept(item, plan.tier)
            while lab.study.running_count:
                lab.end(next(iter(lab.study.running)))
            lab.give_verdicts()
        claim = self.make().result(lab.study, plan)
        assert claim is not None
        assert claim == self.make().result(lab.study, plan, closing=True)

    def test_it_ends_where_every_run_of_the_patch_fails(self) -> None:
        lab = self.laboratory_with(
            (1, 2), truth=lambda ideas: 0.0, crash=lambda experiment: bool(experiment.ideas)
        )
        claim = lab.claim(self.make())
        assert claim is None or not claim.proven

    def test_it_is_open_about_what_it_takes(self) -> None:
        rule = self.make()
        lab = self.laboratory_with((1,), truth=lambda ideas: 0.0)
        assert rule.runs(lab.study) >= 0
        assert 0 <= rule.share < 1
        assert rule.every_s is None or rule.every_s > 0
