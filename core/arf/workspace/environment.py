"""What a job needs in its environment because it runs in a work tree, and not in the checkout."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from arf.workspace.files import OWN_FOLDER, Rules
from arf.workspace.repository import Files


def job_env(directory: Path, rules: Rules, listing: Files) -> dict[str, str]:
    """Variables for the jobs of the workspace at a folder, whose commit holds the files of `listing`."""
    # So that the script's own `git` finds no repository, rather than the user's.
    env = {"GIT_CEILING_DIRECTORIES": str(directory / OWN_FOLDER)}
    paths = [path[len(rules.prefix) :] for path in listing if path.startswith(rules.prefix)]
    packages = _package_folders(paths)
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


def _package_folders(paths: Iterable[str]) -> list[str]:
    """The folders from which a Python project's own packages are imported."""
    names = set(paths)
    if not names & {"pyproject.toml", "setup.py", "setup.cfg"}:
        return []
    packages = {path.removesuffix("/__init__.py") for path in names if path.endswith("/__init__.py")}
    folders = ["src"] if any(re.fullmatch(r"src/[^/]+", package) for package in packages) else []
    return folders + (["."] if any("/" not in package for package in packages) else [])
