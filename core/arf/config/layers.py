"""Values with their places: what files, flags and `-o` say, layer over layer, until types give them shape.

A layer is nested dicts and lists of leaves, with the place of each key (`FILE:LINE`, a flag). The type of
a field decides how a leaf is read (`name: off` is text where text is wanted, `1e-3` is a number), so that
none of the surprises of YAML 1.1 remain. cattrs structures; its errors become ConfigErrors here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from functools import cache, partial
from pathlib import Path
from types import GenericAlias, NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import attrs
from attrs import frozen

from arf.errors import ConfigError, nearest
from arf.types import Seconds

if TYPE_CHECKING:
    import cattrs
    import yaml

MAX_BYTES = 1_000_000
"""A bigger file is no configuration."""

Key = tuple[str | int, ...]


@frozen
class Leaf:
    """A scalar: as it reads by itself, and its text, which counts where text is wanted."""

    value: bool | int | float | str | None
    text: str


def leaf(text: str, *, quoted: bool = False) -> Leaf:
    """A value from a command line, read as YAML reads a plain scalar; `quoted` keeps it text."""
    return Leaf(text if quoted else _resolve(text), text)


def _resolve(text: str) -> bool | int | float | str | None:
    """What a plain scalar is, by the rules of YAML 1.2's core schema."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"[-+]?[0-9][0-9_]*", text):
        return int(text)
    if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
        return float(text)
    if re.fullmatch(r"[-+]?\.inf", text, re.IGNORECASE):
        return float(text.replace(".", "", 1))
    return math.nan if text.lower() == ".nan" else text


@frozen
class Layer:
    """Nested values, and where each of them stands."""

    data: dict[str, Any]
    places: dict[Key, str]

    def at(self, key: Key) -> Any:
        """The value at a key; None if there is none."""
        value: Any = self.data
        for part in key:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def error(self, key: Key, message: str, hint: str = "") -> ConfigError:
        """An error at the nearest place that is known."""
        prefixes = (key[:n] for n in range(len(key), 0, -1))
        where = next((self.places[p] for p in prefixes if p in self.places), "")
        return ConfigError(message, where=where, key=_dotted(key), hint=hint)

    def over(self, low: Layer) -> Layer:
        """This layer's values over those of a lower one."""
        return Layer(_merge(low.data, self.data), {**low.places, **self.places})

    def structure(self, key: Key, cls: type, homes: Mapping[str, str] | None = None) -> Any:
        """The value at a key as an instance of an attrs class; an absent one has all defaults.

        `homes` says where keys of other sections belong, for hints. Raises the first ConfigError.
        """
        value = self.at(key)
        try:
            return _converter().structure({} if value is None else value, cls)
        except Exception as failure:  # cattrs wraps whatever hooks and validators raise
            raise next(_errors(failure, self, key, cls, homes or {})) from None


def _dotted(key: Key) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")


def _merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def single(key: str, value: Any, places: Mapping[Key, str]) -> Layer:
    """A layer with one value at a dotted key; `places` are relative to it."""
    path: Key = tuple(key.split("."))
    for part in reversed(path):
        value = {part: value}
    return Layer(value, {path + inner: place for inner, place in places.items()})


def override(key: str, text: str) -> Layer:
    """`-o key.path=value`; the value is YAML."""
    where = f"-o {key}={text}"
    if not all(key.split(".")):
        raise ConfigError(
            "not a key", where=where, hint="write -o key.path=value, such as -o noise.alpha=0.1"
        )
    places: dict[Key, str] = {}
    try:
        node = _compose(text, lambda _: where)
    except ConfigError as error:
        if text.startswith(("{", "[", "%", "@", "`")):
            error.hint = error.hint or f"text needs quotes: -o '{key}=\"...\"'"
        raise
    if node is None:
        places[()] = where
    return single(key, leaf("") if node is None else _data(node, (), places, lambda _: where), places)


def wrapped(value: object) -> Any:
    """Python values as the values of a layer. Text that reads as a number is one where a number is wanted."""
    if isinstance(value, Mapping):
        return {str(key): wrapped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [wrapped(item) for item in value]
    if value is None:
        return leaf("null")
    if isinstance(value, bool | int | float):
        return Leaf(value, str(value))
    number = _resolve(str(value))
    return Leaf(number if isinstance(number, int | float) else str(value), str(value))


def _unwrapped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unwrapped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unwrapped(item) for item in value]
    return value.value if isinstance(value, Leaf) else value


# ------------------------------------------------------------------------------------------ reading files


