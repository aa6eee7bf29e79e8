from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pygit2.enums import FileMode

from arf.config.schema import check_study_name
from arf.errors import ConflictError, UsageError, WorkspaceError
from arf.launch import job_environment
from arf.types import Draft, Edit, Idea, Scalar, WorkspaceSettings
from arf.workspace import environment
from arf.workspace.files import Rules
from arf.workspace.repository import Entry
from arf.workspace.workspace import GitWorkspace

TRAIN = """\
import torch

DEPTH = 8  # layers [1..16]
WIDTH = 64
LR = 0.1

torch.manual_seed(42)


def model():
    return DEPTH * WIDTH


print("val_bpb:", model())
"""

DEEPER = "--- a/{0}\n+++ b/{0}\n@@ -3 +3 @@\n-DEPTH = 8  # layers [1..16]\n+DEPTH = 4  # layers [1..16]\n"


def git(directory: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
    run = subprocess.run(["git", *identity, *arguments], cwd=directory, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def commit_all(directory: Path) -> str:
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "-m", "base")
    return git(directory, "rev-parse", "HEAD")


def make(directory: Path, files: dict[str, str | bytes]) -> Path:
    """A repository with these files in one commit."""
    directory.mkdir(exist_ok=True)
    git(directory, "init", "-q", "-b", "main")
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    commit_all(directory)
    return directory


def settings(**changes: object) -> WorkspaceSettings:
    return WorkspaceSettings(command="python train.py", **changes)  # type: ignore[arg-type]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make(
        tmp_path / "repo",
        {"train.py": TRAIN, "prepare.py": "BUDGET = 5\n", "program.md": "Be bold.\n", "README.md": "x\n"},
    )


@pytest.fixture
def workspace(repo: Path) -> GitWorkspace:
    return GitWorkspace.open(repo, settings())


class Study:
    """Ideas by short calls."""

    def __init__(self, workspace: GitWorkspace) -> None:
        self.workspace = workspace
        self.base = workspace.base_commit()
        self.count = 0

    def idea(self, base: str | None = None, **change: object) -> Idea:
        self.count += 1
        draft = Draft(title=f"idea {self.count}", **change)  # type: ignore[arg-type]
        base = base or self.base
        commit = self.workspace.make_idea(draft, base, message=draft.title)
        return Idea(
            id=self.count, title=draft.title, base=base, commit=commit, constants=dict(draft.constants)
        )

    def edit(self, old: str, new: str, path: str = "train.py", base: str | None = None) -> Idea:
        return self.idea(base, edits=(Edit(path=path, old=old, new=new),))

    def set(self, **constants: Scalar) -> Idea:
        return self.idea(constants=constants)

    def text(self, commit: str, path: str = "train.py") -> str:
        return self.workspace.files(commit)[path]

    def together(self, *ideas: Idea, parent: str | None = None) -> str:
        return self.workspace.compose(parent or self.base, ideas, message="together").commit


@pytest.fixture
def study(workspace: GitWorkspace) -> Study:
    return Study(workspace)


# ---- opening


def refusal(path: Path, wanted: WorkspaceSettings | None = None) -> str:
    with pytest.raises(WorkspaceError) as caught:
        GitWorkspace.open(path, wanted or settings())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_opening_says_what_is_wrong_with_the_repository(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "is a file" in refusal(tmp_path / "file")
    plain = tmp_path / "plain"
    plain.mkdir()
    assert "no git repository" in refusal(plain)
    assert "git init && git add -A" in refusal(plain)
    git(plain, "init", "-q")
    assert "no commit yet" in refusal(plain)
    git(tmp_path, "init", "-q", "--bare", "bare.git")
    assert "bare" in refusal(tmp_path / "bare.git")
    inside = make(tmp_path / "inside", {"train.py": "x"})
    assert "bare" in refusal(inside / ".git")
    git(inside, "config", "core.worktree", str(plain))
    assert f"has its files in {plain}" in refusal(inside)
    git(inside, "config", "--unset", "core.worktree")
    git(inside, "config", "core.bare", "true")
    assert "`git config core.bare false`" in refusal(inside)


def test_opening_refuses_uncommitted_changes_of_the_workspace_only(repo: Path) -> None:
    (repo / "untracked.txt").write_text("fine")
    GitWorkspace.open(repo, settings())
    (repo / "train.py").write_text("changed")
    (repo / "prepare.py").unlink()
    (repo / "README.md").write_text("staged")
    (repo / "program.md").write_text("changed")
    git(repo, "add", "README.md")
    message = refusal(repo)
    assert "uncommitted changes in README.md, prepare.py, program.md and 1 more" in message
    assert "git stash" in message
    GitWorkspace.open(repo, settings(), clean=False)


def test_a_detached_head_and_a_linked_work_tree_are_fine(repo: Path, tmp_path: Path) -> None:
    git(repo, "worktree", "add", "-q", "--detach", str(tmp_path / "linked"))
    linked = Study(GitWorkspace.open(tmp_path / "linked", settings()))
    assert linked.base == git(repo, "rev-parse", "HEAD")
    linked.workspace.keep("s", 1, linked.set(DEPTH=4).commit)
    assert git(repo, "for-each-ref", "--format=%(refname)", "refs/arf") == "refs/arf/s/000001"
    assert ".arf/" in (repo / ".git" / "info" / "exclude").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"editable": ("trian.py",)},
            "workspace.editable: no file matches 'trian.py'; did you mean 'train.py'",
        ),
        ({"readonly": ("prepare.yp",)}, "workspace.readonly: no file matches 'prepare.yp'"),
        ({"editable": ("new.py",)}, "new.py is not tracked by git; `git add new.py`"),
        ({"editable": ("/etc/passwd",)}, "no file matches"),
        ({"editable": ("train.py",), "readonly": ("*.py",)}, "nothing editable"),
        ({"link": ("dat",)}, "there is no dat; did you mean 'data'"),
        ({"link": ("train.py",)}, "train.py is tracked"),
        ({"link": ("../x",)}, "no path inside"),
        ({"editable": ("../train.py",)}, "workspace.editable: '../train.py' is no path inside"),
    ],
)
def test_opening_checks_patterns_and_links(repo: Path, changes: dict[str, object], message: str) -> None:
    (repo / "new.py").touch()
    (repo / "data").mkdir()
    assert message in refusal(repo, settings(**changes))


