"""Tracked paths whose content git does not hold: submodules, files of LFS and other filters, links."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pygit2
from pygit2.enums import FileMode, RepositoryOpenFlag

from arf.errors import WorkspaceError
from arf.workspace.files import Sources
from arf.workspace.repository import Entry, Files, folders_of

_LFS = b"version https://git-lfs.github.com/spec/"


def find_stand_ins(sources: Sources, repo: pygit2.Repository, listing: Files) -> dict[str, str]:
    """The paths, and where in the checkout they lead. Raises WorkspaceError for what is missing there."""
    found = {}
    top = Path(repo.workdir)
    attributes = [
        e for path, e in listing.items() if path.rpartition("/")[2] == ".gitattributes" and e.is_file
    ]
    filtered = any(b"filter=" in sources.git.read(entry.id) for entry in attributes)
    folders = folders_of(listing)
    for path, entry in listing.items():
        if entry.mode == FileMode.COMMIT:
            missing = _missing_submodule(top / path)
            if missing is not None:
                shown = sources.rules.shown(missing.relative_to(top).as_posix())
                raise WorkspaceError(
                    f"the submodule {shown} is not there",
                    hint="`git submodule update --init --recursive`",
                )
        elif entry.mode == FileMode.LINK:
            if not _leads_to_untracked(sources, top, top / path, entry, listing, folders):
                continue
        elif filtered and entry.is_file and (name := repo.get_attr(path, "filter")):
            if name == "lfs":
                if not (top / path).is_file() or _begins(top / path, _LFS):
                    raise WorkspaceError(
                        f"the LFS file {sources.rules.shown(path)} is not there", hint="`git lfs pull`"
                    )
            elif sources.rules.is_editable(path) or not _is_rewritten(sources, top / path, entry):
                continue
        else:
            continue
        found[path] = str(top / path)
    return found


def _leads_to_untracked(
    sources: Sources, top: Path, link: Path, entry: Entry, listing: Files, folders: set[str]
) -> bool:
    """Whether a relative link leads to something that a tree of tracked files has not."""
    if sources.git.read(entry.id).startswith(b"/") or not os.path.exists(link):
        return False
    target = target_of(top, link)
    return target not in listing and target not in folders


def _is_rewritten(sources: Sources, file: Path, entry: Entry) -> bool:
    """Whether the checkout has something else than the commit, as with decrypted files."""
    return file.is_file() and file.read_bytes() != sources.git.read(entry.id)


def is_filtered_content(sources: Sources, repo: pygit2.Repository, base: str, path: str) -> bool:
    """Whether the checkout may have what the commit says; of an LFS file, the size tells."""
    entry = sources.git.files(base)[path]
    data = sources.git.read(entry.id) if entry.is_file else b""
    if not data.startswith(_LFS):
        return bool(repo.get_attr(path, "filter") != "lfs")  # what other filters write is not known
    size = re.search(rb"^size (\d+)$", data, re.MULTILINE)
    return size is not None and (Path(repo.workdir) / path).stat().st_size == int(size[1])


def target_of(top: Path, path: Path) -> str:
    """Where in the repository a path leads to through links; empty if outside."""
    path = Path(os.path.realpath(path))
    return path.relative_to(top).as_posix() if path.is_relative_to(top) else ""


def _missing_submodule(folder: Path) -> Path | None:
    """The submodule's folder, or one inside of it, that holds nothing; None if all are there."""
    if not any(folder.glob("*")):
        return folder
    try:
        index = pygit2.Repository(str(folder), RepositoryOpenFlag.NO_SEARCH).index
    except pygit2.GitError:  # a copy without its git directory
        return None
    inner = (folder / entry.path for entry in index if entry.mode == FileMode.COMMIT)
    return next(filter(None, map(_missing_submodule, inner)), None)


def _begins(path: Path, start: bytes) -> bool:
    """Whether a file, which may be very large, begins with these bytes."""
    with path.open("rb") as file:
        return file.read(len(start)) == start
