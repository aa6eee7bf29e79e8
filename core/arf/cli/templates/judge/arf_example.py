from collections.abc import Sequence

from arf.hooks import Declaration, hookimpl
from arf.interfaces import AcceptRule, Judgement
from arf.study import Study
from arf.types import Experiment, Plan, Role, Verdict


class Example(AcceptRule):
    """Accepts what reads better than the best so far"""

    def judge(self, study: Study, candidates: Sequence[Experiment]) -> Judgement:
        for one in candidates:
            old, new = study.incumbent_group(one.tier, one.budget), study.group_of(one)
            if new.tree == study.incumbent_tree:
                return Judgement(verdicts=((one.id, Verdict.MEASURED, "the best so far itself"),))
            if old is not None and old.n:
                gain = study.objective.gain(old.mean, new.mean)
                verdict = Verdict.KEEP if gain > 0 else Verdict.DISCARD
                return Judgement(verdicts=((one.id, verdict, f"a gain of {gain:.4g}"),))
            if old is None:  # nothing to compare with: run the best so far there
                again = Plan(
                    parent=study.incumbent_commit, role=Role.REPLICATE, tier=one.tier, budget=one.budget
                )
                return Judgement(replicates=(again,))
            if not old.running:
                failed = (one.id, Verdict.DISCARD, f"the best so far fails on {one.tier}")
                return Judgement(verdicts=(failed,))
        return Judgement()


@hookimpl
def arf_register_accept_rules() -> list[Declaration]:
    return [Declaration(name="example", implementation=Example)]
