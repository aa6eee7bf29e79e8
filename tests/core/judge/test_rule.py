"""Verdicts by hand on small studies, and the error rates of whole ones on an objective of known truth."""

import random
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import evolve

from arf.interfaces import AcceptRule, Judgement
from arf.judge.lower import Lower
from arf.judge.proof import Proof
from arf.judge.rule import judge
from arf.study import Study
from arf.testing.laboratory import Laboratory
from arf.types import Experiment, ExperimentState, NoiseRule, Plan, Role, Tier, Verdict
from arf_plugins.strategy_greedy import Options
from arf_plugins.strategy_greedy.strategy import Greedy

NOISY = (1.000, 1.002, 0.998, 1.001)


class Case:
    """A study driven by hand. The commit `x` has the tree `x-tree`; less is better."""

    def __init__(
        self, tiers: tuple[str, ...] = ("a",), accept: AcceptRule | None = None, **rule: Any
    ) -> None:
        self.accept_rule = accept or Proof()
        self.study = Study(
            name="s",
            base="base",
            base_tree="base-tree",
            rule=NoiseRule(**rule),
            tiers=[Tier(name=name, slots=2) for name in tiers],
        )

    def accept(self, commit: str, role: Role = Role.CANDIDATE, **fields: Any) -> int:
        number = len(self.study.experiments) + 1
        experiment = Experiment(
            **{
                "id": number,
                "role": role,
                "parent": "base",
                "commit": commit,
                "tree": f"{commit}-tree",
                "tier": "a",
                "seed": number,
                "accepted_at": datetime(2026, 1, 1, tzinfo=UTC),
                **fields,
            }
        )
        self.study.put(experiment)
        return number

    def end(self, number: int, value: float | None) -> None:
        verdict = Verdict.CRASH if value is None else None
        experiment = self.study.experiments[number]
        self.study.put(evolve(experiment, state=ExperimentState.ENDED, value=value, verdict=verdict))

    def ran(self, commit: str, value: float | None, role: Role = Role.CANDIDATE, **fields: Any) -> int:
        number = self.accept(commit, role, **fields)
        self.end(number, value)
        return number

    def baseline(self, *values: float, tier: str = "a") -> None:
        for value in values:
            self.ran("base", value, Role.BASELINE, tier=tier)
        self.judge()

    def judge(self) -> Judgement:
        judgement = judge(self.study, self.accept_rule)
        for number, verdict, reason in judgement.verdicts:
            self.study.put(evolve(self.study.experiments[number], verdict=verdict, reason=reason))
        return judgement

    def carry_out(self, plans: tuple[Plan, ...], *values: float) -> None:
        """Run plans, with these results."""
        for plan, value in zip(plans, values, strict=True):
            assert plan.tier is not None
            self.ran(
                plan.parent, value, plan.role, tier=plan.tier, budget=plan.budget, round=plan.round,
                parent=plan.parent,
            )  # fmt: skip

    def verdict(self, number: int) -> tuple[Verdict | None, str]:
        experiment = self.study.experiments[number]
        return experiment.verdict, experiment.reason


def roles(plans: tuple[Plan, ...]) -> list[tuple[Role, str | None]]:
    return [(plan.role, plan.tier) for plan in plans]


# ---- The baseline ---------------------------------------------------------------------------


def test_a_study_begins_with_the_baseline_and_its_replicates_on_each_tier() -> None:
    case = Case(tiers=("a", "b"), replicates=3)
    plans = judge(case.study, case.accept_rule).replicates
    assert roles(plans) == [(Role.BASELINE, "a")] * 3 + [(Role.BASELINE, "b")] * 3
    assert all((plan.parent, plan.ideas) == ("base", ()) for plan in plans)


def test_accepted_runs_of_the_baseline_are_not_wanted_again() -> None:
    case = Case(replicates=3)
    case.accept("base", Role.BASELINE)
    assert len(judge(case.study, case.accept_rule).replicates) == 2
    case.ran("base", 1.0, Role.BASELINE)
    assert len(judge(case.study, case.accept_rule).replicates) == 1


def test_the_first_success_of_the_baseline_is_kept_and_the_others_are_measured() -> None:
    case = Case()
    failed = case.ran("base", None, Role.BASELINE)
    first, second = (case.ran("base", value, Role.BASELINE) for value in (1.0, 1.1))
    case.judge()
    assert case.study.experiments[failed].verdict is Verdict.CRASH
    assert case.verdict(first) == (Verdict.KEEP, "baseline")
    assert case.verdict(second) == (Verdict.MEASURED, "run 3 of the baseline on a")


