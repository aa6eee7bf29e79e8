"""What an objective is: which constants there are, and what a run with a setting of them gives."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property

from attrs import frozen

from arf.errors import UsageError
from arf.types import Direction, Objective, Scalar

SCRIPT = "train.py"
"""The file that agents see; it holds the constants and nothing else."""

Values = Mapping[str, Scalar]
"""A value for each constant of the objective."""


class NoCellError(UsageError):
    """The objective knows nothing about this setting, such as one that was never recorded."""


@frozen(kw_only=True)
class Parameter:
    """A constant of the simulated script."""

    name: str
    base: Scalar
    """Its value in the unchanged script."""
    about: str = ""
    levels: tuple[Scalar, ...] = ()
    """The values that it can have, in order; empty where any value of the range is fine."""
    low: float = 0.0
    high: float = 1.0
    log: bool = False

    def line(self) -> str:
        """As a line of a script, annotated as arf's agents read it."""
        if self.levels:
            allowed = " | ".join(_literal(level) for level in self.levels)
        else:
            allowed = f"{_number(self.low, self.base)}..{_number(self.high, self.base)}"
            allowed += ", log" if self.log else ""
        return f"{self.name} = {_literal(self.base)}  # {self.about or self.name.lower()} [{allowed}]"


@frozen(kw_only=True)
class Scale:
    """A parameter's range as numbers: levels by their index, values by themselves or by their logarithm."""

    parameter: Parameter
    base: float
    reach: float
    """The distance from the base to the far end."""

    @classmethod
    def of(cls, parameter: Parameter) -> Scale:
        base = _coordinate(parameter, parameter.base)
        if parameter.levels:
            ends = [0.0, len(parameter.levels) - 1.0]
        else:
            ends = [_coordinate(parameter, parameter.low), _coordinate(parameter, parameter.high)]
        return cls(parameter=parameter, base=base, reach=max(abs(end - base) for end in ends) or 1.0)

    def moved(self, value: Scalar) -> float:
        return (_coordinate(self.parameter, value) - self.base) / self.reach

    def grid(self, n: int) -> list[Scalar]:
        """Values over the whole range, evenly on its scale."""
        p = self.parameter
        if p.levels:
            return list(p.levels)
        low, high = _coordinate(p, p.low), _coordinate(p, p.high)
        places = [low + (high - low) * k / (n - 1) for k in range(n)]
        values = [math.exp(place) if p.log else place for place in places]
        return list(dict.fromkeys(round(v) if isinstance(p.base, int) else v for v in values))


def _coordinate(parameter: Parameter, value: Scalar) -> float:
    if parameter.levels:
        return float(parameter.levels.index(value))
    return math.log(float(value)) if parameter.log else float(value)


class SimulatedObjective(ABC):
    """What an experiment returns. Pure: the same arguments give the same answer."""

    parameters: tuple[Parameter, ...] = ()
    objective: Objective = Objective()

    @abstractmethod
    def truth(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        """The expected value of a run: without noise, NaN where it crashes.

        `share` is the part of the full training budget. Raises NoCellError where nothing is known.
        """

    @abstractmethod
    def sigma(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        """The standard deviation of a run around `truth`."""

    @abstractmethod
    def optimum(self, tier: str = "") -> float:
        """The best `truth` that there is."""

    def draw(self, values: Values, tier: str, share: float, rng: random.Random) -> float:
        """What one run prints, NaN where it crashes. All of its randomness comes from `rng`."""
        return self.truth(values, tier, share) + rng.gauss(0.0, self.sigma(values, tier, share))

    def seconds_to_crash(self, values: Values) -> float | None:
        """How long a run takes whose `truth` is NaN; None: some part of its time."""
        return None

    def also_prints(self, values: Values, share: float = 1.0) -> Mapping[str, float]:
        """Other metrics of a run, such as `num_steps`, on a machine of average speed."""
        return {}

    @cached_property
    def base(self) -> dict[str, Scalar]:
        """The constants of the unchanged script."""
        return {parameter.name: parameter.base for parameter in self.parameters}

    @cached_property
    def script(self) -> str:
        """The text of `train.py`."""
        return "".join(parameter.line() + "\n" for parameter in self.parameters)

    def gain(self, value: float, tier: str = "") -> float:
        """How much better a true value is than the unchanged script's; positive is better."""
        return self.objective.gain(self.truth(self.base, tier), value)

    def moved(self, name: str, value: Scalar) -> float:
        """How far a constant is from where it is in the unchanged script: 0, up to 1 or -1 at the far end."""
        return self._scales[name].moved(value)

    @cached_property
    def _scales(self) -> dict[str, Scale]:
        return {parameter.name: Scale.of(parameter) for parameter in self.parameters}

    def searched_optimum(self, tier: str = "") -> float:
        """The best truth that a search finds: every constant in turn, from many starts, until none helps.

        For surfaces with smooth valleys this is the optimum to the width of a grid of 41 values.
        """
        chance = random.Random(0)
        grids = {p.name: Scale.of(p).grid(41) for p in self.parameters}
        found = [self.truth(self.base, tier)]
        for start in range(24):
            values = dict(self.base) if start == 0 else {n: chance.choice(g) for n, g in grids.items()}
            found.append(self._descend(values, grids, tier))
        return better(self.objective.direction, found)

    def _descend(self, values: dict[str, Scalar], grids: Mapping[str, list[Scalar]], tier: str) -> float:
        best = self.truth(values, tier)
        improved = True
        while improved:
            improved = False
            for name, grid in grids.items():
                for value in grid:
                    truth = self.truth({**values, name: value}, tier)
                    if not math.isnan(truth) and not self.objective.gain(best, truth) <= 1e-12:
                        values, best, improved = {**values, name: value}, truth, True
        return best

    def possible_gain(self, tier: str = "") -> float:
        """The gain of the optimum."""
        return self.gain(self.optimum(tier), tier)


def better(direction: Direction, values: list[float]) -> float:
    """The best of some values, NaN aside."""
    known = [value for value in values if not math.isnan(value)]
    return min(known) if direction is Direction.MIN else max(known)


def _literal(value: Scalar) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _number(value: float, like: Scalar) -> str:
    return str(round(value)) if isinstance(like, int) and float(value).is_integer() else repr(float(value))
