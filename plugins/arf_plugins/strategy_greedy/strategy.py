"""Hill-climbing from the incumbent, on all slots at once and without waves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from arf.interfaces import Strategy
from arf.sdk.strategies import ask_ahead, is_idle, left_behind, pairs_of_near_misses, was_planned
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
        return [*plans, *ask_ahead(study, study.incumbent_commit, self._options.lookahead)]

    def _plans(self, study: Study) -> Iterator[Plan]:
        """What is worth running, best first, each once."""
        seen: set[tuple[int, ...]] = set()
        for ideas in self._choices(study):
            if ideas not in seen and not was_planned(study, ideas):
                seen.add(ideas)
                yield Plan(parent=study.incumbent_commit, ideas=ideas)

    def _choices(self, study: Study) -> Iterator[tuple[int, ...]]:
        yield from left_behind(study)
        for idea in study.untried:
            yield (idea,)
        if self._options.combine and is_idle(study):
            yield from pairs_of_near_misses(study)
