"""When claims are begun, and with how many runs: at checkpoints, on request, and at the end of a study."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import evolve

from arf.engine import plan_constants
from arf.engine.budgets import Budgets
from arf.engine.ledger import Ledger
from arf.errors import ConflictError, UsageError
from arf.interfaces import ClaimRule, Recommendation, Strategy, Workspace
from arf.study import Study
from arf.types import ClaimPlan, Plan, Role, Scalar

log = logging.getLogger(__name__)

REQUEST = "claim"
"""A file of this name in a study's folder asks a running study for a claim."""


class Claims:
    """The claims of one study."""

    def __init__(
        self,
        study: Study,
        rule: ClaimRule,
        strategy: Strategy,
        ledger: Ledger,
        budgets: Budgets,
        workspace: Workspace,
        directory: Path,
        elapsed_s: Callable[[], float],
    ) -> None:
        self._study = study
        self._rule = rule
        self._strategy = strategy
        self._ledger = ledger
        self._budgets = budgets
        self._workspace = workspace
        self._request = directory / REQUEST
        self._elapsed_s = elapsed_s
        self._last_s = float(ledger.store.meta("claimed_s", 0.0))
        """When the last one was begun."""

    @property
    def share(self) -> float:
        """The share of the budget, at most, that is kept for a claim."""
        return self._rule.share

    @property
    def open(self) -> ClaimPlan | None:
        """The claim that is under way."""
        for number, plan in self._study.claim_plans.items():
            if number not in self._study.claims:
                return plan
        return None

    def is_asked_for(self) -> bool:
        """Whether somebody has asked for a claim that was not begun yet."""
        return self._request.exists()

    def plans(self) -> Sequence[Plan]:
        """What the open claim wants run; one is begun before if it is time for it."""
        if self.open is None:
            every = self._rule.every_s
            if self.is_asked_for():
                self._request.unlink(missing_ok=True)
                self._begin("asked for")
            elif every is not None and self._elapsed_s() - self._last_s >= every:
                self._begin("a checkpoint")
        plan = self.open
        return () if plan is None else self._rule.plans(self._study, plan)

    def final_plans(self) -> Sequence[Plan]:
        """The same at the end of a study, where what it has found was not claimed yet."""
        is_due = self._is_news() and not self.is_asked_for()
        if self.open is None and not self._budgets.is_time_up and is_due:
            self._begin("the end of the study")
        return self.plans()

    def _is_news(self) -> bool:
        """Whether anything was tried since the last claim."""
        if not self._study.claim_plans:
            return True
        last = f"claim/{len(self._study.claim_plans)}/pairs"
        measured = self._study.by_round(last)
        tried = max((self._study.by_role(role)[-1:] or [0])[0] for role in (Role.CANDIDATE, Role.CELL))
        return not measured or tried > measured[0]

    def settle(self, *, closing: bool = False) -> None:
        """Record what has come of the open claim, if that is known now."""
        plan = self.open
        if plan is None:
            return
        claim = self._rule.result(self._study, plan, closing=closing)
        prefix = f"claim/{plan.number}/"
        runs = any(self._study.experiments[n].round.startswith(prefix) for n in self._study.running)
        if claim is None and (runs or (self._rule.plans(self._study, plan) and not closing)):
            return
        self._ledger.complete_claim(plan.number, claim)
        text = "nothing could be measured" if claim is None else claim.text
        self._ledger.event("claim", f"claim {plan.number} ({plan.why}): {text}")

    def _begin(self, why: str) -> None:
        study = self._study
        patch = self._strategy.recommend(study)
        if patch is None:
            if study.incumbent_tree == study.base_tree:
                return
            patch = Recommendation(parent=study.incumbent_commit, gain=0.0, error=0.0)
        patch = self._taken_apart(patch)
        self._last_s = self._elapsed_s()
        self._ledger.store.set_meta("claimed_s", self._last_s)
        plan = self._rule.begin(study, patch, self._budgets.runs_left(), why)
        if plan is None:
            self._ledger.event("claim", f"no claim ({why}): there is nothing to claim, or too little budget")
            return
        self._ledger.begin_claim(plan)

    def _taken_apart(self, patch: Recommendation) -> Recommendation:
        """The patch as changes of the base, each of which can be taken back: code, and single constants.

        As it is, where it cannot be taken apart, since a change was made of what another one had made.
        """
        study = self._study
        code: list[int] = []
        values: dict[str, Scalar] = {}
        for idea in (*study.lineage(patch.parent), *patch.ideas):
            values |= study.ideas[idea].constants
            if not study.ideas[idea].constants:
                code.append(idea)
        base = {name: constant.value for name, constant in study.constants.items()}
        values = {name: value for name, value in values.items() if base.get(name) != value}
        plan = Plan(parent=study.base, ideas=tuple(dict.fromkeys(code)), constants=values)
        try:
            plan = plan_constants.with_ideas(plan, self._ledger, self._workspace, "claim")
            ideas = [study.ideas[idea] for idea in plan.ideas]
            self._workspace.compose(study.base, ideas, message="a claim")
        except (ConflictError, UsageError) as error:
            log.info("the patch is claimed as a whole: %s", error)
            return patch
        return evolve(patch, parent=study.base, ideas=plan.ideas)
