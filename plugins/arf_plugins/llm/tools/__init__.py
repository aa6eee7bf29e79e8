"""The tools of agents: one registry for conversations that arf holds and for agents that come through MCP.

A tool is a name, a schema and a function on a context, and knows no provider. What does not order anything
from the study's queue works in memory, so that the recorded calls of a broken-off conversation, made again,
give the same context; what was ordered is known to the queue by the key of its call.
"""

from __future__ import annotations

import inspect
from typing import Any

from attrs import frozen

from arf.errors import ArfError, nearest
from arf.types import AskKind
from arf_plugins.llm.tools.context import Shown, Tool, ToolContext, checked_arguments, unified
from arf_plugins.llm.tools.files import EDITOR, FILES
from arf_plugins.llm.tools.looking import BUDGET, LOOKING
from arf_plugins.llm.tools.ordering import ORDERING, TRY_OUT, restore_submission
from arf_plugins.llm.tools.proposing import DONE, DONE_PLANNING, PROPOSING

__all__ = [
    "Outcome",
    "Shown",
    "Tool",
    "ToolContext",
    "call",
    "outcome",
    "replay",
    "tools_for",
    "tools_of",
    "unified",
]

MAX_RESULT_CHARS = 12_000


def tools_for(
    kind: AskKind | None, *, own_editor: bool | None = None, queue: bool = True
) -> tuple[Tool, ...]:
    """The tools for a kind of ask; None: for somebody's own agent, who drives a study from outside.

    `own_editor`: without the tools that edit the copy of the files (None: as is usual for the kind).
    `queue`: whether there is one to try changes out.
    """
    without_editor = own_editor if own_editor is not None else kind is None
    tools = (*(() if without_editor else EDITOR), *FILES, *LOOKING)
    if kind is AskKind.IDEAS or kind is AskKind.FACTORS:
        return (*tools, *((TRY_OUT,) if queue else ()), *PROPOSING, DONE)
    tools = (*tools, BUDGET, TRY_OUT, *ORDERING)
    return tools if kind is None else (*tools, DONE_PLANNING)


def tools_of(context: ToolContext) -> tuple[Tool, ...]:
    """The tools of the conversation that has this context."""
    own_editor = True if context.own_editor else None
    return tools_for(context.kind, own_editor=own_editor, queue=context.queue is not None)


@frozen(kw_only=True)
class Outcome:
    text: str
    failed: bool = False
    data: Any = None
    """The same as data, where that helps."""


async def outcome(context: ToolContext, name: str, arguments: Any, *, key: str) -> Outcome:
    """What a tool gives. `key`: a call with the key of an earlier one orders nothing a second time."""
    tools = {tool.spec.name: tool for tool in tools_of(context)}
    if name not in tools:
        return Outcome(text=f"there is no tool {name!r}; {nearest(name, tools)}", failed=True)
    tool = tools[name]
    try:
        said = tool.run(context, {**checked_arguments(arguments, tool.spec.parameters), "key": key})
        if inspect.isawaitable(said):
            said = await said
    except ArfError as error:
        return Outcome(text=str(error), failed=True)
    if isinstance(said, Shown):
        return Outcome(text=_cut(said.text), data=dict(said.data))
    return Outcome(text=_cut(said))


async def call(context: ToolContext, name: str, arguments: Any, *, key: str) -> tuple[str, bool]:
    """What a tool says, and whether it failed."""
    got = await outcome(context, name, arguments, key=key)
    return got.text, got.failed


async def replay(context: ToolContext, name: str, arguments: Any, *, key: str) -> None:
    """Leave the context as a call left it whose result is recorded. Waits for nothing, orders nothing."""
    tool = next((tool for tool in tools_of(context) if tool.spec.name == name), None)
    if tool is None or not tool.restores:
        return
    if tool in ORDERING:
        await restore_submission(context, key)
    else:
        await call(context, name, arguments, key=key)


def _cut(text: str) -> str:
    if len(text) <= MAX_RESULT_CHARS:
        return text
    return text[:MAX_RESULT_CHARS] + f"\n[… {len(text) - MAX_RESULT_CHARS:,} characters left out …]"
