"""A linked pool of nodes that are simply there: nobody makes them, and nobody says what became of them."""

from __future__ import annotations

import asyncio
import json
import logging
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from arf.errors import BackendError
from arf.interfaces import HeldResource
from arf.sdk.jobs import read_fields, write_whole
from arf.types import JobResult, Tier
from arf_plugins.worker_pool.link import Link, LinkLost
from arf_plugins.worker_pool.linked_jobs import FAILURES
from arf_plugins.worker_pool.linked_pool import LinkedPool
from arf_plugins.worker_pool.options import LinkedOptions
from arf_plugins.worker_pool.remote_node import NodeKind, RemoteNode

log = logging.getLogger(__name__)

LEASE_S = 60.0
"""How long a foreman without work waits for an arf that is not connected."""
PATIENCE = 4.0
"""How often `poll` must go by without a word from a host before it is looked into."""
CONNECT_S = 15.0
"""After so long without a connection, a host is not waited for while there are others."""
END_S = 180.0
"""How long a host may take to end all that arf has there."""


@frozen(kw_only=True)
class Place:
    """The part of a host that makes one node: its GPUs of one kind, or its cores."""

    host: str
    tier: str
    slots: int
    uuids: tuple[str, ...] = ()
    memory_gb: float | None = None


def kinds_of(places: Mapping[str, Place]) -> dict[str, NodeKind]:
    """The tiers that nodes make, by their names; the one with most slots first."""
    by_tier: dict[str, list[Place]] = {}
    for place in places.values():
        by_tier.setdefault(place.tier, []).append(place)
    kinds = {
        tier: NodeKind(
            tier=Tier(
                name=tier,
                slots=sum(place.slots for place in mine),
                memory_gb=mine[0].memory_gb,
                description=f"on {', '.join(place.host for place in mine)}",
            ),
            jobs=max(place.slots for place in mine),
            nodes=len(mine),
        )
        for tier, mine in by_tier.items()
    }
    return dict(sorted(kinds.items(), key=lambda item: -item[1].tier.slots))


