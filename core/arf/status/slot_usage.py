"""Where the slots' time went: waiting, training, the rest of the runs, idle and why. In seconds of a slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from arf.engine.monitor import Monitor, Use
from arf.status.tier_stats import training_s
from arf.types import Experiment

if TYPE_CHECKING:
    from arf.store.database import Store

STARTUP = "startup_seconds"
"""The metric that says how long a run took before it began to train."""


KEY = "timesheet"
IDLE = (Use.AGENT, Use.VERDICTS, Use.NOTHING, Use.ENDING, Use.ASIDE)


class SlotUsage:
    """Adds up, as a study goes on, what the slots of each tier were used for."""

    def __init__(self, told: Mapping[str, Any] | None = None) -> None:
        """`told` is what `to_json` gave in an earlier process."""
        told = told or {"used_s": {}, "first_start": {}}
        self._used_s: dict[str, dict[str, float]] = {
            tier: dict(used) for tier, used in told["used_s"].items()
        }
        self._first_start: dict[str, float] = dict(told["first_start"])
        self._at_s = 0.0
        self._idle: list[tuple[str, Use, int]] = []
        """(tier, use, slots) since then."""
        self._began = datetime.min.replace(tzinfo=UTC)
        """When the study began to go on."""

    def take(
        self, run: Experiment, now: datetime, *, since: datetime | None = None, again: bool = False
    ) -> None:
        """Count a run that has ended; `again` if it was for nothing.

        `since` is when its slot was given to it, if not when it was accepted: it is run again, or again under
        way after a time in which nobody ran the study.
        """
        started, tier = run.started_at, run.tier
        since = since or run.accepted_at
        if run.ended_at is not None:
            self._add(tier, Use.HANDLING, _seconds(max(run.ended_at, self._began), now))
        if started is None:
            if run.ended_at is not None:
                self._add(tier, Use.LOST if again else Use.QUEUE, _seconds(since, run.ended_at))
            return
        first = min(self._first_start.get(tier, started.timestamp()), started.timestamp())
        self._first_start[tier] = first
        waited = _seconds(since, started)
        early = min(waited, max(0.0, first - since.timestamp()))
        self._add(tier, Use.PROVISIONING, early)
        self._add(tier, Use.QUEUE, waited - early)
        if again:
            self._add(tier, Use.LOST, run.slot_s)
            return
        trained = min(run.slot_s, training_s(run) or 0.0)
        startup = min(run.slot_s - trained, max(0.0, run.metrics.get(STARTUP, 0.0)))
        self._add(tier, Use.TRAINING, trained)
        self._add(tier, Use.STARTUP, startup)
        self._add(tier, Use.REST, run.slot_s - trained - startup)

    def begin(self, elapsed_s: float, now: datetime) -> None:
        """The study goes on at `elapsed_s`: what was before is no idle time."""
        self._at_s, self._idle, self._began = elapsed_s, [], now

    def look(self, elapsed_s: float, idle: list[tuple[str, Use, int]]) -> None:
        """So many slots of a tier idle from now on, by what for; until now it was as told the last time."""
        passed_s = max(0.0, elapsed_s - self._at_s)
        for tier, use, slots in self._idle:
            self._add(tier, use, passed_s * slots)
        self._at_s, self._idle = elapsed_s, idle

    def _add(self, tier: str, use: Use, seconds: float) -> None:
        if seconds > 0:
            used = self._used_s.setdefault(tier, {})
            used[use] = used.get(use, 0.0) + seconds

    def to_json(self) -> dict[str, Any]:
        return {"used_s": self._used_s, "first_start": self._first_start}


def shares(used_s: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The share of each use in the time of all tiers' slots, in the order of `Use`; those of 0 left out."""
    sums = {use: sum(used.get(use, 0.0) for used in used_s.values()) for use in Use}
    total = sum(sums.values())
    return {str(use): seconds / total for use, seconds in sums.items() if seconds > 0} if total else {}


def _seconds(begin: datetime, end: datetime) -> float:
    return max(0.0, (end - begin).total_seconds())


class SlotUsageMonitor(Monitor):
    """Adds up and records what the slots of a study are used for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._usage = SlotUsage(store.meta(KEY))

    def begin(self, elapsed_s: float, now: datetime) -> bool:
        self._usage.begin(elapsed_s, now)
        return False

    def settled(self, run: Experiment, now: datetime, *, since: datetime | None, again: bool) -> None:
        self._usage.take(run, now, since=since, again=again)

    def turned(self, elapsed_s: float, idle: Sequence[tuple[str, Use, int]]) -> bool:
        self._usage.look(elapsed_s, list(idle))
        self._store.set_meta(KEY, self._usage.to_json())
        return False
