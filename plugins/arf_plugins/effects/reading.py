"""All that a study tells about effects: of its designs, of single ideas, of constants."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from arf.sdk.scripts import constants
from arf.sdk.statistics import noise
from arf.study import Study
from arf.types import Idea, Scalar
from arf_plugins.effects.history import IdeaEffect, Importance, design_labels, idea_effects, importance
from arf_plugins.effects.model import Design, Fit, fit, read_design

LARGEST = 1e100
"""Beyond it, squares overflow."""


@frozen(kw_only=True)
class Found:
    """What a study tells."""

    study: Study
    designs: tuple[tuple[Design, Fit], ...]
    """Those with two cells or more, the oldest first."""
    ideas: tuple[IdeaEffect, ...]
    pairs: tuple[IdeaEffect, ...]
    importance: Importance | None
    note: str = ""
    """Why there is nothing although there are runs."""


def read_effects(study: Study, workspace: Any) -> Found:
    """The effects in a study. `workspace` is the path of its repository, which may be gone."""
    if any(abs(e.value or 0.0) > LARGEST for e in study.experiments.values()):
        note = f"There are values beyond {LARGEST:g}, with which no effect can be calculated."
        return Found(study=study, designs=(), ideas=(), pairs=(), importance=None, note=note)
    alpha = study.rule.alpha
    designs = [read_design(study, label) for label in design_labels(study)]
    ideas, pairs = idea_effects(study, alpha)
    return Found(
        study=study,
        designs=tuple((d, _fitted(study, d)) for d in designs if d is not None and len(d.cells) > 1),
        ideas=tuple(ideas),
        pairs=tuple(pairs),
        importance=importance(study, base_constants(workspace, study), alpha),
    )


def _fitted(study: Study, design: Design) -> Fit:
    known = noise(study, design.tier)
    return fit(design.axes, design.cells, objective=study.objective, known=known, alpha=study.rule.alpha)


def base_constants(workspace: Any, study: Study) -> dict[str, Scalar]:
    """The values, at the base, of the constants that ideas set; empty if its repository is not there.

    They are read from the files that an idea with the constant has changed: others may have one of the
    same name.
    """
    import pygit2

    setters: dict[str, Idea] = {}
    for idea in study.ideas.values():
        for name in idea.constants:
            setters.setdefault(name, idea)
    found: dict[str, Scalar] = {}
    try:
        repository = pygit2.Repository(pygit2.discover_repository(str(workspace)) or str(workspace))
        tree = repository[study.base].peel(pygit2.Tree)
    except (pygit2.GitError, KeyError, ValueError):
        return found
    for name, idea in setters.items():
        for path in () if name in found else _changed(repository, tree, idea):
            for constant in constants.read(_text(tree, path), path):
                if constant.name in setters and not isinstance(constant.value, tuple):
                    found.setdefault(constant.name, constant.value)
    return found


def _changed(repository: Any, tree: Any, idea: Idea) -> list[str]:
    """The paths of the files that an idea changes; all of its base's if its commit is gone."""
    import pygit2

    try:
        diff = repository.diff(idea.base, idea.commit)
    except (pygit2.GitError, KeyError, ValueError):
        index = pygit2.Index()
        index.read_tree(tree)
        return [entry.path for entry in index if entry.path.endswith((".py", ".sh", ".yaml", ".toml"))]
    return [delta.old_file.path for delta in diff.deltas]


def _text(tree: Any, path: str) -> str:
    """The text of a file of a tree; empty if it has none."""
    try:
        return str(tree[path].data.decode("utf-8", errors="replace"))
    except (KeyError, AttributeError):
        return ""
