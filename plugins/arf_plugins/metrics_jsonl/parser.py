"""Reads metrics from JSON lines, such as `{"step": 10, "loss": 3.2, "val": {"bpb": 0.98}}`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from arf.interfaces import MetricParser
from arf.types import Reading
from arf_plugins.metrics_jsonl import Options

LONGEST_NAME = 128

_NUMBER = re.compile(
    r"[-+]?(?:(?:\d{1,32}(?:\.\d{0,32})?|\.\d{1,32})(?:e[-+]?\d{1,4})?|nan|inf(?:inity)?)", re.I
)
"""Numbers in a text, as fairseq writes them; NaN is one with every encoder that keeps to the standard."""


class JsonLinesParser(MetricParser):
    """Numbers at the top level and one level down; all other values and lines are ignored."""

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._step_key = (options or Options()).step

    def parse(self, line: str) -> Sequence[Reading]:
        line = line.strip()
        if not (line.startswith("{") and line.endswith("}")):
            return ()
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            return ()
        values = dict(_numbers(record))
        step = values.pop(self._step_key, None)
        at = int(step) if step is not None and step.is_integer() and 0 <= step < 2**63 else None
        return [Reading(name=name, value=value, step=at) for name, value in values.items()]

    def example(self, metric: str) -> str:
        return json.dumps({metric: 1.23})


def _numbers(record: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    for key, value in record.items():
        inner = value.items() if isinstance(value, dict) else ()
        for name, entry in ((key, value), *((f"{key}/{sub}", entry) for sub, entry in inner)):
            # A name that cannot be shown, or stored (a lone surrogate), is no metric.
            if (
                0 < len(name) <= LONGEST_NAME
                and name.isprintable()
                and (number := _number(entry)) is not None
            ):
                yield name, number


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value) else None
    if not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer beyond 1.8e308
        return None
