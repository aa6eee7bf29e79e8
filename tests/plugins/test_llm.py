"""What all agents with a model must do, over real sockets with the real SDKs, against a mock service.

`llmock` is written by others: it plays the service, breaks on demand, and judges how the client took it.
"""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

from arf.errors import AgentError, UsageError
from arf.interfaces import Agent, Brief
from arf.launch import study_directory
from arf.store.database import Store
from arf.study import Study
from arf.testing.studies import run_study
from arf.testing.suites import AgentSuite
from arf.testing.suites.agent import BASE, SCRIPT
from arf.types import Answer, Ask, AskKind, ExperimentState, Idea, Tier, Usage
from arf_plugins.agent_anthropic import AnthropicOptions
from arf_plugins.agent_openai import OpenAIOptions
from arf_plugins.llm.answers import entries, read_json
from arf_plugins.llm.conversation import FOLDER, Conversation
from arf_plugins.llm.drafts import Checker
from arf_plugins.llm.prompt import NOTES
from arf_plugins.llm.tools import ToolContext, call

LLMock = Any
"""The type of the fixture; importing it would import the server."""

DIALECTS = ("anthropic", "responses", "chat")
KEY = "sk-very-secret-0123456789"


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _keys(llmock: LLMock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real-looking keys, after llmock has set its own."""
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, KEY)


def make(dialect: str, **options: Any) -> Agent:
    options = {"backoff_s": 0.02, **options}
    if dialect == "anthropic":
        from arf_plugins.agent_anthropic.agent import AnthropicAgent

        return AnthropicAgent(AnthropicOptions(**options))
    from arf_plugins.agent_openai.agent import OpenAIAgent

    return OpenAIAgent(OpenAIOptions(api=dialect, **options))  # type: ignore[arg-type]


def new_study() -> Study:
    return Study(name="suite", base=BASE, base_tree="7" * 40, tiers=[Tier(name="cpu", slots=2)])


def brief(folder: Path, study: Study | None = None, **more: Any) -> Brief:
    (folder / "agent").mkdir(exist_ok=True)
    fields: dict[str, Any] = {"files": {"train.py": SCRIPT}, "program": "Make val_bpb small.", **more}
    return Brief(study=study or new_study(), directory=folder / "agent", **fields)


def idea(title: str, constants: Mapping[str, Any] | None = None, *edits: tuple[str, str]) -> dict[str, Any]:
    return {
        "title": title,
        "reason": f"because of {title}",
        "expected_gain": 0.01,
        "risk": "",
        "constants": [{"name": name, "value": value} for name, value in (constants or {}).items()],
        "edits": [{"path": "train.py", "old": old, "new": new} for old, new in edits],
    }


def said(*ideas: Any, **more: Any) -> str:
    return json.dumps({"ideas": list(ideas), "learned": "", "exhausted": False, **more})


DEEPER = idea("deeper", {"DEPTH": 6})
WIDER = idea("wider", {"WIDTH": 256})
RELU = idea("relu", None, ('ACTIVATION = "gelu"', 'ACTIVATION = "relu"'), ("loss = (", "loss = 0.5 * ("))


def asking(agent: Agent, *asks: tuple[Ask, Brief]) -> list[Answer]:
    """The answers, asked one after the other, and the agent closed."""

    async def main() -> list[Answer]:
        try:
            return [await agent.answer(ask, told) for ask, told in asks]
        finally:
            await agent.aclose()

    return asyncio.run(main())


def answer(agent: Agent, folder: Path, ask: Ask | None = None, **more: Any) -> Answer:
    return asking(agent, (ask or Ask(n=2, base=BASE), brief(folder, **more)))[0]


def failure(agent: Agent, folder: Path, **more: Any) -> AgentError:
    with pytest.raises(AgentError) as caught:
        answer(agent, folder, **more)
    return caught.value


def bodies(llmock: LLMock) -> list[dict[str, Any]]:
    return [record.body for record in llmock.requests]


# ---- Proposing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_ideas_come_from_one_structured_answer(
    llmock: LLMock, dialect: str, tmp_path: Path, stream: bool
) -> None:
    llmock.reply(said(DEEPER, RELU, learned="width does not matter"))
    got = answer(make(dialect, stream=stream), tmp_path)
    assert [draft.title for draft in got.ideas] == ["deeper", "relu"]
    assert got.ideas[0].constants == {"DEPTH": 6}
    assert got.ideas[0].expected == 0.01
    assert [edit.new for edit in got.ideas[1].edits] == ['ACTIVATION = "relu"', "loss = 0.5 * ("]
    assert got.usage.input_tokens > 500
    assert got.usage.output_tokens > 0
    assert got.usage.usd > 0
    assert len(llmock.requests) == 1
    assert "width does not matter" in (tmp_path / "agent" / NOTES).read_text()
    llmock.assert_resilient(strict=True)


def test_what_cannot_be_used_goes_back_once_with_the_reasons(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    llmock.reply(
        said(
            DEEPER,
            idea("unknown constant", {"DEPHT": 6}),
            idea("nowhere", None, ("no such text", "x")),
            idea("twice", None, ("DEPTH", "DEPHT")),
            idea("no Python", None, ("loss = (", "loss = ((")),
            idea("nothing", {"WIDTH": 128}),
            idea("again", {"DEPTH": 6}),
            idea("seed only", None, ("import time", "import time  # seed")),
            "not an object",
        )
    )
    llmock.reply(said(WIDER, idea("still wrong", {"NOPE": 1})))
    got = answer(make(dialect), tmp_path, Ask(n=5, base=BASE))
    assert [draft.title for draft in got.ideas] == ["deeper", "wider"]
    assert "still wrong" in got.note
    assert len(llmock.requests) == 2
    back = json.dumps(llmock.last_request.body)
    for reason in ("did you mean 'DEPTH'?", "no such text", "times", "would not parse", "changes nothing",
                   "was proposed before", "comments or layout", "must be an object"):  # fmt: skip
        assert reason in back
    llmock.assert_resilient()


@pytest.mark.parametrize(
    "text",
    [
        "Here you are:\n```json\n" + said(DEEPER) + "\n```\nGood luck!",
        "I think this: " + said(DEEPER),
        json.dumps([DEEPER]),
        json.dumps(DEEPER),
        json.dumps({"ideas": json.dumps([DEEPER])}),
        json.dumps({"ideas": [{"title": "deeper", "constants": {"DEPTH": "6"}}]}),
    ],
    ids=["fence", "prose", "list", "bare", "quoted", "sloppy"],
)
def test_json_is_found_however_a_weak_model_wraps_it(llmock: LLMock, tmp_path: Path, text: str) -> None:
    llmock.reply(text)
    got = answer(make("chat"), tmp_path)
    assert got.ideas[0].constants == {"DEPTH": 6}
    assert isinstance(got.ideas[0].constants["DEPTH"], int)


def test_prose_instead_of_json_goes_back_once_and_then_is_an_empty_answer(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    llmock.reply("I would rather not.", times=2)
    got = answer(make(dialect), tmp_path)
    assert not got.ideas
    assert not got.exhausted
    assert "no JSON object" in got.note
    assert len(llmock.requests) == 2
    assert got.usage.output_tokens > 0


def test_factors_have_levels_and_names_of_their_own(llmock: LLMock, dialect: str, tmp_path: Path) -> None:
    factors = [
        {"name": "depth", "levels": [idea("6", {"DEPTH": 6}), idea("8", {"DEPTH": 8})]},
        {"name": "width", "levels": [idea("256", {"WIDTH": 256}), idea("bad", {"NOPE": 1})]},
        {"name": "depth", "levels": [idea("10", {"DEPTH": 10})]},
        {"name": "empty", "levels": []},
    ]
    llmock.reply(json.dumps({"factors": factors}), times=2)
    got = answer(make(dialect), tmp_path, Ask(kind=AskKind.FACTORS, n=4, base=BASE))
    assert [(f.name, [level.title for level in f.levels]) for f in got.factors] == [
        ("depth", ["6", "8"]),
        ("width", ["256"]),
    ]
    assert not got.ideas


def test_exhausted_counts_only_without_ideas(llmock: LLMock, dialect: str, tmp_path: Path) -> None:
    llmock.reply(said(DEEPER, exhausted=True))
    assert not answer(make(dialect), tmp_path).exhausted
    llmock.reply(said(exhausted=True))
    (tmp_path / "other").mkdir()
    got = answer(make(dialect), tmp_path / "other")
    assert got.exhausted
    assert not got.ideas


@pytest.mark.parametrize("dialect", ["anthropic", "chat"], indirect=True)  # test_agent_openai has the third
def test_a_refusal_is_an_empty_answer_with_a_line(llmock: LLMock, dialect: str, tmp_path: Path) -> None:
    from llmock.scenarios import Reply

    llmock.add(Reply(text="I cannot help with that.", finish_reason="content_filter"))
    got = answer(make(dialect), tmp_path)
    assert "refused" in got.note
    assert len(llmock.requests) == 1


def test_an_answer_cut_by_its_length_goes_back_with_more_room(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    from llmock.scenarios import Reply

    llmock.add(Reply(text=said(DEEPER)[:60], finish_reason="length"))
    llmock.reply(said(DEEPER))
    got = answer(make(dialect, max_output_tokens=1000), tmp_path)
    assert got.ideas
    names = ("max_tokens", "max_output_tokens", "max_completion_tokens")
    limits = [next(body[name] for name in names if name in body) for body in bodies(llmock)]
    assert limits == [1000, 2000]


def test_what_the_study_has_is_not_proposed_again(llmock: LLMock, dialect: str, tmp_path: Path) -> None:
    study = new_study()
    study.add_idea(Idea(id=1, title="old", base=BASE, commit="1" * 40, constants={"DEPTH": 6}))
    study.add_idea(Idea(id=2, title="ReLU!", base=BASE, commit="2" * 40))
    llmock.reply(said(DEEPER, RELU, WIDER))
    llmock.reply(said(exhausted=True))
    got = answer(make(dialect), tmp_path, Ask(n=3, base=BASE), study=study)
    assert [draft.title for draft in got.ideas] == ["wider"]
    assert "the same as idea 1" in json.dumps(llmock.last_request.body)
    assert "idea 2 of the study has the same title" in json.dumps(llmock.last_request.body)


def test_the_brief_is_in_the_request_and_the_stable_part_comes_first(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    llmock.reply(said(DEEPER))
    answer(make(dialect), tmp_path)
    body = json.dumps(bodies(llmock)[0])
    assert body.index("DROPOUT = 0.1") < body.index("Where the study stands") < body.index("Give up to 2")


def test_at_the_same_time_conversations_look_at_different_parts(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    llmock.reply(said(DEEPER))
    llmock.reply(said(DEEPER))
    llmock.reply(said(WIDER), times=2)

    async def main() -> list[Answer]:
        agent = make(dialect, parallel=2)
        assert agent.parallel == 2
        told = brief(tmp_path)
        answers = await asyncio.gather(*(agent.answer(Ask(n=1, base=BASE), told) for _ in range(2)))
        await agent.aclose()
        return list(answers)

    titles = [draft.title for got in asyncio.run(main()) for draft in got.ideas]
    assert sorted(titles) == ["deeper", "wider"]
    assert any("Look first at" in json.dumps(body) for body in bodies(llmock))


def junk(random: Random, depth: int = 0) -> Any:
    """Some JSON, with the right keys often enough to get far."""
    keys = ["ideas", "title", "constants", "edits", "name", "value", "path", "old", "new", "levels", "reason"]
    texts = [
        "",
        "DEPTH",
        "train.py",
        "6",
        "loss = (",
        "\ud800",
        "\x00",
        "\u2028",
        "nan",
        "1e999",
        "../x",
        "/etc",
    ]
    plain = [None, True, -1, 0, 1e308, float("inf"), *texts]
    if depth > 4 or random.random() < 0.3:
        return random.choice(plain)
    if random.random() < 0.4:
        return [junk(random, depth + 1) for _ in range(random.randrange(4))]
    return {random.choice(keys): junk(random, depth + 1) for _ in range(random.randrange(6))}


def test_whatever_a_model_says_is_either_a_draft_or_a_reason(tmp_path: Path) -> None:
    random = Random(0)
    checker = Checker(brief(tmp_path), Ask(n=3, base=BASE))
    for _ in range(3000):
        raw = junk(random)
        with contextlib.suppress(UsageError):
            checker.draft(raw)
        with contextlib.suppress(UsageError):
            checker.factor(raw)
        with contextlib.suppress(UsageError):
            entries(read_json(json.dumps(raw), "ideas"), "ideas")
        context = ToolContext(checker, lambda text: None)
        text, failed = asyncio.run(call(context, "set_constants", raw, key="k"))
        assert text or not failed


@pytest.mark.parametrize("mode", ["propose", "tools"])
def test_text_that_no_file_can_hold_is_made_whole(
    llmock: LLMock, dialect: str, tmp_path: Path, mode: str
) -> None:
    """JSON can spell half of a surrogate pair, and line ends that only Python knows."""
    title = "half \ud800 of \u2028 it"
    if mode == "propose":
        llmock.reply(json.dumps({"ideas": [{**DEEPER, "title": title}]}))
    else:
        tool_calls(llmock, EDIT, ("submit", {"title": title}), ("done", {}))
    got = answer(make(dialect, mode=mode), tmp_path)
    assert [draft.title for draft in got.ideas] == ["half ? of it"]
    loaded = Conversation.load(conversations(tmp_path)[0])
    assert loaded is not None
    assert loaded.answer == got


def test_edits_that_only_set_constants_become_constants(tmp_path: Path) -> None:
    checker = Checker(brief(tmp_path), Ask(base=BASE))
    checked = checker.draft(idea("deeper", None, ("DEPTH = 4  # layers", "DEPTH = 6  # more layers")))
    assert checked.draft.constants == {"DEPTH": 6}
    assert not checked.draft.edits


def test_constants_and_edits_together_are_one_change(tmp_path: Path) -> None:
    told = brief(tmp_path)
    checked = Checker(told, Ask(base=BASE)).draft(idea("both", {"DEPTH": 6}, ("loss = (", "loss = 2 * (")))
    [edit] = checked.draft.edits
    assert edit.old == told.files["train.py"]
    assert "DEPTH = 6  # layers" in edit.new
    assert "loss = 2 * (" in edit.new


@pytest.mark.parametrize("path", ["prepare.py", "../train.py", "/etc/passwd", "a/../../b.py", ""])
def test_files_that_may_not_change_are_refused(tmp_path: Path, path: str) -> None:
    raw = {"title": "x", "edits": [{"path": path, "old": "", "new": "X = 1\n"}]}
    for may in (None, lambda path: path.startswith("model/")):
        with pytest.raises(UsageError, match="may not be changed"):
            Checker(brief(tmp_path, is_editable=may), Ask(base=BASE)).draft(raw)


def test_a_new_file_may_be_made_where_the_workspace_lets(tmp_path: Path) -> None:
    raw = {"title": "x", "edits": [{"path": "model/new.py", "old": "", "new": "X = 1\n"}]}
    told = brief(tmp_path, is_editable=lambda path: path.startswith("model/"))
    assert Checker(told, Ask(base=BASE)).draft(raw).draft.edits[0].path == "model/new.py"


# ---- Faults -------------------------------------------------------------------------------------

FAULTS: dict[str, Callable[[LLMock], object]] = {
    "rate limit with Retry-After": lambda m: m.rate_limit(times=2, retry_after=0.2),
    "rate limit without": lambda m: m.fail(429),
    "overloaded": lambda m: m.fail(529, times=2, retry_after=0.05),
    "internal error": lambda m: m.fail(500, times=3),
    "unavailable": lambda m: m.fail(503),
    "connection dropped": lambda m: m.disconnect(after_chunks=2, times=2),
    "stream cut": lambda m: m.truncate(after_chunks=3, times=2),
    "garbled": lambda m: m.corrupt(after_chunks=2),
    "stalled": lambda m: m.stall(after_chunks=2, seconds=8),
    "all at once": lambda m: m.fail(500).truncate(after_chunks=2).rate_limit(retry_after=0.1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_costs_only_time(
    llmock: LLMock, dialect: str, tmp_path: Path, fault: str
) -> None:
    FAULTS[fault](llmock)
    llmock.reply(said(DEEPER), times=None)
    got = answer(make(dialect, timeout_s=1.0 if fault == "stalled" else 20.0), tmp_path)
    assert [draft.title for draft in got.ideas] == ["deeper"]
    llmock.assert_resilient()


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "API_KEY"), (403, "API_KEY"), (404, "agent.model"), (402, "billing")]
)
def test_what_only_the_user_can_mend_is_asked_once(
    llmock: LLMock, dialect: str, tmp_path: Path, status: int, hint: str
) -> None:
    llmock.fail(status, times=None, message="no")
    error = failure(make(dialect), tmp_path)
    assert error.retry_after_s is None
    assert hint in error.hint
    assert str(status) in str(error)
    assert len(llmock.requests) == 1
    assert len(str(error).splitlines()) == 1
    llmock.assert_resilient()


def test_an_account_without_money_is_not_asked_again(llmock: LLMock, dialect: str, tmp_path: Path) -> None:
    llmock.fail(429, times=None, code="insufficient_quota", message="You exceeded your current quota")
    error = failure(make(dialect), tmp_path)
    assert error.retry_after_s is None
    assert "billing" in error.hint
    assert len(llmock.requests) == 1


def test_a_service_that_stays_away_is_left_to_the_engine(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    llmock.fail(503, times=None, retry_after=0.05)
    error = failure(make(dialect, attempts=3), tmp_path)
    assert error.retry_after_s is not None
    assert error.retry_after_s >= 30
    assert len(llmock.requests) == 3
    llmock.assert_resilient()


def test_a_long_retry_after_is_left_to_the_engine_at_once(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    llmock.rate_limit(times=None, retry_after=500)
    error = failure(make(dialect), tmp_path)
    assert error.retry_after_s == 500
    assert len(llmock.requests) == 1


def test_an_unreachable_service_is_a_clear_line(dialect: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    error = failure(make(dialect, base_url=url, attempts=2), tmp_path)
    assert "cannot reach the service" in str(error)
    assert error.retry_after_s is not None


def test_a_brief_that_is_too_long_is_shortened_once(llmock: LLMock, dialect: str, tmp_path: Path) -> None:
    llmock.context_overflow()
    llmock.reply(said(DEEPER))
    files = {"train.py": SCRIPT, "long.py": "X = 1  # a line\n" * 20_000}
    got = answer(make(dialect), tmp_path, files=files)
    assert got.ideas
    first, second = (len(json.dumps(body)) for body in bodies(llmock))
    assert second < 0.7 * first
    llmock.assert_resilient()


def test_a_brief_that_stays_too_long_says_what_to_do(llmock: LLMock, dialect: str, tmp_path: Path) -> None:
    llmock.context_overflow(times=None)
    error = failure(make(dialect), tmp_path)
    assert "max_input_tokens" in error.hint
    assert error.retry_after_s is None
    assert len(llmock.requests) == 2


def test_a_server_that_knows_no_schemas_is_asked_in_other_forms(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    """It refuses the schema; then the plain request without OpenAI's own extras; then it takes the tool."""
    llmock.fail(400, times=1 if dialect == "anthropic" else 2, message="unknown parameter")
    llmock.reply(said(DEEPER))
    llmock.reply(said(WIDER))
    agent = make(dialect)
    told = brief(tmp_path)
    first, second = asking(agent, (Ask(base=BASE), told), (Ask(base=BASE), told))
    assert first.ideas
    assert second.ideas
    assert "tools" in bodies(llmock)[-1]
    assert len(llmock.requests) == (3 if dialect == "anthropic" else 4)  # the second ask knows the form
    llmock.assert_resilient()


def test_a_request_that_no_form_mends_shows_the_first_reason(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    llmock.fail(400, message="the very reason")
    llmock.fail(400, times=None, message="another")
    error = failure(make(dialect), tmp_path)
    assert "the very reason" in str(error)
    assert error.retry_after_s is None
    llmock.assert_resilient()


# ---- Keys and money -----------------------------------------------------------------------------


def test_the_key_is_nowhere_but_in_the_request(
    llmock: LLMock, dialect: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "arf")
    caplog.set_level(logging.DEBUG, "arf_plugins")
    llmock.reply(said(DEEPER))
    agent = make(dialect)
    told = brief(tmp_path)

    async def main() -> AgentError:
        await agent.answer(Ask(base=BASE), told)
        llmock.fail(401, times=None, message=f"Incorrect API key provided: {KEY} or sk-very*****6789")
        with pytest.raises(AgentError) as caught:
            await agent.answer(Ask(base=BASE), told)
        await agent.aclose()
        return caught.value

    error = asyncio.run(main())
    texts = [repr(agent), repr(agent.options), str(error), repr(error), repr(error.__cause__), caplog.text]
    texts += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    for text in texts:
        assert KEY not in text
        assert "6789" not in text
    assert error.__suppress_context__


def test_a_missing_key_is_an_error_at_once_that_names_the_variable(
    dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_BASE_URL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    name = "ANTHROPIC_API_KEY" if dialect == "anthropic" else "OPENAI_API_KEY"
    with pytest.raises(AgentError, match=f"{name} is not set"):
        make(dialect)
    asyncio.run(make(dialect, base_url="http://127.0.0.1:9/v1").aclose())  # a local model needs none
    monkeypatch.setenv("OTHER_KEY", "x")
    asyncio.run(make(dialect, key_env="OTHER_KEY").aclose())


def test_no_key_fits_into_the_options() -> None:
    with pytest.raises(ValueError, match="keys come from the environment"):
        OpenAIOptions(base_url="http://user:secret@host/v1")


def test_dollars_are_counted_by_the_users_own_prices(llmock: LLMock, dialect: str, tmp_path: Path) -> None:
    llmock.reply(said(DEEPER))
    agent = make(dialect, model="mine", prices={"mine": {"input": 1e6, "output": 10e6}})
    got = answer(agent, tmp_path)
    assert got.usage.usd == pytest.approx(got.usage.input_tokens + 10 * got.usage.output_tokens)


def test_a_budget_in_dollars_stops_asking_before_it_is_exceeded(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    study = new_study()
    study.usage = Usage(usd=0.99)
    error = failure(make(dialect, max_usd=1.0), tmp_path, study=study)
    assert "agent.max_usd" in str(error)
    assert error.retry_after_s is None
    assert not llmock.requests


def test_conversations_at_the_same_time_do_not_exceed_the_budget_together(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    """What a reply may cost is set aside while it is awaited, and what it does cost is known only then."""
    llmock.reply(said(DEEPER))
    llmock.reply(said(idea("wider", {"WIDTH": 96})))
    prices = {"mine": {"input": 0.0, "output": 1000.0}}  # 1 $ for an answer of 1,000 tokens

    async def main(max_usd: float) -> list[Answer | BaseException]:
        agent = make(dialect, model="mine", prices=prices, max_output_tokens=1000, max_usd=max_usd)
        told = brief(tmp_path / str(max_usd))
        asks = [agent.answer(Ask(base=BASE), told) for _ in range(2)]
        got = await asyncio.gather(*asks, return_exceptions=True)
        await agent.aclose()
        return got

    (tmp_path / "1.01").mkdir()
    first, second = asyncio.run(main(max_usd=1.01))
    assert isinstance(first, Answer)
    assert isinstance(second, AgentError)
    assert len(llmock.requests) == 1
    (tmp_path / "1.5").mkdir()
    answers = asyncio.run(main(max_usd=1.5))
    spent = [answer.usage.usd for answer in answers if isinstance(answer, Answer)]
    assert len(spent) == 2
    assert sum(spent) <= 1.5


def test_a_budget_in_dollars_needs_a_price(dialect: str) -> None:
    with pytest.raises(UsageError, match="no price is known for 'mine'"):
        make(dialect, model="mine", max_usd=1.0)


def test_an_ask_ends_when_its_own_budget_does(llmock: LLMock, dialect: str, tmp_path: Path) -> None:
    llmock.reply(said(DEEPER, idea("bad", {"NOPE": 1})))
    got = answer(make(dialect, max_tokens_per_ask=1500), tmp_path)
    assert [draft.title for draft in got.ideas] == ["deeper"]
    assert "max_tokens_per_ask" in got.note
    assert len(llmock.requests) == 1


# ---- After a crash ------------------------------------------------------------------------------


def conversations(folder: Path) -> list[Path]:
    return sorted((folder / "agent" / FOLDER).glob("*.jsonl"))


def cut_after(path: Path, kind: str, torn: str = "") -> None:
    """The file as a killed process leaves it: nothing after the first record of that kind."""
    kept = []
    for line in path.read_text().splitlines():
        kept.append(line)
        if json.loads(line)["kind"] == kind:
            break
    path.write_text("\n".join(kept) + "\n" + torn)


@pytest.mark.parametrize("torn", ["", '{"kind": "ans'], ids=["whole", "torn"])
def test_a_reply_that_was_paid_for_is_not_paid_for_again(
    llmock: LLMock, dialect: str, tmp_path: Path, torn: str
) -> None:
    llmock.reply(said(DEEPER, WIDER))
    first = answer(make(dialect), tmp_path)
    cut_after(conversations(tmp_path)[0], "reply", torn)
    again = answer(make(dialect), tmp_path)
    assert again == first
    assert len(llmock.requests) == 1
    assert len(conversations(tmp_path)) == 1
    loaded = Conversation.load(conversations(tmp_path)[0])
    assert loaded is not None
    assert loaded.answer == first


def test_an_answer_that_the_study_never_got_is_given_again(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    llmock.reply(said(DEEPER, WIDER))
    first = answer(make(dialect), tmp_path)
    assert answer(make(dialect), tmp_path) == first
    assert len(llmock.requests) == 1


def test_an_answer_that_the_study_has_is_not_given_again(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    llmock.reply(said(DEEPER, RELU))
    answer(make(dialect), tmp_path)
    study = new_study()
    study.add_idea(Idea(id=1, title="deeper", base=BASE, commit="1" * 40, constants={"DEPTH": 6}))
    study.add_idea(Idea(id=2, title="relu by another name", base=BASE, commit="2" * 40))
    llmock.reply(said(WIDER, {**RELU, "title": "relu with other words"}))
    llmock.reply(said(exhausted=True))
    again = answer(make(dialect), tmp_path, study=study)
    assert [draft.title for draft in again.ideas] == ["wider"]  # it remembers its own changes of code


def test_what_an_ask_cost_that_failed_is_counted_with_the_next(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    llmock.reply(said(idea("bad", {"NOPE": 1})))
    llmock.add(*_outage_after_first())
    agent = make(dialect, attempts=1)
    told = brief(tmp_path)

    async def main() -> tuple[Answer, Usage]:
        with pytest.raises(AgentError):
            await agent.answer(Ask(base=BASE), told)
        paid = Conversation.load(conversations(tmp_path)[0])
        assert paid is not None
        llmock.reset()
        llmock.reply(said(DEEPER))
        got = await agent.answer(Ask(base=BASE), told)
        await agent.aclose()
        return got, paid.spending.usage

    got, paid = asyncio.run(main())
    assert got.ideas
    assert got.usage.output_tokens > paid.output_tokens
    assert len(llmock.requests) == 1  # it went on with the conversation, and did not begin again


def test_ideas_are_not_held_up_by_a_service_that_goes_away_before_the_rest_is_mended(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    llmock.reply(said(DEEPER, idea("bad", {"NOPE": 1})))
    llmock.add(*_outage_after_first())
    got = answer(make(dialect, attempts=1), tmp_path)
    assert [draft.title for draft in got.ideas] == ["deeper"]


def _outage_after_first() -> Iterator[Any]:
    """A failure that the second request meets: the first one is let through by its delay."""
    from llmock.scenarios import Fail, Match

    class Second(Match):
        seen = 0

        def accepts(self, info: Any) -> bool:
            Second.seen += 1
            return Second.seen > 1

    yield Fail(503, times=None, match=Second())


# ---- Tools --------------------------------------------------------------------------------------


def tool_calls(llmock: LLMock, *calls: tuple[str, Mapping[str, Any]]) -> None:
    for name, arguments in calls:
        llmock.call_tool(name, dict(arguments))


EDIT = ("edit", {"path": "train.py", "old": "loss = (", "new": "loss = 0.5 * ("})
SUBMIT = ("submit", {"title": "half the loss", "reason": "it is smaller", "expected_gain": 0.1})


def test_a_conversation_with_tools_reads_edits_checks_and_submits(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    tool_calls(
        llmock,
        ("read_file", {"path": "train.py"}),
        ("search", {"text": "depth|width"}),
        ("constants", {}),
        ("results", {"count": 5}),
        ("experiment", {"id": 9}),
        ("effects", {}),
        ("hardware", {}),
        ("write_note", {"text": "the loss can be halved"}),
        ("read_notes", {}),
        EDIT,
        ("check", {}),
        SUBMIT,
        ("set_constants", {"constants": [{"name": "DEPTH", "value": 6}]}),
        ("submit", {"title": "deeper", "reason": "r", "expected_gain": 0, "risk": "memory"}),
    )
    got = answer(make(dialect, mode="tools"), tmp_path)
    assert [draft.title for draft in got.ideas] == ["half the loss", "deeper"]
    assert got.ideas[1].constants == {"DEPTH": 6}
    assert "Risk: memory" in got.ideas[1].reason
    assert "the loss can be halved" in (tmp_path / "agent" / NOTES).read_text()
    history = json.dumps(llmock.last_request.body)
    for text in ("DEPTH = 4  # layers", "there is no experiment 9", "+    loss = 0.5 * (", "- cpu: 2 slots"):
        assert text in history
    assert len(llmock.requests) == 14
    llmock.assert_resilient(strict=True)


def test_mistakes_with_tools_are_told_to_the_model(llmock: LLMock, dialect: str, tmp_path: Path) -> None:
    llmock.break_tool_call("unknown_tool")
    tool_calls(
        llmock,
        ("check", {}),
        ("edit", {"path": "prepare.py", "old": "a", "new": "b"}),
        ("edit", {"path": "train.py", "old": "not there at all", "new": "b"}),
        ("read_file", {"path": "trian.py"}),
        ("read_file", {"file": "train.py"}),
        ("submit", {"title": "nothing", "reason": "", "expected_gain": 0}),
        ("edit", {"path": "train.py", "old": "loss = (", "new": "loss = (("}),
        ("submit", {"title": "broken", "reason": "", "expected_gain": 0}),
        ("reset", {}),
    )
    tool_calls(llmock, EDIT, SUBMIT, ("done", {"note": "that is all"}))
    got = answer(make(dialect, mode="tools"), tmp_path)
    assert [draft.title for draft in got.ideas] == ["half the loss"]
    assert got.note == "that is all"
    history = json.dumps(llmock.last_request.body)
    for text in ("may not be changed", "is not there", "did you mean 'train.py'", "no argument 'file'",
                 "changes nothing", "would not parse", "there is no tool"):  # fmt: skip
        assert text in history
    llmock.assert_resilient()


def test_arguments_that_are_no_json_go_back_to_the_model(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    tool_calls(llmock, EDIT, EDIT, SUBMIT, ("done", {}))
    llmock.break_tool_call("malformed_arguments")
    got = answer(make(dialect, mode="tools"), tmp_path)
    assert [draft.title for draft in got.ideas] == ["half the loss"]
    assert "not a JSON object" in json.dumps(llmock.last_request.body)


def test_factors_are_submitted_level_by_level(llmock: LLMock, dialect: str, tmp_path: Path) -> None:
    for value in (6, 8):
        tool_calls(
            llmock,
            ("set_constants", {"constants": [{"name": "DEPTH", "value": value}]}),
            ("submit", {"title": f"{value}", "reason": "r", "expected_gain": 0, "factor": "depth"}),
        )
    tool_calls(llmock, ("done", {}))
    ask = Ask(kind=AskKind.FACTORS, n=2, base=BASE)
    got = answer(make(dialect, mode="tools"), tmp_path, ask)
    assert [(f.name, [level.title for level in f.levels]) for f in got.factors] == [("depth", ["6", "8"])]


def test_a_conversation_ends_at_its_turns_and_keeps_what_was_submitted(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    tool_calls(llmock, EDIT, SUBMIT, ("check", {}), ("constants", {}))
    got = answer(make(dialect, mode="tools", max_turns=4), tmp_path, Ask(n=9, base=BASE))
    assert [draft.title for draft in got.ideas] == ["half the loss"]
    assert "max_turns 4" in got.note
    assert "1 more replies" in json.dumps(llmock.last_request.body)


def test_a_conversation_that_goes_in_circles_ends(llmock: LLMock, dialect: str, tmp_path: Path) -> None:
    llmock.call_tool("check", {}, times=None)
    got = answer(make(dialect, mode="tools"), tmp_path)
    assert "in circles" in got.note
    assert len(llmock.requests) == 6
    assert "do something else" in json.dumps(llmock.last_request.body)


def test_a_model_that_only_talks_is_reminded_once(llmock: LLMock, dialect: str, tmp_path: Path) -> None:
    llmock.reply("Let me think about it.", times=2)
    got = answer(make(dialect, mode="tools"), tmp_path)
    assert not got.ideas
    assert len(llmock.requests) == 2


def test_a_service_that_goes_away_in_mid_conversation_costs_nothing_that_was_submitted(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    from llmock.scenarios import Fail, Match

    class Third(Match):
        seen = 0

        def accepts(self, info: Any) -> bool:
            Third.seen += 1
            return Third.seen > 2

    llmock.add(Fail(503, times=None, match=Third()))
    tool_calls(llmock, EDIT, SUBMIT)
    got = answer(make(dialect, mode="tools", attempts=2), tmp_path)
    assert [draft.title for draft in got.ideas] == ["half the loss"]
    assert "broken off" in got.note


@pytest.mark.parametrize("records", range(2, 9))
def test_a_conversation_that_was_killed_goes_on_where_it_was(
    llmock: LLMock, dialect: str, tmp_path: Path, records: int
) -> None:
    """Whatever the last record is, nothing is asked twice and the edits are as they were."""
    tool_calls(llmock, ("constants", {}), EDIT, SUBMIT, ("done", {}))
    whole = answer(make(dialect, mode="tools"), tmp_path)
    path = conversations(tmp_path)[0]
    lines = path.read_text().splitlines()
    replies = sum(json.loads(line)["kind"] == "reply" for line in lines[:records])
    path.write_text("\n".join(lines[:records]) + "\n")
    llmock.reset()
    tool_calls(llmock, *[("constants", {}), EDIT, SUBMIT, ("done", {})][replies:])
    again = answer(make(dialect, mode="tools"), tmp_path)
    assert again.ideas == whole.ideas
    assert len(llmock.requests) == 4 - replies


def test_a_conversation_that_outgrows_the_window_leaves_old_results_out(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    from llmock.scenarios import Fail, Match

    class Eighth(Match):
        seen = 0

        def accepts(self, info: Any) -> bool:
            Eighth.seen += 1
            return Eighth.seen == 8

    message = "This model's maximum context length was exceeded."
    llmock.add(Fail(400, times=None, code="context_length_exceeded", message=message, match=Eighth()))
    tool_calls(llmock, *(("search", {"text": f"{k}|DEPTH"}) for k in range(7)), EDIT, SUBMIT, ("done", {}))
    got = answer(make(dialect, mode="tools"), tmp_path)
    assert [draft.title for draft in got.ideas] == ["half the loss"]
    assert json.dumps(llmock.last_request.body).count("[left out]") > 2
    llmock.assert_resilient()


# ---- The contract and whole studies -------------------------------------------------------------


def many_answers(llmock: LLMock) -> None:
    """Answers for any ask: each has fresh ideas and fresh factors."""
    for k in range(12):
        ideas = [idea(f"lr {k} {j}", {"LEARNING_RATE": 1e-4 * (1 + 10 * k + j)}) for j in range(6)]
        factors = [
            {"name": f"f {k} {j}", "levels": [idea(f"decay {k} {j}", {"WEIGHT_DECAY": 0.01 * (k + j / 10)})]}
            for j in range(4)
        ]
        llmock.reply(json.dumps({"ideas": ideas, "factors": factors}))


class ModelAgentSuite(AgentSuite):
    gives_factors = True
    dialect = ""

    @pytest.fixture(autouse=True)
    def _service(self, llmock: LLMock) -> None:
        many_answers(llmock)

    def make(self) -> Agent:
        return make(self.dialect)


class TestAnthropic(ModelAgentSuite):
    dialect = "anthropic"


class TestResponses(ModelAgentSuite):
    dialect = "responses"


class TestChat(ModelAgentSuite):
    dialect = "chat"


del ModelAgentSuite, AgentSuite  # pytest would take them for suites of their own


def small_study(workspace: Path, flags: Mapping[str, object]) -> tuple[dict[str, Any], Store]:
    usual = {"backend.slots": 2, "noise.replicates": 3, "strategy.name": "greedy"}
    return run_study(workspace, {**usual, **flags}, disable=["report"])


def with_mistakes(llmock: LLMock) -> None:
    """A night at the model: good ideas, and everything that goes wrong between them."""
    llmock.rate_limit(retry_after=0.1).truncate(after_chunks=3).fail(500, retry_after=0.1)
    llmock.reply("this one is cut off")
    llmock.reply(
        said(idea("deeper", {"DEPTH": 6}), idea("typo", {"DEPHT": 6}), idea("dropout", {"DROPOUT": 0.0}))
    )
    llmock.reply("Sorry, here is prose instead.")
    llmock.reply(
        said(idea("lr", {"LEARNING_RATE": 3e-3}), idea("crash", None, ("loss = 2.0", "loss = undefined")))
    )
    llmock.reply(
        said(idea("deeper again", {"DEPTH": 6}), idea("unparsable", None, ("loss = 2.0", "loss = (")))
    )
    llmock.reply(said(idea("smooth", None, ("0.9**step", "0.8**step")), idea("deepest", {"DEPTH": 16})))
    for k in range(12):
        llmock.reply(
            said(
                idea(f"lr {k}", {"LEARNING_RATE": 1e-3 * (k + 4)}),
                idea(f"d {k}", {"DROPOUT": 0.01 * (k + 1)}),
            )
        )


def agent_flags(dialect: str) -> dict[str, object]:
    name = (
        {"agent.name": "anthropic"}
        if dialect == "anthropic"
        else {"agent.name": "openai", "agent.api": dialect}
    )
    return {**name, "agent.backoff_s": 0.02}


def test_a_whole_study_with_answers_that_contain_mistakes(
    llmock: LLMock, dialect: str, arf_workspace: Path
) -> None:
    with_mistakes(llmock)
    summary, store = small_study(
        arf_workspace, {**agent_flags(dialect), "agent.parallel": 1, "budget.max_experiments": 24}
    )
    experiments = store.experiments()
    assert len(experiments) >= 12
    assert all(e.state is ExperimentState.ENDED and e.verdict is not None for e in experiments)
    titles = {idea.title for idea in store.load().ideas.values()}
    assert titles >= {"deeper", "dropout", "lr", "crash"}
    assert not titles & {"typo", "unparsable", "deeper again"}
    assert summary["best"]["gain"] > 0.005
    usage = store.load().usage
    assert usage.input_tokens > 1000
    assert usage.usd > 0
    llmock.assert_resilient()


def test_a_whole_study_with_tools(llmock: LLMock, dialect: str, arf_workspace: Path) -> None:
    for k in range(12):
        arguments = {"constants": [{"name": "DEPTH", "value": 8 + k}]}  # all of them clearly worse
        llmock.call_tool("set_constants", {"constants": [{"name": "NOPE", "value": 1}]})
        llmock.call_tool("set_constants", arguments)
        llmock.call_tool("submit", {"title": f"depth {8 + k}", "reason": "r", "expected_gain": 0})
    flags = {
        **agent_flags(dialect),
        "claim.name": "none",
        "agent.mode": "tools",
        "budget.max_experiments": 14,  # 3 of the baseline and the first of the 12 changes
        "agent.parallel": 1,
    }
    _, store = small_study(arf_workspace, flags)
    assert len(store.experiments()) >= 12
    assert sum(e.title.startswith("depth") for e in store.experiments()) >= 3
    llmock.assert_resilient()


def test_a_whole_study_that_the_model_plans(llmock: LLMock, dialect: str, arf_workspace: Path) -> None:
    for k in range(6):
        change = {"constants": [{"name": "DEPTH", "value": 8 + k}], "title": f"depth {8 + k}", "reason": "r"}
        llmock.call_tool("submit", {**change, "tier": "no such tier"})
        llmock.call_tool("submit", {**change, "runs": 2})
        llmock.call_tool("submit", {"again": 1, "title": "the baseline again", "reason": "its noise"})
        llmock.call_tool("done", {"note": f"batch {k}", "exhausted": False})
    flags = {**agent_flags(dialect), "agent.mode": "tools", "budget.max_experiments": 16, "agent.parallel": 1}
    _, store = small_study(arf_workspace, {**flags, "strategy.name": "agent"})
    experiments = store.experiments()
    assert len(experiments) >= 12
    planned = [e for e in experiments if e.title.startswith("depth")]
    assert len(planned) >= 3
    assert all(idea.reason == "r" for idea in store.load().ideas.values())
    assert [e for e in experiments if e.title == "again: baseline"]
    assert "batch 0" in [text for _, kind, text in store.events(100) if kind == "agent"]
    llmock.assert_resilient()


def test_a_model_that_proposes_may_serve_the_agent_strategy_too(
    llmock: LLMock, dialect: str, arf_workspace: Path
) -> None:
    for k in range(8):
        entry = {**idea(f"depth {8 + k}", {"DEPTH": 8 + k}), "ideas": [], "again": 0, "runs": 1, "tier": ""}
        llmock.reply(json.dumps({"experiments": [entry], "plan": f"batch {k}", "exhausted": False}))
    flags = {**agent_flags(dialect), "agent.mode": "propose", "budget.max_experiments": 10}
    _, store = small_study(arf_workspace, {**flags, "strategy.name": "agent", "agent.parallel": 1})
    assert sum(e.title.startswith("depth") for e in store.experiments()) >= 2


# ---- A study's money, preflights, and conversations that go on -----------------------------------


PRICED = {"agent.model": "mine", "agent.prices": {"mine": {"input": 1.0, "output": 100.0}}}


@pytest.mark.parametrize("mode", ["propose", "tools"])
def test_a_study_ends_before_its_dollars_are_exceeded(
    llmock: LLMock, dialect: str, arf_workspace: Path, mode: str
) -> None:
    for k in range(60):
        change = {"constants": [{"name": "DEPTH", "value": 8 + k}]}
        if mode == "propose":
            llmock.reply(said(idea(f"depth {8 + k}", {"DEPTH": 8 + k})))
        else:
            llmock.call_tool("set_constants", change)
            llmock.call_tool("submit", {"title": f"depth {8 + k}", "reason": "r", "expected_gain": 0})
    flags = {
        **agent_flags(dialect), **PRICED, "agent.mode": mode, "agent.parallel": 2,
        "agent.max_output_tokens": 1000, "budget.max_usd": 0.25, "budget.max_experiments": 60,
    }  # fmt: skip
    summary, store = small_study(arf_workspace, flags)
    assert 0.02 < store.load().usage.usd <= 0.25
    assert summary["state"] == "finished"
    assert any("of budget.max_usd" in text for _, kind, text in store.events(200) if kind == "agent")
    assert summary["money"]["an_idea"]["usd"] > 0


def test_a_study_ends_before_its_tokens_are_exceeded(
    llmock: LLMock, dialect: str, arf_workspace: Path
) -> None:
    for k in range(60):
        llmock.reply(said(idea(f"depth {8 + k}", {"DEPTH": 8 + k})))
    flags = {
        **agent_flags(dialect), "agent.max_output_tokens": 1000, "agent.parallel": 2,
        "budget.max_tokens": 12_000, "budget.max_experiments": 60,
    }  # fmt: skip
    _, store = small_study(arf_workspace, flags)
    usage = store.load().usage
    assert 1000 < usage.input_tokens + usage.output_tokens <= 12_000


@pytest.mark.parametrize("mode", ["propose", "tools"])
def test_a_preflight_sends_back_what_breaks_and_costs_no_experiment(
    llmock: LLMock, dialect: str, arf_workspace: Path, mode: str
) -> None:
    breaks, works = ("loss = 2.0", "loss = undefined"), {"DEPTH": 6}
    edits = [{"path": "train.py", "old": breaks[0], "new": breaks[1]}]
    if mode == "propose":
        llmock.reply(said(idea("breaks", None, breaks)))
        llmock.reply(said(idea("works", works)))
    else:
        llmock.call_tool("submit", {"edits": edits, "title": "breaks", "reason": "r"})
        llmock.call_tool(
            "submit", {"constants": [{"name": "DEPTH", "value": 6}], "title": "works", "reason": "r"}
        )
    for _ in range(20):
        llmock.reply(said(exhausted=True)) if mode == "propose" else llmock.call_tool(
            "done", {"exhausted": True}
        )
    flags = {
        **agent_flags(dialect), "agent.mode": mode, "agent.parallel": 1, "agent.preflight": 60.0,
        "backend.slots": 6, "budget.max_experiments": 12,
    }  # fmt: skip
    # More slots than runs of the baseline: what finds no free slot is not tried.
    strategy = "agent" if mode == "tools" else "greedy"
    _, store = small_study(arf_workspace, {**flags, "strategy.name": strategy})
    titles = {experiment.title for experiment in store.experiments()}
    assert "breaks" not in titles
    assert "works" in titles
    sent = json.dumps(bodies(llmock))
    assert "it was tried out, and broke" in sent
    assert "undefined" in sent


def test_a_planning_model_goes_on_with_one_conversation(
    llmock: LLMock, dialect: str, arf_workspace: Path
) -> None:
    for k in range(6):
        change = {"constants": [{"name": "DEPTH", "value": 8 + k}], "title": f"depth {8 + k}", "reason": "r"}
        llmock.call_tool("submit", change)
        llmock.call_tool("done", {"note": f"batch {k}", "exhausted": False})
    flags = {**agent_flags(dialect), "agent.mode": "tools", "agent.parallel": 1, "budget.max_experiments": 9}
    small_study(arf_workspace, {**flags, "strategy.name": "agent"})
    sent = [json.dumps(body) for body in bodies(llmock)]
    (follow_up, *_) = (text for text in sent if "Results have come in." in text)
    assert follow_up.count("Make val_bpb") == sent[0].count("Make val_bpb")  # the program is told once
    assert "batch 0" in follow_up
    assert "depth 8" in follow_up
    first = (study_directory(arf_workspace, "s") / "agent" / FOLDER / "000002.jsonl").read_text()
    assert json.loads(first.splitlines()[0])["before"] == "000001.jsonl"


def test_a_planning_model_may_answer_in_one_go(llmock: LLMock, dialect: str, arf_workspace: Path) -> None:
    plan = [
        {**idea("deeper", {"DEPTH": 6}), "ideas": [], "again": 0, "runs": 2, "tier": "cpu", "budget": 0},
        {**idea("nowhere", {"NOPE": 6}), "ideas": [], "again": 0, "runs": 1, "tier": "", "budget": 0},
        {"title": "the baseline again", "again": 1, "runs": 1, "ideas": [], "tier": ""},
    ]
    llmock.reply(json.dumps({"experiments": plan, "plan": "first look", "exhausted": False}))
    for _ in range(10):
        llmock.reply(json.dumps({"experiments": [], "plan": "done", "exhausted": True}))
    flags = {
        **agent_flags(dialect),
        "agent.mode": "propose",
        "agent.parallel": 1,
        "budget.max_experiments": 12,
    }
    _, store = small_study(arf_workspace, {**flags, "strategy.name": "agent"})
    titles = [experiment.title for experiment in store.experiments()]
    assert titles.count("deeper") + titles.count("again: deeper") >= 2
    assert "the baseline again" in titles or titles.count("again: baseline") == 1
    assert "nowhere" not in titles


def test_what_an_ask_usually_costs_is_told_without_asking(
    llmock: LLMock, dialect: str, tmp_path: Path
) -> None:
    prices = {"mine": {"input": 1.0, "output": 100.0}}
    one = make(dialect, model="mine", prices=prices).estimate(brief(tmp_path))
    many = make(dialect, model="mine", prices=prices, mode="tools").estimate(brief(tmp_path))
    assert one is not None
    assert many is not None
    assert 0 < one.usd < many.usd
    assert make(dialect, model="unheard-of").estimate(brief(tmp_path)) is None
    assert not llmock.requests


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dollars_that_cannot_be_counted_are_refused_before_a_job(dialect: str, tmp_path: Path) -> None:
    unpriced = make(dialect, model="mine")
    unpriced.check(brief(tmp_path))
    with pytest.raises(UsageError, match=r"budget\.max_usd cannot be kept.*'mine'.*max_tokens"):
        unpriced.check(brief(tmp_path, budget_left={"usd": 5.0}))
    make(dialect, model="mine", prices={"mine": {"input": 1, "output": 2}}).check(
        brief(tmp_path, budget_left={"usd": 5.0})
    )
