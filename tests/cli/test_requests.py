"""What cannot be done is told in one line, with what to do, and with the right exit code."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from arf.cli.app import run

Arf = Callable[..., subprocess.CompletedProcess[str]]


def one_line(told: str, *words: str) -> None:
    """What was told is one line that has these words."""
    lines = told.strip().splitlines()
    assert len(lines) == 1, told
    assert lines[0].startswith("arf: error: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("stauts", 2, "there is no command 'stauts'; did you mean 'status'"),
        ("--verison", 2, "did you mean '--version'"),
        ("run . --slos 2", 2, "did you mean '--slots'"),
        ("run . --slots two", 2, "--slots"),
        ("run . --slots 0", 2, "slots"),
        ("run . --max-time 5x", 2, "--max-time: budget.max_time: expected a duration"),
        ("run . --max-experiments 0", 2, "at least 1"),
        ("run . --name a/b", 2, "--name"),
        ("run . --strategy gredy", 2, "did you mean 'greedy'"),
        (
            "run . --backend loca",
            2,
            "--backend: backend.name: there is no backend 'loca'; did you mean 'local'",
        ),
        ("skill", 2, "name a command: install, show"),
        ("run . --agent offlin", 2, "did you mean 'offline'"),
        ("run . --parser sumary", 2, "did you mean 'summary'"),
        ("run . --config no.yaml", 2, "no.yaml"),
        ("run . -o noise.alfa=0.1", 2, "did you mean 'alpha'"),
        ("run . -o noise", 2, "there is no `=`"),
        ("run . -o workspace.command=", 2, "-o workspace.command=: workspace.command: expected text"),
        ("run . -o workspace.command={python}_x", 2, "text needs quotes: -o 'workspace.command="),
        ("run . -o backend.slotz=2", 2, "did you mean 'slots'"),
        ("run . --slots 1000000000", 2, "backend.slots: must be <= 10000"),
        ("run . -o plugins.disable=[grredy]", 2, "there is no plugin"),
        ("run . -o workspace.editable=[trian.sh]", 1, "did you mean 'train.sh'"),
        ("run . extra", 2, "extra"),
        ("run nowhere", 1, "does not exist"),
        ("run train.sh", 1, "is a file, not a folder"),
        ("status", 2, "arf run"),
        ("resume", 2, "arf run"),
        ("status --watch", 2, "arf run"),
        ("plugins summry", 2, "did you mean 'summary'"),
        ("init", 2, "arf init"),
        ("init . --script train.sh", 2, "arf.yaml exists"),
        ("init .git --script HEAD", 2, "nothing tells how HEAD is run; say it, such as --command './HEAD'"),
    ],
)
def test_a_request_that_cannot_be(
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(workspace)
    assert run(command.split()) == code
    one_line(capsys.readouterr().err, words)
    assert not list((workspace / ".arf").rglob("arf.db"))


def test_a_key_that_is_misspelt_in_a_file_is_told_with_file_and_line(arf: Arf, workspace: Path) -> None:
    (workspace / "study.yaml").write_text("noise:\n  alfa: 0.1\n")
    one_line(
        arf("run", ".", "--config", "study.yaml", cwd=workspace).stderr, "study.yaml:2: noise.alfa", "'alpha'"
    )


def test_a_workspace_that_cannot_be_used_is_told_why(
    arf: Arf, git: Callable[..., str], workspace: Path, tmp_path: Path
) -> None:
    (workspace / "train.sh").write_text("echo changed\n")
    one_line(arf("run", cwd=workspace).stderr, "uncommitted changes in train.sh", "git commit")

    no_repository = tmp_path / "plain"
    shutil.copytree(workspace, no_repository, ignore=shutil.ignore_patterns(".git"))
    one_line(arf("run", ".", cwd=no_repository).stderr, "is in no git repository", "git init")

    git(no_repository, "init", "-q")
    one_line(arf("run", ".", cwd=no_repository).stderr, "no commit yet", "git commit")

    empty = tmp_path / "empty"
    empty.mkdir()
    one_line(arf("run", ".", cwd=empty).stderr, "there is no train.py", "workspace.command", "arf init")


def test_an_arf_yaml_that_is_no_file_is_told_so(arf: Arf, workspace: Path) -> None:
    (workspace / "arf.yaml").unlink()
    (workspace / "arf.yaml").mkdir()
    for command in (("run", "."), ("doctor",)):
        done = arf(*command, cwd=workspace)
        assert "arf.yaml: is a directory, not a file" in done.stdout + done.stderr
        assert done.returncode in (1, 2)


def test_a_script_here_that_arf_cannot_use_is_no_reason_to_study_another_one(
    arf: Arf, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text("print('val_bpb: 1.0')\n")
    done = arf("run", cwd=tmp_path)
    assert done.returncode == 1
    one_line(done.stderr, "train.py is there, but there is no prepare.py", "arf init . --script")
    assert not (tmp_path / "arf-demo").exists()


def test_with_json_an_error_is_an_object_too(arf: Arf, workspace: Path) -> None:
    done = arf("status", "--json", cwd=workspace)
    told = json.loads(done.stdout)
    assert told["event"] == "error"
    assert told["exit_code"] == done.returncode == 2
    assert "there is no study" in told["error"]
    one_line(done.stderr, "there is no study")
