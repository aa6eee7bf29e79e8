"""`arf mcp`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from arf.errors import PluginError, UsageError


@click.command()
@click.argument("study", required=False)
@click.option("--workspace", metavar="DIR", help="Folder to work in; the current one by default.")
@click.option("--ask", metavar="FOLDER", help="Serve one ask of a running study; arf does that itself.")
def mcp(study: str | None, workspace: str | None, ask: str | None) -> None:
    """Serve arf's tools to an agent, by the Model Context Protocol over standard input and output.

    The tools are about STUDY; without it, about the study that the agent starts or names, else the newest.
    An agent's client starts this by itself: `arf skill install` tells how it is told to.
    """
    if workspace is not None:
        if not Path(workspace).is_dir():
            raise UsageError(f"there is no folder {workspace!r}")
        os.chdir(workspace)
    if ask is not None and study is not None:
        raise UsageError("--ask names its study itself", hint="leave out the study")
    serve(server_of(study, Path(ask) if ask is not None else None))


def server_of(study: str | None, ask: Path | None = None) -> Any:
    """The server, not yet serving. Raises ArfError if the study or the ask cannot be used."""
    try:
        from arf_plugins.mcp.server import ToolServer
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types"):
            raise
        raise PluginError("`arf mcp` needs the package mcp", hint="pip install 'arf-research[mcp]'") from None
    if ask is not None:
        from arf_plugins.mcp import asked

        return ToolServer(asked.Asked.open(ask).tools(), asked.INSTRUCTIONS)
    from arf.sdk.commands import find_study
    from arf_plugins.mcp import outside

    home = find_study(study) if study is not None else None
    return ToolServer(outside.Outside(str(home) if home else None).tools(), outside.INSTRUCTIONS)


def serve(server: Any) -> None:
    """Until the client closes standard input. What others print goes to standard error meanwhile."""
    if sys.stdin.isatty():
        click.echo("arf mcp: serving an agent's client on standard input; Ctrl-C ends it", err=True)
    server.run("stdio")
