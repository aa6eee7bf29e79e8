"""The conformance suite, and whole studies on objectives whose best is known."""

import random
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve

from arf.interfaces import Strategy
from arf.testing.laboratory import Ideas, Laboratory
from arf.testing.suites import StrategySuite
from arf.types import Experiment, NoiseRule, Plan, Role, Tier, Verdict
from arf_plugins import strategy_hybrid
from arf_plugins.strategy_greedy.strategy import Greedy
from arf_plugins.strategy_hybrid import Options, marginal, mixing, shrink
from arf_plugins.strategy_hybrid.strategy import Hybrid


class TestHybrid(StrategySuite):
    def make(self) -> Strategy:
        return Hybrid()


class TestHybridWithoutExtras(StrategySuite):
    def make(self) -> Strategy:
        return Hybrid(Options(lookahead=0, mix=0, fill=False, leave_one_out=0))


class TestHybridThatStops(StrategySuite):
    def make(self) -> Strategy:
        return Hybrid(Options(mix=2, min_gain_per_slot_hour=1e9))


def slots(count: int) -> list[Tier]:
    return [Tier(name="a", slots=count)]


def of_round(laboratory: Laboratory, start: str) -> list[Experiment]:
    return [run for run in laboratory.study.experiments.values() if run.round.startswith(start)]


# ---- Search -------------------------------------------------------------------------------------


def planted(ideas: Ideas) -> float:
    """Every tenth idea is 10 better, all others are 3 worse; the effects add up."""
    return sum(-10.0 if idea % 10 == 5 else 3.0 for idea in ideas)


@pytest.mark.parametrize("count", [1, 16])
def test_it_finds_what_is_planted(count: int) -> None:
    laboratory = Laboratory(Hybrid(), ideas=60, tiers=slots(count), truth=planted, max_experiments=220)
    laboratory.run()
    assert laboratory.best == -60.0


def small_gains(ideas: Ideas) -> float:
    """A third of the ideas is one and a half sigma better, too little to be proven by itself."""
    return sum(-1.5 if idea % 3 == 0 else 1.0 for idea in ideas)


def test_gains_that_are_too_small_to_be_proven_one_by_one_are_found_in_mixes() -> None:
    found = {}
    for name, strategy in (("greedy", Greedy()), ("hybrid", Hybrid())):
        found[name] = 0.0
        for seed in range(6):
            laboratory = Laboratory(
                strategy, ideas=60, seed=seed, tiers=slots(8), truth=small_gains, max_experiments=150
            )
            laboratory.run()
            found[name] += laboratory.best
    assert found["hybrid"] < 1.3 * found["greedy"] < 0


@pytest.mark.parametrize("size", [4, 7, 8, 11, 12, 15])
def test_the_cells_measure_every_idea_as_well_as_a_design_can(size: int) -> None:
    """Each idea is in half of the runs, and each pair of ideas together in a quarter."""
    ideas = tuple(range(1, size + 1))
    runs = [(), ideas, *mixing.cells(ideas)]
    if size in (7, 11, 15):
        assert len(runs) == size + 2
        for idea in ideas:
            assert sum(idea in cell for cell in runs[1:]) == (size + 1) / 2
            for other in range(1, idea):
                assert sum({idea, other} <= set(cell) for cell in runs[1:]) == (size + 1) / 4
    assert all(cell == tuple(sorted(cell)) for cell in runs)


def mixed(**settings: Any) -> Laboratory:
    """A study in which every odd idea is 1.5 better and every even one 0.2 worse, and all are near misses."""
    laboratory = Laboratory(
        Hybrid(Options(mix=7)),
        ideas=40,
        tiers=slots(8),
        truth=lambda ideas: sum(-1.5 if idea % 2 else 0.2 for idea in ideas),
        rule=NoiseRule(alpha=1e-6),
        **settings,
    )
    laboratory.run()
    return laboratory


def test_a_mix_tells_apart_what_helps() -> None:
    laboratory = mixed()
    mixes = [laboratory.study.experiments[number] for number in laboratory.study.by_round(mixing.ROUND)]
    errors = []
    for mix in (mix for mix in mixes if len(mix.ideas) >= mixing.FEWEST):
        for effect in mixing.effects(laboratory.study, mix):
            true = 1.5 if effect.idea % 2 else -0.2
            errors.append((effect.gain - true) / effect.error)
    assert len(errors) >= 7
    assert sum(abs(error) > 2 for error in errors) <= 0.15 * len(errors)
    assert laboratory.best < -8


def test_the_cells_of_a_mix_are_on_one_tier() -> None:
    tiers = (Tier(name="a", slots=2), Tier(name="b", slots=6))
    laboratory = Laboratory(Hybrid(), ideas=60, tiers=tiers, truth=small_gains, max_experiments=200)
    laboratory.run()
    study = laboratory.study
    assert laboratory.runs_of(Role.CELL)
    for number in study.by_round(mixing.ROUND):
        mix = study.experiments[number]
        cells = [study.experiments[cell] for cell in study.by_round(mixing.cells_round(mix))]
        assert {cell.tier for cell in cells} <= {mix.tier}


