"""The formulas against published examples and independent programs."""

import math
import random
from itertools import product

import pytest

from arf.judge.statistics import Noise
from arf.types import Direction, Objective
from arf_plugins.effects.model import (
    Axis,
    Cell,
    Coding,
    Effect,
    Finding,
    Fit,
    Levels,
    fit,
    half_normal,
    holm,
    holm_levels,
    lenth,
)

MAX = Objective(metric="rate", direction=Direction.MAX)
MIN = Objective(metric="loss", direction=Direction.MIN)

# Montgomery, Design and Analysis of Experiments, 8th ed., example 6.2 (table 6.10): the filtration rate for
# temperature (A), pressure (B), formaldehyde (C) and stirring rate (D), unreplicated, in standard order.
FILTRATION = [45, 71, 48, 65, 68, 60, 80, 65, 43, 100, 45, 104, 75, 86, 70, 96]


def axes(names: str) -> list[Axis]:
    return [Axis(name=name, levels=(f"{name}+",)) for name in names]


def filtration(objective: Objective = MAX, names: str = "ABCD") -> list[Cell]:
    sign = 1 if objective is MAX else -1
    return [
        Cell(levels=tuple((i >> bit) & 1 for bit in range(len(names))), mean=float(sign * rate))
        for i, rate in enumerate(FILTRATION)
    ]


def effect(fitted: Fit, name: str) -> Effect:
    return next(e for e in fitted.effects if sorted(e.name.split(" × ")) == sorted(name.split(" × ")))


def test_effects_of_montgomerys_filtration_experiment() -> None:
    fitted = fit(axes("ABCD"), filtration(), objective=MAX)
    published = {  # table 6.12
        "A": 21.625, "B": 3.125, "C": 9.875, "D": 14.625, "A × B": 0.125, "A × C": -18.125, "A × D": 16.625,
        "B × C": 2.375, "B × D": -0.375, "C × D": -1.125,
    }  # fmt: skip
    assert {e.name for e in fitted.effects} == set(published)
    for name, gain in published.items():
        assert effect(fitted, name).gain == pytest.approx(gain)
        assert effect(fitted, name).aliases == ()
    # Lenth's pseudo standard error of this example; its margin of error is 2.571 times that (section 6.5).
    assert fitted.df == 5
    assert effect(fitted, "A").error == pytest.approx(2.625)
    real = {e.name for e in fitted.effects if e.finding is Finding.REAL}
    assert real == {"A", "D", "A × C", "A × D"}


def test_effects_of_the_pilot_plant_of_box_hunter_and_hunter() -> None:
    """Statistics for Experimenters, 2nd ed., section 5: yields of two runs of each cell, and table 5.5."""
    pairs = [(59, 61), (74, 70), (50, 58), (69, 67), (50, 54), (81, 85), (46, 44), (79, 81)]
    cells = [
        Cell(levels=tuple((i >> bit) & 1 for bit in range(3)), mean=sum(pair) / 2, n=2)
        for i, pair in enumerate(pairs)
    ]
    variance = sum((a - b) ** 2 / 2 for a, b in pairs) / 8
    fitted = fit(axes("TCK"), cells, objective=MAX, known=Noise(sigma=variance**0.5, df=8))
    published = {"T": 23, "C": -5, "K": 1.5, "T × C": 1.5, "T × K": 10, "C × K": 0}
    assert {e.name: e.gain for e in fitted.effects} == pytest.approx(published)
    assert [e.error for e in fitted.effects] == pytest.approx([2**0.5] * 6)
    assert {e.name for e in fitted.effects if e.finding is Finding.REAL} == {"T", "C", "T × K"}


def test_effects_and_aliases_of_montgomerys_injection_molding_experiment() -> None:
    """Design and Analysis of Experiments, 8th ed., example 8.4: a 2^(6-2) with E = ABC and F = BCD."""
    shrinkage = [6, 10, 32, 60, 4, 15, 26, 60, 8, 12, 34, 60, 16, 5, 37, 52]
    cells = []
    for i, mean in enumerate(shrinkage):
        a, b, c, d = ((i >> bit) & 1 for bit in range(4))
        cells.append(Cell(levels=(a, b, c, d, (a + b + c) % 2, (b + c + d) % 2), mean=float(mean)))
    fitted = fit(axes("ABCDEF"), cells, objective=MAX)
    published = {"A": 13.875, "B": 35.625, "C": -0.875, "D": 1.375, "E": 0.375, "F": 0.375}
    published |= {"A × B": 11.875, "A × D": -5.375}
    for name, gain in published.items():
        assert effect(fitted, name).gain == pytest.approx(gain)
    assert effect(fitted, "A × B").aliases == (("C × E", 1.0),)
    assert {e.name for e in fitted.effects if e.finding is Finding.REAL} == {"A", "B", "A × B", "A × D"}


