"""A conversation with a model, in no provider's words, and the one thing that a provider must do.

Turns are plain values that a conversation file holds as JSON. What a provider wants back as it was
(thinking blocks with signatures, encrypted reasoning) is kept in `Reply.native`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import attrs
from attrs import field, frozen

from arf.types import Usage

Schema = Mapping[str, Any]
"""A JSON schema."""


class Stop(StrEnum):
    """Why a model stopped."""

    END = "end"
    TOOLS = "tools"
    LENGTH = "length"
    """The answer was cut at the limit of output tokens."""
    REFUSED = "refused"


@frozen(kw_only=True)
class ToolCall:
    id: str
    name: str
    arguments: str
    """JSON as the model wrote it, which may be none."""

    def object(self) -> dict[str, Any] | None:
        """The arguments; None if they are no JSON object."""
        try:
            value = whole_json(json.loads(self.arguments))
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def sendable(self) -> str:
        """The arguments as a server takes them back: many choke on what is no JSON."""
        return self.arguments if self.object() is not None else "{}"


@frozen(kw_only=True)
class Question:
    """What arf says."""

    parts: tuple[str, ...]
    stable: int = 0
    """How many of the parts, from the first, will be the same in the next conversation."""


@frozen(kw_only=True)
class Reply:
    """What the model says."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    stop: Stop = Stop.END
    usage: Usage = field(factory=Usage)
    native: tuple[Any, ...] = ()
    """The provider's own form of this turn, to be sent back; JSON values."""
    dialect: str = ""
    """Whose form `native` is."""
    why: str = ""
    """The provider's explanation of a refusal."""


@frozen(kw_only=True)
class Result:
    """What a tool gave."""

    call: str
    text: str
    failed: bool = False


@frozen(kw_only=True)
class Results:
    results: tuple[Result, ...]


Turn = Question | Reply | Results


@frozen(kw_only=True)
class ToolSpec:
    name: str
    description: str
    parameters: Schema


class Form(StrEnum):
    """How a structured answer is asked for. Not every server and model knows each of them."""

    SCHEMA = "schema"
    """The service holds the answer to a JSON schema."""
    TOOL = "tool"
    """The answer is the arguments of a tool that must be called."""
    TEXT = "text"
    """The question says what JSON is wanted, and hopes."""


@frozen(kw_only=True)
class Request:
    system: str
    turns: Sequence[Turn]
    max_output: int
    tools: tuple[ToolSpec, ...] = ()
    answer: ToolSpec | None = None
    """The form of the one answer that is wanted; None in a tool loop."""
    form: Form = Form.SCHEMA
    cache_key: str = ""
    """The same for requests that begin alike."""


class Model(ABC):
    """A model at a provider."""

    forms: tuple[Form, ...] = (Form.SCHEMA, Form.TOOL, Form.TEXT)
    """The ways to ask for a structured answer, the best first."""

    @abstractmethod
    async def reply(self, request: Request) -> Reply:
        """One exchange, tried once. Raises Fault; a reply that was cut off on its way is one."""

    async def aclose(self) -> None:
        return


def to_json(turn: Turn) -> dict[str, Any]:
    """A turn as a JSON object."""
    kind = {Question: "question", Reply: "reply", Results: "results"}[type(turn)]
    return {"kind": kind, **attrs.asdict(turn)}


def from_json(data: Mapping[str, Any]) -> Turn:
    """The turn that `to_json` made the object of. Raises KeyError, TypeError or ValueError for others."""
    fields = {name: value for name, value in data.items() if name != "kind"}
    if data["kind"] == "question":
        return Question(parts=tuple(fields["parts"]), stable=fields["stable"])
    if data["kind"] == "results":
        return Results(results=tuple(Result(**result) for result in fields["results"]))
    if data["kind"] != "reply":
        raise ValueError(f"no turn: {data['kind']!r}")
    fields |= {
        "calls": tuple(ToolCall(**call) for call in fields["calls"]),
        "stop": Stop(fields["stop"]),
        "usage": Usage(**fields["usage"]),
        "native": tuple(fields["native"]),
    }
    return Reply(**fields)


def answering(reply: Reply, text: str) -> Turn:
    """What is wrong with a reply, said in the form that it asks for."""
    if not reply.calls:
        return Question(parts=(text,))
    return Results(results=tuple(Result(call=call.id, text=text, failed=True) for call in reply.calls))


def scrubbed(reply: Reply) -> Reply:
    """The reply without halves of surrogate pairs, which no file, database or request can hold."""
    return attrs.evolve(
        reply,
        text=_whole(reply.text),
        calls=tuple(attrs.evolve(call, arguments=_whole(call.arguments)) for call in reply.calls),
        native=tuple(whole_json(item) for item in reply.native),
    )


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def whole_json(value: Any) -> Any:
    """A JSON value without halves of surrogate pairs, which escapes can spell."""
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, dict):
        return {name: whole_json(item) for name, item in value.items()}
    return [whole_json(item) for item in value] if isinstance(value, list) else value


@frozen(kw_only=True)
class Spending:
    """Counts what a conversation costs."""

    usage: Usage = field(factory=Usage)
    calls: int = 0

    def plus(self, reply: Reply) -> Spending:
        return Spending(usage=self.usage + reply.usage, calls=self.calls + 1)
