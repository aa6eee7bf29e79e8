"""Reads what training scripts print for people.

A *closing line* is nothing but names with numbers, and what people put around them:

    val_bpb:          0.997900                          Test accuracy: 98.2% (best 98.4%)
    val_loss=3.28, val_acc=41.2%                        2026-01-01 12:00:00 - root - INFO - val_loss: 0.5
    Test set: Average loss: 0.03, Accuracy: 9912/10000  | ep_rew_mean | 495 |

A *step line* has a step, an iteration, an episode or else an epoch somewhere, and then names with numbers;
progress bars count too:

    step 00010 (12.3%) | loss: 3.210000 | dt: 283ms | tok/sec: 1,852,731 | mfu: 39.8%
    iter 10: loss 3.2, time 12.31ms
    step:10/1000 val_loss:3.27 train_time:5000ms

A *record* is a dict as Python or JSON writes it; what else is in it is ignored, and so is what introduces it:

    {'eval_loss': 0.45, 'split': 'test', 'epoch': 3.0}      INFO:root:result: {"val_loss": 0.45}

Lines of benchmark harnesses are read too (`harnesses`). Times become seconds, sizes bytes, and k, M and G
factors, so that 0.98 ms and 980 us are the same (`units`); a percent sign or another unit is dropped.
`9912/10000` is 0.9912. Blanks in a name become underscores (`val loss` is `val_loss`). All expressions take
time linear in the line: their repeats are bounded or possessive.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import evolve

from arf.interfaces import MetricParser
from arf.types import Reading
from arf_plugins.metrics_summary import records
from arf_plugins.metrics_summary.harnesses import benchmarks
from arf_plugins.metrics_summary.units import scaled

LONGEST_LINE = 4096
"""Characters; no script prints its metrics in a longer one, and a cut number would be a wrong number."""

_KEY = r"[^\W\d][\w./@^-]{0,63}+(?:'s(?=\s))?+"  # LightGBM: valid_0's l2
_NUMBER = (
    r"(?P<value>[-+]?(?>"
    r"[1-9]\d{0,2}(?:,\d{3})++(?:\.\d++)?"  # 1,852,731; 0,123 is no thousand
    r"|(?:\d++(?:\.\d*+)?|\.\d++)(?:e[-+]?\d++)?"
    r"|nan|inf(?:inity)?))"
)
_UNIT = (
    r"(?P<unit>\s?%|[a-zµμ/]{1,12}+|\s(?>[mµμun]?s(?:ecs?|econds?)?(?:/(?:op|iter|it|step))?|mins?|minutes|hours?"
    r"|[kmgtp]?i?b(?:/s(?:ec)?|ps)?|[kmgtp]?\s?flops?(?:/s)?"
    r"|[kmgtp]?\s?(?:ops?|it|iters?|tok(?:en)?s?|samples?|req(?:uest)?s?|im(?:a)?ges?|imgs?|elem|queries|rows|steps?)/s(?:ec)?)(?![\w/]))?"
)
_NUMBER_ENDS = r"(?![\w%]|[.:-]\d|,\d{3})"  # not a version, a time, a date
_WRAPPED = r"(?:(?:(?:np|numpy|jnp|torch)\.)?(?:tensor|array|float\d{2}|int\d{2})\(|\[|\*\*|`)?+"
_UNWRAPPED = r"(?:,\s?(?:device|dtype|grad_fn)=[^()]{1,48}+(?:\(\w{1,16}+\))?)?[)\]`]?\*{0,2}"
_SPREAD = r"(?:\s?(?:±|\+/?-)\s?[\d.]{1,24}+(?:e[-+]?\d{1,3}+)?\s?%?)?"
_ASIDE = r"(?:\s{0,4}\([^()]{0,64}+\))?"

_VALUE = re.compile(r"\d|nan|inf", re.IGNORECASE)
_CLOSING = re.compile(
    r"(?!(?:metric|result)s?\s{1,8}+[^\W\d])"
    rf"(?P<name>{_KEY}(?: {_KEY}){{0,4}}?)"
    r"(?:(?P<sign>\s{0,64}+(?:[:=]|[-=]>|→)\s{0,64}+|\s{0,8}\.{3,64}+\s{0,8}+)|\s{1,64}+)"
    rf"{_WRAPPED}{_NUMBER}{_UNIT}{_UNWRAPPED}(?(sign)(?:\s?/\s?(?P<total>\d{{1,18}}+))?){_NUMBER_ENDS}{_SPREAD}{_ASIDE}",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(r"\s{0,8}+[,;|]?\s{0,8}+")
_PAIR = re.compile(
    rf"(?<![\w./-])(?P<name>{_KEY}(?: {_KEY}){{0,2}}?)(?:\s{{0,8}}+[:=]\s{{0,8}}+|\s{{1,8}}+){_NUMBER}{_UNIT}"
    rf"(?:/(?P<total>\d{{1,18}}+))?{_NUMBER_ENDS}",
    re.IGNORECASE,
)
_STEP = re.compile(
    r"(?<![\w.-])(?:(?:global_?)?step|iteration|iter)(?:\s{0,8}+[:=#]\s{0,8}+|\s{1,8}+)"
    r"(\d{1,3}(?:,\d{3}){1,5}+|\d{1,18}+)(?!\d|\.\d)(?:\s?/\s?\d{1,18}+)?",
    re.IGNORECASE,
)
_EPOCH = re.compile(
    r"(?<![\w.-])(?:epoch|episode)(?:\s{0,8}+[:=#]\s{0,8}+|\s{1,8}+)\[?"
    r"(\d{1,9}+)(?!\d|\.\d)(?:\s?/\s?\d{1,9}+)?",
    re.IGNORECASE,
)
_BAR = re.compile(r"(?<![\w.])(\d{1,9}+)/\d{1,9}+(?:\s?[\[━╺]| - \d{1,9}+(?:ms|s)\b)|\A\[(\d{1,9}+)\]\s")
"""The bars of tqdm and Keras, and the `[99]` of boosted trees."""
_STEP_WORDS = ("step", "iter", "epoch", "episode")
_RECORD_ENTRY = re.compile(
    rf"[\"'](?P<name>[^\"']{{1,64}}+)[\"']\s?:\s?{_WRAPPED}[\"']?{_NUMBER}[\"']?(?=\s?[,}})\]])",
    re.IGNORECASE,
)
_NESTED = re.compile(r"\{[^{}]{0,4096}+\}")
_RECORD_STEPS = ("step", "global_step", "iter", "iteration", "episode", "epoch")

_NOISE = re.compile(
    r"\x1b\[[0-9;?]{0,32}+[a-z]"  # colours, the cursor
    r"|\x1b\][^\x07\x1b]{0,256}+(?:\x07|\x1b\\)"  # links, titles
    r"|[\x00-\x08\x0b-\x1f\x7f\ufeff\u200b]",
    re.IGNORECASE,
)
_LEVEL = r"(?:TRACE|DEBUG|INFO|NOTICE|SUCCESS|WARN(?:ING)?|ERROR|CRITICAL|FATAL)\b"
_PREFIX = re.compile(
    r"(?:"
    r"\[[^\[\]]{1,64}+\]:?"
    r"|\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d)?(?:[.,]\d{1,9}+)?)?(?:Z|[-+]\d\d:?\d\d)?"
    r"|\d\d:\d\d(?::\d\d)(?:[.,]\d{1,9}+)?"
    rf"|(?:[\w.]{{1,64}}+\s?[-|:]\s?)?{_LEVEL}"
    r"|[\w.<>]{1,64}+:[\w<>]{1,64}+:\d{1,6}+"
    r"|\w[\w./-]{0,63}:\d{1,6}+(?=\s{1,8}+[-|])"
    r"|[IWEF]\d{4,8}+\s[\d:.]{5,18}+\s{1,8}+(?:\d{1,9}+\s)?[\w.]{1,64}+:\d{1,6}+\]"
    r")(?:\s{0,8}+[-|:](?=\s)|(?=[\s\[]|\Z))\s{0,8}+"
    rf"|{_LEVEL}:[\w.]{{1,64}}+:"
    # Launchers: mpirun, srun --label, torchrun, Ray; the summary of Weights & Biases.
    r"|\[[\w,. -]{1,32}+\](?:<std(?:out|err)>)?:|\d{1,6}+:\s{1,4}+(?=[^\W\d])"
    r"|\(\w[\w.-]{0,48}+\spid=\d[^()]{0,80}+\)\s"
    r"|wandb:\s{1,64}+|(?:[\w.<>-]{0,64}+\s)?[\w./-]{1,64}+:\d{1,6}+\]\s"
    r"|(?i:metric|result)s?\s{1,8}+"
    r"|[>*#•=|│┃+\s-]{1,16}+(?=[^\W\d\s]|[*`\"'])>?\s{0,8}+",
)
"""What a logger or a writer of lists puts before a line."""
_PLACE = re.compile(r"\s{2}[\w./-]{1,64}+:\d{1,6}+\Z")
"""The file and line that rich's logger puts behind one."""
_LABEL = re.compile(rf"(?P<label>{_KEY}(?: {_KEY}){{0,3}})\s{{0,4}}+[:|]\s{{0,8}}+(?=[^\W\d])", re.IGNORECASE)
_ROW = re.compile(rf"({_KEY}(?: {_KEY}){{0,4}})\s{{0,64}}+\|\s{{0,64}}+([^|\s]{{1,32}}+)\Z", re.IGNORECASE)
"""A row of a table with two columns."""
_OF_ANOTHER = re.compile(
    r"\b(?:best|prev(?:ious)?|old|target|expected|reference|early|sav(?:ed?|ing)|improved?|lowest|highest"
    r"|record|baseline|config(?:uration)?|args|arguments|warning|error|todo|note)\b",
    re.IGNORECASE,
)
"""Labels of numbers that are not those of this run as it is now."""
_IN_A_SENTENCE = re.compile(r"(?:\A|_)(?:from|to|than|below|above|after|of|at|by|in|for|with)\Z")
"""How names end that are none: `val_loss improved from inf to 0.5`."""
_RECORD = re.compile(r"\{\s?[\"'][^{}]{1,4096}+(?:\{[^{}]{0,4096}+\}[^{}]{0,4096}+){0,64}+\}\Z")
_OF_SETTINGS = re.compile(r"param|setting|option|hyper|sweep|trial|search", re.IGNORECASE)
"""What introduces a dict of settings."""


