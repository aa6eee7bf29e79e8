"""What a study may still use: experiments, time, slot hours, dollars, tokens."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from attrs import frozen

from arf.config.schema import Budget
from arf.interfaces import ClaimRule
from arf.judge.statistics import deciding_order
from arf.study import Study

RECENT_RUNS = 8
"""How long an experiment takes is told by so many of the last ones."""
STAGES = 2
"""A claim's slots wait so often for the end of a stage."""
NO_LIMIT = 10**9


@frozen(kw_only=True)
class Reserve:
    """What is kept back for a claim, of each kind of budget."""

    runs: int
    seconds: float
    slot_hours: float
    usd: float


class Budgets:
    """A study against its budgets. What runs now and what a claim takes are reckoned in advance."""

    def __init__(
        self,
        budget: Budget,
        study: Study,
        elapsed_s: Callable[[], float],
        claim_rule: ClaimRule | None = None,
        held_usd: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`held_usd` gives the dollars that machines have cost, used or not, where that is known."""
        self._budget = budget
        self._study = study
        self._claim_rule = claim_rule
        self._elapsed_s = elapsed_s
        self._recent_s: deque[float] = deque(maxlen=RECENT_RUNS)
        self._held_usd = held_usd
        self.tried_s = 0.0
        """Seconds of slots in which changes were only tried out."""

    def lift(self) -> None:
        """Limit nothing any more."""
        self._budget = Budget()

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
        if self.experiments_left <= self.reserve().runs:
            return "max_experiments"
        typical_s = self._typical_s()
        claim = self.reserve()
        if budget.max_time is not None:
            needed_s = typical_s + claim.seconds
            if self._elapsed_s() + needed_s > budget.max_time:
                return "max_time"
        if budget.max_slot_hours is not None:
            used_s = self._slot_s() + typical_s * (study.running_count + 1)
            if used_s / 3600 + claim.slot_hours > budget.max_slot_hours:
                return "max_slot_hours"
        if budget.max_usd is not None and self._usd(typical_s) + claim.usd > budget.max_usd:
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

    def reserve(self) -> Reserve:
        """What the search leaves of each budget for the claim at the end."""
        budget, study, rule = self._budget, self._study, self._claim_rule
        if rule is None or study.incumbent_tree == study.base_tree:
            return Reserve(runs=0, seconds=0.0, slot_hours=0.0, usd=0.0)
        runs = rule.runs(study)
        typical_s = self._typical_s()
        waves = math.ceil(runs / self._slots()) + STAGES if runs else 0
        price = max((tier.usd_per_hour for tier in study.tiers), default=0.0)

        def most(limit: float | None) -> float:
            return math.inf if limit is None else rule.share * limit

        return Reserve(
            runs=int(min(runs, most(budget.max_experiments))),
            seconds=min(waves * typical_s, most(budget.max_time)),
            slot_hours=min(runs * typical_s / 3600, most(budget.max_slot_hours)),
            usd=min(runs * typical_s / 3600 * price, most(budget.max_usd)),
        )

    def runs_left(self) -> int:
        """How many runs what is left of the budgets suffices for, while nothing else runs."""
        budget, study = self._budget, self._study
        typical_s = self._typical_s() or 1.0
        price = max((tier.usd_per_hour for tier in study.tiers), default=0.0)
        left = [float(self.experiments_left)]
        if budget.max_time is not None:
            left.append((budget.max_time - self._elapsed_s()) // typical_s * self._slots())
        if budget.max_slot_hours is not None:
            left.append((budget.max_slot_hours * 3600 - self._slot_s()) / typical_s)
        if budget.max_usd is not None and price:
            left.append((budget.max_usd - self._usd(0.0)) / (typical_s / 3600 * price))
        return max(0, int(min(left)))

    def _slots(self) -> int:
        """Slots of the tier that decides, where claims are measured."""
        return max(1, self._study.tier(deciding_order(self._study)[0]).slots)

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
        machines = max(used + running + dearest * self.tried_s, self._held_usd())
        return study.usage.usd + machines + dearest * typical_s
