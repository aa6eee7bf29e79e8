"""Which folders of the user's home the files that ideas cannot change name: data that a script expects there.

A clone of autoresearch has `~/.cache/autoresearch` in `prepare.py`, and no configuration that would say so.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

SECRET = frozenset(
    [
        ".ssh",
        ".aws",
        ".azure",
        ".gnupg",
        ".config",
        ".kube",
        ".docker",
        ".netrc",
        ".git-credentials",
        ".pypirc",
        ".npmrc",
        ".password-store",
        ".mozilla",
        ".bash_history",
        ".zsh_history",
        ".python_history",
        ".claude",
        ".codex",
        ".arf",
    ]
)
BROAD = frozenset({"", ".cache", ".local", ".local/share", "Documents", "Desktop", "Downloads"})
"""Places that hold too much: a script that names them means something in them, which it makes up later."""


def named_data(sources: Iterable[str]) -> tuple[str, ...]:
    """Paths such as `~/.cache/autoresearch` that Python sources name in one expression, each once."""
    found: dict[str, None] = {}
    for source in sources:
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            path = _path(node)
            if path is not None and _is_harmless(path):
                found[f"~/{path}"] = None
    return tuple(found)


def _path(node: ast.AST) -> str | None:
    """What an expression names below the home folder; None if it names nothing there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value[2:].strip("/") if node.value.startswith("~/") and "\n" not in node.value else None
    if isinstance(node, ast.Call) and _is_join(node) and node.args and _is_home(node.args[0]):
        return "/".join(_words(node.args[1:]))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        parts: list[ast.expr] = []
        left: ast.expr = node
        while isinstance(left, ast.BinOp) and isinstance(left.op, ast.Div):
            parts.insert(0, left.right)
            left = left.left
        return "/".join(_words(parts)) if _is_home(left) else None
    return None


def _words(nodes: Iterable[ast.expr]) -> Iterator[str]:
    """The constant parts at the beginning."""
    for node in nodes:
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            return
        yield node.value.strip("/")


def _is_join(node: ast.Call) -> bool:
    return ast.unparse(node.func) in ("os.path.join", "path.join", "join")


def _is_home(node: ast.expr) -> bool:
    return ast.unparse(node) in (
        "os.path.expanduser('~')",
        "expanduser('~')",
        "Path.home()",
        "pathlib.Path.home()",
        "Path('~').expanduser()",
    )


def _is_harmless(path: str) -> bool:
    parts = path.split("/")
    return path not in BROAD and ".." not in parts and not SECRET & set(parts)
