"""Reads and sets the constants of a script: `DEPTH = 8  # layers [1..16]`.

A constant is an assignment of a literal to a name, at the top level of a file. In Python it is found by
parsing, and so are the settings that scripts keep elsewhere (`arf.workspace.python_settings`); in other
languages by a careful look at single lines (`NAME = 8`, `#define NAME 8`, `const NAME: u32 = 8;`, and any
key of a TOML, YAML, JSON or INI file, dotted by its section), where a name in code is in capitals.

The comment behind it may say in square brackets what the value may be, in parts joined by commas:

    [1..16]  [0.5..]  [..8]     bounds, both included
    ["relu" | "gelu"]           choices; [relu, gelu] too, if the value is one of them
    [step 16]                   moves by multiples of 16
    [multiple of HEAD_DIM]      a multiple of a number, or of another constant
    [log]                       is moved by factors, not by differences

Brackets that say something else, such as `[batch, time]`, are left alone. In a Python file a name in lower
case counts if nothing else in the file assigns it.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from attrs import evolve, frozen

from arf.errors import UsageError, nearest
from arf.types import Scalar
from arf.workspace.python_settings import Setting, find_settings

if TYPE_CHECKING:
    import yaml

Number = int | float
Value = Scalar | tuple[Scalar, ...]


@frozen(kw_only=True)
class Constant:
    """One constant, and where its value stands in the source."""

    name: str
    value: Value
    line: int
    """Counts from 1."""
    span: tuple[int, int]
    """The value in the source: start and end, in characters."""
    literal: str
    """The value as it is written."""
    comment: str = ""
    """The whole comment behind it, without its marker."""
    text: str = ""
    """The comment without the annotation: what it is, for people."""
    low: Number | None = None
    high: Number | None = None
    choices: tuple[Scalar, ...] = ()
    step: Number | None = None
    multiple_of: Number | str | None = None
    """A number, or the name of another constant."""
    log: bool = False
    fixed: str = ""
    """Why it cannot be set by name; empty if it can."""

    @property
    def movable(self) -> bool:
        """Whether an idea may set it by name."""
        return not self.fixed


def read(source: str, path: str) -> list[Constant]:
    """The constants of a file in the order of their lines; the language is known by the path's suffix.

    Where a name is assigned more than once at the top level, the last one counts. One that is also
    assigned in a branch, a loop or by `+=` is `fixed`. A Python file that does not parse has none.
    """
    return list(_read(source, _language(path)))


def replace(source: str, values: Mapping[str, Scalar], path: str) -> str:
    """The source with other values for the named constants; all else stays as it is, to the character.

    A value is written in the style of the one before: `2**18` after `2**19`, `1_000`, the same quotes.
    Raises UsageError for a name that is not there, one that cannot be set, and a value of another type.
    """
    known = {constant.name: constant for constant in read(source, path)}
    language = _language(path)
    spans = []
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"{path} has no constant {name!r}", hint=nearest(name, known))
        constant = known[name]
        if constant.fixed:
            raise UsageError(
                f"{path}:{constant.line}: {name} cannot be set by name: {constant.fixed}",
                hint="change the code instead",
            )
        if not _same(constant.value, value):
            spans.append((constant.span, _written(constant, value, path, language)))
    for (start, end), text in sorted(spans, reverse=True):
        source = source[:start] + text + source[end:]
    return source


def check(constants: Iterable[Constant], values: Mapping[str, Scalar]) -> None:
    """Raises UsageError if a value is not what the annotation of its constant allows.

    `values` are judged together: a multiple of another constant is one of its new value.
    """
    known = {constant.name: constant for constant in constants}
    for name, value in values.items():
        constant = known.get(name)
        if constant is None:
            continue
        problem = _violation(constant, value, known, values)
        if problem:
            raise UsageError(f"{name} = {value!r} {problem}", hint=f"its comment says: {constant.comment}")
    for name, constant in known.items():
        of = constant.multiple_of
        if (
            name not in values
            and isinstance(of, str)
            and of in values
            and isinstance(constant.value, int | float)
        ):
            problem = _violation(constant, constant.value, known, values)
            if problem:
                raise UsageError(f"{of} = {values[of]!r} leaves {name} = {constant.value!r}, which {problem}")


def _violation(
    constant: Constant, value: Scalar, known: Mapping[str, Constant], values: Mapping[str, Scalar]
) -> str:
    if constant.choices and not any(_same(choice, value) for choice in constant.choices):
        return f"is none of {', '.join(repr(choice) for choice in constant.choices)}"
    if isinstance(value, str | bool):
        return ""
    if constant.low is not None and value < constant.low:
        return f"is below {constant.low}"
    if constant.high is not None and value > constant.high:
        return f"is above {constant.high}"
    of: object = constant.multiple_of
    label = f"{of}"
    if isinstance(of, str):
        other = known.get(of)
        of = values.get(of, other.value if other else None)
        label = f"{constant.multiple_of} = {of}"
    if isinstance(of, int | float) and not isinstance(of, bool) and of and not _is_multiple(value, of):
        return f"is no multiple of {label}"
    return ""


def _is_multiple(value: Number, of: Number) -> bool:
    if isinstance(value, int) and isinstance(of, int):
        return value % of == 0
    ratio = value / of
    return math.isclose(ratio, round(ratio), rel_tol=1e-9, abs_tol=1e-9)


def _same(a: object, b: object) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)


# ------------------------------------------------------------------------------------------- languages


@frozen(kw_only=True)
class _Language:
    name: str
    comments: tuple[str, ...] = ("#",)
    any_case: bool = False
    """Every key counts: a file of configuration, not of code."""
    sections: bool = False
    """`[section]` lines prefix the names after them."""
    nested: bool = False
    """Indentation nests keys (YAML)."""
    true_false: tuple[str, str] = ("true", "false")


_PYTHON = _Language(name="python", true_false=("True", "False"))
_SHELL = _Language(name="shell")
_C_LIKE = _Language(name="c", comments=("//", "/*"))
_INI = _Language(name="ini", comments=("#", ";"), any_case=True, sections=True)
_JSON = _Language(name="json", comments=())
_YAML = _Language(name="yaml", any_case=True, nested=True)
_SUFFIXES = {
    _PYTHON: ".py .pyw .pyi",
    _INI: ".toml .ini .cfg .conf",
    _YAML: ".yaml .yml",
    _Language(name="env", any_case=True): ".env .properties",
    _C_LIKE: ".c .h .cc .cpp .cxx .hpp .cu .cuh .metal .rs .go .zig .js .mjs .ts .java .kt .scala .swift .cs",
    _Language(name="lua", comments=("--",)): ".lua .hs",
    _JSON: ".json",
}
_LANGUAGES = {suffix: language for language, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}
"""By suffix; anything else is read like a shell script."""


def _language(path: str) -> _Language:
    return _LANGUAGES.get(PurePosixPath(path).suffix.lower(), _SHELL)


@lru_cache(maxsize=512)
def _read(source: str, language: _Language) -> tuple[Constant, ...]:
    readers = {_PYTHON: _read_python, _JSON: _read_json, _YAML: _read_yaml}
    found = readers[language](source) if language in readers else _read_lines(source, language)
    last: dict[str, Constant] = {}
    for constant in found:
        last.pop(constant.name, None)
        last[constant.name] = constant
    return tuple(last.values())


# ---------------------------------------------------------------------------------------------- Python


def parse_python(source: str) -> ast.Module | None:
    """The syntax tree; None if it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape is the script's business
            return ast.parse(_clean(source.removeprefix("\ufeff")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _clean(source: str) -> str:
    """The source with each byte that is not UTF-8, a lone surrogate, as a question mark: Python's parser and
    the columns that it gives know no others."""
    return source if source.isascii() else re.sub("[\ud800-\udfff]", "?", source)


class Lines:
    """Where the lines of a source begin. As in Python's parser, `\\n`, `\\r\\n` and `\\r` end one."""

    def __init__(self, source: str) -> None:
        self._source = source = _clean(source)
        self._starts = [
            int(source.startswith("\ufeff")),
            *(match.end() for match in re.finditer(r"\r\n|\r|\n", source)),
        ]

    def offset(self, line: int, column: int) -> int:
        """The character at a line, from 1, and a column, from 0 and in UTF-8 bytes as `ast` gives it."""
        start = self._starts[line - 1]
        if self._source[start : start + column].isascii():
            return start + column
        end = self._starts[line] if line < len(self._starts) else len(self._source)
        return start + len(self._source[start:end].encode()[:column].decode())

    def rest(self, offset: int) -> str:
        """What follows on the same line."""
        match = re.compile(r"[^\r\n]*").match(self._source, offset)
        return match[0] if match else ""

    def span(self, node: ast.expr) -> tuple[int, int]:
        end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or 0
        return self.offset(node.lineno, node.col_offset), self.offset(end_line, end_column)


_CAPITALS = re.compile(r"_*[A-Z][A-Z0-9_]*\Z")


def _read_python(source: str) -> Iterator[Constant]:
    module = parse_python(source)
    if module is None:
        return
    lines = Lines(source)
    moving = _assigned_elsewhere(module)
    times = Counter(_plain_name(statement) for statement in module.body)
    known = set()
    for statement in module.body:
        name = _plain_name(statement)
        if not name or not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
            continue
        constant = _python_constant(source, lines, name, statement.value)
        if constant is None:
            continue
        constant = evolve(constant, line=statement.lineno, fixed=moving.get(name, constant.fixed))
        plain = _CAPITALS.match(name) or constant.text != constant.comment
        if plain or (name not in moving and times[name] == 1 and not name.startswith("_")):
            known.add(name)
            yield constant
    settings = [setting for setting in find_settings(module) if setting.name not in known]
    names = {setting.name for setting in settings}
    for setting in settings:
        constant = _python_constant(source, lines, setting.name, setting.value, setting.text)
        if constant is not None:
            yield _in_its_place(constant, setting, names)


_MOST_JSON = 1_000_000  # characters; what is longer is data
_MOST_YAML = 100_000  # the same; its parser is slow


_KEY = re.compile(r"[\w-]+")
"""Keys of which a name can be made that tells no other thing."""


def _read_json(source: str) -> Iterator[Constant]:
    """Every value in objects, dotted by their keys. JSON is all but an expression of Python."""
    module = parse_python(source) if len(source) <= _MOST_JSON else None
    match module:
        case ast.Module(body=[ast.Expr(value=ast.Dict() as top)]):
            lines = Lines(source)
            for name, node in _json_values(top, ""):
                value = node.id == "true" if isinstance(node, ast.Name) else _literal(node)
                if value is not None:
                    span = lines.span(node)
                    fixed = _sequence(node) if isinstance(value, tuple) else ""
                    yield Constant(
                        name=name,
                        value=value,
                        line=node.lineno,
                        span=span,
                        literal=source[slice(*span)],
                        fixed=fixed,
                    )


def _json_values(value: ast.Dict, prefix: str) -> Iterator[tuple[str, ast.expr]]:
    for key, item in zip(value.keys, value.values, strict=True):
        if (
            not isinstance(key, ast.Constant)
            or not isinstance(key.value, str)
            or not _KEY.fullmatch(key.value)
        ):
            continue
        name = prefix + key.value
        if isinstance(item, ast.Dict):
            yield from _json_values(item, name + ".")
        elif not isinstance(item, ast.Name) or item.id in ("true", "false"):
            yield name, item


def _read_yaml(source: str) -> Iterator[Constant]:
    """Every value in mappings, dotted by their keys; what is no YAML, such as a template, by single lines."""
    import yaml

    try:
        top = yaml.compose(source, Loader=yaml.SafeLoader) if len(source) <= _MOST_YAML else None
    except (yaml.YAMLError, RecursionError, ValueError):
        top = None
    if not isinstance(top, yaml.MappingNode):
        yield from _read_lines(source, _YAML)
        return
    lines = Lines(source)
    for name, node in _yaml_values(top, "", set()):
        span = node.start_mark.index, node.end_mark.index
        literal = source[slice(*span)]
        value = _yaml_value(node, source)
        if value is not None:
            yield _annotate(
                Constant(
                    name=name,
                    value=value,
                    line=node.start_mark.line + 1,
                    span=span,
                    literal=literal,
                    comment=_comment(lines.rest(span[1]), _YAML),
                    fixed="it is a list" if isinstance(value, tuple) else "",
                )
            )


def _yaml_values(mapping: yaml.MappingNode, prefix: str, seen: set[int]) -> Iterator[tuple[str, yaml.Node]]:
    """The values with the names of their keys, those of an alias once."""
    import yaml

    for key, item in mapping.value:
        if isinstance(key, yaml.ScalarNode) and _KEY.fullmatch(key.value) and id(item) not in seen:
            seen.add(id(item))
            name = prefix + key.value
            if isinstance(item, yaml.MappingNode):
                yield from _yaml_values(item, name + ".", seen)
            else:
                yield name, item


def _yaml_value(node: yaml.Node, source: str) -> Value | None:
    """The value of a scalar or of a list as `[0.9, 0.95]`; None for anything else."""
    import yaml

    if isinstance(node, yaml.SequenceNode) and node.flow_style and 0 < len(node.value) <= _MAX_ELEMENTS:
        values = [_yaml_value(item, source) for item in node.value]
        is_list = all(isinstance(value, bool | int | float | str) for value in values)
        return tuple(cast("list[Scalar]", values)) if is_list else None
    literal = source[node.start_mark.index : node.end_mark.index]
    is_line = isinstance(node, yaml.ScalarNode) and literal and "\n" not in literal
    return _plain_value(literal, _YAML) if is_line else None


def _plain_name(statement: ast.stmt) -> str:
    """The name that a statement assigns; empty if it assigns none, or more than one."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
    return ""


def _python_constant(source: str, lines: Lines, name: str, node: ast.expr, text: str = "") -> Constant | None:
    """A constant of this value; None if it is no literal. `text` is what explains it if no comment does."""
    value = _literal(node)
    if value is None:
        return None
    span = lines.span(node)
    return _annotate(
        Constant(
            name=name,
            value=value,
            line=node.lineno,
            span=span,
            literal=source[slice(*span)],
            comment=_comment(lines.rest(span[1]), _PYTHON) or text,
            fixed=_sequence(node) if isinstance(value, tuple) else "",
        )
    )


def _sequence(node: ast.expr) -> str:
    """Why a constant with several values cannot be set by name."""
    return "it is a list" if isinstance(node, ast.List) else "it is a tuple"


def _in_its_place(constant: Constant, setting: Setting, names: Collection[str]) -> Constant:
    """With the choices and limits of an option; `multiple of` means a neighbour by its full name."""
    neighbour = f"{setting.name.rpartition('.')[0]}.{constant.multiple_of}"
    if neighbour in names:
        constant = evolve(constant, multiple_of=neighbour)
    if isinstance(setting.choices, ast.List | ast.Tuple) and not constant.choices:
        choices = [_literal(item) for item in setting.choices.elts]
        if all(isinstance(item, bool | int | float | str) for item in choices):
            constant = evolve(constant, choices=tuple(cast("list[Scalar]", choices)))
    if constant.low is None and constant.high is None:
        low, high = (None if end is None else _number(end) for end in (setting.low, setting.high))
        constant = evolve(constant, low=low, high=high)
    return constant


def _assigned_elsewhere(module: ast.Module) -> dict[str, str]:
    """Names whose value at run time is not what the top level says, and why."""
    reasons: dict[str, str] = {}
    for statement in module.body:
        for node in _at_module_scope(statement):
            line = getattr(node, "lineno", statement.lineno)
            match node:
                case ast.AugAssign(target=ast.Name(id=name)):
                    reasons[name] = f"line {line} changes it in place"
                case ast.Name(id=name, ctx=ast.Store()) if not _is_plain(statement, node):
                    reasons[name] = f"line {line} assigns it as well"
                case ast.Global(names=names):
                    reasons.update(dict.fromkeys(names, f"line {line} declares it global in a function"))
    return reasons


def _is_plain(statement: ast.stmt, name: ast.Name) -> bool:
    """Whether the statement is an assignment to this one name, and nothing else."""
    if isinstance(statement, ast.Assign):
        return statement.targets == [name] and _literal(statement.value) is not None
    return isinstance(statement, ast.AnnAssign) and statement.target is name


def _at_module_scope(statement: ast.stmt) -> Iterator[ast.AST]:
    """The statement and what is in it; of functions and classes only their `global` statements."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield from (node for node in ast.walk(statement) if isinstance(node, ast.Global))
        return
    yield statement
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.withitem | ast.match_case):
            yield from _at_module_scope(cast(ast.stmt, child))
        elif isinstance(child, ast.expr):
            yield from (node for node in ast.walk(child) if isinstance(node, ast.Name))


def _literal(node: ast.expr) -> Value | None:
    """The value of a literal, of arithmetic on literals, or of a tuple of them; None for anything else."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            number = _number(operand)
            return None if number is None else (-number if isinstance(sign, ast.USub) else number)
        case ast.BinOp(left=left, op=op, right=right):
            return _arithmetic(_number(left), op, _number(right))
        case ast.Tuple(elts=elements) | ast.List(elts=[_, *_] as elements) if len(elements) <= _MAX_ELEMENTS:
            values = [_literal(element) for element in elements]
            if all(isinstance(value, bool | int | float | str) for value in values):
                return tuple(cast("list[Scalar]", values))
    return None


def _number(node: ast.expr) -> Number | None:
    value = _literal(node)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


_MAX_ELEMENTS = 16  # what is longer is data
_MAX_EXPONENT = 256  # a script may say 10**10**10, and evaluating that would never end


def _arithmetic(left: Number | None, op: ast.operator, right: Number | None) -> Number | None:
    if left is None or right is None:
        return None
    try:
        match op:
            case ast.Add():
                value = left + right
            case ast.Sub():
                value = left - right
            case ast.Mult():
                value = left * right
            case ast.Div():
                value = left / right
            case ast.FloorDiv():
                value = left // right
            case ast.Pow() if abs(right) <= _MAX_EXPONENT and abs(left) <= 2**64:
                value = left**right
            case ast.LShift() if isinstance(left, int) and isinstance(right, int) and right <= _MAX_EXPONENT:
                value = left << right
            case _:
                return None
    except (ArithmeticError, ValueError):
        return None
    return value if isinstance(value, int | float) else None


# ------------------------------------------------------------------------------------- other languages

_VALUE = r"""(?P<value>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[-+]?[\w.]+(?:[-+]\w+)?)"""
_NAME = r"(?P<name>[A-Za-z_][\w-]*)"
_DEFINE = re.compile(
    rf"#[ \t]*define[ \t]+{_NAME}[ \t]+\(?[ \t]*{_VALUE}[ \t]*\)?(?P<rest>[ \t]*(?://|/\*).*)?[ \t]*\Z"
)
_ASSIGN = re.compile(
    r"(?:(?:export|const|let|var|val|static|constexpr|inline|readonly|final|pub|local|public|private)\s+)*"
    r"(?:[A-Za-z_](?:\w|::|<[\w:]*>)*\s+(?:[A-Za-z_]\w*\s+)?)?"  # a type, as in `unsigned int N = 8;`
    rf"\$?{_NAME}\s*(?::\s*[A-Za-z_][\w.:<>&' ]*)?\s*(?::=|\?=|<-|=>|=)\s*"
    rf"(?P<default>\$\{{(?P=name):?-)?{_VALUE}(?(default)\}})(?P<rest>\s*[;,]?\s*(?:(?:\#|//|/\*|--|;).*)?)\Z"
)
_GO_ASSIGN = re.compile(
    rf"(?:var|const)\s+{_NAME}\s+(?:u?int\d*|float\d+|string|bool)\s*=\s*{_VALUE}(?P<rest>\s*(?://.*)?)\Z"
)
_SHELL_ASSIGN = re.compile(
    rf"(?:export\s+|readonly\s+|local\s+)?{_NAME}=(?P<quote>\"?)(?P<default>\$\{{(?P=name):?-)?{_VALUE}"
    rf"(?(default)\}})(?P=quote)(?P<rest>\s*;?(?:\s+\#.*)?)\Z"
)
_YAML_KEY = re.compile(rf"(?P<indent> *){_NAME}\s*:(?:\s+{_VALUE})?(?P<rest>\s*(?:\#.*)?)\Z")
_SECTION = re.compile(r"\[+\s*([\w.\-]+)\s*\]+\s*(?:[#;].*)?\Z")
_NUMERAL = re.compile(
    r"(?P<digits>[-+]?(?:0[xX][0-9a-fA-F]+|(?:\d[\d_]*(?:\.[\d_]*)?|\.\d+)(?:[eE][-+]?\d+)?))"
    r"(?P<suffix>[fFlLuU]{0,3}|[iu](?:8|16|32|64|128|size)|_?f(?:32|64))\Z"
)


def _read_lines(source: str, language: _Language) -> Iterator[Constant]:
    seen: dict[str, int] = {}
    found = []
    for number, name, span, rest in _assignments(source, language):
        seen[name] = seen.get(name, 0) + 1
        value = _plain_value(source[slice(*span)], language)
        if value is not None:
            constant = Constant(name=name, value=value, line=number, span=span, literal=source[slice(*span)],
                                comment=_comment(rest, language))  # fmt: skip
            found.append(_annotate(constant))
    if language is _SHELL and _is_shell_script(source):
        for constant in _shell_options(source):
            seen[constant.name] = seen.get(constant.name, 0) + 1
            found.append(constant)
    for constant in found:
        if seen[constant.name] > 1:
            constant = evolve(constant, fixed=f"it is assigned {seen[constant.name]} times")
        yield constant


_OPTION = re.compile(
    r"(?<=\s)(?:--(?P<option>[A-Za-z][\w.-]*)(?:=|[ \t]+)|(?P<key>[a-z_]\w*(?:\.\w+)+)=)"
    r"(?P<value>[-+]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|true|false)(?=\s|\Z|\\)"
)


def _is_shell_script(source: str) -> bool:
    return re.match(r"#!.*\b(?:ba|z|da|k)?sh\b", source) is not None


def _shell_options(source: str) -> Iterator[Constant]:
    """What a script's commands are given: `--lr 0.1`, `--lr=0.1`, and `optim.lr=0.1` as Hydra has it.

    They are named as they are written, `--lr` and `optim.lr=`, as what they set may be a constant too.
    """
    for number, line in enumerate(re.finditer(r"([^\r\n]*)(?:\r\n|\r|\n|\Z)", source), 1):
        if line[1].lstrip().startswith("#"):
            continue
        for match in _OPTION.finditer(line[1]):
            value = _plain_value(match["value"], _SHELL)
            if value is not None:
                name = f"--{match['option']}" if match["option"] else f"{match['key']}="
                span = _moved(match.span("value"), line.start())
                yield Constant(name=name, value=value, line=number, span=span, literal=match["value"])


def _assignments(source: str, language: _Language) -> Iterator[tuple[int, str, tuple[int, int], str]]:
    """Line number, name, span of the value and the rest of the line of whatever looks like an assignment."""
    section = ""
    stack: list[tuple[int, str]] = []
    for number, match in enumerate(re.finditer(r"([^\r\n]*)(?:\r\n|\r|\n|\Z)", source), 1):
        line = match[1].rstrip()
        if language.sections and (header := _SECTION.match(line)):
            section = header[1] + "."
            continue
        if language.nested:
            hit = _YAML_KEY.match(line)
            if hit:
                indent = len(hit["indent"])
                stack = [item for item in stack if item[0] < indent]
                name = ".".join([*(key for _, key in stack), hit["name"]])
                stack.append((indent, hit["name"]))
                if hit["value"] is not None:
                    yield number, name, _moved(hit.span("value"), match.start()), hit["rest"]
            continue
        if language.name == "shell":
            hit = _SHELL_ASSIGN.match(line) or _ASSIGN.match(line)
        else:
            hit = _DEFINE.match(line) or _GO_ASSIGN.match(line) or _ASSIGN.match(line)
        if hit and (language.any_case or _CAPITALS.match(hit["name"])):
            yield number, section + hit["name"], _moved(hit.span("value"), match.start()), hit["rest"] or ""


def _moved(span: tuple[int, int], by: int) -> tuple[int, int]:
    return span[0] + by, span[1] + by


def _plain_value(text: str, language: _Language) -> Scalar | None:
    if text[0] in "\"'" and text[-1] == text[0] and len(text) > 1:
        return text[1:-1] if "\\" not in text else None
    if language.nested and text.lower() in _YAML_SWITCHES:
        return text.lower() in ("true", "yes", "on")
    if language.nested and text.lower() in ("null", "~"):
        return None
    if text in language.true_false:
        return text == language.true_false[0]
    if number := _NUMERAL.match(text):
        return _parse_number(number["digits"])
    bare = language.name in ("shell", "yaml", "env") or language.sections
    return text if bare and re.fullmatch(r"[A-Za-z][\w.\-]*", text) else None


def _parse_number(text: str) -> Number | None:
    try:
        return (
            int(text.replace("_", ""), 0)
            if re.fullmatch(r"[-+]?(0[xX][0-9a-fA-F]+|[\d_]+)", text)
            else float(text)
        )
    except ValueError:  # 007, or an underscore in an odd place
        return None


# ----------------------------------------------------------------------------------- comments in brackets


def _comment(rest: str, language: _Language) -> str:
    """The comment in the rest of a line after a value; none if other code comes first."""
    for text in (rest.strip(), rest.strip().lstrip(";,) \t")):
        for marker in language.comments:
            if text.startswith(marker):
                return text[len(marker) :].removesuffix("*/").strip()
    return ""


_NUM = r"[-+]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?:\*\*\d+)?"
_ITEM = rf"\"[^\"]*\"|'[^']*'|{_NUM}(?![\w.])|[A-Za-z_][\w.+-]*"
_BRACKETS = re.compile(r"\[((?:\"[^\"]*\"|'[^']*'|[^\]\"'])*)\]")
_PARTS = re.compile(r"(?:\"[^\"]*\"|'[^']*'|[^,\"'])+")
_RANGE = re.compile(rf"(?P<low>{_NUM})?\s*\.\.\s*(?P<high>{_NUM})?\Z")
_CHOICES = re.compile(rf"(?:{_ITEM})(?:\s*\|\s*(?:{_ITEM}))+\Z")
_LIST = re.compile(rf"\s*(?:{_ITEM})(?:\s*,\s*(?:{_ITEM}))+\s*\Z")
_STEP = re.compile(rf"step\s+({_NUM})\Z")
_MULTIPLE = re.compile(rf"multiples?\s+of\s+({_NUM}|[A-Za-z_][\w.]*)\Z")


def annotated(constant: Constant, text: str) -> Constant:
    """The constant with another annotation, such as `1..16, step 2`. Raises UsageError if it is none."""
    fields = _parse_annotation(text) or _parse_list(text, constant.value)
    if not fields:
        raise UsageError(
            f"{constant.name}: {text!r} says no range",
            hint="write `1..16`, `1e-5..1e-2, log` or `relu | gelu`",
        )
    return evolve(constant, **{"low": None, "high": None, "choices": (), **fields})


def _annotate(constant: Constant) -> Constant:
    for match in _BRACKETS.finditer(constant.comment):
        fields = _parse_annotation(match[1]) or _parse_list(match[1], constant.value)
        if fields:
            text = constant.comment[: match.start()] + constant.comment[match.end() :]
            return evolve(constant, text=" ".join(text.split()).strip(" ,;"), **fields)
    return evolve(constant, text=constant.comment)


def _parse_annotation(text: str) -> dict[str, Any]:
    """The fields of a Constant that an annotation sets; none if it is no annotation."""
    fields: dict[str, Any] = {}
    for raw in _PARTS.findall(text):
        part = raw.strip()
        if part == "log":
            fields["log"] = True
        elif (match := _RANGE.match(part)) and (match["low"] or match["high"]):
            fields["low"], fields["high"] = _bound(match["low"]), _bound(match["high"])
        elif match := _STEP.match(part):
            fields["step"] = _bound(match[1])
        elif match := _MULTIPLE.match(part):
            fields["multiple_of"] = _bound(match[1]) if match[1][0] in "+-.0123456789" else match[1]
        elif _CHOICES.match(part):
            fields["choices"] = tuple(_choice(item) for item in re.findall(_ITEM, part))
        else:
            return {}
    return fields


def _parse_list(text: str, value: object) -> dict[str, Any]:
    """The choices of `[relu, gelu]`: a list that has the value. Two numbers may as well be bounds."""
    if not _LIST.match(text):
        return {}
    choices = tuple(_choice(item) for item in re.findall(_ITEM, text))
    has_value = any(_same(choice, value) for choice in choices)
    is_clear = isinstance(value, str) or len(choices) > 2
    return {"choices": choices} if has_value and is_clear else {}


def _bound(text: str | None) -> Number | None:
    if not text:
        return None
    base, _, exponent = text.partition("**")
    value = _parse_number(base)
    if value is None or not exponent:
        return value
    return _arithmetic(value, ast.Pow(), int(exponent))


def _choice(text: str) -> Scalar:
    if text[0] in "\"'":
        return text[1:-1]
    if text in ("True", "true", "False", "false"):
        return text in ("True", "true")
    number = _bound(text) if re.fullmatch(_NUM, text) else None
    return text if number is None else number


# ----------------------------------------------------------------------------------------------- writing


def _written(constant: Constant, value: Scalar, path: str, language: _Language) -> str:
    """A value as source text, in the style of the one that it replaces."""
    old, literal = constant.value, constant.literal
    where = f"{path}:{constant.line}: {constant.name}"
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a string"}
    if isinstance(old, bool) != isinstance(value, bool) or isinstance(old, str) != isinstance(value, str):
        raise UsageError(f"{where} is {literal}: its value must be {kinds[type(old)]}, not {value!r}")
    if isinstance(value, bool):
        return _written_switch(literal, value) if language.nested else language.true_false[0 if value else 1]
    if isinstance(value, str):
        return _written_string(literal, value, where, language)
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where} cannot be {value!r}", hint="use a finite number")
    if isinstance(old, float):
        return _with_suffix(literal, _written_float(float(value), language))
    if isinstance(value, float) and not value.is_integer():
        return _with_suffix(literal, _written_float(value, language))
    return _with_suffix(literal, _written_int(literal, int(value)))


_YAML_SWITCHES = {"true": "false", "yes": "no", "on": "off"}
_YAML_SWITCHES |= {off: on for on, off in _YAML_SWITCHES.items()}


def _written_switch(literal: str, value: bool) -> str:
    """`False` after `True`, `no` after `yes`: readers of YAML 1.1 and 1.2 both know what was there."""
    other = _YAML_SWITCHES[literal.lower()]
    is_on = literal.lower() in ("true", "yes", "on")
    if is_on == value:
        return literal
    return other.upper() if literal.isupper() else other.capitalize() if literal[0].isupper() else other


def _written_float(value: float, language: _Language) -> str:
    text = repr(value)
    if language.nested and "e" in text and "." not in text:  # to YAML 1.1, 5e-05 is a text
        return text.replace("e", ".0e")
    return text


def _with_suffix(literal: str, text: str) -> str:
    match = _NUMERAL.match(literal)
    suffix = match["suffix"] if match else ""
    if "." in text and suffix and suffix[0] not in "fF_":  # 10u32 that becomes 0.5
        return text
    return text + suffix


def _written_int(literal: str, value: int) -> str:
    if match := re.fullmatch(r"(\d+)(\s*\*\*\s*)(\d+)", literal):
        base = int(match[1])
        if base > 1 and (exponent := _exponent(value, base)) is not None:
            return f"{base}{match[2]}{exponent}"
    if (match := re.fullmatch(r"1(\s*<<\s*)\d+", literal)) and (exponent := _exponent(value, 2)) is not None:
        return f"1{match[1]}{exponent}"
    if match := re.fullmatch(r"\d+(\s*\*\s*)(\d[\d_]*)", literal):
        unit = int(match[2])
        if unit and value > 0 and value % unit == 0:
            return f"{value // unit}{match[1]}{match[2]}"
    if literal[:2] in ("0x", "0X"):
        return hex(value)
    return f"{value:_}" if "_" in literal and re.fullmatch(r"[-+\d_]+", literal) else str(value)


def _exponent(value: int, base: int) -> int | None:
    """`k` where `base**k == value`."""
    if value < 1:
        return None
    exponent = 0
    while value % base == 0:
        value //= base
        exponent += 1
    return exponent if value == 1 else None


def _written_string(literal: str, value: str, where: str, language: _Language) -> str:
    if language is _PYTHON:
        quote = "'" if literal.lstrip("rRuUbB").startswith("'") else '"'
        text = repr(value)
        if text[0] != quote and quote not in value:
            text = quote + text[1:-1] + quote
        return text
    if not value.isprintable() or any(character in value for character in "\"'\\$`"):
        raise UsageError(
            f"{where} cannot be {value!r}: quotes and escapes are not set by name outside Python"
        )
    if literal[0] in "\"'":
        return literal[0] + value + literal[0]
    if not re.fullmatch(r"[A-Za-z][\w.\-]*", value):
        raise UsageError(
            f"{where} is a bare word, and {value!r} needs quotes", hint="change the line instead"
        )
    return value
