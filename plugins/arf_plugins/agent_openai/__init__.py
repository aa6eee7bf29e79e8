"""Asks a GPT model, or any model behind a compatible server, for ideas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from attrs import field, frozen

from arf.hooks import Declaration, hookimpl
from arf_plugins.llm.options import ModelOptions


@frozen(kw_only=True)
class OpenAIOptions(ModelOptions):
    """The options of the agent `openai`."""

    model: str = field(default="gpt-6.2-sol", metadata={"help": "The model's name."})
    api: Literal["responses", "chat"] = field(
        default="responses",
        metadata={"help": "responses: OpenAI's own. chat: Chat Completions, which most other servers have."},
    )
    key_env: str = field(
        default="OPENAI_API_KEY", metadata={"help": "The environment variable that holds the key."}
    )


@hookimpl
def arf_register_agents() -> Sequence[Declaration]:
    return [
        Declaration(
            name="openai",
            summary="ideas from a GPT or any OpenAI-compatible model (needs OPENAI_API_KEY)",
            implementation="arf_plugins.agent_openai.agent:OpenAIAgent",
            options=OpenAIOptions,
            extra="arf-research[openai]",
        )
    ]
