"""What is said before the first job, by hand."""

import math
import re
from datetime import UTC, datetime

import pytest
from attrs import evolve

from arf.config import Budget
from arf.estimate import Estimate, estimate, lines
from arf.study import Study
from arf.types import Experiment, ExperimentState, NoiseRule, Role, Tier, Usage, Verdict

PUBLISHED = (Tier(name="h100", slots=13, usd_per_hour=2.0), Tier(name="h200", slots=3, usd_per_hour=2.3))
NAMES = {
    "max_experiments": "experiments",
    "max_time": "seconds",
    "max_slot_hours": "slot_hours",
    "max_usd": "usd",
    "max_tokens": "tokens",
}


def study(tiers: tuple[Tier, ...] = (Tier(name="cpu", slots=2),)) -> Study:
    return Study(name="s", base="b", base_tree="t", tiers=tiers, rule=NoiseRule())


def told(
    tiers: tuple[Tier, ...] = (Tier(name="cpu", slots=2),), ask: Usage | None = None, **budget: float
) -> Estimate:
    left = {NAMES[name]: value for name, value in budget.items()}
    return estimate(study(tiers), Budget(**budget), left, 300.0, ask)  # type: ignore[arg-type]


def test_a_night_on_the_published_machines() -> None:
    got = told(PUBLISHED, ask=Usage(usd=0.1, input_tokens=1000), max_time=8 * 3600.0)
    assert got.ends_by == "max_time"
    assert got.experiments == 8 * 12 * 16
    assert got.slot_hours == pytest.approx(128)
    assert got.usd == pytest.approx(8 * (13 * 2.0 + 3 * 2.3))
    assert got.usd_by_tier == {"h100": pytest.approx(208), "h200": pytest.approx(55.2)}
    assert got.agent is not None
    assert got.agent.usd == pytest.approx(0.1 * (got.asks or 0))
    (line,) = lines(got, "anthropic")
    assert line.startswith("estimate: about 1,536 experiments in 8.0 h, at 5 min a run (limits.budget_s)")
    assert "$263.20 for machines (h100 $208.00, h200 $55.20)" in line
    assert "asks of anthropic" in line


@pytest.mark.parametrize(
    ("budget", "experiments", "seconds"),
    [
        ({"max_experiments": 5}, 5, 900.0),
        ({"max_slot_hours": 1.0}, 12, 1800.0),
        ({"max_time": 1000.0, "max_experiments": 100}, 6, 1000.0),
    ],
)
def test_what_is_used_up_first_ends_it(budget: dict[str, float], experiments: int, seconds: float) -> None:
    got = told(**budget)
    assert got.ends_by == next(iter(budget))
    assert got.experiments == experiments
    assert got.seconds == pytest.approx(seconds)
    assert got.usd == 0


def test_dollars_pay_for_machines_and_for_the_agent() -> None:
    without = told(PUBLISHED, max_usd=100.0)
    dear = told(PUBLISHED, ask=Usage(usd=1.0), max_usd=100.0)
    assert without.ends_by == dear.ends_by == "max_usd"
    assert without.usd == pytest.approx(100, abs=3)
    assert dear.agent is not None
    assert (dear.usd or 0) + dear.agent.usd == pytest.approx(100, abs=4)


def test_tokens_can_end_it() -> None:
    got = told(ask=Usage(input_tokens=900, output_tokens=100), max_tokens=5000)
    assert got.ends_by == "max_tokens"
    assert got.experiments == 10


def test_a_study_without_a_limit_says_so() -> None:
    got = told()
    assert math.isinf(got.seconds)
    assert got.experiments is None
    (line,) = lines(got, "offline")
    assert "24 experiments an hour; no budget ends the study" in line


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"max_experiments": 4}, "budget.max_experiments .4. leaves nothing for ideas.*4 runs"),
        ({"max_time": 500.0}, "budget.max_time.*10 min"),
        ({"max_slot_hours": 0.2}, "budget.max_slot_hours.*0.333"),
    ],
)
def test_a_budget_that_the_baseline_uses_up_is_warned_of(budget: dict[str, float], said: str) -> None:
    got = told(**budget)
    assert re.search(said, got.warnings[0])
    assert lines(got, "offline")[1:] == list(got.warnings)


def test_a_study_that_goes_on_knows_how_long_runs_take() -> None:
    here = study()
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for number in (1, 2):
        begun = Experiment(
            id=number,
            role=Role.BASELINE,
            parent="b",
            commit="b",
            tree="t",
            tier="cpu",
            seed=1,
            accepted_at=at,
        )
        here.put(begun)
        ended = evolve(
            begun,
            state=ExperimentState.ENDED,
            value=1.0,
            verdict=Verdict.MEASURED,
            started_at=at,
            ended_at=at.replace(minute=1),
        )
        here.put(ended)
    got = estimate(here, Budget(max_experiments=12), {"experiments": 10.0}, 300.0, None)
    assert got.is_measured
    assert got.run_s == pytest.approx(60)
    assert got.experiments == 10
    assert not got.warnings
    assert "1 min a run (measured)" in lines(got, "offline")[0]
