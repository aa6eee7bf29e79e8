"""What all conversations of a study may cost together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from arf.errors import AgentError, UsageError
from arf.interfaces import Brief
from arf.types import Usage

if TYPE_CHECKING:
    from arf.interfaces import Brief
    from arf.study import Study
    from arf_plugins.llm.conversation import Conversation


class OutOfBudget(AgentError):
    """The next exchange might cost more than the user allows."""


@frozen(kw_only=True)
class Cap:
    """What the asks of a study may have cost at most, when one more exchange has been paid."""

    name: str
    """The setting that says so."""
    usd: float | None = None
    tokens: int | None = None


class SpendLimiter:
    """Counts what asks have cost, what open conversations have, and what exchanges under way may cost.

    The study knows the cost of an ask only once it has the answer, and an exchange's cost is known only when
    the reply is there; both are counted from the moment when they can be.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._before = study.usage
        self._told = Usage()
        self._open: list[Conversation] = []
        self._reserved: dict[object, Usage] = {}
        self._released = asyncio.Event()

    @property
    def spent(self) -> Usage:
        """What all asks have cost so far, whether or not the study knows it."""
        known, ours = self._study.usage, self._before + self._told
        total = known if tokens_of(known) >= tokens_of(ours) else ours
        total = evolve(total, usd=max(known.usd, ours.usd))
        for conversation in self._open:
            total += conversation.unbilled
        return total

    def hold(self, conversation: Conversation) -> None:
        """Count what a conversation has cost, until it is told."""
        if not any(conversation is other for other in self._open):
            self._open.append(conversation)

    def tell(self, conversation: Conversation) -> Usage:
        """What a conversation has cost since it was last told, for the study to count."""
        usage = conversation.bill()
        self._open = [other for other in self._open if other is not conversation]
        self.count(usage)
        return usage

    def count(self, usage: Usage) -> None:
        """Count what the study is told of now."""
        self._told += usage

    def caps(self, brief: Brief, max_usd: float | None) -> tuple[Cap, ...]:
        """The limits of an ask that begins now."""
        caps = [Cap(name="agent.max_usd", usd=max_usd)] if max_usd is not None else []
        left, known = brief.budget_left, self._study.usage
        if "usd" in left:
            caps.append(Cap(name="budget.max_usd", usd=known.usd + left["usd"]))
        if "tokens" in left:
            caps.append(Cap(name="budget.max_tokens", tokens=tokens_of(known) + int(left["tokens"])))
        return tuple(caps)

    async def wait_for(self, most: Usage, caps: tuple[Cap, ...]) -> None:
        """Return when an exchange that may cost so much fits. Raises OutOfBudget if it will not.

        What other exchanges may cost is mostly more than what they do cost, so their end is waited for.
        """
        while problem := self._problem(most, caps, with_reserved=True):
            if final := self._problem(most, caps, with_reserved=False):
                raise OutOfBudget(final, hint="raise it, or set a lower agent.max_output_tokens")
            if not self._reserved:
                raise OutOfBudget(problem)
            self._released.clear()
            await self._released.wait()

    @contextmanager
    def reserved(self, most: Usage) -> Iterator[None]:
        """While an exchange is under way that may cost so much."""
        key = object()
        self._reserved[key] = most
        try:
            yield
        finally:
            del self._reserved[key]
            self._released.set()

    def _problem(self, most: Usage, caps: tuple[Cap, ...], *, with_reserved: bool) -> str:
        spent = self.spent
        if with_reserved:
            spent = sum(self._reserved.values(), spent)
        for cap in caps:
            if cap.usd is not None and spent.usd + most.usd > cap.usd:
                left = max(0.0, cap.usd - spent.usd)
                return f"the next reply may cost ${most.usd:.2f}, and ${left:.2f} are left of {cap.name}"
            if cap.tokens is not None and tokens_of(spent) + tokens_of(most) > cap.tokens:
                rest = max(0, cap.tokens - tokens_of(spent))
                return (
                    f"the next reply may take {tokens_of(most):,} tokens, and {rest:,} are left of {cap.name}"
                )
        return ""


def refuse_dollars(brief: Brief, model: str) -> None:
    """For an agent whose model has no known price. Raises UsageError if the study has a budget of dollars."""
    if "usd" not in brief.budget_left:
        return
    prices = (
        f"agent.prices: {{{model}: {{input: …, output: …}}}}" if model else "agent.model to one with a price"
    )
    raise UsageError(
        f"budget.max_usd cannot be kept: no price is known for {model or 'the default model'!r}",
        hint=f"set {prices}; or give a budget of tokens (budget.max_tokens)",
    )


def tokens_of(usage: Usage) -> int:
    return usage.input_tokens + usage.output_tokens
