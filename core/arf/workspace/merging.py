"""Changes on top of a commit, merged in memory."""

from __future__ import annotations

from collections.abc import Iterable

from arf.workspace.files import Sources, decode, encode
from arf.workspace.patches import merge
from arf.workspace.repository import Entry, File


class State:
    """Files on top of a commit, in memory."""

    def __init__(self, sources: Sources, commit: str) -> None:
        self._sources = sources
        self._commit = commit
        self.changes: dict[str, File | None] = {}
        self.merged: set[str] = set()
        """Paths whose text is a mixture that nobody has seen yet."""

    def merge(self, ancestor: str, theirs: str, paths: Iterable[str] | None = None) -> list[str]:
        """Take what changed from `ancestor` to `theirs`; gives the files in conflict, for people."""
        git = self._sources.git
        conflicts = []
        for path, (old, new) in git.changes(ancestor, theirs).items():
            if paths is not None and path not in paths:
                continue
            base, wanted = self._sources.file(old), self._sources.file(new)
            ours = self._file(path)
            if ours == base:
                self.changes[path] = wanted
            elif ours != wanted:
                merged = _merge_files(base, ours, wanted)
                if merged is None:
                    conflicts.append(self._sources.rules.shown(path))
                else:
                    self.changes[path] = merged
                    self.merged.add(path)
        return conflicts

    def _file(self, path: str) -> File | None:
        if path in self.changes:
            return self.changes[path]
        return self._sources.file(self._sources.git.files(self._commit).get(path))

    def texts(self) -> dict[str, tuple[Entry, str]]:
        """The editable text files as they are now."""
        texts = self._sources.texts(self._commit)
        for path, file in self.changes.items():
            texts.pop(path, None)
            if file is not None and b"\0" not in file.data and self._sources.rules.is_editable(path):
                texts[path] = Entry(file.mode, ""), decode(file.data)
        return texts


def _merge_files(base: File | None, ours: File | None, theirs: File | None) -> File | None:
    """Both changes of a file; None if they conflict. A change of mode is taken from the side that has it."""
    if base is None or ours is None or theirs is None:
        return None
    if any(b"\0" in file.data for file in (base, ours, theirs)):
        return None
    text = merge(decode(base.data), decode(ours.data), decode(theirs.data))
    if text is None:
        return None
    return File(theirs.mode if theirs.mode != base.mode else ours.mode, encode(text))
