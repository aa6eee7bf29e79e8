"""Machines' speed is adjusted away, a change's own is not, and errors tell how well they are told apart."""

import math
import random
import statistics
from datetime import UTC, datetime, timedelta

import pytest

from arf.config.schema import Budget, Noise
from arf.judge.speed import SpeedModel, model_of
from arf.plugins.registry import Plugins
from arf.types import Experiment, Role
from arf_plugins.backend_sim import DisturbanceOptions, ObjectiveOptions, SimOptions, SimTier
from arf_plugins.backend_sim.simulate import Simulation, simulate

START = datetime(2026, 1, 1, tzinfo=UTC)
RESIDUAL = 0.0001
SLOPE = -0.0006
"""Of 1 % more steps, as on real H200s."""


def study(
    seed: int,
    *,
    slots: int = 8,
    ideas: int = 80,
    fresh: int = 8,
    own: float = 0.0,
    effect: float = SLOPE,
    wandering: float = 0.008,
    correlation: float = 0.95,
    own_of_ideas: float = 0.0,
) -> list[Experiment]:
    """Baseline runs, single runs of ideas, and a patch beside the baseline.

    The patch is worth what the baseline is, and its own steps differ by `own`; machines wander (AR(1)).
    """
    chance = random.Random(seed)
    state = [chance.gauss(0.0, wandering) for _ in range(slots)]
    trees = ["base"] * 4 + [f"idea {n}" for n in range(ideas)] + ["patch", "base"] * fresh
    runs = []
    for n, tree in enumerate(trees):
        slot = n % slots
        if n >= slots:
            push = math.sqrt(1 - correlation**2) * wandering * chance.gauss(0.0, 1.0)
            state[slot] = correlation * state[slot] + push
        mine = {"base": 0.0, "patch": own}.get(tree, own_of_ideas if chance.random() < 0.3 else 0.0)
        start = START + timedelta(seconds=300 * (n // slots))
        end = start + timedelta(seconds=300)
        runs.append(
            Experiment(
                id=n + 1, role=Role.CANDIDATE, parent="base", commit=tree, tree=tree, tier="a", seed=n,
                slot=f"a:{slot}", accepted_at=start, started_at=start, ended_at=end,
                value=1.0 + 100 * effect * state[slot] + chance.gauss(0.0, RESIDUAL),
                metrics={"num_steps": float(round(100_000 * math.exp(mine + state[slot])))},
            )
        )  # fmt: skip
    return runs


def model(runs: list[Experiment]) -> SpeedModel:
    found = model_of(runs, "base", "num_steps")
    assert found is not None
    return found


def difference(runs: list[Experiment], told: SpeedModel | None = None) -> float:
    """The patch less the baseline, of the fresh runs: as read, or adjusted."""
    means = []
    for tree in ("patch", "base"):
        values = [told.adjusted(r) if told else r.value for r in runs if r.tree == tree and r.id > 84]
        means.append(statistics.fmean(v for v in values if v is not None))
    return means[0] - means[1]


def test_the_slope_and_the_noise_without_it_are_found() -> None:
    told = model(study(1, ideas=40))
    assert told.slope == pytest.approx(SLOPE, rel=0.1)
    assert told.sd_after == pytest.approx(RESIDUAL, rel=0.35)
    assert told.sd_before > 3 * told.sd_after
    assert "noise is" in told.text


@pytest.mark.parametrize("own_of_ideas", [0.0, 0.05])
def test_comparisons_need_fewer_runs_and_their_errors_are_told_honestly(own_of_ideas: float) -> None:
    raw, adjusted, z = [], [], []
    for seed in range(10):
        runs = study(seed, own_of_ideas=own_of_ideas)
        told = model(runs)
        raw.append(difference(runs))
        adjusted.append(difference(runs, told))
        z.append(adjusted[-1] / told.standard_error("patch", 8, "base", 8))
    assert statistics.pvariance(raw, 0.0) > 5 * statistics.pvariance(adjusted, 0.0)
    assert 0.4 < math.sqrt(statistics.fmean(x * x for x in z)) < 1.6


@pytest.mark.parametrize("own", [-0.1, -0.02, 0.05])
def test_a_change_that_is_slow_or_fast_by_itself_keeps_its_reading(own: float) -> None:
    for seed in range(2):
        runs = study(seed, own=own)
        told = model(runs)
        assert told.own["patch"] == pytest.approx(own, abs=0.006)
        # As if it were the machine, 2 % would have been worth 0.0012.
        assert difference(runs, told) == pytest.approx(0.0, abs=0.0004)


def test_one_run_of_a_slow_idea_is_not_blamed_on_its_machine_nor_on_its_neighbours() -> None:
    runs = study(3, own_of_ideas=-0.1)
    told = model(runs)
    ideas = [r for r in runs if r.tree.startswith("idea")]
    slow = [r for r in ideas if r.metrics["num_steps"] < 95_000]
    assert 10 < len(slow) < 40
    assert all(told.own[r.tree] == pytest.approx(-0.1, abs=0.03) for r in slow)
    assert all(abs(told.own[r.tree]) < 0.03 for r in ideas if r not in slow)


def test_children_inherit_the_speed_of_a_slow_parent() -> None:
    from attrs import evolve

    runs = [
        evolve(r, parent="patch" if r.tree.startswith("idea") else "base")
        for r in study(5, own=-0.1, ideas=40)
    ]
    for n, run in enumerate(runs):
        if run.tree.startswith("idea"):
            runs[n] = evolve(run, metrics={"num_steps": run.metrics["num_steps"] * math.exp(-0.1)})
    told = model(runs)
    assert all(told.own[r.tree] == pytest.approx(-0.1, abs=0.03) for r in runs if r.tree.startswith("idea"))


@pytest.mark.parametrize(
    "runs",
    [study(1, effect=0.0), study(1, wandering=0.0), study(1, fresh=0)[:40], []],
    ids=["no effect", "fixed steps", "too few replicates", "nothing"],
)
def test_nothing_is_adjusted_without_a_certain_slope(runs: list[Experiment]) -> None:
    assert model_of(runs, "base", "num_steps") is None


def test_the_gain_at_the_end_is_adjusted_and_a_configuration_key_turns_that_off() -> None:
    plugins = Plugins.load()
    options = SimOptions(
        objective=ObjectiveOptions(name="additive", noise=0.0005),
        tiers={"a": SimTier(slots=8)},
        disturbances=DisturbanceOptions(speed=0.008, speed_ar1=0.95),
    )
    finals = []
    for metric in ("num_steps", ""):
        rule = Noise(steps_metric=metric)
        budget = Budget(max_experiments=80)
        finals.append(
            simulate(
                Simulation(options=options, budget=budget, noise=rule, strategy="random", agent="dice"),
                plugins,
            ).summary["final"]
        )
    adjusted, plain = finals
    assert adjusted["high"] - adjusted["low"] < 0.75 * (plain["high"] - plain["low"])
    assert "as on machines of average speed" in adjusted["text"]
    assert adjusted["speed"].startswith("1 % more num_steps")
    assert plain["speed"] == ""
