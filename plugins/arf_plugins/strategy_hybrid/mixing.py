"""Many gains that are too small to be proven one by one: all together, and in a screening design.

A Plackett-Burman design (Biometrika 33, 1946) of N runs measures each of up to N - 1 ideas with a standard
error of 2 sigma / sqrt(N), for every run says something about every idea; singly that would take N / 2
runs of each. It is for ideas that have run well by themselves: one that crashes would spoil half the cells.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from arf.judge import PROMISING
from arf.moves import Ideas, held_ideas, together
from arf.stats import lead_over_parent, noise
from arf.study import Study
from arf.types import Experiment, ExperimentState, Plan, Role, Verdict

ROUND = "mix"
"""The round of the runs with all near misses together."""
WINDOW = 128
"""Candidates, the latest ones, among which near misses are looked for."""
MOST = 15
"""Ideas in a design, at most."""
FEWEST = 4
"""Ideas from which on there is a design; fewer are tried together, and in pairs."""
_GENERATORS = {8: "+++-+--", 12: "++-+++---+-", 16: "++++-+-++--+---"}
"""The first rows of Plackett and Burman's designs, by the number of runs; the others are their rotations."""


@frozen(kw_only=True)
class Effect:
    idea: int
    gain: float
    """Of having it in, whatever else is; positive is better."""
    error: float
    """Standard error of the gain."""


def near_misses(study: Study) -> list[Experiment]:
    """Ideas of late that beat their parent, could not be proven, and were in no mix; the best first."""
    held = set(held_ideas(study))
    set_now = {name for idea in held for name in study.ideas[idea].constants}
    experiments = study.experiments
    found = []
    for number in study.by_role(Role.CANDIDATE)[-WINDOW:]:
        experiment = experiments[number]
        if experiment.verdict is not Verdict.DISCARD or len(experiment.ideas) != 1:
            continue
        if not _leads(study, experiment) or experiment.ideas[0] in held or _was_mixed(study, experiment):
            continue
        if experiment.parent != study.incumbent_commit and set_now & _constants(study, experiment):
            continue  # the incumbent has a better value by now, or one that was found without this one
        lead = lead_over_parent(study, experiment)
        if lead is not None and lead.t >= PROMISING:
            found.append((-lead.t, number))
    return [experiments[number] for _, number in sorted(found)]


def _leads(study: Study, experiment: Experiment) -> bool:
    """Whether it did better than its parent at all: most did not, and are sorted out cheaply."""
    parent = study.group_at(experiment.parent, experiment.tier, experiment.budget)
    group = study.group_of(experiment)
    return bool(parent and parent.n and group.n and study.objective.gain(parent.mean, group.mean) > 0)


def _constants(study: Study, experiment: Experiment) -> set[str]:
    return set(study.ideas[experiment.ideas[0]].constants)


def _was_mixed(study: Study, experiment: Experiment) -> bool:
    runs = study.with_idea(experiment.ideas[0])
    return any(study.experiments[number].round == ROUND for number in runs)


def to_mix(study: Study, near: list[Experiment]) -> Ideas:
    """Near misses that can be applied together on the incumbent, as far as is known: the best first.

    One without which a refused set was fine is left out, so that each conflict costs one refusal and no run.
    """
    parent = study.incumbent_commit
    chosen: list[Ideas] = []
    for experiment in near:
        longer = together(study, [*chosen, experiment.ideas])
        if len(longer) == len(chosen) + 1 and (parent, longer) not in study.refusals:
            chosen.append(experiment.ideas)
            if len(chosen) == MOST:
                break
    return together(study, chosen)


def all_together(study: Study, ideas: Ideas, tier: str) -> Plan:
    title = f"{len(ideas)} near misses together: {_titles(study, ideas)}"
    return Plan(parent=study.incumbent_commit, ideas=ideas, tier=tier, round=ROUND, title=title)


def latest(study: Study) -> Experiment | None:
    """The run with all near misses of the latest mix; None if there was no mix yet."""
    mixes = study.by_round(ROUND)
    return study.experiments[mixes[-1]] if mixes else None


