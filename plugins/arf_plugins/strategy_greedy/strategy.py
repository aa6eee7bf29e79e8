"""Hill-climbing from the incumbent, on all slots at once and without waves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations, islice

from arf.interfaces import Strategy
from arf.judge import PROMISING
from arf.stats import lead_over_parent
from arf.study import Study
from arf.types import Ask, Plan
from arf_plugins.strategy_greedy import Options

STRONG = 2.0
"""Standard errors by which a stale idea beat its parent, to be combined with others."""
PAIRS = 12
"""Pairs of near misses that are tried on one incumbent."""


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
            if ideas not in seen and not _was_planned(study, ideas):
                seen.add(ideas)
                yield Plan(parent=study.incumbent_commit, ideas=ideas)

    def _choices(self, study: Study) -> Iterator[tuple[int, ...]]:
        yield from _stale(study)
        for idea in study.untried:
            yield (idea,)
        if self._options.combine and _is_idle(study):
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


def _stale(study: Study) -> Iterator[tuple[int, ...]]:
    """Ideas that beat their parent while it was being replaced as the incumbent.

    All strong ones together first: with many slots several winners are found side by side, and one run
    instead of one after the other takes them in. Each by itself only if that was not kept.
    """
    if not study.stale or _is_combination_under_way(study):
        return
    leads = _leads(study)
    together = _together(study, [ideas for lead, ideas in leads if lead >= STRONG])
    if len(together) > 1 and not _was_planned(study, together):
        yield together
    else:
        yield from (ideas for _, ideas in leads)


def _leads(study: Study) -> list[tuple[float, tuple[int, ...]]]:
    """The leads over their parents (in standard errors) of promising stale ideas, best first."""
    held = _held_ideas(study)
    promising = []
    for number in study.stale:
        experiment = study.experiments[number]
        lead = lead_over_parent(study, experiment)
        if lead is not None and lead.t >= PROMISING and not held.issuperset(experiment.ideas):
            promising.append((lead.t, experiment.ideas))
    return sorted(promising, key=lambda item: (-item[0], item[1]))


def _together(study: Study, chosen: list[tuple[int, ...]]) -> tuple[int, ...]:
    """All of them as one, in ascending order; of two that set the same constant only the better."""
    taken: set[str] = set()
    together: set[int] = set()
    for ideas in chosen:
        constants = {name for idea in ideas for name in study.ideas[idea].constants}
        if not constants & taken:
            taken |= constants
            together.update(ideas)
    return tuple(sorted(together))


def _pairs(study: Study) -> Iterator[tuple[int, ...]]:
    """Pairs of ideas that looked better than their parent and were not proven, the best first."""
    held = _held_ideas(study)
    likely = [number for score, number in study.near_misses if -score >= PROMISING]
    ideas = dict.fromkeys(study.experiments[number].ideas[0] for number in likely)
    near = [idea for idea in ideas if idea not in held]
    ranks = sorted(combinations(range(len(near)), 2), key=sum)
    pairs = (_together(study, [(near[first],), (near[second],)]) for first, second in ranks)
    yield from islice((pair for pair in pairs if len(pair) == 2), PAIRS)


def _held_ideas(study: Study) -> set[int]:
    """The ideas that are in the incumbent."""
    kept = {study.experiments[number].commit: study.experiments[number] for number in study.kept}
    held: set[int] = set()
    commit = study.incumbent_commit
    while commit != study.base and commit in kept:
        held.update(kept[commit].ideas)
        commit = kept.pop(commit).parent
    return held


def _was_planned(study: Study, ideas: tuple[int, ...]) -> bool:
    parent = study.incumbent_commit
    return bool(study.planned(parent, ideas)) or (parent, ideas) in study.refusals


def _is_combination_under_way(study: Study) -> bool:
    return any(
        len(study.experiments[number].ideas) > 1
        and study.experiments[number].parent == study.incumbent_commit
        for number in chain(study.running, study.undecided)
    )


def _is_idle(study: Study) -> bool:
    """Whether nothing is under way that could still bring new ideas or another incumbent."""
    under_way = study.running_count or study.open_asks or any(True for _ in study.undecided)
    return not under_way and study.exhausted(study.incumbent_commit)
