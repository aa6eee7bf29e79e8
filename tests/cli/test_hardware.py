"""What people are told of the hardware, of nodes that are set aside, and of where the time went."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from arf.store.database import Store

Arf = Callable[..., subprocess.CompletedProcess[str]]

CONSTANTS = "".join(f"{name} = 100  # [0..1000, step 1]\n" for name in "ABC")
SIMULATED = """\
workspace: {command: simulated, editable: [train.py]}
budget: {max_experiments: 36}
agent: random
backend:
  name: sim
  run_s: 0.05
  tiers: {a: {slots: 4, bad: {slot: 1, crashes: 1.0}}, b: {slots: 2, offset: 0.02}}
  objective:
    noise: 0.001
    constants:
      A: {base: 100, best: 200, gain: 0.1, low: 0, high: 1000}
      B: {base: 100, best: 300, gain: 0.1, low: 0, high: 1000}
      C: {base: 100, best: 400, gain: 0.1, low: 0, high: 1000}
"""


def test_the_hardware_is_measured_and_told_by_status_doctor_and_at_the_end(arf: Arf, finished: Path) -> None:
    summary = json.loads(arf("status", "--json", cwd=finished).stdout)
    (tier,) = summary["hardware"]
    assert (tier["tier"], tier["speed"], tier["offset"]) == ("cpu", 1.0, None)
    assert tier["seconds"] > 0
    assert tier["sigma"] == summary["noise"]["cpu"]["sigma"]
    text = arf("status", cwd=finished).stdout
    assert "hardware   cpu: " in text
    assert "rest of the runs" in text
    assert "rest of the runs" in (finished / "run.txt").read_text()
    assert "(study first)" in arf("doctor", cwd=finished).stdout


def test_the_shares_of_time_add_up_to_the_slots_time(arf: Arf, finished: Path) -> None:
    summary = json.loads(arf("status", "--json", cwd=finished).stdout)
    used_s = summary["time"]["used_s"]["cpu"]
    assert abs(sum(summary["time"]["shares"].values()) - 1) < 1e-6
    assert abs(sum(used_s.values()) / (2 * summary["elapsed_s"]) - 1) < 0.1


def test_a_broken_node_is_set_aside_told_and_stays_so_after_a_resume(
    arf: Arf, git: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(CONSTANTS)
    (tmp_path / "arf.yaml").write_text(SIMULATED)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "base")
    done = arf("run", "--name", "s", "--plain", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "node a:1 set aside" in done.stderr
    text = arf("status", cwd=tmp_path).stdout
    assert "aside      a:1 (a): " in text
    assert "hardware   a: " in text
    assert "offset +0.0" in text
    first = json.loads(arf("status", "--json", cwd=tmp_path).stdout)
    done = arf("resume", "s", "--plain", "--max-experiments", "90", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    then = json.loads(arf("status", "--json", cwd=tmp_path).stdout)
    assert then["nodes_aside"] == first["nodes_aside"]
    store = Store.open(tmp_path / ".arf/studies/s")
    later = store.experiments(after=first["experiments"])
    events = [text for _, kind, text in store.events(100) if kind == "node"]
    store.close()
    assert later
    assert not [run.id for run in later if run.slot == "a:1"]
    assert len(events) == 1
