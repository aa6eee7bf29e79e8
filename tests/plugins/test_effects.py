"""`arf effects` on studies whose truth is known, and its pictures."""

import io
import itertools
import json
import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pygit2
import pytest
from click.testing import CliRunner
from matplotlib.image import imread

from arf.judge.statistics import Noise
from arf.store.database import Store
from arf.study import Study
from arf.testing.laboratory import Ideas, Laboratory
from arf.types import Experiment, ExperimentState, Idea, Objective, Role, Tier
from arf_plugins.effects.commands import as_document, effects
from arf_plugins.effects.history import idea_effects, importance
from arf_plugins.effects.model import Axis, Cell, Finding, Fit, fit
from arf_plugins.effects.plots import bars_of, draw_constants, draw_pairs, draw_sizes
from arf_plugins.effects.reading import Found, base_constants
from arf_plugins.effects.reading import read_effects as read_study
from arf_plugins.report.files import PAGE, write_report
from arf_plugins.strategy_factorial.strategy import Factorial
from arf_plugins.strategy_greedy.strategy import Greedy
from arf_plugins.strategy_two_tier.strategy import TwoTier


def truth(ideas: Ideas) -> float:
    return (-8.0 if {1, 5} <= ideas else 2.0 * len(ideas & {1, 5})) - 4.0 * (9 in ideas)


def read_effects(directory: Path) -> Found:
    store = Store.open(directory)
    try:
        return read_study(store.load(), store.meta("workspace"))
    finally:
        store.close()


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


def test_a_report_shows_designs_ideas_and_their_pictures(folder: Path) -> None:
    written = write_report(folder)
    design, _ = read_effects(folder).designs[-1]
    name = design.label.replace(" ", "-")
    pictures = {path.name for path in written.paths if path.name.startswith("effects-")}
    assert {f"effects-{name}.png", f"effects-{name}-pairs.png", "effects-ideas.png"} <= pictures
    text = (folder / PAGE).read_text()
    assert text.count(f'<img alt="Effects of {design.label}"') == 1
    assert text.count(f'<img alt="Interactions of {design.label}"') == 1
    assert f"<h3>{design.label}: {len(design.axes)} factors" in text
    assert "expected best: " in text


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


def test_ideas_that_were_screened_one_at_a_time_are_no_design() -> None:
    tiers = [Tier(name="dear", slots=2, usd_per_hour=2.0), Tier(name="cheap", slots=8, usd_per_hour=1.0)]
    study = run(TwoTier(), ideas=40, tiers=tiers, truth=lambda ideas: 0.0).study
    found = read_study(study, "")
    assert len(study.by_role(Role.CELL)) == 40
    assert not found.designs
    assert {idea for effect in found.ideas for idea in effect.ideas} == set(study.ideas)


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


def test_constants_that_always_moved_together_are_not_told_apart() -> None:
    both = [1, 2, 4, 8, 16, 3, 6, 12]
    other = [0.1, 0.2, 0.1, 0.3, 0.2, 0.3, 0.2, 0.1]
    settings = [{"A": x, "TWIN": 2 * x, "B": z} for x, z in zip(both, other, strict=True)]
    values = [1.05, 1.02, 1.012, 0.98, 0.95, 1.0, 0.99, 0.96]
    found = importance(measured(settings, values), {"A": 1, "TWIN": 2, "B": 0.1}, 0.05)
    assert found is not None
    told = {c.name: c for c in found.constants}
    assert told["A"].p is None
    assert told["TWIN"].p is None
    assert told["A"].finding is not Finding.REAL
    assert told["B"].p is not None
    assert told["B"].adjusted == told["B"].p  # the only one that is tested


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


def test_the_base_of_a_constant_is_that_of_the_file_that_ideas_change(tmp_path: Path) -> None:
    """Not of another file that has the same name in it, such as a list of ideas."""
    repository = pygit2.init_repository(tmp_path)
    author = pygit2.Signature("arf", "arf@localhost")

    def commit(script: bytes, parents: list[pygit2.Oid]) -> pygit2.Oid:
        builder = repository.TreeBuilder()
        for path, content in (("ideas.yaml", b"DEPTH: 9\n"), ("train.py", script)):
            builder.insert(path, repository.create_blob(content), pygit2.enums.FileMode.BLOB)
        return repository.create_commit(None, author, author, "m", builder.write(), parents)

    base = commit(b"DEPTH = 4\n", [])
    changed = commit(b"DEPTH = 6\n", [base])
    study = Study(name="s", base=str(base), base_tree="t", tiers=[Tier(name="a", slots=1)])
    study.add_idea(Idea(id=1, title="deeper", base=str(base), commit=str(changed), constants={"DEPTH": 6}))
    assert base_constants(str(tmp_path), study) == {"DEPTH": 4}
    assert base_constants(str(tmp_path / "gone"), study) == {}


