"""What a study has told so far, as the model takes it: kept between decisions, and the same if made anew.

Sizes of terms are estimated when so many more runs have ended, from the runs that had ended then, and the
runs since are added one by one, in the order of their ends; so a study that is resumed has the same model to
the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from heapq import nlargest

import numpy as np
from attrs import define, field

from arf.sdk.statistics import deciding_order
from arf.study import Study
from arf.types import Experiment, ExperimentState, Verdict
from arf_plugins.strategy_bayes.axes import Levels
from arf_plugins.strategy_bayes.chances import Chances, estimate
from arf_plugins.strategy_bayes.covariance import Readings
from arf_plugins.strategy_bayes.process import Process
from arf_plugins.strategy_bayes.search import Key, Search, key_of
from arf_plugins.strategy_bayes.space import NEWEST, Proposed, Setting, Space, read_space, setting_of

FIRST = 24
"""Runs before the sizes are estimated for the second time."""
GROWTH = 6
"""They are estimated again when there is a share of 1 / GROWTH more runs, but not for less than 16."""
WINDOW = 1024
"""Runs that the model rests on, at most: the last ones, and the best of those before."""
A_FEW = 4
"""The odds of failures are worked out when so many more runs have ended."""
USEFUL = 32
"""Readings, the best ones, whose ideas of code keep their axes where there are many ideas."""
WORST = 8.0
"""A reading worse than the median by this many times the spread counts little worse than that."""
OWN_FAULT = (Verdict.CRASH, Verdict.TIMEOUT, Verdict.INVALID, Verdict.SUSPECT)


def checkpoint(n: int) -> int:
    """How many of `n` runs the sizes are estimated from."""
    at = following = 1
    while following <= n:
        at = following
        following = FIRST if at < FIRST else at + max(16, at // GROWTH)
    return at


@define(eq=False)
class Knowledge:
    """Of one study."""

    values: bool
    """Whether constants may be set to values that no agent has proposed."""
    settings: dict[str, Setting] = field(factory=dict)
    """What each commit sets."""
    seen: int = 0
    """Experiments that have been looked at."""
    open: set[int] = field(factory=set)
    """Those of them that had not ended."""
    ended: list[int] = field(factory=list)
    """In the order of their ends."""
    counted: list[int] = field(factory=list)
    """Those of them that have a value."""
    space: Space | None = None
    process: Process | None = None
    search: Search | None = None
    failures: int = 0
    _proposed: Proposed = field(factory=Proposed)
    _point_of: dict[str, Levels | None] = field(factory=dict)
    """Of each commit, in the present space."""
    _feasible: tuple[int, Chances | None] = (-1, None)
    """From how many runs that ended, and what followed."""
    _signs: tuple[object, ...] = ()
    _fitted: int = 0
    _taken: int = 0
    _firsts: dict[tuple[str, float | None], float] = field(factory=dict)
    _places: dict[tuple[str, float | None], int] = field(factory=dict)
    _slots: dict[str, int] = field(factory=dict)
    _floor: tuple[float, float] = (0.0, 1.0)
    _clock: tuple[datetime | None, float] = (None, 1.0)
    points: dict[Key, int] = field(factory=dict)
    """What has run, or runs: the first experiment of each point."""
    refused: set[Key] = field(factory=set)
    conflicts: list[frozenset[str]] = field(factory=list)
    """Ideas of code, by name, that could not be put together."""
    moved: Levels = field(factory=lambda: np.zeros(0, dtype=np.intp))
    """Of each axis, in how many points it is not as in the base."""
    _known_from: tuple[int, int] = (0, 0)

    def update(self, study: Study) -> None:
        """Take in what has happened."""
        self._look(study)
        counted = self.counted
        fit_at = checkpoint(len(counted))
        crowd = fit_at if len(study.ideas) > NEWEST else 0
        signs = len(study.ideas), len(study.refusals), deciding_order(study)[0], len(study.constants), crowd
        if signs != self._signs:
            useful = self._useful(study, counted[:fit_at]) if len(study.ideas) > NEWEST else ()
            space = read_space(
                study, self.settings, self._proposed, self.space, values=self.values, useful=useful
            )
            changed = self.space is None or space.basis is not self.space.basis
            self.space = space
            if changed:
                self._point_of, self._feasible = {}, (-1, None)
                self._known_from = (0, 0)
                self.points, self.refused, self.conflicts = {}, set(), []
                self.moved = np.zeros(len(space.basis.axes), dtype=np.intp)
            if changed or self._signs[2:4] != signs[2:4]:
                self._fitted = 0
            elif self._signs[1] != signs[1]:
                self.search = None
            self._signs = signs
        if not self.space or not self.space.basis.axes:
            return
        if counted and (fit_at != self._fitted or self.process is None):
            self._fit(study, counted, fit_at)
        self._extend(study, counted)
        self._know(study)

    # ---- What has happened --------------------------------------------------------------------

    def _look(self, study: Study) -> None:
        if not self.settings:
            self.settings[study.base] = {}
        total = len(study.experiments)
        for number in range(self.seen + 1, total + 1):
            run = study.experiments[number]
            before = self.settings.get(run.parent)
            if before is not None and run.commit not in self.settings:
                self.settings[run.commit] = setting_of(study, run.ideas, before)
            self.open.add(number)
        self.seen = total
        done = [n for n in self.open if study.experiments[n].state is ExperimentState.ENDED]
        runs = sorted((study.experiments[n] for n in done), key=_end)
        runs = [run for run in runs if run.commit in self.settings]
        self.ended += [run.id for run in runs]
        self.counted += [run.id for run in runs if run.value is not None]
        self.failures += sum(run.verdict in OWN_FAULT or run.value is None for run in runs)
        if runs:
            self.search = None
        self.open.difference_update(done)

    def _useful(self, study: Study, counted: Sequence[int]) -> set[int]:
        """The ideas of code in the best readings."""
        runs = [study.experiments[number] for number in counted]
        best = nlargest(USEFUL, runs, key=lambda run: (self._gain(study, run), -run.id))
        settings = [self.settings[run.commit] for run in best]
        return {int(name[1:]) for setting in settings for name, value in setting.items() if value is None}

    def _point(self, run: Experiment) -> Levels | None:
        assert self.space is not None
        if run.commit not in self._point_of:
            self._point_of[run.commit] = self.space.point(self.settings[run.commit])
        return self._point_of[run.commit]

    def _fit(self, study: Study, counted: Sequence[int], fit_at: int) -> None:
        """The model anew, from the runs up to a checkpoint."""
        assert self.space is not None
        self._firsts, self._slots = {}, {}
        self._places = {(deciding_order(study)[0], None): 0}
        runs = [study.experiments[number] for number in counted[:fit_at]]
        began = min(run.started_at or run.accepted_at for run in runs)
        ends = max(run.ended_at or run.accepted_at for run in runs)
        self._clock = (began, max((ends - began).total_seconds(), 1.0))
        gains = np.array([self._gain(study, run) for run in runs])
        centre = float(np.median(gains))
        spread = float(np.quantile(np.abs(gains - centre), 0.6)) or 1.0
        self._floor = (centre - WORST * spread, spread)
        if len(runs) > WINDOW:
            early = np.argsort(-gains[: -3 * WINDOW // 4], kind="stable")[: WINDOW // 4]
            rows = sorted(map(int, early)) + list(range(len(runs) - 3 * WINDOW // 4, len(runs)))
            runs = [runs[row] for row in rows]
        readings = self._readings(study, runs)
        self.process = Process(self.space.basis, readings) if len(readings) else None
        self._fitted = self._taken = fit_at
        self.search = None

    def _extend(self, study: Study, counted: Sequence[int]) -> None:
        new = [study.experiments[number] for number in counted[self._taken :]]
        if new and self.process is not None:
            self.process.add(self._readings(study, new))
            self._taken = len(counted)
            self.search = None

    def _gain(self, study: Study, run: Experiment) -> float:
        """The gain over the first run of the same place: its level is a term of the model."""
        assert run.value is not None
        place = run.tier, run.budget
        first = self._firsts.setdefault(place, run.value)
        return study.objective.gain(first, run.value)

    def _readings(self, study: Study, runs: Sequence[Experiment]) -> Readings:
        found = [(run, point) for run in runs if (point := self._point(run)) is not None]
        floor, spread = self._floor
        began, span = self._clock
        gains = np.array([self._gain(study, run) for run, _ in found])
        below = np.maximum(floor - gains, 0.0)
        places = [self._places.setdefault((run.tier, run.budget), len(self._places)) for run, _ in found]
        nodes = [
            self._slots.setdefault(run.slot, len(self._slots) + 1) if run.slot else 0 for run, _ in found
        ]
        times = [
            ((run.ended_at or run.accepted_at) - (began or run.accepted_at)).total_seconds() / span
            for run, _ in found
        ]
        n = len(self.space.basis.axes) if self.space else 0
        return Readings(
            points=np.array([point for _, point in found], dtype=np.intp).reshape(-1, n),
            y=np.maximum(gains, floor) - spread * np.log1p(below / spread),
            places=np.array(places, dtype=np.intp),
            nodes=np.array(nodes, dtype=np.intp),
            times=np.array(times, dtype=np.float64),
        )

    # ---- What is known ----------------------------------------------------------------------------

    def _know(self, study: Study) -> None:
        """Points that need not be tried, and the search from here."""
        assert self.space is not None
        start, refused = self._known_from
        for number in range(start + 1, self.seen + 1):
            run = study.experiments[number]
            point = self._point(run) if run.commit in self.settings else None
            if point is not None and self.points.setdefault(key_of(point), number) == number:
                self.moved += point > 0
        if refused != len(study.refusals):
            self._know_refusals(study)
        self._known_from = (self.seen, len(study.refusals))
        if self.search is None and self.process is not None:
            self.search = Search(self.process, self._chances(study), self.space.allowed)

    def _know_refusals(self, study: Study) -> None:
        assert self.space is not None
        for parent, ideas in study.refusals:
            before = self.settings.get(parent)
            if before is None:
                continue
            setting = setting_of(study, ideas, before)
            point = self.space.point(setting)
            if point is not None:
                self.refused.add(key_of(point))
            codes = frozenset(name for name, value in setting.items() if value is None)
            merged = (self.settings[study.experiments[number].commit] for number in self.points.values())
            if len(codes) > 1 and not any(codes <= ran.keys() for ran in merged):
                self.conflicts.append(codes)

    def is_open(self, point: Levels) -> bool:
        """Whether a point has not been tried, and may be."""
        assert self.space is not None
        point = self.space.whole(point)
        key = key_of(point)
        if not point.any() or key in self.points or key in self.refused:
            return False
        if not self.conflicts:
            return True
        names = self.space.setting(point).keys()
        return not any(codes <= names for codes in self.conflicts)

    def untouched(self) -> Levels:
        """Axes that nothing has moved, and that can be."""
        assert self.space is not None
        can = self.space.allowed[:, 1:].any(axis=1)
        return np.flatnonzero(can & (self.moved == 0))

    def _chances(self, study: Study) -> Chances:
        """From the runs up to the last few."""
        assert self.space is not None
        until = len(self.ended) // A_FEW * A_FEW if self.failures else 0
        if self._feasible[1] is not None and self._feasible[0] == until:
            return self._feasible[1]
        self._feasible = until, self._estimated(study, self.ended[:until][-2 * WINDOW :])
        assert self._feasible[1] is not None
        return self._feasible[1]

    def _estimated(self, study: Study, ended: Sequence[int]) -> Chances:
        assert self.space is not None
        runs = [study.experiments[number] for number in ended]
        told = [run for run in runs if run.value is not None or run.verdict in OWN_FAULT]
        found = [(point, run.value is None) for run in told if (point := self._point(run)) is not None]
        points = np.array([point for point, _ in found], dtype=np.intp).reshape(
            -1, len(self.space.basis.axes)
        )
        return estimate(self.space.basis, points, np.array([failed for _, failed in found], dtype=np.intp))


def _end(run: Experiment) -> tuple[datetime, int]:
    return run.ended_at or run.accepted_at, run.id
