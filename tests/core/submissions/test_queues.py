"""What agents and people order from a running study: at the engine's queue, and through the mailbox."""

import asyncio
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from arf.config.schema import load
from arf.engine.engine import Engine
from arf.errors import AgentError, BackendError, StoreError, UsageError
from arf.hooks import Declaration, hookimpl
from arf.interfaces import Agent, Backend, Brief, HeldResource, SubmissionQueue
from arf.launch import create, resume, study_directory
from arf.plugins.registry import Plugins
from arf.status.costs import of_idea
from arf.status.held_resources import told
from arf.store.database import Store
from arf.submissions.remote import RemoteQueue
from arf.types import Answer, Ask, Draft, Edit, Role, Submission, SubmissionState, Usage, Verdict

SCRIPT = """#!/bin/sh
LEVEL=100    # the best is 140 [0..1000, step 10]
SIZE=3       # [1..9]
MODE=plain
case $MODE in
crash) echo "boom: it broke" >&2; exit 3 ;;
hang) echo "step 1/2 loss: 3.0"; sleep 60 ;;
esac
distance=$((LEVEL > 140 ? LEVEL - 140 : 140 - LEVEL))
echo "val_bpb: 1.$((1000 + distance * 10 + SIZE + ARF_SEED % 5))"
"""


async def until(true: Callable[[], object]) -> None:
    while not true():  # noqa: ASYNC110 - nothing to await: it is written by the engine
        await asyncio.sleep(0.02)


Act = Callable[[SubmissionQueue, Brief], Awaitable[None]]


def level(value: int) -> Draft:
    return Draft(title=f"LEVEL {value}", constants={"LEVEL": value})


def mode(name: str) -> Draft:
    return Draft(title=f"mode {name}", edits=(Edit(path="train.sh", old="MODE=plain", new=f"MODE={name}"),))


def submitted(*drafts: Draft, runs: int = 1) -> list[Submission]:
    return [Submission(draft=draft, runs=runs) for draft in drafts]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    directory = tmp_path / "workspace"
    directory.mkdir()
    (directory / "train.sh").write_text(SCRIPT)
    (directory / "arf.yaml").write_text(
        "workspace: {command: 'sh train.sh', editable: [train.sh]}\n"
        "limits: {budget_s: 1, time_limit_s: 20}\n"
        "backend: {name: local, slots: 2}\n"
        "strategy: greedy\n"
        "claim: none\n"
    )
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "base"]):
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments], cwd=directory, check=True
        )
    return directory


class Acting(Agent):
    """Does at the queue what a test says, once, and has no ideas of its own."""

    act: Act
    usage = Usage()
    has_acted = False

    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        assert brief.queue is not None
        if not self.has_acted:
            self.has_acted = True
            await type(self).act(brief.queue, brief)
        return Answer(exhausted=True, usage=self.usage)


class Planning(Agent):
    """Answers with submissions."""

    submissions: Sequence[Submission] = ()

    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        return Answer(submissions=tuple(self.submissions), exhausted=True)


class Away(Agent):
    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        raise AgentError("the service is closed")


class Standing1(Backend):
    """The local backend, as if it held a cluster that costs money."""

    up = True
    broken = False

    def __init__(self, options: Any, directory: Path) -> None:
        super().__init__(options, directory)
        self._local = Plugins.load().make("backend", "local", None, directory)
        self.tiers = self._local.tiers  # type: ignore[method-assign]
        self.submit = self._local.submit  # type: ignore[method-assign]
        self.wait = self._local.wait  # type: ignore[method-assign]
        self.cancel = self._local.cancel  # type: ignore[method-assign]
        self.aclose = self._local.aclose  # type: ignore[method-assign]
        type(self).up = True

    async def tiers(self) -> Any: ...
    async def submit(self, job: Any) -> Any: ...
    async def wait(self, handle: Any) -> Any: ...
    async def cancel(self, handle: Any) -> Any: ...

    async def held_resources(self) -> Sequence[HeldResource]:
        if self.broken:
            raise BackendError("the cloud does not answer")
        since = datetime(2026, 1, 1, tzinfo=UTC)
        return [HeldResource(name="arf-s-0", state="UP", usd_per_hour=2.5, since=since)] if self.up else []

    async def down(self) -> None:
        type(self).up = False


