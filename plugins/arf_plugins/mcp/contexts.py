"""A context of the registry over real files, and the registry's tools as an MCP client sees them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from arf.sdk.studies import StudyReader
from arf.types import Ask
from arf_plugins.llm.agent import remember_in
from arf_plugins.llm.drafts import Checker
from arf_plugins.llm.tools import Outcome, Tool, ToolContext, outcome, unified
from arf_plugins.llm.tools.looking import is_done
from arf_plugins.mcp.server import Report
from arf_plugins.mcp.trees import AgentTree

MAX_ORDERS = 500
"""Submissions of earlier sessions that a context knows, the newest ones."""

KEY = {
    "type": "string",
    "description": "Your own name for this very request: sent again with the same key, it is carried out "
    "once. May be left out: it is then made from the content.",
}


def bench_over(
    view: StudyReader, ask: Ask, *, report: Report | None = None, told: set[int] | None = None
) -> ToolContext:
    """A context for a study that another process runs; its files are as at the base.

    `told` is a session's own set of submissions whose end it was told; None: what is done by now.
    """
    brief = view.brief(ask.base)
    context = ToolContext(
        Checker(brief, ask),
        lambda text: remember_in(brief.directory, text),
        own_editor=True,
        look=view.study,
        budget=view.budget_left,
        progress=report,
    )
    context.receipts = {order.id: order.receipt for order in view.newest_orders(MAX_ORDERS)}
    if told is None:
        study = view.study()
        told = {number for number, receipt in context.receipts.items() if is_done(receipt, study)}
    context.told = told
    return context


async def on_files(
    context: ToolContext, tree: AgentTree, tool: Tool, arguments: Mapping[str, Any], key: str
) -> Outcome:
    """Call a tool on the files of a tree, and bring the tree back to the base if the tool has."""
    if tool.spec.name == "reset":
        tree.reset()
    before = files_for(context, tree, tool, arguments)
    context.files = dict(before)
    got = await outcome(context, tool.spec.name, arguments, key=key or content_key(context, tool, arguments))
    if context.files != before:
        tree.restore(before)
    return got


def files_for(
    context: ToolContext, tree: AgentTree, tool: Tool, arguments: Mapping[str, Any]
) -> dict[str, str]:
    """The files that a call is about: the tree's, or the base's where it does not work on files."""
    base = context.checker.brief.files
    return tree.read(base) if tool.on_files and not arguments.get("again") else dict(base)


async def order_on_files(
    view: StudyReader,
    context: ToolContext,
    tree: AgentTree,
    tool: Tool,
    arguments: Mapping[str, Any],
    key: str,
) -> Outcome:
    """As `on_files`, for `submit`. A call that was broken off may have left its edits in the tree."""
    files = files_for(context, tree, tool, arguments)
    for order in view.orders_of(f"mail/{key}"):
        idea = view.study().ideas.get(order.plan.ideas[-1]) if order.plan.ideas else None
        if idea is not None and idea.base == tree.base and view.workspace.files(idea.commit) == files:
            tree.restore(files)
    return await on_files(context, tree, tool, arguments, key)


def content_key(context: ToolContext, tool: Tool, arguments: Mapping[str, Any]) -> str:
    """The same for the same call on the same files."""
    diff = unified(context.checker.brief.files, context.files)
    parts = [tool.spec.name, context.checker.ask.base, json.dumps(dict(arguments), sort_keys=True), diff]
    return "content-" + hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:24]


def schema_of(tool: Tool, more: Mapping[str, Any]) -> dict[str, Any]:
    """A tool's schema with what only clients of the server may say; little of it is required."""
    return {
        "type": "object",
        "properties": {**tool.spec.parameters["properties"], **more},
        "required": list(tool.needed),
        "additionalProperties": False,
    }
