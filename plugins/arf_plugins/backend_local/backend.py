"""Runs jobs on this machine: one a slot, told of their ends by the system, and found again after a crash."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import logging
import math
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from attrs import define, evolve, field

from arf.errors import BackendError, nearest
from arf.interfaces import Backend
from arf.sdk.jobs import check_job, exit_reason, handle_of, job_fields
from arf.types import Job, JobResult, JobState, Tier
from arf_plugins.backend_local import LocalOptions, devices, processes
from arf_plugins.backend_local.confined import Confiner, PlainBox
from arf_plugins.backend_local.devices import Layout, Machine, Slot
from arf_plugins.backend_local.records import KEPT, Record, Records
from arf_plugins.backend_local.warm import RENDEZVOUS, Request, WarmStarts, possible

log = logging.getLogger(__name__)

LINGER_S = 0.5
"""What a job leaves behind may end by itself for so long: a `tee` that writes, a tracker that tidies up."""
STARTING_S = 0.5
"""A job so young may not be there yet, only its wrapper, which outlives the signal: it is sent once more."""
READYING_S = 0.005
"""So long after a start shells for the next ones are made: the starts at the same moment come first."""
KILLED_S = 5.0
"""A killed process that is still there after so long hangs in the kernel; it is left, and logged."""


@define(kw_only=True, eq=False)
class _Entry:
    """A job that has not ended."""

    handle: str
    mark: str
    tier: str
    limit_s: float
    job: Job | None
    """What to start; None for a job that an earlier process started."""
    done: asyncio.Future[None]
    """Set when its record says how it ended."""
    place: int | None = None
    """The slot's number; None while it is queued, and for a job whose slot there is no longer."""
    score: int | None = None
    """The OOM score adjustment by which its processes are known once it is started; None if there is none."""
    pid: int | None = None
    """The wrapper's, which leads its session and process group; None until it is started."""
    started_at: float = 0.0
    inherited: bool = False
    """Started by an earlier process: its orphans went elsewhere."""
    watch: processes.ExitWatch | None = None
    timers: list[asyncio.TimerHandle] = field(factory=list)
    ending: str = ""
    """`cancel` or `timeout` once it is being ended."""


