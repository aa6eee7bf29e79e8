"""An agent that takes its time: any other one, with a delay before each answer."""

from __future__ import annotations

import asyncio
import math
import random

from attrs import evolve

from arf.interfaces import Agent, Brief
from arf.types import Answer, Ask, Usage


class ThinkingAgent(Agent):
    """Thinks for `seconds` (log-normal with a relative spread of `spread`), and costs `usd` an answer."""

    def __init__(
        self, agent: Agent, *, seconds: float, spread: float = 0.0, usd: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__()
        self._agent = agent
        self._seconds = seconds
        self._spread = spread
        self._usd = usd
        self._seed = seed
        self._asked = 0

    @property
    def parallel(self) -> int:
        return self._agent.parallel

    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        self._asked += 1
        chance = random.Random(f"{self._seed}/think/{self._asked}")
        await asyncio.sleep(self._seconds * math.exp(chance.gauss(0.0, self._spread)))
        answer = await self._agent.answer(ask, brief)
        return evolve(answer, usage=answer.usage + Usage(usd=self._usd))

    async def aclose(self) -> None:
        await self._agent.aclose()