class HostPool(LinkedPool):
    """The base of backends whose hosts are named: a subclass says which there are, and how to reach them."""

    def __init__(self, options: LinkedOptions, directory: Path, *, folder: str) -> None:
        super().__init__(options, directory, folder=folder)
        self._places: dict[str, Place] = {}
        """By the name of the node that each makes."""
        self._away: set[str] = set()
        """Those that could not be reached for long: they are tried last."""
        self._looking: asyncio.Task[None] | None = None

    # ---- For the subclass -------------------------------------------------------------------

    @abstractmethod
    async def find_places(self) -> dict[str, Place]:
        """What can be used, by names for people and files. Raises BackendError if nothing can.

        Asked once for a study: later it keeps to what it has found.
        """

    @abstractmethod
    def reach(self, host: str) -> Sequence[str]:
        """A local command that runs `link.boot_command()` on a host; its input and output are that one's."""

    def more_settings(self, place: Place) -> Mapping[str, Any]:
        """What the foreman of a place is told besides: `setup` and `wrap` as for Slurm, `nice`, `find`."""
        return {}

    # ---- The interface ----------------------------------------------------------------------

    async def tiers(self) -> Sequence[Tier]:
        if not self._places:
            self._places = self._known_places() or await self.find_places()
        left = {name: place for name, place in self._places.items() if name not in self._avoided}
        self._kinds = dict(kinds_of(left))
        return [kind.tier for kind in self._kinds.values()]

    def _known_places(self) -> dict[str, Place]:
        """As this study has found them: a resume must not take its own jobs for others'."""
        fields = read_fields(self._state.home / "places")
        return {name: Place(**{**place, "uuids": tuple(place["uuids"])}) for name, place in fields.items()}

    async def held_resources(self) -> Sequence[HeldResource]:
        return [
            HeldResource(
                name=name,
                tier=str(fields.get("tier", "")),
                state="HELD",
                detail=self._folder_of(name, fields),
            )
            for name, fields in self._state.nodes()
        ]

    async def down(self) -> None:
        """End all that arf has on the hosts, and remove its folders there."""
        await self._detach()
        if not self._places:
            self._places = self._known_places()
        noted = dict(self._state.nodes())
        problems = await asyncio.gather(*(self._end_there(name, fields) for name, fields in noted.items()))
        left = {name: problem for name, problem in zip(noted, problems, strict=True) if problem}
        if left:
            raise BackendError(
                f"still there: {', '.join(left)} ({next(iter(left.values()))})",
                hint="`arf stop --down` tries again; all of it ends by itself when it has no work",
            )

    def set_aside(self, node: str, why: str) -> bool:
        """It gets no more jobs, and what arf has there is removed once its jobs have ended."""
        others = {name for name in self._places if name not in self._avoided | {node}}
        if node not in self._places or self._places[node].tier not in {self._places[n].tier for n in others}:
            return node in self._avoided
        self._avoided.add(node)
        host = self._nodes.get(node)
        if host is not None and not host.aside and self._attached_to is not None:
            self._set_node_aside(host, why)
            self._assign()
        return True

    # ---- Hosts ------------------------------------------------------------------------------

    def _begin(self) -> None:
        fields = {name: asdict(place) for name, place in self._places.items()}
        self._state.home.mkdir(parents=True, exist_ok=True)
        write_whole(self._state.home / "places", json.dumps(fields))

    def _slots_of(self, name: str, kind: Any) -> int:
        return self._places[name].slots

    def _new_name(self, tier: str) -> str:
        taken = self._nodes.keys() | self._begun.keys() | self._avoided
        free = [name for name, place in self._places.items() if place.tier == tier and name not in taken]
        return min(free, key=self._away.__contains__, default="")

    def _will_work(self, node: RemoteNode) -> bool:
        return node.link is not None or self._now() - node.changed_at < CONNECT_S

    async def _make(self, node: RemoteNode) -> None:
        return  # it is there

    def node_connected(self, node: RemoteNode) -> None:
        if not node.resting:
            self._spawn(self._start_foreman(node))
        super().node_connected(node)

    async def _start_foreman(self, node: RemoteNode) -> None:
        """One that is at work already under that name is fine; without a connection, the next one does it."""
        if node.link is not None:
            await node.link.send("foreman", {"token": node.token})

    def _connect(self, node: RemoteNode) -> Sequence[str]:
        return self.reach(self._places[node.name].host)

    def _settings(self, node: RemoteNode) -> Mapping[str, Any]:
        place = self._places[node.name]
        return {
            "slots": place.slots,
            "gpus": 0,
            "idle_s": self.options.idle,
            "lease_s": min(LEASE_S, self.options.idle),
            "heartbeat_s": self.options.heartbeat,
            "grace_s": self.options.grace,
            "return_mb": self.options.return_mb,
            **self.more_settings(place),
        }

    # ---- Giving hosts back ------------------------------------------------------------------

    async def _give_back(self, node: RemoteNode) -> None:
        if problem := await self._end_there(node.name, node.fields()):
            self._note(node)  # `down` tries again
            log.warning("%s: %s", node.name, problem)

    async def _end_there(self, name: str, fields: Mapping[str, Any]) -> str:
        """End what arf has on a host, and remove its folder; why that could not be done, or nothing."""
        if name not in self._places:
            return "its host is not known any more"
        link = Link(self._folder_of(name, fields))
        ended = asyncio.get_running_loop().create_future()

        async def hear(message: dict[str, Any], _: bytes) -> None:
            if "ended" in message and not ended.done():
                ended.set_result(message["ended"])

        try:
            await link.open(self.reach(self._places[name].host))
            await link.send("end", {})
            async with asyncio.timeout(END_S):
                await link.listen(hear)
            if not ended.done() or not ended.result():
                return "what runs there does not end"
        except (BackendError, TimeoutError, LinkLost) as error:
            return str(error) or "it did not answer in time"
        finally:
            link.close()
        self._state.forget_node(name)
        return ""

    @staticmethod
    def _folder_of(name: str, fields: Mapping[str, Any]) -> str:
        return f"~/.arf/{name}-{fields['born']}"

    # ---- Looking into hosts that do not speak -----------------------------------------------

    def is_due(self) -> bool:
        looking = self._looking is not None and not self._looking.done()
        return not looking and any(self._is_doubtful(one) for one in self._nodes.values())

    def _is_doubtful(self, node: RemoteNode) -> bool:
        silent = node.link is None or (not node.ready and not node.resting)
        return silent and not node.restarting and self._now() - node.changed_at > PATIENCE * self.options.poll

    async def poll(self, handles: Collection[str]) -> Mapping[str, JobResult]:
        self._looking = self._spawn(self._look())
        return await self.glance(handles)

    async def _look(self) -> None:
        for node in [one for one in self._nodes.values() if self._is_doubtful(one)]:
            if node.link is not None:
                await self._look_for_foreman(node)
            elif self._now() - node.changed_at > self.options.silent:
                self._away.add(node.name)
                self._lose(node, "not to be reached any more", gone=False)
                self._note(node)  # `down` ends what may still be there
            else:
                node.wake.set()

    async def _look_for_foreman(self, node: RemoteNode) -> None:
        """A host is connected, and its foreman says nothing: is there one?"""
        try:
            alive = await node.ask("alive", {}, "alive")
        except LinkLost:
            return
        if alive or node.ready:
            return
        node.failures += 1
        if node.failures < FAILURES:
            self._spawn(self._restart(node))
            return
        error = BackendError(
            f"{node.name}: arf's worker does not start", hint=f"{node.folder}/foreman.log there may say why"
        )
        self._avoided.add(node.name)
        self._lose(node, "broken")
        self._note(node)
        if not self._new_name(node.tier):
            self._refuse(node.tier, error)
        else:
            log.warning("%s", error)
