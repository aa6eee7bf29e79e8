"""A workspace of a simulated study: its commits are settings of constants, and nothing is on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from arf.errors import ConflictError, UsageError, WorkspaceError, nearest
from arf.interfaces import Composed, SourceFile, Workspace, WorkTree
from arf.sdk.engine import LogTail
from arf.sdk.scripts import constants
from arf.types import Draft, Idea, Scalar, WorkspaceSettings
from arf_plugins.objectives.objective import SCRIPT, SimulatedObjective


def identity(values: Mapping[str, Scalar]) -> str:
    """The name of a setting, 40 hexadecimal digits: the same however it came about."""
    return hashlib.sha1(json.dumps(values, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


class SimTree(WorkTree):
    """A work tree that holds nothing: the backend looks a job's constants up by its commit."""

    def fill(self, commit: str, seed: int | None) -> None:
        return

    def adopt(self, commit: str, seed: int | None) -> None:
        return

    def tampered(self) -> Sequence[str]:
        return ()


class SimWorkspace(Workspace):
    """Knows constants and nothing else, under the rules and with the errors of a real one."""

    def __init__(self, objective: SimulatedObjective) -> None:
        settings = WorkspaceSettings(command=("python", SCRIPT), editable=(SCRIPT,))
        super().__init__(Path("simulated"), settings)
        self._objective = objective
        self._constants = constants.read(objective.script, SCRIPT)
        self._settings: dict[str, dict[str, Scalar]] = {}
        self._known: set[str] = set()
        """Commits of which it is known that the objective has a value for them."""
        self._base = self._commit(objective.base)
        self._text = lru_cache(maxsize=64)(self._write_script)

    # ---- what is there ------------------------------------------------------------------------

    def values(self, commit: str) -> Mapping[str, Scalar]:
        """The value of each constant in a commit."""
        return self._settings[commit]

    def base_commit(self) -> str:
        return self._base

    def tree_of(self, commit: str) -> str:
        return commit

    def files(self, commit: str) -> dict[str, str]:
        return {SCRIPT: self._text(commit)}

    def tracked(self, commit: str) -> Sequence[str]:
        return (SCRIPT,)

    def read(self, commit: str, path: str) -> SourceFile | None:
        return SourceFile(self._text(commit).encode()) if path == SCRIPT else None

    def diff(self, old: str, new: str) -> str:
        before, after = self._settings[old], self._settings[new]
        return "".join(
            f"-{name} = {before[name]!r}\n+{name} = {after[name]!r}\n"
            for name in before
            if before[name] != after[name]
        )

    def is_editable(self, path: str) -> bool:
        return path == SCRIPT

    def is_readonly(self, path: str) -> bool:
        return path != SCRIPT

    def _write_script(self, commit: str) -> str:
        return constants.replace(self._objective.script, self._settings[commit], SCRIPT)

    # ---- ideas --------------------------------------------------------------------------------

    def make_idea(self, draft: Draft, base: str, *, message: str) -> str:
        if not draft.constants:
            raise UsageError("a simulated script has nothing but constants", hint="propose constants by name")
        old = self._settings[base]
        values = {name: self._checked(name, value) for name, value in draft.constants.items()}
        constants.check(self._constants, values)
        new = {**old, **values}
        if new == old:
            raise UsageError("it changes nothing", hint="the constants are like that already")
        return self._commit(new)

    def _checked(self, name: str, value: Scalar) -> Scalar:
        """The value in the type of its constant."""
        if name not in self._objective.base:
            raise UsageError(
                f"the editable files have no constant {name!r}", hint=nearest(name, self._objective.base)
            )
        like = self._objective.base[name]
        if isinstance(like, float) and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if type(value) is not type(like):
            raise UsageError(f"{name} is {like!r}, and {value!r} is of another type")
        return value

    def compose(self, parent: str, ideas: Sequence[Idea], *, message: str) -> Composed:
        values: dict[str, Scalar] = {}
        setters: dict[str, str] = {}
        for idea in ideas:
            for name, value in idea.constants.items():
                value = self._checked(name, value)
                if name in values and values[name] != value:
                    raise ConflictError(
                        f"{setters[name]!r} sets {name} to {values[name]!r}, {idea.title!r} to {value!r}"
                    )
                values[name], setters[name] = value, idea.title
        commit = self._commit({**self._settings[parent], **values}) if values else parent
        if commit not in self._known:
            self._objective.truth(self._settings[commit])
            self._known.add(commit)
        return Composed(commit=commit, tree=commit)

    def _commit(self, values: Mapping[str, Scalar]) -> str:
        commit = identity(values)
        self._settings.setdefault(commit, dict(values))
        return commit

    # ---- what is kept ---------------------------------------------------------------------------

    def keep(self, study: str, experiment: int, commit: str) -> None:
        return

    def keep_idea(self, study: str, idea: int, commit: str) -> None:
        return

    def apply_to_checkout(self, base: str, commit: str) -> Sequence[str]:
        raise WorkspaceError("a simulated script has no file that could be changed")

    def work_tree(self, directory: Path) -> SimTree:
        return SimTree(directory)


class MemoryLogs:
    """The logs of simulated jobs: each is read once, when the job has ended, and is gone then."""

    def __init__(self) -> None:
        self._texts: dict[Path, str] = {}

    def write(self, path: Path, text: str) -> None:
        self._texts[path] = text

    def tail(self, path: Path) -> LogTail:
        return _MemoryTail(path, self._texts)


class _MemoryTail(LogTail):
    def __init__(self, path: Path, texts: dict[Path, str]) -> None:
        super().__init__(path)
        self._texts = texts
        self._read = 0

    @property
    def offset(self) -> int:
        return self._read

    def size(self) -> int:
        text = self._texts.get(self._path)
        return self._read if text is None else self._read + len(text)

    def read(self) -> list[str]:
        text = self._texts.pop(self._path, "")
        self._read += len(text)
        return text.splitlines()

    def rest(self, limit: int) -> list[str]:
        return self.read()
