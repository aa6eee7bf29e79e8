"""Keeps a study open for those who order from outside."""

from __future__ import annotations

import asyncio

from arf.errors import AgentError
from arf.interfaces import Agent, Brief
from arf.study import Study
from arf.types import Answer, Ask, AskKind, Usage
from arf_plugins.agent_external import Options

LOOK_S = 0.5


class External(Agent):
    """Has no ideas; answers an ask for experiments when nobody has ordered anything for long."""

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._options = options or Options()

    def estimate(self, brief: Brief) -> Usage:
        return Usage()  # those who order pay for themselves

    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        if ask.kind is not AskKind.EXPERIMENTS:
            raise AgentError(
                "the agent external has no ideas of its own", hint="use it with --strategy agent"
            )
        loop = asyncio.get_running_loop()
        last, seen = loop.time(), brief.study.happened
        while loop.time() - last < self._options.idle_limit:
            await asyncio.sleep(min(LOOK_S, self._options.idle_limit / 4))
            if brief.study.happened != seen or _is_busy(brief.study):
                last, seen = loop.time(), brief.study.happened
        return Answer(exhausted=True, note=f"nothing was ordered for {self._options.idle_limit:g} s")


def _is_busy(study: Study) -> bool:
    return bool(study.running_count or study.waiting)
