"""The `two-tier` strategy: a cheap look at every idea, a dear one at those that deserve it."""

from attrs import field, frozen, validators

from arf.hooks import Declaration, hookimpl


@frozen(kw_only=True)
class Options:
    screen: str = field(
        default="",
        metadata={"help": "The tier that screens; empty: every tier but the one with the last word."},
    )
    final: str = field(
        default="",
        metadata={
            "help": "The tier that has the last word; empty: the dearest by the hour, then the fastest."
        },
    )
    share: float | None = field(
        default=None,
        validator=validators.optional([validators.gt(0.0), validators.lt(1.0)]),
        metadata={
            "help": "Screening runs train for this share of the full budget (ARF_BUDGET_SHARE); null: all of "
            "it where there is another tier to screen on, else a quarter."
        },
    )
    recall: float = field(
        default=0.8,
        validator=[validators.gt(0.0), validators.lt(1.0)],
        metadata={
            "help": "How surely an idea of the best tenth must come through the screening; the share that is "
            "promoted follows from it and from how well the cheap tier has ranked."
        },
    )
    most: float = field(
        default=0.5,
        validator=[validators.gt(0.0), validators.le(1.0)],
        metadata={"help": "The share of the screened ideas that is promoted, at most."},
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
            name="two-tier",
            summary="screen ideas on a cheap tier or a short budget; promote the promising ones",
            implementation="arf_plugins.strategy_two_tier.strategy:TwoTier",
            options=Options,
        )
    ]
