"""The conformance suite, and what Optuna's samplers are given and give."""

import pytest

pytest.importorskip("optuna")

from arf.config.schema import Budget
from arf.interfaces import Strategy
from arf.plugins.registry import Plugins
from arf.study import Study
from arf.testing.suites import StrategySuite
from arf.types import Idea, Role
from arf_plugins.backend_sim import ObjectiveOptions, SimOptions, SimTier
from arf_plugins.backend_sim.simulate import Simulated, Simulation, simulate
from arf_plugins.strategy_optuna import OptunaOptions
from arf_plugins.strategy_optuna.space import BASE, read_space
from arf_plugins.strategy_optuna.strategy import CmaEs, Tpe


class TestTpe(StrategySuite):
    def make(self) -> Strategy:
        return Tpe(OptunaOptions(ideas=6, startup=4))


class TestCmaEs(StrategySuite):
    def make(self) -> Strategy:
        return CmaEs(OptunaOptions(ideas=6))


def study_of(*ideas: dict[str, int]) -> Study:
    study = Study(name="s", base="b", base_tree="b")
    for number, constants in enumerate(ideas, 1):
        study.add_idea(
            Idea(id=number, title="x", base="b", commit=f"c{number}", constants=constants, agent="a")
        )
    return study


def test_ideas_for_one_constant_are_levels_of_one_dimension_in_their_order() -> None:
    space = read_space(study_of({"D": 8}, {"D": 2}, {"W": 1}, {}, {"D": 6, "W": 3}, {"Q": 1, "R": 1}))
    assert space.dimensions == {
        "D": (2, BASE, 1),
        "W": (3, BASE),
        "idea 4": (4, BASE),
        "idea 6": (6, BASE),
    }


def test_plans_and_choices_are_the_same_thing() -> None:
    space = read_space(study_of({"D": 8}, {"D": 2}, {"W": 1}))
    choice = {"D": 2, "W": 3}
    assert space.ideas(choice) == (2, 3)
    assert space.choice((2, 3)) == choice
    assert space.choice((1,)) == {"D": 1, "W": BASE}
    assert space.choice((1, 2)) is None  # two levels of one dimension
    assert space.choice((9,)) is None


def run(name: str, *, seed: int = 0, n: int = 150, objective: str = "pairs") -> Simulated:
    options = SimOptions(objective=ObjectiveOptions(name=objective), tiers={"a": SimTier(slots=4)})
    simulation = Simulation(
        options=options, budget=Budget(max_experiments=n), strategy=name, agent="random", seed=seed
    )
    return simulate(simulation, Plugins.load())


@pytest.mark.parametrize("name", ["tpe", "cmaes"])
def test_a_study_repeats_itself_and_runs_nothing_twice(name: str) -> None:
    first, second = run(name, n=100), run(name, n=100)
    trees = [e.tree for e in first.study.experiments.values()]
    assert trees == [e.tree for e in second.study.experiments.values()]
    tried = [e.tree for e in first.study.experiments.values() if e.role is Role.CANDIDATE]
    assert len(tried) == len(set(tried)) > 40


@pytest.mark.parametrize(("name", "made"), [("tpe", Tpe), ("cmaes", CmaEs)])
def test_a_decision_needs_no_memory(name: str, made: type[Strategy]) -> None:
    """A strategy that never saw the study before decides as the one that ran it would."""
    study = run(name, n=80).study
    veteran = made()
    for _ in range(2):
        assert list(veteran.decide(study, {"a": 1})) == list(made().decide(study, {"a": 1}))


def test_cmaes_goes_through_generations() -> None:
    study = run("cmaes", n=250, objective="additive").study
    rounds = {e.round for e in study.experiments.values() if e.round.startswith("cmaes")}
    assert len(rounds) > 3


def test_tpe_learns() -> None:
    """Its later runs are better than its random ones."""
    study = run("tpe", n=200, objective="additive").study
    values = [e.value for e in study.experiments.values() if e.role is Role.CANDIDATE and e.value is not None]
    early, late = sorted(values[:20])[10], sorted(values[-60:])[30]
    assert late < early - 0.005
