"""What a job needs in its environment because it runs in a work tree, and not in the checkout."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from arf.workspace.files import OWN_FOLDER, Rules
from arf.workspace.repository import Files


def job_env(directory: Path, rules: Rules, listing: Files) -> dict[str, str]:
    """Variables for the jobs of the workspace at a folder, whose commit holds the files of `listing`."""
    # So that the script's own `git` finds no repository, rather than the user's.
    env = {"GIT_CEILING_DIRECTORIES": str(directory / OWN_FOLDER)}
    packages = _package_folders(listing, rules.prefix)
    if packages:
        # A package of the repository that is installed as editable would be imported from the checkout,
        # without the change under test. Relative: each job finds its own tree.
        inherited = os.environ.get("PYTHONPATH")
        env["PYTHONPATH"] = os.pathsep.join([*packages, *([inherited] if inherited else [])])
    if _runs_uv(rules.settings.command):
        env |= _uv_env(directory, rules.prefix, listing, is_package=bool(packages))
    return env


def _runs_uv(command: str | tuple[str, ...]) -> bool:
    words = command.split() if isinstance(command, str) else command
    return "uv" in words and "run" in words


def _uv_env(directory: Path, prefix: str, listing: Files, *, is_package: bool) -> dict[str, str]:
    """One environment for all trees: uv would make a new one, of gigabytes, in each.

    uv brings it up to date at each start, which is quick when nothing is to do, and locks it meanwhile. A
    lock file is used as it is, or a newer uv would rewrite it and the run would count as having changed a
    read-only file. If the project is a package, uv would install it from the tree that started last,
    under the feet of the others: then the environment is used as it is.
    """
    here = PurePosixPath(prefix)
    places = list(zip([here, *here.parents], [directory, *directory.parents], strict=False))
    home, folder = next((place for place in places if str(place[0] / "pyproject.toml") in listing), places[0])
    env = {}
    if "UV_PROJECT_ENVIRONMENT" not in os.environ:
        env["UV_PROJECT_ENVIRONMENT"] = str(folder / ".venv")
    if str(home / "uv.lock") in listing:
        env["UV_FROZEN"] = "1"
    if is_package and (folder / ".venv").exists():
        env["UV_NO_SYNC"] = "1"
    return env


_MOST_FOLDERS = 20  # a monorepo may have hundreds of projects
_PROJECT_FILES = ("pyproject.toml", "setup.py", "setup.cfg")
_SOURCES = ("src", "python", "lib")


def _package_folders(listing: Iterable[str], prefix: str) -> list[str]:
    """The folders from which the packages of the repository's Python projects are imported.

    Relative to the workspace: of the projects that it is in, and of those that are in it, the nearest first.
    A package in `src`, `python` or `lib` needs no `__init__.py`.
    """
    here = PurePosixPath(prefix)
    paths = [PurePosixPath(path) for path in listing]
    projects = {path.parent for path in paths if path.name in _PROJECT_FILES}
    near = {home for home in projects if here.is_relative_to(home) or home.is_relative_to(here)}
    sources = {home / name for home in near for name in _SOURCES}
    found: set[PurePosixPath] = set()
    for path in paths:
        above = path.parent.parent
        is_package = above in sources or (above in near and path.name == "__init__.py")
        if is_package and path.suffix == ".py" and path.parent != above:
            found.add(above)
    ordered = sorted(found, key=lambda folder: (_distance(folder, here), folder in near, str(folder)))
    return [posixpath.relpath(str(folder), prefix or ".") for folder in ordered[:_MOST_FOLDERS]]


def _distance(folder: PurePosixPath, here: PurePosixPath) -> int:
    """Steps between a workspace and the project of a folder with sources."""
    home = folder.parent if folder.name in _SOURCES else folder
    return abs(len(home.parts) - len(here.parts))
