"""The agent `openai`: the same client with two APIs."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import openai

from arf_plugins.agent_openai import OpenAIOptions
from arf_plugins.llm.agent import ModelAgent
from arf_plugins.llm.faults import Fault, FaultKind, Redactor, fault_of
from arf_plugins.llm.prices import Price
from arf_plugins.llm.turns import Model, Reply, Request


class OpenAIAgent(ModelAgent):
    provider: ClassVar[str] = "openai"
    key_env: ClassVar[str] = "OPENAI_API_KEY"
    url_env: ClassVar[str] = "OPENAI_BASE_URL"

    def __init__(self, options: OpenAIOptions | None = None) -> None:
        super().__init__(options or OpenAIOptions())

    def connect(self, key: str, price: Price | None) -> Model:
        from arf_plugins.agent_openai.chat import Chat
        from arf_plugins.agent_openai.responses import Responses

        options = cast(OpenAIOptions, self.options)
        api = Responses if options.api == "responses" else Chat
        return api(options, key, price, self.redact)


class OpenAIModel(Model):
    """What both APIs share."""

    def __init__(self, options: OpenAIOptions, key: str, price: Price | None, redact: Redactor) -> None:
        self.options = options
        self.price = price
        self.redact = redact
        self._plain = False
        """Leave out what only OpenAI itself knows."""
        self.client = openai.AsyncOpenAI(
            api_key=key,
            base_url=options.base_url or None,
            max_retries=0,  # arf has the retries: it knows budgets, and what to do meanwhile
            timeout=options.timeout_s * (1 if options.stream else 5),
        )

    @abstractmethod
    def body(self, request: Request, *, plain: bool) -> dict[str, Any]:
        """The arguments of the request; `plain` leaves out what other servers may not know."""

    @abstractmethod
    async def exchange(self, body: Mapping[str, Any]) -> Reply:
        """Send it and read the reply."""

    async def reply(self, request: Request) -> Reply:
        try:
            return await self._once(self.body(request, plain=self._plain))
        except Fault as fault:
            if fault.kind is not FaultKind.UNSUPPORTED or self._plain:
                raise
            first = fault
        try:
            reply = await self._once(self.body(request, plain=True))
        except Fault as fault:
            raise first if fault.kind is FaultKind.UNSUPPORTED else fault from None
        self._plain = True
        return reply

    async def _once(self, body: Mapping[str, Any]) -> Reply:
        try:
            async with asyncio.timeout(self.options.reply_limit_s):
                return await self.exchange(body)
        except Fault:
            raise
        except Exception as error:  # the SDK lets errors of the libraries below it through
            fault = fault_of(error, self.redact, key_name=self.options.key_env)
            if fault is None:
                raise
            raise fault from None

    async def aclose(self) -> None:
        await self.client.close()
