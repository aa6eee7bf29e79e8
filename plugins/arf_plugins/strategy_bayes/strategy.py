"""The `bayes` strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from weakref import WeakKeyDictionary

import numpy as np

from arf.interfaces import Recommendation, Strategy
from arf.sdk.statistics import deciding_order
from arf.study import Study
from arf.types import Ask, Plan, Role
from arf_plugins.strategy_bayes import Options
from arf_plugins.strategy_bayes.axes import Levels
from arf_plugins.strategy_bayes.knowledge import Knowledge
from arf_plugins.strategy_bayes.search import Key, design, key_of
from arf_plugins.strategy_bayes.space import Space

FEWEST = 12
"""Designed points, at least."""
SHIPPED = 3
"""Axes that what is recommended differs in, at most, from what has run."""
TRIES = 40
"""Designed points that are drawn for one that is new."""
SURE = 0.08
"""Share of runs that run the best again."""
ENOUGH = 4
"""Runs of the best after which that is not done any more."""
AGAIN = 6
"""Runs of each of the best points, where nothing else is left to try."""
BEST = 4
"""Points that are run again then."""
LATEST = 16
"""Ideas, the latest ones, that say whether more are of use."""
YIELD = 0.25
"""Of those, the share that opened something new, for more to be asked for ahead of need."""
SELDOM = 0.05
"""Ideas a run that are asked for where they bring nothing new."""
MOST_IDLE = 64
"""Plans in one decision, at most."""


class Bayes(Strategy):
    """Decides by a model of the study. What is kept between decisions only saves time."""

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._options = options or Options()
        self._known: WeakKeyDictionary[Study, Knowledge] = WeakKeyDictionary()

    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        knowledge = self._knowledge(study)
        asks = self._asks(study, knowledge)
        wanted = min(MOST_IDLE, sum(max(0, count) for count in free.values()))
        if not wanted or knowledge.space is None or not knowledge.space.basis.axes:
            return asks
        return [*self._plans(study, knowledge, wanted), *asks]

    def why_ended(self, study: Study) -> str:
        if not study.ideas:
            return ""
        return "every combination of the ideas has been run, or is likelier to fail than not"

    def recommend(self, study: Study) -> Recommendation | None:
        knowledge = self._knowledge(study)
        space, search = knowledge.space, knowledge.search
        if space is None or search is None:
            return None
        point = space.whole(search.shipped(space.with_ideas(study), SHIPPED))
        if not point.any():
            return Recommendation(parent=study.base, gain=0.0, error=0.0)
        process = search.process
        worth = search.worth(point)
        ideas = {
            space.plan(study, one).ideas[0]: float(worth[axis])
            for axis in np.flatnonzero(point)
            for one in [np.where(np.arange(len(point)) == axis, point, 0)]
        }
        return Recommendation(
            parent=study.base,
            ideas=tuple(sorted(ideas)),
            gain=float(process.values(process.mean, point[None, :])[0]),
            error=float(process.errors(point[None, :])[0]),
            worth=ideas,
        )

    def _knowledge(self, study: Study) -> Knowledge:
        """Of this study, with all that has happened."""
        knowledge = self._known.get(study)
        if knowledge is None:
            knowledge = self._known[study] = Knowledge(self._options.values)
        knowledge.update(study)
        return knowledge

    # ---- Asks -----------------------------------------------------------------------------------

    def _asks(self, study: Study, knowledge: Knowledge) -> list[Ask]:
        base = study.incumbent_commit
        if study.exhausted(base):
            base = study.base
        if study.open_asks or study.exhausted(base):
            return []
        slots = sum(tier.slots for tier in study.tiers)
        stock = self._options.lookahead * slots
        asked = [idea for idea in study.ideas.values() if idea.ask is not None]
        latest = asked[-LATEST:]
        before = {name for idea in asked[:-LATEST] for name in idea.constants}
        fresh = sum(not idea.constants or not before.issuperset(idea.constants) for idea in latest)
        useful = len(asked) < LATEST or fresh >= YIELD * len(latest)
        if useful and self._untried(study, knowledge) < stock / 2 + 1:
            return [Ask(n=max(2, slots), base=base)]
        if len(asked) < stock + SELDOM * len(knowledge.ended):
            return [Ask(n=max(2, slots // 2), base=base)]
        return []

    @staticmethod
    def _untried(study: Study, knowledge: Knowledge) -> int:
        """Axes that nothing has moved."""
        return 0 if knowledge.space is None else len(knowledge.untouched())

    # ---- Plans ----------------------------------------------------------------------------------

    def _plans(self, study: Study, knowledge: Knowledge, wanted: int) -> list[Plan]:
        space = knowledge.space
        assert space is not None
        chance = np.random.default_rng(study.random().getrandbits(64))
        plans: list[Plan] = []
        taken: set[Key] = set()

        def is_open(point: Levels) -> bool:
            return knowledge.is_open(point) and key_of(space.whole(point)) not in taken

        for at in range(wanted):
            if knowledge.search is not None and chance.random() < SURE:
                best = next(self._again(study, knowledge, 1, ENOUGH), None)
                if best is not None and best not in plans:
                    plans.append(best)
                    continue
            designed = knowledge.search is None or len(knowledge.points) + at <= self._designs(space)
            point = self._designed(space, chance, is_open) if designed else None
            if point is None and knowledge.search is not None:
                point = self._searched(knowledge, chance, is_open)
            if point is None:
                plans += islice(self._again(study, knowledge, BEST, AGAIN), wanted - at)
                break
            point = space.whole(point)
            taken.add(key_of(point))
            plans.append(space.plan(study, point))
        return plans

    def _designs(self, space: Space) -> int:
        """How many points are drawn without a look at the results."""
        return min(self._options.designed, max(FEWEST, 2 * len(space.basis.axes)))

    @staticmethod
    def _designed(
        space: Space, chance: np.random.Generator, is_open: Callable[[Levels], bool]
    ) -> Levels | None:
        points = (design(space.allowed, chance) for _ in range(TRIES))
        return next((point for point in points if is_open(point)), None)

    @staticmethod
    def _searched(
        knowledge: Knowledge, chance: np.random.Generator, is_open: Callable[[Levels], bool]
    ) -> Levels | None:
        """The search's choice, with one of the changes that nobody has tried on top."""
        assert knowledge.search is not None
        point = knowledge.search.choose(chance, is_open)
        untouched = knowledge.untouched()
        if point is None or not len(untouched):
            return point
        assert knowledge.space is not None
        axis = int(chance.choice(untouched))
        more = point.copy()
        more[axis] = chance.choice(np.flatnonzero(knowledge.space.allowed[axis, 1:]) + 1)
        return more if is_open(more) else point

    @staticmethod
    def _again(study: Study, knowledge: Knowledge, points: int, runs: int) -> Iterator[Plan]:
        """More runs of so many of the best points, up to so many of each."""
        search = knowledge.search
        if search is None:
            return
        tier = deciding_order(study)[0]
        there = [
            study.experiments[knowledge.points[key_of(point)]]
            for point in search.tops[:points]
            if key_of(point) in knowledge.points
        ]
        counts = [study.group(run.tree, tier) for run in there]
        for had in range(runs):
            for run, group in zip(there, counts, strict=True):
                known = len(group.experiments) if group is not None else 0
                if known <= had and (run.commit, ()) not in study.refusals:
                    title = f"again: {run.title}".replace("again: again: ", "again: ")
                    yield Plan(parent=run.commit, role=Role.REPLICATE, tier=tier, title=title)
