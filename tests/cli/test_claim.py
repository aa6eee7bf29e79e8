"""`arf claim`, through the real `arf`."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from arf.store.database import STUDIES, Store

Arf = Callable[..., subprocess.CompletedProcess[str]]


def test_a_study_that_has_ended_is_taken_up_for_a_claim_alone(arf: Arf, workspace: Path) -> None:
    small = ["--max-experiments", "12", "-o", "noise.replicates=2", "-o", "strategy=greedy", "--plain"]
    done = arf("run", "--name", "one", "-o", "claim=none", *small, cwd=workspace)
    assert done.returncode == 0, done.stderr
    home = workspace / STUDIES / "one"
    before = Store.open(home).load()
    assert not before.claim_plans
    text = (home / "study.yaml").read_text()
    (home / "study.yaml").write_text(text.replace("claim:\n  name: none", "claim:\n  pairs: 6"))
    done = arf("claim", "one", "--plain", cwd=workspace)
    assert done.returncode == 0, done.stderr
    after = Store.open(home).load()
    assert [plan.why for plan in after.claim_plans.values()] == ["asked for"]
    assert after.claims[1] is not None
    new = list(after.experiments.values())[len(before.experiments) :]
    assert {run.round.split("/")[0] for run in new} == {"claim"}, "it searched on"
