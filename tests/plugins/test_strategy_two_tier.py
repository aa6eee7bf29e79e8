"""The conformance suite, and whole studies with tiers that agree more or less about what is good."""

import random
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
from attrs import define, evolve, field

from arf.errors import UsageError
from arf.interfaces import Strategy
from arf.testing.laboratory import Ideas, Laboratory
from arf.testing.suites import StrategySuite
from arf.testing.suites.strategy import World
from arf.types import Ask, Experiment, Plan, Role, Tier, Verdict
from arf_plugins.strategy_two_tier import Options
from arf_plugins.strategy_two_tier.rungs import Rung, find_rungs
from arf_plugins.strategy_two_tier.screening import Screening
from arf_plugins.strategy_two_tier.strategy import TwoTier

BLOG = (
    Tier(name="h100", slots=13, usd_per_hour=2.0),
    Tier(name="h200", slots=3, usd_per_hour=2.3),
)
"""The machines of the published run."""


class TestTwoTier(StrategySuite):
    def make(self) -> Strategy:
        return TwoTier()


class TestTwoTierOnShortBudgets(StrategySuite):
    def make(self) -> Strategy:
        return TwoTier(Options(share=0.1, lookahead=0))


class TestTwoTierWithOneTier(StrategySuite):
    def world(self, **settings: Any) -> World:
        return super().world(**{"tiers": [Tier(name="only", slots=4)], **settings})

    def make(self) -> Strategy:
        return TwoTier()


@define
class Machines(Laboratory):
    """A laboratory whose tiers and budgets disagree, and take their time."""

    tiers: Sequence[Tier] = BLOG
    disagreement: float = 0.0
    """Standard deviation of what each idea does to a cheap reading and not to a dear one."""
    final: str = "h200"
    offset: float = -5.0
    """What the final tier reads more than the others."""
    run_s: Mapping[str, float] = field(factory=dict)
    heeds: bool = True
    """Whether a shorter budget makes shorter runs."""
    steps: Mapping[str, float] = field(factory=dict)

    def value(self, experiment: Experiment) -> float:
        value = super().value(experiment)
        if experiment.tier == self.final:
            value += self.offset
        if experiment.tier != self.final or experiment.budget:
            for idea in self.trees[experiment.commit]:
                value += random.Random(f"{experiment.tier}/{idea}").gauss(0, 1) * self.disagreement
        return value

    def tell(self, method: str, *arguments: Any) -> None:
        if method == "put":
            (run,) = arguments
            if run.ended_at is not None:
                share = run.budget if run.budget and self.heeds else 1.0
                seconds = self.run_s.get(run.tier, 300.0) * share
                metrics = {"num_steps": self.steps[run.tier]} if run.tier in self.steps else {}
                run = evolve(run, ended_at=run.started_at + timedelta(seconds=seconds), metrics=metrics)
            arguments = (run,)
        super().tell(method, *arguments)

    def screening(self, rung: Rung, final: Rung) -> Screening:
        return Screening(self.study, rung, final, 0.8, 0.5)


def spread_out(ideas: Ideas) -> float:
    """Most ideas do harm, some do good: effects of three times the noise."""
    return sum(random.Random(idea).gauss(2, 3) for idea in ideas)


def ran(laboratory: Laboratory, role: Role) -> list[Experiment]:
    return [laboratory.study.experiments[number] for number in laboratory.study.by_role(role)]


# ---- Which tier is which ------------------------------------------------------------------------


def final_of(tiers: Sequence[Tier], options: Options | None = None, **settings: Any) -> tuple[str, str]:
    """The tier with the last word once the baseline has run, and why."""
    laboratory = Machines(TwoTier(), tiers=tiers, ideas=0, **settings)
    laboratory.run()
    rungs = find_rungs(laboratory.study, options or Options())
    assert rungs is not None
    return rungs.final.tier, rungs.found


def test_the_dearest_tier_has_the_last_word() -> None:
    assert final_of(BLOG) == ("h200", "the dearest, 2.3 $/h against 2 $/h")
    assert final_of(BLOG[::-1])[0] == "h200"


