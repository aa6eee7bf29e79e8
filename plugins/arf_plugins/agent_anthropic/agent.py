"""The agent `anthropic`: the Messages API, streamed and put together here.

The SDK's own helpers hide arguments that are not JSON and accept streams that were cut; reading the events
ourselves tells both.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import anthropic

from arf.types import Usage
from arf_plugins.agent_anthropic import AnthropicOptions
from arf_plugins.llm.agent import ModelAgent
from arf_plugins.llm.faults import Fault, FaultKind, Redactor, fault_of
from arf_plugins.llm.options import ModelOptions
from arf_plugins.llm.prices import Price, priced
from arf_plugins.llm.turns import (
    Form,
    Model,
    Question,
    Reply,
    Request,
    Result,
    Results,
    Stop,
    ToolCall,
    ToolSpec,
    Turn,
)

DIALECT = "anthropic"
CACHED = {"type": "ephemeral"}
_STOPS = {
    "tool_use": Stop.TOOLS,
    "max_tokens": Stop.LENGTH,
    "model_context_window_exceeded": Stop.LENGTH,
    "refusal": Stop.REFUSED,
}


class AnthropicAgent(ModelAgent):
    provider: ClassVar[str] = "anthropic"
    key_env: ClassVar[str] = "ANTHROPIC_API_KEY"
    url_env: ClassVar[str] = "ANTHROPIC_BASE_URL"

    def __init__(self, options: AnthropicOptions | None = None) -> None:
        super().__init__(options or AnthropicOptions())

    def connect(self, key: str, price: Price | None) -> Model:
        return Messages(self.options, key, price, self.redact)


class Messages(Model):
    """A model behind the Messages API."""

    def __init__(self, options: ModelOptions, key: str, price: Price | None, redact: Redactor) -> None:
        self._options = options
        self._price = price
        self._redact = redact
        self._client = anthropic.AsyncAnthropic(
            api_key=key,
            base_url=options.base_url or None,
            max_retries=0,  # arf has the retries: it knows budgets, and what to do meanwhile
            timeout=options.timeout_s * (1 if options.stream else 5),
        )

    async def reply(self, request: Request) -> Reply:
        body = self._body(request)
        try:
            async with asyncio.timeout(self._options.reply_limit_s):
                if self._options.stream:
                    return self._read(await self._streamed(body))
                message: Any = await self._client.messages.create(**body)
                return self._read(message.model_dump(exclude_none=True))
        except Fault:
            raise
        except Exception as error:  # the SDK lets errors of the libraries below it through
            fault = fault_of(error, self._redact, key_name=self._options.key_env)
            if fault is None:
                raise
            raise fault from None

    async def aclose(self) -> None:
        await self._client.close()

    # ---- Asking -----------------------------------------------------------------------------

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._options.model,
            "max_tokens": request.max_output,
            "system": request.system,
            "messages": _messages(request.turns),
        }
        output: dict[str, Any] = {"effort": self._options.effort} if self._options.effort else {}
        if request.tools:
            body["tools"] = [_tool(tool) for tool in request.tools]
        elif request.answer is not None and request.form is Form.TOOL:
            body["tools"] = [_tool(request.answer)]
            body["tool_choice"] = {
                "type": "tool",
                "name": request.answer.name,
                "disable_parallel_tool_use": True,
            }
        elif request.answer is not None and request.form is Form.SCHEMA:
            output["format"] = {"type": "json_schema", "schema": request.answer.parameters}
        if output:
            body["extra_body"] = {"output_config": output}  # not yet an argument in older SDKs
        return body

    async def _streamed(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The message that a stream of events makes. Raises Fault for one that was cut."""
        message: dict[str, Any] = {"content": [], "usage": {}}
        whole = False
        stream: Any = await self._client.messages.create(**body, stream=True)
        async with stream:
            async for event in stream:
                if event.type == "message_start":
                    message["usage"] = event.message.usage.model_dump(exclude_none=True)
                elif event.type == "content_block_start":
                    message["content"].append(event.content_block.model_dump(exclude_none=True))
                elif event.type == "content_block_delta":
                    _add(message["content"][event.index], event.delta)
                elif event.type == "message_delta":
                    message |= event.delta.model_dump(exclude_none=True)
                    usage = event.usage.model_dump(exclude_none=True) if event.usage else {}
                    message["usage"] |= usage
                elif event.type == "message_stop":
                    whole = True
        if not whole or not message.get("stop_reason"):
            raise Fault(FaultKind.TRANSIENT, "the reply was cut off on its way")
        return message

    # ---- Reading ----------------------------------------------------------------------------

    def _read(self, message: Mapping[str, Any]) -> Reply:
        if not message.get("stop_reason"):
            raise Fault(FaultKind.TRANSIENT, "the reply has no stop reason")
        calls, native, text = [], [], ""
        for block in message["content"]:
            block = dict(block)
            if block["type"] == "tool_use":
                calls.append(_call(block))
            elif block["type"] == "text":
                text += block["text"]
                if not block["text"].strip():
                    continue  # the API takes no empty text back
            native.append(block)
        details = message.get("stop_details")
        why = str(details.get("explanation") or "") if isinstance(details, Mapping) else ""
        stop = _STOPS.get(message["stop_reason"], Stop.END)
        return Reply(
            text=text,
            calls=tuple(calls),
            stop=Stop.TOOLS if calls and stop is Stop.END else stop,
            usage=self._usage(message.get("usage") or {}),
            native=tuple(native),
            dialect=DIALECT,
            why=self._redact(why),
        )

    def _usage(self, usage: Mapping[str, Any]) -> Usage:
        return priced(
            self._price,
            fresh=usage.get("input_tokens") or 0,
            cached=usage.get("cache_read_input_tokens") or 0,
            written=usage.get("cache_creation_input_tokens") or 0,
            output=usage.get("output_tokens") or 0,
        )


