"""Whole studies in memory with the real judge, on an objective whose truth is known.

For measuring what cannot be seen in a real study: how often something false is kept, how often something
true is found, what it costs, and how far a strategy gets. A study of 100 ideas takes about 20 ms.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from attrs import define, evolve, field

from arf.interfaces import AcceptRule, ClaimRule, Recommendation
from arf.judge.proof import Proof
from arf.judge.rule import judge
from arf.testing.suites.strategy import BASE, EPOCH, WatchedStudy, World, _tree
from arf.types import (
    Ask,
    Claim,
    Direction,
    Experiment,
    ExperimentState,
    JobState,
    NoiseRule,
    Objective,
    Plan,
    Role,
    Verdict,
)

Ideas = frozenset[int]


@define
class Laboratory(World):
    """A world whose results come from `truth` plus noise. Less is better; the noise is normal."""

    truth: Callable[[Ideas], float] = lambda ideas: 0.0
    """The mean of the objective with these ideas in."""
    sigma: float = 1.0
    scatter: Callable[[Ideas], float] = lambda ideas: 1.0
    """The noise with these ideas in, as a multiple of `sigma`."""
    shared: float = 0.0
    """The share of the noise's variance that runs with the same seed have in common."""
    rule: NoiseRule = field(factory=NoiseRule)
    accept_rule: AcceptRule = field(factory=Proof)
    claim_rule: ClaimRule | None = None
    """By which the best is measured at the end."""
    max_experiments: int | None = None
    """Without those of the claim."""

    def new_study(self) -> WatchedStudy:
        """A study in which nothing has happened."""
        return WatchedStudy(
            name="laboratory",
            base=BASE,
            base_tree=_tree(frozenset()),
            objective=Objective(direction=self.direction),
            seed=self.seed,
            rule=self.rule,
            tiers=self.tiers,
            max_experiments=self.max_experiments,
        )

    def run(self, turns: int = 1_000_000) -> None:
        """Go on until there is nothing more to do, then claim what was found."""
        for _ in range(turns):
            self.turns += 1
            self.settle()
            if self.study.running_count:
                self.end(self.chance.choice(list(self.study.running)))
            elif self.study.open_asks:
                self.answer(min(self.study.open_asks))
            else:
                break
            if self.study.open_asks and self.chance.random() < 0.5:
                self.answer(min(self.study.open_asks))
        if self.claim_rule is not None:
            self.claim(self.claim_rule)

    def claim(self, rule: ClaimRule) -> Claim | None:
        """Prune and measure what the strategy recommends, on all slots of the tier that decides."""
        study = self.study
        held = study.lineage(study.incumbent_commit)
        patch = self.strategy.recommend(study) or Recommendation(
            parent=study.base, ideas=held, gain=0.0, error=0.0
        )
        plan = rule.begin(study, patch, 10_000, "the end of the study")
        if plan is None:
            return None
        self.tell("begin_claim", plan)
        while wanted := rule.plans(study, plan) or study.running_count:
            for item in list(wanted)[: self.free()[plan.tier]] if not isinstance(wanted, int) else ():
                self.accept(item, plan.tier)
            self.end(min(study.running))
            self.give_verdicts()
        claim = rule.result(study, plan)
        self.tell("complete_claim", plan.number, claim)
        return claim

    def settle(self) -> None:
        """Judge; then fill the free slots, the judge's replicates first, as the engine does."""
        self.give_verdicts()
        for _ in range(200):
            free = self.free()
            wanted: list[Plan | Ask] = list(judge(self.study, self.accept_rule).replicates)
            wanted += self.strategy.decide(self.study, free)
            self.check(self, free, wanted)
            if not [item for item in wanted if self.carry_out(item)]:
                return
        raise AssertionError("200 decisions in a row, and each wants something new")

    def carry_out(self, item: Plan | Ask) -> bool:
        full = self.max_experiments is not None and len(self.study.experiments) >= self.max_experiments
        return False if full else super().carry_out(item)

    def give_verdicts(self) -> None:
        """Judge what has ended, as the engine does."""
        judgement = judge(self.study, self.accept_rule)
        for number, verdict, reason in judgement.verdicts:
            self.tell("put", evolve(self.study.experiments[number], verdict=verdict, reason=reason))
        if judgement.incumbent is not None:
            self.tell("change_incumbent", judgement.incumbent)

    def end(self, number: int) -> None:
        experiment = self.study.experiments[number]
        crashed = self.crash(experiment)
        ended = evolve(
            experiment,
            state=ExperimentState.ENDED,
            job_state=JobState.FAILED if crashed else JobState.SUCCEEDED,
            ended_at=EPOCH,
            value=None if crashed else self.value(experiment),
            verdict=Verdict.CRASH if crashed else None,
        )
        self.tell("put", ended)

    def value(self, experiment: Experiment) -> float:
        ideas = self.trees[experiment.commit]
        of_seed = random.Random(experiment.seed).gauss() if self.shared else 0.0
        of_run = self.chance.gauss()
        deviation = math.sqrt(self.shared) * of_seed + math.sqrt(1 - self.shared) * of_run
        value = self.truth(ideas) + self.sigma * self.scatter(ideas) * deviation
        return value if self.direction is Direction.MIN else -value

    def tell(self, method: str, *arguments: object) -> None:
        """Call a method of the study by its name."""
        getattr(self.study, method)(*arguments)

    # ---- What came of it --------------------------------------------------------------------

    @property
    def best(self) -> float:
        """The true mean of the incumbent."""
        return self.truth(self.trees[self.study.incumbent_commit])

    def keeps(self) -> list[tuple[Experiment, float]]:
        """What was kept after the baseline, each with its true gain over the incumbent that it replaced."""
        kept = [self.study.experiments[number] for number in self.study.kept]
        truths = [self.truth(self.trees[experiment.commit]) for experiment in kept]
        return [(e, old - new) for e, old, new in zip(kept[1:], truths[:-1], truths[1:], strict=True)]

    def runs_of(self, role: Role) -> int:
        """How many experiments had a role."""
        return len(self.study.by_role(role))