def test_without_prices_the_faster_one_has_it_as_declared_or_as_measured() -> None:
    two = (Tier(name="a", slots=2), Tier(name="b", slots=4))
    declared = (two[0], evolve(two[1], speed=1.3))
    assert final_of(declared)[0] == "b"
    assert final_of(two, run_s={"a": 300, "b": 200}) == (
        "b",
        "the fastest, 1.5 times as fast with the baseline",
    )
    name, why = final_of(two, steps={"a": 1000, "b": 1076})
    assert (name, why) == ("b", "the fastest, 1.08 times as fast with the baseline")


def test_of_equal_tiers_the_one_with_the_fewest_slots_has_it() -> None:
    assert final_of((Tier(name="a", slots=4), Tier(name="b", slots=2)))[0] == "b"


def test_while_only_the_baseline_can_tell_nothing_else_is_run() -> None:
    laboratory = Machines(TwoTier(), tiers=(Tier(name="a", slots=4), Tier(name="b", slots=8)))
    laboratory.settle()
    laboratory.answer(min(laboratory.study.open_asks))
    laboratory.settle()
    assert {run.role for run in laboratory.study.experiments.values()} == {Role.BASELINE}


def test_the_user_can_say_who_screens() -> None:
    assert final_of(BLOG, Options(final="h100"))[0] == "h100"
    assert final_of(BLOG, Options(screen="h200"))[0] == "h100"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (Options(screen="h10"), "strategy.screen: there is no tier 'h10'; did you mean 'h100'?"),
        (Options(final="v5p"), "strategy.final: there is no tier 'v5p'; known: h100, h200"),
        (Options(screen="h100", final="h100"), "'h100' is the tier that has the last word"),
    ],
)
def test_tiers_that_cannot_be_are_named(options: Options, told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("?", r"\?")):
        TwoTier(options).decide(Machines(TwoTier()).study, {"h100": 1, "h200": 1})


def test_a_screening_tier_where_there_is_only_one_is_an_error_that_says_what_to_do() -> None:
    one = Machines(TwoTier(), tiers=BLOG[:1]).study
    with pytest.raises(UsageError, match=r"set strategy\.share"):
        TwoTier(Options(screen="h100")).decide(one, {"h100": 1})


# ---- Screening and promotion --------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched() -> Machines:
    laboratory = Machines(TwoTier(), ideas=150, truth=spread_out, disagreement=0.5, seed=1)
    laboratory.run()
    return laboratory


def test_ideas_are_screened_on_the_cheap_tier_and_judged_on_the_dear_one(searched: Machines) -> None:
    assert {(run.tier, run.budget) for run in ran(searched, Role.CELL)} == {("h100", None)}
    assert {(run.tier, run.budget) for run in ran(searched, Role.CANDIDATE)} == {("h200", None)}
    assert all(run.tier == "h200" for run, _ in searched.keeps())


def test_what_is_good_gets_through(searched: Machines) -> None:
    everything = sum(min(0.0, spread_out(frozenset({idea}))) for idea in range(1, 151))
    assert searched.best < 0.6 * everything
    assert all(gain > 0 for _, gain in searched.keeps())


def test_people_see_the_rank_the_trust_and_the_offset(searched: Machines) -> None:
    titles = [run.title for run in ran(searched, Role.CANDIDATE) if "promoted" in run.title]
    assert "not known yet" in titles[0]
    assert "rank agreement 0." in titles[-1]
    assert " on h100; " in titles[-1]
    assert "h200 reads -" in titles[-1]
    replicates = [run.title for run in ran(searched, Role.REPLICATE)]
    assert any("to screen for h200: the dearest, 2.3 $/h" in title for title in replicates)


def shares(disagreement: float) -> list[float]:
    found = []
    for seed in range(3):
        laboratory = Machines(
            TwoTier(),
            ideas=400,
            truth=spread_out,
            disagreement=disagreement,
            max_experiments=400,
            seed=seed,
        )
        laboratory.run()
        found.append(laboratory.screening(Rung(tier="h100"), Rung(tier="h200")).share)
    return found


def test_fewer_are_promoted_the_better_the_cheap_tier_has_ranked() -> None:
    assert sum(shares(0.5)) < 0.8 * sum(shares(30.0))


