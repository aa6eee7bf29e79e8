"""A workspace: a folder of a git repository with a script, and what arf does with its commits.

The user's checkout, index, HEAD and branches are read and never written; what arf makes are commits that
`refs/arf/` and the branch `arf/<study>` hold, and `apply_to_checkout` alone writes files, when asked to.

Inside, paths are relative to the top of the repository; at the border (drafts, `files`, messages) they are
relative to the workspace, which may be a sub-folder.
"""

from __future__ import annotations

import ast
import logging
import os
import re
import shlex
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

import pygit2
from attrs import frozen
from pygit2.enums import FileMode, FileStatus, RepositoryOpenFlag

from arf.config.schema import check_study_name
from arf.errors import ConflictError, LostError, UsageError, WorkspaceError, nearest
from arf.types import Draft, Idea, Scalar, SeedMode, WorkspaceSettings
from arf.workspace import constants
from arf.workspace.patches import FilePatch, apply_edit, apply_hunks, merge, parse_patch
from arf.workspace.repository import Entry, File, Files, Repository, find_repository, told
from arf.workspace.seeds import is_seed_name, rewrite, same_but_for_seeds, same_code
from arf.workspace.work_trees import WorkTree, folders_of

log = logging.getLogger(__name__)

OWN_FOLDER = ".arf"
"""What arf writes in a workspace; kept out of git by `.git/info/exclude`."""
Changes = Mapping[str, File | None]
"""Paths of the repository, and what they become; None: removed."""

_CACHED = 2048
_LFS = b"version https://git-lfs.github.com/spec/"
_SEED_ONLY = "it changes only a seed, and seeds are arf's to set"
_SEED_HINT = "a lucky seed is no progress; change what the code does"


@frozen(kw_only=True)
class Composed:
    """Ideas on a parent, as one commit."""

    commit: str
    tree: str


