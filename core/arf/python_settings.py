"""Where Python scripts keep settings besides `NAME = 8`: options, fields of a class, entries of a dict.

    parser.add_argument("--lr", default=0.1, help="learning rate")      lr
    class Config: width = 64                                            Config.width
    config = {"dropout": 0.1}; config = dict(dropout=0.1)               config.dropout

Only what holds at run time as far as the file itself shows: nothing that another line sets, that every call
of the class gives, or that two options share.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

_SETTINGS = re.compile(
    r"(?:.*_)?(?:config|configs|configuration|cfg|conf|args|arguments|params|parameters|hparams|hp|hps|hypers?"
    r"|hyperparams|hyperparameters|settings|defaults|options|opts)(?:_.*)?\Z"
)
"""Names of what holds settings, as lower-case words."""
_OPTION_CALLS = {"add_argument", "add_option", "option"}
_DECORATORS = {"dataclass", "define", "frozen", "mutable", "chz"}
_BASES = {"NamedTuple", "BaseModel", "BaseSettings", "Struct"}


class Setting(NamedTuple):
    """The default of one setting."""

    name: str
    value: ast.expr
    text: str = ""
    """What the script says of it in another place than a comment: the help of an option."""
    choices: ast.expr | None = None
    """A list or tuple of what it may be."""


def find_settings(module: ast.Module) -> Iterator[Setting]:
    """The settings in the order of the file, kind by kind. Their values need not be literals."""
    uses = _Uses(module)
    yield from _options(uses)
    for statement in module.body:
        match statement:
            case ast.ClassDef():
                yield from _fields(statement, uses)
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if _is_settings(name):
                yield from _entries(name, value, uses)


class _Uses:
    """How the names of a file are used, in one walk."""

    def __init__(self, module: ast.Module) -> None:
        self.calls: list[ast.Call] = []
        self.loaded: set[str] = set()
        self.stored: Counter[str] = Counter()
        """Names that are assigned."""
        self.attributes: set[str] = set()
        """`x.name = ...`, whatever x is."""
        self.keys: set[tuple[str, str | None]] = set()
        """`name["key"] = ...`; None for a key that is computed, and for `name.update(...)`."""
        for node in ast.walk(module):
            self._note(node)

    def _note(self, node: ast.AST) -> None:
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="update" | "setdefault")):
                self.keys.add((name, None))
            case ast.Call(func=ast.Attribute(attr="set_defaults"), keywords=keywords):
                self.attributes.update(keyword.arg for keyword in keywords if keyword.arg)
            case ast.Call():
                self.calls.append(node)
            case ast.Name(id=name, ctx=ast.Load()):
                self.loaded.add(name)
            case ast.Name(id=name):
                self.stored[name] += 1
            case ast.Attribute(attr=name, ctx=ast.Store() | ast.Del()):
                self.attributes.add(name)
            case ast.Subscript(value=ast.Name(id=name), slice=key, ctx=ast.Store() | ast.Del()):
                known = isinstance(key, ast.Constant) and isinstance(key.value, str)
                self.keys.add((name, key.value if known else None))  # type: ignore[attr-defined]


def _is_settings(name: str) -> bool:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return _SETTINGS.match(words) is not None


def _options(uses: _Uses) -> Iterator[Setting]:
    """The defaults of `add_argument("--name", default=...)` and of click's options."""
    found = []
    for call in uses.calls:
        name = _option_name(call)
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        if name and "nargs" not in given:
            found.append((name, given))
    times = Counter(name for name, _ in found)
    for name, given in found:
        if times[name] == 1 and name not in uses.attributes and "default" in given:
            said = given.get("help")
            text = said.value if isinstance(said, ast.Constant) and isinstance(said.value, str) else ""
            yield Setting(name, given["default"], " ".join(text.split()), given.get("choices"))


def _option_name(call: ast.Call) -> str:
    """The name that the script knows an option by; empty for any other call."""
    match call.func:
        case ast.Attribute(attr=function) | ast.Name(id=function) if function in _OPTION_CALLS:
            pass
        case _:
            return ""
    texts = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    for keyword in call.keywords:
        match keyword:
            case ast.keyword(arg="dest", value=ast.Constant(value=str() as name)):
                texts.insert(0, f"--{name}")
    long = next((text for text in texts if re.fullmatch(r"--[A-Za-z_][\w-]*", text)), "")
    return long[2:].replace("-", "_")


def _fields(definition: ast.ClassDef, uses: _Uses) -> Iterator[Setting]:
    """The defaults of a class that holds settings, if the file uses it as it is."""
    name = definition.name
    marks = {_last_name(node) for node in definition.decorator_list} & _DECORATORS
    bases = {_last_name(node) for node in definition.bases}
    if not (marks or bases & _BASES or _is_settings(name)) or name not in uses.loaded or "Enum" in str(bases):
        return
    taken = set(uses.attributes)
    for call in uses.calls:
        if _last_name(call.func) == name:
            if call.args or any(keyword.arg is None for keyword in call.keywords):
                return
            taken.update(keyword.arg for keyword in call.keywords if keyword.arg)
    for statement in definition.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=field)], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(id=field), value=ast.expr() as value):
                pass
            case _:
                continue
        if field not in taken:
            yield Setting(f"{name}.{field}", _default(value))


def _default(value: ast.expr) -> ast.expr:
    """The default in `field(default=...)`, or the value itself."""
    if isinstance(value, ast.Call) and (_last_name(value.func) or "").lower() == "field":
        return next((keyword.value for keyword in value.keywords if keyword.arg == "default"), value)
    return value


def _entries(name: str, value: ast.expr, uses: _Uses) -> Iterator[Setting]:
    """The entries of a dict that nothing changes afterwards."""
    if uses.stored[name] > 1 or (name, None) in uses.keys:
        return
    match value:
        case ast.Dict(keys=keys, values=values):
            pairs = [
                (key.value, item)
                for key, item in zip(keys, values, strict=True)
                if isinstance(key, ast.Constant) and isinstance(key.value, str)
            ]
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            pairs = [(keyword.arg, keyword.value) for keyword in keywords if keyword.arg]
        case _:
            return
    for key, item in pairs:
        if key.isidentifier() and (name, key) not in uses.keys:
            yield Setting(f"{name}.{key}", item)


def _last_name(node: ast.expr) -> str | None:
    match node:
        case ast.Call(func=function):
            return _last_name(function)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return None
