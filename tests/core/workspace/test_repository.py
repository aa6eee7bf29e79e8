from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pygit2
import pytest

from arf.errors import LostError
from arf.workspace import repository as arf_git
from arf.workspace.packing import pack
from arf.workspace.repository import File, Repository


def git(directory: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
    run = subprocess.run(
        ["git", *identity, *arguments], cwd=directory, capture_output=True, text=True, check=True
    )
    return run.stdout.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "train.py").write_text("x = 0\n")
    (tmp_path / "src" / "a.py").write_text("a = 0\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "base")
    return tmp_path


@pytest.fixture
def repo(folder: Path) -> Repository:
    return Repository(pygit2.Repository(str(folder)))


def write(repo: Repository, parent: str, number: int, path: str = "train.py") -> str:
    return repo.write_commit(parent, {path: File(0o100644, b"x = %d\n" % number)}, f"commit {number}")


def test_listings_follow_changes(repo: Repository, folder: Path) -> None:
    base = str(repo.commit("HEAD").id)
    nested = write(repo, base, 1, "src/deep/b.py")
    gone = repo.write_commit(nested, {"src/a.py": None, "train.py": None}, "gone")
    for commit in (base, nested, gone, base):
        expected = git(folder, "ls-tree", "-r", "--name-only", commit).splitlines()
        assert sorted(repo.files(commit)) == expected
    assert repo.changes(nested, gone).keys() == {"src/a.py", "train.py"}
    git(folder, "fsck", "--strict")


def test_a_file_that_becomes_a_folder_and_back(repo: Repository) -> None:
    base = str(repo.commit("HEAD").id)
    link = repo.write_commit(base, {"train.py": repo.files(base)["src/a.py"]._replace(mode=0o120000)}, "link")
    old, new = repo.changes(base, link)["train.py"]
    assert old is not None
    assert new is not None
    assert (old.mode, new.mode) == (0o100644, 0o120000)


def loose(folder: Path, *names: str) -> list[Path]:
    return [folder / ".git" / "objects" / name[:2] / name[2:] for name in names]


def test_objects_that_a_power_failure_left_empty_are_told_and_written_again(
    repo: Repository, folder: Path
) -> None:
    base = str(repo.commit("HEAD").id)
    commit = write(repo, base, 1, "src/a.py")
    parts = (commit, repo.tree(commit), repo.files(commit)["src/a.py"].id)
    for file in loose(folder, *parts):
        file.chmod(0o600)
        file.write_bytes(b"")
    for reading in (repo.tree, repo.files, repo.message):
        with pytest.raises(LostError, match=r"git cannot read.*git fsck"):
            reading(commit)
    with pytest.raises(LostError, match="is damaged"):
        repo.read(parts[2])
    assert write(repo, base, 1, "src/a.py") == commit
    assert repo.read(repo.files(commit)["src/a.py"].id) == b"x = 1\n"
    git(folder, "fsck", "--strict")


def test_what_was_written_is_on_the_disk_after_a_flush(
    repo: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.add(os.fstat(fd).st_ino))
    commit = write(repo, str(repo.commit("HEAD").id), 1, "src/a.py")
    repo.keep("s/000001", commit)
    parts = loose(folder, commit, repo.tree(commit), repo.files(commit)["src/a.py"].id)
    repo.flush()
    assert flushed >= {file.stat().st_ino for file in [*parts, folder / ".git" / "refs/arf/s/000001"]}
    flushed.clear()
    repo.flush()
    assert not flushed


def test_packing_keeps_every_commit_and_leaves_no_loose_object_of_theirs(
    repo: Repository, folder: Path
) -> None:
    base = str(repo.commit("HEAD").id)
    commits = [write(repo, base, number, "src/a.py") for number in range(50)]
    for number, commit in enumerate(commits):
        repo.keep(f"s/{number:06d}", commit)
    pack(folder / ".git", commits)
    assert not (folder / ".git" / "refs" / "arf" / "s" / "000001").exists()
    assert git(folder, "for-each-ref", "--format=%(objectname)", "refs/arf").splitlines() == commits
    git(folder, "fsck", "--strict")
    objects = folder / ".git" / "objects"
    assert not any((objects / commit[:2] / commit[2:]).exists() for commit in commits)
    assert repo.read(repo.files(commits[7])["src/a.py"].id) == b"x = 7\n"
    later = write(repo, commits[3], 99)
    repo.keep("s/000003", later)
    assert git(folder, "rev-parse", "refs/arf/s/000003") == later


def test_packing_happens_by_itself_and_in_a_linked_work_tree(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    linked = tmp_path_factory.mktemp("linked") / "tree"
    git(folder, "worktree", "add", "-q", "--detach", str(linked))
    repo = Repository(pygit2.Repository(str(linked)))
    base = str(repo.commit("HEAD").id)
    commits = [write(repo, base, number) for number in range(arf_git.PACK_EVERY)]
    for number, commit in enumerate(commits):
        repo.keep(f"s/{number:06d}", commit)
    repo.close()
    assert len(git(folder, "for-each-ref", "refs/arf").splitlines()) == len(commits)
    assert not list((folder / ".git" / "refs" / "arf").rglob("0*"))
    packed = int(
        dict(line.split(": ") for line in git(folder, "count-objects", "-v").splitlines())["in-pack"]
    )
    assert packed >= 3 * len(commits) - 3