class Workspace:
    """Made by `open`. Not for more than one thread."""

    def __init__(self, git: Repository, directory: Path, prefix: str, settings: WorkspaceSettings) -> None:
        self.git = git
        self.directory = directory
        """The folder with the script, symbolic links resolved."""
        self.prefix = prefix
        """The folder's path in the repository, with a slash at its end; empty at the top."""
        self.settings = settings
        self._top = directory.parents[prefix.count("/") - 1] if prefix else directory
        self._base = ""
        """The commit that was looked at when it was opened."""
        self.stand_ins: dict[str, str] = {}
        """Tracked paths that a work tree gets as links into the checkout; the commit does not hold them.

        Submodules, LFS files and others that a git filter writes, and relative links to untracked files.
        """
        self._editable = _matcher(settings.editable)
        self._readonly = _matcher(settings.readonly)
        self._composed: OrderedDict[tuple[str, ...], Composed] = OrderedDict()
        self._mentions: dict[str, bool] = {}
        self._rules = lru_cache(maxsize=None)(self._find_rules)
        self._text = lru_cache(maxsize=512)(self._read_text)

    @classmethod
    def open(
        cls, path: Path, settings: WorkspaceSettings, *, base: str = "", clean: bool = True
    ) -> Workspace:
        """The workspace at a folder. Raises WorkspaceError with what is wrong and what to do.

        `base` is the commit that a study began with, whatever is checked out by now; empty for a new study.
        For that, `clean` refuses uncommitted changes: experiments start from the commit, and would not have
        them.
        """
        directory, repo = _find_repository(path)
        _check_writable(directory, repo)
        prefix = os.path.relpath(directory, os.path.realpath(repo.workdir or ""))
        prefix = "" if prefix == "." else prefix.replace(os.sep, "/") + "/"
        self = cls(Repository(repo), directory, prefix, settings)
        self._base = base or self.base_commit()
        listing = self.git.files(self._base)
        self._check_patterns(listing)
        self._check_complete(listing)
        with told(directory):
            self._find_stand_ins(repo, listing)
            self._check_editable(listing)
            if clean and not base:
                self._check_clean(repo)
        self._check_links(listing)
        self._exclude_own_folder()
        return self

    # ---- what is there ----------------------------------------------------------------------------

    def base_commit(self) -> str:
        """The commit that is checked out."""
        return str(self.git.commit("HEAD").id)

    def tree_of(self, commit: str) -> str:
        """The git tree of a commit: commits with equal trees hold the same files."""
        return self.git.tree(commit)

    def files(self, commit: str) -> dict[str, str]:
        """The editable text files of a commit. What is not UTF-8 reads as U+FFFD."""
        texts = self._texts(commit)
        return {
            self.shown(path): _encode(text).decode("utf-8", "replace") for path, (_, text) in texts.items()
        }

    def tracked(self, commit: str) -> set[str]:
        """All files of a commit, as people in the workspace see them."""
        return {self.shown(path) for path in self.git.files(commit)}

    def program(self, commit: str) -> str:
        """The user's instructions to the agent; empty if there are none."""
        entry = self.git.files(commit).get(self.prefix + self.settings.program)
        if entry is not None and entry.is_file:
            return self.git.read(entry.id).decode("utf-8", "replace")
        path = self.directory / self.settings.program
        return path.read_text("utf-8", "replace") if self.settings.program and path.is_file() else ""

    def diff(self, old: str, new: str) -> str:
        """The unified diff of two commits."""
        return self.git.diff(old, new)

    def changed_paths(self, old: str, new: str) -> tuple[str, ...]:
        """The paths that differ between two commits."""
        return tuple(sorted(self.shown(path) for path in self.git.changes(old, new)))

    def shown(self, path: str) -> str:
        """A path of the repository as people in the workspace see it."""
        if path.startswith(self.prefix):
            return path[len(self.prefix) :]
        return os.path.relpath(path, self.prefix or ".").replace(os.sep, "/")

    def is_editable(self, path: str) -> bool:
        """Whether ideas may change the file at this path of the repository."""
        return self._rules(path)[0]

    def may_change(self, path: str) -> bool:
        """The same for a path as people in the workspace see it."""
        return self.is_editable(self.prefix + path)

    def is_readonly(self, path: str) -> bool:
        """Whether a run that changes this tracked file does not count."""
        return self._rules(path)[1]

    def _find_rules(self, path: str) -> tuple[bool, bool]:
        """Whether a file is editable, and whether it is read-only."""
        inside = path.startswith(self.prefix)
        name = path[len(self.prefix) :]
        readonly = inside and bool(self._readonly(name))
        editable = inside and not readonly and bool(self._editable(name))
        if not self.settings.readonly:
            readonly = not editable and not path.endswith(
                ".pyc"
            )  # some do track them, and every run writes them
        return editable, readonly

    def _read_text(self, blob: str) -> str | None:
        data = self.git.read(blob)
        return None if b"\0" in data else _decode(data)

    def _texts(self, commit: str) -> dict[str, tuple[Entry, str]]:
        """The editable text files of a commit."""
        listing = self.git.files(commit).items()
        entries = {path: entry for path, entry in listing if self.is_editable(path) and entry.is_file}
        texts = {path: (entry, self._text(entry.id)) for path, entry in entries.items()}
        return {path: (entry, text) for path, (entry, text) in texts.items() if text is not None}

    # ---- ideas ------------------------------------------------------------------------------------

    def make_idea(self, draft: Draft, base: str, *, message: str) -> str:
        """The commit of a draft on its base. Raises UsageError with what is wrong with it."""
        kinds = {
            "constants": self._from_constants,
            "edits": self._from_edits,
            "patch": self._from_patch,
            "commit": self._from_commit,
        }
        given = [kind for kind in kinds if getattr(draft, kind)]
        if len(given) != 1:
            what = " and ".join(given) or "none"
            raise UsageError(f"an idea has one of constants, edits, patch and commit; this one has {what}")
        listing = self.git.files(base)
        changes = self._real_changes(kinds[given[0]](draft, base), listing)
        if not changes:
            raise UsageError("it changes nothing", hint="the files are like that already")
        for path, file in changes.items():
            self._check_change(path, file, listing)
            if file is not None and not draft.constants:
                self._check_python(path, file, listing)
        if draft.constants:
            self._check_seed_names(draft.constants)
        else:
            self._check_seeds(changes, listing)
        return self.git.write_commit(base, changes, message)

    def _from_constants(self, draft: Draft, base: str) -> Changes:
        return self._with_constants(draft.constants, self._texts(base), checked=True)

    def _with_constants(
        self, values: Mapping[str, Scalar], texts: Mapping[str, tuple[Entry, str]], *, checked: bool
    ) -> Changes:
        """The files with the constants set; `checked`: only as their annotations allow."""
        home: dict[str, list[str]] = {}
        for path, (_, text) in texts.items():
            for constant in constants.read(text, path):
                home.setdefault(constant.name, []).append(path)
        wanted: dict[str, dict[str, Scalar]] = {}
        for name, value in values.items():
            paths = home.get(name, [])
            if not paths:
                raise UsageError(f"the editable files have no constant {name!r}", hint=nearest(name, home))
            if len(paths) > 1:
                where = " and ".join(self.shown(path) for path in paths)
                raise UsageError(
                    f"the constant {name} is in {where}", hint="change it by an edit of one file"
                )
            wanted.setdefault(paths[0], {})[name] = value
        changes: dict[str, File | None] = {}
        for path, some in wanted.items():
            entry, text = texts[path]
            replaced = constants.replace(text, some, self.shown(path))
            if checked:
                constants.check(constants.read(text, path), some)
            changes[path] = File(entry.mode, _encode(replaced))
        return changes

    def _from_edits(self, draft: Draft, base: str) -> Changes:
        listing = self.git.files(base)
        changes: dict[str, File | None] = {}
        for edit in draft.edits:
            path = self._inside(edit.path)
            there = changes[path] if path in changes else self._file(listing.get(path))
            if there is None:
                if edit.old:
                    raise UsageError(f"there is no file {edit.path}", hint=self._near(path, listing))
                changes[path] = File(FileMode.BLOB, _encode(edit.new))
            elif edit.old:
                changes[path] = File(there.mode, _encode(apply_edit(_decode(there.data), edit)))
            elif there.data:
                raise UsageError(f"{edit.path} exists", hint="say which text of it to replace")
            else:
                changes[path] = File(there.mode, _encode(edit.new))
        return changes

    def _from_patch(self, draft: Draft, base: str) -> Changes:
        listing = self.git.files(base)
        changes: dict[str, File | None] = {}
        for patch in parse_patch(draft.patch):
            self._patch_file(patch, listing, changes)
        return changes

    def _patch_file(self, patch: FilePatch, listing: Files, changes: dict[str, File | None]) -> None:
        there = File(FileMode.BLOB, b"")
        old = new = None
        if patch.old is not None:
            old = self._patched_path(patch.old, listing, changes)
            found = changes[old] if old in changes else self._file(listing.get(old))
            if found is None:
                raise UsageError(f"there is no file {patch.old}", hint=self._near(old, listing))
            there = found
        if patch.new is not None:
            new = old if patch.new == patch.old or old is None else None
            new = new or self._patched_path(patch.new, listing, changes)
            same = patch.old is not None and _bare(patch.old) == _bare(patch.new)
            new = old if same else new
        if new is None:
            if old is not None:
                changes[old] = None
            return
        if patch.old is None and (new in listing or changes.get(new)):
            raise UsageError(f"the patch makes {self.shown(new)} anew, and it exists")
        mode = int(patch.mode, 8) if patch.mode else there.mode
        text = apply_hunks(_decode(there.data), patch.hunks, self.shown(new))
        if old is not None and old != new:
            changes[old] = None
        changes[new] = File(mode, _encode(text))

    def _patched_path(self, name: str, listing: Files, changes: Mapping[str, File | None]) -> str:
        """The path that a patch means: with `a/` or without, from the workspace or from the repository."""
        spellings = [name]
        if re.match(r"[abciow]/", name):
            spellings.insert(0, name[2:])
        candidates = []
        for spelling in spellings:
            candidates.append(self._inside(spelling))
            if self.prefix and spelling.startswith(self.prefix):
                candidates.insert(0, self._inside(spelling[len(self.prefix) :]))
        return next((path for path in candidates if path in listing or path in changes), candidates[0])

    def _from_commit(self, draft: Draft, base: str) -> Changes:
        commit = str(self.git.commit(draft.commit).id)
        ancestor = self.git.merge_base(base, commit)
        if ancestor is None:
            raise UsageError(f"commit {draft.commit[:12]} has no history in common with {base[:12]}")
        state = _State(self, base)
        conflicts = state.merge(ancestor, commit)
        if conflicts:
            raise ConflictError(
                f"commit {draft.commit[:12]} was made for other code, and does not merge with {base[:12]}",
                paths=conflicts,
            )
        return state.changes

    # ---- composition --------------------------------------------------------------------------------

    def compose(self, parent: str, ideas: Sequence[Idea], *, message: str) -> Composed:
        """The ideas on a parent, as one commit, in memory. The same arguments give the same commit.

        Constants are set by name in what the changes of code make, so that they cannot conflict with their
        neighbours. Raises ConflictError if the ideas do not go together, or one of them is lost.
        """
        key = (parent, message, *(idea.commit for idea in ideas))
        if key in self._composed and self.git.has(self._composed[key].commit):
            self._composed.move_to_end(key)
            return self._composed[key]
        for idea in ideas:
            try:
                self.git.tree(idea.commit)
            except LostError as error:
                raise ConflictError(f"{idea.title!r} is lost: {error}") from None
        if not ideas:
            commit = parent
        elif len(ideas) == 1 and ideas[0].base == parent:
            commit = ideas[0].commit
        else:
            commit = self._compose(parent, ideas, message)
        composed = Composed(commit=commit, tree=self.tree_of(commit))
        self._composed[key] = composed
        if len(self._composed) > _CACHED:
            self._composed.popitem(last=False)
        return composed

    def _compose(self, parent: str, ideas: Sequence[Idea], message: str) -> str:
        values = _joint_constants(ideas)
        state = _State(self, parent)
        for idea in ideas:
            if not idea.constants:
                self._check_no_override(idea, values)
                conflicts = state.merge(idea.base, idea.commit)
                if conflicts:
                    where = ", ".join(conflicts)
                    raise ConflictError(f"{idea.title!r} does not merge in {where}", paths=conflicts)
        if values:
            try:
                state.changes.update(self._with_constants(values, state.texts(), checked=False))
            except UsageError as error:
                raise ConflictError(f"the constants cannot be set: {error}") from None
        listing = self.git.files(parent)
        changes = self._real_changes(state.changes, listing)
        if not changes:
            return parent
        try:
            for path, file in changes.items():
                self._check_change(path, file, listing)
                if file is not None and path in state.merged:
                    self._check_python(path, file, listing, ast.PyCF_ONLY_AST)
        except UsageError as error:
            raise ConflictError(
                f"together they do not work: {error}", paths=map(self.shown, changes)
            ) from None
        return self.git.write_commit(parent, changes, message)

    def _check_no_override(self, idea: Idea, values: Mapping[str, Scalar]) -> None:
        """Raises ConflictError if a change of code sets a constant that another idea sets differently."""
        if not values:
            return
        for path, (old, new) in self.git.changes(idea.base, idea.commit).items():
            if old is None or new is None or not (old.is_file and new.is_file):
                continue
            before, after = (
                {item.name: item.value for item in constants.read(_decode(self.git.read(entry.id)), path)}
                for entry in (old, new)
            )
            for name, value in values.items():
                if name in after and after[name] != before.get(name) and after[name] != value:
                    raise ConflictError(
                        f"{name} is set to {value!r} and, by {idea.title!r}, to {after[name]!r}",
                        paths=[self.shown(path)],
                    )

    # ---- rules --------------------------------------------------------------------------------------

    def _real_changes(self, changes: Changes, listing: Files) -> dict[str, File | None]:
        """Without those that leave a file as it is."""
        return {path: file for path, file in changes.items() if self._file(listing.get(path)) != file}

    def _check_change(self, path: str, file: File | None, listing: Files) -> None:
        """Raises UsageError if an idea must not make this change."""
        shown = self.shown(path)
        if not self.is_editable(path):
            kind = "read-only" if self.is_readonly(path) else "not editable"
            raise UsageError(f"{shown} is {kind}", hint=f"editable: {', '.join(self.settings.editable)}")
        old = listing.get(path)
        if (old is not None and not old.is_file) or path in self.stand_ins:
            raise UsageError(f"{shown} is a link, a submodule or an LFS file, which ideas cannot change")
        if file is None:
            return
        if file.mode not in (FileMode.BLOB, FileMode.BLOB_EXECUTABLE):
            raise UsageError(f"{shown} would become a link or a submodule, which ideas cannot make")
        for parent in PurePosixPath(path).parents:
            if str(parent) in listing:
                raise UsageError(f"{shown} is inside of {self.shown(str(parent))}, which is no folder")

    def _check_python(self, path: str, file: File, listing: Files, flags: int = 0) -> None:
        """Raises UsageError if a Python file compiles no more; with PyCF_ONLY_AST, parses no more."""
        if not path.endswith(".py"):
            return
        problem = _python_problem(file.data, flags)
        old = listing.get(path)
        if problem and (old is None or not _python_problem(self.git.read(old.id), flags)):
            raise UsageError(f"{self.shown(path)}:{problem}", hint="the file must stay valid Python")

    @staticmethod
    def _check_seed_names(names: Iterable[str]) -> None:
        if all(is_seed_name(name) for name in names):
            raise UsageError(_SEED_ONLY, hint=_SEED_HINT)

    def _check_seeds(self, changes: Changes, listing: Files) -> None:
        """Raises UsageError if nothing but seeds changes, or nothing but comments."""
        only_comments = True
        for path, file in changes.items():
            old = listing.get(path)
            if file is None or old is None or file.mode != old.mode:
                return
            before, after = _decode(self.git.read(old.id)), _decode(file.data)
            python = path.endswith(".py")
            if not same_but_for_seeds(before, after, python=python):
                return
            only_comments = only_comments and python and same_code(before, after)
        if only_comments:
            raise UsageError("it changes only comments or layout", hint="change what the code does")
        raise UsageError(
            "it changes only a seed, and seeds are arf's to set",
            hint="a lucky seed is no progress; change the code",
        )

    def _inside(self, path: str) -> str:
        """A draft's path as one of the repository. Raises UsageError if it leads out of the workspace."""
        parts = [part for part in path.strip().split("/") if part not in ("", ".")]
        bad = path.startswith(("/", "~")) or "\\" in path or "\0" in path or not parts
        if bad or any(part == ".." or part.lower() in (".git", OWN_FOLDER) for part in parts):
            raise UsageError(
                f"{path!r} is no path in the workspace",
                hint="give it relative to the workspace, with forward slashes and without `..`",
            )
        return self.prefix + "/".join(parts)

    def _near(self, path: str, listing: Files) -> str:
        return nearest(self.shown(path), (self.shown(known) for known in listing if self.is_editable(known)))

    def _file(self, entry: Entry | None) -> File | None:
        if entry is None:
            return None
        return File(entry.mode, self.git.read(entry.id) if entry.is_file else entry.id.encode())

    # ---- refs ---------------------------------------------------------------------------------------

    def keep(self, study: str, experiment: int, commit: str) -> None:
        """Write `refs/arf/<study>/<experiment>`, so that git keeps the commit."""
        self.git.keep(f"{check_study_name(study)}/{experiment:06d}", commit)

    def keep_idea(self, study: str, idea: int, commit: str) -> None:
        """Write `refs/arf/<study>/ideas/<idea>`: so that git keeps an idea that no experiment has used."""
        self.git.keep(f"{check_study_name(study)}/ideas/{idea:06d}", commit)

    def flush(self) -> None:
        """Make all commits so far proof against a power failure; WorkspaceError if the disk refuses."""
        self.git.flush()

    def publish_best(self, study: str, commit: str) -> None:
        """Set the branch `arf/<study>`; if it is checked out, was gone on from, or git refuses, it stays, and
        that is logged."""
        try:
            if self.git.set_branch(f"arf/{check_study_name(study)}", commit):
                return
            why = f"branch arf/{study} is checked out, or others have gone on from it, and stays where it is"
        except WorkspaceError as error:
            why = str(error)
        log.warning("%s; the best is %s", why, commit)

    def apply_to_checkout(self, base: str, commit: str) -> tuple[str, ...]:
        """Bring what changed from `base` to `commit` into the user's files; gives their paths.

        Only editable files, and only if none of them has uncommitted changes (WorkspaceError). What the user
        has committed since is merged (ConflictError). Nothing is staged or committed.
        """
        paths = [path for path in self.git.changes(base, commit) if self.is_editable(path)]
        repo = pygit2.Repository(str(self.directory))
        modified = [path for path in paths if _is_modified(repo, path)]
        if modified:
            raise WorkspaceError(
                f"uncommitted changes in {_few(map(self.shown, modified))}", hint="commit or stash them first"
            )
        state = _State(self, self.base_commit())
        conflicts = state.merge(base, commit, paths)
        if conflicts:
            raise ConflictError(
                f"the files have changed since the study began: {_few(conflicts)}",
                paths=conflicts,
                hint="merge its branch with git",
            )
        for path, file in state.changes.items():
            self._write_to_checkout(Path(repo.workdir), path, file)
        return tuple(sorted(map(self.shown, state.changes)))

    @staticmethod
    def _write_to_checkout(top: Path, path: str, file: File | None) -> None:
        target = top / path
        if file is None:
            target.unlink(missing_ok=True)
            return
        data = file.data
        if target.exists() and b"\r\n" in target.read_bytes() and b"\r\n" not in data:
            data = data.replace(b"\n", b"\r\n")  # checked out with core.autocrlf
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.arf")
        scratch.write_bytes(data)
        plain = target.stat().st_mode & 0o666 if target.exists() else 0o644
        scratch.chmod(plain | (0o111 if file.mode == FileMode.BLOB_EXECUTABLE else 0))
        scratch.replace(target)

    def close(self) -> None:
        """Wait for what is written in the background."""
        self.git.close()

    # ---- jobs ---------------------------------------------------------------------------------------

    def work_tree(self, directory: Path) -> WorkTree:
        """The work tree at a folder, which is made when it is filled."""
        return WorkTree(self, directory)

    def links(self) -> dict[str, str]:
        """What each work tree has as symbolic links: path in the tree, and target."""
        found = dict(self.stand_ins)
        for name in self.settings.link:
            path = self.prefix + name.rstrip("/")
            target = self.directory / name.rstrip("/")
            if not target.exists() and not target.suffix:
                target.mkdir(parents=True)  # for the set-up command: mkdir fails on a link to nothing
            found[path] = str(target)
        return found

    def seeded(self, commit: str, seed: int) -> dict[str, File]:
        """The files of a work tree that differ from the commit, because their seeds are set."""
        mode = self.settings.seed
        if mode is SeedMode.ENV or (mode is SeedMode.AUTO and self._reads_seed(commit)):
            return {}
        found = {}
        for path, (entry, text) in self._texts(commit).items():
            changed = rewrite(text, seed, path)
            if changed != text:
                found[path] = File(entry.mode, _encode(changed))
        return found

    def _reads_seed(self, commit: str) -> bool:
        """Whether a tracked file, documents aside, mentions ARF_SEED."""
        for path, entry in self.git.files(commit).items():
            if entry.id not in self._mentions:
                text = entry.is_file and not path.endswith((".md", ".txt", ".rst", ".yaml", ".yml"))
                self._mentions[entry.id] = text and b"ARF_SEED" in self.git.read(entry.id)
            if self._mentions[entry.id]:
                return True
        return False

    def job_env(self) -> dict[str, str]:
        """What a job needs because it runs in a tree inside of the user's repository."""
        # So that the script's own `git` finds no repository, rather than the user's.
        env = {"GIT_CEILING_DIRECTORIES": str(self.directory / OWN_FOLDER)}
        listing = self.git.files(self._base)
        paths = [path[len(self.prefix) :] for path in listing if path.startswith(self.prefix)]
        packages = _package_folders(paths)
        if packages:
            # A package of the repository that is installed as editable would be imported from the checkout,
            # without the change under test. Relative: each job finds its own tree.
            inherited = os.environ.get("PYTHONPATH")
            env["PYTHONPATH"] = os.pathsep.join([*packages, *([inherited] if inherited else [])])
        if self._runs_uv():
            env |= self._uv_env(listing, is_package=bool(packages))
        return env

    def _runs_uv(self) -> bool:
        command = self.settings.command
        words = command.split() if isinstance(command, str) else command
        return "uv" in words and "run" in words

    def _uv_env(self, listing: Files, *, is_package: bool) -> dict[str, str]:
        """One environment for all trees: uv would make a new one, of gigabytes, in each.

        uv brings it up to date at each start, which is quick when nothing is to do, and locks it meanwhile. A
        lock file is used as it is, or a newer uv would rewrite it and the run would count as having changed a
        read-only file. If the project is a package, uv would install it from the tree that started last,
        under the feet of the others: then the environment is used as it is.
        """
        here = PurePosixPath(self.prefix)
        places = list(zip([here, *here.parents], [self.directory, *self.directory.parents], strict=False))
        home, folder = next(
            (place for place in places if str(place[0] / "pyproject.toml") in listing), places[0]
        )
        env = {}
        if "UV_PROJECT_ENVIRONMENT" not in os.environ:
            env["UV_PROJECT_ENVIRONMENT"] = str(folder / ".venv")
        if str(home / "uv.lock") in listing:
            env["UV_FROZEN"] = "1"
        if is_package and (folder / ".venv").exists():
            env["UV_NO_SYNC"] = "1"
        return env

    # ---- opening ------------------------------------------------------------------------------------

    def _check_patterns(self, listing: Files) -> None:
        paths = [path[len(self.prefix) :] for path in listing if path.startswith(self.prefix)]
        if not paths:
            raise WorkspaceError(
                f"no file of {self.directory} is tracked by git",
                hint="`git add` and commit the script, or `git init` here for a repository of its own",
            )
        for key in ("editable", "readonly"):
            for pattern in getattr(self.settings, key):
                if ".." in PurePosixPath(pattern).parts:
                    raise WorkspaceError(
                        f"workspace.{key}: {pattern!r} is no path inside the workspace",
                        hint="ideas change files in the workspace's own folder only",
                    )
                matches = _matcher((pattern,))
                if any(matches(path) for path in paths):
                    continue
                name = _untracked(self.directory, pattern)
                if name:
                    raise self._no_tracked_file(name, listing)
                raise WorkspaceError(
                    f"workspace.{key}: no file matches {pattern!r}", hint=nearest(pattern, paths)
                )
        if not any(self.is_editable(path) for path in listing):
            key, what = (
                ("readonly", "leaves nothing editable")
                if self.settings.editable
                else ("editable", "is empty")
            )
            raise WorkspaceError(
                f"workspace.{key} {what}", hint="name what ideas may change, such as editable: [train.py]"
            )

    def _no_tracked_file(self, name: str, listing: Files) -> WorkspaceError:
        """What is wrong with a file on disk that a pattern names and the commit lacks."""
        inner = next(
            (p for p in PurePosixPath(name).parents if os.path.lexists(self.directory / p / ".git")), None
        )
        if inner is not None and inner != PurePosixPath("."):
            return WorkspaceError(
                f"{name} is in another git repository, {inner}, which ideas cannot change",
                hint=f"study that one: `arf run {shlex.quote(str(self.directory / inner))}`",
            )
        target = self._target(self.directory / name)
        if target in listing:
            return WorkspaceError(
                f"{name} is reached by a symbolic link", hint=f"name {self.shown(target)} in its place"
            )
        return WorkspaceError(
            f"{name} is not tracked by git",
            hint=f"`git add {shlex.quote(name)}` and commit it (is it in .gitignore?)",
        )

    def _target(self, path: Path) -> str:
        """Where in the repository a path leads to through links; empty if outside."""
        path = Path(os.path.realpath(path))
        return path.relative_to(self._top).as_posix() if path.is_relative_to(self._top) else ""

    def _check_complete(self, listing: Files) -> None:
        missing = self.git.lacks(listing) if self.git.is_partial else ""
        if missing:
            raise WorkspaceError(
                f"this is a partial clone, and has not {self.shown(missing)}",
                hint=self.git.lacking,
            )

    def _check_editable(self, listing: Files) -> None:
        """Raises WorkspaceError if a pattern names only what ideas cannot change."""
        for pattern in self.settings.editable:
            matches = _matcher((pattern,))
            paths = [path for path in listing if self.is_editable(path) and matches(path[len(self.prefix) :])]
            if not paths or any(listing[path].is_file and path not in self.stand_ins for path in paths):
                continue
            name, mode = self.shown(paths[0]), listing[paths[0]].mode
            kinds = {FileMode.LINK: "a symbolic link", FileMode.COMMIT: "a submodule"}
            kind = kinds.get(FileMode(mode), "an LFS file")
            target = self._target(self._top / paths[0]) if mode == FileMode.LINK else ""
            hint = "name a file in its place"
            if target in listing:
                hint = f"name {self.shown(target)} in its place"
            elif mode == FileMode.COMMIT:
                hint = f"study that one: `arf run {shlex.quote(str(self._top / paths[0]))}`"
            raise WorkspaceError(
                f"workspace.editable: {name} is {kind}, which ideas cannot change",
                hint=hint,
            )
        if not self._texts(self._base):
            name = next(self.shown(path) for path in listing if self.is_editable(path))
            raise WorkspaceError(
                f"workspace.editable: {name} is no text, and there is nothing else to change",
                hint="name the script",
            )

    def _find_stand_ins(self, repo: pygit2.Repository, listing: Files) -> None:
        top = Path(repo.workdir)
        attributes = [
            e for path, e in listing.items() if path.rpartition("/")[2] == ".gitattributes" and e.is_file
        ]
        filtered = any(b"filter=" in self.git.read(entry.id) for entry in attributes)
        folders = folders_of(listing)
        for path, entry in listing.items():
            if entry.mode == FileMode.COMMIT:
                missing = _missing_submodule(top / path)
                if missing is not None:
                    shown = self.shown(missing.relative_to(top).as_posix())
                    raise WorkspaceError(
                        f"the submodule {shown} is not there",
                        hint="`git submodule update --init --recursive`",
                    )
            elif entry.mode == FileMode.LINK:
                if not self._leads_to_untracked(top / path, entry, listing, folders):
                    continue
            elif filtered and entry.is_file and (name := repo.get_attr(path, "filter")):
                if name == "lfs":
                    if not (top / path).is_file() or _begins(top / path, _LFS):
                        raise WorkspaceError(
                            f"the LFS file {self.shown(path)} is not there", hint="`git lfs pull`"
                        )
                elif self.is_editable(path) or not self._is_rewritten(top / path, entry):
                    continue
            else:
                continue
            self.stand_ins[path] = str(top / path)

    def _leads_to_untracked(self, link: Path, entry: Entry, listing: Files, folders: set[str]) -> bool:
        """Whether a relative link leads to something that a tree of tracked files has not."""
        if self.git.read(entry.id).startswith(b"/") or not os.path.exists(link):
            return False
        target = self._target(link)
        return target not in listing and target not in folders

    def _is_rewritten(self, file: Path, entry: Entry) -> bool:
        """Whether the checkout has something else than the commit, as with decrypted files."""
        return file.is_file() and file.read_bytes() != self.git.read(entry.id)

    def _check_clean(self, repo: pygit2.Repository) -> None:
        changed, conflicts = [], []
        sparse = "core.sparsecheckout" in repo.config and repo.config.get_bool("core.sparsecheckout")
        for path, flags in repo.status(untracked_files="no").items():
            if not path.startswith(self.prefix) or flags in (FileStatus.CURRENT, FileStatus.IGNORED):
                continue
            if OWN_FOLDER in path.split("/"):
                continue  # somebody added a study to git
            if flags & FileStatus.CONFLICTED:
                conflicts.append(self.shown(path))
            if path in self.stand_ins and flags == FileStatus.WT_MODIFIED:
                if self.git.files(self._base)[path].mode == FileMode.COMMIT:
                    self._check_submodule(path)
                    continue
                if self._is_filtered_content(repo, path):
                    continue
            if sparse and flags == FileStatus.WT_DELETED:
                continue  # left out of the checkout; libgit2 does not know of that
            changed.append(self.shown(path))
        if conflicts:
            raise WorkspaceError(
                f"a merge has left conflicts in {_few(sorted(conflicts))}",
                hint="resolve them and commit, or take the merge back",
            )
        if changed:
            raise WorkspaceError(
                f"uncommitted changes in {_few(sorted(changed))}",
                hint="experiments start from the last commit: `git commit -am ...` or `git stash` them",
            )

    def _check_submodule(self, path: str) -> None:
        """Raises WorkspaceError unless the checkout has the tracked files of the submodule's commit."""
        folder, shown = Path(self.stand_ins[path]), self.shown(path)
        inner = pygit2.Repository(str(folder), RepositoryOpenFlag.NO_SEARCH)
        wanted = self.git.files(self._base)[path].id
        if inner.head_is_unborn or str(inner.head.target) != wanted:
            raise WorkspaceError(
                f"the submodule {shown} is not at {wanted[:12]}, as the commit says",
                hint="`git submodule update` brings it there; or commit where it is",
            )
        if inner.status(untracked_files="no"):
            raise WorkspaceError(
                f"uncommitted changes in the submodule {shown}", hint="commit or stash them in its folder"
            )

    def _is_filtered_content(self, repo: pygit2.Repository, path: str) -> bool:
        """Whether the checkout may have what the commit says; of an LFS file, the size tells."""
        entry = self.git.files(self._base)[path]
        data = self.git.read(entry.id) if entry.is_file else b""
        if not data.startswith(_LFS):
            return bool(repo.get_attr(path, "filter") != "lfs")  # what other filters write is not known
        size = re.search(rb"^size (\d+)$", data, re.MULTILINE)
        return size is not None and (Path(repo.workdir) / path).stat().st_size == int(size[1])

    def _check_links(self, listing: Files) -> None:
        for name in self.settings.link:
            parts = PurePosixPath(name).parts
            if not parts or name.startswith("/") or ".." in parts or parts[0] in (".git", OWN_FOLDER):
                raise WorkspaceError(
                    f"workspace.link: {name!r} is no path inside the workspace",
                    hint="for data elsewhere, make a symbolic link in the workspace, and name that",
                )
            path = self.prefix + "/".join(parts)
            if path in listing or any(known.startswith(path + "/") for known in listing):
                raise WorkspaceError(
                    f"workspace.link: {name} is tracked by git", hint="each tree has it anyway; drop it"
                )
            if not (self.directory / name).exists() and not self.settings.setup:
                there = [
                    item.name for item in self.directory.iterdir() if item.name not in (".git", OWN_FOLDER)
                ]
                raise WorkspaceError(f"workspace.link: there is no {name}", hint=nearest(name, there))

    def _exclude_own_folder(self) -> None:
        path = self.git.common / "info" / "exclude"
        try:
            text = path.read_text() if path.exists() else ""
            if f"{OWN_FOLDER}/" not in (line.strip().lstrip("/") for line in text.splitlines()):
                path.parent.mkdir(exist_ok=True)
                with path.open("a") as file:
                    file.write(("" if text.endswith("\n") or not text else "\n") + f"{OWN_FOLDER}/\n")
        except OSError as error:
            log.warning("cannot add %s/ to %s: %s", OWN_FOLDER, path, error)


