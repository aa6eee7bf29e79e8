from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pygit2
import pytest
from pygit2.enums import ConfigLevel

from arf.errors import WorkspaceError
from arf.types import Draft, SeedMode, WorkspaceSettings
from arf.workspace.work_trees import GitWorkTree
from arf.workspace.workspace import GitWorkspace

TRAIN = "DEPTH = 8\ntorch.manual_seed(42)\n"


def git(directory: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], cwd=directory, capture_output=True, check=True)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    repo = tmp_path / "repo"
    (repo / "lib" / "deep").mkdir(parents=True)
    (repo / "train.py").write_text(TRAIN)
    (repo / "prepare.py").write_text("BUDGET = 5\n")
    (repo / "lib" / "a.py").write_text("a = 1\n")
    (repo / "lib" / "deep" / "ü.py").write_bytes(b"b = 1\r\n")
    (repo / "run.sh").write_text("#!/bin/sh\n")
    (repo / "run.sh").chmod(0o755)
    (repo / "empty").touch()
    (repo / "link").symlink_to("lib/a.py")
    (repo / "outside").symlink_to(tmp_path / "precious")
    (repo / ".gitignore").write_text("data\n*.log\n__pycache__\n")
    (repo / os.fsdecode(b"caf\xe9")).write_text("latin")
    git(repo, "init", "-q")
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "base")
    return repo


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder outside of the tree that must never change."""
    folder = tmp_path / "precious"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.py", "prepare.py", "deep/ü.py"):
        (folder / name).write_text("precious")
    return folder


def open_workspace(repo: Path, **changes: object) -> GitWorkspace:
    return GitWorkspace.open(repo, WorkspaceSettings(command="true", **changes))  # type: ignore[arg-type]


@pytest.fixture
def workspace(repo: Path) -> GitWorkspace:
    return open_workspace(repo, seed=SeedMode.ENV)


@pytest.fixture
def tree(workspace: GitWorkspace) -> GitWorkTree:
    tree = workspace.work_tree(workspace.directory / ".arf" / "studies" / "s" / "trees" / "1")
    tree.fill(workspace.base_commit(), 1)
    return tree


def contents(folder: Path) -> dict[str, object]:
    """Everything in a folder: bytes of files and whether they are executable, targets of links, folders."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name == ".git" or name.startswith((".git/", ".arf")):
            continue
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = path.read_bytes(), bool(path.stat().st_mode & 0o100)
        else:
            found[name] = "folder" if path.is_dir() else "special"
    return found


def refill(tree: GitWorkTree, workspace: GitWorkspace) -> None:
    tree.fill(workspace.base_commit(), 1)


def test_a_filled_tree_is_the_commit(tree: GitWorkTree, repo: Path) -> None:
    assert contents(tree.directory) == contents(repo)
    assert tree.tampered() == ()
    assert tree.cwd == tree.directory


def test_only_what_differs_is_written(tree: GitWorkTree, workspace: GitWorkspace) -> None:
    before = {path: path.stat().st_ino for path in tree.directory.rglob("*") if path.is_file()}
    deeper = workspace.make_idea(
        Draft(title="t", constants={"DEPTH": 4}), workspace.base_commit(), message="m"
    )
    tree.fill(deeper, 1)
    assert (tree.cwd / "train.py").read_text() == TRAIN.replace("8", "4")
    after = {path: path.stat().st_ino for path in tree.directory.rglob("*") if path.is_file()}
    assert {path.name for path in before if before[path] != after[path]} <= {"train.py"}
    assert tree.tampered() == ()


def _files(tree: Path, precious: Path) -> None:
    (tree / "run.log").write_text("x")
    (tree / "lib" / "__pycache__").mkdir()
    (tree / "lib" / "__pycache__" / "a.pyc").write_text("x")
    (tree / "data").mkdir()
    (tree / "ünï\nname").write_text("x")


def _changes(tree: Path, precious: Path) -> None:
    (tree / "prepare.py").write_text("BUDGET = 9\n")
    (tree / "train.py").unlink()
    (tree / "lib" / "a.py").write_text("a = 2\n")
    (tree / "run.sh").chmod(0o644)
    (tree / "empty").write_text("x")
    (tree / "link").unlink()
    (tree / "link").symlink_to("lib")


def _links(tree: Path, precious: Path) -> None:
    os.rename(tree / "lib", tree / "gone")
    (tree / "lib").symlink_to(precious)
    (tree / "prepare.py").unlink()
    (tree / "prepare.py").symlink_to(precious / "prepare.py")
    (tree / "data").symlink_to(precious)


def _hard_links(tree: Path, precious: Path) -> None:
    (tree / "prepare.py").unlink()
    os.link(precious / "prepare.py", tree / "prepare.py")
    os.link(tree / "train.py", tree / "second")


