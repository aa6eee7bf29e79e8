"""Acceptance by evidence, by hand on small studies and in whole ones."""

from tests.core.judge.test_rule import NOISY, Case

from arf.judge.evidence import Beliefs, Evidence
from arf.judge.rule import judge
from arf.testing.laboratory import Laboratory
from arf.types import Experiment, Role, Tier, Verdict
from arf_plugins.strategy_greedy.strategy import Greedy


def case() -> Case:
    made = Case(accept=Evidence())
    made.baseline(*NOISY)
    return made


def test_what_reads_better_is_accepted_after_one_run() -> None:
    study = case()
    better, worse = study.ran("x", 0.99), study.ran("y", 0.995)
    judgement = study.judge()
    assert study.verdict(better) == (Verdict.KEEP, study.verdict(better)[1])
    assert "better than the baseline" in study.verdict(better)[1]
    assert study.verdict(worse)[0] is Verdict.DISCARD
    assert judgement.incumbent is None


def test_a_reading_is_believed_the_less_the_fewer_runs_there_are() -> None:
    study = case()
    study.ran("x", 0.99)
    study.judge()
    one = Beliefs(study.study).of("x-tree")
    assert 0 < one.mean < 0.01
    for _ in range(3):
        study.ran("x", 0.99, Role.REPLICATE, parent="x")
    study.judge()
    four = Beliefs(study.study).of("x-tree")
    assert one.mean < four.mean < 0.0101
    assert four.variance < one.variance


def test_an_incumbent_that_was_lucky_is_left_for_the_one_that_it_replaced() -> None:
    study = case()
    first = study.ran("x", 0.99)
    study.judge()
    study.ran("y", 0.985, parent="x")
    study.judge()
    assert study.study.incumbent_commit == "y"
    for _ in range(3):
        study.ran("y", 0.999, Role.REPLICATE, parent="y")
    assert study.judge().incumbent == first
    study.study.change_incumbent(first)
    assert study.study.incumbent_commit == "x"
    assert study.study.kept[-1] == first
    assert judge(study.study, study.accept_rule).incumbent is None


def test_one_that_was_rejected_can_become_the_incumbent_later() -> None:
    study = case()
    lucky, solid = study.ran("x", 0.98), study.ran("y", 0.985)
    study.judge()
    assert study.verdict(solid)[0] is Verdict.DISCARD
    for _ in range(4):
        study.ran("x", 1.0, Role.REPLICATE, parent="x")
    judgement = study.judge()
    assert study.study.incumbent_experiment == lucky
    assert judgement.incumbent == solid


def test_the_incumbent_is_measured_again_as_candidates_on_it_fail() -> None:
    study = case()
    study.ran("x", 0.99)
    study.judge()
    assert [plan.parent for plan in judge(study.study, study.accept_rule).replicates] == ["x"]
    study.ran("x", 0.99, Role.REPLICATE, parent="x")
    study.judge()
    assert not judge(study.study, study.accept_rule).replicates
    for number in range(8):
        study.ran(f"z{number}", 0.999, parent="x", ideas=(number + 1,))
    study.judge()
    assert [plan.parent for plan in judge(study.study, study.accept_rule).replicates] == ["x"]


def test_tiers_are_compared_by_their_own_baselines() -> None:
    study = Case(tiers=("a", "b"), accept=Evidence())
    for value in NOISY:
        study.ran("base", value, Role.BASELINE)
        study.ran("base", value - 0.1, Role.BASELINE, tier="b")
    study.judge()
    same_as_baseline, better = study.ran("x", 0.9, tier="b"), study.ran("y", 0.99)
    study.judge()
    assert study.verdict(better)[0] is Verdict.KEEP
    assert study.verdict(same_as_baseline)[0] is Verdict.DISCARD


def test_a_run_of_a_share_of_the_budget_decides_nothing() -> None:
    study = case()
    number = study.ran("x", 0.5, budget=0.25)
    study.judge()
    assert study.verdict(number)[0] is Verdict.MEASURED


def test_nothing_is_accepted_where_the_baseline_fails() -> None:
    study = Case(tiers=("a", "b"), accept=Evidence())
    for value in NOISY:
        study.ran("base", value, Role.BASELINE)
    for _ in range(6):
        study.ran("base", None, Role.BASELINE, tier="b")
    study.judge()
    number = study.ran("x", 0.5, tier="b")
    study.judge()
    assert study.verdict(number)[0] is Verdict.DISCARD
    assert "fails on b" in study.verdict(number)[1]


def few_matter(ideas: frozenset[int]) -> float:
    return -sum(3.0 for idea in ideas if idea % 20 == 0) + sum(1.0 for idea in ideas if idea % 3 == 0)


def test_a_search_that_accepts_by_evidence_finds_what_proof_finds_and_judges_purely() -> None:
    lab = Laboratory(
        Greedy(), ideas=100, tiers=[Tier(name="a", slots=8)], truth=few_matter, accept_rule=Evidence()
    )
    lab.run()
    assert lab.best <= -9.0
    walks = lab.study.walks
    assert judge(lab.study, Evidence()) == judge(lab.study, Evidence())
    assert lab.study.walks == walks
    undecided: list[Experiment] = [lab.study.experiments[n] for n in lab.study.undecided]
    assert not undecided
