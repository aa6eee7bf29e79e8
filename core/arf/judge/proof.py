"""Acceptance by proof: a change is accepted once its gain over the incumbent is proven, run by run.

The rule of arf 0.1. It costs replicates of every contender, and gains under two sigma are hardly ever found.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from attrs import define, field, frozen

from arf.interfaces import AcceptRule, Judgement
from arf.judge.rule import FAILURES, PROMISING, baseline_is_measured, short
from arf.judge.statistics import (
    Comparison,
    Noise,
    chance_of_keep,
    compare,
    deciding_order,
    idea_share,
    lead_over_parent,
    look_share,
    noise,
    t_critical,
)
from arf.study import Group, Study
from arf.types import Experiment, Plan, Role, Verdict

WORTHWHILE = 0.05
"""A contender is run again while its chance of being kept in the end is at least this."""


class Proof(AcceptRule):
    """Accepts what is proven better than the incumbent, at a level that is shared over ideas and looks."""

    def judge(self, study: Study, candidates: Sequence[Experiment]) -> Judgement:
        return _Judging(study).judgement(list(candidates))


@frozen
class _Incumbent:
    commit: str
    tree: str
    experiment: int | None
    first_open: int
    """The first candidate that is compared with it."""


@define
class _Judging:
    """One call of the rule: the incumbent changes while it lasts, the study does not."""

    study: Study
    verdicts: list[tuple[int, Verdict, str]] = field(factory=list)
    replicates: list[Plan] = field(factory=list)
    incumbent: _Incumbent = field(init=False)
    deciding: str = field(init=False)
    """The tier whose runs decide."""
    incumbent_runs: dict[tuple[str, float | None], int] = field(factory=dict)
    """How many runs of the incumbent are wanted, by tier and budget."""

    def __attrs_post_init__(self) -> None:
        study = self.study
        self.deciding = deciding_order(study)[0]
        self.incumbent = _Incumbent(
            study.incumbent_commit, study.incumbent_tree, study.incumbent_experiment, study.first_open
        )

    def judgement(self, candidates: list[Experiment]) -> Judgement:
        while candidates:
            before = self.incumbent
            candidates = self._judge_candidates(candidates)
            if self.incumbent is before:
                break
        plans = [*self._incumbent_replicates(), *self.replicates]
        return Judgement(verdicts=tuple(self.verdicts), replicates=tuple(plans))

    def _give(self, experiment: Experiment, verdict: Verdict, reason: str) -> None:
        self.verdicts.append((experiment.id, verdict, reason))

    # ---- Candidates -------------------------------------------------------------------------

    def _judge_candidates(self, candidates: list[Experiment]) -> list[Experiment]:
        """Judge them, best first, until one is kept; gives those that are still to be judged."""
        self.replicates.clear()
        self.incumbent_runs.clear()
        study = self.study
        order = sorted(
            candidates,
            key=lambda e: (e.tier, e.budget or 0.0, -study.objective.gain(0.0, study.group_of(e).mean), e.id),
        )
        left = []
        for position, experiment in enumerate(order):
            verdict, reason = self._judge_candidate(experiment)
            if verdict is None:
                left.append(experiment)
                continue
            self._give(experiment, verdict, reason)
            if verdict is Verdict.KEEP:
                left += order[position + 1 :]
                self._set_incumbent(experiment, left)
                break
        return left

    def _set_incumbent(self, experiment: Experiment, left: list[Experiment]) -> None:
        study = self.study
        waiting = [e.id for e in left]
        waiting += [n for n in study.running if study.experiments[n].role is Role.CANDIDATE]
        first_open = min(waiting, default=len(study.experiments) + 1)
        self.incumbent = _Incumbent(experiment.commit, experiment.tree, experiment.id, first_open)

    def _judge_candidate(self, experiment: Experiment) -> tuple[Verdict | None, str]:
        """Its verdict; None, with what is wanted noted, if it cannot be known yet.

        Where it has run elsewhere than on the tier that decides, its first run only tells whether it is worth
        runs there: what is good on one tier need not be so on another.
        """
        here = self.study.group_of(experiment)
        if here.tree == self.incumbent.tree:
            return Verdict.MEASURED, f"the incumbent itself, on {here.tier}"
        there = self.study.group(here.tree, self.deciding, here.budget)
        return self._judge_by(experiment, there or here)

    def _judge_by(self, experiment: Experiment, new: Group) -> tuple[Verdict | None, str]:
        """The same by its runs on one tier."""
        study, budget, tier = self.study, new.budget, new.tier
        if new.running or (budget is None and not baseline_is_measured(study, tier)):
            return None, ""
        if not new.n:
            again = self._replicate(experiment, tier, 1)
            return (None, "") if again else (Verdict.DISCARD, f"it fails on {tier}, which decides")
        if not self._incumbent_has(tier, budget, self._incumbent_runs_for(new)):
            return None, ""
        old = study.group(self.incumbent.tree, tier, budget)
        if old is None or not old.n:
            return Verdict.DISCARD, f"nothing to compare with: the incumbent fails on {tier}"
        known = noise(study, tier, budget)
        if known is None or known.sigma == 0.0:
            return self._judge_without_noise(experiment, old, new, known)
        return self._judge_by_test(experiment, old, new, known)

    def _incumbent_runs_for(self, new: Group) -> int:
        """As many as the contender has; enough to know the noise where the baseline has not told it."""
        unknown = self.study.spread(new.tier, new.budget).df < self.study.rule.replicates - 1
        return max(new.n, self.study.rule.replicates if unknown else 1)

    def _incumbent_has(self, tier: str, budget: float | None, wanted: int) -> bool:
        """Whether the incumbent has so many runs, or will get no more; notes what is missing."""
        group = self.study.group(self.incumbent.tree, tier, budget)
        if group is not None and (group.n >= wanted or (not group.running and group.failed > FAILURES)):
            return True
        self._want_incumbent(tier, budget, wanted)
        return False

    def _want_incumbent(self, tier: str, budget: float | None, wanted: int) -> None:
        key = (tier, budget)
        self.incumbent_runs[key] = max(wanted, self.incumbent_runs.get(key, 0))

    def _judge_without_noise(
        self, experiment: Experiment, old: Group, new: Group, known: Noise | None
    ) -> tuple[Verdict | None, str]:
        """Where replicates are identical, any improvement counts that a second run repeats."""
        gain = self.study.objective.gain(old.mean, new.mean)
        over = self._over()
        why = "replicates are identical" if known else "the noise is not known"
        if gain <= 0:
            how = "the same as" if gain == 0 else f"worse by {short(-gain)} than"
            return Verdict.DISCARD, f"{how} {over} ({why})"
        decides = new.tier == self.deciding
        if decides and known and (new.n > 1 or self.study.rule.max_replicates == 1):
            return Verdict.KEEP, f"gain {short(gain)} over {over} ({why}: any improvement counts)"
        if self._replicate(experiment, self.deciding, new.n + 1 if decides else 1):
            return None, ""
        return Verdict.DISCARD, f"gain {short(gain)} over {over}, which one run cannot prove ({why})"

    def _judge_by_test(
        self, experiment: Experiment, old: Group, new: Group, known: Noise
    ) -> tuple[Verdict | None, str]:
        comparison = compare(self.study.objective, old, new, known)
        most = max(self.study.rule.max_replicates, new.n)
        alpha = self.study.rule.alpha * idea_share(self._index(experiment))
        decides = new.tier == self.deciding
        if decides and (new.n > 1 or most == 1) and comparison.p <= alpha * look_share(new.n, most):
            return Verdict.KEEP, _proven(comparison, self._over(), old, new)
        if new.n < most or not decides:
            last = alpha * look_share(most, most)
            chance = chance_of_keep(comparison, old, new, most, last)
            if chance >= WORTHWHILE:
                target = self._next_look(comparison, old, new, alpha, most) if decides else 1
                if self._replicate(experiment, self.deciding, target):
                    return None, ""
        return Verdict.DISCARD, self._not_proven(experiment, comparison, old, new, known)

    def _next_look(self, comparison: Comparison, old: Group, new: Group, alpha: float, most: int) -> int:
        """How many runs of the contender to look at next.

        The second run shows whether the first was luck. After that, as many at once as a keep takes if the
        gain is what it seems to be, so that slots are used side by side.
        """
        if new.n == 1:
            return 2
        for n in range(new.n + 1, most):
            others = max(old.n, n)
            error = (comparison.old_variance / others + comparison.new_variance / n) ** 0.5
            df = comparison.df + (n - new.n) + (others - old.n)
            if comparison.gain >= t_critical(alpha * look_share(n, most), df) * error:
                return n
        return most

    def _index(self, experiment: Experiment) -> int:
        """Which candidate of the present stretch it is, from 1.

        A cell counts as one: any of a design's cells may be the one that is chosen by its results, so each
        has its share of alpha. Of a candidate that ran as a cell first, all cells of its design count, also
        those that are older than the stretch.
        """
        study, number = self.study, experiment.id
        index = 1
        for role in (Role.CANDIDATE, Role.CELL):
            ids = study.by_role(role)
            index += max(0, bisect_left(ids, number) - bisect_left(ids, self.incumbent.first_open))
        origin = study.experiments[study.group_of(experiment).experiments[0]]
        return max(index, len(study.by_round(origin.round))) if origin.role is Role.CELL else index

    def _replicate(self, experiment: Experiment, tier: str, target: int) -> bool:
        """Plan runs of the contender up to `target`, and of the incumbent; False if it gets no more."""
        group = self.study.group(experiment.tree, tier, experiment.budget)
        there, failed = (group.n, group.failed) if group else (0, 0)
        refused = (experiment.commit, ()) in self.study.refusals
        if target > self.study.rule.max_replicates or failed >= FAILURES or refused:
            return False
        plan = Plan(
            parent=experiment.commit,
            role=Role.REPLICATE,
            tier=tier,
            budget=experiment.budget,
            title=f"again: {experiment.title}",
        )
        self.replicates += [plan] * (target - there)
        self._want_incumbent(tier, experiment.budget, target)
        return True

    def _incumbent_replicates(self) -> list[Plan]:
        plans: list[Plan] = []
        for (tier, budget), wanted in self.incumbent_runs.items():
            group = self.study.group(self.incumbent.tree, tier, budget)
            there = len(group.experiments) - min(group.failed, FAILURES) if group else 0
            plan = Plan(
                parent=self.incumbent.commit,
                role=Role.REPLICATE,
                tier=tier,
                budget=budget,
                title=f"the incumbent again ({self._over()})",
            )
            plans += [plan] * (wanted - there)
        return plans

    # ---- Reasons ----------------------------------------------------------------------------

    def _over(self) -> str:
        first = self.study.kept[0] if self.study.kept else None
        if self.incumbent.experiment is None or self.incumbent.experiment == first:
            return "the baseline"
        return f"#{self.incumbent.experiment}"

    def _not_proven(
        self, experiment: Experiment, comparison: Comparison, old: Group, new: Group, known: Noise
    ) -> str:
        if experiment.parent != self.incumbent.commit:
            lead = lead_over_parent(self.study, experiment)
            if lead is not None and lead.t >= PROMISING and lead.gain > comparison.gain:
                return (
                    f"better than its parent by {short(lead.gain)} ± {short(lead.error)}, "
                    f"but not than {self._over()}: may be re-based"
                )
        return _not_proven(comparison, self._over(), new, known)


def _proven(comparison: Comparison, over: str, old: Group, new: Group) -> str:
    return (
        f"gain {short(comparison.gain)} ± {short(comparison.error)} over {over} "
        f"(t = {comparison.t:.1f}, {new.n} + {old.n} runs)"
    )


def _not_proven(comparison: Comparison, over: str, new: Group, known: Noise) -> str:
    runs = f", {new.n} runs" if new.n > 1 else ""
    if comparison.gain <= 0 and comparison.t <= -1:
        sigmas = -comparison.gain / known.sigma
        return f"worse than {over} by {short(-comparison.gain)} ({sigmas:.1f} sigma{runs})"
    if comparison.t <= 2:
        return f"within noise of {over}: gain {short(comparison.gain)}, sigma {short(known.sigma)}{runs}"
    return (
        f"not proven: gain {short(comparison.gain)} ± {short(comparison.error)} over {over} "
        f"(t = {comparison.t:.1f}{runs})"
    )
