"""What a view of a study shows: plain values, read from the study's folder, so that any process can look."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from arf.engine.watch import last_lines
from arf.sdk.commands import written_at
from arf.status.summary import summarize

if TYPE_CHECKING:
    from arf.interfaces import MetricParser
    from arf.store.database import Store

_PERCENT = re.compile(r"(\d{1,3}(?:\.\d+)?)\s?%")
_OF = re.compile(r"\b(\d{1,9})/(\d{1,9})\b")
_VERDICTS = 60
"""As many as a tall terminal shows."""
_TAIL_LINES = 6
_TAIL_BYTES = 2048


@frozen(kw_only=True)
class Progress:
    """How far a run is, from the last lines of its log; None for what they do not say."""

    fraction: float | None = None
    step: int | None = None
    loss: float | None = None


@frozen(kw_only=True)
class Slot:
    """One running experiment."""

    experiment: int
    title: str
    role: str
    tier: str
    attempt: int
    elapsed_s: float | None
    """None while it waits for its machine."""
    progress: Progress
    expected_s: float | None
    """What a run takes; None if nobody knows yet."""

    @property
    def fraction(self) -> float | None:
        """From its log, or else from the time that others took, which is never all of it."""
        if self.progress.fraction is not None:
            return self.progress.fraction
        if self.elapsed_s is None or not self.expected_s:
            return None
        return min(0.99, self.elapsed_s / self.expected_s)


@frozen(kw_only=True)
class Board:
    """All that a view shows, at one moment."""

    summary: Mapping[str, Any]
    """As `arf status --json` gives it."""
    slots: tuple[Slot, ...]
    elapsed_s: float
    setting_up: str = ""
    """What the workspace's set-up command said last, while it runs."""
    ideas_waiting: int | None = None
    """None if the process that looks does not know."""
    watching: bool = False
    """It is another process that runs the study."""
    stopping: str = ""
    notes: tuple[str, ...] = ()
    """Warnings of this process, the last one last."""

    @property
    def idle(self) -> int:
        """Slots that run nothing."""
        slots: int = sum(tier["slots"] for tier in self.summary["tiers"])
        return max(0, slots - len(self.slots))

    @property
    def utilisation(self) -> float | None:
        """The share of slot time that was spent inside experiments; None before there is any."""
        slots: int = sum(tier["slots"] for tier in self.summary["tiers"])
        if self.elapsed_s <= 0 or not slots:
            return None
        under_way = sum(slot.elapsed_s or 0.0 for slot in self.slots)
        used: float = sum(self.summary["slot_s"].values()) + under_way
        return min(1.0, used / (slots * self.elapsed_s))

    @property
    def budget_left(self) -> list[tuple[float, str]]:
        """What is left of each budget: the share that is left, and a text; the scarcest first."""
        budget, summary = self.summary["budget"], self.summary
        left: list[tuple[float, str]] = []
        from arf.sdk.formats import count, duration

        if (most := budget.get("max_time")) is not None:
            rest = max(0.0, most - self.elapsed_s)
            left.append((rest / most, duration(rest)))
        if (most := budget.get("max_experiments")) is not None:
            rest = max(0, most - summary["experiments"])
            left.append((rest / most, count(int(rest), "experiment")))
        if (most := budget.get("max_slot_hours")) is not None:
            rest = max(0.0, most - summary["slot_hours"])
            left.append((rest / most, f"{duration(rest * 3600)} of slots"))
        if (most := budget.get("max_usd")) is not None:
            rest = max(0.0, most - summary["usd"])
            left.append((rest / most, f"${rest:.2f}"))
        if (most := budget.get("max_tokens")) is not None:
            rest = max(0, most - summary["tokens"])
            left.append((rest / most, f"{rest:,} tokens"))
        return sorted(left)


@frozen
class Snapshotter:
    """Looks at a study again and again, and reads of each log only what is new to it."""

    store: Store
    parser: MetricParser
    budget_s: float
    _seen: dict[int, tuple[int, Progress]] = field(factory=dict)

    def look(
        self,
        *,
        elapsed_s: float | None = None,
        ideas_waiting: int | None = None,
        stopping: str = "",
        notes: tuple[str, ...] = (),
    ) -> Board:
        """The board now. `elapsed_s` is what the engine says; else it is told from the store."""
        summary = summarize(self.store, verdicts=_VERDICTS)
        now = datetime.now(UTC)
        expected_s = self._expected_s(summary)
        slots = tuple(self._slot(row, now, expected_s) for row in summary["running"])
        for gone in self._seen.keys() - {slot.experiment for slot in slots}:
            del self._seen[gone]
        return Board(
            summary=summary,
            slots=slots,
            elapsed_s=self._elapsed_s(summary) if elapsed_s is None else elapsed_s,
            watching=elapsed_s is None,
            setting_up=self._setting_up(summary),
            ideas_waiting=ideas_waiting,
            stopping=stopping,
            notes=notes,
        )

    def _elapsed_s(self, summary: Mapping[str, Any]) -> float:
        """What was written last, and the time since, if the study runs."""
        written: float = summary["elapsed_s"]
        if summary["pid"] is None:
            return written
        return written + max(0.0, time.time() - written_at(self.store.directory))

    def _setting_up(self, summary: Mapping[str, Any]) -> str:
        if summary["experiments"]:
            return ""
        said = last_lines(self.store.directory / "logs" / "setup.log", 1, _TAIL_BYTES)
        return said[0].strip() if said else ""

    def _expected_s(self, summary: Mapping[str, Any]) -> float:
        ended = summary["ended"]
        return sum(summary["slot_s"].values()) / ended if ended else self.budget_s

    def _slot(self, row: Mapping[str, Any], now: datetime, expected_s: float) -> Slot:
        started = datetime.fromisoformat(row["started_at"]) if row["started_at"] else None
        return Slot(
            experiment=row["experiment"],
            title=row["title"],
            role=row["role"],
            tier=row["tier"],
            attempt=row["attempt"],
            elapsed_s=(now - started).total_seconds() if started else None,
            progress=self._progress(row["experiment"]) if started else Progress(),
            expected_s=expected_s,
        )

    def _progress(self, experiment: int) -> Progress:
        path = log_path(self.store.directory, experiment)
        try:
            size = path.stat().st_size
        except OSError:
            return Progress()
        seen = self._seen.get(experiment)
        if seen is None or seen[0] != size:
            seen = self._seen[experiment] = size, read_progress(path, self.parser)
        return seen[1]


def log_path(study: Path, experiment: int) -> Path:
    """The log of an experiment's last attempt."""
    return study / "logs" / f"{experiment:06d}.log"


def read_progress(path: Path, parser: MetricParser) -> Progress:
    """How far a run is, as the last lines of its log say."""
    fraction: float | None = None
    step: int | None = None
    loss: float | None = None
    for line in reversed(last_lines(path, _TAIL_LINES, _TAIL_BYTES)):
        for reading in parser.parse(line):
            if reading.step is None:
                continue
            step = reading.step if step is None else step
            if loss is None and "loss" in reading.name.lower():
                loss = reading.value
        if fraction is None and step is not None:
            fraction = _fraction(line)
        if step is not None and loss is not None:
            break
    return Progress(fraction=fraction, step=step, loss=loss)


def _fraction(line: str) -> float | None:
    """The share of a run that a step line says is done: `12.3%` or `10/1000`."""
    if (percent := _PERCENT.search(line)) is not None:
        return min(1.0, float(percent[1]) / 100)
    of = _OF.search(line)
    if of is not None and int(of[2]):
        return min(1.0, int(of[1]) / int(of[2]))
    return None