def test_a_folder_of_a_repository_that_tracks_nothing_there(repo: Path) -> None:
    (repo / "sub").mkdir()
    (repo / "sub" / "train.py").touch()
    assert "is tracked by git" in refusal(repo / "sub")


def test_own_files_are_excluded_once_and_the_checkout_stays_as_it_is(repo: Path) -> None:
    before = git(repo, "status", "--porcelain=v2", "--branch"), (repo / ".git" / "index").read_bytes()
    for _ in range(2):
        study = Study(GitWorkspace.open(repo, settings()))
        (repo / ".arf").mkdir(exist_ok=True)
        (repo / ".arf" / "x").touch()
        study.workspace.keep("s", 1, study.set(DEPTH=3).commit)
        study.workspace.publish_best("s", study.set(DEPTH=4).commit)
    assert (
        git(repo, "status", "--porcelain=v2", "--branch"),
        (repo / ".git" / "index").read_bytes(),
    ) == before
    assert (repo / ".git" / "info" / "exclude").read_text().count(".arf") == 1


# ---- reading


def test_reads_editable_files_and_the_program(workspace: GitWorkspace) -> None:
    base = workspace.base_commit()
    assert workspace.files(base) == {"train.py": TRAIN}
    assert workspace.program(base) == "Be bold.\n"
    assert workspace.diff(base, base) == ""


def test_patterns_stay_in_folders_unless_doubled(tmp_path: Path) -> None:
    files = ["a.py", "b.txt", "src/c.py", "src/deep/d.py", "docs/e.md", "docs/f/g.md", "é.py"]
    repo = make(tmp_path / "r", {name: name for name in files})

    def editable(*patterns: str, **more: object) -> set[str]:
        workspace = GitWorkspace.open(repo, settings(editable=patterns, **more))
        return set(workspace.files(workspace.base_commit()))

    assert editable("*.py") == {"a.py", "é.py"}
    assert editable("**/*.py") == {"a.py", "é.py", "src/c.py", "src/deep/d.py"}
    assert editable("src/*.py") == {"src/c.py"}
    assert editable("docs", "[ab].*") == {"docs/e.md", "docs/f/g.md", "a.py", "b.txt"}
    assert editable("**/*", readonly=("src/", "**/*.md")) == {"a.py", "b.txt", "é.py"}


def test_a_dot_is_the_whole_workspace(repo: Path) -> None:
    workspace = GitWorkspace.open(repo, settings(editable=(".",), readonly=("prepare.py",)))
    assert set(workspace.files(workspace.base_commit())) == {"train.py", "program.md", "README.md"}


def test_a_name_with_the_characters_of_a_pattern_matches_itself(tmp_path: Path) -> None:
    repo = make(tmp_path / "repo", {"a[b].py": TRAIN, "b.py": "x = 1\n"})
    workspace = GitWorkspace.open(repo, settings(editable=("a[b].py",)))
    assert set(workspace.files(workspace.base_commit())) == {"a[b].py"}


def test_a_path_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    assert "is not UTF-8; rename" in refusal(folder)


def test_binary_files_are_not_read_as_text(tmp_path: Path) -> None:
    repo = make(tmp_path / "r", {"src/a.py": "x = 1\n", "src/b.bin": b"\0\1", "src/c.txt": b"caf\xe9"})
    workspace = GitWorkspace.open(repo, settings(editable=("src",)))
    assert workspace.files(workspace.base_commit()) == {"src/a.py": "x = 1\n", "src/c.txt": "caf�"}


# ---- ideas


def test_constants_edits_patches_and_commits_make_equal_trees(study: Study, repo: Path) -> None:
    patch = DEEPER.format("train.py")
    git(repo, "switch", "-q", "-c", "agent")
    (repo / "train.py").write_text(TRAIN.replace("DEPTH = 8", "DEPTH = 4"))
    made = commit_all(repo)
    ideas = [
        study.set(DEPTH=4),
        study.edit("DEPTH = 8", "DEPTH = 4"),
        study.idea(patch=patch),
        study.idea(commit=made),
        study.idea(commit="agent"),
        study.idea(commit=made[:10]),
    ]
    assert {study.workspace.tree_of(idea.commit) for idea in ideas} == {
        study.workspace.tree_of(ideas[0].commit)
    }
    for idea in ideas:
        assert git(repo, "rev-parse", f"{idea.commit}^") == study.base
        assert list(study.workspace.git.changes(study.base, idea.commit)) == ["train.py"]


def test_the_same_idea_is_the_same_commit(workspace: GitWorkspace) -> None:
    draft = Draft(title="t", constants={"DEPTH": 4})
    base = workspace.base_commit()
    again = GitWorkspace.open(workspace.directory, workspace.settings)
    assert workspace.make_idea(draft, base, message="m") == again.make_idea(draft, base, message="m")
    who = git(
        workspace.directory,
        "log",
        "-1",
        "--format=%an <%ae>|%cn <%ce>",
        workspace.make_idea(draft, base, message="m"),
    )
    assert who == "arf <arf@localhost>|arf <arf@localhost>"


