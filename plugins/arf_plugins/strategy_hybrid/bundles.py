"""Several promising ideas as one candidate: a large gain, that few runs prove.

Alone, most gains of real research are too small to be proven, and each idea that is judged takes its share
of alpha. So once some have been judged, ideas are only measured (`Role.PROBE`), and alpha is for what they
promise together. No probe that a bundle was chosen by counts for it: its tree is new, or was a design's cell,
and then all cells have taken their shares.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from arf.sdk.statistics import deciding_order
from arf.sdk.strategies import Ideas, was_planned
from arf.study import Study
from arf.types import Experiment, Plan, Role
from arf_plugins.strategy_hybrid.worth import Gain, constants_of, gains, is_new

ROUND = "bundle"
PROBES = "bundles"
"""The round of ideas that are only measured."""
MOST = 15
"""Ideas in a bundle, at most."""
LIKELY = 0.7
"""Standard errors above 0 that an idea's gain is expected at, to be in a bundle."""
ENOUGH = 2.0
"""What a bundle must promise while there are ideas to try, in units of the noise of a run."""
COPIES = 3
"""Runs of a bundle side by side, where slots are many."""
_GENERATORS = {8: "+++-+--", 12: "++-+++---+-", 16: "++++-+-++--+---"}
"""The first rows of Plackett and Burman's designs, by the number of runs; the others are their rotations."""


def under_way(study: Study) -> Experiment | None:
    """The bundle on the incumbent that runs or waits for its verdict."""
    numbers = study.by_round(ROUND)
    latest = study.experiments[numbers[-1]] if numbers else None
    if latest is None or latest.verdict is not None or latest.parent != study.incumbent_commit:
        return None
    return latest


def next_bundle(study: Study, enough: float) -> Iterator[Plan]:
    """The one that promises most, if that is enough."""
    ranked = gains(study)
    chosen = _longest_new(study, _together(study, ranked, LIKELY))
    if not chosen:  # the best cannot be judged alone any more
        chosen = _longest_new(study, _together(study, ranked, 0.0)[:2])
    promise = sum(gain.mean for gain in ranked if gain.idea in chosen)
    if chosen and promise >= enough:
        tier = deciding_order(study)[0]
        yield Plan(parent=study.incumbent_commit, ideas=chosen, tier=tier, round=ROUND)


def _together(study: Study, ranked: Sequence[Gain], least: float) -> list[int]:
    """The best that can be applied together on the incumbent, as far as is known; the best first.

    What cannot be added to those before it is left out, so that each conflict costs one refusal and no run.
    """
    chosen: list[int] = []
    taken: set[str] = set()
    for gain in ranked:
        names = constants_of(study, gain.idea)
        if gain.mean <= 0 or gain.t < least or not names.isdisjoint(taken):
            continue
        if not _is_barred(study, tuple(sorted((*chosen, gain.idea)))):
            taken |= names
            chosen.append(gain.idea)
            if len(chosen) == MOST:
                break
    return chosen


def _longest_new(study: Study, ranked: Sequence[int]) -> Ideas:
    """As many of the first as make something that may still be judged."""
    sets = (tuple(sorted(ranked[:size])) for size in range(len(ranked), 0, -1))
    return next((ideas for ideas in sets if is_new(study, ideas)), ())


def _is_barred(study: Study, ideas: Ideas) -> bool:
    """Whether a set cannot be applied to the incumbent, or fails there."""
    parent = study.incumbent_commit
    if (parent, ideas) in study.refusals:
        return True
    runs = [study.experiments[number] for number in study.planned(parent, ideas)]
    groups = [study.group_of(run) for run in runs]
    return any(group.failed and not group.n for group in groups)


def copies(study: Study, bundle: Experiment) -> Iterator[Plan]:
    """Runs of a bundle that its proof is going to take, and as many of the incumbent, all side by side."""
    slots = sum(tier.slots for tier in study.tiers)
    wanted = min(COPIES, slots // 4, study.rule.max_replicates)
    for commit, group in (
        (bundle.commit, study.group_of(bundle)),
        (bundle.parent, study.incumbent_group(bundle.tier)),
    ):
        if group is not None and not group.failed and (commit, ()) not in study.refusals:
            title = "a bundle again" if commit == bundle.commit else "the incumbent again"
            plan = Plan(
                parent=commit,
                role=Role.REPLICATE,
                tier=bundle.tier,
                title=f"{title}, for the proof of #{bundle.id}",
            )
            yield from [plan] * (wanted - len(group.experiments))


# ---- Designs -------------------------------------------------------------------------------------


def mix(study: Study) -> Iterator[Plan]:
    """What is promising all together, and in the cells of a design: once for an incumbent.

    A Plackett-Burman design (Biometrika 33, 1946) of N runs measures each of up to N - 1 ideas with a
    standard error of 2 sigma / sqrt(N), for every run says something about every idea. A cell may be judged
    later, as a bundle; all of them take a share of alpha for that.
    """
    label = f"mix on #{study.incumbent_experiment}"
    runs = study.by_round(label)
    if runs:
        ideas, tier = study.experiments[runs[0]].ideas, study.experiments[runs[0]].tier
    else:
        ideas, tier = tuple(sorted(_together(study, gains(study), 0.0))), deciding_order(study)[0]
    for cell in cells(ideas):
        if not was_planned(study, cell):
            yield Plan(parent=study.incumbent_commit, ideas=cell, role=Role.CELL, tier=tier, round=label)
            if not runs:
                return  # whether they fit together is known first


def cells(ideas: Ideas) -> list[Ideas]:
    """The cells of the design but for the one with no ideas, all together first; empty for few ideas.

    The signs are turned round, so that the row of equal signs is the run of all together.
    """
    if len(ideas) < 3:
        return []
    size = next(size for size in _GENERATORS if size > len(ideas))
    signs = _GENERATORS[size]
    rows = [ideas]
    for shift in range(size - 1):
        row = signs[shift:] + signs[:shift]
        rows.append(tuple(idea for idea, sign in zip(ideas, row, strict=False) if sign == "-"))
    return [row for row in dict.fromkeys(rows) if len(row) > 1]