def test_failed_runs_of_the_baseline_are_replaced_twice_at_most() -> None:
    case = Case(replicates=2)
    wanted = []
    for _ in range(6):
        wanted.append(len(judge(case.study, case.accept_rule).replicates))
        if wanted[-1]:
            case.ran("base", None, Role.BASELINE)
    assert wanted == [2, 2, 2, 1, 0, 0]


@pytest.mark.parametrize(
    ("role", "fields", "reason"),
    [
        (Role.CELL, {"round": "design 1"}, "a cell of design 1"),
        (Role.PROMOTION, {}, "promoted to a"),
    ],
)
def test_cells_and_promotions_are_measured_at_once(role: Role, fields: dict[str, str], reason: str) -> None:
    case = Case()
    number = case.ran("x", 0.1, role, **fields)
    case.judge()
    assert case.verdict(number) == (Verdict.MEASURED, reason)


def test_a_replicate_is_measured_and_says_of_what() -> None:
    case = Case()
    case.baseline(*NOISY)
    first = case.ran("x", 0.5, Role.CELL)
    again = case.ran("x", 0.6, Role.REPLICATE)
    case.judge()
    assert case.verdict(again) == (Verdict.MEASURED, f"replicate 1 of experiment {first}")


# ---- One candidate --------------------------------------------------------------------------


def test_a_candidate_waits_for_the_noise() -> None:
    case = Case()
    case.baseline(1.0, 1.002)
    case.ran("x", 5.0)
    assert judge(case.study, case.accept_rule).verdicts == ()
    case.baseline(0.998, 1.001)
    assert case.study.experiments[3].verdict is Verdict.DISCARD


def test_a_loser_costs_one_run_and_its_reason_has_the_numbers() -> None:
    case = Case()
    case.baseline(*NOISY)
    number = case.ran("x", 1.01)
    assert case.judge().replicates == ()
    verdict, reason = case.verdict(number)
    assert verdict is Verdict.DISCARD
    assert reason == "worse than the baseline by 0.00975 (5.7 sigma)"


def test_a_gain_that_one_run_cannot_tell_from_noise_costs_one_run() -> None:
    case = Case()
    case.baseline(*NOISY)
    number = case.ran("x", 1.0)
    assert case.judge().replicates == ()
    assert case.verdict(number)[0] is Verdict.DISCARD
    assert case.verdict(number)[1].startswith("within noise of the baseline: gain 0.00025, sigma 0.00171")


def test_a_contender_is_run_again_and_kept_when_it_wins_again() -> None:
    case = Case()
    case.baseline(*NOISY)
    number = case.ran("x", 0.95)
    plans = case.judge().replicates
    assert [(plan.parent, plan.role) for plan in plans] == [("x", Role.REPLICATE)]
    case.carry_out(plans, 0.951)
    case.judge()
    verdict, reason = case.verdict(number)
    assert verdict is Verdict.KEEP
    assert reason == "gain 0.0497 ± 0.00132 over the baseline (t = 37.8, 2 + 4 runs)"
    assert case.study.incumbent_commit == "x"


def test_nothing_is_kept_on_one_run_however_good() -> None:
    case = Case()
    case.baseline(*NOISY)
    case.ran("x", -1e9)
    judgement = case.judge()
    assert judgement.verdicts == ()
    assert len(judgement.replicates) == 1


def test_one_run_can_be_enough_if_the_rule_allows_no_more() -> None:
    case = Case(max_replicates=1)
    case.baseline(*NOISY)
    good, fair = case.ran("x", 0.8), case.ran("y", 0.7995)
    judgement = case.judge()
    assert judgement.replicates == ()
    assert case.verdict(fair)[0] is Verdict.KEEP
    assert case.verdict(good)[0] is Verdict.DISCARD


def test_a_contender_whose_luck_does_not_repeat_is_discarded() -> None:
    case = Case()
    case.baseline(*NOISY)
    number = case.ran("x", 0.99)
    case.carry_out(case.judge().replicates, 1.003)
    assert case.judge().replicates == ()
    assert case.verdict(number)[0] is Verdict.DISCARD


def test_the_replicates_of_a_contender_end_at_the_limit_of_the_rule() -> None:
    case = Case(max_replicates=5, alpha=1e-3)
    case.baseline(1.0, 2.0, 0.0, 1.0)
    number = case.ran("x", -8.0)
    chance = random.Random(0)
    for _ in range(10):
        plans = case.judge().replicates
        if not plans:
            break
        case.carry_out(plans, *(chance.gauss(-8 if plan.parent == "x" else 1, 0.8) for plan in plans))
    assert case.verdict(number)[0] is not None
    group = case.study.group("x-tree", "a")
    assert group is not None
    assert 2 < group.n <= 5


