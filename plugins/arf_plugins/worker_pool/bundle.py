"""What is sent along with a job, by its content, and how what comes back is written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from attrs import frozen

from arf.errors import BackendError

CHUNK = 1 << 20
SETTLED_S = 2.0
"""A file that was changed more lately may be changed again within one tick of its clock."""
MOST_KNOWN = 200_000


@frozen(kw_only=True)
class Bundle:
    """A tree as it is sent."""

    files: list[tuple[str, str, str]]
    """Path, mode in octal (or `link`), and the SHA-1 of the content."""
    links: list[tuple[str, str]]
    """Links to what is in no tree, by path: absolute targets on this machine."""
    content: dict[str, Path | bytes]

    def fields(self) -> dict[str, Any]:
        return {"files": self.files, "links": self.links}

    def large(self, there: Collection[str]) -> Iterator[tuple[str, int, bool, bytes]]:
        """What is not there yet and too large for one message, in parts: (hash, offset, whether last, bytes).

        Raises BackendError.
        """
        for blob, source in self.content.items():
            if blob in there or isinstance(source, bytes) or _size(source) <= CHUNK:
                continue
            digest, at = hashlib.sha1(usedforsecurity=False), 0
            with source.open("rb") as file:
                data = file.read(CHUNK)
                while data:
                    digest.update(data)
                    following = file.read(CHUNK)
                    if not following and digest.hexdigest() != blob:
                        raise BackendError(
                            f"{source} changes while it is sent", hint="let nothing write there"
                        )
                    yield blob, at, not following, data
                    at, data = at + len(data), following

    def pack(self, there: Collection[str]) -> tuple[list[tuple[str, int]], bytes]:
        """What is not there yet: (hash, size) in order, and the bytes, compressed. Raises BackendError."""
        listing, parts = [], []
        for blob, source in self.content.items():
            if blob not in there:
                data = source if isinstance(source, bytes) else _read(source)
                if isinstance(source, Path) and _hash(data) != blob:
                    raise BackendError(f"{source} changes while it is sent", hint="let nothing write there")
                listing.append((blob, len(data)))
                parts.append(data)
        return listing, zlib.compress(b"".join(parts), 1)


def tree_of(directory: Path, home: Path) -> Path:
    """The work tree that a job's directory is in: arf's trees are beside the backend's folder."""
    trees, real = home.parent / "trees", Path(os.path.realpath(directory))
    inside = real.is_relative_to(trees) and real != trees
    return trees / real.relative_to(trees).parts[0] if inside else real


def bundle(root: Path) -> Bundle:
    """A folder as it is now. Raises BackendError."""
    files: list[tuple[str, str, str]] = []
    links: list[tuple[str, str]] = []
    content: dict[str, Path | bytes] = {}
    for name in sorted(_walk(root)):
        path = root / name
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue  # removed meanwhile
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(path)
            if os.path.isabs(target):
                links.append((name, target))
                continue
            data = os.fsencode(target)
            files.append((name, "link", _hash(data)))
            content[_hash(data)] = data
        elif stat.S_ISREG(status.st_mode):
            blob = _hash_of(path, status)
            files.append((name, f"{stat.S_IMODE(status.st_mode) & 0o777:o}", blob))
            content[blob] = path
    return Bundle(files=files, links=links, content=content)


def links_of(root: Path) -> list[tuple[str, str]]:
    """The links of a tree to what is in no tree: path, and absolute target."""
    links = [(name, os.readlink(root / name)) for name in _walk(root) if (root / name).is_symlink()]
    return [(name, target) for name, target in links if os.path.isabs(target)]


def is_something(path: Path) -> bool:
    """Whether there is anything to send: a file, or a folder with something in it."""
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def size_of(path: Path) -> int:
    """Bytes in a file, or in all files of a folder."""
    if path.is_file():
        return path.stat().st_size
    total = 0
    for name in _walk(path):
        with contextlib.suppress(OSError):
            total += (path / name).stat().st_size
    return total


def pieces(path: Path) -> Iterator[tuple[str, int, str, bytes]]:
    """A file, or all that is in a folder: (absolute path, offset, mode, bytes), links followed."""
    names = [""] if path.is_file() else sorted(_walk(path))
    for name in names:
        one = path / name if name else path
        if not one.is_file():
            continue
        mode = oct(one.stat().st_mode & 0o777)[2:]
        with one.open("rb") as file:
            at = 0
            while (data := file.read(CHUNK)) or at == 0:
                yield str(one), at, mode, data
                at += len(data)
                if not data:
                    break


def environment_there(env: Mapping[str, str], home: str) -> dict[str, str]:
    """A job's variables on a cluster; `home` is arf's folder there."""
    if "UV_PROJECT_ENVIRONMENT" in env:  # one environment for all trees of a machine, on that machine
        return {**env, "UV_PROJECT_ENVIRONMENT": f"{home}/venv"}
    return dict(env)


def put_back(root: Path, name: str, mode: str, data: bytes, most: int) -> bool:
    """Write a file that a job has left into its tree here, compressed as it came, up to `most` bytes of it.

    False if it would land elsewhere: below a link, or outside.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return False
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in path.parts[:-1]:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=folder)
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path.name, dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        handle = os.open(path.name, flags, int(mode, 8) & 0o777 | 0o600, dir_fd=folder)
        with open(handle, "wb") as file:
            file.write(zlib.decompressobj().decompress(data, most))
        return True
    except (OSError, zlib.error):
        return False
    finally:
        os.close(folder)


def take_away(root: Path, name: str) -> None:
    """Remove a file that a job has removed from its tree there."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return
    with contextlib.suppress(OSError):
        parent = (root / path).parent
        if parent.resolve().is_relative_to(root.resolve()):
            (root / path).unlink()


def _walk(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        names += [name for name in folders if (here / name).is_symlink()]
        folders[:] = [name for name in folders if name != ".git" and not (here / name).is_symlink()]
        for name in names:
            yield (here / name).relative_to(root).as_posix()


def _hash(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


_known: dict[tuple[int, ...], str] = {}
"""Hashes of files by what changes with them, the change time among it: no program can set that."""


def _hash_of(path: Path, status: os.stat_result) -> str:
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    blob = _known.get(key)
    if blob is None:
        blob = _hash(_read(path))
        if time.time() - status.st_ctime > SETTLED_S:
            if len(_known) > MOST_KNOWN:
                _known.clear()
            _known[key] = blob
    return blob


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise BackendError(f"cannot read {path}: {error.strerror}", hint="then `arf resume`") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BackendError(f"cannot read {path}: {error.strerror}", hint="then `arf resume`") from error
