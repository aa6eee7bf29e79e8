"""`arf compare` and `arf bench`: strategies against each other, in simulation."""

from collections.abc import Sequence

from arf.hooks import Declaration, hookimpl


@hookimpl
def arf_register_commands() -> Sequence[Declaration]:
    return [
        Declaration(
            name="compare",
            summary="Compare strategies in simulation, from a file",
            implementation="arf_plugins.compare.commands:compare",
            extra="arf-research[report]",
        ),
        Declaration(
            name="bench",
            summary="Record a table of real runs for simulations",
            implementation="arf_plugins.compare.bench:bench",
        ),
    ]
