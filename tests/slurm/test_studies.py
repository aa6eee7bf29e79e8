"""Whole studies on a real Slurm: to their end, with two tiers, and through `kill -9`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from arf.launch import study_directory
from arf.store.database import Store
from arf.types import ExperimentState, JobState, Verdict

SCRIPT = """#!/bin/sh
LEVEL=100   # [0..1000, step 10]
echo "$ARF_EXPERIMENT $CUDA_VISIBLE_DEVICES" >> "$RUNS"
sleep 0.3
echo "$ARF_EXPERIMENT" >> "$RUNS.done"
distance=$((LEVEL > 140 ? LEVEL - 140 : 140 - LEVEL))
echo "---"
echo "val_bpb: 1.$((1000 + distance * 10 + ARF_SEED % 5))"
"""
PATIENCE_S = 120.0
CI = pytest.mark.slurm_ci
ELSEWHERE = (
    "unshare",
    "--uts",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "sh",
    "-c",
    'hostname login-2; exec "$@"',
    "sh",
)
"""Makes a command run as if on another machine: another host name, and no process of this one to be seen."""


class Lab:
    """A workspace that the nodes see, and `arf` on it."""

    def __init__(self, path: Path, slurm: Any) -> None:
        self.slurm = slurm
        self.runs = path / "runs"
        self.directory = path / "workspace"
        self.directory.mkdir()
        (self.directory / "train.sh").write_text(SCRIPT)
        ideas = "".join(f"- {{title: L{v}, constants: {{LEVEL: {v}}}}}\n" for v in range(110, 600, 10))
        (path / "ideas.yaml").write_text(ideas)
        self.ideas = path / "ideas.yaml"

    def configure(self, *, experiments: int, strategy: str = "greedy", backend: str = "slots: 4") -> None:
        (self.directory / "arf.yaml").write_text(
            "workspace: {command: 'sh train.sh', editable: [train.sh], pass_env: [RUNS]}\n"
            f"budget: {{max_experiments: {experiments}}}\n"
            "limits: {time_limit_s: 60}\n"
            f"agent: {{name: script, path: {self.ideas}}}\n"
            f"strategy: {strategy}\n"
            "claim: none\n"
            f"backend: {{name: slurm, poll: 0.5, grace: 0.3, heartbeat: 1.0, {backend}}}\n"
        )
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run([*git, "init", "-q"], cwd=self.directory, check=True)
        subprocess.run([*git, "add", "-A"], cwd=self.directory, check=True)
        subprocess.run([*git, "commit", "-qm", "base"], cwd=self.directory, check=True)

    def arf(self, *words: str, behind: Sequence[str] = ()) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*behind, sys.executable, "-c", "from arf.cli import main; main()", *words],
            cwd=self.directory,
            env={**os.environ, "RUNS": str(self.runs)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> str:
        output, _ = process.communicate(timeout=2 * PATIENCE_S)
        assert process.returncode == 0, output
        return output

    def count_runs(self) -> int:
        return len(self.runs.read_text().splitlines()) if self.runs.exists() else 0

    def until_started_have_ended(self) -> None:
        """Until none of the experiments that have started is running; arf itself must not be."""
        done = self.runs.with_name("runs.done")
        limit = time.monotonic() + PATIENCE_S
        while not done.exists() or len(done.read_text().splitlines()) < self.count_runs():
            assert time.monotonic() < limit, "experiments go on for ever"
            time.sleep(0.05)

    def until_runs(self, count: int, process: subprocess.Popen[str]) -> None:
        limit = time.monotonic() + PATIENCE_S
        while self.count_runs() < count:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < limit, f"{self.count_runs()} runs"
            time.sleep(0.05)

    def experiments(self, name: str = "s") -> list[Any]:
        store = Store.open(study_directory(self.directory, name))
        try:
            return list(store.load().experiments.values())
        finally:
            store.close()

    def each_ran_once(self, count: int) -> list[Any]:
        """The experiments of a study, so many, each of which has run well and once."""
        experiments = self.experiments()
        assert len(experiments) == count
        assert {(e.state, e.job_state, e.attempt) for e in experiments} == {
            (ExperimentState.ENDED, JobState.SUCCEEDED, 1)
        }
        assert Counter(line.split()[0] for line in self.runs.read_text().splitlines()) == {
            str(e.id): 1 for e in experiments
        }
        return experiments


@pytest.fixture
def lab(tmp_path: Path, slurm: Any) -> Lab:
    return Lab(tmp_path, slurm)


@pytest.mark.parametrize("form", [pytest.param("pool", marks=CI), "jobs"])
def test_a_greedy_study_runs_to_its_end_and_leaves_nothing(lab: Lab, form: str) -> None:
    lab.configure(experiments=14, backend=f"slots: 4, form: {form}")
    lab.finish(lab.arf("run", "--name", "s", "--plain"))
    experiments = lab.experiments()
    assert len(experiments) == 14
    assert {e.job_state for e in experiments} == {JobState.SUCCEEDED}
    assert any(e.verdict is Verdict.KEEP for e in experiments)
    assert all(f"{e.tier}-" in e.slot for e in experiments)
    assert all(count == 1 for count in Counter(lab.runs.read_text().split("\n")[:-1]).values())
    lab.slurm.wait_until_empty()


@pytest.mark.slurm_ci
@pytest.mark.parametrize("form", ["pool", "jobs"])
def test_the_doctor_leaves_no_worker(lab: Lab, form: str) -> None:
    lab.configure(experiments=1, backend=f"slots: 4, form: {form}")
    output = lab.finish(lab.arf("doctor"))
    assert output.count("a trivial job ran on h") == 2
    assert lab.slurm.run("squeue", "-h").strip() == ""


@CI
def test_a_study_on_two_tiers_uses_both(lab: Lab) -> None:
    tiers = "{h100: {gres: 'gpu:h100:1', slots: 4, price: 2}, h200: {gres: 'gpu:h200:1', slots: 2, price: 3}}"
    lab.configure(experiments=24, strategy="two-tier", backend=f"tiers: {tiers}")
    lab.finish(lab.arf("run", "--name", "s", "--plain"))
    experiments = lab.experiments()
    assert {e.tier for e in experiments} == {"h100", "h200"}
    assert all(e.tier in e.slot for e in experiments)


def test_arf_is_killed_and_resumed_and_nothing_runs_twice(lab: Lab) -> None:
    lab.configure(experiments=16, backend="slots: 3")
    process = lab.arf("run", "--name", "s", "--plain")
    for runs in (3, 7, 11):
        lab.until_runs(runs, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        process = lab.arf("resume", "s", "--plain")
    lab.finish(process)
    lab.each_ran_once(16)


@CI
def test_a_study_goes_on_on_another_machine(lab: Lab) -> None:
    if subprocess.run([*ELSEWHERE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces can be made here, so no other machine can be pretended")
    lab.configure(experiments=12, backend="slots: 3")
    process = lab.arf("run", "--name", "s", "--plain")
    lab.until_runs(4, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    lab.until_started_have_ended()  # nobody has seen these ends
    lab.finish(lab.arf("resume", "s", "--plain", behind=ELSEWHERE))
    lab.each_ran_once(12)


@CI
def test_workers_that_die_all_the_time_cost_no_experiment(lab: Lab) -> None:
    lab.configure(experiments=12, backend="slots: 3")
    process = lab.arf("run", "--name", "s", "--plain")
    for runs in (3, 6):
        lab.until_runs(runs, process)
        lab.slurm.run("scancel", "--signal=KILL", "-u", str(os.getuid()))
    lab.finish(process)
    experiments = lab.experiments()
    assert len(experiments) == 12
    assert {e.job_state for e in experiments} == {JobState.SUCCEEDED}
