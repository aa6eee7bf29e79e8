"""One run of a script before there is a study of it, or its log: what it prints, and what that suggests."""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
from attrs import field, frozen

from arf.config.metric_names import direction_of, most_likely
from arf.errors import UsageError, nearest
from arf.interfaces import MetricParser
from arf.plugins.registry import Plugins
from arf.types import Direction, Reading

SHOWN = 6
"""Metrics that are shown of those that were found."""


@frozen(kw_only=True)
class Output:
    """What a script printed, and how long it took; None where only its log is known."""

    text: str
    seconds: float | None = None


@frozen(kw_only=True)
class Proposal:
    """What the output suggests for `arf.yaml`."""

    metric: str
    value: float
    """Its last one."""
    direction: Direction | None
    """None where the name tells nothing."""
    parser: str
    pick: str
    """`only`, or `last` where it was printed with several values."""
    others: Mapping[str, float] = field(factory=dict)
    """The other metrics with their last values, the most likely first."""


def run(command: str, directory: Path, limit_s: float, log: Path) -> Output:
    """Run a script once, its output in `log`. Raises UsageError with its last lines if it fails.

    One that reaches `limit_s` is ended, and what it has printed by then counts.
    """
    import os

    from arf.launch import with_interpreter

    began = time.monotonic()
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["/bin/sh", "-c", with_interpreter(command)],
            cwd=directory, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    text = log.read_text("utf-8", "replace")
    if code:
        last = " | ".join(text.strip().splitlines()[-3:]) or "it printed nothing"
        raise UsageError(
            f"`{command}` ended with exit code {code}: {last[-400:]}",
            hint=f"its output is in {log}; mend it, name another --command, give a run's --log, or --no-run",
        )
    return Output(text=text, seconds=None if code is None else time.monotonic() - began)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of it, its children too."""
    import os
    import signal

    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # all have ended
    process.wait()


def propose(output: Output, plugins: Plugins, metric: str | None) -> Proposal:
    """What to improve, by what was printed; `metric` is the user's choice.

    Raises UsageError if nothing was printed that can be read, or not the metric.
    """
    read = {name: _last_values(parser, output.text) for name, parser in _parsers(plugins)}
    read = {name: values for name, values in read.items() if values}
    if metric is not None:
        read = {name: values for name, values in read.items() if metric in values} or read
    if not read:
        raise UsageError(
            "no metric was found in what it printed",
            hint="let it print a line such as `val_loss: 1.23` at its end; or --no-run with --metric",
        )
    parser = next(iter(read))
    values = read[parser]
    if metric is not None and metric not in values:
        raise UsageError(f"it printed no {metric}", hint=nearest(metric, values))
    ranked = most_likely(values)
    first = ranked[0] if metric is None else metric
    others = [name for name in ranked if name != first]
    several = len(set(values[first])) > 1
    return Proposal(
        metric=first,
        value=values[first][-1],
        direction=direction_of(first),
        parser=parser,
        pick="last" if several else "only",
        others={name: values[name][-1] for name in others[:SHOWN]},
    )


def limits(seconds: float | None) -> tuple[str, str]:
    """`limits.budget_s` and `limits.time_limit_s` for a script that took so long."""
    if seconds is None:
        return "5m", "10m"
    budget = max(1, math.ceil(seconds))
    return _duration(budget), _duration(max(2 * budget, budget + 60))


def _duration(seconds: int) -> str:
    return f"{seconds}s" if seconds < 120 else f"{math.ceil(seconds / 60)}m"


def _parsers(plugins: Plugins) -> Sequence[tuple[str, MetricParser]]:
    """Those that need no options, the default first."""
    made = []
    default = default_parser()
    for name in sorted(plugins.names("parser"), key=lambda name: (name != default, name)):
        try:
            made.append((name, plugins.make("parser", name)))
        except UsageError:
            continue  # it needs options
    return made


def default_parser() -> str:
    """The parser of a study that names none."""
    from arf.config.schema import Config

    default = attrs.fields(Config).parser.default
    assert default is not None
    return default.name


def _last_values(parser: MetricParser, text: str) -> dict[str, list[float]]:
    """The values without a step of each metric, else those with one; finite ones only, in their order."""
    closing: dict[str, list[float]] = {}
    stepping: dict[str, list[float]] = {}
    for line in text.replace("\r", "\n").splitlines():
        for reading in parser.parse(line):
            if math.isfinite(reading.value):
                _kept(reading, closing, stepping).setdefault(reading.name, []).append(reading.value)
    return {**stepping, **closing}


def _kept(
    reading: Reading, closing: dict[str, list[float]], stepping: dict[str, list[float]]
) -> dict[str, list[float]]:
    return closing if reading.step is None else stepping
