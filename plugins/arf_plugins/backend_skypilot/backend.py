"""The backend `skypilot`: a linked pool whose nodes are clusters of one machine that SkyPilot makes.

SkyPilot runs one job on a cluster for as long as the study lasts, the pool's foreman, and is asked only about
clusters that do not speak.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from arf.errors import ArfError, BackendError
from arf.interfaces import Finding, HeldResource
from arf.types import JobResult, JobState, Tier
from arf_plugins.backend_skypilot import SkyPilotOptions, task
from arf_plugins.backend_skypilot.process import SkyProcess
from arf_plugins.backend_skypilot.sdk import Sight, Sky
from arf_plugins.worker_pool.link import boot_command, foreman_command
from arf_plugins.worker_pool.linked_jobs import FAILURES
from arf_plugins.worker_pool.linked_pool import LinkedPool
from arf_plugins.worker_pool.pool import NoCapacity, in_thread
from arf_plugins.worker_pool.remote_node import RemoteNode

log = logging.getLogger(__name__)

PATIENCE = 4.0
"""How often `poll` must go by without a word from a cluster before SkyPilot is asked about it."""
MISSES = 2
"""Answers in a row that do not name a cluster, after which it is gone."""
DOWN_TRIES = 3
LAUNCH_S = 60.0
"""How long a launch may go on whose cluster is being taken down."""


class SkyPilotBackend(LinkedPool):
    """Jobs on SkyPilot clusters. See docs/backends/skypilot.md."""

    options: SkyPilotOptions

    def __init__(self, options: SkyPilotOptions | None, directory: Path, *, sky: Sky | None = None) -> None:
        super().__init__(options or SkyPilotOptions(), directory, folder="skypilot")
        self._sky = sky or SkyProcess()
        self._kinds: dict[str, task.SkyKind] = {}
        self._template: dict[str, Any] = {}
        self._leaving: set[str] = set()
        """Clusters that are being taken down."""
        self._launches: set[asyncio.Future[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._last_held: Sequence[HeldResource] = ()
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

    def notes(self) -> list[str]:
        asked = [f"SkyPilot was asked about its clusters {self.polls} times"] if self.polls else []
        return [*super().notes(), *asked]

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
        prefix = self._state.known_prefix()
        if not prefix:
            return ()
        try:
            sights = await in_thread(self._sky.clusters, prefix)
        except BackendError as error:
            log.warning("%s", error)
            return self._last_held
        tiers = {name: str(fields.get("tier", "")) for name, fields in self._state.nodes()}
        self._last_held = [
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
        return self._last_held

    async def down(self) -> None:
        await self._detach()
        prefix = self._state.known_prefix()
        names = {name for name, _ in self._state.nodes()}
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

    def set_aside(self, node: str, why: str) -> bool:
        """It is taken down once its jobs have ended, and another one takes its place."""
        prefix = self._state.known_prefix()
        if not prefix or not node.startswith(prefix):
            return False
        self._avoided.add(node)
        cluster = self._nodes.get(node)
        if cluster is not None and not cluster.aside and self._attached_to is not None:
            self._set_node_aside(cluster, why)
            self._assign()
        return True

    async def aclose(self) -> None:
        await super().aclose()
        self._sky.close()

    # ---- Tiers ------------------------------------------------------------------------------

    def _read_template(self) -> dict[str, Any]:
        if self.options.template is None:
            return {}
        kept = self._state.template()
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

    # ---- Clusters ---------------------------------------------------------------------------

    def _begin(self) -> None:
        if self.options.template is not None and not self._state.template():
            self._state.keep_template(self._template)

    def _new_name(self, tier: str) -> str:
        slug = re.sub(r"[^a-z0-9]+", "-", tier.lower()).strip("-")[:12] or "tier"
        taken = self._nodes.keys() | self._begun.keys() | self._leaving | self._avoided
        names = (f"{self._prefix}{slug}-{number}" for number in itertools.count())
        return next(name for name in names if name not in taken)

    async def _make(self, node: RemoteNode) -> None:
        launch = in_thread(self._sky.launch, node.name, self._spelled(node), self.options.autodown)
        await self._finish_launch(launch)
        await self._write_ssh(node.name)

    async def _finish_launch(self, launch: Coroutine[Any, Any, None]) -> None:
        """Wait for a launch, which goes on whatever becomes of the wait: `down` must know when it is over."""
        future = asyncio.ensure_future(launch)
        self._launches.add(future)
        future.add_done_callback(self._launches.discard)
        future.add_done_callback(lambda one: one.cancelled() or one.exception())
        await asyncio.shield(future)

    def _spelled(self, node: RemoteNode) -> dict[str, Any]:
        kind = self._kinds[node.tier]
        return {**kind.task, "run": foreman_command(node.folder, node.token)}

    async def _start_foreman(self, node: RemoteNode) -> None:
        await in_thread(self._sky.start_job, node.name, self._spelled(node))

    def _connect(self, node: RemoteNode) -> Sequence[str]:
        return self._sky.ssh(node.name, boot_command())

    async def _cannot_connect(self, node: RemoteNode) -> None:
        await self._write_ssh(node.name)

    def _settings(self, node: RemoteNode) -> Mapping[str, Any]:
        return {
            "slots": node.kind.jobs,
            "gpus": node.kind.gpus,
            "idle_s": self.options.idle,
            "lease_s": self.options.idle,  # a new foreman takes half a minute, and autodown follows anyway
            "heartbeat_s": self.options.heartbeat,
            "grace_s": self.options.grace,
            "return_mb": self.options.return_mb,
        }

    def _why_none(self) -> str:
        return "`sky status` and `sky logs --provision NAME` may say why"

    async def _write_ssh(self, name: str) -> None:
        """Have SkyPilot write down how clusters are reached; one question for all that ask at a time."""
        self._ssh_wanted.add(name)
        while name in self._ssh_wanted:
            if self._ssh_writing is None or self._ssh_writing.done():
                names, self._ssh_wanted = self._ssh_wanted, set()
                self._ssh_writing = asyncio.ensure_future(in_thread(self._sky.prepare_ssh, names))
                await asyncio.shield(self._ssh_writing)
                return
            await asyncio.wait([self._ssh_writing])
        if self._ssh_writing is not None:  # somebody else has asked for this one too
            await asyncio.wait([self._ssh_writing])

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
            self._state.forget_node(name)
            return ""

        problems = await asyncio.gather(*map(one, chosen))
        return {name: problem for name, problem in zip(chosen, problems, strict=True) if problem}

    async def _give_back(self, node: RemoteNode) -> None:
        for problem in (await self._take_down([node.name])).values():
            log.warning("cluster %s: %s", node.name, problem)

    # ---- Asking SkyPilot --------------------------------------------------------------------

    def is_due(self) -> bool:
        looking = self._looking is not None and not self._looking.done()
        return not looking and any(self._is_doubtful(one) for one in self._nodes.values())

    def _is_doubtful(self, cluster: RemoteNode) -> bool:
        if not cluster.placed or cluster.launching or cluster.restarting:
            return False
        silent = cluster.link is None or (not cluster.ready and not cluster.resting)
        return silent and self._now() - cluster.changed_at > PATIENCE * self.options.poll

    async def poll(self, handles: Collection[str]) -> Mapping[str, JobResult]:
        # Not awaited: SkyPilot takes seconds to answer, and jobs end meanwhile.
        self._looking = self._spawn(self._look())
        return await self.glance(handles)

    async def _look(self) -> None:
        doubtful = [one for one in self._nodes.values() if self._is_doubtful(one)]
        names = [one.name for one in doubtful]
        sights = {
            sight.name: sight for sight in await in_thread(self._sky.clusters, self._prefix, names, look=True)
        }
        for cluster in doubtful:
            if self._nodes.get(cluster.name) is cluster and self._is_doubtful(cluster):
                await self._take_sight(cluster, sights.get(cluster.name))

    async def _take_sight(self, cluster: RemoteNode, sight: Sight | None) -> None:
        if sight is None or sight.state in ("STOPPED", "AUTOSTOPPING"):
            cluster.misses += 1
            if cluster.misses >= MISSES:
                self._lose(cluster, "stopped" if sight else "taken away", gone=sight is None)
                if sight is not None:
                    self._spawn(self._give_back(cluster))
        elif cluster.link is None:
            cluster.misses = 0
            if self._now() - cluster.changed_at > self.options.silent:
                self._lose(cluster, "not to be reached any more", gone=False)
                self._spawn(self._give_back(cluster))
            else:
                cluster.wake.set()
        elif sight.state == "UP":
            await self._ask_for_foreman(cluster)

    async def _ask_for_foreman(self, cluster: RemoteNode) -> None:
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
        self._refuse(cluster.tier, error)
        jobs_here = [*cluster.jobs]
        self._lose(cluster, "broken")
        for handle in jobs_here:
            self._end(handle, JobResult(state=JobState.LOST, message=str(error)))
        self._spawn(self._give_back(cluster))
