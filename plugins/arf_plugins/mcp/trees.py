"""The files that an agent edits with its own tools, and the context: what changed there is a change."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import frozen

from arf.errors import UsageError, WorkspaceError
from arf.interfaces import Workspace

MAX_NEW_FILE = 2_000_000
"""Bytes; what is bigger than a source file can be is an output of a run."""
SKIPPED = {".git", ".arf", "__pycache__", ".venv", "node_modules"}


@frozen
class AgentTree:
    """A folder with the files of a commit, in a git work tree or a plain copy."""

    top: Path
    """Where the repository's top is."""
    workspace: Workspace
    base: str

    @property
    def root(self) -> Path:
        """Where the workspace is in it, and where the agent works."""
        inside = self.workspace.work_tree(self.top).cwd
        return inside if inside.is_dir() else self.top

    def read(self, base_files: Mapping[str, str]) -> dict[str, str]:
        """The editable files as they are. Raises UsageError where something changed that must not."""
        if not self.top.is_dir():
            raise WorkspaceError(f"the work tree {self.top} is gone", hint="`work_tree` makes it again")
        files: dict[str, str] = {}
        for path in base_files:
            files[path] = self._text(path, base_files[path])
        files |= self._new_files(base_files)
        touched = [path for path in self._others(base_files) if self._is_touched(path)]
        if touched:
            names = ", ".join(sorted(touched)[:5])
            raise UsageError(f"{names} changed, which may not be changed", hint="put it back as it was")
        return files

    def restore(self, files: Mapping[str, str]) -> None:
        """Bring files back to the base that were read; one that has changed again since is left."""
        base = self.workspace.files(self.base)
        for path, text in files.items():
            if text == base.get(path):
                continue
            try:
                is_same = self._text(path, text) == text
            except UsageError:
                continue
            if is_same and path in base:
                self._write(path)
            elif is_same:
                (self.root / path).unlink()

    def reset(self) -> None:
        """Bring all files back to the base, whatever was done to them; new files that are no change stay."""
        workspace = self.workspace
        for path in self._new_files(workspace.files(self.base)):
            (self.root / path).unlink(missing_ok=True)
        for path in workspace.tracked(self.base):
            if workspace.is_editable(path) or workspace.is_readonly(path):
                self._write(path)

    def _write(self, path: str) -> None:
        """Write a file as the base has it, byte for byte, unless it is like that."""
        wanted, file = self.workspace.read(self.base, path), self._place(path)
        if wanted is None or file is None or not self.top.is_dir():
            return
        if file.is_symlink():
            file.unlink()
        if file.is_file() and file.read_bytes() == wanted.data:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(wanted.data)
        file.chmod(file.stat().st_mode & 0o666 | (0o111 if wanted.executable else 0))

    # ---- Reading ----------------------------------------------------------------------------

    def _text(self, path: str, before: str) -> str:
        file = self.root / path
        if file.is_symlink():
            raise UsageError(f"{path} has become a symbolic link", hint="make it a file again")
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            raise UsageError(f"{path} is gone", hint="a change cannot delete a file: put it back") from None
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from None
        if data.decode("utf-8", "replace") == before:
            return before
        try:
            return data.decode("utf-8", "replace" if "\ufffd" in before else "strict")
        except UnicodeDecodeError:
            raise UsageError(f"{path} is no UTF-8 text any more") from None

    def _new_files(self, base_files: Mapping[str, str]) -> dict[str, str]:
        """Text files that the agent made where ideas may make some."""
        tracked = self.workspace.tracked(self.base)
        found = {}
        for path, status in self._walk(self.root, ""):
            known = path in base_files or path in tracked or not self.workspace.is_editable(path)
            if known or not stat.S_ISREG(status.st_mode) or status.st_size > MAX_NEW_FILE:
                continue
            try:
                found[path] = (self.root / path).read_bytes().decode("utf-8")
            except (OSError, UnicodeDecodeError):
                continue  # an output, not a source
        return found

    def _walk(self, folder: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in SKIPPED:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk(Path(entry.path), f"{prefix}{entry.name}/")
                else:
                    yield prefix + entry.name, entry.stat(follow_symlinks=False)

    def _others(self, base_files: Mapping[str, str]) -> Iterator[str]:
        """The read-only files."""
        for path in self.workspace.tracked(self.base):
            if path not in base_files and self.workspace.is_readonly(path):
                yield path

    def _is_touched(self, path: str) -> bool:
        """Whether a file is there with another content; one that is missing changes nothing."""
        file = self._place(path)
        if file is None or not file.is_file() or file.is_symlink():
            return False
        wanted = self.workspace.read(self.base, path)
        return wanted is not None and file.read_bytes() != wanted.data

    def _place(self, path: str) -> Path | None:
        """Where a file is; None for one beside the workspace, where there is a copy of its folder alone."""
        place = Path(os.path.normpath(self.root / path))
        return place if place.is_relative_to(self.top) else None


# ---- Git work trees -----------------------------------------------------------------------------


def git_tree(workspace: Workspace, top: Path, base: str) -> AgentTree:
    """The git work tree at a folder, made at `base` if there is none; else at the commit that it is on."""
    head = _head(top)
    if head is None:
        top.parent.mkdir(parents=True, exist_ok=True)
        _git(workspace.directory, "worktree", "prune")
        _git(workspace.directory, "worktree", "add", "--detach", "--force", str(top), base)
        head = base
        AgentTree(top, workspace, head).reset()  # git's filters may have changed line ends
        for path, target in workspace.links().items():
            link = top / path
            if not link.exists() and not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(target)
    return AgentTree(top, workspace, head)


def move(tree: AgentTree, commit: str) -> AgentTree:
    """Bring a git work tree to another commit. What was edited there is lost."""
    _git(tree.top, "checkout", "--quiet", "--force", "--detach", commit)
    moved = AgentTree(tree.top, tree.workspace, commit)
    moved.reset()
    return moved


def _head(top: Path) -> str | None:
    """The commit that is checked out at a folder; None if that is no work tree of its own."""
    if not (top / ".git").exists():
        return None
    try:
        return _git(top, "rev-parse", "HEAD").strip()
    except WorkspaceError:
        return None


def _git(where: Path, *arguments: str) -> str:
    """Raises WorkspaceError with what git said. The user's hooks are not run."""
    command = ["git", "-c", "core.hooksPath=/dev/null", *arguments]
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command,
            cwd=where,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        raise WorkspaceError("the command git is missing", hint="install git for work trees") from None
    if done.returncode:
        said = " ".join(done.stderr.split())[-300:]
        raise WorkspaceError(f"git {arguments[0]} {arguments[1]} failed: {said}")
    return done.stdout
