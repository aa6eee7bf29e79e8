"""Trying changes out for some seconds before they are handed in, where the user wants that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from arf.errors import ArfError, UsageError
from arf.interfaces import Brief
from arf.types import Draft
from arf_plugins.llm.prompt import as_data
from arf_plugins.llm.tools import ToolContext, outcome

log = logging.getLogger(__name__)


@frozen
class Preflight:
    """What cannot be tried, because no slot is free or no study runs, passes."""

    brief: Brief
    base: str
    seconds: float | None
    """None: nothing is tried."""

    async def problems(self, drafts: Sequence[Draft]) -> list[str]:
        """Why each of the drafts must not be handed in; empty where it may."""
        study = self.brief.study
        free = sum(tier.slots - study.running_on(tier.name) for tier in study.tiers)
        places = asyncio.Semaphore(max(1, free))

        async def one(draft: Draft) -> str:
            async with places:
                return await self._problem(draft)

        return await asyncio.gather(*(one(draft) for draft in drafts))

    async def _problem(self, draft: Draft) -> str:
        queue = self.brief.queue
        if self.seconds is None or queue is None:
            return ""
        try:
            tried = await queue.try_out(draft, self.base, self.seconds)
        except UsageError as error:
            return str(error)
        except ArfError as error:
            log.warning("cannot try %s out: %s", draft.title, error)
            return ""
        return _problem(tried.text) if tried.broke else ""

    async def problem_of_submit(
        self, context: ToolContext, arguments: Mapping[str, Any] | None, key: str
    ) -> str:
        """As `problems`, for what a call of `submit` would hand in."""
        if self.seconds is None or context.queue is None or await context.queue.known(key):
            return ""
        change = {name: (arguments or {}).get(name) for name in ("constants", "edits")}
        got = await outcome(context, "try_out", {**change, "seconds": self.seconds}, key=f"{key}/try")
        return _problem(got.text) if not got.failed and got.data and got.data["broke"] else ""


def _problem(said: str) -> str:
    return f"it was tried out, and broke:\n{as_data(said, 0)}"
