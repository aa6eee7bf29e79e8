"""What this distribution adds to arf. This module is imported whenever arf starts, so it only declares."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from arf.hooks import Declaration, hookimpl


@frozen(kw_only=True)
class InOrderOptions:
    at_once: int = field(default=2, metadata={"help": "how many ideas are tried at a time"})

    @at_once.validator
    def _check(self, _: object, value: int) -> None:
        if value < 1:
            raise ValueError(f"at_once must be at least 1, not {value}")


@frozen(kw_only=True)
class ScaleOptions:
    constant: str = field(default="LEARNING_RATE", metadata={"help": "the number in the script to scale"})
    by: tuple[float, ...] = field(default=(2.0, 0.5, 4.0, 0.25), metadata={"help": "what to multiply it by"})


@frozen(kw_only=True)
class SupervisedOptions:
    slots: int = field(default=2, metadata={"help": "how many jobs run at a time"})


@hookimpl
def arf_register_strategies() -> list[Declaration]:
    return [
        Declaration(
            name="in-order",
            summary="every idea once, in the order in which it was had",
            implementation="arf_example.strategy:InOrder",
            options=InOrderOptions,
        )
    ]


@hookimpl
def arf_register_agents() -> list[Declaration]:
    return [
        Declaration(
            name="scale",
            summary="scales one constant",
            implementation="arf_example.agent:Scale",
            options=ScaleOptions,
        )
    ]


@hookimpl
def arf_register_backends() -> list[Declaration]:
    return [
        Declaration(
            name="supervised",
            summary="processes of this machine, each with a supervisor that outlives arf",
            implementation="arf_example.backend:Supervised",
            options=SupervisedOptions,
        )
    ]


@hookimpl
def arf_register_metric_parsers() -> list[Declaration]:
    return [
        Declaration(
            name="arrow",
            summary="lines of the form `name -> number`",
            implementation="arf_example.parser:Arrow",
        )
    ]


@hookimpl
def arf_register_commands() -> list[Declaration]:
    return [
        Declaration(name="example-hello", summary="says hello", implementation="arf_example.command:hello")
    ]


@hookimpl
def arf_study_finished(directory: Path, summary: Mapping[str, Any]) -> None:
    (directory / "example.txt").write_text(f"finished, with {len(summary)} things to tell\n")
