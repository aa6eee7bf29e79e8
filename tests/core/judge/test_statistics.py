"""The formulas against published and independent answers."""

import math
import random
from datetime import UTC, datetime

import pytest
from attrs import evolve

from arf.judge.statistics import (
    Noise,
    chance_of_keep,
    compare,
    idea_share,
    ignores_seed,
    lead_over_parent,
    look_share,
    noise,
    t_critical,
    t_tail,
)
from arf.study import Group, Study
from arf.types import Direction, Experiment, ExperimentState, NoiseRule, Objective, Role, Tier, Verdict

# Student's sleep data (Biometrika 6, 1908), as R has it in `sleep`: extra hours of sleep with two drugs.
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

MAX = Objective(metric="hours", direction=Direction.MAX)


def group(values: list[float], tree: str = "t") -> Group:
    made = Group(commit=f"c-{tree}", tree=tree, tier="a", budget=None)
    for value in values:
        made.add(value)
    return made


def pooled(*groups: Group) -> Noise:
    df = sum(g.n - 1 for g in groups)
    return Noise(sigma=math.sqrt(sum(g.sum_squares for g in groups) / df), df=df)


def make_study(
    objective: Objective = MAX, tiers: tuple[str, ...] = ("a",), rule: NoiseRule | None = None
) -> Study:
    return Study(
        rule=rule,
        name="s",
        base="base",
        base_tree="base-tree",
        objective=objective,
        tiers=[Tier(name=name, slots=2) for name in tiers],
    )


