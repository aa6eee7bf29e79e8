"""Reading a job's log while it grows, and noticing from outside when a run has gone wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
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
"""A loss must stay above the limit, or be no number, for so many readings: a single spike recovers, and with
scaled gradients a single NaN does."""
LARGEST = 1e100
"""An objective beyond it has exploded like one that is infinite; its square, for the noise, is no number."""
MIN_STALL_S = 120.0
STALL_FACTOR = 10
"""A stall is silence this many times longer than the longest that the baseline had."""
STEPS_FOR_STALL = 5
"""Of a run with fewer readings it is not known how often it prints."""
MOST_LOSSES = 64
"""So many losses of a run are followed: no script prints more of them by name."""


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
    """Silence that counts as a stall once there was a step; None if it is not known what is normal."""
    silent_start_s: float | None = None
    """The same before the first step, where a compiler may take its time; None for any."""
    diverge_factor: float | None
    """A loss this many times what it was at first, and than it ever was in the baseline, counts as diverged.
    None for never, and then a loss may be no number as well."""
    highest: Mapping[str, float] = field(factory=dict)
    """The highest of each loss in the baseline."""


@frozen(kw_only=True)
class Normal:
    """What runs of the baseline have shown to be normal."""

    runs: int = 0
    """How many there were; what is normal is not known without any."""
    stall_s: float | None = None
    highest: Mapping[str, float] = field(factory=dict)

    def after(self, run: Watch) -> Normal:
        """With what one more good run of the baseline did."""
        stall_s = self.stall_s
        if stall_s is None and run.steps_seen >= STEPS_FOR_STALL:
            stall_s = max(MIN_STALL_S, STALL_FACTOR * run.longest_silence_s)
        names = {*self.highest, *run.highest}
        both = (self.highest, run.highest)
        return Normal(
            runs=self.runs + 1,
            stall_s=stall_s,
            highest={name: max(one[name] for one in both if name in one) for name in sorted(names)},
        )


@define
class _Course:
    """How one loss went."""

    first: float
    highest: float
    above: int = 0
    """Readings in a row above the limit."""
    seen: int = 0
    curve: list[tuple[int, float]] = field(factory=list)
    _stride: int = 1

    def take(self, step: int, value: float) -> None:
        self.highest = max(self.highest, value)
        self.seen += 1
        if self.seen % self._stride:
            return
        self.curve.append((step, round(value, 5)))
        if len(self.curve) >= 2 * CURVE_POINTS:
            self.curve = self.curve[1::2]
            self._stride *= 2


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
    progress_step: int | None = None
    last_output_at: float | None = None
    """On the event loop's clock; None before the first look."""
    longest_silence_s: float = 0.0
    steps_seen: int = 0
    _courses: dict[str, _Course] = field(factory=dict)
    _lost: int = 0
    """Lines in a row in which no loss is a number."""
    _problem: str = ""

    @property
    def curve(self) -> list[tuple[int, float]]:
        """Of the loss that was printed most often, the first of several; thinned."""
        return max(self._courses.values(), key=lambda one: one.seen).curve if self._courses else []

    @property
    def highest(self) -> dict[str, float]:
        """Of each loss."""
        return {name: course.highest for name, course in self._courses.items()}

    def look(self, now: float, limits: WatchLimits) -> tuple[list[Reading], str]:
        """The readings since the last look, and what is wrong (empty if nothing is)."""
        size = self.tail.size()
        if self.last_output_at is None:
            self.last_output_at = now
        if size > self.tail.offset:
            self._heard(now)
        readings = self._take(self.tail.read(), limits)
        self._problem = self.flood(limits) or self._problem
        silence_s = now - self.last_output_at
        stall_s = limits.stall_s if self.steps_seen else limits.silent_start_s
        if not self._problem and stall_s is not None and silence_s > stall_s:
            self._problem = f"stalled: no output for {silence_s:.0f} s (limits.stall_s)"
        return readings, self._problem

    def flood(self, limits: WatchLimits) -> str:
        """That the job wrote more than it may; empty if it did not."""
        if self.tail.size() <= limits.log_bytes:
            return ""
        return f"wrote more than {limits.log_bytes / 2**20:.0f} MB of output (limits.log_mb)"

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
        found: list[Reading] = []
        for line in lines:
            readings = self.parser.parse(line)
            for reading in readings:
                self._note(reading)
            self._follow([one for one in readings if one.step is not None and self._is_loss(one)], limits)
            found += readings
        return found

    def _note(self, reading: Reading) -> None:
        if math.isfinite(reading.value):
            self.metrics[reading.name] = reading.value
        if self._is_objective(reading):
            self.objectives.append((reading.value, reading.step))
            del self.objectives[:-512]
        if reading.step is not None:
            self.progress_step = reading.step

    def _is_objective(self, reading: Reading) -> bool:
        return _as_parsed(reading.name) == _as_parsed(self.objective.metric)

    def _is_loss(self, reading: Reading) -> bool:
        is_low = self.objective.direction == "min" and self._is_objective(reading)
        return is_low or ("loss" in reading.name.lower() and not _NO_LOSS.search(reading.name))

    def _follow(self, losses: Sequence[Reading], limits: WatchLimits) -> None:
        """Take in the losses of one step line. A line may hold NaN for what was not measured at that step,
        so a run is lost only where none of its losses is a number."""
        if not losses:
            return
        self.steps_seen += len(losses)
        finite = [one for one in losses if math.isfinite(one.value)]
        self._lost = 0 if finite else self._lost + 1
        if self._lost >= DIVERGED_READINGS and limits.diverge_factor is not None:
            lost = losses[0]
            self._problem = self._problem or f"{lost.name} is {lost.value} at step {lost.step}"
        for reading in finite:
            self._check_divergence(reading, limits)

    def _check_divergence(self, reading: Reading, limits: WatchLimits) -> None:
        course = self._courses.get(reading.name)
        if course is None:
            if len(self._courses) >= MOST_LOSSES:
                return
            course = self._courses[reading.name] = _Course(reading.value, reading.value)
        course.take(reading.step or 0, reading.value)
        normal = max(course.first, limits.highest.get(reading.name, -math.inf))
        if limits.diverge_factor is None or normal <= 0:
            return
        course.above = course.above + 1 if reading.value > limits.diverge_factor * normal else 0
        if course.above >= DIVERGED_READINGS and not self._problem:
            self._problem = (
                f"diverged: {reading.name} {reading.value:.4g} at step {reading.step}, "
                f"{course.first:.4g} at first"
            )


