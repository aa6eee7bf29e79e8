"""Asks the agent for experiments, ahead of need; what it orders is run by the engine itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice

from arf.interfaces import Strategy
from arf.sdk.strategies import was_planned
from arf.study import Study
from arf.types import Ask, AskKind, Plan
from arf_plugins.strategy_agent import Options


class AgentPlans(Strategy):
    """What the agent orders is started by the engine; plain ideas of its answers are run on the incumbent."""

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._options = options or Options()

    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        places = sum(max(0, count) for count in free.values())
        ideas = (idea for idea in study.untried if not was_planned(study, (idea,)))
        plans = [Plan(parent=study.incumbent_commit, ideas=(idea,)) for idea in islice(ideas, places)]
        return [*plans, *self._asks(study, len(plans))]

    def _asks(self, study: Study, started: int) -> list[Ask]:
        """One more ask, if less waits than should. `started` ideas do not wait any more."""
        base = study.incumbent_commit
        if study.exhausted(base) or len(study.open_asks) >= self._options.asks:
            return []
        slots = sum(tier.slots for tier in study.tiers)
        stock = max(1, math.ceil(self._options.lookahead * slots))
        waiting = study.waiting_runs + study.untried_count - started
        missing = stock - waiting - sum(ask.n for ask in study.open_asks.values())
        if missing < max(1, stock // 2):
            return []
        return [Ask(kind=AskKind.EXPERIMENTS, n=self._options.batch or slots, base=base)]

    def why_ended(self, study: Study) -> str:
        return "the agent has nothing more" if study.exhausted(study.incumbent_commit) else ""
