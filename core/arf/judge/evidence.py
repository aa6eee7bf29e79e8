"""Acceptance by evidence: the incumbent is what the runs so far say is best, be it proven or not.

What is believed of a commit is its posterior mean: a reading is drawn towards what its parent makes one
expect, the more so the noisier a run is and the fewer there are (James and Stein 1961; as the best linear
unbiased predictor of a random effect in Robinson, Statistical Science 6, 1991). Each new run can change it,
so that an incumbent that was lucky is left again for one that it had replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import define, field, frozen

from arf.interfaces import AcceptRule, Judgement
from arf.judge.rule import baseline_is_measured, name_of_incumbent, short
from arf.judge.statistics import noise
from arf.study import Group, Study
from arf.types import Experiment, Plan, Role, Verdict

SPREAD = 2.0
"""Standard deviation of the effects of changes before they are run, in standard deviations of a run."""
FIRST_RUNS = 2
"""Runs of each incumbent: the one that it was accepted by, and another, beside the first candidates on it."""
CANDIDATES_A_RUN = 8
"""After so many candidates on it the incumbent is run again; what many could not beat may have been lucky."""
MOST_RUNS = 6
"""Runs of an incumbent that the rule wants, at most."""
RECENT = 16
"""Of the incumbents that were replaced, so many may come back."""


@frozen
class Belief:
    """What is believed of a commit's gain over the baseline, in units of the objective."""

    mean: float
    variance: float


class Evidence(AcceptRule):
    """Accepts what is now believed to be best; changes back when runs say so. It waits for no run."""

    def judge(self, study: Study, candidates: Sequence[Experiment]) -> Judgement:
        verdicts: list[tuple[int, Verdict, str]] = []
        again = tuple(_incumbent_again(study))
        ready = []
        for experiment in candidates:
            verdict, reason = _not_compared(study, experiment)
            if verdict is not None:
                verdicts.append((experiment.id, verdict, reason))
            elif baseline_is_measured(study, experiment.tier):
                ready.append(experiment)
        if not study.kept:
            return Judgement(verdicts=tuple(verdicts))
        beliefs = Beliefs(study)
        best = beliefs.best([study.group_of(experiment) for experiment in ready])
        old = beliefs.of(study.incumbent_tree)
        accepted = None
        for experiment in ready:
            belief = beliefs.of(experiment.tree)
            reason = _reason(study, belief, old)
            if experiment.tree == best.tree and accepted is None:
                accepted = experiment.id, Verdict.KEEP, reason
            else:
                verdicts.append((experiment.id, Verdict.DISCARD, reason))
        if accepted is not None:
            return Judgement(verdicts=(*verdicts, accepted), replicates=again)
        changed = best.tree not in (study.incumbent_tree, study.base_tree) or (
            best.tree == study.base_tree != study.incumbent_tree
        )
        return Judgement(
            verdicts=tuple(verdicts),
            replicates=again,
            incumbent=_first_run(study, best) if changed else None,
        )