class SummaryParser(MetricParser):
    """Closing lines give readings without a step; step lines give readings with one."""

    def parse(self, line: str) -> Sequence[Reading]:
        line = line.strip()
        if len(line) > LONGEST_LINE:
            return ()
        if not line.isprintable():
            line = _NOISE.sub("", line).strip()
        if not line.isascii():
            line = line.replace("：", ":").replace("│", "|").replace("┃", "|")
        if readings := benchmarks(line):
            return readings
        if line.startswith("{"):
            return _record(line)
        if line.endswith("}") and (record := _RECORD.search(line)):
            return _introduced(line[: record.start()], record[0])
        folded = line.lower()
        stepping = "/" in line or line.startswith("[") or any(word in folded for word in _STEP_WORDS)
        if stepping and (readings := _stepping(line)):
            return readings
        if not _VALUE.search(line):
            return ()
        if readings := _closing(line):
            return readings
        line = _bare(line)
        return _closing(line) or _closing(_without_label(line))


def _bare(line: str) -> str:
    """The line without what a logger puts before it, bullets, frames and bold type."""
    line = _PLACE.sub("", line.replace("**", "").replace("`", "")).rstrip()
    for _ in range(6):
        prefix = _PREFIX.match(line)
        if prefix is None:
            break
        line = line[prefix.end() :]
    if line[:1] in "\"'":
        line = line.replace(line[:1], "", 2)
    line = line.rstrip(" |,;=#*-\"'")
    row = _ROW.match(line)
    return line if row is None else f"{row[1]}: {row[2]}"