class _State:
    """Files on top of a commit, in memory."""

    def __init__(self, workspace: Workspace, commit: str) -> None:
        self._workspace = workspace
        self._commit = commit
        self.changes: dict[str, File | None] = {}
        self.merged: set[str] = set()
        """Paths whose text is a mixture that nobody has seen yet."""

    def merge(self, ancestor: str, theirs: str, paths: Iterable[str] | None = None) -> list[str]:
        """Take what changed from `ancestor` to `theirs`; gives the files in conflict, for people."""
        git = self._workspace.git
        conflicts = []
        for path, (old, new) in git.changes(ancestor, theirs).items():
            if paths is not None and path not in paths:
                continue
            base, wanted = self._workspace._file(old), self._workspace._file(new)
            ours = self._file(path)
            if ours == base:
                self.changes[path] = wanted
            elif ours != wanted:
                merged = _merge_files(base, ours, wanted)
                if merged is None:
                    conflicts.append(self._workspace.shown(path))
                else:
                    self.changes[path] = merged
                    self.merged.add(path)
        return conflicts

    def _file(self, path: str) -> File | None:
        if path in self.changes:
            return self.changes[path]
        return self._workspace._file(self._workspace.git.files(self._commit).get(path))

    def texts(self) -> dict[str, tuple[Entry, str]]:
        """The editable text files as they are now."""
        texts = self._workspace._texts(self._commit)
        for path, file in self.changes.items():
            texts.pop(path, None)
            if file is not None and b"\0" not in file.data and self._workspace.is_editable(path):
                texts[path] = Entry(file.mode, ""), _decode(file.data)
        return texts


