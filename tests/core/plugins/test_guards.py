"""What plugins may do wrong: whatever it is, one line names the plugin, and a study goes on or ends well."""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import evolve

from arf.config.schema import load
from arf.errors import AgentError, ArfError, BackendError, PluginError
from arf.hooks import Declaration, hookimpl
from arf.interfaces import Brief, Finding, HeldResource
from arf.launch import create, resume, study_directory
from arf.plugins.registry import Plugins
from arf.store.database import Store
from arf.study import Study
from arf.testing.fakes import FakeAgent, FakeBackend, FakeMetricParser, FakeStrategy
from arf.types import (
    Answer,
    Ask,
    Draft,
    FactorDraft,
    Job,
    JobResult,
    JobState,
    Plan,
    Reading,
    Role,
    Tier,
    Usage,
    Verdict,
)

DO: dict[str, Any] = {}
"""What the plugin below does, by method: the value that it gives, an error that it raises, or a function."""


def do(method: str, otherwise: Callable[[], Any]) -> Any:
    if method not in DO:
        return otherwise()
    what = DO[method]
    if isinstance(what, BaseException):
        raise what
    return what() if callable(what) else what


class OddStrategy(FakeStrategy):
    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        found: Sequence[Plan | Ask] = do("decide", lambda: FakeStrategy.decide(self, study, free))
        return found

    def why_ended(self, study: Study) -> str:
        return do("why_ended", lambda: "")


class OddAgent(FakeAgent):
    @property
    def parallel(self) -> int:
        return do("parallel", lambda: 3)

    def check(self, brief: Brief) -> None:
        do("check", lambda: None)

    def estimate(self, brief: Brief) -> Usage | None:
        return do("estimate", lambda: None)

    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        return do("answer", lambda: Answer(exhausted=True))

    async def aclose(self) -> None:
        do("aclose", lambda: None)


class OddBackend(FakeBackend):
    async def tiers(self) -> Sequence[Tier]:
        return do("tiers", lambda: [Tier(name="fake", slots=2)])

    async def submit(self, job: Job) -> str:
        handle = await FakeBackend.submit(self, job)
        return do("submit", lambda: handle)

    async def wait(self, handle: str) -> JobResult:
        result = await FakeBackend.wait(self, handle)
        return do("wait", lambda: result)

    async def cancel(self, handle: str) -> None:
        do("cancel", lambda: None)

    def node_of(self, slot: str) -> str:
        return do("node_of", lambda: "node")

    def set_aside(self, node: str, why: str) -> bool:
        return do("set_aside", lambda: True)

    def notes(self) -> Sequence[str]:
        return do("notes", lambda: ["a note"])

    async def check(self) -> Sequence[Finding]:
        return do("check", list)

    async def held_resources(self) -> Sequence[HeldResource]:
        return do("held_resources", list)

    async def down(self) -> None:
        do("down", lambda: None)

    async def aclose(self) -> None:
        do("aclose", lambda: None)


class OddParser(FakeMetricParser):
    def parse(self, line: str) -> Sequence[Reading]:
        if "val_bpb: " in line:
            line = line.replace(": ", "=")
        return do("parse", lambda: FakeMetricParser.parse(self, line))


def declared(cls: type) -> Any:
    return hookimpl(
        lambda: [Declaration(name="odd", summary="odd", implementation=f"{__name__}:{cls.__name__}")]
    )


@pytest.fixture
def plugins() -> Plugins:
    DO.clear()
    plugins = Plugins.load(disable=["report"])
    odd = SimpleNamespace(
        arf_register_strategies=declared(OddStrategy),
        arf_register_agents=declared(OddAgent),
        arf_register_backends=declared(OddBackend),
        arf_register_metric_parsers=declared(OddParser),
    )
    plugins.register(odd, "oddities", distribution="odd-dist", version="7")
    return plugins


ERRORS = [
    RuntimeError("oh\nno"),
    SystemExit(3),
    asyncio.CancelledError("out of the blue"),
    RecursionError("too deep"),
    MemoryError(),
    GeneratorExit(),
]


async def use(plugins: Plugins, kind: str, method: str, study: Study, directory: Path) -> Any:
    """Call a method of the plugin as the engine does."""
    made: Any = plugins.make(kind, "odd", None, *([directory] if kind == "backend" else []))
    brief = Brief(study=study, files={})
    job = Job(
        key="1", directory=directory, command="", env={}, log=directory / "log", tier="fake", time_limit_s=9.0
    )
    arguments: dict[str, tuple[Any, ...]] = {
        "decide": (study, {}),
        "why_ended": (study,),
        "estimate": (brief,),
        "answer": (Ask(base=study.base), brief),
        "submit": (job,),
        "cancel": ("1",),
        "node_of": ("slot",),
        "set_aside": ("node", "why"),
        "parse": ("line",),
    }
    if method == "wait":
        return await made.wait(await made.submit(job))
    if method == "parallel":
        return made.parallel
    given = getattr(made, method)(
        *arguments.get(method, (brief,) if (kind, method) == ("agent", "check") else ())
    )
    return await given if asyncio.iscoroutine(given) else given