def _without_label(line: str) -> str:
    """The line without the heading of its numbers, such as `Test set:`; empty if it has none."""
    label = _LABEL.match(line)
    return "" if label is None or _OF_ANOTHER.search(label["label"]) else line[label.end() :]


def _closing(line: str) -> list[Reading]:
    """The readings of a line that is pairs and nothing else; none if there is anything else."""
    readings = []
    at = 0
    while at < len(line):
        pair = _CLOSING.match(line, at)
        if pair is None:
            return []
        name = _name(pair["name"])
        if _IN_A_SENTENCE.search(name):
            return []
        readings.append(Reading(name=name, value=_value(pair, name)))
        separator = _SEPARATOR.match(line, pair.end())
        at = separator.end() if separator else pair.end()
        if at == pair.end() < len(line):
            return []
    return readings


def _stepping(line: str) -> list[Reading]:
    """The readings after a step, an iteration, or else an epoch or in a bar; none if there is none."""
    head = _step_in(line)
    if head is None:
        return []
    found = ((_name(pair["name"]), pair) for pair in _PAIR.finditer(line, head.end()))
    step = _step(head)
    return [
        Reading(name=name, value=_value(pair, name), step=step)
        for name, pair in found
        if not _IN_A_SENTENCE.search(name)
    ]


def _step_in(line: str) -> re.Match[str] | None:
    return _STEP.search(line) or _EPOCH.search(line) or _BAR.search(line)


def _step(match: re.Match[str]) -> int:
    return int((match[1] or match[match.lastindex or 1]).replace(",", ""))


def _introduced(head: str, record: str) -> list[Reading]:
    """The readings of a dict behind a logger's prefix, a label or a bar, at the step that this tells."""
    if _OF_ANOTHER.search(head) or _OF_SETTINGS.search(head):
        return []
    step = _step_in(head)
    return [
        evolve(reading, step=_step(step)) if step is not None and reading.step is None else reading
        for reading in _record(record)
    ]


def _record(line: str) -> list[Reading]:
    """The numbers of a dict on one line, with its step if it has one. Nested ones only if it is JSON."""
    values = records.numbers(line)
    if values is None:
        line = _NESTED.sub("", line[1:])
        values = {_name(entry["name"]): _number(entry["value"]) for entry in _RECORD_ENTRY.finditer(line)}
    key = next((key for key in _RECORD_STEPS if 0 <= values.get(key, -1) < 1e18), None)
    step = None if key is None else int(values.pop(key))
    return [
        Reading(name=name, value=value, step=step) for name, value in values.items() if name.isprintable()
    ]


def _name(text: str) -> str:
    return ("_".join(text.split()) if " " in text else text).rstrip(".-")


def _value(pair: re.Match[str], name: str) -> float:
    """In its base unit; what is right of so many as a share."""
    value, total = _number(pair["value"]), int(pair["total"] or 0)
    if 0 <= value <= total and not any(word in name.lower() for word in _STEP_WORDS):
        return value / total if total else value
    return scaled(value, pair["unit"] or "")


def _number(text: str) -> float:
    return float(text.replace(",", ""))
