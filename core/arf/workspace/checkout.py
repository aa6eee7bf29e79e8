"""Brings a change into the user's own files, and touches nothing that the user has changed."""

from __future__ import annotations

from pathlib import Path

import pygit2
from pygit2.enums import FileMode, FileStatus

from arf.errors import ConflictError, WorkspaceError
from arf.workspace.files import Sources, few
from arf.workspace.merging import State
from arf.workspace.repository import File


def apply_to_checkout(sources: Sources, directory: Path, now: str, base: str, commit: str) -> tuple[str, ...]:
    """Bring what changed from `base` to `commit` into the user's files; gives their paths.

    Only editable files, and only if none of them has uncommitted changes (WorkspaceError). What the user
    has committed since is merged (ConflictError). Nothing is staged or committed.
    """
    paths = [path for path in sources.git.changes(base, commit) if sources.rules.is_editable(path)]
    repo = pygit2.Repository(str(directory))
    modified = [path for path in paths if _is_modified(repo, path)]
    if modified:
        raise WorkspaceError(
            f"uncommitted changes in {few(map(sources.rules.shown, modified))}",
            hint="commit or stash them first",
        )
    state = State(sources, now)
    conflicts = state.merge(base, commit, paths)
    if conflicts:
        raise ConflictError(
            f"the files have changed since the study began: {few(conflicts)}",
            paths=conflicts,
            hint="merge its branch with git",
        )
    for path, file in state.changes.items():
        _write(Path(repo.workdir), path, file)
    return tuple(sorted(map(sources.rules.shown, state.changes)))


def _write(top: Path, path: str, file: File | None) -> None:
    target = top / path
    if file is None:
        target.unlink(missing_ok=True)
        return
    data = file.data
    if target.exists() and b"\r\n" in target.read_bytes() and b"\r\n" not in data:
        data = data.replace(b"\n", b"\r\n")  # checked out with core.autocrlf
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.arf")
    scratch.write_bytes(data)
    plain = target.stat().st_mode & 0o666 if target.exists() else 0o644
    scratch.chmod(plain | (0o111 if file.mode == FileMode.BLOB_EXECUTABLE else 0))
    scratch.replace(target)


def _is_modified(repo: pygit2.Repository, path: str) -> bool:
    try:
        return repo.status_file(path) not in (FileStatus.CURRENT, FileStatus.IGNORED)
    except KeyError:  # neither in the commit nor in the checkout: it will be new
        return False
