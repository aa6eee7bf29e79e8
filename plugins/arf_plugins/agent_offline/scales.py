"""Where a constant can go from where it is.

A scale places the values of one constant on an axis on which a step of 1 is a sensible first move (a
factor of two for a learning rate, half the distance to 1 for a beta), so that all constants can be
compared and predicted alike; and it lists the values worth trying.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

from attrs import evolve, frozen

from arf.errors import UsageError
from arf.sdk.scripts import Constant, constants
from arf.types import Scalar
from arf_plugins.agent_offline import names
from arf_plugins.agent_offline.names import Family, Motion

STEPS = (1.0, 0.5, 2.0, 0.25, 3.0, 0.125)
"""Lengths of moves; the first ones are tried first."""

_FEW = 64
"""Whole numbers that cannot be larger are counts, if nothing else is known of them."""
_MANY = 32
"""One more or less of so many is no move."""

_SHARES = (0, 0.01, 0.02, 0.03, 0.05, 0.08, *(round(0.05 * k, 2) for k in range(2, 20)), 0.97, 0.98, 0.99, 1)


def same(a: object, b: object) -> bool:
    """Equal, and both switches or neither: in Python `1 == True`."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


@frozen(kw_only=True)
class Scale(ABC):
    """The values of one constant."""

    constant: Constant
    family: Family

    @property
    def name(self) -> str:
        return self.constant.name

    @property
    def value(self) -> Scalar:
        """Where it is now."""
        value = self.constant.value
        assert not isinstance(value, tuple)  # a tuple gets a scale for each of its numbers
        return value

    @abstractmethod
    def moves(self) -> Sequence[Scalar]:
        """Other values within its own limits, the ones to try first first."""


@frozen(kw_only=True)
class Choice(Scale):
    """Values without an order."""

    alternatives: tuple[Scalar, ...]

    def moves(self) -> Sequence[Scalar]:
        return [value for value in self.alternatives if not same(value, self.value)]


@frozen(kw_only=True)
class Ordered(Scale):
    """Numbers on an axis."""

    @abstractmethod
    def position(self, value: float) -> float:
        """The place of a value. Raises ValueError for one that is off the axis."""

    @abstractmethod
    def at(self, position: float) -> float:
        """The value at a place. Raises ArithmeticError or ValueError where there is none."""

    @abstractmethod
    def rounded(self, value: float) -> Sequence[float]:
        """Near values that somebody would write, the best first."""

    def place(self, value: object) -> float | None:
        """Steps from where it is, with a sign; None for what is off the axis."""
        try:
            return self.position(_number(value)) - self.position(_number(self.value))
        except (ArithmeticError, ValueError):
            return None

    def moves(self) -> Sequence[Scalar]:
        found: list[Scalar] = []
        for proposal in self._proposals():
            for value in proposal:
                settled = self._settled(value)
                if settled is not None and not any(same(settled, other) for other in (self.value, *found)):
                    found.append(settled)
                    break
        return found

    def _proposals(self) -> Iterator[Sequence[float]]:
        here = self.position(_number(self.value))
        for step in STEPS:
            for sign in (1, -1) if self.family.lean >= 0 else (-1, 1):
                try:
                    yield self.rounded(self._within(self.at(here + sign * step)))
                except (ArithmeticError, ValueError):
                    continue  # there is nothing that far out

    def _within(self, value: float) -> float:
        """The value, or the limit that it oversteps."""
        low, high = self.constant.low, self.constant.high
        value = value if low is None else max(value, low)
        return value if high is None else min(value, high)

    def _settled(self, value: float) -> Scalar | None:
        """The value in the type of the constant; None if it is not allowed."""
        if not math.isfinite(value):
            return None
        whole = isinstance(self.value, int) and float(value).is_integer()
        if isinstance(self.value, int) and not whole and self.value > 1:
            return None
        settled: Scalar = int(value) if whole else float(value)
        tied = isinstance(self.constant.multiple_of, str)  # that is judged with the others
        try:
            constants.check(
                [evolve(self.constant, multiple_of=None) if tied else self.constant], {self.name: settled}
            )
        except UsageError:
            return None
        return settled


