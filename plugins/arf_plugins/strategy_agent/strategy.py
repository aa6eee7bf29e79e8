"""Asks the agent for experiments, ahead of need; what it orders is run by the engine itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice

from arf.interfaces import Strategy
from arf.moves import was_planned
from arf.study import Study
from arf.types import Ask, AskKind, Plan
from arf_plugins.strategy_agent import Options


class AgentPlans(Strategy):
    """An agent that answers with plain ideas gets each of them run on the incumbent."""

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._options = options or Options()

    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        base = study.incumbent_commit
        slots = sum(tier.slots for tier in study.tiers)
        places = sum(max(0, count) for count in free.values())
        ideas = (idea for idea in study.untried if not was_planned(study, (idea,)))
        plans: list[Plan | Ask] = [Plan(parent=base, ideas=(idea,)) for idea in islice(ideas, places)]
        stock = study.waiting_runs + study.untried_count - len(plans)
        wanted = max(1, math.ceil(self._options.lookahead * slots))
        if stock < wanted and len(study.open_asks) < self._options.asks and not study.exhausted(base):
            plans.append(Ask(kind=AskKind.EXPERIMENTS, n=max(slots, wanted), base=base))
        return plans

    def why_ended(self, study: Study) -> str:
        return "the agent has nothing more" if study.exhausted(study.incumbent_commit) else ""
