"""The `greedy` strategy: autoresearch's loop, parallel and asynchronous."""

from attrs import field, frozen, validators

from arf.hooks import Declaration, hookimpl


@frozen(kw_only=True)
class Options:
    lookahead: float = field(
        default=2.0,
        validator=validators.ge(0),
        metadata={
            "help": "Untried ideas kept in stock, as a multiple of the slots. More hides a slow agent; "
            "fewer are fresher, made with more results in sight."
        },
    )
    combine: bool = field(
        default=True,
        metadata={
            "help": "Try pairs of near misses, ideas that looked better and could not be proven, "
            "once the agent has nothing more."
        },
    )


@hookimpl
def arf_register_strategies() -> list[Declaration]:
    return [
        Declaration(
            name="greedy",
            summary="each idea on top of the best so far, on every free slot",
            implementation="arf_plugins.strategy_greedy.strategy:Greedy",
            options=Options,
        )
    ]