def test_near_misses_that_conflict_cost_no_run_and_do_not_spoil_the_mix() -> None:
    def refuse(plan: Plan) -> str:
        return "conflict" if sum(idea % 7 == 3 for idea in plan.ideas) > 1 else ""

    laboratory = mixed(refuse=refuse)
    mixes = of_round(laboratory, "mix")
    assert mixes
    assert all(sum(idea % 7 == 3 for idea in run.ideas) <= 1 for run in mixes)


def test_nothing_is_mixed_twice_and_no_plan_is_made_twice() -> None:
    laboratory = mixed()
    seen = [
        idea
        for number in laboratory.study.by_round(mixing.ROUND)
        for idea in experiment_ideas(laboratory, number)
    ]
    assert len(seen) == len(set(seen))
    tried = [
        (run.parent, run.ideas)
        for run in laboratory.study.experiments.values()
        if run.role in (Role.CANDIDATE, Role.CELL)
    ]
    assert len(tried) == len(set(tried))


def experiment_ideas(laboratory: Laboratory, number: int) -> tuple[int, ...]:
    return laboratory.study.experiments[number].ideas


def test_on_noise_a_study_keeps_nothing_but_once_in_twenty() -> None:
    kept = 0
    for seed in range(20):
        laboratory = Laboratory(Hybrid(), ideas=60, seed=seed, tiers=slots(8))
        laboratory.run()
        kept += bool(laboratory.keeps())
    assert kept <= 3


def test_idle_slots_run_the_incumbent_and_near_misses_again_but_not_for_ever() -> None:
    def idle(options: Options) -> list[Experiment]:
        laboratory = Laboratory(Hybrid(options), ideas=40, tiers=slots(16), truth=small_gains)
        laboratory.run()
        runs = list(laboratory.study.experiments.values())
        most = laboratory.study.rule.max_replicates
        again = [run for run in runs if "in an idle slot" in run.title]
        assert all(len(laboratory.study.group_of(run).experiments) <= most + 3 for run in again)
        return again

    assert {run.role for run in idle(Options())} == {Role.REPLICATE}
    assert not idle(Options(fill=False))


# ---- The smallest patch -------------------------------------------------------------------------


def superseded(ideas: Ideas) -> float:
    """Idea 1 helps until idea 2 is in, which does all that it did and more; idea 3 helps by itself."""
    first = -20.0 if 2 in ideas else -10.0 * (1 in ideas)
    return first - 10.0 * (3 in ideas) + 5.0 * len(ideas - {1, 2, 3})


def shrunk(**settings: Any) -> Laboratory:
    laboratory = Laboratory(Hybrid(), ideas=12, tiers=slots(1), truth=superseded, **settings)
    laboratory.run()
    return laboratory


def test_at_the_end_each_kept_change_is_left_out_with_replicates() -> None:
    laboratory = shrunk()
    assert laboratory.trees[laboratory.study.incumbent_commit] == {1, 2, 3}
    runs = of_round(laboratory, "leave one out")
    sets = [run.ideas for run in runs if run.ideas]
    assert {ideas: sets.count(ideas) for ideas in sets} == {(1, 2): 3, (1, 3): 3, (2, 3): 3}
    assert sum(not run.ideas for run in runs) == 6
    assert all(run.verdict is Verdict.MEASURED for run in runs)
    assert runs[-1].id >= max(run.id for run in laboratory.study.experiments.values()) - 3  # confirmation


def test_the_smallest_patch_that_keeps_the_gain_is_told() -> None:
    text = shrink.describe(shrunk().study)
    lines = text.splitlines()
    assert [line.split("  ")[1] for line in lines[2:5]] == ["not needed", "needed", "needed"]
    assert "The smallest patch that keeps the gain has 2 of 3 changes" in text
    assert text.endswith("idea 2, idea 3\n\n") or text.rstrip().endswith("idea 2, idea 3")


def test_several_changes_that_are_not_needed_one_by_one_are_checked_together() -> None:
    """Either of two will do, so each can be left out, but not both."""

    def either(ideas: Ideas) -> float:
        gain = 20.0 * bool(ideas & {1, 2}) + 10.0 * (3 in ideas) + 6.0 * (2 in ideas and 3 not in ideas)
        return 5.0 * len(ideas - {1, 2, 3}) - gain

    laboratory = Laboratory(Hybrid(), ideas=3, tiers=slots(1), truth=either)
    laboratory.run()
    assert laboratory.trees[laboratory.study.incumbent_commit] == {1, 2, 3}
    sets = [run.ideas for run in of_round(laboratory, "leave one out")]
    assert sets.count((3,)) == 3
    text = shrink.describe(laboratory.study)
    assert [line.split("  ")[1] for line in text.splitlines()[2:5]] == ["not needed", "not needed", "needed"]
    assert "has 2 of 3 changes" in text


