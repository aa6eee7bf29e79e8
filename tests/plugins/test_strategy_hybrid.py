"""The conformance suite, and whole studies on objectives whose best is known."""

import random
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve

from arf.interfaces import Strategy
from arf.judge.statistics import deciding_order
from arf.testing.laboratory import Ideas, Laboratory
from arf.testing.suites import StrategySuite
from arf.types import Experiment, Plan, Role, Tier, Verdict
from arf_plugins import strategy_hybrid
from arf_plugins.strategy_greedy.strategy import Greedy
from arf_plugins.strategy_hybrid import Options, bundles, marginal, shrink, worth
from arf_plugins.strategy_hybrid.strategy import Hybrid


class TestHybrid(StrategySuite):
    def make(self) -> Strategy:
        return Hybrid()


class TestHybridWithoutExtras(StrategySuite):
    def make(self) -> Strategy:
        return Hybrid(Options(lookahead=0, alone=1000, fill=False, leave_one_out=0))


class TestHybridThatJudgesNothingAlone(StrategySuite):
    def make(self) -> Strategy:
        return Hybrid(Options(alone=0))


class TestHybridThatStops(StrategySuite):
    def make(self) -> Strategy:
        return Hybrid(Options(min_gain_per_slot_hour=1e9))


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


@pytest.mark.parametrize("count", [1, 16])
def test_gains_that_are_too_small_to_be_proven_one_by_one_are_found_in_bundles(count: int) -> None:
    found = {}
    for name, strategy in (("greedy", Greedy()), ("hybrid", Hybrid())):
        found[name] = 0.0
        for seed in range(3):
            laboratory = Laboratory(
                strategy, ideas=60, seed=seed, tiers=slots(count), truth=small_gains, max_experiments=150
            )
            laboratory.run()
            found[name] += laboratory.best
            assert all(gain > 0 for _, gain in laboratory.keeps())
    assert found["hybrid"] < 1.5 * found["greedy"] < 0


def measured(options: Options = Options(), count: int = 16, **settings: Any) -> Laboratory:  # noqa: B008
    laboratory = Laboratory(
        Hybrid(options), ideas=60, tiers=slots(count), truth=small_gains, max_experiments=200, **settings
    )
    laboratory.run()
    return laboratory


def test_only_some_ideas_are_judged_alone_and_what_is_only_measured_is_never_kept() -> None:
    laboratory = measured(Options(alone=5))
    probes = [laboratory.study.experiments[number] for number in laboratory.study.by_role(Role.PROBE)]
    assert probes
    assert {probe.verdict for probe in probes} == {Verdict.MEASURED}
    kept = [experiment.id for experiment, _ in laboratory.keeps()]
    for low, high in pairwise([0, *kept]):
        alone = [
            run
            for run in laboratory.study.experiments.values()
            if low < run.id < high and run.role is Role.CANDIDATE and not run.round
        ]
        assert len(alone) <= 5 + 16  # those that were under way when the incumbent was kept
    assert not measured(Options(alone=1000, fill=False), count=1).study.by_round(bundles.PROBES)


def test_no_run_that_a_bundle_was_chosen_by_counts_for_it() -> None:
    laboratory = measured()
    chosen = of_round(laboratory, bundles.ROUND)
    assert len(chosen) >= 3
    for bundle in chosen:
        tree = laboratory.trees[bundle.commit]
        runs = [run for run in laboratory.study.experiments.values() if laboratory.trees[run.commit] == tree]
        assert runs[0] == bundle or runs[0].role is Role.CELL


@pytest.mark.parametrize(("count", "copies"), [(1, 1), (16, bundles.COPIES)])
def test_with_many_slots_a_bundle_runs_several_times_side_by_side(count: int, copies: int) -> None:
    most = {}

    def note(world: Any, free: Any, decided: Any) -> None:
        bundle = bundles.under_way(world.study)
        if bundle is not None and bundle.verdict is None and not world.study.group_of(bundle).n:
            most[bundle.id] = world.study.group_of(bundle).running

    measured(count=count, check=note)
    assert max(most.values()) == copies


def test_while_a_bundle_is_proven_ideas_are_measured_on_it() -> None:
    laboratory = measured()
    made = {run.commit for run in of_round(laboratory, bundles.ROUND)}
    probes = [laboratory.study.experiments[number] for number in laboratory.study.by_role(Role.PROBE)]
    kept = {run.commit: run.id for run, _ in laboratory.keeps()}
    early = [probe for probe in probes if probe.parent in made]
    assert early
    assert any(probe.parent in kept for probe in early)


def test_ideas_that_conflict_cost_no_run_and_do_not_spoil_bundles() -> None:
    def refuse(plan: Plan) -> str:
        return "conflict" if sum(idea % 7 == 3 for idea in plan.ideas) > 1 else ""

    laboratory = measured(refuse=refuse)
    chosen = of_round(laboratory, bundles.ROUND)
    assert chosen
    assert all(sum(idea % 7 == 3 for idea in run.ideas) <= 1 for run in chosen)
    assert laboratory.best < -8


def test_a_bundle_that_crashes_is_not_the_end_of_bundles() -> None:
    def crash(experiment: Experiment) -> bool:
        return {3, 6} <= laboratory.trees[experiment.commit]

    laboratory = Laboratory(
        Hybrid(), ideas=60, tiers=slots(8), truth=small_gains, max_experiments=200, crash=crash
    )
    laboratory.run()
    assert laboratory.best < -8
    assert laboratory.best > -100


def test_a_large_gain_that_was_only_measured_is_found_with_a_companion() -> None:
    laboratory = Laboratory(
        Hybrid(), ideas=60, tiers=slots(4), truth=lambda ideas: sum(-9.0 if i == 50 else 2.0 for i in ideas)
    )
    laboratory.run()
    assert 50 in laboratory.trees[laboratory.study.incumbent_commit]


