"""The interface of an objective: which constants there are, what a setting of them is worth, and how it reads."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property

from attrs import frozen

from arf.errors import ArfError
from arf.types import Direction, Objective, Scalar

SCRIPT = "train.py"
"""The file that agents see; it holds the constants and nothing else."""

Values = Mapping[str, Scalar]
"""A value for each constant of the objective."""


class NoCellError(ArfError):
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
class Outcome:
    """How one run ends, whatever the machine does."""

    value: float
    """What it prints; NaN where it crashes."""
    seconds: float | None = None
    """How long it trained, where that is known."""


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

    def draw(self, values: Values, tier: str, share: float, rng: random.Random) -> Outcome:
        """One run. All of its randomness comes from `rng`."""
        truth = self.truth(values, tier, share)
        if math.isnan(truth):
            return Outcome(value=math.nan)
        return Outcome(value=truth + rng.gauss(0.0, self.sigma(values, tier, share)))

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
