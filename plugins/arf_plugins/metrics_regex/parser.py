"""Reads metrics with the user's own regular expressions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from arf.errors import UsageError
from arf.interfaces import MetricParser
from arf.types import Reading
from arf_plugins.metrics_regex import Options

LONGEST_LINE = 4096
"""Characters; a longer line is not searched, because a careless expression takes the square of them."""

LONGEST_NAME = 128

_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?")


class RegexParser(MetricParser):
    """Every match of every pattern in a line is a reading, in the order of the patterns."""

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        patterns = (options or Options()).patterns
        if not patterns:
            raise UsageError(
                "the parser 'regex' has no patterns",
                hint=r"set patterns, such as {val_loss: 'val loss (\S+)'}",
            )
        self._patterns = [(metric, re.compile(pattern)) for metric, pattern in patterns.items()]

    def parse(self, line: str) -> Sequence[Reading]:
        if len(line) > LONGEST_LINE:
            return ()
        readings = []
        for metric, pattern in self._patterns:
            for match in pattern.finditer(line):
                if (reading := _reading(metric, match)) is not None:
                    readings.append(reading)
        return readings


def _reading(metric: str, match: re.Match[str]) -> Reading | None:
    """None where the value is no number, or the name cannot be shown."""
    groups = match.groupdict()
    name = metric if groups.get("name") is None else groups["name"].strip()
    value = _number(groups["value"] if "value" in groups else match[1])
    step = _number(groups.get("step"))
    if value is None or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        return None
    whole = step is not None and step.is_integer() and 0 <= step < 2**63
    return Reading(name=name, value=value, step=int(step) if whole and step is not None else None)


def _number(text: str | None) -> float | None:
    """As it is printed, without what stands around it; commas only group thousands, and are no points."""
    if text is None:
        return None
    text = text.lstrip(" \t([{|*\"'").rstrip(" \t,;:)]}|*\"'%.")
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    try:
        return float(text)
    except ValueError:
        return None
