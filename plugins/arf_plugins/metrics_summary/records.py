"""Numbers in a JSON object on one line, also nested, quoted, or as a name with its value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

_NUMBER = re.compile(
    r"[-+]?(?:\d{1,32}(?:\.\d{0,32})?|\.\d{1,32})(?:e[-+]?\d{1,4})?|[-+]?(?:nan|inf(?:inity)?)", re.I
)
_LONGEST_NAME = 128
_DEEPEST = 4
_NAMES = ("metric", "name", "key", "tag")
_VALUES = ("value", "val", "score")
_OF_SETTINGS = re.compile(r"param|setting|option|hyper|config|args|sweep|trial|search", re.IGNORECASE)
"""Keys of what holds settings."""


def numbers(text: str) -> dict[str, float] | None:
    """The numbers by their keys, nested ones as `val/loss`; None if the text is no JSON object."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    named = next((record[key] for key in _NAMES if isinstance(record.get(key), str)), None)
    value = next((number for key in _VALUES if (number := _number(record.get(key))) is not None), None)
    if named and value is not None:
        rest = {name: number for name, number in _walk(record, "", 1) if name not in _VALUES}
        return {**rest, named: value} if named.isprintable() and len(named) <= _LONGEST_NAME else rest
    return dict(_walk(record, "", 1))


def _walk(record: dict[str, object], prefix: str, depth: int) -> Iterator[tuple[str, float]]:
    for key, value in record.items():
        name = prefix + key
        if isinstance(value, dict) and depth < _DEEPEST and not _OF_SETTINGS.search(key):
            yield from _walk(value, name + "/", depth + 1)
        elif (
            key and len(name) <= _LONGEST_NAME and name.isprintable() and (one := _number(value)) is not None
        ):
            yield name, one


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
