"""The conformance suite, the model on functions that are known, and whole studies on a virtual clock."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from arf.config.schema import Budget
from arf.interfaces import Strategy
from arf.plugins.registry import Plugins
from arf.study import Study
from arf.testing.suites import StrategySuite
from arf.types import Ask, Plan, Scalar
from arf_plugins.backend_sim import Effect, ObjectiveOptions, SimOptions, SimTier
from arf_plugins.backend_sim.simulate import Simulated, Simulation, simulate
from arf_plugins.objectives.choose import make_objective
from arf_plugins.strategy_bayes.axes import Axis, Basis, Levels, Vector
from arf_plugins.strategy_bayes.chances import estimate
from arf_plugins.strategy_bayes.covariance import Readings
from arf_plugins.strategy_bayes.process import Process
from arf_plugins.strategy_bayes.strategy import Bayes

TIERS = {"a": SimTier(slots=6, startup_s=20.0), "b": SimTier(slots=2, startup_s=20.0, offset=-0.02)}


class TestBayes(StrategySuite):
    turns = 30

    def make(self) -> Strategy:
        return Bayes()


# ---- The model ---------------------------------------------------------------------------------


def switches(n: int) -> Basis:
    return Basis.of(
        [Axis(name=f"S{i}", values=(False, True), places=np.zeros(2), is_number=False) for i in range(n)]
    )


def readings(points: Levels, y: Vector, places: Sequence[int] | None = None) -> Readings:
    none = np.zeros(len(y), dtype=np.intp)
    where = none if places is None else np.array(places, dtype=np.intp)
    return Readings(points=points, y=y, places=where, nodes=none, times=np.full(len(y), 0.5))


def test_it_sees_a_pair_that_neither_of_the_two_shows_by_itself() -> None:
    chance = np.random.default_rng(1)
    points = chance.integers(0, 2, (80, 10)).astype(np.intp)
    y = 5.0 * (points[:, 2] * points[:, 7]) - 2.0 * points[:, 2] - 2.0 * points[:, 7]
    process = Process(switches(10), readings(points, y + chance.normal(0, 0.5, 80)))
    asked = np.zeros((4, 10), dtype=np.intp)
    asked[1, 2] = asked[2, 7] = 1
    asked[3, [2, 7]] = 1
    base, one, other, both = process.values(process.mean, asked)
    assert base == pytest.approx(0.0, abs=1e-9)
    assert one < -0.8
    assert other < -0.8
    assert both > 0.4


def test_draws_scatter_about_the_mean_as_the_errors_say() -> None:
    chance = np.random.default_rng(2)
    points = chance.integers(0, 2, (30, 6)).astype(np.intp)
    process = Process(switches(6), readings(points, points[:, 0] + chance.normal(0, 0.3, 30)))
    asked = chance.integers(0, 2, (5, 6)).astype(np.intp)
    draws = np.array([process.values(process.draw(chance), asked) for _ in range(400)])
    mean, error = process.values(process.mean, asked), process.errors(asked)
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 4 * error / math.sqrt(400) + 1e-9)
    assert draws.std(axis=0) == pytest.approx(error, rel=0.15, abs=1e-6)


def test_readings_added_one_by_one_are_as_if_they_had_been_there() -> None:
    chance = np.random.default_rng(3)
    points = chance.integers(0, 2, (40, 5)).astype(np.intp)
    y = points @ np.arange(5.0) + chance.normal(0, 0.2, 40)
    grown = Process(switches(5), readings(points[:30], y[:30]))
    whole = Process(switches(5), readings(points, y))
    grown.add(readings(points[30:], y[30:]))
    asked = chance.integers(0, 2, (8, 5)).astype(np.intp)
    assert grown.values(grown.mean, asked) == pytest.approx(whole.values(whole.mean, asked), abs=0.25)


def test_the_level_of_another_tier_is_no_gain() -> None:
    chance = np.random.default_rng(4)
    points = np.zeros((60, 3), dtype=np.intp)
    points[30:, 0] = 1
    places = np.array([0] * 20 + [1] * 30 + [0] * 10)
    y = 1.0 * points[:, 0] + 50.0 * places + chance.normal(0, 0.1, 60)
    process = Process(switches(3), readings(points, y, list(places)))
    asked = np.array([[1, 0, 0]], dtype=np.intp)
    assert process.values(process.mean, asked)[0] == pytest.approx(1.0, abs=0.2)


def test_what_fails_beyond_an_edge_is_expected_to_fail_there() -> None:
    places = np.linspace(0.0, 1.0, 9)
    values = (0.25, *(float(p) for p in places if p != 0.25))
    axis = Axis(name="X", values=values, places=np.array(values), is_number=True)
    other = Axis(name="Y", values=(False, True), places=np.zeros(2), is_number=False)
    basis = Basis.of([axis, other])
    chance = np.random.default_rng(5)
    points = np.column_stack([chance.integers(0, 9, 40), chance.integers(0, 2, 40)]).astype(np.intp)
    failed = (np.array(values)[points[:, 0]] > 0.6).astype(np.intp)
    chances = estimate(basis, points, failed)
    near, far = values.index(0.375), values.index(0.875)
    safe, unsafe = chances.of(np.array([[near, 1], [far, 0]], dtype=np.intp))
    assert safe < 0.2
    assert unsafe > 0.8


# ---- Whole studies -----------------------------------------------------------------------------


def hill(n: int, useful: int) -> ObjectiveOptions:
    constants = {
        f"C{i}": Effect(base=0.5, best=0.8 if i % 2 else 0.15, gain=0.012 if i < useful else 0.0)
        for i in range(n)
    }
    return ObjectiveOptions(constants=constants, noise=0.004)


def study(objective: ObjectiveOptions, runs: int) -> tuple[Simulated, Bayes]:
    simulation = Simulation(
        options=SimOptions(objective=objective, tiers=TIERS),
        budget=Budget(max_experiments=runs),
        strategy="bayes",
    )
    strategy = Bayes()
    return simulate(simulation, Plugins.load(), strategy=strategy), strategy


def shipped(simulated: Simulated, strategy: Bayes) -> Mapping[str, Scalar]:
    found = strategy.recommend(simulated.study)
    assert found is not None
    ideas = [simulated.study.ideas[number] for number in found.ideas]
    return {name: value for idea in ideas for name, value in idea.constants.items()}


def test_many_changes_are_found_together_in_few_runs() -> None:
    options = hill(8, 8)
    simulated, strategy = study(options, 130)
    objective = make_objective(options, {})
    truth = objective.truth({**objective.base, **shipped(simulated, strategy)})
    assert objective.gain(truth) > 0.85 * objective.possible_gain()


def test_what_does_nothing_is_not_shipped() -> None:
    simulated, strategy = study(hill(14, 3), 150)
    changed = set(shipped(simulated, strategy))
    assert {"C0", "C1", "C2"} <= changed
    assert len(changed) <= 6


# ---- Values that the strategy sets itself --------------------------------------------------------


class Setting(Strategy):
    """Runs these settings of constants, whatever comes of it."""

    wanted: Sequence[Mapping[str, Scalar]] = ()

    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        open_ = [
            constants
            for constants in self.wanted
            if all(self._is_unknown(study, name, value) for name, value in constants.items())
        ]
        return [Plan(parent=study.base, constants=constants) for constants in open_[:1]]

    @staticmethod
    def _is_unknown(study: Study, name: str, value: Scalar) -> bool:
        return study.idea_that_sets(name, value) is None


def test_values_become_ideas_and_what_cannot_be_set_is_refused_once() -> None:
    strategy = Setting()
    strategy.wanted = [{"C0": 0.75, "C1": 0.25}, {"C2": 7.0}]
    simulation = Simulation(
        options=SimOptions(objective=hill(3, 3), tiers=TIERS),
        budget=Budget(max_experiments=20),
        strategy="bayes",
    )
    found = simulate(simulation, Plugins.load(), strategy=strategy).study
    first, second, beyond = (found.idea_that_sets(*it) for it in (("C0", 0.75), ("C1", 0.25), ("C2", 7.0)))
    assert first
    assert second
    assert beyond
    assert found.planned(found.base, (first, second))
    assert list(found.refusals) == [(found.base, (beyond,))]
    assert found.constants["C0"].high == 1.0