class LocalBackend(Backend):
    """Jobs on this machine. See docs/backends/local.md."""

    options: LocalOptions
    outlives_host = False

    def __init__(
        self, options: LocalOptions | None, directory: Path, *, machine: Machine | None = None
    ) -> None:
        """`machine` is what there is to use; None: discovered when it is first needed."""
        super().__init__(options or LocalOptions(), directory)
        self._machine = machine
        self._cut: Layout | None = None
        self._records = Records(directory)
        self._prefix = hashlib.sha256(os.path.realpath(directory).encode()).hexdigest()[:12] + "."
        self._loop: asyncio.AbstractEventLoop | None = None
        self._entries: dict[str, _Entry] = {}
        self._queues: dict[str, deque[_Entry]] = {}
        self._free: dict[str, list[int]] = {}
        self._aside: set[str] = set()
        """GPUs that are not to be used."""
        self._ended: deque[str] = deque()
        """Handles of ended jobs whose records are kept, the oldest first."""
        self._orphans = processes.Orphans()
        self._wrappers = processes.Wrappers(self._prefix)
        self._warm: WarmStarts | None = None
        self._confiner = Confiner(directory / "boxes")
        self._tasks: set[asyncio.Task[None]] = set()
        self._readying: asyncio.TimerHandle | None = None

    # ---- The interface ----------------------------------------------------------------------

    async def tiers(self) -> Sequence[Tier]:
        return [evolve(tier, slots=len(self._in_use(tier.name, self._aside))) for tier in self._layout.tiers]

    async def submit(self, job: Job) -> str:
        self._attach()
        self._check(job)
        handle = handle_of(job.key)
        if handle in self._entries:
            return handle
        entry = _Entry(
            handle=handle,
            mark=self._prefix + handle,
            tier=job.tier,
            limit_s=job.time_limit_s,
            job=job,
            done=self._new_future(),
        )
        fields = {"tier": job.tier, "limit_s": job.time_limit_s}
        if not self._free[job.tier]:
            if self._records.create(handle, {**fields, "job": job_fields(job)}):
                self._entries[handle] = entry
                self._queues[job.tier].append(entry)
            return handle
        place = self._take_place(entry)
        try:
            if self._records.create(handle, {**fields, **self._start_fields(entry)}):
                self._start(entry)
            else:
                self._free_place(place)
        except BackendError:
            self._free_place(place)
            raise
        return handle

    async def wait(self, handle: str) -> JobResult:
        self._attach()
        entry = self._entries.get(handle)
        if entry is not None:
            await asyncio.shield(entry.done)
        return _result(self._records.read(handle))

    async def cancel(self, handle: str) -> None:
        self._attach()
        entry = self._entries.get(handle)
        if entry is None or entry.ending:
            return
        queue = self._queues.get(entry.tier)
        if queue and entry in queue:
            queue.remove(entry)
            self._records.append(handle, "cancel")
            self._forget(entry)
        else:
            self._end(entry, "cancel")

    def node_of(self, slot: str) -> str:
        return slot.partition("/")[0] if slot.startswith("gpu:") else ""  # cores differ in nothing

    def set_aside(self, node: str, why: str) -> bool:
        tiers = {slot.tier for slot in self._layout.slots if self.node_of(slot.label) == node}
        aside = {*self._aside, node}
        if not node or not tiers or not all(self._in_use(tier, aside) for tier in tiers):
            return False
        self._aside = aside
        for tier in tiers & self._free.keys():
            self._free[tier] = [place for place in self._free[tier] if place in self._in_use(tier, aside)]
            heapq.heapify(self._free[tier])
        return True

    def notes(self) -> list[str]:
        """What people may want to know about the jobs so far, a line each: what warm starts have saved."""
        return [*self._confiner.notes(), *(self._warm.notes() if self._warm else [])]

    async def aclose(self) -> None:
        if self._warm is not None:
            await self._warm.aclose()
        for task in self._tasks:
            task.cancel()
        if self._readying is not None:
            self._readying.cancel()
            self._readying = None
        self._wrappers.close()
        for entry in self._entries.values():
            self._unwatch(entry)
            entry.done.cancel()
        self._entries.clear()
        self._loop = None
        self._orphans.adopt(False)

    # ---- Slots ------------------------------------------------------------------------------

    @property
    def _layout(self) -> Layout:
        if self._cut is None:
            self._machine = self._machine or devices.discover()
            self._cut = devices.cut(self._machine, self.options)
        return self._cut

    def _check(self, job: Job) -> None:
        if job.tier not in self._free:
            raise BackendError(f"there is no tier {job.tier!r} here", hint=nearest(job.tier, self._free))
        check_job(job)

    def _take_place(self, entry: _Entry) -> int:
        entry.place = heapq.heappop(self._free[entry.tier])
        return entry.place

    def _free_place(self, place: int) -> str:
        """Free a slot, unless its GPU was set aside, and give its tier."""
        slot = self._layout.slots[place]
        if self.node_of(slot.label) not in self._aside:
            heapq.heappush(self._free[slot.tier], place)
        return slot.tier

    def _in_use(self, tier: str, aside: Collection[str]) -> list[int]:
        """The slots of a tier that are left without some GPUs."""
        return [
            place
            for place, slot in enumerate(self._layout.slots)
            if slot.tier == tier and self.node_of(slot.label) not in aside
        ]

    def _start_queued(self, tier: str) -> None:
        queue = self._queues[tier]
        while queue and self._free[tier]:
            entry = queue.popleft()
            self._take_place(entry)
            try:
                self._records.append(entry.handle, self._start_fields(entry))
                self._start(entry)
            except BackendError as error:
                log.warning("job %s cannot start: %s", entry.handle, error)
                self._forget(entry)

    # ---- Starting ---------------------------------------------------------------------------

    def _slot(self, entry: _Entry) -> Slot:
        assert entry.place is not None
        return self._layout.slots[entry.place]

    def _start_fields(self, entry: _Entry) -> dict[str, str | float]:
        entry.started_at = time.time()
        return {"slot": self._slot(entry).label, "started_at": entry.started_at}

    def _start(self, entry: _Entry) -> None:
        """Start a job whose record says so. Raises BackendError, and leaves no record then."""
        job = entry.job
        assert job is not None
        self._orphans.adopt()
        assert entry.place is not None
        entry.score = processes.oom_score(entry.place)
        # Python's order of sets is the same in every run then, warm or cold: a seed gives one result.
        own = {**_rendezvous(), **self._layout.threads, "PYTHONHASHSEED": "0"}
        env = {**own, **job.env, **self._slot(entry).env}
        try:
            box = self._confiner.box(job, env)
        except BackendError:
            self._records.remove(entry.handle)
            raise
        self._entries[entry.handle] = entry
        request = Request(
            handle=entry.handle,
            mark=entry.mark,
            score=entry.score,
            record=self._records.path(entry.handle),
            job=job,
            env=env,
            box=box,
            started=lambda pid, watch: self._started(entry, pid, watch),
            declined=lambda: self._declined_warm(entry, env, box),
        )
        # Not on a GPU: CUDA does not survive a fork once it is initialised, and its start is not the import.
        if self._warm is None or job.tier != "cpu" or not self._warm.offer(request):
            self._start_cold(entry, env, box)

    def _start_cold(self, entry: _Entry, env: Mapping[str, str], box: PlainBox | None) -> None:
        job = entry.job
        assert job is not None
        command = ("/bin/sh", "-c", job.command) if isinstance(job.command, str) else job.command
        try:
            if box is not None:
                command = self._confiner.command(box, entry.handle, command)
            pid = self._wrappers.start(
                entry.mark,
                entry.score,
                self._records.path(entry.handle),
                str(job.directory),
                command,
                env,
                str(job.log),
            )
        except (OSError, ValueError) as error:
            del self._entries[entry.handle]
            self._records.remove(entry.handle)
            raise _cannot_start(job, error) from error
        self._started(entry, pid, _watch_or_none(pid))
        assert self._loop is not None
        self._readying = self._readying or self._loop.call_later(READYING_S, self._make_ready)

    def _make_ready(self) -> None:
        self._readying = None
        try:
            self._wrappers.make_ready()
        except OSError as error:
            log.debug("no shells can wait for the next jobs: %s", error)  # the job's own start will say so

    def _started(self, entry: _Entry, pid: int, watch: processes.ExitWatch | None) -> None:
        entry.pid = pid
        if watch is None:
            self._exited(entry)
            return
        self._watch(entry, watch)
        if entry.ending:
            self._terminate(entry)

    def _declined_warm(self, entry: _Entry, env: Mapping[str, str], box: PlainBox | None) -> None:
        """Start a job cold that was meant to start warm; or find it, if its server died over it."""
        pid = self._wrapper(self._records.read(entry.handle))
        if pid is not None:
            self._started(entry, pid, _watch_or_none(pid))
        elif entry.ending:
            self._forget(entry)
        else:
            try:
                self._start_cold(entry, env, box)
            except BackendError as error:
                log.warning("%s", error)
                self._forget(entry)

    def _watch(self, entry: _Entry, watch: processes.ExitWatch) -> None:
        """Be told of the end of a running job, and when its time is up."""
        assert self._loop is not None
        entry.watch = watch
        self._loop.add_reader(watch.fileno(), self._exited, entry)
        left_s = entry.limit_s - (time.time() - entry.started_at if entry.inherited else 0.0)
        self._after(entry, left_s, lambda: self._end(entry, "timeout"))

    def _after(self, entry: _Entry, delay_s: float, do: Callable[[], None]) -> None:
        assert self._loop is not None
        if delay_s < math.inf:
            entry.timers.append(self._loop.call_later(max(0.0, delay_s), do))

    def _unwatch(self, entry: _Entry) -> None:
        for timer in entry.timers:
            timer.cancel()
        entry.timers.clear()
        if entry.watch is not None:
            assert self._loop is not None
            self._loop.remove_reader(entry.watch.fileno())
            entry.watch.close()
            entry.watch = None

    # ---- Ending -----------------------------------------------------------------------------

    def _end(self, entry: _Entry, why: str) -> None:
        """Ask a running job to end, and end it if it does not."""
        if entry.ending:
            return
        entry.ending = why
        self._note(entry, why)
        if entry.watch is not None:
            self._terminate(entry)  # else it is about to be started, and is ended then

    def _terminate(self, entry: _Entry) -> None:
        assert entry.pid is not None
        pid = entry.pid
        processes.signal_group(pid, signal.SIGTERM)
        if time.time() - entry.started_at < STARTING_S:
            self._after(entry, STARTING_S, lambda: processes.signal_group(pid, signal.SIGTERM))
        self._after(entry, self.options.grace_s, lambda: processes.signal_group(pid, signal.SIGKILL))

    def _note(self, entry: _Entry, line: str) -> None:
        try:
            self._records.append(entry.handle, line)
        except BackendError as error:
            log.warning("%s", error)  # the job must end all the same

    def _exited(self, entry: _Entry) -> None:
        """The wrapper has ended: so has the job, but for what it may have left behind."""
        assert entry.pid is not None
        self._unwatch(entry)
        code = processes.reap(entry.pid) if entry.pid > 0 else None
        orphans = self._orphans.of(entry.mark, entry.score, entry.pid, self._known())
        if entry.inherited or orphans or processes.group_lives(entry.pid):
            assert self._loop is not None
            task = self._loop.create_task(self._sweep_and_finish(entry, orphans, code))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._finish(entry, code)

    def _known(self) -> set[int | None]:
        """Our children that are no orphans."""
        servers = self._warm.pids if self._warm else []
        return {*servers, *self._wrappers.spare, *(entry.pid for entry in self._entries.values())}

    async def _sweep_and_finish(self, entry: _Entry, orphans: set[int], code: int | None) -> None:
        assert entry.pid is not None
        orphans = processes.with_descendants(orphans)
        await self._sweep(entry.mark, entry.pid, orphans, linger_s=0.0 if entry.ending else LINGER_S)
        self._orphans.of(
            entry.mark, entry.score, entry.pid, self._known()
        )  # reaps those that ended by themselves
        self._finish(entry, code)

    async def _sweep(self, mark: str, leader: int, orphans: set[int], linger_s: float) -> None:
        """End all that a job has left behind; `orphans` may have nothing else by which they are found."""
        for number, patience_s in (
            (0, linger_s),
            (signal.SIGTERM, self.options.grace_s),
            (signal.SIGKILL, KILLED_S),
        ):
            limit = time.monotonic() + patience_s
            while pids := processes.left_behind(mark, leader) | processes.with_descendants(orphans):
                processes.signal_each(pids, number)
                left = await processes.ended(pids, limit - time.monotonic())
                for pid in pids - left:
                    processes.reap(pid)
                if left:
                    break
            else:
                return
        log.warning("job %s: processes %s cannot be ended", mark, sorted(pids))

    def _finish(self, entry: _Entry, code: int | None) -> None:
        """Make its record whole, free its slot, start what waits for it, tell who waits for the job."""
        record = self._records.read(entry.handle)
        if record is None or (record.exit_code is None and code is not None):
            self._note(entry, f"exit {code}")  # the wrapper was killed, or had no space to write
        self._forget(entry)

    def _forget(self, entry: _Entry) -> None:
        self._entries.pop(entry.handle, None)
        if entry.place is not None:
            self._start_queued(self._free_place(entry.place))
        if not entry.done.done():
            entry.done.set_result(None)
        self._keep(entry.handle)

    def _keep(self, handle: str) -> None:
        self._ended.append(handle)
        if len(self._ended) > KEPT:
            self._records.remove(self._ended.popleft())

    # ---- Jobs of an earlier process ---------------------------------------------------------

    def _new_future(self) -> asyncio.Future[None]:
        assert self._loop is not None
        return self._loop.create_future()

    def _attach(self) -> None:
        """Begin to work in this event loop: find the jobs of an earlier process, or of an earlier loop."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        self._loop = loop
        if self.options.warm != "off" and possible():
            self._warm = WarmStarts(self.directory, loud=self.options.warm == "on")
        self._entries.clear()
        self._ended.clear()
        self._queues = {tier.name: deque() for tier in self._layout.tiers}
        self._free = {tier.name: [] for tier in self._layout.tiers}
        handles = list(self._records.handles())
        if handles:
            self._await_young(handles)
            marked = processes.marks(self._prefix)
            for handle in handles:
                self._find(handle, left_behind=self._prefix + handle in marked)
        taken = {entry.place for entry in self._entries.values()}
        for place in range(len(self._layout.slots)):
            if place not in taken:
                self._free_place(place)
        for tier in self._queues:
            self._start_queued(tier)

    def _await_young(self, handles: Sequence[str]) -> None:
        """Give a job that was started this very moment the time to be seen: its wrapper's first line."""
        for handle in handles:
            while (record := self._records.read(handle)) and record.pid is None and not record.ending:
                if record.started_at is None or time.time() - record.started_at.timestamp() > STARTING_S:
                    break
                time.sleep(0.005)

    def _find(self, handle: str, *, left_behind: bool) -> None:
        """Take over a job that runs or is queued; end what an ended one has left behind."""
        record = self._records.read(handle)
        if record is None:
            return
        pid = self._wrapper(record)
        labels = [slot.label for slot in self._layout.slots]
        entry = _Entry(
            handle=handle,
            mark=self._prefix + handle,
            tier=record.tier,
            limit_s=record.limit_s,
            job=record.job,
            done=self._new_future(),
            place=labels.index(record.slot) if record.slot in labels else None,
            pid=pid,
            started_at=record.started_at.timestamp() if record.started_at else 0.0,
            inherited=True,
            ending=record.ending,
        )
        if pid is not None:
            self._entries[handle] = entry
            self._started(entry, pid, _watch_or_none(pid))
        elif record.queued and record.job is not None and record.tier in self._queues:
            entry.inherited = False
            self._entries[handle] = entry
            self._queues[record.tier].append(entry)
        elif left_behind:
            entry.pid = record.pid or -1
            self._entries[handle] = entry
            self._exited(entry)
        else:
            self._keep(handle)

    def _wrapper(self, record: Record | None) -> int | None:
        """The pid of the wrapper around a job, if it lives.

        That of a job that has ended may be another one's by now.
        """
        if record is None or record.pid is None or record.exit_code is not None:
            return None
        return record.pid if processes.is_wrapper(record.pid, self._prefix) else None


