"""Claims on studies of known truth: pruning, pairs of fresh runs, and what is said of them."""

import random
from collections.abc import Callable

import pytest

from arf.interfaces import ClaimRule
from arf.testing.laboratory import Laboratory
from arf.testing.suites.claim import ClaimRuleSuite
from arf.types import Claim, Experiment, Plan, Role
from arf_plugins.claims import Options
from arf_plugins.claims.interleaved import (
    Interleaved,
    chance_without_effect,
    share_of_claim,
    worth,
)
from arf_plugins.claims.nothing import Nothing

Ideas = frozenset[int]


class TestInterleaved(ClaimRuleSuite):
    def make(self) -> ClaimRule:
        return Interleaved()


def claimed(
    patch: tuple[int, ...],
    truth: Callable[[Ideas], float],
    *,
    options: Options | None = None,
    crash: Callable[[Experiment], bool] = lambda experiment: False,
    refuse: Callable[[Plan], str] = lambda plan: "",
    seed: int = 0,
) -> tuple[Claim | None, Laboratory]:
    """A claim about ideas on the base of a study that ran its baseline and nothing else."""
    lab = ClaimRuleSuite.laboratory_with(patch, truth=truth, crash=crash, refuse=refuse, seed=seed)
    return lab.claim(Interleaved(options)), lab


def test_what_is_better_is_proven_with_an_interval_that_holds_the_truth() -> None:
    claim, lab = claimed((1,), lambda ideas: -3.0 * len(ideas))
    assert claim is not None
    assert claim.proven
    assert (claim.low or 9.0) < 3.0 < (claim.high or 0.0)
    assert (claim.best_runs, claim.baseline_runs) == (12, 12)
    assert claim.text.startswith("proven: better than the baseline by")
    assert not lab.study.by_round("claim/1/leave-one-out"), "one change has nothing to be left out of"


def test_changes_that_do_nothing_are_taken_back_and_the_others_stay() -> None:
    claim, lab = claimed((1, 2, 3, 4, 5), lambda ideas: -8.0 * len(ideas & {1, 4}))
    assert claim is not None
    assert {1, 4} <= set(claim.ideas)
    assert len(claim.dropped) >= 2
    assert set(claim.ideas) | set(claim.dropped) == {1, 2, 3, 4, 5}
    found = worth(lab.study, lab.study.claim_plans[1])
    assert found[1][0] == pytest.approx(8.0, abs=3 * found[1][1])


def test_many_changes_that_are_small_alone_are_kept_for_what_they_are_together() -> None:
    kept = 0
    for seed in range(5):
        claim, _ = claimed(tuple(range(1, 13)), lambda ideas: -0.7 * len(ideas), seed=seed)
        assert claim is not None
        kept += len(claim.ideas)
    assert kept >= 5 * 9


def test_a_change_that_the_others_need_is_not_taken_back() -> None:
    def refuse(plan: Plan) -> str:
        return "conflict" if plan.ideas and 1 not in plan.ideas else ""

    claim, _ = claimed((1, 2), lambda ideas: -6.0 * (2 in ideas), refuse=refuse)
    assert claim is not None
    assert claim.ideas == (1, 2)


def test_a_patch_that_always_crashes_claims_nothing_and_comes_to_an_end() -> None:
    claim, lab = claimed((1,), lambda ideas: 0.0, crash=lambda experiment: bool(experiment.ideas))
    assert claim is None
    assert len(lab.study.by_role(Role.CLAIM)) <= 2 * (12 + 2)


def test_runs_that_fail_are_made_up_for_pair_by_pair() -> None:
    claim, _ = claimed(
        (1,), lambda ideas: -3.0 * len(ideas), crash=lambda e: e.role is Role.CLAIM and e.id == 9
    )
    assert claim is not None
    assert claim.best_runs == 12


def test_both_runs_of_a_pair_have_one_seed_and_start_in_random_order() -> None:
    _, lab = claimed((1,), lambda ideas: -3.0 * len(ideas))
    runs = [lab.study.experiments[n] for n in lab.study.by_round("claim/1/pairs")]
    pairs = [runs[i : i + 2] for i in range(0, len(runs), 2)]
    assert all(first.seed == second.seed for first, second in pairs)
    assert all({bool(first.ideas), bool(second.ideas)} == {True, False} for first, second in pairs)
    assert 2 <= sum(bool(first.ideas) for first, _ in pairs) <= 10


def test_with_few_runs_left_there_are_fewer_pairs_and_no_pruning() -> None:
    lab = ClaimRuleSuite.laboratory_with((1, 2, 3), truth=lambda ideas: 0.0)
    rule = Interleaved()
    patch = lab.strategy.recommend(lab.study)
    assert patch is not None
    plan = rule.begin(lab.study, patch, 14, "a test")
    assert plan is not None
    assert (plan.pairs, plan.questioned) == (6, ())
    assert rule.begin(lab.study, patch, 3, "a test") is None


def test_of_nothing_but_noise_hardly_anything_is_proven() -> None:
    claims = [claimed((1,), lambda ideas: 0.0, seed=seed)[0] for seed in range(200)]
    assert sum(claim is not None and claim.proven for claim in claims) <= 12


def test_the_shares_of_all_claims_of_a_study_add_up_to_twice_the_first() -> None:
    assert share_of_claim(1) == 1.0
    assert sum(map(share_of_claim, range(1, 2000))) == pytest.approx(2.0, abs=1e-3)


def test_the_chance_without_effect_is_fishers() -> None:
    """Darwin's maize: 15 pairs, 863 of 32,768 assignments are as good (The Design of Experiments, 21)."""
    maize = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert chance_without_effect(maize, "seed") == pytest.approx(863 / 2**15, abs=0.004)
    assert chance_without_effect([1.0] * 6, "seed") == 1 / 64
    assert chance_without_effect([0.0] * 6, "seed") == 1.0
    chance = random.Random(0)
    assert 0 < chance_without_effect([chance.gauss() for _ in range(12)], "seed") <= 1


def test_none_claims_nothing() -> None:
    lab = ClaimRuleSuite.laboratory_with((1,), truth=lambda ideas: 0.0)
    assert Nothing().runs(lab.study) == 0
    assert lab.claim(Nothing()) is None
