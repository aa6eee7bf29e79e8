"""Ideas as commits: what a draft changes on its base, and several ideas on one parent."""

from __future__ import annotations

import ast
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from pygit2.enums import FileMode

from arf.errors import ConflictError, LostError, UsageError, nearest
from arf.interfaces import Composed
from arf.types import Draft, Idea, Scalar
from arf.workspace import constants
from arf.workspace.checks import Checks, check_seed_names
from arf.workspace.files import Changes, Sources, decode, encode
from arf.workspace.merging import State
from arf.workspace.patches import FilePatch, apply_edit, apply_hunks, parse_patch
from arf.workspace.repository import Entry, File, Files

_CACHED = 2048


class Ideas:
    """Makes the commits of ideas, in memory."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._git = sources.git
        self._rules = sources.rules
        self._checks = Checks(sources)
        self._composed: OrderedDict[tuple[str, ...], Composed] = OrderedDict()

    # ---- One idea ---------------------------------------------------------------------------

    def make(self, draft: Draft, base: str, *, message: str) -> str:
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
        listing = self._git.files(base)
        changes = self._checks.real(kinds[given[0]](draft, base), listing)
        if not changes:
            raise UsageError("it changes nothing", hint="the files are like that already")
        for path, file in changes.items():
            self._checks.check_path(path, file, listing)
            if file is not None and not draft.constants:
                self._checks.check_python(path, file, listing)
        if draft.constants:
            check_seed_names(draft.constants)
        else:
            self._checks.check_seeds(changes, listing)
        return self._git.write_commit(base, changes, message)

    def _from_constants(self, draft: Draft, base: str) -> Changes:
        return self._with_constants(draft.constants, self._sources.texts(base), checked=True)

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
                where = " and ".join(self._rules.shown(path) for path in paths)
                raise UsageError(
                    f"the constant {name} is in {where}", hint="change it by an edit of one file"
                )
            wanted.setdefault(paths[0], {})[name] = value
        changes: dict[str, File | None] = {}
        for path, some in wanted.items():
            entry, text = texts[path]
            replaced = constants.replace(text, some, self._rules.shown(path))
            if checked:
                constants.check(constants.read(text, path), some)
            changes[path] = File(entry.mode, encode(replaced))
        return changes

    def _from_edits(self, draft: Draft, base: str) -> Changes:
        listing = self._git.files(base)
        changes: dict[str, File | None] = {}
        for edit in draft.edits:
            path = self._rules.inside(edit.path)
            there = changes[path] if path in changes else self._sources.file(listing.get(path))
            if there is None:
                if edit.old:
                    raise UsageError(f"there is no file {edit.path}", hint=self._sources.near(path, listing))
                changes[path] = File(FileMode.BLOB, encode(edit.new))
            elif edit.old:
                changes[path] = File(there.mode, encode(apply_edit(decode(there.data), edit)))
            elif there.data:
                raise UsageError(f"{edit.path} exists", hint="say which text of it to replace")
            else:
                changes[path] = File(there.mode, encode(edit.new))
        return changes

    def _from_patch(self, draft: Draft, base: str) -> Changes:
        listing = self._git.files(base)
        changes: dict[str, File | None] = {}
        for patch in parse_patch(draft.patch):
            self._patch_file(patch, listing, changes)
        return changes

    def _patch_file(self, patch: FilePatch, listing: Files, changes: dict[str, File | None]) -> None:
        there = File(FileMode.BLOB, b"")
        old = new = None
        if patch.old is not None:
            old = self._patched_path(patch.old, listing, changes)
            found = changes[old] if old in changes else self._sources.file(listing.get(old))
            if found is None:
                raise UsageError(f"there is no file {patch.old}", hint=self._sources.near(old, listing))
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
            raise UsageError(f"the patch makes {self._rules.shown(new)} anew, and it exists")
        mode = int(patch.mode, 8) if patch.mode else there.mode
        text = apply_hunks(decode(there.data), patch.hunks, self._rules.shown(new))
        if old is not None and old != new:
            changes[old] = None
        changes[new] = File(mode, encode(text))

    def _patched_path(self, name: str, listing: Files, changes: Mapping[str, File | None]) -> str:
        """The path that a patch means: with `a/` or without, from the workspace or from the repository."""
        spellings = [name]
        if re.match(r"[abciow]/", name):
            spellings.insert(0, name[2:])
        candidates = []
        for spelling in spellings:
            candidates.append(self._rules.inside(spelling))
            if self._rules.prefix and spelling.startswith(self._rules.prefix):
                candidates.insert(0, self._rules.inside(spelling[len(self._rules.prefix) :]))
        return next((path for path in candidates if path in listing or path in changes), candidates[0])

    def _from_commit(self, draft: Draft, base: str) -> Changes:
        commit = str(self._git.commit(draft.commit).id)
        ancestor = self._git.merge_base(base, commit)
        if ancestor is None:
            raise UsageError(f"commit {draft.commit[:12]} has no history in common with {base[:12]}")
        state = State(self._sources, base)
        conflicts = state.merge(ancestor, commit)
        if conflicts:
            raise ConflictError(
                f"commit {draft.commit[:12]} was made for other code, and does not merge with {base[:12]}",
                paths=conflicts,
            )
        return state.changes

    # ---- Several ideas ----------------------------------------------------------------------

    def compose(self, parent: str, ideas: Sequence[Idea], *, message: str) -> Composed:
        """The ideas on a parent, as one commit, in memory. The same arguments give the same commit.

        Constants are set by name in what the changes of code make, so that they cannot conflict with their
        neighbours. Raises ConflictError if the ideas do not go together, or one of them is lost.
        """
        key = (parent, message, *(idea.commit for idea in ideas))
        if key in self._composed and self._git.has(self._composed[key].commit):
            self._composed.move_to_end(key)
            return self._composed[key]
        for idea in ideas:
            try:
                self._git.tree(idea.commit)
            except LostError as error:
                raise ConflictError(f"{idea.title!r} is lost: {error}") from None
        if not ideas:
            commit = parent
        elif len(ideas) == 1 and ideas[0].base == parent:
            commit = ideas[0].commit
        else:
            commit = self._compose(parent, ideas, message)
        composed = Composed(commit=commit, tree=self._git.tree(commit))
        self._composed[key] = composed
        if len(self._composed) > _CACHED:
            self._composed.popitem(last=False)
        return composed

    def _compose(self, parent: str, ideas: Sequence[Idea], message: str) -> str:
        values = _joint_constants(ideas)
        state = State(self._sources, parent)
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
        listing = self._git.files(parent)
        changes = self._checks.real(state.changes, listing)
        if not changes:
            return parent
        try:
            for path, file in changes.items():
                self._checks.check_path(path, file, listing)
                if file is not None and path in state.merged:
                    self._checks.check_python(path, file, listing, ast.PyCF_ONLY_AST)
        except UsageError as error:
            raise ConflictError(
                f"together they do not work: {error}", paths=map(self._rules.shown, changes)
            ) from None
        return self._git.write_commit(parent, changes, message)

    def _check_no_override(self, idea: Idea, values: Mapping[str, Scalar]) -> None:
        """Raises ConflictError if a change of code sets a constant that another idea sets differently."""
        if not values:
            return
        for path, (old, new) in self._git.changes(idea.base, idea.commit).items():
            if old is None or new is None or not (old.is_file and new.is_file):
                continue
            before, after = (
                {item.name: item.value for item in constants.read(decode(self._git.read(entry.id)), path)}
                for entry in (old, new)
            )
            for name, value in values.items():
                if name in after and after[name] != before.get(name) and after[name] != value:
                    raise ConflictError(
                        f"{name} is set to {value!r} and, by {idea.title!r}, to {after[name]!r}",
                        paths=[self._rules.shown(path)],
                    )


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


def _bare(path: str) -> str:
    """The path of a patch without `a/` or `b/`."""
    return path[2:] if path.startswith(("a/", "b/")) else path
