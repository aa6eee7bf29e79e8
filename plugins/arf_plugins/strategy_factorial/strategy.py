"""Designs one after the other, without a pause between them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from arf.interfaces import Strategy
from arf.sdk.strategies import incumbent_again, is_idle, left_behind, pairs_of_near_misses, was_planned
from arf.study import Study
from arf.types import Ask, AskKind, Plan
from arf_plugins.strategy_factorial import Options
from arf_plugins.strategy_factorial.design import (
    RUNS,
    Design,
    best_to_confirm,
    cells_to_run,
    design_of,
    is_confirmed,
    progress,
)

WINDOW = 4
"""Answers of the agent that are looked at, the newest ones. A design is over long before four more are."""
LOOSE = 64
"""Ideas that are looked at for some that belong to no design."""


class Factorial(Strategy):
    """Confirms what designs have shown, then fills every slot with cells of the oldest design that has some.

    A design starts on the incumbent of its first run, and ends when its best cells were confirmed as
    candidates on the incumbent of then, so stragglers and replicates never hold up the next one.
    """

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._options = options or Options()

    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        slots = sum(max(0, count) for count in free.values())
        designs = self._designs(study)
        plans: list[Plan | Ask] = list(islice(self._plans(study, designs), slots)) if slots else []
        return [*plans, *self._asks(study, designs)]

    def _designs(self, study: Study) -> list[Design]:
        """Those of the last answers, the oldest first."""
        asks = [ask for ask in reversed(study.last_factors(WINDOW)) if ask not in study.open_asks]
        found = (design_of(study, ask, self._options) for ask in asks)
        return [design for design in found if design is not None]

    def _plans(self, study: Study, designs: Sequence[Design]) -> Iterator[Plan]:
        """What is worth running, most wanted first, each once."""
        seen: set[tuple[str, tuple[int, ...]]] = set()
        for plan in self._choices(study, designs):
            if plan.ideas and (plan.parent, plan.ideas) in seen:
                continue
            seen.add((plan.parent, plan.ideas))
            yield plan

    def _choices(self, study: Study, designs: Sequence[Design]) -> Iterator[Plan]:
        waiting = [design for design in designs if not is_confirmed(study, design, self._options)]
        cells: dict[str, list[Plan]] = {}
        for design in waiting:
            there = progress(study, design)
            cells[design.label] = list(cells_to_run(study, design, there, self._options))
            if there.run and not there.open and not cells[design.label]:
                yield from best_to_confirm(study, design, there, self._options)
        for ideas in left_behind(study):
            if not was_planned(study, ideas):
                yield Plan(parent=study.incumbent_commit, ideas=ideas)
        for design in waiting:
            yield from cells[design.label]
        yield from self._singles(study)
        if is_idle(study):
            for ideas in pairs_of_near_misses(study):
                if not was_planned(study, ideas):
                    yield Plan(parent=study.incumbent_commit, ideas=ideas)
        if self._options.fill and (study.running_count or study.open_asks):
            yield from incumbent_again(study)

    def _singles(self, study: Study) -> Iterator[Plan]:
        """Ideas that no design holds, one at a time: those of answers that were too small for a design; and
        those that designs left over, once the agent has nothing more for the incumbent."""
        ideas = self._loose(study)
        if study.exhausted(study.incumbent_commit) and not study.open_asks:
            ideas = list(islice(study.untried, LOOSE))
        for idea in ideas:
            if not was_planned(study, (idea,)):
                yield Plan(parent=study.incumbent_commit, ideas=(idea,))

    def _loose(self, study: Study) -> list[int]:
        """Untried ideas, among the newest, of answers that make no design."""
        last = len(study.ideas)
        newest = range(max(1, last - LOOSE + 1), last + 1)
        asks = {study.ideas[idea].ask for idea in newest} - set(study.open_asks)
        loose = {ask for ask in asks if ask is None or design_of(study, ask, self._options) is None}
        return [idea for idea in newest if study.ideas[idea].ask in loose and idea in study.untried]

    def _asks(self, study: Study, designs: Sequence[Design]) -> list[Ask]:
        """Keep a design in stock for each RUNS slots: one while there are fewer."""
        base = study.incumbent_commit
        if study.exhausted(base) or self._loose(study):
            return []
        slots = sum(tier.slots for tier in study.tiers)
        stock = sum(not study.by_round(design.label) for design in designs)
        wanted = math.ceil(slots / (self._options.runs or RUNS)) - stock - len(study.open_asks)
        return [Ask(kind=AskKind.FACTORS, n=self._options.factors, base=base)] * wanted