def test_the_incumbent_gets_as_many_runs_as_its_contender() -> None:
    case = Case(replicates=2)
    case.baseline(1.0, 1.1)
    case.ran("x", 0.2)
    case.carry_out(case.judge().replicates, 0.22)
    plans = case.judge().replicates
    wanted = [plan.parent for plan in plans]
    assert wanted.count("x") == wanted.count("base") > 0


def test_a_contender_is_not_looked_at_while_it_runs() -> None:
    case = Case()
    case.baseline(*NOISY)
    case.ran("x", 0.95)
    running = case.accept("x", Role.REPLICATE)
    assert case.judge() == Judgement()
    case.end(running, 0.95)
    assert [verdict for _, verdict, _ in case.judge().verdicts] == [Verdict.MEASURED, Verdict.KEEP]


def test_a_contender_whose_runs_fail_again_and_again_is_discarded() -> None:
    case = Case()
    case.baseline(*NOISY)
    number = case.ran("x", 0.95)
    for _ in range(2):
        assert len(case.judge().replicates) == 1
        case.ran("x", None, Role.REPLICATE)
    assert case.judge().replicates == ()
    assert case.verdict(number)[0] is Verdict.DISCARD


def test_a_refused_replicate_is_not_wanted_again() -> None:
    case = Case()
    case.baseline(*NOISY)
    number = case.ran("x", 0.95)
    case.study.refuse("x", (), "cannot be made")
    assert case.judge().replicates == ()
    assert case.verdict(number)[0] is Verdict.DISCARD


def test_a_contender_that_scatters_wildly_needs_more_than_a_good_mean() -> None:
    case = Case()
    case.baseline(*NOISY)
    number = case.ran("x", 0.90)
    case.carry_out(case.judge().replicates, 0.99)
    case.judge()
    assert case.verdict(number)[0] is not Verdict.KEEP


# ---- Without noise --------------------------------------------------------------------------


def test_without_noise_any_improvement_counts_that_a_second_run_repeats() -> None:
    case = Case()
    case.baseline(1.0, 1.0, 1.0, 1.0)
    better, same, worse = (
        case.ran(commit, value) for commit, value in (("x", 1 - 1e-9), ("y", 1.0), ("z", 2))
    )
    plans = case.judge().replicates
    assert [plan.parent for plan in plans] == ["x"]
    assert case.verdict(same) == (
        Verdict.DISCARD,
        "the same as the baseline (replicates are identical)",
    )
    assert case.verdict(worse)[1].startswith("worse by 1 than the baseline")
    case.carry_out(plans, 1 - 1e-9)
    case.judge()
    assert case.verdict(better) == (
        Verdict.KEEP,
        "gain 1e-09 over the baseline (replicates are identical: any improvement counts)",
    )


def test_noise_that_appears_only_with_the_contender_is_taken_seriously() -> None:
    case = Case()
    case.baseline(0.87, 0.87, 0.87, 0.87)
    number = case.ran("x", 0.86)
    case.carry_out(case.judge().replicates, 0.88)
    case.judge()
    assert case.verdict(number)[0] is Verdict.DISCARD


def test_where_only_one_baseline_run_succeeds_the_noise_comes_from_contenders() -> None:
    case = Case(replicates=1)
    case.baseline(1.0)
    number = case.ran("x", 0.5)
    for _ in range(8):
        plans = case.judge().replicates
        if not plans:
            break
        case.carry_out(plans, *(0.5001 if plan.parent == "x" else 1.0001 for plan in plans))
    assert case.verdict(number)[0] is Verdict.KEEP


# ---- Several candidates ---------------------------------------------------------------------


def test_of_two_winners_the_better_is_kept_and_the_other_may_be_re_based() -> None:
    case = Case()
    case.baseline(*NOISY)
    fair, best = case.ran("x", 0.95), case.ran("y", 0.90)
    case.ran("x", 0.951, Role.REPLICATE)
    case.ran("y", 0.901, Role.REPLICATE)
    judgement = case.judge()
    assert [v for _, v, _ in judgement.verdicts if v is Verdict.KEEP] == [Verdict.KEEP]
    assert case.verdict(best)[0] is Verdict.KEEP
    verdict, reason = case.verdict(fair)
    assert verdict is Verdict.DISCARD
    assert reason.startswith("better than its parent by 0.0497 ± ")
    assert reason.endswith(f"but not than #{best}: may be re-based")


