"""A tiny workspace, the real `arf`, and one finished study that many tests look at."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

ARF = str(Path(sys.executable).with_name("arf"))

SCRIPT = """#!/bin/sh
LEVEL=100    # the best is 200 [0..1000, step 50]
SIZE=3       # does nothing [1..9]
echo "step 1/2 (50.0%) | loss: 3.0"
[ -n "$SLOW" ] && sleep "$SLOW"
echo "step 2/2 (100.0%) | loss: 2.5"
distance=$((LEVEL > 200 ? LEVEL - 200 : 200 - LEVEL))
echo "---"
echo "val_bpb: 1.$((100000 + distance * 100 + ARF_SEED % 50))"
"""

ARF_YAML = """\
workspace: {command: sh train.sh, editable: [train.sh], pass_env: [SLOW]}
limits: {budget_s: 1, time_limit_s: 60}
budget: {max_experiments: 14}
strategy: greedy
backend: {name: local, slots: 2}
"""


def run_arf(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the real `arf` to its end."""
    return subprocess.run(
        [ARF, *arguments],
        cwd=cwd,
        env={**os.environ, "NO_COLOR": "1", **env},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


def run_git(cwd: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def make_workspace(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "train.sh").write_text(SCRIPT)
    (directory / "arf.yaml").write_text(ARF_YAML)
    run_git(directory, "init", "-q")
    run_git(directory, "add", "-A")
    run_git(directory, "commit", "-qm", "base")
    return directory


@pytest.fixture(scope="session")
def arf() -> Callable[..., subprocess.CompletedProcess[str]]:
    return run_arf


@pytest.fixture(scope="session")
def git() -> Callable[..., str]:
    return run_git


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("template") / "workspace")


@pytest.fixture
def workspace(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "workspace")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the study `first`, which found something better. Only to be looked at."""
    directory = make_workspace(tmp_path_factory.mktemp("finished") / "workspace")
    done = run_arf("run", "--name", "first", "--plain", cwd=directory)
    assert done.returncode == 0, done.stderr
    (directory / "run.txt").write_text(done.stderr)
    return directory


@pytest.fixture(scope="session")
def start() -> Callable[..., AbstractContextManager[subprocess.Popen[str]]]:
    """Starts the real `arf`, and asks it to stop when the block is left."""

    @contextmanager
    def started(*arguments: str, cwd: Path, **env: str) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [ARF, *arguments],
            cwd=cwd,
            env={**os.environ, "NO_COLOR": "1", **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.communicate(timeout=60)

    return started