def test_new_and_deleted_files(tmp_path: Path) -> None:
    repo = make(tmp_path / "r", {"train.py": TRAIN, "src/a.py": "a = 1\n", "src/x/b.py": "b = 1\n"})
    study = Study(GitWorkspace.open(repo, settings(editable=("train.py", "src"))))
    new = study.edit("", "c = 1\n", "src/y/c.py")
    assert study.text(new.commit, "src/y/c.py") == "c = 1\n"
    patch = (
        "diff --git a/src/x/b.py b/src/x/b.py\ndeleted file mode 100644\n--- a/src/x/b.py\n+++ /dev/null\n"
        "@@ -1 +0,0 @@\n-b = 1\n"
        "diff --git a/src/a.py b/src/z.py\nrename from src/a.py\nrename to src/z.py\n"
        "--- a/src/a.py\n+++ b/src/z.py\n@@ -1 +1 @@\n-a = 1\n+a = 2\n"
        "diff --git a/src/run b/src/run\nnew file mode 100755\n--- /dev/null\n+++ b/src/run\n"
        "@@ -0,0 +1 @@\n+x\n"
    )
    moved = study.idea(patch=patch)
    assert set(study.workspace.files(moved.commit)) == {"train.py", "src/z.py", "src/run"}
    assert git(repo, "ls-tree", "-r", moved.commit, "src/run").startswith("100755")
    assert "src/x" not in git(repo, "ls-tree", "-r", "-t", moved.commit)
    both = study.together(new, moved)
    assert set(study.workspace.files(both)) == {"train.py", "src/z.py", "src/run", "src/y/c.py"}


