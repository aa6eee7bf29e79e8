"""Screening on a cheap tier and promotion to the dear one, without rungs that wait to be full.

As in ASHA (Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020), an idea is promoted
as soon as it is among the best share of those that have been screened so far. Unlike there the share is not
a constant: it follows from how well the cheap tier has ranked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from attrs import define, field

from arf.interfaces import Strategy
from arf.sdk.strategies import (
    ask_ahead,
    is_combination_under_way,
    is_idle,
    left_behind,
    pairs_of_near_misses,
    together,
)
from arf.study import Study
from arf.types import Ask, Experiment, Plan, Role
from arf_plugins.strategy_two_tier import Options
from arf_plugins.strategy_two_tier.rungs import Rung, Rungs, find_rungs
from arf_plugins.strategy_two_tier.screening import Screening

REFERENCES = 2
"""Runs of the incumbent on a screening rung, which its ideas are compared with."""
HOPELESS = -2.0
"""Standard errors of a screened gain under which an idea is not worth even an idle slot."""


class TwoTier(Strategy):
    """Every idea is looked at cheaply; the candidates, which are judged, are on the dear tier only."""

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._options = options or Options()

    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        rungs = find_rungs(study, self._options)
        asks = ask_ahead(study, study.incumbent_commit, self._options.lookahead)
        if rungs is None or not any(count > 0 for count in free.values()):
            return asks
        return [*_Moment(study, rungs, self._options).plans(free), *asks]


@define
class _Moment:
    """One decision."""

    study: Study
    rungs: Rungs
    options: Options
    screenings: list[Screening] = field(init=False)
    untried: Iterator[int] = field(init=False)
    """Each idea is taken once."""
    taken: set[tuple[int, ...]] = field(factory=set)
    """What is planned for the final rung now."""

    def __attrs_post_init__(self) -> None:
        self.untried = iter(self.study.untried)
        self.screenings = [
            Screening(self.study, rung, self.rungs.final, self.options.recall, self.options.most)
            for rung in self.rungs.screens
        ]

    def plans(self, free: Mapping[str, int]) -> list[Plan]:
        """For all free slots. Screening has the first pick of the untried ideas, unless it says nothing."""
        final = self.rungs.final.tier
        cheap = [screening for screening in self.screenings if screening.rung.tier != final]
        parts = [(self._screens(screening), screening.rung.tier) for screening in cheap]
        if free.get(final, 0) > 0:
            parts.insert(0 if self._is_worthless() else len(parts), (self._finals(), final))
        plans = [plan for choices, tier in parts for plan in islice(choices, max(0, free.get(tier, 0)))]
        return sorted(plans, key=lambda plan: plan.tier != final)

    # ---- The final rung -----------------------------------------------------------------------

    def _finals(self) -> Iterator[Plan]:
        """What is worth a dear slot, best first. Screening too, where it is on the same tier."""
        yield from self._candidates(left_behind(self.study))
        yield from self._candidates(self._bundle())
        yield from self._promotions(screening.deserving() for screening in self.screenings)
        if self._is_worthless():
            yield from self._candidates((idea,) for idea in self.untried)
        for screening in self.screenings:
            if screening.rung.tier == self.rungs.final.tier:
                yield from self._screens(screening)
        yield from self._promotions(screening.runners_up(0.0) for screening in self.screenings)
        if not self._waits_for_reference():
            yield from self._candidates((idea,) for idea in self.untried)
        if is_idle(self.study):
            yield from self._candidates(pairs_of_near_misses(self.study))
        elif self._is_under_way():
            yield from self._promotions(screening.runners_up(HOPELESS) for screening in self.screenings)
            yield from self._again(self.rungs.final, self.study.rule.max_replicates)

    def _candidates(self, choices: Iterable[tuple[int, ...]], title: str = "") -> Iterator[Plan]:
        for ideas in choices:
            if ideas not in self.taken and not self._was_final(ideas):
                self.taken.add(ideas)
                yield Plan(
                    parent=self.study.incumbent_commit, ideas=ideas, tier=self.rungs.final.tier, title=title
                )

    def _was_final(self, ideas: tuple[int, ...]) -> bool:
        """Whether these ideas have been a candidate on the incumbent, or were refused."""
        parent = self.study.incumbent_commit
        runs = (self.study.experiments[number] for number in self.study.planned(parent, ideas))
        return (parent, ideas) in self.study.refusals or any(run.role is Role.CANDIDATE for run in runs)

    def _promotions(self, ranks: Iterable[Iterator[tuple[int, Experiment]]]) -> Iterator[Plan]:
        for screening, ranked in zip(self.screenings, ranks, strict=True):
            for rank, experiment in ranked:
                yield from self._candidates([experiment.ideas], screening.promotion(rank, experiment))

    def _bundle(self) -> Iterator[tuple[int, ...]]:
        """All that are clearly good where they were screened, in one run: dear slots are few.

        Each by itself follows, unless that is kept.
        """
        if not is_combination_under_way(self.study):
            strong = [ideas for screening in self.screenings for ideas in screening.strong()]
            bundle = together(self.study, strong)
            if len(bundle) > 1:
                yield bundle

    def _is_worthless(self) -> bool:
        return all(screening.is_worthless for screening in self.screenings)

    def _is_under_way(self) -> bool:
        return bool(self.study.running_count or self.study.open_asks)

    # ---- The screening rungs --------------------------------------------------------------------

    def _screens(self, screening: Screening) -> Iterator[Plan]:
        """What is worth a cheap slot, best first."""
        rung = screening.rung
        yield from self._again(rung, REFERENCES, f", to screen for {self.rungs.final}: {self.rungs.found}")
        if self._waits_for_reference() or (rung.tier == self.rungs.final.tier and screening.is_worthless):
            return
        for idea in self.untried:
            yield Plan(
                parent=self.study.incumbent_commit,
                ideas=(idea,),
                role=Role.CELL,
                tier=rung.tier,
                budget=rung.budget,
                round=rung.round,
            )
        if rung.tier != self.rungs.final.tier and self._is_under_way():
            yield from self._second_looks(screening)

    def _waits_for_reference(self) -> bool:
        """Whether it is still to be seen that the script heeds a short budget."""
        for screening in self.screenings:
            rung = screening.rung
            if rung.budget is not None:
                group = self.study.baseline_group(rung.tier, rung.budget)
                if group is None or not group.n:
                    return True
        return False

    def _second_looks(self, screening: Screening) -> Iterator[Plan]:
        """Idle cheap slots look again at what could be promoted next."""
        for _, experiment in screening.runners_up(0.0):
            if len(self.study.group_of(experiment).experiments) < REFERENCES:
                yield Plan(
                    parent=experiment.commit,
                    role=Role.REPLICATE,
                    tier=experiment.tier,
                    budget=experiment.budget,
                    title=f"again: {experiment.title}",
                )

    def _again(self, rung: Rung, wanted: int, why: str = "") -> Iterator[Plan]:
        """Runs of the incumbent on a rung, up to so many in all."""
        study = self.study
        if (study.incumbent_commit, ()) in study.refusals:
            return
        group = study.incumbent_group(rung.tier, rung.budget)
        there = len(group.experiments) if group else 0
        if rung.budget is None and study.incumbent_tree == study.base_tree and there < study.rule.replicates:
            return  # the judge is at it
        plan = Plan(
            parent=study.incumbent_commit,
            role=Role.REPLICATE,
            tier=rung.tier,
            budget=rung.budget,
            title=f"the incumbent on {rung}{why}",
        )
        yield from [plan] * (wanted - there)
