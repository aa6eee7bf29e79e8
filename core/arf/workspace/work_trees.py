"""Work trees: plain folders that hold one commit, made ready for one job after another.

Not git's own work trees: those take 15 ms each to add, fail when they are added side by side, and give a
script a repository to play with. A tree is kept warm: the next commit costs a look at each file and the
writing of those that differ.

What a job leaves behind is hostile until proven otherwise: nothing is followed, everything is looked at
relative to an open folder (`dir_fd`), and what is not known to be right is removed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pygit2.enums import FileMode

from arf.errors import WorkspaceError
from arf.interfaces import WorkTree
from arf.workspace.files import Sources
from arf.workspace.repository import Entry, folders_of
from arf.workspace.seeding import Seeding

_TRASH = ".arf-trash"
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RACING = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""What goes wrong when something else writes in the tree meanwhile."""
_TRIES = 5
_CLOCK_TICK_NS = 2_000_000_000
"""The coarsest clock of a file system in use; ext4 has 4 ms."""

_Signature = tuple[int, int, int, int, int]


def _signature(status: os.stat_result) -> _Signature:
    return status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


class GitWorkTree(WorkTree):
    """Holds the tree of the whole repository."""

    def __init__(
        self, sources: Sources, seeding: Seeding, links: Callable[[], Mapping[str, str]], directory: Path
    ) -> None:
        super().__init__(directory)
        self._git = sources.git
        self._rules = sources.rules
        self._stand_ins = sources.stand_ins
        self._seeding = seeding
        self._find_links = links
        self._wanted: Mapping[str, Entry] = {}
        self._content: Mapping[str, bytes] = {}
        """What is written that is no blob of the repository: files with their seeds set."""
        self._links: Mapping[str, str] = {}
        self._folders: set[str] = set()
        self._seen: dict[str, tuple[Entry, _Signature]] = {}
        """Files whose content was right when they had this signature."""
        self._young: set[str] = set()
        """Files written a moment ago.

        A change within the same tick of the file system's clock would not show in the signature, so their
        content is compared until they are older than that; git calls such files racy.
        """

    @property
    def cwd(self) -> Path:
        return self.directory / self._rules.prefix

    # ---- filling ----------------------------------------------------------------------------------

    def fill(self, commit: str, seed: int | None) -> None:
        """Only what differs is written."""
        self._expect(commit, seed)
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(_TRIES):
            try:
                with self._root(make=True) as root:
                    self._remove_trash(root)
                    missing = self._wanted.keys() | self._links.keys()
                    self._sweep(root, "", missing)
                    self._write(root, missing)
                    self._remove_trash(root)
                break
            except OSError as error:
                self._seen.clear()
                if error.errno in _RACING and attempt < _TRIES - 1:
                    continue
                raise self._problem(error) from error
        self._seen = {path: seen for path, seen in self._seen.items() if path in self._wanted}

    def adopt(self, commit: str, seed: int | None) -> None:
        self._expect(commit, seed)
        self._seen = {}

    def _expect(self, commit: str, seed: int | None) -> None:
        files = self._git.files(commit)
        seeded = {} if seed is None else self._seeding.seeded(commit, seed)
        self._links = self._find_links()
        self._content = {path: file.data for path, file in seeded.items()}
        wanted = {path: entry for path, entry in files.items() if path not in self._links}
        wanted |= {path: Entry(file.mode, _blob_id(file.data)) for path, file in seeded.items()}
        self._wanted = wanted
        self._folders = folders_of(wanted.keys() | self._links.keys())
        if self._rules.prefix:
            self._folders |= folders_of([self._rules.prefix + "x"])

    def _problem(self, error: OSError) -> WorkspaceError:
        if error.errno == errno.ENOSPC:
            return WorkspaceError(f"the disk is full: {self.directory}", hint="make room, then `arf resume`")
        if error.errno in _RACING:
            return WorkspaceError(
                f"{self.directory} does not hold still: {error}",
                hint="a process of an earlier run may still write there; end it",
            )
        return WorkspaceError(
            f"cannot prepare {self.directory}: {error}", hint="remove the folder, then `arf resume`"
        )

    @contextmanager
    def _root(self, *, make: bool = False) -> Iterator[int]:
        if make:
            if self.directory.is_symlink() or (self.directory.exists() and not self.directory.is_dir()):
                self.directory.unlink()
            self.directory.mkdir(exist_ok=True)
            if self.directory.lstat().st_mode & 0o700 != 0o700:
                self.directory.chmod(0o755)
        root = os.open(self.directory, _OPEN_FOLDER)
        try:
            yield root
        finally:
            os.close(root)

    def _sweep(self, folder: int, prefix: str, missing: set[str]) -> None:
        """Remove from an open folder what must not be there, and from `missing` what is right."""
        with os.scandir(folder) as listing:
            items = list(listing)
        for item in items:
            path = prefix + item.name
            if path == _TRASH:
                continue
            status = item.stat(follow_symlinks=False)
            entry = self._wanted.get(path)
            if entry is not None:
                if self._is_right(folder, item.name, path, entry, status):
                    missing.discard(path)
                    continue
            elif path in self._links:
                if (
                    stat.S_ISLNK(status.st_mode)
                    and os.readlink(item.name, dir_fd=folder) == self._links[path]
                ):
                    missing.discard(path)
                    continue
            elif path in self._folders and stat.S_ISDIR(status.st_mode):
                with _opened(folder, item.name, status) as inside:
                    self._sweep(inside, path + "/", missing)
                continue
            self._remove(folder, item.name, status)

    def _is_right(self, folder: int, name: str, path: str, entry: Entry, status: os.stat_result) -> bool:
        seen = self._seen.get(path)
        if seen is not None and seen == (entry, _signature(status)) and path not in self._young:
            return True
        self._seen.pop(path, None)
        if not _has_mode(entry, status) or not _has_content(folder, name, entry, status):
            return False
        self._seen[path] = entry, _signature(status)
        self._grow_old(path, status)
        return True

    def _write(self, root: int, missing: set[str]) -> None:
        by_folder: dict[str, list[str]] = {}
        for path in missing:
            by_folder.setdefault(path.rpartition("/")[0], []).append(path)
        by_folder.setdefault(self._rules.prefix.rstrip("/"), [])
        for folder, paths in sorted(by_folder.items()):
            with _made(root, folder) as inside:
                for path in paths:
                    self._write_one(inside, path)
        self._young = (self._young | missing) & self._wanted.keys()

    def _write_one(self, folder: int, path: str) -> None:
        name = path.rpartition("/")[2]
        if path in self._links:
            os.symlink(self._links[path], name, dir_fd=folder)
            return
        entry = self._wanted[path]
        data = self._content[path] if path in self._content else self._git.read(entry.id)
        if entry.mode == FileMode.LINK:
            os.symlink(os.fsdecode(data), name, dir_fd=folder)
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        else:
            mode = 0o777 if entry.mode == FileMode.BLOB_EXECUTABLE else 0o666
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(name, flags, mode, dir_fd=folder)
            with open(handle, "wb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                status = os.fstat(handle)
        self._seen[path] = entry, _signature(status)

    # ---- removing ---------------------------------------------------------------------------------

    def _remove(self, folder: int, name: str, status: os.stat_result) -> None:
        """Remove a file, or move a folder to the trash: however deep it is, it goes in one step."""
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=folder)
            return
        with self._root() as root, _made(root, _TRASH) as trash:
            _move(folder, name, status, trash)

    def _remove_trash(self, root: int) -> None:
        """Empty the trash without recursion: what is nested is moved up first."""
        try:
            status = os.stat(_TRASH, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(_TRASH, dir_fd=root)
            return
        with _opened(root, _TRASH, status) as trash:
            while names := os.listdir(trash):
                for name in names:
                    status = os.stat(name, dir_fd=trash, follow_symlinks=False)
                    if not stat.S_ISDIR(status.st_mode):
                        os.unlink(name, dir_fd=trash)
                        continue
                    with _opened(trash, name, status) as folder, os.scandir(folder) as items:
                        for item in list(items):
                            inner = item.stat(follow_symlinks=False)
                            if stat.S_ISDIR(inner.st_mode):
                                _move(folder, item.name, inner, trash)
                            else:
                                os.unlink(item.name, dir_fd=folder)
                    os.rmdir(name, dir_fd=trash)
        os.rmdir(_TRASH, dir_fd=root)

    @property
    def readonly(self) -> frozenset[str]:
        """Its files that a run must leave as they are, but for editable ones: paths below `directory`."""
        return frozenset(filter(self._rules.is_readonly, self._wanted))

    @property
    def others(self) -> frozenset[str]:
        """All else that it is filled with."""
        return frozenset(self._wanted.keys() | self._links.keys()) - self.readonly

    # ---- checking ---------------------------------------------------------------------------------

    def tampered(self) -> tuple[str, ...]:
        changed: set[str] = set()
        try:
            with self._root() as root:
                gone = {path for path in self._folders if not _is_folder(root, path)}
                for path, entry in self._wanted.items():
                    watched = self._rules.is_readonly(path) or self._rules.is_editable(path)
                    misplaced = bool(gone) and not gone.isdisjoint(folders_of([path]))
                    if watched and (misplaced or not self._is_untouched(root, path, entry)):
                        changed.add(path)
                for path in self._stand_ins:
                    try:
                        if os.readlink(path, dir_fd=root) != self._links[path]:
                            changed.add(path)
                    except OSError:
                        changed.add(path)
        except OSError:  # the whole folder is gone, or something else is there
            changed = set(self._wanted)
        return tuple(sorted(self._rules.shown(path) for path in changed))

    def _is_untouched(self, root: int, path: str, entry: Entry) -> bool:
        try:
            status = os.stat(path, dir_fd=root, follow_symlinks=False)
        except OSError:
            return False
        seen = self._seen.get(path)
        if seen is not None and seen == (entry, _signature(status)) and path not in self._young:
            return True
        if not _has_content(root, path, entry, status):
            return False
        if seen is not None and seen[1] == _signature(status):
            self._grow_old(path, status)
        return True

    def _grow_old(self, path: str, status: os.stat_result) -> None:
        """Trust the signature of a file from now on, if it was written long enough ago."""
        if time.time_ns() - status.st_ctime_ns > _CLOCK_TICK_NS:
            self._young.discard(path)


# ------------------------------------------------------------------------------------------------- files


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _has_mode(entry: Entry, status: os.stat_result) -> bool:
    """Whether a file is of the right kind, readable, executable as it should be, and nobody else's."""
    if entry.mode == FileMode.LINK:
        return stat.S_ISLNK(status.st_mode)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_mode & 0o7600 != 0o600:
        return False
    return bool(status.st_mode & 0o100) == (entry.mode == FileMode.BLOB_EXECUTABLE)


def _has_content(folder: int, name: str, entry: Entry, status: os.stat_result) -> bool:
    """Whether what is there is the blob of the entry. False for what cannot be read."""
    try:
        if stat.S_ISLNK(status.st_mode):
            data = os.fsencode(os.readlink(name, dir_fd=folder))
            return entry.mode == FileMode.LINK and _blob_id(data) == entry.id
        if not stat.S_ISREG(status.st_mode) or entry.mode == FileMode.LINK:
            return False
        digest = hashlib.sha1(b"blob %d\0" % status.st_size, usedforsecurity=False)
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        with open(handle, "rb", buffering=0) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest() == entry.id
    except OSError:
        return False


def _is_folder(root: int, path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path, dir_fd=root, follow_symlinks=False).st_mode)
    except OSError:
        return False


