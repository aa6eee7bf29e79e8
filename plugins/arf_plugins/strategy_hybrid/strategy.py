"""Some ideas judged alone, more of them measured and proven in bundles, and a tidy end."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

from attrs import define

from arf.interfaces import Strategy
from arf.sdk.strategies import ask_ahead, incumbent_again, is_idle, was_planned
from arf.study import Study
from arf.types import Ask, Experiment, Plan, Role
from arf_plugins.strategy_hybrid import Options, bundles, marginal, shrink

LOOKS = 4
"""How often a bundle is looked for while as many runs end as there are slots."""
CLOSING_SHARE = 0.2
"""The share of a study's experiments that leaving one out may take, at most."""


class Hybrid(Strategy):
    """A bundle of what is promising, then untried ideas one at a time; at last leave-one-out."""

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._options = options or Options()

    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        moment = _Moment(study, self._options, sum(free.values()))
        closing = moment.is_closing()
        asks = [] if closing else ask_ahead(study, study.incumbent_commit, self._options.lookahead)
        if not any(count > 0 for count in free.values()):
            return asks
        plans = moment.leaving_out() if closing else moment.plans()
        return [*_fitting(plans, free), *asks]


def _fitting(plans: Iterator[Plan], free: Mapping[str, int]) -> list[Plan]:
    """As many plans as there is room for, in order; those for a tier that is full are left out."""
    room = {tier: count for tier, count in free.items() if count > 0}
    fitting = []
    for plan in plans:
        tier = plan.tier or next(iter(room))
        if tier in room:
            fitting.append(plan)
            room[tier] -= 1
            if not room[tier]:
                del room[tier]
            if not room:
                break
    return fitting


@define
class _Moment:
    """One decision."""

    study: Study
    options: Options
    free: int
    """Slots: so many runs, at most, have ended since the last decision."""

    # ---- Search ---------------------------------------------------------------------------------

    def plans(self) -> Iterator[Plan]:
        """What is worth running, best first."""
        found = False
        for plan in self._search():
            found = True
            yield plan
        if not found and self._is_over():
            yield from self.leaving_out()
        elif self.options.fill and self._is_under_way():
            yield from incumbent_again(self.study)

    def _search(self) -> Iterator[Plan]:
        study = self.study
        bundle = bundles.under_way(study)
        new: list[Plan] = []
        if bundle is not None:
            yield from bundles.copies(study, bundle)
        elif self._is_time_for_a_bundle():
            new = list(bundles.next_bundle(study, bundles.ENOUGH))
            yield from new
        yield from self._ideas(bundle)
        if bundle is None and not study.untried_count:
            mix = list(bundles.mix(study)) if self.options.fill or is_idle(study) else []
            yield from (plan for plan in mix if all(plan.ideas != other.ideas for other in new))
            if is_idle(study) and not new and not mix:
                yield from bundles.next_bundle(study, 0.0)

    def _is_time_for_a_bundle(self) -> bool:
        """Whether enough has ended since they were last looked for: it takes a regression.

        Several runs may have ended at once, so that the numbers in between were never seen.
        """
        slots = sum(tier.slots for tier in self.study.tiers)
        ended = len(self.study.experiments) - self.study.running_count
        return ended % max(1, slots // LOOKS) < max(1, self.free)

    def _ideas(self, bundle: Experiment | None) -> Iterator[Plan]:
        """Untried ideas: some are judged alone, others are only measured, on what is likely to be kept."""
        study = self.study
        candidates = study.by_role(Role.CANDIDATE)
        judged = len(candidates) - bisect_left(candidates, study.first_open)
        base = study.incumbent_commit if bundle is None else self._likely(bundle)
        for number, idea in enumerate(study.untried, judged):
            if number < self.options.alone:
                plan = Plan(parent=study.incumbent_commit, ideas=(idea,))
            else:
                plan = Plan(parent=base, ideas=(idea,), role=Role.PROBE, round=bundles.PROBES)
            if not was_planned(study, plan.ideas, plan.parent):
                yield plan

    def _likely(self, bundle: Experiment) -> str:
        """The next incumbent, as it seems."""
        study = self.study
        old, new = study.incumbent_group(bundle.tier), study.group_of(bundle)
        if old is None or not old.n or not new.n or study.objective.gain(old.mean, new.mean) <= 0:
            return study.incumbent_commit
        return bundle.commit

    def _is_under_way(self) -> bool:
        return bool(self.study.running_count or self.study.open_asks)

    # ---- The end --------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        """Whether the search is over though there might be more to try."""
        return self._is_spent() or self._is_last_chance()

    def leaving_out(self) -> Iterator[Plan]:
        if self.options.leave_one_out:
            yield from shrink.missing_runs(self.study, self.options.leave_one_out)

    def _is_spent(self) -> bool:
        """Whether less can be expected of more runs than the user wants for them."""
        per_hour, per_usd = self.options.min_gain_per_slot_hour, self.options.min_gain_per_usd
        if per_hour is None and per_usd is None:
            return False
        expected = marginal.expected(self.study)
        return expected.per_slot_hour < (per_hour or 0.0) or expected.per_usd < (per_usd or 0.0)

    def _is_last_chance(self) -> bool:
        """Whether what is left of the experiments is just enough for leaving one out."""
        study = self.study
        if study.max_experiments is None or not self.options.leave_one_out:
            return False
        wanted = shrink.cost(study, self.options.leave_one_out)
        if not wanted or wanted > CLOSING_SHARE * study.max_experiments:
            return False
        done = len(study.by_round(shrink.round_of(study)))
        left = study.max_experiments - len(study.experiments)
        return left + done <= wanted

    def _is_over(self) -> bool:
        """Whether nothing is under way that could bring new ideas or another incumbent."""
        study = self.study
        if study.open_asks or any(True for _ in study.undecided):
            return False
        if not study.exhausted(study.incumbent_commit):
            return False
        return all(study.experiments[number].role is Role.REPLICATE for number in study.running)
