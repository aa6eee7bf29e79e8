"""The conformance suite, designs, and whole studies on objectives whose best is known."""

import random
import sys
from itertools import combinations, pairwise, product
from typing import Any

import numpy as np
import pytest
from attrs import evolve

from arf.config.schema import Budget
from arf.interfaces import Strategy
from arf.judge.statistics import noise
from arf.plugins.registry import Plugins
from arf.study import Study
from arf.testing.laboratory import Ideas, Laboratory
from arf.testing.suites import StrategySuite
from arf.types import Ask, AskKind, Experiment, Plan, Role, Tier, Verdict
from arf_plugins.backend_sim import Effect, ObjectiveOptions, SimOptions, SimTier
from arf_plugins.backend_sim.simulate import Simulated, Simulation, simulate
from arf_plugins.effects.model import Finding, fit, read_design
from arf_plugins.strategy_factorial import Layout, Options
from arf_plugins.strategy_factorial.design import design_of
from arf_plugins.strategy_factorial.layouts import (
    GENERATORS,
    allows,
    augment,
    lay_out,
    resolution,
    smallest,
)
from arf_plugins.strategy_factorial.strategy import Factorial
from arf_plugins.strategy_greedy.strategy import Greedy


class TestFactorial(StrategySuite):
    def make(self) -> Strategy:
        return Factorial()


class TestFactorialWithSmallReplicatedDesigns(StrategySuite):
    def make(self) -> Strategy:
        return Factorial(Options(factors=3, runs=4, replicates=2, candidates=1))


class TestFactorialWithManyLevels(StrategySuite):
    def make(self) -> Strategy:
        return Factorial(Options(levels=2, runs=12, layout=Layout.OPTIMAL))


def slots(count: int) -> list[Tier]:
    return [Tier(name="a", slots=count)]


def planted(ideas: Ideas) -> float:
    """1 and 5 are bad alone and very good together; 9 is good, 13 bad. Even ideas are other levels."""
    together = -8.0 if {1, 5} <= ideas else 2.0 * len(ideas & {1, 5})
    return together - 4.0 * (9 in ideas) + 5.0 * (13 in ideas)


# ---- Layouts --------------------------------------------------------------------------------------


def words(columns: list[int]) -> tuple[int, ...]:
    """The word-length pattern of a regular fraction, given the factors' columns as bit masks: how many
    products of 3, 4, … columns are constant."""
    counts = [0] * (len(columns) + 1)
    for size in range(3, len(columns) + 1):
        for chosen in combinations(columns, size):
            product_of = 0
            for column in chosen:
                product_of ^= column
            counts[size] += product_of == 0
    return tuple(counts)


@pytest.mark.parametrize(("factors", "runs"), sorted(GENERATORS))
def test_tabulated_fractions_have_the_least_aliasing_that_there_is(factors: int, runs: int) -> None:
    """Of all choices of generators, none has fewer short words (minimum aberration)."""
    generators, published = GENERATORS[factors, runs]
    columns = [sum(1 << (ord(c) - 97) for c in word) for word in generators.split()]
    base = runs.bit_length() - 1
    assert len(columns) == factors
    pattern = words(columns)
    assert next(size for size, count in enumerate(pattern) if count) == published
    rest = [mask for mask in range(1, runs) if mask.bit_count() > 1]
    if factors - base <= 2 or runs == 16:
        own = [1 << i for i in range(base)]
        assert pattern == min(words([*own, *chosen]) for chosen in combinations(rest, factors - base))


@pytest.mark.parametrize("factors", range(2, 9))
@pytest.mark.parametrize("runs", [8, 12, 16, 20, 32, 64])
def test_two_level_layouts_are_orthogonal_and_fit(factors: int, runs: int) -> None:
    if smallest((1,) * factors) > runs:
        return
    cells = lay_out((1,) * factors, runs, Layout.AUTO, "seed")
    assert len(cells) <= runs
    assert len(set(cells)) == len(cells)
    x = 2 * np.array(cells) - 1
    assert np.array_equal(x.T @ x, len(cells) * np.eye(factors))
    assert cells[0] == max(cells, key=sum)


