"""Hill-climbing from the incumbent, on all slots at once and without waves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice

from arf.interfaces import Strategy
from arf.judge import PROMISING
from arf.stats import lead_over_parent
from arf.study import Study
from arf.types import Ask, Plan
from arf_plugins.strategy_greedy import Options


class Greedy(Strategy):
    """Ideas that lost only because the incumbent changed under them come first, then the untried ones."""

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._options = options or Options()

    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        slots = sum(max(0, count) for count in free.values())
        plans: list[Plan | Ask] = list(islice(self._plans(study), slots))
        return [*plans, *self._asks(study)]

    def _plans(self, study: Study) -> Iterator[Plan]:
        """What is worth running, best first, each once."""
        seen: set[tuple[int, ...]] = set()
        for ideas in self._choices(study):
            new = ideas not in seen and not study.planned(study.incumbent_commit, ideas)
            if new and (study.incumbent_commit, ideas) not in study.refusals:
                seen.add(ideas)
                yield Plan(parent=study.incumbent_commit, ideas=ideas)

    def _choices(self, study: Study) -> Iterator[tuple[int, ...]]:
        yield from _stale(study)
        for idea in study.untried:
            yield (idea,)
        if self._options.combine and study.exhausted(study.incumbent_commit) and not study.open_asks:
            yield from _pairs(study)

    def _asks(self, study: Study) -> list[Ask]:
        """Keep the stock of untried ideas up, in portions of at most an idea for each slot."""
        if study.exhausted(study.incumbent_commit):
            return []
        slots = sum(tier.slots for tier in study.tiers)
        stock = max(1, math.ceil(self._options.lookahead * slots))
        missing = stock - study.untried_count - sum(ask.n for ask in study.open_asks.values())
        if missing < max(1, stock // 2):
            return []
        return [Ask(n=min(missing, max(2, slots)), base=study.incumbent_commit)]


def _stale(study: Study) -> list[tuple[int, ...]]:
    """Ideas that beat the incumbent that they were tried on while it was being replaced, best first."""
    promising = []
    for number in study.stale:
        experiment = study.experiments[number]
        lead = lead_over_parent(study, experiment)
        if lead is not None and lead.t >= PROMISING and experiment.ideas:
            promising.append((-lead.t, experiment.ideas))
    return [ideas for _, ideas in sorted(promising)]


def _pairs(study: Study) -> Iterator[tuple[int, ...]]:
    """Pairs of ideas that looked better than their parent and were not proven, the best first."""
    kept = {idea for number in study.kept for idea in study.experiments[number].ideas}
    ideas = dict.fromkeys(study.experiments[number].ideas[0] for _, number in study.near_misses)
    near = [idea for idea in ideas if idea not in kept]
    for first, second in sorted(combinations(range(len(near)), 2), key=sum):
        yield near[first], near[second]
