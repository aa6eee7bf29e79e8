"""What the free slots are given: what the judge wants, what was ordered, what the strategy plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from arf.engine import plan_constants, plans, submissions
from arf.engine.monitor import Use
from arf.errors import ArfError, ConflictError, UsageError
from arf.judge.rule import judge
from arf.types import Ask, Experiment, Plan, Role

if TYPE_CHECKING:
    from arf.engine.asks import Thinker
    from arf.engine.budgets import Budgets
    from arf.engine.claims import Claims
    from arf.engine.course import Course
    from arf.engine.doubts import Doubts
    from arf.engine.ledger import Ledger
    from arf.engine.runner import JobRunner
    from arf.engine.submissions import OrderBook
    from arf.interfaces import AcceptRule, Strategy, Workspace

MAX_DECISIONS = 256
"""Decisions in a turn; then it is looked first whether the study was stopped meanwhile."""


class Scheduler:
    """Decides what is run and asked next, and has it recorded. What it accepts is not started yet."""

    def __init__(
        self,
        *,
        strategy: Strategy,
        strategy_name: str,
        accept_rule: AcceptRule,
        workspace: Workspace,
        runner: JobRunner,
        ledger: Ledger,
        book: OrderBook,
        thinker: Thinker,
        budgets: Budgets,
        claims: Claims,
        doubts: Doubts,
        course: Course,
    ) -> None:
        self._study = ledger.study
        self._workspace = workspace
        self._strategy = strategy
        self._strategy_name = strategy_name
        self._accept_rule = accept_rule
        self._runner = runner
        self._ledger = ledger
        self._book = book
        self._thinker = thinker
        self._budgets = budgets
        self._claims = claims
        self._doubts = doubts
        self._course = course

    def decide(self, accepted: list[Experiment], asked: list[tuple[int, Ask]]) -> None:
        """Fill the free slots: what the judge wants, what was ordered, what the strategy plans."""
        for _ in range(MAX_DECISIONS):
            free = self.free()
            if not self._fill(self._wanted(free), free, accepted, asked):
                planned = self._planned(free)
                if not self._fill(planned, free, accepted, asked):
                    return
        self._course.wake.set()

    def _fill(
        self,
        wanted: Sequence[Plan | Ask],
        free: dict[str, int],
        accepted: list[Experiment],
        asked: list[tuple[int, Ask]],
    ) -> bool:
        """Take up what can be; whether anything has changed by it."""
        moved = False
        for item in wanted:
            if isinstance(item, Ask):
                number = self._thinker.open(item)
                if number is not None:
                    asked.append((number, item))
                    moved = True
                continue
            tier = _tier_for(item, free)
            if tier is None or self._budgets.experiments_left <= 0:
                continue
            experiment = self._accept(item, tier)
            moved = True
            if experiment is not None:
                free[tier] -= 1
                accepted.append(experiment)
        return moved

    def _wanted(self, free: Mapping[str, int]) -> Sequence[Plan]:
        """What comes before all planning: runs without which something cannot be judged, and submissions."""
        if self._course.search_over:
            return ()
        replicates = [*judge(self._study, self._accept_rule).replicates, *self._claims.plans()]
        if not self._study.waiting:
            return replicates
        return [*replicates, *submissions.wanted(self._study, sum(free.values()))]

    def _planned(self, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        if self._course.search_over:
            return self._final_claim()
        try:
            decided = self._strategy.decide(self._study, free)
        except ArfError as error:
            self._course.fail(error)
            return ()
        if decided or self._study.waiting or judge(self._study, self._accept_rule).replicates:
            return decided
        return self._final_claim()

    def _final_claim(self) -> Sequence[Plan]:
        """The runs of the claim at the end, once nothing is under way that could still replace the best."""
        searching = any(self._study.experiments[e].role is not Role.CLAIM for e in self._study.running)
        if searching or self._study.open_asks or self._budgets.is_time_up:
            return ()
        return self._claims.final_plans()

    def free(self) -> dict[str, int]:
        tried_out = self._runner.tried_out
        return {
            tier: max(0, slots - self._study.running_on(tier) - tried_out.get(tier, 0))
            for tier, slots in self._runner.slots.items()
        }

    def _accept(self, plan: Plan, tier: str) -> Experiment | None:
        """Make an experiment of a plan, or refuse it; both are recorded."""
        number = self._ledger.next_experiment
        try:
            if plan.constants:
                plan = plan_constants.with_ideas(plan, self._ledger, self._workspace, self._strategy_name)
            made = plans.make_experiment(
                self._study, self._workspace, self._doubts, plan, tier, number, self._ledger.now()
            )
        except (ConflictError, UsageError) as error:
            if not plan.constants:  # else the idea of one of them was refused
                self._ledger.refuse(plan, str(error))
            if plan.order is not None:
                self._book.refuse(plan.order, str(error))
            return None
        experiment = self._runner.place(made)
        self._ledger.accept(experiment)
        if plan.order is not None:
            self._book.count_run(plan.order, experiment.id)
        return experiment

    def prepare_ahead(self) -> None:
        """Have the spare tree filled with what the next free slot will probably run."""
        if any(self.free().values()) or self._budgets.experiments_left <= 0:
            return
        free = {next(iter(self._runner.slots)): 1}
        wanted = self._wanted(free) or self._planned(free)
        plan = next((item for item in wanted if isinstance(item, Plan)), None)
        if plan is None:
            return
        try:
            composed = plans.compose(self._study, self._workspace, plan)
        except (ArfError, OSError):
            return  # said when its turn has come, if it still is so
        self._runner.prepare(composed.commit, self._study.run_seed(0))

    # ---- What idle slots wait for -------------------------------------------------------

    def idle(self) -> list[tuple[str, Use, int]]:
        """What the slots in which no experiment is are used for from now on, as (tier, use, slots)."""
        slots, tried_out, free = self._runner.slots, self._runner.tried_out, self.free()
        why = self._why_idle() if any(free.values()) else Use.NOTHING
        idle = [(tier, why, count) for tier, count in free.items() if count > 0]
        idle += [(tier, Use.TRIED, count) for tier, count in tried_out.items() if count]
        idle += [
            (tier.name, Use.ASIDE, tier.slots - slots[tier.name])
            for tier in self._study.tiers
            if tier.slots > slots[tier.name]
        ]
        return idle

    def _why_idle(self) -> Use:
        if self._course.is_ending or self._course.search_over:
            return Use.ENDING
        if (
            self._thinker.is_busy
            or self._study.open_asks
            or (self._thinker.is_waited_for and not self._course.search_over)
        ):
            return Use.AGENT
        measured = (Role.BASELINE, Role.REPLICATE)
        runs = [self._study.experiments[number] for number in self._study.running]
        if any(run.role is Role.CLAIM for run in runs):
            return Use.ENDING
        if any(self._study.undecided) or any(run.role in measured for run in runs):
            return Use.VERDICTS
        return Use.NOTHING


def _tier_for(plan: Plan, free: Mapping[str, int]) -> str | None:
    if plan.tier is not None:
        return plan.tier if free.get(plan.tier, 0) > 0 else None
    return next((tier for tier, count in free.items() if count > 0), None)
