"""Opening a workspace: whether its folder, repository and settings can be used, and what to do if not."""

from __future__ import annotations

import logging
import os
import shlex
from pathlib import Path, PurePosixPath

import pygit2
from pygit2.enums import FileMode, FileStatus, RepositoryOpenFlag

from arf.errors import WorkspaceError, nearest
from arf.workspace.files import OWN_FOLDER, Sources, few, matcher
from arf.workspace.repository import Files, find_repository, told
from arf.workspace.stand_ins import is_filtered_content, target_of

log = logging.getLogger(__name__)


def find_workspace(path: Path) -> tuple[Path, pygit2.Repository]:
    """The folder and its repository. Raises WorkspaceError unless there is one with a commit."""
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


def check_writable(directory: Path, repo: pygit2.Repository) -> None:
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


def check_patterns(sources: Sources, directory: Path, listing: Files) -> None:
    """Raises WorkspaceError for a pattern that no tracked file matches."""
    paths = [path[len(sources.rules.prefix) :] for path in listing if path.startswith(sources.rules.prefix)]
    if not paths:
        raise WorkspaceError(
            f"no file of {directory} is tracked by git",
            hint="`git add` and commit the script, or `git init` here for a repository of its own",
        )
    for key in ("editable", "readonly"):
        for pattern in getattr(sources.rules.settings, key):
            if ".." in PurePosixPath(pattern).parts:
                raise WorkspaceError(
                    f"workspace.{key}: {pattern!r} is no path inside the workspace",
                    hint="ideas change files in the workspace's own folder only",
                )
            matches = matcher((pattern,))
            if any(matches(path) for path in paths):
                continue
            name = _untracked(directory, pattern)
            if name:
                raise _no_tracked_file(sources, directory, name, listing)
            raise WorkspaceError(
                f"workspace.{key}: no file matches {pattern!r}", hint=nearest(pattern, paths)
            )
    if not any(sources.rules.is_editable(path) for path in listing):
        key, what = (
            ("readonly", "leaves nothing editable")
            if sources.rules.settings.editable
            else ("editable", "is empty")
        )
        raise WorkspaceError(
            f"workspace.{key} {what}", hint="name what ideas may change, such as editable: [train.py]"
        )


def _no_tracked_file(sources: Sources, directory: Path, name: str, listing: Files) -> WorkspaceError:
    """What is wrong with a file on disk that a pattern names and the commit lacks."""
    inner = next((p for p in PurePosixPath(name).parents if os.path.lexists(directory / p / ".git")), None)
    if inner is not None and inner != PurePosixPath("."):
        return WorkspaceError(
            f"{name} is in another git repository, {inner}, which ideas cannot change",
            hint=f"study that one: `arf run {shlex.quote(str(directory / inner))}`",
        )
    target = target_of(top_of(directory, sources.rules.prefix), directory / name)
    if target in listing:
        return WorkspaceError(
            f"{name} is reached by a symbolic link", hint=f"name {sources.rules.shown(target)} in its place"
        )
    return WorkspaceError(
        f"{name} is not tracked by git",
        hint=f"`git add {shlex.quote(name)}` and commit it (is it in .gitignore?)",
    )


def top_of(directory: Path, prefix: str) -> Path:
    """The top of the repository, given the workspace and its path there."""
    return directory.parents[prefix.count("/") - 1] if prefix else directory


def check_complete(sources: Sources, listing: Files) -> None:
    """Raises WorkspaceError if a partial clone lacks a file."""
    missing = sources.git.lacks(listing) if sources.git.is_partial else ""
    if missing:
        raise WorkspaceError(
            f"this is a partial clone, and has not {sources.rules.shown(missing)}",
            hint=sources.git.lacking,
        )


def check_editable(sources: Sources, top: Path, base: str, listing: Files) -> None:
    """Raises WorkspaceError if a pattern names only what ideas cannot change."""
    for pattern in sources.rules.settings.editable:
        matches = matcher((pattern,))
        paths = [
            path
            for path in listing
            if sources.rules.is_editable(path) and matches(path[len(sources.rules.prefix) :])
        ]
        if not paths or any(listing[path].is_file and path not in sources.stand_ins for path in paths):
            continue
        name, mode = sources.rules.shown(paths[0]), listing[paths[0]].mode
        kinds = {FileMode.LINK: "a symbolic link", FileMode.COMMIT: "a submodule"}
        kind = kinds.get(FileMode(mode), "an LFS file")
        target = target_of(top, top / paths[0]) if mode == FileMode.LINK else ""
        hint = "name a file in its place"
        if target in listing:
            hint = f"name {sources.rules.shown(target)} in its place"
        elif mode == FileMode.COMMIT:
            hint = f"study that one: `arf run {shlex.quote(str(top / paths[0]))}`"
        raise WorkspaceError(
            f"workspace.editable: {name} is {kind}, which ideas cannot change",
            hint=hint,
        )
    if not sources.texts(base):
        name = next(sources.rules.shown(path) for path in listing if sources.rules.is_editable(path))
        raise WorkspaceError(
            f"workspace.editable: {name} is no text, and there is nothing else to change",
            hint="name the script",
        )


