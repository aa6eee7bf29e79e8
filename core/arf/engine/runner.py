"""Runs the jobs of a study: work trees, logs, submitting, waiting, cancelling, try-outs and the set-up.

It knows neither the study nor the store. What happens it tells an `Inbox`; what follows is decided there.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from arf.engine.runs import Ready, Run, Trees, read_result, tried_out
from arf.engine.watch import LogTail, Normal, Watch, WatchLimits, counted_metrics, last_lines
from arf.errors import ArfError, ConflictError, LostError
from arf.interfaces import Tried
from arf.types import Experiment, ExperimentState, Idea, Job, JobResult, JobState, Objective, Reading, Role

if TYPE_CHECKING:
    from arf.config.schema import Limits
    from arf.engine.tasks import Tasks
    from arf.interfaces import Backend, MetricParser, Workspace, WorkTree
    from arf.sandbox.boxes import Boxes

log = logging.getLogger(__name__)

WATCH_INTERVAL_S = 1.0


@frozen
class Refusal:
    """The job of an experiment could not be had."""

    error: Exception
    is_fatal: bool = False
    """Whether no other job will fare better."""


@frozen
class Ended:
    """An attempt at an experiment is over, or could not begin."""

    experiment_id: int
    attempt: int
    how: JobResult | Refusal


class Inbox(ABC):
    """Who is told what happens to jobs."""

    @abstractmethod
    def started(self, run: Run) -> None:
        """The backend has the job. Never raises: the job is waited for whatever comes of it."""

    @abstractmethod
    def ended(self, end: Ended) -> None:
        """The job is over; the run is held until it is taken out (`JobRunner.release`)."""

    @abstractmethod
    def heard(self, experiment: Experiment, readings: Sequence[Reading]) -> None:
        """Its log has metric values that were not there before."""


@frozen(kw_only=True)
class Commands:
    """What is run in a work tree, and how long it may take."""

    command: str | tuple[str, ...]
    env: Mapping[str, str]
    """The whole environment of a job, but for what says which experiment it is."""
    limits: Limits
    setup: str = ""
    """A shell command that is run once, before the first job; empty for none."""
    setup_time_limit_s: float = 3600.0


class JobRunner:
    """The jobs of one study. `connect` comes first."""

    def __init__(
        self,
        *,
        name: str,
        directory: Path,
        objective: Objective,
        workspace: Workspace,
        backend: Backend,
        parser: MetricParser,
        boxes: Boxes,
        commands: Commands,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        tail: Callable[[Path], LogTail] = LogTail,
        watch_interval_s: float = WATCH_INTERVAL_S,
    ) -> None:
        """`name` is the study's, `directory` its folder."""
        self._name = name
        self._directory = directory
        self._objective = objective
        self._workspace = workspace
        self._parser = parser
        self._boxes = boxes
        self._commands = commands
        self._tail = tail
        self.trees = Trees(workspace, directory / "trees")
        self._ready: Ready | None = None
        self.backend = backend
        self.now = now
        self.watch_interval_s = watch_interval_s
        self.runs: dict[int, Run] = {}
        """Experiments that have not ended, by their ids."""
        self.slots: dict[str, int] = {}
        """Slots in working order, by tier."""
        self.tried_out: dict[str, int] = {}
        """Slots in use for trying changes out, by tier."""
        self.normal = Normal()
        self._inbox: Inbox
        self._tasks: Tasks

    def connect(self, inbox: Inbox, tasks: Tasks, slots: Mapping[str, int], normal: Normal) -> None:
        """Begin: who is told what happens, and what an earlier process knew."""
        self._inbox, self._tasks = inbox, tasks
        self.slots, self.normal = dict(slots), normal

    async def count_slots(self) -> None:
        """Ask the backend how many slots are left, as nodes were set aside."""
        tiers = await self.backend.tiers()
        self.slots |= {tier.name: tier.slots for tier in tiers if tier.name in self.slots}

    # ---- Work trees -------------------------------------------------------------------------

    def place(self, experiment: Experiment) -> Experiment:
        """Give a new experiment its work tree, and hold it; it says where. `start` comes next."""
        ready, tree = self._ready, None
        if ready is not None and ready.commit == experiment.commit:
            tree, self._ready = ready.tree, None
        is_filled = ready is not None and tree is not None and ready.seed == experiment.seed
        return self._hold(experiment, tree or self.trees.take(), filled=is_filled)

    def place_again(self, experiment: Experiment, tree: WorkTree | None = None) -> Experiment:
        """The same for one that is run again; `tree` is where its job may be already."""
        is_filled = tree is not None
        return self._hold(experiment, tree or self.trees.take(), filled=is_filled, since=self.now())

    def adopt(self, experiment: Experiment) -> Run:
        """Hold an experiment that an earlier process has started, or was about to. Raises LostError."""
        tree = self.trees.claim(Path(experiment.directory).name)
        self._hold(experiment, tree)
        run = self.runs[experiment.id]
        run.handle = experiment.handle
        if not experiment.handle:
            run.since = self.now()
        else:
            tree.adopt(experiment.commit, experiment.seed)
            run.since = experiment.started_at if experiment.attempt > 1 else None
        return run

    def _hold(
        self, experiment: Experiment, tree: WorkTree, *, filled: bool = False, since: datetime | None = None
    ) -> Experiment:
        place = tree.directory.relative_to(self._directory).as_posix()
        experiment = evolve(experiment, directory=place)
        watch = self._watch(self.log_path(experiment))
        self.runs[experiment.id] = Run(experiment, tree, watch, filled=filled, since=since)
        return experiment

    def release(self, end: Ended) -> Run | None:
        """Take out a run that has ended; None if another attempt is under way. `give_back` frees its tree."""
        run = self.runs.get(end.experiment_id)
        if run is None or run.experiment.attempt != end.attempt:
            return None
        return self.runs.pop(end.experiment_id)

    def give_back(self, run: Run) -> None:
        """Let others have its work tree."""
        self.trees.give_back(run.tree)

    def prepare(self, commit: str, seed: int) -> None:
        """Fill the spare tree with what the next free slot will probably run."""
        if self._ready is not None and self._ready.commit == commit:
            return
        tree = self._ready.tree if self._ready is not None else self.trees.take()
        self._ready = None
        try:
            tree.fill(commit, seed)
        except (ArfError, OSError):
            self.trees.give_back(tree)
        else:
            self._ready = Ready(commit, seed, tree)

    def remove_trees(self) -> None:
        """Delete all work trees that no job is in."""
        self.trees.remove({run.tree.directory.name for run in self.runs.values()})

    # ---- Jobs -------------------------------------------------------------------------------

    def start(self, experiment: Experiment, ideas: Sequence[Idea]) -> None:
        """Bring a run that is held to the backend, or wait for the job that it has there."""
        self._tasks.spawn(self._run_job(self.runs[experiment.id], ideas))

    async def _run_job(self, run: Run, ideas: Sequence[Idea]) -> None:
        """Bring an experiment to the backend and wait for its end; the rest is for the inbox."""
        experiment = run.experiment
        number, attempt = experiment.id, experiment.attempt
        is_fatal = False
        try:
            if not run.handle:
                is_fatal = True  # if git cannot keep this commit, it can keep no other
                self._keep(experiment, ideas)
                is_fatal = False
                if not run.filled:
                    run.tree.fill(experiment.commit, experiment.seed)
                run.handle = await self.backend.submit(self._job(run))
                self._inbox.started(run)
            result = await self.backend.wait(run.handle)
        except Exception as error:
            is_fatal = is_fatal and isinstance(error, ArfError) and not isinstance(error, LostError)
            self._inbox.ended(Ended(number, attempt, Refusal(error, is_fatal)))
            if not isinstance(error, ArfError | OSError):
                raise
            log.warning("experiment %d: %s", number, error)
        else:
            self._inbox.ended(Ended(number, attempt, result))

    def _keep(self, experiment: Experiment, ideas: Sequence[Idea]) -> None:
        """Have git keep the commit, before anything runs: until then the user's next `git prune` takes it.

        It is made again if that has happened. Raises LostError if that cannot be.
        """
        try:
            self._workspace.compose(experiment.parent, ideas, message=experiment.title)
            self._workspace.keep(self._name, experiment.id, experiment.commit)
        except (ConflictError, LostError) as error:
            raise LostError(error.message, hint=error.hint) from None

    def _job(self, run: Run) -> Job:
        experiment = run.experiment
        env = self._env(experiment.commit, experiment.seed) | {"ARF_EXPERIMENT": str(experiment.id)}
        if experiment.budget is not None:
            env["ARF_BUDGET_SHARE"] = str(experiment.budget)
        path = self.log_path(experiment)
        path.parent.mkdir(exist_ok=True)  # somebody may have made room
        return Job(
            key=_job_key(experiment),
            directory=run.tree.cwd,
            command=self._commands.command,
            env=env,
            log=path,
            tier=experiment.tier,
            time_limit_s=self._commands.limits.time_limit_s,
            box=self._boxes.make(run.tree.directory, run.tree.readonly, run.tree.others),
        )

    def _env(self, commit: str, seed: int) -> dict[str, str]:
        own = {"ARF_SEED": str(seed), "ARF_STUDY": self._name, "ARF_COMMIT": commit}
        return {**self._commands.env, **own}

    def cancel(self, run: Run) -> None:
        """End its job, if it has one already."""
        if run.handle:
            self._tasks.spawn(self._cancel(run.handle))

    async def _cancel(self, handle: str) -> None:
        try:
            await self.backend.cancel(handle)
        except (ArfError, OSError) as error:
            log.warning("cannot cancel %s: %s", handle, error)

    def log_path(self, experiment: Experiment) -> Path:
        """The log of an experiment's last attempt."""
        return self._directory / "logs" / f"{experiment.id:06d}.log"

    # ---- Logs and results -------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Look at the logs of all jobs, and end those that have gone wrong. `now` is the loop's clock."""
        for run in list(self.runs.values()):
            if not run.handle or run.problem:
                continue
            readings, problem = run.watch.look(now, self._watch_limits(run.experiment.role))
            self._inbox.heard(run.experiment, readings)
            if problem:
                run.problem = problem
                self.cancel(run)

    def read_end(self, run: Run, result: JobResult) -> Experiment:
        """The experiment as it has ended, with what its log says; no verdict where a judge decides."""
        limits = self._watch_limits(run.experiment.role)
        readings = run.watch.finish(asyncio.get_running_loop().time(), limits)
        run.problem = run.problem or run.watch.flood(limits)
        self._inbox.heard(run.experiment, readings)
        time_limit_s, path = self._commands.limits.time_limit_s, self.log_path(run.experiment)
        value, verdict, reason = read_result(run, result, self._objective, time_limit_s, path)
        return evolve(
            run.experiment,
            state=ExperimentState.ENDED,
            job_state=result.state,
            exit_code=result.exit_code,
            slot=result.slot,
            started_at=result.started_at or run.experiment.started_at,
            ended_at=result.ended_at or self.now(),
            metrics=counted_metrics(run.watch.metrics),
            curve=tuple(run.watch.curve),
            value=value,
            verdict=verdict,
            reason=reason,
        )

    def learn(self, run: Run) -> Normal:
        """Take a good run of the baseline as an example of what is normal; gives all that is known of it."""
        self.normal = self.normal.after(run.watch)
        return self.normal

    def _watch(self, path: Path) -> Watch:
        return Watch(tail=self._tail(path), parser=self._parser, objective=self._objective)

    def _watch_limits(self, role: Role) -> WatchLimits:
        """What ends a run early. How the losses of the baseline go is normal, whatever it is, and nothing is
        called diverged before that is known."""
        limits = self._commands.limits
        factor = limits.diverge_factor
        if factor is not None and (role is Role.BASELINE or not self.normal.runs):
            factor = math.inf
        return WatchLimits(
            log_bytes=int(limits.log_mb * 2**20),
            stall_s=limits.stall_s or self.normal.stall_s,
            silent_start_s=limits.stall_s,
            diverge_factor=factor,
            highest=self.normal.highest,
        )

    # ---- What is no experiment --------------------------------------------------------------

    async def try_out(self, commit: str, seed: int, tier: str, seconds: float) -> Tried:
        """Run a commit for a short time on a free slot of a tier, and tell how that went."""
        self.tried_out[tier] = self.tried_out.get(tier, 0) + 1
        tree = self.trees.take()
        try:
            tree.fill(commit, seed)
            return await self._try(commit, seed, tree, tier, seconds)
        finally:
            self.trees.give_back(tree)
            self.tried_out[tier] -= 1

    async def _try(self, commit: str, seed: int, tree: WorkTree, tier: str, seconds: float) -> Tried:
        path = self._directory / "logs" / f"try-{commit[:12]}.log"
        job = Job(
            key=f"try-{commit[:12]}-{int(self.now().timestamp() * 1000)}",
            directory=tree.cwd,
            command=self._commands.command,
            env=self._env(commit, seed),
            log=path,
            tier=tier,
            time_limit_s=min(seconds, self._commands.limits.time_limit_s),
            box=self._boxes.make(tree.directory, tree.readonly, tree.others),
        )
        handle = await self.backend.submit(job)
        try:
            result = await self.backend.wait(handle)
        except asyncio.CancelledError:
            await self._cancel(handle)
            raise
        limits = self._watch_limits(Role.BASELINE)
        readings = self._watch(path).finish(asyncio.get_running_loop().time(), limits)
        return tried_out(result, job.time_limit_s, readings, path)

    @property
    def has_setup(self) -> bool:
        """Whether the workspace has a set-up command."""
        return bool(self._commands.setup)

    async def set_up(self, base: str, seed: int, tier: str, stopped: asyncio.Event) -> bool:
        """Run the set-up command. False if it was `stopped`. Raises ArfError if it fails."""
        tree = self.trees.claim("setup")  # and never given back: it may have to run again elsewhere
        tree.fill(base, seed)
        path = self._directory / "logs" / "setup.log"
        job = Job(
            key=f"setup-{int(self.now().timestamp())}",
            directory=tree.cwd,
            command=self._commands.setup,
            env=self._commands.env,
            log=path,
            tier=tier,
            time_limit_s=self._commands.setup_time_limit_s,
            prepares=True,
        )
        handle = await self.backend.submit(job)
        waiting = asyncio.ensure_future(self.backend.wait(handle))
        stopping = asyncio.ensure_future(stopped.wait())
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not waiting.done():
            await self.backend.cancel(handle)
        result = await waiting
        if not stopped.is_set():
            self._check_setup(result, path)
        return not stopped.is_set()

    def _check_setup(self, result: JobResult, path: Path) -> None:
        if result.state is JobState.SUCCEEDED:
            return
        tail = "; ".join(last_lines(path, 1))
        if result.state is JobState.TIMED_OUT:
            limit_s = self._commands.setup_time_limit_s
            tail = f"it reached workspace.setup_time_limit_s ({limit_s:g})"
        raise ArfError(
            f"the set-up command failed ({result.state}, exit code {result.exit_code}): {tail}",
            hint=f"its log is {path}; make `{self._commands.setup}` work, then start again",
        )


def _job_key(experiment: Experiment) -> str:
    """What the backend knows an attempt by: the same after a crash, so that it is not run twice.

    It says what is run: where the database is an older copy, the same number may mean another experiment by
    now, whose result the backend may still have.
    """
    e = experiment
    what = hashlib.sha256(f"{e.commit} {e.seed} {e.tier} {e.budget}".encode()).hexdigest()
    return f"{e.id:06d}-{what[:8]}-{e.attempt}"
