"""The axes of a study: the constants that ideas have moved, and ideas of code."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
from attrs import define, field, frozen

from arf.errors import UsageError
from arf.sdk.scripts import Constant, constants
from arf.study import Study
from arf.types import Idea, Plan, Scalar
from arf_plugins.strategy_bayes.axes import Axis, Basis, Levels

STEPS = 32
"""Values of a number over its range, the base not counted."""
WIDE = 30.0
"""A range whose ends differ by this factor is meant on a logarithmic scale."""
FAR = 4.0
"""Without a declared range, a number may go this many doublings either way."""
BEYOND = 0.15
"""Of such a range, how far beyond all values that ideas have had a new one may lie."""

NEWEST = 96
"""Ideas of code that have an axis, whatever came of them."""

Setting = Mapping[str, Scalar | None]
"""What differs from the base, by name: constants, and ideas of code as `#number`, whose value is None."""


@frozen(kw_only=True, eq=False)
class Space:
    """What can be combined."""

    basis: Basis
    allowed: Levels
    """(axes, most levels): 1 for what may be tried."""
    level_of: tuple[Mapping[tuple[type, Scalar | None], int], ...]
    """Of each axis, the level of a value."""
    axis_of: Mapping[str, int]
    needs: Mapping[str, tuple[str, ...]]
    """Ideas of code that were made on top of others: those, by name."""

    def point(self, setting: Setting) -> Levels | None:
        """The levels of a setting; None if it has what no axis has."""
        found = np.zeros(len(self.basis.axes), dtype=np.intp)
        for name, value in setting.items():
            axis = self.axis_of.get(name)
            level = None if axis is None else self.level_of[axis].get((type(value), value))
            if axis is None or level is None:
                return None
            found[axis] = level
        return found

    def setting(self, point: Levels) -> dict[str, Scalar | None]:
        """What a point sets."""
        axes = self.basis.axes
        return {axes[i].name: axes[i].values[point[i]] for i in np.flatnonzero(point)}

    def with_ideas(self, study: Study) -> Levels:
        """(axes, most levels): of what may be tried, that for which the study has an idea."""
        found = self.allowed.copy()
        for i, axis in enumerate(self.basis.axes):
            for level, value in enumerate(axis.values[1:], 1):
                if value is not None and study.idea_that_sets(axis.name, value) is None:
                    found[i, level] = 0
        return found

    def whole(self, point: Levels) -> Levels:
        """The point with all that its ideas of code were made on top of."""
        if not self.needs:
            return point
        found = point.copy()
        for i in np.flatnonzero(point):
            for name in self.needs.get(self.basis.axes[i].name, ()):
                if name in self.axis_of:
                    found[self.axis_of[name]] = 1
        return found

    def plan(self, study: Study, point: Levels) -> Plan:
        """The plan of a point, on the study's base."""
        ideas, values = [], {}
        for name, value in self.setting(point).items():
            if value is None:
                ideas.append(int(name[1:]))
                continue
            idea = study.idea_that_sets(name, value)
            if idea is None:
                values[name] = value
            else:
                ideas.append(idea)
        return Plan(parent=study.base, ideas=tuple(sorted(ideas)), constants=values)


def setting_of(study: Study, ideas: Iterable[int], before: Setting) -> dict[str, Scalar | None]:
    """The setting with some ideas on top of another."""
    found = dict(before)
    for number in ideas:
        found.update(setting_of_one(study.ideas[number]))
    return found


def setting_of_one(idea: Idea) -> dict[str, Scalar | None]:
    """What an idea sets."""
    return dict(idea.constants) if idea.constants else {f"#{idea.id}": None}


@define(eq=False)
class Proposed:
    """What the ideas of a study are about; taken in as they come."""

    values: dict[str, dict[tuple[type, Scalar], None]] = field(factory=dict)
    """Of each constant, the values that ideas have set it to, by type and value."""
    codes: list[Idea] = field(factory=list)
    """Ideas of code."""
    seen: int = 0
    axes: dict[str, tuple[int, Axis]] = field(factory=dict)
    """The axis of each constant, and how many values it was made of."""

    def update(self, study: Study) -> None:
        """Take in new ideas."""
        for number in range(self.seen + 1, len(study.ideas) + 1):
            idea = study.ideas[number]
            for name, value in idea.constants.items():
                self.values.setdefault(name, {})[type(value), value] = None
            if not idea.constants:
                self.codes.append(idea)
        self.seen = len(study.ideas)

    def of_constant(self, study: Study, name: str, *, values: bool) -> Axis:
        """The axis of a constant."""
        tried = [value for _, value in self.values[name]]
        count, axis = self.axes.get(name, (0, None))
        if axis is None or count != len(tried):
            new = _of_constant(study, name, tried, values=values)
            axis = new if axis is None or outline([new]) != outline([axis]) else axis
            self.axes[name] = len(tried), axis
        return axis


