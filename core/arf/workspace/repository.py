"""A git repository as arf uses it: through libgit2, in this process, and without its checkout.

Reads commits, writes commits in memory, and keeps them under `refs/arf/`. Paths are relative to the top of
the repository, with forward slashes; bytes that are not UTF-8 are surrogates, as in `os.fsdecode`.
"""

from __future__ import annotations

import functools
import logging
import re
import subprocess
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import pygit2
from attrs import frozen
from pygit2.enums import FileMode

from arf.errors import LostError, UsageError, WorkspaceError
from arf.workspace.packing import flush, start_packing

log = logging.getLogger(__name__)

_EMAIL = "arf@localhost"
PACK_EVERY = 1000
"""Commits kept between two packings: loose, one takes four files and 16 KB on disk; packed, 0.4 KB."""


class Entry(NamedTuple):
    """What a tree has at a path."""

    mode: int
    id: str

    @property
    def is_file(self) -> bool:
        return self.mode in (FileMode.BLOB, FileMode.BLOB_EXECUTABLE)


@frozen
class File:
    """The content of a regular file, not yet written."""

    mode: int
    data: bytes


Change = tuple[Entry | None, Entry | None]
"""What was at a path, and what is; None for nothing."""

Files = Mapping[str, Entry]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def find_repository(directory: Path) -> pygit2.Repository | None:
    """The repository that holds a folder; None if there is none. Raises pygit2.GitError; see `told`."""
    if pygit2.discover_repository(str(directory)) is None:
        return None
    # By the folder, not by what was discovered: a git directory elsewhere need not say where the files are.
    return pygit2.Repository(str(directory))


@contextmanager
def told(place: Path, *, lacking: str = "") -> Iterator[None]:
    """What libgit2 cannot do with the repository at a place is a WorkspaceError with what to do about it.

    It is a LostError where objects are missing or damaged; `lacking` is the hint about missing ones.
    """
    try:
        yield
    except pygit2.GitError as error:
        said = str(error).replace(f"{place}: ", "")
        hint = next(
            (hint for sign, hint in _HINTS.items() if sign in said), "`git status` there may say more"
        )
        kind = LostError if hint in (_LACKING, _DAMAGED) else WorkspaceError
        hint = lacking if lacking and hint is _LACKING else hint
        owned = re.search(r"repository path '(.+?)(?:/\.git)?/?' is not owned", said)
        raise kind(
            f"git cannot read {place}: {said}", hint=hint.format(top=owned[1] if owned else place)
        ) from None


_LACKING = "objects are missing: `git fsck` says more"
_DAMAGED = "an object is damaged: `git fsck` says more; one that a power failure left empty can be deleted"
_HINTS = {
    "not owned": "if you trust it: `git config --global --add safe.directory {top}`",
    "'sdir'": "its index is sparse: `git sparse-checkout reapply --no-sparse-index` writes a plain one",
    "'link'": "its index is split: `git update-index --no-split-index` writes a plain one",
    "object format": "arf reads repositories with SHA-1: copy the files into a new one, "
    "or `git fast-export --all` it into one",
    "extension": "arf reads repositories with plain ref files: `git clone` it into one",
    "format": "arf reads repositories with SHA-1 and plain ref files: `git clone` it into one",
    "inflate": _DAMAGED,
    "loose object": _DAMAGED,
    "mismatch": _DAMAGED,
    "read tree": _LACKING,
    "peeled": _LACKING,
    "object not found": _LACKING,
}
"""What to do, by what libgit2 says; the first that fits."""


