"""A workspace in a git repository: a folder with a script, and what arf does with its commits.

The user's checkout, index, HEAD and branches are read and never written; what arf makes are commits that
`refs/arf/` and the branch `arf/<study>` hold, and `apply_to_checkout` alone writes files, when asked to.

Inside, paths are relative to the top of the repository; at the border (drafts, `files`, messages) they are
relative to the workspace, which may be a sub-folder.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pygit2.enums import FileMode

from arf.config.schema import check_study_name
from arf.errors import NameTakenError, WorkspaceError
from arf.interfaces import Composed, SourceFile, Workspace
from arf.types import Draft, Idea, WorkspaceSettings
from arf.workspace import opening
from arf.workspace.checkout import apply_to_checkout
from arf.workspace.environment import job_env
from arf.workspace.files import Rules, Sources, encode
from arf.workspace.ideas import Ideas
from arf.workspace.repository import Repository, told
from arf.workspace.seeding import Seeding
from arf.workspace.stand_ins import find_stand_ins
from arf.workspace.work_trees import GitWorkTree

log = logging.getLogger(__name__)


class GitWorkspace(Workspace):
    """Made by `open`."""

    def __init__(self, git: Repository, directory: Path, rules: Rules) -> None:
        super().__init__(directory, rules.settings)
        self.git = git
        self.prefix = rules.prefix
        self._rules = rules
        self._sources = Sources(git, rules)
        self._ideas = Ideas(self._sources)
        self._seeding = Seeding(self._sources)
        self._base = ""
        """The commit that was looked at when it was opened."""

    @property
    def top(self) -> Path:
        return opening.top_of(self.directory, self.prefix)

    @classmethod
    def open(
        cls, path: Path, settings: WorkspaceSettings, *, base: str = "", clean: bool = True
    ) -> GitWorkspace:
        """As `arf.workspace.open_workspace`; `clean` refuses uncommitted changes."""
        directory, repo = opening.find_workspace(path)
        opening.check_writable(directory, repo)
        prefix = os.path.relpath(directory, os.path.realpath(repo.workdir or ""))
        prefix = "" if prefix == "." else prefix.replace(os.sep, "/") + "/"
        self = cls(Repository(repo), directory, Rules(prefix, settings))
        self._base = base or self.base_commit()
        sources, listing = self._sources, self.git.files(self._base)
        opening.check_patterns(sources, directory, listing)
        opening.check_complete(sources, listing)
        with told(directory):
            sources.stand_ins = find_stand_ins(sources, repo, listing)
            opening.check_editable(sources, opening.top_of(directory, prefix), self._base, listing)
            if clean and not base:
                opening.check_clean(sources, repo, self._base)
        opening.check_links(sources, directory, listing)
        opening.exclude_own_folder(self.git.common)
        return self

    # ---- What is there ----------------------------------------------------------------------

    def base_commit(self) -> str:
        """The commit that is checked out."""
        return str(self.git.commit("HEAD").id)

    def tree_of(self, commit: str) -> str:
        return self.git.tree(commit)

    def files(self, commit: str) -> dict[str, str]:
        return {
            self._rules.shown(path): encode(text).decode("utf-8", "replace")
            for path, (_, text) in self._sources.texts(commit).items()
        }

    def tracked(self, commit: str) -> set[str]:
        return {self._rules.shown(path) for path in self.git.files(commit)}

    def read(self, commit: str, path: str) -> SourceFile | None:
        located = self._rules.located(path)
        entry = self.git.files(commit).get(located)
        if entry is None or not entry.is_file or located in self._sources.stand_ins:
            return None
        return SourceFile(self.git.read(entry.id), entry.mode == FileMode.BLOB_EXECUTABLE)

    def is_editable(self, path: str) -> bool:
        return self._rules.is_editable(self._rules.located(path))

    def is_readonly(self, path: str) -> bool:
        return self._rules.is_readonly(self._rules.located(path))

    def program(self, commit: str) -> str:
        """The commit's, or an untracked one."""
        if found := super().program(commit):
            return found
        path = self.directory / self.settings.program
        return path.read_text("utf-8", "replace") if self.settings.program and path.is_file() else ""

    def diff(self, old: str, new: str) -> str:
        return self.git.diff(old, new)

    # ---- Ideas ------------------------------------------------------------------------------

    def make_idea(self, draft: Draft, base: str, *, message: str) -> str:
        return self._ideas.make(draft, base, message=message)

    def compose(self, parent: str, ideas: Sequence[Idea], *, message: str) -> Composed:
        return self._ideas.compose(parent, ideas, message=message)

    # ---- What is kept -----------------------------------------------------------------------

    def claim(self, study: str, base: str) -> None:
        if not self.git.claim(check_study_name(study), base):
            refs = f"refs/arf/{study}/ refs/heads/arf/{study}"
            raise NameTakenError(
                f"the repository has commits of another study {study!r} "
                "(elsewhere, or its folder was removed)",
                hint="choose another --name; to lose them: "
                f"`git for-each-ref --format='delete %(refname)' {refs} | git update-ref --stdin`",
            )

    def release(self, study: str) -> None:
        self.git.release(study)

    def keep(self, study: str, experiment: int, commit: str) -> None:
        """Write `refs/arf/<study>/<experiment>`, so that git keeps the commit."""
        self.git.keep(f"{check_study_name(study)}/{experiment:06d}", commit)

    def keep_idea(self, study: str, idea: int, commit: str) -> None:
        """Write `refs/arf/<study>/ideas/<idea>`: so that git keeps an idea that no experiment has used."""
        self.git.keep(f"{check_study_name(study)}/ideas/{idea:06d}", commit)

    def flush(self) -> None:
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
        """Only editable files change, and what was committed since is merged; nothing is staged."""
        return apply_to_checkout(self._sources, self.directory, self.base_commit(), base, commit)

    def close(self) -> None:
        self.git.close()

    # ---- Jobs -------------------------------------------------------------------------------

    def work_tree(self, directory: Path) -> GitWorkTree:
        return GitWorkTree(self._sources, self._seeding, self.links, directory)

    def links(self) -> dict[str, str]:
        found = dict(self._sources.stand_ins)
        for name in self.settings.link:
            path = self.prefix + name.rstrip("/")
            target = self.directory / name.rstrip("/")
            if not target.exists() and not target.suffix:
                target.mkdir(parents=True)  # for the set-up command: mkdir fails on a link to nothing
            found[path] = str(target)
        return found

    def job_env(self) -> Mapping[str, str]:
        return job_env(self.directory, self._rules, self.git.files(self._base))
