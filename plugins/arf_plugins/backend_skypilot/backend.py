"""Runs jobs on clusters that SkyPilot makes, each held by a worker of arf's own that takes job after job.

SkyPilot makes a cluster and runs one job on it for as long as the study lasts: the foreman (`node.py`). What
to do, the foreman's workers hear over one SSH connection to each cluster, which brings logs and ends back.
SkyPilot itself is asked only about clusters that do not speak.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import re
import time
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from arf.errors import ArfError, BackendError, nearest
from arf.interfaces import Finding, HeldResource
from arf.sdk.jobs import exit_reason, handle_of
from arf.sdk.polling import PollingBackend
from arf.types import Job, JobResult, JobState, Tier
from arf_plugins.backend_skypilot import SkyPilotOptions, spelling, task
from arf_plugins.backend_skypilot.cluster import CAPACITY_PAUSE_S, Cluster, Tally, new_token
from arf_plugins.backend_skypilot.link import Link, LinkLost, foreman_command, relay_command
from arf_plugins.backend_skypilot.notebook import Notebook
from arf_plugins.backend_skypilot.process import SkyProcess
from arf_plugins.backend_skypilot.sdk import (
    Gone,
    NoCapacity,
    Refused,
    Sight,
    Sky,
    in_thread,
)
from arf_plugins.parcels import parcel

log = logging.getLogger(__name__)

REFUSED_S = 30.0
"""How long a tier that cannot work refuses jobs; then it is tried again."""
PATIENCE = 4.0
"""How often `poll` must go by without a word from a cluster before SkyPilot is asked about it."""
BEATS = 4
"""How many heartbeats of all workers must be missed before a foreman is in doubt."""
MISSES = 2
"""Answers in a row that do not name a cluster, after which it is gone."""
FAILURES = 3
"""Foremen or set-ups of a tier that fail in a row, after which the tier is taken to be broken."""
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
DOWN_TRIES = 3
LAUNCH_S = 60.0
"""How long a launch may go on whose cluster is being taken down."""


class SkyPilotBackend(PollingBackend):
    """Jobs on SkyPilot clusters. See docs/backends/skypilot.md."""

    options: SkyPilotOptions

    def __init__(self, options: SkyPilotOptions | None, directory: Path, *, sky: Sky | None = None) -> None:
        options = options or SkyPilotOptions()
        super().__init__(options, directory, poll_interval_s=(options.poll, max(60.0, options.poll)))
        self._sky = sky or SkyProcess()
        self._directory = Path(os.path.realpath(directory))
        self._notebook = Notebook(self._directory / "skypilot")
        self._kinds: dict[str, task.Kind] = {}
        self._template: dict[str, Any] = {}
        self._prefix = ""
        self._attached_to: asyncio.AbstractEventLoop | None = None
        self._clusters: dict[str, Cluster] = {}
        self._begun: dict[str, Mapping[str, Any]] = {}
        """Clusters whose launch an earlier process has not seen the end of."""
        self._avoided: set[str] = set()
        """Names of clusters that were set aside: no other one is called so."""
        self._leaving: set[str] = set()
        """Clusters that are being taken down."""
        self._launches: set[asyncio.Future[None]] = set()
        self._queued: dict[str, dict[str, None]] = {}
        """Handles that no cluster has, by tier, in order."""
        self._results: dict[str, JobResult] = {}
        self._cancels: set[str] = set()
        self._set_ups: set[str] = set()
        """The jobs that make a machine ready."""
        self._setups: dict[str, None] = {}
        """Those that have succeeded somewhere: every other cluster runs them first."""
        self._tallies: dict[str, Tally] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._left_there = 0
        self._last_standing: Sequence[HeldResource] = ()
        self._ssh_wanted: set[str] = set()
        self._ssh_writing: asyncio.Task[None] | None = None

    # ---- The interface ----------------------------------------------------------------------

    async def tiers(self) -> Sequence[Tier]:
        if not self._kinds:
            self._sky.require()
            self._template = self._read_template()
            given = task.given_tiers(self.options, self._template)
            tasks = {name: task.build(tier, self.options, self._template) for name, tier in given.items()}
            offers = await asyncio.gather(*(self._offer(name, one) for name, one in tasks.items()))
            kinds = [
                task.kind(name, given[name], tasks[name], offer)
                for name, offer in zip(tasks, offers, strict=True)
            ]
            kept = task.within_price(kinds, self.options.max_usd_per_hour)
            self._kinds = {kind.tier.name: kind for kind in kept}
        return [kind.tier for kind in self._kinds.values()]

    async def submit(self, job: Job) -> str:
        await self._attach()
        handle = handle_of(job.key)
        if not self._notebook.has(handle):
            self._check_tier_of(job)
            fields = spelling.spell(job, self._directory, self.options)
            self._notebook.add(handle, fields)
            if fields["set_up"]:
                self._set_ups.add(handle)
            job.log.write_bytes(b"")  # what an earlier job has written there must not be read as this one's
            self._queued[job.tier][handle] = None
        self.follow(handle)
        self._assign()
        return handle

    async def wait(self, handle: str) -> JobResult:
        await self._attach()
        return await super().wait(handle)

    async def cancel(self, handle: str) -> None:
        await self._attach()
        if not self._notebook.has(handle) or self._result(handle) is not None:
            return
        for queue in self._queued.values():
            if handle in queue:
                self._end(handle, JobResult(state=JobState.CANCELLED, message="cancelled"))
                return
        self._cancels.add(handle)
        cluster = self._cluster_of(handle)
        if cluster is not None and cluster.link is not None:
            async with cluster.sending:  # after the job itself
                await cluster.link.send("cancel", {"handle": handle})

    def notes(self) -> list[str]:
        """What the clusters did, what could not be had, and how often SkyPilot was asked."""
        notes = []
        for name, tally in self._tallies.items():
            if tally.launched:
                lost = ", ".join(f"{count} {why}" for why, count in sorted(tally.lost.items()))
                notes.append(f"{name}: {tally.launched} clusters launched" + (f" ({lost})" if lost else ""))
            if problem := tally.refusal or tally.shortage:
                notes.append(f"{name}: {problem}")
        if self._left_there:
            notes.append(
                f"{self._left_there} files that jobs wrote did not come back: they are over backend.return_mb"
            )
        if self.polls:
            notes.append(f"SkyPilot was asked about its clusters {self.polls} times")
        return notes

    async def check(self) -> Sequence[Finding]:
        findings: list[Finding] = []
        try:
            self._sky.require()
            findings.append(Finding(what="SkyPilot", detail="installed"))
            enabled = await in_thread(self._sky.enabled)
        except ArfError as error:
            return [*findings, Finding(what="SkyPilot", problem=error.message, hint=error.hint)]
        problem = "" if enabled else "no infrastructure is enabled"
        findings.append(
            Finding(
                what="credentials",
                detail=", ".join(enabled),
                problem=problem,
                hint="`sky check` says for each cloud what is missing" if problem else "",
            )
        )
        try:
            template = self._read_template()
        except ArfError as error:
            return [*findings, Finding(what="template", problem=error.message, hint=error.hint)]
        for name, tier in task.given_tiers(self.options, template).items():
            findings.append(await self._check_tier(name, task.build(tier, self.options, template)))
        return findings

    async def held_resources(self) -> Sequence[HeldResource]:
        prefix = self._notebook.known_prefix()
        if not prefix:
            return ()
        try:
            sights = await in_thread(self._sky.clusters, prefix)
        except BackendError as error:
            log.warning("%s", error)
            return self._last_standing
        tiers = {name: str(fields.get("tier", "")) for name, fields in self._notebook.clusters()}
        self._last_standing = [
            HeldResource(
                name=sight.name,
                tier=tiers.get(sight.name, ""),
                state=sight.state,
                usd_per_hour=sight.usd_per_hour,
                since=sight.since,
                detail=", ".join(filter(None, (sight.infra, sight.detail))),
            )
            for sight in sights
        ]
        return self._last_standing

    async def down(self) -> None:
        await self._detach()
        prefix = self._notebook.known_prefix()
        names = {name for name, _ in self._notebook.clusters()}
        problems: dict[str, str] = {}
        for _ in range(DOWN_TRIES):
            if prefix:
                names |= {sight.name for sight in await in_thread(self._sky.clusters, prefix)}
            if not names:
                return
            problems = await self._take_down(names)
            names = set(problems)
            if self._launches:
                await asyncio.wait({*self._launches}, timeout=LAUNCH_S)
        raise BackendError(
            f"still up: {', '.join(sorted(names))} ({next(iter(problems.values()))})",
            hint="`arf stop --down` tries again; `sky down NAME` does it by hand",
        )

    def node_of(self, slot: str) -> str:
        return slot.partition(":")[0]

    def set_aside(self, node: str, why: str) -> bool:
        """It is taken down once its jobs have ended, and another one takes its place."""
        prefix = self._notebook.known_prefix()
        if not prefix or not node.startswith(prefix):
            return False
        self._avoided.add(node)
        cluster = self._clusters.get(node)
        if cluster is not None and not cluster.aside and self._attached_to is not None:
            self._set_aside(cluster, why)
            self._assign()
        return True

    def _set_aside(self, cluster: Cluster, reason: str) -> None:
        log.warning("cluster %s is given up: %s", cluster.name, reason)
        cluster.aside = reason
        self._note(cluster)
        self._count_loss(cluster, "set aside")
        if not cluster.jobs:
            self._spawn(self._retire(cluster))

    async def aclose(self) -> None:
        await self._detach()
        await super().aclose()
        self._sky.close()

    async def _detach(self) -> None:
        """Leave the clusters to themselves: what runs there goes on."""
        if self._attached_to is not asyncio.get_running_loop():
            return
        self._attached_to = None
        tasks = [*self._tasks]
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for cluster in self._clusters.values():
            if cluster.link is not None:
                cluster.link.close()
                cluster.link = None

    # ---- Tiers ------------------------------------------------------------------------------

    def _read_template(self) -> dict[str, Any]:
        if self.options.template is None:
            return {}
        kept = self._notebook.template()
        return kept or task.read_template(Path(self.options.template).expanduser())

    async def _offer(self, name: str, one: Mapping[str, Any]) -> Any:
        try:
            return await in_thread(self._sky.offer, {**one, "run": "true"})
        except NoCapacity as error:
            raise BackendError(f"tier {name}: {error.message}", hint=error.hint) from error
        except BackendError as error:
            error.args = (f"tier {name}: {error.message}",)
            error.message = f"tier {name}: {error.message}"
            raise

    async def _check_tier(self, name: str, one: Mapping[str, Any]) -> Finding:
        try:
            offer = await self._offer(name, one)
        except BackendError as error:
            return Finding(what=f"tier {name}", problem=error.message, hint=error.hint)
        price = f", ${offer.usd_per_hour:.2f} an hour" if offer.usd_per_hour else ""
        return Finding(what=f"tier {name}", detail=f"can be had on {offer.infra or 'some infra'}{price}")

    def _check_tier_of(self, job: Job) -> None:
        """Raises BackendError."""
        if job.tier not in self._kinds:
            raise BackendError(f"there is no tier {job.tier!r} here", hint=nearest(job.tier, self._kinds))
        tally = self._tally(job.tier)
        if tally.refusal is not None and self._now() < tally.refused_until:
            raise tally.refusal

    def _tally(self, tier: str) -> Tally:
        return self._tallies.setdefault(tier, Tally())

    # ---- Finding what is there --------------------------------------------------------------

    async def _attach(self) -> None:
        """Begin to work in this event loop: read what an earlier process, or loop, has left."""
        loop = asyncio.get_running_loop()
        if self._attached_to is loop:
            return
        tiers = await self.tiers()
        if self._attached_to is loop:
            return
        self._attached_to = loop
        self._bind()
        self._prefix = self._notebook.prefix(self._directory.parent.name)
        if self.options.template is not None and not self._notebook.template():
            self._notebook.keep_template(self._template)
        self._clusters, self._results, self._cancels, self._setups = {}, {}, set(), {}
        self._tasks = set()
        self._queued = {tier.name: {} for tier in tiers}
        self._begun = {}
        for name, fields in self._notebook.clusters():
            if fields.get("tier") not in self._kinds:
                continue
            if fields["placed"]:
                self._clusters[name] = self._cluster(name, fields)
            else:
                self._begun[name] = fields
        self._set_ups = set(self._notebook.set_ups())
        for handle in sorted(self._set_ups):
            if (result := self._notebook.result(handle)) and result.state is JobState.SUCCEEDED:
                self._setups[handle] = None
        for handle in self._notebook.handles():
            self._find(handle)
        for cluster in self._clusters.values():
            if cluster.name in self._avoided and not cluster.aside:
                cluster.aside = "set aside in an earlier process"
                self._note(cluster)
            done_with = cluster.aside and not cluster.jobs
            self._spawn(self._retire(cluster) if done_with else self._tend(cluster))
        self._assign()

    def _cluster(self, name: str, fields: Mapping[str, Any]) -> Cluster:
        return Cluster(
            name=name,
            kind=self._kinds[fields["tier"]],
            born=fields["born"],
            token=fields["token"],
            placed=fields["placed"],
            aside=fields["aside"],
            changed_at=self._now(),
        )

    def _find(self, handle: str) -> None:
        """A job of an earlier process, which has not ended as far as is known."""
        cluster = self._clusters.get(self._notebook.given(handle))
        tier = self._notebook.job(handle).get("tier", "")
        if cluster is not None:
            cluster.jobs[handle] = None
            self.follow(handle)
        elif self._notebook.given(handle) or tier not in self._queued:
            self._end(handle, JobResult(state=JobState.LOST, message="its cluster is gone"))
        else:
            self._queued[tier][handle] = None
            self.follow(handle)

    def _cluster_of(self, handle: str) -> Cluster | None:
        return next((one for one in self._clusters.values() if handle in one.jobs), None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        one = asyncio.get_running_loop().create_task(self._guard(work))
        self._tasks.add(one)
        one.add_done_callback(self._tasks.discard)
        one.add_done_callback(lambda _: work.close())  # it may be cancelled before it begins
        return one

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except ArfError as error:
            log.warning("%s", error)
        except Exception as error:  # whoever waits must hear of a bug
            log.exception("the backend failed")
            for handle in [*self._open]:
                message = f"arf's backend failed: {type(error).__name__}: {error}"
                self._end(handle, JobResult(state=JobState.LOST, message=message))

    # ---- Who gets which job -----------------------------------------------------------------

    def _assign(self) -> None:
        """Give what waits to the clusters that have room, and see to it that there are enough of them."""
        if self._attached_to is None:
            return
        for tier, queue in self._queued.items():
            mine = [one for one in self._clusters.values() if one.kind.tier.name == tier]
            for cluster in mine:
                if cluster.link is not None and cluster.ready and not cluster.aside:
                    self._prepare(cluster)
                    while queue and cluster.room > 0 and not self._unprepared(cluster):
                        self._give(cluster, next(iter(queue)))
            if queue:
                self._grow(tier, mine)

    def _unprepared(self, cluster: Cluster) -> list[str]:
        return [handle for handle in self._setups if handle not in cluster.prepared]

    def _prepare(self, cluster: Cluster) -> None:
        """Have a cluster run what has made the others ready."""
        if not self._set_ups.isdisjoint(cluster.jobs):
            return
        for handle in self._unprepared(cluster):
            if handle not in cluster.preparing:
                cluster.preparing.add(handle)
                self._spawn(self._send(cluster, handle))

    def _give(self, cluster: Cluster, handle: str) -> None:
        self._notebook.give(handle, cluster.name)
        for queue in self._queued.values():
            queue.pop(handle, None)
        cluster.jobs[handle] = None
        self._spawn(self._send(cluster, handle))

    def _grow(self, tier: str, mine: Sequence[Cluster]) -> None:
        """Launch, and wake, as many clusters as what waits can use."""
        tally, kind = self._tally(tier), self._kinds[tier]
        usable = [one for one in mine if not one.aside]
        wanted = len(self._queued[tier]) - sum(max(0, one.room) for one in usable)
        for cluster in usable:
            if cluster.link is not None and not cluster.ready and cluster.resting:
                self._spawn(self._restart(cluster))
        while wanted > 0 and len(usable) < kind.clusters and self._now() >= tally.not_before:
            cluster = self._new_cluster(tier)
            self._clusters[cluster.name] = cluster
            usable.append(cluster)
            self._note(cluster)
            self._spawn(self._tend(cluster))
            wanted -= kind.jobs

    def _new_cluster(self, tier: str) -> Cluster:
        """One whose launch an earlier process has begun, else one with a name that is free."""
        for name, fields in self._begun.items():
            if fields["tier"] == tier:
                del self._begun[name]
                return self._cluster(name, fields)
        slug = re.sub(r"[^a-z0-9]+", "-", tier.lower()).strip("-")[:12] or "tier"
        names = (f"{self._prefix}{slug}-{number}" for number in itertools.count())
        taken = self._clusters.keys() | self._begun.keys() | self._leaving | self._avoided
        token = new_token()
        fields = {"tier": tier, "born": token, "token": token, "placed": False, "aside": ""}
        return self._cluster(next(name for name in names if name not in taken), fields)

    def _note(self, cluster: Cluster) -> None:
        self._notebook.note_cluster(cluster.name, cluster.fields())

    # ---- One cluster's life -----------------------------------------------------------------

    async def _tend(self, cluster: Cluster) -> None:
        """Make a cluster, and keep a connection to it, until it is gone."""
        pause_s = SHORTEST_PAUSE_S
        while self._clusters.get(cluster.name) is cluster:
            try:
                if not cluster.placed:
                    await self._launch(cluster)
                await self._serve(cluster)
                pause_s = SHORTEST_PAUSE_S
            except NoCapacity as error:
                self._take_shortage(cluster, error)
                self._spawn(self._take_down_quietly(cluster.name))
                return
            except Refused as error:
                tier = cluster.kind.tier.name
                if any(one.placed and one.kind.tier.name == tier for one in self._clusters.values()):
                    self._take_shortage(cluster, error)  # it worked for others
                else:
                    self._forget(cluster, "could not be launched")
                    self._refuse(tier, error)
                self._spawn(self._take_down_quietly(cluster.name))
                return
            except BackendError as error:
                log.debug("cluster %s: %s", cluster.name, error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await cluster.wake.wait()
            cluster.wake.clear()
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _launch(self, cluster: Cluster) -> None:
        """Raises BackendError. The same cluster may be launched again, whatever became of the last time."""
        self._note(cluster)
        cluster.launching = True
        self._tally(cluster.kind.tier.name).launched += 1
        try:
            await self._finish_launch(
                in_thread(self._sky.launch, cluster.name, self._spelled(cluster), self.options.autodown)
            )
        finally:
            cluster.launching = False
        cluster.placed, cluster.misses, cluster.changed_at = True, 0, self._now()
        self._note(cluster)
        tally = self._tally(cluster.kind.tier.name)
        tally.shortage, tally.pause_s = "", CAPACITY_PAUSE_S[0]
        await self._write_ssh(cluster)

    async def _finish_launch(self, launch: Coroutine[Any, Any, None]) -> None:
        """Wait for a launch, which goes on whatever becomes of the wait: `down` must know when it is over."""
        future = asyncio.ensure_future(launch)
        self._launches.add(future)
        future.add_done_callback(self._launches.discard)
        future.add_done_callback(lambda one: one.cancelled() or one.exception())
        await asyncio.shield(future)

    def _spelled(self, cluster: Cluster) -> dict[str, Any]:
        return {**cluster.kind.task, "run": foreman_command(cluster.folder, cluster.token)}

    async def _restart(self, cluster: Cluster) -> None:
        """A new foreman for a cluster that is up."""
        if cluster.restarting:
            return
        cluster.restarting = True
        try:
            cluster.token, cluster.ready = new_token(), False
            self._note(cluster)
            await in_thread(self._sky.start_job, cluster.name, self._spelled(cluster))
            cluster.changed_at = self._now()
            for handle in [*cluster.jobs]:
                if handle not in cluster.started:
                    self._spawn(self._send(cluster, handle))
        except Gone:
            self._lose(cluster, "taken down")
        finally:
            cluster.restarting = False

    async def _serve(self, cluster: Cluster) -> None:
        """Connect, bring the relay up to date, and listen until the connection ends. Raises BackendError."""
        link = Link(cluster.folder)
        try:
            try:
                greeting = await link.open(self._sky.ssh(cluster.name, relay_command()))
            except BackendError:
                await self._write_ssh(cluster)
                raise
            cluster.home = str(greeting["home"])
            cluster.skew_s = time.time() - float(greeting["now"])
            cluster.blobs, cluster.there = set(greeting["blobs"]), set()
            await link.send("begin", self._begin(cluster))
            cluster.link, cluster.misses = link, 0
            cluster.changed_at = cluster.heard_at = self._now()
            for handle in [*cluster.jobs, *cluster.preparing]:
                self._spawn(self._send(cluster, handle))
            self._assign()
            await link.listen(lambda fields, payload: self._hear(cluster, fields, payload))
        finally:
            if cluster.link is link:
                cluster.link, cluster.changed_at = None, self._now()
            cluster.drop_answers()
            link.close()

    def _begin(self, cluster: Cluster) -> dict[str, Any]:
        settings = {
            "slots": cluster.kind.jobs,
            "gpus": cluster.kind.gpus,
            "idle_s": self.options.idle,
            "heartbeat_s": self.options.heartbeat,
            "grace_s": self.options.grace,
            "return_mb": self.options.return_mb,
        }
        follow = {handle: self._log_size(handle) for handle in cluster.jobs}
        return {"settings": settings, "read_to": cluster.read_to, "follow": follow}

    def _log_size(self, handle: str) -> int:
        try:
            return Path(self._notebook.job(handle)["log"]).stat().st_size
        except (OSError, KeyError):
            return 0

    async def _write_ssh(self, cluster: Cluster) -> None:
        """Have SkyPilot write down how clusters are reached; one question for all that ask at a time."""
        self._ssh_wanted.add(cluster.name)
        while cluster.name in self._ssh_wanted:
            if self._ssh_writing is None or self._ssh_writing.done():
                names, self._ssh_wanted = self._ssh_wanted, set()
                self._ssh_writing = asyncio.ensure_future(in_thread(self._sky.prepare_ssh, names))
                await asyncio.shield(self._ssh_writing)
                return
            await asyncio.wait([self._ssh_writing])
        if self._ssh_writing is not None:  # somebody else has asked for this one too
            await asyncio.wait([self._ssh_writing])

    # ---- Sending ----------------------------------------------------------------------------

    async def _send(self, cluster: Cluster, handle: str) -> None:
        """Hand a job to its cluster; if the connection breaks, the next one does it again."""
        async with cluster.sending:
            link = cluster.link
            again = handle in cluster.preparing
            if link is None or (handle not in cluster.jobs and not again):
                return
            fields = self._notebook.job(handle)
            root = Path(fields["directory"])
            try:
                found = await asyncio.to_thread(parcel.wrap, root)
                await self._send_links(cluster, found)
                blobs, payload = await asyncio.to_thread(found.pack, cluster.blobs)
            except BackendError as error:
                self._end(handle, JobResult(state=JobState.LOST, message=str(error)))
                return
            except LinkLost:
                return
            job = {
                "command": fields["command"],
                "env": parcel.environment_there(fields["env"], cluster.home),
                "time_limit_s": fields["time_limit_s"],
                "tier": cluster.token,
            }
            put = {
                "put": handle,
                "job": job,
                "queue": cluster.token,
                "cwd": "" if fields["cwd"] == "." else fields["cwd"],
                "blobs": blobs,
                "log_at": 0 if again else self._log_size(handle),
                **found.fields(),
            }
            await link.send("put", put, payload)
            cluster.blobs.update(blob for blob, _ in blobs)
            if handle in self._cancels:
                await link.send("cancel", {"handle": handle})

    async def _send_links(self, cluster: Cluster, found: parcel.Parcel) -> None:
        """Send what the links of a tree lead to, where it is here and not there. Raises LinkLost."""
        wanted = {target for _, target in found.links} - cluster.there
        here = [target for target in sorted(wanted) if parcel.is_something(Path(target))]
        if not here:
            return
        there = await cluster.ask("ask", {"paths": here}, "there")
        for target in here:
            if target not in there:
                for path, at, mode, data in parcel.pieces(Path(target)):
                    if cluster.link is None:
                        raise LinkLost
                    await cluster.link.send("file", {"path": path, "at": at, "mode": mode}, data)
                await cluster.ask("place", {"path": target}, "placed")
            cluster.there.add(target)

    # ---- Hearing ----------------------------------------------------------------------------

    async def _hear(self, cluster: Cluster, fields: dict[str, Any], payload: bytes) -> None:
        if "line" in fields:
            if fields["source"]:
                cluster.read_to[fields["source"]] = fields["offset"]
            self._take_line(cluster, fields["source"], fields["line"])
        elif "log" in fields:
            self._write_log(cluster, fields["log"], fields["at"], payload)
        elif "file" in fields:
            if (root := self._returns_to(cluster, fields["handle"])) is not None:
                most = int(self.options.return_mb * 2**20) + 1
                parcel.put_back(root, fields["file"], fields["mode"], payload, most)
        elif "files" in fields:
            if (root := self._returns_to(cluster, fields["files"])) is not None:
                for name in fields["removed"]:
                    parcel.take_away(root, name)
                self._left_there += fields["left_there"]
        else:
            cluster.take_answer(fields)

    def _returns_to(self, cluster: Cluster, handle: str) -> Path | None:
        fields = self._notebook.job(handle) if handle in cluster.jobs else {}
        return Path(fields["directory"]) if fields and not fields["set_up"] else None

    def _write_log(self, cluster: Cluster, handle: str, at: int, data: bytes) -> None:
        if handle not in cluster.jobs:
            return
        try:
            fd = os.open(self._notebook.job(handle)["log"], os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(fd, data, at)
            finally:
                os.close(fd)
        except OSError as error:
            log.warning("cannot write the log of %s: %s", handle, error.strerror)

    def _take_line(self, cluster: Cluster, source: str, line: Mapping[str, Any]) -> None:
        if source.partition("/")[0] == cluster.token:
            self._hear_foreman(cluster, line)
        if "closed" in line:
            self._take_close(cluster, line["closed"])
        elif "hello" in line:
            self._lose_running(cluster, source, "its worker was killed")
            cluster.slots[source] = f"{cluster.name}:{line['slot']}"
        elif "start" in line:
            cluster.running[source] = line["start"]
            if line["start"] in cluster.jobs:
                cluster.started[line["start"]] = cluster.moment(line["at"])
        elif "end" in line:
            cluster.running.pop(source, None)
            self._take_end(cluster, source, line)
        elif "died" in line:
            self._lose_running(cluster, source, "its worker was killed (out of memory?)")

    def _hear_foreman(self, cluster: Cluster, line: Mapping[str, Any]) -> None:
        """The foreman of now, or one of its workers, has spoken."""
        cluster.heard_at = self._now()
        if line.get("bye") == "terminated":  # it ends with its foreman
            cluster.ready = False
            self.soon()
        elif not cluster.ready and ("up" in line or "beat" in line):
            cluster.ready = True
            cluster.failures = 0
            self._assign()

    def _take_close(self, cluster: Cluster, token: str) -> None:
        cluster.closed = token
        if token == cluster.token:
            cluster.ready = False
            if cluster.jobs or self._queued[cluster.kind.tier.name]:
                self._spawn(self._restart(cluster))

    def _lose_running(self, cluster: Cluster, source: str, why: str) -> None:
        handle = cluster.running.pop(source, "")
        if handle in cluster.jobs:
            state = JobState.CANCELLED if handle in self._cancels else JobState.LOST
            self._end_on(cluster, handle, source, state, None, why)

    def _take_end(self, cluster: Cluster, source: str, line: Mapping[str, Any]) -> None:
        handle, why, code = line["end"], line["why"], line["code"]
        if handle in cluster.preparing or (handle in self._setups and handle not in cluster.jobs):
            self._take_set_up(cluster, handle, code)
            return
        if handle not in cluster.jobs:
            return
        if code is not None and 128 < code <= 192:
            code = 128 - code  # the shell's way to say that a signal ended it
        state, message = self._state(cluster, handle, why, code)
        if handle in self._set_ups and state is JobState.SUCCEEDED:
            cluster.prepared.add(handle)
            self._setups[handle] = None
        self._end_on(cluster, handle, source, state, code, line["message"] or message, line["seconds"])

    def _take_set_up(self, cluster: Cluster, handle: str, code: int | None) -> None:
        cluster.preparing.discard(handle)
        tally = self._tally(cluster.kind.tier.name)
        if code == 0:
            cluster.prepared.add(handle)
            tally.failures = 0
        else:
            tally.failures += 1
            message = f"workspace.setup failed on cluster {cluster.name} with exit code {code}"
            hint = f"its log is on the cluster: `ssh {cluster.name} cat {cluster.folder}/logs/{handle}`"
            if tally.failures >= FAILURES:
                self._refuse(cluster.kind.tier.name, BackendError(message, hint=hint))
            self._set_aside(cluster, message)
        self._assign()

    def _state(self, cluster: Cluster, handle: str, why: str, code: int | None) -> tuple[JobState, str]:
        if why == "cancel" or (why in ("term", "gone") and handle in self._cancels):
            return JobState.CANCELLED, "cancelled"
        if why == "timeout":
            limit_s = self._notebook.job(handle).get("time_limit_s", 0.0)
            return JobState.TIMED_OUT, f"ended at its time limit of {limit_s:g} s"
        if why == "term":
            return JobState.PREEMPTED, f"cluster {cluster.name} was being taken away"
        if why == "gone":
            state = JobState.PREEMPTED if cluster.kind.spot else JobState.LOST
            return state, f"cluster {cluster.name} was restarted"
        if why == "error" or code is None:
            return JobState.FAILED, "it could not be started"
        return (JobState.SUCCEEDED, "") if code == 0 else (JobState.FAILED, exit_reason(code))

    def _end_on(
        self,
        cluster: Cluster,
        handle: str,
        source: str,
        state: JobState,
        code: int | None,
        message: str,
        seconds: float = 0.0,
    ) -> None:
        started = cluster.started.pop(handle, None)
        ended = datetime.now(UTC)
        if started is not None:
            ended = started + timedelta(seconds=seconds) if seconds else max(ended, started)
        if state is JobState.FAILED and code is None and started is not None:
            code = 126
        slot = cluster.slots.get(source, cluster.name)
        result = JobResult(
            state=state, exit_code=code, started_at=started, ended_at=ended, slot=slot, message=message
        )
        cluster.jobs.pop(handle, None)
        self._end(handle, result)
        if cluster.link is not None and handle not in self._set_ups:
            self._spawn(cluster.link.send("done", {"handle": handle}))
        if cluster.aside and not cluster.jobs:
            self._spawn(self._retire(cluster))
        self._assign()

    def _end(self, handle: str, result: JobResult) -> None:
        """A job has ended: write it down, and tell whoever waits."""
        if self._result(handle) is None:
            self._notebook.end(handle, result)
            self._results[handle] = result
            self._settle({handle: result})
        for queue in self._queued.values():
            queue.pop(handle, None)
        for cluster in self._clusters.values():
            cluster.jobs.pop(handle, None)
        self._cancels.discard(handle)

    def _result(self, handle: str) -> JobResult | None:
        return self._results.get(handle) or self._notebook.result(handle)

    # ---- Clusters that go away --------------------------------------------------------------

    def _lose(self, cluster: Cluster, why: str, *, gone: bool = True) -> None:
        """A cluster is lost: what it was running has ended, what it had not begun goes elsewhere.

        If it may still be there, nobody knows what it has begun.
        """
        if self._clusters.get(cluster.name) is not cluster:
            return
        self._count_loss(cluster, why)
        spot = cluster.kind.spot
        state = JobState.PREEMPTED if spot else JobState.LOST
        if cluster.jobs:
            log.warning("cluster %s was %s; its jobs run again elsewhere", cluster.name, why)
        jobs, cluster.jobs = [*cluster.jobs], {}
        self._forget(cluster, "")
        for handle in jobs:
            if handle in self._cancels:
                self._end(handle, JobResult(state=JobState.CANCELLED, message="cancelled"))
            elif handle in cluster.started:
                message = f"cluster {cluster.name} was {why}"
                ended = max(datetime.now(UTC), cluster.started[handle])
                self._end(
                    handle,
                    JobResult(
                        state=state, started_at=cluster.started[handle], ended_at=ended,
                        slot=cluster.name, message=message,
                    ),
                )  # fmt: skip
            elif not gone or (cluster.link is None and not cluster.ready):
                self._end(handle, JobResult(state=state, message=f"cluster {cluster.name} was {why}"))
            else:
                self._notebook.give(handle, "")
                self._queued[cluster.kind.tier.name][handle] = None
        self._assign()

    def _forget(self, cluster: Cluster, why: str) -> None:
        self._clusters.pop(cluster.name, None)
        self._notebook.forget_cluster(cluster.name)
        if why:
            self._count_loss(cluster, why)
        cluster.wake.set()

    def _count_loss(self, cluster: Cluster, why: str) -> None:
        lost = self._tally(cluster.kind.tier.name).lost
        lost[why] = lost.get(why, 0) + 1

    async def _retire(self, cluster: Cluster) -> None:
        """Give a cluster back that was set aside."""
        if self._clusters.get(cluster.name) is not cluster:
            return
        self._clusters.pop(cluster.name)
        if cluster.link is not None:
            cluster.link.close()
        await self._take_down([cluster.name])
        self._assign()

    async def _take_down(self, names: Iterable[str]) -> dict[str, str]:
        """Take clusters down at the same time; the problem of each that is still up."""
        chosen = sorted(names)
        self._leaving.update(chosen)

        async def one(name: str) -> str:
            try:
                await in_thread(self._sky.down, name)
            except BackendError as error:
                return error.message
            finally:
                self._leaving.discard(name)
            self._notebook.forget_cluster(name)
            return ""

        problems = await asyncio.gather(*map(one, chosen))
        return {name: problem for name, problem in zip(chosen, problems, strict=True) if problem}

    def _take_shortage(self, cluster: Cluster, error: BackendError) -> None:
        """There is no such machine now: go on with those that there are, and try again later."""
        tally = self._tally(cluster.kind.tier.name)
        self._forget(cluster, "not to be had")
        if str(error) != tally.shortage:
            log.warning("tier %s: %s", cluster.kind.tier.name, error)
        tally.shortage = str(error)
        tally.not_before = max(tally.not_before, self._now() + tally.pause_s)
        tally.pause_s = min(2 * tally.pause_s, CAPACITY_PAUSE_S[1])

    def _refuse(self, tier: str, error: BackendError) -> None:
        """A tier cannot run anything: say so to those that wait for it, and to those that come soon."""
        tally = self._tally(tier)
        tally.refusal = BackendError(f"tier {tier}: {error.message}", hint=error.hint)
        tally.refused_until = self._now() + REFUSED_S
        tally.failures = 0
        tally.waiting_since = None
        log.warning("%s", tally.refusal)
        for handle in [*self._queued.get(tier, ())]:
            self._end(handle, JobResult(state=JobState.LOST, message=str(tally.refusal)))

    # ---- Watching ---------------------------------------------------------------------------

    async def glance(self, handles: Collection[str]) -> Mapping[str, JobResult]:
        self._watch_foremen()
        self._assign()
        self._watch_waiting()
        unknown = JobResult(state=JobState.LOST, message="this backend knows no such job")
        return {handle: self._result(handle) or unknown for handle in handles if not self._is_here(handle)}

    def _is_here(self, handle: str) -> bool:
        return self._cluster_of(handle) is not None or any(handle in queue for queue in self._queued.values())

    def _watch_foremen(self) -> None:
        """A foreman that is connected and says nothing is not at work."""
        for cluster in self._clusters.values():
            silent_s = self._now() - cluster.heard_at
            if cluster.link is not None and cluster.ready and silent_s > BEATS * self.options.heartbeat:
                cluster.ready = False

    def _watch_waiting(self) -> None:
        """Give up on a tier that has had no working cluster for long, while jobs wait for it."""
        for tier, queue in self._queued.items():
            tally = self._tally(tier)
            works = any(one.kind.tier.name == tier and one.ready for one in self._clusters.values())
            if not queue or works:
                tally.waiting_since = None
                continue
            tally.waiting_since = tally.waiting_since or self._now()
            limit_s = self.options.start_timeout
            if limit_s is not None and self._now() - tally.waiting_since > limit_s:
                reason = tally.shortage or "`sky status` and `sky logs --provision NAME` may say why"
                self._refuse(tier, BackendError(f"no cluster came up within {limit_s:g} s", hint=reason))

    def is_due(self) -> bool:
        looking = self._looking is not None and not self._looking.done()
        return not looking and any(self._is_doubtful(one) for one in self._clusters.values())

    def _is_doubtful(self, cluster: Cluster) -> bool:
        if not cluster.placed or cluster.launching or cluster.restarting:
            return False
        silent = cluster.link is None or (not cluster.ready and not cluster.resting)
        return silent and self._now() - cluster.changed_at > PATIENCE * self.options.poll

    async def poll(self, handles: Collection[str]) -> Mapping[str, JobResult]:
        # Not awaited: SkyPilot takes seconds to answer, and jobs end meanwhile.
        self._looking = self._spawn(self._look())
        return await self.glance(handles)

    async def _look(self) -> None:
        doubtful = [one for one in self._clusters.values() if self._is_doubtful(one)]
        names = [one.name for one in doubtful]
        sights = {
            sight.name: sight for sight in await in_thread(self._sky.clusters, self._prefix, names, look=True)
        }
        for cluster in doubtful:
            if self._clusters.get(cluster.name) is cluster and self._is_doubtful(cluster):
                await self._take_sight(cluster, sights.get(cluster.name))

    async def _take_sight(self, cluster: Cluster, sight: Sight | None) -> None:
        if sight is None or sight.state in ("STOPPED", "AUTOSTOPPING"):
            cluster.misses += 1
            if cluster.misses >= MISSES:
                self._lose(cluster, "stopped" if sight else "taken away", gone=sight is None)
                if sight is not None:
                    self._spawn(self._take_down_quietly(cluster.name))
        elif cluster.link is None:
            cluster.misses = 0
            if self._now() - cluster.changed_at > self.options.silent:
                self._lose(cluster, "not to be reached any more", gone=False)
                self._spawn(self._take_down_quietly(cluster.name))
            else:
                cluster.wake.set()
        elif sight.state == "UP":
            await self._ask_for_foreman(cluster)

    async def _take_down_quietly(self, name: str) -> None:
        for problem in (await self._take_down([name])).values():
            log.warning("cluster %s: %s", name, problem)

    async def _ask_for_foreman(self, cluster: Cluster) -> None:
        """The cluster is there, its foreman is not: what does SkyPilot say of its job?"""
        jobs = await in_thread(self._sky.jobs, cluster.name)
        if cluster.ready or any(job.live for job in jobs):
            return
        cluster.failures += 1
        newest = jobs[0] if jobs else None
        failed_setup = newest is not None and newest.state == "FAILED_SETUP"
        if cluster.failures < FAILURES and not failed_setup:
            self._spawn(self._restart(cluster))
            return
        said = await in_thread(self._sky.last_line, cluster.name, newest.id) if newest else ""
        what = "its set-up failed" if failed_setup else "arf's worker does not start"
        error = BackendError(
            f"cluster {cluster.name}: {what}" + (f": {said}" if said else ""),
            hint=f"`sky logs {cluster.name}` has all of it; correct backend.setup or the template",
        )
        self._refuse(cluster.kind.tier.name, error)
        jobs_here = [*cluster.jobs]
        self._lose(cluster, "broken")
        for handle in jobs_here:
            self._end(handle, JobResult(state=JobState.LOST, message=str(error)))
        self._spawn(self._take_down_quietly(cluster.name))