@frozen(kw_only=True)
class Factor(Ordered):
    """By factors of two."""

    def position(self, value: float) -> float:
        return math.log2(value)

    def at(self, position: float) -> float:
        return float(2**position)

    def rounded(self, value: float) -> Sequence[float]:
        if isinstance(self.value, int):
            return (float(round(value)),) if value >= 2 else ()
        return _digits(value, 2), _digits(value, 3)


@frozen(kw_only=True)
class Optional(Ordered):
    """By factors of two, down to 0, which turns it off."""

    start: float

    def position(self, value: float) -> float:
        return math.log2(1 + max(value, 0.0) / self.start)

    def at(self, position: float) -> float:
        return float(2**position - 1) * self.start

    def rounded(self, value: float) -> Sequence[float]:
        if value < 0:
            return (0.0,)
        return _digits(value, 1), _digits(value, 2)


@frozen(kw_only=True)
class Share(Ordered):
    """Between 0 and 1, both included, in finer steps at the ends (the arcsine of the square root)."""

    def position(self, value: float) -> float:
        return 10 * math.asin(math.sqrt((min(max(value, 0.0), 1.0) + 0.02) / 1.04))

    def at(self, position: float) -> float:
        angle = min(max(position / 10, 0.0), math.pi / 2)
        return min(max(1.04 * math.sin(angle) ** 2 - 0.02, 0.0), 1.0)

    def rounded(self, value: float) -> Sequence[float]:
        return (min(_SHARES, key=lambda nice: abs(nice - value)), _digits(value, 2))


@frozen(kw_only=True)
class Decay(Ordered):
    """Below 1, by factors of the distance to 1: 0.9, 0.95, 0.975."""

    def position(self, value: float) -> float:
        return -math.log2(1 - value)

    def at(self, position: float) -> float:
        return max(float(1 - 2**-position), 0.0)

    def rounded(self, value: float) -> Sequence[float]:
        return [round(1 - _digits(1 - value, digits), 12) for digits in (1, 2)]


@frozen(kw_only=True)
class Linear(Ordered):
    """By differences, a tenth of the range or a declared step."""

    unit: float
    """The length of a step of 1."""
    grid: float | None = None
    """All values are multiples of it."""

    def position(self, value: float) -> float:
        return value / self.unit

    def at(self, position: float) -> float:
        return position * self.unit

    def rounded(self, value: float) -> Sequence[float]:
        if self.grid is not None:
            return (float(f"{round(value / self.grid) * self.grid:.12g}"),)
        if isinstance(self.value, int):
            return (float(round(value)),)
        return _digits(value, 2), _digits(value, 3)


@frozen(kw_only=True)
class Whole(Ordered):
    """Whole numbers by factors that keep a divisor; a power of two stays one where `powers` says so."""

    unit: int = 1
    powers: bool = False
    counted: bool = False
    """One unit up and down come first."""
    odd: bool = False
    """It is to stay odd, as the sizes of kernels do that have a middle."""

    def position(self, value: float) -> float:
        return math.log2(value) if value > 0 else -1.0

    def at(self, position: float) -> float:
        return float(2**position)

    def rounded(self, value: float) -> Sequence[float]:
        low = self.constant.low
        floor = self.unit if low is None else max(low, 0)
        if self.powers:
            return (float(2 ** round(math.log2(max(value, 1)))),)
        if self.odd:
            return (float(2 * round((max(value, 1) - 1) / 2) + 1),)
        return (max(float(round(value / self.unit) * self.unit), float(floor)),)

    def _proposals(self) -> Iterator[Sequence[float]]:
        now = _number(self.value)
        beside = [
            (now + k * self.unit * (2 if self.odd else 1),)
            for k in ((-1, 1) if self.family.lean < 0 else (1, -1))
        ]
        beside = [] if self.powers else [one for one in beside if one[0] > 0 or self.constant.low is not None]
        if self.counted:
            yield from beside
        yield from super()._proposals()
        if not self.counted:
            yield from beside


