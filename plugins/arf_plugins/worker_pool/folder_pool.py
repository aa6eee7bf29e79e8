"""A pool of workers that arf reaches through a folder that both sides see.

What a job's end is, its worker says there. Whoever has the machines is asked only about workers that do not
speak: those that have not started yet, those that have fallen silent, those that were ended from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import evolve

from arf.errors import BackendError
from arf.sdk.jobs import job_from
from arf.types import Job, JobResult, JobState
from arf_plugins.worker_pool.folder import Folder, Worker
from arf_plugins.worker_pool.on_node.files import ARF, loads
from arf_plugins.worker_pool.options import PoolOptions
from arf_plugins.worker_pool.pool import (
    WorkerPool,
    end_of,
    ended_after,
    moment,
    signed,
    state_of,
    unknown_job,
)
from arf_plugins.worker_pool.sending import Sending

log = logging.getLogger(__name__)

EARLY_DEATHS = 3
"""Set-ups, or batches of workers, that fail in a row; then their tier is taken to be broken."""
OBEY_S = 30.0
"""How long a worker may take to end a job beyond the grace, before it is ended from outside."""
LEASE_S = 60.0
"""How long idle workers wait for an arf that has not touched its file."""
TOUCH_S = 15.0
LAUNCH_S = 5.0
END_S = 10.0
"""How long workers that are told to end may take for it, beyond the grace of their jobs."""


class FolderPool(WorkerPool):
    """The base of backends whose workers and arf share a folder: the study's, or one to send through."""

    options: PoolOptions

    def __init__(self, options: PoolOptions, directory: Path, *, folder: str) -> None:
        super().__init__(options, directory, poll_interval_s=(options.poll, max(60.0, options.poll)))
        self._directory = Path(os.path.realpath(directory))
        self._own_home = self._directory / folder
        """Where jobs are kept if the nodes see the study's folder."""
        self._folder = Folder(self._own_home)
        self._sending: Sending | None = None
        """None while work trees are used where they are."""
        self._moving = asyncio.Lock()
        """Held while jobs go from one folder to another: none of them may be missed meanwhile."""
        self._workers: dict[str, Worker] = {}
        """Those that are not gone, by their name in claims."""
        self._running: dict[str, Worker] = {}
        self._launching: asyncio.Task[None] | None = None
        self._touching: asyncio.Task[None] | None = None
        self._looked_at = 0.0
        self._ending = False
        self._deaths: dict[str, int] = {}
        """Batches of workers in a row, by tier, with one that ended before it said hello."""
        self._aside: set[str] = set()
        """Nodes that get no more jobs."""

    # ---- For the subclass -------------------------------------------------------------------

    @property
    @abstractmethod
    def _prefix(self) -> str:
        """How the names of this pool's workers begin."""

    @property
    def _one_job_each(self) -> bool:
        """Whether each worker is for one job that is known before."""
        return False

    @abstractmethod
    async def _launch(self) -> None:
        """Start the workers that are missing."""

    @abstractmethod
    async def _dismiss(self, workers: Iterable[Worker]) -> None:
        """Have workers ended from outside; one whose number is not known yet, when it is seen."""

    @abstractmethod
    async def _left(self) -> list[str]:
        """The workers of this pool that are still there, as those say who have the machines."""

    @abstractmethod
    async def _end_left(self, left: Collection[str]) -> None:
        """Have them ended from outside."""

    # ---- Jobs that come ---------------------------------------------------------------------

    def _has(self, handle: str) -> bool:
        return self._folder.has(handle)

    async def _keep(self, handle: str, job: Job) -> None:
        sent = await asyncio.to_thread(self._sending.send, job, handle) if self._sending else {}
        self._folder.add(handle, job, sent)
        self._enqueue(job.tier, handle)

    def _assign(self) -> None:
        if self._ending:
            return
        if self._launching is None or self._launching.done():
            self._launching = asyncio.get_running_loop().create_task(self._launch())

    async def cancel(self, handle: str) -> None:
        await self._attach()
        async with self._moving:
            await self._cancel(handle)

    async def _cancel(self, handle: str) -> None:
        if not self._folder.has(handle) or handle in self._results:
            return
        self._listen()
        if handle in self._results:
            return
        if handle not in self._running and self._folder.claim(handle):
            self._end_here(handle, JobState.CANCELLED, "cancelled")
            await self._dismiss(w for w in self._workers.values() if w.only == handle)
        elif handle not in self._cancels:
            worker = self._running.get(handle) or self._workers.get(self._folder.claimant(handle))
            self._cancels[handle] = self._now()
            if worker is not None:
                self._folder.order(worker, f"cancel {handle}")
        self.soon()

    def node_of(self, slot: str) -> str:
        return slot.partition(":")[0]

    def _heed_aside(self, worker: Worker) -> None:
        if self.node_of(worker.slot) in self._aside and not worker.leaving:
            worker.leaving = True
            try:
                self._folder.order(worker, "leave")
            except BackendError as error:
                log.warning("%s", error)

    async def aclose(self) -> None:
        await self._stop_launching()
        await super().aclose()
        if self._attached_to is not asyncio.get_running_loop():
            return
        self._detach()
        if not self._one_job_each:
            with contextlib.suppress(BackendError):  # they end by themselves, when arf has been gone for long
                for worker in self._workers.values():
                    if not worker.draining:
                        self._folder.order(worker, "drain")
                if not any(self._queued.values()):
                    await self._dismiss(w for w in self._workers.values() if not w.slot)

    async def down(self) -> None:
        """End all workers, and see them gone. What they run is run again, if the study is resumed."""
        if not self._folder.has_batches():
            return
        await self._stop_launching()
        if self._attached_to is not asyncio.get_running_loop():
            await self._read_state()
        workers = [*self._workers.values()]
        for worker in workers:
            self._folder.order(worker, "end")
        await self._dismiss(worker for worker in workers if not worker.slot)
        limit, pause_s = self._now() + END_S + self.options.grace, 0.2
        while any(worker.slot for worker in self._workers.values()) and self._now() < limit:
            await asyncio.sleep(0.1)  # they say when they end: nobody else need be asked so often
            self._listen()
        while left := await self._left():
            if self._now() > limit:
                await self._end_left(left)
            if self._now() > limit + END_S:
                raise BackendError(
                    f"still there: {', '.join(left)}",
                    hint="`arf stop --down` tries again; `scancel` ends them",
                )
            await asyncio.sleep(pause_s)
            pause_s = min(1.5 * pause_s, 2.0)
        self._listen()
        for worker in [*self._workers.values()]:
            self._drop(worker)
            self._folder.mark_gone(worker)
        self._detach()

    async def _stop_launching(self) -> None:
        """Start nothing more, and wait for what is being started now: nobody else would know of it."""
        self._ending = True
        if self._launching is not None:
            await asyncio.wait([self._launching], timeout=LAUNCH_S)
            self._launching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._launching

    def _detach(self) -> None:
        self._attached_to = None
        if self._touching is not None:
            self._touching.cancel()

    # ---- Finding what is there --------------------------------------------------------------

    async def _attach(self) -> None:
        if self._attached_to is asyncio.get_running_loop():
            return
        await self._read_state()
        self._attached_to = asyncio.get_running_loop()
        self._ending = False
        self._touching = self._attached_to.create_task(self._touch())
        self._assign()

    async def _read_state(self) -> None:
        tiers = await self.tiers()
        self._bind()
        self._moving = asyncio.Lock()
        self._prepare([tier.name for tier in tiers])
        self._workers, self._running, self._results, self._cancels = {}, {}, {}, {}
        self._queued = {tier.name: {} for tier in tiers}
        self._looked_at = self._now()
        self._results.update(self._folder.ends())
        if self._sending is not None:
            self._carry_over(self._sending)
        for worker in self._folder.workers(self._prefix):
            self._add_worker(worker)
        self._listen()
        for worker in list(self._workers.values()):
            if self._folder.is_gone(worker):
                self._drop(worker)
        announced = {tier.name: self._folder.announced(tier.name) for tier in tiers}
        for handle in self._folder.handles():
            if handle not in self._results and handle not in self._running:
                self._find(handle, announced)

    def _prepare(self, tiers: Collection[str]) -> None:
        self._folder.prepare([*tiers])
        if self._sending is not None:
            self._sending.prepare()

    async def _touch(self) -> None:
        """Let workers know that arf is there, as long as it is."""
        while True:
            with contextlib.suppress(OSError):
                self._folder.touch()
            await asyncio.sleep(TOUCH_S)

    # ---- Sending code along -----------------------------------------------------------------

    def _send_by(self, sending: Sending) -> None:
        self._sending = sending
        self._folder = Folder(sending.home)

    @abstractmethod
    def _new_sending(self) -> Sending:
        """How code would be sent along."""

    async def _begin_to_send(self, where: str) -> None:
        """The nodes do not see the study's folder: go on through one that they see, with all that waits."""
        sending = self._new_sending()
        async with self._moving:
            while self._launching is not None and not self._launching.done():
                await asyncio.wait([self._launching])
            log.warning(
                "the nodes do not see %s%s: code is sent along from now on, through %s",
                self._directory, where, sending.home,
            )  # fmt: skip
            await self._dismiss(self._workers.values())
            for worker in [*self._workers.values()]:
                self._drop(worker)
                self._folder.mark_gone(worker)
            queued = [handle for queue in self._queued.values() for handle in queue]
            self._queued = {tier: {} for tier in self._queued}
            self._tallies = {}
            self._send_by(sending)
            lost = unknown_job()
            try:
                self._prepare(self._queued)
                await asyncio.to_thread(self._carry_over, sending)
            except BackendError as error:
                log.warning("%s", error)
                lost = evolve(lost, message=str(error))
            for handle in queued:
                if self._folder.has(handle):
                    self._enqueue(self._folder.job(handle)["tier"], handle)
                else:
                    self._settle_job(handle, lost)
        self._assign()

    def _carry_over(self, sending: Sending) -> None:
        """Send what waits in the study's own folder, where no worker has taken it: there never was one."""
        own = Folder(self._own_home)
        ended = dict(own.ends())
        for handle in own.handles():
            if handle in ended or self._folder.has(handle):
                continue
            if not own.claim(handle) and own.claimant(handle) != ARF:
                continue
            fields = own.job(handle)
            if not fields:
                continue
            job = job_from(fields)
            self._folder.add(handle, job, sending.send(job, handle))

    def _follow_logs(self) -> None:
        if self._sending is not None:
            for handle in self._running:
                self._sending.follow_log(handle)

    # ---- Jobs of an earlier process ---------------------------------------------------------

    def _find(self, handle: str, announced: Mapping[str, set[str]]) -> None:
        """A job of an earlier process that no journal speaks of."""
        who = self._folder.claimant(handle)
        job = self._folder.job(handle)
        tier = job.get("tier", "")
        if who == ARF:
            self._results[handle] = JobResult(state=JobState.CANCELLED, message="cancelled")
        elif who in self._workers:
            self._workers[who].current = handle
            self._running[handle] = self._workers[who]
            self.follow(handle)
        elif who or tier not in self._queued:
            gone = "its worker is gone" if who else f"there is no tier {tier!r} any more"
            self._results[handle] = JobResult(state=JobState.LOST, message=gone)
        else:
            self._enqueue(tier, handle, announced=handle in announced[tier])
            self.follow(handle)

    def _enqueue(self, tier: str, handle: str, *, announced: bool = False) -> None:
        self._queued[tier][handle] = None
        if not self._one_job_each and not announced:
            self._folder.announce(tier, handle)

    def _add_worker(self, worker: Worker) -> None:
        worker.launched_at = worker.heard_at = self._now()
        self._workers[worker.who] = worker

    # ---- Listening to the workers -----------------------------------------------------------

    async def glance(self, handles: Collection[str]) -> Mapping[str, JobResult]:
        if self._launching is not None and self._launching.done() and not self._launching.cancelled():
            self._launching.result()  # a bug must not end in silence
        self._listen()
        self._follow_logs()
        self._watch_silence()
        await self._enforce()
        if any(self._queued.values()):
            self._assign()
        return {
            handle: self._results.get(handle) or unknown_job() for handle in handles if self._is_over(handle)
        }

    def _is_over(self, handle: str) -> bool:
        return handle in self._results or not (
            handle in self._running or any(handle in queue for queue in self._queued.values())
        )

    def _listen(self) -> None:
        """Take in what the workers have written."""
        for worker in list(self._workers.values()):
            self._read(worker)

    def _read(self, worker: Worker) -> None:
        for line in worker.journal.read():
            fields = loads(line)
            worker.heard_at = self._now()
            worker.confirmed = worker.confirmed or "beat" in fields
            if "hello" in fields:
                self._take_hello(worker, fields)
            elif "start" in fields:
                self._take_start(worker, fields)
            elif "end" in fields:
                self._take_end(worker, fields)
            elif "bye" in fields:
                self._take_bye(worker, fields)

    def _take_hello(self, worker: Worker, fields: Mapping[str, Any]) -> None:
        if worker.slot and worker.current:  # somebody has had it run again
            self._end_current(worker, JobState.PREEMPTED, "its worker was put back into the queue")
        worker.slot = str(fields.get("slot", "?"))
        worker.reason = ""
        self._deaths[worker.tier] = 0
        self._heed_aside(worker)

    def _take_start(self, worker: Worker, fields: Mapping[str, Any]) -> None:
        handle = fields["start"]
        self._unqueue(handle)
        worker.current, worker.started_at = handle, moment(fields["at"])
        if handle not in self._results:
            self._running[handle] = worker

    def _take_end(self, worker: Worker, fields: Mapping[str, Any]) -> None:
        if fields["why"] == "term":
            worker.doubtful, worker.last = True, fields
            self.soon()
            return
        result = self._result(worker, fields)
        self._settle_job(fields["end"], result)
        worker.current = ""
        tally = self._tally(worker.tier)
        if fields["why"] != "setup":
            tally.failures = 0
            return
        tally.failures += 1
        if tally.failures >= EARLY_DEATHS:
            self._refuse(
                worker.tier,
                BackendError(
                    result.message, hint="try backend.setup by hand on a node, and look at its disk"
                ),
            )

    def _take_bye(self, worker: Worker, fields: Mapping[str, Any]) -> None:
        if worker.doubtful and not worker.gone:
            return  # what was done to it decides about its last job
        if not self._one_job_each:
            self._tally(worker.tier).count_end(fields["bye"])
        self._drop(worker)

    def _result(self, worker: Worker, fields: Mapping[str, Any]) -> JobResult:
        code = signed(fields["code"])
        state, message = state_of(fields["why"], code, self._limit_of(fields["end"]))
        started = worker.started_at or moment(fields["at"])
        return JobResult(
            state=state,
            exit_code=code,
            started_at=started,
            ended_at=end_of(started, fields["seconds"]),
            slot=worker.slot,
            message=fields["message"] or message,
        )

    def _limit_of(self, handle: str) -> float:
        return float(self._folder.job(handle).get("time_limit_s", 0.0))

    def _settle_job(self, handle: str, result: JobResult) -> None:
        self._unqueue(handle)
        self._running.pop(handle, None)
        self._cancels.pop(handle, None)
        if self._sending is not None:
            self._sending.collect(handle)
        self._results.setdefault(handle, result)
        self._woken.set()

    def _end_here(self, handle: str, state: JobState, message: str) -> None:
        """End a job that no worker has, or whose worker cannot say how it ended; and keep that."""
        worker = self._running.get(handle)
        started = worker.started_at if worker else None
        result = JobResult(
            state=state,
            exit_code=-signal.SIGKILL if state is JobState.FAILED else None,
            started_at=started,
            ended_at=ended_after(started),
            slot=worker.slot if worker else "",
            message=message,
        )
        self._folder.write_end(handle, result)
        self._settle_job(handle, result)

    def _end_queued(self, handle: str, state: JobState, message: str) -> None:
        if self._folder.claim(handle):
            self._end_here(handle, state, message)

    def _end_current(self, worker: Worker, state: JobState, message: str) -> None:
        """End what a worker that is gone has been running."""
        handle = worker.current
        if handle and handle not in self._results:
            if handle in self._cancels or self._folder.cancelled(worker):
                state, message = JobState.CANCELLED, "cancelled"
            self._end_here(handle, state, message)
        worker.current = ""

    def _watch_silence(self) -> None:
        """Ask about workers that have fallen silent. Time in which arf itself did not look does not count."""
        now = self._now()
        gap_s, self._looked_at = now - self._looked_at, now
        for worker in self._workers.values():
            if gap_s > 10.0:
                worker.heard_at += gap_s
            quiet_s = now - worker.heard_at
            if worker.slot and not worker.doubtful and quiet_s > self._quiet_s and worker.confirmed:
                worker.confirmed = False
                self.soon()

    @property
    def _quiet_s(self) -> float:
        return 2.5 * self.options.heartbeat

    async def _enforce(self) -> None:
        """Have workers ended that do not obey."""
        patience_s = OBEY_S + self.options.grace
        late = [handle for handle, at in self._cancels.items() if self._now() - at > patience_s]
        for handle in late:
            self._cancels[handle] = self._now()
            if worker := self._running.get(handle):
                await self._dismiss([worker])

    def _drop(self, worker: Worker) -> None:
        worker.gone = True
        self._workers.pop(worker.who, None)
