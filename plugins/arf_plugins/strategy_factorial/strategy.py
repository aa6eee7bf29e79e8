"""Designs one after the other, without a pause between them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from arf.interfaces import Strategy
from arf.moves import left_behind, was_planned
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

WINDOW = 8
"""Answers of the agent that are looked at, the newest ones. A design is over long before eight more are."""
LOOSE = 128
"""Untried ideas that are looked at for some that belong to no design."""


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
        cells = {design.label: list(cells_to_run(study, design, self._options)) for design in waiting}
        for design in waiting:
            there = progress(study, design)
            if there.run and not there.open and not cells[design.label]:
                yield from best_to_confirm(study, design, self._options)
        for ideas in left_behind(study):
            if not was_planned(study, ideas):
                yield Plan(parent=study.incumbent_commit, ideas=ideas)
        for design in waiting:
            yield from cells[design.label]
        yield from self._singles(study)

    def _singles(self, study: Study) -> Iterator[Plan]:
        """Ideas that no design holds, one at a time: those of answers that were too small for a design; and
        those that designs left over, once the agent has nothing more for the incumbent."""
        left_over = study.exhausted(study.incumbent_commit) and not study.open_asks
        for idea in islice(study.untried, LOOSE):
            if (left_over or self._is_loose(study, idea)) and not was_planned(study, (idea,)):
                yield Plan(parent=study.incumbent_commit, ideas=(idea,))

    def _is_loose(self, study: Study, idea: int) -> bool:
        ask = study.ideas[idea].ask
        return ask not in study.open_asks and (ask is None or design_of(study, ask, self._options) is None)

    def _asks(self, study: Study, designs: Sequence[Design]) -> list[Ask]:
        """Keep a design in stock for each RUNS slots: one while there are fewer."""
        base = study.incumbent_commit
        if study.exhausted(base) or any(self._is_loose(study, i) for i in islice(study.untried, LOOSE)):
            return []
        slots = sum(tier.slots for tier in study.tiers)
        stock = sum(not study.by_round(design.label) for design in designs)
        wanted = math.ceil(slots / (self._options.runs or RUNS)) - stock - len(study.open_asks)
        return [Ask(kind=AskKind.FACTORS, n=self._options.factors, base=base)] * wanted