def check_clean(sources: Sources, repo: pygit2.Repository, base: str) -> None:
    """Raises WorkspaceError for uncommitted changes."""
    changed, conflicts = [], []
    sparse = "core.sparsecheckout" in repo.config and repo.config.get_bool("core.sparsecheckout")
    for path, flags in repo.status(untracked_files="no").items():
        if not path.startswith(sources.rules.prefix) or flags in (FileStatus.CURRENT, FileStatus.IGNORED):
            continue
        if OWN_FOLDER in path.split("/"):
            continue  # somebody added a study to git
        if flags & FileStatus.CONFLICTED:
            conflicts.append(sources.rules.shown(path))
        if path in sources.stand_ins and flags == FileStatus.WT_MODIFIED:
            if sources.git.files(base)[path].mode == FileMode.COMMIT:
                _check_submodule(sources, base, path)
                continue
            if is_filtered_content(sources, repo, base, path):
                continue
        if sparse and flags == FileStatus.WT_DELETED:
            continue  # left out of the checkout; libgit2 does not know of that
        changed.append(sources.rules.shown(path))
    if conflicts:
        raise WorkspaceError(
            f"a merge has left conflicts in {few(sorted(conflicts))}",
            hint="resolve them and commit, or take the merge back",
        )
    if changed:
        raise WorkspaceError(
            f"uncommitted changes in {few(sorted(changed))}",
            hint="experiments start from the last commit: `git commit -am ...` or `git stash` them",
        )


def _check_submodule(sources: Sources, base: str, path: str) -> None:
    """Raises WorkspaceError unless the checkout has the tracked files of the submodule's commit."""
    folder, shown = Path(sources.stand_ins[path]), sources.rules.shown(path)
    inner = pygit2.Repository(str(folder), RepositoryOpenFlag.NO_SEARCH)
    wanted = sources.git.files(base)[path].id
    if inner.head_is_unborn or str(inner.head.target) != wanted:
        raise WorkspaceError(
            f"the submodule {shown} is not at {wanted[:12]}, as the commit says",
            hint="`git submodule update` brings it there; or commit where it is",
        )
    if inner.status(untracked_files="no"):
        raise WorkspaceError(
            f"uncommitted changes in the submodule {shown}", hint="commit or stash them in its folder"
        )


def check_links(sources: Sources, directory: Path, listing: Files) -> None:
    """Raises WorkspaceError for a `workspace.link` that is tracked or not there."""
    for name in sources.rules.settings.link:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or parts[0] in (".git", OWN_FOLDER):
            raise WorkspaceError(
                f"workspace.link: {name!r} is no path inside the workspace",
                hint="for data elsewhere, make a symbolic link in the workspace, and name that",
            )
        path = sources.rules.prefix + "/".join(parts)
        if path in listing or any(known.startswith(path + "/") for known in listing):
            raise WorkspaceError(
                f"workspace.link: {name} is tracked by git", hint="each tree has it anyway; drop it"
            )
        if not (directory / name).exists() and not sources.rules.settings.setup:
            there = [item.name for item in directory.iterdir() if item.name not in (".git", OWN_FOLDER)]
            raise WorkspaceError(f"workspace.link: there is no {name}", hint=nearest(name, there))


def exclude_own_folder(common: Path) -> None:
    """Keep arf's folder out of git, by a git directory's own list of what to ignore."""
    path = common / "info" / "exclude"
    try:
        text = path.read_text() if path.exists() else ""
        if f"{OWN_FOLDER}/" not in (line.strip().lstrip("/") for line in text.splitlines()):
            path.parent.mkdir(exist_ok=True)
            with path.open("a") as file:
                file.write(("" if text.endswith("\n") or not text else "\n") + f"{OWN_FOLDER}/\n")
    except OSError as error:
        log.warning("cannot add %s/ to %s: %s", OWN_FOLDER, path, error)


def _untracked(directory: Path, pattern: str) -> str:
    """A file on disk that the pattern matches; empty if there is none."""
    try:
        found = next(directory.glob(pattern), None)
    except (NotImplementedError, ValueError):  # an absolute or empty pattern
        return ""
    return "" if found is None else found.relative_to(directory).as_posix()