def test_a_dear_slot_is_not_idle_while_an_idea_is_untried() -> None:
    def check(world: World, free: Mapping[str, int], wanted: Sequence[Plan | Ask]) -> None:
        plans = [item for item in wanted if isinstance(item, Plan)]
        screens = sum(plan.role is Role.CELL for plan in plans)
        on_final = sum(plan.tier == "h200" for plan in plans)
        assert on_final >= free["h200"] or screens == world.study.untried_count

    laboratory = Machines(TwoTier(), ideas=100, truth=spread_out, check=check)
    laboratory.run()


def test_an_idea_is_promoted_once_for_an_incumbent(searched: Machines) -> None:
    tried = [(run.parent, run.ideas) for run in ran(searched, Role.CANDIDATE)]
    assert len(tried) == len(set(tried))


def test_on_noise_a_study_keeps_nothing_but_once_in_twenty() -> None:
    kept = 0
    for seed in range(20):
        laboratory = Machines(TwoTier(), ideas=60, seed=seed)
        laboratory.run()
        kept += bool(laboratory.keeps())
    assert kept <= 3


def test_a_tier_that_the_script_does_not_run_on_does_not_screen() -> None:
    laboratory = Machines(TwoTier(), ideas=20, crash=lambda run: run.tier == "h100", truth=spread_out)
    laboratory.run()
    assert not any(run.value for run in ran(laboratory, Role.CELL))
    # Those that came to the cheap tier before it was known are lost; the others are judged.
    assert len(ran(laboratory, Role.CANDIDATE)) + len(ran(laboratory, Role.CELL)) >= 20
    assert ran(laboratory, Role.CANDIDATE)


# ---- Short budgets ------------------------------------------------------------------------------


def test_with_one_tier_a_quarter_of_the_budget_screens() -> None:
    laboratory = Machines(TwoTier(), tiers=BLOG[1:], ideas=60, truth=spread_out, disagreement=0.5)
    laboratory.run()
    assert {run.budget for run in ran(laboratory, Role.CELL)} == {0.25}
    assert {run.budget for run in ran(laboratory, Role.CANDIDATE)} == {None}
    assert laboratory.study.baseline_group("h200", 0.25) is not None
    assert laboratory.best < -5


def test_a_script_that_does_not_heed_the_budget_is_not_screened_with_it() -> None:
    laboratory = Machines(TwoTier(), tiers=BLOG[1:], ideas=30, truth=spread_out, heeds=False)
    laboratory.run()
    assert not ran(laboratory, Role.CELL)
    assert len(ran(laboratory, Role.CANDIDATE)) >= 30


def test_a_share_on_a_cheap_tier_that_heeds_it_not_is_screened_in_full() -> None:
    laboratory = Machines(TwoTier(Options(share=0.3)), ideas=40, truth=spread_out, heeds=False)
    laboratory.run()
    assert {run.budget for run in ran(laboratory, Role.CELL)} == {None}


# ---- Cost ---------------------------------------------------------------------------------------


def test_a_decision_costs_the_same_after_thousands_of_experiments() -> None:
    costs = {}
    for size in (600, 4_000):
        laboratory = Machines(TwoTier(), ideas=10**9, max_experiments=size)
        laboratory.run()
        costs[size] = calls(laboratory)
    assert costs[4_000] <= 1.5 * costs[600]


def calls(laboratory: Laboratory) -> int:
    """How many functions a decision calls: its cost, whatever else the machine does."""
    count = 0

    def watch(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(watch)
    try:
        laboratory.strategy.decide(laboratory.study, {tier.name: tier.slots for tier in laboratory.tiers})
    finally:
        sys.setprofile(None)
    return count


def test_the_same_seed_gives_the_same_study() -> None:
    def ledger() -> list[tuple[str, tuple[int, ...], str, Verdict | None]]:
        laboratory = Machines(TwoTier(), ideas=40, truth=spread_out, disagreement=1.0, seed=3)
        laboratory.run()
        return [(e.parent, e.ideas, e.tier, e.verdict) for e in laboratory.study.experiments.values()]

    assert ledger() == ledger()