class TestPlugin:
    __test__ = False

    @hookimpl
    def arf_register_agents(self) -> list[Declaration]:
        return [_declared(cls) for cls in (Acting, Planning, Away)]

    @hookimpl
    def arf_register_backends(self) -> list[Declaration]:
        return [_declared(Standing1)]


def _declared(cls: type) -> Declaration:
    return Declaration(
        name=cls.__name__.lower(), summary="a test's", implementation=f"{__name__}:{cls.__name__}"
    )


def plugins_with() -> Plugins:
    plugins = Plugins.load(disable=["report"])
    plugins.register(TestPlugin(), "test")
    return plugins


def study(workspace: Path, **flags: object) -> Store:
    """Run a study to its end; gives its store."""
    plugins = plugins_with()

    async def main() -> None:
        named = {key.replace("__", "."): value for key, value in flags.items()}
        config = load(workspace_file=workspace / "arf.yaml", flags=named, options_class=plugins.options)
        engine, lock = await create(workspace, config, plugins, "s")
        await to_its_end(engine, lock)

    asyncio.run(main())
    return Store.open(study_directory(workspace, "s"))


async def to_its_end(engine: Engine, lock: Any) -> None:
    try:
        await engine.run()
    finally:
        lock.release()
        engine.store.close()


def acting(workspace: Path, act: Act, **flags: object) -> Store:
    Acting.act = staticmethod(act)  # type: ignore[assignment]
    return study(workspace, agent__name="acting", **flags)


def test_what_is_submitted_at_the_desk_is_run_and_judged(workspace: Path) -> None:
    async def act(queue: SubmissionQueue, brief: Brief) -> None:
        receipts = await queue.submit("k", [*submitted(level(140), runs=3), *submitted(level(90))])
        done = await queue.wait([receipt.id for receipt in receipts], 60)
        runs = [brief.study.experiments[n] for n in done[0].experiments]
        assert [run.role for run in runs] == [Role.CANDIDATE, Role.REPLICATE, Role.REPLICATE]
        assert [run.verdict for run in runs] == [Verdict.KEEP, Verdict.MEASURED, Verdict.MEASURED]
        assert len({run.seed for run in runs}) == 3
        worse = brief.study.experiments[done[1].experiments[0]]
        assert worse.verdict is Verdict.DISCARD

    store = acting(workspace, act)
    assert store.meta("state") == "finished"
    assert [order.state for order in store.orders([1, 2])] == [SubmissionState.ACCEPTED] * 2


