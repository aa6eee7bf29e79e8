"""The real programs, each with a scripted model that they reach over loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from service import Service, Turn

KEY = "no-real-key"
CODEX_CONFIG = """
model_provider = "stand-in"
[model_providers.stand-in]
name = "stand-in"
base_url = "{url}"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
[analytics]
enabled = false
"""


class Rig(ABC):
    """A program and the model behind it. What the model does is scripted by the methods, in order."""

    name: ClassVar[str]
    """What arf calls it."""

    def __init__(self, program: str, home: Path, service: Service) -> None:
        self.program = program
        self.service = service
        self.home = home
        home.mkdir()
        cut = ("ANTHROPIC_", "CLAUDE", "OPENAI_", "CODEX_", "IS_SANDBOX")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(cut)}
        self.env = {**inherited, "HOME": str(home), **self.variables()}
        """For arf, which hands it on to the program."""

    @classmethod
    @abstractmethod
    def find(cls) -> str | None:
        """Where the program is; None if it is not installed."""

    @abstractmethod
    def variables(self) -> dict[str, str]: ...

    # ---- The script -------------------------------------------------------------------------

    @abstractmethod
    def read(self, path: str) -> None: ...

    @abstractmethod
    def edit(self, old: str, new: str) -> None:
        """Of train.py."""

    @abstractmethod
    def shell(self, command: str) -> None: ...

    @abstractmethod
    def tool(self, name: str, **arguments: Any) -> None:
        """Call a tool of arf."""

    def submit(self, title: str, **more: Any) -> None:
        self.tool("submit", title=title, reason="a test", **more)

    def call(self, tool: str, arguments: dict[str, Any], namespace: str = "") -> None:
        """Call one of the program's own."""
        self.service.turns.append(Turn(tool=tool, arguments=arguments, namespace=namespace))

    def say(self, text: str) -> None:
        self.service.turns.append(Turn(text))

    def hold(self) -> None:
        """Answer only when the service is told to."""
        self.service.turns.append(Turn("That took long.", is_held=True))

    def fail(self, status: int, message: str, times: int = 1) -> None:
        self.service.turns.extend([Turn(message, status=status)] * times)

    # ---- What it saw ------------------------------------------------------------------------

    @abstractmethod
    def offered(self, request: dict[str, Any]) -> set[str]:
        """The names of the tools in a request; arf's with `arf:` before their own names."""

    @abstractmethod
    def conversation(self, request: dict[str, Any]) -> str:
        """What was said before and what is said now, as a text."""

    def version(self) -> str:
        said = subprocess.run([self.program, "--version"], capture_output=True, text=True, env=self.env)
        return said.stdout.strip()


class ClaudeRig(Rig):
    name = "claude-code"

    @classmethod
    def find(cls) -> str | None:
        spec = find_spec("claude_agent_sdk")
        if spec is not None and spec.submodule_search_locations:
            bundled = Path(spec.submodule_search_locations[0]) / "_bundled" / "claude"
            if bundled.exists():
                return str(bundled)
        return shutil.which("claude")

    def variables(self) -> dict[str, str]:
        return {
            "CLAUDE_CONFIG_DIR": str(self.home / "claude"),
            "ANTHROPIC_BASE_URL": self.service.root,
            "ANTHROPIC_API_KEY": KEY,
        }

    def read(self, path: str) -> None:
        self.call("Read", {"file_path": path})

    def edit(self, old: str, new: str) -> None:
        self.call("Edit", {"file_path": "train.py", "old_string": old, "new_string": new})

    def shell(self, command: str) -> None:
        self.call("Bash", {"command": command, "description": "try"})

    def tool(self, name: str, **arguments: Any) -> None:
        self.call(f"mcp__arf__{name}", arguments)

    def offered(self, request: dict[str, Any]) -> set[str]:
        return {tool["name"].replace("mcp__arf__", "arf:") for tool in request.get("tools", ())}

    def conversation(self, request: dict[str, Any]) -> str:
        return json.dumps(request["messages"])


class CodexRig(Rig):
    name = "codex"

    def __init__(self, program: str, home: Path, service: Service) -> None:
        super().__init__(program, home, service)
        folder = Path(self.env["CODEX_HOME"])
        folder.mkdir()
        (folder / "config.toml").write_text(CODEX_CONFIG.format(url=f"{service.root}/v1"))

    @classmethod
    def find(cls) -> str | None:
        if find_spec("codex_cli_bin"):
            from codex_cli_bin import bundled_codex_path

            return str(bundled_codex_path())
        return shutil.which("codex")

    def variables(self) -> dict[str, str]:
        return {"CODEX_HOME": str(self.home / "codex"), "OPENAI_API_KEY": KEY}

    def read(self, path: str) -> None:
        self.shell(f"cat {path}")

    def edit(self, old: str, new: str) -> None:
        self.shell(f"sed -i 's/{old}/{new}/' train.py")

    def shell(self, command: str) -> None:
        self.call("exec_command", {"cmd": command})

    def tool(self, name: str, **arguments: Any) -> None:
        self.call(name, arguments, namespace="mcp__arf")

    def offered(self, request: dict[str, Any]) -> set[str]:
        names = set()
        for tool in request.get("tools", ()):
            inner = tool.get("tools") if tool["type"] == "namespace" else None
            names |= {f"arf:{one['name']}" for one in inner} if inner else {tool.get("name", tool["type"])}
        return names

    def conversation(self, request: dict[str, Any]) -> str:
        return json.dumps(request["input"])
