"""No claims: for studies that only search."""

from __future__ import annotations

from collections.abc import Sequence

from arf.interfaces import ClaimRule, Recommendation
from arf.study import Study
from arf.types import Claim, ClaimPlan, Plan


class Nothing(ClaimRule):
    """Claims nothing, and so costs nothing."""

    @property
    def share(self) -> float:
        """Nothing is kept back."""
        return 0.0

    def runs(self, study: Study) -> int:
        return 0

    def begin(self, study: Study, patch: Recommendation, runs: int, why: str) -> ClaimPlan | None:
        return None

    def plans(self, study: Study, plan: ClaimPlan) -> Sequence[Plan]:
        return ()

    def result(self, study: Study, plan: ClaimPlan, *, closing: bool = False) -> Claim | None:
        return None
