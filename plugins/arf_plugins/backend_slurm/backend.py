"""Runs jobs on a Slurm cluster. The same runner does all of them; the two forms differ in who gets which job.

What a job's end is, its runner says, in a shared folder. Slurm is asked only about runners that do not speak:
those that have not started yet, those that have fallen silent, those that Slurm itself has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import os
import shlex
import signal
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import define, evolve, field, frozen

from arf.errors import BackendError, nearest
from arf.interfaces import Finding
from arf.sdk.jobs import check_job, exit_reason, handle_of, job_from
from arf.sdk.polling import PollingBackend
from arf.types import Job, JobResult, JobState, Tier
from arf_plugins.backend_slurm import SlurmOptions, SlurmTier, cluster, runner
from arf_plugins.backend_slurm.cluster import LimitReached, Request, Sight, Unreachable
from arf_plugins.backend_slurm.folder import ARF, Folder, Worker, end_of, moment
from arf_plugins.backend_slurm.sending import Sending, shared_folder

log = logging.getLogger(__name__)

GATHER_S = 0.02
"""Jobs that are submitted within so short a time go into one batch."""
MOST_IN_BATCH = 500
"""Slurm's own limit is 1,001 elements in an array, unless it was changed."""
EARLY_DEATHS = 3
"""Batches in a row with a worker that ends before it says hello; then their tier is taken to be broken.

Batches, because what ends one worker may end all that start at that moment, and says nothing of the next."""
REFUSED_S = 30.0
"""How long a tier that is broken refuses jobs; then it is tried again."""
LIMITED_S = 60.0
"""After so long, more workers are asked for than a quota has allowed."""
DOUBT_S = 20.0
"""How long Slurm may take to say why it has ended a worker."""
OBEY_S = 30.0
"""How long a worker may take to end a job beyond the grace, before Slurm is asked to end the worker."""
NOTICE_S = 120.0
"""After so long in Slurm's queue, people are told why."""
NO_FOLDER = 97
"""Exit code of a batch script that does not find the shared folder."""
UNSEEN = (f"{NO_FOLDER}:0", "0:53")
"""How Slurm tells of a worker that ended so; the second where it could not even write its output there."""


@frozen(kw_only=True)
class _Kind:
    """A tier, and how it is asked for."""

    tier: Tier
    given: SlurmTier
    there: tuple[cluster.Node, ...]
    """The nodes that it may run on."""
    limit_s: float | None
    """The longest that the partition lets a job run; None: for ever."""


@define(kw_only=True)
class _Tally:
    """What happened on a tier, and what follows for the next workers."""

    started: int = 0
    deaths: int = 0
    """Batches in a row with a worker that ended before hello."""
    died: str = ""
    """The last of these batches."""
    setup_failures: int = 0
    """In a row."""
    refusal: BackendError | None = None
    refused_until: float = 0.0
    most: int | None = None
    """Workers that a quota allows, as far as is known."""
    not_before: float = 0.0
    pause_s: float = 2.0
    replaced: dict[str, int] = field(factory=dict)