def test_a_candidate_that_beats_a_newer_incumbent_than_its_parent_is_kept() -> None:
    case = Case()
    case.baseline(*NOISY)
    for commit, value in (("x", 0.95), ("y", 0.90)):
        number = case.ran(commit, value)
        case.ran(commit, value + 0.001, Role.REPLICATE)
        case.judge()
        assert case.verdict(number)[0] is Verdict.KEEP
    assert case.study.incumbent_commit == "y"


def test_many_contenders_share_the_replicates_of_the_incumbent() -> None:
    case = Case(replicates=2, max_replicates=6)
    case.baseline(1.0, 1.1)
    for commit in "uvwxyz":
        case.ran(commit, 0.2)
        case.ran(commit, 0.25, Role.REPLICATE)
    case.judge()
    plans = judge(case.study, case.accept_rule).replicates
    of_base = [plan for plan in plans if plan.parent == "base"]
    assert len(of_base) <= 4


# ---- Tiers and budgets ----------------------------------------------------------------------


def test_values_of_different_tiers_are_never_compared() -> None:
    case = Case(tiers=("a", "b"))
    case.baseline(*NOISY)
    case.baseline(*(value - 0.5 for value in NOISY), tier="b")
    number = case.ran("x", 0.501, tier="b")
    case.judge()
    assert case.verdict(number)[0] is Verdict.DISCARD


def test_an_incumbent_gets_a_run_on_a_tier_where_a_candidate_needs_it() -> None:
    case = Case(tiers=("a", "b"))
    case.baseline(*NOISY)
    case.baseline(*NOISY, tier="b")
    case.ran("x", 0.95)
    case.ran("x", 0.95, Role.REPLICATE)
    case.judge()
    number = case.ran("y", 0.9495, tier="b", parent="x")
    judgement = case.judge()
    assert judgement.verdicts == ()
    assert [(plan.parent, plan.tier) for plan in judgement.replicates] == [("x", "b")]
    case.carry_out(judgement.replicates, 0.9)
    case.judge()
    assert case.verdict(number)[0] is Verdict.DISCARD


def test_a_candidate_where_the_incumbent_always_fails_is_discarded_with_that_reason() -> None:
    case = Case(tiers=("a", "b"), replicates=2)
    case.baseline(*NOISY)
    number = case.ran("x", 0.5, tier="b")
    for _ in range(20):
        plans = case.judge().replicates
        if not plans:
            break
        case.ran("base", None, plans[0].role, tier="b")
    assert case.verdict(number) == (
        Verdict.DISCARD,
        "nothing to compare with: the incumbent fails on b",
    )


def test_the_incumbent_as_a_candidate_of_another_tier_is_measured() -> None:
    case = Case(tiers=("a", "b"))
    case.baseline(*NOISY)
    case.baseline(*NOISY, tier="b")
    case.ran("x", 0.95)
    case.ran("x", 0.95, Role.REPLICATE)
    case.judge()
    number = case.ran("x", 0.5, tier="b")
    case.judge()
    assert case.verdict(number) == (Verdict.MEASURED, "the incumbent itself, on b")


def two_tiers() -> Case:
    """Candidates have run on both, so that the first decides."""
    case = Case(tiers=("a", "b"))
    case.baseline(*NOISY)
    case.baseline(*NOISY, tier="b")
    case.ran("z", 1.1)
    case.ran("z", 1.1, tier="b")
    case.judge()
    return case


def test_what_is_good_on_one_tier_must_be_good_on_the_one_that_decides() -> None:
    case = two_tiers()
    number = case.ran("x", 0.9, tier="b")
    judgement = case.judge()
    assert case.verdict(number)[0] is None
    assert [(plan.parent, plan.tier) for plan in judgement.replicates] == [("x", "a")]
    case.carry_out(judgement.replicates, 1.05)
    case.judge()
    assert case.verdict(number)[0] is Verdict.DISCARD
    assert case.study.incumbent_commit == "base"


def test_what_is_good_on_both_tiers_is_kept_by_its_runs_on_the_one_that_decides() -> None:
    case = two_tiers()
    number = case.ran("x", 0.9, tier="b")
    on = []
    while (plans := case.judge().replicates) and case.verdict(number)[0] is None:
        on += [plan.tier for plan in plans if plan.parent == "x"]
        case.carry_out(plans, *[0.9] * len(plans))
    assert case.verdict(number)[0] is Verdict.KEEP
    assert set(on) == {"a"}


def test_what_fails_on_the_tier_that_decides_is_discarded_with_that_reason() -> None:
    case = two_tiers()
    number = case.ran("x", 0.9, tier="b")
    while (plans := case.judge().replicates) and case.verdict(number)[0] is None:
        for plan in plans:
            case.ran(plan.parent, None, plan.role, tier=plan.tier, parent=plan.parent)
    assert case.verdict(number) == (Verdict.DISCARD, "it fails on a, which decides")


