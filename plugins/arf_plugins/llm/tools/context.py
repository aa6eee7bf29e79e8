"""What the tools of a conversation work on, and what a tool is."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from attrs import Factory, define, field, frozen

from arf.errors import UsageError, nearest
from arf.interfaces import SubmissionQueue
from arf.study import Study
from arf.types import AskKind, Draft, FactorDraft, Receipt
from arf_plugins.llm.drafts import Checker, problems_of
from arf_plugins.llm.turns import Schema, ToolSpec

Arguments = Mapping[str, Any]
Progress = Callable[[float, float, str], Awaitable[None]]
"""Told (done, of how much, a line) while a tool waits."""

MAX_WAIT_S = 300.0


@define
class ToolContext:
    """What a conversation works on. All but the queue is in memory."""

    checker: Checker
    remember: Callable[[str], None]
    queue: SubmissionQueue | None = field(
        default=Factory(lambda self: self.checker.brief.queue, takes_self=True)
    )
    """Where experiments are ordered; the brief's unless another is given."""
    kind: AskKind | None = field(default=Factory(lambda self: self.checker.ask.kind, takes_self=True))
    """What was asked for; None: nothing, somebody's own agent drives the study."""
    own_editor: bool = False
    """Whether whoever talks edits real files with tools of his own."""
    look: Callable[[], Study] | None = None
    """The study as it is now; None: the brief's, which changes by itself."""
    budget: Callable[[], Mapping[str, float]] | None = None
    """What is left of the budgets now; None: as the brief said at its start."""
    progress: Progress | None = None
    max_wait_s: float = MAX_WAIT_S
    files: dict[str, str] = field(factory=dict)
    """The copy that is edited."""
    ideas: list[Draft] = field(factory=list)
    levels: dict[str, list[Draft]] = field(factory=dict)
    """Levels that were submitted, by factor."""
    receipts: dict[int, Receipt] = field(factory=dict)
    """Submissions to the queue, by number, as they were when last looked at."""
    told: set[int] = field(factory=set)
    """Submissions whose end was told: nobody waits for them any more."""
    changes: list[str] = field(factory=list)
    done: bool = False
    exhausted: bool = False
    note: str = ""

    def __attrs_post_init__(self) -> None:
        if not self.files:
            self.reset()

    def reset(self) -> None:
        self.files = dict(self.checker.brief.files)

    @property
    def study(self) -> Study:
        return self.look() if self.look is not None else self.checker.brief.study

    @property
    def submitted(self) -> int:
        return len(self.ideas) + len(self.levels) + len(self.receipts)

    @property
    def factors(self) -> tuple[FactorDraft, ...]:
        return tuple(FactorDraft(name=name, levels=tuple(levels)) for name, levels in self.levels.items())

    @property
    def wants_factors(self) -> bool:
        return self.kind is AskKind.FACTORS

    @property
    def wants_experiments(self) -> bool:
        return self.kind is AskKind.EXPERIMENTS

    def own_queue(self) -> SubmissionQueue:
        """Raises UsageError where nothing can be ordered."""
        if self.queue is None:
            raise UsageError("no study runs here, so nothing can be ordered")
        return self.queue

    def state(self) -> str:
        """Whether the edited files parse, in words."""
        return "\n".join(problems_of(self.files)) or "The files parse."

    def diff(self) -> str:
        """What the edits change, as a unified diff; empty if nothing."""
        return unified(self.checker.brief.files, self.files)


@frozen(kw_only=True)
class Shown:
    """What a tool says, and the same as data."""

    text: str
    data: Mapping[str, Any]


Said = str | Shown


@frozen(kw_only=True)
class Tool:
    spec: ToolSpec
    run: Callable[[ToolContext, Arguments], Awaitable[Said] | Said]
    """Raises ArfError for what the model should do otherwise. `arguments["key"]` is the call's key."""
    read_only: bool = False
    """It neither orders anything nor changes the context."""
    on_files: bool = False
    """It works on the copy of the files."""
    restores: bool = False
    """It must be called again when a recorded conversation is gone through again."""
    needed: tuple[str, ...] = ()
    """The arguments without which it makes no sense; the others may be left out."""


# ---- Schemas ------------------------------------------------------------------------------------

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}
_EMPTY: Mapping[str, Any] = {"string": "", "integer": 0, "number": 0, "boolean": False, "array": ()}


def tool(
    name: str,
    description: str,
    run: Callable[[ToolContext, Arguments], Awaitable[Said] | Said],
    change: Mapping[str, Any] = MappingProxyType({}),
    *,
    read_only: bool = False,
    on_files: bool = False,
    restores: bool = False,
    needed: Iterable[str] = (),
    **properties: Mapping[str, Any],
) -> Tool:
    """Strict providers want every property named as required; what is left out nevertheless is empty."""
    parameters = {
        "type": "object",
        "properties": {**change, **properties},
        "required": [*change, *properties],
        "additionalProperties": False,
    }
    spec = ToolSpec(name=name, description=description, parameters=parameters)
    return Tool(
        spec=spec, run=run, read_only=read_only, on_files=on_files, restores=restores, needed=tuple(needed)
    )


def text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def whole(description: str) -> dict[str, Any]:
    return {"type": "integer", "description": description}


def number(description: str) -> dict[str, Any]:
    return {"type": "number", "description": description}


def flag(description: str) -> dict[str, Any]:
    return {"type": "boolean", "description": description}


def wholes(description: str) -> dict[str, Any]:
    return {"type": "array", "description": description, "items": {"type": "integer"}}


def checked_arguments(arguments: Any, schema: Schema) -> dict[str, Any]:
    """The arguments with what is left out as empty. Raises UsageError where they do not fit."""
    if not isinstance(arguments, Mapping):
        raise UsageError("the arguments are not a JSON object; write them again")
    properties = schema["properties"]
    for name in arguments:
        if name not in properties:
            raise UsageError(f"there is no argument {name!r}", hint=nearest(str(name), properties))
    return {name: _checked(name, arguments.get(name), wanted) for name, wanted in properties.items()}


def _checked(name: str, value: Any, wanted: Mapping[str, Any]) -> Any:
    kind = wanted["type"]
    if value is None:
        return _EMPTY[kind]
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, _TYPES[kind]) or (kind != "boolean" and isinstance(value, bool)):
        raise UsageError(f"{name} must be of type {kind}")
    if isinstance(value, list) and wanted["items"].get("type") == "integer":
        if any(isinstance(item, bool) or not isinstance(item, int) for item in value):
            raise UsageError(f"{name} must be a list of whole numbers")
        return tuple(dict.fromkeys(value))
    return value


# ---- Diffs --------------------------------------------------------------------------------------


def unified(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """The unified diff that git would print of two sets of files, without its headers."""
    return "".join(
        line
        for path in sorted({*before, *after})
        for line in _file_diff(path, before.get(path), after.get(path))
    )


def _file_diff(path: str, old: str | None, new: str | None) -> Iterator[str]:
    if old == new:
        return
    names = ("/dev/null" if old is None else f"a/{path}", "/dev/null" if new is None else f"b/{path}")
    for line in difflib.unified_diff(_lines(old or ""), _lines(new or ""), *names, n=3):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _lines(text: str) -> list[str]:
    """The lines with their ends; only a line feed ends one, as for git."""
    lines = text.split("\n")
    return [f"{line}\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
