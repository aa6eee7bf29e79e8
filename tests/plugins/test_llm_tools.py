"""The registry of tools, on a context whose queue is a fake."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from arf.interfaces import Brief, SubmissionQueue, Tried
from arf.study import Study
from arf.types import Ask, AskKind, Draft, Receipt, Submission, SubmissionState, Tier
from arf.workspace.patches import apply_hunks, parse_patch
from arf_plugins.llm.drafts import Checker
from arf_plugins.llm.tools import ToolContext, call, outcome, replay, tools_for, unified

BASE = "b" * 40
SCRIPT = "LR = 0.1  # learning rate\nDEPTH = 4\nprint(LR * DEPTH)\n"


class FakeDesk(SubmissionQueue):
    """Takes everything but what is for the tier `full`; nothing of it is ever run."""

    def __init__(self) -> None:
        self.taken: dict[str, list[Submission]] = {}
        self.orders: dict[int, Receipt] = {}
        self.cancelled: list[tuple[Sequence[int], Sequence[int]]] = []
        self.tried: list[Draft] = []
        self.waits: list[float] = []

    async def submit(self, key: str, submissions: Sequence[Submission]) -> Sequence[Receipt]:
        assert key not in self.taken
        self.taken[key] = list(submissions)
        receipts = []
        for submission in submissions:
            number = len(self.orders) + 1
            refused = submission.tier == "full"
            receipt = Receipt(
                id=number,
                title=submission.draft.title if submission.draft else "again",
                state=SubmissionState.REFUSED if refused else SubmissionState.WAITING,
                problem="the tier is full; take another" if refused else "",
            )
            self.orders[number] = receipt
            receipts.append(receipt)
        return receipts

    async def known(self, key: str) -> Sequence[Receipt]:
        return [self.orders[self._numbers(key)]] if key in self.taken else []

    def _numbers(self, key: str) -> int:
        return list(self.taken).index(key) + 1

    async def receipts(self, submissions: Sequence[int]) -> Sequence[Receipt]:
        return [self.orders[number] for number in submissions if number in self.orders]

    async def wait(
        self, submissions: Sequence[int], timeout_s: float, *, any_done: bool = False
    ) -> Sequence[Receipt]:
        self.waits.append(timeout_s)
        return await self.receipts(submissions)

    async def cancel(self, submissions: Sequence[int], experiments: Sequence[int] = ()) -> str:
        self.cancelled.append((submissions, experiments))
        return "withdrawn"

    async def try_out(self, draft: Draft, base: str, seconds: float) -> Tried:
        self.tried.append(draft)
        return Tried(text=f"it ran for {seconds:g} s")


@pytest.fixture
def queue() -> FakeDesk:
    return FakeDesk()


def bench_for(kind: AskKind, queue: SubmissionQueue | None, **more: Any) -> ToolContext:
    tiers = [Tier(name="cheap", slots=2), Tier(name="full", slots=1)]
    study = Study(name="s", base=BASE, base_tree="7" * 40, tiers=tiers)
    brief = Brief(study=study, files={"train.py": SCRIPT}, budget_left={"experiments": 9}, queue=queue)
    return ToolContext(Checker(brief, Ask(kind=kind, n=2, base=BASE)), lambda text: None, **more)


def said(context: ToolContext, name: str, key: str = "", **arguments: Any) -> str:
    text, failed = asyncio.run(call(context, name, arguments, key=key or f"{name}{arguments}"))
    assert not failed, text
    return text


def refused(context: ToolContext, name: str, **arguments: Any) -> str:
    text, failed = asyncio.run(call(context, name, arguments, key=f"{name}{arguments}"))
    assert failed, text
    return text


def names(kind: AskKind | None, **more: Any) -> set[str]:
    return {tool.spec.name for tool in tools_for(kind, **more)}


def test_each_kind_of_ask_has_its_tools() -> None:
    ordering = {"submit", "wait", "cancel", "submissions", "try_out", "budget"}
    assert names(AskKind.EXPERIMENTS) >= ordering | {"edit", "done"}
    assert names(None) >= ordering
    assert not names(None) & {"edit", "read_file", "done"}
    assert names(AskKind.IDEAS) == names(AskKind.FACTORS)
    assert names(AskKind.IDEAS) >= {"edit", "submit", "done", "try_out"}
    assert not names(AskKind.IDEAS) & {"wait", "cancel", "submissions"}
    assert "try_out" not in names(AskKind.IDEAS, queue=False)
    assert "edit" not in names(AskKind.IDEAS, own_editor=True)


def test_strict_providers_get_schemas_that_they_take() -> None:
    for kind in (*AskKind, None):
        tools = tools_for(kind)
        assert len({tool.spec.name for tool in tools}) == len(tools)
        for tool in tools:
            schema = tool.spec.parameters
            assert set(schema["required"]) == set(schema["properties"])
            assert schema["additionalProperties"] is False
            assert set(tool.needed) <= set(schema["properties"])


def test_edits_are_submitted_at_once_and_the_files_are_restored(queue: FakeDesk) -> None:
    context = bench_for(AskKind.EXPERIMENTS, queue)
    said(context, "set_constants", constants=[{"name": "LR", "value": 0.2}])
    text = said(
        context, "submit", key="k", title="faster", tier="cheap", runs=3, budget=0.25, expected_gain=0.1
    )
    assert "submission 1 (faster): waits for a slot" in text
    (submission,) = queue.taken["k"]
    assert submission.draft is not None
    assert submission.draft.constants == {"LR": 0.2}
    assert (submission.base, submission.tier, submission.runs, submission.budget) == (BASE, "cheap", 3, 0.25)
    assert context.files["train.py"] == SCRIPT
    assert list(context.receipts) == [1]


def test_a_change_can_be_given_in_the_call(queue: FakeDesk) -> None:
    context = bench_for(AskKind.EXPERIMENTS, queue)
    edit = {"path": "train.py", "old": "LR * DEPTH", "new": "LR + DEPTH"}
    said(context, "submit", key="k", title="sum", constants=[{"name": "DEPTH", "value": 8}], edits=[edit])
    draft = queue.taken["k"][0].draft
    assert draft is not None
    assert "DEPTH = 8" in draft.edits[0].new
    assert "LR + DEPTH" in draft.edits[0].new


def test_earlier_ideas_and_experiments_need_no_change(queue: FakeDesk) -> None:
    context = bench_for(AskKind.EXPERIMENTS, queue)
    said(context, "submit", key="a", ideas=[4, 7, 4])
    said(context, "submit", key="b", again=12, runs=2)
    assert queue.taken["a"][0] == Submission(ideas=(4, 7))
    assert queue.taken["b"][0] == Submission(again=12, runs=2)
    assert "no change of its own" in refused(context, "submit", again=1, ideas=[2])


def test_one_key_submits_once(queue: FakeDesk) -> None:
    context = bench_for(AskKind.EXPERIMENTS, queue)
    change = {"title": "deep", "constants": [{"name": "DEPTH", "value": 8}]}
    said(context, "submit", key="k", **change)
    assert "made before" in said(context, "submit", key="k", **change)
    assert len(queue.taken["k"]) == len(queue.taken) == 1
    text, failed = asyncio.run(call(context, "submit", {**change, "title": "other"}, key="k"))
    assert failed
    assert "another submission" in text


def test_what_the_desk_refuses_can_be_submitted_again_otherwise(queue: FakeDesk) -> None:
    context = bench_for(AskKind.EXPERIMENTS, queue)
    said(context, "set_constants", constants=[{"name": "DEPTH", "value": 8}])
    assert "take another" in refused(context, "submit", title="deep", tier="full")
    assert "DEPTH = 8" in context.files["train.py"]
    assert not context.receipts
    assert "did you mean 'cheap'" in refused(context, "submit", title="deep", tier="chaep")
    said(context, "submit", title="deep", tier="cheap")
    assert "proposed before" in refused(
        context, "submit", title="deep again", constants=[{"name": "DEPTH", "value": 8}]
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "needs a title"),
        ({"title": "x"}, "changes nothing"),
        ({"constants": [{"name": "LR", "value": 0.3}]}, "needs a title"),
        ({"title": "x", "runs": "two"}, "runs must be of type integer"),
        ({"title": "x", "ideas": ["one"]}, "list of whole numbers"),
        ({"title": "x", "ideas": [True]}, "list of whole numbers"),
        ({"title": "x", "rnus": 2}, "did you mean 'runs'"),
        ({"title": "x", "constants": ["LR"]}, "name and a value"),
        ({"title": "x", "edits": ["LR"]}, "path, old and new"),
        ({"title": "x", "edits": [{"path": "../etc", "old": "", "new": "x"}]}, "may not be changed"),
        ({"title": "x", "edits": [{"path": "train.py", "old": "DEPTH = 4", "new": "DEPTH = ("}]}, "parse"),
    ],
)
def test_bad_submissions_are_told_what_is_wrong(
    queue: FakeDesk, arguments: dict[str, Any], problem: str
) -> None:
    context = bench_for(AskKind.EXPERIMENTS, queue)
    assert problem in refused(context, "submit", **arguments)
    assert not queue.taken


def test_waiting_is_bounded_and_tells_its_progress(queue: FakeDesk) -> None:
    told: list[tuple[float, float, str]] = []

    async def progress(done: float, total: float, message: str) -> None:
        told.append((done, total, message))

    context = bench_for(AskKind.EXPERIMENTS, queue, progress=progress, max_wait_s=12)
    assert "the end of all that you submitted" in said(context, "wait")
    said(context, "submit", title="deep", constants=[{"name": "DEPTH", "value": 8}])
    got = asyncio.run(outcome(context, "wait", {"timeout_s": 9999}, key="w"))
    assert got.data["timed_out"] is True
    assert got.data["submissions"][0]["state"] == "waiting"
    assert sum(queue.waits) == 12
    assert told[-1] == (10, 12, "0 of 1 submissions are done")
    assert "no submission 77" in refused(context, "wait", submissions=[77])


def test_submissions_are_told_and_cancelled(queue: FakeDesk) -> None:
    context = bench_for(AskKind.EXPERIMENTS, queue)
    assert "no submission yet" in said(context, "submissions")
    said(context, "submit", title="deep", constants=[{"name": "DEPTH", "value": 8}])
    assert "submission 1 (deep)" in said(context, "submissions")
    assert "no submission 5" in refused(context, "submissions", submissions=[5])
    assert said(context, "cancel", submissions=[1], experiments=[3]) == "withdrawn"
    assert queue.cancelled == [((1,), (3,))]
    assert "say what to cancel" in refused(context, "cancel")


@pytest.mark.parametrize("kind", AskKind)
def test_a_change_is_tried_out_and_may_be_submitted_then(queue: FakeDesk, kind: AskKind) -> None:
    context = bench_for(kind, queue)
    said(context, "set_constants", constants=[{"name": "DEPTH", "value": 8}])
    assert said(context, "try_out") == "it ran for 20 s"
    assert said(context, "try_out", seconds=9999) == "it ran for 60 s"
    assert queue.tried[0].constants == {"DEPTH": 8}
    more = {"factor": "depth"} if kind is AskKind.FACTORS else {}
    said(context, "submit", title="deep", **more)


def test_without_a_desk_nothing_is_tried_out() -> None:
    context = bench_for(AskKind.IDEAS, None)
    assert "there is no tool" in refused(context, "try_out")


def test_a_recorded_conversation_leaves_the_same_bench_and_orders_nothing(queue: FakeDesk) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("set_constants", {"constants": [{"name": "DEPTH", "value": 8}]}),
        ("submit", {"title": "deep"}),
        ("wait", {"timeout_s": 1}),
        ("set_constants", {"constants": [{"name": "LR", "value": 0.3}]}),
    ]
    first = bench_for(AskKind.EXPERIMENTS, queue)
    for at, (name, arguments) in enumerate(calls):
        said(first, name, key=str(at), **arguments)
    waits = len(queue.waits)
    second = bench_for(AskKind.EXPERIMENTS, queue)
    for at, (name, arguments) in enumerate(calls):
        asyncio.run(replay(second, name, arguments, key=str(at)))
    assert second.files == first.files
    assert list(second.receipts) == list(first.receipts)
    assert (len(queue.taken), len(queue.waits)) == (1, waits)


def test_the_budget_is_told_with_noise_and_slots(queue: FakeDesk) -> None:
    got = asyncio.run(outcome(bench_for(AskKind.EXPERIMENTS, queue), "budget", {}, key="b"))
    assert "9 experiments" in got.text
    assert "cheap: 0 of 2 slots in use, noise unknown yet" in got.text
    assert got.data["tiers"]["full"]["slots"] == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a\nb\nc\n", "a\nx\nc\n"),
        ("a\nb", "a\nc"),
        ("a\n", "a"),
        ("", "new\n"),
        ("a\n" * 40, "x\n" + "a\n" * 40 + "y\n"),
        ("form\x0cfeed\nb\n", "form\x0cfeed\nc\n"),
    ],
)
def test_diffs_can_be_applied_again(before: str, after: str) -> None:
    patch = unified({"t.py": before} if before else {}, {"t.py": after})
    (file,) = parse_patch(patch)
    assert apply_hunks(before, file.hunks, "t.py") == after


def test_notes_need_words(queue: FakeDesk, tmp_path: Path) -> None:
    assert "nothing to note" in refused(bench_for(AskKind.IDEAS, queue), "write_note", text=" ")
