"""Where Python scripts keep settings besides `NAME = 8`: options, fields of a class, entries of a dict.

    parser.add_argument("--lr", default=0.1, help="learning rate")      lr
    class Config: width = 64; depth: int = Field(8, ge=1)               Config.width, Config.depth
    config = {"optim": {"lr": 0.1}}; config = SimpleNamespace(lr=0.1)   config.optim.lr, config.lr
    config.lr = 0.1; C.optim.lr = 0.1; config["lr"] = 0.1              config.lr, C.optim.lr, config.lr
    flags.DEFINE_float("lr", 0.1, "learning rate")                     lr
    class Net(LightningModule): def __init__(self, lr=0.1)              Net.lr
    def main(lr=0.1): ...; fire.Fire(run) with def run(lr=0.1)          main.lr, run.lr
    def main(): lr = 0.1; if __name__ == "__main__": lr = 0.1           main.lr, lr
    optimizer = Adam(model.parameters(), lr=0.1)                        Adam.lr

Only what holds at run time as far as the file itself shows: nothing that another line sets, that a call
gives, or that two options share.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

_SETTINGS = re.compile(
    r"(?:.*_)?(?:config|configs|configuration|cfg|conf|args|arguments|params?|parameters|hparams|hp|hps|hypers?"
    r"|hyperparams|hyperparameters|settings|defaults|options|opts)(?:_.*)?\Z"
)
"""Names of what holds settings, as lower-case words."""
_OPTION_CALLS = {"add_argument", "add_option", "option"}
_HOLDERS = {
    "dict",
    "SimpleNamespace",
    "Namespace",
    "Munch",
    "EasyDict",
    "edict",
    "AttrDict",
    "DotDict",
    "Box",
}
_HOLDERS |= {"ConfigDict", "create"}  # ml_collections; OmegaConf.create
_NODES = _HOLDERS | {"CfgNode", "CN", "Config", "config_dict", "object"}
"""What an empty holder is made by, whose attributes are set afterwards."""
_FLAGS = {f"DEFINE_{kind}" for kind in ("float", "integer", "bool", "boolean", "string", "enum")}
"""Of absl: name, default, [choices,] help."""
_MODULES = {"LightningModule", "LightningDataModule", "PretrainedConfig"}
"""Bases of classes that are made by a program that may give their arguments, such as LightningCLI."""
_STARTS = {"Fire", "run", "cli", "CLI", "run_exit", "script_main"}
"""Calls that make a command of the function that they are given: Fire, typer, tyro, defopt, jsonargparse."""
_MAIN = re.compile(r"(?:main|cli|run|train|fit|train_model|training|experiment)\Z")
"""Functions that are a script rather than a part of one."""
_CLASS = re.compile(r"[A-Z]\w*[a-z]\w*\Z|SGD|SVC|SVR\Z")
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
    low: ast.expr | None = None
    high: ast.expr | None = None


def find_settings(module: ast.Module) -> Iterator[Setting]:
    """The settings in the order of the file, kind by kind. Their values need not be literals."""
    uses = _Uses(module)
    yield from _options(uses)
    yield from _flags(uses)
    yield from _attributes(module, uses)
    for statement in module.body:
        match statement:
            case ast.ClassDef():
                yield from _fields(statement, uses)
                yield from _init_defaults(statement, uses)
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ) if _is_settings(name):
                yield from _entries(name, value, uses)
    for statement in module.body:
        match statement:
            case ast.FunctionDef() if _is_script(statement, uses):
                yield from _parameters(statement, uses)
                yield from _locals(f"{statement.name}.", statement, _stored(statement))
            case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
                yield from _locals("", statement, uses.stored)
    yield from _arguments(uses)


class _Uses:
    """How the names of a file are used, in one walk."""

    def __init__(self, module: ast.Module) -> None:
        self.calls: list[ast.Call] = []
        self.started: set[str] = set()
        """What is given to a call that makes a command of it."""
        self.loaded: set[str] = set()
        self.stored: Counter[str] = Counter()
        """Names that are assigned."""
        self.attributes: set[str] = set()
        """`x.name = ...`, whatever x is."""
        self.commands: dict[str, str] = {}
        """The sub-commands of argparse by the variables that hold their parsers."""
        self.keys: set[tuple[str, str | None]] = set()
        """`name["key"] = ...`, and `name["key"]["inner"] = ...`; None for a key that is computed, and for
        `name.update(...)`."""
        for node in ast.walk(module):
            self._note(node)

    def _note(self, node: ast.AST) -> None:
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="update" | "setdefault")):
                self.keys.add((name, None))
            case ast.Call(func=ast.Attribute(value=ast.Subscript() as part, attr="update" | "setdefault")):
                self._note_key(part)
            case ast.Call(func=ast.Attribute(attr="set_defaults"), keywords=keywords):
                self.attributes.update(keyword.arg for keyword in keywords if keyword.arg)
            case ast.Call():
                self.calls.append(node)
                if node.args and isinstance(node.args[0], ast.Name) and _last_name(node.func) in _STARTS:
                    self.started.add(node.args[0].id)
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=ast.Call(func=ast.Attribute(attr="add_parser"), args=[ast.Constant(value=command), *_]),
            ):
                self.commands[name] = str(command)
            case ast.Name(id=name, ctx=ast.Load()):
                self.loaded.add(name)
            case ast.Name(id=name):
                self.stored[name] += 1
            case ast.Attribute(attr=name, ctx=ast.Store() | ast.Del()):
                self.attributes.add(name)
            case ast.Subscript(ctx=ast.Store() | ast.Del()):
                self._note_key(node)

    def _note_key(self, part: ast.Subscript) -> None:
        while isinstance(part.value, ast.Subscript):
            part = part.value
        if isinstance(part.value, ast.Name):
            key = part.slice.value if isinstance(part.slice, ast.Constant) else None
            self.keys.add((part.value.id, key if isinstance(key, str) else None))


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
            found.append((name, given, _command_of(call, uses)))
    times = Counter(name for name, _, _ in found)
    within = Counter((name, command) for name, _, command in found)
    for name, given, command in found:
        whole = name if times[name] == 1 else f"{command}.{name}"  # several commands have it
        unique = within[name, command] == 1 and (times[name] == 1 or command)
        if unique and name not in uses.attributes and "default" in given:
            yield _described(whole, given["default"], given)


def _command_of(call: ast.Call, uses: _Uses) -> str:
    """The sub-command of argparse that an option is for; empty for none."""
    match call.func:
        case ast.Attribute(value=ast.Name(id=parser)):
            return uses.commands.get(parser, "")
    return ""


def _flags(uses: _Uses) -> Iterator[Setting]:
    """The defaults of absl's flags."""
    found = []
    for call in uses.calls:
        match call:
            case ast.Call(args=[ast.Constant(value=str() as name), default, *rest]) if (
                _last_name(call.func) in _FLAGS
            ):
                found.append((name, default, rest, call))
    times = Counter(name for name, *_ in found)
    for name, default, rest, call in found:
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        if rest:
            given.setdefault("help", rest[-1])
        choices = rest[0] if _last_name(call.func) == "DEFINE_enum" and rest else None
        if times[name] == 1 and name not in uses.attributes:
            described = _described(name, default, given)
            low, high = given.get("lower_bound"), given.get("upper_bound")
            yield described._replace(choices=choices, low=low, high=high)


