"""Reading a job's log while it grows, and noticing from outside when a run has gone wrong."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path

from attrs import define, field, frozen

from arf.interfaces import MetricParser
from arf.types import Objective, Pick, Reading

MAX_LINE_BYTES = 65_536
"""What is longer is cut: nobody prints a metric after 64 KB on one line."""
MAX_READ_BYTES = 1_048_576
"""What is read in one go, so that a flood of output does not hold up the engine."""
MAX_REST_BYTES = 8_388_608
"""What is read of a log when its job has ended: of a longer rest, the end, where closing lines are."""
CURVE_POINTS = 64
DIVERGED_READINGS = 3
"""A loss must stay above the limit for so many readings: a single spike recovers."""


class LogTail:
    """The lines of a file that another process appends to, each once. A carriage return ends a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._partial = b""

    @property
    def offset(self) -> int:
        """Bytes read so far."""
        return self._offset

    def size(self) -> int:
        """Bytes in the file now; 0 if it is not there."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def read(self) -> list[str]:
        """The complete lines that have appeared, at most 1 MiB of them."""
        try:
            with self._path.open("rb", buffering=0) as file:
                file.seek(self._offset)
                data = file.read(MAX_READ_BYTES)
        except OSError:
            return []
        if not data:
            return []
        self._offset += len(data)
        *lines, self._partial = (self._partial + data).replace(b"\r", b"\n").split(b"\n")
        self._partial = self._partial[:MAX_LINE_BYTES]
        return [_text(line) for line in lines if line]

    def rest(self, limit: int) -> list[str]:
        """What is left, the last line included even if nothing ends it, up to `limit` bytes of the log.

        Of a rest that is longer than `MAX_REST_BYTES`, only the end.
        """
        start = min(self.size(), limit) - MAX_REST_BYTES
        if start > self._offset:
            self._offset, self._partial = start, b""
        lines: list[str] = []
        before = -1
        while before < self._offset < limit:
            before = self._offset
            lines += self.read()
        if self._partial:
            lines.append(_text(self._partial))
            self._partial = b""
        return lines


def _text(line: bytes) -> str:
    return line[:MAX_LINE_BYTES].decode("utf-8", "replace").rstrip()


def last_lines(path: Path, count: int, max_bytes: int = 16_384) -> list[str]:
    """The last lines of a log that say something, oldest first; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - max_bytes))
            data = file.read(max_bytes)
    except OSError:
        return []
    lines = [_text(line) for line in data.replace(b"\r", b"\n").split(b"\n")]
    return [line for line in lines if line.strip()][-count:]


@frozen(kw_only=True)
class WatchLimits:
    log_bytes: int
    stall_s: float | None
    """Silence that counts as a stall; None if it is not known what is normal."""
    diverge_factor: float | None
    """A loss this many times the first one counts as diverged; None for never."""