def test_eight_ideas_take_sixteen_runs_in_which_no_main_effect_is_aliased_with_a_pair() -> None:
    cells = lay_out((1,) * 8, 16, Layout.AUTO, "seed")
    assert len(cells) == 16
    assert resolution(8, 16) == 4
    x = 2 * np.array(cells) - 1
    for a, b in combinations(range(8), 2):
        assert not (x.T @ (x[:, a] * x[:, b])).any()


def test_screening_is_plackett_burmans_design() -> None:
    cells = lay_out((1,) * 8, 16, Layout.SCREENING, "seed")
    assert len(cells) == 12


def test_an_optimal_layout_is_better_than_any_of_many_random_ones() -> None:
    levels = (2, 1, 1, 3)

    def information(cells: list[tuple[int, ...]]) -> float:
        rows = [
            [1.0, *((c[f] == i) - (c[f] == 0) for f, n in enumerate(levels) for i in range(1, n + 1))]
            for c in cells
        ]
        return float(np.linalg.det(np.array(rows).T @ np.array(rows)))

    mine = information(list(lay_out(levels, 16, Layout.OPTIMAL, "seed")))
    grid = list(product(*(range(n + 1) for n in levels)))
    chance = random.Random(0)
    assert mine >= max(information(chance.sample(grid, 16)) for _ in range(300))


def test_cells_that_cannot_be_run_are_left_out() -> None:
    apart = frozenset({((0, 1), (1, 1))})
    for levels, runs in (((1, 1, 1, 1), 8), ((1,) * 3, 8), ((2, 2, 1), 12)):
        cells = lay_out(levels, runs, Layout.AUTO, "seed", apart)
        assert cells
        assert all(allows(cell, apart) for cell in cells)


def test_an_augmented_design_repeats_nothing_and_avoids_what_it_must() -> None:
    there = ((1, 0, 0), (0, 1, 0))
    found = augment((1, 1, 1), there, 10, "seed", never=frozenset({(1, 1, 1)}))
    assert len(found) == 5
    assert not {*there, (1, 1, 1)} & set(found)


def test_the_order_is_random_and_the_same_for_the_same_seed() -> None:
    assert lay_out((1,) * 4, 16, Layout.AUTO, "a") == lay_out((1,) * 4, 16, Layout.AUTO, "a")
    assert lay_out((1,) * 4, 16, Layout.AUTO, "a") != lay_out((1,) * 4, 16, Layout.AUTO, "b")


# ---- Whole studies --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 16])
def test_it_finds_a_planted_interaction_that_one_at_a_time_misses(count: int) -> None:
    """The best is -12 with ideas 1, 5 and 9; each of 1 and 5 is bad by itself."""
    greedy, factorial, runs = [], [], []
    for seed in range(8):
        for strategy, found, ideas in ((Factorial(), factorial, 8), (Greedy(), greedy, 16)):
            laboratory = Laboratory(
                strategy, ideas=ideas, seed=seed, tiers=slots(count), truth=planted, max_experiments=120
            )
            laboratory.run()
            found.append(laboratory.best)
            if isinstance(strategy, Factorial):
                runs.append(len(laboratory.study.experiments))
    assert factorial == [-12.0] * 8
    assert min(greedy) >= -4.0
    assert sum(runs) / 8 < 55  # 4 of the baseline, 16 cells, 8 other levels, 3 to confirm; replicates


def test_the_cell_that_read_best_is_confirmed_though_the_model_cannot_see_why() -> None:
    """Eight ideas help only all four odd ones together: no main effect, no pair."""

    def together(ideas: Ideas) -> float:
        return -20.0 * (ideas >= {1, 3, 5, 7})

    found = []
    for seed in range(4):
        laboratory = Laboratory(
            Factorial(), ideas=8, seed=seed, tiers=slots(16), truth=together, max_experiments=120
        )
        laboratory.run()
        found.append(laboratory.best)
    assert found.count(-20.0) >= 2  # where a cell of the design has all four


