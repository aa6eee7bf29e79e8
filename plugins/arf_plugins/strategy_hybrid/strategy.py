"""Greedy, with designs for the gains that are too small to be proven one by one, and a tidy end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from attrs import define

from arf.interfaces import Strategy
from arf.moves import (
    Ideas,
    ask_ahead,
    incumbent_again,
    is_idle,
    left_behind,
    pairs_of_near_misses,
    was_planned,
)
from arf.study import Study
from arf.types import Ask, Experiment, Plan, Role
from arf_plugins.strategy_hybrid import Options, marginal, mixing, shrink

CONTENDERS = 4
"""Near misses that idle slots run again."""
CONTENDER_RUNS = 3
"""Runs of each of them, at most."""
CLOSING_SHARE = 0.2
"""The share of a study's experiments that leaving one out may take, at most."""


class Hybrid(Strategy):
    """What is left behind, then untried ideas one at a time; near misses in mixes; at last leave-one-out."""

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._options = options or Options()

    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        moment = _Moment(study, self._options)
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
            yield from self._fillers()

    def _search(self) -> Iterator[Plan]:
        study = self.study
        mix = mixing.latest(study) if self.options.mix else None
        if mix is not None:
            yield from mixing.missing_cells(study, mix)
            outcome = mixing.outcome(study, mix)
            if outcome is not None:
                yield outcome
        yield from self._candidates(left_behind(study))
        if self.options.mix and (mix is None or mixing.is_complete(study, mix)):
            yield from self._mix(2 if is_idle(study) else self.options.mix)
        yield from self._candidates((idea,) for idea in study.untried)
        if is_idle(study):
            yield from self._candidates(pairs_of_near_misses(study))

    def _candidates(self, choices: Iterator[Ideas]) -> Iterator[Plan]:
        seen: set[Ideas] = set()
        for ideas in choices:
            if ideas not in seen and not was_planned(self.study, ideas):
                seen.add(ideas)
                yield Plan(parent=self.study.incumbent_commit, ideas=ideas)

    def _mix(self, fewest: int) -> Iterator[Plan]:
        """All near misses together, once there are so many; the cells of their design follow."""
        near = mixing.near_misses(self.study)
        tier = self._home()
        if len(near) < fewest or tier is None:
            return
        ideas = mixing.to_mix(self.study, near)
        fewest = 2 if len(near) >= 2 * fewest else fewest  # many, but they set the same few constants
        if len(ideas) >= fewest and not was_planned(self.study, ideas):
            yield mixing.all_together(self.study, ideas, tier)

    def _home(self) -> str | None:
        """The tier of a design, whose cells must not be compared across tiers: the largest that works."""
        works = []
        for tier in self.study.tiers:
            group = self.study.incumbent_group(tier.name)
            if group is not None and group.n:
                works.append(tier)
        return max(works, key=lambda tier: tier.slots).name if works else None

    # ---- Idle slots -----------------------------------------------------------------------------

    def _fillers(self) -> Iterator[Plan]:
        """Runs that make the next verdicts surer, for slots that would be idle for want of ideas."""
        yield from incumbent_again(self.study)
        for experiment in mixing.near_misses(self.study)[:CONTENDERS]:
            yield from [self._again(experiment)] * self._lacking(experiment)

    def _lacking(self, experiment: Experiment) -> int:
        group = self.study.group_of(experiment)
        refused = (experiment.commit, ()) in self.study.refusals
        return 0 if group.failed or refused else CONTENDER_RUNS - len(group.experiments)

    def _again(self, experiment: Experiment) -> Plan:
        return Plan(
            parent=experiment.commit,
            role=Role.REPLICATE,
            tier=experiment.tier,
            title=f"near miss #{experiment.id} again, in an idle slot: {experiment.title}",
        )

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
        left = study.max_experiments - study.rule.confirm - len(study.experiments)
        return left + done <= wanted

    def _is_over(self) -> bool:
        """Whether nothing is under way that could bring new ideas or another incumbent."""
        study = self.study
        if study.open_asks or any(True for _ in study.undecided):
            return False
        if not study.exhausted(study.incumbent_commit):
            return False
        return all(study.experiments[number].role is Role.REPLICATE for number in study.running)
