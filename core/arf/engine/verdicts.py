"""Verdicts, as the judge gives them: what is kept becomes the incumbent, once it was looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import evolve

from arf.judge.rule import judge
from arf.types import Experiment, Role, Verdict

if TYPE_CHECKING:
    from arf.engine.claims import Claims
    from arf.engine.contenders import Contenders
    from arf.engine.course import Course
    from arf.engine.doubts import Doubts
    from arf.engine.ledger import Ledger
    from arf.engine.monitor import Monitor
    from arf.engine.tasks import Tasks
    from arf.interfaces import AcceptRule, Workspace


class Verdicts:
    """Gives verdicts, within a turn."""

    def __init__(
        self,
        *,
        accept_rule: AcceptRule,
        ledger: Ledger,
        workspace: Workspace,
        doubts: Doubts,
        contenders: Contenders,
        claims: Claims,
        monitors: Sequence[Monitor],
        tasks: Tasks,
        course: Course,
    ) -> None:
        self._study = ledger.study
        self._accept_rule = accept_rule
        self._ledger = ledger
        self._workspace = workspace
        self._doubts = doubts
        self._contenders = contenders
        self._claims = claims
        self._monitors = monitors
        self._tasks = tasks
        self._course = course

    def give(self) -> None:
        """Record every verdict that can be given now, and the incumbent that follows from them."""
        judgement = judge(self._study, self._accept_rule)
        for experiment_id, verdict, reason in judgement.verdicts:
            experiment = self._study.experiments[experiment_id]
            if verdict is Verdict.KEEP and self._doubts.is_in_doubt(experiment):
                verdict, reason = Verdict.SUSPECT, "another run of the same code is suspect"
            elif verdict is Verdict.KEEP and experiment.role is not Role.BASELINE:
                looked = self._contenders.of(experiment)
                if looked is None:
                    self._look_at(experiment)
                    break  # what comes after it was judged as if it were kept
                verdict, reason = looked.verdict or verdict, looked.reason or reason
            self._record(evolve(experiment, verdict=verdict, reason=reason))
        best = judgement.incumbent
        if best is not None and self._may_lead(self._study.experiments[best]):
            self._change_incumbent(best)
        self._claims.settle()

    def _record(self, judged: Experiment) -> None:
        self._contenders.forget(judged)
        self._ledger.move(judged)
        if judged.verdict is Verdict.SUSPECT:
            self._doubts.tell(judged)
        if judged.verdict is Verdict.KEEP:
            self._workspace.publish_best(self._study.name, judged.commit)
            for monitor in self._monitors:
                monitor.kept(judged)

    def close(self, why: str) -> None:
        """Discard what can be decided no more."""
        for experiment_id in list(self._study.undecided):
            experiment = self._study.experiments[experiment_id]
            reason = f"not decided before the budget ended ({why})"
            self._ledger.move(evolve(experiment, verdict=Verdict.DISCARD, reason=reason))

    def ship_claimed(self) -> None:
        """Complete the last claim with the runs that there are; what it measured is the best from now on."""
        self._claims.settle(closing=True)
        claim = self._study.claims.get(len(self._study.claim_plans))
        if claim is not None and claim.gain > 0 and not self._claims.open:
            measured = self._study.experiments[claim.experiment]
            if measured.tree != self._study.incumbent_tree and self._may_lead(measured):
                self._change_incumbent(claim.experiment)

    def _may_lead(self, experiment: Experiment) -> bool:
        return not self._doubts.is_in_doubt(experiment) and self._contenders.may_lead(experiment)

    def _change_incumbent(self, number: int) -> None:
        self._ledger.change_incumbent(number)
        self._ledger.event("incumbent", f"#{number} is the incumbent again, by the runs so far")
        self._workspace.publish_best(self._study.name, self._study.incumbent_commit)

    def _look_at(self, experiment: Experiment) -> None:
        """Have a run looked at that may be kept; its verdict waits for what comes of it."""
        if not self._contenders.begin(experiment):
            return

        async def look() -> None:
            await self._contenders.look(experiment)
            self._course.wake.set()

        self._tasks.spawn(look())
