"""A node that arf reaches over a connection: what arf knows of it, and how it is written down."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from arf.types import Tier
from arf_plugins.worker_pool.link import Link, LinkLost
from arf_plugins.worker_pool.pool import moment

if TYPE_CHECKING:
    from arf_plugins.worker_pool.session import Session


@frozen(kw_only=True)
class NodeKind:
    """A tier, and the nodes that it is made of."""

    tier: Tier
    jobs: int
    """At a time, on one node."""
    nodes: int
    """The most that are had at a time."""
    gpus: int = 0
    """On one node, if all are arf's; 0 also where they are found there."""
    spot: bool = False
    """Whether they may be taken away at any time."""


@define(kw_only=True, eq=False)
class RemoteNode:
    """One node, such as a cluster of one machine."""

    name: str
    kind: NodeKind
    born: str
    """Its first foreman's name: a machine of the same name that came later has another folder."""
    token: str
    """The name of its foreman; the next one has another."""
    slots: int
    """Jobs at a time, as far as is known: its foreman may have fewer GPUs than it was to have."""
    closed: str = ""
    """The last foreman that ended because there was nothing to do."""
    placed: bool = False
    """It has been made, as far as is known."""
    launching: bool = False
    restarting: bool = False
    ready: bool = False
    """Its foreman is at work."""
    link: Link | None = None
    session: Session | None = None
    home: str = ""
    """The folder on it, as an absolute path there."""
    skew_s: float = 0.0
    """What is to be added to its clock."""
    jobs: dict[str, None] = field(factory=dict)
    """Given to it, and not ended."""
    started: dict[str, datetime] = field(factory=dict)
    running: dict[str, str] = field(factory=dict)
    """The handle of what a worker runs, by its journal."""
    places: dict[str, str] = field(factory=dict)
    """What people call the place of a worker, by its journal."""
    prepared: set[str] = field(factory=set)
    """Set-up jobs that have run here."""
    preparing: set[str] = field(factory=set)
    read_to: dict[str, int] = field(factory=dict)
    blobs: set[str] = field(factory=set)
    there: set[str] = field(factory=set)
    """What is outside of the work trees and known to be there."""
    answers: dict[str, asyncio.Future[Any]] = field(factory=dict)
    sending: asyncio.Lock = field(factory=asyncio.Lock)
    changed_at: float = 0.0
    """When the connection began, or ended."""
    heard_at: float = 0.0
    """When its foreman, or a worker of its, last spoke."""
    misses: int = 0
    failures: int = 0
    """Foremen in a row that did nothing."""
    aside: str = ""
    """Why it gets no more jobs; empty: it does."""
    wake: asyncio.Event = field(factory=asyncio.Event)

    @property
    def tier(self) -> str:
        return self.kind.tier.name

    @property
    def room(self) -> int:
        return 0 if self.aside else self.slots - len(self.jobs)

    @property
    def resting(self) -> bool:
        """Whether its foreman has ended because there was nothing to do."""
        return self.closed == self.token and not self.restarting

    @property
    def folder(self) -> str:
        """Where arf works on it."""
        return f"~/.arf/{self.name}-{self.born}"

    async def ask(self, do: str, fields: Mapping[str, Any], answer: str) -> Any:
        """Ask its relay something. Raises LinkLost if the connection ends before the answer."""
        if self.link is None:
            raise LinkLost
        future = self.answers[answer] = asyncio.get_running_loop().create_future()
        await self.link.send(do, fields)
        return await future

    def take_answer(self, fields: Mapping[str, Any]) -> None:
        for name in self.answers.keys() & fields.keys():
            future = self.answers.pop(name)
            if not future.done():
                future.set_result(fields[name])

    def drop_answers(self) -> None:
        """The connection has ended: nobody answers any more."""
        for future in self.answers.values():
            if not future.done():
                future.set_exception(LinkLost())
        self.answers.clear()

    def fields(self) -> dict[str, Any]:
        """What the next process must know of it."""
        return {
            "tier": self.tier,
            "born": self.born,
            "token": self.token,
            "placed": self.placed,
            "aside": self.aside,
        }

    def moment(self, at: float) -> datetime:
        """A time by its clock, by ours."""
        return moment(at + self.skew_s)


def new_token() -> str:
    """A name for a foreman; later ones sort after earlier ones."""
    return f"{int(time.time()):011d}-{secrets.token_hex(3)}"