def refused(make_it: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        make_it()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_ideas_that_are_refused(study: Study) -> None:
    idea, edit = study.idea, study.edit
    for make_it, message in [
        (lambda: idea(), "one of constants, edits, patch and commit; this one has none"),
        (lambda: idea(constants={"DEPTH": 1}, patch="x"), "this one has constants and patch"),
        (lambda: study.set(DEPTH=8), "changes nothing"),
        (lambda: study.set(DEPHT=3), "no constant 'DEPHT'; did you mean 'DEPTH'"),
        (lambda: study.set(BUDGET=3), "no constant 'BUDGET'"),
        (lambda: study.set(DEPTH="deep"), "train.py:3: DEPTH is 8: its value must be a number"),
        (lambda: study.set(DEPTH=17), "DEPTH = 17 is above 16"),
        (lambda: edit("DEPTH = 8", "DEPTH = 8"), "changes nothing"),
        (lambda: edit("DEPTH", "D"), "there 2 times"),
        (lambda: edit("x", "y", "trian.py"), "there is no file trian.py; did you mean 'train.py'"),
        (lambda: edit("", "x", "train.py"), "train.py exists"),
        (
            lambda: edit("BUDGET = 5", "BUDGET = 50", "prepare.py"),
            "prepare.py is read-only; editable: train.py",
        ),
        (lambda: edit("", "import os\n", "torch.py"), "torch.py is read-only"),
        (lambda: edit("", "x", "../evil.py"), "no path in the workspace"),
        (lambda: edit("", "x", "/etc/evil.py"), "no path in the workspace"),
        (lambda: edit("", "x", ".git/hooks/pre-commit"), "no path in the workspace"),
        (lambda: edit("", "x", "a/.GIT/config"), "no path in the workspace"),
        (lambda: edit("", "x", ".arf/x"), "no path in the workspace"),
        (lambda: edit("", "x", "a\\b"), "no path in the workspace"),
        (lambda: edit("", "x", "train.py/x.py"), "train.py/x.py"),
        (lambda: edit("return DEPTH", "return DEPTH +"), "train.py:11: invalid syntax"),
        (lambda: edit('print("val', 'return 3\nprint("val'), "train.py:14: 'return' outside function"),
        (lambda: edit("DEPTH = 8  # layers", "DEPTH = 8  # more layers"), "only comments"),
        (lambda: edit("manual_seed(42)", "manual_seed(43)"), "only a seed"),
        (lambda: edit("torch.manual_seed(42)\n", ""), "only a seed"),
        (lambda: idea(patch="nonsense"), "no change"),
        (lambda: idea(patch="--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a\n+b\n"), "no file a/x.py"),
        (lambda: idea(patch="--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-nope\n+b\n"), "fits nowhere"),
        (
            lambda: idea(patch="--- a/../../x\n+++ b/../../x\n@@ -1 +1 @@\n-a\n+b\n"),
            "no path in the workspace",
        ),
        (lambda: idea(commit="0" * 40), "no commit"),
        (lambda: idea(commit="no-such-branch"), "no commit"),
    ]:
        assert message in refused(make_it)


def test_a_constant_that_is_a_seed_or_ambiguous_is_refused(tmp_path: Path) -> None:
    repo = make(tmp_path / "r", {"src/a.py": "SEED = 1\nDEPTH = 2\nA = 1\n", "src/b.py": "DEPTH = 3\n"})
    study = Study(GitWorkspace.open(repo, settings(editable=("src",))))
    assert "only a seed" in refused(lambda: study.set(SEED=2))
    assert "the constant DEPTH is in src/a.py and src/b.py" in refused(lambda: study.set(DEPTH=4))
    study.set(SEED=2, A=2)


def test_commits_cannot_bring_links_or_other_files(study: Study, repo: Path) -> None:
    git(repo, "switch", "-q", "-c", "agent")
    (repo / "notes.md").write_text("x")
    (repo / "train.py").write_text(TRAIN + "# more\nx = 1\n")
    commit_all(repo)
    assert "notes.md is read-only" in refused(lambda: study.idea(commit="agent"))
    (repo / "notes.md").unlink()
    (repo / "train.py").unlink()
    (repo / "train.py").symlink_to("/etc/passwd")
    commit_all(repo)
    assert "link" in refused(lambda: study.idea(commit="agent"))


def test_a_commit_made_for_other_code_is_merged_onto_the_base(study: Study, repo: Path) -> None:
    deeper = study.set(DEPTH=4)
    git(repo, "switch", "-q", "-c", "agent")
    (repo / "train.py").write_text(TRAIN.replace("LR = 0.1", "LR = 0.2"))
    commit_all(repo)
    idea = study.idea(deeper.commit, commit="agent")
    assert "DEPTH = 4" in study.text(idea.commit)
    assert "LR = 0.2" in study.text(idea.commit)
    (repo / "train.py").write_text(TRAIN.replace("DEPTH = 8", "DEPTH = 5"))
    commit_all(repo)
    with pytest.raises(ConflictError, match="does not merge"):
        study.idea(deeper.commit, commit="agent")


def test_tracked_links_are_no_way_out(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    repo = make(tmp_path / "r", {"train.py": TRAIN})
    (repo / "src").symlink_to(outside)
    (repo / "link.py").symlink_to(outside / "x.py")
    commit_all(repo)
    study = Study(GitWorkspace.open(repo, settings(editable=("**/*",))))
    assert "link" in refused(lambda: study.edit("", "x = 1", "link.py"))
    assert "inside of src" in refused(lambda: study.edit("", "x = 1", "src/x.py"))
    assert "link.py" not in study.workspace.files(study.base)
    assert list(outside.iterdir()) == []


def test_a_script_of_another_language_may_be_invalid_python(tmp_path: Path) -> None:
    repo = make(tmp_path / "r", {"old.py": "print 'python 2'\nN = 1\n", "run.sh": "N=8 # [1..9]\nsrand 1\n"})
    study = Study(GitWorkspace.open(repo, settings(editable=("*",))))
    study.edit("N = 1", "N = 2", "old.py")
    assert study.text(study.set(N=4).commit, "run.sh").startswith("N=4 # [1..9]\n")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_and_the_last_line_are_kept(tmp_path: Path, end: str, last: bool) -> None:
    text = "A = 1\nB = 2\ndef f():\n    return A".replace("\n", end) + (end if last else "")
    repo = make(tmp_path / "r", {"train.py": text, ".gitattributes": "* -text\n"})
    study = Study(GitWorkspace.open(repo, settings()))
    ideas = [
        study.set(A=3),
        study.edit("B = 2\ndef f():", "B = 4\ndef f():"),
        study.idea(patch="--- a/train.py\n+++ b/train.py\n@@ -4 +4 @@\n-    return A\n+    return B\n"),
    ]
    assert study.workspace.git.read(
        study.workspace.git.files(study.together(*ideas))["train.py"].id
    ).decode() == text.replace("A = 1", "A = 3").replace("B = 2", "B = 4").replace("return A", "return B")


# ---- a workspace that is a sub-folder


def test_a_sub_folder_is_a_workspace_of_its_own(tmp_path: Path) -> None:
    repo = make(tmp_path / "r", {"lib/x.py": "x = 1\n", "a b/train.py": TRAIN, "a b/prepare.py": "p = 1\n"})
    (repo / "lib" / "x.py").write_text("changed, and not in the workspace")
    study = Study(GitWorkspace.open(repo / "a b", settings()))
    assert set(study.workspace.files(study.base)) == {"train.py"}
    ideas = [
        study.set(DEPTH=4),
        study.edit("DEPTH = 8", "DEPTH = 4"),
        study.idea(patch=DEEPER.format("train.py")),
        study.idea(patch=DEEPER.format("a b/train.py")),
    ]
    assert len({study.workspace.tree_of(idea.commit) for idea in ideas}) == 1
    assert list(study.workspace.git.changes(study.base, ideas[0].commit)) == ["a b/train.py"]
    assert "lib/x.py" in refused(lambda: study.edit("x = 1", "x = 2", "lib/x.py"))
    with pytest.raises(UsageError):
        study.edit("x = 1", "x = 2", "../lib/x.py")


# ---- composition


def test_constants_on_adjacent_lines_compose(study: Study) -> None:
    text = study.text(study.together(study.set(DEPTH=4), study.set(WIDTH=32), study.set(LR=0.2)))
    assert text == TRAIN.replace("= 8", "= 4").replace("= 64", "= 32").replace("= 0.1", "= 0.2")


def test_code_and_constants_compose_in_any_order(study: Study) -> None:
    ideas = [
        study.edit("WIDTH = 64\n", "WIDTH = 64\nHEADS = 2\n"),
        study.set(DEPTH=4),
        study.edit("LR = 0.1", "LR = 0.3"),
    ]
    texts = {study.text(study.together(*order)) for order in (ideas, ideas[::-1], ideas[1:] + ideas[:1])}
    assert texts == {
        TRAIN.replace("= 8", "= 4").replace("WIDTH = 64\n", "WIDTH = 64\nHEADS = 2\n").replace("0.1", "0.3")
    }


def test_ideas_are_rebased_onto_a_new_incumbent(study: Study) -> None:
    incumbent = study.together(study.set(DEPTH=4), study.edit("return DEPTH * WIDTH", "return DEPTH + WIDTH"))
    rebased = study.together(study.edit("WIDTH = 64", "WIDTH = 65"), study.set(DEPTH=6), parent=incumbent)
    text = study.text(rebased)
    assert "DEPTH = 6" in text
    assert "WIDTH = 65" in text
    assert "DEPTH + WIDTH" in text
    assert git(study.workspace.directory, "rev-parse", f"{rebased}^") == incumbent


def test_compositions_are_deterministic_and_cached(study: Study) -> None:
    ideas = [study.set(DEPTH=4), study.edit("LR = 0.1", "LR = 0.3")]
    first = study.workspace.compose(study.base, ideas, message="m")
    assert study.workspace.compose(study.base, ideas, message="m") is first
    again = GitWorkspace.open(study.workspace.directory, settings())
    assert again.compose(study.base, ideas, message="m") == first


def test_trivial_compositions_make_no_commit(study: Study) -> None:
    idea = study.set(DEPTH=4)
    assert study.together() == study.base
    assert study.together(idea) == idea.commit
    assert study.together(study.set(DEPTH=4), idea, parent=idea.commit) == idea.commit


def conflict(study: Study, *ideas: Idea, parent: str | None = None) -> ConflictError:
    with pytest.raises(ConflictError) as caught:
        study.together(*ideas, parent=parent)
    return caught.value


def test_conflicts(study: Study) -> None:
    four, five = study.set(DEPTH=4), study.set(DEPTH=5)
    assert "'idea 1' sets DEPTH to 4, 'idea 2' to 5" in str(conflict(study, four, five))
    study.together(four, study.set(DEPTH=4))
    nine = study.edit("DEPTH = 8", "DEPTH = 9")
    assert "DEPTH" in str(conflict(study, four, nine))
    one, two = study.edit("return DEPTH * WIDTH", "return 1"), study.edit("return DEPTH * WIDTH", "return 2")
    error = conflict(study, one, two)
    assert error.paths == ("train.py",)
    assert "does not merge in train.py" in str(error)
    gone = study.edit("LR = 0.1\n", "rate = 0.1\n")
    assert "no constant 'LR'" in str(conflict(study, gone, study.set(LR=0.2)))


def test_a_merge_that_is_no_python_any_more_is_a_conflict(study: Study) -> None:
    opened = study.edit("WIDTH = 64\nLR = 0.1\n", "WIDTH = (64,\n         0.1)\n")
    between = study.edit("WIDTH = 64\n", "WIDTH = 64\nHEADS = 2\n")
    assert "together they do not work: train.py:" in str(conflict(study, opened, between))


def test_unrelated_commits_and_missing_ones(study: Study) -> None:
    with pytest.raises(WorkspaceError, match="is not in the repository"):
        study.workspace.files("1" * 40)
    lost = Idea(id=9, title="lost", base=study.base, commit="2" * 40)
    with pytest.raises(WorkspaceError, match="is not in the repository"):
        study.together(lost, parent=study.set(DEPTH=4).commit)


# ---- refs, and back to the user


def test_what_was_pruned_is_made_again_and_never_kept(study: Study, repo: Path) -> None:
    ideas = study.set(DEPTH=4), study.set(WIDTH=32)
    commit = study.together(*ideas)
    for idea in ideas:
        study.workspace.keep_idea("night-1", idea.id, idea.commit)
    git(repo, "prune", "--expire=now")
    with pytest.raises(WorkspaceError, match="has gone from the repository"):
        study.workspace.keep("night-1", 1, commit)
    assert study.together(*ideas) == commit
    study.workspace.keep("night-1", 1, commit)
    git(repo, "fsck", "--strict")


def test_refs_and_the_best_branch(study: Study, repo: Path) -> None:
    first, second = study.set(DEPTH=4).commit, study.set(DEPTH=5).commit
    study.workspace.keep("night-1", 7, first)
    study.workspace.keep("night-1", 7, second)
    study.workspace.keep_idea("night-1", 7, first)
    refs = git(repo, "for-each-ref", "--format=%(refname) %(objectname)", "refs/arf").splitlines()
    assert refs == [f"refs/arf/night-1/000007 {second}", f"refs/arf/night-1/ideas/000007 {first}"]
    study.workspace.publish_best("night-1", first)
    study.workspace.publish_best("night-1", second)
    assert git(repo, "rev-parse", "arf/night-1") == second
    git(repo, "fsck", "--strict")


def test_a_study_goes_on_whatever_is_checked_out_by_now(repo: Path) -> None:
    base = GitWorkspace.open(repo, settings()).base_commit()
    git(repo, "switch", "-q", "--orphan", "other")
    (repo / "notes.md").write_text("x\n")
    commit_all(repo)
    assert "no file matches 'train.py'" in refusal(repo)
    (repo / "notes.md").write_text("uncommitted\n")
    assert GitWorkspace.open(repo, settings(), base=base).files(base)["train.py"] == TRAIN
    with pytest.raises(WorkspaceError, match="garbage-collected"):
        GitWorkspace.open(repo, settings(), base="0" * 40)


def test_the_name_of_a_study_is_claimed_once_in_a_repository(workspace: GitWorkspace, repo: Path) -> None:
    store, base = workspace.git, workspace.base_commit()
    assert store.claim("s", base)
    assert not store.claim("s", base)
    store.release("s")
    assert store.claim("s", base)
    git(repo, "pack-refs", "--all")
    assert store.has_study("s")
    git(repo, "branch", "arf/mine")
    assert not store.claim("mine", base)
    git(repo, "update-ref", "refs/arf/taken", base)
    with pytest.raises(WorkspaceError, match="git for-each-ref"):
        store.claim("taken", base)


def test_a_checked_out_branch_is_left_alone(study: Study, repo: Path) -> None:
    study.workspace.publish_best("s", study.base)
    git(repo, "switch", "-q", "arf/s")
    study.workspace.publish_best("s", study.set(DEPTH=4).commit)
    assert git(repo, "rev-parse", "arf/s") == study.base
    assert git(repo, "status", "--porcelain") == ""


def test_a_branch_in_the_way_is_told(study: Study, repo: Path, caplog: pytest.LogCaptureFixture) -> None:
    git(repo, "branch", "arf")
    study.workspace.publish_best("s", study.base)
    assert "is there a branch or a ref" in caplog.text
    git(repo, "branch", "-D", "arf")
    lock = repo / ".git" / "refs" / "heads" / "arf" / "s.lock"
    lock.parent.mkdir()
    lock.touch()
    study.workspace.publish_best("s", study.base)
    assert "remove the file that ends in .lock" in caplog.text


def test_a_branch_that_somebody_went_on_from_is_left_alone(study: Study, repo: Path) -> None:
    better, best = study.set(DEPTH=4).commit, study.set(DEPTH=5).commit
    study.workspace.publish_best("s", better)
    git(repo, "switch", "-q", "arf/s")
    (repo / "README.md").write_text("mine\n")
    mine = commit_all(repo)
    git(repo, "switch", "-q", "main")
    study.workspace.publish_best("s", best)
    assert git(repo, "rev-parse", "arf/s") == mine
    git(repo, "branch", "-f", "arf/s", better)
    study.workspace.publish_best("s", best)
    assert git(repo, "rev-parse", "arf/s") == best


@pytest.mark.parametrize(
    "name", ["", ".x", "a/b", "a..b", "x.lock", "-x", "a b", "x.", "é", "x" * 101, "a\n"]
)
def test_names_that_cannot_name_a_study(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a study"):
        check_study_name(name)
    assert check_study_name("night-1_b.2") == "night-1_b.2"


def test_applying_the_best_to_the_checkout(study: Study, repo: Path) -> None:
    best = study.together(study.set(DEPTH=4), study.edit("return DEPTH * WIDTH", "return 1"))
    assert study.workspace.apply_to_checkout(study.base, best) == ("train.py",)
    assert (repo / "train.py").read_text() == study.text(best)
    assert git(repo, "status", "--porcelain") == "M train.py"
    with pytest.raises(WorkspaceError, match=r"uncommitted changes in train\.py"):
        study.workspace.apply_to_checkout(study.base, best)


def test_applying_merges_what_was_committed_meanwhile(study: Study, repo: Path) -> None:
    best = study.set(DEPTH=4).commit
    (repo / "train.py").write_text(TRAIN.replace("LR = 0.1", "LR = 0.7"))
    (repo / "train.py").chmod(0o755)
    commit_all(repo)
    study.workspace.apply_to_checkout(study.base, best)
    assert (repo / "train.py").read_text() == TRAIN.replace("LR = 0.1", "LR = 0.7").replace("= 8", "= 4")
    assert (repo / "train.py").stat().st_mode & 0o111 == 0o111
    git(repo, "checkout", "-q", ".")
    (repo / "train.py").write_text(TRAIN.replace("DEPTH = 8", "DEPTH = 9"))
    commit_all(repo)
    with pytest.raises(ConflictError, match=r"have changed since the study began: train\.py"):
        study.workspace.apply_to_checkout(study.base, best)


# ---- jobs


def test_git_in_a_job_does_not_find_the_users_repository(workspace: GitWorkspace, repo: Path) -> None:
    tree = workspace.work_tree(repo / ".arf" / "studies" / "s" / "trees" / "1")
    tree.fill(workspace.base_commit(), 1)
    env = {"PATH": "/usr/bin:/bin", **workspace.job_env()}
    run = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tree.cwd, env=env, capture_output=True, text=True)
    assert run.returncode != 0
    assert "not a git repository" in run.stderr


def test_a_job_gets_what_is_listed_of_the_environment_and_what_is_passed(
    workspace: GitWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "OMP_PLACES",
        "GIT_DIR",
        "DATABASE_URL",
        "GH_PAT",
        "SSH_AUTH_SOCK",
        "HF_HUB_TOKEN",
        "MY_KEY",
    ):
        monkeypatch.setenv(name, "x")
    env = job_environment(workspace, {"OWN": "1"}, ("MY_*",))
    assert {"PATH", "OMP_PLACES", "MY_KEY", "OWN"} <= env.keys()
    assert not {"GIT_DIR", "DATABASE_URL", "GH_PAT", "SSH_AUTH_SOCK", "HF_HUB_TOKEN"} & env.keys()


def test_uv_projects_share_one_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_PROJECT_ENVIRONMENT", raising=False)
    files = {"train.py": TRAIN, "pyproject.toml": "[project]\nname = 'x'\n", "uv.lock": "version = 1\n"}
    repo = make(tmp_path / "r", files)
    env = GitWorkspace.open(repo, WorkspaceSettings(command="uv run train.py")).job_env()
    assert env["UV_PROJECT_ENVIRONMENT"] == str(repo / ".venv")
    assert env["UV_FROZEN"] == "1"
    assert "UV_NO_SYNC" not in env
    assert "UV_PROJECT_ENVIRONMENT" not in GitWorkspace.open(repo, settings()).job_env()
    (repo / "deep" / "sub").mkdir(parents=True)
    (repo / "deep" / "sub" / "train.py").write_text(TRAIN)
    commit_all(repo)
    below = GitWorkspace.open(repo / "deep" / "sub", WorkspaceSettings(command="uv run train.py")).job_env()
    assert (below["UV_PROJECT_ENVIRONMENT"], below["UV_FROZEN"]) == (str(repo / ".venv"), "1")


def test_a_package_is_imported_from_the_tree_and_not_from_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    files = {"train.py": TRAIN, "pyproject.toml": "", "src/mine/__init__.py": "", "flat/__init__.py": ""}
    repo = make(tmp_path / "r", files)
    (repo / ".venv").mkdir()
    (repo / ".gitignore").write_text(".venv\n")
    commit_all(repo)
    env = GitWorkspace.open(repo, WorkspaceSettings(command=("uv", "run", "train.py"))).job_env()
    assert env["PYTHONPATH"] == "src:."
    assert env["UV_NO_SYNC"] == "1"


# ---- LFS and submodules


def test_lfs_files_are_linked_from_the_checkout(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 4\n"
    attributes = "*.bin filter=lfs diff=lfs merge=lfs -text\n"
    repo = make(tmp_path / "r", {"train.py": TRAIN, ".gitattributes": attributes, "data/a.bin": pointer})
    assert "data/a.bin is not there; `git lfs pull`" in refusal(repo)
    (repo / "data" / "a.bin").write_bytes(b"real")
    workspace = GitWorkspace.open(repo, settings())
    tree = workspace.work_tree(tmp_path / "tree")
    tree.fill(workspace.base_commit(), 1)
    assert (tree.cwd / "data" / "a.bin").read_bytes() == b"real"
    assert tree.tampered() == ()
    (tree.cwd / "data" / "a.bin").unlink()
    (tree.cwd / "data" / "a.bin").write_bytes(b"fake")
    assert tree.tampered() == ("data/a.bin",)
    (repo / "data" / "a.bin").write_bytes(b"changed size")
    assert "uncommitted changes in data/a.bin" in refusal(repo)


def test_files_that_a_filter_writes_are_linked_from_the_checkout(tmp_path: Path) -> None:
    attributes = "*.key filter=secret\n*.py filter=tidy\n"
    repo = make(
        tmp_path / "r", {"train.py": TRAIN, "a.key": "xyz", "b.key": "plain", ".gitattributes": attributes}
    )
    (repo / "a.key").write_text("decrypted")
    workspace = GitWorkspace.open(repo, settings())
    assert workspace._sources.stand_ins == {"a.key": str(repo / "a.key")}
    tree = workspace.work_tree(tmp_path / "tree")
    tree.fill(workspace.base_commit(), 1)
    assert (tree.cwd / "a.key").read_text() == "decrypted"
    assert tree.tampered() == ()


def test_relative_links_to_untracked_files_lead_there_in_a_tree(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "x").write_text("1")
    repo = make(tmp_path / "r", {"train.py": TRAIN, "src/a.py": "a = 1\n", ".gitignore": "cache\n"})
    (repo / "cache").mkdir()
    (repo / "cache" / "y").write_text("2")
    for name, target in {"data": "../shared", "y": "cache/y", "lib": "src", "gone": "../nowhere"}.items():
        (repo / name).symlink_to(target)
    commit_all(repo)
    workspace = GitWorkspace.open(repo, settings())
    assert set(workspace._sources.stand_ins) == {"data", "y"}
    tree = workspace.work_tree(tmp_path / "tree")
    tree.fill(workspace.base_commit(), 1)
    assert ((tree.cwd / "data" / "x").read_text(), (tree.cwd / "y").read_text()) == ("1", "2")
    assert (tree.cwd / "lib").resolve() == tree.cwd / "src"


def test_submodules_are_linked_from_the_checkout(tmp_path: Path) -> None:
    library = make(tmp_path / "library", {"x.py": "x = 1\n"})
    repo = make(tmp_path / "r", {"train.py": TRAIN})
    git(repo, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(library), "library")
    commit_all(repo)
    workspace = GitWorkspace.open(repo, settings())
    tree = workspace.work_tree(tmp_path / "tree")
    tree.fill(workspace.base_commit(), 1)
    assert (tree.cwd / "library" / "x.py").read_text() == "x = 1\n"
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(repo), str(clone))
    assert "the submodule library is not there; `git submodule update --init --recursive`" in refusal(clone)
    outer = make(tmp_path / "outer", {"train.py": TRAIN})
    git(outer, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(repo), "inner")
    commit_all(outer)
    assert "the submodule inner/library is not there" in refusal(outer)


def test_a_submodule_must_be_at_its_commit_and_clean_but_for_untracked_files(tmp_path: Path) -> None:
    library = make(tmp_path / "library", {"x.py": "x = 1\n"})
    repo = make(tmp_path / "r", {"train.py": TRAIN})
    git(repo, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(library), "library")
    commit_all(repo)
    (repo / "library" / "x.pyc").touch()
    GitWorkspace.open(repo, settings())
    (repo / "library" / "x.py").write_text("x = 2\n")
    assert "uncommitted changes in the submodule library; commit or stash" in refusal(repo)
    commit_all(repo / "library")
    assert "the submodule library is not at " in refusal(repo)
    commit_all(repo)
    GitWorkspace.open(repo, settings())
    for editable in ("library/x.py", "library/*.py"):
        message = refusal(repo, settings(editable=("train.py", editable)))
        assert "x.py is in another git repository, library, which ideas cannot change" in message
        assert f"`arf run {repo / 'library'}`" in message
    assert "library is a submodule" in refusal(repo, settings(editable=("train.py", "library")))


def test_what_ideas_cannot_change_is_not_editable(tmp_path: Path) -> None:
    repo = make(tmp_path / "r", {"src/real.py": TRAIN, "weights.bin": b"\0\1"})
    (repo / "train.py").symlink_to("src/real.py")
    (repo / "other").symlink_to("src")
    (repo / "outside.py").symlink_to("/etc/hostname")
    commit_all(repo)
    assert "train.py is a symbolic link, which ideas cannot change; name src/real.py" in refusal(repo)
    assert "outside.py is a symbolic link" in refusal(repo, settings(editable=("outside.py",)))
    message = refusal(repo, settings(editable=("other/real.py",)))
    assert "other/real.py is reached by a symbolic link; name src/real.py" in message
    assert "weights.bin is no text" in refusal(repo, settings(editable=("weights.bin",)))
    assert "workspace.editable is empty" in refusal(repo, settings(editable=()))
    GitWorkspace.open(repo, settings(editable=("src", "*.bin")))


def test_conflicts_of_a_merge_are_told_as_such(repo: Path) -> None:
    git(repo, "checkout", "-q", "-b", "other")
    (repo / "train.py").write_text(TRAIN.replace("8", "9"))
    commit_all(repo)
    git(repo, "checkout", "-q", "main")
    (repo / "train.py").write_text(TRAIN.replace("8", "7"))
    commit_all(repo)
    with pytest.raises(AssertionError):
        git(repo, "merge", "-q", "other")
    assert "a merge has left conflicts in train.py; resolve them and commit" in refusal(repo)


def test_a_sparse_checkout_is_no_uncommitted_change(tmp_path: Path) -> None:
    repo = make(tmp_path / "repo", {"train.py": "A = 1\n", "data/x": "1\n"})
    git(repo, "sparse-checkout", "set", "--no-cone", "/train.py")
    assert not (repo / "data").exists()
    opened = GitWorkspace.open(repo, settings())
    tree = opened.work_tree(tmp_path / "tree")
    tree.fill(opened.base_commit(), seed=None)
    assert (tree.directory / "data" / "x").read_text() == "1\n"


def test_a_partial_clone_is_told_apart_from_a_damaged_repository(tmp_path: Path) -> None:
    repo = make(tmp_path / "repo", {"train.py": "A = 1\n", "data/x": "1\n"})
    git(repo, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--filter=blob:none", "--sparse", repo.as_uri(), "clone")
    assert "partial clone, and has not data/x; `git sparse-checkout disable`" in refusal(tmp_path / "clone")
    git(tmp_path / "clone", "sparse-checkout", "disable")
    GitWorkspace.open(tmp_path / "clone", settings())


def test_a_git_directory_elsewhere_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "workspace"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main", "--separate-git-dir", str(tmp_path / "there.git"))
    (folder / "train.py").write_text(TRAIN)
    commit_all(folder)
    workspace = GitWorkspace.open(folder, settings())
    assert (workspace.prefix, workspace.tracked(workspace.base_commit())) == ("", {"train.py"})


def _object(repo: Path, name: str) -> Path:
    found = git(repo, "rev-parse", name)
    return repo / ".git" / "objects" / found[:2] / found[2:]


def _cut(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(b"damaged")


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda repo: _object(repo, "HEAD").unlink(), "objects are missing: `git fsck` says more"),
    (lambda repo: _object(repo, "HEAD^{tree}").unlink(), "objects are missing: `git fsck` says more"),
    (lambda repo: _object(repo, "HEAD:train.py").unlink(), "is missing in"),
    (lambda repo: _cut(_object(repo, "HEAD:train.py")), "`git fsck` says more"),
    (lambda repo: (repo / ".git" / "HEAD").unlink(), ".git is no git repository that can be used"),
    (lambda repo: (repo / ".git" / "index").write_text("junk"), "`git status` there may say more"),
    (lambda repo: git(repo, "update-index", "--split-index"), "`git update-index --no-split-index`"),
    (
        lambda repo: git(repo, "sparse-checkout", "set", "--cone", "--sparse-index", "src"),
        "`git sparse-checkout reapply --no-sparse-index`",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_what_libgit2_cannot_read_is_told_in_one_line(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    repo = make(tmp_path / "r", {"train.py": TRAIN, "src/a.py": "a = 1\n", "data/x": "1\n"})
    damage(repo)
    assert message in refusal(repo)


def test_a_link_to_a_git_directory_that_is_gone_is_no_folder_without_git(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("gitdir: /nonexistent/worktrees/x\n")
    assert ".git is no git repository that can be used; `git status`" in refusal(tmp_path)


def test_a_study_that_is_tracked_is_no_uncommitted_change(repo: Path) -> None:
    (repo / ".arf").write_text("")
    assert ".arf is no folder" in refusal(repo)
    (repo / ".arf").unlink()
    (repo / ".arf" / "studies").mkdir(parents=True)
    (repo / ".arf" / "studies" / "arf.db").write_text("1")
    commit_all(repo)
    (repo / ".arf" / "studies" / "arf.db").write_text("2")
    GitWorkspace.open(repo, settings())


def test_a_branch_that_leaves_no_room_for_those_of_arf_is_named(tmp_path: Path) -> None:
    repo = make(tmp_path / "repo", {"train.py": "A = 1\n"})
    git(repo, "branch", "arf")
    assert "there is a branch `arf`" in refusal(repo)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can give files away")
@pytest.mark.parametrize("folder", [".", ".git"])
def test_a_repository_of_another_user_is_refused_with_the_setting_that_allows_it(
    repo: Path, folder: str
) -> None:
    os.chown(repo / folder, 12345, 12345)
    assert refusal(repo).endswith(f"safe.directory {repo}`")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_repository_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    repo = make(tmp_path / "repo", {"train.py": "A = 1\n"})
    (repo / ".git" / "refs").chmod(0o500)
    try:
        assert "cannot be written" in refusal(repo)
    finally:
        (repo / ".git" / "refs").chmod(0o700)


SOURCES = {
    "src without __init__": (["pyproject.toml", "src/x/train.py", "train.py"], "", "src"),
    "python and a package at the top": (["setup.py", "python/x/a.py", "y/__init__.py"], "", "python:."),
    "a monorepo": (["packages/a/pyproject.toml", "packages/a/src/a/m.py", "train.py"], "", "packages/a/src"),
    "a package above the workspace": (["setup.py", "lib_x/__init__.py", "exp/a/train.py"], "exp/a/", "../.."),
    "a project beside it": (["other/setup.py", "other/o/__init__.py", "exp/train.py"], "exp/", ""),
    "no project": (["src/x/a.py", "train.py"], "", ""),
}


@pytest.mark.parametrize(("paths", "prefix", "expected"), SOURCES.values(), ids=SOURCES)
def test_a_job_imports_the_packages_of_its_own_tree(
    paths: list[str], prefix: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    listing = {path: Entry(FileMode.BLOB, "0" * 40) for path in paths}
    env = environment.job_env(Path("/w"), Rules(prefix, settings()), listing)
    assert env.get("PYTHONPATH", "") == expected
