"""What all pools of workers do alike: queues by tier, ends, tiers that refuse jobs for a while."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from attrs import define, field

from arf.errors import BackendError, nearest
from arf.sdk.jobs import check_job, exit_reason, handle_of
from arf.sdk.polling import PollingBackend
from arf.types import Job, JobResult, JobState

log = logging.getLogger(__name__)

T = TypeVar("T")

REFUSED_S = 30.0
"""How long a tier that cannot work refuses jobs; then it is tried again."""


class Unreachable(BackendError):
    """Whoever has the machines does not answer: nothing is known, and it may answer later."""


class NoCapacity(BackendError):
    """No machine of that kind can be had now: no capacity, or a quota."""


class Refused(BackendError):
    """It will not work until somebody changes something."""


class Gone(BackendError):
    """There is no such machine (any more)."""


@define(kw_only=True)
class Tally:
    """What happened on a tier, and what follows for the next workers."""

    started: int = 0
    """Workers, or nodes of them, that were asked for."""
    ended: dict[str, int] = field(factory=dict)
    """Those that are gone, by why."""
    failures: int = 0
    """Set-ups, or nodes, that failed in a row."""
    refusal: BackendError | None = None
    refused_until: float = 0.0
    shortage: str = ""
    """Why there are fewer than wanted."""
    not_before: float = 0.0
    """When more may be asked for."""
    pause_s: float = 0.0
    """How long is waited after the next failure to get some."""

    def count_end(self, why: str) -> None:
        self.ended[why] = self.ended.get(why, 0) + 1

    def ends(self) -> str:
        """For people; empty if there were none."""
        return ", ".join(f"{count} {why}" for why, count in sorted(self.ended.items()))


class WorkerPool(PollingBackend):
    """Jobs wait here until a worker takes them. A subclass has the workers, and writes down what must
    survive."""

    def __init__(
        self, options: Any, directory: Path, *, poll_interval_s: tuple[float, float] = (5.0, 60.0)
    ) -> None:
        super().__init__(options, directory, poll_interval_s=poll_interval_s)
        self._attached_to: asyncio.AbstractEventLoop | None = None
        self._queued: dict[str, dict[str, None]] = {}
        """Handles that no worker has, by tier, in order."""
        self._results: dict[str, JobResult] = {}
        self._cancels: dict[str, float] = {}
        """When the cancel of a job was ordered that a worker may have."""
        self._tallies: dict[str, Tally] = {}

    # ---- For the subclass -------------------------------------------------------------------

    @abstractmethod
    async def _attach(self) -> None:
        """Begin to work in this event loop: read what an earlier process, or loop, has left."""

    @abstractmethod
    def _has(self, handle: str) -> bool:
        """Whether a job is written down here."""

    @abstractmethod
    async def _keep(self, handle: str, job: Job) -> None:
        """Write a job down; only then may anybody run it. Raises BackendError."""

    def _check(self, job: Job) -> None:
        """Raises BackendError for what could never run."""
        check_job(job)

    @abstractmethod
    def _assign(self) -> None:
        """See to it that what waits is run."""

    @abstractmethod
    def _end_queued(self, handle: str, state: JobState, message: str) -> None:
        """End a job that no worker has, unless one takes it now; and keep that."""

    # ---- The interface ----------------------------------------------------------------------

    async def submit(self, job: Job) -> str:
        await self._attach()
        handle = handle_of(job.key)
        if not self._has(handle):
            if job.tier not in self._queued:
                raise BackendError(
                    f"there is no tier {job.tier!r} here", hint=nearest(job.tier, self._queued)
                )
            self._check(job)
            tally = self._tally(job.tier)
            if tally.refusal is not None and self._now() < tally.refused_until:
                raise tally.refusal
            await self._keep(handle, job)
        self.follow(handle)
        self._assign()
        return handle

    async def wait(self, handle: str) -> JobResult:
        await self._attach()
        return await super().wait(handle)

    # ---- What follows from ends -------------------------------------------------------------

    def _tally(self, tier: str) -> Tally:
        return self._tallies.setdefault(tier, Tally())

    def _refuse(self, tier: str, error: BackendError) -> None:
        """A tier cannot run anything: say so to those that wait for it, and to those that come soon."""
        tally = self._tally(tier)
        if not error.message.startswith(f"tier {tier}: "):
            error = BackendError(f"tier {tier}: {error.message}", hint=error.hint)
        tally.refusal, tally.refused_until = error, self._now() + REFUSED_S
        tally.failures = 0
        log.warning("%s", error)
        for handle in [*self._queued.get(tier, ())]:
            self._end_queued(handle, JobState.LOST, str(error))

    def _unqueue(self, handle: str) -> None:
        for queue in self._queued.values():
            queue.pop(handle, None)


def unknown_job() -> JobResult:
    return JobResult(state=JobState.LOST, message="this backend knows no such job")


def signed(code: int | None) -> int | None:
    """An exit code, with the shell's way to say that a signal ended it undone."""
    return 128 - code if code is not None and 128 < code <= 192 else code


def state_of(why: str, code: int | None, limit_s: float) -> tuple[JobState, str]:
    """What a worker's word for a job's end means, with a message: (`signed` code, the job's own limit)."""
    if why == "cancel":
        return JobState.CANCELLED, "cancelled"
    if why == "ended":
        return JobState.PREEMPTED, "its worker was told to end"
    if why == "timeout":
        return JobState.TIMED_OUT, f"ended at its time limit of {limit_s:g} s"
    if why == "setup":
        return JobState.LOST, "the set-up lines failed"
    if why == "error" or code is None:
        return JobState.FAILED, "it could not be started"
    return (JobState.SUCCEEDED, "") if code == 0 else (JobState.FAILED, exit_reason(code))


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def end_of(started_at: datetime, seconds: float) -> datetime:
    return started_at + timedelta(seconds=max(0.0, seconds))


def ended_after(started_at: datetime | None) -> datetime:
    """Now, but never before a start that another clock has told."""
    now = datetime.now(UTC)
    return now if started_at is None else max(now, started_at)


async def in_thread(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """What a blocking call gives. Its thread ends with the process: the call may take an hour."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if not future.done():
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = call(*args, **kwargs)
        except BaseException as caught:
            error = caught
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            pass  # the loop has ended, and with it whoever wanted to know

    Thread(target=run, daemon=True).start()
    return await future
