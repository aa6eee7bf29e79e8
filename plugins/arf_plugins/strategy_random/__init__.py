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
    pool: int = field(
        default=32,
        validator=validators.ge(1),
        metadata={"help": "Ideas that the agent is asked for before anything is drawn from them."},
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
