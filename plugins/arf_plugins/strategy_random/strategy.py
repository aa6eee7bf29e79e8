"""Random search over sets of ideas: it never looks at a result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from random import Random as Chance

from arf.interfaces import Strategy
from arf.sdk.strategies import ask_ahead
from arf.study import Study
from arf.types import Ask, Plan
from arf_plugins.strategy_random import Options

DRAWS = 50
"""Draws in a row that give nothing new, after which everything is taken to have been tried."""


class Random(Strategy):
    """Each new idea with random companions; once there are no new ones, random sets of all ideas.

    It uses up ideas as fast as `greedy` does, one for each run, so the two differ only in what they do
    with them. Everything is applied to the baseline, for an incumbent would be a use of the results.
    """

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._options = options or Options()

    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        slots = sum(max(0, count) for count in free.values())
        plans: list[Plan | Ask] = list(islice(self._plans(study), slots))
        return [*plans, *ask_ahead(study, study.base, self._options.lookahead)]

    def _plans(self, study: Study) -> Iterator[Plan]:
        seen = set()
        for ideas in self._draws(study):
            new = ideas not in seen and not study.planned(study.base, ideas)
            if new and (study.base, ideas) not in study.refusals:
                seen.add(ideas)
                yield Plan(parent=study.base, ideas=ideas)

    def _draws(self, study: Study) -> Iterator[tuple[int, ...]]:
        """Sets of ideas; those already tried among them. Ends when nothing new can be hoped for."""
        chance = study.random()
        for idea in study.untried:
            yield self._with_companions(study, idea, chance)
        if study.open_asks or not study.exhausted(study.base):
            return
        for _ in range(DRAWS if study.ideas else 0):
            yield self._with_companions(study, chance.randint(1, len(study.ideas)), chance)

    def _with_companions(self, study: Study, idea: int, chance: Chance) -> tuple[int, ...]:
        """The idea and up to `most - 1` others that were not refused by themselves, in ascending order."""
        others = chance.randrange(self._options.most)
        drawn = {chance.randint(1, len(study.ideas)) for _ in range(others)}
        usable = {other for other in drawn if (study.base, (other,)) not in study.refusals}
        return tuple(sorted({idea, *usable}))
