"""A workspace that is a plain folder, without git: each version of its files is one JSON file in `.arf`."""

from __future__ import annotations

import difflib
import hashlib
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from arf.errors import ConflictError, LostError, UsageError, WorkspaceError
from arf.interfaces import Composed, SourceFile, Workspace, WorkTree
from arf.types import Draft, Idea, WorkspaceSettings
from arf.workspace import constants
from arf.workspace.patches import apply_edit, merge

Texts = Mapping[str, str]


class FolderWorkspace(Workspace):
    """`workspace.kind: folder_workspace:FolderWorkspace` opens one."""

    def __init__(
        self, path: Path, settings: WorkspaceSettings, *, base: str = "", clean: bool = True
    ) -> None:
        super().__init__(path.resolve(), settings)
        self._versions = self.directory / ".arf" / "versions"
        self._versions.mkdir(parents=True, exist_ok=True)
        inside = (p for p in self.directory.rglob("*") if p.is_file() and ".arf" not in p.parts)
        here = {p.relative_to(self.directory).as_posix(): p.read_text() for p in inside}
        self._base = base or self._write(here)

    def _write(self, texts: Texts) -> str:
        data = json.dumps(dict(texts), sort_keys=True).encode()
        commit = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        (self._versions / commit).write_bytes(data)
        return commit

    def texts(self, commit: str) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads((self._versions / commit).read_bytes())
        except FileNotFoundError:
            raise LostError(f"version {commit} is gone") from None
        return found

    def base_commit(self) -> str:
        return self._base

    def tree_of(self, commit: str) -> str:
        return commit

    def tracked(self, commit: str) -> Collection[str]:
        return self.texts(commit)

    def read(self, commit: str, path: str) -> SourceFile | None:
        text = self.texts(commit).get(path)
        return None if text is None else SourceFile(text.encode())

    def is_editable(self, path: str) -> bool:
        return path in self.settings.editable

    def is_readonly(self, path: str) -> bool:
        return not self.is_editable(path)

    def diff(self, old: str, new: str) -> str:
        before, after = self.texts(old), self.texts(new)
        lines: list[str] = []
        for path in sorted({*before, *after}):
            one, other = before.get(path, ""), after.get(path, "")
            lines += difflib.unified_diff(one.splitlines(True), other.splitlines(True), path, path)
        return "".join(lines)

    def make_idea(self, draft: Draft, base: str, *, message: str) -> str:
        if draft.patch or draft.commit:
            raise UsageError("a folder knows constants and edits")
        texts = self.texts(base)
        wanted = dict(draft.constants)
        for path in self.settings.editable:
            known = constants.read(texts[path], path)
            mine = {one.name: wanted.pop(one.name) for one in known if one.name in wanted}
            constants.check(known, mine)
            texts[path] = constants.replace(texts[path], mine, path)
        if wanted:
            raise UsageError(f"the editable files have no constant {next(iter(wanted))!r}")
        for edit in draft.edits:
            if not self.is_editable(edit.path):
                raise UsageError(f"{edit.path} is not editable")
            texts[edit.path] = apply_edit(texts[edit.path], edit)
        if texts == self.texts(base):
            raise UsageError("it changes nothing")
        return self._write(texts)

    def compose(self, parent: str, ideas: Sequence[Idea], *, message: str) -> Composed:
        texts = self.texts(parent)
        for idea in ideas:
            old, new = self.texts(idea.base), self.texts(idea.commit)
            for path in self.settings.editable:
                merged = merge(old[path], texts[path], new[path])
                if merged is None:
                    raise ConflictError(f"{idea.title!r} does not merge", paths=[path])
                texts[path] = merged
        commit = self._write(texts)
        return Composed(commit=commit, tree=commit)

    def keep(self, study: str, experiment: int, commit: str) -> None:
        self.texts(commit)

    def keep_idea(self, study: str, idea: int, commit: str) -> None:
        self.texts(commit)

    def apply_to_checkout(self, base: str, commit: str) -> Sequence[str]:
        before, after = self.texts(base), self.texts(commit)
        paths = sorted(path for path in after if after[path] != before.get(path))
        for path in paths:
            if (self.directory / path).read_text() != before[path]:
                raise WorkspaceError(f"{path} has changed")
        for path in paths:
            (self.directory / path).write_text(after[path])
        return paths

    def work_tree(self, directory: Path) -> WorkTree:
        return FolderTree(self, directory)


class FolderTree(WorkTree):
    def __init__(self, workspace: FolderWorkspace, directory: Path) -> None:
        super().__init__(directory)
        self._workspace = workspace
        self._texts: Texts = {}

    def fill(self, commit: str, seed: int | None) -> None:
        self.adopt(commit, seed)
        shutil.rmtree(self.directory, ignore_errors=True)
        for path, text in self._texts.items():
            (self.directory / path).parent.mkdir(parents=True, exist_ok=True)
            (self.directory / path).write_text(text)

    def adopt(self, commit: str, seed: int | None) -> None:
        self._texts = self._workspace.texts(commit)

    def tampered(self) -> Sequence[str]:
        def is_same(path: str, text: str) -> bool:
            return (self.directory / path).is_file() and (self.directory / path).read_text() == text

        return sorted(path for path, text in self._texts.items() if not is_same(path, text))