# ---- Pictures ------------------------------------------------------------------------------------

LONG = (
    "raise the embedding learning rate from 0.6 to 0.8 with warm-up",
    "use rotary base 200000 instead of 10000 for long range",
    "$\\frac{1}{0}$ {} %s \x1b[31m\n\u202esoftcap logits at 15 rather than 30",
    "qk-norm",
    "averyveryverylongnamewithoutanyspaceinit_and_underscores_in_it_as_constants_have",
    "注意 " * 20,
)


def fitted(
    factors: int,
    *,
    levels: int = 1,
    cells: int | None = None,
    noise: float = 0.002,
    known: Noise | None = None,
) -> Fit:
    """Of a design with two main effects and an interaction, all of its cells or the first so many."""
    names = [LONG[i % len(LONG)] for i in range(factors)]
    axes = [Axis(name=name, levels=tuple(f"{name} {level}" for level in range(levels))) for name in names]
    chosen: Sequence[tuple[int, ...]] = list(
        itertools.islice(itertools.product(range(levels + 1), repeat=factors), cells)
    )
    measured = []
    for i, cell in enumerate(chosen):
        gain = 0.01 * (cell[0] > 0) - 0.006 * (cell[-1] > 0) + 0.012 * (cell[0] > 0 and cell[1] > 0)
        measured.append(Cell(levels=cell, mean=1.0 - gain + noise * ((i * 7919) % 13 - 6) / 4))
    return fit(axes, measured, objective=Objective(), known=known)


def is_whole(png: bytes) -> bool:
    """Whether nothing is cut at the edge of a picture: all of the edge is blank."""
    pixels = imread(io.BytesIO(png))[:, :, :3]
    edge = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    return bool(pixels.min() < 0.5 and all((line == 1.0).all() for line in edge))


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(fitted(2, known=Noise(sigma=0.002, df=3)), id="two factors"),
        pytest.param(fitted(2), id="two factors, noise unknown"),
        pytest.param(fitted(3, cells=3), id="few runs"),
        pytest.param(fitted(5), id="five factors"),
        pytest.param(fitted(3, levels=4), id="many levels"),
        pytest.param(fitted(12, cells=24), id="twelve factors"),
        pytest.param(fitted(4, noise=0.0), id="no noise"),
        pytest.param(fitted(4, noise=1e-5), id="one effect dwarfs the others"),
    ],
)
def test_no_picture_of_a_design_is_cut(shown: Fit) -> None:
    assert is_whole(draw_sizes("design 1: gains", bars_of(shown)))
    pairs = draw_pairs("design 1: gains", Objective(), shown)
    assert bool(pairs) == any(not effect.is_main for effect in shown.effects)
    assert not pairs or is_whole(pairs)


def test_what_a_bar_must_pass_is_what_makes_it_real() -> None:
    bars = sorted(bars_of(fitted(5)), key=lambda bar: -abs(bar.gain))
    passed = [bar.among is not None and abs(bar.gain) >= bar.among for bar in bars]
    real = [bar.finding is Finding.REAL for bar in bars]
    first_short = passed.index(False)
    assert 0 < first_short < len(bars)
    assert real == [i < first_short for i in range(len(bars))], "Holm stops at the first that falls short"
    alone = {bar.alone for bar in bars if bar.alone is not None}
    assert max(alone) == pytest.approx(min(alone)), "a margin of error for all, as Lenth draws it"


def test_the_picture_of_constants_is_whole() -> None:
    values = [{"A": a, LONG[4]: b} for a in (1, 2, 4) for b in (0.1, 0.2)]
    study = measured([*values, values[0]], [1.0, 0.9, 0.8, 0.7, 0.65, 0.55, 1.01])
    found = importance(study, {"A": 1, LONG[4]: 0.1}, 0.05)
    assert found is not None
    assert is_whole(draw_constants(found))
