"""The agent `external`: a person, or an agent of theirs, who orders runs from outside."""

from typing import Annotated

from attrs import field, frozen, validators

from arf.hooks import Declaration, hookimpl


@frozen(kw_only=True)
class Options:
    idle_limit: Annotated[float, "seconds"] = field(
        default=3600.0,
        validator=validators.gt(0),
        metadata={"help": "The study ends once nothing has run or waited for so long."},
    )


@hookimpl
def arf_register_agents() -> list[Declaration]:
    return [
        Declaration(
            name="external",
            summary="you, or your own agent, by `arf submit` and `arf mcp`",
            implementation="arf_plugins.agent_external.agent:External",
            options=Options,
        )
    ]
