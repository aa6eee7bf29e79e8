"""One ask while it is being answered: the conversation, the model, and what it may still cost."""

from __future__ import annotations

import logging
from collections.abc import Callable

from attrs import define

from arf.types import Usage
from arf_plugins.llm.conversation import Conversation
from arf_plugins.llm.faults import Fault, FaultKind, RetryRule, retried
from arf_plugins.llm.options import ModelOptions
from arf_plugins.llm.prices import Price, priced
from arf_plugins.llm.spend_limiter import Cap, OutOfBudget, SpendLimiter
from arf_plugins.llm.turns import Form, Model, Question, Reply, Request, Results, scrubbed

log = logging.getLogger(__name__)

CHARS_PER_TOKEN = 3
"""Fewer than English and code have, so that estimates err on the safe side."""


@define
class Session:
    model: Model
    options: ModelOptions
    conversation: Conversation
    price: Price | None
    limiter: SpendLimiter
    caps: tuple[Cap, ...] = ()

    async def exchange(self, request: Request) -> Reply:
        """Ask, with new attempts where they help; the reply is on disk before it is returned.

        Raises Fault, and OutOfBudget before anything is sent.
        """
        options = self.options
        most = self._most(request)
        self._check_own(most)
        await self.limiter.wait_for(most, self.caps)
        rule = RetryRule(attempts=options.attempts, first_s=options.backoff_s, max_wait_s=options.max_wait_s)
        with self.limiter.reserved(most):
            reply = scrubbed(await retried(lambda: self.model.reply(request), rule))
        self.conversation.add(reply)
        usage = reply.usage
        log.debug(
            "%s: %d tokens in (%d cached), %d out, $%.4f",
            options.model, usage.input_tokens, usage.cached_tokens, usage.output_tokens, usage.usd,
        )  # fmt: skip
        return reply

    def _most(self, request: Request) -> Usage:
        """What the exchange may cost at most; no dollars where no price is known."""
        tokens, output = estimated_tokens(request), request.max_output
        return priced(self.price, fresh=tokens, cached=0, written=0, output=output)

    def _check_own(self, most: Usage) -> None:
        """Raises OutOfBudget if the exchange might cost more than one ask may."""
        options, usage = self.options, self.conversation.spending.usage
        limit = options.max_tokens_per_ask
        used = usage.input_tokens + usage.output_tokens
        if limit is not None and used and used + most.input_tokens > limit:
            raise OutOfBudget(f"the conversation has used {used:,} tokens of max_tokens_per_ask {limit:,}")
        if options.max_usd_per_ask is not None and usage.usd + most.usd > options.max_usd_per_ask:
            raise OutOfBudget(
                f"the next reply may cost ${most.usd:.2f}, and max_usd_per_ask is {options.max_usd_per_ask:g}"
                + (f", of which ${usage.usd:.2f} are spent" if usage.usd else ""),
                hint="raise it, or set a lower agent.max_output_tokens",
            )


def estimated_tokens(request: Request) -> int:
    """An upper guess at the tokens of a request."""
    chars = len(request.system)
    for turn in request.turns:
        if isinstance(turn, Question):
            chars += sum(map(len, turn.parts))
        elif isinstance(turn, Results):
            chars += sum(len(result.text) for result in turn.results)
        else:
            chars += len(turn.text) + sum(len(call.arguments) for call in turn.calls)
    return chars // CHARS_PER_TOKEN + 500


@define
class Forms:
    """Which way of asking for a structured answer works with this server; found out once."""

    candidates: tuple[Form, ...]
    known: bool = False

    async def exchange(self, session: Session, request_in: Callable[[Form], Request]) -> Reply:
        """As `Session.exchange`, with the next form where the server does not take one."""
        first: Fault | None = None
        candidates = self.candidates[:1] if self.known else self.candidates
        for at, form in enumerate(candidates):
            try:
                reply = await session.exchange(request_in(form))
            except Fault as fault:
                first = first or fault
                if fault.kind is not FaultKind.UNSUPPORTED:
                    raise
                if form is candidates[-1]:
                    raise first from None
                log.info("%s; asking for JSON by another form", fault)
            else:
                self.candidates, self.known = candidates[at:], True
                return reply
        raise AssertionError("unreachable")  # there is at least one candidate
