"""`arf effects` on studies whose truth is known, and its pictures."""

import json
import struct
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from arf.effects import Finding
from arf.store import Store
from arf.study import Study
from arf.testing.laboratory import Ideas, Laboratory
from arf.types import Experiment, ExperimentState, Idea, Role, Tier
from arf_plugins.effects.commands import as_document, effects, read_effects
from arf_plugins.effects.history import idea_effects, importance
from arf_plugins.strategy_factorial.strategy import Factorial
from arf_plugins.strategy_greedy.strategy import Greedy


def truth(ideas: Ideas) -> float:
    return (-8.0 if {1, 5} <= ideas else 2.0 * len(ideas & {1, 5})) - 4.0 * (9 in ideas)


def run(strategy: object, **settings: object) -> Laboratory:
    settings = {"ideas": 8, "tiers": [Tier(name="a", slots=8)], "truth": truth, "sigma": 0.3, **settings}
    laboratory = Laboratory(strategy, **settings)  # type: ignore[arg-type]
    laboratory.run()
    return laboratory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A factorial study as its store has it."""
    directory = tmp_path_factory.mktemp("study")
    study = run(Factorial()).study
    store = Store.create(directory, study, {"workspace": ""})
    with store.transaction():
        seq = 0
        for idea in study.ideas.values():
            store.add_idea(idea, seq := seq + 1)
        for factors in study.all_factors().values():
            for factor in factors:
                store.add_factor(factor, seq := seq + 1)
        for experiment in study.experiments.values():
            store.insert_experiment(experiment, seq := seq + 1)
            store.update_experiment(experiment, seq := seq + 1)
    store.close()
    return directory


def test_a_designed_study_tells_its_effects_and_interactions(folder: Path) -> None:
    found = read_effects(folder)
    _, fitted = found.designs[0]
    real = {e.name: e.gain for e in fitted.effects if e.finding is Finding.REAL}
    assert set(real) >= {"factor 1", "factor 5", "factor 9", "factor 1 × factor 5"}
    assert real["factor 1 × factor 5"] == pytest.approx(6.0, abs=0.7)
    assert real["factor 9"] == pytest.approx(4.0, abs=0.7)


def test_the_command_prints_a_table_and_draws(folder: Path) -> None:
    result = CliRunner().invoke(effects, [str(folder)])
    assert result.exit_code == 0, result.output
    assert "factor 1 × factor 5" in result.stdout
    assert "aliased with" in result.stdout
    assert "expected best: " in result.stdout
    assert "Trust: not designed" in result.stdout
    pictures = sorted(folder.glob("effects-*.png"))
    assert pictures
    for picture in pictures:
        width, height = struct.unpack(">II", picture.read_bytes()[16:24])
        assert (width, height) > (500, 200)
    assert all(str(picture) in result.stderr for picture in pictures)


def test_json_is_one_document_with_every_number(folder: Path) -> None:
    result = CliRunner().invoke(effects, [str(folder), "--json", "--no-plots"])
    told = json.loads(result.stdout)
    first = told["designs"][0]["effects"][0]
    assert {"name", "kind", "gain", "error", "p", "adjusted", "finding", "aliases"} <= set(first)
    assert told["plots"] == []
    assert told["ideas"]


def test_a_study_with_nothing_yet_says_so(tmp_path: Path) -> None:
    study = Laboratory(Greedy(), ideas=0).study
    Store.create(tmp_path, study, {"workspace": ""}).close()
    result = CliRunner().invoke(effects, [str(tmp_path)])
    assert result.exit_code == 0
    assert "Nothing to tell yet" in result.stdout


def test_a_history_that_nobody_designed_tells_single_ideas() -> None:
    laboratory = run(Greedy(), ideas=16)
    singles, _ = idea_effects(laboratory.study, 0.05)
    by_idea = {effect.ideas: effect for effect in singles}
    assert by_idea[(9,)].gain == pytest.approx(4.0, abs=0.7)
    assert by_idea[(9,)].finding is Finding.REAL
    assert by_idea[(1,)].gain == pytest.approx(-2.0, abs=0.9)
    assert by_idea[(3,)].finding is Finding.UNPROVEN
    assert all(effect.error is not None and effect.error > 0 for effect in singles)


def test_a_pair_needs_both_alone_and_together() -> None:
    """The whole 2^2: half of (8 - (-2 - 2)) is 6."""
    laboratory = run(
        Factorial(), ideas=2, truth=lambda ideas: -8.0 if {1, 3} <= ideas else 2.0 * len(ideas & {1, 3})
    )
    _, pairs = idea_effects(laboratory.study, 0.05)
    together = {effect.ideas: effect for effect in pairs}[(1, 3)]
    assert together.gain == pytest.approx(6.0, abs=0.7)
    assert together.error == pytest.approx(0.3 * 0.5 * (3 + 1 / 4) ** 0.5, rel=0.6)


def test_a_study_of_many_experiments_is_read_in_linear_time() -> None:
    """Counted in experiments that are looked at, not in seconds."""
    laboratory = Laboratory(
        Greedy(), ideas=10**9, tiers=[Tier(name="a", slots=16)], max_experiments=1000, truth=lambda ideas: 0.0
    )
    laboratory.run()
    before = laboratory.study.walks
    singles, _ = idea_effects(laboratory.study, 0.05)
    importance(laboratory.study, {}, 0.05)
    assert laboratory.study.walks - before == 2
    assert len(singles) > 600


def test_cells_of_a_design_are_not_judged_by_the_history_alone(folder: Path) -> None:
    found = read_effects(folder)
    document = as_document(found, [])
    assert document["designs"][0]["label"] in {e.round for e in found.study.experiments.values()}
    assert len(found.study.by_role(Role.CELL)) >= 15


def test_the_importance_of_constants_agrees_with_statsmodels() -> None:
    """statsmodels 0.15.0: `OLS(gain, [1, z1, z1**2, z2, z2**2])` with z1 the standardised logarithm of A and
    z2 the standardised B; shares by R squared without A and B, and `compare_f_test`."""
    a = [1, 2, 4, 8, 16, 1, 2, 4, 8, 16, 1, 16]
    b = [0.1] * 5 + [0.2] * 5 + [0.3] * 2
    y = [1.0476, 1.0201, 1.0121, 1.0108, 0.9932, 0.9902, 0.9956, 0.9708, 0.9574, 0.9487, 1.0314, 0.9891]
    study = measured([{"A": x, "B": z} for x, z in zip(a, b, strict=True)], y)
    found = importance(study, {"A": 1, "B": 0.1}, 0.05)
    assert found is not None
    assert found.commits == 12
    assert found.explained == pytest.approx(0.9613864457786958)
    shares = {c.name: (c.share, c.p) for c in found.constants}
    assert shares["A"] == (pytest.approx(0.39863527836777113), pytest.approx(0.00020466280384506656))
    assert shares["B"] == (pytest.approx(0.5514354102629547), pytest.approx(7.169370771230191e-05))
    assert {c.name: c.best for c in found.constants} == {"A": 16, "B": 0.2}


def measured(settings: list[dict[str, float]], values: list[float]) -> Study:
    """A study of one run of each setting; the first is that of the baseline."""
    study = Study(name="s", base="base", base_tree="base", tiers=[Tier(name="a", slots=1)])
    for number, (constants, value) in enumerate(zip(settings, values, strict=True), 1):
        ideas: tuple[int, ...] = ()
        if number > 1:
            study.add_idea(Idea(id=number, title=str(number), base="base", commit="x", constants=constants))
            ideas = (number,)
        name = "base" if number == 1 else f"c{number}"
        at = datetime(2026, 1, 1, tzinfo=UTC)
        study.put(
            Experiment(
                id=number, role=Role.CANDIDATE, parent="base", ideas=ideas, commit=name, tree=name, tier="a",
                seed=0, accepted_at=at, state=ExperimentState.ENDED, value=value,
            )
        )  # fmt: skip
    return study
