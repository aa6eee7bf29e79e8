"""What every workspace must do: commits that stay what they are, ideas that compose, and clean work trees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from arf.errors import ArfError, ConflictError, UsageError
from arf.interfaces import Workspace
from arf.types import Draft, Edit, Idea, Scalar

SCRIPT = "train.py"
FILES: Mapping[str, str] = {
    SCRIPT: "DEPTH = 8  # layers [1..16]\nWIDTH = 64\n\n\nprint('val_bpb:', DEPTH * WIDTH)\n",
    "prepare.py": "BUDGET = 5\n",
}


class WorkspaceSuite(ABC):
    """Subclass it, implement `make`, and name it `Test…`."""

    files: ClassVar[Mapping[str, str]] = FILES
    """What the workspace holds; `train.py`, with at least two constants, is editable, and nothing else is."""
    constants: ClassVar[tuple[Mapping[str, Scalar], Mapping[str, Scalar]]] = ({"DEPTH": 4}, {"WIDTH": 32})
    """Two settings of different constants that are allowed, and differ from the files."""
    conflicting: ClassVar[Mapping[str, Scalar]] = {"DEPTH": 6}
    """Another value for the constant of the first."""
    edits: ClassVar[bool] = True
    """Whether drafts may be edits; without, only constants."""
    on_disk: ClassVar[bool] = True
    """Whether work trees hold files."""

    @abstractmethod
    def make(self, folder: Path) -> Workspace:
        """A workspace with these files; `folder` is empty, and for it."""

    def reopen(self, workspace: Workspace) -> Workspace:
        """The same workspace as another process opens it, for a study that began with its base."""
        return workspace

    @pytest.fixture
    def workspace(self, tmp_path: Path) -> Workspace:
        folder = tmp_path / "workspace"
        folder.mkdir()
        return self.make(folder)

    def idea(self, workspace: Workspace, number: int, constants: Mapping[str, Scalar]) -> Idea:
        base, title = workspace.base_commit(), f"idea {number}"
        commit = workspace.make_idea(Draft(title=title, constants=constants), base, message=title)
        return Idea(id=number, title=title, base=base, commit=commit, constants=constants)

    def two(self, workspace: Workspace) -> list[Idea]:
        return [self.idea(workspace, number, given) for number, given in enumerate(self.constants, 1)]

    # ---- What is there ----------------------------------------------------------------------

    def test_the_base_holds_the_users_files(self, workspace: Workspace) -> None:
        base = workspace.base_commit()
        assert base == workspace.base_commit()
        assert workspace.files(base) == {SCRIPT: self.files[SCRIPT]}
        assert set(self.files) == set(workspace.tracked(base))
        for path, text in self.files.items():
            file = workspace.read(base, path)
            assert file is not None
            assert file.data == text.encode()
            assert workspace.is_editable(path) == (path == SCRIPT)
            assert workspace.is_readonly(path) == (path != SCRIPT)
        assert workspace.read(base, "nothing.py") is None

    def test_equal_files_have_equal_trees(self, workspace: Workspace) -> None:
        base = workspace.base_commit()
        one, other = self.two(workspace)
        trees = [workspace.tree_of(commit) for commit in (base, one.commit, other.commit)]
        assert len(set(trees)) == 3
        both = workspace.compose(base, [one, other], message="both")
        turned = workspace.compose(base, [other, one], message="turned")
        assert both.tree == turned.tree == workspace.tree_of(both.commit)

    def test_a_diff_names_what_changed(self, workspace: Workspace) -> None:
        base = workspace.base_commit()
        idea = self.two(workspace)[0]
        assert all(name in workspace.diff(base, idea.commit) for name in idea.constants)
        assert not workspace.diff(base, base)

    # ---- Ideas ------------------------------------------------------------------------------

    def test_an_idea_changes_its_constants_and_nothing_else(self, workspace: Workspace) -> None:
        idea = self.two(workspace)[0]
        before, after = workspace.files(idea.base)[SCRIPT], workspace.files(idea.commit)[SCRIPT]
        changed = [new for old, new in zip(before.split("\n"), after.split("\n"), strict=True) if old != new]
        assert len(changed) == len(idea.constants)
        assert workspace.files(idea.base)[SCRIPT] == before == self.files[SCRIPT]

    def test_the_same_idea_is_the_same_commit(self, workspace: Workspace) -> None:
        assert self.idea(workspace, 1, self.constants[0]) == self.idea(workspace, 1, self.constants[0])

    def test_what_is_no_change_is_refused(self, workspace: Workspace) -> None:
        base = workspace.base_commit()
        idea = self.two(workspace)[0]
        drafts = [
            Draft(title="nothing"),
            Draft(title="unknown", constants={"NO_SUCH_CONSTANT": 1}),
            Draft(title="elsewhere", edits=(Edit(path="prepare.py", old="BUDGET = 5", new="BUDGET = 6"),)),
            Draft(title="outside", edits=(Edit(path="../x.py", old="", new="1"),)),
            Draft(title="missing text", edits=(Edit(path=SCRIPT, old="no such text", new="1"),)),
        ]
        for draft in drafts:
            with pytest.raises(UsageError):
                workspace.make_idea(draft, base, message="m")
        with pytest.raises(UsageError):  # the files are like that already
            workspace.make_idea(Draft(title="again", constants=idea.constants), idea.commit, message="m")

    def test_ideas_compose(self, workspace: Workspace) -> None:
        base = workspace.base_commit()
        one, other = self.two(workspace)
        assert workspace.compose(base, [], message="none").commit == base
        assert workspace.compose(base, [one], message="one").commit == one.commit
        both = workspace.compose(base, [one, other], message="both")
        assert both == workspace.compose(base, [one, other], message="both")
        assert both.tree == workspace.compose(one.commit, [other], message="on top").tree

    def test_ideas_at_odds_are_a_conflict(self, workspace: Workspace) -> None:
        ideas = [self.two(workspace)[0], self.idea(workspace, 3, self.conflicting)]
        with pytest.raises(ConflictError):
            workspace.compose(workspace.base_commit(), ideas, message="both")

    def test_an_edit_changes_its_text(self, workspace: Workspace) -> None:
        if not self.edits:
            pytest.skip("it has no edits")
        edit = Edit(path=SCRIPT, old="print(", new="print('more', ")
        base = workspace.base_commit()
        commit = workspace.make_idea(Draft(title="t", edits=(edit,)), base, message="m")
        assert workspace.files(commit)[SCRIPT] == self.files[SCRIPT].replace("print(", "print('more', ")
        idea = Idea(id=9, title="t", base=base, commit=commit)
        both = workspace.compose(base, [self.two(workspace)[0], idea], message="both")
        assert "print('more', " in workspace.files(both.commit)[SCRIPT]

    # ---- What is kept -----------------------------------------------------------------------

    def test_what_is_kept_is_there_in_another_process(self, workspace: Workspace) -> None:
        workspace.claim("s", workspace.base_commit())
        ideas = self.two(workspace)
        both = workspace.compose(workspace.base_commit(), ideas, message="both")
        for idea in ideas:
            workspace.keep_idea("s", idea.id, idea.commit)
        workspace.keep("s", 1, both.commit)
        workspace.publish_best("s", both.commit)
        workspace.flush()
        again = self.reopen(workspace)
        assert again.files(both.commit) == workspace.files(both.commit)
        assert again.compose(again.base_commit(), ideas, message="both") == both
        workspace.close()

    # ---- Jobs -------------------------------------------------------------------------------

    def test_a_work_tree_holds_its_commit_alone(self, workspace: Workspace, tmp_path: Path) -> None:
        tree, base = workspace.work_tree(tmp_path / "trees" / "1"), workspace.base_commit()
        commit = self.two(workspace)[0].commit
        for wanted in (base, commit, base):
            tree.fill(wanted, 1)
            assert not tree.tampered()
            if not self.on_disk:
                continue
            for path in workspace.tracked(wanted):
                file = workspace.read(wanted, path)
                assert file is not None
                assert (tree.cwd / path).read_bytes() == file.data
            (tree.cwd / "left.bin").write_bytes(b"x")
            (tree.cwd / "left").mkdir()
            (tree.cwd / "left" / "over.txt").write_text("x")
        if self.on_disk:
            tree.fill(commit, 1)
            assert not list(tree.cwd.glob("left*"))

    def test_a_work_tree_tells_what_a_run_changed(self, workspace: Workspace, tmp_path: Path) -> None:
        if not self.on_disk:
            pytest.skip("its work trees hold no files")
        base = workspace.base_commit()
        workspace.work_tree(tmp_path / "1").fill(base, 1)
        tree = workspace.work_tree(tmp_path / "1")
        tree.adopt(base, 1)
        assert not tree.tampered()
        (tree.cwd / "prepare.py").write_text("BUDGET = 6\n")
        assert list(tree.tampered()) == ["prepare.py"]
        (tree.cwd / SCRIPT).unlink()
        assert list(tree.tampered()) == ["prepare.py", SCRIPT]
        tree.fill(base, 1)
        assert not tree.tampered()

    def test_the_users_files_change_only_on_request(self, workspace: Workspace) -> None:
        base, commit = workspace.base_commit(), self.two(workspace)[0].commit
        if not self.on_disk:
            with pytest.raises(ArfError):
                workspace.apply_to_checkout(base, commit)
            return
        assert (workspace.directory / SCRIPT).read_text() == self.files[SCRIPT]
        assert list(workspace.apply_to_checkout(base, commit)) == [SCRIPT]
        assert (workspace.directory / SCRIPT).read_text() == workspace.files(commit)[SCRIPT]
