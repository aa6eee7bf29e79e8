"""The bundled workspace: found in the wheel or in a checkout, and copied to a repository of its own."""

from __future__ import annotations

import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from arf.errors import ArfError, WorkspaceError

_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*cache", ".arf", ".git", ".keep")


def bundled() -> Path:
    """The folder with the bundled workspace. Raises ArfError if this installation has none."""
    import arf

    here = Path(arf.__file__).resolve().parent
    # In a wheel beside the package, in a checkout at its top. By path, because arf imports no plugin.
    for place in (here.parent / "arf_plugins" / "bundled" / "trainer", here.parents[1] / "trainer"):
        if (place / "train.py").is_file():
            return place
    raise ArfError(
        "this installation has no bundled workspace",
        hint="reinstall with `pip install --force-reinstall arf-research`",
    )


def set_up(target: Path) -> bool:
    """Make a workspace at a folder, with one commit. False if it is there already.

    A folder that was not made completely is never left. Raises WorkspaceError if something else is there.
    """
    if (target / "train.py").is_file() and (target / ".git").exists():
        return False
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise WorkspaceError(
            f"{target} is there, and is no workspace of arf's",
            hint="move it away, or name a workspace: `arf run FOLDER`",
        )
    source = bundled()
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        shutil.copytree(source, scratch, dirs_exist_ok=True, ignore=_IGNORED)
        scratch.chmod(0o755)
        first_commit(scratch, "The bundled workspace of arf")
        if target.is_dir():
            target.rmdir()
        scratch.rename(target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return True


def first_commit(directory: Path, message: str) -> None:
    """Make a git repository of a folder and commit all that is in it."""
    import pygit2

    repo = pygit2.init_repository(str(directory), initial_head="main")
    repo.index.add_all()
    repo.index.write()
    try:
        who = repo.default_signature
    except (KeyError, pygit2.GitError):  # git has not been told a name on this machine
        who = pygit2.Signature("arf", "arf@localhost")
    repo.create_commit("HEAD", who, who, message, repo.index.write_tree(), [])


def check_torch() -> None:
    """Raises ArfError if the bundled workspace cannot run with this interpreter."""
    if find_spec("torch") is None:
        raise ArfError(
            "the bundled workspace needs PyTorch, which is not installed",
            hint="pip install 'arf-research[trainer]' (without a GPU add "
            "--extra-index-url https://download.pytorch.org/whl/cpu)",
        )