@frozen(kw_only=True)
class Listed(Ordered):
    """Numbers from a list."""

    listed: tuple[float, ...]

    def position(self, value: float) -> float:
        if min(self.listed) > 0:
            return math.log2(value)
        spread = max(self.listed) - min(self.listed)
        return value / (spread / max(1, len(self.listed) - 1))

    def at(self, position: float) -> float:
        raise ValueError("values come from the list alone")

    def rounded(self, value: float) -> Sequence[float]:
        return (value,)

    def moves(self) -> Sequence[Scalar]:
        others = [value for value in self.constant.choices if not same(value, self.value)]
        sign = -1 if self.family.lean < 0 else 1
        away = {value: self.place(value) or 0.0 for value in others}
        return sorted(others, key=lambda value: (abs(away[value]), -sign * away[value]))


# ---------------------------------------------------------------------------------------------- choosing


def scale_of(
    constant: Constant, source: str, known: Mapping[str, Scalar], *, wanted: bool = False
) -> Scale | None:
    """The scale of a constant; None if it must stay or nothing says how it moves.

    `source` is the text of its file, `known` the values of all constants. `wanted`: the user named it, so
    its name need not say that it may move; a seed stays all the same.
    """
    name, value = constant.name, constant.value
    if names.is_seed(name) or isinstance(value, tuple):
        return None
    annotated = _is_annotated(constant)
    if not wanted and (names.is_forbidden(name) or (names.is_unsure(name) and not annotated)):
        return None
    in_words = isinstance(value, str | bool) or constant.choices
    family = names.family_of(name, "" if in_words else constant.text)
    if constant.choices:
        return _of_choices(constant, family or names.OTHER)
    if isinstance(value, bool):
        return Choice(constant=constant, family=family or names.SWITCH, alternatives=(not value,))
    if isinstance(value, str):
        alternatives = _known_alternatives(constant, source)
        label = family or names.OTHER
        return Choice(constant=constant, family=label, alternatives=alternatives) if alternatives else None
    if not math.isfinite(value) or (family is None and not annotated and not wanted):
        return None
    return _of_number(constant, family or names.OTHER, known)


def _is_annotated(constant: Constant) -> bool:
    return constant.log or any(
        part is not None for part in (constant.low, constant.high, constant.step, constant.multiple_of)
    ) or bool(constant.choices)  # fmt: skip


def _of_choices(constant: Constant, family: Family) -> Scale | None:
    numbers = [one for one in (*constant.choices, constant.value) if not isinstance(one, bool | str | tuple)]
    if len(numbers) == len(constant.choices) + 1 and len(set(numbers)) > 1:
        return Listed(constant=constant, family=family, listed=tuple(float(one) for one in numbers))
    if any(not same(one, constant.value) for one in constant.choices):
        return Choice(constant=constant, family=family, alternatives=constant.choices)
    return None


def _of_number(constant: Constant, family: Family, known: Mapping[str, Scalar]) -> Scale | None:
    value, low, high = _number(constant.value), constant.low, constant.high
    motion = _motion(constant, family)
    if motion in (Motion.SIZE, Motion.COUNT) and isinstance(constant.value, int):
        if family.motion is Motion.FACTOR and constant.multiple_of is None and constant.step is None:
            constant = evolve(constant, step=2 ** max(0, int(math.log2(max(value, 1))) - 3))
        return _whole(constant, family, known, counted=motion is Motion.COUNT)
    if constant.step:
        return Linear(constant=constant, family=family, unit=float(constant.step), grid=float(constant.step))
    if motion is Motion.DECAY and 0 < value < 1:
        return Decay(constant=constant, family=family)
    if motion in (Motion.SHARE, Motion.DECAY) and 0 <= value <= 1:
        return Share(constant=_bounded(constant), family=family)
    if value > 0 and motion is not Motion.OPTIONAL and not (low == 0 and not constant.log):
        return Factor(constant=constant, family=family)
    if value >= 0 and (low is None or low >= 0):
        start = family.start or (high / 20 if high else value / 2) or 0.1
        start = min(start, value / 8) if value else start
        return Optional(constant=constant, family=family, start=min(start, high / 2) if high else start)
    if low is not None and high is not None and high > low:
        return Linear(constant=constant, family=family, unit=(high - low) / 10)
    return None


