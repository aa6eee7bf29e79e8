"""The conformance suite on workspaces in git and in a plain folder, and a study on the latter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arf.errors import UsageError
from arf.interfaces import Workspace
from arf.testing.pytest_plugin import make_repository
from arf.testing.studies import run_study
from arf.testing.suites import WorkspaceSuite
from arf.types import Verdict, WorkspaceSettings
from arf.workspace import open_workspace

FOLDER = "folder_workspace:FolderWorkspace"


class OnDisk(WorkspaceSuite):
    kind: str

    def make(self, folder: Path) -> Workspace:
        for name, text in self.files.items():
            (folder / name).write_text(text)
        if self.kind == "git":
            make_repository(folder)
        return open_workspace(folder, WorkspaceSettings(command="true", kind=self.kind))

    def reopen(self, workspace: Workspace) -> Workspace:
        return open_workspace(workspace.directory, workspace.settings, base=workspace.base_commit())


class TestGit(OnDisk):
    kind = "git"


class TestFolder(OnDisk):
    kind = FOLDER

    @pytest.fixture(autouse=True)
    def _importable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(Path(__file__).parent))


class TestGitBelow(TestGit):
    """A workspace in a sub-folder of its repository."""

    def make(self, folder: Path) -> Workspace:
        (folder / "below").mkdir()
        return super().make(folder / "below")


@pytest.mark.parametrize("kind", ["nothing", "no_such_module:X", "json:nothing"])
def test_a_kind_that_cannot_be_used_is_told(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"workspace\.kind"):
        open_workspace(tmp_path, WorkspaceSettings(command="true", kind=kind))


def test_a_whole_study_runs_on_a_folder_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "train.py").write_text(
        "import os, random\nX = 4.0  # [0.5..8]\n"
        "noise = random.Random(int(os.environ['ARF_SEED'])).gauss(0, 0.001)\n"
        "print('val_bpb:', (X - 1) ** 2 + 1 + noise)\n"
    )
    (folder / "arf.yaml").write_text(
        f"workspace: {{command: '{{python}} train.py', kind: '{FOLDER}'}}\n"
        "noise: {replicates: 2, confirm: 1}\nbackend: {name: local, slots: 2}\nagent: {name: offline}\n"
    )
    summary, store = run_study(folder, {"budget.max_experiments": 8})
    study = store.load()
    store.close()
    assert summary["best"]["gain"] > 0
    assert not [e for e in study.experiments.values() if e.verdict in (Verdict.CRASH, Verdict.INVALID)]
    assert not any(".git" in names for _, names, _ in os.walk(folder))
