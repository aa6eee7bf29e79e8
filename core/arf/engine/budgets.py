"""What a study may still use: experiments, time, slot hours, dollars, tokens."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from arf.config.schema import Budget
from arf.study import Study

RECENT_RUNS = 8
"""How long an experiment takes is told by so many of the last ones."""
NO_LIMIT = 10**9


class Budgets:
    """A study against its budgets. What runs now and what confirms the best are reckoned in advance."""

    def __init__(self, budget: Budget, study: Study, elapsed_s: Callable[[], float]) -> None:
        self._budget = budget
        self._study = study
        self._elapsed_s = elapsed_s
        self._recent_s: deque[float] = deque(maxlen=RECENT_RUNS)
        self.standing_usd = 0.0
        """Dollars that what stands has cost; more than slots in use, where machines also stand idle."""
        self.tried_s = 0.0
        """Seconds of slots in which changes were only tried out."""

    def ran(self, slot_s: float) -> None:
        """Take note of how long an experiment took."""
        self._recent_s.append(slot_s)

    @property
    def experiments_left(self) -> int:
        """How many more experiments may be accepted."""
        limit = self._budget.max_experiments
        return NO_LIMIT if limit is None else limit - len(self._study.experiments)

    @property
    def is_time_up(self) -> bool:
        limit = self._budget.max_time
        return limit is not None and self._elapsed_s() >= limit

    def exceeded(self) -> str:
        """Which budget the next experiment would exceed; empty if none."""
        budget, study = self._budget, self._study
        if self.experiments_left <= self._reserve():
            return "max_experiments"
        typical_s = self._typical_s()
        confirm_s = 0.0
        if study.incumbent_tree != study.base_tree:
            slots = max(1, sum(tier.slots for tier in study.tiers))
            confirm_s = typical_s * math.ceil(study.rule.confirm / slots)
        if budget.max_time is not None and self._elapsed_s() + typical_s + confirm_s > budget.max_time:
            return "max_time"
        used_s = self._slot_s() + typical_s * (study.running_count + 1)
        if budget.max_slot_hours is not None and used_s / 3600 > budget.max_slot_hours:
            return "max_slot_hours"
        if budget.max_usd is not None and self._usd(typical_s) > budget.max_usd:
            return "max_usd"
        tokens = study.usage.input_tokens + study.usage.output_tokens
        if budget.max_tokens is not None and tokens >= budget.max_tokens:
            return "max_tokens"
        return ""

    def left(self) -> dict[str, float]:
        """What is left of the budgets that are set; never below 0."""
        budget, usage = self._budget, self._study.usage
        slot_hours = self._slot_s() / 3600
        used = {
            "experiments": (budget.max_experiments, len(self._study.experiments)),
            "seconds": (budget.max_time, self._elapsed_s()),
            "slot_hours": (budget.max_slot_hours, slot_hours),
            "usd": (budget.max_usd, self._usd(0.0)),
            "tokens": (budget.max_tokens, usage.input_tokens + usage.output_tokens),
        }
        return {name: max(0.0, limit - spent) for name, (limit, spent) in used.items() if limit is not None}

    def _reserve(self) -> int:
        """Experiments that are kept back for the confirmation of the best."""
        limit, study = self._budget.max_experiments, self._study
        if limit is None or study.incumbent_tree == study.base_tree:
            return 0
        return min(study.rule.confirm, limit // 5)

    def _slot_s(self) -> float:
        return sum(self._study.slot_s.values()) + self.tried_s

    def _typical_s(self) -> float:
        """Seconds of a slot that experiments have taken lately; 0 until one has ended."""
        if self._recent_s:
            return sum(self._recent_s) / len(self._recent_s)
        ended = len(self._study.experiments) - self._study.running_count
        return sum(self._study.slot_s.values()) / ended if ended else 0.0

    def _usd(self, typical_s: float) -> float:
        """Dollars spent if one more experiment of `typical_s` is started, the running ones included."""
        study = self._study
        price = {tier.name: tier.usd_per_hour / 3600 for tier in study.tiers}
        used = sum(price[tier] * seconds for tier, seconds in study.slot_s.items())
        running = sum(price[tier] * study.running_on(tier) * typical_s for tier in price)
        dearest = max(price.values())
        machines = max(used + running + dearest * self.tried_s, self.standing_usd)
        return study.usage.usd + machines + dearest * typical_s