def test_bundles_are_judged_on_the_tier_that_decides_and_a_design_is_on_one_tier() -> None:
    tiers = (Tier(name="a", slots=2), Tier(name="b", slots=6))
    laboratory = Laboratory(Hybrid(), ideas=60, tiers=tiers, truth=small_gains, max_experiments=300)
    laboratory.run()
    assert of_round(laboratory, bundles.ROUND)[-1].tier == deciding_order(laboratory.study)[0]
    designs = of_round(laboratory, "mix on")
    assert designs
    for label in {run.round for run in designs}:
        assert len({run.tier for run in designs if run.round == label}) == 1


@pytest.mark.parametrize("size", [3, 7, 8, 11, 12, 15])
def test_the_cells_measure_every_idea_as_well_as_a_design_can(size: int) -> None:
    """Each idea is in half of the runs, and each pair of ideas together in a quarter."""
    ideas = tuple(range(1, size + 1))
    cells = bundles.cells(ideas)
    assert cells[0] == ideas
    if size in (7, 11, 15):
        assert len(cells) == size + 1
        for idea in ideas:
            assert sum(idea in cell for cell in cells) == (size + 1) / 2
            for other in range(1, idea):
                assert sum({idea, other} <= set(cell) for cell in cells) == (size + 1) / 4
    assert all(cell == tuple(sorted(cell)) and len(cell) > 1 for cell in cells)


def test_what_ideas_are_worth_is_told_from_all_runs_and_shrunk() -> None:
    laboratory = measured()
    found = worth.gains(laboratory.study)
    held = laboratory.trees[laboratory.study.incumbent_commit]
    assert {gain.idea for gain in found} == set(range(1, 61)) - held
    true = {gain.idea: 1.5 if gain.idea % 3 == 0 else -1.0 for gain in found}
    off = [(gain.mean - true[gain.idea]) / gain.error for gain in found]
    assert sum(abs(one) > 2 for one in off) <= 0.15 * len(off)
    assert found == sorted(found, key=lambda gain: -gain.mean)


def test_of_a_constant_the_value_counts_and_not_the_idea_that_set_it() -> None:
    laboratory = Laboratory(
        Hybrid(),
        ideas=6,
        tiers=slots(1),
        truth=lambda ideas: -8.0 * bool(ideas & {1, 2}) + 3.0 * len(ideas & {4, 5, 6}),
    )
    add = laboratory.study.add_idea

    def with_constants(idea: Any) -> None:
        same = {"LR": 0.1} if idea.id < 3 else {f"C{idea.id}": 1, "B": idea.id}
        add(evolve(idea, constants=same))

    laboratory.study.add_idea = with_constants  # type: ignore[method-assign]
    laboratory.run()
    assert laboratory.keeps()
    study = laboratory.study
    assert {1, 2}.isdisjoint(gain.idea for gain in worth.gains(study))  # the incumbent has that value
    assert worth.features_of(study, 3) == {"C3": 1, "B": 3, "3": None}
    made = worth.makings(study)
    assert made.with_ideas(study, study.base, (3, 4)) == {"C3": 1, "C4": 1, "B": 4, "4": None}


def test_no_plan_is_made_twice() -> None:
    laboratory = measured()
    tried = [(run.parent, run.ideas) for run in laboratory.study.experiments.values() if run.ideas]
    alone = [plan for plan in tried if plan[0] != laboratory.study.base or len(plan[1]) == 1]
    assert len(alone) == len(set(alone))


def test_on_noise_a_study_keeps_nothing_but_once_in_twenty() -> None:
    kept = 0
    for seed in range(20):
        laboratory = Laboratory(Hybrid(), ideas=60, seed=seed, tiers=slots(8))
        laboratory.run()
        kept += bool(laboratory.keeps())
    assert kept <= 3


def test_idle_slots_run_the_incumbent_again_but_not_for_ever() -> None:
    def idle(options: Options) -> list[Experiment]:
        laboratory = Laboratory(Hybrid(options), ideas=40, tiers=slots(16), truth=small_gains)
        laboratory.run()
        runs = list(laboratory.study.experiments.values())
        most = laboratory.study.rule.max_replicates
        again = [run for run in runs if "in an idle slot" in run.title]
        assert max(Counter(run.commit for run in again).values(), default=0) <= most
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
    assert runs[-1].id >= max(run.id for run in laboratory.study.experiments.values())


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

    laboratory = Timed(Hybrid(options), ideas=250, tiers=tiers, truth=truth)
    laboratory.run()
    assert laboratory.best == -30
    assert of_round(laboratory, "leave one out")
    return laboratory.runs_of(Role.CANDIDATE) + laboratory.runs_of(Role.PROBE)


def test_it_stops_when_less_is_expected_than_the_user_wants() -> None:
    tiers = [Tier(name="a", slots=4, usd_per_hour=2.0)]
    everything = candidates(Options(), tiers)
    assert everything >= 250
    assert candidates(Options(min_gain_per_slot_hour=1.0), tiers) < 0.7 * everything
    assert candidates(Options(min_gain_per_usd=0.5), tiers) < 0.7 * everything
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


def test_commits_that_differ_in_a_sign_or_in_a_type_only_are_told_apart() -> None:
    made = [{"A": 1}, {"A": -1}, {"A": -2}, {"A": 1.0}, {"A": True}, {"A": "1"}, {"A": 1, "7": None}]
    assert len({worth._digest(features) for features in made}) == len(made)
    assert worth._digest({"A": 1, "B": 2}) == worth._digest({"B": 2, "A": 1})