class SlurmBackend(PollingBackend):
    """Jobs on a Slurm cluster. See docs/backends/slurm.md."""

    options: SlurmOptions

    def __init__(self, options: SlurmOptions | None, directory: Path) -> None:
        options = options or SlurmOptions()
        super().__init__(options, directory, poll_interval_s=(options.poll, max(60.0, options.poll)))
        self._own_home = Path(os.path.realpath(directory)) / "slurm"
        """Where jobs are kept if the nodes see the study's folder."""
        self._sending: Sending | None = None
        """None while work trees are used where they are."""
        self._lives(self._own_home)
        sending = Sending(options, Path(os.path.realpath(directory)))
        wanted = options.shared is not None if options.send is None else options.send
        if sending.begun or (wanted and not self._folder.seen()):  # a study goes on in the way that it began
            self._send_by(sending)
        self._moving = asyncio.Lock()
        """Held while jobs go from one folder to another: none of them may be missed meanwhile."""
        self._kinds: dict[str, _Kind] = {}
        self._attached_to: asyncio.AbstractEventLoop | None = None
        self._workers: dict[str, Worker] = {}
        """Those that are not gone, by their name in claims."""
        self._queued: dict[str, dict[str, None]] = {}
        """Handles that nobody has taken, by tier, in order."""
        self._running: dict[str, Worker] = {}
        self._results: dict[str, JobResult] = {}
        self._cancels: dict[str, float] = {}
        """When the cancel of a running job was ordered."""
        self._tallies: dict[str, _Tally] = {}
        self._launching: asyncio.Task[None] | None = None
        self._looked_at = 0.0
        self._queries_since = 0.0
        self._noticed: set[str] = set()
        self._aside: set[str] = set()
        """Nodes that get no more jobs."""

    def _lives(self, home: Path) -> None:
        self._folder = Folder(home)
        self._prefix = f"arf-{hashlib.sha256(str(home).encode()).hexdigest()[:10]}-"

    def _send_by(self, sending: Sending) -> None:
        self._sending = sending
        self._lives(sending.home)

    # ---- The interface ----------------------------------------------------------------------

    async def check(self) -> Sequence[Finding]:
        here, there = self._own_home.parent, shared_folder(self.options)
        if self._sending is not None:
            way = f"code is sent along through {there}, and unpacked on the nodes' own disks"
        elif self.options.send is None:
            way = f"used where they are if the nodes see {here}; if not, they are sent along through {there}"
        else:
            way = f"used where they are: the nodes must see {here}"
        return [Finding(what="work trees", detail=way)]

    async def tiers(self) -> Sequence[Tier]:
        if not self._kinds:
            cluster.require()
            found = await cluster.nodes()
            given = dict(self.options.tiers) or self._found_tiers(found)
            self._kinds = {name: self._kind(name, tier, found) for name, tier in given.items()}
            self._script(next(iter(self._kinds)), Path("/"), "", 1, 1)  # wrong directives are told at once
        return [kind.tier for kind in self._kinds.values()]

    async def submit(self, job: Job) -> str:
        await self._attach()
        handle = handle_of(job.key)
        if self._folder.has(handle):
            self.follow(handle)
            return handle
        self._check(job)
        sent = await asyncio.to_thread(self._sending.send, job, handle) if self._sending else {}
        self._folder.add(handle, job, sent)
        self._enqueue(job.tier, handle)
        self.follow(handle)
        self._launch_soon()
        return handle

    async def wait(self, handle: str) -> JobResult:
        await self._attach()
        return await super().wait(handle)

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

    def set_aside(self, node: str, why: str) -> bool:
        """Later Slurm jobs exclude it, its workers take nothing more; a Slurm job in the queue may still
        start there."""
        aside = {*self._aside, node}
        kinds = {name: self._without(kind, aside) for name, kind in self._kinds.items()}
        if not any(one.name == node for kind in self._kinds.values() for one in kind.there):
            return False
        if None in kinds.values() or any("nodelist" in self._directives(name) for name in kinds):
            return False
        self._aside = aside
        self._kinds = {name: kind for name, kind in kinds.items() if kind is not None}
        for worker in self._workers.values():
            self._heed_aside(worker)
        return True

    def _without(self, kind: _Kind, aside: Collection[str]) -> _Kind | None:
        """A tier without some nodes; None if nothing would be left of it."""
        left = [node for node in kind.there if node.name not in aside]
        slots = cluster.count_slots(left, kind.given.gres, self.options.cpus_per_job or 1) if left else 0
        return evolve(kind, tier=evolve(kind.tier, slots=min(kind.tier.slots, slots))) if slots else None

    def _heed_aside(self, worker: Worker) -> None:
        if self.node_of(worker.slot) in self._aside and not worker.leaving:
            worker.leaving = True
            try:
                self._folder.order(worker, "leave")
            except BackendError as error:
                log.warning("%s", error)

    def notes(self) -> list[str]:
        """Workers that were replaced and why, what waits and why, and what was asked of the controller."""
        notes = []
        if self._sending is not None:
            notes.append(f"code was sent along through {self._sending.home}, which is still there")
            if self._sending.left_there:
                notes.append(f"{self._sending.left_there} files that jobs wrote did not come back: too large")
        for name, tally in self._tallies.items():
            if tally.started and self.options.form == "pool":
                ends = ", ".join(f"{count} {why}" for why, count in sorted(tally.replaced.items()))
                notes.append(f"{name}: {tally.started} workers" + (f" ({ends})" if ends else ""))
            if tally.refusal is not None:
                notes.append(f"{name}: {tally.refusal}")
        for name, reasons in self._waiting_for().items():
            notes.append(f"{name}: waiting in Slurm's queue: {reasons}")
        if self.polls:
            minutes = max(self._now_or(0.0) - self._queries_since, 1.0) / 60
            notes.append(
                f"{self.polls} questions to the Slurm controller, {self.polls / minutes:.1f} a minute"
            )
        return notes

    async def aclose(self) -> None:
        if self._launching is not None:
            with contextlib.suppress(asyncio.CancelledError):
                self._launching.cancel()
                await self._launching
        await super().aclose()
        if self._attached_to is not asyncio.get_running_loop():
            return
        self._attached_to = None
        if self.options.form == "pool":
            with contextlib.suppress(
                BackendError
            ):  # they end by themselves, when they have been idle for long
                for worker in self._workers.values():
                    if not worker.draining:
                        self._folder.order(worker, "drain")
                if not any(self._queued.values()):
                    await self._dismiss(w for w in self._workers.values() if not w.slot)

    # ---- Tiers ------------------------------------------------------------------------------

    def _found_tiers(self, found: Sequence[cluster.Node]) -> dict[str, SlurmTier]:
        """A tier for each kind of GPU in the partition; its CPUs where it has none."""
        there = cluster.in_partition(found, self.options.partition)
        kinds = cluster.gpu_kinds(there)
        if not kinds:
            return {"cpu": SlurmTier()}
        n = self.options.gpus_per_job
        return {
            kind.lower() or "gpu": SlurmTier(gres=f"gpu:{kind}:{n}" if kind else f"gpu:{n}") for kind in kinds
        }

    def _kind(self, name: str, given: SlurmTier, found: Sequence[cluster.Node]) -> _Kind:
        partition = given.partition or self.options.partition
        there = cluster.in_partition(found, partition)
        slots = cluster.count_slots(there, given.gres, self.options.cpus_per_job or 1)
        if not slots:
            raise self._no_slots(name, given, there, partition)
        limits = [node.limit_s for node in there if node.limit_s is not None]
        what = ", ".join(filter(None, (given.gres, f"partition {partition}" if partition else "")))
        tier = Tier(
            name=name,
            slots=given.slots or min(slots, self.options.slots),
            usd_per_hour=given.price,
            speed=given.speed,
            memory_gb=given.memory_gb,
            description=what,
        )
        return _Kind(tier=tier, given=given, there=tuple(there), limit_s=min(limits) if limits else None)

    def _no_slots(
        self, name: str, given: SlurmTier, there: Sequence[cluster.Node], partition: str | None
    ) -> BackendError:
        place = f"partition {partition}" if partition else "the default partition"
        if not any(node.usable for node in there):
            return BackendError(
                f"tier {name}: no node of {place} is up", hint="`sinfo -R` says why; choose another partition"
            )
        have = sorted({":".join(filter(None, item[:2])) for node in there for item in node.gres})
        return BackendError(
            f"tier {name}: no node of {place} has {given.gres or f'{self.options.cpus_per_job} CPUs'}",
            hint=f"it has {', '.join(have) or 'no GRES'}; `sinfo -o '%P %G %c'` shows all",
        )

    def _check(self, job: Job) -> None:
        kind = self._kinds.get(job.tier)
        if kind is None:
            raise BackendError(f"there is no tier {job.tier!r} here", hint=nearest(job.tier, self._kinds))
        check_job(job)
        if kind.limit_s is not None and self._needed_s(job.time_limit_s) > kind.limit_s:
            raise BackendError(
                f"a job of {job.time_limit_s:g} s does not fit into tier {job.tier}, whose partition ends "
                f"jobs after {kind.limit_s:g} s",
                hint="lower limits.time_limit_s (for set-up: workspace.setup_time_limit_s), or choose "
                "another partition (`sinfo -o '%P %l'`)",
            )
        tally = self._tally(job.tier)
        if tally.refusal is not None and self._now() < tally.refused_until:
            raise tally.refusal

    def _needed_s(self, time_limit_s: float) -> float:
        """What Slurm must allow for a job: arf's limit comes first."""
        return time_limit_s + self.options.grace + 2 * runner.MARGIN_S

    def _tally(self, tier: str) -> _Tally:
        return self._tallies.setdefault(tier, _Tally())

    # ---- Finding what is there --------------------------------------------------------------

    async def _attach(self) -> None:
        """Begin to work in this event loop: read what an earlier process, or loop, has left."""
        loop = asyncio.get_running_loop()
        if self._attached_to is loop:
            return
        tiers = await self.tiers()
        self._attached_to = loop
        self._moving = asyncio.Lock()
        self._prepare()
        self._workers, self._running, self._results, self._cancels = {}, {}, {}, {}
        self._queued = {tier.name: {} for tier in tiers}
        self._looked_at = self._queries_since = self._now()
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
        self._launch_soon()

    def _prepare(self) -> None:
        self._folder.prepare([*self._kinds])
        if self._sending is not None:
            self._sending.prepare()

    # ---- Sending code along -----------------------------------------------------------------

    async def _begin_to_send(self, where: str) -> None:
        """The nodes do not see the study's folder: go on through one that they see, with all that waits."""
        sending = Sending(self.options, self._own_home.parent)
        async with self._moving:
            while self._launching is not None and not self._launching.done():
                await asyncio.wait([self._launching])
            log.warning(
                "the nodes do not see %s%s: code is sent along from now on, through %s",
                self._own_home.parent, where, sending.home,
            )  # fmt: skip
            workers = list(self._workers.values())
            for worker in workers:
                self._drop(worker)
                self._folder.mark_gone(worker)
            queued = [handle for queue in self._queued.values() for handle in queue]
            self._queued = {tier: {} for tier in self._queued}
            self._tallies = {}
            self._send_by(sending)
            lost = _unknown()
            try:
                self._prepare()
                await asyncio.to_thread(self._carry_over, sending)
                await cluster.cancel({worker.job_id for worker in workers if worker.job_id})
            except BackendError as error:
                log.warning("%s", error)
                lost = evolve(lost, message=str(error))
            for handle in queued:
                if self._folder.has(handle):
                    self._enqueue(self._folder.job(handle)["tier"], handle)
                else:
                    self._settle_job(handle, lost)
        self._launch_soon()

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
        if self.options.form == "pool" and not announced:
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
            self._launch_soon()
        return {
            handle: self._results.get(handle) or _unknown() for handle in handles if self._is_over(handle)
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
            fields = runner_line(line)
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
        if worker.slot and worker.current:  # somebody has had Slurm run it again
            self._end_current(worker, JobState.PREEMPTED, "Slurm has put its job back into the queue")
        worker.slot = str(fields.get("slot", "?"))
        worker.reason = ""
        self._tally(worker.tier).deaths = 0
        self._heed_aside(worker)

    def _take_start(self, worker: Worker, fields: Mapping[str, Any]) -> None:
        handle = fields["start"]
        for queue in self._queued.values():
            queue.pop(handle, None)
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
            tally.setup_failures = 0
            return
        tally.setup_failures += 1
        if tally.setup_failures >= EARLY_DEATHS:
            self._refuse(
                worker.tier,
                BackendError(
                    result.message, hint="try backend.setup by hand on a node, and look at its disk"
                ),
            )

    def _take_bye(self, worker: Worker, fields: Mapping[str, Any]) -> None:
        if worker.doubtful and not worker.gone:
            return  # what Slurm did to it decides about its last job
        if self.options.form != "jobs":
            replaced = self._tally(worker.tier).replaced
            replaced[fields["bye"]] = replaced.get(fields["bye"], 0) + 1
        self._drop(worker)

    def _result(self, worker: Worker, fields: Mapping[str, Any]) -> JobResult:
        why, code = fields["why"], fields["code"]
        if code is not None and 128 < code <= 192:
            code = 128 - code  # the shell's way to say that a signal ended it
        state, message = _state(why, code, self._limit_of(fields["end"]))
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
        for queue in self._queued.values():
            queue.pop(handle, None)
        self._running.pop(handle, None)
        self._cancels.pop(handle, None)
        if self._sending is not None:
            self._sending.collect(handle)
        self._results.setdefault(handle, result)
        self._woken.set()

    def _end_here(self, handle: str, state: JobState, message: str) -> None:
        """End a job that no worker has, or whose worker cannot say how it ended; and keep that."""
        worker = self._running.get(handle)
        result = JobResult(
            state=state,
            started_at=worker.started_at if worker else None,
            ended_at=datetime.now(UTC),
            slot=worker.slot if worker else "",
            message=message,
        )
        if result.started_at is not None and result.ended_at is not None:
            result = evolve(result, ended_at=max(result.started_at, result.ended_at))
        if state is JobState.FAILED:
            result = evolve(result, exit_code=-signal.SIGKILL)
        self._folder.write_end(handle, result)
        self._settle_job(handle, result)

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
        """Have Slurm end workers that do not obey."""
        patience_s = OBEY_S + self.options.grace
        late = [handle for handle, at in self._cancels.items() if self._now() - at > patience_s]
        for handle in late:
            self._cancels[handle] = self._now()
            if worker := self._running.get(handle):
                await self._dismiss([worker])

    # ---- Asking Slurm -----------------------------------------------------------------------

    def is_due(self) -> bool:
        return any(not w.slot or w.doubtful or not w.confirmed for w in self._workers.values())

    async def poll(self, handles: Collection[str]) -> Mapping[str, JobResult]:
        asked = list(self._workers.values())
        sights = {(s.name, s.index): s for s in await cluster.sights(self._prefix)}
        self._listen()
        missing = [w for w in asked if not w.gone and (w.name, w.index) not in sights]
        if accounted := await cluster.accounted({w.job_id for w in missing if w.job_id}, self._prefix):
            # The accounting lags: what it calls alive and squeue does not show has ended a moment ago.
            sights.update({(s.name, s.index): s for s in accounted if not s.live})
        for worker in asked:
            if not worker.gone:
                await self._take_sight(worker, sights.get((worker.name, worker.index)))
        await self._give_up_waiting()
        return await self.glance(handles)

    async def _take_sight(self, worker: Worker, sight: Sight | None) -> None:
        if sight is None:
            worker.missed += 1
            if worker.missed >= 2:
                await self._forget_worker(worker, None)
            return
        worker.missed = 0
        found, worker.job_id = not worker.job_id, worker.job_id or sight.job_id
        if worker.dismissed and found and sight.live:
            await self._dismiss([worker])
        elif not sight.live:
            await self._forget_worker(worker, sight)
        elif sight.pending and not worker.slot:
            self._take_pending(worker, sight)
        elif worker.doubtful and self._now() - worker.heard_at > DOUBT_S:
            await self._forget_worker(worker, None)
        elif sight.state in ("SUSPENDED", "STOPPED"):
            worker.heard_at = self._now()
        elif worker.slot and not worker.doubtful and self._now() - worker.heard_at > self.options.silent:
            log.warning("worker %s on %s has been silent for long: it is ended", worker.job_id, worker.slot)
            await self._dismiss([worker])
            self._end_current(worker, JobState.LOST, f"its worker on {worker.slot} fell silent")
            self._drop(worker)
            self._folder.mark_gone(worker)
        elif worker.slot and self._now() - worker.heard_at <= self._quiet_s:
            worker.confirmed = True

    def _take_pending(self, worker: Worker, sight: Sight) -> None:
        worker.reason = sight.reason
        if self._now() - worker.launched_at > NOTICE_S and sight.reason not in self._noticed:
            self._noticed.add(sight.reason)
            log.warning(
                "tier %s: a Slurm job has been waiting for %.0f s: %s (%s)",
                worker.tier, self._now() - worker.launched_at, sight.reason, _advice(sight.reason),
            )  # fmt: skip

    async def _give_up_waiting(self) -> None:
        """End what has waited in Slurm's queue for too long."""
        limit_s = self.options.start_timeout
        if limit_s is None:
            return
        for tier, queue in self._queued.items():
            here = [w for w in self._workers.values() if w.tier == tier]
            late = [w for w in here if not w.slot and self._now() - w.launched_at > limit_s]
            if late and queue:
                reason = late[0].reason or "no reason given"
                await self._dismiss(late)
                message = f"tier {tier}: no Slurm job started within {limit_s:g} s: {reason}"
                self._refuse(tier, BackendError(message, hint=_advice(reason)))

    async def _forget_worker(self, worker: Worker, sight: Sight | None) -> None:
        """Slurm no longer has it: what it was running has ended."""
        self._read(worker)
        if worker.gone:
            return
        if sight is None and not worker.job_id:  # sbatch did not come through: there never was such a job
            self._drop(worker)
            self._folder.drop_batch(worker.batch)
            return
        state, message, short = self._verdict(worker, sight)
        if not worker.current:  # it may have been ended between taking a job and saying so
            for handle in [*self._queued[worker.tier]] if worker.tier in self._queued else []:
                if self._folder.claimant(handle) == worker.who:
                    worker.current = handle
        if worker.slot or worker.dismissed:
            self._end_current(worker, state, message)
            if worker.slot:
                replaced = self._tally(worker.tier).replaced
                replaced[short] = replaced.get(short, 0) + 1
        elif worker.only and sight is not None and sight.state == "CANCELLED":
            if worker.only not in self._results and self._folder.claim(worker.only):
                self._end_here(worker.only, JobState.CANCELLED, "cancelled with scancel before it started")
        else:
            await self._early_death(worker, sight)
            if worker.gone:
                return  # with all others: code is sent from now on
        self._drop(worker)
        self._folder.mark_gone(worker)

    def _verdict(self, worker: Worker, sight: Sight | None) -> tuple[JobState, str, str]:
        """What became of a worker's job, by what Slurm says of the worker: (state, message, one word)."""
        state = sight.state if sight else ""
        where = f" on {worker.slot}" if worker.slot else ""
        pool = self.options.form == "pool"
        if state == "PREEMPTED":
            return JobState.PREEMPTED, f"preempted{where}", "preempted"
        if state in ("NODE_FAIL", "BOOT_FAIL"):
            return JobState.LOST, f"the node failed{where}", "node failed"
        if state == "OUT_OF_MEMORY":
            return JobState.FAILED, f"killed by Slurm{where}: out of memory", "out of memory"
        if state in ("TIMEOUT", "DEADLINE"):
            if pool:
                return JobState.PREEMPTED, f"Slurm's time limit ended its worker{where}", "at its time limit"
            return JobState.TIMED_OUT, "ended at Slurm's time limit", "at its time limit"
        if state == "CANCELLED":
            if pool:
                return JobState.PREEMPTED, f"its worker{where} was ended with scancel", "cancelled"
            return JobState.CANCELLED, "cancelled with scancel", "cancelled"
        if worker.doubtful:
            return JobState.PREEMPTED, f"Slurm has ended it{where}", "ended by Slurm"
        said = f"Slurm says {state}" if state else "Slurm does not know it any more"
        return JobState.LOST, f"its worker{where} is gone and left no exit code ({said})", "died"

    async def _early_death(self, worker: Worker, sight: Sight | None) -> None:
        tally = self._tally(worker.tier)
        if worker.batch == tally.died:
            return
        tally.died = worker.batch
        where = f" on {sight.node}" if sight and sight.node else ""
        unsettled = self._sending is None and self.options.send is None and not self._folder.seen()
        if unsettled and worker.job_id and await cluster.exit_code(worker.job_id) in UNSEEN:
            await self._begin_to_send(where)
            return
        tally.deaths += 1
        tally.not_before = self._now() + float(tally.deaths)
        if tally.deaths < EARLY_DEATHS:
            return
        code = await cluster.exit_code(worker.job_id) if worker.job_id else ""
        said = self._folder.last_words(worker)
        if code in UNSEEN:
            error = BackendError(
                f"tier {worker.tier}: the folder {self._folder.home} is not there{where}",
                hint="set backend.shared to a folder that this machine and the nodes share, such as one on "
                "scratch; where nothing is shared, `backend: skypilot` reaches the nodes by SSH",
            )
        else:
            error = BackendError(
                f"tier {worker.tier}: Slurm jobs end as soon as they start{where}"
                + (f", with exit code {code}" if code else "")
                + (f": {said}" if said else ""),
                hint=f"the script and its output are in {self._folder.batch_path(worker.batch)}",
            )
        self._refuse(worker.tier, error)

    def _refuse(self, tier: str, error: BackendError) -> None:
        """A tier cannot run anything: say so to those that wait for it, and to those that come soon."""
        tally = self._tally(tier)
        tally.refusal, tally.refused_until = error, self._now() + REFUSED_S
        tally.deaths = tally.setup_failures = 0
        log.warning("%s", error)
        for handle in list(self._queued.get(tier, ())):
            if self._folder.claim(handle):
                self._end_here(handle, JobState.LOST, str(error))

    def _drop(self, worker: Worker) -> None:
        worker.gone = True
        self._workers.pop(worker.who, None)

    async def _dismiss(self, workers: Iterable[Worker]) -> None:
        """Have Slurm end workers; one whose number is not known yet is ended when it is seen."""
        chosen = [worker for worker in workers if not worker.gone]
        for worker in chosen:
            worker.dismissed = True
        try:
            await cluster.cancel({worker.job_id for worker in chosen if worker.job_id})
        except BackendError as error:
            log.warning("%s", error)

    # ---- Launching workers ------------------------------------------------------------------

    def _launch_soon(self) -> None:
        if self._launching is None or self._launching.done():
            self._launching = asyncio.get_running_loop().create_task(self._launch())

    async def _launch(self) -> None:
        """Start as many workers as are missing, in batches."""
        await asyncio.sleep(GATHER_S)
        for tier in self._kinds:
            try:
                while (count := len(wanted := self._wanted(tier))) and self._now() >= self._tally(
                    tier
                ).not_before:
                    await self._launch_batch(tier, wanted[:MOST_IN_BATCH])
                    if count <= MOST_IN_BATCH:
                        break
            except BackendError as error:
                self._refuse(tier, error)

    def _wanted(self, tier: str) -> list[str]:
        """The handles that a new worker each is wanted for."""
        queue = self._queued.get(tier)
        if not queue:
            return []
        live = [worker for worker in self._workers.values() if worker.tier == tier and not worker.leaving]
        room = self._kinds[tier].tier.slots - len(live)
        tally = self._tally(tier)
        if tally.most is not None:
            room = min(room, tally.most - len(live))
        if self.options.form == "jobs":
            assigned = {worker.only for worker in live}
            return [handle for handle in queue if handle not in assigned][: max(0, room)]
        free = [worker for worker in live if not worker.current and not worker.dismissed]
        for worker in free[: len(queue)]:
            if worker.draining:
                worker.draining = False
                self._folder.order(worker, "stay")
        return list(queue)[len(free) :][: max(0, room)]

    async def _launch_batch(self, tier: str, handles: Sequence[str]) -> None:
        """Raises BackendError if Slurm refuses it for good."""
        limits = [self._needed_s(self._limit_of(handle)) for handle in self._queued[tier]]
        seconds = max(limits)
        if self.options.form == "pool":
            seconds = max(seconds, self.options.worker_time)
        longest = self._kinds[tier].limit_s
        minutes = math.ceil(min(seconds, longest or math.inf) / 60)
        only = list(handles) if self.options.form == "jobs" else None
        batch = self._batch(tier, only, minutes)
        token = self._folder.new_batch(batch, len(handles))
        script = self._folder.batch_path(token) / "batch.sh"
        tally = self._tally(tier)
        try:
            text = self._script(tier, self._folder.batch_path(token), token, len(handles), minutes)
            script.write_text(text, encoding="utf-8")
            job_id = await cluster.submit(script)
        except Unreachable as error:
            # It may have been taken all the same: its workers count until Slurm says that it has none such.
            self._add_batch(tier, token, batch, len(handles), "")
            self._try_later(tally, error)
        except LimitReached as error:
            self._folder.drop_batch(token)
            self._take_limit(tier, error, len(handles))
        except BackendError:
            self._folder.drop_batch(token)
            raise
        else:
            self._folder.note(token, job_id)
            self._add_batch(tier, token, batch, len(handles), job_id)
            tally.started += len(handles)
            tally.refusal, tally.pause_s = None, 2.0
        self.soon()

    def _batch(self, tier: str, only: list[str] | None, minutes: int) -> dict[str, Any]:
        return {
            "name": tier,
            "tier": handle_of(tier),
            "only": only,
            "time_s": minutes * 60,
            "idle_s": self.options.idle,
            "heartbeat_s": self.options.heartbeat,
            "grace_s": self.options.grace,
            "setup": "\n".join(self.options.setup),
            "wrap": self.options.wrap,
        }

    def _add_batch(self, tier: str, token: str, batch: Mapping[str, Any], count: int, job_id: str) -> None:
        for index in range(count):
            worker = self._folder.worker(self._prefix, token, index, {**batch, "count": count}, job_id)
            self._add_worker(worker)

    def _try_later(self, tally: _Tally, error: BackendError) -> None:
        tally.not_before = self._now() + tally.pause_s
        if tally.pause_s > 2.0:
            log.warning("%s; trying again in %.0f s", error, tally.pause_s)
        tally.pause_s = min(2 * tally.pause_s, 60.0)

    def _take_limit(self, tier: str, error: LimitReached, asked: int) -> None:
        """A quota: fewer at a time, down to none; with none at all, nothing can run."""
        tally = self._tally(tier)
        live = sum(worker.tier == tier for worker in self._workers.values())
        if asked > 1:
            tally.most = live + asked // 2
            return
        if not live:
            raise BackendError(error.message, hint=error.hint)
        log.warning("tier %s: going on with %d slots: %s", tier, live, error)
        tally.most, tally.not_before = None, self._now() + LIMITED_S

    def _script(self, tier: str, folder: Path, token: str, count: int, minutes: int) -> str:
        given = self._kinds[tier].given
        home = shlex.quote(str(self._folder.home))
        python = self.options.python
        if python is None:
            own = shlex.quote(sys.executable)
            python = f"$([ -x {own} ] && echo {own} || echo python3)"
        program = "runner.py" if self._sending is None else "courier.py"
        command = (
            f"[ -r {home}/{program} ] || {{ echo {home} is not there on $(hostname); exit {NO_FOLDER}; }}; "
            f'exec {python} -S -E {home}/{program} {home} {token} "$ARF_INDEX"'
        )
        return cluster.batch_script(
            Request(
                name=self._prefix + token,
                folder=folder,
                count=count,
                partition=given.partition or self.options.partition,
                gres=given.gres,
                cpus=self.options.cpus_per_job,
                memory=self.options.memory,
                minutes=minutes,
                directives={"chdir": str(folder), **self._directives(tier)},
                srun=self.options.srun,
                command=command,
                leaves="" if self._sending is None else f"arf-{self._folder.home.name}-{token}-",
            )
        )

    def _directives(self, tier: str) -> dict[str, Any]:
        """What the user wants, without the nodes that were set aside."""
        directives = {**self.options.directives, **self._kinds[tier].given.directives}
        excluded = [str(directives["exclude"])] if "exclude" in directives else []
        if self._aside:
            directives["exclude"] = ",".join([*excluded, *sorted(self._aside)])
        return directives

    # ---- Small things -----------------------------------------------------------------------

    def _waiting_for(self) -> dict[str, str]:
        found: dict[str, dict[str, int]] = {}
        for worker in self._workers.values():
            if not worker.slot and worker.reason and worker.reason != "None":
                reasons = found.setdefault(worker.tier, {})
                reasons[worker.reason] = reasons.get(worker.reason, 0) + 1
        return {
            tier: ", ".join(f"{reason} ({count})" for reason, count in reasons.items())
            for tier, reasons in found.items()
        }

    def _now_or(self, otherwise: float) -> float:
        try:
            return self._now()
        except RuntimeError:
            return otherwise


def runner_line(line: str) -> dict[str, Any]:
    """A line of a journal; empty if it is damaged."""
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _unknown() -> JobResult:
    return JobResult(state=JobState.LOST, message="this backend knows no such job")


def _state(why: str, code: int | None, limit_s: float) -> tuple[JobState, str]:
    if why == "cancel":
        return JobState.CANCELLED, "cancelled"
    if why == "timeout":
        return JobState.TIMED_OUT, f"ended at its time limit of {limit_s:g} s"
    if why == "setup":
        return JobState.LOST, "the set-up lines failed"
    if why == "error" or code is None:
        return JobState.FAILED, "it could not be started"
    return (JobState.SUCCEEDED, "") if code == 0 else (JobState.FAILED, exit_reason(code))


def _advice(reason: str) -> str:
    """What to do about a reason that a job waits for."""
    low = reason.lower()
    for words, advice in (
        ("priority", "others are before it: it will start"),
        ("resources", "the slots are in use: it will start"),
        ("partitiontimelimit", "lower backend.worker_time: the partition allows less"),
        ("partition", "the partition is closed: `scontrol show partition` says more"),
        ("qos", "a limit of the QOS is reached: set fewer backend.slots, or another qos"),
        ("assoc", "a limit of the account is reached: set fewer backend.slots, or another account"),
        ("badconstraints", "no node has what is asked for: look at gres, directives and memory"),
        ("reqnode", "the nodes are down or reserved: `sinfo -R` says more"),
        ("held", "it is held: `scontrol release` lets it go"),
        ("launch failed", "the nodes could not start it: ask the administrators"),
    ):
        if words in low:
            return advice
    return "`squeue --start` may say when it will start"
