"""The agent `anthropic` on the wire. What it shares with others is in test_llm.py."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from arf.interfaces import Brief
from arf.plugins.registry import Plugins
from arf.study import Study
from arf.testing.suites.agent import BASE, SCRIPT
from arf.types import Answer, Ask, Tier, Usage
from arf_plugins.agent_anthropic import AnthropicOptions
from arf_plugins.llm.turns import Reply, Stop

anthropic = pytest.importorskip("anthropic")

IDEA = {"title": "deeper", "reason": "", "expected_gain": 0, "risk": "",
        "constants": [{"name": "DEPTH", "value": 6}], "edits": []}  # fmt: skip


def answer(folder: Path, **more: Any) -> Answer:
    from arf_plugins.agent_anthropic.agent import AnthropicAgent

    study = Study(name="s", base=BASE, base_tree="7" * 40, tiers=[Tier(name="cpu", slots=2)])
    told = Brief(study=study, files={"train.py": SCRIPT}, program="Do.", directory=folder)

    async def main() -> Answer:
        agent = AnthropicAgent(AnthropicOptions(**{"backoff_s": 0.02, **more}))
        try:
            return await agent.answer(Ask(base=BASE), told)
        finally:
            await agent.aclose()

    return asyncio.run(main())


def test_it_is_found_by_name_and_its_options_can_be_set(llmock: Any) -> None:
    plugins = Plugins.load()
    assert plugins.options("agent", "anthropic") is AnthropicOptions
    agent = plugins.make("agent", "anthropic", AnthropicOptions(parallel=7))
    assert agent.parallel == 7


def test_a_structured_answer_is_asked_for_by_schema_and_the_stable_part_is_cached(
    llmock: Any, tmp_path: Path
) -> None:
    llmock.reply(json.dumps({"ideas": [IDEA]}))
    answer(tmp_path, effort="high")
    body = llmock.last_request.body
    assert body["model"] == "claude-opus-5-5"
    assert body["output_config"]["effort"] == "high"
    schema = body["output_config"]["format"]["schema"]
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"ideas", "learned", "exhausted"}
    [message] = body["messages"]
    marks = ["cache_control" in block for block in message["content"]]
    assert marks == [True, False, False]
    assert "temperature" not in body


def test_a_tool_can_be_forced_instead(llmock: Any, tmp_path: Path) -> None:
    llmock.call_tool("propose_ideas", {"ideas": [IDEA]})
    got = answer(tmp_path, structured="tool")
    assert got.ideas[0].constants == {"DEPTH": 6}
    choice = llmock.last_request.body["tool_choice"]
    assert (choice["type"], choice["name"]) == ("tool", "propose_ideas")


def test_what_was_wrong_with_a_forced_call_is_its_result(llmock: Any, tmp_path: Path) -> None:
    llmock.call_tool("propose_ideas", {"ideas": [{**IDEA, "title": ""}]})
    llmock.call_tool("propose_ideas", {"ideas": [IDEA]})
    assert answer(tmp_path, structured="tool").ideas
    _, said, back = llmock.last_request.body["messages"]
    [block] = [block for block in said["content"] if block["type"] == "tool_use"]
    [result] = back["content"]
    assert result["tool_use_id"] == block["id"]
    assert result["is_error"] is True
    assert "no title" in result["content"]


def test_in_a_conversation_the_last_turn_is_marked_for_the_cache(llmock: Any, tmp_path: Path) -> None:
    llmock.call_tool("check", {})
    llmock.call_tool("done", {})
    answer(tmp_path, mode="tools")
    messages = llmock.last_request.body["messages"]
    assert "cache_control" in messages[-1]["content"][-1]
    assert json.dumps(messages).count("cache_control") == 2
    assert {tool["name"] for tool in llmock.last_request.body["tools"]} >= {"edit", "submit", "done"}


def read(message: Mapping[str, Any]) -> Reply:
    from arf_plugins.agent_anthropic.agent import Messages
    from arf_plugins.llm.faults import Redactor
    from arf_plugins.llm.prices import TABLE

    model = Messages(AnthropicOptions(), "key-none", TABLE["claude-opus-5-5"], Redactor("key-none"))
    return model._read(message)


def test_tokens_are_priced_by_what_was_read_and_written() -> None:
    """The mock counts no cached tokens, so this is read from a message as the API documents it."""
    reply = read(
        {
            "content": [{"type": "text", "text": "x"}],
            "stop_reason": "end_turn",
            "usage": {
                "input_tokens": 1000,
                "cache_read_input_tokens": 20_000,
                "cache_creation_input_tokens": 4000,
                "output_tokens": 500,
            },
        }
    )
    usd = (1000 * 4 + 20_000 * 0.2 + 4000 * 5 + 500 * 20) / 1e6
    assert reply.usage == Usage(
        input_tokens=25_000, cached_tokens=20_000, output_tokens=500, usd=pytest.approx(usd)
    )


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("end_turn", Stop.END),
        ("max_tokens", Stop.LENGTH),
        ("refusal", Stop.REFUSED),
        ("pause_turn", Stop.END),
    ],
)
def test_reasons_to_stop_are_told_apart(reason: str, stop: Stop) -> None:
    assert read({"content": [], "stop_reason": reason, "usage": {}}).stop is stop


def test_thinking_goes_back_as_it_was() -> None:
    from arf_plugins.agent_anthropic.agent import _messages

    thought = {"type": "thinking", "thinking": "hm", "signature": "abc"}
    blocks = [
        thought,
        {"type": "text", "text": " "},
        {"type": "tool_use", "id": "1", "name": "x", "input": {}},
    ]
    reply = read({"content": blocks, "stop_reason": "tool_use", "usage": {}})
    [message] = _messages([reply])
    assert message["content"] == [thought, blocks[2]]  # and no empty text, which the API refuses
