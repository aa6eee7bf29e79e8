"""Constants that a strategy sets by itself: each value becomes an idea, as if an agent had had it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from attrs import evolve

from arf.engine.ledger import Ledger
from arf.errors import ConflictError, UsageError
from arf.study import Study
from arf.types import Draft, Idea, Plan, Scalar
from arf.workspace import constants
from arf.workspace.constants import Constant

if TYPE_CHECKING:
    from arf.interfaces import Workspace


def settable(workspace: Workspace, commit: str) -> dict[str, Constant]:
    """The constants of a commit's editable files that can be set by name: only one file has each."""
    found: dict[str, Constant] = {}
    twice: set[str] = set()
    for path, text in workspace.files(commit).items():
        for constant in constants.read(text, path):
            if constant.name in found:
                twice.add(constant.name)
            if constant.movable:
                found[constant.name] = constant
    return {name: constant for name, constant in found.items() if name not in twice}


def with_ideas(plan: Plan, ledger: Ledger, workspace: Workspace, author: str) -> Plan:
    """The plan with an idea for each of its constants; those that are missing are made and recorded.

    Raises UsageError where a value cannot be set. It is an idea all the same, refused on the study's base, so
    that the strategy sees it and does not ask again.
    """
    study = ledger.study
    ideas = list(plan.ideas)
    for name, value in plan.constants.items():
        number = study.idea_that_sets(name, value)
        ideas.append(_make(study, ledger, workspace, name, value, author) if number is None else number)
    return evolve(plan, ideas=tuple(sorted(dict.fromkeys(ideas))), constants={})


def _make(study: Study, ledger: Ledger, workspace: Workspace, name: str, value: Scalar, author: str) -> int:
    draft = _draft(study, name, value)
    try:
        commit = workspace.make_idea(draft, study.base, message=f"{draft.title}\n")
    except (ConflictError, UsageError) as error:
        idea = ledger.add_idea(draft, study.base, study.base, author, None)
        ledger.refuse(Plan(parent=study.base, ideas=(idea.id,)), str(error))
        raise UsageError(str(error)) from None
    idea = ledger.add_idea(draft, study.base, commit, author, None)
    workspace.keep_idea(study.name, idea.id, idea.commit)
    return idea.id


def _draft(study: Study, name: str, value: Scalar) -> Draft:
    known = study.constants.get(name)
    shown = f"{value:g}" if isinstance(value, float) else value
    before = "" if known is None else f" {known.literal} ->"
    return Draft(title=f"{name}{before} {shown}", constants={name: value})


def provisional(plan: Plan, study: Study) -> Iterator[Idea]:
    """Ideas for a plan's constants that are only looked at: nothing is recorded."""
    for name, value in plan.constants.items():
        draft = _draft(study, name, value)
        yield Idea(id=0, title=draft.title, base=study.base, commit=study.base, constants=draft.constants)
