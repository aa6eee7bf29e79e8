"""Reads the JSON of a model's answer, whatever stands around it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from arf.errors import UsageError
from arf_plugins.llm.turns import whole_json

MAX_STARTS = 200
"""Brackets in prose that are tried as the beginning of JSON."""
_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_END_OF_THOUGHT = re.compile(r"\A.*</(?:think|thinking|thought|reasoning)>", re.DOTALL | re.IGNORECASE)
"""Chat templates may hold the opening tag, so that the reply has the closing one only."""
_DECODER = json.JSONDecoder()


def read_json(text: str, key: str) -> Any:
    """The answer in a text: the last complete object with `key`, whatever is said or thought around it.

    Of an answer that was cut, an object with the complete entries of `key`. Else the last object or list of
    objects that there is: models leave the wrapping object away. Raises UsageError if there is none.
    """
    text = _END_OF_THOUGHT.sub("", _THOUGHT.sub("", text))
    values = list(_values(text))
    answers = [value for value in values if isinstance(value, dict) and key in value]
    if answers:
        return answers[-1]
    if complete := _complete_entries(text, key):
        return {key: complete}
    rest = [value for value in values if _holds_objects(value)]
    if not rest:
        raise UsageError(
            "the answer holds no JSON object", hint="answer with one JSON object and nothing else"
        )
    return rest[-1]


def entries(value: Any, key: str) -> list[Any]:
    """The entries of an answer; also where a model left the wrapping object away. Raises UsageError."""
    if isinstance(value, dict) and isinstance(value.get(key), str):
        value = {**value, key: read_json(value[key], key)}  # an array that was quoted
    if isinstance(value, dict) and key in value:
        value = value[key]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise UsageError(f"the answer has no list of {key}", hint=f'it is an object with "{key}"')
    return value


def said(value: Any, key: str) -> str:
    """A text beside the ideas; empty if there is none."""
    text = value.get(key) if isinstance(value, dict) else None
    return text.strip() if isinstance(text, str) else ""


def _values(text: str) -> Iterator[Any]:
    """The JSON objects and lists in a text that are not in another one, in their order."""
    at = 0
    for _ in range(MAX_STARTS):
        start = re.compile(r"[{\[]").search(text, at)
        if start is None:
            return
        try:
            value, at = _DECODER.raw_decode(text, start.start())
            yield whole_json(value)
        except (ValueError, RecursionError):
            at = max(at, start.end())


def _complete_entries(text: str, key: str) -> list[Any]:
    """The complete entries of the last list under `key`, of an answer that ends in the middle."""
    found: list[Any] = []
    for start in re.finditer(rf'"{key}"\s*:\s*\[', text):
        found, at = [], start.end()
        while begun := re.compile(r"[\s,]*(?=\{)").match(text, at):
            try:
                value, at = _DECODER.raw_decode(text, begun.end())
                found.append(whole_json(value))
            except (ValueError, RecursionError):
                break
    return found


def _holds_objects(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(entry, dict) for entry in value)
    return bool(value)