def read_file(path: Path) -> Layer:
    """A file as a layer; empty if it holds nothing."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        what = {"FileNotFoundError": "no such file", "IsADirectoryError": "is a directory, not a file"}
        raise ConfigError(
            what.get(type(error).__name__, f"cannot be read ({error.strerror})"), where=str(path)
        ) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"has {len(raw):,} bytes, and cannot be a configuration", where=str(path))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError("is not UTF-8 text", where=f"{path}:{line}", hint="save it as UTF-8") from None

    def place(line: int | None) -> str:
        return str(path) if line is None else f"{path}:{line + 1}"

    places: dict[Key, str] = {}
    node = _compose(text, place)
    data = {} if node is None else _data(node, (), places, place)
    if isinstance(data, Leaf) and data.value is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(
            f"expected keys with values, found {described(data)}", where=places[()], hint="write key: value"
        )
    return Layer(data, places)


_Place = Callable[[int | None], str]
"""Where line number `line`, counted from 0, is; None for the file as a whole."""


def _compose(text: str, place: _Place) -> yaml.Node | None:
    """The YAML node of a text, or None if it is empty."""
    import yaml

    try:
        node: yaml.Node | None = _loader()(text, place).get_single_node()
        return node
    except yaml.MarkedYAMLError as error:
        problem = " ".join(filter(None, (error.context, error.problem))) or "cannot be read"
        hint = "indent with spaces, not tabs" if "\\t" in problem else ""
        mark = error.problem_mark or error.context_mark
        where = place(mark.line if mark else None)
        raise ConfigError(f"not YAML: {problem}", where=where, hint=hint) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        raise ConfigError(f"has a control character (code {error.character})", where=place(line)) from None
    except RecursionError:
        raise ConfigError("nested too deeply", where=place(None)) from None


@cache
def _loader() -> Any:
    """PyYAML's loader without anchors, aliases and tags: nothing expands, and nothing is made of a name."""
    import yaml

    class Loader(yaml.SafeLoader):
        def __init__(self, text: str, place: _Place) -> None:
            super().__init__(text)
            self.place = place

        def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise self.refusal(event, "anchors (&) and aliases (*)")
            if getattr(event, "tag", None) not in (None, "!"):
                raise self.refusal(event, f"tags ({event.tag})")
            return super().compose_node(parent, index)

        def refusal(self, event: Any, what: str) -> ConfigError:
            hint = "if it is text, put it in quotes"
            return ConfigError(
                f"{what} are not supported", where=self.place(event.start_mark.line), hint=hint
            )

    return Loader


@cache
def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

        def text(self, text: str) -> yaml.Node:
            """Quoted where it would be read as a number or the like, by YAML's old rules or by ours."""
            style = None if isinstance(_resolve(text), str) else "'"
            return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, Dumper.text)
    return Dumper


def to_yaml(data: Mapping[str, Any]) -> str:
    """YAML text that `read_file` reads back."""
    import yaml

    text: str = yaml.dump(data, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=100)
    return text


def _data(node: yaml.Node, key: Key, places: dict[Key, str], place: _Place) -> Any:
    """A node as nested dicts, lists and leaves; notes the places of all keys."""
    import yaml

    places.setdefault(key, place(node.start_mark.line if node.start_mark else None))
    if isinstance(node, yaml.ScalarNode):
        return leaf(node.value, quoted=node.style is not None)
    if isinstance(node, yaml.SequenceNode):
        return [_data(item, (*key, index), places, place) for index, item in enumerate(node.value)]
    data: dict[str, Any] = {}
    for key_node, value_node in node.value:
        here = place(key_node.start_mark.line if key_node.start_mark else None)
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError("a key must be plain text", where=here, key=_dotted(key))
        inner = (*key, key_node.value)
        if key_node.value in data:
            raise ConfigError(
                "this key is given twice",
                where=here,
                key=_dotted(inner),
                hint=f"the other one is at {places[inner]}",
            )
        places[inner] = here
        data[key_node.value] = _data(value_node, inner, places, place)
    return data


# ---------------------------------------------------------------------------------------------- structuring


class _Mismatch(TypeError):
    """A value that is not of the wanted type; cattrs adds where, `_errors` says it to people."""


_Hook = Callable[[Any, Any], Any]

_ANY = (Any, object)
"""Types that take whatever is there."""