@contextmanager
def _opened(folder: int, name: str, status: os.stat_result) -> Iterator[int]:
    """A folder, opened without following a link, and made accessible if its owner had taken that away."""
    if status.st_mode & 0o700 != 0o700:
        os.chmod(name, 0o755, dir_fd=folder)
    handle = os.open(name, _OPEN_FOLDER, dir_fd=folder)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _made(root: int, path: str) -> Iterator[int]:
    """The folder at a path below an open one, made where it is missing. Links are not followed."""
    handle = os.dup(root)
    try:
        for name in filter(None, path.split("/")):
            try:
                os.mkdir(name, dir_fd=handle)
            except FileExistsError:
                pass  # as it should be, mostly; a link fails to open below
            inside = os.open(name, _OPEN_FOLDER, dir_fd=handle)
            os.close(handle)
            handle = inside
        yield handle
    finally:
        os.close(handle)


def _move(folder: int, name: str, status: os.stat_result, trash: int) -> None:
    """Move a folder to the trash, under a name that nobody can have taken."""
    if status.st_mode & 0o700 != 0o700:
        os.chmod(name, 0o755, dir_fd=folder)  # else its `..` cannot change
    os.rename(name, os.urandom(8).hex(), src_dir_fd=folder, dst_dir_fd=trash)
