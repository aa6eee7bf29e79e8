"""The options that all agents with a model have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs
from attrs import field, frozen

from arf.types import Seconds


def at_least(low: float) -> Any:
    """A validator; None passes."""

    def check(_: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
        if value is not None and value < low:
            raise ValueError(f"'{attribute.name}' must be at least {low:g}, not {value:g}")

    return check


def _is_url(_: object, attribute: attrs.Attribute[Any], value: str) -> None:
    if value and not value.startswith(("http://", "https://")):
        raise ValueError(f"'{attribute.name}' must begin with http:// or https://, unlike {value!r}")
    if "@" in value.partition("//")[2].partition("/")[0]:
        raise ValueError(
            f"'{attribute.name}' must hold no user name or password: keys come from the environment"
        )


@frozen(kw_only=True)
class ModelOptions:
    """What a user may set of an agent that talks to a model."""

    model: str = field(default="", metadata={"help": "The model's name at the provider."})
    base_url: str = field(
        default="",
        validator=_is_url,
        metadata={"help": "Another server with the same API, such as a local model. Empty: the provider."},
    )
    key_env: str = field(default="", metadata={"help": "The environment variable that holds the key."})
    mode: Literal["propose", "tools"] = field(
        default="propose",
        metadata={
            "help": "propose: one structured answer an ask. tools: a conversation in which the model reads, "
            "edits, checks and submits."
        },
    )
    structured: Literal["auto", "schema", "tool", "text"] = field(
        default="auto",
        metadata={"help": "How propose gets JSON. auto: what works, found out at the first ask."},
    )
    stream: bool = field(
        default=True,
        metadata={"help": "Read replies as they are written. Off for servers that cannot."},
    )
    effort: str = field(
        default="",
        metadata={"help": "How much the model thinks, in the provider's words. Empty: its default."},
    )
    parallel: int = field(default=2, validator=at_least(1), metadata={"help": "Conversations at a time."})
    max_input_tokens: int = field(
        default=60_000,
        validator=at_least(2_000),
        metadata={"help": "The longest brief, estimated at three characters a token."},
    )
    max_output_tokens: int = field(
        default=16_000, validator=at_least(256), metadata={"help": "The longest reply, thinking included."}
    )
    max_history_tokens: int = field(
        default=60_000,
        validator=at_least(0),
        metadata={
            "help": "A conversation that plans experiments goes on with the next ask while it is no longer "
            "than that, and is told only what is new. 0: a new conversation for each ask."
        },
    )
    max_turns: int = field(
        default=30, validator=at_least(1), metadata={"help": "Replies in one conversation with tools."}
    )
    max_tokens_per_ask: int | None = field(
        default=400_000,
        validator=at_least(1_000),
        metadata={"help": "A conversation that has used so many tokens ends. null: no limit."},
    )
    max_usd_per_ask: float | None = field(
        default=None, validator=at_least(0), metadata={"help": "The same in dollars. null: no limit."}
    )
    max_usd: float | None = field(
        default=None,
        validator=at_least(0),
        metadata={"help": "The agent is not asked if the study's asks might cost more. null: no limit."},
    )
    prices: Mapping[str, Mapping[str, float]] = field(
        factory=dict,
        metadata={
            "help": "Dollars for a million tokens by model: input, output, cached, cache_write. "
            "Over the list prices that arf has."
        },
    )
    timeout_s: Seconds = field(
        default=120.0,
        validator=at_least(0.01),
        metadata={"help": "A reply that says nothing for so long is given up. Without stream: 5 times that."},
    )
    reply_limit_s: Seconds = field(
        default=900.0, validator=at_least(0.01), metadata={"help": "The longest that one reply may take."}
    )
    attempts: int = field(
        default=5,
        validator=at_least(1),
        metadata={"help": "Of one request that fails for a reason that may pass."},
    )
    backoff_s: Seconds = field(
        default=1.0,
        validator=at_least(0),
        metadata={"help": "The wait before the second attempt; it doubles. Retry-After counts if longer."},
    )
    max_wait_s: Seconds = field(
        default=120.0,
        validator=at_least(0),
        metadata={"help": "A longer wait is left to the study, which goes on meanwhile."},
    )
    preflight: Seconds | None = field(
        default=None,
        validator=at_least(1),
        metadata={
            "help": "Run each change for so long on a free slot before it is handed in; what breaks goes "
            "back to the model. null: it is not."
        },
    )
    notes_from: str = field(
        default="",
        metadata={"help": "A file of notes to begin with, such as notes.md of an earlier study."},
    )
