"""The `factorial` strategy: designed experiments, so that what stacks is seen and not guessed."""

from enum import StrEnum

from attrs import field, frozen, validators

from arf.hooks import Declaration, hookimpl


class Layout(StrEnum):
    """How the cells of a design are chosen."""

    AUTO = "auto"
    """All cells where they fit, else a regular fraction, else Plackett-Burman or D-optimal."""
    SCREENING = "screening"
    """Plackett-Burman: main effects of many factors in few runs."""
    OPTIMAL = "optimal"
    """D-optimal, in exactly as many runs as are allowed."""


@frozen(kw_only=True)
class Options:
    factors: int = field(
        default=8,
        validator=validators.and_(validators.ge(2), validators.le(8)),
        metadata={"help": "Factors in one design, 2 to 8: what the agent is asked for at a time."},
    )
    levels: int = field(
        default=1,
        validator=validators.and_(validators.ge(1), validators.le(4)),
        metadata={
            "help": "Levels of a factor that are crossed, the base not counted, 1 to 4. One is cheapest and "
            "shows interactions best; ideas that are left over are tried by themselves in the end."
        },
    )
    runs: int | None = field(
        default=None,
        validator=validators.optional(validators.and_(validators.ge(4), validators.le(128))),
        metadata={"help": "Cells of one design, 4 to 128; null: 16, and more where there are more slots."},
    )
    replicates: int = field(
        default=1,
        validator=validators.and_(validators.ge(1), validators.le(8)),
        metadata={"help": "Runs of each cell. More factors tell more than more replicates, mostly."},
    )
    layout: Layout = field(
        default=Layout.AUTO,
        metadata={"help": "How cells are chosen: auto, screening (Plackett-Burman) or optimal (D-optimal)."},
    )
    candidates: int = field(
        default=3,
        validator=validators.and_(validators.ge(1), validators.le(8)),
        metadata={
            "help": "Cells of a design that are confirmed, at most: the best that the model expects with "
            "interactions, the one that read best, the best without, then the runners-up."
        },
    )
    fill: bool = field(
        default=True,
        metadata={"help": "Run the incumbent again where a slot would be idle for want of factors."},
    )


@hookimpl
def arf_register_strategies() -> list[Declaration]:
    return [
        Declaration(
            name="factorial",
            summary="a factorial design, so that interactions are seen; the best cell is confirmed",
            implementation="arf_plugins.strategy_factorial.strategy:Factorial",
            options=Options,
        )
    ]