@pytest.mark.parametrize("value", [0.1, 1e-9 / 3, 1e9 / 7, -1 / 3, 0.0])
@pytest.mark.parametrize("known", [None, Noise(sigma=0.0, df=3), Noise(sigma=1e-17, df=3)])
def test_readings_that_are_all_the_same_have_no_effects(value: float, known: Noise | None) -> None:
    cells = [Cell(levels=cell.levels, mean=value) for cell in filtration()]
    fitted = fit(axes("ABCD"), cells, objective=MIN, known=known)
    assert {e.gain for e in fitted.effects} == {0.0}
    assert {e.finding for e in fitted.effects} <= {Finding.UNPROVEN, Finding.UNKNOWN}
    assert fitted.predict([(1, 1, 1, 1)]) == [0.0]


@pytest.mark.parametrize("scale", [1e-150, 1e-9, 1e9, 1e150])
def test_the_unit_of_a_metric_changes_nothing(scale: float) -> None:
    cells = [Cell(levels=cell.levels, mean=cell.mean * scale) for cell in filtration()]
    fitted, plain = fit(axes("ABCD"), cells, objective=MAX), fit(axes("ABCD"), filtration(), objective=MAX)
    assert [(e.name, e.finding) for e in fitted.effects] == [(e.name, e.finding) for e in plain.effects]
    assert [e.gain / scale for e in fitted.effects] == pytest.approx([e.gain for e in plain.effects])


def test_a_minimised_objective_has_the_same_gains_as_its_negative_maximised() -> None:
    one = fit(axes("ABCD"), filtration(), objective=MAX)
    other = fit(axes("ABCD"), filtration(MIN), objective=MIN)
    assert [(e.name, e.gain, e.p) for e in one.effects] == [(e.name, e.gain, e.p) for e in other.effects]


def test_the_half_fraction_of_the_filtration_experiment_and_its_aliases() -> None:
    """Montgomery, example 8.1: the fraction with I = ABCD."""
    cells = [cell for cell in filtration() if sum(cell.levels) % 2 == 0]
    fitted = fit(axes("ABCD"), cells, objective=MAX)
    published = {"A": 19.0, "B": 1.5, "C": 14.0, "D": 16.5}
    for name, gain in published.items():
        assert effect(fitted, name).gain == pytest.approx(gain)
    chains = {"A × B": ("C × D", -1.0), "A × C": ("B × D", -18.5), "A × D": ("B × C", 19.0)}
    for name, (alias, gain) in chains.items():
        found = next(e for e in fitted.effects if e.name in (name, alias))
        assert found.gain == pytest.approx(gain)
        assert [(name if found.name == alias else alias, 1.0)] == list(found.aliases)
    # Both A × C and B × D would explain it; the one of the larger main effects is named (heredity).
    assert {"A × C", "A × D"} < {e.name for e in fitted.effects}


def test_a_replicated_design_has_the_f_tests_of_its_analysis_of_variance() -> None:
    """Montgomery, section 6.2: yield by concentration (A) and catalyst (B); table 6.1."""
    runs = {(0, 0): (28, 25, 27), (1, 0): (36, 32, 32), (0, 1): (18, 19, 23), (1, 1): (31, 30, 29)}
    cells = [Cell(levels=levels, mean=sum(ys) / 3, n=3) for levels, ys in runs.items()]
    square = sum((y - sum(ys) / 3) ** 2 for ys in runs.values() for y in ys)
    assert square == pytest.approx(31.33, abs=0.005)
    fitted = fit(axes("AB"), cells, objective=MAX, known=Noise(sigma=math.sqrt(square / 8), df=8))
    published = {"A": (8.33, 53.15, 0.0001), "B": (-5.00, 19.13, 0.0024), "A × B": (1.67, 2.13, 0.1828)}
    for name, (gain, f, p) in published.items():
        found = effect(fitted, name)
        assert found.gain == pytest.approx(gain, abs=0.005)
        assert found.t is not None
        assert found.t**2 == pytest.approx(f, rel=0.002)  # the book rounds its mean squares
        assert found.p == pytest.approx(p, abs=0.0001)


