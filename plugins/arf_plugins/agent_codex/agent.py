"""Codex: its command line, and what the lines of `codex exec --json` mean."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from arf.interfaces import Brief
from arf.types import Usage
from arf_plugins.agent_codex import CodexOptions
from arf_plugins.cli_agents.agent import CliAgent, Heard, Version, mcp_command
from arf_plugins.cli_agents.agent_session import Lane
from arf_plugins.llm.prices import price_of
from arf_plugins.llm.spend_limiter import refuse_dollars

log = logging.getLogger(__name__)

MCP_TIMEOUT_S = 400
COUNTS = ("input_tokens", "cached_input_tokens", "cache_write_input_tokens", "output_tokens")


class Codex(CliAgent):
    provider: ClassVar[str] = "codex"
    binary: ClassVar[str] = "codex"
    version: ClassVar[Version] = Version((0, 163, 0), "install it by `npm install -g @openai/codex`")
    own_secrets: ClassVar[tuple[str, ...]] = ("OPENAI_", "CODEX_")

    options: CodexOptions

    def __init__(self, options: CodexOptions | None = None) -> None:
        super().__init__(options or CodexOptions())
        self._counted: dict[str, dict[str, int]] = {}
        """What each session has used in all; Codex counts on when one is resumed."""
        model = self.options.model
        self._has_price = model is not None and price_of(model, self.options.prices) is not None
        if not self._has_price:
            log.warning("no price is known for the model of codex: it counts as free (see agent.prices)")

    def check(self, brief: Brief) -> None:
        super().check(brief)
        if not self._has_price:
            refuse_dollars(brief, self.options.model or "")

    def command(self, lane: Lane, session: str, brief: Brief) -> list[str]:
        program, *arguments = mcp_command(lane)
        settings = {
            "approval_policy": "never",
            "sandbox_mode": "workspace-write",
            "check_for_update_on_startup": False,
            "web_search": "disabled",
            "features.multi_agent": False,
            # Variables that look like secrets are not for the commands that the model runs.
            "shell_environment_policy.ignore_default_excludes": False,
            "mcp_servers.arf.command": program,
            "mcp_servers.arf.args": arguments,
            # With no approvals a tool that is not read-only would be refused.
            "mcp_servers.arf.default_tools_approval_mode": "approve",
            "mcp_servers.arf.required": True,
            "mcp_servers.arf.tool_timeout_sec": MCP_TIMEOUT_S,
        }
        command = ["exec", "--json", "--skip-git-repo-check"]
        for name, value in settings.items():
            command += ["-c", f"{name}={json.dumps(value)}"]  # JSON of these types is TOML too
        if self.options.model is not None:
            command += ["-m", self.options.model]
        return [*command, "resume", session, "-"] if session else [*command, "-"]

    def hear(self, event: Mapping[str, Any], heard: Heard, before: Mapping[str, Any]) -> None:
        kind = event.get("type")
        item = event.get("item") or {}
        if kind == "thread.started":
            heard.session = str(event.get("thread_id") or "")
        elif kind == "item.completed" and item.get("type") == "agent_message":
            heard.said = str(item.get("text") or heard.said)
        elif kind == "turn.completed":
            heard.finished = True
            heard.problem, heard.lasting, heard.hint = "", False, ""  # such as a connection that came back
            self._count(event.get("usage") or {}, heard, before)
        elif kind in ("turn.failed", "error"):
            error = event.get("error") or event
            self._failed(str(error.get("message") or "no reason told"), heard, is_end=kind == "turn.failed")

    def kept(self, heard: Heard, before: Mapping[str, Any]) -> dict[str, Any]:
        counted = self._counted.get(heard.session) or before.get("counted") or {}
        return {"session": heard.session, "counted": counted}

    def _count(self, usage: Mapping[str, Any], heard: Heard, before: Mapping[str, Any]) -> None:
        """Its counts are of the whole session: what was counted before is taken off."""
        total = {name: int(usage.get(name) or 0) for name in COUNTS}
        old = before.get("counted") or {} if before.get("session") == heard.session else {}
        new = {name: max(0, total[name] - int(old.get(name, 0))) for name in COUNTS}
        self._counted[heard.session] = total
        fresh = new["input_tokens"] - new["cached_input_tokens"] - new["cache_write_input_tokens"]
        price = price_of(self.options.model, self.options.prices) if self.options.model else None
        usd = 0.0
        if price is not None:
            usd = price.usd(
                fresh=max(0, fresh),
                cached=new["cached_input_tokens"],
                written=new["cache_write_input_tokens"],
                output=new["output_tokens"],
            )
        heard.usage = Usage(
            input_tokens=new["input_tokens"],
            cached_tokens=new["cached_input_tokens"],
            output_tokens=new["output_tokens"],
            usd=usd,
        )

    def _failed(self, message: str, heard: Heard, *, is_end: bool) -> None:
        heard.finished |= is_end
        heard.problem = f"failed: {' '.join(message.split())[:300]}"
        heard.lasting, heard.hint = False, ""
        if re.search(r"\b40[13]\b|Unauthorized|Missing environment variable", message):
            heard.lasting = True
            heard.hint = "log in by `codex login`, or export OPENAI_API_KEY"
        elif re.search(r"\b40[04]\b", message):
            heard.lasting = True
