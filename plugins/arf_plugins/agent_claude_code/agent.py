"""Claude Code: its command line, and what its `stream-json` lines mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from arf.interfaces import Brief
from arf.types import Usage
from arf_plugins.agent_claude_code import ClaudeCodeOptions
from arf_plugins.cli_agents.agent import CliAgent, Heard, Version, mcp_command
from arf_plugins.cli_agents.agent_session import Lane

TOOLS = "Read,Edit,Write,Glob,Grep"
ALLOWED = "Read(./**),Edit(./**),Write(./**),mcp__arf"
"""Without the paths, the whole machine could be read and written. Glob and Grep need no leave in the folder
that it works in, and given one they would search everywhere."""
MCP_TIMEOUT_MS = 400_000
LASTING = (400, 401, 402, 403, 404)
"""What the service answers to a request that will not be better the next time."""


class ClaudeCode(CliAgent):
    provider: ClassVar[str] = "claude-code"
    binary: ClassVar[str] = "claude"
    version: ClassVar[Version] = Version(
        (2, 1, 330),
        "install it by `npm install -g @anthropic-ai/claude-code` or `pip install claude-agent-sdk`",
    )
    own_secrets: ClassVar[tuple[str, ...]] = ("ANTHROPIC_", "CLAUDE_", "AWS_")

    options: ClaudeCodeOptions

    def __init__(self, options: ClaudeCodeOptions | None = None) -> None:
        super().__init__(options or ClaudeCodeOptions())
        self._usd: dict[str, float] = {}
        """What each session has cost in all; Claude Code counts on when one is resumed."""

    def command(self, lane: Lane, session: str, brief: Brief) -> list[str]:
        program, *arguments = mcp_command(lane)
        config = {"mcpServers": {"arf": {"command": program, "args": arguments}}}
        path = lane.folder / "mcp.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        options = self.options
        command = ["-p", "--output-format", "stream-json", "--verbose"]
        command += ["--mcp-config", str(path), "--strict-mcp-config"]
        # Not bypassPermissions, which refuses to work as root: what is not listed is denied, without asking.
        command += ["--permission-mode", "dontAsk", "--tools", TOOLS, "--allowedTools", ALLOWED]
        command += ["--max-turns", str(options.max_turns)]
        if options.max_usd_per_ask is not None:
            left = min(options.max_usd_per_ask, brief.budget_left.get("usd", options.max_usd_per_ask))
            command += ["--max-budget-usd", f"{left:.4f}"]
        elif "usd" in brief.budget_left:
            command += ["--max-budget-usd", f"{brief.budget_left['usd']:.4f}"]
        if options.model is not None:
            command += ["--model", options.model]
        return [*command, "--resume", session] if session else command

    def environment(self) -> dict[str, str]:
        return {
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "ENABLE_TOOL_SEARCH": "false",
            "CLAUDE_CODE_MAX_RETRIES": "3",
            "MCP_TOOL_TIMEOUT": str(MCP_TIMEOUT_MS),
        }

    def hear(self, event: Mapping[str, Any], heard: Heard, before: Mapping[str, Any]) -> None:
        kind = event.get("type")
        if kind == "system" and event.get("subtype") == "init":
            heard.session = str(event.get("session_id") or "")
            servers = {item.get("name"): item.get("status") for item in event.get("mcp_servers") or []}
            if servers.get("arf") == "failed":
                heard.problem, heard.lasting = "cannot start `arf mcp`", True
                heard.hint = "pip install 'arf-research[mcp]'"
        elif kind == "assistant":
            content = (event.get("message") or {}).get("content") or []
            texts = [item.get("text", "") for item in content if item.get("type") == "text"]
            heard.said = "\n".join(texts) or heard.said
        elif kind == "result":
            self._result(event, heard, before)

    def kept(self, heard: Heard, before: Mapping[str, Any]) -> dict[str, Any]:
        return {"session": heard.session, "usd": self._usd.get(heard.session, before.get("usd", 0.0))}

    def _result(self, event: Mapping[str, Any], heard: Heard, before: Mapping[str, Any]) -> None:
        heard.finished = True
        # Not the session's id: a session that is gone is named here too, but it never began.
        heard.said = str(event.get("result") or heard.said or "; ".join(event.get("errors") or []))
        usage = event.get("usage") or {}
        cached = int(usage.get("cache_read_input_tokens") or 0)
        written = int(usage.get("cache_creation_input_tokens") or 0)
        total, told = float(event.get("total_cost_usd") or 0.0), float(before.get("usd") or 0.0)
        self._usd[heard.session] = total
        heard.usage = Usage(
            input_tokens=int(usage.get("input_tokens") or 0) + cached + written,
            cached_tokens=cached,
            output_tokens=int(usage.get("output_tokens") or 0),
            usd=total - told if total >= told else total,  # less only if the session began anew
        )
        subtype = str(event.get("subtype") or "")
        status = event.get("api_error_status")
        if subtype.startswith("error_max"):
            heard.problem = f"ended at its limit ({subtype.removeprefix('error_')})"
        elif event.get("is_error"):
            heard.problem = f"failed: {' '.join(heard.said.split())[:300] or event.get('terminal_reason')}"
            heard.lasting = status in LASTING
            if status in (401, 403) or "/login" in heard.said:
                heard.lasting = True
                heard.hint = "log in by `claude`, or export ANTHROPIC_API_KEY"
        denied = {str(item.get("tool_name")) for item in event.get("permission_denials") or []}
        if denied:
            heard.note = f"was denied {', '.join(sorted(denied))}"