def cells(ideas: Ideas) -> list[Ideas]:
    """The cells of the design but for the one with all ideas and the one with none; empty for few ideas.

    The signs are turned round, so that the row of equal signs is the run of all together.
    """
    if len(ideas) < FEWEST:
        return []
    size = next(size for size in _GENERATORS if size > len(ideas))
    signs = _GENERATORS[size]
    rows = []
    for shift in range(size - 1):
        row = signs[shift:] + signs[:shift]
        rows.append(tuple(idea for idea, sign in zip(ideas, row, strict=False) if sign == "-"))
    return [row for row in dict.fromkeys(rows) if row and row != ideas]


def missing_cells(study: Study, mix: Experiment) -> Iterator[Plan]:
    """Cells of a mix that are still to be planned, all on the tier of the mix."""
    for number, ideas in enumerate(cells(mix.ideas), 1):
        if not study.planned(mix.parent, ideas) and (mix.parent, ideas) not in study.refusals:
            yield Plan(
                parent=mix.parent,
                ideas=ideas,
                role=Role.CELL,
                tier=mix.tier,
                round=cells_round(mix),
                title=f"cell {number} of mix #{mix.id}: {_titles(study, ideas)}",
            )


def cells_round(mix: Experiment) -> str:
    return f"mix of #{mix.id}"


def outcome_round(mix: Experiment) -> str:
    return f"outcome of mix #{mix.id}"


def outcome(study: Study, mix: Experiment) -> Plan | None:
    """A candidate of what a complete mix has shown to help; None if that is nothing new."""
    if study.by_round(outcome_round(mix)) or not is_complete(study, mix):
        return None
    good = [effect for effect in effects(study, mix) if effect.gain >= PROMISING * effect.error]
    parent, ideas = mix.parent, {effect.idea for effect in good}
    if study.incumbent_commit not in (mix.parent, mix.commit):
        parent, ideas = study.incumbent_commit, ideas - set(held_ideas(study))
    chosen = tuple(sorted(ideas))
    if not chosen or study.planned(parent, chosen) or (parent, chosen) in study.refusals:
        return None
    title = f"what helps of mix #{mix.id}: {_titles(study, chosen)}"
    return Plan(parent=parent, ideas=chosen, tier=mix.tier, round=outcome_round(mix), title=title)


def is_complete(study: Study, mix: Experiment) -> bool:
    """Whether all that a mix has to say is known."""
    if mix.state is not ExperimentState.ENDED or any(missing_cells(study, mix)):
        return False
    runs = (study.experiments[number] for number in study.by_round(cells_round(mix)))
    return all(run.state is ExperimentState.ENDED for run in runs)


def effects(study: Study, mix: Experiment) -> list[Effect]:
    """The gain of each idea of a mix, by weighted least squares over its cells, all of them and none.

    Main effects only: an interaction shows as error, or in the run of all together. Empty while the noise
    is unknown, or if too many cells have failed to tell the ideas apart.
    """
    import numpy as np

    known = noise(study, mix.tier, mix.budget)
    rows, values, weights = [], [], []
    for ideas in ((), mix.ideas, *cells(mix.ideas)):
        commit = mix.parent if not ideas else _commit(study, mix.parent, ideas)
        group = study.group_at(commit, mix.tier, mix.budget) if commit else None
        if group is not None and group.n:
            rows.append([1.0, *(float(idea in ideas) for idea in mix.ideas)])
            values.append(group.mean)
            weights.append(float(group.n))
    matrix, scale = np.array(rows), np.sqrt(np.array(weights))
    size = len(mix.ideas) + 1
    if known is None or len(rows) < size or np.linalg.matrix_rank(matrix) < size:
        return []
    scaled = matrix * scale[:, None]
    inverse = np.linalg.inv(scaled.T @ scaled)
    slopes = inverse @ scaled.T @ (np.array(values) * scale)
    errors = known.sigma * np.sqrt(np.diag(inverse))
    return [
        Effect(idea=idea, gain=study.objective.gain(0.0, float(slopes[at])), error=float(errors[at]))
        for at, idea in enumerate(mix.ideas, 1)
    ]


def _commit(study: Study, parent: str, ideas: Ideas) -> str:
    runs = study.planned(parent, ideas)
    return study.experiments[runs[0]].commit if runs else ""


def _titles(study: Study, ideas: Ideas) -> str:
    return " + ".join(study.ideas[idea].title for idea in ideas)
