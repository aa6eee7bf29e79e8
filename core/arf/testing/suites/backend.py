"""What every backend must do: real jobs, their ends, their processes, and what a crash of arf leaves."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from attrs import evolve

from arf.errors import BackendError
from arf.interfaces import Backend, Finding
from arf.plugins.guards import wrong_held, wrong_tiers
from arf.plugins.type_check import misfit
from arf.types import Job, JobResult, JobState, Tier

T = TypeVar("T")

QUICK_S = 5.0
"""A time limit up to which it is waited that a job would exceed it."""
FOREVER = "600"
"""Seconds; longer than any test, so that a process that is left behind is seen."""


class BackendSuite(ABC):
    """Subclass it, implement `make`, and name it `Test…`.

    A slow backend raises the class attributes; one whose jobs run elsewhere sets `same_machine` to False,
    and needs a folder that both sides see.
    """

    timeout_s: ClassVar[float] = 60.0
    """How long anything may take, a job that is over at once included."""
    time_limit_s: ClassVar[float] = 1.0
    """The limit of jobs that are to exceed it: the shortest that the backend keeps to."""
    busy_s: ClassVar[float] = 0.2
    """How long a job takes that is to overlap with others."""
    most_jobs: ClassVar[int] = 24
    """Jobs that the suite may have at a time; a tier with more slots is not filled."""
    clock_slack_s: ClassVar[float] = 1.0
    """How far the clock of the machines may be from the one here."""
    same_machine: ClassVar[bool] = True
    """Whether a job's processes can be seen from here."""
    takes_down: ClassVar[bool] = True
    """Whether `down` is called; not where tests share what it takes down."""

    @abstractmethod
    def make(self, directory: Path) -> Backend:
        """A backend that keeps what it must in `directory`. Called more than once for one directory."""

    def submit_command(self, script: str) -> str | tuple[str, ...]:
        """How a job's command is written for this backend; `script` is for `/bin/sh`."""
        return script

    # ---- What the tests are written with ----------------------------------------------------

    @pytest.fixture(autouse=True)
    def _places(self, tmp_path: Path) -> Iterator[None]:
        self.home = tmp_path / "backend"
        self.work = tmp_path / "work tree é"
        self.logs = tmp_path / "logs"
        self.marks = tmp_path / "marks"
        for folder in (self.work, self.logs, self.marks):
            folder.mkdir()
        yield
        for mark in self.marks.glob("*.pid"):
            for pid in _pids(mark):
                _end(pid)

    def job(self, key: str, command: str | tuple[str, ...], tier: Tier, /, **changes: Any) -> Job:
        """A job that runs `command`, a script for `/bin/sh` unless it is a tuple."""
        path = os.environ.get("PATH", os.defpath)
        settings: dict[str, Any] = {
            "key": key,
            "directory": self.work,
            "command": self.submit_command(command) if isinstance(command, str) else command,
            "env": {"PATH": path, "MARKS": str(self.marks)},
            "log": self.logs / f"{key}.log",
            "tier": tier.name,
            "time_limit_s": self.timeout_s * 10,
        }
        return Job(**{**settings, **changes})

    def run(self, steps: Callable[[Backend, Tier], Coroutine[Any, Any, T]], *, close: bool = True) -> T:
        """Run `steps` with a new backend and its first tier; `close` False leaves it as a crash would."""

        async def main() -> T:
            backend = self.make(self.home)
            try:
                tiers = await backend.tiers()
                assert not wrong_tiers(tiers)
                self.home.mkdir(exist_ok=True)  # as a study does
                # Twice, so that a step that waits in vain can say for what.
                return await asyncio.wait_for(steps(backend, tiers[0]), 2 * self.timeout_s)
            finally:
                if close:
                    await backend.aclose()

        return asyncio.run(main())

    def run_job(self, command: str | tuple[str, ...], **changes: Any) -> JobResult:
        """Submit one job, and wait for its end."""

        async def steps(backend: Backend, tier: Tier) -> JobResult:
            return await backend.wait(await backend.submit(self.job("only", command, tier, **changes)))

        return self.run(steps)

    def log(self, key: str = "only") -> str:
        """The output of a job by its key."""
        return (self.logs / f"{key}.log").read_text(encoding="utf-8", errors="replace")

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something that only the job's side can bring about."""
        limit = time.monotonic() + self.timeout_s
        while not condition():
            assert time.monotonic() < limit, f"after {self.timeout_s} s: {what}"
            await asyncio.sleep(0.01)

    async def marked(self, name: str) -> None:
        """Wait until a job has made the file `$MARKS/name`."""
        await self.until(lambda: (self.marks / name).exists(), f"the job made no {name}")

    async def gone(self) -> None:
        """Wait until every process that wrote its number to a `$MARKS/*.pid` has ended."""
        if self.same_machine:
            pids = [pid for mark in self.marks.glob("*.pid") for pid in _pids(mark)]
            assert pids, "the job's processes left no numbers"
            await self.until(
                lambda: not any(_alive(pid) for pid in pids), "processes of the job are still there"
            )

    # ---- Nodes ------------------------------------------------------------------------------

    def test_setting_a_node_aside_harms_nothing_that_runs(self) -> None:
        async def steps(backend: Backend, tier: Tier) -> tuple[JobResult, JobResult]:
            first = await backend.wait(await backend.submit(self.job("first", "true", tier)))
            command = 'touch "$MARKS/begun"; while [ ! -e "$MARKS/over" ]; do sleep 0.02; done'
            running = await backend.submit(self.job("running", command, tier))
            await self.marked("begun")
            node = backend.node_of(first.slot)
            assert isinstance(node, str)
            assert backend.set_aside("no such node", "a test") is False
            done = backend.set_aside(node, "a test")
            assert done is backend.set_aside(node, "a test")
            assert isinstance(done, bool)
            assert all(left.slots >= 1 for left in await backend.tiers())
            (self.marks / "over").touch()
            last = await backend.submit(self.job("last", "true", tier))
            return await backend.wait(running), await backend.wait(last)

        running, last = self.run(steps)
        assert running.state is JobState.SUCCEEDED
        assert last.state is JobState.SUCCEEDED

    def test_a_place_that_is_none_has_no_node(self) -> None:
        async def steps(backend: Backend, _: Tier) -> list[str]:
            return [backend.node_of(slot) for slot in ("", "no such place", ":", "a:b:c")]

        first, *others = self.run(steps)
        assert first == ""
        assert not misfit(others, Sequence[str])

    # ---- What it tells --------------------------------------------------------------------------

    def test_tells_what_there_is_before_and_after_a_job_and_takes_it_down(self) -> None:
        async def tell(backend: Backend) -> None:
            assert not misfit(await backend.check(), Sequence[Finding])
            assert not misfit(backend.notes(), Sequence[str])
            assert not wrong_held(await backend.held_resources())

        async def steps(backend: Backend, tier: Tier) -> None:
            await tell(backend)
            await backend.wait(await backend.submit(self.job("only", "true", tier)))
            await tell(backend)
            if self.takes_down:
                await backend.down()
                await backend.down()
                assert not await backend.held_resources()

        self.run(steps)

    # ---- Tiers ------------------------------------------------------------------------------

    def test_offers_at_least_one_sound_tier(self) -> None:
        async def steps(backend: Backend, _: Tier) -> Sequence[Tier]:
            return await backend.tiers()

        tiers = self.run(steps)
        names = [tier.name for tier in tiers]
        assert len(set(names)) == len(names)
        for tier in tiers:
            assert tier.name
            assert tier.name.isprintable()
            assert tier.slots >= 1
            assert 0 <= tier.usd_per_hour < math.inf
            assert 0 < tier.speed < math.inf
            assert tier.memory_gb is None or tier.memory_gb > 0

    def test_refuses_a_tier_that_it_does_not_have(self) -> None:
        with pytest.raises(BackendError):
            self.run_job("true", tier="no-such-tier")

    # ---- How jobs end -----------------------------------------------------------------------

    def test_a_job_that_succeeds(self) -> None:
        result = self.run_job("echo out; echo err >&2; echo out again")
        assert (result.state, result.exit_code, result.message) == (JobState.SUCCEEDED, 0, "")
        assert self.log().split("\n") == ["out", "err", "out again", ""]
        assert result.slot
        assert result.started_at is not None
        assert result.ended_at is not None
        assert result.started_at.utcoffset() == timedelta(0)
        assert result.started_at <= result.ended_at

    def test_a_job_that_fails_keeps_its_exit_code_and_its_output(self) -> None:
        result = self.run_job("echo before; exit 7")
        assert (result.state, result.exit_code) == (JobState.FAILED, 7)
        assert self.log() == "before\n"

    def test_a_job_that_a_signal_ends_has_its_number_negated(self) -> None:
        result = self.run_job("kill -KILL $$")
        assert (result.state, result.exit_code) == (JobState.FAILED, -9)
        assert result.message

    def test_a_shell_command_that_does_not_exist_fails_with_127(self) -> None:
        result = self.run_job("no-such-program --option")
        assert (result.state, result.exit_code) == (JobState.FAILED, 127)
        assert "no-such-program" in self.log()

    def test_a_program_that_does_not_exist_fails_and_is_named(self) -> None:
        result = self.run_job(("no-such-program", "--option"))
        assert result.state is JobState.FAILED
        assert result.exit_code in (126, 127)
        assert "no-such-program" in result.message + self.log()

    def test_a_folder_that_does_not_exist_is_refused_or_fails(self) -> None:
        try:
            result = self.run_job("true", directory=self.work / "absent")
        except BackendError:
            return
        assert result.state is JobState.FAILED
        assert result.message

    def test_the_end_is_told_any_number_of_times(self) -> None:
        async def steps(backend: Backend, tier: Tier) -> list[JobResult]:
            handle = await backend.submit(self.job("only", "exit 3", tier))
            both = await asyncio.gather(backend.wait(handle), backend.wait(handle))
            return [*both, await backend.wait(handle)]

        results = self.run(steps)
        assert [(result.state, result.exit_code) for result in results] == [(JobState.FAILED, 3)] * 3

    def test_giving_up_on_waiting_leaves_the_job(self) -> None:
        async def steps(backend: Backend, tier: Tier) -> JobResult:
            script = "touch $MARKS/up; until [ -e $MARKS/go ]; do sleep 0.02; done; exit 5"
            handle = await backend.submit(self.job("only", script, tier))
            waiting = asyncio.ensure_future(backend.wait(handle))
            await self.marked("up")
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            (self.marks / "go").touch()
            return await backend.wait(handle)

        assert self.run(steps).exit_code == 5

    def test_an_unknown_handle_is_lost(self) -> None:
        async def steps(backend: Backend, _: Tier) -> list[JobResult]:
            return [await backend.wait(handle) for handle in ("no-such-handle", "1", "", "../../etc/passwd")]

        assert {result.state for result in self.run(steps)} == {JobState.LOST}

    # ---- What a job gets --------------------------------------------------------------------

    def test_a_job_runs_in_its_directory(self) -> None:
        (self.work / "here").touch()
        self.run_job("ls; echo made > made")
        assert self.log() == "here\n"
        assert (self.work / "made").read_text() == "made\n"

    def test_a_job_gets_its_environment_and_none_of_arfs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SUITE_API_KEY", "a-key-that-must-not-leak")
        odd = {"PLAIN": "1", "ODD": "a b\t'\"$HOME\\ é;*\nsecond line", "EMPTY": ""}
        path = os.environ.get("PATH", os.defpath)
        script = 'printf "<%s>" "$PLAIN" "$ODD" "${EMPTY-unset}"; env'
        result = self.run_job(script, env={"PATH": path, **odd})
        assert result.state is JobState.SUCCEEDED
        assert self.log().startswith(f"<1><{odd['ODD']}><>")
        assert "a-key-that-must-not-leak" not in self.log()

    def test_a_command_in_parts_is_not_read_by_a_shell(self) -> None:
        self.run_job(("printf", "<%s>", "a b", "$HOME", "*;'\"", ""))
        assert self.log() == "<a b><$HOME><*;'\"><>"

    def test_a_job_reads_nothing(self) -> None:
        assert self.run_job("cat; echo read").state is JobState.SUCCEEDED
        assert self.log() == "read\n"

    def test_the_log_begins_anew(self) -> None:
        (self.logs / "only.log").write_text("what another job wrote\n" * 100)
        self.run_job("echo new")
        assert self.log() == "new\n"

    def test_a_lot_of_output_arrives(self) -> None:
        result = self.run_job("head -c 8000000 /dev/zero | tr '\\0' x")
        assert result.state is JobState.SUCCEEDED
        assert (self.logs / "only.log").stat().st_size == 8_000_000

    # ---- Ending jobs ------------------------------------------------------------------------

    STUBBORN = (
        "trap '' TERM INT HUP; echo $$ > $MARKS/parent.pid; "
        f"(trap '' TERM INT HUP; while :; do sleep {FOREVER}; done) & echo $! > $MARKS/child.pid; "
        f"echo running; touch $MARKS/up; while :; do sleep {FOREVER}; done"
    )
    """Neither it nor its child heeds a signal that can be ignored."""

    MEEK = (
        f"sleep {FOREVER} & echo $! > $MARKS/child.pid; echo $$ > $MARKS/parent.pid; "
        "echo running; touch $MARKS/up; wait"
    )

    def test_a_job_over_its_limit_is_ended_with_all_its_processes(self) -> None:
        async def steps(backend: Backend, tier: Tier) -> JobResult:
            job = self.job("only", self.STUBBORN, tier, time_limit_s=self.time_limit_s)
            result = await backend.wait(await backend.submit(job))
            await self.gone()
            return result

        result = self.run(steps)
        assert result.state is JobState.TIMED_OUT
        assert result.message
        assert self.log() == "running\n"

    @pytest.mark.parametrize("script", [MEEK, STUBBORN], ids=["meek", "stubborn"])
    def test_a_cancelled_job_ends_with_all_its_processes(self, script: str) -> None:
        async def steps(backend: Backend, tier: Tier) -> JobResult:
            handle = await backend.submit(self.job("only", script, tier))
            waiting = asyncio.ensure_future(backend.wait(handle))
            await self.marked("up")
            await asyncio.gather(backend.cancel(handle), backend.cancel(handle))
            result = await waiting
            await self.gone()
            await backend.cancel(handle)
            assert await backend.wait(handle) == result
            return result

        assert self.run(steps).state is JobState.CANCELLED

    def test_a_job_can_be_cancelled_at_once(self) -> None:
        async def steps(backend: Backend, tier: Tier) -> JobResult:
            handle = await backend.submit(self.job("only", f"sleep {FOREVER}", tier))
            await backend.cancel(handle)
            return await backend.wait(handle)

        assert self.run(steps).state is JobState.CANCELLED

    def test_cancelling_what_has_ended_or_never_was_changes_nothing(self) -> None:
        async def steps(backend: Backend, tier: Tier) -> JobResult:
            handle = await backend.submit(self.job("only", "true", tier))
            await backend.wait(handle)
            await backend.cancel(handle)
            await backend.cancel("no-such-handle")
            return await backend.wait(handle)

        assert self.run(steps).state is JobState.SUCCEEDED

    def test_what_a_job_leaves_in_the_background_neither_delays_its_end_nor_stays(self) -> None:
        async def steps(backend: Backend, tier: Tier) -> JobResult:
            script = f"sleep {FOREVER} & echo $! > $MARKS/child.pid; exit 4"
            result = await backend.wait(await backend.submit(self.job("only", script, tier)))
            await self.gone()
            return result

        assert self.run(steps).exit_code == 4

    # ---- Many jobs --------------------------------------------------------------------------

    def test_no_more_jobs_run_at_a_time_than_there_are_slots(self) -> None:
        async def steps(backend: Backend, tier: Tier) -> tuple[int, list[JobResult]]:
            script = f"echo start >> $MARKS/turns; sleep {self.busy_s}; echo end >> $MARKS/turns"
            jobs = [
                self.job(f"many-{i}", script, tier) for i in range(min(2 * tier.slots + 1, self.most_jobs))
            ]
            handles = await asyncio.gather(*(backend.submit(job) for job in jobs))
            assert len(set(handles)) == len(handles)
            return tier.slots, list(await asyncio.gather(*(backend.wait(handle) for handle in handles)))

        slots, results = self.run(steps)
        assert {result.state for result in results} == {JobState.SUCCEEDED}
        turns = (self.marks / "turns").read_text().split()
        running = [turns[: i + 1].count("start") - turns[: i + 1].count("end") for i in range(len(turns))]
        assert turns.count("end") == len(results)
        assert 1 <= max(running) <= slots

    def test_as_many_jobs_run_at_a_time_as_there_are_slots(self) -> None:
        async def steps(backend: Backend, tier: Tier) -> list[JobResult]:
            count = min(tier.slots, self.most_jobs)
            script = "touch $MARKS/$NAME.here; until [ -e $MARKS/go ]; do sleep 0.02; done"
            handles = []
            for i in range(count):
                job = self.job(f"at-once-{i}", script, tier)
                handles.append(await backend.submit(evolve(job, env={**job.env, "NAME": str(i)})))
            await self.until(
                lambda: len(list(self.marks.glob("*.here"))) == count,
                f"fewer than {count} jobs run at a time",
            )
            (self.marks / "go").touch()
            return list(await asyncio.gather(*(backend.wait(handle) for handle in handles)))

        assert {result.state for result in self.run(steps)} == {JobState.SUCCEEDED}

    def test_the_times_of_a_job_are_those_at_which_it_ran(self) -> None:
        before = datetime.now(UTC)
        result = self.run_job(f"sleep {self.busy_s}")
        after = datetime.now(UTC)
        assert result.started_at is not None
        assert result.ended_at is not None
        slack = timedelta(seconds=self.clock_slack_s)
        assert before - slack <= result.started_at <= after + slack, "it did not start then"
        assert before - slack <= result.ended_at <= after + slack, "it did not end then"
        ran_s = (result.ended_at - result.started_at).total_seconds()
        assert ran_s >= 0.9 * self.busy_s - 0.05, f"it ran for {self.busy_s} s, not for {ran_s} s"

    def test_a_job_can_be_cancelled_before_its_turn(self) -> None:
        async def steps(backend: Backend, tier: Tier) -> None:
            if tier.slots >= self.most_jobs:
                return
            hold = "until [ -e $MARKS/go ]; do sleep 0.02; done"
            holders = [await backend.submit(self.job(f"hold-{i}", hold, tier)) for i in range(tier.slots)]
            queued = await backend.submit(self.job("queued", "touch $MARKS/ran", tier))
            await backend.cancel(queued)
            assert (await backend.wait(queued)).state is JobState.CANCELLED
            (self.marks / "go").touch()
            ends = await asyncio.gather(*(backend.wait(handle) for handle in holders))
            assert {end.state for end in ends} == {JobState.SUCCEEDED}
            assert not (self.marks / "ran").exists()

        self.run(steps)

    def test_waiting_for_a_slot_is_no_time_of_the_job(self) -> None:
        async def steps(backend: Backend, tier: Tier) -> JobResult:
            hold = "until [ -e $MARKS/go ]; do sleep 0.02; done"
            count = min(tier.slots, self.most_jobs - 1)
            holders = [await backend.submit(self.job(f"hold-{i}", hold, tier)) for i in range(count)]
            script = f"sleep {min(self.busy_s, self.time_limit_s / 2)}"
            job = self.job("queued", script, tier, time_limit_s=self.time_limit_s)
            queued = await backend.submit(job)
            waiting = asyncio.ensure_future(backend.wait(queued))
            await asyncio.wait([waiting], timeout=1.2 * self.time_limit_s)
            (self.marks / "go").touch()
            await asyncio.gather(*(backend.wait(handle) for handle in holders))
            return await waiting

        if self.time_limit_s <= QUICK_S:
            assert self.run(steps).state is JobState.SUCCEEDED

    def test_no_dead_process_is_left_unreaped(self) -> None:
        async def steps(backend: Backend, tier: Tier) -> None:
            before = _zombies()
            for i in range(3):
                await backend.wait(await backend.submit(self.job(f"job-{i}", "true & exit 1", tier)))
            await self.until(lambda: _zombies() <= before, "zombies")

        self.run(steps)

    # ---- Submitting again, and going on after a crash ---------------------------------------

    ONCE = "echo ran >> $MARKS/runs; until [ -e $MARKS/go ]; do sleep 0.02; done; exit 6"

    def test_a_key_is_run_once_however_often_it_is_submitted(self) -> None:
        async def steps(backend: Backend, tier: Tier) -> None:
            job = self.job("same", self.ONCE, tier)
            first = await backend.submit(job)
            assert first.isprintable()
            assert await backend.submit(job) == first
            (self.marks / "go").touch()
            assert (await backend.wait(first)).exit_code == 6
            assert await backend.submit(job) == first
            assert (await backend.wait(first)).exit_code == 6

        self.run(steps)
        assert (self.marks / "runs").read_text() == "ran\n"

    def test_the_next_backend_does_not_run_an_ended_key_again(self) -> None:
        async def steps(backend: Backend, tier: Tier) -> JobResult:
            script = "echo ran >> $MARKS/runs; exit 6"
            result = await backend.wait(await backend.submit(self.job("same", script, tier)))
            later = self.job(
                "later", f"sleep {self.busy_s}", tier
            )  # by its end a second run would have begun
            await backend.wait(await backend.submit(later))
            return result

        first = self.run(steps, close=False)
        assert self.run(steps) == first
        assert (self.marks / "runs").read_text() == "ran\n"

    @pytest.mark.parametrize("close", [True, False], ids=["closed", "dropped"])
    def test_a_job_goes_on_without_its_backend_and_is_found_by_the_next(self, close: bool) -> None:
        async def start(backend: Backend, tier: Tier) -> str:
            handle = await backend.submit(self.job("same", self.ONCE, tier))
            await self.marked("runs")
            return handle

        async def find(backend: Backend, tier: Tier) -> JobResult:
            assert await backend.submit(self.job("same", self.ONCE, tier)) == handle
            waiting = asyncio.ensure_future(backend.wait(handle))
            (self.marks / "go").touch()
            return await waiting

        handle = self.run(start, close=close)
        result = self.run(find)
        assert (result.state, result.exit_code) == (JobState.FAILED, 6)
        assert (self.marks / "runs").read_text() == "ran\n"

    def test_an_end_that_nobody_saw_is_still_told(self) -> None:
        async def start(backend: Backend, tier: Tier) -> str:
            return await backend.submit(self.job("same", "echo done; exit 6", tier))

        async def find(backend: Backend, _: Tier) -> JobResult:
            return await backend.wait(handle)

        handle = self.run(start, close=False)
        result = self.run(find)
        assert (result.state, result.exit_code) == (JobState.FAILED, 6)
        assert self.log("same") == "done\n"
        assert self.run(find) == result

    def test_the_next_backend_can_cancel_what_the_last_one_started(self) -> None:
        async def start(backend: Backend, tier: Tier) -> str:
            handle = await backend.submit(self.job("same", self.MEEK, tier))
            await self.marked("up")
            return handle

        async def end(backend: Backend, _: Tier) -> JobResult:
            await backend.cancel(handle)
            result = await backend.wait(handle)
            await self.gone()
            return result

        handle = self.run(start, close=False)
        assert self.run(end).state is JobState.CANCELLED

    def test_the_next_backend_keeps_to_the_time_limit(self) -> None:
        async def start(backend: Backend, tier: Tier) -> str:
            job = self.job("same", self.MEEK, tier, time_limit_s=self.time_limit_s)
            handle = await backend.submit(job)
            await self.marked("up")
            return handle

        async def end(backend: Backend, _: Tier) -> JobResult:
            result = await backend.wait(handle)
            await self.gone()
            return result

        handle = self.run(start, close=False)
        assert self.run(end).state is JobState.TIMED_OUT


def _pids(mark: Path) -> list[int]:
    return [int(word) for word in mark.read_text().split()]


def _alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and only unreaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return _states().get(pid, (0, "?"))[1] != "Z"


def _end(pid: int) -> None:
    """Leave nothing of a job that its backend did not end."""
    try:
        group = os.getpgid(pid)
        if group != os.getpgid(0):
            os.killpg(group, signal.SIGKILL)
    except OSError:
        pass  # it has ended, as it should


def _zombies() -> set[int]:
    """Our dead children that nobody has waited for."""
    return {pid for pid, (parent, state) in _states().items() if parent == os.getpid() and state == "Z"}


def _states() -> Mapping[int, tuple[int, str]]:
    """Parent and state of each process; empty where the system does not tell."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        found[int(entry.parent.name)] = int(fields[1]), fields[0]
    return found