def _attributes(module: ast.Module, uses: _Uses) -> Iterator[Setting]:
    """What is set in a holder of settings after it was made: `config.lr = 0.1`, `config["lr"] = 0.1`.

    Only by a statement that always runs, and that alone sets it.
    """
    found: list[tuple[str, ast.expr]] = []
    times: Counter[str] = Counter()
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            times[_path_of(node)] += 1
    blocks = [module.body, *(node.body for node in ast.walk(module) if isinstance(node, ast.FunctionDef))]
    for block in blocks:
        nodes = {name for statement in block for name in _made_empty(statement)}
        for statement in block:
            match statement:
                case ast.Assign(targets=[ast.Attribute() | ast.Subscript() as target], value=value):
                    path = _path_of(target)
                    root = path.partition(".")[0]
                    is_holder = root in nodes or _is_settings(root)
                    if is_holder and times[path] == 1 and (root, None) not in uses.keys:
                        found += [(setting.name, setting.value) for setting in _nested(path, value)]
    names = Counter(name for name, _ in found)
    yield from (Setting(name, value) for name, value in found if names[name] == 1)


def _path_of(node: ast.expr) -> str:
    """`config.optim.lr`, also for `config["optim"]["lr"]`; empty for what is reached in another way."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=inner, attr=name):
            pass
        case ast.Subscript(value=inner, slice=ast.Constant(value=str() as name)) if name.isidentifier():
            pass
        case _:
            return ""
    before = _path_of(inner)
    return before and f"{before}.{name}"


def _made_empty(statement: ast.stmt) -> Iterator[str]:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as made) if _last_name(made) in _NODES:
            yield name


def _init_defaults(definition: ast.ClassDef, uses: _Uses) -> Iterator[Setting]:
    """The defaults of a Lightning module that no call in the file gives."""
    if not {_last_name(base) for base in definition.bases} & _MODULES:
        return
    for statement in definition.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            yield from _parameters(statement, uses, called=definition.name)


def _described(name: str, value: ast.expr, given: Mapping[str | None, ast.expr]) -> Setting:
    """A setting with what the arguments of a call say of it."""
    said = given.get("help") or given.get("description")
    text = said.value if isinstance(said, ast.Constant) and isinstance(said.value, str) else ""
    low, high = given.get("ge", given.get("min")), given.get("le", given.get("max"))
    return Setting(name, value, " ".join(text.split()), given.get("choices"), low, high)


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
    is_settings = _is_settings(name)
    if not (marks or bases & _BASES or is_settings) or "Enum" in str(bases):
        return
    if name not in uses.loaded and not is_settings:  # that of another file may well be used there
        return
    taken = set(uses.attributes)
    for call in uses.calls:
        if _last_name(call.func) == name:
            if call.args or any(keyword.arg is None for keyword in call.keywords):
                return
            taken.update(keyword.arg for keyword in call.keywords if keyword.arg)
    yield from _defaults(name, definition, taken)


def _defaults(prefix: str, definition: ast.ClassDef, taken: Collection[str]) -> Iterator[Setting]:
    """What the body of a class sets, classes inside of it included."""
    for statement in definition.body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=field)], value=value)
                | ast.AnnAssign(target=ast.Name(id=field), value=ast.expr() as value)
            ) if field not in taken:
                yield _field(f"{prefix}.{field}", value)
            case ast.ClassDef(name=inner):
                yield from _defaults(f"{prefix}.{inner}", statement, taken)


_FIELDS = {"field", "Field", "ib", "attrib", "Option", "Argument"}


def _field(name: str, value: ast.expr) -> Setting:
    """The default in `field(default=...)`, `Field(0.1, ge=0)` or `typer.Option(0.1)`, or the value itself."""
    if not isinstance(value, ast.Call) or _last_name(value.func) not in _FIELDS:
        return Setting(name, value)
    given = {keyword.arg: keyword.value for keyword in value.keywords}
    default = given.get("default", value.args[0] if value.args else value)
    return _described(name, default, given)


def _entries(name: str, value: ast.expr, uses: _Uses) -> Iterator[Setting]:
    """The entries of a dict or a namespace that nothing changes afterwards."""
    if uses.stored[name] > 1 or (name, None) in uses.keys:
        return
    is_dict = isinstance(value, ast.Dict) or _last_name(value) == "dict"
    for key, item in _pairs(value):
        if (name, key) not in uses.keys and (is_dict or key not in uses.attributes):
            yield from _nested(f"{name}.{key}", item)


def _nested(name: str, value: ast.expr) -> Iterator[Setting]:
    pairs = list(_pairs(value))
    for key, item in pairs:
        yield from _nested(f"{name}.{key}", item)
    if not pairs:
        yield Setting(name, value)


def _pairs(value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """The names and values in `{...}`, `dict(...)`, `SimpleNamespace(**{...})` and the like."""
    match value:
        case ast.Dict(keys=keys, values=values):
            for key, item in zip(keys, values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str) and key.value.isidentifier():
                    yield key.value, item
        case ast.Call(args=args, keywords=keywords) if _last_name(value.func) in _HOLDERS:
            for inner in [*args, *(keyword.value for keyword in keywords if keyword.arg is None)]:
                yield from _pairs(inner) if isinstance(inner, ast.Dict) else ()
            yield from ((keyword.arg, keyword.value) for keyword in keywords if keyword.arg)


def _is_script(function: ast.FunctionDef, uses: _Uses) -> bool:
    """Whether a function is a command, or is named like a whole script."""
    is_named = _MAIN.match(function.name) or function.name in uses.started
    return bool(is_named) or "command" in map(_last_name, function.decorator_list)


def _parameters(function: ast.FunctionDef, uses: _Uses, *, called: str = "") -> Iterator[Setting]:
    """The defaults of a function's parameters that no call gives and that it does not change itself."""
    given, stored = set(), _stored(function)
    parameters = [*function.args.posonlyargs, *function.args.args]
    if called:
        parameters = parameters[1:]  # without `self`
    called = called or function.name
    for call in uses.calls:
        if _last_name(call.func) == called:
            if any(keyword.arg is None for keyword in call.keywords) or any(
                isinstance(arg, ast.Starred) for arg in call.args
            ):
                return
            given |= {parameter.arg for parameter in parameters[: len(call.args)]}
            given |= {keyword.arg for keyword in call.keywords if keyword.arg}
    defaults = function.args.defaults
    pairs = [
        *zip(parameters[len(parameters) - len(defaults) :], defaults, strict=True),
        *zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True),
    ]
    for parameter, default in pairs:
        if default is not None and parameter.arg not in given and not stored[parameter.arg]:
            yield _field(f"{called}.{parameter.arg}", default)


