"""Packs what arf wrote into a git repository, as `git gc` would, in a process of its own.

A process, because libgit2 holds Python's lock while it rewrites a long `packed-refs`: 0.2 s at 10,000 refs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pygit2
from pygit2.enums import ObjectType


def start_packing(directory: Path, commits: Iterable[str]) -> subprocess.Popen[bytes]:
    """Pack these commits in the background; `directory` is the git directory that all work trees share.

    If it fails they stay as they are: large, and whole.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "arf.workspace.packing", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the study
    )
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            pipe.write("\n".join(commits).encode())
    except BrokenPipeError:
        pass  # it could not even start
    return process


def pack(directory: Path, commits: Iterable[str]) -> None:
    """Put the loose objects of the commits into one pack, then all loose refs into `packed-refs`.

    An interruption leaves everything readable: loose objects go when their pack is on disk.
    """
    repo = pygit2.Repository(str(directory))
    objects = directory / "objects"
    loose = {
        oid: file
        for commit in commits
        for oid in _own_objects(repo, commit)
        if (file := objects / oid[:2] / oid[2:]).exists()
    }
    if loose:
        folder = objects / "pack"
        packer = pygit2.PackBuilder(repo)
        for oid in sorted(loose):
            packer.add(pygit2.Oid(hex=oid))
        before = set(folder.glob("pack-*"))
        packer.write(str(folder))
        for path in (*(set(folder.glob("pack-*")) - before), folder):
            flush(path)
        for file in loose.values():
            file.unlink(missing_ok=True)
    repo.compress_references()


def _own_objects(repo: pygit2.Repository, commit_id: str) -> Iterator[str]:
    """The commit, and the trees and blobs that its parent has not."""
    commit = repo[commit_id]
    assert isinstance(commit, pygit2.Commit)
    yield commit_id
    parent = commit.parents[0].tree if commit.parents else None
    pairs: list[tuple[pygit2.Tree | None, pygit2.Tree]] = [(parent, commit.tree)]
    while pairs:
        old, new = pairs.pop()
        if old is not None and old.id == new.id:
            continue
        yield str(new.id)
        for item in new:
            there = old[item.name] if old is not None and item.name and item.name in old else None
            if isinstance(item, pygit2.Tree):
                pairs.append((there if isinstance(there, pygit2.Tree) else None, item))
            elif item.type == ObjectType.BLOB and (there is None or there.id != item.id):
                yield str(item.id)


def flush(path: Path) -> None:
    """Have a file on the disk itself, proof against a power failure; one that is gone needs it no more."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


if __name__ == "__main__":
    os.nice(10)
    pack(Path(sys.argv[1]), sys.stdin.read().split())