def test_an_unbalanced_design_with_a_missing_cell_agrees_with_statsmodels() -> None:
    """statsmodels 0.15.0: `OLS(y, X).fit()` on the runs, X with 1, a, b, d, a b coded -1 and 1; doubled."""
    runs = {
        (0, 0, 0): (5.1, 4.8), (1, 0, 0): (6.9,), (0, 1, 0): (3.2, 3.0, 3.4), (1, 1, 0): (6.1,),
        (0, 0, 1): (5.6,), (1, 0, 1): (7.9, 8.3), (0, 1, 1): (3.1,),
    }  # fmt: skip
    cells = [Cell(levels=levels, mean=sum(ys) / len(ys), n=len(ys)) for levels, ys in runs.items()]
    known = Noise(sigma=0.367453700787218, df=6)
    fitted = fit(axes("abd"), cells, objective=MAX, known=known, pairs=[(0, 1)], tolerance=0.1)
    expected = {
        "a": (2.706, 0.25457939, 4.08553683e-05), "b": (-1.58733333, 0.27168391, 1.10842029e-03),
        "d": (0.556, 0.25457939, 7.16655732e-02), "a × b": (0.358, 0.26497463, 2.25392216e-01),
    }  # fmt: skip
    for name, (gain, error, p) in expected.items():
        found = effect(fitted, name)
        assert found.gain == pytest.approx(gain)
        assert found.error == pytest.approx(error)
        assert found.p == pytest.approx(p)


def test_holm_agrees_with_statsmodels() -> None:
    """statsmodels 0.15.0: `multipletests(p, method="holm")`."""
    assert holm([0.01, 0.04, 0.03, 0.005, 0.2]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.2])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_levels_of_holm_are_those_at_which_it_rejects() -> None:
    ps = [0.01, 0.04, 0.03, 0.005, 0.2]
    assert holm_levels(ps, 0.05) == pytest.approx([0.05 / 4, 0.05 / 2, 0.05 / 3, 0.05 / 5, 0.05])
    assert holm_levels([], 0.05) == []


def test_lenths_method_finds_the_noise_under_a_few_large_effects() -> None:
    chance = random.Random(1)
    ratios = []
    for _ in range(400):
        contrasts = [chance.gauss(0, 2.0) for _ in range(12)] + [50.0, -70.0, 90.0]
        ratios.append(lenth(contrasts)[0] / 2.0)
    assert 0.9 < sum(ratios) / len(ratios) < 1.25
    assert lenth([0.0] * 7) == (0.0, 7 / 3)


def test_a_level_is_compared_with_the_base_whatever_the_number_of_levels() -> None:
    table = {(0, 0): 10.0, (1, 0): 12.0, (2, 0): 17.0, (0, 1): 11.0, (1, 1): 13.0, (2, 1): 22.0}
    many = [Axis(name="size", levels=("m", "l")), Axis(name="x", levels=("x",))]
    cells = [Cell(levels=levels, mean=mean) for levels, mean in table.items()]
    fitted = fit(many, cells, objective=MAX, known=Noise(sigma=1.0, df=20), tolerance=0.1)
    assert effect(fitted, "size: m").gain == pytest.approx(2.0)  # of 10 and 11, to 12 and 13
    assert effect(fitted, "size: l").gain == pytest.approx(9.0)
    assert effect(fitted, "x").gain == pytest.approx((1 + 1 + 5) / 3)
    assert effect(fitted, "size: l × x").gain == pytest.approx(0.5 * (22 - 11 - 17 + 10))


def test_treatment_coding_compares_on_the_base() -> None:
    table = {(0, 0): 10.0, (1, 0): 13.0, (0, 1): 11.0, (1, 1): 20.0}
    cells = [Cell(levels=levels, mean=mean) for levels, mean in table.items()]
    fitted = fit(axes("ab"), cells, objective=MAX, coding=Coding.TREATMENT, tolerance=0.1)
    assert effect(fitted, "a").gain == pytest.approx(3.0)
    assert effect(fitted, "b").gain == pytest.approx(1.0)
    assert effect(fitted, "a × b").gain == pytest.approx(3.0)
    assert fitted.sigma is None
    assert {e.finding for e in fitted.effects} == {Finding.UNKNOWN}


def test_blocks_take_the_offset_of_a_tier_out_of_the_effects() -> None:
    cells = [
        Cell(
            levels=cell.levels, mean=cell.mean + 500 * (sum(cell.levels) % 2), block=str(sum(cell.levels) % 2)
        )
        for cell in filtration()
    ]  # blocked on ABCD: no effect of interest is lost
    fitted = fit(axes("ABCD"), cells, objective=MAX)
    assert effect(fitted, "A").gain == pytest.approx(21.625)
    assert effect(fitted, "A × C").gain == pytest.approx(-18.125)


