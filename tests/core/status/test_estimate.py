"""What is said before the first job, by hand."""

import math
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import evolve

from arf.config.schema import Budget
from arf.interfaces import Agent, Brief
from arf.status.estimate import UNLIMITED, Estimate, cost_of_ask, estimate, lines, to_json
from arf.study import Study
from arf.types import Answer, Ask, Experiment, ExperimentState, NoiseRule, Role, Tier, Usage, Verdict

PUBLISHED = (Tier(name="h100", slots=13, usd_per_hour=2.0), Tier(name="h200", slots=3, usd_per_hour=2.3))
FREE = Usage()
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
    tiers: tuple[Tier, ...] = (Tier(name="cpu", slots=2),), ask: Usage | None = FREE, **budget: float
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
def test_what_is_used_up_first_ends_it(budget: dict[str, Any], experiments: int, seconds: float) -> None:
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
    assert to_json(got)["seconds"] is None


def test_a_study_that_costs_money_without_a_limit_is_warned_of() -> None:
    line, warning = lines(told(PUBLISHED, ask=Usage(usd=0.1)), "anthropic")
    assert "$32.90 an hour for machines; about $1.20 an hour for anthropic" in line
    assert warning == f"warning: {UNLIMITED}"


def test_what_an_agent_costs_may_not_be_known() -> None:
    (line,) = lines(told(ask=None, max_experiments=25), "claude-code")
    assert "the cost of about 11 asks of claude-code is not known" in line
    (line, warning) = lines(told(ask=None), "claude-code")
    assert "the cost of claude-code is not known" in line
    assert UNLIMITED in warning


def test_tokens_are_told_of_an_agent_without_a_price() -> None:
    (line,) = lines(told(ask=Usage(input_tokens=900, output_tokens=100), max_experiments=25), "mine")
    assert "about 11,000 tokens for 11 asks of mine" in line


def test_an_agent_that_costs_nothing_is_left_out() -> None:
    (line,) = lines(told(max_experiments=25), "offline")
    assert "offline" not in line


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"max_tokens": 999}, "budget.max_tokens (999) pays for no ask of the agent: one takes about 1,000"),
        (
            {"max_usd": 1.7},
            "budget.max_usd (1.7) pays for no ask of the agent: the baseline takes about $1.43",
        ),
    ],
)
def test_a_budget_that_pays_for_no_ask_is_warned_of(budget: dict[str, Any], said: str) -> None:
    got = told(PUBLISHED, ask=Usage(input_tokens=900, output_tokens=100, usd=0.3), **budget)
    assert said in got.warnings[0]


class Teller(Agent):
    """Says of itself whatever it is given, or raises it."""

    def estimate(self, brief: Brief) -> Usage | None:
        if isinstance(self.options, Exception):
            raise self.options
        said: Usage | None = self.options
        return said

    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        return Answer()


@pytest.mark.parametrize(
    "said", [RuntimeError("no"), Usage(usd=math.nan), Usage(usd=-1), Usage(usd=math.inf), "much"]
)
def test_an_agent_whose_estimate_is_broken_has_no_known_cost(
    said: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert cost_of_ask(Teller(said), "mine", Brief(study=study(), files={})) is None
    assert "agent mine cannot tell what it costs" in caplog.text


def test_an_agent_may_know_what_it_costs_or_not() -> None:
    brief = Brief(study=study(), files={})
    assert cost_of_ask(Teller(Usage(usd=2.0)), "mine", brief) == Usage(usd=2.0)
    assert cost_of_ask(Teller(None), "mine", brief) is None


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"max_experiments": 8}, "budget.max_experiments .8. leaves nothing for ideas.*8 runs"),
        ({"max_time": 900.0}, "budget.max_time.*20 min"),
        ({"max_slot_hours": 0.2}, "budget.max_slot_hours.*0.667"),
    ],
)
def test_a_budget_that_the_baseline_uses_up_is_warned_of(budget: dict[str, Any], said: str) -> None:
    got = told((Tier(name="a", slots=1), Tier(name="b", slots=2)), **budget)
    assert re.search(said, got.warnings[0])
    assert lines(got, "offline")[1:] == [f"warning: {warning}" for warning in got.warnings]


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
    got = estimate(here, Budget(max_experiments=12), {"experiments": 10.0}, 300.0, Usage())
    assert got.is_measured
    assert got.run_s == pytest.approx(60)
    assert got.experiments == 10
    assert not got.warnings
    (line,) = lines(got, "offline")
    assert line.startswith("estimate of what is left: about 10 experiments")
    assert "1 min a run (measured)" in line
    none = estimate(here, Budget(max_experiments=2), {"experiments": 0.0}, 300.0, Usage())
    assert lines(none, "offline") == ["estimate of what is left: no experiment; max_experiments is used up"]