def _incumbent_again(study: Study) -> Iterator[Plan]:
    """The next run of the incumbent, one for every few of the candidates that are made on it.

    A winner of many was lucky; unless it is measured again, nothing can beat its reading any more.
    """
    if study.incumbent_tree == study.base_tree or (study.incumbent_commit, ()) in study.refusals:
        return
    number = study.incumbent_experiment
    assert number is not None
    group = study.group_of(study.experiments[number])
    wanted = min(MOST_RUNS, FIRST_RUNS + study.children(study.incumbent_commit) // CANDIDATES_A_RUN)
    if len(group.experiments) < wanted and not group.running:
        title = f"the incumbent again ({name_of_incumbent(study)})"
        yield Plan(parent=study.incumbent_commit, role=Role.REPLICATE, tier=group.tier, title=title)


def _first_run(study: Study, group: Group) -> int:
    """The experiment by which a group is known: for the baseline, the one that the study began with."""
    return study.kept[0] if group.tree == study.base_tree else group.experiments[0]


def _not_compared(study: Study, experiment: Experiment) -> tuple[Verdict | None, str]:
    """The verdict of a candidate that cannot become the incumbent; None for one that can."""
    if experiment.tree == study.incumbent_tree:
        return Verdict.MEASURED, f"the incumbent itself, on {experiment.tier}"
    if experiment.budget is not None:
        return (
            Verdict.MEASURED,
            f"a run with {100 * experiment.budget:g} % of the budget decides nothing",
        )
    base = study.baseline_group(experiment.tier)
    if baseline_is_measured(study, experiment.tier) and (base is None or not base.n):
        return Verdict.DISCARD, f"nothing to compare with: the baseline fails on {experiment.tier}"
    return None, ""


def _reason(study: Study, belief: Belief, old: Belief) -> str:
    gain = belief.mean - old.mean
    how = "better" if gain > 0 else "worse"
    return f"expected {short(abs(gain))} {how} than {name_of_incumbent(study)}, by the runs so far"


@define
class Beliefs:
    """What is believed of the commits of a study. Made for one decision."""

    study: Study
    _known: dict[str, Belief] = field(factory=dict)

    def of(self, tree: str) -> Belief:
        """A tree's belief, from its own runs and those of what it was made from."""
        chain = []
        while tree not in self._known and tree != self.study.base_tree:
            chain.append(tree)
            tree = self._parent(tree)
        belief = self._known.setdefault(tree, Belief(0.0, 0.0))
        for tree in reversed(chain):
            belief = self._known[tree] = self._updated(tree, belief)
        return belief

    def best(self, more: Sequence[Group]) -> Group:
        """The group with the best belief, among the leaders of each tier, the last incumbents, and `more`."""
        study = self.study
        incumbent = self._any_group(study.incumbent_tree)
        found = max(self._contenders(more), key=lambda group: self.of(group.tree).mean, default=incumbent)
        return found if self.of(found.tree).mean > self.of(incumbent.tree).mean else incumbent

    def _contenders(self, more: Sequence[Group]) -> Iterator[Group]:
        study = self.study
        yield from more
        for tier in study.tiers:
            yield from (g for g in study.leaders(tier.name) if self._is_judged(g))
        yield from (study.group_of(study.experiments[number]) for number in study.kept[-RECENT:])
        yield study.group_of(study.experiments[study.kept[0]])

    def _is_judged(self, group: Group) -> bool:
        """Whether it has been a candidate that was judged, and so may be the incumbent."""
        first = self.study.experiments[group.experiments[0]]
        return first.verdict in (Verdict.KEEP, Verdict.DISCARD)

    def _any_group(self, tree: str) -> Group:
        study = self.study
        number = study.incumbent_experiment
        if number is not None and study.experiments[number].tree == tree:
            return study.group_of(study.experiments[number])
        return study.group_of(study.experiments[study.kept[-1]])

    def _parent(self, tree: str) -> str:
        study = self.study
        for tier in study.tiers:
            group = study.group(tree, tier.name)
            if group is not None:
                origin = study.origin(group.commit)
                parent = None if origin is None else study.tree_of(origin.parent)
                return parent if parent is not None and parent != tree else study.base_tree
        return study.base_tree

    def _updated(self, tree: str, parent: Belief) -> Belief:
        """The parent's belief, widened by what a change may do, and corrected by the tree's own runs."""
        study = self.study
        mean, variance = parent.mean, parent.variance
        is_widened = False
        for tier in study.tiers:
            group, base = study.group(tree, tier.name), study.baseline_group(tier.name)
            if group is None or not group.n or base is None or not base.n:
                continue
            known = noise(study, tier.name)
            gain = study.objective.gain(base.mean, group.mean)
            if known is None or known.sigma == 0.0:
                return Belief(gain, 0.0)
            if not is_widened:
                variance += (SPREAD * known.sigma) ** 2
                is_widened = True
            of_mean = known.sigma**2 / group.n
            weight = variance / (variance + of_mean)
            mean += weight * (gain - mean)
            variance *= 1 - weight
        return Belief(mean, variance)