def _told(
    method: Callable[Concatenate[Repository, _P], _T],
) -> Callable[Concatenate[Repository, _P], _T]:
    @functools.wraps(method)
    def call(self: Repository, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with told(self.path, lacking=self.lacking):
            try:
                return method(self, *args, **kwargs)
            except KeyError as error:  # how pygit2 says that an object is not there
                raise pygit2.GitError(f"object not found: {error}") from None

    return call


class Repository:
    """One repository. Not for more than one thread, `flush` apart."""

    def __init__(self, repository: pygit2.Repository) -> None:
        self._repo = repository
        self.path = Path(repository.path)
        self.common = _common_directory(self.path)
        """The git directory that all work trees of the repository share."""
        self.is_partial = any(entry.name.endswith(".promisor") for entry in repository.config)
        """Whether it was cloned with a filter, so that objects may be missing without a fault."""
        self.lacking = (
            "`git sparse-checkout disable` may bring it, or clone without --filter" if self.is_partial else ""
        )
        """What to do then about one that is."""
        self._listings: OrderedDict[str, Files] = OrderedDict()
        self._unpacked: list[str] = []
        self._unflushed: deque[Path] = deque()
        self._packer: subprocess.Popen[bytes] | None = None
        pygit2.settings.enable_caching(False)  # it holds 3 KB an experiment that nobody asks for again

    # ---- reading ----------------------------------------------------------------------------------

    def commit(self, name: str) -> pygit2.Commit:
        """The commit of an id or a ref. Raises UsageError if there is none."""
        try:
            return self._repo.revparse_single(name).peel(pygit2.Commit)
        except (KeyError, ValueError, pygit2.GitError):
            raise UsageError(f"the repository has no commit {name!r}") from None

    def has(self, commit: str) -> bool:
        """Whether the commit is still there: nothing that arf has not kept yet outlives a `git prune`."""
        return pygit2.Oid(hex=commit) in self._repo

    @_told
    def tree(self, commit: str) -> str:
        return str(self._commit(commit).tree_id)

    @_told
    def message(self, commit: str) -> str:
        return self._commit(commit).message

    def _commit(self, commit: str) -> pygit2.Commit:
        found = self._repo.get(commit)
        if not isinstance(found, pygit2.Commit):
            raise LostError(
                f"commit {commit[:12]} is not in the repository {self.path}",
                hint="was it garbage-collected, or the repository replaced? start a new study",
            )
        return found

    @_told
    def files(self, commit: str) -> Files:
        """Everything that the commit's tree holds, folders aside."""
        tree = self._commit(commit).tree
        key = str(tree.id)
        if key in self._listings:
            self._listings.move_to_end(key)
            return self._listings[key]
        if self._listings:  # a copy of a listing and the difference: 5,000 files in 0.3 ms rather than 25
            near = next(reversed(self._listings))
            listing = dict(self._listings[near])
            for path, (_, new) in self._tree_changes(self._tree(near), tree).items():
                if new is None:
                    listing.pop(path, None)
                else:
                    listing[path] = new
        else:
            listing = {}
            self._list(tree, "", listing)
        self._listings[key] = listing
        if len(self._listings) > 8:
            self._listings.popitem(last=False)
        return listing

    def _tree(self, tree: str) -> pygit2.Tree:
        found = self._repo[tree]
        assert isinstance(found, pygit2.Tree)
        return found

    def _list(self, tree: pygit2.Tree, prefix: str, listing: dict[str, Entry]) -> None:
        for item in tree:
            name = item.name or ""
            if isinstance(item, pygit2.Tree):
                self._list(item, f"{prefix}{name}/", listing)
            else:
                listing[prefix + name] = Entry(int(item.filemode), str(item.id))

    @_told
    def changes(self, old: str, new: str) -> dict[str, Change]:
        """What differs between two commits."""
        return self._tree_changes(self._commit(old).tree, self._commit(new).tree)

    @staticmethod
    def _tree_changes(old: pygit2.Tree, new: pygit2.Tree) -> dict[str, Change]:
        changes: dict[str, Change] = {}
        if old.id == new.id:
            return changes
        for delta in old.diff_to_tree(new).deltas:
            before, after = changes.get(
                delta.new_file.path, (None, None)
            )  # a change of type comes as two deltas
            if delta.status_char() != "A":
                before = Entry(int(delta.old_file.mode), str(delta.old_file.id))
            if delta.status_char() != "D":
                after = Entry(int(delta.new_file.mode), str(delta.new_file.id))
            changes[delta.new_file.path] = before, after
        return changes

    @_told
    def read(self, blob: str) -> bytes:
        found = self._repo.get(blob)
        if not isinstance(found, pygit2.Blob):
            raise LostError(
                f"object {blob[:12]} is missing in {self.path}", hint=self.lacking or "`git fsck` says more"
            )
        return found.data

    def lacks(self, files: Files) -> str:
        """The first of these files that the repository has not; empty if it has them all."""
        return next(
            (
                path
                for path, entry in files.items()
                if entry.mode != FileMode.COMMIT and entry.id not in self._repo
            ),
            "",
        )

    @_told
    def diff(self, old: str, new: str) -> str:
        """The unified diff of two commits; empty if their trees are equal."""
        return self._commit(old).tree.diff_to_tree(self._commit(new).tree).patch or ""

    @_told
    def merge_base(self, one: str, other: str) -> str | None:
        base = self._repo.merge_base(pygit2.Oid(hex=one), pygit2.Oid(hex=other))
        return None if base is None else str(base)

    # ---- writing ----------------------------------------------------------------------------------

    @_told
    def write_commit(self, parent: str, files: Mapping[str, File | Entry | None], message: str) -> str:
        """A commit on `parent` with these files written or, where None, removed.

        The same arguments give the same commit: author and time come from arf and from the parent.
        """
        base = self._commit(parent)
        entries = {path: self._entry(item) for path, item in files.items()}
        tree = self._write_tree(base.tree, entries)
        who = pygit2.Signature("arf", _EMAIL, base.commit_time, base.commit_time_offset)
        text = message.strip().encode("utf-8", "replace").decode() or "arf"
        repo, message = self._repo, text + "\n"
        return str(self._write(lambda: repo.create_commit(None, who, who, message, tree, [base.id])))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Raises WorkspaceError if the repository cannot be written."""
        try:
            yield
        except (pygit2.GitError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            full = "No space left" in why
            raise WorkspaceError(
                f"cannot write to the repository {self.common}: {why}",
                hint=f"{'free some disk space' if full else 'make it writable'}, then `arf resume`",
            ) from error

    def _entry(self, item: File | Entry | None) -> Entry | None:
        if isinstance(item, File):
            data = item.data
            return Entry(item.mode, str(self._write(lambda: self._repo.create_blob(data))))
        return item

    def _write_tree(self, base: pygit2.Tree | None, entries: Mapping[str, Entry | None]) -> pygit2.Oid:
        builder = self._repo.TreeBuilder(base) if base is not None else self._repo.TreeBuilder()
        folders: dict[str, dict[str, Entry | None]] = {}
        for path, entry in entries.items():
            name, _, rest = path.partition("/")
            if rest:
                folders.setdefault(name, {})[rest] = entry
            elif entry is not None:
                builder.insert(name, entry.id, entry.mode)
            elif builder.get(name) is not None:
                builder.remove(name)
        for name, inside in folders.items():
            there = builder.get(name)
            subtree = self._write_tree(there if isinstance(there, pygit2.Tree) else None, inside)
            if len(self._tree(str(subtree))):
                builder.insert(name, subtree, FileMode.TREE)
            elif there is not None:
                builder.remove(name)
        return self._write(builder.write)

    def _write(self, write: Callable[[], pygit2.Oid]) -> pygit2.Oid:
        with self._writing():
            oid = write()
            name = str(oid)
            path = self.common / "objects" / name[:2] / name[2:]
            try:
                if not path.stat().st_size:  # left by a power failure; libgit2 takes it for the object
                    path.unlink()
                    write()
            except FileNotFoundError:
                return oid  # in a pack
        self._unflushed.append(path)
        return oid

    def flush(self) -> None:
        """Make what was written proof against a power failure. Raises WorkspaceError if the disk refuses.

        Git leaves new objects to the system, which may take half a minute with them. Those that are empty
        then stop `git gc`. May be called in another thread.
        """
        with self._writing():
            while self._unflushed:
                flush(self._unflushed.popleft())

    # ---- refs -------------------------------------------------------------------------------------

    def keep(self, name: str, commit: str) -> None:
        """Write `refs/arf/<name>`, so that the commit stays. Raises WorkspaceError if it cannot be written.

        The file is written as git would, not through libgit2: that compares a new ref with each packed one,
        which at 100,000 refs takes 8 ms.
        """
        if not self.has(commit):  # a ref to nothing would break the user's next `git gc`
            raise LostError(
                f"commit {commit[:12]} has gone from the repository {self.common}",
                hint="was it pruned? `arf resume` goes on",
            )
        with self._writing():
            self._write_ref(self.common / "refs" / "arf" / name, commit)
        self._unpacked.append(commit)
        if len(self._unpacked) >= PACK_EVERY and (self._packer is None or self._packer.poll() is not None):
            try:
                self._packer = start_packing(self.common, self._unpacked)
            except OSError as error:
                log.debug("the commits stay loose: %s", error)
            self._unpacked = []

    def _write_ref(self, path: Path, commit: str) -> None:
        lock = path.with_name(path.name + ".lock")
        try:
            try:
                lock.write_text(commit + "\n")
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                lock.write_text(commit + "\n")
            lock.replace(path)
            self._unflushed.append(path)
        except OSError:
            lock.unlink(missing_ok=True)
            raise

    def has_study(self, name: str) -> bool:
        """Whether commits of a study of this name are kept here, be it of another workspace or long gone."""
        refs = (_first(name), f"refs/arf/{name}/ideas/000001", f"refs/heads/arf/{name}")
        return any(self._repo.references.get(ref) is not None for ref in refs)

    def claim(self, name: str, base: str) -> bool:
        """Make the name of a new study its own, by the ref of its first experiment; False if it is taken."""
        if self.has_study(name):
            return False
        try:
            self._repo.references.create(_first(name), pygit2.Oid(hex=base))
        except pygit2.AlreadyExistsError:
            return False
        except (pygit2.GitError, OSError) as error:
            raise _unwritten(_first(name), error) from None
        return True

    def release(self, name: str) -> None:
        """Give up a name that was claimed in vain."""
        self._repo.references.delete(_first(name))

    @_told
    def set_branch(self, name: str, commit: str) -> bool:
        """Point a branch at a commit.

        False if it is left alone: it is checked out somewhere, or holds commits that arf has not made.
        """
        branch = self._repo.branches.local.get(name)
        if branch is not None:
            if str(branch.target) == commit:
                return True
            if branch.is_checked_out() or not self._is_ours(branch.peel(pygit2.Commit), commit):
                return False
        try:
            self._repo.references.create(f"refs/heads/{name}", pygit2.Oid(hex=commit), force=True)
        except (pygit2.GitError, ValueError, OSError) as error:
            raise _unwritten(f"the branch {name}", error) from None
        return True

    def _is_ours(self, tip: pygit2.Commit, commit: str) -> bool:
        """Whether nothing is lost if a branch moves from its tip to a commit."""
        return tip.author.email == _EMAIL or self._repo.descendant_of(pygit2.Oid(hex=commit), tip.id)

    def close(self) -> None:
        """Wait for the packing of refs, if it is going on."""
        if self._packer is not None:
            self._packer.wait()


def _unwritten(what: str, error: Exception) -> WorkspaceError:
    said = str(error).rstrip(": ")
    hint = "is there a branch or a ref with the beginning of its name? `git for-each-ref` lists them"
    if "lock" in said:
        hint = "another git is at it; if none is, remove the file that ends in .lock"
    return WorkspaceError(f"cannot write {what}: {said}", hint=hint)


def _first(study: str) -> str:
    return f"refs/arf/{study}/000001"


def folders_of(paths: Iterable[str]) -> set[str]:
    """All folders that hold the paths."""
    found: set[str] = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def _common_directory(path: Path) -> Path:
    """The git directory that all work trees share, given that of one of them."""
    try:
        return (path / (path / "commondir").read_text().strip()).resolve()
    except FileNotFoundError:
        return path.resolve()
