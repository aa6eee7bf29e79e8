"""The options that agents of this kind have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from attrs import field, frozen, validators

Seconds = Annotated[float, "seconds"]


@frozen(kw_only=True)
class CliOptions:
    program: str = field(default="", metadata={"help": "The program; its usual name on the PATH if empty."})
    model: str | None = field(default=None, metadata={"help": "The model; null: the program's own choice."})
    parallel: int = field(
        default=1,
        validator=validators.ge(1),
        metadata={"help": "Conversations at a time, each with files and a session of its own."},
    )
    time_limit: Seconds = field(
        default=1800.0, validator=validators.gt(0), metadata={"help": "How long one ask may take."}
    )
    silence_limit: Seconds = field(
        default=600.0,
        validator=validators.gt(0),
        metadata={"help": "A program that prints nothing for so long is taken to hang."},
    )
    resume: bool = field(
        default=True,
        metadata={
            "help": "Go on with the same session when results have come in; false: a new one each time."
        },
    )
    max_brief_chars: int = field(
        default=60_000, validator=validators.ge(4_000), metadata={"help": "The longest brief that is sent."}
    )
    args: tuple[str, ...] = field(default=(), metadata={"help": "More arguments for the program."})
    prices: Mapping[str, Mapping[str, float]] = field(
        factory=dict,
        metadata={"help": "Dollars for a million tokens, by model: {name: {input: 2, output: 10}}."},
    )