def put(
    study: Study,
    tree: str,
    value: float | None,
    *,
    role: Role = Role.REPLICATE,
    verdict: Verdict | None = Verdict.MEASURED,
    tier: str = "a",
    parent: str = "base",
    round: str = "",
    seed: int = 0,
) -> Experiment:
    experiment = Experiment(
        id=len(study.experiments) + 1,
        role=role,
        parent=parent,
        commit=tree.removesuffix("-tree"),
        tree=tree,
        tier=tier,
        seed=seed,
        round=round,
        accepted_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    study.put(experiment)
    ended = evolve(experiment, state=ExperimentState.ENDED, value=value)
    study.put(ended)
    if verdict is not None:
        study.put(evolve(ended, verdict=verdict))
    return study.experiments[experiment.id]


def sleep_study() -> Study:
    """The first drug is the baseline; the second one was kept."""
    study = make_study()
    for value in DRUG_1:
        put(study, "base-tree", value, role=Role.BASELINE)
    put(study, "two-tree", DRUG_2[0], role=Role.CANDIDATE, verdict=Verdict.KEEP)
    for value in DRUG_2[1:]:
        put(study, "two-tree", value)
    return study


def test_a_comparison_is_students_t_test_as_r_gives_it() -> None:
    """R: t.test(extra ~ group, sleep, var.equal = TRUE): t = -1.8608, df = 18, p-value = 0.07919."""
    one, two = group(DRUG_1), group(DRUG_2)
    comparison = compare(MAX, one, two, pooled(one, two))
    assert comparison.gain == pytest.approx(1.58)
    assert comparison.t == pytest.approx(1.8608, abs=5e-5)
    assert comparison.df == 18
    assert 2 * comparison.p == pytest.approx(0.07919, abs=5e-6)


def test_a_contender_that_scatters_more_than_the_noise_is_compared_as_welch_does() -> None:
    from scipy.stats import ttest_ind

    calm, wild = [1.0, 1.1, 0.9, 1.05, 0.95], [9.0, 2.0, 6.0, 1.0]
    old, new = group(calm), group(wild)
    comparison = compare(MAX, old, new, pooled(old))
    expected = ttest_ind(wild, calm, equal_var=False, alternative="greater")
    assert comparison.t == pytest.approx(expected.statistic)
    assert comparison.df == pytest.approx(expected.df)
    assert comparison.p == pytest.approx(expected.pvalue)


def test_one_run_is_compared_by_the_noise_of_others() -> None:
    old = group([1.0, 1.2, 0.8])
    comparison = compare(Objective(), old, group([0.5]), Noise(sigma=0.2, df=7))
    assert comparison.gain == pytest.approx(0.5)
    assert comparison.error == pytest.approx(0.2 * math.sqrt(1 / 3 + 1))
    assert comparison.df == 7


def test_noise_is_pooled_within_groups_whatever_their_means() -> None:
    study = make_study()
    for value in DRUG_1:
        put(study, "base-tree", value)
    for value in DRUG_2:
        put(study, "two-tree", value + 1000)
    put(study, "alone-tree", 7.0)
    put(study, "alone-tree", None, verdict=Verdict.CRASH)
    known = noise(study, "a")
    assert known is not None
    assert known.df == 18
    assert known.sigma**2 == pytest.approx((3.200556 + 4.009) / 2, abs=1e-6)  # R: tapply(extra, group, var)
    assert noise(study, "b") is None


def test_the_interval_of_sigma_is_that_of_chi_squared_tables() -> None:
    """Chi-squared with 10 degrees of freedom: 3.247 and 20.483 at 2.5 % and 97.5 %."""
    low, high = Noise(sigma=2.0, df=10).interval()
    assert low == pytest.approx(2 * math.sqrt(10 / 20.483), rel=1e-4)
    assert high == pytest.approx(2 * math.sqrt(10 / 3.247), rel=1e-4)


def test_t_is_that_of_tables() -> None:
    assert t_critical(0.025, 10) == pytest.approx(2.228, abs=5e-4)
    assert t_critical(0.0005, 3) == pytest.approx(12.924, abs=5e-4)
    assert t_tail(2.228, 10) == pytest.approx(0.025, abs=1e-5)


def test_the_shares_of_alpha_add_up_to_no_more_than_all_of_it() -> None:
    shares = [idea_share(index) for index in range(1, 100_001)]
    assert sum(shares) == pytest.approx(1.0, abs=1e-3)
    assert sum(shares) < 1.0
    assert shares == sorted(shares, reverse=True)
    assert sum(shares[:20]) == pytest.approx(0.5)
    for most in (1, 2, 6):
        assert sum(look_share(runs, most) for runs in range(1, most + 1)) == pytest.approx(1.0)


def test_the_chance_of_a_keep_is_what_happens() -> None:
    """A contender and incumbents are played to the end from where they are, their means drawn anew."""
    old, new = group([0.0, 0.0, 0.0, 0.0]), group([2.2, 2.2])
    known = Noise(sigma=1.0, df=10_000)
    comparison = compare(MAX, old, new, known)
    said = chance_of_keep(comparison, old, new, 6, 0.001)
    chance = random.Random(1)
    kept = 0
    for _ in range(4000):
        mean_old, mean_new = chance.gauss(0, 0.5), chance.gauss(2.2, math.sqrt(0.5))
        more_old = sum(chance.gauss(mean_old, 1) for _ in range(2))
        more_new = sum(chance.gauss(mean_new, 1) for _ in range(4))
        gain = (4.4 + more_new) / 6 - more_old / 6
        kept += gain / math.sqrt(1 / 6 + 1 / 6) > t_critical(0.001, 10_000)
    assert said == pytest.approx(kept / 4000, abs=0.03)


@pytest.mark.parametrize("exact", [False, True])
def test_a_script_that_ignores_its_seed_is_noticed_unless_it_is_said_to_be_exact(exact: bool) -> None:
    study = make_study(Objective(), rule=NoiseRule(exact=exact))
    for seed in range(3):
        put(study, "base-tree", 2.0, role=Role.BASELINE, verdict=None, seed=seed)
    assert ignores_seed(study, "a") is not exact


def test_the_lead_over_a_parent_is_on_the_tier_of_the_experiment() -> None:
    study = make_study(Objective(), tiers=("a", "b"))
    for value in (1.0, 1.2):
        put(study, "base-tree", value)
        put(study, "base-tree", value + 100, tier="b")
    good = put(study, "good-tree", 0.9, role=Role.CANDIDATE)
    lead = lead_over_parent(study, good)
    assert lead is not None
    assert lead.gain == pytest.approx(0.2)
    assert lead_over_parent(study, put(study, "grandchild-tree", 0.5, parent="elsewhere")) is None
    assert lead_over_parent(study, put(study, "base-tree", 1.1)) is None
