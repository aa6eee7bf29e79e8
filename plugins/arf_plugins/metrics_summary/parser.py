"""Reads what training scripts print for people.

Two kinds of line count. A *closing line* is nothing but `key: number` (or several, separated):

    val_bpb:          0.997900
    val_loss=3.28, val_acc=41.2%

A *step line* has a step, an iteration or else an epoch somewhere, and then names with numbers:

    step 00010 (12.3%) | loss: 3.210000 | dt: 283ms | tok/sec: 1,852,731 | mfu: 39.8%
    iter 10: loss 3.2, time 12.31ms
    step:10/1000 val_loss:3.27 train_time:5000ms

Numbers are taken as printed: a unit or a percent sign after them is dropped, not converted. Blanks in a
name become underscores (`val loss` is `val_loss`). All expressions take time linear in the line: their
repeats are bounded or possessive.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from arf.interfaces import MetricParser
from arf.types import Reading

LONGEST_LINE = 4096
"""Characters; no script prints its metrics in a longer one, and a cut number would be a wrong number."""

_FLAGS = re.ASCII | re.IGNORECASE
_KEY = r"[a-z_][\w./-]{0,63}+"
_NUMBER = (
    r"(?P<value>[-+]?(?>"
    r"\d{1,3}(?:,\d{3})++(?:\.\d++)?"  # 1,852,731
    r"|(?:\d++(?:\.\d*+)?|\.\d++)(?:e[-+]?\d++)?"
    r"|nan|inf(?:inity)?))"
)
_UNIT = r"(?>\s?%|[a-zµ/]{1,12}+|\s(?:[mµun]?s|secs?|seconds|min|hours?|[kmgt]i?b|tok(?:ens)?/s(?:ec)?)\b)?"
_NUMBER_ENDS = r"(?![\w%]|[.:-]\d|,\d{3})"  # not a version, a time, a date

_CLOSING = re.compile(rf"(?P<name>{_KEY})\s{{0,64}}+[:=]\s{{0,64}}+{_NUMBER}{_UNIT}{_NUMBER_ENDS}", _FLAGS)
_SEPARATOR = re.compile(r"\s{0,8}+[,;|]?\s{0,8}+")
_PAIR = re.compile(
    rf"(?<![\w./-])(?P<name>{_KEY}(?: {_KEY}){{0,2}}?)(?:\s{{0,8}}+[:=]\s{{0,8}}+|\s{{1,8}}+){_NUMBER}{_UNIT}"
    rf"(?:/\d{{1,18}}+)?{_NUMBER_ENDS}",
    _FLAGS,
)
_STEP = re.compile(
    r"(?<![\w.-])(?:(?:global_?)?step|iteration|iter)(?:\s{0,8}+[:=#]\s{0,8}+|\s{1,8}+)"
    r"(\d{1,3}(?:,\d{3}){1,5}+|\d{1,18}+)(?!\d|\.\d)(?:\s?/\s?\d{1,18}+)?",
    _FLAGS,
)
_EPOCH = re.compile(
    r"(?<![\w.-])epoch(?:\s{0,8}+[:=#]\s{0,8}+|\s{1,8}+)(\d{1,9}+)(?!\d|\.\d)(?:\s?/\s?\d{1,9}+)?", _FLAGS
)
_ESCAPES = re.compile(r"\x1b\[[0-9;]{0,32}+[a-z]", _FLAGS)


class SummaryParser(MetricParser):
    """Closing lines give readings without a step; step lines give readings with one."""

    def parse(self, line: str) -> Sequence[Reading]:
        line = line.strip()
        if len(line) > LONGEST_LINE:
            return ()
        if "\x1b" in line:
            line = _ESCAPES.sub("", line).strip()
        folded = line.lower()
        if ("step" in folded or "iter" in folded or "epoch" in folded) and (readings := _stepping(line)):
            return readings
        return _closing(line)


def _closing(line: str) -> list[Reading]:
    """The readings of a line that is pairs and nothing else; none if there is anything else."""
    readings = []
    at = 0
    while at < len(line):
        pair = _CLOSING.match(line, at)
        if pair is None:
            return []
        readings.append(Reading(name=pair["name"], value=_number(pair["value"])))
        separator = _SEPARATOR.match(line, pair.end())
        at = separator.end() if separator else pair.end()
        if at == pair.end() < len(line):
            return []
    return readings


def _stepping(line: str) -> list[Reading]:
    """The readings after a step, an iteration or else an epoch; none if there is none of these."""
    head = _STEP.search(line) or _EPOCH.search(line)
    if head is None:
        return []
    step = int(head[1].replace(",", ""))
    return [
        Reading(name=pair["name"].replace(" ", "_"), value=_number(pair["value"]), step=step)
        for pair in _PAIR.finditer(line, head.end())
    ]


def _number(text: str) -> float:
    return float(text.replace(",", ""))
