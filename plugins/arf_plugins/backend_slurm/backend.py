"""The backend `slurm`: workers that share a folder with arf, as Slurm jobs.

In the form `pool` a worker takes job after job; in the form `jobs` each is for one job.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import shlex
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit.helpers import CommandFunction

from arf.errors import BackendError
from arf.interfaces import Finding, HeldResource
from arf.sdk.jobs import check_job, handle_of
from arf.types import Job, JobResult, JobState, Tier
from arf_plugins.backend_slurm import SlurmOptions, commands, executor, kinds
from arf_plugins.backend_slurm.commands import LimitReached
from arf_plugins.backend_slurm.executor import QueueWatcher, Sight, WorkerExecutor, WorkerJob
from arf_plugins.backend_slurm.verdicts import advice, verdict
from arf_plugins.worker_pool import kit
from arf_plugins.worker_pool.folder import Worker
from arf_plugins.worker_pool.folder_pool import EARLY_DEATHS, LEASE_S, FolderPool
from arf_plugins.worker_pool.on_node.worker import MARGIN_S
from arf_plugins.worker_pool.pool import Tally, Unreachable, in_thread
from arf_plugins.worker_pool.sending import Sending

log = logging.getLogger(__name__)

DEFAULT_FOLDER = "~/.arf/slurm"
GATHER_S = 0.02
"""Jobs that are submitted within so short a time go into one batch."""
MOST_IN_BATCH = 500
"""Slurm's own limit is 1,001 elements in an array, unless it was changed."""
LIMITED_S = 60.0
"""After so long, more workers are asked for than a quota has allowed."""
DOUBT_S = 20.0
"""How long Slurm may take to say why it has ended a worker."""
NOTICE_S = 120.0
"""After so long in Slurm's queue, people are told why."""
NO_FOLDER = 97
"""Exit code of a batch script that does not find the shared folder."""
UNSEEN = (f"{NO_FOLDER}:0", "0:53")
"""How Slurm tells of a worker that ended so; the second where it could not even write its output there."""