MUST = [
    ("strategy", "decide"),
    ("agent", "check"),
    ("agent", "answer"),
    ("backend", "tiers"),
    ("backend", "submit"),
    ("backend", "wait"),
    ("backend", "cancel"),
    ("backend", "held_resources"),
    ("backend", "down"),
]
MAY = {
    ("strategy", "why_ended"): "",
    ("agent", "parallel"): 1,
    ("agent", "estimate"): None,
    ("agent", "aclose"): None,
    ("backend", "node_of"): "",
    ("backend", "set_aside"): False,
    ("backend", "notes"): (),
    ("backend", "aclose"): None,
    ("parser", "parse"): (),
}


@pytest.mark.parametrize(("kind", "method"), MUST, ids=[".".join(pair) for pair in MUST])
def test_what_a_plugin_raises_names_it_and_the_line(
    kind: str, method: str, plugins: Plugins, arf_study: Study, tmp_path: Path
) -> None:
    for error in ERRORS:
        if isinstance(error, GeneratorExit) and kind != "strategy":
            continue  # how a coroutine is ended
        DO[method] = error
        with pytest.raises(PluginError) as caught:
            asyncio.run(use(plugins, kind, method, arf_study, tmp_path))
        said = str(caught.value)
        assert said.startswith(
            f"the {kind} 'odd' of the plugin oddities (of odd-dist 7) is broken: `{method}`"
        )
        assert type(error).__name__ in said
        assert f"{__file__}:" in said
        assert "\n" not in said
        assert caught.value.__cause__ is error


@pytest.mark.parametrize(("kind", "method"), MUST, ids=[".".join(pair) for pair in MUST])
def test_what_a_plugin_raises_on_purpose_stays_as_it_is(
    kind: str, method: str, plugins: Plugins, arf_study: Study, tmp_path: Path
) -> None:
    DO[method] = AgentError("closed", retry_after_s=3.0) if kind == "agent" else BackendError("full")
    with pytest.raises(ArfError) as caught:
        asyncio.run(use(plugins, kind, method, arf_study, tmp_path))
    assert caught.value is DO[method]


