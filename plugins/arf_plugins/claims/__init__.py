"""The rules of claims that come with arf: what is said of a patch, and by which runs."""

from attrs import field, frozen, validators

from arf.hooks import Declaration, hookimpl
from arf.types import Seconds


@frozen(kw_only=True)
class Options:
    """How claims are made, and when."""

    every: Seconds | None = field(
        default=None,
        validator=validators.optional(validators.gt(0)),
        metadata={"help": "Time between checkpoints, such as 2h; null: one claim, at the end."},
    )
    pairs: int = field(
        default=12,
        validator=[validators.ge(2), validators.le(1000)],
        metadata={"help": "Fresh runs of the patch, and as many of the baseline. Under 6 prove nothing."},
    )
    leave_one_out: int = field(
        default=4,
        validator=[validators.ge(0), validators.le(100)],
        metadata={"help": "Runs of the patch without each of its changes, to prune it; 0: no pruning."},
    )
    share: float = field(
        default=0.25,
        validator=[validators.gt(0), validators.le(0.9)],
        metadata={"help": "Share of the budget, at most, that the search leaves for it."},
    )


@hookimpl
def arf_register_claim_rules() -> list[Declaration]:
    return [
        Declaration(
            name="interleaved",
            summary="the pruned patch and the baseline in pairs of fresh runs, in random order",
            implementation="arf_plugins.claims.interleaved:Interleaved",
            options=Options,
        ),
        Declaration(
            name="none",
            summary="make no claim, and reserve no budget for one",
            implementation="arf_plugins.claims.nothing:Nothing",
        ),
    ]