def _merge_files(base: File | None, ours: File | None, theirs: File | None) -> File | None:
    """Both changes of a file; None if they conflict. A change of mode is taken from the side that has it."""
    if base is None or ours is None or theirs is None:
        return None
    if any(b"\0" in file.data for file in (base, ours, theirs)):
        return None
    text = merge(_decode(base.data), _decode(ours.data), _decode(theirs.data))
    if text is None:
        return None
    return File(theirs.mode if theirs.mode != base.mode else ours.mode, _encode(text))


def _joint_constants(ideas: Sequence[Idea]) -> dict[str, Scalar]:
    values: dict[str, Scalar] = {}
    setters: dict[str, str] = {}
    for idea in ideas:
        for name, value in idea.constants.items():
            if name in values and values[name] != value:
                raise ConflictError(
                    f"{setters[name]!r} sets {name} to {values[name]!r}, {idea.title!r} to {value!r}"
                )
            values[name], setters[name] = value, idea.title
    return values


# ------------------------------------------------------------------------------------------------ details


def _find_repository(path: Path) -> tuple[Path, pygit2.Repository]:
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise WorkspaceError(f"{path} {what}", hint="name the folder that holds the script")
    directory = path.resolve()
    if not _is_text(str(directory)):
        raise WorkspaceError(
            f"the path {os.fsencode(directory)!r} is not UTF-8", hint="rename the folder that is not"
        )
    with told(directory):
        repo = find_repository(directory)
    if repo is None:
        places = (folder / ".git" for folder in (directory, *directory.parents))
        broken = next((p for p in places if p.is_file() or (p / "objects").is_dir()), None)
        if broken is not None:
            raise WorkspaceError(
                f"{broken} is no git repository that can be used", hint="`git status` there says more"
            )
        raise WorkspaceError(
            f"{directory} is in no git repository",
            hint=f"`cd {shlex.quote(str(directory))} && git init && git add -A && git commit -m base`",
        )
    inside = repo.workdir is not None and directory.is_relative_to(os.path.realpath(repo.workdir))
    if repo.workdir is not None and not inside:
        raise WorkspaceError(
            f"the git repository of {directory} has its files in {repo.workdir}",
            hint="go there, or `git config --unset core.worktree`",
        )
    if repo.is_bare or directory.is_relative_to(os.path.realpath(repo.path)):
        raise WorkspaceError(
            f"{directory} is a bare repository, without files",
            hint="`git config core.bare false`, if its files are there"
            if (directory / ".git").is_dir()
            else "`git clone` it and use the clone",
        )
    with told(directory):
        if repo.head_is_unborn:
            branch = str(repo.lookup_reference("HEAD").target).removeprefix("refs/heads/")
            raise WorkspaceError(
                f"the branch {branch} of {directory} has no commit yet",
                hint="`git add -A && git commit -m base`",
            )
        repo.head.peel(pygit2.Commit)
    return directory, repo