def _watch_or_none(pid: int) -> processes.ExitWatch | None:
    try:
        return processes.watch_exit(pid)
    except ProcessLookupError:
        return None


def _cannot_start(job: Job, error: Exception) -> BackendError:
    return BackendError(
        f"job {job.key} cannot be started: {error}",
        hint="look at free space and at the limits of processes and open files (`ulimit -a`)",
    )


def _result(record: Record | None) -> JobResult:
    """How a job ended that runs no more, by its record."""
    if record is None:
        return JobResult(state=JobState.LOST, message="this backend knows no such job")
    code = record.exit_code
    if code is not None and 128 < code <= 128 + 64:
        code = 128 - code  # the shell's way to say that a signal ended it
    state, message = _state(record, code)
    ended_at = record.ended_at
    if record.started_at is not None and ended_at is not None:
        ended_at = max(ended_at, record.started_at)  # a file's time is up to a tick behind the clock
    return JobResult(
        state=state,
        exit_code=code,
        started_at=record.started_at,
        ended_at=ended_at,
        slot=record.slot,
        message=message,
    )


def _state(record: Record, code: int | None) -> tuple[JobState, str]:
    if record.ending == "cancel":
        return JobState.CANCELLED, "cancelled"
    if record.ending == "timeout":
        return JobState.TIMED_OUT, f"ended at its time limit of {record.limit_s:g} s"
    if code is None:
        return JobState.LOST, "its process is gone and left no exit code: killed from outside, or a restart"
    if code == 0:
        return JobState.SUCCEEDED, ""
    return JobState.FAILED, exit_reason(code)


def _rendezvous() -> dict[str, str]:
    """A free port for the processes of one job to meet at, as torch and torchrun read it.

    By default all jobs of a machine would take 29500, and the second would fail or join the first.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return dict.fromkeys(RENDEZVOUS, port)
