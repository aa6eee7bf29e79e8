"""Each arm over all objectives, and what a strategy gains by more slots."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, median

from attrs import frozen

from arf_plugins.compare.runs import Outcome


@frozen(kw_only=True)
class Overall:
    """An arm over all of its studies. Gains leave out objectives where nothing can be gained."""

    arm: str
    gain: float | None
    """The mean over objectives of the mean share of the possible gain at the end; None without objectives."""
    experiments: float
    """The median over studies until the target was reached, infinite where half of them never reached it."""
    slot_hours: float
    """Likewise."""
    studies: int
    claims: int
    """Studies that said that there is a gain."""
    false_claims: int
    """Those of them that ended with none."""
    covered: int
    """Studies whose interval has the true gain in it ..."""
    intervals: int
    """... of so many that gave one."""
    useless: float | None
    """The share of the changes in the final patches that do nothing; None without changes."""


@frozen(kw_only=True)
class Scaling:
    """The same strategy with few slots and with many."""

    objective: str
    searcher: str
    few: int
    many: int
    few_hours: float
    """The median until the target was reached; infinite where half of the studies never reached it."""
    many_hours: float
    faster: float | None
    """How many times as fast many are; None where either never got there."""
    dearer: float | None
    """Their slot-hours over those of few; None likewise."""


def overall(outcomes: Sequence[Outcome], target: float) -> tuple[Overall, ...]:
    """In the order of the arms."""
    return tuple(
        _overall(arm, [o for o in outcomes if o.arm == arm], target) for arm in _distinct(outcomes, "arm")
    )


def _overall(arm: str, runs: Sequence[Outcome], target: float) -> Overall:
    gainful = [run for run in runs if run.possible > 0]
    gains = [
        fmean(run.gain(run.total.truth) for run in gainful if run.objective == objective)
        for objective in _distinct(gainful, "objective")
    ]
    claims = [run.claim for run in runs if run.claim is not None]
    changes = sum(run.changes for run in runs)
    return Overall(
        arm=arm,
        gain=fmean(gains) if gains else None,
        experiments=_median([run.spent_for("experiments", target) for run in gainful]),
        slot_hours=_median([run.spent_for("slot_hours", target) for run in gainful]),
        studies=len(runs),
        claims=sum(claim.is_made for claim in claims),
        false_claims=sum(claim.is_false for claim in claims),
        covered=sum(claim.covers for claim in claims),
        intervals=len(claims),
        useless=sum(run.useless_changes for run in runs) / changes if changes else None,
    )


def scaling(outcomes: Sequence[Outcome], target: float) -> tuple[Scaling, ...]:
    """Strategies that ran with more than one number of slots: the fewest against the most."""
    return tuple(_scalings(outcomes, target))


def _scalings(outcomes: Sequence[Outcome], target: float) -> Iterator[Scaling]:
    for objective in _distinct(outcomes, "objective"):
        for searcher in _distinct(outcomes, "searcher"):
            runs = [
                r for r in outcomes if r.objective == objective and r.searcher == searcher and r.possible > 0
            ]
            slots = sorted({run.slots for run in runs})
            if len(slots) > 1:
                yield _scaling(runs, slots[0], slots[-1], target)


def _scaling(runs: Sequence[Outcome], few: int, many: int, target: float) -> Scaling:
    """Of several arms with so many slots the first counts."""

    def spent(measure: str, slots: int) -> float:
        arm = next(run.arm for run in runs if run.slots == slots)
        return _median([run.spent_for(measure, target) for run in runs if run.arm == arm])

    hours = [spent("wall_hours", slots) for slots in (few, many)]
    slot_hours = [spent("slot_hours", slots) for slots in (few, many)]
    known = all(math.isfinite(h) and h > 0 for h in hours)
    return Scaling(
        objective=runs[0].objective,
        searcher=runs[0].searcher,
        few=few,
        many=many,
        few_hours=hours[0],
        many_hours=hours[1],
        faster=hours[0] / hours[1] if known else None,
        dearer=slot_hours[1] / slot_hours[0] if known else None,
    )


def _median(values: Sequence[float]) -> float:
    """Infinite where half of them or more are, or where there are none."""
    if not values:
        return math.inf
    ordered = sorted(values)
    high = ordered[len(ordered) // 2]
    return high if math.isinf(high) else float(median(ordered))


def _distinct(outcomes: Sequence[Outcome], name: str) -> list[str]:
    return list(dict.fromkeys(getattr(outcome, name) for outcome in outcomes))