def _is_text(name: str) -> bool:
    """Whether a name has nothing but characters, and no bytes that are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_writable(directory: Path, repo: pygit2.Repository) -> None:
    """Raises WorkspaceError if arf could not keep studies in the workspace and its repository."""
    git = Path(repo.path)
    if not _are_writable(git, git / "refs", git / "objects"):
        raise WorkspaceError(
            f"{git} cannot be written, and experiments are kept there as commits",
            hint="make it writable, or `git clone` it to where you can write",
        )
    own = directory / OWN_FOLDER
    if own.exists() and not own.is_dir():
        raise WorkspaceError(f"{own} is no folder, and studies are kept there", hint="move it away")
    if not _are_writable(own if own.exists() else directory):
        raise WorkspaceError(
            f"{directory} cannot be written, and studies are kept there in {OWN_FOLDER}/",
            hint="make it writable, or `git clone` it to where you can write",
        )
    if "arf" in repo.branches.local:
        raise WorkspaceError(
            "there is a branch `arf`, so that git can have no branch arf/<study>",
            hint="rename it: `git branch -m arf something-else`",
        )


def _are_writable(*folders: Path) -> bool:
    return all(os.access(folder, os.W_OK | os.X_OK) for folder in folders if folder.exists())


def _is_modified(repo: pygit2.Repository, path: str) -> bool:
    try:
        return repo.status_file(path) not in (FileStatus.CURRENT, FileStatus.IGNORED)
    except KeyError:  # neither in the commit nor in the checkout: it will be new
        return False


def _matcher(patterns: Sequence[str]) -> Callable[[str], object]:
    return re.compile("|".join(map(_pattern, patterns)) or r"(?!)").match


def _pattern(pattern: str) -> str:
    """A glob as a regular expression for a whole path: `*` within a folder, `**` across folders.

    A name that holds such characters itself matches, too.
    """
    pattern = pattern and str(PurePosixPath(pattern))
    pattern = "**" if pattern == "." else pattern
    meaning = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    text = ""
    for part in re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern):
        if part.startswith("[") and part.endswith("]"):
            text += part.replace("[!", "[^", 1)
        else:
            text += meaning.get(part) or re.escape(part)
    return rf"(?:{re.escape(pattern)}|{text})(?:/.*)?\Z"


def _untracked(directory: Path, pattern: str) -> str:
    """A file on disk that the pattern matches; empty if there is none."""
    try:
        found = next(directory.glob(pattern), None)
    except (NotImplementedError, ValueError):  # an absolute or empty pattern
        return ""
    return "" if found is None else found.relative_to(directory).as_posix()


def _package_folders(paths: Iterable[str]) -> list[str]:
    """The folders from which a Python project's own packages are imported."""
    names = set(paths)
    if not names & {"pyproject.toml", "setup.py", "setup.cfg"}:
        return []
    packages = {path.removesuffix("/__init__.py") for path in names if path.endswith("/__init__.py")}
    folders = ["src"] if any(re.fullmatch(r"src/[^/]+", package) for package in packages) else []
    return folders + (["."] if any("/" not in package for package in packages) else [])


def _python_problem(data: bytes, flags: int) -> str:
    """`LINE: what is wrong` with a Python source; empty if it compiles."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(data, "<idea>", "exec", flags, dont_inherit=True)
    except SyntaxError as error:
        return f"{error.lineno or 1}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"1: {error or 'nested too deeply'}"
    return ""


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


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _encode(text: str) -> bytes:
    """The bytes of a text. What an agent wrote may hold surrogates that no byte stands for."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _bare(path: str) -> str:
    """The path of a patch without `a/` or `b/`."""
    return path[2:] if path.startswith(("a/", "b/")) else path
