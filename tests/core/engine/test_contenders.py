"""What is looked at before a change is kept, in whole studies."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from arf.testing.studies import run_study
from arf.types import Verdict

# `made` is what the script has made, which the evaluation reads; what it prints can be something else.
SCRIPT = """
LEVEL=100    # [0..1000]
MEMORY=10    # [0..1000]
CHEAT=0      # [0..1000]
made=2.$((700 - LEVEL + ARF_SEED % 7))
echo $made > model.txt
cat secret.txt 2>/dev/null
echo "val_bpb: 2.$((700 - LEVEL - CHEAT + ARF_SEED % 7))"
echo "peak_vram_mb: $MEMORY"
"""
EVALUATION = 'grep -q "target" secret.txt && echo "val_bpb: $(cat model.txt)"'
CONFIG = """
workspace: {command: sh train.sh, editable: [train.sh], seed: env}
budget: {max_experiments: 8}
strategy: greedy
accept: proof
backend: {name: local, slots: 1}
noise: {confirm: 0, proof: false}
"""


def study(folder: Path, constants: Mapping[str, int], flags: Mapping[str, object]) -> dict[str, object]:
    """A study in which one change is tried; its verdict and reason."""
    (folder / "train.sh").write_text(SCRIPT)
    (folder / "secret.txt").write_text("the target\n")
    (folder / "arf.yaml").write_text(CONFIG)
    (folder / "ideas.json").write_text(json.dumps([{"title": "idea", "constants": dict(constants)}]))
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "base"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    agent = {"agent.name": "script", "agent.path": "ideas.json"}
    _, store = run_study(folder, {**agent, **flags})
    tried = [run for run in store.load().experiments.values() if run.ideas]
    store.close()
    assert tried, "the change was not tried"
    logs = (folder / ".arf" / "studies" / "s" / "logs").glob("[0-9]*[0-9].log")
    leaked = any("target" in log.read_text() for log in logs)
    return {"verdict": tried[0].verdict, "reason": tried[0].reason, "leaked": leaked}


EVALUATED = {
    "evaluation.command": EVALUATION,
    "evaluation.outputs": ["model.txt"],
    "evaluation.private": ["secret.txt"],
}


@pytest.mark.parametrize(
    ("constants", "flags", "verdict", "reason"),
    [
        ({"LEVEL": 150}, {}, Verdict.KEEP, ""),
        ({"LEVEL": 150}, EVALUATED, Verdict.KEEP, ""),
        ({"CHEAT": 50}, EVALUATED, Verdict.SUSPECT, "its evaluation 2.6"),
        ({"LEVEL": 150}, {**EVALUATED, "evaluation.outputs": ["gone"]}, Verdict.SUSPECT, "left no gone"),
        ({"LEVEL": 150, "MEMORY": 20}, {"guards.max": {"peak_vram_mb": 15}}, Verdict.DISCARD, "above 15"),
        (
            {"LEVEL": 150, "MEMORY": 20},
            {"guards.max_share": {"peak_vram_mb": 1.5}},
            Verdict.DISCARD,
            "above 15",
        ),
        ({"LEVEL": 150}, {"guards.max_share": {"peak_vram_mb": 1.5}}, Verdict.KEEP, ""),
        ({"LEVEL": 150}, {"guards.commands": ["echo too bad; false"]}, Verdict.DISCARD, "too bad"),
        ({"LEVEL": 150}, {"guards.commands": ["test -f secret.txt"]}, Verdict.KEEP, ""),
    ],
)
def test_a_change_is_kept_if_what_is_looked_at_holds(
    tmp_path: Path, constants: dict[str, int], flags: dict[str, object], verdict: Verdict, reason: str
) -> None:
    told = study(tmp_path, constants, flags)
    assert told["verdict"] is verdict, told
    assert reason in str(told["reason"])
    assert told["leaked"] != ("evaluation.private" in flags)