@cache
def _converter() -> cattrs.Converter:
    """Structures dicts, lists and leaves. The hook that was registered last is asked first."""
    import cattrs
    from cattrs.cols import list_structure_factory
    from cattrs.gen import make_dict_structure_fn, make_mapping_structure_fn

    converter = cattrs.Converter(detailed_validation=True, forbid_extra_keys=True)

    def fields_hook(cls: Any) -> _Hook:
        return _only(dict, make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True))

    def items_hook(cls: Any) -> _Hook:
        item = (get_args(cls) or (Any,))[0]
        make: Callable[[Any], Any] = tuple if (get_origin(cls) or cls) is tuple else list
        # The alias is made by hand, as is the one below, because its item is only known now.
        of_items: Any = GenericAlias(list, item)
        read = _unwrap_hook if item in _ANY else list_structure_factory(of_items, converter)
        return _only(list, lambda value, _: make(read(value, _)))

    def mapping_hook(cls: Any) -> _Hook:
        item = (*get_args(cls), Any, Any)[1]
        if item in _ANY:
            return _only(dict, _unwrap_hook)
        of_items: Any = GenericAlias(dict, (str, item))
        return _only(dict, make_mapping_structure_fn(of_items, converter, key_type=_MappingKey))

    converter.register_structure_hook_factory(attrs.has, fields_hook)
    converter.register_structure_hook_factory(_is_items, items_hook)
    converter.register_structure_hook_factory(_is_mapping, mapping_hook)
    converter.register_structure_hook_func(_is_union, partial(_read_union, converter))
    converter.register_structure_hook_func(lambda cls: cls in _ANY, _unwrap_hook)
    converter.register_structure_hook(_MappingKey, lambda value, _: value)
    for is_type, read in _SCALARS.items():
        converter.register_structure_hook_func(is_type, _only(Leaf, read))
    for cls, read in _CLASSES.items():  # cattrs gives them to their subclasses too, before it asks functions
        converter.register_structure_hook(cls, _only(Leaf, partial(_read_member, read)))
    return converter


class _MappingKey(str):
    """The type of a mapping's keys while structuring: they are text already, not leaves."""


def _only(shape: type, hook: _Hook) -> _Hook:
    def guarded(value: Any, cls: Any) -> Any:
        if not isinstance(value, shape):
            raise _Mismatch
        return hook(value, cls)

    return guarded


def _unwrap_hook(value: Any, _: Any) -> Any:
    return _unwrapped(value)


def _is_items(cls: Any) -> bool:
    origin, args = get_origin(cls) or cls, get_args(cls)
    return origin in (list, Sequence) or (origin is tuple and (not args or args[1:] == (...,)))


def _is_mapping(cls: Any) -> bool:
    return (get_origin(cls) or cls) in (dict, Mapping)


def _is_union(cls: Any) -> bool:
    return get_origin(cls) in (Union, UnionType)


def _is_enum(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, Enum)


def _is_seconds(cls: Any) -> bool:
    return bool(cls == Seconds)


def _is_literal(cls: Any) -> bool:
    return get_origin(cls) is Literal


def _read_union(converter: cattrs.Converter, value: Any, cls: Any) -> Any:
    """The member that a leaf's own type names; else the first member that takes the value."""
    own = type(value.value) if isinstance(value, Leaf) else None
    if own is NoneType and NoneType in get_args(cls):
        return None
    members = [member for member in get_args(cls) if member is not NoneType]
    for member in sorted(members, key=lambda m: m is not own):
        try:
            return converter.structure(value, member)
        except _Mismatch:
            continue
    raise _Mismatch


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def _read_text(leaf: Leaf, _: Any) -> str:
    if leaf.value is None:
        raise _Mismatch
    if odd := _CONTROL.search(leaf.text):
        raise ValueError(f"holds the control character {odd[0]!r}")
    return leaf.text


def _read_bool(leaf: Leaf, _: Any) -> bool:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if isinstance(leaf.value, bool):
        return leaf.value
    if leaf.text.lower() not in words:
        raise _Mismatch
    return words[leaf.text.lower()]


def _read_int(leaf: Leaf, _: Any) -> int:
    value = leaf.value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Mismatch
    if abs(value) >= 2**63:
        raise ValueError("is too large")
    return value


def _read_float(leaf: Leaf, _: Any) -> float:
    value = leaf.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Mismatch
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("is too large") from None
    if not math.isfinite(number):
        raise _Mismatch
    return number


def _read_seconds(leaf: Leaf, _: Any) -> float:
    if not isinstance(leaf.value, str):
        return _read_float(leaf, _)
    try:
        return seconds(leaf.text)
    except ValueError:
        raise _Mismatch from None


