"""The agent `codex`: OpenAI's Codex, headless, in a copy of the workspace."""

from __future__ import annotations

from attrs import frozen

from arf.hooks import Declaration, hookimpl
from arf_plugins.cli_agents.options import CliOptions


@frozen(kw_only=True)
class CodexOptions(CliOptions):
    """The options of the agent `codex`."""


@hookimpl
def arf_register_agents() -> list[Declaration]:
    return [
        Declaration(
            name="codex",
            summary="ideas and plans from Codex, the command-line program",
            implementation="arf_plugins.agent_codex.agent:Codex",
            options=CodexOptions,
            extra="arf-research[mcp]",
        )
    ]