def _locals(prefix: str, block: ast.FunctionDef | ast.If, stored: Counter[str]) -> Iterator[Setting]:
    """What a block sets right in its body, and nothing else sets."""
    for statement in block.body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ) if stored[name] == 1:
                yield Setting(prefix + name, value)


def _stored(block: ast.AST) -> Counter[str]:
    """How often names are assigned in a block; those that it declares global count twice."""
    found: Counter[str] = Counter()
    for node in ast.walk(block):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                found[name] += 1
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                found.update(names * 2)
    return found


_NOT_LEARNT = {*_FIELDS, *_HOLDERS, *_FLAGS, "IntRange", "FloatRange", "ArgumentParser"}
"""Classes whose arguments are no settings, or are read in another way."""


def _arguments(uses: _Uses) -> Iterator[Setting]:
    """Numbers that a class, or `fit`, is given by name, where one call alone does so."""
    found = []
    for call in uses.calls:
        name = _last_name(call.func) or ""
        if (_CLASS.match(name) or name == "fit") and name not in _NOT_LEARNT:
            found += [(f"{name}.{keyword.arg}", keyword.value) for keyword in call.keywords if keyword.arg]
    times = Counter(name for name, _ in found)
    for name, value in found:
        if times[name] == 1 and _is_number(value):
            yield Setting(name, value)


def _is_number(value: ast.expr) -> bool:
    """As a literal; a switch that a class is given may choose the data, and not how it is learnt."""
    match value:
        case ast.UnaryOp(operand=ast.expr() as inner) | ast.BinOp(left=inner, right=ast.Constant()):
            return _is_number(inner)
        case ast.Constant(value=int() | float() as number):
            return not isinstance(number, bool)
    return False


def _last_name(node: ast.expr) -> str | None:
    match node:
        case ast.Call(func=function):
            return _last_name(function)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return None
