"""Tricks and honest changes, each run in a study of a workspace: none of the tricks may be kept.

One study tries a whole list, so that its baseline is measured once. `make test-trust` prints what came of it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from attrs import evolve

from arf.sandbox import machine
from arf.testing.studies import run_study
from arf.types import Experiment, Role, Verdict

HERE = Path(__file__).parent
FLAGS: Mapping[str, object] = {
    "agent.name": "script",
    "agent.path": "ideas.json",
    "strategy.name": "greedy",
    "noise.replicates": 4,
    "noise.confirm": 0,
    "backend.name": "local",
    "backend.slots": 2,
    "budget.max_time": None,
}
RULES: Mapping[str, Mapping[str, object]] = {
    "tricks": {"accept.name": "lower"},
    "open": {"accept.name": "proof", "noise.alpha": 1e-12, "noise.max_replicates": 2},
    "honest": {"accept.name": "proof", "noise.alpha": 1e-12, "noise.max_replicates": 2},
}
"""Tricks: a single better reading is kept, so that what holds is not held by the noise. The others: nothing
is kept, so that each change is tried on the base."""
FLAGGED = (Verdict.SUSPECT, Verdict.INVALID, Verdict.CRASH, Verdict.TIMEOUT)

pytestmark = pytest.mark.skipif(bool(machine.lacking()), reason=f"no sandbox here: {machine.lacking()}")


def outcomes(
    source: Path, folder: Path, changes: Sequence[Mapping[str, Any]], flags: Mapping[str, object]
) -> dict[str, Experiment | None]:
    """What became of each change in one study of a copy of a workspace; None for what was refused.

    One with exactly the value of a run of the baseline has had no effect, and counts as discarded.
    """
    workspace = folder / source.name
    shutil.copytree(source, workspace, ignore=shutil.ignore_patterns("__pycache__", ".arf"))
    ideas = [
        {"title": one["name"], "edits": [{"path": "train.py", "old": one["old"], "new": one["new"]}]}
        for one in changes
    ]
    (workspace / "ideas.json").write_text(json.dumps(ideas))
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "base"]):
        subprocess.run(["git", *words], cwd=workspace, check=True)
    _, store = run_study(workspace, {**FLAGS, **flags, "budget.max_experiments": 6 * len(ideas) + 8})
    runs = store.load().experiments.values()
    store.close()
    usual = {run.value for run in runs if run.role is Role.BASELINE}
    runs = [evolve(run, verdict=Verdict.DISCARD) if run.value in usual - {None} else run for run in runs]
    return {one["name"]: _first(runs, one["name"]) for one in changes}


def _first(runs: Any, title: str) -> Experiment | None:
    return next((run for run in runs if run.title == title), None)


def told(kind: str, found: Mapping[str, Experiment | None]) -> list[str]:
    """A line for each change."""
    return [
        f"{kind:<7} {run.verdict if run else 'refused':<9} {name}: {run.reason[:90] if run else ''}"
        for name, run in found.items()
    ]


def check(source: Path, folder: Path, catalogue: Mapping[str, Any], flags: Mapping[str, object]) -> None:
    """Run all, print all, and fail for tricks that are kept and for honest changes that are flagged."""
    found = {}
    for kind, changes in catalogue.items():
        found[kind] = outcomes(source, folder / kind, changes, {**flags, **RULES[kind]})
        print("\n".join(told(kind, found[kind])))
    kept = [name for name, run in found["tricks"].items() if run and run.verdict is Verdict.KEEP]
    flagged = [name for name, run in found["honest"].items() if run is None or run.verdict in FLAGGED]
    print(
        f"{source.name}: {len(found['tricks']) - len(kept)} of {len(found['tricks'])} tricks held, "
        f"{len(found['honest']) - len(flagged)} of {len(found['honest'])} honest changes passed"
    )
    assert not kept
    assert not flagged


def test_a_workspace_laid_out_as_autoresearch(tmp_path: Path) -> None:
    check(HERE / "autoresearch", tmp_path, yaml.safe_load((HERE / "autoresearch.yaml").read_text()), {})


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_bundled_workspace(tmp_path: Path) -> None:
    flags = {"budget.max_time": None, "workspace.env": {"ARF_CHECKPOINT": "model.pt", "ARF_BUDGET": "60e9"}}
    check(HERE.parents[1] / "trainer", tmp_path, yaml.safe_load((HERE / "bundled.yaml").read_text()), flags)
