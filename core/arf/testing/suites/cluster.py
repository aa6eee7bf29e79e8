"""What every backend must do whose jobs run elsewhere: machines come and go, and so do connections."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import pytest

from arf.interfaces import Backend
from arf.testing.suites.backend import BackendSuite
from arf.types import Job, JobResult, JobState, Tier

GIVEN_UP = (JobState.LOST, JobState.PREEMPTED)
"""What arf runs again."""


class ClusterSuite(BackendSuite):
    """The suite for backends, and what is asked of a cluster besides. Subclass it and implement the hooks.

    Jobs must see `$MARKS` of the machine that the tests run on, and may have their work trees elsewhere.
    """

    has_links: ClassVar[bool] = True
    """Whether `cut_links` cuts anything: there is a connection to a node that can break."""
    has_sent_trees: ClassVar[bool] = True
    """Whether jobs run in work trees of their own, that are sent there."""

    @abstractmethod
    def lose_workers(self) -> None:
        """End whatever runs jobs, at once and as a crash of it would (SIGKILL), and what it runs."""

    @abstractmethod
    def left(self) -> Sequence[str]:
        """What there is on the machines of this backend: processes, jobs, folders of work; for people."""

    def cut_links(self) -> None:
        """Break all connections; what runs on the other side goes on, and can be reached again."""

    # ---- Jobs -------------------------------------------------------------------------------

    HOLD = "echo began; touch $MARKS/up; until [ -e $MARKS/go ]; do sleep 0.02; done; "

    async def hold(self, backend: Backend, tier: Tier, then: str = "exit 5") -> str:
        """Submit a job that waits to be let go (by `go`), and wait until it runs."""
        handle = await backend.submit(self.job("held", self.HOLD + then, tier))
        await self.marked("up")
        return handle

    def go(self) -> None:
        (self.marks / "go").touch()

    # ---- Streams ----------------------------------------------------------------------------

    def test_the_log_comes_while_the_job_runs(self) -> None:
        async def steps(backend: Backend, tier: Tier) -> JobResult:
            handle = await self.hold(backend, tier)
            waiting = asyncio.ensure_future(backend.wait(handle))
            await self.until(lambda: self.log("held") == "began\n", "the log does not come")
            self.go()
            return await waiting

        assert self.run(steps).exit_code == 5

    # ---- What is lost -----------------------------------------------------------------------

    def test_a_lost_worker_loses_its_job_and_no_other(self) -> None:
        async def steps(backend: Backend, tier: Tier) -> tuple[JobResult, JobResult]:
            handle = await self.hold(backend, tier)
            waiting = asyncio.ensure_future(backend.wait(handle))
            await self.until(lambda: self.log("held") == "began\n", "the log does not come")
            self.lose_workers()
            lost = await waiting
            again = await backend.submit(self.job("next", "echo again", tier))
            return lost, await backend.wait(again)

        lost, again = self.run(steps)
        assert lost.state in GIVEN_UP, lost
        assert lost.message
        assert again.state is JobState.SUCCEEDED, again

    def test_a_broken_connection_costs_nothing(self) -> None:
        if not self.has_links:
            pytest.skip("there is no connection that could break")

        async def steps(backend: Backend, tier: Tier) -> JobResult:
            handle = await self.hold(backend, tier, "seq 1000; exit 5")
            waiting = asyncio.ensure_future(backend.wait(handle))
            await self.until(lambda: self.log("held") == "began\n", "the log does not come")
            self.cut_links()
            self.go()
            return await waiting

        assert self.run(steps).exit_code == 5
        assert self.log("held").split() == ["began", *map(str, range(1, 1001))]

    def test_a_job_is_cancelled_whose_connection_is_broken(self) -> None:
        if not self.has_links:
            pytest.skip("there is no connection that could break")

        async def steps(backend: Backend, tier: Tier) -> JobResult:
            handle = await self.hold(backend, tier)
            self.cut_links()
            await backend.cancel(handle)
            return await backend.wait(handle)

        assert self.run(steps).state is JobState.CANCELLED

    # ---- Trees ------------------------------------------------------------------------------

    def test_a_work_tree_is_there_as_it_is_here_and_changes_come_back(self) -> None:
        for name, text in (
            ("src/train.py", "x\n"),
            ("judge.txt", "fair\n"),
            ("old", ""),
            ("run.sh", "echo ran\n"),
        ):
            (self.work / name).parent.mkdir(exist_ok=True)
            (self.work / name).write_text(text)
        (self.work / "run.sh").chmod(0o755)
        (self.work / "alias").symlink_to("judge.txt")
        script = "ls src; cat alias; test -x run.sh && ./run.sh; echo made > src/made"
        script += "; echo cheat > judge.txt; rm old"
        assert self.run_job(script).state is JobState.SUCCEEDED
        assert self.log() == "train.py\nfair\nran\n"
        assert (self.work / "src/made").read_text() == "made\n"
        assert (self.work / "judge.txt").read_text() == "cheat\n"
        assert not (self.work / "old").exists()

    def test_a_job_finds_nothing_of_the_one_before_it(self) -> None:
        if not self.has_sent_trees:
            pytest.skip("the jobs of this backend share work trees with arf, which cleans them")

        async def steps(backend: Backend, tier: Tier) -> None:
            await backend.wait(await backend.submit(self.job("one", "echo dirt > dirt", tier)))
            (self.work / "dirt").unlink(missing_ok=True)
            await backend.wait(await backend.submit(self.job("two", "ls", tier)))

        self.run(steps)
        assert self.log("two") == ""

    # ---- Nothing outlives its purpose -------------------------------------------------------

    @pytest.mark.parametrize("by", ["this", "another"])
    def test_when_it_is_taken_down_nothing_is_left(self, by: str) -> None:
        async def start(backend: Backend, tier: Tier) -> None:
            await self.hold(backend, tier)
            if by == "this":
                await backend.down()

        async def end(backend: Backend, _: Tier) -> None:
            await backend.down()

        if not self.takes_down:
            pytest.skip("tests share what `down` takes down")
        self.run(start, close=False)
        if by == "another":
            self.run(end)
        assert not self.left()

    def test_what_was_taken_down_under_a_job_is_told_as_lost(self) -> None:
        async def start(backend: Backend, tier: Tier) -> str:
            handle = await self.hold(backend, tier)
            await backend.down()
            return handle

        async def find(backend: Backend, _: Tier) -> JobResult:
            return await backend.wait(handle)

        if not self.takes_down:
            pytest.skip("tests share what `down` takes down")
        handle = self.run(start)
        assert self.run(find).state in GIVEN_UP

    # ---- Many -------------------------------------------------------------------------------

    def test_of_many_short_jobs_none_is_lost_and_none_runs_twice(self) -> None:
        async def steps(backend: Backend, tier: Tier) -> list[JobResult]:
            jobs: list[Job] = [
                self.job(f"job-{i}", f"echo {i} >> $MARKS/ran", tier) for i in range(4 * self.most_jobs)
            ]
            handles = await asyncio.gather(*(backend.submit(job) for job in jobs))
            return list(await asyncio.gather(*(backend.wait(handle) for handle in handles)))

        assert {result.state for result in self.run(steps)} == {JobState.SUCCEEDED}
        ran = (self.marks / "ran").read_text().split()
        assert sorted(map(int, ran)) == list(range(4 * self.most_jobs))
        assert len({os.stat(self.logs / f"job-{i}.log").st_ino for i in range(4)}) == 4
