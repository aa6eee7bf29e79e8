"""Waiting for many jobs by asking about all of them at once."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from arf.errors import BackendError
from arf.sdk.polling import PollingBackend
from arf.types import Job, JobResult, JobState, Tier

DONE = JobResult(state=JobState.SUCCEEDED, exit_code=0)


class Cluster(PollingBackend):
    """A cluster in memory: what tests put into `ended` has ended, by what it is asked."""

    def __init__(self, *, shortest_s: float = 0.0, longest_s: float = 0.01) -> None:
        super().__init__(None, Path(), poll_interval_s=(shortest_s, longest_s))
        self.ended: dict[str, JobResult] = {}
        self.seen: dict[str, JobResult] = {}
        self.asked: list[frozenset[str]] = []
        self.answers = asyncio.Event()
        self.silent = 0
        self.due = True

    async def tiers(self) -> Sequence[Tier]:
        return [Tier(name="t", slots=9)]

    async def submit(self, job: Job) -> str:
        self.follow(job.key)
        return job.key

    async def cancel(self, handle: str) -> None:
        self.soon()

    def is_due(self) -> bool:
        return self.due

    async def glance(self, handles: Collection[str]) -> Mapping[str, JobResult]:
        return self.seen

    async def poll(self, handles: Collection[str]) -> Mapping[str, JobResult]:
        self.asked.append(frozenset(handles))
        if self.silent:
            self.silent -= 1
            raise BackendError("the controller does not answer")
        self.answers.set()
        return self.ended


def run(steps: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(steps, 30))


def test_one_question_is_asked_for_all_jobs() -> None:
    async def steps() -> None:
        cluster = Cluster()
        cluster.ended = {str(i): DONE for i in range(100)}
        results = await asyncio.gather(*(cluster.wait(str(i)) for i in range(100)))
        assert results == [DONE] * 100
        assert cluster.asked == [frozenset(cluster.ended)]
        assert await cluster.wait("7") == DONE
        assert len(cluster.asked) == 1

    run(steps())


def test_nothing_is_asked_while_there_is_nothing_to_ask() -> None:
    async def steps() -> None:
        cluster = Cluster()
        cluster.due = False
        waiting = asyncio.ensure_future(cluster.wait("a"))
        await asyncio.sleep(0.1)
        cluster.seen = {"a": DONE}
        assert await waiting == DONE
        assert cluster.asked == []

    run(steps())


def test_questions_keep_their_distance_however_often_there_is_reason() -> None:
    async def steps() -> None:
        cluster = Cluster(shortest_s=600.0, longest_s=600.0)
        waiting = asyncio.ensure_future(cluster.wait("a"))
        await cluster.answers.wait()
        for _ in range(20):
            await cluster.cancel("a")
            await asyncio.sleep(0)
        cluster.seen = {"a": DONE}
        assert await waiting == DONE
        assert len(cluster.asked) == 1

    run(steps())


def test_a_cluster_that_does_not_answer_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    async def steps() -> None:
        cluster = Cluster()
        cluster.silent = 5
        cluster.ended = {"a": DONE}
        assert await cluster.wait("a") == DONE
        assert len(cluster.asked) == 6

    run(steps())
    messages = [record.message for record in caplog.records]
    assert messages == [
        "the controller does not answer; asking again until it answers",
        "the cluster answers again",
    ]


def test_giving_up_on_waiting_leaves_the_job() -> None:
    async def steps() -> None:
        cluster = Cluster()
        waiting = asyncio.ensure_future(cluster.wait("a"))
        await cluster.answers.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        cluster.ended = {"a": DONE}
        assert await cluster.wait("a") == DONE

    run(steps())


def test_an_error_that_nobody_expects_reaches_whoever_waits() -> None:
    class Broken(Cluster):
        async def poll(self, handles: Collection[str]) -> Mapping[str, JobResult]:
            raise ZeroDivisionError

    async def steps() -> None:
        cluster = Broken()
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await cluster.wait("a")

    run(steps())


def test_after_an_error_a_job_is_followed_again() -> None:
    class Away(Cluster):
        async def glance(self, handles: Collection[str]) -> Mapping[str, JobResult]:
            if not self.due:
                raise FileNotFoundError("the folder is away")
            return self.seen

    async def steps() -> None:
        cluster = Away()
        cluster.due = False
        with pytest.raises(FileNotFoundError):
            await cluster.wait("a")
        cluster.due, cluster.ended = True, {"a": DONE}
        assert await cluster.wait("a") == DONE

    run(steps())


def test_it_can_be_closed_and_used_in_another_loop() -> None:
    cluster = Cluster()

    async def first() -> None:
        waiting = asyncio.ensure_future(cluster.wait("a"))
        await cluster.answers.wait()
        await cluster.aclose()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    async def second() -> None:
        cluster.ended = {"a": DONE}
        assert await cluster.wait("a") == DONE
        await cluster.aclose()

    run(first())
    run(second())
