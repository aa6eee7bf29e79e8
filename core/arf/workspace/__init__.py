"""Workspaces: opening one, and the git repository behind the usual kind."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from arf.errors import UsageError

if TYPE_CHECKING:
    from arf.interfaces import Workspace
    from arf.types import WorkspaceSettings


def open_workspace(
    path: Path, settings: WorkspaceSettings, *, base: str = "", clean: bool = True
) -> Workspace:
    """The workspace at a folder, of the kind that the settings name.

    `base` is the commit that a study began with, whatever the user's files are by now; empty for a new study.
    For that, `clean` refuses files of which no commit has been made, as experiments would not have them.
    Raises WorkspaceError with what is wrong and what to do, UsageError for a kind that cannot be imported.
    """
    if settings.kind == "git":
        from arf.workspace.workspace import GitWorkspace

        return GitWorkspace.open(path, settings, base=base, clean=clean)
    module, _, name = settings.kind.partition(":")
    try:
        opened: Workspace = getattr(importlib.import_module(module), name)(
            path, settings, base=base, clean=clean
        )
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"workspace.kind: cannot use {settings.kind!r}: {error}",
            hint="write `git`, or `package.module:callable` of an installed package",
        ) from error
    return opened
