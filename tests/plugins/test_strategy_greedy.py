"""The conformance suite, and whole studies on an objective whose best is known."""

import random
import sys
from typing import Any

import pytest
from attrs import evolve

from arf.interfaces import Strategy
from arf.study import Study
from arf.testing.laboratory import Ideas, Laboratory
from arf.testing.suites import StrategySuite
from arf.types import Ask, Experiment, Plan, Role, Tier, Verdict
from arf_plugins.strategy_greedy import Options
from arf_plugins.strategy_greedy.strategy import Greedy


class TestGreedy(StrategySuite):
    def make(self) -> Strategy:
        return Greedy()


class TestGreedyWithoutLookahead(StrategySuite):
    def make(self) -> Strategy:
        return Greedy(Options(lookahead=0, combine=False))


def slots(count: int) -> list[Tier]:
    return [Tier(name="a", slots=count)]


def planted(ideas: Ideas) -> float:
    """Every tenth idea is 10 better, all others are 3 worse; the effects add up."""
    return sum(-10.0 if idea % 10 == 5 else 3.0 for idea in ideas)


def calls(study: Study, free: dict[str, int], strategy: Strategy) -> int:
    """How many Python functions a decision calls: its cost, whatever else the machine does."""
    count = 0

    def watch(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(watch)
    try:
        strategy.decide(study, free)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("count", [1, 16])
def test_it_finds_what_is_planted_and_wastes_little(count: int) -> None:
    laboratory = Laboratory(Greedy(), ideas=60, tiers=slots(count), truth=planted, max_experiments=160)
    laboratory.run()
    assert laboratory.best == -60.0
    # 60 ideas, 4 of the baseline, 3 to confirm; the rest are replicates and re-based ideas.
    assert len(laboratory.study.experiments) <= 67 + 30


def test_with_noise_as_large_as_the_gains_it_still_climbs() -> None:
    def truth(ideas: Ideas) -> float:
        return sum(-random.Random(idea).uniform(1, 5) if idea % 5 == 0 else 2.0 for idea in ideas)

    found = []
    for seed in range(5):
        laboratory = Laboratory(
            Greedy(), ideas=200, seed=seed, tiers=slots(8), truth=truth, max_experiments=250
        )
        laboratory.run()
        found.append(laboratory.best)
    assert sum(found) / 5 < -15


def test_every_free_slot_gets_a_plan_and_no_more() -> None:
    laboratory = Laboratory(Greedy(), ideas=100, tiers=slots(4))
    laboratory.run(turns=30)
    for free in range(5):
        plans = [p for p in Greedy().decide(laboratory.study, {"a": free}) if isinstance(p, Plan)]
        assert len(plans) == free
        assert len({plan.ideas for plan in plans}) == free
        assert all(plan.parent == laboratory.study.incumbent_commit for plan in plans)


def test_it_never_tries_the_same_ideas_on_the_same_parent_twice() -> None:
    laboratory = Laboratory(Greedy(), ideas=60, tiers=slots(16), truth=planted)
    laboratory.run()
    tried = [(e.parent, e.ideas) for e in laboratory.study.experiments.values() if e.role is Role.CANDIDATE]
    assert len(tried) == len(set(tried))


def test_ideas_are_asked_for_ahead_of_need_in_portions_of_the_slots() -> None:
    laboratory = Laboratory(Greedy(Options(lookahead=2)), tiers=slots(8))
    first = Greedy(Options(lookahead=2)).decide(laboratory.study, {"a": 8})
    assert first == [Ask(n=8, base=laboratory.study.base)]
    laboratory.tell("open_ask", 1, first[0])
    assert Greedy(Options(lookahead=2)).decide(laboratory.study, {"a": 8}) == [
        Ask(n=8, base=laboratory.study.base)
    ]
    laboratory.tell("open_ask", 2, first[0])
    assert Greedy(Options(lookahead=2)).decide(laboratory.study, {"a": 8}) == []


def stale_study() -> tuple[Laboratory, Experiment]:
    """Two ideas beat the baseline side by side; one is kept, and the other is left behind."""
    laboratory = Laboratory(
        Greedy(), ideas=2, tiers=slots(2), sigma=0.01, truth=lambda ideas: -1.0 * len(ideas)
    )
    for _ in range(50):
        laboratory.settle()
        study = laboratory.study
        if study.stale:
            return laboratory, study.experiments[study.stale[0]]
        for number in list(study.running):
            laboratory.end(number)
        for number in list(study.open_asks):
            laboratory.answer(number)
    raise AssertionError("nothing became stale")


def test_an_idea_that_won_on_an_older_incumbent_is_re_based_once() -> None:
    laboratory, stale = stale_study()
    study = laboratory.study
    again = [e for e in study.experiments.values() if e.ideas == stale.ideas and e.parent != stale.parent]
    assert [e.parent for e in again] == [study.incumbent_commit]
    laboratory.run()
    assert laboratory.best == -2.0
    again = [e for e in study.experiments.values() if e.ideas == stale.ideas and e.role is Role.CANDIDATE]
    assert len(again) == 2


def test_several_winners_that_were_found_side_by_side_are_taken_in_together() -> None:
    laboratory = Laboratory(
        Greedy(), ideas=8, tiers=slots(8), sigma=0.01, truth=lambda ideas: -1.0 * len(ideas)
    )
    laboratory.run()
    assert laboratory.best == -8.0
    assert sum(len(experiment.ideas) > 1 for experiment, _ in laboratory.keeps()) >= 2


def test_of_ideas_that_set_the_same_constant_only_the_better_joins_a_combination() -> None:
    laboratory = Laboratory(
        Greedy(), ideas=8, tiers=slots(8), sigma=0.01, truth=lambda ideas: -min(ideas, default=0)
    )
    add = laboratory.study.add_idea
    laboratory.study.add_idea = lambda idea: add(evolve(idea, constants={"LR": idea.id}))  # type: ignore[method-assign]
    laboratory.run()
    assert all(len(e.ideas) < 2 for e in laboratory.study.experiments.values())


def test_a_kept_idea_that_another_was_kept_over_is_not_forgotten() -> None:
    """Whatever the order of the ends, all that is planted gets into the incumbent."""
    for seed in range(10):
        laboratory = Laboratory(Greedy(), ideas=60, seed=seed, tiers=slots(16), truth=planted)
        laboratory.run()
        assert laboratory.best == -60.0


def test_near_misses_are_paired_once_the_agent_has_nothing_more() -> None:
    """Each gain is too small to be proven by itself; two together are not."""

    def truth(ideas: Ideas) -> float:
        return -2.2 * len(ideas & {3, 4})

    kept = 0
    for seed in range(20):
        laboratory = Laboratory(Greedy(), ideas=5, seed=seed, tiers=slots(2), truth=truth)
        laboratory.run()
        pairs = [e for e in laboratory.study.experiments.values() if len(e.ideas) == 2]
        assert all(e.id > 8 for e in pairs)
        kept += any(e.verdict is Verdict.KEEP for e in pairs)
        without = Laboratory(Greedy(Options(combine=False)), ideas=5, seed=seed, tiers=slots(2), truth=truth)
        without.run()
        assert all(len(e.ideas) < 2 for e in without.study.experiments.values())
    assert kept > 0


def test_a_decision_costs_the_same_after_ten_thousand_experiments() -> None:
    costs = {}
    for size in (100, 10_000):
        laboratory = Laboratory(Greedy(), ideas=10**9, tiers=slots(16), truth=planted, max_experiments=size)
        laboratory.truth = lambda ideas: 0.0
        laboratory.run()
        assert len(laboratory.study.experiments) >= size
        costs[size] = calls(laboratory.study, {"a": 16}, Greedy())
    assert costs[10_000] <= 1.5 * costs[100]


def test_a_result_of_a_study_does_not_depend_on_when_it_was_resumed() -> None:
    """The same seed gives the same study, experiment by experiment."""

    def ledger() -> list[tuple[str, tuple[int, ...], Verdict | None]]:
        laboratory = Laboratory(Greedy(), ideas=40, tiers=slots(4), truth=planted, seed=3)
        laboratory.run()
        return [(e.parent, e.ideas, e.verdict) for e in laboratory.study.experiments.values()]

    assert ledger() == ledger()


def test_a_failed_candidate_is_neither_stale_nor_a_near_miss() -> None:
    laboratory = Laboratory(
        Greedy(),
        ideas=30,
        tiers=slots(4),
        truth=planted,
        crash=lambda e: bool(e.ideas) and e.ideas[0] % 2 == 1,
    )
    laboratory.run()
    study = laboratory.study
    assert all(study.experiments[number].value is not None for number in study.stale)
    assert all(study.experiments[number].value is not None for _, number in study.near_misses)
    assert laboratory.best == 0.0
