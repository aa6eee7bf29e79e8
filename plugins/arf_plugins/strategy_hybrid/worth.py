"""What each change is worth, from all runs of late at once: a regression over what commits are made of.

Every commit is a set of *features*: the values of the constants that its ideas have set, and its ideas that
change code. A run says something about each feature of its commit, whatever it was run for: a candidate of
eight changes tells as much of each of them as a run of one does.

Effects are taken as drawn from a normal distribution around 0, so that what rests on one lucky run is shrunk
(best linear unbiased prediction: Henderson, Biometrics 31, 1975; Robinson, Statistical Science 6, 1991). What
features do only together is left to a deviation of each commit, drawn likewise: runs of one commit, however
many, do not outweigh everything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import TypeVar
from weakref import WeakKeyDictionary

from attrs import define, field, frozen

from arf.sdk.statistics import deciding_order, noise
from arf.study import Group, Study
from arf.types import Role, Scalar

WINDOW = 128
"""Trees that effects rest on: those that were new last. It bounds the cost of a decision."""
SPREAD = 3.0
"""The standard deviation of an effect, in units of that of a run."""
TOGETHER = 1.0
"""That of what setting several constants together is worth beyond the sum of their effects."""
DEVIATION = 0.5
"""That of what a commit is worth beyond the sum of its features."""
LEVEL = 100.0
"""That of the level of a tier: as good as not shrunk."""

Features = Mapping[str, Scalar | None]
"""Constants with their values, and ideas that change code, by their number as text, with None."""
Feature = tuple[str, Scalar | None]

K = TypeVar("K")
V = TypeVar("V")


def features_of(study: Study, idea: int) -> Features:
    """Of several constants also that they are set together: it may be worth more or less than their sum."""
    constants = study.ideas[idea].constants
    return constants if len(constants) == 1 else {**constants, str(idea): None}


def constants_of(study: Study, idea: int) -> set[str]:
    return set(study.ideas[idea].constants)


@define
class Makings:
    """What the commits of a study are made of."""

    candidates: dict[str, Features]
    """By commit: what may become the incumbent or a parent, and the base."""
    recent: dict[str, Features] = field(factory=dict)
    """By tree, those that were new last, the latest last."""
    ideas: dict[int, int] = field(factory=dict)
    """Ideas, by when they last ran in something new: the latest last."""
    seen: set[int] = field(factory=set)
    """What has run and was no cell: hashes of sets of features, which are small."""
    taken: int = 0
    """Experiments that have been looked at."""

    def take_in(self, study: Study) -> None:
        experiments = study.experiments
        for number in range(self.taken + 1, len(experiments) + 1):
            experiment = experiments[number]
            if not experiment.ideas:
                continue
            made = self.with_ideas(study, experiment.parent, experiment.ideas)
            if experiment.role is Role.CANDIDATE:
                self.candidates[experiment.commit] = made
            if experiment.role is not Role.CELL:
                self.seen.add(_digest(made))
            if experiment.tree not in self.recent:
                _append(self.recent, experiment.tree, made)
                for idea in experiment.ideas:
                    _append(self.ideas, idea, number)
        self.taken = len(experiments)

    def with_ideas(self, study: Study, commit: str, ideas: Iterable[int]) -> Features:
        made = dict(self.candidates.get(commit, {}))
        for idea in ideas:
            set_anew = study.ideas[idea].constants
            for name in [name for name, value in made.items() if value is None]:
                before = study.ideas[int(name)].constants
                if any(before[one] != value for one, value in set_anew.items() if one in before):
                    del made[name]  # no longer all of what it set together
            made.update(features_of(study, idea))
        return made


def _append(latest: dict[K, V], key: K, value: V) -> None:
    """Put it last, and forget the first if there are too many."""
    latest.pop(key, None)
    latest[key] = value
    if len(latest) > WINDOW:
        del latest[next(iter(latest))]


_makings: WeakKeyDictionary[Study, Makings] = WeakKeyDictionary()


def makings(study: Study) -> Makings:
    """Kept between decisions, which only saves time."""
    made = _makings.get(study)
    if made is None:
        made = _makings[study] = Makings(candidates={study.base: {}})
    made.take_in(study)
    return made


def is_new(study: Study, ideas: Iterable[int]) -> bool:
    """Whether what these ideas make of the incumbent may still be judged: it has not run, or as a cell."""
    made = makings(study)
    features = made.with_ideas(study, study.incumbent_commit, ideas)
    return _digest(features) not in made.seen


def _digest(features: Features) -> int:
    """Of the text: the hashes of -1 and -2 are the same."""
    return hash(repr(sorted(features.items(), key=itemgetter(0))))


@frozen(kw_only=True)
class Gain:
    """What an idea is expected to add to the incumbent."""

    idea: int
    mean: float
    """In units of the noise of a run; positive is better. Shrunk."""
    error: float

    @property
    def t(self) -> float:
        return self.mean / self.error


def gains(study: Study) -> list[Gain]:
    """What each idea of late is expected to add to the incumbent, the best first.

    Empty while the noise is unknown. An idea of which nothing has run to its end is not among them.

    By the covariance of the readings, which grows with the trees and not with the features (Rasmussen and
    Williams, Gaussian Processes for Machine Learning, 2006, eq. 2.25 and 2.26).
    """
    import numpy as np

    known = noise(study, deciding_order(study)[0])
    made = makings(study)
    groups = list(_groups(study, made))
    if known is None or known.sigma == 0.0 or not groups:
        return []
    index: dict[Feature, int] = {}
    entries = [
        (row, index.setdefault(feature, len(index)))
        for row, (features, _) in enumerate(groups)
        for feature in features.items()
    ]
    held = made.candidates.get(study.incumbent_commit, {})
    steps = {idea: step for idea in made.ideas if (step := _step(study, idea, held, index))}
    if not steps:
        return []
    design = np.zeros((len(groups), len(index)))
    design[tuple(zip(*entries, strict=True))] = 1.0
    changes = np.zeros((len(steps), len(index)))
    for row, step in enumerate(steps.values()):
        for at, sign in step.items():
            changes[row, at] = sign
    tiers = np.array([[group.tier == tier.name for tier in study.tiers] for _, group in groups], dtype=float)
    readings = np.array([study.objective.gain(0.0, group.mean) for _, group in groups]) / known.sigma
    scale = np.array(
        [TOGETHER if value is None and study.ideas[int(name)].constants else SPREAD for name, value in index]
    )
    design *= scale
    changes *= scale
    covariance = (design @ design.T) + LEVEL**2 * (tiers @ tiers.T)
    covariance += np.diag([DEVIATION**2 + 1.0 / group.n for _, group in groups])
    shared = design @ changes.T
    solved = np.linalg.solve(covariance, np.column_stack([readings - readings.mean(), shared]))
    means = shared.T @ solved[:, 0]
    variances = (changes**2).sum(axis=1) - (shared * solved[:, 1:]).sum(axis=0)
    errors = np.sqrt(np.maximum(variances, 1e-9))
    found = [
        Gain(idea=idea, mean=mean, error=error)
        for idea, mean, error in zip(steps, means.tolist(), errors.tolist(), strict=True)
    ]
    return sorted(found, key=lambda gain: (-gain.mean, gain.idea))


def _step(study: Study, idea: int, held: Features, index: Mapping[Feature, int]) -> dict[int, float]:
    """The features that an idea sets, and those of the incumbent that it sets anew, with their signs.

    Empty where it changes nothing, or a part of it has not run to its end.
    """
    step: dict[int, float] = {}
    for name, value in features_of(study, idea).items():
        if name in held and held[name] == value:
            continue
        at = index.get((name, value))
        if at is None:
            return {}
        step[at] = 1.0
        before = index.get((name, held[name])) if name in held else None
        if before is not None:
            step[before] = -1.0
    return step


def _groups(study: Study, made: Makings) -> Iterator[tuple[Features, Group]]:
    """The runs of the base, of the incumbent, and of what was new of late, on every tier."""
    kept = made.candidates.get(study.incumbent_commit, {})
    for tree, features in {study.base_tree: {}, study.incumbent_tree: kept, **made.recent}.items():
        for tier in study.tiers:
            group = study.group(tree, tier.name)
            if group is not None and group.n:
                yield features, group
