"""`kill -9` at any instant, then resume: nothing is lost and nothing runs twice."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from arf.launch import study_directory
from arf.store.database import DATABASE, Store
from arf.types import Experiment, ExperimentState, JobState, Role, Verdict

DRIVER = """
import asyncio, sys
from pathlib import Path
from arf.config.schema import load
from arf.launch import create, resume, study_directory
from arf.plugins.registry import Plugins
from arf.store.database import DATABASE

async def main(workspace):
    plugins = Plugins.load(disable=["report"])
    home = study_directory(workspace, "s")
    if (home / DATABASE).exists():
        engine, lock = await resume(home, plugins)
    else:
        config = load(workspace_file=workspace / "arf.yaml", options_class=plugins.options)
        engine, lock = await create(workspace, config, plugins, "s")
    await engine.run()

asyncio.run(main(Path(sys.argv[1])))
print("finished", flush=True)
"""

SCRIPT = """#!/bin/sh
LEVEL=100   # [0..1000, step 10]
echo "$ARF_EXPERIMENT" >> "$RUNS"
sleep 0.4
distance=$((LEVEL > 140 ? LEVEL - 140 : 140 - LEVEL))
echo "---"
echo "val_bpb: 1.$((1000 + distance * 10 + ARF_SEED % 5))"
"""

EXPERIMENTS = 24


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    directory = tmp_path / "workspace"
    directory.mkdir()
    (directory / "train.sh").write_text(SCRIPT)
    ideas = "".join(f"- {{title: L{v}, constants: {{LEVEL: {v}}}}}\n" for v in range(110, 600, 10))
    (tmp_path / "ideas.yaml").write_text(ideas)
    (directory / "arf.yaml").write_text(
        "workspace: {command: 'sh train.sh', editable: [train.sh], pass_env: [RUNS]}\n"
        "sandbox: {mode: off}\nstrategy: greedy\nclaim: none\n"
        f"budget: {{max_experiments: {EXPERIMENTS}}}\n"
        f"agent: {{name: script, path: {tmp_path / 'ideas.yaml'}}}\n"
        "backend: {name: local, slots: 3}\n"
    )
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "init", "-q"], cwd=directory, check=True)
    subprocess.run([*git, "add", "-A"], cwd=directory, check=True)
    subprocess.run([*git, "commit", "-qm", "base"], cwd=directory, check=True)
    return directory


def run_for(workspace: Path, runs: Path, seconds: float | None) -> bool:
    """Run or resume the study; kill it after so long. True if it finished first."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(workspace)],
        env={**os.environ, "RUNS": str(runs)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return False
    assert process.returncode == 0, errors
    return "finished" in output


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_again_and_again_each_experiment_runs_once(workspace: Path, tmp_path: Path, seed: int) -> None:
    runs = tmp_path / "runs"
    rng = random.Random(seed)
    kills = 0
    while kills < 6 and not run_for(workspace, runs, rng.uniform(0.5, 1.3)):
        kills += 1
    assert kills > 1
    assert kills < 6 or run_for(workspace, runs, None)
    store = Store.open(study_directory(workspace, "s"))
    experiments = store.experiments()
    assert len(experiments) == EXPERIMENTS
    assert all(e.state is ExperimentState.ENDED and e.verdict is not None for e in experiments)
    assert all(e.job_state is JobState.SUCCEEDED for e in experiments)
    counts = Counter(runs.read_text().split())
    assert counts == {str(e.id): 1 for e in experiments}


def test_a_study_goes_on_without_the_run_whose_commit_a_power_failure_took(
    workspace: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(workspace)], env={**os.environ, "RUNS": str(tmp_path / "runs")}
    )
    home = study_directory(workspace, "s")
    deadline = time.monotonic() + 60
    candidates: list[Experiment] = []
    while not candidates and time.monotonic() < deadline:
        if (home / DATABASE).exists():
            candidates = [e for e in Store.open(home).running() if e.role is Role.CANDIDATE and e.handle]
        time.sleep(0.05)
    process.kill()
    process.wait()
    lost = candidates[0]
    commit = workspace / ".git" / "objects" / lost.commit[:2] / lost.commit[2:]
    commit.chmod(0o600)
    commit.write_bytes(b"")
    assert run_for(workspace, tmp_path / "runs", None)
    ended = {e.id: e for e in Store.open(home).experiments()}
    assert ended[lost.id].verdict is Verdict.CRASH
    assert "git fsck" in ended[lost.id].reason
    assert len(ended) == EXPERIMENTS
    assert all(e.value is not None for e in ended.values() if e.id != lost.id and e.commit != lost.commit)
