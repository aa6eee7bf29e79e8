"""A study's ideas as a search space: what excludes each other is one dimension, with the base as a level."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from attrs import frozen

from arf.study import Study
from arf.types import Idea, Scalar

BASE = 0
"""Stands for the base in a dimension's levels; ideas count from 1."""


@frozen(kw_only=True)
class Space:
    """Dimensions by name; the levels of each are ideas, in the order of their values, and the base."""

    dimensions: Mapping[str, tuple[int, ...]]

    def ideas(self, choice: Mapping[str, int]) -> tuple[int, ...]:
        """The ideas of a choice of one level for each dimension, ascending, as plans have them."""
        return tuple(sorted(level for level in choice.values() if level != BASE))

    def choice(self, ideas: tuple[int, ...]) -> dict[str, int] | None:
        """The level of each dimension in a plan; None if it has an idea that is not of this space."""
        wanted = set(ideas)
        choice = {
            name: next((level for level in levels if level in wanted), BASE)
            for name, levels in self.dimensions.items()
        }
        return choice if len(self.ideas(choice)) == len(wanted) else None


def read_space(study: Study) -> Space:
    """The space of the ideas for the study's base.

    Ideas that set the same single constant are levels of one dimension. An idea of code, or of constants
    that no other idea sets, is a dimension by itself; one that joins constants with dimensions of their own
    is left out, for the search joins them itself.
    """
    levels: dict[str, list[Idea]] = defaultdict(list)
    joint = []
    for idea in study.ideas.values():
        if idea.base != study.base or (study.base, (idea.id,)) in study.refusals:
            continue
        if len(idea.constants) == 1:
            levels[next(iter(idea.constants))].append(idea)
        else:
            joint.append(idea)
    for idea in joint:
        if not any(name in levels for name in idea.constants):
            levels[f"idea {idea.id}"].append(idea)
    return Space(dimensions={name: _ordered(name, ideas) for name, ideas in levels.items()})


def _ordered(name: str, ideas: list[Idea]) -> tuple[int, ...]:
    """The levels by value, with the base in the middle: ideas move away from it to both sides."""
    by_value: dict[Scalar | None, Idea] = {}
    for idea in ideas:
        by_value.setdefault(idea.constants.get(name), idea)
    values = list(by_value)
    if all(isinstance(value, int | float) for value in values):
        values.sort(key=lambda value: float(value or 0))
    ordered = [by_value[value].id for value in values]
    middle = (len(ordered) + 1) // 2
    return (*ordered[:middle], BASE, *ordered[middle:])
