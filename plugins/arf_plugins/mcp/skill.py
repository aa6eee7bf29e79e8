"""`arf skill`: one SKILL.md for Claude Code and Codex, put where each of them looks."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from arf import __version__
from arf.errors import ArfError, UsageError
from arf.sdk.jobs import write_whole

NAME = "arf"
FILE = "SKILL.md"
MCP_FILE = ".mcp.json"
_FOOTER = re.compile(r"\n<!-- arf [^\n]*; sha256 ([0-9a-f]{64}) -->\n\Z")


@click.group()
def skill() -> None:
    """Teach Claude Code and Codex to use arf."""


@skill.command()
@click.argument("directory", metavar="[DIR]", required=False)
@click.option("--claude", is_flag=True, help="For Claude Code.")
@click.option("--codex", is_flag=True, help="For Codex.")
@click.option("--user", is_flag=True, help="For all projects of this user, not for one folder.")
@click.option("--mcp", "with_mcp", is_flag=True, help=f"Add the MCP server to DIR/{MCP_FILE} (Claude Code).")
@click.option("--force", is_flag=True, help="Overwrite what was changed by hand.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def install(
    directory: str | None,
    *,
    claude: bool,
    codex: bool,
    user: bool,
    with_mcp: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Put the skill where Claude Code and Codex find it: in the project DIR, else the current folder.

    Without --claude and --codex it is for both. Prints how each is told of the MCP server.
    """
    if user and (directory is not None or with_mcp):
        raise UsageError("--user is for all projects", hint="leave out the folder and --mcp")
    root = Path(directory or ".")
    if not root.is_dir():
        raise UsageError(f"there is no folder {str(root)!r}")
    both = not (claude or codex)
    targets = [
        *([_claude_folder(root, user=user)] if claude or both else []),
        *([_codex_folder(root, user=user)] if codex or both else []),
    ]
    for target in targets:
        _check(target / FILE, force=force)
    merged = _merged(root / MCP_FILE, force=force) if with_mcp else None
    done = [(target / FILE, _write(target / FILE, signed(text()))) for target in targets]
    if merged is not None:
        done.append((root / MCP_FILE, _write(root / MCP_FILE, merged)))
    lines = _lines(claude=(claude or both) and not with_mcp, codex=codex or both)
    if as_json:
        files = [{"path": str(path), "written": written} for path, written in done]
        click.echo(json.dumps({"files": files, "add_server": lines}, ensure_ascii=False, indent=2))
        return
    for path, written in done:
        click.echo(f"{'written' if written else 'up to date'}: {path}")
    for client, line in lines.items():
        click.echo(f"{client}: add the tools with\n  {line}")


@skill.command()
def show() -> None:
    """Print the skill."""
    click.echo(text(), nl=False)


def text() -> str:
    """The skill as it is shipped."""
    return Path(__file__).with_name(FILE).read_text("utf-8")


def signed(body: str) -> str:
    """The skill with a last line that tells whether somebody has changed it since."""
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f"{body}\n<!-- arf {__version__}; sha256 {digest} -->\n"


def is_ours(content: str) -> bool:
    """Whether a file is a skill as some version of arf has written it."""
    match = _FOOTER.search(content)
    return match is not None and hashlib.sha256(content[: match.start()].encode()).hexdigest() == match[1]


# ---- Where --------------------------------------------------------------------------------------


def _claude_folder(root: Path, *, user: bool) -> Path:
    home = Path(os.environ.get("CLAUDE_CONFIG_DIR") or Path.home() / ".claude")
    return (home if user else root / ".claude") / "skills" / NAME


def _codex_folder(root: Path, *, user: bool) -> Path:
    home = Path(os.environ.get("CODEX_HOME") or Path.home() / ".codex")
    return (home if user else root / ".agents") / "skills" / NAME


def _lines(*, claude: bool, codex: bool) -> dict[str, str]:
    """The command that tells each of them of the server."""
    command = shlex.join([_executable(), "mcp"])
    lines = {}
    if claude:
        lines["Claude Code"] = f"claude mcp add {NAME} -- {command}"
    if codex:
        lines["Codex"] = f"codex mcp add {NAME} -- {command}"
    return lines


def _executable() -> str:
    """What starts this arf from anywhere: `arf` if that is what the shell finds, else its path."""
    mine = Path(sys.executable).with_name("arf")
    found = shutil.which("arf")
    if found is not None and Path(found).resolve() == mine.resolve():
        return "arf"
    return str(mine) if mine.exists() else "arf"


# ---- Writing ------------------------------------------------------------------------------------


def _check(path: Path, *, force: bool) -> None:
    """Raises ArfError if a file is there that arf has not written as it is."""
    if not path.exists() or force:
        return
    try:
        content = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        content = ""
    if not is_ours(content):
        raise ArfError(f"{path} was changed by hand", hint="--force overwrites it")


def _write(path: Path, content: str) -> bool:
    """Write a file, whole or not at all; False if it is like that already."""
    if path.exists() and path.read_bytes() == content.encode():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content, mode=0o666, durable=False)
    return True


def _merged(path: Path, *, force: bool) -> str:
    """The project's servers with arf among them. Raises ArfError where the file cannot be added to."""
    data: Any = {}
    if path.exists():
        try:
            data = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ArfError(f"{path} is no JSON: {error}", hint="mend it, or leave out --mcp") from None
    servers = data.setdefault("mcpServers", {}) if isinstance(data, dict) else None
    if not isinstance(servers, dict):
        raise ArfError(f"{path} holds no mcpServers object", hint="mend it, or leave out --mcp")
    server = {"command": _executable(), "args": ["mcp"]}
    if servers.get(NAME, server) != server and not force:
        raise ArfError(f"{path} has another server called {NAME}", hint="--force overwrites it")
    servers[NAME] = server
    return json.dumps(data, ensure_ascii=False, indent=2) + "\n"