def _kinds(tree: Path, precious: Path) -> None:
    (tree / "prepare.py").unlink()
    (tree / "prepare.py").mkdir()
    (tree / "prepare.py" / "x").touch()
    for path in (tree / "lib" / "deep" / "ü.py", tree / "lib" / "a.py"):
        path.unlink()
    (tree / "lib" / "deep").rmdir()
    (tree / "lib").rmdir()
    (tree / "lib").write_text("a file")


def _specials(tree: Path, precious: Path) -> None:
    os.mkfifo(tree / "pipe")
    (tree / "train.py").unlink()
    os.mkfifo(tree / "train.py")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(tree)
        server.bind("socket")
        os.chdir(here)


def _permissions(tree: Path, precious: Path) -> None:
    locked = tree / "junk" / "locked"
    (locked / "inner").mkdir(parents=True)
    (locked / "inner" / "x").touch()
    (locked / "inner").chmod(0)
    locked.chmod(0o500)
    (tree / "prepare.py").chmod(0)
    (tree / "lib" / "deep").chmod(0o500)
    (tree / "lib").chmod(0)


def _depth(tree: Path, precious: Path) -> None:
    handle = os.open(tree, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=handle)
        inner = os.open("d", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(handle)


def _trash(tree: Path, precious: Path) -> None:
    (tree / ".arf-trash").symlink_to(precious)
    (tree / "junk").mkdir()


def _whole(tree: Path, precious: Path) -> None:
    os.rename(tree, tree.with_name("elsewhere"))
    tree.symlink_to(precious)


@pytest.mark.parametrize(
    "leave",
    [_files, _changes, _links, _hard_links, _kinds, _specials, _permissions, _depth, _trash, _whole],
)
@pytest.mark.parametrize("restarted", [False, True], ids=["same-process", "restarted"])
def test_nothing_of_the_last_run_is_left_and_nothing_outside_is_touched(
    tree: GitWorkTree,
    workspace: GitWorkspace,
    repo: Path,
    precious: Path,
    leave: Callable[[Path, Path], None],
    restarted: bool,
) -> None:
    leave(tree.directory, precious)
    if restarted:
        tree = workspace.work_tree(tree.directory)
    refill(tree, workspace)
    assert contents(tree.directory) == contents(repo)
    assert {path.read_text() for path in precious.rglob("*") if path.is_file()} == {"precious"}
    assert tree.tampered() == ()
    assert (tree.directory / "prepare.py").stat().st_nlink == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="without the rights of root, all other tests show this")
