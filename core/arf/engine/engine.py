"""The engine: the only part with state, and the only writer of the store and of git.

One asyncio process. What happens outside (a job ends, an agent answers, a user says stop) lands in an
inbox; a *turn* takes it in, judges, decides and writes, all in one transaction; only then is anything
started. Between turns the engine makes ready what the next free slot will probably be given: the decision
is made again when the slot is free, so a wrong guess costs nothing but the preparation.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from arf.engine import plan_constants, plans, submissions
from arf.engine.asks import Answered, Thinker
from arf.engine.budgets import Budgets
from arf.engine.claims import Claims
from arf.engine.contenders import Contenders
from arf.engine.course import Course
from arf.engine.disk import Disk
from arf.engine.doubts import Doubts
from arf.engine.ends import Ends, FailedBaseline
from arf.engine.ledger import Ledger
from arf.engine.monitor import Monitor, Use
from arf.engine.runner import Ended, Inbox, JobRunner, Refusal
from arf.engine.scheduler import Scheduler
from arf.engine.submissions import OrderBook, Ordered, Withdrawn
from arf.engine.tasks import Tasks
from arf.engine.verdicts import Verdicts
from arf.engine.watch import Normal, Watch
from arf.errors import ArfError, LostError, SpentError, StoreError, UsageError, WorkspaceError
from arf.interfaces import AcceptRule, Agent, Brief, ClaimRule, Strategy, SubmissionQueue, Tried
from arf.judge.statistics import SEED_ADVICE, ignores_seed
from arf.store.database import DATABASE, Store
from arf.study import Study
from arf.types import Ask, Draft, Experiment, ExperimentState, Reading, Submission

if TYPE_CHECKING:
    from arf.config.schema import Budget
    from arf.engine.runs import Run
    from arf.interfaces import Workspace

log = logging.getLogger(__name__)

ANSWER_S = 300.0
"""How long an answer is awaited once the budget is used up: only its cost still counts."""
LOOK_INTERVAL_S = 60.0
"""How often the monitors look, and the database is looked at."""


@frozen(kw_only=True)
class Parts:
    """The plugins of a study that the engine asks."""

    strategy: Strategy
    strategy_name: str
    accept: AcceptRule
    claim: ClaimRule
    agent: Agent
    agent_name: str
    fallback: Agent | None = None
    """Answers while the agent cannot."""
    fallback_name: str = ""
    events: Any
    """Where observers are told: an object with the event hooks as methods."""


@frozen(kw_only=True)
class Surroundings:
    """What lies above the engine, which knows none of it by name; `arf.launch` puts it together."""

    monitors: Sequence[Monitor]
    queue: Callable[[Engine, str, int | None], SubmissionQueue]
    """What the agent of that name gets as `Brief.queue`, in the course of an ask."""
    summarize: Callable[[Store], dict[str, Any]]
    """What `arf status` shows."""
    explain: Callable[[FailedBaseline], str] = lambda failed: ""
    """The hint on how to mend a baseline."""
    beside: Sequence[Callable[[Engine], Coroutine[Any, Any, None]]] = ()
    """What runs beside the study until it ends, such as reading requests of other processes."""


class Engine(Inbox):
    """Runs one study to its end. Made by `arf.launch`; `run` may be called once."""

    def __init__(
        self,
        *,
        study: Study,
        store: Store,
        workspace: Workspace,
        runner: JobRunner,
        contenders: Contenders,
        parts: Parts,
        budget: Budget,
        around: Surroundings,
        resumed: bool = False,
    ) -> None:
        self.study = study
        self.store = store
        self.workspace = workspace
        self.directory = store.directory
        self._runner = runner
        self.parts = parts
        self._around = around
        self._resumed = resumed
        self._inbox: deque[Ended | Answered | Ordered | Withdrawn] = deque()
        self._course = Course()
        self._tasks = Tasks(self._course.fail)
        self._disk = Disk(workspace, store, self._tasks)
        self._began = 0.0
        self._elapsed_before_s = float(store.meta("elapsed_s", 0.0))
        self._ledger = ledger = Ledger(study, store, runner.now)
        self._budgets = budgets = Budgets(budget, study, lambda: self.elapsed_s, parts.claim, self._held_usd)
        budgets.tried_s = float(store.meta("tried_s", 0.0))
        self.book = OrderBook(ledger, workspace, self._course.closed, self._put)
        self._thinker = Thinker(
            parts.agent,
            parts.agent_name,
            fallback=parts.fallback,
            fallback_name=parts.fallback_name,
            ledger=ledger,
            book=self.book,
            workspace=workspace,
            brief=self.brief,
            tell=self._put,
            has_time_budget=budget.max_time is not None,
        )
        self._doubts = Doubts(ledger)
        self._contenders = contenders
        claims = Claims(
            study,
            parts.claim,
            parts.strategy,
            ledger,
            budgets,
            workspace,
            self.directory,
            lambda: self.elapsed_s,
        )
        self._verdicts = Verdicts(
            accept_rule=parts.accept,
            ledger=ledger,
            workspace=workspace,
            doubts=self._doubts,
            contenders=contenders,
            claims=claims,
            monitors=around.monitors,
            tasks=self._tasks,
            course=self._course,
        )
        self._scheduler = Scheduler(
            strategy=parts.strategy,
            strategy_name=parts.strategy_name,
            accept_rule=parts.accept,
            workspace=workspace,
            runner=runner,
            ledger=ledger,
            book=self.book,
            thinker=self._thinker,
            budgets=budgets,
            claims=claims,
            doubts=self._doubts,
            course=self._course,
        )
        self._ends = Ends(
            runner=runner,
            ledger=ledger,
            budgets=budgets,
            doubts=self._doubts,
            contenders=contenders,
            course=self._course,
            monitors=around.monitors,
            explain=around.explain,
            start=self._start,
        )
        normal = Normal(**store.meta("normal", {}))
        runner.connect(self, self._tasks, {tier.name: tier.slots for tier in study.tiers}, normal)

    # ---- From outside -----------------------------------------------------------------------

    def stop(self, reason: str = "interrupted") -> None:
        """Ask the study to end: nothing more is planned, running jobs are ended and can be resumed."""
        self._course.stop(reason)

    def claim_only(self) -> None:
        """Search no more: what is still done is to claim what was found."""
        self._course.search_over = "only a claim was asked for"
        self._budgets.lift()

    @property
    def stopping(self) -> str:
        """Why the study is being stopped; empty if it is not."""
        return self._course.stopping

    @property
    def elapsed_s(self) -> float:
        """Seconds that the study has been running, all its sessions together."""
        if not self._began:
            return self._elapsed_before_s
        return self._elapsed_before_s + asyncio.get_running_loop().time() - self._began

    @property
    def jobs_left(self) -> int:
        """Jobs that go on without arf, because what it had recorded could not be gone on with."""
        return sum(bool(run.handle) for run in self._runner.runs.values())

    def progress(self, experiment_id: int) -> Watch | None:
        """What the log of a running experiment has said so far; None if it does not run."""
        run = self._runner.runs.get(experiment_id)
        return run.watch if run else None

    @property
    def budget_left(self) -> dict[str, float]:
        """What is left of the budgets that are set, as `Brief.budget_left`."""
        return self._budgets.left()

    def note(self, kind: str, *lines: str) -> None:
        """Write lines in the study's own log. Not within a turn."""
        with self.store.transaction():
            for line in lines:
                self._ledger.event(kind, line)

    def brief(self, base: str, agent: str = "", ask: int | None = None) -> Brief:
        """What an agent is told with an ask for ideas on `base`."""
        brief = agent_brief(self.study, self.workspace, base, self.directory)
        queue = self._around.queue(self, agent, ask)
        return evolve(brief, budget_left=self.budget_left, queue=queue)

    async def rule(self, number: int, *, accept: bool) -> str:
        """What a person says of a suspect experiment; gives a line on what follows from it.

        If it is accepted, what it ran is believed from now on and run again, to be judged like anything else.
        """
        experiment = self._doubts.take(number, accept=accept)
        if not accept:
            return f"experiment {number} stays out"
        again = Submission(ideas=experiment.ideas, base=experiment.parent)
        await self.book.order(f"accepted/{number}", [again], agent="person")
        return f"experiment {number} is believed; it runs again and is judged like anything else"

    async def try_out(self, draft: Draft, base: str, seconds: float) -> Tried:
        """Run a change for a short time on a free slot, and tell how that went."""
        if closed := self._course.closed():
            raise UsageError(closed)
        tier = next((tier for tier, count in self._scheduler.free().items() if count > 0), None)
        if tier is None:
            return Tried(text="no slot is free to try it out; it was only checked that the change applies")
        base = submissions.base_of(self.study, Submission(draft=draft, base=base))
        commit = self.workspace.make_idea(draft, base, message=submissions.message(draft))
        began = self.elapsed_s
        try:
            return await self._runner.try_out(commit, self.study.run_seed(0), tier, seconds)
        finally:
            self._budgets.tried_s += self.elapsed_s - began
            self._course.wake.set()

    # ---- The inbox --------------------------------------------------------------------------

    def started(self, run: Run) -> None:
        """Recorded at once, in a transaction of its own. What cannot be ends the study and its job."""
        run.experiment = evolve(
            run.experiment, state=ExperimentState.RUNNING, handle=run.handle, started_at=self._runner.now()
        )
        try:
            with self.store.transaction(durable=False):
                self._ledger.move(run.experiment)
        except (ArfError, OSError) as error:
            self._course.fail(error)
        self._announce()
        if self._course.is_ending:
            self._course.wake.set()
        if run.withdrawn:
            self._runner.cancel(run)

    def ended(self, end: Ended) -> None:
        if isinstance(end.how, Refusal):
            self._look_at_database()
        self._put(end)

    def heard(self, experiment: Experiment, readings: Sequence[Reading]) -> None:
        for reading in readings:
            self.parts.events.arf_reading(study=self.study, experiment=experiment, reading=reading)

    def _put(self, item: Ended | Answered | Ordered | Withdrawn) -> None:
        """For the next turn."""
        self._inbox.append(item)
        self._course.wake.set()

    # ---- A study from its beginning to its end ------------------------------------------------

    async def run(self) -> dict[str, Any]:
        """Run to the end and give the summary that `arf status` shows.

        Raises the ArfError that ended the study, if one did; everything is written by then.
        """
        self._began = asyncio.get_running_loop().time()
        self._record_state("running", "resumed" if self._resumed else "started")
        watcher = asyncio.ensure_future(self._watch())
        in_order = False
        try:
            now = self._runner.now()
            begun = [monitor.begin(self.elapsed_s, now) for monitor in self._around.monitors]
            if any(begun):
                await self._runner.count_slots()
            self._recover()
            await self._set_up()
            self.study.constants = plan_constants.settable(self.workspace, self.study.base)
            self.parts.events.arf_study_started(
                study=self.study, directory=self.directory, resumed=self._resumed
            )
            for service in self._around.beside:
                self._tasks.spawn(service(self))
            self._tasks.spawn(self._look_around())
            await self._loop()
            in_order = self._course.fatal is None
        except (ArfError, OSError) as error:
            self._note_failure(error)
            raise
        finally:
            watcher.cancel()
            await self._wind_up(remove_trees=in_order)
        return self._finish()

    async def _loop(self) -> None:
        while True:
            self._turn()
            if self._course.is_ending:
                await self._end_jobs()
                return
            if self._is_over():
                return
            await asyncio.sleep(0)  # what was decided is started first
            if not self._runner.backend.outlives_host:
                self._disk.settle()
            self._scheduler.prepare_ahead()
            await self._course.wake.wait()
            self._course.wake.clear()

    def _is_over(self) -> bool:
        """Whether nothing is under way that could bring anything more."""
        runner = self._runner
        under_way = runner.runs or self._thinker.is_busy or self._inbox or any(runner.tried_out.values())
        is_awaited = self._thinker.is_waited_for and not self._course.search_over
        return not (under_way or self._contenders.is_busy or is_awaited or self._course.wake.is_set())

    def _turn(self) -> None:
        """Take in what has happened, decide, write; then start what was decided."""
        accepted: list[Experiment] = []
        asked: list[tuple[int, Ask]] = []
        with self.store.transaction(durable=self._runner.backend.outlives_host):
            while self._inbox:
                self._take_in(self._inbox.popleft())
            self._judge()
            if not self._course.is_ending:
                self._scheduler.decide(accepted, asked)
            self._note_progress()
            if self._runner.backend.outlives_host:
                self.workspace.flush()
        self._announce()
        if self.book.has_replies and not self._runner.backend.outlives_host:
            self._disk.flush()
        self.book.reply()
        for experiment in accepted:
            self._start(experiment)
        for number, ask in asked:
            self._thinker.follow(number, self._tasks.spawn(self._thinker.think(number, ask)))

    def _take_in(self, item: Ended | Answered | Ordered | Withdrawn) -> None:
        if isinstance(item, Answered):
            self._thinker.take(item)
        elif isinstance(item, Ordered):
            self.book.take_order(item)
        elif isinstance(item, Withdrawn):
            self.book.take_withdrawal(item, self._ends.withdraw)
        else:
            self._ends.take(item)

    def _note_progress(self) -> None:
        self.store.set_meta("elapsed_s", round(self.elapsed_s, 3))
        if self._budgets.tried_s:
            self.store.set_meta("tried_s", round(self._budgets.tried_s, 3))
        idle = self._scheduler.idle()
        turned = [monitor.turned(self.elapsed_s, idle) for monitor in self._around.monitors]
        if any(turned):
            self._tasks.spawn(self._count_slots())

    async def _count_slots(self) -> None:
        await self._runner.count_slots()
        self._course.wake.set()

    def _announce(self) -> None:
        """Tell observers what was written."""
        events = self.parts.events
        asks, self._ledger.asks = self._ledger.asks, []
        for number, ask, usage, note in asks:
            if usage is None:
                events.arf_ask_opened(study=self.study, number=number, ask=ask)
            else:
                events.arf_ask_closed(study=self.study, number=number, ask=ask, usage=usage, note=note)
        changed, self._ledger.changed = self._ledger.changed, []
        for experiment in changed:
            events.arf_experiment_changed(study=self.study, experiment=experiment)

    def _judge(self) -> None:
        """Give verdicts, and look whether the search is over."""
        course = self._course
        self._verdicts.give()
        if not course.search_over:
            course.search_over, course.search_over_at = self._budgets.exceeded(), self.elapsed_s
        if self._is_answer_late():
            self._thinker.give_up()
        if course.search_over:
            if not self._runner.runs and not self._contenders.is_busy:
                self._verdicts.close(course.search_over)
            self.book.refuse_all(course.closed())

    def _is_answer_late(self) -> bool:
        is_late = self.elapsed_s - self._course.search_over_at >= ANSWER_S
        return bool(self._course.search_over) and is_late and self._thinker.is_busy

    def _start(self, experiment: Experiment) -> None:
        self._runner.start(experiment, [self.study.ideas[idea] for idea in experiment.ideas])

    # ---- Looking around -----------------------------------------------------------------------

    async def _watch(self) -> None:
        """About once a second: the logs of running jobs, the agent's absence, the budget."""
        while True:
            await asyncio.sleep(self._runner.watch_interval_s)
            self._runner.look(asyncio.get_running_loop().time())
            is_back = self._thinker.is_back(give_up=self._budgets.is_time_up)
            is_used_up = not self._course.search_over and bool(self._budgets.exceeded())
            if is_back or is_used_up or self._is_answer_late():
                self._course.wake.set()

    async def _look_around(self) -> None:
        """About once a minute: what the monitors look at, and the database."""
        await asyncio.sleep(self._runner.watch_interval_s)
        while True:
            for monitor in self._around.monitors:
                await monitor.look()
            self._look_at_database()
            await asyncio.sleep(LOOK_INTERVAL_S)

    def _look_at_database(self) -> None:
        try:
            if self.store.restore():
                text = f"{self.store.directory / DATABASE} had been deleted; it was written again"
                log.warning("%s", text)
                self._ledger.event("data", text)
        except StoreError as error:
            self._course.fail(error)

    def _held_usd(self) -> float:
        return max((monitor.usd for monitor in self._around.monitors), default=0.0)

    # ---- Beginning and end ------------------------------------------------------------------

    def _recover(self) -> None:
        """Take up what an earlier process left: jobs that may still run, asks that nobody answered."""
        with self.store.transaction():
            self._thinker.recover()
        for experiment_id in list(self.study.running):
            experiment = self.study.experiments[experiment_id]
            try:
                self._runner.adopt(experiment)
            except LostError as error:
                self._put(Ended(experiment_id, experiment.attempt, Refusal(error)))
            else:
                self._start(experiment)

    async def _set_up(self) -> None:
        """Run the workspace's set-up command, once for the study. Raises ArfError if it fails."""
        with self.store.transaction():  # until the first turn, whether or not there is a command
            waiting = [(tier, Use.SET_UP, slots) for tier, slots in self._runner.slots.items()]
            for monitor in self._around.monitors:
                monitor.turned(self.elapsed_s, waiting)
        if not self._runner.has_setup or self.store.meta("set_up", False):
            return
        study = self.study
        if await self._runner.set_up(
            study.base, study.run_seed(0), study.tiers[0].name, self._course.stopped
        ):
            with self.store.transaction():
                self.store.set_meta("set_up", True)

    async def _end_jobs(self) -> None:
        """Cancel what runs and take in how it ended."""
        self._thinker.cancel()
        cancelled: set[int] = set()
        while self._runner.runs:
            for experiment_id, run in self._runner.runs.items():
                if run.handle and experiment_id not in cancelled:
                    cancelled.add(experiment_id)
                    self._runner.cancel(run)
            await self._course.wake.wait()
            self._course.wake.clear()
            self._turn()

    async def _wind_up(self, *, remove_trees: bool) -> None:
        """Let go of everything. Trees stay where a job may be in one, or somebody may want to look at it."""
        await self._tasks.cancel()
        try:
            await self._thinker.aclose()
            await self._take_down()
        finally:
            await self._runner.backend.aclose()
            if remove_trees:
                self._runner.remove_trees()
            self.workspace.close()

    async def _take_down(self) -> None:
        """Nothing that costs money outlives its study unnoticed."""
        try:
            await self._runner.backend.down()
        except (ArfError, OSError) as error:
            log.warning("%s; `arf stop --down` tries again", error)
        for monitor in self._around.monitors:
            await monitor.look()

    def _note_failure(self, error: Exception) -> None:
        """Record why the study ends in the middle of a turn, unless nothing can be recorded."""
        if isinstance(error, StoreError):
            return
        try:
            self._record_state("failed", str(error))
        except StoreError as second:
            log.debug("why it failed is not recorded: %s", second)

    def _finish(self) -> dict[str, Any]:
        self._look_at_database()
        try:
            self.workspace.flush()
        except WorkspaceError as error:
            self._course.fail(error)
        if not self._course.is_ending:
            with self.store.transaction():
                self._verdicts.ship_claimed()
        if self.study.incumbent_experiment is not None:
            self.workspace.publish_best(self.study.name, self.study.incumbent_commit)
        gone = self._thinker.gone
        if isinstance(gone, SpentError):
            self._course.search_over = self._course.search_over or str(gone)
        elif not (self._course.stopping or self._course.search_over):
            self._course.fatal = self._course.fatal or gone
        course = self._course
        state = "failed" if course.fatal else "stopped" if course.stopping else "finished"
        reason = str(course.fatal or course.stopping or course.search_over or self._why_ended())
        with self.store.transaction():
            lost = plans.lost_ideas(self.study, *self.store.count_events("idea"))
            self.store.set_meta("notes", [*self._unseeded(), *lost, *self._runner.backend.notes()])
            self._note_progress()
        self._record_state(state, reason)
        summary = self._around.summarize(self.store)
        summary.update(state=state, pid=None)
        self._announce()
        summary["files"] = self.parts.events.arf_study_finished(
            study=self.study, directory=self.directory, summary=summary
        )
        if self._course.fatal is not None:
            raise self._course.fatal
        return summary

    def _unseeded(self) -> Iterator[str]:
        """That the script ignores its seed, if it does."""
        if any(ignores_seed(self.study, tier.name) for tier in self.study.tiers):
            yield SEED_ADVICE

    def _why_ended(self) -> str:
        why = self.parts.strategy.why_ended(self.study) or "nothing left to try"
        return f"{why}: {self._thinker.last_words}" if self._thinker.last_words else why

    def _record_state(self, state: str, reason: str) -> None:
        with self.store.transaction():
            self.store.set_meta("state", state)
            self.store.set_meta("end_reason", "" if state == "running" else reason)
            self.store.set_meta("elapsed_s", round(self.elapsed_s, 3))
            self._ledger.event("study", f"{state}: {reason}")


def agent_brief(study: Study, workspace: Workspace, base: str, home: Path) -> Brief:
    """What the agent of a study is told about a base, but for the budget that is left."""
    return Brief(
        study=study,
        files=workspace.files(base),
        program=workspace.program(base),
        directory=home / "agent",
        logs=home / "logs",
        diff=workspace.diff,
        is_editable=workspace.is_editable,
        workspace=workspace,
    )