def read_space(
    study: Study,
    settings: Mapping[str, Setting],
    proposed: Proposed,
    before: Space | None,
    *,
    values: bool,
    useful: Collection[int] = (),
) -> Space:
    """The axes of all ideas so far; of ideas of code the newest, and those that are `useful`.

    `settings`: of commits; `values`: whether other values may be set too; `before`: the last space, whose
    basis stays where the axes are the same.
    """
    proposed.update(study)
    codes = [idea for idea in proposed.codes[:-NEWEST] if idea.id in useful] + proposed.codes[-NEWEST:]
    axes = [proposed.of_constant(study, name, values=values) for name in proposed.values]
    axes += [_of_code(idea) for idea in codes]
    if before is not None and [axis.name for axis in before.basis.axes] == [axis.name for axis in axes]:
        same = all(
            a is b or (not a.is_number and a.values == b.values)
            for a, b in zip(axes, before.basis.axes, strict=True)
        )
        basis, level_of = (before.basis, before.level_of) if same else (Basis.of(axes), _levels_of(axes))
    else:
        basis, level_of = Basis.of(axes), _levels_of(axes)
    axis_of = {axis.name: i for i, axis in enumerate(axes)}
    allowed = np.zeros(basis.places.shape, dtype=np.intp)
    for i, axis in enumerate(axes):
        allowed[i, : len(axis.values)] = 1
    for parent, ideas in study.refusals:
        if parent == study.base and len(ideas) == 1:
            _ban(study.ideas[ideas[0]], axis_of, level_of, allowed)
    needs = {
        f"#{idea.id}": tuple(name for name, value in settings.get(idea.base, {}).items() if value is None)
        for idea in codes
        if idea.base != study.base
    }
    return Space(basis=basis, allowed=allowed, level_of=level_of, axis_of=axis_of, needs=needs)


def _levels_of(axes: Sequence[Axis]) -> tuple[Mapping[tuple[type, Scalar | None], int], ...]:
    return tuple({(type(v), v): level for level, v in enumerate(axis.values)} for axis in axes)


def outline(axes: Sequence[Axis]) -> tuple[object, ...]:
    """What makes two spaces the same."""
    return tuple((axis.name, axis.values, tuple(axis.places)) for axis in axes)


def _ban(
    idea: Idea,
    axis_of: Mapping[str, int],
    level_of: tuple[Mapping[tuple[type, Scalar | None], int], ...],
    allowed: Levels,
) -> None:
    """What was refused by itself is not tried again."""
    change = setting_of_one(idea)
    if len(change) == 1:
        ((name, value),) = change.items()
        axis = axis_of.get(name)
        level = None if axis is None else level_of[axis].get((type(value), value))
        if axis is not None and level is not None:
            allowed[axis, level] = 0


def _of_code(idea: Idea) -> Axis:
    return Axis(name=f"#{idea.id}", values=(False, None), places=np.zeros(2), is_number=False)


def _of_constant(study: Study, name: str, tried: list[Scalar], *, values: bool) -> Axis:
    constant = study.constants.get(name)
    if constant is None or isinstance(constant.value, tuple):
        others = list(dict.fromkeys(tried))
        return Axis(name=name, values=(None, *others), places=np.zeros(len(others) + 1), is_number=False)
    found = [constant.value, *tried, *(constant.choices if values else ())]
    scale = _Scale.of(constant, tried)
    if scale is not None and values and not constant.choices:
        found += scale.grid()
    typed = dict.fromkeys((type(v), v) for v in found)
    others = sorted((v for _, v in typed if v != constant.value and _is_valid(constant, v)), key=_order)
    levels = [constant.value, *others]
    numbers = [float(v) for v in levels if isinstance(v, int | float) and not isinstance(v, bool)]
    if scale is None or len(numbers) < len(levels) or len(levels) < 3:
        return Axis(name=name, values=tuple(levels), places=np.zeros(len(levels)), is_number=False)
    places = np.array([scale.place(value) for value in numbers])
    return Axis(name=name, values=tuple(levels), places=places, is_number=True)


