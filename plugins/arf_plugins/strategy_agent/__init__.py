"""The `agent` strategy: the agent plans, and arf keeps the slots full and the verdicts honest."""

from attrs import field, frozen, validators

from arf.hooks import Declaration, hookimpl


@frozen(kw_only=True)
class Options:
    lookahead: float = field(
        default=1.0,
        validator=validators.ge(0),
        metadata={
            "help": "Ordered runs kept waiting, as a multiple of the slots. More hides a slow agent; fewer "
            "let it plan with more results in sight. It is asked once half of them are used up."
        },
    )
    batch: int | None = field(
        default=None,
        validator=validators.optional(validators.ge(1)),
        metadata={"help": "Runs that one ask wants, about. null: one for each slot."},
    )
    asks: int = field(
        default=1,
        validator=validators.ge(1),
        metadata={"help": "Conversations that plan at a time, if the agent can hold several."},
    )


@hookimpl
def arf_register_strategies() -> list[Declaration]:
    return [
        Declaration(
            name="agent",
            summary="the agent decides which experiments to run, where and how often",
            implementation="arf_plugins.strategy_agent.strategy:AgentPlans",
            options=Options,
        )
    ]
