"""What strategies are made of: which ideas to put together next, and when to ask for more.

All of it is a pure function of the study, and costs the same however long the study is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, combinations, islice

from arf.judge.rule import PROMISING
from arf.judge.statistics import deciding_order, lead_over_parent
from arf.study import Study
from arf.types import Ask, Plan, Role

STRONG = 2.0
"""Standard errors by which a stale idea beat its parent, to be combined with others."""
PAIRS = 12
"""Pairs of near misses that are tried on one incumbent."""

Ideas = tuple[int, ...]
"""Ideas to be applied together, in the order of their ids unless it says otherwise."""


def ask_ahead(study: Study, base: str, lookahead: float) -> list[Ask]:
    """Keep the stock of untried ideas up, in portions of at most an idea for each slot.

    `lookahead` is the stock as a multiple of the slots. Asks once half of it is used up.
    """
    if study.exhausted(base):
        return []
    slots = sum(tier.slots for tier in study.tiers)
    stock = max(1, math.ceil(lookahead * slots))
    missing = stock - study.untried_count - sum(ask.n for ask in study.open_asks.values())
    if missing < max(1, stock // 2):
        return []
    return [Ask(n=min(missing, max(2, slots)), base=base)]


def was_planned(study: Study, ideas: Ideas, parent: str | None = None) -> bool:
    """Whether these ideas have been tried on a commit (the incumbent), or were refused there."""
    parent = parent or study.incumbent_commit
    return bool(study.planned(parent, ideas)) or (parent, ideas) in study.refusals


def held_ideas(study: Study) -> Ideas:
    """The ideas that are in the incumbent, in the order in which they got there."""
    return study.lineage(study.incumbent_commit)


def left_behind(study: Study) -> Iterator[Ideas]:
    """Ideas that beat their parent while it was being replaced as the incumbent.

    All strong ones together first: with many slots several winners are found side by side, and one run
    instead of one after the other takes them in. Each by itself only if that was not kept.
    """
    if not study.stale or is_combination_under_way(study):
        return
    leads = _leads(study)
    strong = together(study, [ideas for lead, ideas in leads if lead >= STRONG])
    if len(strong) > 1 and not was_planned(study, strong):
        yield strong
    else:
        yield from (ideas for _, ideas in leads)


def _leads(study: Study) -> list[tuple[float, Ideas]]:
    """The leads over their parents (in standard errors) of promising stale ideas, best first."""
    held = set(held_ideas(study))
    promising = []
    for number in study.stale:
        experiment = study.experiments[number]
        lead = lead_over_parent(study, experiment)
        if lead is not None and lead.t >= PROMISING and not held.issuperset(experiment.ideas):
            promising.append((lead.t, experiment.ideas))
    return sorted(promising, key=lambda item: (-item[0], item[1]))


def together(study: Study, chosen: Sequence[Ideas]) -> Ideas:
    """All of them as one, in ascending order; of two that set the same constant only the first given."""
    taken: set[str] = set()
    joined: set[int] = set()
    for ideas in chosen:
        constants = {name for idea in ideas for name in study.ideas[idea].constants}
        if not constants & taken:
            taken |= constants
            joined.update(ideas)
    return tuple(sorted(joined))


def pairs_of_near_misses(study: Study) -> Iterator[Ideas]:
    """Pairs of ideas that looked better than their parent and were not proven, the best first."""
    held = set(held_ideas(study))
    likely = [number for score, number in study.near_misses if -score >= PROMISING]
    ideas = dict.fromkeys(study.experiments[number].ideas[0] for number in likely)
    near = [idea for idea in ideas if idea not in held]
    ranks = sorted(combinations(range(len(near)), 2), key=sum)
    pairs = (together(study, [(near[first],), (near[second],)]) for first, second in ranks)
    yield from islice((pair for pair in pairs if len(pair) == 2), PAIRS)


def incumbent_again(study: Study) -> Iterator[Plan]:
    """Runs of the incumbent on the tier that decides, up to as many as a contender may have.

    For a slot that would be idle: they make every verdict to come surer.
    """
    tier = deciding_order(study)[0]
    group = study.incumbent_group(tier)
    if group is None or not group.n or (study.incumbent_commit, ()) in study.refusals:
        return
    title = f"the incumbent (#{study.incumbent_experiment}) again, in an idle slot"
    plan = Plan(parent=study.incumbent_commit, role=Role.REPLICATE, tier=tier, title=title)
    yield from [plan] * (study.rule.max_replicates - len(group.experiments))


def is_idle(study: Study) -> bool:
    """Whether nothing is under way that could still bring new ideas or another incumbent."""
    under_way = study.running_count or study.open_asks or any(True for _ in study.undecided)
    return not under_way and study.exhausted(study.incumbent_commit)


def is_combination_under_way(study: Study) -> bool:
    """Whether a candidate of several ideas on the incumbent runs or waits for its verdict."""
    since = study.incumbent_experiment or 0  # of a thousand that run, most are older: not made for it
    newer = (number for number in chain(study.running, study.undecided) if number > since)
    for experiment in map(study.experiments.__getitem__, newer):
        if (
            len(experiment.ideas) > 1
            and experiment.parent == study.incumbent_commit
            and experiment.role is Role.CANDIDATE
        ):
            return True
    return False