def _motion(constant: Constant, family: Family) -> Motion | None:
    """How it moves: as the annotation says, or as its family does."""
    low, high = constant.low, constant.high
    whole = isinstance(constant.value, int)
    if constant.log and not whole:
        return Motion.FACTOR
    is_size = family.motion is Motion.FACTOR or (
        family.motion is Motion.COUNT and high is None and _number(constant.value) > _MANY
    )
    if family.motion is not None:
        return Motion.SIZE if whole and is_size else family.motion
    if whole:
        return Motion.COUNT if high is not None and high <= _FEW and low != high else Motion.SIZE
    if low is not None and low >= 0 and high == 1:
        return Motion.SHARE
    return Motion.OPTIONAL if low == 0 else None


def _bounded(constant: Constant) -> Constant:
    """The constant, kept between 0 and 1."""
    low = 0 if constant.low is None else max(constant.low, 0)
    return evolve(constant, low=low, high=1 if constant.high is None else min(constant.high, 1))


def _whole(constant: Constant, family: Family, known: Mapping[str, Scalar], *, counted: bool) -> Scale | None:
    value = int(_number(constant.value))
    if value < 0 or (value == 0 and constant.low is None and not counted):
        return None
    declared = constant.step or constant.multiple_of
    declared = known.get(declared) if isinstance(declared, str) else declared
    unit = int(declared) if isinstance(declared, int | float) and declared >= 1 else 0
    if constant.low is None:
        constant = evolve(constant, low=1 if value else 0)
    if counted:
        odd = not unit and family.label == names.KERNELS and value % 2 == 1
        return Whole(constant=constant, family=family, unit=unit or 1, counted=True, odd=odd)
    powers = not unit and value > 2 and value & (value - 1) == 0
    if not unit and not constant.log:
        unit = value & -value  # the largest power of two in it
    return Whole(constant=constant, family=family, unit=max(unit, 1), powers=powers)


_WORD = r"[\"']?[\w.+-]+[\"']?"
_ONE_OF = re.compile(
    rf"\b(?:one of|either|options?:|choices?:)\s*((?:{_WORD}(?:\s*(?:,|/|\||\bor\b)\s*)?)+)", re.IGNORECASE
)
_MEANING = re.compile(r"\b([A-Za-z])\s*[=:]\s*[A-Za-z]")


def _known_alternatives(constant: Constant, source: str) -> tuple[Scalar, ...]:
    """Other values of a text that its comment or its script name."""
    value = str(constant.value)
    if listed := _ONE_OF.search(constant.text):
        words = [word.strip("\"'") for word in re.findall(_WORD, listed[1]) if word != "or"]
        return tuple(dict.fromkeys(words)) if value in words else ()
    letters = dict.fromkeys(_MEANING.findall(constant.text))
    if value and letters and set(value) <= letters.keys() and len(letters) > 1:
        return tuple(_patterns(value, "".join(letters)))
    last = re.escape(constant.name.rpartition(".")[2])
    compared = re.findall(rf"\b{last}(?:[\"']\])?\s*[!=]=\s*[\"']([^\"'\n]+)[\"']", source)
    return () if _PHASES & {value, *compared} else tuple(dict.fromkeys(compared))


_PHASES = {
    "train",
    "test",
    "eval",
    "evaluate",
    "val",
    "valid",
    "predict",
    "inference",
    "infer",
    "sample",
    "debug",
}
"""What a script does, which is no choice of how it learns."""


def _patterns(value: str, letters: str) -> Iterator[str]:
    """Patterns like it: one letter for all, other lengths, one place changed, and turned around."""
    found = [*letters, value[1:], value[0] + value, value + value[-1]]
    found += [value[:k] + letter + value[k + 1 :] for k in range(len(value)) for letter in letters]
    found += [value[::-1]]
    yield from dict.fromkeys(one for one in found if one and one != value)


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _digits(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
