"""The `bayes` strategy: one Gaussian process over everything that has run, and joint Thompson draws."""

from attrs import field, frozen, validators

from arf.hooks import Declaration, hookimpl


@frozen(kw_only=True)
class Options:
    lookahead: float = field(
        default=2.0,
        validator=validators.ge(0),
        metadata={"help": "Untried ideas kept in stock, as a multiple of the slots."},
    )
    designed: int = field(
        default=40,
        validator=validators.ge(1),
        metadata={"help": "Runs at the beginning that move several things at random, at most."},
    )
    values: bool = field(
        default=True,
        metadata={
            "help": "Set constants that an agent has moved to other values of their range too; false: only "
            "to values that an agent has proposed."
        },
    )


@hookimpl
def arf_register_strategies() -> list[Declaration]:
    return [
        Declaration(
            name="bayes",
            summary="a Gaussian process over all runs; tries what may be best, many changes at once",
            implementation="arf_plugins.strategy_bayes.strategy:Bayes",
            options=Options,
        )
    ]
