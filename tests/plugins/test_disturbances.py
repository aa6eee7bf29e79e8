"""Drift, nodes, autocorrelation, speed, tails: simulated readings go wrong in the ways that real ones do."""

import math
import random
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from arf.config.schema import Budget
from arf.plugins.registry import Plugins
from arf.types import Direction, Job, Objective, Scalar
from arf_plugins.backend_sim import DisturbanceOptions, ObjectiveOptions, SimOptions, SimTier
from arf_plugins.backend_sim.backend import SimBackend
from arf_plugins.backend_sim.simulate import Simulated, Simulation, simulate
from arf_plugins.objectives.choose import make_objective
from arf_plugins.objectives.objective import Parameter, SimulatedObjective, Values

SIGMA = 0.002
"""The noise of the surface `noise`, whose unchanged script is worth 1."""
SPAN_S = 300.0 * 1000


class Machines:
    """Runs of settings of the surface `noise` on simulated machines."""

    def __init__(self, *, slots: int = 1, fixed: str = "time", **disturbances: Any) -> None:
        options = SimOptions(
            objective=ObjectiveOptions(name="noise"),
            tiers={"a": SimTier(slots=slots)},
            fixed=fixed,  # type: ignore[arg-type]
            jitter=0.0,
            disturbances=DisturbanceOptions(span_s=SPAN_S, **disturbances),
        )
        self.objective = make_objective(options.objective, options.tiers)
        self.settings: Mapping[str, Scalar] = self.objective.base
        self.backend = SimBackend(options, settings=lambda job: self.settings)

    def read(
        self, number: int, *, slot: int = 1, seed: int | None = None, attempt: int = 1
    ) -> dict[str, float]:
        env = {"ARF_EXPERIMENT": str(number), "ARF_SEED": str(number if seed is None else seed)}
        job = Job(
            key=f"{number:06d}-{attempt}", directory=Path(), command="x", env=env, log=Path("x"), tier="a",
            time_limit_s=1e6,
        )  # fmt: skip
        return dict(self.backend.fate(job, slot).readings)

    def values(self, n: int = 1000, **where: Any) -> list[float]:
        """Readings of n runs in sigmas around the truth."""
        return [(self.read(k, **where)["val_bpb"] - 1.0) / SIGMA for k in range(1, n + 1)]

    def set(self, number: int) -> None:
        name = next(iter(self.objective.base))
        self.settings = {**self.objective.base, name: number / 1000}


def lag(values: list[float], k: int) -> float:
    return statistics.correlation(values[:-k], values[k:])


def test_values_drift_and_jump_over_the_span_and_no_further() -> None:
    drifting = Machines(drift=-4.0).values(1400)
    assert statistics.fmean(drifting[:100]) == pytest.approx(-0.2, abs=0.35)
    assert statistics.fmean(drifting[900:1000]) == pytest.approx(-3.8, abs=0.35)
    assert statistics.fmean(drifting[1000:]) == pytest.approx(-4.0, abs=0.2)
    jumping = Machines(step=2.0, step_at=0.3).values()
    assert statistics.fmean(jumping[:300]) == pytest.approx(0.0, abs=0.2)
    assert statistics.fmean(jumping[300:]) == pytest.approx(2.0, abs=0.2)


def test_sixteen_slots_drift_as_one_does_in_time_and_not_in_runs() -> None:
    sixteen = Machines(slots=16, drift=-4.0).values(1600)
    assert statistics.fmean(sixteen[1500:]) == pytest.approx(-4.0 * 97 / 1000, abs=0.4)


def test_nodes_differ_and_each_stays_as_it_is() -> None:
    machines = Machines(slots=60, node_offset=3.0)
    means = [statistics.fmean(machines.values(40, slot=slot)) for slot in range(1, 61)]
    assert statistics.stdev(means) == pytest.approx(3.0, rel=0.3)
    assert machines.backend.node_of("a:3") == "a:3"
    assert Machines(slots=60).backend.node_of("a:3") == ""


def test_noise_of_a_node_is_autocorrelated_at_unchanged_variance() -> None:
    values = Machines(ar1=0.9).values(4000)
    assert statistics.stdev(values) == pytest.approx(1.0, rel=0.2)
    assert lag(values, 1) == pytest.approx(0.9, abs=0.05)
    half = Machines(ar1=0.9, ar1_share=0.5).values(4000)
    assert statistics.stdev(half) == pytest.approx(1.0, rel=0.2)
    assert lag(half, 1) == pytest.approx(0.45, abs=0.1)


def test_settings_have_more_or_less_noise() -> None:
    machines = Machines(commit_noise=0.7)
    logarithms = []
    for number in range(80):
        machines.set(number)
        logarithms.append(math.log(statistics.stdev(machines.values(60))))
    assert statistics.stdev(logarithms) == pytest.approx(0.7, rel=0.3)
    assert statistics.fmean(logarithms) == pytest.approx(0.0, abs=0.3)


@pytest.mark.parametrize(
    ("tails", "beyond_4", "sd"), [("normal", 0.0, 1.0), ("t3", 0.006, 1.0), ("contaminated", 0.042, 1.5)]
)
def test_tails_are_heavy_on_both_sides(tails: Any, beyond_4: float, sd: float) -> None:
    values = Machines(tails=tails).values(8000)
    assert statistics.stdev(values) == pytest.approx(sd, rel=0.15)
    assert sum(abs(v) > 4 for v in values) / len(values) == pytest.approx(beyond_4, abs=0.006)
    assert statistics.fmean(values) == pytest.approx(0.0, abs=0.07)