def seconds(text: str) -> float:
    """`8h`, `90s`, `1h30m`, `1.5d`; a bare number is seconds. Raises ValueError for anything else."""
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([dhms])\s*", text)
    units = [unit for _, unit in parts]
    rest = re.sub(r"(\d+(?:\.\d+)?)\s*([dhms])\s*", "", text).strip()
    if not parts or rest or units != sorted(set(units), key="dhms".index):
        raise ValueError(text)
    return sum(float(number) * {"d": 86400, "h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)


def _read_enum(leaf: Leaf, cls: Any) -> Any:
    for member in cls:
        if member.value in (leaf.text, leaf.value):
            return member
    raise _Mismatch


def _read_literal(leaf: Leaf, cls: Any) -> Any:
    for answer in get_args(cls):
        if leaf.text == answer or (leaf.value == answer and type(leaf.value) is type(answer)):
            return answer
    raise _Mismatch


def _read_path(leaf: Leaf, _: Any) -> Path:
    return Path(_read_text(leaf, _)).expanduser()


def _read_member(read: _Hook, leaf: Leaf, cls: Any) -> Any:
    return _read_enum(leaf, cls) if _is_enum(cls) else read(leaf, cls)


_SCALARS: Mapping[Callable[[Any], bool], _Hook] = {
    _is_seconds: _read_seconds,
    _is_enum: _read_enum,
    _is_literal: _read_literal,
}
_CLASSES: Mapping[type, _Hook] = {
    str: _read_text,
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    Path: _read_path,
}


# -------------------------------------------------------------------------------------------------- errors


def _errors(
    failure: BaseException, layer: Layer, key: Key, cls: Any, homes: Mapping[str, str]
) -> Iterator[ConfigError]:
    """What cattrs raised, as errors with a place and a key; a bug stays what it is."""
    import cattrs

    if isinstance(failure, cattrs.BaseValidationError):
        for inner in failure.exceptions:
            note = next((n for n in getattr(inner, "__notes__", ()) if hasattr(n, "type")), None)
            part: Key = () if note is None else (note.name if hasattr(note, "name") else note.index,)
            yield from _errors(inner, layer, key + part, failure.cl if note is None else note.type, homes)
    elif isinstance(failure, cattrs.ForbiddenExtraKeysError):
        known = [f.name for f in attrs.fields(failure.cl)]
        for name in sorted(failure.extra_fields):
            yield layer.error((*key, name), "unknown key", near(name, known, homes))
    elif isinstance(failure, KeyError) and layer.at(key) is None:
        yield layer.error(key, f"is missing: {_wanted(cls)} is needed")
    elif isinstance(failure, _Mismatch):
        value = layer.at(key)
        hint = nearest(value.text, _answers(cls)) if isinstance(value, Leaf) and _answers(cls) else ""
        yield layer.error(key, f"expected {_wanted(cls)}, found {described(value)}", hint)
    elif isinstance(failure, ValueError | TypeError) and failure.args:
        yield _invalid(str(failure.args[0]), layer, key, cls)
    else:
        raise failure


def _invalid(message: str, layer: Layer, key: Key, cls: Any) -> ConfigError:
    """What a validator says: it begins with the attribute's name, as those of attrs do."""
    named = re.match(r"'?(\w+)'? (?=\S)", message)
    if named is None or not attrs.has(cls) or named[1] not in attrs.fields_dict(cls):
        return layer.error(key, message)
    return layer.error((*key, named[1]), message[named.end() :])


def near(name: str, known: Sequence[str], homes: Mapping[str, str]) -> str:
    """A hint for an unknown key: the nearest right name here, or where the key belongs."""
    hint = nearest(name, known)
    if not hint.startswith("did you mean") and name in homes:
        return f"write it as {homes[name]}"
    return hint


def _answers(cls: Any) -> list[str]:
    if _is_enum(cls):
        return [str(member.value) for member in cls]
    return [str(answer) for answer in get_args(cls)] if _is_literal(cls) else []


def _wanted(cls: Any) -> str:
    """A type in words."""
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}
    if cls is NoneType:
        return "null"
    if _is_seconds(cls):
        return "a duration such as 90s, 30m, 8h or 1h30m"
    if _is_union(cls):
        return " or ".join(_wanted(member) for member in get_args(cls))
    if _answers(cls):
        return "one of " + ", ".join(_answers(cls))
    if _is_items(cls):
        plurals = {str: "texts", int: "whole numbers", float: "numbers"}
        return f"a list of {plurals.get((get_args(cls) or (Any,))[0], 'values')}"
    if attrs.has(cls) or _is_mapping(cls):
        return "keys with values"
    return names.get(cls, "a value")


def described(value: Any) -> str:
    if isinstance(value, dict):
        return "keys with values"
    if isinstance(value, list):
        return "a list"
    if not isinstance(value, Leaf) or value.value is None:
        return "nothing"
    kinds = {bool: "", int: "the number ", float: "the number "}
    text = value.text if len(value.text) <= 60 else value.text[:57] + "..."
    return f"{kinds[type(value.value)]}{text}" if type(value.value) in kinds else f"the text {text!r}"
