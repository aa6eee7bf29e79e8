"""The agent `claude-code`: Anthropic's Claude Code, headless, in a copy of the workspace."""

from __future__ import annotations

from attrs import field, frozen, validators

from arf.hooks import Declaration, hookimpl
from arf_plugins.cli_agents.options import CliOptions


@frozen(kw_only=True)
class ClaudeCodeOptions(CliOptions):
    """The options of the agent `claude-code`."""

    max_turns: int = field(
        default=80, validator=validators.ge(1), metadata={"help": "Turns of one ask, at most."}
    )
    max_usd_per_ask: float | None = field(
        default=None,
        validator=validators.optional(validators.gt(0)),
        metadata={"help": "Dollars of one ask, by the program's own count; it may overshoot by a turn."},
    )


@hookimpl
def arf_register_agents() -> list[Declaration]:
    return [
        Declaration(
            name="claude-code",
            summary="ideas and plans from Claude Code, the command-line program",
            implementation="arf_plugins.agent_claude_code.agent:ClaudeCode",
            options=ClaudeCodeOptions,
            extra="arf-research[mcp]",
        )
    ]
