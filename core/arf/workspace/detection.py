"""What arf assumes of a folder that has no `arf.yaml`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from attrs import frozen

from arf.types import WorkspaceSettings

_SCRIPTS = re.compile(r"(?:train|training|pretrain|train_\w+|\w+_train)\.py\Z")
_PREPARE = re.compile(r"(?:prepare|prepare_\w+|\w+_prepare)\.py\Z")


@frozen
class Detected:
    """What was found; without settings, `reason` says why in one line, with what to do."""

    settings: WorkspaceSettings | None
    reason: str


def detect(path: Path) -> Detected:
    """The settings of a folder that is like karpathy/autoresearch; none unless there is one obvious reading.

    Such a folder holds a training script, which is edited, and `prepare.py` with data and evaluation, which
    is not. `train.py` and `prepare.py` come first; else the one script that is named like them.
    """
    if not path.is_dir():
        return Detected(None, f"{path} is no folder")
    names = _names(path)
    script, why = _only(names, "train.py", _SCRIPTS, "a training script")
    if script is None:
        below = _below(path)
        if below and not any(map(_SCRIPTS.match, names)):
            return Detected(None, f"{why} in {path}; did you mean {' or '.join(map(str, below[:3]))}?")
        return Detected(None, f"{why} in {path}; {_WRITE}")
    prepare, why = _only(names, "prepare.py", _PREPARE, "a script with data and evaluation")
    if prepare is None:
        return Detected(None, f"{script} is there, but {why}, which must be read-only; {_WRITE}")
    uses_uv = _uses_uv(path, names)
    settings = WorkspaceSettings(
        command=f"uv run {script}" if uses_uv else f"{{python}} {script}",
        editable=(script,),
        program=_program(names),
    )
    return Detected(
        settings, f"{script} is edited, {prepare} and all else is read-only; run by `{settings.command}`"
    )


_USUAL = ("train.py", "prepare.py")
_LOOKED_INTO = 200
"""Folders; one of data may hold many more."""
_WRITE = "write an arf.yaml with workspace.command, workspace.editable and objective.metric"


def _below(path: Path) -> list[Path]:
    """The folders right inside that hold a workspace."""
    folders = sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))
    return [
        folder
        for folder in folders[:_LOOKED_INTO]
        if os.access(folder, os.R_OK | os.X_OK)
        and ((folder / "arf.yaml").is_file() or all((folder / name).is_file() for name in _USUAL))
    ]


def _names(path: Path) -> set[str]:
    """The files right in the folder that git tracks; all of them where git cannot say."""
    there = {item.name for item in path.iterdir() if item.is_file()}
    import pygit2

    from arf.workspace.repository import find_repository

    try:
        repo = find_repository(path.resolve())
        if repo is None or repo.workdir is None:
            return there
        prefix = path.resolve().relative_to(Path(repo.workdir).resolve()).as_posix()
        prefix = "" if prefix == "." else prefix + "/"
        tracked = {entry.path[len(prefix) :] for entry in repo.index if entry.path.startswith(prefix)}
    except (pygit2.GitError, ValueError):  # told when the workspace is opened
        return there
    return (there & tracked) or there


def _only(names: set[str], usual: str, pattern: re.Pattern[str], what: str) -> tuple[str | None, str]:
    """The usual name if it is there, else the only one that is like it; or why there is none."""
    if usual in names:
        return usual, ""
    found = sorted(name for name in names if pattern.match(name))
    if len(found) == 1:
        return found[0], ""
    if found:
        return None, f"{', '.join(found)} could each be {what}"
    return None, f"there is no {usual} or another file named like {what}"


def _uses_uv(path: Path, names: set[str]) -> bool:
    """Whether the project is run by uv: it has a lock file or a section of uv's, or its documents say so."""
    if "pyproject.toml" not in names:
        return False
    if "uv.lock" in names or (path / "uv.lock").exists():
        return True
    texts = [name for name in ("program.md", "README.md") if name in names]
    return "[tool.uv" in _text(path / "pyproject.toml") or any(
        "uv run" in _text(path / name) for name in texts
    )


def _program(names: set[str]) -> str:
    """The instructions to the agent: `program.md`, or the only file that is named like it."""
    found = sorted(name for name in names if re.match(r"program_\w+\.md\Z", name))
    return found[0] if "program.md" not in names and len(found) == 1 else "program.md"


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
