"""One cluster as arf knows it, and what happened on a tier."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from attrs import define, field

from arf.errors import BackendError
from arf_plugins.backend_skypilot.link import Link, LinkLost
from arf_plugins.backend_skypilot.task import Kind

CAPACITY_PAUSE_S = 30.0, 600.0
"""Between two tries to get a machine that was not to be had: at first, and at most."""


@define(kw_only=True, eq=False)
class Cluster:
    """One cluster, and what arf knows of it."""

    name: str
    kind: Kind
    born: str
    """Its first foreman's name: a machine of the same name that came later has another folder."""
    token: str
    """The name of its foreman; the next one has another."""
    closed: str = ""
    """The last foreman that ended because there was nothing to do."""
    placed: bool = False
    """SkyPilot has made it, as far as is known."""
    launching: bool = False
    restarting: bool = False
    ready: bool = False
    """Its foreman is at work."""
    link: Link | None = None
    home: str = ""
    """The folder on its node, as an absolute path there."""
    skew_s: float = 0.0
    """What is to be added to its clock."""
    jobs: dict[str, None] = field(factory=dict)
    """Given to it, and not ended."""
    started: dict[str, datetime] = field(factory=dict)
    running: dict[str, str] = field(factory=dict)
    """The handle of what a worker runs, by its journal."""
    slots: dict[str, str] = field(factory=dict)
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
    def room(self) -> int:
        return 0 if self.aside else self.kind.jobs - len(self.jobs)

    @property
    def resting(self) -> bool:
        """Whether its foreman has ended because there was nothing to do."""
        return self.closed == self.token and not self.restarting

    @property
    def folder(self) -> str:
        """Where arf works on its node."""
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
            "tier": self.kind.tier.name,
            "born": self.born,
            "token": self.token,
            "placed": self.placed,
            "aside": self.aside,
        }

    def moment(self, at: float) -> datetime:
        """A time by its clock, by ours."""
        return datetime.fromtimestamp(at + self.skew_s, UTC)


def new_token() -> str:
    """A name for a foreman; later ones sort after earlier ones."""
    return f"{int(time.time()):011d}-{secrets.token_hex(3)}"


@define(kw_only=True)
class Tally:
    """What happened on a tier, and what follows from it."""

    launched: int = 0
    lost: dict[str, int] = field(factory=dict)
    failures: int = 0
    """Set-ups in a row that failed."""
    refusal: BackendError | None = None
    refused_until: float = 0.0
    shortage: str = ""
    not_before: float = 0.0
    pause_s: float = CAPACITY_PAUSE_S[0]
    waiting_since: float | None = None
    """Since when jobs wait and no cluster works."""
