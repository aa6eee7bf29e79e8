"""What a plan becomes: an experiment with its commit, or a refusal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from arf.engine import plan_constants
from arf.errors import UsageError
from arf.study import Study
from arf.types import Experiment, Plan, Role

if TYPE_CHECKING:
    from arf.engine.doubts import Doubts
    from arf.interfaces import Composed, Workspace


def compose(study: Study, workspace: Workspace, plan: Plan) -> Composed:
    """The commit of a plan. Raises ConflictError or UsageError where there can be none."""
    ideas = [study.ideas[idea] for idea in plan.ideas]
    ideas += plan_constants.provisional(plan, study)
    return workspace.compose(plan.parent, ideas, message=title(study, plan))


def make_experiment(
    study: Study, workspace: Workspace, doubts: Doubts, plan: Plan, tier: str, number: int, now: datetime
) -> Experiment:
    """A plan as experiment `number` on a tier. Raises ConflictError or UsageError if it cannot be run."""
    composed = compose(study, workspace, plan)
    _check_new(study, doubts, plan, composed, tier)
    group = study.group(composed.tree, tier, plan.budget)
    seed = study.run_seed(len(group.experiments) if group else 0) if plan.seed is None else plan.seed
    return Experiment(
        id=number,
        role=plan.role,
        parent=plan.parent,
        ideas=plan.ideas,
        commit=composed.commit,
        tree=composed.tree,
        tier=tier,
        seed=seed,
        budget=plan.budget,
        round=plan.round,
        title=title(study, plan),
        accepted_at=now,
    )


def _check_new(study: Study, doubts: Doubts, plan: Plan, composed: Composed, tier: str) -> None:
    if plan.role in (Role.BASELINE, Role.REPLICATE, Role.PROMOTION, Role.CLAIM):
        return
    group = study.group(composed.tree, tier, plan.budget)
    if group is not None:
        runs = [study.experiments[number] for number in group.experiments]
        if doubts.is_accepted(composed.tree) and all(run.value is None for run in runs):
            return
        roles = {run.role for run in runs}
        # The cells of a design were only measured: the best one may still stand as a candidate.
        measured = Role.CELL in roles and roles <= {Role.CELL, Role.REPLICATE}
        if plan.role is Role.CELL or not measured:
            raise UsageError(f"the same code as experiment {group.experiments[0]}")
    if composed.tree == study.base_tree:
        raise UsageError("the same code as the baseline")


def title(study: Study, plan: Plan) -> str:
    """What people see of a plan."""
    if plan.title:
        return plan.title
    if plan.ideas:
        return " + ".join(study.ideas[idea].title for idea in plan.ideas)
    return "baseline" if plan.role is Role.BASELINE else f"{plan.role} of {plan.parent[:7]}"


def lost_ideas(study: Study, refused: int, last: str) -> Iterator[str]:
    """What became of the ideas that no run has tried, for people who wrote them.

    `refused` is how many drafts were refused before they were ideas, and `last` the last of them.
    """
    if refused:
        yield f"{_ideas(refused)} refused (-v tells each), the last: {last}"
    used = {idea for experiment in study.experiments.values() for idea in experiment.ideas}
    alone = {ideas[0]: why for (_, ideas), why in study.refusals.items() if len(ideas) == 1}
    if left := {idea: why for idea, why in alone.items() if idea not in used}:
        idea, why = list(left.items())[-1]
        yield f"{_ideas(len(left))} never run, the last: {study.ideas[idea].title}: {why}"


def _ideas(n: int) -> str:
    return "1 idea was" if n == 1 else f"{n:,} ideas were"
