"""The conformance suite, and what makes it a control: results change nothing."""

from arf.interfaces import Strategy
from arf.testing.laboratory import Laboratory
from arf.testing.suites import StrategySuite
from arf.types import Plan, Role, Tier
from arf_plugins.strategy_random import Options
from arf_plugins.strategy_random.strategy import Random


class TestRandom(StrategySuite):
    def make(self) -> Strategy:
        return Random()


class TestRandomSingles(StrategySuite):
    def make(self) -> Strategy:
        return Random(Options(most=1))


def tried(laboratory: Laboratory) -> list[tuple[str, tuple[int, ...]]]:
    experiments = laboratory.study.experiments.values()
    return [(e.parent, e.ideas) for e in experiments if e.role is Role.CANDIDATE]


def test_everything_is_applied_to_the_baseline_even_when_something_was_kept() -> None:
    laboratory = Laboratory(
        Random(), ideas=60, tiers=[Tier(name="a", slots=4)], truth=lambda ideas: -10.0 * len(ideas),
        max_experiments=100,
    )  # fmt: skip
    laboratory.run()
    assert len(laboratory.study.kept) > 1
    assert {parent for parent, _ in tried(laboratory)} == {laboratory.study.base}


def test_no_set_of_ideas_is_tried_twice_and_none_is_too_large() -> None:
    laboratory = Laboratory(Random(Options(most=3)), ideas=8, tiers=[Tier(name="a", slots=4)])
    laboratory.run()
    sets = [ideas for _, ideas in tried(laboratory)]
    assert len(sets) == len(set(sets)) > 40
    assert {len(ideas) for ideas in sets} == {1, 2, 3}


def test_each_idea_is_used_and_sizes_are_mixed() -> None:
    laboratory = Laboratory(Random(), ideas=100, tiers=[Tier(name="a", slots=4)], max_experiments=150)
    laboratory.run()
    sets = [ideas for _, ideas in tried(laboratory)]
    assert {idea for ideas in sets for idea in ideas} == set(range(1, 101))
    assert all(sum(len(ideas) == size for ideas in sets) >= 10 for size in (1, 2, 3, 4))


def test_another_seed_draws_other_sets() -> None:
    draws = []
    for seed in (0, 0, 1):
        laboratory = Laboratory(
            Random(), ideas=30, seed=seed, tiers=[Tier(name="a", slots=1)], max_experiments=40
        )
        laboratory.run()
        draws.append(tried(laboratory))
    assert draws[0] == draws[1] != draws[2]


def test_free_slots_are_filled_and_no_more() -> None:
    laboratory = Laboratory(Random(), ideas=100, tiers=[Tier(name="a", slots=4)])
    laboratory.run(turns=20)
    for free in range(5):
        plans = [p for p in Random().decide(laboratory.study, {"a": free}) if isinstance(p, Plan)]
        assert len(plans) == min(free, laboratory.study.untried_count)