@pytest.mark.parametrize(("kind", "method"), MAY, ids=[".".join(pair) for pair in MAY])
def test_what_arf_can_do_without_is_a_warning_once(
    kind: str,
    method: str,
    plugins: Plugins,
    arf_study: Study,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for wrong in (RuntimeError("oh no"), SystemExit(1), object()):
        if method == "aclose" and not isinstance(wrong, BaseException):
            continue  # what it gives is not looked at
        caplog.clear()
        DO[method] = wrong
        assert asyncio.run(use(plugins, kind, method, arf_study, tmp_path)) == MAY[kind, method]
        (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert "of odd-dist 7" in record.getMessage()
        assert f"`{method}`" in record.getMessage()


def test_an_interrupt_is_the_users(plugins: Plugins, arf_study: Study, tmp_path: Path) -> None:
    DO["decide"] = DO["parse"] = KeyboardInterrupt()
    for kind, method in (("strategy", "decide"), ("parser", "parse")):
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(use(plugins, kind, method, arf_study, tmp_path))


def test_cancelling_a_call_is_no_fault_of_the_plugin(plugins: Plugins, tmp_path: Path) -> None:
    async def main() -> None:
        DO["wait"] = lambda: JobResult(state=JobState.LOST)
        backend = plugins.make("backend", "odd", None, tmp_path)
        log = tmp_path / "log"
        job = Job(key="1", directory=tmp_path, command="", env={}, log=log, tier="fake", time_limit_s=9.0)
        waiting = asyncio.ensure_future(backend.wait(await backend.submit(job)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())


NOW = datetime.now(UTC)
DRAFT = Draft(title="d", constants={"DEPTH": 3})
PLAN = Plan(parent="0" * 40, role=Role.REPLICATE)
WRONG: dict[str, tuple[str, list[tuple[Any, str]]]] = {
    "decide": (
        "strategy",
        [
            (None, "it is None, not a list of a Plan or a Ask"),
            ((plan for plan in ()), "it is a generator"),
            ([PLAN, None], "[1] is None"),
            ([evolve(PLAN, ideas=[1])], "[0].ideas is a list, not a tuple"),
            ([evolve(PLAN, ideas=("1",))], "[0].ideas[0] is a str, not a whole number"),
            ([evolve(PLAN, ideas=(9,))], "idea 9"),
            ([evolve(PLAN, parent="f" * 40)], "no commit of the study"),
            ([evolve(PLAN, role="replicate")], "[0].role is a str, not a Role"),
            ([evolve(PLAN, tier="moon")], "the tier 'moon'; there is cpu"),
            ([evolve(PLAN, budget=math.nan)], "the budget nan"),
            ([evolve(PLAN, seed=-1)], "the seed -1"),
            ([Ask(base="0" * 40, n=0)], "an ask for 0 ideas"),
            ([Ask(base="main")], "'main', which is no commit"),
        ],
    ),
    "answer": (
        "agent",
        [
            (None, "it is None, not a Answer"),
            (DRAFT, "it is a Draft"),
            (Answer(ideas=[DRAFT]), "ideas is a list, not a tuple"),
            (Answer(ideas=(evolve(DRAFT, title=None),)), "ideas[0].title is None, not a text"),
            (Answer(ideas=(evolve(DRAFT, constants={"D": [3]}),)), "ideas[0].constants['D'] is a list"),
            (Answer(ideas=(evolve(DRAFT, constants={3: 3}),)), "a key of ideas[0].constants is a int"),
            (Answer(factors=(FactorDraft(name="f", levels=(None,)),)), "factors[0].levels[0] is None"),
            (Answer(exhausted=1), "exhausted is a int"),
            (Answer(usage=Usage(usd=-1.0)), "no cost"),
            (Answer(usage=Usage(usd=math.nan)), "no cost"),
            (Answer(usage=Usage(input_tokens=2**63)), "no cost"),
            (AgentError("no", usage=Usage(usd=-1.0)), "no cost"),
        ],
    ),
    "tiers": (
        "backend",
        [
            ([], "no tier"),
            ([Tier(name="a", slots=1), Tier(name="a", slots=2)], "two tiers of one name"),
            ([Tier(name="a", slots=0)], "the tier 'a' with slots 0"),
            ([Tier(name="a", slots=1, usd_per_hour=-1.0)], "the tier 'a' with usd_per_hour -1.0"),
            ([Tier(name="a", slots=1, speed=math.nan)], "the tier 'a' with speed nan"),
            ([Tier(name="", slots=1)], "the name ''"),
            ([Tier(name="a", slots=1.5)], "[0].slots is a float"),
        ],
    ),
    "submit": ("backend", [(None, "it is None, not a text"), ("", "handle ''"), ("\x00", "handle '\\x00'")]),
    "wait": (
        "backend",
        [
            (None, "it is None, not a JobResult"),
            (JobResult(state=JobState.RUNNING), "running, which is no end"),
            (JobResult(state="succeeded"), "state is a str, not a JobState"),
            (JobResult(state=JobState.FAILED, started_at=NOW.replace(tzinfo=None)), "started_at without a"),
            (JobResult(state=JobState.FAILED, ended_at=NOW.timestamp()), "ended_at is a float"),
            (JobResult(state=JobState.FAILED, exit_code=2**63), "exit code"),
        ],
    ),
    "held_resources": (
        "backend", [(None, "it is None"), ([HeldResource(name="c", usd_per_hour=math.inf)], "price")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("method", WRONG)
def test_what_a_plugin_gives_is_checked(
    method: str, plugins: Plugins, arf_study: Study, tmp_path: Path
) -> None:
    kind, wrongs = WRONG[method]
    for wrong, said in wrongs:
        DO[method] = wrong
        with pytest.raises(PluginError) as caught:
            asyncio.run(use(plugins, kind, method, arf_study, tmp_path))
        assert f"is broken: `{method}` gave what cannot be used: " in str(caught.value)
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (None, "[1] is None"),
        (Reading(name="", value=1.0), "''"),
        (Reading(name="a\ud800", value=1.0), "no name of a metric"),
        (Reading(name="a", value=1.0, step=-1), "the step -1"),
        (Reading(name="a", value=1.0, step=1.0), "step is a float"),
        (Reading(name=3, value=1.0), "name is a int"),
    ],
)
def test_a_line_with_an_unsound_reading_is_passed_over(
    reading: Any, said: str, plugins: Plugins, caplog: pytest.LogCaptureFixture
) -> None:
    parser = plugins.make("parser", "odd")
    DO["parse"] = [Reading(name="sound", value=1.0), reading]
    assert [parser.parse("a"), parser.parse("b")] == [(), ()]
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert said in record.getMessage()


def test_a_whole_number_is_a_value() -> None:
    assert isinstance(Reading(name="a", value=1).value, float)


def test_no_two_jobs_share_a_handle(plugins: Plugins, tmp_path: Path) -> None:
    async def main() -> None:
        backend = plugins.make("backend", "odd", None, tmp_path)
        DO["submit"] = "same"
        log = tmp_path / "log"
        job = Job(key="1", directory=tmp_path, command="", env={}, log=log, tier="fake", time_limit_s=9.0)
        assert await backend.submit(job) == await backend.submit(job) == "same"
        with pytest.raises(PluginError, match="the handle 'same' for 2, which 1 has"):
            await backend.submit(evolve(job, key="2"))

    asyncio.run(main())


def test_a_plan_that_was_refused_is_left_out_and_told_once(
    plugins: Plugins, arf_study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    strategy = plugins.make("strategy", "odd")
    arf_study.refuse(PLAN.parent, (), "they conflict")
    ask = Ask(base=arf_study.base)
    DO["decide"] = [PLAN, ask]
    assert [strategy.decide(arf_study, {}), strategy.decide(arf_study, {})] == [[ask], [ask]]
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "a plan again that was refused (they conflict)" in record.getMessage()


def test_the_traceback_is_there_for_who_traces(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arf_study: Study, tmp_path: Path
) -> None:
    monkeypatch.setenv("ARF_TRACE_HOOKS", "1")
    plugins = Plugins()
    plugins.register(SimpleNamespace(arf_register_strategies=declared(OddStrategy)), "odd")
    DO["decide"] = ZeroDivisionError("by zero")
    with pytest.raises(PluginError):
        asyncio.run(use(plugins, "strategy", "decide", arf_study, tmp_path))
    assert "Traceback" in capsys.readouterr().err


# ---- Whole studies ------------------------------------------------------------------------------


def run(workspace: Path, plugins: Plugins, *, goes_on: bool = False, **kinds: str) -> dict[str, Any]:
    flags = {f"{kind}.name": name for kind, name in kinds.items()}
    flags |= {"budget.max_experiments": "8", "noise.replicates": "3", "claim": "none"}

    async def main() -> dict[str, Any]:
        if goes_on:
            engine, lock = await resume(study_directory(workspace, "s"), plugins)
        else:
            config = load(workspace_file=workspace / "arf.yaml", flags=flags, options_class=plugins.options)
            engine, lock = await create(workspace, config, plugins, "s")
        try:
            return await engine.run()
        finally:
            engine.store.close()
            lock.release()

    return asyncio.run(main())


def from_call(number: int, what: BaseException, otherwise: Callable[[], Any]) -> Callable[[], Any]:
    """Does the right thing until a call, and then not."""
    calls = 0

    def call() -> Any:
        nonlocal calls
        calls += 1
        if calls >= number:
            raise what
        return otherwise()

    return call


@pytest.mark.parametrize("error", [RuntimeError("oh no"), SystemExit(3)], ids=["error", "exit"])
def test_a_study_whose_strategy_breaks_ends_and_goes_on_when_it_is_mended(
    error: BaseException, arf_workspace: Path, plugins: Plugins
) -> None:
    DO["decide"] = from_call(2, error, list)
    with pytest.raises(PluginError, match="odd-dist 7") as caught:
        run(arf_workspace, plugins, strategy="odd", agent="offline", backend="local")
    store = Store.open(study_directory(arf_workspace, "s"))
    assert (store.meta("state"), store.meta("end_reason")) == ("failed", str(caught.value))
    assert not store.load().running_count or all(not e.handle for e in store.experiments() if not e.verdict)
    store.close()
    DO.clear()
    summary = run(arf_workspace, plugins, goes_on=True)
    assert summary["state"] == "finished"


def test_a_study_whose_backend_fails_now_and_then_goes_on(arf_workspace: Path, plugins: Plugins) -> None:
    calls: list[int] = []
    right = JobResult(state=JobState.SUCCEEDED, started_at=NOW, ended_at=NOW)

    def wait() -> JobResult:
        calls.append(1)
        if len(calls) in (2, 5):
            raise RuntimeError("oh no")
        return right

    DO["wait"] = wait
    summary = run(arf_workspace, plugins, strategy="greedy", agent="offline", backend="odd", parser="odd")
    assert summary["state"] == "finished"
    assert summary["verdicts"].get(str(Verdict.CRASH), 0) == 0
