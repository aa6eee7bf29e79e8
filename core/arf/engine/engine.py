"""The engine: the only part with state, and the only writer of the store and of git.

One asyncio process. What happens outside (a job ends, an agent answers, a user says stop) lands in an
inbox; a *turn* takes it in, judges, decides and writes, all in one transaction; only then is anything
started. Between turns the engine makes ready what the next free slot will probably be given: the decision
is made again when the slot is free, so a wrong guess costs nothing but the preparation.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import asdict, evolve, frozen

from arf.engine import plan_constants, submissions
from arf.engine.asks import Answered, Thinker
from arf.engine.budgets import Budgets
from arf.engine.claims import Claims
from arf.engine.contenders import Contenders
from arf.engine.doubts import Doubts
from arf.engine.ledger import Ledger
from arf.engine.runs import Ready, Run, Trees, read_result, tried_out
from arf.engine.submissions import OrderBook, Submitted
from arf.engine.watch import LogTail, Normal, Watch, WatchLimits, counted_metrics, last_lines
from arf.errors import ArfError, ConflictError, LostError, SpentError, StoreError, UsageError, WorkspaceError
from arf.interfaces import AcceptRule, Agent, Backend, Brief, ClaimRule, MetricParser, Strategy, Tried
from arf.judge.rule import judge
from arf.judge.statistics import SEED_ADVICE, ignores_seed
from arf.sandbox.boxes import Boxes
from arf.status import costs, held_resources
from arf.status.diagnosis import after_failed_baseline
from arf.status.estimate import Estimate, estimate, lines
from arf.status.node_health import Nodes, Suspect
from arf.status.shared_data import LinkedData
from arf.status.slot_usage import SlotUsage, Use
from arf.status.summary import summarize
from arf.store.database import DATABASE, Store
from arf.study import Study
from arf.submissions.local import LocalQueue, read_mail
from arf.types import (
    Ask,
    Draft,
    Experiment,
    ExperimentState,
    Job,
    JobResult,
    JobState,
    Plan,
    Role,
    Submission,
    Verdict,
)

if TYPE_CHECKING:
    from arf.config.schema import Config
    from arf.interfaces import Composed, Workspace, WorkTree
    from arf.plugins.registry import Events
    from arf.submissions.remote import Mailbox

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_ATTEMPTS = 3
"""Runs of one experiment: preempted and lost jobs are run again, twice at most (after a bad node, more)."""
MAX_REFUSED_JOBS = 3
"""Jobs in a row that the backend would not take, after which the study ends."""
MAX_DECISIONS = 256
"""Decisions in a turn; then it is looked first whether the study was stopped meanwhile."""
WATCH_INTERVAL_S = 1.0
ANSWER_S = 300.0
"""How long an answer is awaited once the budget is used up: only its cost still counts."""
STANDING_INTERVAL_S = 60.0
"""How often is noted what the backend holds, such as clusters, and what that costs."""


def _ideas(n: int) -> str:
    return "1 idea was" if n == 1 else f"{n:,} ideas were"


def _fixed_sources(workspace: Workspace, base: str) -> Iterator[str]:
    """The Python files that ideas cannot change."""
    for path in sorted(workspace.tracked(base)):
        if path.endswith(".py") and not workspace.is_editable(path):
            file = workspace.read(base, path)
            if file is not None:
                yield file.data.decode("utf-8", "replace")


@frozen
class _Ended:
    experiment_id: int
    attempt: int
    result: JobResult


@frozen
class _Refused:
    """The backend would not take the job."""

    experiment_id: int
    attempt: int
    error: Exception


@frozen(eq=False)
class _Ordered:
    """A request from the queue."""

    key: str
    submissions: tuple[Submitted, ...]
    agent: str
    ask: int | None
    reply: asyncio.Future[list[int]]
    """The numbers of its orders, once they are recorded."""


@frozen(eq=False)
class _Withdrawn:
    orders: tuple[int, ...]
    experiments: tuple[int, ...]
    reply: asyncio.Future[str]


class Engine:
    """Runs one study to its end. Made by `arf.launch`; `run` may be called once."""

    def __init__(
        self,
        *,
        study: Study,
        store: Store,
        workspace: Workspace,
        config: Config,
        strategy: Strategy,
        agent: Agent,
        backend: Backend,
        parser: MetricParser,
        accept: AcceptRule,
        claim: ClaimRule,
        events: Events,
        job_env: Mapping[str, str],
        command: str | tuple[str, ...],
        fallback: Agent | None = None,
        resumed: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        mailbox: Mailbox | None = None,
        tail: Callable[[Path], LogTail] = LogTail,
        watch_interval_s: float = WATCH_INTERVAL_S,
    ) -> None:
        self.study = study
        self.store = store
        self.workspace = workspace
        self.config = config
        self.directory = store.directory
        self._strategy = strategy
        self._backend = backend
        self._parser = parser
        self._accept_rule = accept
        self._events = events
        self._env = dict(job_env)
        self._command = command
        self._resumed = resumed
        self._now = now
        self._tail = tail
        self._watch_interval_s = watch_interval_s
        self._mailbox = mailbox
        self._inbox: deque[_Ended | _Refused | Answered | _Ordered | _Withdrawn] = deque()
        self._replies: list[Callable[[], None]] = []
        """What is told once the transaction is written."""
        self._tried_out: dict[str, int] = {}
        """Slots in use for trying changes out, by tier."""
        self._wake = asyncio.Event()
        self._is_settled = True
        self._settling: asyncio.Task[None] | None = None
        self._runs: dict[int, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._trees = Trees(workspace, self.directory / "trees")
        self._boxes = Boxes(
            config.sandbox,
            command=command,
            env=self._env,
            workspace=workspace.directory,
            top=workspace.top,
            linked=workspace.links().values(),
            private=config.evaluation.private,
            sources=_fixed_sources(workspace, study.base),
        )
        self._contenders = Contenders(
            config=config,
            study=study,
            directory=self.directory,
            trees=self._trees,
            boxes=self._boxes,
            backend=backend,
            parser=parser,
            env=self._env,
            tail=tail,
        )
        self._ready: Ready | None = None
        self._stopping = ""
        self._fatal: ArfError | None = None
        self._search_over = ""
        self._search_over_at = 0.0
        """In `elapsed_s`."""
        self._refused_jobs = 0
        self._refusals: dict[int, int] = {}
        """How often an experiment's job was refused since one was not."""
        self._normal = Normal(**store.meta("normal", {}))
        self._began = 0.0
        self._elapsed_before_s = float(store.meta("elapsed_s", 0.0))
        self._ledger = Ledger(study, store, now)
        self._budgets = Budgets(config.budget, study, lambda: self.elapsed_s, claim)
        self._budgets.standing_usd = held_resources.told(store)["usd"]
        self._budgets.tried_s = float(store.meta("tried_s", 0.0))
        self._claims = Claims(
            study,
            claim,
            strategy,
            self._ledger,
            self._budgets,
            workspace,
            self.directory,
            lambda: self.elapsed_s,
        )
        self._book = OrderBook(self._ledger, workspace, self._closed)
        self._thinker = Thinker(
            agent,
            config.agent.name,
            fallback=fallback,
            fallback_name=config.study.fallback or "",
            ledger=self._ledger,
            book=self._book,
            workspace=workspace,
            brief=self._brief,
            tell=self._tell_answer,
            has_time_budget=config.budget.max_time is not None,
        )
        self._doubts = Doubts(self._ledger)
        self._slots = {tier.name: tier.slots for tier in study.tiers}
        self._nodes = Nodes(study, backend.node_of, store.meta("nodes"))
        self._nodes_changed = False
        self._slot_usage = SlotUsage(store.meta("timesheet"))

    # ---- From outside -----------------------------------------------------------------------

    def stop(self, reason: str = "interrupted") -> None:
        """Ask the study to end: nothing more is planned, running jobs are ended and can be resumed."""
        self._stopping = self._stopping or reason
        self._wake.set()

    @property
    def stopping(self) -> str:
        """Why the study is being stopped; empty if it is not."""
        return self._stopping

    @property
    def elapsed_s(self) -> float:
        """Seconds that the study has been running, all its sessions together."""
        if not self._began:
            return self._elapsed_before_s
        return self._elapsed_before_s + asyncio.get_running_loop().time() - self._began

    def estimate(self) -> Estimate:
        """What is still to come, by the budgets, also for the study's own log. Asks nobody."""
        usual = self._thinker.usual_cost(self._brief(self.study.incumbent_commit))
        told = estimate(
            self.study, self.config.budget, self._budgets.left(), self.config.limits.budget_s, usual
        )
        told = evolve(told, claim_share=self._claims.share)
        with self.store.transaction():
            for line in lines(told, self.config.agent.name):
                self._ledger.event("estimate", line)
        return told

    def progress(self, experiment_id: int) -> Watch | None:
        """What the log of a running experiment has said so far; None if it does not run."""
        run = self._runs.get(experiment_id)
        return run.watch if run else None

    async def run(self) -> dict[str, Any]:
        """Run to the end and give the summary that `arf status` shows.

        Raises the ArfError that ended the study, if one did; everything is written by then.
        """
        self._began = asyncio.get_running_loop().time()
        self._record_state("running", "resumed" if self._resumed else "started")
        self._slot_usage.begin(self.elapsed_s, self._now())
        watcher = asyncio.ensure_future(self._watch())
        in_order = False
        try:
            await self._keep_aside()
            self._recover()
            self._slot_usage.look(self.elapsed_s, [(t, Use.SET_UP, n) for t, n in self._slots.items()])
            await self._set_up()
            self.study.constants = plan_constants.settable(self.workspace, self.study.base)
            self._events.arf_study_started(study=self.study, directory=self.directory, resumed=self._resumed)
            if self._mailbox is not None:
                self._spawn(read_mail(self, self._mailbox))
            self._spawn(self._keep_account())
            await self._loop()
            in_order = self._fatal is None
        except (ArfError, OSError) as error:
            self._note_failure(error)
            raise
        finally:
            watcher.cancel()
            await self._wind_up(remove_trees=in_order)
        return self._finish()

    @property
    def jobs_left(self) -> int:
        """Jobs that go on without arf, because what it had recorded could not be gone on with."""
        return sum(bool(run.handle) for run in self._runs.values())

    async def _loop(self) -> None:
        while True:
            self._turn()
            if self._stopping or self._fatal is not None:
                await self._end_jobs()
                return
            if self._is_over():
                return
            await asyncio.sleep(0)  # what was decided is started first
            self._settle()
            self._prepare_ahead()
            await self._wake.wait()
            self._wake.clear()

    def _is_over(self) -> bool:
        """Whether nothing is under way that could bring anything more."""
        under_way = self._runs or self._thinker.is_busy or self._inbox or any(self._tried_out.values())
        under_way = under_way or self._contenders.is_busy
        return not under_way and not self._is_waiting_for_agent() and not self._wake.is_set()

    def _is_waiting_for_agent(self) -> bool:
        return self._thinker.is_waited_for and not self._search_over

    # ---- A turn -----------------------------------------------------------------------------

    def _turn(self) -> None:
        """Take in what has happened, decide, write; then start what was decided."""
        accepted: list[Experiment] = []
        asked: list[tuple[int, Ask]] = []
        with self.store.transaction(durable=self._backend.outlives_host):
            while self._inbox:
                self._take_in(self._inbox.popleft())
            self._judge()
            if not self._stopping and self._fatal is None:
                self._decide(accepted, asked)
            self.store.set_meta("elapsed_s", round(self.elapsed_s, 3))
            if self._budgets.tried_s:
                self.store.set_meta("tried_s", round(self._budgets.tried_s, 3))
            self._look_at_slots()
            if self._backend.outlives_host:
                self.workspace.flush()
        self._announce()
        replies, self._replies = self._replies, []
        if replies and not self._backend.outlives_host:
            self._flush()
        for reply in replies:
            reply()
        for experiment in accepted:
            self._start(experiment)
        for number, ask in asked:
            self._thinker.follow(number, self._spawn(self._thinker.think(number, ask)))

    def _settle(self) -> None:
        """Have put on disk what a turn has written, where that did not come first."""
        if self._backend.outlives_host or not self.store.is_file:
            return
        self._is_settled = False
        if self._settling is None or self._settling.done():
            self._settling = self._spawn(self._put_on_disk())

    async def _put_on_disk(self) -> None:
        """In a thread: a disk that is busy with somebody's checkpoint can take seconds."""
        while not self._is_settled:
            self._is_settled = True
            await asyncio.to_thread(self._flush)

    def _flush(self) -> None:
        self.workspace.flush()
        self.store.flush()

    def _look_at_slots(self) -> None:
        """Note what the slots are used for from now on."""
        free = self._free()
        why = self._why_idle() if any(free.values()) else Use.NOTHING
        idle = [(tier, why, count) for tier, count in free.items() if count > 0]
        idle += [(tier, Use.TRIED, count) for tier, count in self._tried_out.items() if count]
        idle += [
            (tier.name, Use.ASIDE, tier.slots - self._slots[tier.name])
            for tier in self.study.tiers
            if tier.slots > self._slots[tier.name]
        ]
        self._slot_usage.look(self.elapsed_s, idle)
        self.store.set_meta("timesheet", self._slot_usage.to_json())
        if self._nodes_changed:
            self.store.set_meta("nodes", self._nodes.to_json())
            self._nodes_changed = False

    def _why_idle(self) -> Use:
        if self._stopping or self._fatal is not None or self._search_over:
            return Use.ENDING
        if self._thinker.is_busy or self.study.open_asks or self._is_waiting_for_agent():
            return Use.AGENT
        measured = (Role.BASELINE, Role.REPLICATE)
        runs = [self.study.experiments[number] for number in self.study.running]
        if any(run.role is Role.CLAIM for run in runs):
            return Use.ENDING
        if any(self.study.undecided) or any(run.role in measured for run in runs):
            return Use.VERDICTS
        return Use.NOTHING

    def _take_in(self, item: _Ended | _Refused | Answered | _Ordered | _Withdrawn) -> None:
        if isinstance(item, Answered):
            self._thinker.take(item)
        elif isinstance(item, _Ordered):
            self._take_order(item)
        elif isinstance(item, _Withdrawn):
            self._take_withdrawal(item)
        else:
            self._take_end(item)

    def _take_end(self, item: _Ended | _Refused) -> None:
        run = self._runs.get(item.experiment_id)
        if run is None or run.experiment.attempt != item.attempt:
            return
        del self._runs[item.experiment_id]
        if isinstance(item, _Refused):
            self._take_refusal(run, item.error)
        else:
            self._refused_jobs = 0
            self._refusals.pop(item.experiment_id, None)
            self._take_result(run, item.result)
        if not (isinstance(item, _Refused) and run.handle):  # else a job may still be in it
            self._trees.give_back(run.tree)

    def _take_refusal(self, run: Run, error: Exception) -> None:
        """The job could not be had. Where all are refused that says nothing of an experiment, which stays.

        It is submitted again under the same key: it may be there in spite of the error.
        """
        experiment = run.experiment
        if isinstance(error, LostError):
            run.problem = str(error)  # there is nothing to run any more
        else:
            refused = self._refusals[experiment.id] = self._refusals.get(experiment.id, 0) + 1
            self._refused_jobs += 1
            if self._refused_jobs >= MAX_REFUSED_JOBS:
                self._fail(error)
            if self._fatal is None and refused >= MAX_REFUSED_JOBS:
                run.problem = f"refused again: {error}"
        if run.problem or run.withdrawn:
            if run.handle:
                self._spawn(self._cancel(run.handle))
            state = JobState.CANCELLED if run.withdrawn else JobState.LOST
            self._take_result(run, JobResult(state=state, ended_at=self._now(), message=str(error)))
            return
        again = evolve(experiment, state=ExperimentState.ACCEPTED, handle="", reason=f"refused: {error}")
        self._ledger.move(again)
        if not self._stopping and self._fatal is None:
            self._requeue(again, run.tree if run.handle else None)

    def _judge(self) -> None:
        judgement = judge(self.study, self._accept_rule)
        for experiment_id, verdict, reason in judgement.verdicts:
            experiment = self.study.experiments[experiment_id]
            if verdict is Verdict.KEEP and self._doubts.is_in_doubt(experiment):
                verdict, reason = Verdict.SUSPECT, "another run of the same code is suspect"
            elif verdict is Verdict.KEEP and experiment.role is not Role.BASELINE:
                looked = self._contenders.of(experiment)
                if looked is None:
                    self._look_at(experiment)
                    break  # what comes after it was judged as if it were kept
                verdict, reason = looked.verdict or verdict, looked.reason or reason
            judged = evolve(experiment, verdict=verdict, reason=reason)
            self._contenders.forget(judged)
            self._ledger.move(judged)
            if verdict is Verdict.SUSPECT:
                self._doubts.tell(judged)
            if verdict is Verdict.KEEP:
                self.workspace.publish_best(self.study.name, experiment.commit)
                if experiment.role is not Role.BASELINE:
                    costs.note_keep(self.store, self.study, experiment)
        best = judgement.incumbent
        if best is not None and self._may_lead(self.study.experiments[best]):
            self._change_incumbent(best)
        self._claims.settle()
        if not self._search_over:
            self._search_over, self._search_over_at = self._budgets.exceeded(), self.elapsed_s
        if self._is_answer_late():
            self._thinker.give_up()
        if self._search_over and not self._runs and not self._contenders.is_busy:
            for experiment_id in list(self.study.undecided):
                experiment = self.study.experiments[experiment_id]
                reason = f"not decided before the budget ended ({self._search_over})"
                self._ledger.move(evolve(experiment, verdict=Verdict.DISCARD, reason=reason))
        if self._search_over:
            self._book.refuse_all(self._closed())

    def _may_lead(self, experiment: Experiment) -> bool:
        return not self._doubts.is_in_doubt(experiment) and self._contenders.may_lead(experiment)

    def _look_at(self, experiment: Experiment) -> None:
        """Have a run looked at that may be kept; its verdict waits for what comes of it."""
        if not self._contenders.begin(experiment):
            return

        async def look() -> None:
            await self._contenders.look(experiment)
            self._wake.set()

        self._spawn(look())

    def claim_only(self) -> None:
        """Search no more: what is still done is to claim what was found."""
        self._search_over = "only a claim was asked for"
        self._budgets.lift()

    def _change_incumbent(self, number: int) -> None:
        self._ledger.change_incumbent(number)
        self._ledger.event("incumbent", f"#{number} is the incumbent again, by the runs so far")
        self.workspace.publish_best(self.study.name, self.study.incumbent_commit)

    def _is_answer_late(self) -> bool:
        is_late = self.elapsed_s - self._search_over_at >= ANSWER_S
        return bool(self._search_over) and is_late and self._thinker.is_busy

    def _closed(self) -> str:
        """Why nothing more can be ordered; empty while something can."""
        return f"the study's budget is used up ({self._search_over})" if self._search_over else ""

    def _decide(self, accepted: list[Experiment], asked: list[tuple[int, Ask]]) -> None:
        """Fill the free slots: what the judge wants, what was ordered, what the strategy plans."""
        for _ in range(MAX_DECISIONS):
            free = self._free()
            if not self._fill(self._wanted(free), free, accepted, asked):
                planned = self._planned(free)
                if not self._fill(planned, free, accepted, asked):
                    return
        self._wake.set()

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
            tier = self._tier_for(item, free)
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
        if self._search_over:
            return ()
        replicates = [*judge(self.study, self._accept_rule).replicates, *self._claims.plans()]
        if not self.study.waiting:
            return replicates
        return [*replicates, *submissions.wanted(self.study, sum(free.values()))]

    def _planned(self, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        if self._search_over:
            return self._final_claim()
        try:
            decided = self._strategy.decide(self.study, free)
        except ArfError as error:
            self._fatal = self._fatal or error
            self._wake.set()
            return ()
        if decided or self.study.waiting or judge(self.study, self._accept_rule).replicates:
            return decided
        return self._final_claim()

    def _final_claim(self) -> Sequence[Plan]:
        """The runs of the claim at the end, once nothing is under way that could still replace the best."""
        searching = any(self.study.experiments[e].role is not Role.CLAIM for e in self.study.running)
        if searching or self.study.open_asks or self._budgets.is_time_up:
            return ()
        return self._claims.final_plans()

    def _free(self) -> dict[str, int]:
        return {
            tier: max(0, slots - self.study.running_on(tier) - self._tried_out.get(tier, 0))
            for tier, slots in self._slots.items()
        }

    def _tier_for(self, plan: Plan, free: Mapping[str, int]) -> str | None:
        if plan.tier is not None:
            return plan.tier if free.get(plan.tier, 0) > 0 else None
        return next((tier for tier, count in free.items() if count > 0), None)

    # ---- Accepting and starting -------------------------------------------------------------

    def _accept(self, plan: Plan, tier: str) -> Experiment | None:
        """Make an experiment of a plan, or refuse it; both are recorded."""
        try:
            if plan.constants:
                author = self.config.strategy.name
                plan = plan_constants.with_ideas(plan, self._ledger, self.workspace, author)
            composed = self._compose(plan)
            self._check_new(plan, composed, tier)
        except (ConflictError, UsageError) as error:
            if not plan.constants:  # else the idea of one of them was refused
                self._ledger.refuse(plan, str(error))
            if plan.order is not None:
                self._book.refuse(plan.order, str(error))
            return None
        group = self.study.group(composed.tree, tier, plan.budget)
        seed = self.study.run_seed(len(group.experiments) if group else 0) if plan.seed is None else plan.seed
        tree, filled = self._take_tree(composed.commit, seed)
        experiment = Experiment(
            id=self._ledger.next_experiment,
            role=plan.role,
            parent=plan.parent,
            ideas=plan.ideas,
            commit=composed.commit,
            tree=composed.tree,
            tier=tier,
            seed=seed,
            budget=plan.budget,
            round=plan.round,
            title=plan.title or self._title(plan),
            directory=tree.directory.relative_to(self.directory).as_posix(),
            accepted_at=self._now(),
        )
        self._runs[experiment.id] = Run(experiment, tree, self._new_watch(experiment), filled)
        self._ledger.accept(experiment)
        if plan.order is not None:
            self._book.count_run(plan.order, experiment.id)
        return experiment

    def _compose(self, plan: Plan) -> Composed:
        ideas = [self.study.ideas[idea] for idea in plan.ideas]
        ideas += plan_constants.provisional(plan, self.study)
        return self.workspace.compose(plan.parent, ideas, message=plan.title or self._title(plan))

    def _check_new(self, plan: Plan, composed: Composed, tier: str) -> None:
        if plan.role in (Role.BASELINE, Role.REPLICATE, Role.PROMOTION, Role.CLAIM):
            return
        group = self.study.group(composed.tree, tier, plan.budget)
        if group is not None:
            runs = [self.study.experiments[number] for number in group.experiments]
            if self._doubts.is_accepted(composed.tree) and all(run.value is None for run in runs):
                return
            roles = {run.role for run in runs}
            # The cells of a design were only measured: the best one may still stand as a candidate.
            measured = Role.CELL in roles and roles <= {Role.CELL, Role.REPLICATE}
            if plan.role is Role.CELL or not measured:
                raise UsageError(f"the same code as experiment {group.experiments[0]}")
        if composed.tree == self.study.base_tree:
            raise UsageError("the same code as the baseline")

    def _title(self, plan: Plan) -> str:
        if plan.ideas:
            return " + ".join(self.study.ideas[idea].title for idea in plan.ideas)
        return "baseline" if plan.role is Role.BASELINE else f"{plan.role} of {plan.parent[:7]}"

    def _take_tree(self, commit: str, seed: int) -> tuple[WorkTree, bool]:
        """A tree for a run, and whether it holds the commit already."""
        if self._ready is not None and self._ready.commit == commit:
            tree = self._ready.tree
            self._ready = None
            return tree, seed == self.study.run_seed(0)
        return self._trees.take(), False

    def _new_watch(self, experiment: Experiment) -> Watch:
        return Watch(
            tail=self._tail(self.log_path(experiment)), parser=self._parser, objective=self.study.objective
        )

    def log_path(self, experiment: Experiment) -> Path:
        """The log of an experiment's last attempt."""
        return self.directory / "logs" / f"{experiment.id:06d}.log"

    def _start(self, experiment: Experiment) -> None:
        run = self._runs[experiment.id]
        self._spawn(self._run_job(run))

    async def _run_job(self, run: Run) -> None:
        """Bring an experiment to the backend and wait for its end; the rest is for the next turn."""
        experiment = run.experiment
        try:
            if not run.handle:
                self._keep(experiment)
                if not run.filled:
                    run.tree.fill(experiment.commit, experiment.seed)
                run.handle = await self._backend.submit(self._job(run))
                self._try_to_record_started(run)
            result = await self._backend.wait(run.handle)
        except Exception as error:
            self._look_at_database()
            self._inbox.append(_Refused(experiment.id, experiment.attempt, error))
            self._wake.set()
            if not isinstance(error, ArfError | OSError):
                raise
            log.warning("experiment %d: %s", experiment.id, error)
        else:
            self._inbox.append(_Ended(experiment.id, experiment.attempt, result))
            self._wake.set()

    def _job(self, run: Run) -> Job:
        experiment = run.experiment
        env = {
            **self._env,
            "ARF_SEED": str(experiment.seed),
            "ARF_STUDY": self.study.name,
            "ARF_EXPERIMENT": str(experiment.id),
            "ARF_COMMIT": experiment.commit,
        }
        if experiment.budget is not None:
            env["ARF_BUDGET_SHARE"] = str(experiment.budget)
        path = self.log_path(experiment)
        path.parent.mkdir(exist_ok=True)  # somebody may have made room
        return Job(
            key=_job_key(experiment),
            directory=run.tree.cwd,
            command=self._command,
            env=env,
            log=path,
            tier=experiment.tier,
            time_limit_s=self.config.limits.time_limit_s,
            box=self._boxes.make(run.tree.directory, run.tree.readonly, run.tree.others),
        )

    def _keep(self, experiment: Experiment) -> None:
        """Have git keep the commit, before anything runs: until then the user's next `git prune` takes it.

        It is made again if that has happened. Raises LostError if that cannot be.
        """
        ideas = [self.study.ideas[idea] for idea in experiment.ideas]
        try:
            self.workspace.compose(experiment.parent, ideas, message=experiment.title)
            self.workspace.keep(self.study.name, experiment.id, experiment.commit)
        except (ConflictError, LostError) as error:
            raise LostError(error.message, hint=error.hint) from None
        except ArfError as error:
            self._fail(error)  # no other commit will fare better
            raise

    def _try_to_record_started(self, run: Run) -> None:
        """What cannot be recorded ends the study, and its job with it."""
        try:
            self._record_started(run)
        except (ArfError, OSError) as error:
            self._fail(error)
            self._wake.set()

    def _fail(self, error: BaseException) -> None:
        """End the study because of an error, unless one has ended it already."""
        if self._fatal is not None:
            return
        if isinstance(error, ArfError):
            self._fatal = error
        else:
            self._fatal = ArfError(f"{type(error).__name__}: {error}")
            self._fatal.__cause__ = error

    def _record_started(self, run: Run) -> None:
        run.experiment = evolve(
            run.experiment, state=ExperimentState.RUNNING, handle=run.handle, started_at=self._now()
        )
        with self.store.transaction(durable=False):
            self._ledger.move(run.experiment)
        self._announce()
        if self._stopping or self._fatal is not None:
            self._wake.set()
        if run.withdrawn:
            self._spawn(self._cancel(run.handle))

    def _prepare_ahead(self) -> None:
        """Fill the spare tree with what the next free slot will probably run."""
        if any(self._free().values()) or self._budgets.experiments_left <= 0:
            return
        free = {next(iter(self._slots)): 1}
        wanted = self._wanted(free) or self._planned(free)
        plan = next((item for item in wanted if isinstance(item, Plan)), None)
        if plan is None:
            return
        try:
            composed = self._compose(plan)
        except (ArfError, OSError):
            return  # said when its turn has come, if it still is so
        if self._ready is not None and self._ready.commit == composed.commit:
            return
        tree = self._ready.tree if self._ready is not None else self._trees.take()
        self._ready = None
        try:
            tree.fill(composed.commit, self.study.run_seed(0))
        except (ArfError, OSError):
            self._trees.give_back(tree)
        else:
            self._ready = Ready(composed.commit, tree)

    # ---- Results ----------------------------------------------------------------------------

    def _take_result(self, run: Run, result: JobResult) -> None:
        limits = self._watch_limits(run.experiment.role)
        readings = run.watch.finish(asyncio.get_running_loop().time(), limits)
        run.problem = run.problem or run.watch.flood(limits)
        for reading in readings:
            self._events.arf_reading(study=self.study, experiment=run.experiment, reading=reading)
        ended = evolve(
            run.experiment,
            state=ExperimentState.ENDED,
            job_state=result.state,
            exit_code=result.exit_code,
            slot=result.slot,
            started_at=result.started_at or run.experiment.started_at,
            ended_at=result.ended_at or self._now(),
            metrics=counted_metrics(run.watch.metrics),
            curve=tuple(run.watch.curve),
        )
        limit_s = self.config.limits.time_limit_s
        log_path = self.log_path(ended)
        value, verdict, reason = read_result(run, result, self.study.objective, limit_s, log_path)
        if value is not None and (doubt := self._doubts.of(ended, value)):
            value, verdict, reason = None, Verdict.SUSPECT, doubt
        if value is not None and ended.role is not Role.BASELINE:
            self._contenders.collect(ended, run.tree)
        told = evolve(ended, value=value, verdict=verdict, reason=reason)
        self._take_node(told)
        again = self._is_to_run_again(run, result, told)
        self._slot_usage.take(ended, self._now(), since=run.since, again=again)
        if again:
            self._run_again(ended, result)
            return
        self._budgets.ran(ended.slot_s)
        self._ledger.move(told)
        if verdict is Verdict.SUSPECT:
            self._doubts.tell(told)
        if ended.role is Role.BASELINE:
            self._learn_from_baseline(run, verdict, reason)

    def _is_to_run_again(self, run: Run, result: JobResult, told: Experiment) -> bool:
        """It ended for no fault of its own: the machine was taken away, or the study was stopped.

        Where runs end badly more often than elsewhere, such an end may be the machine's.
        """
        if run.withdrawn:
            return False
        if result.state is JobState.CANCELLED and (self._stopping or self._fatal is not None):
            return not run.problem
        again = result.state in (JobState.PREEMPTED, JobState.LOST, JobState.CANCELLED)
        if result.state in (JobState.FAILED, JobState.TIMED_OUT):
            again = self._nodes.is_doubtful(told)
        # A broken node is often the first that is free again: it may have had all attempts.
        attempts = (2 if self._nodes.is_reported(told) else 1) * MAX_ATTEMPTS
        return again and not run.problem and run.experiment.attempt < attempts

    def _run_again(self, ended: Experiment, result: JobResult) -> None:
        stopped = result.state is JobState.CANCELLED
        again = evolve(
            ended,
            state=ExperimentState.ACCEPTED,
            attempt=ended.attempt + 1,
            handle="",
            job_state=None,
            exit_code=None,
            started_at=None,
            ended_at=None,
            metrics={},
            curve=(),
            reason="interrupted" if stopped else f"{result.state}: {result.message}".rstrip(": "),
        )
        self._ledger.move(again)
        if not self._stopping and self._fatal is None:
            self._requeue(again)

    def _requeue(self, experiment: Experiment, tree: WorkTree | None = None) -> None:
        """Run an experiment again; `tree` is where its job may be already."""
        is_filled = tree is not None
        tree = tree or self._trees.take()
        experiment = evolve(experiment, directory=tree.directory.relative_to(self.directory).as_posix())
        self._ledger.move(experiment)
        self._runs[experiment.id] = Run(
            experiment, tree, self._new_watch(experiment), is_filled, since=self._now()
        )
        asyncio.get_running_loop().call_soon(self._start, experiment)

    def _learn_from_baseline(self, run: Run, verdict: Verdict | None, reason: str) -> None:
        if verdict is None:
            self._normal = self._normal.after(run.watch)
            self.store.set_meta("normal", asdict(self._normal))
            return
        runs = [self.study.experiments[e] for e in self.study.by_role(Role.BASELINE)]
        good = any(e.value is not None for e in runs)
        others_run = any(e.state is not ExperimentState.ENDED for e in runs)
        failed = [e for e in runs if e.verdict is not None and e.value is None]
        places = {self._backend.node_of(e.slot) or str(e.id) for e in failed}  # one of them may be broken
        if not good and (len(places) > 1 or not others_run):
            log = self.log_path(run.experiment)
            self._fatal = ArfError(
                f"the baseline failed ({verdict}): {reason}; its log is {log}",
                hint=after_failed_baseline(
                    self.workspace,
                    run.experiment.commit,
                    self._command,
                    verdict,
                    reason,
                    log,
                    run.tree.cwd,
                    self.config,
                    run.watch.metrics,
                    self._parser.example(self.study.objective.metric),
                ),
            )

    # ---- Nodes ------------------------------------------------------------------------------

    def _take_node(self, ended: Experiment) -> None:
        """Count how a run went for its node, and have the nodes set aside that are found wanting."""
        self._nodes.take(ended)
        for suspect in self._nodes.suspects():
            self._nodes.report(suspect)
            self._spawn(self._set_aside(suspect))
        self._nodes_changed = self._nodes.knows_any

    async def _set_aside(self, suspect: Suspect) -> None:
        is_aside = self._backend.set_aside(suspect.node, suspect.why)
        done = "set aside" if is_aside else "suspect (the backend cannot do without it: take it out by hand)"
        text = f"node {suspect.node} {done}: {suspect.why}"
        log.warning("%s", text)
        self._nodes.note_aside(suspect, is_aside)
        with self.store.transaction():
            self._ledger.event("node", text)
            self.store.set_meta("nodes", self._nodes.to_json())
        if is_aside:
            await self._count_slots()
        self._wake.set()

    async def _count_slots(self) -> None:
        self._slots |= {
            tier.name: tier.slots for tier in await self._backend.tiers() if tier.name in self._slots
        }

    async def _keep_aside(self) -> None:
        """What an earlier process has set aside stays so."""
        out = [one for one in self._nodes.reported if self._backend.set_aside(one.node, one.why)]
        if out:
            await self._count_slots()

    # ---- Watching ---------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Look at the logs of running jobs about once a second; end those that have gone wrong."""
        while True:
            await asyncio.sleep(self._watch_interval_s)
            now = asyncio.get_running_loop().time()
            for run in list(self._runs.values()):
                if not run.handle or run.problem:
                    continue
                readings, problem = run.watch.look(now, self._watch_limits(run.experiment.role))
                for reading in readings:
                    self._events.arf_reading(study=self.study, experiment=run.experiment, reading=reading)
                if problem:
                    run.problem = problem
                    self._spawn(self._cancel(run.handle))
            is_back = self._thinker.is_back(give_up=self._budgets.is_time_up)
            is_used_up = not self._search_over and bool(self._budgets.exceeded())
            if is_back or is_used_up or self._is_answer_late():
                self._wake.set()

    async def _keep_account(self) -> None:
        """Note from time to time what the backend holds, and what that costs."""
        linked = LinkedData(Path(target) for target in self.workspace.links().values())
        try:
            await asyncio.sleep(self._watch_interval_s)
            while True:
                await self._look_at_standing()
                self._look_at_links(linked)
                self._look_at_database()
                await asyncio.sleep(STANDING_INTERVAL_S)
        finally:
            self._look_at_links(linked)

    def _look_at_database(self) -> None:
        try:
            if self.store.restore():
                text = f"{self.store.directory / DATABASE} had been deleted; it was written again"
                log.warning("%s", text)
                self._ledger.event("data", text)
        except StoreError as error:
            self._fail(error)
            self._wake.set()

    def _look_at_links(self, linked: LinkedData) -> None:
        """Say so if a job, or whoever else, has changed data that all work trees share."""
        if changed := linked.changed():
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            text = (
                f"{', '.join(changed[:3])}{more}: changed while the study runs, and all runs share them by "
                "links: what ran before and after may not compare"
            )
            log.warning("%s", text)
            self._ledger.event("data", text)

    async def _look_at_standing(self) -> None:
        try:
            there = await self._backend.held_resources()
        except Exception as error:  # whatever it asks may be away for a while; it is asked again
            log.warning("what the backend holds cannot be told now: %s", error)
            return
        self._budgets.standing_usd = held_resources.note(self.store, there, self._now())

    def _watch_limits(self, role: Role) -> WatchLimits:
        """What ends a run early. How the losses of the baseline go is normal, whatever it is, and nothing is
        called diverged before that is known."""
        limits = self.config.limits
        factor = limits.diverge_factor
        if factor is not None and (role is Role.BASELINE or not self._normal.runs):
            factor = math.inf
        return WatchLimits(
            log_bytes=int(limits.log_mb * 2**20),
            stall_s=limits.stall_s or self._normal.stall_s,
            silent_start_s=limits.stall_s,
            diverge_factor=factor,
            highest=self._normal.highest,
        )

    async def _cancel(self, handle: str) -> None:
        try:
            await self._backend.cancel(handle)
        except (ArfError, OSError) as error:
            log.warning("cannot cancel %s: %s", handle, error)

    # ---- Thinking ---------------------------------------------------------------------------

    def _brief(self, base: str, agent: str = "", ask: int | None = None) -> Brief:
        brief = agent_brief(self.study, self.workspace, base, self.directory)
        return evolve(brief, budget_left=self._budgets.left(), queue=LocalQueue(self, agent, ask))

    def _tell_answer(self, answered: Answered) -> None:
        self._inbox.append(answered)
        self._wake.set()

    # ---- Orders of agents and people --------------------------------------------------------

    async def order(
        self, key: str, submissions: Sequence[Submission], agent: str = "queue", ask: int | None = None
    ) -> list[int]:
        """Take submissions up, and give the numbers of their orders once they are recorded.

        Idempotent in `key`. What cannot be carried out is an order too, refused with the reason. `ask` is the
        ask in the course of which an agent submits them; None: somebody does so unasked.
        """
        known = self.store.orders_of(key)
        if known:
            return [order.id for order in known]
        made = await self._book.make(submissions)
        reply: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._inbox.append(_Ordered(key, made, agent, ask, reply))
        self._wake.set()
        return await reply

    async def withdraw(self, numbers: Sequence[int], experiments: Sequence[int] = ()) -> str:
        """Withdraw orders, and end experiments; gives a line on what was done."""
        reply: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._inbox.append(_Withdrawn(tuple(numbers), tuple(experiments), reply))
        self._wake.set()
        return await reply

    async def rule(self, number: int, *, accept: bool) -> str:
        """What a person says of a suspect experiment; gives a line on what follows from it.

        If it is accepted, what it ran is believed from now on and run again, to be judged like anything else.
        """
        experiment = self._doubts.take(number, accept=accept)
        if not accept:
            return f"experiment {number} stays out"
        again = Submission(ideas=experiment.ideas, base=experiment.parent)
        await self.order(f"accepted/{number}", [again], agent="person")
        return f"experiment {number} is believed; it runs again and is judged like anything else"

    async def try_out(self, draft: Draft, base: str, seconds: float) -> Tried:
        """Run a change for a short time on a free slot, and tell how that went."""
        if closed := self._closed():
            raise UsageError(closed)
        tier = next((tier for tier, count in self._free().items() if count > 0), None)
        if tier is None:
            return Tried(text="no slot is free to try it out; it was only checked that the change applies")
        base = submissions.base_of(self.study, Submission(draft=draft, base=base))
        commit = self.workspace.make_idea(draft, base, message=submissions.message(draft))
        self._tried_out[tier] = self._tried_out.get(tier, 0) + 1
        tree = self._trees.take()
        began = self.elapsed_s
        try:
            return await self._try_commit(commit, tree, tier, min(seconds, self.config.limits.time_limit_s))
        finally:
            self._trees.give_back(tree)
            self._tried_out[tier] -= 1
            self._budgets.tried_s += self.elapsed_s - began
            self._wake.set()

    async def _try_commit(self, commit: str, tree: WorkTree, tier: str, seconds: float) -> Tried:
        seed = self.study.run_seed(0)
        tree.fill(commit, seed)
        path = self.directory / "logs" / f"try-{commit[:12]}.log"
        job = Job(
            key=f"try-{commit[:12]}-{int(self._now().timestamp() * 1000)}",
            directory=tree.cwd,
            command=self._command,
            env={**self._env, "ARF_SEED": str(seed), "ARF_STUDY": self.study.name, "ARF_COMMIT": commit},
            log=path,
            tier=tier,
            time_limit_s=seconds,
            box=self._boxes.make(tree.directory, tree.readonly, tree.others),
        )
        handle = await self._backend.submit(job)
        try:
            result = await self._backend.wait(handle)
        except asyncio.CancelledError:
            await self._cancel(handle)
            raise
        watch = Watch(tail=self._tail(path), parser=self._parser, objective=self.study.objective)
        readings = watch.finish(asyncio.get_running_loop().time(), self._watch_limits(Role.BASELINE))
        return tried_out(result, seconds, readings, path)

    def _take_order(self, item: _Ordered) -> None:
        taken = self.store.orders_of(item.key)  # the same request may have come twice at a time
        if not taken:
            taken = [
                self._book.take(item.key, submitted, item.agent, item.ask) for submitted in item.submissions
            ]
        self._tell(item.reply, [order.id for order in taken])

    def _take_withdrawal(self, item: _Withdrawn) -> None:
        said = [self._book.withdraw(number) for number in item.orders]
        for number in item.experiments:
            run = self._runs.get(number)
            if run is None:
                said.append(f"experiment {number} does not run")
                continue
            run.withdrawn = True
            said.append(f"experiment {number} is ended")
            if run.handle:
                self._spawn(self._cancel(run.handle))
        self._tell(item.reply, "; ".join(said))

    def _tell(self, reply: asyncio.Future[T], what: T) -> None:
        """Answer a request once the transaction is written."""

        def tell() -> None:
            if not reply.done():
                reply.set_result(what)

        self._replies.append(tell)

    # ---- Beginning and end ------------------------------------------------------------------

    async def _set_up(self) -> None:
        """Run the workspace's set-up command, once for the study. Raises ArfError if it fails."""
        settings = self.config.workspace
        if not settings.setup or self.store.meta("set_up", False):
            return
        tree = self._trees.claim("setup")  # and never given back: it may have to run again elsewhere
        tree.fill(self.study.base, self.study.run_seed(0))
        path = self.directory / "logs" / "setup.log"
        job = Job(
            key=f"setup-{int(self._now().timestamp())}",
            directory=tree.cwd,
            command=settings.setup,
            env=self._env,
            log=path,
            tier=self.study.tiers[0].name,
            time_limit_s=settings.setup_time_limit_s,
            prepares=True,
        )
        handle = await self._backend.submit(job)
        waiting = asyncio.ensure_future(self._backend.wait(handle))
        stopped = asyncio.ensure_future(self._stop_asked())
        await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not waiting.done():
            await self._backend.cancel(handle)
        result = await waiting
        if self._stopping:
            return
        if result.state is not JobState.SUCCEEDED:
            tail = "; ".join(last_lines(path, 1))
            if result.state is JobState.TIMED_OUT:
                tail = f"it reached workspace.setup_time_limit_s ({settings.setup_time_limit_s:g})"
            raise ArfError(
                f"the set-up command failed ({result.state}, exit code {result.exit_code}): {tail}",
                hint=f"its log is {path}; make `{settings.setup}` work, then start again",
            )
        with self.store.transaction():
            self.store.set_meta("set_up", True)

    async def _stop_asked(self) -> None:
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()

    def _recover(self) -> None:
        """Take up what an earlier process left: jobs that may still run, asks that nobody answered."""
        with self.store.transaction():
            self._thinker.recover()
        for experiment_id in list(self.study.running):
            experiment = self.study.experiments[experiment_id]
            tree = self._trees.claim(Path(experiment.directory).name)
            run = Run(experiment, tree, self._new_watch(experiment), handle=experiment.handle)
            self._runs[experiment_id] = run
            try:
                if experiment.handle:
                    tree.adopt(experiment.commit, experiment.seed)
                    run.since = experiment.started_at if experiment.attempt > 1 else None
                else:
                    run.since = self._now()
            except LostError as error:
                self._inbox.append(_Refused(experiment_id, experiment.attempt, error))
            else:
                self._start(experiment)

    async def _end_jobs(self) -> None:
        """Cancel what runs and take in how it ended."""
        self._thinker.cancel()
        cancelled: set[int] = set()
        while self._runs:
            for experiment_id, run in self._runs.items():
                if run.handle and experiment_id not in cancelled:
                    cancelled.add(experiment_id)
                    self._spawn(self._cancel(run.handle))
            await self._wake.wait()
            self._wake.clear()
            self._turn()

    async def _wind_up(self, *, remove_trees: bool) -> None:
        """Let go of everything. Trees stay where a job may be in one, or somebody may want to look at it."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self._thinker.aclose()
            await self._take_down()
        finally:
            await self._backend.aclose()
            if remove_trees:
                self._trees.remove({run.tree.directory.name for run in self._runs.values()})
            self.workspace.close()

    def _note_failure(self, error: Exception) -> None:
        """Record why the study ends in the middle of a turn, unless nothing can be recorded."""
        if isinstance(error, StoreError):
            return
        try:
            self._record_state("failed", str(error))
        except StoreError as second:
            log.debug("why it failed is not recorded: %s", second)

    async def _take_down(self) -> None:
        """Nothing that costs money outlives its study unnoticed."""
        try:
            await self._backend.down()
        except (ArfError, OSError) as error:
            log.warning("%s; `arf stop --down` tries again", error)
        await self._look_at_standing()

    def _finish(self) -> dict[str, Any]:
        self._look_at_database()
        try:
            self.workspace.flush()
        except WorkspaceError as error:
            self._fail(error)
        if not self._stopping and self._fatal is None:
            self._ship_claimed()
        if self.study.incumbent_experiment is not None:
            self.workspace.publish_best(self.study.name, self.study.incumbent_commit)
        gone = self._thinker.gone
        if isinstance(gone, SpentError):
            self._search_over = self._search_over or str(gone)
        elif not (self._stopping or self._search_over):
            self._fatal = self._fatal or gone
        state = "failed" if self._fatal else "stopped" if self._stopping else "finished"
        reason = str(self._fatal or self._stopping or self._search_over or self._why_ended())
        with self.store.transaction():
            self.store.set_meta("notes", [*self._unseeded(), *self._lost_ideas(), *self._backend.notes()])
            self._look_at_slots()
        self._record_state(state, reason)
        summary = summarize(self.store)
        summary.update(state=state, pid=None)
        self._announce()
        summary["files"] = self._events.arf_study_finished(
            study=self.study, directory=self.directory, summary=summary
        )
        if self._fatal is not None:
            raise self._fatal
        return summary

    def _unseeded(self) -> Iterator[str]:
        """That the script ignores its seed, if it does."""
        if any(ignores_seed(self.study, tier.name) for tier in self.study.tiers):
            yield SEED_ADVICE

    def _ship_claimed(self) -> None:
        """Complete the last claim with the runs that there are; what it measured is the best from now on."""
        with self.store.transaction():
            self._claims.settle(closing=True)
            claim = self.study.claims.get(len(self.study.claim_plans))
            if claim is not None and claim.gain > 0 and not self._claims.open:
                measured = self.study.experiments[claim.experiment]
                if measured.tree != self.study.incumbent_tree and self._may_lead(measured):
                    self._change_incumbent(claim.experiment)

    def _lost_ideas(self) -> Iterator[str]:
        """What became of the ideas that no run has tried, for people who wrote them."""
        refused, last = self.store.count_events("idea")
        if refused:
            yield f"{_ideas(refused)} refused (-v tells each), the last: {last}"
        used = {idea for experiment in self.study.experiments.values() for idea in experiment.ideas}
        alone = {ideas[0]: why for (_, ideas), why in self.study.refusals.items() if len(ideas) == 1}
        if left := {idea: why for idea, why in alone.items() if idea not in used}:
            idea, why = list(left.items())[-1]
            yield f"{_ideas(len(left))} never run, the last: {self.study.ideas[idea].title}: {why}"

    def _why_ended(self) -> str:
        why = self._strategy.why_ended(self.study) or "nothing left to try"
        return f"{why}: {self._thinker.last_words}" if self._thinker.last_words else why

    def _record_state(self, state: str, reason: str) -> None:
        with self.store.transaction():
            self.store.set_meta("state", state)
            self.store.set_meta("end_reason", "" if state == "running" else reason)
            self.store.set_meta("elapsed_s", round(self.elapsed_s, 3))
            self._ledger.event("study", f"{state}: {reason}")

    # ---- Small things -----------------------------------------------------------------------

    def _announce(self) -> None:
        """Tell observers what was written."""
        asks, self._ledger.asks = self._ledger.asks, []
        for number, ask, usage, note in asks:
            if usage is None:
                self._events.arf_ask_opened(study=self.study, number=number, ask=ask)
            else:
                self._events.arf_ask_closed(study=self.study, number=number, ask=ask, usage=usage, note=note)
        changed, self._ledger.changed = self._ledger.changed, []
        for experiment in changed:
            self._events.arf_experiment_changed(study=self.study, experiment=experiment)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        # Not ours to hide: it is a bug, or the store cannot be written. The study ends; it can be resumed.
        self._fail(error)
        self._wake.set()


def _job_key(experiment: Experiment) -> str:
    """What the backend knows an attempt by: the same after a crash, so that it is not run twice.

    It says what is run: where the database is an older copy, the same number may mean another experiment by
    now, whose result the backend may still have.
    """
    e = experiment
    what = hashlib.sha256(f"{e.commit} {e.seed} {e.tier} {e.budget}".encode()).hexdigest()
    return f"{e.id:06d}-{what[:8]}-{e.attempt}"


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
