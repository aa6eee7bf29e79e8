"""Whole studies on a real SkyPilot, and what may happen to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sky_rig

from arf.store.database import Store
from arf.types import Experiment, JobState, Verdict

ARF = str(Path(sys.executable).with_name("arf"))

SCRIPT = """#!/bin/sh
LEVEL=100    # the best is 200 [0..1000, step 50]
SIZE=3       # does nothing [1..9]
echo "$ARF_EXPERIMENT $(cat data/made)" >> RUNS
echo "step 1/2 (50.0%) | loss: 3.0"
sleep 1
distance=$((LEVEL > 200 ? LEVEL - 200 : 200 - LEVEL))
echo "---"
echo "val_bpb: 1.$((100000 + distance * 100 + ARF_SEED % 50))"
"""
# One cluster for a whole node: two of SkyPilot's on one node end each other's agents.
CONFIG = """
workspace:
  command: sh train.sh
  setup: "echo made > data/made"
  link: [data]
  editable: [train.sh]
strategy: greedy
claim: none
limits: {budget_s: 2, time_limit_s: 60}
backend:
  name: skypilot
  infra: [%s]
  heartbeat: 2
  poll: 2
  tiers:
    h100: {accelerators: "H100:4", slots: 4, jobs_per_cluster: 2}
    h200: {accelerators: "H200:2", slots: 1, jobs_per_cluster: 1}
  resources: {memory: 8}
"""


class Lab:
    def __init__(self, rig: sky_rig.Rig, home: Path) -> None:
        self.rig = rig
        self.home = home
        self.runs = home / "runs.txt"
        self.workspace = home / "workspace"
        self.workspace.mkdir()
        (self.workspace / "train.sh").write_text(SCRIPT.replace("RUNS", str(self.runs)))
        (self.workspace / "arf.yaml").write_text(CONFIG % sky_rig.INFRA)
        (self.workspace / ".gitignore").write_text("data\n")
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "base"]):
            identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
            subprocess.run(["git", *identity, *command], cwd=self.workspace, check=True)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [ARF, *arguments], cwd=self.workspace, env={**os.environ, "NO_COLOR": "1"}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def arf(self, *arguments: str) -> str:
        process = self.start(*arguments)
        text = process.communicate(timeout=600)[0]
        assert process.returncode == 0, text
        return text

    def until_runs(self, n: int, process: subprocess.Popen[str]) -> None:
        def enough() -> bool:
            assert process.poll() is None, process.communicate()[0]
            return len(self.counted()) >= n

        sky_rig.until(enough, f"no {n} runs")

    def counted(self) -> Counter[str]:
        lines = self.runs.read_text().splitlines() if self.runs.exists() else []
        return Counter(line.split()[0] for line in lines)

    def experiments(self) -> list[Experiment]:
        store = Store.open(self.workspace / ".arf/studies/s")
        try:
            return list(store.load().experiments.values())
        finally:
            store.close()


@pytest.fixture
def lab(rig: sky_rig.Rig, tmp_path: Path) -> Iterator[Lab]:
    yield Lab(rig, tmp_path)
    rig.sky("down", "--all", "--yes", check=False)


def test_a_study_on_two_tiers_sets_up_each_cluster_and_takes_all_down(lab: Lab) -> None:
    text = lab.arf("run", "--name", "s", "--plain", "--max-experiments", "24")
    experiments = lab.experiments()
    assert len(experiments) == 24, text
    assert {one.job_state for one in experiments} == {JobState.SUCCEEDED}
    assert {one.tier for one in experiments} == {"h100", "h200"}
    assert any(one.verdict is Verdict.KEEP for one in experiments)
    assert set(lab.counted().values()) == {1}
    assert {line.split()[1] for line in lab.runs.read_text().splitlines()} == {"made"}
    assert lab.rig.clusters() == {}


def test_arf_is_killed_and_resumed_and_a_cluster_is_taken_away(lab: Lab) -> None:
    process = lab.start("run", "--name", "s", "--plain", "--max-experiments", "40")
    lab.until_runs(4, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert lab.rig.clusters()
    process = lab.start("resume", "s", "--plain")
    lab.until_runs(12, process)
    name, number = next(item for item in lab.rig.clusters().items())
    lab.rig.run("scancel", number)
    text = process.communicate(timeout=600)[0]
    assert process.returncode == 0, text
    experiments = lab.experiments()
    assert len(experiments) == 40
    assert {one.job_state for one in experiments} == {JobState.SUCCEEDED}
    attempts = {str(one.id): one.attempt for one in experiments}
    assert all(count <= attempts[number] for number, count in lab.counted().items())
    assert sum(attempts.values()) <= 40 + 2, f"only what ran on {name} is run again"
    assert lab.rig.clusters() == {}


def test_what_a_dead_arf_has_left_is_taken_down_from_the_command_line(lab: Lab) -> None:
    process = lab.start("run", "--name", "s", "--plain", "--max-experiments", "40")
    lab.until_runs(2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert lab.rig.clusters()
    text = lab.arf("stop", "s", "--down")
    assert "taken down: arf-s-" in text
    assert lab.rig.clusters() == {}
    assert json.loads(lab.arf("status", "s", "--json"))["state"] == "interrupted"


def test_what_is_not_there_is_told_before_the_first_job(lab: Lab) -> None:
    for option, words in (
        ("backend.infra=[aws]", ("is not enabled", "sky check")),
        ("backend.tiers={H1000: 1}", ("tier H1000", "sky gpus list")),
        ("backend.tiers={H100: {accelerators: 'H100:64'}}", ("tier H100", "sky gpus list")),
        ("backend.infra=[nowhere]", ("nowhere",)),
    ):
        process = lab.start("run", "--name", "s", "--plain", "-o", option)
        text = process.communicate(timeout=200)[0]
        assert process.returncode in (1, 2), text
        assert all(word in text for word in words), text
        assert text.count("error:") == 1, text
