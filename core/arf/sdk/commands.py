"""Finds what people name: studies by name or prefix, experiments by number, commit or `best`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from arf.errors import UsageError, nearest

if TYPE_CHECKING:
    from arf.store.database import Store
    from arf.types import Experiment

T = TypeVar("T")

DEMO = "arf-demo"
"""The folder in which `arf run` sets up the bundled workspace."""
ARF_YAML = "arf.yaml"
_STUDIES = Path(".arf") / "studies"
_DATABASE = "arf.db"

study_argument = click.argument("study", required=False)
study_option = click.option("-s", "--study", help="Study name; the newest in the workspace by default.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def find_study(name: str | None) -> Path:
    """A study's folder, by its name, the beginning of it, or its path; the newest one for None.

    Searched in the workspace that the current folder is in, and in `./arf-demo`. Raises UsageError.
    """
    if name is not None and (Path(name) / _DATABASE).is_file():
        return Path(name).resolve()
    folders = study_folders()
    if not folders:
        raise UsageError("there is no study here", hint="go to a workspace, or start one with `arf run`")
    if name is None:
        return max(folders.values(), key=written_at)
    if name in folders:
        return folders[name]
    matches = [known for known in folders if known.startswith(name)]
    if len(matches) == 1:
        return folders[matches[0]]
    if matches:
        raise UsageError(f"{name!r} could be {', '.join(sorted(matches))}", hint="write more of the name")
    raise UsageError(f"there is no study {name!r}", hint=nearest(name, folders))


def is_meant(directory: Path) -> bool:
    """Whether who starts arf in this folder means the folder, be it a workspace that can be used or not."""
    names = [path.name for path in directory.iterdir()]
    return ARF_YAML in names or any("train" in name and name.endswith(".py") for name in names)


def workspace_file(directory: Path) -> Path | None:
    """Where a workspace's settings are, if it has any: also what is no file, so that its reader says so."""
    path = directory / ARF_YAML
    return path if os.path.lexists(path) else None


def study_folders() -> dict[str, Path]:
    """The studies of the workspace here and of the demo here, by name; those here win."""
    here = Path.cwd()
    inside = next((p for p in (here, *here.parents) if (p / _STUDIES).is_dir()), here)
    roots = (here / DEMO / _STUDIES, inside / _STUDIES)
    return {file.parent.name: file.parent for root in roots for file in root.glob(f"*/{_DATABASE}")}


def written_at(folder: Path) -> float:
    """When a study was last written; SQLite writes beside its file first."""
    files = (folder / _DATABASE, folder / f"{_DATABASE}-wal")
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def read_study(name: str | None, read: Callable[[Store], T]) -> T:
    """What `read` gives for the store of a study, which is closed again."""
    from arf.store.database import Store

    store = Store.open(find_study(name))
    try:
        return read(store)
    finally:
        store.close()


def find_experiment(store: Store, name: str) -> Experiment:
    """An experiment by number (`17` or `#17`), beginning of a commit, or `best`. Raises UsageError."""
    if name == "best":
        kept = store.kept()
        if not kept:
            raise UsageError("nothing has been kept yet", hint="`arf status` shows where the study stands")
        return kept[-1]
    if name.removeprefix("#").isdecimal():
        found = store.experiment(int(name.removeprefix("#")))
        if found is not None:
            return found
    if len(name) >= 4 and all(c in "0123456789abcdefABCDEF" for c in name):
        matches = store.find_commit(name)
        if len({match.commit for match in matches}) == 1:
            return matches[0]
        if matches:
            raise UsageError(
                f"commit {name} could be {', '.join(sorted({m.commit[:12] for m in matches}))}",
                hint="write more digits",
            )
    total = int(store.totals().get("experiments", 0))
    raise UsageError(
        f"study {store.directory.name!r} has no experiment {name!r}",
        hint=f"numbers go from 1 to {total}, a commit needs four digits or more, or say `best`"
        if total
        else "it has no experiment yet",
    )


def print_json(data: Any) -> None:
    """Print a document as JSON, indented, to standard output."""
    import json

    click.echo(json.dumps(data, ensure_ascii=False, indent=2))