def test_the_interaction_is_told_with_what_it_is_aliased_with() -> None:
    laboratory = Laboratory(Factorial(), ideas=8, tiers=slots(16), truth=planted, sigma=0.3)
    laboratory.run()
    study = laboratory.study
    design = read_design(study, study.experiments[study.by_role(Role.CELL)[0]].round)
    assert design is not None
    assert len(design.cells) == 16
    fitted = fit(design.axes, design.cells, objective=study.objective, known=noise(study, "a"))
    real = {e.name: e for e in fitted.effects if e.finding is Finding.REAL}
    assert set(real) == {"factor 1", "factor 5", "factor 9", "factor 13", "factor 1 × factor 5"}
    assert real["factor 1 × factor 5"].gain == pytest.approx(6.0, abs=1.0)
    assert len(real["factor 1 × factor 5"].aliases) == 3


def test_no_design_waits_for_the_stragglers_of_another() -> None:
    """With one cell of the first design never ending, the cells of later ones run on."""
    laboratory = Laboratory(Factorial(), ideas=40, tiers=slots(16), truth=planted)
    laboratory.settle()
    for _ in range(60):
        cells = [n for n in laboratory.study.running if laboratory.study.experiments[n].role is Role.CELL]
        others = [n for n in laboratory.study.running if n != min(cells, default=0)]
        if not others:
            break
        laboratory.end(others[0])
        for ask in list(laboratory.study.open_asks):
            laboratory.answer(ask)
        laboratory.settle()
    rounds = {e.round for e in laboratory.study.experiments.values() if e.role is Role.CELL}
    assert len(rounds) >= 2


def test_asks_are_for_factors_one_design_ahead() -> None:
    laboratory = Laboratory(Factorial(), tiers=slots(16))
    first = Factorial().decide(laboratory.study, {"a": 16})
    assert first == [Ask(kind=AskKind.FACTORS, n=8, base=laboratory.study.base)]
    laboratory.tell("open_ask", 1, first[0])
    assert Factorial().decide(laboratory.study, {"a": 16}) == []


def test_a_design_leaves_half_of_the_budget_for_what_follows() -> None:
    laboratory = Laboratory(Factorial(), ideas=8, tiers=slots(4), truth=planted, max_experiments=28)
    laboratory.run()
    cells = [laboratory.study.experiments[n] for n in laboratory.study.by_role(Role.CELL)]
    assert 4 <= len([cell for cell in cells if cell.round == cells[0].round]) <= 12


def test_ideas_that_conflict_cost_no_run_and_the_others_are_still_told_apart() -> None:
    """Ideas 1 and 5 do not merge."""

    def refuse(plan: Plan) -> str:
        return "conflict" if {1, 5} <= set(plan.ideas) else ""

    laboratory = Laboratory(Factorial(), ideas=8, tiers=slots(4), truth=planted, refuse=refuse, sigma=0.3)
    laboratory.run()
    study = laboratory.study
    assert len(study.by_role(Role.CELL)) == 15  # all but the base, which has run: refused cells were replaced
    design = read_design(study, study.experiments[study.by_role(Role.CELL)[0]].round)
    assert design is not None
    fitted = fit(design.axes, design.cells, objective=study.objective, known=noise(study, "a"))
    assert not fitted.missing
    assert laboratory.best == -4.0


def test_levels_that_set_one_constant_differently_are_never_planned_together() -> None:
    laboratory = Laboratory(Factorial(), ideas=6, tiers=slots(4), truth=planted)
    add = laboratory.study.add_idea
    laboratory.study.add_idea = lambda idea: add(  # type: ignore[method-assign]
        evolve(idea, constants={"LR": idea.id} if idea.id in (1, 3) else {})
    )
    laboratory.run()
    assert all(not {1, 3} <= set(e.ideas) for e in laboratory.study.experiments.values())
    assert all(not {1, 3} <= set(ideas) for _, ideas in laboratory.study.refusals)


def test_a_level_that_crashes_is_blamed_and_left_out_and_the_rest_is_still_found() -> None:
    def crash(experiment: Experiment) -> bool:
        return 13 in laboratory.trees[experiment.commit]

    laboratory = Laboratory(Factorial(), ideas=8, tiers=slots(1), truth=planted, crash=crash, sigma=0.3)
    laboratory.run()
    assert laboratory.best == -12.0
    crashed = [e for e in laboratory.study.experiments.values() if e.verdict is Verdict.CRASH]
    assert len(crashed) < 8  # half of the cells have that level


