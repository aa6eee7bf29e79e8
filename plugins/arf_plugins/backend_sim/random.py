"""An agent without any idea: the floor that other agents are measured from, and the cheapest to simulate."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from functools import lru_cache

from attrs import define, field

from arf.interfaces import Agent, Brief
from arf.sdk.scripts import constants
from arf.study import Study
from arf.types import Answer, Ask, Draft, Scalar, Usage

STEPS = 20
"""Values that a range is cut into."""
TRIES = 50
"""Draws in a row that bring nothing new, after which it has nothing more."""
_MORE = 0.5
"""The chance that an idea changes one constant more."""


class RandomAgent(Agent):
    """Changes one constant or more, each to any value that its comment allows. No idea comes twice."""

    def __init__(self, options: object = None) -> None:
        super().__init__(options)
        self._memory: _Memory | None = None

    def estimate(self, brief: Brief) -> Usage:
        return Usage()  # nobody is paid

    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        if self._memory is None or self._memory.study is not brief.study:
            self._memory = _Memory(brief.study)
        values = {name: found for path, text in brief.files.items() for name, found in _values(text, path)}
        drafts: list[Draft] = []
        texts = [brief.files[path] for path in sorted(brief.files)]  # a commit's name tells when it was made
        # "dice" was its name when the published simulations ran; the draws depend on it.
        chance = random.Random(f"{brief.study.seed}/dice/{len(brief.study.ideas)}/{texts}")
        if values:
            self._memory.catch_up()
            drafts = list(self._drafts(ask, values, chance))
        return Answer(ideas=tuple(drafts), exhausted=len(drafts) < ask.n)

    def _drafts(
        self, ask: Ask, values: dict[str, tuple[Scalar, ...]], chance: random.Random
    ) -> Iterator[Draft]:
        assert self._memory is not None
        names = sorted(values)
        left, tries = ask.n, 0
        while left and tries < TRIES:
            count = 1
            while count < len(names) and chance.random() < _MORE:
                count += 1
            some = chance.sample(names, count)
            change = {name: chance.choice(values[name]) for name in some}
            if not self._memory.add(ask.base, change):
                tries += 1
                continue
            left, tries = left - 1, 0
            yield Draft(
                title=", ".join(f"{name} = {value}" for name, value in change.items()), constants=change
            )


@define
class _Memory:
    """The ideas of a study, by base."""

    study: Study
    seen: set[tuple[str, tuple[tuple[str, Scalar], ...]]] = field(factory=set)
    _taken: int = 0

    def catch_up(self) -> None:
        """Take in what the study has, also from before a resume."""
        while self._taken < len(self.study.ideas):
            self._taken += 1
            idea = self.study.ideas[self._taken]
            self.add(idea.base, dict(idea.constants))

    def add(self, base: str, change: dict[str, Scalar]) -> bool:
        """Whether it is new."""
        key = (base, tuple(sorted(change.items())))
        new = key not in self.seen
        self.seen.add(key)
        return new


@lru_cache(maxsize=256)
def _values(text: str, path: str) -> tuple[tuple[str, tuple[Scalar, ...]], ...]:
    """The values that each constant can be set to, its present one aside."""
    found = []
    for constant in constants.read(text, path):
        if constant.movable and not isinstance(constant.value, tuple):
            others = tuple(value for value in _allowed(constant) if value != constant.value)
            if others:
                found.append((constant.name, others))
    return tuple(found)


def _allowed(constant: constants.Constant) -> tuple[Scalar, ...]:
    if constant.choices:
        return constant.choices
    low, high = constant.low, constant.high
    if isinstance(constant.value, bool | str) or low is None or high is None:
        return ()
    log = constant.log and low > 0
    first, last = (math.log(low), math.log(high)) if log else (float(low), float(high))
    places = [first + (last - first) * step / STEPS for step in range(STEPS + 1)]
    values = [math.exp(place) if log else place for place in places]
    values = [min(float(high), max(float(low), float(f"{value:.6g}"))) for value in values]
    return tuple(dict.fromkeys(round(v) if isinstance(constant.value, int) else v for v in values))
