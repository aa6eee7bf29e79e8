"""What people are told of money: before a study, when it goes on, and afterwards."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from arf.cli.app import run
from arf.store.database import Store

Arf = Callable[..., subprocess.CompletedProcess[str]]

SIMULATED = """\
workspace: {command: simulated, editable: [train.py]}
limits: {budget_s: 1}
budget: {max_experiments: 12}
agent: random
backend:
  name: sim
  run_s: 0.05
  tiers: {h100: {slots: 2, usd_per_hour: 2000}, h200: {slots: 1, usd_per_hour: 2300}}
  objective:
    noise: 0.001
    constants: {LEVEL: {base: 100, best: 200, gain: 0.1, low: 0, high: 1000}}
"""


@pytest.fixture(scope="module")
def simulated(arf: Arf, git: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a finished study `s` on two kinds of machines that cost something."""
    directory = tmp_path_factory.mktemp("money")
    (directory / "train.py").write_text("LEVEL = 100  # [0..1000]\n")
    (directory / "arf.yaml").write_text(SIMULATED)
    git(directory, "init", "-q")
    git(directory, "add", "-A")
    git(directory, "commit", "-qm", "base")
    done = arf("run", "--name", "s", "--json", cwd=directory)
    assert done.returncode == 0, done.stderr
    (directory / "run.jsonl").write_text(done.stdout)
    return directory


@pytest.fixture
def told(
    simulated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What a command prints there."""
    monkeypatch.chdir(simulated)

    def prints(*arguments: str) -> str:
        assert run(list(arguments)) == 0
        return capsys.readouterr().out

    return prints


def test_an_estimate_comes_before_the_first_job_and_is_kept(simulated: Path) -> None:
    events = [json.loads(line) for line in (simulated / "run.jsonl").read_text().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds.index("estimate") < kinds.index("experiment")
    told = events[kinds.index("estimate")]
    assert told["experiments"] == 12
    assert told["ends_by"] == "max_experiments"
    assert told["usd_by_tier"] == {
        "h100": pytest.approx(4.444, abs=1e-3),
        "h200": pytest.approx(2.556, abs=1e-3),
    }
    store = Store.open(simulated / ".arf" / "studies" / "s")
    said = [text for _, kind, text in store.events(1000) if kind == "estimate"]
    store.close()
    assert said == [
        "estimate: about 12 experiments in 4 s, at 1 s a run (limits.budget_s); 0.00333 slot hours; "
        "$7.00 for machines (h100 $4.44, h200 $2.56); up to 25 % of it for the claim at the end; "
        "max_experiments ends it"
    ]


def test_status_tells_what_was_spent_and_where(simulated: Path, told: Callable[..., str]) -> None:
    money = json.loads(told("status", "--json"))["money"]
    assert money["usd"] == pytest.approx(money["machines_usd"])
    assert money["usd"] == pytest.approx(sum(tier["usd"] for tier in money["by_tier"].values()))
    assert money["slot_hours"] == pytest.approx(sum(one["slot_hours"] for one in money["by_tier"].values()))
    spent = [*money["keeps"], money["since_keep"]]
    assert sum(one["usd"] for one in spent) == pytest.approx(money["usd"])
    text = told("status")
    assert f"cost       ${money['usd']:,.2f}" in text
    assert f"h200 ${money['by_tier']['h200']['usd']:,.2f} for " in text


def test_an_experiment_has_its_cost(simulated: Path, told: Callable[..., str]) -> None:
    cost = json.loads(told("show", "1", "--json"))["cost"]
    assert cost["usd"] == cost["machines_usd"] > 0
    assert f"${cost['usd']:,.3g}: machines $" in told("show", "1")


def test_a_study_that_goes_on_says_what_is_left(arf: Arf, simulated: Path) -> None:
    said = arf("resume", "s", "--plain", "--max-experiments", "14", cwd=simulated).stderr
    assert "arf: estimate of what is left: about 2 experiments in " in said
    assert " a run (measured); " in said
