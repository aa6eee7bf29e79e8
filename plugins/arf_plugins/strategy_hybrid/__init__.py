"""The `hybrid` strategy: ideas are measured, proven in bundles, and at the end the smallest patch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from arf.hooks import Declaration, hookimpl

if TYPE_CHECKING:
    from arf.study import Study

REPORT = "smallest-patch.txt"


@frozen(kw_only=True)
class Options:
    lookahead: float = field(
        default=2.0,
        validator=validators.ge(0),
        metadata={"help": "Untried ideas kept in stock, as a multiple of the slots."},
    )
    alone: int = field(
        default=20,
        validator=validators.ge(0),
        metadata={
            "help": "Ideas since the last keep that are judged alone. Later ones are only measured, and "
            "judged in bundles of those that promise something."
        },
    )
    fill: bool = field(
        default=True,
        metadata={
            "help": "Run designs, and the incumbent again, where a slot would be idle for want of ideas."
        },
    )
    leave_one_out: int = field(
        default=3,
        validator=validators.ge(0),
        metadata={
            "help": "Runs without each kept change at the end, to find the smallest patch that keeps the "
            "gain; 0: none."
        },
    )
    min_gain_per_slot_hour: float | None = field(
        default=None,
        validator=validators.optional(validators.gt(0.0)),
        metadata={
            "help": "The search ends when less than this is expected of another slot-hour, in units of the "
            "objective; null: never."
        },
    )
    min_gain_per_usd: float | None = field(
        default=None,
        validator=validators.optional(validators.gt(0.0)),
        metadata={"help": "The same for another dollar, spent on machines and agent; null: never."},
    )


@hookimpl
def arf_register_strategies() -> list[Declaration]:
    return [
        Declaration(
            name="hybrid",
            summary="measures many ideas, proves them in bundles, and ends with the smallest patch",
            implementation="arf_plugins.strategy_hybrid.strategy:Hybrid",
            options=Options,
        )
    ]


@hookimpl
def arf_study_finished(study: Study, directory: Path) -> None:
    """Write what each kept change is worth, where it was measured."""
    from arf_plugins.strategy_hybrid.shrink import describe

    text = describe(study)
    if text:
        (directory / REPORT).write_text(text, encoding="utf-8")
