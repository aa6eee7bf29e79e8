"""Asks a Claude model for ideas, through Anthropic's Messages API or a server that speaks it."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import field, frozen

from arf.hooks import Declaration, hookimpl
from arf_plugins.llm.options import ModelOptions


@frozen(kw_only=True)
class AnthropicOptions(ModelOptions):
    """The options of the agent `anthropic`."""

    model: str = field(default="claude-opus-5-5", metadata={"help": "The model's name."})
    key_env: str = field(
        default="ANTHROPIC_API_KEY", metadata={"help": "The environment variable that holds the key."}
    )


@hookimpl
def arf_register_agents() -> Sequence[Declaration]:
    return [
        Declaration(
            name="anthropic",
            summary="ideas from a Claude model (needs ANTHROPIC_API_KEY)",
            implementation="arf_plugins.agent_anthropic.agent:AnthropicAgent",
            options=AnthropicOptions,
            extra="arf-research[anthropic]",
        )
    ]
