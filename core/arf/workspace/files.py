"""The files of a workspace: which of them ideas may change, what they are called, and what is in them.

Paths in a repository are relative to its top; people and plugins see them relative to the workspace, which
may be a sub-folder. Text is kept to the byte: what is not UTF-8 is surrogates.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import PurePosixPath

from arf.errors import UsageError, nearest
from arf.types import WorkspaceSettings
from arf.workspace.repository import Entry, File, Files, Repository

OWN_FOLDER = ".arf"
"""What arf writes in a workspace; kept out of git by `.git/info/exclude`."""
Changes = Mapping[str, File | None]
"""Paths of the repository, and what they become; None: removed."""


class Rules:
    """What the settings of a workspace say of the paths of its repository."""

    def __init__(self, prefix: str, settings: WorkspaceSettings) -> None:
        self.prefix = prefix
        """The workspace's path in the repository, with a slash at its end; empty at the top."""
        self.settings = settings
        self._editable = matcher(settings.editable)
        self._readonly = matcher(settings.readonly)
        self._of = lru_cache(maxsize=None)(self._find)

    def is_editable(self, path: str) -> bool:
        """Whether ideas may change the file at this path of the repository."""
        return self._of(path)[0]

    def is_readonly(self, path: str) -> bool:
        """Whether a run that changes this tracked file does not count."""
        return self._of(path)[1]

    def _find(self, path: str) -> tuple[bool, bool]:
        inside = path.startswith(self.prefix)
        name = path[len(self.prefix) :]
        readonly = inside and bool(self._readonly(name))
        editable = inside and not readonly and bool(self._editable(name))
        if not self.settings.readonly:
            # Some do track compiled files, and every run writes them.
            readonly = not editable and not path.endswith(".pyc")
        return editable, readonly

    def shown(self, path: str) -> str:
        """A path of the repository as people in the workspace see it."""
        if path.startswith(self.prefix):
            return path[len(self.prefix) :]
        return os.path.relpath(path, self.prefix or ".").replace(os.sep, "/")

    def located(self, path: str) -> str:
        """The other way round: where in the repository a path of the workspace is."""
        return os.path.normpath(self.prefix + path)

    def inside(self, path: str) -> str:
        """A draft's path as one of the repository. Raises UsageError if it leads out of the workspace."""
        parts = [part for part in path.strip().split("/") if part not in ("", ".")]
        bad = path.startswith(("/", "~")) or "\\" in path or "\0" in path or not parts
        if bad or any(part == ".." or part.lower() in (".git", OWN_FOLDER) for part in parts):
            raise UsageError(
                f"{path!r} is no path in the workspace",
                hint="give it relative to the workspace, with forward slashes and without `..`",
            )
        return self.prefix + "/".join(parts)


class Sources:
    """The commits of a repository, as files of a workspace."""

    def __init__(self, git: Repository, rules: Rules) -> None:
        self.git = git
        self.rules = rules
        self.stand_ins: dict[str, str] = {}
        """Tracked paths that a work tree gets as links into the checkout; the commit does not hold them.

        Submodules, LFS files and others that a git filter writes, and relative links to untracked files.
        """
        self._text = lru_cache(maxsize=512)(self._read_text)

    def texts(self, commit: str) -> dict[str, tuple[Entry, str]]:
        """The editable text files of a commit."""
        listing = self.git.files(commit).items()
        entries = {path: e for path, e in listing if self.rules.is_editable(path) and e.is_file}
        texts = {path: (entry, self._text(entry.id)) for path, entry in entries.items()}
        return {path: (entry, text) for path, (entry, text) in texts.items() if text is not None}

    def _read_text(self, blob: str) -> str | None:
        data = self.git.read(blob)
        return None if b"\0" in data else decode(data)

    def file(self, entry: Entry | None) -> File | None:
        """What is at a path; of a link or a submodule, its name as content."""
        if entry is None:
            return None
        return File(entry.mode, self.git.read(entry.id) if entry.is_file else entry.id.encode())

    def near(self, path: str, listing: Files) -> str:
        """A hint for a path that is not there."""
        return nearest(
            self.rules.shown(path),
            (self.rules.shown(known) for known in listing if self.rules.is_editable(known)),
        )


def matcher(patterns: Sequence[str]) -> Callable[[str], object]:
    """Matches the whole of a path that one of the patterns of `WorkspaceSettings` means."""
    return re.compile("|".join(map(_pattern, patterns)) or r"(?!)").match


def _pattern(pattern: str) -> str:
    """A glob as a regular expression for a whole path: `*` within a folder, `**` across folders.

    A name that holds such characters itself matches, too.
    """
    pattern = pattern and str(PurePosixPath(pattern))
    pattern = "**" if pattern == "." else pattern
    meaning = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    text = ""
    for part in re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern):
        if part.startswith("[") and part.endswith("]"):
            text += part.replace("[!", "[^", 1)
        else:
            text += meaning.get(part) or re.escape(part)
    return rf"(?:{re.escape(pattern)}|{text})(?:/.*)?\Z"


def decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The bytes of a text. What an agent wrote may hold surrogates that no byte stands for."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