def _order(value: Scalar) -> tuple[bool, float, str]:
    """So that values have the same order whoever proposed them first."""
    is_text = isinstance(value, str)
    return is_text, 0.0 if is_text else float(value), str(value)


def _is_valid(constant: Constant, value: Scalar) -> bool:
    if isinstance(constant.multiple_of, str):
        return True  # that is told when it is set
    try:
        constants.check([constant], {constant.name: value})
    except UsageError:
        return False
    return True


@define
class _Scale:
    """The natural scale of a number: its range is 0 to 1."""

    constant: Constant
    low: float
    high: float
    form: str
    """`linear`, `log`, or `near one`: by the distance to 1."""
    inner: tuple[float, float] = field(default=(0.0, 1.0))
    """Where new values may lie."""

    @classmethod
    def of(cls, constant: Constant, tried: list[Scalar]) -> _Scale | None:
        """None where there is no order."""
        value = constant.value
        numbers = [value, *tried, *constant.choices]
        if any(isinstance(v, bool | str | tuple) for v in numbers):
            return None
        seen = [float(v) for v in numbers if isinstance(v, int | float)]
        if constant.choices:
            is_log = min(seen) > 0 and max(seen) / min(seen) >= 4
            return cls(constant, min(seen), max(seen), "log" if is_log else "linear")
        base = seen[0]
        low = None if constant.low is None else float(constant.low)
        high = None if constant.high is None else float(constant.high)
        if low is not None and high is not None:
            is_log = low > 0 and (constant.log or high / low >= WIDE)
            return cls(constant, min(low, *seen), max(high, *seen), "log" if is_log else "linear")
        return cls._open(constant, seen, base, low, high)

    @classmethod
    def _open(
        cls, constant: Constant, seen: list[float], base: float, low: float | None, high: float | None
    ) -> _Scale:
        """Of a number whose range is not declared."""
        if 0.5 <= base < 1 and max(seen) < 1 and isinstance(constant.value, float):
            form, ends = "near one", [1 - (1 - base) * 2**FAR, 1 - (1 - base) * 2**-FAR]
        elif min(seen) > 0:
            form, ends = "log", [base * 2**-FAR, base * 2**FAR]
        else:
            reach = 2 * max(abs(v - base) for v in seen) or 1.0
            form, ends = "linear", [base - reach, base + reach]
            if min(seen) >= 0:
                ends[0] = 0.0
        ends = [min(ends[0], *seen), max(ends[1], *seen)]
        ends = [
            ends[0] if low is None else max(ends[0], low),
            ends[1] if high is None else min(ends[1], high),
        ]
        scale = cls(constant, ends[0], ends[1], form)
        places = [scale.place(v) for v in seen]
        scale.inner = (min(places) - BEYOND, max(places) + BEYOND)
        return scale

    def place(self, value: float) -> float:
        low, high = self._at(self.low), self._at(self.high)
        return (self._at(value) - low) / (high - low) if high > low else 0.0

    def _at(self, value: float) -> float:
        if self.form == "log":  # an idea may have any value, also one below all that were seen
            return math.log(max(value, 1e-9 * self.high))
        return -math.log(max(1 - value, 1e-9)) if self.form == "near one" else value

    def grid(self) -> Iterator[Scalar]:
        """Values over the range, as somebody would write them."""
        low, high = self._at(self.low), self._at(self.high)
        for place in np.linspace(0.0, 1.0, STEPS + 1):
            if not self.inner[0] <= place <= self.inner[1]:
                continue
            at = low + (high - low) * float(place)
            value = at
            if self.form == "log":
                value = math.exp(at)
            elif self.form == "near one":
                value = 1 - float(f"{math.exp(-at):.2g}")
            yield self._written(value)

    def _written(self, value: float) -> Scalar:
        constant = self.constant
        unit = constant.step or (constant.multiple_of if not isinstance(constant.multiple_of, str) else None)
        if unit:
            value = round(value / unit) * unit
        if isinstance(constant.value, int):
            return round(value)
        return (
            float(f"{min(max(value, self.low), self.high):.3g}")
            if self.form != "near one"
            else round(value, 9)
        )
