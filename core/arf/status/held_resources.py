"""What a backend holds whether or not it is used, such as clusters: noted with the study, with its cost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs

from arf.engine.monitor import Monitor
from arf.interfaces import Backend, HeldResource
from arf.store.database import Store

log = logging.getLogger(__name__)

_KEY = "standing"


def note(store: Store, standing: Sequence[HeldResource], now: datetime) -> float:
    """Write down what stands now, and give the dollars that all of it has cost so far.

    What stood before is counted up to now, also the time in which nobody looked. Of a backend that never
    held anything nothing is written.
    """
    before = store.meta(_KEY)
    if before is None and not standing:
        return 0.0
    usd = told(store)["usd"] if before else 0.0
    if before:
        passed_s = max(0.0, now.timestamp() - before["at"])
        usd += before["usd_per_hour"] * passed_s / 3600
    with store.transaction():
        store.set_meta(
            _KEY,
            {
                "at": now.timestamp(),
                "usd_per_hour": sum(one.usd_per_hour for one in standing),
                "usd": usd,
                "up": [_to_json(one) for one in standing],
            },
        )
    return usd


def told(store: Store) -> dict[str, Any]:
    """`at` (when it was noted), `usd_per_hour`, `usd` so far, and `up`; zero where nothing ever stood."""
    return dict(store.meta(_KEY) or {"at": 0.0, "usd_per_hour": 0.0, "usd": 0.0, "up": []})


def _to_json(standing: HeldResource) -> dict[str, Any]:
    since = standing.since.isoformat() if standing.since else None
    return {**attrs.asdict(standing), "since": since}


def at_of(noted: dict[str, Any]) -> datetime:
    """When it was noted."""
    return datetime.fromtimestamp(noted["at"], UTC)


class HeldResourcesMonitor(Monitor):
    """Notes from time to time what the backend holds, and what that costs."""

    def __init__(self, store: Store, backend: Backend, now: Callable[[], datetime]) -> None:
        self._store = store
        self._backend = backend
        self._now = now
        self.usd = told(store)["usd"]

    async def look(self) -> None:
        try:
            there = await self._backend.held_resources()
        except Exception as error:  # whatever it asks may be away for a while; it is asked again
            log.warning("what the backend holds cannot be told now: %s", error)
            return
        self.usd = note(self._store, there, self._now())
