"""The Responses API, without state at the server: each request holds the whole conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from arf.types import Usage
from arf_plugins.agent_openai.agent import OpenAIModel
from arf_plugins.llm.faults import Fault, FaultKind, of_event
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

DIALECT = "openai-responses"


class Responses(OpenAIModel):
    def body(self, request: Request, *, plain: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.options.model,
            "instructions": request.system,
            "input": _input(request.turns),
            "max_output_tokens": request.max_output,
            "store": False,
        }
        if not plain:
            body["include"] = ["reasoning.encrypted_content"]  # or its thoughts are lost between turns
            if request.cache_key:
                body["prompt_cache_key"] = request.cache_key[:64]
        if self.options.effort:
            body["reasoning"] = {"effort": self.options.effort}
        if request.tools:
            body["tools"] = [_tool(tool) for tool in request.tools]
        elif request.answer is not None and request.form is Form.TOOL:
            body["tools"] = [_tool(request.answer)]
            body["tool_choice"] = {"type": "function", "name": request.answer.name}
        elif request.answer is not None and request.form is Form.SCHEMA:
            answer = request.answer
            form = {"type": "json_schema", "name": answer.name, "schema": answer.parameters, "strict": True}
            body["text"] = {"format": form}
        return body

    async def exchange(self, body: Mapping[str, Any]) -> Reply:
        if not self.options.stream:
            response: Any = await self.client.responses.create(**body)
            return self._read(response)
        last: Any = None
        stream: Any = await self.client.responses.create(**body, stream=True)
        async with stream:
            async for event in stream:
                if event.type in ("response.completed", "response.incomplete", "response.failed"):
                    last = event.response
                elif event.type == "error":
                    raise of_event(event.model_dump(), self.redact)
        if last is None:
            raise Fault(FaultKind.TRANSIENT, "the reply was cut off on its way")
        return self._read(last)

    def _read(self, response: Any) -> Reply:
        if response.status == "failed" or response.error is not None:
            body = response.error.model_dump() if response.error is not None else {}
            raise of_event(body, self.redact, fallback="the response failed")
        native = [
            item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in response.output
        ]
        text, refusal = "", ""
        for item in native:
            for part in item.get("content") or () if item["type"] == "message" else ():
                text += part.get("text", "") if part["type"] == "output_text" else ""
                refusal += part.get("refusal", "") if part["type"] == "refusal" else ""
        calls = tuple(
            ToolCall(id=item["call_id"], name=item["name"], arguments=item["arguments"] or "{}")
            for item in native
            if item["type"] == "function_call"
        )
        sendable = {call.id: call.sendable() for call in calls}
        for item in native:
            if item["type"] == "function_call":
                item["arguments"] = sendable[item["call_id"]]
        return Reply(
            text=text,
            calls=calls,
            stop=_stop(response, calls, refusal),
            usage=self._usage(response.usage),
            native=tuple(native),
            dialect=DIALECT,
            why=self.redact(refusal),
        )

    def _usage(self, usage: Any) -> Usage:
        if usage is None:
            return Usage()
        details = getattr(usage, "input_tokens_details", None)  # other servers leave it out
        cached = getattr(details, "cached_tokens", None) or 0
        written = getattr(details, "cache_write_tokens", None) or 0
        total = usage.input_tokens or 0
        return priced(
            self.price,
            fresh=total - cached - written,
            cached=cached,
            written=written,
            output=usage.output_tokens or 0,
        )


def _stop(response: Any, calls: Sequence[ToolCall], refusal: str) -> Stop:
    if refusal:
        return Stop.REFUSED
    if response.status == "incomplete":
        reason = getattr(response.incomplete_details, "reason", None)
        return Stop.REFUSED if reason == "content_filter" else Stop.LENGTH
    return Stop.TOOLS if calls else Stop.END


def _tool(tool: ToolSpec) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": True,
    }


def _input(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for turn in turns:
        if isinstance(turn, Question):
            parts = [{"type": "input_text", "text": part} for part in turn.parts]
            items.append({"role": "user", "content": parts})
        elif isinstance(turn, Results):
            items += [
                {"type": "function_call_output", "call_id": result.call, "output": result.text}
                for result in turn.results
            ]
        elif turn.dialect == DIALECT and turn.native:
            items += [dict(item) for item in turn.native]
        else:
            items.append({"role": "assistant", "content": turn.text or "(no answer)"})
            items += [
                {"type": "function_call", "call_id": c.id, "name": c.name, "arguments": c.sendable()}
                for c in turn.calls
            ]
    return items
