"""autoresearch's own rule: whatever reads better than the incumbent is accepted, lucky or not."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field

from arf.interfaces import AcceptRule, Judgement
from arf.judge.rule import FAILURES, baseline_is_measured, name_of_incumbent, short
from arf.study import Group, Study
from arf.types import Experiment, Plan, Role, Verdict


class Lower(AcceptRule):
    """Accepts what reads better than the mean of the incumbent on the same tier, at the same budget."""

    def judge(self, study: Study, candidates: Sequence[Experiment]) -> Judgement:
        return _Judging(study).judgement(candidates)


@define
class _Judging:
    study: Study
    accepted: Experiment | None = None
    verdicts: list[tuple[int, Verdict, str]] = field(factory=list)
    missing: dict[tuple[str, float | None], Plan] = field(factory=dict)
    """Runs of the incumbent that candidates wait for, by tier and budget."""

    def judgement(self, candidates: Sequence[Experiment]) -> Judgement:
        """Best first, so that of several on a tier one is accepted at most."""
        gain = self.study.objective.gain
        for experiment in sorted(candidates, key=lambda e: (-gain(0.0, e.value or 0.0), e.id)):
            verdict, reason = self._judge(experiment)
            if verdict is not None:
                self.verdicts.append((experiment.id, verdict, reason))
            if verdict is Verdict.KEEP:
                self.missing.clear()  # who waits for the old incumbent is judged by the new one
                self.accepted = experiment
        return Judgement(verdicts=tuple(self.verdicts), replicates=tuple(self.missing.values()))

    def _judge(self, experiment: Experiment) -> tuple[Verdict | None, str]:
        """Its verdict; None if it cannot be known yet."""
        study, tier, budget = self.study, experiment.tier, experiment.budget
        new = study.group_of(experiment)
        tree = study.incumbent_tree if self.accepted is None else self.accepted.tree
        if new.tree == tree:
            return Verdict.MEASURED, f"the incumbent itself, on {tier}"
        if budget is None and not baseline_is_measured(study, tier):
            return None, ""
        old = study.group(tree, tier, budget)
        if old is None or not old.n:
            if old is not None and old.failed > FAILURES:
                return Verdict.DISCARD, f"nothing to compare with: the incumbent fails on {tier}"
            if self.accepted is None and (old is None or not old.running):
                self.missing[tier, budget] = self._incumbent_again(tier, budget)
            return None, ""
        return self._compared(old, new)

    def _compared(self, old: Group, new: Group) -> tuple[Verdict, str]:
        gain = self.study.objective.gain(old.mean, new.mean)
        how = "better than" if gain > 0 else "worse than" if gain < 0 else "the same as"
        by = f"{short(abs(gain))} " if gain else ""
        verdict = Verdict.KEEP if gain > 0 else Verdict.DISCARD
        over = name_of_incumbent(self.study) if self.accepted is None else f"#{self.accepted.id}"
        return verdict, f"reads {by}{how} {over}"

    def _incumbent_again(self, tier: str, budget: float | None) -> Plan:
        return Plan(
            parent=self.study.incumbent_commit,
            role=Role.REPLICATE,
            tier=tier,
            budget=budget,
            title=f"the incumbent on {tier} ({name_of_incumbent(self.study)})",
        )
