"""`arf init --script` runs the script once, and writes what it saw."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from arf.config.schema import Config, load
from arf.plugins.registry import Plugins

Arf = Callable[..., subprocess.CompletedProcess[str]]
ARGPARSE = """
import argparse, time
p = argparse.ArgumentParser(); p.add_argument("--lr", type=float, default=0.1); a = p.parse_args()
for epoch in range(3):
    print(f"epoch {epoch} train_loss {2.0 - epoch / 10:.3f} lr {a.lr}")
print(f"test accuracy: {91.25}%")
print("total time: 1.5 s")
"""
HF = """
print({'loss': 2.1, 'learning_rate': 5e-05, 'epoch': 1.0})
print({'eval_loss': 1.91, 'eval_runtime': 0.4, 'eval_samples_per_second': 812.1, 'epoch': 1.0})
print({'eval_loss': 1.85, 'eval_runtime': 0.4, 'eval_samples_per_second': 812.1, 'epoch': 2.0})
print({'train_runtime': 3.1, 'train_loss': 2.0, 'epoch': 2.0})
"""
BAR = """
import sys
for epoch in range(2):
    for i in range(1, 4):
        tail = f"[00:00<00:00, 9.1it/s, v_num=0, train_loss=0.5{i}, val_f1=0.8{epoch}]"
        sys.stderr.write(f"\\rEpoch {epoch}:  {33*i}%|###| {i}/3 {tail}")
sys.stderr.write("\\n")
"""
RECORDS = """
import json
for step in range(3):
    print(json.dumps({"step": step, "val_psnr": 20.0 + step, "lr": 0.1}))
"""


def init(arf: Arf, folder: Path, script: str, *options: str) -> tuple[Config, str]:
    (folder / "fit.py").write_text(script)
    done = arf("init", ".", "--script", "fit.py", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    return load(workspace_file=folder / "arf.yaml", options_class=Plugins.load().options), done.stderr


@pytest.mark.parametrize(
    ("script", "metric", "direction", "pick"),
    [
        (ARGPARSE, "test_accuracy", "max", "only"),
        (HF, "eval_loss", "min", "last"),
        (BAR, "val_f1", "max", "last"),
        (RECORDS, "val_psnr", "max", "last"),
    ],
    ids=["argparse", "hf", "bar", "records"],
)
def test_what_a_script_prints_is_what_is_improved(
    arf: Arf, tmp_path: Path, script: str, metric: str, direction: str, pick: str
) -> None:
    config, said = init(arf, tmp_path, script)
    objective = config.objective
    assert (objective.metric, objective.direction, objective.pick) == (metric, direction, pick)
    assert config.limits.time_limit_s <= 62
    assert f"it printed {metric}" in said
    assert "guessed" in (tmp_path / "arf.yaml").read_text()


def test_what_the_user_says_counts(arf: Arf, tmp_path: Path) -> None:
    config, _ = init(arf, tmp_path, ARGPARSE, "--metric", "train_loss", "--direction", "max")
    assert (config.objective.metric, config.objective.direction) == ("train_loss", "max")


def test_a_log_is_read_instead(arf: Arf, tmp_path: Path) -> None:
    (tmp_path / "old.log").write_text("step 1 loss 3\nval_bpb: 1.02\n")
    config, _ = init(arf, tmp_path, "raise SystemExit('not run')", "--log", str(tmp_path / "old.log"))
    assert config.objective.metric == "val_bpb"


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        ("raise SystemExit('no GPU here')", [], "no GPU here"),
        ("print('done')", [], "no metric was found"),
        ("print('val_loss: 1')", ["--metric", "val_los"], "did you mean 'val_loss'"),
        ("print('val_loss: 1')", ["--no-run"], "--no-run needs --metric"),
        ("print('val_loss: 1')", ["--log", "gone.log"], "cannot be read"),
        ("print('val_loss: 1')", ["--run-limit", "soon"], "is no time"),
    ],
)
def test_what_cannot_be_known_is_said_and_nothing_is_written(
    arf: Arf, tmp_path: Path, script: str, options: list[str], message: str
) -> None:
    (tmp_path / "fit.py").write_text(script)
    done = arf("init", ".", "--script", "fit.py", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "arf.yaml").exists()


def test_a_script_that_runs_on_is_ended_and_read(arf: Arf, tmp_path: Path) -> None:
    script = "import time\nprint('val_loss: 1.5', flush=True)\ntime.sleep(60)\n"
    config, _ = init(arf, tmp_path, script, "--run-limit", "2s")
    assert config.objective.metric == "val_loss"


def test_a_name_that_tells_nothing_is_asked_about(arf: Arf, tmp_path: Path) -> None:
    _, said = init(arf, tmp_path, "print('result: 3.5')")
    assert "nothing in the name 'result' tells which way is better" in said
