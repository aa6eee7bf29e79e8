"""The bundled workspace from an empty folder to a report: real git, processes and training."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ARF = str(Path(sys.executable).with_name("arf"))
SHORT = "30e9"
"""FLOPs: a tenth of the laptop's budget, which still trains for half a second."""

pytestmark = pytest.mark.e2e


def arf(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ARF, *arguments],
        cwd=cwd,
        env={**os.environ, "ARF_BUDGET": SHORT},
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_from_an_empty_folder_to_a_report(tmp_path: Path) -> None:
    ran = arf("run", "--json", "--name", "first", "--max-experiments", "10", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    summary = events[-1]
    assert summary["state"] == "finished"
    assert 5 <= summary["experiments"] <= 10
    assert 2.0 < summary["baseline"]["mean"] < 8.0
    assert summary["noise"]["cpu"]["df"] >= 3
    assert 0 < summary["noise"]["cpu"]["sigma"] < 0.5
    home = Path(summary["directory"])
    with (home / "results.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0])[:5] == ["commit", "val_bpb", "memory_gb", "status", "description"]
    assert len(rows) == summary["experiments"]
    assert "keep" in [row["status"] for row in rows if row["description"] == "baseline"]
    assert float(rows[0]["memory_gb"]) > 0.05
    assert (home / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert "</html>" in (home / "report.html").read_text()
    workspace = tmp_path / "arf-demo"
    git = subprocess.run(
        ["git", "status", "--porcelain"], cwd=workspace, capture_output=True, text=True, check=True
    )
    assert git.stdout == ""
    status = json.loads(arf("status", "--json", cwd=workspace).stdout)
    assert status["experiments"] == summary["experiments"]
    shown = json.loads(arf("show", "1", "--json", cwd=workspace).stdout)
    assert shown["verdict"] in ("keep", "measured")  # whichever run of the baseline ended first
    assert "val_bpb:" in arf("log", "1", cwd=workspace).stdout


def test_a_candidate_of_real_training_is_judged_and_can_be_applied(tmp_path: Path) -> None:
    """A patch that must win by far: the untuned start against one with half the layers."""
    made = arf("init", "workspace", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    workspace = tmp_path / "workspace"
    ideas = tmp_path / "ideas.yaml"
    ideas.write_text(
        "- {title: shallow, constants: {DEPTH: 1}}\n"
        "- title: broken\n"
        "  edits: [{path: train.py, old: 'DEPTH = 4', new: 'DEPTH = 4 / 0'}]\n"
        "- {title: hot, constants: {LR_MULT: 20.0}}\n"
    )
    ran = arf(
        "run", "--plain", "--name", "s", "--agent", "script", "-o", f"agent.path={ideas}",
        "-o", "claim.pairs=2", cwd=workspace,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    experiments = json.loads(arf("export", "s", "--format", "json", cwd=workspace).stdout)
    verdicts = {e["title"]: e["verdict"] for e in experiments if e["role"] == "candidate"}
    assert verdicts == {"shallow": "keep", "broken": "crash", "hot": "discard"}
    assert "ZeroDivisionError" in next(e["reason"] for e in experiments if e["title"] == "broken")
    assert "+DEPTH = 1" in arf("diff", "best", "--base", cwd=workspace).stdout
    assert "DEPTH = 4 " in (workspace / "train.py").read_text()
    applied = arf("best", "--apply", cwd=workspace)
    assert applied.returncode == 0, applied.stderr
    assert "DEPTH = 1 " in (workspace / "train.py").read_text()