_NO_LOSS = re.compile(
    r"(?:\b|_)(?:best|min|minimum|lowest|prev|previous|old|target|scale|weights?|coeff?|coefficient|patience)"
    r"(?:\b|_)",
    re.IGNORECASE,
)
"""Words in the names of numbers that are about a loss, and not how it goes."""


def _as_parsed(metric: str) -> str:
    """A metric's name without blanks, as `summary` gives it: people may write it as it is printed."""
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
        closing = _exact([value for value, step in readings if step is None])
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
        finite = [value for value in values if abs(value) <= LARGEST] or values
        chosen = min(finite) if objective.direction == "min" else max(finite)
    if not abs(chosen) <= LARGEST:
        return None, f"{name} is {chosen}"
    return chosen, ""


_PLACES = 3
"""Decimals that a rounded value must have: 0.5 and 0.52 are two values."""


def _exact(values: list[float]) -> list[float]:
    """The most exact one alone, if all the others are that one rounded; else as they are."""
    digits = {value: len(repr(value).partition(".")[2]) for value in values if "e" not in repr(value)}
    if len(digits) < 2 or len(digits) < len(set(values)) or not all(map(math.isfinite, values)):
        return values
    finest = max(digits, key=lambda value: digits[value])
    is_same = all(round(finest, places) == value for value, places in digits.items())
    return [finest] if is_same and min(digits.values()) >= _PLACES else values


def _what_instead(name: str, printed: Collection[str]) -> str:
    if not printed:
        return " or other metric that the parser can read"
    near = nearest_metric(name, printed)
    first = sorted(printed, key=lambda other: other != near)
    more = f" and {len(printed) - 5} more" if len(printed) > 5 else ""
    return f", but {', '.join(first[:5])}{more} (objective.metric says which one counts)"


def nearest_metric(name: str, printed: Collection[str]) -> str:
    """The one of the metrics that a name probably means; the first of them if none is like it."""
    by_name = {other.lower(): other for other in reversed(list(printed))}
    near = get_close_matches(_as_parsed(name).lower(), by_name, n=1, cutoff=0.5)
    return by_name[near[0]] if near else next(iter(printed))


def counted_metrics(metrics: Mapping[str, float], limit: int = 40) -> dict[str, float]:
    """The metrics that are worth a row: the `limit` newest, so that no script can swell the database."""
    return dict(list(metrics.items())[-limit:])
