"""The `offline` agent: moves the constants of a script and learns from results. Needs no key."""

from collections.abc import Mapping

from attrs import field, frozen, validators

from arf.hooks import Declaration, hookimpl


@frozen(kw_only=True)
class OfflineOptions:
    """What the `offline` agent can be told."""

    only: tuple[str, ...] = field(
        default=(),
        metadata={"help": "Constants that it may move, even if it would not by itself; empty: all it knows"},
    )
    never: tuple[str, ...] = field(default=(), metadata={"help": "Constants that it leaves alone"})
    space: Mapping[str, str] = field(
        factory=dict,
        metadata={
            "help": "What single constants may become, as in a comment: {LR: '1e-5..1e-2, log', DEPTH: fixed}"
        },
    )
    explore: float = field(
        default=1.0,
        validator=[validators.ge(0), validators.le(100)],
        metadata={
            "help": "How much it bets on what it does not know yet; 0: only on what results so far speak for"
        },
    )


@hookimpl
def arf_register_agents() -> list[Declaration]:
    return [
        Declaration(
            name="offline",
            summary="moves the constants of a script and learns which matter; needs no key",
            implementation="arf_plugins.agent_offline.agent:OfflineAgent",
            options=OfflineOptions,
        )
    ]
