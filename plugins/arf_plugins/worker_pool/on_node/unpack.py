"""The far side of a bundle: makes a job's tree of it, and finds what the job has changed there."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat

TYPE_CHECKING = False  # as mypy reads it; importing typing would take longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LEFT_THERE = ("__pycache__", ".git", ".venv", "node_modules")
"""Folders whose content does not come back."""


def unpack(
    root: str, files: Iterable[tuple[str, str, str]], links: Iterable[tuple[str, str]], blobs: str
) -> None:
    """Make a tree of (path, mode or `link`, hash), with the contents in a folder by their hashes.

    `links` are (path, target) of what is in no tree, as it is called here. Raises OSError, ValueError.
    """
    os.makedirs(root, exist_ok=True)
    for name, mode, blob in files:
        path = _place(root, name)
        if mode == "link":
            with open(os.path.join(blobs, blob), "rb") as file:
                os.symlink(os.fsdecode(file.read()), path)
        else:
            shutil.copyfile(os.path.join(blobs, blob), path)
            os.chmod(path, int(mode, 8))
    for name, target in links:
        os.symlink(target, _place(root, name))


def _place(root: str, name: str) -> str:
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path


class Changes:
    """What a job has changed in a tree that `unpack` made. To be gone through once.

    Gives (path, mode in octal, content) of files that it wrote, as long as they are `most` bytes together.
    """

    def __init__(
        self, root: str, files: Iterable[tuple[str, str, str]], links: Iterable[tuple[str, str]], most: int
    ) -> None:
        self._root = root
        self._sent = {name: blob for name, _, blob in files}
        self._links = dict(links)
        self._left = most
        self.removed: list[str] = []
        """What is gone. What is too large, or no file any more, is too: so that a file that no run may change
        is seen to have changed."""
        self.too_large = 0

    def __iter__(self) -> Iterator[tuple[str, str, bytes]]:
        given = [*self._sent, *self._links]
        self.removed = [name for name in given if not os.path.lexists(os.path.join(self._root, name))]
        for name in _walk(self._root):
            path, data = os.path.join(self._root, name), None
            try:
                status = os.lstat(path)
                if self._is_as_sent(name, path, status):
                    continue
                if stat.S_ISREG(status.st_mode):
                    if status.st_size <= self._left:
                        with open(path, "rb") as file:
                            data = file.read()
                    else:
                        self.too_large += 1
            except OSError:
                pass  # removed meanwhile, or not to be read
            if data is not None:
                self._left -= len(data)
                yield name, oct(status.st_mode & 0o777)[2:], data
            elif name in self._sent or name in self._links:
                self.removed.append(name)

    def _is_as_sent(self, name: str, path: str, status: os.stat_result) -> bool:
        if name in self._links:
            return stat.S_ISLNK(status.st_mode) and os.readlink(path) == self._links[name]
        if name not in self._sent:
            return False
        if stat.S_ISLNK(status.st_mode):
            return self._sent[name] == _hash(os.fsencode(os.readlink(path)))
        if not stat.S_ISREG(status.st_mode):
            return False  # not to be opened: a pipe would wait for ever
        with open(path, "rb") as file:
            return self._sent[name] == _hash(file.read())


def _walk(root: str) -> Iterator[str]:
    """The files and links below a folder, without what is below a link."""
    for folder, folders, names in os.walk(root):
        for name in list(folders):
            if os.path.islink(os.path.join(folder, name)):
                names.append(name)
        folders[:] = [name for name in folders if name not in LEFT_THERE]
        for name in names:
            yield os.path.relpath(os.path.join(folder, name), root)


def _hash(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
