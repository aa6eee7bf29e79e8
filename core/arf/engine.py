"""The engine: the only part with state, and the only writer of the store and of git.

One asyncio process. What happens outside (a job ends, an agent answers, a user says stop) lands in an
inbox; a *turn* takes it in, judges, decides and writes, all in one transaction; only then is anything
started. Between turns the engine makes ready what the next free slot will probably be given: the decision
is made again when the slot is free, so a wrong guess costs nothing but the preparation.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from attrs import define, evolve, frozen

from arf import orders
from arf.desk import OwnDesk, read_mail
from arf.errors import AgentError, ArfError, ConflictError, UsageError
from arf.interfaces import Agent, Backend, Brief, MetricParser, Standing, Strategy
from arf.judge import confirm_plans, judge
from arf.logs import LogTail, Watch, WatchLimits, counted_metrics, last_lines, objective_value
from arf.stats import final_gain
from arf.store import Store
from arf.study import Study
from arf.summary import summarize
from arf.types import (
    Answer,
    Ask,
    AskKind,
    Draft,
    Experiment,
    ExperimentState,
    Factor,
    Idea,
    Job,
    JobResult,
    JobState,
    Order,
    Plan,
    Reading,
    Role,
    Submission,
    SubmissionState,
    Usage,
    Verdict,
)

if TYPE_CHECKING:
    from arf.config import Config
    from arf.mailbox import Mailbox
    from arf.plugins import Events
    from arf.trees import WorkTree
    from arf.workspace import Composed, Workspace

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_ATTEMPTS = 3
"""Runs of one experiment: preempted and lost jobs are run again, twice at most."""
MAX_BARREN_ANSWERS = 5
"""Answers in a row without one usable idea, after which the agent is taken to have nothing more."""
MAX_REFUSED_JOBS = 3
"""Jobs in a row that the backend would not take, after which the study ends."""
WATCH_INTERVAL_S = 1.0
MIN_STALL_S = 120.0
STALL_FACTOR = 10
"""A stall is silence this many times longer than the longest that the baseline had."""
RECENT_RUNS = 8
"""How long an experiment takes is told by so many of the last ones."""
STANDING_INTERVAL_S = 60.0
"""How often is noted what the backend holds, such as clusters, and what that costs."""
MAX_AGENT_FAILURES = 5
AGENT_RETRY_S = 10.0


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


@frozen
class _Made:
    """A draft with the commit that it became, or why it cannot be used."""

    draft: Draft
    commit: str
    problem: str


@frozen
class _Answered:
    ask_id: int
    agent: Agent
    answer: Answer
    error: AgentError | None
    ideas: tuple[_Made, ...] = ()
    factors: tuple[tuple[str, tuple[_Made, ...]], ...] = ()
    submissions: tuple[_Submitted, ...] = ()


@frozen
class _Submitted:
    """A submission with the commit that its draft became, or why it cannot be carried out."""

    submission: Submission
    base: str
    made: _Made | None
    problem: str


@frozen(eq=False)
class _Ordered:
    """A request from the desk."""

    key: str
    submissions: tuple[_Submitted, ...]
    reply: asyncio.Future[list[int]]
    """The numbers of its orders, once they are recorded."""


@frozen(eq=False)
class _Withdrawn:
    orders: tuple[int, ...]
    experiments: tuple[int, ...]
    reply: asyncio.Future[str]


class _Trees:
    """Work trees that are used again and again: one for each running job, and a spare."""

    def __init__(self, workspace: Workspace, directory: Path) -> None:
        self._workspace = workspace
        self._directory = directory
        self._free: list[WorkTree] = []
        self._used: set[str] = set()

    def take(self) -> WorkTree:
        """A tree that nobody uses: the one that was given back last, or a new one."""
        if self._free:
            tree = self._free.pop()
            self._used.add(tree.directory.name)
            return tree
        number = 1
        while str(number) in self._used:
            number += 1
        return self.claim(str(number))

    def claim(self, name: str) -> WorkTree:
        """The tree of that name, which an earlier process may have left in use."""
        self._used.add(name)
        return self._workspace.work_tree(self._directory / name)

    def give_back(self, tree: WorkTree) -> None:
        self._used.discard(tree.directory.name)
        self._free.append(tree)


@frozen
class _Ready:
    """A tree that holds what will probably run next, for the first seed."""

    commit: str
    tree: WorkTree


@define
class _Run:
    """What the engine holds for an experiment that has not ended."""

    experiment: Experiment
    tree: WorkTree
    watch: Watch
    filled: bool = False
    """Whether its tree was made ready ahead."""
    task: asyncio.Task[None] | None = None
    handle: str = ""
    problem: str = ""
    """Why arf ended it early."""
    withdrawn: bool = False
    """Whether it is ended because whoever wanted it does not want it any more."""


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
        self._agent = agent
        self._agent_name = config.agent.name
        self._fallback = fallback
        self._backend = backend
        self._parser = parser
        self._events = events
        self._env = dict(job_env)
        self._command = command
        self._resumed = resumed
        self._now = now
        self._tail = tail
        self._watch_interval_s = watch_interval_s
        self._mailbox = mailbox
        self._desk = OwnDesk(self)
        self._inbox: deque[_Ended | _Refused | _Answered | _Ordered | _Withdrawn] = deque()
        self._replies: list[Callable[[], None]] = []
        """What is told once the transaction is written."""
        self._tried_out: dict[str, int] = {}
        """Slots in use for trying changes out, by tier."""
        self._next_order = store.last_order() + 1
        self._usable = 0
        """Counts the ideas and orders that could be used."""
        self._usable_at: dict[int, int] = {}
        """The same when an ask for experiments was opened: they may be ordered while it is open."""
        self._wake = asyncio.Event()
        self._runs: dict[int, _Run] = {}
        self._ask_tasks: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._trees = _Trees(workspace, self.directory / "trees")
        self._ready: _Ready | None = None
        self._stopping = ""
        self._fatal: ArfError | None = None
        self._search_over = ""
        self._recent_s: deque[float] = deque(maxlen=RECENT_RUNS)
        self._refused_jobs = 0
        self._barren_answers = 0
        self._agent_failures = 0
        self._agent_back_at = 0.0
        self._agent_away = False
        self._away: Agent | None = None
        """The study's own agent, if another has taken over."""
        self._standing_usd = float(store.meta("standing_usd", 0.0))
        """Dollars that what stands has cost; more than slots in use, where machines also stand idle."""
        self._stall_s = config.limits.stall_s
        self._began = 0.0
        self._elapsed_before_s = float(store.meta("elapsed_s", 0.0))
        self._changed: list[Experiment] = []
        self._next_experiment = max(study.experiments, default=0) + 1
        self._next_idea = max(study.ideas, default=0) + 1
        self._next_ask = int(store.meta("asks", 0)) + 1
        self._slots = {tier.name: tier.slots for tier in study.tiers}

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
        watcher = asyncio.ensure_future(self._watch())
        try:
            self._recover()
            await self._set_up()
            self._events.arf_study_started(study=self.study, directory=self.directory, resumed=self._resumed)
            if self._mailbox is not None:
                self._spawn(read_mail(self, self._mailbox))
            await self._loop()
        finally:
            watcher.cancel()
            await self._wind_up()
        return self._finish()

    async def _loop(self) -> None:
        while True:
            self._turn()
            if self._stopping or self._fatal is not None:
                await self._end_jobs()
                return
            if self._is_over():
                return
            await asyncio.sleep(0)  # what was decided is started first
            self._prepare_ahead()
            await self._wake.wait()
            self._wake.clear()

    def _is_over(self) -> bool:
        """Whether nothing is under way that could bring anything more."""
        under_way = self._runs or self._ask_tasks or self._inbox or any(self._tried_out.values())
        return not under_way and not self._waiting_for_agent()

    # ---- A turn -----------------------------------------------------------------------------

    def _turn(self) -> None:
        """Take in what has happened, decide, write; then start what was decided."""
        accepted: list[Experiment] = []
        asked: list[tuple[int, Ask]] = []
        with self.store.transaction():
            while self._inbox:
                self._take_in(self._inbox.popleft())
            self._judge()
            if not self._stopping and self._fatal is None:
                self._decide(accepted, asked)
            self.store.set_meta("elapsed_s", round(self.elapsed_s, 3))
        self._announce()
        replies, self._replies = self._replies, []
        for reply in replies:
            reply()
        for experiment in accepted:
            self._start(experiment)
        for ask_id, ask in asked:
            self._ask(ask_id, ask)

    def _take_in(self, item: _Ended | _Refused | _Answered | _Ordered | _Withdrawn) -> None:
        if isinstance(item, _Answered):
            self._take_answer(item)
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
            self._take_result(run, item.result)
        self._trees.give_back(run.tree)

    def _take_refusal(self, run: _Run, error: Exception) -> None:
        self._refused_jobs += 1
        if self._refused_jobs >= MAX_REFUSED_JOBS:
            self._fatal = error if isinstance(error, ArfError) else ArfError(str(error))
        result = JobResult(state=JobState.LOST, ended_at=self._now(), message=str(error))
        self._take_result(run, result)

    def _judge(self) -> None:
        for experiment_id, verdict, reason in judge(self.study).verdicts:
            experiment = self.study.experiments[experiment_id]
            self._put(evolve(experiment, verdict=verdict, reason=reason))
            if verdict is Verdict.KEEP:
                self.workspace.publish_best(self.study.name, experiment.commit)
        self._search_over = self._search_over or self._out_of_budget()
        if self._search_over and not self._runs:
            for experiment_id in list(self.study.undecided):
                experiment = self.study.experiments[experiment_id]
                reason = f"not decided before the budget ended ({self._search_over})"
                self._put(evolve(experiment, verdict=Verdict.DISCARD, reason=reason))
        if self._search_over:
            for order in list(self.study.waiting.values()):
                self._end_order(order, f"the study's budget is used up ({self._search_over})")

    def _decide(self, accepted: list[Experiment], asked: list[tuple[int, Ask]]) -> None:
        """Fill the free slots: what the judge wants first, then the strategy, at last the confirmation."""
        while True:
            free = self._free()
            moved = False
            for item in self._wanted(free):
                if isinstance(item, Ask):
                    moved |= self._open_ask(item, asked)
                    continue
                tier = self._tier_for(item, free)
                if tier is None or self._experiments_left() <= 0:
                    continue
                experiment = self._accept(item, tier)
                moved = True
                if experiment is not None:
                    free[tier] -= 1
                    accepted.append(experiment)
            if not moved:
                return

    def _wanted(self, free: Mapping[str, int]) -> list[Plan | Ask]:
        if self._search_over:
            return self._confirmation()
        replicates = judge(self.study).replicates
        ordered = orders.wanted(self.study, sum(free.values())) if self.study.waiting else ()
        decided = self._strategy.decide(self.study, free)
        if not decided and not replicates and not ordered:
            return self._confirmation()
        return [*replicates, *ordered, *decided]

    def _confirmation(self) -> list[Plan | Ask]:
        """Fresh runs of the best, once nothing is under way that could still replace it."""
        searching = any(
            self.study.experiments[e].role not in (Role.REPLICATE, Role.BASELINE) for e in self.study.running
        )
        if searching or self.study.open_asks or self._is_time_up():
            return []
        return list(confirm_plans(self.study))

    def _is_time_up(self) -> bool:
        limit = self.config.budget.max_time
        return limit is not None and self.elapsed_s >= limit

    def _free(self) -> dict[str, int]:
        return {
            tier: slots - self.study.running_on(tier) - self._tried_out.get(tier, 0)
            for tier, slots in self._slots.items()
        }

    def _tier_for(self, plan: Plan, free: Mapping[str, int]) -> str | None:
        if plan.tier is not None:
            return plan.tier if free.get(plan.tier, 0) > 0 else None
        return next((tier for tier, count in free.items() if count > 0), None)

    # ---- Budgets ----------------------------------------------------------------------------

    def _experiments_left(self) -> int:
        """How many more experiments may be accepted."""
        limit = self.config.budget.max_experiments
        return 10**9 if limit is None else limit - len(self.study.experiments)

    def _reserve(self) -> int:
        """Experiments that are kept back for the confirmation of the best."""
        limit = self.config.budget.max_experiments
        if limit is None or self.study.incumbent_tree == self.study.base_tree:
            return 0
        return min(self.study.rule.confirm, limit // 5)

    def _typical_s(self) -> float:
        """Seconds of a slot that experiments have taken lately; 0 until one has ended."""
        if self._recent_s:
            return sum(self._recent_s) / len(self._recent_s)
        ended = len(self.study.experiments) - self.study.running_count
        return sum(self.study.slot_s.values()) / ended if ended else 0.0

    def _out_of_budget(self) -> str:
        """Which budget the next experiment would exceed; empty if none."""
        budget = self.config.budget
        if self._experiments_left() <= self._reserve():
            return "max_experiments"
        typical_s = self._typical_s()
        confirm_s = 0.0
        if self.study.incumbent_tree != self.study.base_tree:
            confirm_s = typical_s * math.ceil(self.study.rule.confirm / max(1, sum(self._slots.values())))
        if budget.max_time is not None and self.elapsed_s + typical_s + confirm_s > budget.max_time:
            return "max_time"
        used_s = sum(self.study.slot_s.values()) + typical_s * (self.study.running_count + 1)
        if budget.max_slot_hours is not None and used_s / 3600 > budget.max_slot_hours:
            return "max_slot_hours"
        if budget.max_usd is not None and self._usd(typical_s) > budget.max_usd:
            return "max_usd"
        tokens = self.study.usage.input_tokens + self.study.usage.output_tokens
        if budget.max_tokens is not None and tokens >= budget.max_tokens:
            return "max_tokens"
        return ""

    def _budget_left(self) -> dict[str, float]:
        """What is left of the budgets that are set; never below 0."""
        budget, usage = self.config.budget, self.study.usage
        slot_hours = sum(self.study.slot_s.values()) / 3600
        used = {
            "experiments": (budget.max_experiments, len(self.study.experiments)),
            "seconds": (budget.max_time, self.elapsed_s),
            "slot_hours": (budget.max_slot_hours, slot_hours),
            "usd": (budget.max_usd, self._usd(0.0)),
            "tokens": (budget.max_tokens, usage.input_tokens + usage.output_tokens),
        }
        return {name: max(0.0, limit - spent) for name, (limit, spent) in used.items() if limit is not None}

    def _usd(self, typical_s: float) -> float:
        """Dollars spent if one more experiment of `typical_s` is started, the running ones included."""
        price = {tier.name: tier.usd_per_hour / 3600 for tier in self.study.tiers}
        used = sum(price[tier] * seconds for tier, seconds in self.study.slot_s.items())
        running = sum(price[self.study.experiments[e].tier] * typical_s for e in self.study.running)
        machines = max(used + running, self._standing_usd)
        return self.study.usage.usd + machines + max(price.values()) * typical_s

    # ---- Accepting and starting -------------------------------------------------------------

    def _accept(self, plan: Plan, tier: str) -> Experiment | None:
        """Make an experiment of a plan, or refuse it; both are recorded."""
        try:
            composed = self._compose(plan)
            self._check_new(plan, composed, tier)
        except (ConflictError, UsageError) as error:
            self.store.refuse(plan.parent, plan.ideas, str(error), self._seq())
            self.study.refuse(plan.parent, plan.ideas, str(error))
            if plan.order is not None:
                self._end_order(self.study.waiting[plan.order], str(error))
            return None
        group = self.study.group(composed.tree, tier, plan.budget)
        seed = self.study.run_seed(len(group.experiments) if group else 0) if plan.seed is None else plan.seed
        tree, filled = self._take_tree(composed.commit, seed)
        experiment = Experiment(
            id=self._next_experiment,
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
        self._next_experiment += 1
        self._runs[experiment.id] = _Run(experiment, tree, self._new_watch(experiment), filled)
        self.store.insert_experiment(experiment, self._seq())
        self.study.put(experiment)
        self._changed.append(experiment)
        if plan.order is not None:
            self._count_run(self.study.waiting[plan.order], experiment.id)
        return experiment

    def _compose(self, plan: Plan) -> Composed:
        ideas = [self.study.ideas[idea] for idea in plan.ideas]
        return self.workspace.compose(plan.parent, ideas, message=plan.title or self._title(plan))

    def _check_new(self, plan: Plan, composed: Composed, tier: str) -> None:
        if plan.role in (Role.BASELINE, Role.REPLICATE, Role.PROMOTION):
            return
        group = self.study.group(composed.tree, tier, plan.budget)
        if group is not None:
            roles = {self.study.experiments[number].role for number in group.experiments}
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
        run.task = self._spawn(self._run_job(run))

    async def _run_job(self, run: _Run) -> None:
        """Bring an experiment to the backend and wait for its end; the rest is for the next turn."""
        experiment = run.experiment
        try:
            if not run.handle:
                if not run.filled:
                    run.tree.fill(experiment.commit, experiment.seed)
                run.handle = await self._backend.submit(self._job(run))
                self._record_started(run)
            result = await self._backend.wait(run.handle)
        except (ArfError, OSError) as error:
            log.warning("experiment %d: %s", experiment.id, error)
            self._inbox.append(_Refused(experiment.id, experiment.attempt, error))
        else:
            self._inbox.append(_Ended(experiment.id, experiment.attempt, result))
        self._wake.set()

    def _job(self, run: _Run) -> Job:
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
        return Job(
            key=f"{experiment.id:06d}-{experiment.attempt}",
            directory=run.tree.cwd,
            command=self._command,
            env=env,
            log=self.log_path(experiment),
            tier=experiment.tier,
            time_limit_s=self.config.limits.time_limit_s,
        )

    def _record_started(self, run: _Run) -> None:
        self.workspace.keep(self.study.name, run.experiment.id, run.experiment.commit)
        run.experiment = evolve(
            run.experiment, state=ExperimentState.RUNNING, handle=run.handle, started_at=self._now()
        )
        with self.store.transaction(durable=False):
            self._put(run.experiment)
        self._announce()
        if self._stopping:
            self._wake.set()
        if run.withdrawn:
            self._spawn(self._cancel(run.handle))

    def _prepare_ahead(self) -> None:
        """Fill the spare tree with what the next free slot will probably run."""
        if any(self._free().values()) or self._experiments_left() <= 0:
            return
        wanted = self._wanted({next(iter(self._slots)): 1})
        plan = next((item for item in wanted if isinstance(item, Plan)), None)
        if plan is None:
            return
        try:
            composed = self._compose(plan)
        except (ConflictError, UsageError):
            return
        if self._ready is not None and self._ready.commit == composed.commit:
            return
        tree = self._ready.tree if self._ready is not None else self._trees.take()
        tree.fill(composed.commit, self.study.run_seed(0))
        self._ready = _Ready(composed.commit, tree)

    # ---- Results ----------------------------------------------------------------------------

    def _take_result(self, run: _Run, result: JobResult) -> None:
        readings = run.watch.finish(asyncio.get_running_loop().time(), self._watch_limits())
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
        if self._is_to_run_again(run, result):
            self._run_again(ended, result)
            return
        self._recent_s.append(ended.slot_s)
        value, verdict, reason = self._read_result(run, result)
        self._put(evolve(ended, value=value, verdict=verdict, reason=reason))
        if ended.role is Role.BASELINE:
            self._learn_from_baseline(run, verdict, reason)

    def _is_to_run_again(self, run: _Run, result: JobResult) -> bool:
        """It ended for no fault of its own: the machine was taken away, or the study was stopped."""
        if run.withdrawn:
            return False
        if result.state is JobState.CANCELLED and (self._stopping or self._fatal is not None):
            return not run.problem
        again = result.state in (JobState.PREEMPTED, JobState.LOST, JobState.CANCELLED)
        return again and not run.problem and run.experiment.attempt < MAX_ATTEMPTS

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
        self._put(again)
        if not self._stopping and self._fatal is None:
            self._requeue(again)

    def _requeue(self, experiment: Experiment) -> None:
        tree = self._trees.take()
        experiment = evolve(experiment, directory=tree.directory.relative_to(self.directory).as_posix())
        self._put(experiment)
        self._runs[experiment.id] = _Run(experiment, tree, self._new_watch(experiment))
        asyncio.get_running_loop().call_soon(self._start, experiment)

    def _read_result(self, run: _Run, result: JobResult) -> tuple[float | None, Verdict | None, str]:
        """(objective, verdict, reason); the verdict is None where the judge must decide."""
        if run.withdrawn and result.state is JobState.CANCELLED:
            return None, Verdict.CANCELLED, "withdrawn by whoever had submitted it"
        if run.problem:
            return None, Verdict.CRASH, run.problem
        if result.state is JobState.TIMED_OUT:
            return None, Verdict.TIMEOUT, f"reached its time limit of {self.config.limits.time_limit_s:g} s"
        if result.state is JobState.CANCELLED:
            return None, Verdict.CANCELLED, "cancelled from outside arf"
        if result.state in (JobState.PREEMPTED, JobState.LOST):
            return None, Verdict.CRASH, f"{result.state} again: {result.message}".rstrip(": ")
        if result.state is not JobState.SUCCEEDED:
            return None, Verdict.CRASH, self._crash_reason(run, result)
        changed = run.tree.tampered()
        if changed:
            return None, Verdict.INVALID, f"changed {', '.join(changed[:3])} while it ran"
        value, problem = objective_value(self.study.objective, run.watch.objectives)
        if value is None:
            verdict = Verdict.INVALID if "times" in problem else Verdict.CRASH
            return None, verdict, problem
        return value, None, ""

    def _crash_reason(self, run: _Run, result: JobResult) -> str:
        lines = last_lines(self.log_path(run.experiment), 1)
        code = result.exit_code if result.exit_code is not None else 0
        how = result.message or (f"killed by signal {-code}" if code < 0 else f"exit code {code}")
        return f"{how}: {lines[0].strip()[:200]}" if lines else how

    def _learn_from_baseline(self, run: _Run, verdict: Verdict | None, reason: str) -> None:
        if verdict is None:
            if self._stall_s is None and run.watch.steps_seen >= 5:
                self._stall_s = max(MIN_STALL_S, STALL_FACTOR * run.watch.longest_silence_s)
            return
        runs = [self.study.experiments[e] for e in self.study.by_role(Role.BASELINE)]
        good = any(e.value is not None for e in runs)
        others_run = any(e.state is not ExperimentState.ENDED for e in runs)
        failed = sum(e.verdict is not None and e.value is None for e in runs)
        if not good and (failed > 1 or not others_run):
            command = self._command if isinstance(self._command, str) else " ".join(self._command)
            self._fatal = ArfError(
                f"the baseline failed ({verdict}): {reason}; its log is {self.log_path(run.experiment)}",
                hint=f"make `{command}` work as it is, commit, and start a new study",
            )

    # ---- Watching ---------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Look at the logs of running jobs about once a second; end those that have gone wrong."""
        look_at = asyncio.get_running_loop().time() + self._watch_interval_s
        while True:
            await asyncio.sleep(self._watch_interval_s)
            now = asyncio.get_running_loop().time()
            limits = self._watch_limits()
            for run in list(self._runs.values()):
                if not run.handle or run.problem:
                    continue
                readings, problem = run.watch.look(now, limits)
                for reading in readings:
                    self._events.arf_reading(study=self.study, experiment=run.experiment, reading=reading)
                if problem:
                    run.problem = problem
                    self._spawn(self._cancel(run.handle))
            if now >= look_at:
                look_at = now + STANDING_INTERVAL_S
                self._spawn(self._look_at_standing())
            if self._agent_back_at and (now >= self._agent_back_at or self._is_time_up()):
                self._agent_back_at = 0.0
                self._wake.set()

    async def _look_at_standing(self) -> None:
        """Note what the backend holds whether or not it is used, and what that has cost so far."""
        if type(self._backend).standing is Backend.standing:
            return
        standing = await self._backend.standing()
        now = self._now()
        before = self.store.meta("standing_at")
        since_s = now.timestamp() - before if before is not None else 0.0
        rate = self.store.meta("standing_usd_per_hour", 0.0)
        self._standing_usd += rate * since_s / 3600
        with self.store.transaction(durable=False):
            self.store.set_meta("standing", [_standing_json(one) for one in standing])
            self.store.set_meta("standing_at", now.timestamp())
            self.store.set_meta("standing_usd_per_hour", sum(one.usd_per_hour for one in standing))
            self.store.set_meta("standing_usd", self._standing_usd)

    def _watch_limits(self) -> WatchLimits:
        limits = self.config.limits
        return WatchLimits(
            log_bytes=int(limits.log_mb * 2**20),
            stall_s=self._stall_s,
            diverge_factor=limits.diverge_factor,
        )

    async def _cancel(self, handle: str) -> None:
        try:
            await self._backend.cancel(handle)
        except (ArfError, OSError) as error:
            log.warning("cannot cancel %s: %s", handle, error)

    # ---- Thinking ---------------------------------------------------------------------------

    def _open_ask(self, ask: Ask, asked: list[tuple[int, Ask]]) -> bool:
        """Record an ask, unless the agent is busy or away; then the strategy will want it again."""
        busy = len(self._ask_tasks) + len(asked) >= max(1, self._agent.parallel)
        if busy or self._agent_away or self._waiting_for_agent() or self.study.exhausted(ask.base):
            return False
        ask_id = self._next_ask
        self._next_ask += 1
        if ask.kind is AskKind.EXPERIMENTS:
            self._usable_at[ask_id] = self._usable
        self.store.open_ask(ask_id, ask, self._seq(), self._now())
        self.store.set_meta("asks", ask_id)
        self.study.open_ask(ask_id, ask)
        asked.append((ask_id, ask))
        return True

    def _ask(self, ask_id: int, ask: Ask) -> None:
        self._ask_tasks[ask_id] = self._spawn(self._think(ask_id, ask))

    async def _think(self, ask_id: int, ask: Ask) -> None:
        brief = evolve(
            agent_brief(self.study, self.workspace, ask.base, self.directory),
            budget_left=self._budget_left(),
            desk=self._desk,
        )
        answer = Answer()
        failure: AgentError | None = None
        agent = self._agent
        try:
            answer = await agent.answer(ask, brief)
        except AgentError as error:
            failure = error
        except ArfError as error:
            failure = AgentError(error.message, hint=error.hint)
        except Exception as error:  # a plugin's code: its bugs must not end the study
            log.exception("the agent failed")
            failure = AgentError(f"{type(error).__name__}: {error}")
        ideas = await self._make(answer.ideas, ask)
        factors = [(factor.name, await self._make(factor.levels, ask)) for factor in answer.factors]
        submissions = await self._make_submissions(answer.submissions)
        self._inbox.append(_Answered(ask_id, agent, answer, failure, ideas, tuple(factors), submissions))
        self._wake.set()

    async def _make(self, drafts: Sequence[Draft], ask: Ask) -> tuple[_Made, ...]:
        """Commit drafts, one at a time, so that a job that ends meanwhile does not wait for all of them."""
        made = []
        for draft in drafts:
            made.append(self._make_one(draft, ask.base))
            await asyncio.sleep(0)
        return tuple(made)

    def _make_one(self, draft: Draft, base: str) -> _Made:
        try:
            return _Made(draft, self.workspace.make_idea(draft, base, message=_message(draft)), "")
        except (ConflictError, UsageError) as error:
            return _Made(draft, "", str(error))

    def _take_answer(self, item: _Answered) -> None:
        del self._ask_tasks[item.ask_id]
        ask = self.study.open_asks[item.ask_id]
        answer = item.answer
        note, usage = answer.note, answer.usage
        usable_before = self._usable_at.pop(item.ask_id, self._usable)
        if item.error is not None:
            note = str(item.error)
            usage = item.error.usage or usage
            self._agent_failed(item.agent, item.error)
        else:
            self._agent_failures = 0
            for made in item.ideas:
                self._take_idea(item.ask_id, ask.base, made)
            for name, levels in item.factors:
                self._take_factor(item.ask_id, ask, name, levels)
            for submitted in item.submissions:
                self._take_submission(f"ask/{item.ask_id}", submitted, item.ask_id)
            barren = self._usable == usable_before
            self._barren_answers = self._barren_answers + 1 if barren else 0
        exhausted = answer.exhausted or self._barren_answers >= MAX_BARREN_ANSWERS
        self.store.close_ask(item.ask_id, usage, exhausted, self._seq(), self._now(), note)
        self.study.close_ask(item.ask_id, usage, exhausted)
        if note:
            self.store.add_event("agent", note, self._now())

    def _take_idea(self, ask_id: int | None, base: str, made: _Made) -> int | None:
        """The id of the idea that a draft became; None if it cannot be used, which is recorded."""
        draft = made.draft
        if made.problem:
            self.store.add_event("idea", f"{draft.title}: {made.problem}", self._now())
            log.info("idea refused: %s: %s", draft.title, made.problem)
            return None
        idea = Idea(
            id=self._next_idea,
            title=draft.title,
            reason=draft.reason,
            base=base,
            commit=made.commit,
            constants=dict(draft.constants),
            agent=self._agent_name,
            ask=ask_id,
            expected=draft.expected,
        )
        self._next_idea += 1
        self._usable += 1
        self.workspace.keep_idea(self.study.name, idea.id, idea.commit)
        self.store.add_idea(idea, self._seq())
        self.study.add_idea(idea)
        return idea.id

    def _take_factor(self, ask_id: int, ask: Ask, name: str, levels: tuple[_Made, ...]) -> None:
        ideas = [self._take_idea(ask_id, ask.base, level) for level in levels]
        usable = tuple(idea for idea in ideas if idea is not None)
        if usable:
            factor = Factor(name=name, levels=usable, ask=ask_id)
            self.store.add_factor(factor, self._seq())
            self.study.add_factor(factor)

    # ---- Orders of agents and people --------------------------------------------------------

    async def order(self, key: str, submissions: Sequence[Submission]) -> list[int]:
        """Take submissions up, and give the numbers of their orders once they are recorded.

        Idempotent in `key`. What cannot be carried out is an order too, refused with the reason.
        """
        known = self.store.orders_of(key)
        if known:
            return [order.id for order in known]
        made = await self._make_submissions(submissions)
        reply: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._inbox.append(_Ordered(key, made, reply))
        self._wake.set()
        return await reply

    async def withdraw(self, numbers: Sequence[int], experiments: Sequence[int] = ()) -> str:
        """Withdraw orders, and end experiments; gives a line on what was done."""
        reply: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._inbox.append(_Withdrawn(tuple(numbers), tuple(experiments), reply))
        self._wake.set()
        return await reply

    async def try_out(self, draft: Draft, base: str, seconds: float) -> str:
        """Run a change for a short time on a free slot, and give a few lines on how that went."""
        tier = next((tier for tier, count in self._free().items() if count > 0), None)
        if tier is None:
            return "no slot is free to try it out; it was only checked that the change applies"
        base = orders.base_of(self.study, Submission(draft=draft, base=base))
        commit = self.workspace.make_idea(draft, base, message=_message(draft))
        self._tried_out[tier] = self._tried_out.get(tier, 0) + 1
        tree = self._trees.take()
        try:
            return await self._try_commit(commit, tree, tier, min(seconds, self.config.limits.time_limit_s))
        finally:
            self._trees.give_back(tree)
            self._tried_out[tier] -= 1
            self._wake.set()

    async def _try_commit(self, commit: str, tree: WorkTree, tier: str, seconds: float) -> str:
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
        )
        handle = await self._backend.submit(job)
        try:
            result = await self._backend.wait(handle)
        except asyncio.CancelledError:
            await self._cancel(handle)
            raise
        watch = Watch(tail=self._tail(path), parser=self._parser, objective=self.study.objective)
        readings = watch.finish(asyncio.get_running_loop().time(), self._watch_limits())
        return _tried_out(result, seconds, readings, last_lines(path, 8))

    async def _make_submissions(self, submissions: Sequence[Submission]) -> tuple[_Submitted, ...]:
        made = []
        for submission in submissions:
            made.append(self._make_submission(submission))
            await asyncio.sleep(0)
        return tuple(made)

    def _make_submission(self, submission: Submission) -> _Submitted:
        try:
            orders.check(self.study, submission)
            base = orders.base_of(self.study, submission)
        except UsageError as error:
            return _Submitted(submission, "", None, str(error))
        if submission.draft is None:
            return _Submitted(submission, base, None, "")
        made = self._make_one(submission.draft, base)
        return _Submitted(submission, base, made, made.problem)

    def _take_order(self, item: _Ordered) -> None:
        taken = self.store.orders_of(item.key)  # the same request may have come twice at a time
        if not taken:
            taken = [self._take_submission(item.key, submitted, None) for submitted in item.submissions]
        self._tell(item.reply, [order.id for order in taken])

    def _take_submission(self, key: str, submitted: _Submitted, ask_id: int | None) -> Order:
        """Record what was submitted, as an order that waits for its slots or as a refused one."""
        submission, problem = submitted.submission, submitted.problem
        if self._search_over and not problem:
            problem = f"the study's budget is used up ({self._search_over})"
        plan = Plan(parent=submitted.base or self.study.base, ideas=submission.ideas)
        title = submission.draft.title if submission.draft else ""
        if not problem:
            idea = self._take_idea(ask_id, submitted.base, submitted.made) if submitted.made else None
            plan = orders.first_plan(self.study, submission, submitted.base, idea)
            problem = self.study.refusals.get((plan.parent, plan.ideas), "")
            title = plan.title or self._title(plan)
        order = Order(
            id=self._next_order,
            key=key,
            plan=evolve(plan, order=self._next_order),
            runs=submission.runs,
            title=title or "?",
            state=SubmissionState.REFUSED if problem else SubmissionState.WAITING,
            problem=problem,
        )
        self._next_order += 1
        self._usable += not problem
        self._put_order(order)
        return order

    def _take_withdrawal(self, item: _Withdrawn) -> None:
        said = []
        for number in item.orders:
            waiting = self.study.waiting.get(number)
            if waiting is None:
                said.append(f"nothing of {number} waits")
            else:
                self._put_order(evolve(waiting, state=SubmissionState.CANCELLED))
                said.append(f"{number} is withdrawn")
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

    def _count_run(self, order: Order, experiment_id: int) -> None:
        runs = (*order.experiments, experiment_id)
        state = SubmissionState.ACCEPTED if len(runs) == order.runs else order.state
        self._put_order(evolve(order, experiments=runs, state=state))

    def _end_order(self, order: Order, problem: str) -> None:
        self._put_order(evolve(order, state=SubmissionState.REFUSED, problem=problem))

    def _put_order(self, order: Order) -> None:
        self.store.put_order(order, self._seq())
        self.study.put_order(order)

    def _tell(self, reply: asyncio.Future[T], what: T) -> None:
        """Answer a request once the transaction is written."""

        def tell() -> None:
            if not reply.done():
                reply.set_result(what)

        self._replies.append(tell)

    # ---- The agent's absence ----------------------------------------------------------------

    def _agent_failed(self, agent: Agent, error: AgentError) -> None:
        if agent is not self._agent:
            return  # it was replaced meanwhile
        self._agent_failures += 1
        delay_s = error.retry_after_s
        if delay_s is None or self._agent_failures >= MAX_AGENT_FAILURES:
            self._replace_agent(error)
            return
        log.warning("the agent cannot answer now, and is asked again later: %s", error)
        self._agent_back_at = asyncio.get_running_loop().time() + max(
            delay_s, AGENT_RETRY_S * 2 ** (self._agent_failures - 1)
        )

    def _replace_agent(self, error: AgentError) -> None:
        """The agent stays away: the one that the user has named for that takes over, if there is one."""
        if self._fallback is None:
            self._agent_away = True
            log.warning("the agent is not asked any more: %s", error)
            return
        log.warning("%s answers from now on: %s", self.config.study.fallback, error)
        self._away, self._agent, self._fallback = self._agent, self._fallback, None
        self._agent_name = self.config.study.fallback or ""
        self._agent_failures = self._barren_answers = 0

    def _waiting_for_agent(self) -> bool:
        return bool(self._agent_back_at) and not self._agent_away and not self._search_over

    # ---- Beginning and end ------------------------------------------------------------------

    async def _set_up(self) -> None:
        """Run the workspace's set-up command, once for the study. Raises ArfError if it fails."""
        settings = self.config.workspace
        if not settings.setup or self.store.meta("set_up", False):
            return
        tree = self._trees.take()
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
        )
        handle = await self._backend.submit(job)
        waiting = asyncio.ensure_future(self._backend.wait(handle))
        stopped = asyncio.ensure_future(self._stop_asked())
        await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not waiting.done():
            await self._backend.cancel(handle)
        result = await waiting
        self._trees.give_back(tree)
        if self._stopping:
            return
        if result.state is not JobState.SUCCEEDED:
            tail = "; ".join(last_lines(path, 1))
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
            for ask_id in list(self.study.open_asks):
                self.store.close_ask(ask_id, Usage(), False, self._seq(), self._now(), "interrupted")
                self.study.close_ask(ask_id, Usage(), exhausted=False)
        for experiment_id in list(self.study.running):
            experiment = self.study.experiments[experiment_id]
            tree = self._trees.claim(Path(experiment.directory).name)
            run = _Run(experiment, tree, self._new_watch(experiment), handle=experiment.handle)
            if experiment.handle:
                tree.adopt(experiment.commit, experiment.seed)
            self._runs[experiment_id] = run
            self._start(experiment)

    async def _end_jobs(self) -> None:
        """Cancel what runs and take in how it ended."""
        for task in self._ask_tasks.values():
            task.cancel()
        cancelled: set[int] = set()
        while self._runs:
            for experiment_id, run in self._runs.items():
                if run.handle and experiment_id not in cancelled:
                    cancelled.add(experiment_id)
                    self._spawn(self._cancel(run.handle))
            await self._wake.wait()
            self._wake.clear()
            self._turn()

    async def _wind_up(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for agent in (self._agent, self._away, self._fallback):
            if agent is not None:
                await agent.aclose()
        await self._take_down()
        await self._backend.aclose()
        self.workspace.close()

    async def _take_down(self) -> None:
        """Nothing that costs money outlives its study unnoticed."""
        try:
            await self._backend.down()
            await self._look_at_standing()
        except (ArfError, OSError) as error:
            log.warning("%s; `arf stop --down` tries again", error)

    def _finish(self) -> dict[str, Any]:
        state = "failed" if self._fatal else "stopped" if self._stopping else "finished"
        reason = str(self._fatal or self._stopping or self._search_over or "nothing left to try")
        gain = final_gain(self.study)
        with self.store.transaction():
            self.store.set_meta("final", gain.to_json() if gain else None)
            self.store.set_meta("notes", list(self._backend.notes()))
        self._record_state(state, reason)
        summary = summarize(self.store)
        summary.update(state=state, pid=None)
        self._events.arf_study_finished(study=self.study, directory=self.directory, summary=summary)
        if self._fatal is not None:
            raise self._fatal
        return summary

    def _record_state(self, state: str, reason: str) -> None:
        with self.store.transaction():
            self.store.set_meta("state", state)
            self.store.set_meta("end_reason", "" if state == "running" else reason)
            self.store.set_meta("elapsed_s", round(self.elapsed_s, 3))
            self.store.add_event("study", f"{state}: {reason}", self._now())

    # ---- Small things -----------------------------------------------------------------------

    def _seq(self) -> int:
        """The number of the change that is being made."""
        return self.study.happened + 1

    def _put(self, experiment: Experiment) -> None:
        """Write and tell an experiment that has moved on."""
        self.store.update_experiment(experiment, self._seq())
        self.study.put(experiment)
        if experiment.state is ExperimentState.ENDED and experiment.value is not None:
            spread = self.study.spread(experiment.tier, experiment.budget)
            self.store.set_spread(experiment.tier, experiment.budget, spread.sum_squares, spread.df)
        self._changed.append(experiment)

    def _announce(self) -> None:
        """Tell observers what was written."""
        changed, self._changed = self._changed, []
        for experiment in changed:
            self._events.arf_experiment_changed(study=self.study, experiment=experiment)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        # Not ours to hide: it is a bug, or the store cannot be written. The study ends; it can be resumed.
        self._fatal = error if isinstance(error, ArfError) else ArfError(f"{type(error).__name__}: {error}")
        self._fatal.__cause__ = error
        self._wake.set()


def agent_brief(study: Study, workspace: Workspace, base: str, home: Path) -> Brief:
    """What the agent of a study is told about a base, but for the budget that is left."""
    return Brief(
        study=study,
        files=workspace.files(base),
        program=workspace.program(base),
        directory=home / "agent",
        logs=home / "logs",
        diff=workspace.diff,
        is_editable=workspace.may_change,
        checkout=lambda commit, directory: workspace.work_tree(directory).fill(commit, None),
    )


def _tried_out(result: JobResult, seconds: float, readings: Sequence[Reading], tail: Sequence[str]) -> str:
    """How a short run of a change went, for an agent: its output is data."""
    how = {
        JobState.SUCCEEDED: "it ran to its end",
        JobState.TIMED_OUT: f"it still ran after {seconds:g} s, as it should",
    }.get(result.state, f"it ended as {result.state} with exit code {result.exit_code}")
    last = {reading.name: f"{reading.name} {reading.value:.6g}" for reading in readings}
    lines = [how, f"readings: {', '.join(last.values()) or 'none'}"]
    return "\n".join([*lines, "the last lines of its log:", *(line[:300] for line in tail)])


def _standing_json(standing: Standing) -> dict[str, Any]:
    since = standing.since.isoformat() if standing.since else None
    return {**attrs.asdict(standing), "since": since}


def _message(draft: Draft) -> str:
    return f"{draft.title}\n\n{draft.reason}\n" if draft.reason else f"{draft.title}\n"
