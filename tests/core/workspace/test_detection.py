from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from arf.workspace.detection import detect

UV = {"pyproject.toml": "[project]\nname = 'x'\n", "uv.lock": ""}


def folder(path: Path, files: dict[str, str], *, tracked: bool = True) -> Path:
    path.mkdir(exist_ok=True)
    subprocess.run(["git", "init", "-q"], cwd=path, check=True)
    for name, text in files.items():
        (path / name).write_text(text)
    if tracked:
        subprocess.run(["git", "add", "-A"], cwd=path, check=True)
    return path


@pytest.mark.parametrize(
    ("names", "command", "editable"),
    [
        (["train.py", "prepare.py"], "{python} train.py", "train.py"),
        (["train.py", "prepare.py", *UV], "uv run train.py", "train.py"),
        (["train.py", "prepare.py", "train_snn.py", "prepare_snn.py"], "{python} train.py", "train.py"),
        (["train_gpt.py", "prepare.py"], "{python} train_gpt.py", "train_gpt.py"),
        (["train_mlx.py", "prepare_data.py", *UV], "uv run train_mlx.py", "train_mlx.py"),
    ],
)
def test_folders_like_autoresearch(tmp_path: Path, names: list[str], command: str, editable: str) -> None:
    found = detect(folder(tmp_path, {name: UV.get(name, "") for name in names}))
    assert found.settings is not None
    assert found.settings.command == command
    assert found.settings.editable == (editable,)
    assert command in found.reason


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "there is no train.py"),
        (["main.py"], "there is no train.py"),
        (["train.py"], "train.py is there, but there is no prepare.py"),
        (
            ["train_a.py", "train_b.py", "prepare.py"],
            "train_a.py, train_b.py could each be a training script",
        ),
        (["train.py", "prepare_a.py", "prepare_b.py"], "prepare_a.py, prepare_b.py could each be"),
    ],
)
def test_others_are_told_why_and_what_to_do(tmp_path: Path, names: list[str], reason: str) -> None:
    found = detect(folder(tmp_path, dict.fromkeys(names, "")))
    assert found.settings is None
    assert reason in found.reason
    assert "arf.yaml" in found.reason
    assert "\n" not in found.reason


def test_uv_is_recognised_by_what_the_project_says(tmp_path: Path) -> None:
    files = {"train.py": "", "prepare.py": "", "pyproject.toml": "[project]\n"}
    assert detect(folder(tmp_path / "a", files)).settings == detect(folder(tmp_path / "b", files)).settings
    for number, extra in enumerate(
        ({"pyproject.toml": "[tool.uv.sources]\n"}, {"program.md": "then `uv run train.py`"})
    ):
        settings = detect(folder(tmp_path / f"c{number}", files | extra)).settings
        assert settings is not None
        assert settings.command == "uv run train.py"


def test_untracked_scripts_do_not_count_and_a_folder_without_git_is_read_as_it_is(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", {"train.py": "", "prepare.py": ""})
    (path / "train_old.py").touch()
    assert detect(path).settings is not None
    (tmp_path / "plain").mkdir()
    for name in ("train.py", "prepare.py"):
        (tmp_path / "plain" / name).touch()
    assert detect(tmp_path / "plain").settings is not None
    assert detect(tmp_path / "nowhere").settings is None


def test_the_top_of_a_repository_of_several_names_the_folders_with_a_workspace(tmp_path: Path) -> None:
    for name in ("small", "large", "docs"):
        (tmp_path / name).mkdir()
    for path in ("small/train.py", "small/prepare.py", "large/arf.yaml", "docs/train.py"):
        (tmp_path / path).write_text("")
    found = detect(tmp_path)
    assert found.settings is None
    assert f"did you mean {tmp_path / 'large'} or {tmp_path / 'small'}?" in found.reason