def test_permissions_are_no_obstacle_without_the_rights_of_root(repo: Path) -> None:
    with tempfile.TemporaryDirectory() as home:  # tmp_path is in a folder that others cannot enter
        shutil.copytree(repo, Path(home) / "repo", symlinks=True)
        subprocess.run(["chown", "-R", "65534:65534", home], check=True)
        expected = contents(repo)
        child = os.fork()
        if child == 0:
            try:
                for level in (ConfigLevel.GLOBAL, ConfigLevel.XDG):
                    pygit2.settings.search_path[level] = home  # not root's
                os.setgid(65534)
                os.setuid(65534)
                workspace = open_workspace(Path(home) / "repo", seed=SeedMode.ENV)
                tree = workspace.work_tree(Path(home) / "repo" / ".arf" / "t")
                refill(tree, workspace)
                _permissions(tree.directory, tree.directory)
                refill(tree, workspace)
                right = tree.tampered() == () and contents(tree.directory) == expected
            except BaseException:
                traceback.print_exc()
                right = False
            os._exit(0 if right else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("restarted", [False, True], ids=["same-process", "restarted"])
def test_tampered_names_what_a_run_has_changed(
    tree: GitWorkTree, workspace: GitWorkspace, restarted: bool
) -> None:
    directory = tree.directory
    status = (directory / "prepare.py").stat()
    (directory / "prepare.py").write_text("BUDGET = 6\n")  # the same size
    os.utime(directory / "prepare.py", ns=(status.st_atime_ns, status.st_mtime_ns))
    (directory / "lib" / "a.py").unlink()
    (directory / "train.py").write_text("print('val_bpb: 0')\n")
    (directory / "run.log").write_text("fine")
    (directory / "empty").touch()
    os.utime(directory / "run.sh")
    if restarted:
        tree = workspace.work_tree(directory)
        tree.adopt(workspace.base_commit(), 1)
    assert tree.tampered() == ("lib/a.py", "prepare.py", "train.py")


def test_tampered_sees_links_in_place_of_folders_and_files(tree: GitWorkTree, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    os.rename(tree.directory / "lib", copy)
    (tree.directory / "lib").symlink_to(copy)
    os.rename(tree.directory / "prepare.py", tmp_path / "p")
    (tree.directory / "prepare.py").symlink_to(tmp_path / "p")
    (tree.directory / "link").unlink()
    assert tree.tampered() == ("lib/a.py", "lib/deep/ü.py", "link", "prepare.py")


def test_tampered_when_the_whole_tree_is_gone(tree: GitWorkTree) -> None:
    os.rename(tree.directory, tree.directory.with_name("x"))
    assert "prepare.py" in tree.tampered()


def test_named_read_only_files_are_the_ones_that_count(repo: Path) -> None:
    workspace = open_workspace(repo, readonly=("prepare.py",))
    tree = workspace.work_tree(repo / ".arf" / "t")
    refill(tree, workspace)
    (tree.directory / "lib" / "a.py").write_text("notes")
    assert tree.tampered() == ()
    (tree.directory / "prepare.py").write_text("BUDGET = 500")
    assert tree.tampered() == ("prepare.py",)


def test_linked_paths_are_the_users(repo: Path) -> None:
    (repo / "data" / "raw").mkdir(parents=True)
    (repo / "data" / "raw" / "x.txt").write_text("tokens")
    workspace = open_workspace(repo, link=("data", "lib/cache"), setup="make data")
    tree = workspace.work_tree(repo / ".arf" / "t")
    refill(tree, workspace)
    assert (tree.cwd / "data" / "raw" / "x.txt").read_text() == "tokens"
    (tree.cwd / "lib" / "cache" / "made").write_text("by the set-up command")
    assert (repo / "lib" / "cache" / "made").exists()
    (tree.cwd / "data").unlink()
    (tree.cwd / "data").mkdir()
    (tree.cwd / "data" / "y").touch()
    refill(tree, workspace)
    assert (tree.cwd / "data").resolve() == repo / "data"
    assert (repo / "data" / "raw" / "x.txt").read_text() == "tokens"
    assert tree.tampered() == ()


def test_a_workspace_in_a_sub_folder_runs_there(tmp_path: Path, repo: Path) -> None:
    (repo / "sub").mkdir()
    (repo / "sub" / "train.py").write_text(TRAIN)
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "sub")
    workspace = open_workspace(repo / "sub")
    tree = workspace.work_tree(tmp_path / "tree")
    refill(tree, workspace)
    assert tree.cwd == tmp_path / "tree" / "sub"
    assert (tree.cwd / "train.py").exists()
    (tree.directory / "prepare.py").write_text("x")
    (tree.cwd / "train.py").write_text("x")
    assert tree.tampered() == ("../prepare.py", "train.py")


# ---- seeds


def test_seeds_are_rewritten_where_the_script_does_not_read_arf_seed(repo: Path) -> None:
    workspace = open_workspace(repo)
    tree = workspace.work_tree(repo / ".arf" / "t")
    for seed in (7, 8, 7):
        tree.fill(workspace.base_commit(), seed)
        assert (tree.cwd / "train.py").read_text() == TRAIN.replace("42", str(seed))
        assert tree.tampered() == ()
    again = workspace.work_tree(tree.directory)
    again.adopt(workspace.base_commit(), 8)
    assert again.tampered() == ("train.py",)


@pytest.mark.parametrize(
    ("mode", "name", "text", "rewritten"),
    [
        (SeedMode.AUTO, "prepare.py", "import os; S = os.environ['ARF_SEED']\n", False),
        (SeedMode.AUTO, "program.md", "arf sets ARF_SEED\n", True),
        (SeedMode.REWRITE, "prepare.py", "import os; S = os.environ['ARF_SEED']\n", True),
        (SeedMode.ENV, "prepare.py", "x = 1\n", False),
    ],
)
def test_seed_modes(repo: Path, mode: SeedMode, name: str, text: str, rewritten: bool) -> None:
    (repo / name).write_text(text)
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "seed")
    workspace = open_workspace(repo, seed=mode)
    tree = workspace.work_tree(repo / ".arf" / "t")
    tree.fill(workspace.base_commit(), 7)
    assert ("manual_seed(7)" in (tree.cwd / "train.py").read_text()) is rewritten


# ---- failures


def test_a_folder_that_cannot_be_made_is_told(workspace: GitWorkspace, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((WorkspaceError, OSError), match="file"):
        workspace.work_tree(tmp_path / "file" / "1").fill(workspace.base_commit(), 1)


def test_many_fills_leave_no_open_files(tree: GitWorkTree, workspace: GitWorkspace) -> None:
    fds = Path("/proc/self/fd")
    if not fds.exists():
        pytest.skip("no /proc")
    before = len(list(fds.iterdir()))
    for _ in range(20):
        (tree.directory / "junk" / "deep").mkdir(parents=True)
        refill(tree, workspace)
        tree.tampered()
    assert len(list(fds.iterdir())) <= before
