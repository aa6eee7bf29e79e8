"""The `random` strategy: the control that every other strategy must beat."""

from attrs import field, frozen, validators

from arf.hooks import Declaration, hookimpl


@frozen(kw_only=True)
class Options:
    most: int = field(
        default=4,
        validator=validators.ge(1),
        metadata={"help": "Ideas in one candidate, at most; each number up to it is equally likely."},
    )
    lookahead: float = field(
        default=2.0,
        validator=validators.ge(0),
        metadata={"help": "Untried ideas kept in stock, as a multiple of the slots."},
    )


@hookimpl
def arf_register_strategies() -> list[Declaration]:
    return [
        Declaration(
            name="random",
            summary="the control: random sets of ideas on the baseline, whatever the results",
            implementation="arf_plugins.strategy_random.strategy:Random",
            options=Options,
        )
    ]