def test_lognormal_noise_is_long_to_larger_values() -> None:
    values = Machines(tails="lognormal").values(8000)
    assert statistics.fmean(values) == pytest.approx(0.0, abs=0.07)
    assert -1.0 < min(values) < -0.7 < 5.0 < max(values)


def test_metrics_are_rounded() -> None:
    values = Machines(rounding=3.0).values()
    assert len({round(v, 6) for v in values}) <= 4
    assert all(round((1.0 + v * SIGMA) / (3 * SIGMA), 6).is_integer() for v in values)


def test_steps_and_values_move_together_where_time_is_fixed() -> None:
    machines = Machines(speed=0.008)
    runs = [machines.read(k) for k in range(1, 2001)]
    steps, values = [r["num_steps"] for r in runs], [r["val_bpb"] for r in runs]
    assert statistics.correlation(steps, values) == pytest.approx(-0.98, abs=0.01)
    assert statistics.stdev(steps) / 1000 == pytest.approx(0.008, rel=0.25)
    slope = statistics.linear_regression(steps, values).slope
    assert slope * 10 == pytest.approx(-6 * SIGMA, rel=0.05)  # 10 steps are 1 %
    assert lag(values, 1) > 0.8


def test_a_faster_machine_is_done_sooner_where_work_is_fixed() -> None:
    machines = Machines(slots=40, fixed="work", node_speed=0.05)
    env = {"ARF_EXPERIMENT": "1", "ARF_SEED": "1"}
    job = Job(key="1-1", directory=Path(), command="x", env=env, log=Path("x"), tier="a", time_limit_s=1e6)
    fates = [machines.backend.fate(job, slot) for slot in range(1, 41)]
    assert {fate.readings["val_bpb"] for fate in fates} == {fates[0].readings["val_bpb"]}
    assert {fate.readings["num_steps"] for fate in fates} == {1000}
    assert statistics.stdev(fate.seconds for fate in fates) / 300 == pytest.approx(0.05, rel=0.4)


def test_a_setting_has_a_speed_of_its_own_that_its_truth_includes() -> None:
    machines = Machines(own_speed=0.2)
    steps = set()
    for number in range(30):
        machines.set(number)
        runs = [machines.read(k) for k in range(1, 60)]
        assert len({r["num_steps"] for r in runs}) == 1
        assert statistics.fmean(r["val_bpb"] for r in runs) == pytest.approx(
            1.0, abs=4 * SIGMA / math.sqrt(59)
        )
        steps.add(runs[0]["num_steps"])
    assert statistics.stdev(steps) / 1000 == pytest.approx(0.2, rel=0.4)


def test_a_script_that_ignores_its_seed_repeats_itself_and_a_change_is_another_draw() -> None:
    machines = Machines(same_seed=True)
    assert len(set(machines.values(10))) == 1
    changed = []
    for number in range(300):
        machines.set(number)
        changed.append(machines.values(1)[0])
    assert statistics.stdev(changed) == pytest.approx(1.0, rel=0.2)


def test_disturbances_compose_and_another_attempt_reads_the_same() -> None:
    everything = {
        "drift": -2.0, "step": 1.0, "node_offset": 1.0, "ar1": 0.7, "commit_noise": 0.7, "tails": "t3",
        "rounding": 0.1, "speed": 0.008, "speed_drift": -0.01, "own_speed": 0.1,
    }  # fmt: skip
    first, second = Machines(slots=3, **everything), Machines(slots=3, **everything)
    wanted = [(k, k % 3 + 1) for k in range(1, 60)]
    readings = {k: first.read(k, slot=slot) for k, slot in wanted}
    random.Random(0).shuffle(wanted)
    for k, slot in wanted:  # in another order, and again after it was lost
        assert second.read(k, slot=slot, attempt=2) == readings[k]
    assert len({r["val_bpb"] for r in readings.values()}) > 40


class Skewed(SimulatedObjective):
    """Its own noise: never below the truth."""

    parameters = (Parameter(name="X", base=0.5),)
    objective = Objective(direction=Direction.MIN)

    def truth(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        return 2.0

    def sigma(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        return 1.0

    def optimum(self, tier: str = "") -> float:
        return 2.0

    def draw(self, values: Values, tier: str, share: float, rng: random.Random) -> float:
        return 2.0 + rng.expovariate(1.0)


def test_the_noise_of_an_objective_of_ones_own_is_passed_on_under_tier_offsets() -> None:
    from arf_plugins.objectives.choose import OnHardware

    there = OnHardware(Skewed(), {"a": SimTier(offset=10.0), "b": SimTier()}, None)
    values = [there.draw({"X": 0.5}, "a", 1.0, random.Random(n)) for n in range(500)]
    assert min(values) >= 12.0
    assert values == [10.0 + there.draw({"X": 0.5}, "b", 1.0, random.Random(n)) for n in range(500)]


def test_a_whole_study_under_disturbances_is_the_same_for_the_same_seed() -> None:
    plugins = Plugins.load()
    options = SimOptions(
        objective=ObjectiveOptions(name="additive"),
        tiers={"a": SimTier(slots=4)},
        disturbances=DisturbanceOptions(drift=-2.0, speed=0.008, ar1=0.5, node_offset=0.5),
    )
    simulation = Simulation(options=options, budget=Budget(max_experiments=60), agent="random")

    def once(simulation: Simulation) -> Simulated:
        return simulate(simulation, plugins)

    first, second, other = once(simulation), once(simulation), once(evolve(simulation, seed=1))

    def told(done: Simulated) -> list[tuple[float | None, str, float]]:
        return [(e.value, e.slot, e.metrics.get("num_steps", 0.0)) for e in done.study.experiments.values()]

    assert told(first) == told(second) != told(other)
    assert all(steps > 900 and slot for value, slot, steps in told(first) if value is not None)
