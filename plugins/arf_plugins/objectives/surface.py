"""Response surfaces over named constants: published test functions, and effects that are written down.

With written effects the truth is `start - gains`: each constant is worth its `gain` at its best value and
falls off from there as a parabola on its own scale that passes through 0 at the base. An interaction adds
its gain times how far both constants have gone from base (0) to best (1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from arf.errors import UsageError, nearest
from arf.types import Scalar
from arf_plugins.objectives.objective import Parameter, SimulatedObjective, Values

if TYPE_CHECKING:
    from arf_plugins.backend_sim import Effect, ObjectiveOptions

FARTHEST = 1.5
"""An interaction grows no more beyond this multiple of the way from base to best."""


def make_surface(options: ObjectiveOptions) -> SimulatedObjective:
    """A published function, a shipped surface, or the one that the options write down."""
    if options.name and options.constants:
        raise UsageError("an objective has a name or constants, not both", hint="leave one of them out")
    if options.name in FUNCTIONS:
        return Published(FUNCTIONS[options.name])
    if options.name:
        shipped = shipped_surfaces()
        if options.name not in shipped:
            known = [*FUNCTIONS, *shipped]
            raise UsageError(f"there is no surface {options.name!r}", hint=nearest(options.name, known))
        surface = shipped[options.name]
        return Surface(surface if options.start is None else evolve(surface, start=options.start))
    if not options.constants:
        raise UsageError("a surface needs a name or constants", hint="docs/simulation.md has examples")
    return Surface(options)


def shipped_surfaces() -> dict[str, ObjectiveOptions]:
    """The surfaces of `data/surfaces.yaml`, by name."""
    from arf.sdk.configuration import read_file
    from arf_plugins.backend_sim import ObjectiveOptions

    layer = read_file(Path(str(files("arf_plugins.objectives") / "data" / "surfaces.yaml")))
    return {name: layer.structure((name,), ObjectiveOptions) for name in layer.data}


# ---- Written down -------------------------------------------------------------------------------


@frozen
class _Axis:
    """A constant of a surface on its own scale."""

    name: str
    effect: Effect
    base: float
    best: float
    reach: float

    @classmethod
    def of(cls, name: str, effect: Effect) -> _Axis:
        base, best = _place(effect, float(effect.base)), _place(effect, effect.best)
        ends = effect.levels or (effect.low, effect.high)
        reach = max(abs(_place(effect, end) - base) for end in ends) or 1.0
        return cls(name, effect, base, best, reach)

    def gain(self, value: float) -> float:
        """What the constant is worth here, compared with its base."""
        place = _place(self.effect, value)
        if self.best == self.base:
            return -abs(self.effect.gain) * ((place - self.base) / self.reach) ** 2
        return self.effect.gain * (1.0 - ((place - self.best) / (self.base - self.best)) ** 2)

    def moved(self, value: float) -> float:
        """How far it has gone from base (0) to best (1)."""
        if self.best == self.base:
            return (_place(self.effect, value) - self.base) / self.reach
        part = (_place(self.effect, value) - self.base) / (self.best - self.base)
        return min(FARTHEST, max(-FARTHEST, part))


def _place(effect: Effect, value: float) -> float:
    return math.log(value) if effect.log else value


class Surface(SimulatedObjective):
    """Main effects and two-factor interactions as the options say."""

    def __init__(self, options: ObjectiveOptions) -> None:
        for name, effect in options.constants.items():
            _check(name, effect)
        self._start = 1.0 if options.start is None else options.start
        self._noise = 0.0 if options.noise is None else options.noise
        self._axes = {name: _Axis.of(name, effect) for name, effect in options.constants.items()}
        self._pairs = [_pair(text, gain, self._axes) for text, gain in options.interactions.items()]
        self.parameters = tuple(_parameter(name, effect) for name, effect in options.constants.items())

    def truth(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        gain = 0.0
        for name, axis in self._axes.items():
            value = float(values[name])
            if axis.effect.crash_above is not None and value > axis.effect.crash_above:
                return math.nan
            gain += axis.gain(value)
        for first, second, extra in self._pairs:
            gain += extra * first.moved(float(values[first.name])) * second.moved(float(values[second.name]))
        return self._start - gain

    def sigma(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        return self._noise

    def optimum(self, tier: str = "") -> float:
        return self._optimum

    @cached_property
    def _optimum(self) -> float:
        return self.searched_optimum()


def _check(name: str, effect: Effect) -> None:
    if isinstance(effect.base, str | bool):
        raise UsageError(f"constants.{name}: the base of a surface's constant is a number")
    values = [float(effect.base), effect.best, *effect.levels]
    if not effect.levels:
        values += [effect.low, effect.high]
        if not effect.low < effect.high or not effect.low <= float(effect.base) <= effect.high:
            raise UsageError(
                f"constants.{name}: base {effect.base:g} is not between {effect.low:g} and {effect.high:g}"
            )
    elif len(effect.levels) < 2:
        raise UsageError(f"constants.{name} has one level", hint="a constant that does not vary needs none")
    elif float(effect.base) not in effect.levels:
        raise UsageError(f"constants.{name}: its base {effect.base} is none of its levels")
    if effect.log and min(values) <= 0:
        raise UsageError(f"constants.{name} is on a logarithmic scale, and {min(values):g} is not above 0")


def _pair(text: str, gain: float, axes: Mapping[str, _Axis]) -> tuple[_Axis, _Axis, float]:
    names = [part.strip() for part in text.split("*")]
    for name in names:
        if name not in axes:
            raise UsageError(f"interactions: there is no constant {name!r}", hint=nearest(name, axes))
    if len(names) != 2 or names[0] == names[1]:
        raise UsageError(f"interactions: {text!r} is no pair", hint="write NAME*NAME: gain")
    return axes[names[0]], axes[names[1]], gain


def _parameter(name: str, effect: Effect) -> Parameter:
    whole = isinstance(effect.base, int)
    levels: tuple[Scalar, ...] = tuple(int(v) if whole else float(v) for v in effect.levels)
    return Parameter(
        name=name,
        base=effect.base,
        about=effect.about,
        levels=levels,
        low=effect.low,
        high=effect.high,
        log=effect.log,
    )


# ---- Published test functions --------------------------------------------------------------------


@frozen(kw_only=True)
class Function:
    """A test function of the literature, to be minimised."""

    value: Callable[[Sequence[float]], float]
    ranges: tuple[tuple[float, float], ...]
    base: tuple[float, ...]
    minimum: float
    noise: float


def _branin(x: Sequence[float]) -> float:
    """Branin (1972), as in Dixon and Szegö, Towards Global Optimisation 2 (1978)."""
    b, c, t = 5.1 / (4 * math.pi**2), 5 / math.pi, 1 / (8 * math.pi)
    return (x[1] - b * x[0] ** 2 + c * x[0] - 6.0) ** 2 + 10.0 * (1 - t) * math.cos(x[0]) + 10.0


_H6_ALPHA = (1.0, 1.2, 3.0, 3.2)
_H6_A = (
    (10.0, 3.0, 17.0, 3.5, 1.7, 8.0),
    (0.05, 10.0, 17.0, 0.1, 8.0, 14.0),
    (3.0, 3.5, 1.7, 10.0, 17.0, 8.0),
    (17.0, 8.0, 0.05, 10.0, 0.1, 14.0),
)
_H6_P = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)


def _hartmann6(x: Sequence[float]) -> float:
    """Hartmann's function of six variables, as in Dixon and Szegö (1978)."""
    return -sum(
        alpha * math.exp(-sum(a * (xi - p) ** 2 for a, p, xi in zip(row_a, row_p, x, strict=True)))
        for alpha, row_a, row_p in zip(_H6_ALPHA, _H6_A, _H6_P, strict=True)
    )


FUNCTIONS = {
    "branin": Function(
        value=_branin,
        ranges=((-5.0, 10.0), (0.0, 15.0)),
        base=(2.5, 7.5),
        minimum=0.397887357729739,
        noise=0.5,
    ),
    "hartmann6": Function(
        value=_hartmann6,
        ranges=((0.0, 1.0),) * 6,
        base=(0.5,) * 6,
        minimum=-3.32236801141551,
        noise=0.05,
    ),
}


class Published(SimulatedObjective):
    """A test function of constants X1, X2, and so on."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self.parameters = tuple(
            Parameter(name=f"X{n}", base=base, about=f"coordinate {n}", low=low, high=high)
            for n, (base, (low, high)) in enumerate(zip(function.base, function.ranges, strict=True), 1)
        )
        self._names = [parameter.name for parameter in self.parameters]

    def truth(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        return self._function.value([float(values[name]) for name in self._names])

    def sigma(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        return self._function.noise

    def optimum(self, tier: str = "") -> float:
        return self._function.minimum