def _add(block: dict[str, Any], delta: Any) -> None:
    """Put a delta into its block. Arguments stay text until they are whole."""
    if delta.type == "text_delta":
        block["text"] += delta.text
    elif delta.type == "input_json_delta":
        block["input"] = (block["input"] if isinstance(block["input"], str) else "") + delta.partial_json
    elif delta.type == "thinking_delta":
        block["thinking"] = block.get("thinking", "") + delta.thinking
    elif delta.type == "signature_delta":
        block["signature"] = block.get("signature", "") + delta.signature


def _call(block: dict[str, Any]) -> ToolCall:
    """The call in a block; the block is made fit to be sent back, where arguments must be an object."""
    raw = block["input"]
    if not isinstance(raw, str):
        return ToolCall(id=block["id"], name=block["name"], arguments=json.dumps(raw))
    call = ToolCall(id=block["id"], name=block["name"], arguments=raw or "{}")
    block["input"] = call.object() or {}
    return call


def _tool(tool: ToolSpec) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}


def _messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The turns in the API's form, with cache marks behind the stable part and on the last turn."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        if isinstance(turn, Question):
            blocks: list[dict[str, Any]] = [{"type": "text", "text": part} for part in turn.parts]
            if turn.stable:
                blocks[turn.stable - 1]["cache_control"] = CACHED
            messages.append({"role": "user", "content": blocks})
        elif isinstance(turn, Results):
            messages.append({"role": "user", "content": [_result(result) for result in turn.results]})
        else:
            messages.append({"role": "assistant", "content": _said(turn)})
    if len(messages) > 1 and messages[-1]["role"] == "user":
        messages[-1]["content"][-1]["cache_control"] = CACHED
    return messages


def _result(result: Result) -> dict[str, Any]:
    return {
        "type": "tool_result",
        "tool_use_id": result.call,
        "content": result.text,
        "is_error": result.failed,
    }


def _said(reply: Reply) -> list[dict[str, Any]]:
    if reply.dialect == DIALECT and reply.native:
        return [dict(block) for block in reply.native]
    blocks: list[dict[str, Any]] = [{"type": "text", "text": reply.text}] if reply.text.strip() else []
    blocks += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.object() or {}}
        for call in reply.calls
    ]
    return blocks or [{"type": "text", "text": "(no answer)"}]