def test_replicates_of_cells_share_their_seeds() -> None:
    laboratory = Laboratory(
        Factorial(Options(replicates=2, runs=8)), ideas=4, tiers=slots(4), truth=planted, max_experiments=80
    )
    laboratory.run()
    study = laboratory.study
    label = study.experiments[study.by_role(Role.CELL)[0]].round
    cells = [study.experiments[n] for n in study.by_round(label) if study.experiments[n].role is Role.CELL]
    first = {study.experiments[study.group_of(cell).experiments[0]].seed for cell in cells}
    second = {study.experiments[study.group_of(cell).experiments[1]].seed for cell in cells}
    assert len(first) == len(second) == 1
    assert first != second


def test_tiers_are_blocks() -> None:
    """A tier that reads 50 higher disturbs no effect."""

    class Offset(Laboratory):
        def value(self, experiment: Experiment) -> float:
            return super().value(experiment) + 50.0 * (experiment.tier == "b")

    tiers = [Tier(name="a", slots=6), Tier(name="b", slots=3)]
    laboratory = Offset(Factorial(), ideas=8, tiers=tiers, truth=planted, sigma=0.3)
    laboratory.run()
    assert laboratory.best == -12.0


def test_the_same_seed_gives_the_same_study() -> None:
    def ledger() -> list[tuple[Any, ...]]:
        laboratory = Laboratory(Factorial(), ideas=24, tiers=slots(4), truth=planted, seed=3)
        laboratory.run()
        return [(e.parent, e.ideas, e.round, e.verdict) for e in laboratory.study.experiments.values()]

    assert ledger() == ledger()


def calls(study: Study, free: dict[str, int]) -> int:
    """How many functions a decision calls, once what can be remembered is: its cost on any machine."""
    count = 0

    def watch(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    Factorial().decide(study, free)
    sys.setprofile(watch)
    try:
        Factorial().decide(study, free)
    finally:
        sys.setprofile(None)
    return count


def test_a_decision_costs_the_same_after_thousands_of_experiments() -> None:
    costs = []
    for size in (300, 2400):
        laboratory = Laboratory(Factorial(), ideas=10**9, tiers=slots(16), max_experiments=size)
        laboratory.run()
        assert len(laboratory.study.experiments) >= size
        costs.append(calls(laboratory.study, {"a": 16}))
    assert all(later <= 2.0 * earlier + 2000 for earlier, later in pairwise(costs))


def test_a_design_is_the_same_from_its_first_run_to_its_end() -> None:
    laboratory = Laboratory(Factorial(), ideas=40, tiers=slots(4), truth=planted, max_experiments=150)
    seen: dict[str, Any] = {}
    for _ in range(200):
        laboratory.settle()
        for ask in laboratory.study.last_factors(4):
            design = design_of(laboratory.study, ask, Options())
            if design is not None and laboratory.study.by_round(design.label):
                assert seen.setdefault(design.label, design) == design
        if laboratory.study.running_count:
            laboratory.end(laboratory.chance.choice(list(laboratory.study.running)))
        for ask in list(laboratory.study.open_asks):
            laboratory.answer(ask)
    assert len(seen) >= 3


# ---- The real engine ------------------------------------------------------------------------------


def simulated(names: int, seed: int, **given: Any) -> Simulated:
    """Constants of which A and B gain only together."""
    constants = {name: Effect(base=0.0, best=1.0, gain=0.0, levels=(0.0, 1.0)) for name in "ABCDEFGH"[:names]}
    objective = ObjectiveOptions(constants=constants, interactions={"A*B": 0.05}, noise=0.002, start=1.0)
    options = SimOptions(objective=objective, tiers={"a": SimTier(slots=8)})
    simulation = Simulation(
        options=options, budget=Budget(max_experiments=120), strategy="factorial", seed=seed, **given
    )
    return simulate(simulation, Plugins.load())


@pytest.mark.parametrize("names", [3, 8])
def test_the_engine_confirms_the_best_cell_also_where_every_cell_has_run(names: int) -> None:
    done = simulated(names, seed=1, accept="proof")
    kept = [done.study.experiments[n] for n in done.study.kept[1:]]
    assert done.moments[-1].truth == pytest.approx(0.95)
    assert any(e.round.endswith("best") and e.role is Role.CANDIDATE for e in kept)
    assert done.false_keeps == 0
