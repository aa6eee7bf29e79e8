"""What a study has shown about constants, kept up so that old experiments cost nothing again."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from attrs import define, frozen

from arf.sdk.jobs import write_whole
from arf.study import GroupKey, Study
from arf.types import Experiment, ExperimentState, Role, Scalar, Verdict
from arf_plugins.agent_offline.scales import same
from arf_plugins.agent_offline.space import Values, change_of

_MEMORY = 12
"""How many comparisons are remembered for each constant."""

_WALLS = 200
"""How many crashes of several changes at once are remembered."""

_BAD = (Verdict.CRASH, Verdict.TIMEOUT, Verdict.INVALID, Verdict.SUSPECT)


@frozen(kw_only=True)
class Comparison:
    """An experiment that differs from its parent by one constant."""

    experiment: int
    old: Scalar
    new: Scalar
    group: GroupKey
    parent: GroupKey


@frozen(kw_only=True)
class Row:
    """The mean of the counted runs of one commit."""

    commit: str
    values: Values
    group: GroupKey
    mean: float
    n: int


@define
class _Made:
    """How a commit came about."""

    parent: str
    ideas: tuple[int, ...]


class History:
    """Follows one study. `update` reads what is new; everything else is a look at what was read."""

    def __init__(self, study: Study, directory: Path | None) -> None:
        """`directory` keeps the values of the commits that no experiment explains; None: forget them."""
        self.study = study
        self.touched: set[str] = set()
        """Constants that some idea has changed."""
        self.comparisons: dict[str, deque[Comparison]] = {}
        self.factored: set[tuple[str, str]] = set()
        """Names of factors, and the bases that they were for."""
        self._file = None if directory is None else directory / "constants.json"
        self._known: dict[str, Values] = _load(self._file)
        self._derived: dict[str, Values] = {}
        self._made: dict[str, _Made] = {}
        self._trees = {study.base: study.base_tree}
        self._seen: set[frozenset[tuple[str, Scalar]]] = set()
        self._groups: dict[GroupKey, str] = {}
        self._open: dict[int, None] = {}
        self._ideas = self._experiments = self._asks = 0
        self._ran: dict[str, tuple[Scalar, Scalar]] = {}
        self._ran_with: set[tuple[str, Scalar]] = set()
        self._limits: dict[tuple[str, bool], float] = {}
        self._walls: deque[Mapping[str, tuple[Scalar | None, Scalar]]] = deque(maxlen=_WALLS)

    # ---- Reading ----------------------------------------------------------------------------

    def update(self, base: str, values: Values) -> None:
        """Take in what is new in the study. `values` are those of the files at `base`."""
        self._register()
        if dict(self.values_of(base)) != dict(values):
            self._known[base] = dict(values)
            self._derived.clear()
            self._save()
        self._read_ideas()
        self._read_experiments()
        for factors in islice(self.study.all_factors().values(), self._asks, None):
            for factor in factors:
                self.factored.update((factor.name, self.study.ideas[level].base) for level in factor.levels)
            self._asks += 1

    def _register(self) -> None:
        """Learn how new commits came about, before anybody asks for their values."""
        for number in range(self._experiments + 1, len(self.study.experiments) + 1):
            experiment = self.study.experiments[number]
            if experiment.commit != experiment.parent:
                self._made.setdefault(experiment.commit, _Made(experiment.parent, experiment.ideas))
            self._trees.setdefault(experiment.commit, experiment.tree)

    def _read_ideas(self) -> None:
        for number in range(self._ideas + 1, len(self.study.ideas) + 1):
            idea = self.study.ideas[number]
            change = change_of(idea.title, idea.constants)
            self.touched.update(change)
            if change:
                self._seen.add(_key({**self.values_of(idea.base), **change}))
            self._made.setdefault(idea.commit, _Made(idea.base, (number,)))
        self._ideas = len(self.study.ideas)

    def _read_experiments(self) -> None:
        for number in range(self._experiments + 1, len(self.study.experiments) + 1):
            self._seen.add(_key(self.values_of(self.study.experiments[number].commit)))
            self._open[number] = None
        self._experiments = len(self.study.experiments)
        for number in list(self._open):
            experiment = self.study.experiments[number]
            ended = experiment.state is ExperimentState.ENDED
            if ended and (experiment.value is not None or experiment.verdict is not None):
                del self._open[number]
                self._learn(experiment)

    def _learn(self, experiment: Experiment) -> None:
        key = (experiment.tree, experiment.tier, experiment.budget)
        if experiment.value is not None:
            self._groups.setdefault(key, experiment.commit)
            self._note_fine(self.values_of(experiment.commit))
        tree = self._trees.get(experiment.parent)
        if experiment.commit == experiment.parent or tree is None or experiment.role is Role.REPLICATE:
            return
        before, after = self.values_of(experiment.parent), self.values_of(experiment.commit)
        change = {
            name: (before.get(name), value)
            for name, value in after.items()
            if name not in before or not same(before[name], value)
        }
        parent = (tree, experiment.tier, experiment.budget)
        if experiment.value is not None and len(change) == 1:
            ((name, (old, new)),) = change.items()
            if old is not None:
                comparison = Comparison(experiment=experiment.id, old=old, new=new, group=key, parent=parent)
                self.comparisons.setdefault(name, deque(maxlen=_MEMORY)).append(comparison)
        group = self.study.group(*key)
        if change and experiment.verdict in _BAD and not (group and group.n):
            suspects = {name: step for name, step in change.items() if not self._is_fine(name, step[1])}
            self._forbid(suspects or change)

    def _note_fine(self, values: Values) -> None:
        """Remember values that a script has run with."""
        for name, value in values.items():
            if _is_number(value):
                low, high = self._ran.get(name, (value, value))
                self._ran[name] = (min(low, value), max(high, value))
            else:
                self._ran_with.add((name, value))

    def _is_fine(self, name: str, value: Scalar) -> bool:
        """Whether a script has run with this value, or with one on each side of it."""
        if not _is_number(value):
            return (name, value) in self._ran_with
        low, high = self._ran.get(name, (math.inf, -math.inf))
        return low <= value <= high  # type: ignore[operator]

    def _forbid(self, change: Mapping[str, tuple[Scalar | None, Scalar]]) -> None:
        """A change that crashed or ran out of time: it, and what goes further, is not tried again."""
        if len(change) == 1:
            ((name, (old, new)),) = change.items()
            if _is_number(old) and _is_number(new) and old != new:
                up = new > old  # type: ignore[operator]
                limit = self._limits.get((name, up))
                self._limits[name, up] = (
                    float(new) if limit is None else (min if up else max)(limit, float(new))
                )
                return
        self._walls.append(change)

    # ---- Looking ----------------------------------------------------------------------------

    def values_of(self, commit: str) -> Values:
        """The values of all constants at a commit, as far as the study says."""
        path: list[tuple[str, _Made]] = []
        at = commit
        while at not in self._known and at not in self._derived and at in self._made:
            path.append((at, self._made[at]))
            at = self._made[at].parent
        values = self._known.get(at) or self._derived.get(at, {})
        for made_commit, made in reversed(path):
            values = dict(values)
            for number in made.ideas:
                idea = self.study.ideas[number]
                values.update(change_of(idea.title, idea.constants))
            self._derived[made_commit] = values
        return values

    def is_seen(self, values: Values) -> bool:
        """Whether the study has these values already, as an idea or as an experiment."""
        return _key(values) in self._seen

    def waiting(self) -> list[Values]:
        """The change of each idea that nobody has tried yet."""
        ideas = (self.study.ideas[number] for number in self.study.untried)
        return [change for idea in ideas if (change := change_of(idea.title, idea.constants))]

    def running(self) -> Iterable[Values]:
        """The values of what runs now."""
        return [self.values_of(self.study.experiments[number].commit) for number in self.study.running]

    def rows(self, n: int) -> Iterator[Row]:
        """The last `n` commits that have results, and the baseline."""
        recent = list(islice(reversed(self._groups.items()), n))
        for key, commit in reversed(recent):
            yield self._row(key, commit)
        for key, commit in islice(self._groups.items(), 0, len(self._groups) - len(recent)):
            if key[0] == self.study.base_tree:
                yield self._row(key, commit)
            else:
                break  # the baseline comes first

    def _row(self, key: GroupKey, commit: str) -> Row:
        group = self.study.group(*key)
        assert group is not None
        return Row(commit=commit, values=self.values_of(commit), group=key, mean=group.mean, n=group.n)

    def gain(self, comparison: Comparison) -> float | None:
        """How much better the new value did, by the means as they are now."""
        new, old = self.study.group(*comparison.group), self.study.group(*comparison.parent)
        if new is None or old is None or not new.n or not old.n:
            return None
        return self.study.objective.gain(old.mean, new.mean)

    def forbids(self, before: Values, change: Values) -> bool:
        """Whether something like it, or less far, has crashed or run out of time."""
        for name, value in change.items():
            if _is_number(value) and _is_number(before.get(name)):
                up = value > before[name]  # type: ignore[operator]
                limit = self._limits.get((name, up))
                if limit is not None and (value >= limit if up else value <= limit):  # type: ignore[operator]
                    return True
        after = {**before, **change}
        return any(
            all(_is_beyond(after.get(name), *step) for name, step in wall.items()) for wall in self._walls
        )

    # ---- Keeping ----------------------------------------------------------------------------

    def _save(self) -> None:
        if self._file is None or not self._file.parent.is_dir():
            return
        write_whole(self._file, json.dumps(self._known), mode=0o666, durable=False)


def _load(file: Path | None) -> dict[str, Values]:
    """What `_save` wrote; nothing where it is missing or damaged, which costs knowledge and no more."""
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file is not None else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and all(isinstance(one, dict) for one in found.values()) else {}


def _key(values: Values) -> frozenset[tuple[str, Scalar]]:
    return frozenset(values.items())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_beyond(value: Scalar | None, old: Scalar | None, new: Scalar) -> bool:
    """Whether a value is where a step from `old` to `new` led, or further."""
    if value is not None and _is_number(value) and _is_number(old) and _is_number(new):
        return value >= new if new > old else value <= new  # type: ignore[operator]
    return same(value, new)