def test_what_an_agent_submits_while_it_is_asked_counts_for_that_ask(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(queue: SubmissionQueue, brief: Brief) -> None:
        receipts = await queue.submit("k", submitted(level(140), level(90)))
        await queue.wait([receipt.id for receipt in receipts], 60)

    monkeypatch.setattr(Acting, "usage", Usage(usd=0.5))
    store = acting(workspace, act)
    ideas = [store.idea(number) for number in (1, 2)]
    assert [(idea.agent, idea.ask) for idea in ideas if idea] == [("acting", 1)] * 2
    assert [of_idea(store, idea).agent_usd for idea in ideas if idea] == [0.25, 0.25]


def test_ideas_are_put_together_and_experiments_run_again(workspace: Path) -> None:
    async def act(queue: SubmissionQueue, brief: Brief) -> None:
        size = Draft(title="SIZE 1", constants={"SIZE": 1})
        first = await queue.submit("a", submitted(level(120), size))
        await queue.wait([r.id for r in first], 60)
        study = brief.study
        base = study.base
        both = await queue.submit(
            "b", [Submission(ideas=(1, 2), base=base[:10]), Submission(again=5, runs=2)]
        )
        done = await queue.wait([r.id for r in both], 60)
        assert [receipt.problem for receipt in done] == ["", ""]
        together = study.experiments[done[0].experiments[0]]
        assert (together.ideas, together.parent) == ((1, 2), base)
        assert together.title == "LEVEL 120 + SIZE 1"
        again = [study.experiments[n] for n in done[1].experiments]
        assert {e.tree for e in again} == {study.experiments[5].tree}
        assert all(e.role is Role.REPLICATE for e in again)

    # Greedy might put them together by itself before they are submitted.
    assert acting(workspace, act, strategy__name="random").meta("state") == "finished"


@pytest.mark.parametrize(
    ("submission", "problem"),
    [
        (Submission(draft=Draft(title="x", constants={"LEVLE": 3})), "did you mean 'LEVEL'"),
        (Submission(draft=level(140), tier="gpu"), "there is no tier 'gpu'"),
        (Submission(draft=level(140), runs=0), "runs must be from 1"),
        (Submission(draft=level(140), base="feedbeef"), "is no commit of this study"),
        (Submission(draft=level(140), again=1), "no change of its own"),
        (Submission(again=99), "there is no experiment 99"),
        (Submission(ideas=(7,)), "there is no idea 7"),
        (Submission(), "needs a change"),
        (Submission(draft=level(100)), "changes nothing"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_with_the_reason(
    workspace: Path, submission: Submission, problem: str
) -> None:
    async def act(queue: SubmissionQueue, brief: Brief) -> None:
        (receipt,) = await queue.submit("k", [submission])
        assert receipt.state is SubmissionState.REFUSED
        assert problem in receipt.problem

    assert acting(workspace, act, noise__replicates=2).meta("state") == "finished"


def test_the_same_code_again_is_refused_and_names_the_experiment(workspace: Path) -> None:
    async def act(queue: SubmissionQueue, brief: Brief) -> None:
        first = await queue.submit("a", submitted(level(140)))
        await queue.wait([first[0].id], 60)
        second = await queue.submit("b", submitted(Draft(title="again", constants={"LEVEL": 140.0})))
        (done,) = await queue.wait([second[0].id], 60)
        assert done.state is SubmissionState.REFUSED

    acting(workspace, act)


def test_the_same_key_submits_once(workspace: Path) -> None:
    async def act(queue: SubmissionQueue, brief: Brief) -> None:
        twice = [await queue.submit("k", submitted(level(140))) for _ in range(2)]
        assert twice[0][0].id == twice[1][0].id
        at_once = await asyncio.gather(*(queue.submit("l", submitted(level(150))) for _ in range(3)))
        assert len({receipts[0].id for receipts in at_once}) == 1

    store = acting(workspace, act)
    assert [e.title for e in store.experiments() if e.role is Role.CANDIDATE] == ["LEVEL 140", "LEVEL 150"]


def test_an_answer_may_be_submissions(workspace: Path) -> None:
    Planning.submissions = submitted(level(140), level(150))
    store = study(workspace, agent__name="planning")
    assert {e.title for e in store.experiments() if e.role is Role.CANDIDATE} == {"LEVEL 140", "LEVEL 150"}
    assert store.idea(1).ask == 1  # type: ignore[union-attr]


def test_what_waits_is_withdrawn_and_what_runs_is_ended(workspace: Path) -> None:
    async def act(queue: SubmissionQueue, brief: Brief) -> None:
        receipts = await queue.submit(
            "k", submitted(mode("hang"), level(130), level(140), level(150), runs=4)
        )
        await until(lambda: 1 in brief.study.waiting and brief.study.waiting[1].experiments)
        hanging = (await queue.receipts([1]))[0].experiments[0]
        said = await queue.cancel([1, 4, 99], [hanging, 1])
        assert said == (
            "1 is withdrawn; 4 is withdrawn; nothing of 99 waits; "
            f"experiment {hanging} is ended; experiment 1 does not run"
        )
        await queue.wait([receipt.id for receipt in receipts[1:3]], 60)
        for number in (await queue.receipts([1]))[0].experiments:
            await queue.cancel([], [number])

    store = acting(workspace, act, backend__grace_s=0.2)
    hung = [e for e in store.experiments() if "mode hang" in e.title]
    assert {e.verdict for e in hung} == {Verdict.CANCELLED}
    assert not [e for e in store.experiments() if "150" in e.title]
    assert [order.state for order in store.orders([1, 4])] == [SubmissionState.CANCELLED] * 2


def test_a_change_is_tried_out_on_a_free_slot(workspace: Path) -> None:
    async def act(queue: SubmissionQueue, brief: Brief) -> None:
        await until(lambda: brief.study.experiments and not brief.study.running_count)
        crash = await queue.try_out(mode("crash"), "", 5)
        assert crash.broke
        assert "ended as failed with exit code 3" in crash.text
        assert "boom: it broke" in crash.text
        slow = await queue.try_out(mode("hang"), brief.study.base, 0.5)
        assert ("still ran after 0.5 s" in slow.text, slow.broke) == (True, False)
        good = await queue.try_out(level(140), "", 5)
        assert "ran to its end" in good.text
        assert "val_bpb 1.10" in good.text
        assert not good.broke
        with pytest.raises(UsageError, match="LEVEL"):
            await queue.try_out(Draft(title="x", constants={"LEVLE": 1}), "", 5)
        await until(lambda: store_of(workspace).meta("tried_s", 0.0) > 0.5)

    store = acting(workspace, act, backend__grace_s=0.2)
    assert {e.role for e in store.experiments()} == {Role.BASELINE}


def store_of(workspace: Path) -> Store:
    return Store.open(study_directory(workspace, "s"))


def test_trying_out_counts_as_slot_time(workspace: Path) -> None:
    async def act(queue: SubmissionQueue, brief: Brief) -> None:
        await until(lambda: brief.study.experiments and not brief.study.running_count)
        await queue.try_out(mode("hang"), "", 2.0)
        receipts = await queue.submit("k", submitted(level(140)))
        (done,) = await queue.wait([receipts[0].id], 30)
        assert "max_slot_hours" in done.problem
        with pytest.raises(UsageError, match="max_slot_hours"):
            await queue.try_out(mode("hang"), "", 2.0)

    acting(workspace, act, backend__grace_s=0.2, budget__max_slot_hours=1.5 / 3600, noise__replicates=2)


def test_another_process_orders_through_the_mailbox(workspace: Path) -> None:
    async def act(queue: SubmissionQueue, brief: Brief) -> None:
        mail = RemoteQueue(study_directory(workspace, "s"))
        receipts = await mail.submit("m", submitted(level(140), mode("crash")))
        again = await mail.submit("m", submitted(level(140), mode("crash")))
        assert [r.id for r in again] == [r.id for r in receipts]
        with pytest.raises(UsageError, match="another request"):
            await mail.submit("m", submitted(level(150)))
        done = await mail.wait([r.id for r in receipts], 60)
        assert all(r.state is SubmissionState.ACCEPTED for r in done)
        assert "ran to its end" in (await mail.try_out(level(130), "", 5)).text
        assert (await mail.try_out(mode("crash"), "", 5)).broke
        with pytest.raises(UsageError, match="LEVEL"):
            await mail.try_out(Draft(title="x", constants={"LEVLE": 1}), "", 5)
        assert await mail.cancel([1]) == "nothing of 1 waits"

    store = acting(workspace, act)
    verdicts = {e.title: e.verdict for e in store.experiments() if e.role is Role.CANDIDATE}
    assert verdicts == {"LEVEL 140": Verdict.KEEP, "mode crash": Verdict.CRASH}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("submit", "no json"),
        ("submit", "[]"),
        ("submit", '{"submissions": [1]}'),
        ("submit", '{"submissions": [{"nonsense": 1}]}'),
        ("cancel", "{}"),
        ("try_out", '{"draft": {}, "base": "", "seconds": "x"}'),
        ("dance", "{}"),
    ],
)
def test_a_request_that_makes_no_sense_is_answered_and_ends_nothing(
    workspace: Path, kind: str, body: str
) -> None:
    answers: list[Any] = []

    async def act(queue: SubmissionQueue, brief: Brief) -> None:
        db = sqlite3.connect(study_directory(workspace, "s") / "mailbox.db", isolation_level=None)
        db.execute("INSERT INTO requests (key, kind, body) VALUES ('k', ?, ?)", (kind, body))
        await until(lambda: db.execute("SELECT answer FROM requests").fetchone()[0])
        answers.append(db.execute("SELECT answer FROM requests").fetchone()[0])
        db.close()

    assert acting(workspace, act, noise__replicates=2).meta("state") == "finished"
    assert "error" in answers[0]


def test_a_mailbox_that_is_destroyed_ends_nothing(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def act(queue: SubmissionQueue, brief: Brief) -> None:
        db = sqlite3.connect(study_directory(workspace, "s") / "mailbox.db", isolation_level=None)
        db.execute("DROP TABLE requests")
        db.close()
        await until(lambda: "no orders are taken from outside" in caplog.text)

    assert acting(workspace, act, noise__replicates=2).meta("state") == "finished"


def test_a_study_that_does_not_run_takes_no_orders_and_says_so(workspace: Path) -> None:
    Planning.submissions = ()
    study(workspace, agent__name="planning", noise__replicates=2)
    mail = RemoteQueue(study_directory(workspace, "s"))
    with pytest.raises(StoreError, match=r"does not run.*arf resume s"):
        asyncio.run(mail.submit("k", submitted(level(140))))


def test_orders_that_wait_are_carried_out_after_a_resume(workspace: Path) -> None:
    engines: list[Engine] = []

    async def act(queue: SubmissionQueue, brief: Brief) -> None:
        await queue.submit("k", submitted(mode("hang"), level(140), level(150), runs=2))
        engines[0].stop()
        await asyncio.sleep(60)

    Acting.act = staticmethod(act)  # type: ignore[assignment]
    plugins = plugins_with()

    async def first() -> None:
        flags = {"agent.name": "acting", "backend.grace_s": 0.2, "limits.time_limit_s": 2}
        config = load(workspace_file=workspace / "arf.yaml", flags=flags, options_class=plugins.options)
        engine, lock = await create(workspace, config, plugins, "s")
        engines.append(engine)
        await to_its_end(engine, lock)

    asyncio.run(first())
    home = study_directory(workspace, "s")
    store = Store.open(home)
    waiting = store.load().waiting
    store.close()
    assert [order.title for order in waiting.values()][-1] == "LEVEL 150"

    async def nothing(queue: SubmissionQueue, brief: Brief) -> None:
        return

    Acting.act = staticmethod(nothing)  # type: ignore[assignment]

    async def second() -> None:
        await to_its_end(*await resume(home, plugins))

    asyncio.run(second())
    store = Store.open(home)
    runs = [e for e in store.experiments() if "LEVEL" in e.title]
    assert len(runs) >= 4
    assert all(e.verdict is not None for e in runs)
    assert {order.state for order in store.orders([1, 2, 3])} == {SubmissionState.ACCEPTED}


def test_another_agent_takes_over_if_the_user_has_named_one(workspace: Path) -> None:
    store = study(workspace, agent__name="away", study__fallback="offline", budget__max_experiments=12)
    assert {idea.agent for idea in store.load().ideas.values()} == {"offline"}
    assert len(store.experiments()) > 6


def test_what_stands_is_noted_and_taken_down_at_the_end(workspace: Path) -> None:
    seen: list[Any] = []

    async def act(queue: SubmissionQueue, brief: Brief) -> None:
        store = Store.open(study_directory(workspace, "s"))
        await until(lambda: store.meta("standing"))
        seen.append(store.meta("standing"))
        store.close()

    store = acting(workspace, act, backend__name="standing1", noise__replicates=2)
    assert seen[0]["up"][0]["name"] == "arf-s-0"
    assert seen[0]["usd_per_hour"] == 2.5
    assert not Standing1.up
    assert told(store)["up"] == []
    assert told(store)["usd"] > 0


def test_a_backend_that_cannot_tell_what_stands_does_not_end_the_study(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(queue: SubmissionQueue, brief: Brief) -> None:
        await until(lambda: "cannot be told now" in caplog.text)

    Standing1.broken = True
    try:
        store = acting(workspace, act, backend__name="standing1", noise__replicates=2)
    finally:
        Standing1.broken = False
    assert store.meta("state") == "finished"
