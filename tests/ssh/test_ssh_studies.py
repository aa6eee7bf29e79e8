"""Whole studies on hosts that are reached by real SSH, by `arf` as people call it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from ssh_hosts import Hosts  # it is beside this file

from arf.launch import study_directory
from arf.store.database import Store
from arf.types import JobState

PATIENCE_S = 120.0
SCRIPT = """\
LEVEL=100
echo "$ARF_EXPERIMENT $(basename $HOME)$ON_HOST" >> {runs}
sleep 0.5
echo "val_bpb: 0.$LEVEL"
"""


class Lab:
    """A workspace, and `arf` on it."""

    def __init__(self, path: Path, hosts: Hosts) -> None:
        self.hosts = hosts
        self.runs = path / "runs"
        self.directory = path / "workspace"
        self.directory.mkdir()
        (self.directory / "train.sh").write_text(SCRIPT.format(runs=self.runs))
        ideas = "".join(f"- {{title: L{v}, constants: {{LEVEL: {v}}}}}\n" for v in range(110, 600, 10))
        (path / "ideas.yaml").write_text(ideas)
        (self.directory / "arf.yaml").write_text(
            "workspace: {command: 'sh train.sh', editable: [train.sh]}\n"
            "budget: {max_experiments: 12}\n"
            "limits: {time_limit_s: 60}\n"
            f"agent: {{name: script, path: {path / 'ideas.yaml'}}}\n"
            "strategy: greedy\n"
            f"backend: {{name: ssh, hosts: ['gpu1:2', gpu2], ssh: [-F, {hosts.config}], grace: 0.3}}\n"
        )
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
        for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "base")):
            subprocess.run([*git, *words], cwd=self.directory, check=True)

    def arf(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", "from arf.cli import main; main()", *words],
            cwd=self.directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def finish(self, process: subprocess.Popen[str]) -> str:
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, output
        return output

    def count_runs(self) -> int:
        return len(self.runs.read_text().splitlines()) if self.runs.exists() else 0

    def nothing_is_left(self) -> None:
        for host in self.hosts.by_name.values():
            assert not host.processes("foreman")
            assert not host.processes("node-worker")
            assert not list((host.home / ".arf").glob("gpu*-*"))


@pytest.fixture
def lab(tmp_path: Path, hosts: Hosts) -> Lab:
    return Lab(tmp_path, hosts)


@pytest.mark.ssh_ci
def test_arf_is_killed_and_resumed_and_nothing_runs_twice_or_is_left(lab: Lab) -> None:
    process = lab.arf("run", "--name", "s", "--plain")
    limit = time.monotonic() + PATIENCE_S
    while lab.count_runs() < 4:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    lab.finish(lab.arf("resume", "s", "--plain"))
    store = Store.open(study_directory(lab.directory, "s"))
    try:
        experiments = list(store.load().experiments.values())
    finally:
        store.close()
    assert {(e.job_state, e.attempt) for e in experiments} == {(JobState.SUCCEEDED, 1)}
    lines = [line.split() for line in lab.runs.read_text().splitlines()]
    assert Counter(line[0] for line in lines) == {str(e.id): 1 for e in experiments}
    assert len({line[1] for line in lines}) == 2
    lab.nothing_is_left()


@pytest.mark.ssh_ci
def test_the_doctor_tries_each_host_and_leaves_nothing(lab: Lab) -> None:
    output = lab.finish(lab.arf("doctor"))
    assert "host gpu1" in output
    assert "a trivial job ran on gpu" in output
    lab.nothing_is_left()


def test_what_a_killed_study_has_left_is_taken_down(lab: Lab) -> None:
    process = lab.arf("run", "--name", "s", "--plain")
    limit = time.monotonic() + PATIENCE_S
    while lab.count_runs() < 2:
        assert time.monotonic() < limit
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    lab.finish(lab.arf("stop", "s", "--down"))
    lab.nothing_is_left()
