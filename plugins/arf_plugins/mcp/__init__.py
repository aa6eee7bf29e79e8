"""`arf mcp` and `arf skill`: arf as the tool of somebody's own agent."""

from collections.abc import Sequence

from arf.hooks import Declaration, hookimpl


@hookimpl
def arf_register_commands() -> Sequence[Declaration]:
    return [
        Declaration(
            name="mcp",
            summary="Serve arf's tools to an agent over stdio (MCP)",
            implementation="arf_plugins.mcp.commands:mcp",
            extra="arf-research[mcp]",
        ),
        Declaration(
            name="skill",
            summary="Teach Claude Code and Codex to use arf",
            implementation="arf_plugins.mcp.skill:skill",
        ),
    ]
