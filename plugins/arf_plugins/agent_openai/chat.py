"""Chat Completions: what nearly every other server speaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from arf.types import Usage
from arf_plugins.agent_openai.agent import OpenAIModel
from arf_plugins.llm.faults import Fault, FaultKind
from arf_plugins.llm.prices import priced
from arf_plugins.llm.turns import (
    Form,
    Question,
    Reply,
    Request,
    Results,
    Stop,
    ToolCall,
    ToolSpec,
    Turn,
)

_STOPS = {
    "length": Stop.LENGTH,
    "content_filter": Stop.REFUSED,
    "tool_calls": Stop.TOOLS,
    "function_call": Stop.TOOLS,
}


class Chat(OpenAIModel):
    def body(self, request: Request, *, plain: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.options.model,
            "messages": [{"role": "system", "content": request.system}, *_messages(request.turns)],
            "max_tokens" if plain else "max_completion_tokens": request.max_output,
        }
        if not plain and request.cache_key:
            body["prompt_cache_key"] = request.cache_key[:64]
        if not plain and self.options.stream:
            body["stream_options"] = {"include_usage": True}
        if self.options.effort:
            body["reasoning_effort"] = self.options.effort
        if request.tools:
            body["tools"] = [_tool(tool) for tool in request.tools]
        elif request.answer is not None and request.form is Form.TOOL:
            body["tools"] = [_tool(request.answer)]
            body["tool_choice"] = {"type": "function", "function": {"name": request.answer.name}}
        elif request.answer is not None and request.form is Form.SCHEMA:
            answer = request.answer
            form = {"name": answer.name, "schema": answer.parameters, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return body

    async def exchange(self, body: Mapping[str, Any]) -> Reply:
        if self.options.stream:
            return await self._streamed(body)
        completion: Any = await self.client.chat.completions.create(**body)
        if not completion.choices:
            raise Fault(FaultKind.TRANSIENT, "the reply is empty")
        choice = completion.choices[0]
        calls = [
            ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments or "{}")
            for call in choice.message.tool_calls or ()
            if getattr(call, "function", None) is not None
        ]
        return self._reply(
            choice.message.content or "",
            calls,
            choice.finish_reason,
            getattr(choice.message, "refusal", None) or "",
            completion.usage,
        )

    async def _streamed(self, body: Mapping[str, Any]) -> Reply:
        text, refusal, finish, usage = "", "", None, None
        calls: dict[int, dict[str, str]] = {}
        stream: Any = await self.client.chat.completions.create(**body, stream=True)
        async with stream:
            async for chunk in stream:
                usage = getattr(chunk, "usage", None) or usage
                for choice in chunk.choices or ():
                    delta = choice.delta
                    text += delta.content or ""
                    refusal += getattr(delta, "refusal", None) or ""
                    for part in delta.tool_calls or ():
                        _add(calls, part)
                    finish = choice.finish_reason or finish
        if finish is None:
            raise Fault(FaultKind.TRANSIENT, "the reply was cut off on its way")
        made = [
            ToolCall(id=c["id"], name=c["name"], arguments=c["arguments"] or "{}") for c in calls.values()
        ]
        return self._reply(text, made, finish, refusal, usage)

    def _reply(
        self, text: str, calls: Sequence[ToolCall], finish: str | None, refusal: str, usage: Any
    ) -> Reply:
        stop = _STOPS.get(finish or "", Stop.END)
        if refusal:
            stop = Stop.REFUSED
        elif calls and stop is Stop.END:
            stop = Stop.TOOLS  # some servers say `stop` all the same
        return Reply(
            text=text, calls=tuple(calls), stop=stop, usage=self._usage(usage), why=self.redact(refusal)
        )

    def _usage(self, usage: Any) -> Usage:
        if usage is None:
            return Usage()
        details = getattr(usage, "prompt_tokens_details", None)
        cached = getattr(details, "cached_tokens", None) or 0
        written = getattr(details, "cache_write_tokens", None) or 0
        return priced(
            self.price,
            fresh=(usage.prompt_tokens or 0) - cached - written,
            cached=cached,
            written=written,
            output=usage.completion_tokens or 0,
        )


def _add(calls: dict[int, dict[str, str]], part: Any) -> None:
    """Put a piece of a call into its place. Some servers number none of them."""
    index = part.index if part.index is not None else max(len(calls) - (0 if part.id else 1), 0)
    call = calls.setdefault(index, {"id": part.id or f"call_{index}", "name": "", "arguments": ""})
    if part.function is not None:
        call["name"] += part.function.name or ""
        call["arguments"] += part.function.arguments or ""


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": True,
    }
    return {"type": "function", "function": function}


def _messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for turn in turns:
        if isinstance(turn, Question):
            messages.append({"role": "user", "content": "\n\n".join(turn.parts)})
        elif isinstance(turn, Results):
            messages += [
                {"role": "tool", "tool_call_id": result.call, "content": result.text}
                for result in turn.results
            ]
        else:
            messages.append(_said(turn))
    return messages


def _said(reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": reply.text or (None if reply.calls else "(none)"),
    }
    if reply.calls:
        message["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.sendable()}}
            for c in reply.calls
        ]
    return message
