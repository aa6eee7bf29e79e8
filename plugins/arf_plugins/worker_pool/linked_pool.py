"""A pool of workers on nodes that arf reaches over a connection each, such as SSH.

A node is made (or found), then a foreman works on it (`on_node/foreman.py`), which keeps a worker for each
slot. arf gives each node as many jobs as it has slots. Whoever has the nodes (a cloud, a scheduler, nobody)
is asked only about those that do not speak.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from arf.errors import BackendError
from arf.types import JobResult, JobState
from arf_plugins.worker_pool.linked_jobs import LinkedJobs
from arf_plugins.worker_pool.options import LinkedOptions
from arf_plugins.worker_pool.pool import (
    Gone,
    NoCapacity,
    Refused,
    ended_after,
    unknown_job,
)
from arf_plugins.worker_pool.remote_node import NodeKind, RemoteNode, new_token
from arf_plugins.worker_pool.session import Session

log = logging.getLogger(__name__)

BEATS = 4
"""How many heartbeats of all workers must be missed before a foreman is in doubt."""
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
CAPACITY_PAUSE_S = 30.0, 600.0
"""Between two tries to get a node that was not to be had: at first, and at most."""


class LinkedPool(LinkedJobs):
    """The base of backends whose nodes are reached over a connection each."""

    options: LinkedOptions

    def __init__(self, options: LinkedOptions, directory: Path, *, folder: str) -> None:
        super().__init__(options, directory, folder=folder)
        self._kinds: dict[str, Any] = {}
        self._prefix = ""
        self._begun: dict[str, Mapping[str, Any]] = {}
        """Nodes whose making an earlier process has not seen the end of."""
        self._avoided: set[str] = set()
        """Names of nodes that were set aside: no other one is called so."""
        self._waiting_since: dict[str, float] = {}
        """Since when jobs of a tier wait and no node of it works."""

    # ---- For the subclass -------------------------------------------------------------------

    def _begin(self) -> None:
        """Called once the files of an earlier process are about to be read."""

    @abstractmethod
    def _new_name(self, tier: str) -> str:
        """The name of one more node of a tier; empty if there is no other."""

    @abstractmethod
    async def _make(self, node: RemoteNode) -> None:
        """Have a node, and a foreman on it. Again for the same one is fine. Raises BackendError.

        NoCapacity and Refused give the node up.
        """

    @abstractmethod
    async def _start_foreman(self, node: RemoteNode) -> None:
        """Have one more foreman, `node.token`, on a node that is there. Raises Gone, or another
        BackendError."""

    @abstractmethod
    def _connect(self, node: RemoteNode) -> Sequence[str]:
        """A local command that runs `link.boot_command` on a node."""

    async def _cannot_connect(self, node: RemoteNode) -> None:
        """Called after a connection that could not be made."""

    @abstractmethod
    def _settings(self, node: RemoteNode) -> Mapping[str, Any]:
        """What a node's foreman is told."""

    @abstractmethod
    async def _give_back(self, node: RemoteNode) -> None:
        """Have a node no more. Never raises."""

    async def aclose(self) -> None:
        await self._detach()
        await super().aclose()

    async def _detach(self) -> None:
        """Leave the nodes to themselves: what runs there goes on."""
        if self._attached_to is not asyncio.get_running_loop():
            return
        self._attached_to = None
        tasks = [*self._tasks]
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for node in self._nodes.values():
            if node.link is not None:
                node.link.close()
                node.link = node.session = None

    # ---- Finding what is there --------------------------------------------------------------

    async def _attach(self) -> None:
        loop = asyncio.get_running_loop()
        if self._attached_to is loop:
            return
        tiers = await self.tiers()
        if self._attached_to is loop:
            return
        self._attached_to = loop
        self._bind()
        self._prefix = self._state.prefix(self._directory.parent.name)
        self._begin()
        self._nodes, self._results, self._cancels, self._setups = {}, {}, {}, {}
        self._tasks, self._waiting_since = set(), {}
        self._queued = {tier.name: {} for tier in tiers}
        self._begun = {}
        for name, fields in self._state.nodes():
            if fields.get("tier") not in self._kinds:
                continue
            if fields["placed"]:
                self._nodes[name] = self._node(name, fields)
            else:
                self._begun[name] = fields
        self._set_ups = set(self._state.set_ups())
        for handle in sorted(self._set_ups):
            if (result := self._state.result(handle)) and result.state is JobState.SUCCEEDED:
                self._setups[handle] = None
        for handle in self._state.handles():
            self._find(handle)
        for node in self._nodes.values():
            if node.name in self._avoided and not node.aside:
                node.aside = "set aside in an earlier process"
                self._note(node)
            done_with = node.aside and not node.jobs
            self._spawn(self._retire(node) if done_with else self._tend(node))
        self._assign()

    def _node(self, name: str, fields: Mapping[str, Any]) -> RemoteNode:
        kind: NodeKind = self._kinds[fields["tier"]]
        return RemoteNode(
            name=name,
            kind=kind,
            slots=self._slots_of(name, kind),
            born=fields["born"],
            token=fields["token"],
            placed=fields["placed"],
            aside=fields["aside"],
            changed_at=self._now(),
        )

    def _slots_of(self, name: str, kind: NodeKind) -> int:
        return kind.jobs

    # ---- More nodes -------------------------------------------------------------------------

    def _grow(self, tier: str, mine: Sequence[RemoteNode]) -> None:
        """Make, and wake, as many nodes as what waits can use."""
        tally, kind = self._tally(tier), self._kinds[tier]
        usable = [one for one in mine if not one.aside]
        wanted = len(self._queued[tier]) - sum(max(0, one.room) for one in usable if self._will_work(one))
        for node in usable:
            if node.link is not None and not node.ready and node.resting:
                self._spawn(self._restart(node))
        while wanted > 0 and len(usable) < kind.nodes and self._now() >= tally.not_before:
            added = self._new_node(tier)
            if added is None:
                return
            self._nodes[added.name] = added
            usable.append(added)
            self._note(added)
            self._spawn(self._tend(added))
            wanted -= added.slots

    def _will_work(self, node: RemoteNode) -> bool:
        """Whether it can be expected to take jobs soon."""
        return True

    def _new_node(self, tier: str) -> RemoteNode | None:
        """One whose making an earlier process has begun, else a new one; None if there is no other."""
        for name, fields in self._begun.items():
            if fields["tier"] == tier:
                del self._begun[name]
                return self._node(name, fields)
        name, token = self._new_name(tier), new_token()
        if not name:
            return None
        fields = {"tier": tier, "born": token, "token": token, "placed": False, "aside": ""}
        return self._node(name, fields)

    def _note(self, node: RemoteNode) -> None:
        self._state.note_node(node.name, node.fields())

    # ---- One node's life --------------------------------------------------------------------

    async def _tend(self, node: RemoteNode) -> None:
        """Make a node, and keep a connection to it, until it is gone."""
        pause_s = SHORTEST_PAUSE_S
        while self._nodes.get(node.name) is node:
            try:
                if not node.placed:
                    await self._place(node)
                await self._serve(node)
                pause_s = SHORTEST_PAUSE_S
            except NoCapacity as error:
                self._take_shortage(node, error)
                self._spawn(self._give_back(node))
                return
            except Refused as error:
                if any(one.placed and one.tier == node.tier for one in self._nodes.values()):
                    self._take_shortage(node, error)  # it worked for others
                else:
                    self._forget(node, "could not be made")
                    self._refuse(node.tier, error)
                self._spawn(self._give_back(node))
                return
            except BackendError as error:
                log.debug("node %s: %s", node.name, error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await node.wake.wait()
            node.wake.clear()
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _place(self, node: RemoteNode) -> None:
        """Raises BackendError."""
        self._note(node)
        node.launching = True
        tally = self._tally(node.tier)
        tally.started += 1
        try:
            await self._make(node)
        finally:
            node.launching = False
        node.placed, node.misses, node.changed_at = True, 0, self._now()
        self._note(node)
        tally.shortage, tally.pause_s = "", 0.0

    async def _serve(self, node: RemoteNode) -> None:
        """Raises BackendError."""
        session = Session(
            node, self._state, self, is_set_up=self._set_ups.__contains__, return_mb=self.options.return_mb
        )
        try:
            await session.serve(self._connect(node), self._settings(node))
        except BackendError:
            await self._cannot_connect(node)
            raise

    async def _restart(self, node: RemoteNode) -> None:
        """A new foreman for a node that is there."""
        if node.restarting:
            return
        node.restarting = True
        try:
            node.token, node.ready = new_token(), False
            self._note(node)
            await self._start_foreman(node)
            node.changed_at = self._now()
            for handle in [*node.jobs]:
                if handle not in node.started:
                    self._send(node, handle)
        except Gone:
            self._lose(node, "taken down")
        finally:
            node.restarting = False

    # ---- Nodes that go away -----------------------------------------------------------------

    def _set_node_aside(self, node: RemoteNode, reason: str) -> None:
        log.warning("%s is given up: %s", node.name, reason)
        node.aside = reason
        self._note(node)
        self._tally(node.tier).count_end("set aside")
        if not node.jobs:
            self._spawn(self._retire(node))

    async def _retire(self, node: RemoteNode) -> None:
        """Give a node back that was set aside."""
        if self._nodes.get(node.name) is not node:
            return
        self._nodes.pop(node.name)
        if node.link is not None:
            node.link.close()
        await self._give_back(node)
        self._assign()

    def _lose(self, node: RemoteNode, why: str, *, gone: bool = True) -> None:
        """A node is lost: what it was running has ended, what it had not begun goes elsewhere.

        If it may still be there, nobody knows what it has begun.
        """
        if self._nodes.get(node.name) is not node:
            return
        state = JobState.PREEMPTED if node.kind.spot else JobState.LOST
        if node.jobs:
            log.warning("%s was %s; its jobs run again elsewhere", node.name, why)
        jobs, node.jobs = [*node.jobs], {}
        self._forget(node, why)
        message = f"{node.name} was {why}"
        for handle in jobs:
            if handle in self._cancels:
                self._end(handle, JobResult(state=JobState.CANCELLED, message="cancelled"))
            elif handle in node.started:
                started = node.started[handle]
                result = JobResult(
                    state=state, started_at=started, ended_at=ended_after(started), slot=node.name,
                    message=message,
                )  # fmt: skip
                self._end(handle, result)
            elif not gone or (node.link is None and not node.ready):
                self._end(handle, JobResult(state=state, message=message))
            else:
                self._state.give(handle, "")
                self._queued[node.tier][handle] = None
        self._assign()

    def _forget(self, node: RemoteNode, why: str) -> None:
        self._nodes.pop(node.name, None)
        self._state.forget_node(node.name)
        self._tally(node.tier).count_end(why)
        node.wake.set()

    def _take_shortage(self, node: RemoteNode, error: BackendError) -> None:
        """There is no such node now: go on with those that there are, and try again later."""
        tally = self._tally(node.tier)
        self._forget(node, "not to be had")
        if str(error) != tally.shortage:
            log.warning("tier %s: %s", node.tier, error)
        tally.shortage = str(error)
        tally.pause_s = min(max(2 * tally.pause_s, CAPACITY_PAUSE_S[0]), CAPACITY_PAUSE_S[1])
        tally.not_before = max(tally.not_before, self._now() + tally.pause_s)

    def _refuse(self, tier: str, error: BackendError) -> None:
        self._waiting_since.pop(tier, None)
        super()._refuse(tier, error)

    # ---- Watching ---------------------------------------------------------------------------

    async def glance(self, handles: Collection[str]) -> Mapping[str, JobResult]:
        self._watch_foremen()
        self._assign()
        self._watch_waiting()
        return {
            handle: self._result(handle) or unknown_job() for handle in handles if not self._is_here(handle)
        }

    def _is_here(self, handle: str) -> bool:
        return self._node_of(handle) is not None or any(handle in queue for queue in self._queued.values())

    def _watch_foremen(self) -> None:
        """A foreman that is connected and says nothing is not at work."""
        for node in self._nodes.values():
            silent_s = self._now() - node.heard_at
            if node.link is not None and node.ready and silent_s > BEATS * self.options.heartbeat:
                node.ready = False

    def _watch_waiting(self) -> None:
        """Give up on a tier that has had no working node for long, while jobs wait for it."""
        for tier, queue in self._queued.items():
            works = any(one.tier == tier and one.ready for one in self._nodes.values())
            if not queue or works:
                self._waiting_since.pop(tier, None)
                continue
            since = self._waiting_since.setdefault(tier, self._now())
            limit_s = self.options.start_timeout
            if limit_s is not None and self._now() - since > limit_s:
                reason = self._tally(tier).shortage or self._why_none()
                self._refuse(tier, BackendError(f"no node came up within {limit_s:g} s", hint=reason))

    def _why_none(self) -> str:
        """Where people may see why there is no node."""
        return ""