class SlurmBackend(FolderPool):
    """Jobs on a Slurm cluster. See docs/backends/slurm.md."""

    options: SlurmOptions

    def __init__(self, options: SlurmOptions | None, directory: Path) -> None:
        options = options or SlurmOptions()
        # Links stay: the nodes may have others.
        self._shared = Path(options.shared or DEFAULT_FOLDER).expanduser().absolute()
        super().__init__(options, directory, folder="slurm")
        self._lives()
        sending = self._new_sending()
        wanted = options.shared is not None if options.send is None else options.send
        if sending.begun or (wanted and not self._folder.seen()):  # a study goes on in the way that it began
            self._send_by(sending)
        self._kinds: dict[str, kinds.SlurmKind] = {}
        self._died: dict[str, str] = {}
        """The last batch with a worker that ended before hello, by tier."""
        self._most: dict[str, int] = {}
        """Workers that a quota allows, by tier, as far as is known."""
        self._queries_since = 0.0
        self._noticed: set[str] = set()

    def _new_sending(self) -> Sending:
        return Sending(self.options, self._directory, self._shared, self.options.data)

    def _lives(self) -> None:
        self._watcher = QueueWatcher(self._prefix)

    def _send_by(self, sending: Sending) -> None:
        super()._send_by(sending)
        self._lives()

    @property
    def _prefix(self) -> str:
        return f"arf-{hashlib.sha256(str(self._folder.home).encode()).hexdigest()[:10]}-"

    @property
    def _one_job_each(self) -> bool:
        return self.options.form == "jobs"

    # ---- The interface ----------------------------------------------------------------------

    async def check(self) -> Sequence[Finding]:
        here, there = self._directory, self._shared
        if self._sending is not None:
            way = f"code is sent along through {there}, and unpacked on the nodes' own disks"
        elif self.options.send is None:
            way = f"used where they are if the nodes see {here}; if not, they are sent along through {there}"
        else:
            way = f"used where they are: the nodes must see {here}"
        return [Finding(what="work trees", detail=way)]

    async def tiers(self) -> Sequence[Tier]:
        if not self._kinds:
            commands.require()
            found = await in_thread(kinds.nodes)
            given = dict(self.options.tiers) or kinds.found_tiers(self.options, found)
            self._kinds = {
                name: kinds.kind_of(self.options, name, tier, found) for name, tier in given.items()
            }
            self._parameters(next(iter(self._kinds)), "", Path("/"), 1)  # wrong directives are told at once
        return [kind.tier for kind in self._kinds.values()]

    def set_aside(self, node: str, why: str) -> bool:
        """Later Slurm jobs exclude it, its workers take nothing more; a Slurm job in the queue may still
        start there."""
        aside = {*self._aside, node}
        left = {name: kinds.without(self.options, kind, aside) for name, kind in self._kinds.items()}
        if not any(one.name == node for kind in self._kinds.values() for one in kind.there):
            return False
        if None in left.values() or any("nodelist" in self._directives(name) for name in left):
            return False
        self._aside = aside
        self._kinds = {name: kind for name, kind in left.items() if kind is not None}
        for worker in self._workers.values():
            self._heed_aside(worker)
        return True

    def notes(self) -> list[str]:
        """Workers that were replaced and why, what waits and why, and what was asked of the controller."""
        notes = []
        if self._sending is not None:
            notes.append(f"code was sent along through {self._sending.home}, which is still there")
            if self._sending.left_there:
                notes.append(f"{self._sending.left_there} files that jobs wrote did not come back: too large")
        for name, tally in self._tallies.items():
            if tally.started and not self._one_job_each:
                ends = tally.ends()
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

    async def held_resources(self) -> Sequence[HeldResource]:
        """The workers, by their Slurm jobs. Nobody is asked while this process looks after them."""
        if self._attached_to is asyncio.get_running_loop():
            live = {w.job_id: (w.tier, w.slot) for w in self._workers.values() if w.job_id and not w.gone}
        elif self._folder.has_batches():
            await in_thread(self._watcher.update)
            tiers = {worker.name: worker.tier for worker in self._folder.workers(self._prefix)}
            live = {s.job_id: (tiers.get(s.name, ""), s.node) for s in self._watcher.sights() if s.live}
        else:
            live = {}
        prices = {name: tier.price for name, tier in self.options.tiers.items()}
        return [
            HeldResource(
                name=job_id,
                tier=tier,
                state="RUNNING" if place else "PENDING",
                usd_per_hour=prices.get(tier, 0.0) if place else 0.0,
                detail=place,
            )
            for job_id, (tier, place) in live.items()
        ]

    def _check(self, job: Job) -> None:
        check_job(job)
        kind = self._kinds[job.tier]
        if kind.limit_s is not None and self._needed_s(job.time_limit_s) > kind.limit_s:
            raise BackendError(
                f"a job of {job.time_limit_s:g} s does not fit into tier {job.tier}, whose partition ends "
                f"jobs after {kind.limit_s:g} s",
                hint="lower limits.time_limit_s (for set-up: workspace.setup_time_limit_s), or choose "
                "another partition (`sinfo -o '%P %l'`)",
            )

    def _needed_s(self, time_limit_s: float) -> float:
        """What Slurm must allow for a job: arf's limit comes first."""
        return time_limit_s + self.options.grace + 2 * MARGIN_S

    # ---- Asking Slurm -----------------------------------------------------------------------

    def is_due(self) -> bool:
        return any(not w.slot or w.doubtful or not w.confirmed for w in self._workers.values())

    async def poll(self, handles: Collection[str]) -> Mapping[str, JobResult]:
        asked = list(self._workers.values())
        for worker in asked:
            if worker.job_id:
                self._watcher.register_job(worker.job_id)
        await in_thread(self._watcher.update)
        sights = {(s.name, s.index): s for s in self._watcher.sights()}
        self._listen()
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
                worker.tier, self._now() - worker.launched_at, sight.reason, advice(sight.reason),
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
                self._refuse(tier, BackendError(message, hint=advice(reason)))

    async def _forget_worker(self, worker: Worker, sight: Sight | None) -> None:
        """Slurm no longer has it: what it was running has ended."""
        self._read(worker)
        if worker.gone:
            return
        if sight is None and not worker.job_id:  # sbatch did not come through: there never was such a job
            self._drop(worker)
            self._folder.drop_batch(worker.batch)
            return
        state, message, short = verdict(worker, sight, pool=not self._one_job_each)
        if not worker.current:  # it may have been ended between taking a job and saying so
            for handle in [*self._queued[worker.tier]] if worker.tier in self._queued else []:
                if self._folder.claimant(handle) == worker.who:
                    worker.current = handle
        if worker.slot or worker.dismissed:
            self._end_current(worker, state, message)
            if worker.slot:
                self._tally(worker.tier).count_end(short)
        elif worker.only and sight is not None and sight.state == "CANCELLED":
            if worker.only not in self._results and self._folder.claim(worker.only):
                self._end_here(worker.only, JobState.CANCELLED, "cancelled with scancel before it started")
        else:
            await self._early_death(worker, sight)
            if worker.gone:
                return  # with all others: code is sent from now on
        self._drop(worker)
        self._folder.mark_gone(worker)

    async def _early_death(self, worker: Worker, sight: Sight | None) -> None:
        tally = self._tally(worker.tier)
        if worker.batch == self._died.get(worker.tier):
            return  # what ends one worker may end all that start at that moment
        self._died[worker.tier] = worker.batch
        where = f" on {sight.node}" if sight and sight.node else ""
        unsettled = self._sending is None and self.options.send is None and not self._folder.seen()
        if unsettled and await self._exit_code(worker) in UNSEEN:
            await self._begin_to_send(where)
            return
        deaths = self._deaths[worker.tier] = self._deaths.get(worker.tier, 0) + 1
        tally.not_before = self._now() + float(deaths)
        if deaths < EARLY_DEATHS:
            return
        code = await self._exit_code(worker)
        said = self._job(worker).last_words() if worker.job_id else ""
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

    async def _exit_code(self, worker: Worker) -> str:
        return await in_thread(self._job(worker).exit_code) if worker.job_id else ""

    def _job(self, worker: Worker) -> WorkerJob:
        return WorkerJob(self._folder.batch_path(worker.batch), worker.job_id, self._watcher)

    def _drop(self, worker: Worker) -> None:
        super()._drop(worker)
        self._watcher.forget(worker.job_id)

    async def _dismiss(self, workers: Iterable[Worker]) -> None:
        chosen = [worker for worker in workers if not worker.gone]
        for worker in chosen:
            worker.dismissed = True
        try:
            await in_thread(executor.cancel, [self._job(worker) for worker in chosen if worker.job_id])
        except BackendError as error:
            log.warning("%s", error)

    async def _left(self) -> list[str]:
        await in_thread(self._watcher.update)
        return [sight.job_id for sight in self._watcher.sights() if sight.live]

    async def _end_left(self, left: Collection[str]) -> None:
        await in_thread(
            executor.cancel, [WorkerJob(self._folder.home, job_id, self._watcher) for job_id in left]
        )

    # ---- Launching workers ------------------------------------------------------------------

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
        if not queue or self._ending:
            return []
        live = [worker for worker in self._workers.values() if worker.tier == tier and not worker.leaving]
        room = self._kinds[tier].tier.slots - len(live)
        if tier in self._most:
            room = min(room, self._most[tier] - len(live))
        if self._one_job_each:
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
        if not self._one_job_each:
            seconds = max(seconds, self.options.worker_time)
        longest = self._kinds[tier].limit_s
        minutes = math.ceil(min(seconds, longest or math.inf) / 60)
        only = list(handles) if self._one_job_each else None
        batch = self._batch(tier, only, minutes)
        token = self._folder.new_batch(batch, len(handles))
        tally = self._tally(tier)
        try:
            folder = self._folder.batch_path(token)
            submitter = WorkerExecutor(folder, self._watcher)
            submitter.update_parameters(**self._parameters(tier, token, folder, minutes))
            jobs = await in_thread(submitter.submit_array, [self._command(token)] * len(handles))
            job_id = jobs[0].job_id.partition("_")[0]
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
            tally.refusal, tally.pause_s = None, 0.0
        self.soon()

    def _batch(self, tier: str, only: list[str] | None, minutes: int) -> dict[str, Any]:
        return {
            "name": tier,
            "tier": handle_of(tier),
            "only": only,
            "time_s": minutes * 60,
            "idle_s": self.options.idle,
            "lease_s": min(LEASE_S, self.options.idle),
            "heartbeat_s": self.options.heartbeat,
            "grace_s": self.options.grace,
            "setup": "\n".join(self.options.setup),
            "wrap": self.options.wrap,
        }

    def _add_batch(self, tier: str, token: str, batch: Mapping[str, Any], count: int, job_id: str) -> None:
        for index in range(count):
            worker = self._folder.worker(self._prefix, token, index, {**batch, "count": count}, job_id)
            self._add_worker(worker)

    def _try_later(self, tally: Tally, error: BackendError) -> None:
        if tally.pause_s:
            log.warning("%s; trying again in %.0f s", error, tally.pause_s)
        tally.pause_s = min(max(2 * tally.pause_s, 2.0), 60.0)
        tally.not_before = self._now() + tally.pause_s

    def _take_limit(self, tier: str, error: LimitReached, asked: int) -> None:
        """A quota: fewer at a time, down to none; with none at all, nothing can run."""
        tally = self._tally(tier)
        live = sum(worker.tier == tier for worker in self._workers.values())
        if asked > 1:
            self._most[tier] = live + asked // 2
            return
        if not live:
            raise BackendError(error.message, hint=error.hint)
        log.warning("tier %s: going on with %d slots: %s", tier, live, error)
        self._most.pop(tier, None)
        tally.not_before = self._now() + LIMITED_S

    def _command(self, token: str) -> CommandFunction:
        """What a batch's workers are run by."""
        program = shlex.quote(str(self._folder.home / kit.NAME))
        home = shlex.quote(str(self._folder.home))
        python = self.options.python
        if python is None:
            own = shlex.quote(sys.executable)
            python = f"$([ -x {own} ] && echo {own} || echo python3)"
        kind = "worker" if self._sending is None else "remote-worker"
        script = (
            f"[ -r {program} ] || {{ echo {home} is not there on $(hostname); exit {NO_FOLDER}; }}; "
            f'exec {python} -S -E {program} {kind} {home} {token} "$ARF_INDEX"'
        )
        return CommandFunction(["bash", "-c", script])

    def _parameters(self, tier: str, token: str, folder: Path, minutes: int) -> dict[str, Any]:
        """Raises BackendError for directives that cannot be passed on."""
        given = self._kinds[tier].given
        return executor.parameters(
            name=self._prefix + token,
            minutes=minutes,
            partition=given.partition or self.options.partition,
            gres=given.gres,
            cpus=self.options.cpus_per_job,
            memory=self.options.memory,
            directives={"chdir": str(folder), **self._directives(tier)},
            srun=self.options.srun,
            leaves="" if self._sending is None else f"arf-{self._folder.home.name}-{token}-",
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
