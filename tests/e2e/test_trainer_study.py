"""Studies over the bundled workspace: what they find, and that a clone of autoresearch is the same to arf."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ARF = str(Path(sys.executable).with_name("arf"))
SHORT = "30e9"
"""FLOPs: a tenth of the laptop's budget, half a second of training."""
CLOSING = (
    "val_bpb", "training_seconds", "total_seconds", "peak_vram_mb", "mfu_percent", "total_tokens_M",
    "num_steps", "num_params_M", "depth",
)  # fmt: skip
"""The names of autoresearch's closing block, in its order."""

pytestmark = pytest.mark.e2e


def arf(*arguments: str, cwd: Path) -> str:
    ran = subprocess.run(
        [ARF, *arguments],
        cwd=cwd,
        env={**os.environ, "ARF_BUDGET": SHORT},
        capture_output=True,
        text=True,
        timeout=850,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def study(workspace: Path, *options: str) -> dict[str, Any]:
    """Run a study; its summary."""
    events = arf("run", "--json", "--name", "s", *options, cwd=workspace).splitlines()
    summary: dict[str, Any] = json.loads(events[-1])
    return summary


def git(*arguments: str, cwd: Path) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    ran = subprocess.run(["git", *identity, *arguments], cwd=cwd, capture_output=True, text=True, check=True)
    return ran.stdout


def constants(source: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(?m)^([A-Z_]+) = ([0-9.]+) ", source)}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    arf("init", "workspace", cwd=tmp_path)
    return tmp_path / "workspace"


# ------------------------------------------------------------------------------ planted weaknesses


def learning_rate(values: dict[str, float]) -> float:
    return values["LR_MULT"] * values["MATRIX_LR"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("planted", "experiments", "least_gain"),
    [("LR_MULT = 0.05", 40, 0.05), ("DEPTH = 12", 60, 0.15), ("WIDTH = 128", 60, 0.15)],
)
def test_a_planted_weakness_is_found_and_mended(
    workspace: Path, planted: str, experiments: int, least_gain: float
) -> None:
    """A constant that is far too small or too large; the default agent and strategy, a minute or two.

    On one slot, where nothing depends on which of two runs ends first.
    """
    name, _, value = planted.partition(" = ")
    script = workspace / "train.py"
    source = script.read_text()
    edited, found = re.subn(rf"(?m)^{name} = \S+", planted, source)
    assert found == 1
    script.write_text(edited)
    git("commit", "-qam", "plant", cwd=workspace)

    summary = study(
        workspace, "--slots", "1", "--max-experiments", str(experiments), "-o", "noise.replicates=3"
    )

    best = constants(git("show", "arf/s:train.py", cwd=workspace))
    if name == "LR_MULT":
        assert learning_rate(best) >= 2 * learning_rate(constants(edited))
    else:
        assert best[name] <= float(value) / 2
    baseline = summary["baseline"]["mean"]
    assert (baseline - summary["best"]["mean"]) / baseline > least_gain


# ------------------------------------------------------------------------------ autoresearch and this


CLONE_TRAIN = """
DEPTH = 8  # number of transformer layers
SEED = 42
import os, random, time
start = time.time()
for step in range(20):
    print(f"\\rstep {step:05d} ({5 * step:.1f}%) | loss: {9 - step / 9:.6f} | lrm: 1.00 | dt: 1ms"
          f" | tok/sec: 1,234 | mfu: 40.0% | epoch: 1 | remaining: 3s    ", end="", flush=True)
print()
val_bpb = 1 + (DEPTH - 6) ** 2 / 1000 + random.gauss(0, 1e-4)
print("---")
print(f"val_bpb:          {val_bpb:.6f}")
print(f"training_seconds: {300.1:.1f}")
print(f"total_seconds:    {325.9:.1f}")
print(f"peak_vram_mb:     {45060.2:.1f}")
print(f"mfu_percent:      {39.80:.2f}")
print(f"total_tokens_M:   {499.6:.1f}")
print(f"num_steps:        {953}")
print(f"num_params_M:     {50.3:.1f}")
print(f"depth:            {DEPTH}")
"""
"""What autoresearch's script prints, without the training."""


def results(workspace: Path) -> list[list[str]]:
    with (workspace / ".arf/studies/s/results.tsv").open() as file:
        return list(csv.reader(file, delimiter="\t"))


def test_a_clone_of_autoresearch_and_the_bundled_workspace_are_interchangeable(
    workspace: Path, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    files = {"train.py": CLONE_TRAIN, "prepare.py": "print('data is there')\n", "program.md": "Improve.\n"}
    for name, text in files.items():
        (clone / name).write_text(text)
    git("init", "-q", cwd=clone)
    git("add", "-A", cwd=clone)
    git("commit", "-qm", "clone", cwd=clone)

    for place in (clone, workspace):
        study(place, "--max-experiments", "5")

    ours, theirs = results(workspace), results(clone)
    assert ours[0] == theirs[0]
    assert ours[0][:5] == ["commit", "val_bpb", "memory_gb", "status", "description"]
    for place, rows in ((workspace, ours), (clone, theirs)):
        assert len(rows) == 6
        assert {len(row) for row in rows} == {len(rows[0])}
        metrics = json.loads(arf("show", "1", "--json", cwd=place))["metrics"]
        assert [name for name in metrics if name in CLOSING] == list(CLOSING)
        assert "loss" in metrics
    assert theirs[1][2] == "44.0"
