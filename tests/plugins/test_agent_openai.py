"""The agent `openai` on the wire. What it shares with others is in test_llm.py."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from arf.interfaces import Brief
from arf.plugins.registry import Plugins
from arf.study import Study
from arf.testing.suites.agent import BASE, SCRIPT
from arf.types import Answer, Ask, Tier, Usage
from arf_plugins.agent_openai import OpenAIOptions
from arf_plugins.llm.turns import Stop

openai = pytest.importorskip("openai")

IDEA = {"title": "deeper", "reason": "", "expected_gain": 0, "risk": "",
        "constants": [{"name": "DEPTH", "value": 6}], "edits": []}  # fmt: skip


def answer(folder: Path, **more: Any) -> Answer:
    from arf_plugins.agent_openai.agent import OpenAIAgent

    study = Study(name="s", base=BASE, base_tree="7" * 40, tiers=[Tier(name="cpu", slots=2)])
    told = Brief(study=study, files={"train.py": SCRIPT}, program="Do.", directory=folder)

    async def main() -> Answer:
        agent = OpenAIAgent(OpenAIOptions(**{"backoff_s": 0.02, **more}))
        try:
            return await agent.answer(Ask(base=BASE), told)
        finally:
            await agent.aclose()

    return asyncio.run(main())


def test_it_is_found_by_name_and_its_options_can_be_set(llmock: Any) -> None:
    plugins = Plugins.load()
    assert plugins.options("agent", "openai") is OpenAIOptions
    agent = plugins.make("agent", "openai", OpenAIOptions(parallel=7, api="chat"))
    assert agent.parallel == 7


def test_responses_holds_no_state_at_the_server(llmock: Any, tmp_path: Path) -> None:
    llmock.call_tool("check", {})
    llmock.call_tool("done", {})
    answer(tmp_path, mode="tools", effort="low")
    first, second = (record.body for record in llmock.requests)
    for body in (first, second):
        assert body["store"] is False
        assert "previous_response_id" not in body
        assert body["include"] == ["reasoning.encrypted_content"]
        assert body["reasoning"] == {"effort": "low"}
        assert body["instructions"]
    assert second["prompt_cache_key"] == first["prompt_cache_key"]
    assert second["input"][0] == first["input"][0]
    assert [item.get("type", item.get("role")) for item in second["input"]] == [
        "user",
        "function_call",
        "function_call_output",
    ]
    assert all(tool["strict"] for tool in second["tools"])


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_schemas_are_strict(llmock: Any, tmp_path: Path, api: str) -> None:
    llmock.reply(json.dumps({"ideas": [IDEA]}))
    answer(tmp_path, api=api)
    body = llmock.last_request.body
    form = body["text"]["format"] if api == "responses" else body["response_format"]["json_schema"]
    assert form["strict"] is True

    def check(schema: Any) -> None:
        if isinstance(schema, dict):
            if schema.get("type") == "object":
                assert schema["additionalProperties"] is False
                assert schema["required"] == list(schema["properties"])
            for value in schema.values():
                check(value)

    check(form["schema"])


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_what_was_wrong_with_a_forced_call_is_its_result(llmock: Any, tmp_path: Path, api: str) -> None:
    llmock.call_tool("propose_ideas", {"ideas": [{**IDEA, "title": ""}]})
    llmock.call_tool("propose_ideas", {"ideas": [IDEA]})
    assert answer(tmp_path, structured="tool", api=api).ideas
    body = llmock.last_request.body
    last = (body["input"] if api == "responses" else body["messages"])[-1]
    assert "no title" in (last["output"] if api == "responses" else last["content"])


def test_a_server_that_does_not_know_openais_own_parameters_is_asked_without_them(
    llmock: Any, tmp_path: Path
) -> None:
    llmock.fail(400, message="Unrecognized request argument: max_completion_tokens")
    llmock.reply(json.dumps({"ideas": [IDEA]}))
    assert answer(tmp_path, api="chat").ideas
    body = llmock.last_request.body
    assert "max_tokens" in body
    assert not {"max_completion_tokens", "stream_options", "prompt_cache_key"} & set(body)
    assert "response_format" in body


def test_cached_tokens_are_counted_and_priced(llmock: Any) -> None:
    """The mock counts no cached tokens, so this is read from numbers as the API documents them."""
    from arf_plugins.agent_openai.chat import Chat
    from arf_plugins.agent_openai.responses import Responses
    from arf_plugins.llm.faults import Redactor
    from arf_plugins.llm.prices import TABLE

    details = SimpleNamespace(cached_tokens=20_000, cache_write_tokens=4000)
    usd = (1000 * 2 + 20_000 * 0.1 + 4000 * 2.5 + 500 * 10) / 1e6
    wanted = Usage(input_tokens=25_000, cached_tokens=20_000, output_tokens=500, usd=pytest.approx(usd))
    arguments = (OpenAIOptions(), "key-none", TABLE["gpt-6.2-sol"], Redactor("key-none"))
    responses = SimpleNamespace(input_tokens=25_000, output_tokens=500, input_tokens_details=details)
    assert Responses(*arguments)._usage(responses) == wanted
    chat = SimpleNamespace(prompt_tokens=25_000, completion_tokens=500, prompt_tokens_details=details)
    assert Chat(*arguments)._usage(chat) == wanted
    bare = SimpleNamespace(prompt_tokens=10, completion_tokens=5, prompt_tokens_details=None)
    assert Chat(*arguments)._usage(bare).cached_tokens == 0
    assert Responses(*arguments)._usage(None) == Usage()


@pytest.mark.parametrize(
    ("status", "reason", "content", "stop"),
    [
        ("completed", None, {"type": "output_text", "text": "x", "annotations": []}, Stop.END),
        ("completed", None, {"type": "refusal", "refusal": "no"}, Stop.REFUSED),
        (
            "incomplete",
            "max_output_tokens",
            {"type": "output_text", "text": "x", "annotations": []},
            Stop.LENGTH,
        ),
        ("incomplete", "content_filter", {"type": "refusal", "refusal": "no"}, Stop.REFUSED),
        ("incomplete", None, {"type": "output_text", "text": "x", "annotations": []}, Stop.LENGTH),
    ],
)
def test_ends_of_a_response_are_told_apart(
    status: str, reason: str | None, content: dict[str, Any], stop: Stop
) -> None:
    from openai.types.responses import Response

    from arf_plugins.agent_openai.responses import Responses
    from arf_plugins.llm.faults import Redactor

    item = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [content]}
    response = Response.model_validate(
        {
            "id": "r", "created_at": 0, "model": "m", "object": "response", "parallel_tool_calls": True,
            "tool_choice": "auto", "tools": [], "status": status, "output": [item],
            "incomplete_details": {"reason": reason} if reason else None,
        }
    )  # fmt: skip
    reply = Responses(OpenAIOptions(), "key-none", None, Redactor("key-none"))._read(response)
    assert reply.stop is stop
    assert reply.why == ("no" if content["type"] == "refusal" else "")


def test_a_long_request_is_dearer() -> None:
    from arf_plugins.llm.prices import TABLE

    price = TABLE["gpt-6.2-sol"]
    assert price.usd(fresh=272_000, cached=0, written=0, output=0) == pytest.approx(0.544)
    assert price.usd(fresh=300_000, cached=0, written=0, output=1000) == pytest.approx(1.2 + 0.015)
