"""A command whose standard output or error is closed or full."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ARF = str(Path(sys.executable).with_name("arf"))


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f"exec {ARF} {command}"],
        cwd=cwd,
        env={**os.environ, "ARF_DISABLE_PLUGINS": "report"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("command", "code", "lines"),
    [
        ("status >&-", 0, 0),
        ("status --json >&- 2>&-", 0, 0),
        ("status --json >/dev/full", 1, 1),
        ("show 99 2>/dev/full", 2, 0),
    ],
)
def test_an_output_that_cannot_be_written_is_no_bug(
    finished: Path, command: str, code: int, lines: int
) -> None:
    done = shell(command, finished)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, lines), done.stderr


@pytest.mark.parametrize("streams", ["--plain <&- >&- 2>&-", "--json >/dev/full"])
def test_a_study_whose_output_cannot_be_written_goes_on(workspace: Path, streams: str) -> None:
    done = shell(f"run --name deaf --max-experiments 6 {streams}", workspace)
    assert done.returncode == 0, done.stderr
    assert "finished" in shell("status deaf", workspace).stdout