def test_changes_that_cannot_be_taken_out_are_said_to_be_so() -> None:
    def refuse(plan: Plan) -> str:
        return (
            "conflict" if 2 in plan.ideas and plan.parent.startswith("ba5e") and 1 not in plan.ideas else ""
        )

    text = shrink.describe(shrunk(refuse=refuse).study)
    assert "cannot be taken out" in text


def test_the_table_is_written_where_the_study_is(tmp_path: Path) -> None:
    strategy_hybrid.arf_study_finished(shrunk().study, tmp_path)
    assert "not needed" in (tmp_path / strategy_hybrid.REPORT).read_text()
    greedy = Laboratory(Greedy(), ideas=12, tiers=slots(1), truth=superseded)
    greedy.run()
    (tmp_path / strategy_hybrid.REPORT).unlink()
    strategy_hybrid.arf_study_finished(greedy.study, tmp_path)
    assert not list(tmp_path.iterdir())


def test_of_changes_of_the_same_constant_only_the_last_is_a_part() -> None:
    laboratory = Laboratory(Hybrid(), ideas=3, tiers=slots(1), truth=superseded)
    add = laboratory.study.add_idea

    def with_constants(idea: Any) -> None:
        add(evolve(idea, constants={"LR": idea.id} if idea.id < 3 else {"DEPTH": 4}))

    laboratory.study.add_idea = with_constants  # type: ignore[method-assign]
    laboratory.run()
    assert shrink.parts(laboratory.study) == (2, 3)


def test_the_last_of_a_limited_number_of_experiments_are_for_the_smallest_patch() -> None:
    laboratory = Laboratory(
        Hybrid(), ideas=1000, tiers=slots(4), truth=lambda i: superseded(i & {1, 2, 3}), max_experiments=120
    )
    laboratory.run()
    assert of_round(laboratory, "leave one out")
    assert shrink.describe(laboratory.study)


# ---- When to stop -------------------------------------------------------------------------------


@define
class Timed(Laboratory):
    """Runs take five minutes."""

    def tell(self, method: str, *arguments: Any) -> None:
        if method == "put" and arguments[0].ended_at is not None:
            (run,) = arguments
            arguments = (evolve(run, ended_at=run.started_at + timedelta(minutes=5)),)
        super().tell(method, *arguments)


def candidates(options: Options, tiers: Sequence[Tier]) -> int:
    def truth(ideas: Ideas) -> float:
        return -10.0 * len(ideas & {3, 6, 9}) + 2.0 * len(ideas - {3, 6, 9})

    laboratory = Timed(Hybrid(options), ideas=400, tiers=tiers, truth=truth)
    laboratory.run()
    assert laboratory.best == -30
    assert of_round(laboratory, "leave one out")
    return laboratory.runs_of(Role.CANDIDATE)


def test_it_stops_when_less_is_expected_than_the_user_wants() -> None:
    tiers = [Tier(name="a", slots=4, usd_per_hour=2.0)]
    everything = candidates(Options(), tiers)
    assert everything >= 400
    assert candidates(Options(min_gain_per_slot_hour=1.0), tiers) < 0.5 * everything
    assert candidates(Options(min_gain_per_usd=0.5), tiers) < 0.5 * everything
    assert candidates(Options(min_gain_per_slot_hour=1e-9), tiers) == everything


def test_what_is_expected_falls_as_gains_become_rare() -> None:
    expected = []

    def truth(ideas: Ideas) -> float:
        return sum(-5.0 if idea < 60 and idea % 6 == 0 else 2.0 for idea in ideas)

    for size in (30, 100, 400):
        laboratory = Timed(Hybrid(), ideas=10_000, tiers=slots(4), truth=truth, max_experiments=size)
        laboratory.run()
        expected.append(marginal.expected(laboratory.study).per_slot_hour)
    assert expected[0] == float("inf")
    assert expected[1] > 5 * expected[2] > 0


# ---- Cost ---------------------------------------------------------------------------------------


def test_a_decision_costs_the_same_after_thousands_of_experiments() -> None:
    costs = {}
    for size in (600, 4_000):
        laboratory = Laboratory(Hybrid(), ideas=10**9, tiers=slots(16), max_experiments=size)
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
        laboratory.strategy.decide(laboratory.study, {"a": 16})
    finally:
        sys.setprofile(None)
    return count


def test_the_same_seed_gives_the_same_study() -> None:
    def ledger() -> list[tuple[str, tuple[int, ...], str, Verdict | None]]:
        laboratory = Laboratory(Hybrid(), ideas=40, tiers=slots(4), truth=noisy, seed=3)
        laboratory.run()
        return [(e.parent, e.ideas, e.round, e.verdict) for e in laboratory.study.experiments.values()]

    def noisy(ideas: Ideas) -> float:
        return sum(random.Random(idea).gauss(0.5, 2) for idea in ideas)

    assert ledger() == ledger()