@define(kw_only=True)
class Watch:
    """What the log of one running job has said so far."""

    tail: LogTail
    parser: MetricParser
    objective: Objective
    metrics: dict[str, float] = field(factory=dict)
    """The last finite value of each."""
    objectives: list[tuple[float, int | None]] = field(factory=list)
    """Each reading of the objective (the last few hundred), with its step."""
    curve: list[tuple[int, float]] = field(factory=list)
    progress_step: int | None = None
    last_output_at: float | None = None
    """On the event loop's clock; None before the first look."""
    longest_silence_s: float = 0.0
    steps_seen: int = 0
    _first_loss: float | None = None
    _high_losses: int = 0
    _problem: str = ""
    _stride: int = 1

    def look(self, now: float, limits: WatchLimits) -> tuple[list[Reading], str]:
        """The readings since the last look, and what is wrong (empty if nothing is)."""
        size = self.tail.size()
        if self.last_output_at is None:
            self.last_output_at = now
        if size > self.tail.offset:
            self._heard(now)
        readings = self._take(self.tail.read(), limits)
        if size > limits.log_bytes:
            self._problem = f"wrote more than {limits.log_bytes / 2**20:.0f} MB of output (limits.log_mb)"
        silence_s = now - self.last_output_at
        if not self._problem and limits.stall_s is not None and silence_s > limits.stall_s:
            self._problem = f"stalled: no output for {silence_s:.0f} s"
        return readings, self._problem

    def finish(self, now: float, limits: WatchLimits) -> list[Reading]:
        """The readings that are left when the job has ended."""
        if self.last_output_at is not None:
            self._heard(now)
        return self._take(self.tail.rest(limits.log_bytes), limits)

    def _heard(self, now: float) -> None:
        assert self.last_output_at is not None
        self.longest_silence_s = max(self.longest_silence_s, now - self.last_output_at)
        self.last_output_at = now

    def _take(self, lines: list[str], limits: WatchLimits) -> list[Reading]:
        readings = [reading for line in lines for reading in self.parser.parse(line)]
        for reading in readings:
            self._note(reading, limits)
        return readings

    def _note(self, reading: Reading, limits: WatchLimits) -> None:
        finite = math.isfinite(reading.value)
        if finite:
            self.metrics[reading.name] = reading.value
        if reading.name == _as_parsed(self.objective.metric):
            self.objectives.append((reading.value, reading.step))
            del self.objectives[:-512]
        if reading.step is None:
            return
        self.progress_step = reading.step
        if not _is_loss(reading.name):
            return
        self.steps_seen += 1
        if not finite:
            self._problem = self._problem or f"{reading.name} is {reading.value} at step {reading.step}"
            return
        self._extend_curve(reading.step, reading.value)
        self._check_divergence(reading, limits)

    def _check_divergence(self, reading: Reading, limits: WatchLimits) -> None:
        if self._first_loss is None:
            self._first_loss = reading.value
        limit = limits.diverge_factor
        if limit is None or self._first_loss <= 0:
            return
        self._high_losses = self._high_losses + 1 if reading.value > limit * self._first_loss else 0
        if self._high_losses >= DIVERGED_READINGS and not self._problem:
            self._problem = (
                f"diverged: {reading.name} {reading.value:.4g} at step {reading.step}, "
                f"{self._first_loss:.4g} at first"
            )

    def _extend_curve(self, step: int, value: float) -> None:
        if self.steps_seen % self._stride:
            return
        self.curve.append((step, round(value, 5)))
        if len(self.curve) >= 2 * CURVE_POINTS:
            self.curve = self.curve[1::2]
            self._stride *= 2


def _is_loss(name: str) -> bool:
    return "loss" in name.lower()


def _as_parsed(metric: str) -> str:
    """A metric's name as parsers give it: without blanks, so that people may write it as it is printed."""
    return "_".join(metric.split())


def objective_value(
    objective: Objective, readings: list[tuple[float, int | None]], printed: Collection[str] = ()
) -> tuple[float | None, str]:
    """The value that counts, or None and why there is none; `printed` are all metrics that were seen."""
    name = objective.metric
    if not readings:
        return None, f"printed no {name}{_what_instead(name, printed)}"
    values = [value for value, _ in readings]
    if objective.pick is Pick.ONLY:
        closing = [value for value, step in readings if step is None]
        if len(set(closing)) > 1 and not any(math.isnan(value) for value in closing):
            shown = ", ".join(f"{value:g}" for value in closing[:3])
            return (
                None,
                f"printed {name} {len(closing)} times ({shown}); set objective.pick to say which counts",
            )
        chosen = closing[-1] if closing else values[-1]
    elif objective.pick is Pick.FIRST:
        chosen = values[0]
    elif objective.pick is Pick.LAST:
        chosen = values[-1]
    else:
        finite = [value for value in values if math.isfinite(value)] or values
        chosen = min(finite) if objective.direction == "min" else max(finite)
    if not math.isfinite(chosen):
        return None, f"{name} is {chosen}"
    return chosen, ""


def _what_instead(name: str, printed: Collection[str]) -> str:
    if not printed:
        return " or other metric that the parser can read"
    near = get_close_matches(name.lower(), [other.lower() for other in printed], n=1, cutoff=0.5)
    first = sorted(printed, key=lambda other: other.lower() not in near)
    more = f" and {len(printed) - 5} more" if len(printed) > 5 else ""
    return f", but {', '.join(first[:5])}{more} (objective.metric says which one counts)"


def counted_metrics(metrics: Mapping[str, float], limit: int = 40) -> dict[str, float]:
    """The metrics that are worth a row: the `limit` newest, so that no script can swell the database."""
    return dict(list(metrics.items())[-limit:])
