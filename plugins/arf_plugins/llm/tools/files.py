"""The tools that read and edit the copy of the files."""

from __future__ import annotations

from arf.errors import UsageError, nearest
from arf.types import Edit
from arf_plugins.llm.drafts import CONSTANTS, edited, find_constants, set_constants
from arf_plugins.llm.tools.context import Arguments, ToolContext, text, tool, whole

MAX_MATCHES = 60
DEFAULT_LINES = 400


def _read_file(context: ToolContext, given: Arguments) -> str:
    path = _path(context, given["path"])
    lines = context.files[path].splitlines()
    first = max(1, given["first_line"])
    last = min(len(lines), first + (given["lines"] or DEFAULT_LINES) - 1)
    shown = "\n".join(f"{number:5d}  {lines[number - 1]}" for number in range(first, last + 1))
    return f"{path}, lines {first} to {last} of {len(lines)}:\n{shown}"


def _search(context: ToolContext, given: Arguments) -> str:
    """Plain text: a model's regular expression could keep the whole study busy."""
    words = [word.casefold() for word in given["text"].split("|") if word.strip()]
    found = [
        f"{path}:{number}: {line.strip()[:160]}"
        for path, text in sorted(context.files.items())
        for number, line in enumerate(text.splitlines(), 1)
        if any(word in line.casefold() for word in words)
    ]
    more = f"\nand {len(found) - MAX_MATCHES} more" if len(found) > MAX_MATCHES else ""
    return "\n".join(found[:MAX_MATCHES]) + more if found else "no match"


def _edit(context: ToolContext, given: Arguments) -> str:
    path = context.checker.path(given["path"], made=not given["old"])
    context.files[path] = edited(context.files, Edit(path=path, old=given["old"], new=given["new"]))
    return context.state()


def _set_constants(context: ToolContext, given: Arguments) -> str:
    values = context.checker.values(given["constants"])
    context.files = set_constants(context.files, values)
    return context.state()


def _reset(context: ToolContext, given: Arguments) -> str:
    context.reset()
    return "The files are as at the base."


def _check(context: ToolContext, given: Arguments) -> str:
    return f"{context.state()}\n{context.diff() or 'There is no change yet.'}"


def _constants(context: ToolContext, given: Arguments) -> str:
    lines = [
        f"{path}:{constant.line}: {name} = {constant.literal}  # {constant.comment}".rstrip(" #")
        for name, where in sorted(find_constants(context.files).items())
        for path, constant in where
    ]
    return "\n".join(lines) or "There are no constants."


def _path(context: ToolContext, path: str) -> str:
    clean = path.strip().removeprefix("./")
    if clean not in context.files:
        raise UsageError(f"there is no file {path!r} to read", hint=nearest(clean, context.files))
    return clean


EDITOR = (
    tool(
        "read_file",
        "Read lines of a file, with your edits. Line numbers are not part of the text.",
        _read_file,
        read_only=True,
        on_files=True,
        needed=["path"],
        path=text("The file."),
        first_line=whole("From 1."),
        lines=whole(f"How many; 0 for {DEFAULT_LINES}."),
    ),
    tool(
        "search",
        "Find the lines of the files that contain a text, in capitals or not.",
        _search,
        read_only=True,
        on_files=True,
        needed=["text"],
        text=text("The text; several alternatives are separated by |."),
    ),
    tool(
        "set_constants",
        "Set constants by name in your copy of the files. Prefer it to edit where it is enough.",
        _set_constants,
        on_files=True,
        restores=True,
        needed=["constants"],
        constants=CONSTANTS,
    ),
    tool(
        "edit",
        "Replace text in your copy of a file. `old` must be there exactly once.",
        _edit,
        on_files=True,
        restores=True,
        needed=["path", "old", "new"],
        path=text("The file."),
        old=text("The text as it is, spaces included; empty to make a new file."),
        new=text("What it becomes."),
    ),
)
"""For those who have no editor of their own."""
FILES = (
    tool(
        "constants",
        "List the constants of the files with their values and comments.",
        _constants,
        read_only=True,
        on_files=True,
    ),
    tool(
        "check",
        "Check that the files parse, and show your change as a diff.",
        _check,
        read_only=True,
        on_files=True,
    ),
    tool("reset", "Take back all edits since the last submit.", _reset, on_files=True, restores=True),
)
