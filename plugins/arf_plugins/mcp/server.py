"""An MCP server whose tools have JSON schemas of their own, and answer with what a registry's tool gives."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from attrs import frozen
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from mcp_types import Tool as ListedTool

from arf import __version__
from arf.errors import ArfError, nearest
from arf_plugins.llm.tools import Outcome

log = logging.getLogger(__name__)

Arguments = Mapping[str, Any]
Report = Callable[[float, float, str], Awaitable[None]]


@frozen(kw_only=True)
class Offered:
    """A tool as a client sees it."""

    name: str
    description: str
    schema: Mapping[str, Any]
    run: Callable[[dict[str, Any], Report], Awaitable[Outcome]]
    """Raises ArfError for what the agent should do otherwise. May change its arguments."""
    read_only: bool = False
    alone: bool = False
    """Whether calls wait for each other."""
    destructive: bool = False
    idempotent: bool = True


class ToolServer(MCPServer):
    """Calls may overlap; those that change the agent's files wait for each other."""

    def __init__(self, tools: Sequence[Offered], instructions: str) -> None:
        super().__init__(
            "arf",
            title="arf",
            instructions=instructions,
            version=__version__,
            log_level="WARNING",
        )
        self._offered = {tool.name: tool for tool in tools}
        self._alone = asyncio.Lock()

    async def list_tools(self) -> list[ListedTool]:
        return [
            ListedTool(
                name=tool.name,
                description=tool.description,
                input_schema=dict(tool.schema),
                annotations=ToolAnnotations(
                    read_only_hint=tool.read_only,
                    destructive_hint=tool.destructive,
                    idempotent_hint=tool.idempotent,
                    open_world_hint=False,
                ),
            )
            for tool in self._offered.values()
        ]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult:
        tool = self._offered.get(name)
        if tool is None:
            return _result(
                Outcome(text=f"there is no tool {name!r}; {nearest(name, self._offered)}", failed=True)
            )

        async def report(done: float, total: float, message: str) -> None:
            if context is not None:
                await context.report_progress(done, total, message)

        try:
            if not tool.alone:
                return _result(await tool.run(dict(arguments), report))
            async with self._alone:
                return _result(await tool.run(dict(arguments), report))
        except (ArfError, OSError) as error:
            return _result(Outcome(text=str(error), failed=True))
        except Exception as error:
            log.exception("the tool %s failed", name)
            return _result(Outcome(text=f"a bug in arf: {type(error).__name__}: {error}", failed=True))


def _result(outcome: Outcome) -> CallToolResult:
    data = json.loads(json.dumps(outcome.data, default=str)) if outcome.data is not None else None
    return CallToolResult(
        content=[TextContent(type="text", text=outcome.text)],
        structured_content=data,
        is_error=outcome.failed,
    )
