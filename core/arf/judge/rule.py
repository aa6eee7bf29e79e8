"""The judge: a pure function of the study that gives verdicts, and says which runs they need.

The engine calls it after every change, before the strategy. It looks only at what has ended without a
verdict, so it costs the same however long a study is. It also starts every study, by wanting the baseline.
What is only measured is judged here; the candidates are left to the rule that the study names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from arf.interfaces import AcceptRule, Judgement
from arf.study import Study
from arf.types import Experiment, Plan, Role, Verdict

PROMISING = 1.0
"""Standard errors by which a rejected candidate beats its own parent, to be worth another base."""
FAILURES = 2
"""Failed runs of one commit that are made up for; with more it is taken as it is."""


def judge(study: Study, rule: AcceptRule) -> Judgement:
    """Verdicts for what has ended, given the runs so far; and the runs that are missing.

    If a verdict accepts a candidate, those after it are relative to the new incumbent.
    """
    candidates: list[Experiment] = []
    verdicts = list(_sort_out(study, candidates))
    decision = rule.judge(study, candidates)
    plans = [*baselines(study), *decision.replicates]
    return Judgement(
        verdicts=(*verdicts, *decision.verdicts),
        replicates=tuple(plan for plan in plans if (plan.parent, plan.ideas) not in study.refusals),
        incumbent=decision.incumbent,
    )


# ---- What is not compared -----------------------------------------------------------------------


def _sort_out(study: Study, candidates: list[Experiment]) -> Iterator[tuple[int, Verdict, str]]:
    """Judge all that is only measured; what is to be compared is added to `candidates`."""
    has_baseline = bool(study.kept)
    for experiment in _ended(study):
        if experiment.role is Role.CANDIDATE:
            candidates.append(experiment)
        elif experiment.role is Role.BASELINE and not has_baseline:
            has_baseline = True
            yield experiment.id, Verdict.KEEP, "baseline"
        else:
            yield experiment.id, Verdict.MEASURED, _measured(study, experiment)


def _ended(study: Study) -> Iterable[Experiment]:
    return (study.experiments[number] for number in study.undecided)


def _measured(study: Study, experiment: Experiment) -> str:
    if experiment.role is Role.CELL:
        return f"a cell of {experiment.round}" if experiment.round else "a cell of a design"
    runs = study.group_of(experiment).experiments
    number = runs.index(experiment.id)
    if experiment.role is Role.BASELINE:
        return f"run {number + 1} of the baseline on {experiment.tier}"
    if experiment.role is Role.PROMOTION:
        return f"promoted to {experiment.tier}"
    if experiment.role is Role.CLAIM:
        return f"measured for {experiment.round}"
    if number:
        return f"replicate {number} of experiment {runs[0]}"
    return f"measured for {experiment.round}" if experiment.ideas else f"replicate on {experiment.tier}"


# ---- The baseline -------------------------------------------------------------------------------


def baselines(study: Study) -> Iterator[Plan]:
    """The runs of the baseline that are still to be planned, on every tier."""
    for tier in study.tiers:
        plan = Plan(parent=study.base, role=Role.BASELINE, tier=tier.name, title="baseline")
        yield from [plan] * _baseline_missing(study, tier.name)


def _baseline_missing(study: Study, tier: str) -> int:
    wanted = max(1, study.rule.replicates)
    group = study.baseline_group(tier)
    if group is None:
        return wanted
    return max(0, wanted - (len(group.experiments) - min(group.failed, FAILURES)))


def baseline_is_measured(study: Study, tier: str) -> bool:
    """Whether a tier has the runs of the baseline that the study wants, or will get no more."""
    group = study.baseline_group(tier)
    if group is not None and group.n >= max(1, study.rule.replicates):
        return True
    return not _baseline_missing(study, tier) and group is not None and not group.running


def name_of_incumbent(study: Study) -> str:
    """The incumbent, for people: `#12`, or the baseline."""
    first = study.kept[0] if study.kept else None
    if study.incumbent_experiment is None or study.incumbent_experiment == first:
        return "the baseline"
    return f"#{study.incumbent_experiment}"


def short(value: float) -> str:
    return f"{value:.3g}"
