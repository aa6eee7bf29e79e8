"""Finds the seeds of a script: a change of nothing but a seed is no idea, and a run gets arf's seed.

In Python, a seed is the argument of a call that seeds (`torch.manual_seed(42)`, `default_rng(42)`,
`set_seed(42)`, `PRNGKey(42)`), an argument named `seed`, what is assigned to a name such as `SEED` or
`self.seed`, and the default of an option `--seed`, absl's flags too. Elsewhere it is a number right behind
such a name: `srand(42)`, `seed_from_u64(42)`, `--seed 42` in a shell script.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache

from arf.workspace import constants
from arf.workspace.constants import Lines, parse_python

_SEEDING = re.compile(
    r"(?:(?:set_|fix_|init_|torch_|np_|numpy_)?(?:random_|all_|global_)?seeds?(?:_all|_everything)?"
    r"|manual_seed(?:_all)?|seed_rngs?|fix_randomness|enable_full_determinism"
    r"|default_rng|RandomState|SeedSequence|PCG64|MT19937|Philox|SFC64|PRNGKey|Rngs)\Z",
    re.IGNORECASE,
)
"""Names of calls whose first argument is a seed."""
_QUALIFIED = {("random", "key"), ("random", "Random"), ("tf", "set_random_seed")}
"""The same for names that mean it only behind another one: `jax.random.key`, `random.Random`."""
_FIELDS = {"field", "Field", "ib", "attrib", "Option"}
"""Calls that hold the default of a field or an option: `seed: int = field(default=42)`."""
_NAME = re.compile(r"(?:.*_)?(?:seed|random_state)\Z", re.IGNORECASE)
"""Names of variables and arguments that hold a seed."""
_FUNCTION = re.compile(r"(?:.*_)?seeds?(?:_.*)?\Z", re.IGNORECASE)
"""Names of functions that are about the seed alone, such as `seed_from_env`."""
_ELSEWHERE = re.compile(
    r"((?:\b|_)(?:seed|srand|manual_seed|set_seed|random_state|PRNGKey|mt19937)\w*!?[\"']?\s*(?:[=:(,]|\s)[\s(]*)-?\d+",
    re.IGNORECASE,
)


_CALLS = re.compile(
    r"(\b(?:srand(?:48|om)?|\w*seed_from_u64|manual_seed(?:_all)?|set_seed|set\.seed|Random\.seed!|rand\.Seed"
    r"|rand\.NewSource|(?:mt19937(?:_64)?|default_random_engine|minstd_rand)(?:\s+\w+)?)\s*[({]\s*)\d+"
)
"""Calls that seed in C, C++, Rust, Go, R and Julia, up to the number."""
_OPTIONS = re.compile(r"((?<![\w-])--?(?:\w+[-_])*(?:seed|random[-_]state)(?:=|[ \t]+))\d+\b")
"""Options of a command in a script, up to the number."""


def rewrite(source: str, seed: int, path: str = "train.py") -> str:
    """A source with `seed` in place of each literal seed; of `42 + rank` only the number changes.

    In another language than Python, of each constant that is named like a seed and set in one place, and of
    calls and options that seed.
    """
    if not path.endswith(".py"):
        known = (one for one in constants.read(source, path) if one.movable and is_seed_name(one.name))
        source = constants.replace(source, {one.name: seed for one in known if type(one.value) is int}, path)
        return _OPTIONS.sub(rf"\g<1>{seed}", _CALLS.sub(rf"\g<1>{seed}", source))
    for start, end in reversed(_spans(source)):
        source = source[:start] + str(seed) + source[end:]
    return source


def is_seed_name(name: str) -> bool:
    """Whether a constant of this name holds a seed; `train.seed` is one in a section."""
    return _NAME.match(name.rpartition(".")[2].strip("-=")) is not None


def same_but_for_seeds(old: str, new: str, *, python: bool) -> bool:
    """Whether two sources do the same, seeds aside. In Python, comments and layout do not count either."""
    if python and (trees := (parse_python(old), parse_python(new))) and None not in trees:
        old_tree, new_tree = (ast.dump(_without_seeds(tree)) for tree in trees if tree is not None)
        return old_tree == new_tree
    return _ELSEWHERE.sub(r"\g<1>0", old) == _ELSEWHERE.sub(r"\g<1>0", new)


def same_code(old: str, new: str) -> bool:
    """Whether two Python sources differ in comments and layout at most."""
    trees = parse_python(old), parse_python(new)
    return None not in trees and len({ast.dump(tree) for tree in trees if tree is not None}) == 1


# ------------------------------------------------------------------------------------------- finding


@lru_cache(maxsize=64)
def _spans(source: str) -> tuple[tuple[int, int], ...]:
    """Where the literal integer seeds of a Python source are, in order."""
    module = parse_python(source)
    if module is None:
        return ()
    lines = Lines(source)
    literals = {id(node): node for value in _seed_values(module) for node in _literals(value)}
    return tuple(sorted(lines.span(node) for node in literals.values()))


def _literals(value: ast.expr) -> Iterator[ast.expr]:
    match value:
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            yield value
        case ast.BinOp(left=ast.Constant(value=int()) as number, op=ast.Add()):
            yield number
        case ast.BinOp(op=ast.Add(), right=ast.Constant(value=int()) as number):
            yield number
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in _FIELDS:
            given = [keyword.value for keyword in value.keywords if keyword.arg == "default"]
            for default in [*given, *value.args[:1]]:
                yield from _literals(default)


def _seed_values(module: ast.Module) -> Iterator[ast.expr]:
    """Every expression that is used as a seed."""
    for node in ast.walk(module):
        match node:
            case ast.Call():
                yield from _call_seeds(node)
            case ast.Assign(targets=targets, value=value) if any(_holds_seed(target) for target in targets):
                yield value
            case ast.AnnAssign(target=target, value=ast.expr() as value) if _holds_seed(target):
                yield value
            case ast.arguments():
                yield from (value for name, value in _defaults(node) if _NAME.match(name))
            case ast.Dict(keys=keys, values=values):
                yield from (value for key, value in zip(keys, values, strict=True) if _is_seed_key(key))


def _call_seeds(call: ast.Call) -> Iterator[ast.expr]:
    if call.args and _seeds(call.func):
        yield call.args[0]
    if _defines_flag(call):
        yield from call.args[1:2]
    option = _defines_flag(call) or any(
        isinstance(arg, ast.Constant) and _is_seed_option(arg.value) for arg in call.args
    )
    for keyword in call.keywords:
        if keyword.arg and (_NAME.match(keyword.arg) or (option and keyword.arg == "default")):
            yield keyword.value


def _defines_flag(call: ast.Call) -> bool:
    """`flags.DEFINE_integer("seed", 42, "...")` of absl."""
    match call:
        case ast.Call(
            func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=str() as flag), *_]
        ):
            return name.startswith("DEFINE_") and _NAME.match(flag) is not None
    return False


def _seeds(function: ast.expr) -> bool:
    match function:
        case ast.Attribute(value=ast.Name(id=owner) | ast.Attribute(attr=owner), attr=name):
            return _SEEDING.match(name) is not None or (owner, name) in _QUALIFIED
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return _SEEDING.match(name) is not None
    return False


def _holds_seed(target: ast.expr) -> bool:
    match target:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return _NAME.match(name) is not None
        case ast.Subscript(slice=key):
            return _is_seed_key(key)
    return False


def _is_seed_key(key: ast.expr | None) -> bool:
    return isinstance(key, ast.Constant) and isinstance(key.value, str) and _NAME.match(key.value) is not None


def _is_seed_option(value: object) -> bool:
    return (
        isinstance(value, str)
        and value.startswith("-")
        and _NAME.match(value.lstrip("-").replace("-", "_")) is not None
    )


def _defaults(arguments: ast.arguments) -> Iterator[tuple[str, ast.expr]]:
    positional = arguments.posonlyargs + arguments.args
    if arguments.defaults:
        yield from (
            (argument.arg, default)
            for argument, default in zip(
                positional[-len(arguments.defaults) :], arguments.defaults, strict=True
            )
        )
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is not None:
            yield argument.arg, default


def _without_seeds(module: ast.Module) -> ast.AST:
    """The tree with every seed the same, and without statements that do nothing but seed.

    So adding or removing `torch.manual_seed(1)` is a change of seed too.
    """
    neutral = {id(value) for value in _seed_values(module)}

    class Neutral(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST | None:
            if id(node) in neutral:
                return ast.Constant(value="seed")
            match node:
                case ast.Expr(value=ast.Call(func=function)) if _seeds(function):
                    return None
                case ast.Assign(targets=[target]) | ast.AnnAssign(target=target) if _holds_seed(target):
                    return None
                case ast.FunctionDef(name=name) if _FUNCTION.match(name):
                    return ast.Pass()
            self.generic_visit(node)
            if isinstance(node, ast.stmt) and getattr(node, "body", True) == []:
                node.body = [ast.Pass()]  # type: ignore[attr-defined]
            return node

    return Neutral().visit(module) or module