def test_a_factor_whose_level_always_crashed_is_told_and_disturbs_no_other() -> None:
    cells = [cell for cell in filtration() if not cell.levels[1]]
    fitted = fit(axes("ABCD"), cells, objective=MAX)
    assert fitted.missing == ("B",)
    assert {e.name for e in fitted.effects} == {"A", "C", "D", "A × C", "A × D", "C × D"}
    assert all(not e.aliases for e in fitted.effects)


def test_few_cells_and_no_replicates_leave_the_noise_unknown() -> None:
    cells = [Cell(levels=levels, mean=float(sum(levels))) for levels in product((0, 1), repeat=2)]
    fitted = fit(axes("ab"), cells, objective=MAX)
    assert fitted.sigma is None
    assert "unknown" in fitted.source
    assert all(e.p is None for e in fitted.effects)
    assert fitted.predict([(1, 1)])[0] == pytest.approx(2.0)


def test_on_pure_noise_a_design_calls_nothing_real_as_often_as_it_says() -> None:
    """400 unreplicated 2^4 designs, with Lenth's method and with replicates of 3 degrees of freedom."""
    chance = random.Random(2)
    wrong = {"lenth": 0, "replicates": 0}
    for _ in range(400):
        cells = [Cell(levels=levels, mean=chance.gauss()) for levels in product((0, 1), repeat=4)]
        four = [chance.gauss() for _ in range(4)]
        sigma = math.sqrt(sum((x - sum(four) / 4) ** 2 for x in four) / 3)
        for name, known in (("lenth", None), ("replicates", Noise(sigma=sigma, df=3))):
            fitted = fit(axes("ABCD"), cells, objective=MIN, known=known)
            wrong[name] += any(e.finding is Finding.REAL for e in fitted.effects)
    assert wrong["lenth"] <= 0.07 * 400
    assert wrong["replicates"] <= 0.07 * 400


def test_predictions_count_what_is_proven_in_full_and_noise_for_nothing() -> None:
    fitted = fit(axes("ABCD"), filtration(), objective=MAX, known=Noise(sigma=0.01, df=100))
    best = max(product((0, 1), repeat=4), key=lambda cell: fitted.predict([cell])[0])
    assert best == (1, 0, 0, 1) or best == (1, 1, 0, 1)
    assert fitted.predict([(1, 0, 0, 1)])[0] == pytest.approx(100 - 45, abs=6)
    doubtful = fit(axes("ABCD"), filtration(), objective=MAX, known=Noise(sigma=1000.0, df=100))
    assert doubtful.predict([(1, 0, 0, 1), (0, 1, 1, 0)]) == [0.0, 0.0]


def test_what_is_aliased_in_a_plackett_burman_design_is_told_in_shares() -> None:
    pydoe = pytest.importorskip("pydoe")
    cells = [
        Cell(levels=tuple(int(x > 0) for x in row[:8]), mean=float(i % 5))
        for i, row in enumerate(pydoe.pbdesign(11))
    ]
    fitted = fit(axes("ABCDEFGH"), cells, objective=MAX)
    mains = [e for e in fitted.effects if e.is_main]
    assert len(mains) == 8
    assert all(e.aliases and abs(abs(share) - 1 / 3) < 1e-3 for e in mains for _, share in e.aliases)


def test_many_factors_changed_one_at_a_time_are_fitted_without_looking_at_every_subset() -> None:
    factors = [Axis(name=f"f{i}", levels=("on",)) for i in range(40)]
    cells = [Cell(levels=tuple(int(i == on) for i in range(40)), mean=0.1 * on) for on in range(-1, 40)]
    fitted = fit(factors, cells, objective=MAX)
    assert fitted.cells == tuple(cells)


def test_scores_of_a_half_normal_plot_ascend_from_near_zero() -> None:
    scores = half_normal(15)
    assert scores == sorted(scores)
    assert 0 < scores[0] < 0.1
    assert 2.0 < scores[-1] < 2.3  # the quantile of 1 - 1/60


def test_the_cost_of_a_fit_grows_with_its_cells_only_as_said() -> None:
    levels: list[Levels] = list(product((0, 1), repeat=3))
    cells = [Cell(levels=levels[i % 8], mean=float(i % 7), block=f"b{i // 5000}") for i in range(10_000)]
    fitted = fit(axes("abc"), cells, objective=MAX, known=Noise(sigma=1.0, df=10))
    assert len(fitted.effects) == 6
