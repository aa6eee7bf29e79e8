"""Whether a value is what its type hint says, for what comes from code that no type checker has seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs

_WORDS: Mapping[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    NoneType: "None",
    Sequence: "a list",
    Mapping: "a mapping",
    tuple: "a tuple",
}


def misfit(value: object, hint: Any, where: str = "") -> str:
    """Where a value is not of a type, such as `ideas[0].title is None, not a text`; empty if it is.

    Knows the types of which `arf.types` and `arf.interfaces` are made, and looks into attrs classes. A whole
    number is a number too, and true and false are none. Of a `Sequence`, a list or a tuple will do.
    """
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return _union_misfit(value, hint, where)
    if origin is not None:
        return _container_misfit(value, hint, where)
    if not _fits(value, hint):
        return _told(value, hint, where)
    if attrs.has(hint):
        prefix = f"{where}." if where else ""
        return _first(
            misfit(getattr(value, name), kind, f"{prefix}{name}") for name, kind in _fields(hint).items()
        )
    return ""


def _fits(value: object, hint: Any) -> bool:
    if hint is Any:
        return True
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def _union_misfit(value: object, hint: Any, where: str) -> str:
    for kind in get_args(hint):
        if attrs.has(kind) and isinstance(value, kind):
            return misfit(value, kind, where)
    return "" if any(not misfit(value, kind) for kind in get_args(hint)) else _told(value, hint, where)


def _container_misfit(value: object, hint: Any, where: str) -> str:
    origin, kinds = get_origin(hint), get_args(hint)
    if origin is Mapping and isinstance(value, Mapping):
        keys = (misfit(key, kinds[0], f"a key of {where or 'it'}") for key in value)
        values = (misfit(item, kinds[1], f"{where}[{key!r}]") for key, item in value.items())
        return _first(keys) or _first(values)
    if (origin is Sequence and isinstance(value, list | tuple)) or (
        origin is tuple and isinstance(value, tuple)
    ):
        each = kinds[:1] * len(value) if kinds[1:] in ((), (Ellipsis,)) else kinds
        if len(each) != len(value):
            return f"{where or 'it'} has {len(value)} items, not {len(each)}"
        return _first(
            misfit(item, kind, f"{where}[{i}]")
            for i, (item, kind) in enumerate(zip(value, each, strict=True))
        )
    return _told(value, hint, where)


def _first(found: Iterable[str]) -> str:
    return next((wrong for wrong in found if wrong), "")


@lru_cache
def _fields(cls: type) -> Mapping[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in attrs.fields(cls)}


def _told(value: object, hint: Any, where: str) -> str:
    given = "None" if value is None else f"a {type(value).__name__}"
    return f"{where or 'it'} is {given}, not {_words(hint)}"


def _words(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_words(kind) for kind in get_args(hint))
    kind = get_origin(hint) or hint
    words = _WORDS.get(kind, f"a {kind.__name__}")
    return f"{words} of {_words(get_args(hint)[0])}" if kind is Sequence else words