def test_a_tier_on_which_no_candidate_runs_does_not_decide() -> None:
    case = Case(tiers=("a", "b"))
    case.baseline(*NOISY)
    case.baseline(*NOISY, tier="b")
    number = case.ran("x", 0.9, tier="b")
    plans = case.judge().replicates
    assert {plan.tier for plan in plans} == {"b"}
    case.carry_out(plans, *[0.9] * len(plans))
    case.judge()
    assert case.verdict(number)[0] is Verdict.KEEP


def test_without_proof_whatever_reads_better_is_kept_at_once() -> None:
    case = Case(accept=Lower())
    case.baseline(*NOISY)
    better, worse = case.ran("x", 1.0001), case.ran("y", 1.0002)
    judgement = case.judge()
    assert case.verdict(better)[0] is Verdict.KEEP
    assert case.verdict(worse)[0] is Verdict.DISCARD
    assert "reads" in case.verdict(better)[1]
    assert judgement.replicates == ()


def test_of_the_cells_of_a_design_the_chosen_one_has_the_share_of_alpha_of_one_among_all() -> None:
    """The best of many cells is lucky: that it is picked must not make its proof easier."""

    def after(cells: int) -> Verdict | None:
        case = Case()
        case.baseline(*NOISY)
        case.ran("x", 0.987, Role.CELL, round="design 1")
        for index in range(1, cells):
            case.ran(f"c{index}", 1.0, Role.CELL, round="design 1")
        case.judge()
        number = case.ran("x", 0.9875)
        case.judge()
        return case.verdict(number)[0]

    assert after(1) is Verdict.KEEP
    assert after(64) is None  # more runs are wanted


def test_a_shorter_budget_has_an_incumbent_and_noise_of_its_own() -> None:
    case = Case()
    case.baseline(*NOISY)
    number = case.ran("x", 1.5, budget=0.25)
    plans = case.judge().replicates
    assert [(plan.parent, plan.budget, plan.role) for plan in plans] == [("base", 0.25, Role.REPLICATE)] * 4
    case.carry_out(plans, 1.4, 1.401, 1.402, 1.399)
    case.judge()
    assert case.verdict(number)[0] is Verdict.DISCARD


# ---- Whole studies --------------------------------------------------------------------------


def false_keeps(studies: int = 200, ideas: int = 100, **settings: Any) -> int:
    """How many studies of ideas that all do nothing keep one."""
    fooled = 0
    for seed in range(studies):
        laboratory = Laboratory(
            Greedy(Options(combine=False)),
            ideas=ideas,
            seed=seed,
            tiers=[Tier(name="a", slots=4)],
            **settings,
        )
        laboratory.run()
        assert not list(laboratory.study.undecided)
        fooled += len(laboratory.study.kept) > 1
    return fooled


def test_on_pure_noise_at_least_95_of_100_studies_keep_nothing() -> None:
    assert false_keeps() <= 10


def test_on_pure_noise_that_runs_of_the_same_seed_share_nothing_more_is_kept() -> None:
    assert false_keeps(studies=100, shared=0.9) <= 5


def test_most_ideas_cost_one_run() -> None:
    laboratory = Laboratory(Greedy(Options(combine=False)), ideas=400, tiers=[Tier(name="a", slots=4)])
    laboratory.run()
    assert len(laboratory.study.experiments) <= 1.3 * 400


def test_what_is_plainly_better_is_kept_after_a_few_runs() -> None:
    """One idea of 100 is 8 sigma better."""
    runs = 0
    for seed in range(10):
        laboratory = Laboratory(
            Greedy(Options(combine=False)),
            ideas=100,
            seed=seed,
            tiers=[Tier(name="a", slots=2)],
            truth=lambda ideas: -8.0 if 30 in ideas else 0.0,
        )
        laboratory.run()
        (kept,) = (e for e, gain in laboratory.keeps() if gain == 8.0)
        runs += laboratory.study.group_of(kept).n
    assert runs <= 55


def test_judging_is_pure_and_does_not_walk_over_the_history() -> None:
    laboratory = Laboratory(Greedy(), ideas=200, tiers=[Tier(name="a", slots=4)], max_experiments=150)
    laboratory.run(turns=120)
    before = laboratory.study.walks, laboratory.study.happened
    assert judge(laboratory.study, Proof()) == judge(laboratory.study, Proof())
    assert (laboratory.study.walks, laboratory.study.happened) == before
