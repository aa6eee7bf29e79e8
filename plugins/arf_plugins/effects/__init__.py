"""`arf effects`: what the factors, ideas and constants of a study do, alone and together."""

from __future__ import annotations

from collections.abc import Sequence

from arf.hooks import Declaration, hookimpl


@hookimpl
def arf_register_commands() -> Sequence[Declaration]:
    return [
        Declaration(
            name="effects",
            summary="Show what each factor, idea and constant of a study does, alone and together",
            implementation="arf_plugins.effects.commands:effects",
            extra="arf-research[report]",
        )
    ]
