"""The `slurm` backend on a real Slurm: what goes wrong on a cluster, and what arf makes of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from arf.errors import BackendError
from arf.types import Job, JobResult, JobState
from arf_plugins.backend_slurm import SlurmOptions, SlurmTier
from arf_plugins.backend_slurm.backend import SlurmBackend
from arf_plugins.backend_slurm.executor import QueueWatcher

T = TypeVar("T")
CI = pytest.mark.slurm_ci
FORMS = pytest.mark.parametrize("form", ["pool", "jobs"])
POOL_IN_CI = pytest.mark.parametrize("form", [pytest.param("pool", marks=CI), "jobs"])
PATIENCE_S = 60.0


class Bench:
    """A study's folder, and what tests do with backends in it."""

    def __init__(self, path: Path, slurm: Any) -> None:
        self.path = path
        """Seen by the nodes, and known to jobs as MARKS."""
        self.slurm = slurm
        self.home = path
        """What is arf's own: work trees, logs, the backend's folder."""
        self.tree = path / "tree"
        self.tree.mkdir()

    def make(self, **options: Any) -> SlurmBackend:
        settings = {"slots": 1, "grace": 0.3, "poll": 0.5, "heartbeat": 0.5, **options}
        return SlurmBackend(SlurmOptions(**settings), self.home / "backend")

    def job(self, key: str, command: str, **changes: Any) -> Job:
        settings: dict[str, Any] = {
            "key": key,
            "directory": self.tree,
            "command": command,
            "env": {"PATH": os.environ["PATH"], "MARKS": str(self.path)},
            "log": self.home / f"{key}.log",
            "tier": "h100",
            "time_limit_s": 60.0,
        }
        return Job(**{**settings, **changes})

    def run(
        self, steps: Callable[[SlurmBackend], Coroutine[Any, Any, T]], *, close: bool = True, **options: Any
    ) -> T:
        async def main() -> T:
            backend = self.make(**options)
            try:
                return await asyncio.wait_for(steps(backend), 2 * PATIENCE_S)
            finally:
                if close:
                    await backend.aclose()

        return asyncio.run(main())

    def run_job(self, command: str, *, options: dict[str, Any] | None = None, **changes: Any) -> JobResult:
        async def steps(backend: SlurmBackend) -> JobResult:
            return await backend.wait(await backend.submit(self.job("job", command, **changes)))

        return self.run(steps, **(options or {}))

    def log(self, key: str = "job") -> str:
        return (self.home / f"{key}.log").read_text()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        limit = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < limit, what
            await asyncio.sleep(0.02)

    async def marked(self, name: str) -> Path:
        path = self.path / name
        await self.until(path.exists, f"the job made no {name}")
        return path

    def runner_pids(self) -> list[int]:
        """The runners of this folder, as they run on the nodes, which are all here."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes().split(b"\0")
            except OSError:
                continue
            program = words[0].rpartition(b"/")[2]
            if str(self.path).encode() in b" ".join(words) and program.startswith(b"python"):
                found.append(int(entry.parent.name))
        return found


@pytest.fixture
def bench(tmp_path: Path, slurm: Any) -> Bench:
    return Bench(tmp_path, slurm)


def environ(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


HOLD = "touch $MARKS/up; until [ -e $MARKS/go ]; do sleep 0.05; done; exit 6"
FIRST_HOLDS = "if mkdir $MARKS/first; then touch $MARKS/up; sleep 600 || exit; fi; echo again"
"""Runs on when it is run for the first time, and ends well the next time."""


# ---- Tiers ----------------------------------------------------------------------------------


@CI
def test_tiers_are_found_by_asking_the_cluster(bench: Bench) -> None:
    async def steps(backend: SlurmBackend) -> list[tuple[str, int]]:
        return [(tier.name, tier.slots) for tier in await backend.tiers()]

    assert bench.run(steps, slots=100) == [("h100", 8), ("h200", 2)]
    assert bench.run(steps, slots=100, gpus_per_job=2) == [("h100", 4), ("h200", 1)]
    assert bench.run(steps, slots=100, partition="brief") == [("h200", 2)]
    assert bench.run(steps, slots=3) == [("h100", 3), ("h200", 2)]


@CI
def test_tiers_can_be_given(bench: Bench) -> None:
    tiers = {
        "big": SlurmTier(gres="gpu:h200:2", price=3.5, memory_gb=282, slots=1),
        "plain": SlurmTier(partition="high", slots=2),
    }

    async def steps(backend: SlurmBackend) -> list[JobResult]:
        found = await backend.tiers()
        assert [(t.name, t.slots, t.usd_per_hour, t.memory_gb) for t in found] == [
            ("big", 1, 3.5, 282),
            ("plain", 2, 0.0, None),
        ]
        says = "echo ${CUDA_VISIBLE_DEVICES-none}"
        jobs = [bench.job(tier.name, says, tier=tier.name) for tier in found]
        return [await backend.wait(await backend.submit(job)) for job in jobs]

    results = bench.run(steps, tiers=tiers)
    assert [result.state for result in results] == [JobState.SUCCEEDED] * 2
    assert results[0].slot == "h200-0:gpu:0,1"
    assert (bench.log("big"), bench.log("plain")) == ("0,1\n", "none\n")


@CI
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partition": "gpus"}, "did you mean 'gpu'"),
        ({"tiers": {"a100": SlurmTier(gres="gpu:a100:1")}}, "gpu:h100, gpu:h200"),
        (
            {"tiers": {"many": SlurmTier(gres="gpu:h100:9")}},
            "no node of the default partition has gpu:h100:9",
        ),
        ({"directives": {"output": "x"}}, "is arf's to set"),
    ],
    ids=["partition", "gres", "too-many", "directive"],
)
def test_what_the_cluster_does_not_have_is_told_before_the_first_job(
    bench: Bench, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BackendError, match=message):
        bench.run(lambda backend: backend.tiers(), **options)


def test_without_slurm_commands_it_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(bench.path))
    with pytest.raises(BackendError, match=r"no sbatch on PATH.*login node"):
        bench.run(lambda backend: backend.tiers())


def test_a_job_that_cannot_fit_into_its_partition_is_refused(bench: Bench) -> None:
    with pytest.raises(BackendError, match="ends jobs after 300 s"):
        bench.run_job("true", options={"partition": "brief"}, tier="h200", time_limit_s=600)


@CI
@FORMS
def test_what_sbatch_refuses_is_told_to_the_job_and_to_the_next(bench: Bench, form: str) -> None:
    async def steps(backend: SlurmBackend) -> JobResult:
        result = await backend.wait(await backend.submit(bench.job("job", "true")))
        with pytest.raises(BackendError, match="sbatch"):
            await backend.submit(bench.job("next", "true"))
        return result

    result = bench.run(steps, form=form, directives={"reservation": "no-such"})
    assert result.state is JobState.LOST
    assert "reservation" in result.message.lower()


# ---- What jobs get --------------------------------------------------------------------------


@CI
def test_directives_set_up_and_wrap_reach_the_job(bench: Bench) -> None:
    options = {
        "directives": {"comment": "from arf", "exclusive": "user", "hold": False},
        "setup": ("export TOOL=loaded", "export PATH=$MARKS/bin:$PATH", "echo set up"),
        "wrap": "env WRAPPED=1",
        "cpus_per_job": 3,
        "memory": "300M",
    }
    job_id = "scontrol show job $SLURM_JOB_ID"
    script = 'echo "$TOOL $WRAPPED $OMP_NUM_THREADS ${PATH%%:*}"; echo "seed $ARF_SEED"'
    env = {"PATH": os.environ["PATH"], "MARKS": str(bench.path), "ARF_SEED": "7"}
    result = bench.run_job(f"{script}; : {job_id}", options=options, env=env)
    assert result.state is JobState.SUCCEEDED
    assert bench.log() == f"set up\nloaded 1 3 {bench.path}/bin\nseed 7\n"
    script_text = next((bench.path / "backend/slurm/batches").glob("*/batch.sh")).read_text()
    assert "#SBATCH --comment='from arf'" in script_text
    assert "--hold" not in script_text
    assert "USR2@0\n" in script_text  # a signal from Slurm before its time limit would end the job


def test_set_up_lines_run_once_for_many_jobs(bench: Bench) -> None:
    async def steps(backend: SlurmBackend) -> None:
        for i in range(3):
            env = {"PATH": os.environ["PATH"], "MARKS": str(bench.path), "ARF_SEED": str(i)}
            job = bench.job(f"job-{i}", "echo $ARF_SEED $TOOL", env=env)
            assert (await backend.wait(await backend.submit(job))).state is JobState.SUCCEEDED

    bench.run(steps, setup=("echo x >> $MARKS/set-ups", "export TOOL=here"))
    assert (bench.path / "set-ups").read_text() == "x\n"
    assert bench.log("job-2") == "2 here\n"


def test_set_up_lines_that_fail_are_not_the_jobs_fault(bench: Bench) -> None:
    result = bench.run_job("true", options={"setup": ("false", "true")})
    assert result.state is JobState.LOST
    assert "set-up lines failed" in result.message


def test_nothing_of_arfs_environment_reaches_slurm(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "a-key-that-must-not-leak")
    monkeypatch.setenv("SLURM_JOB_ID", "12345")

    async def steps(backend: SlurmBackend) -> None:
        handle = await backend.submit(bench.job("job", HOLD))
        await bench.marked("up")
        runners = bench.runner_pids()
        assert runners
        for pid in runners:
            assert b"a-key-that-must-not-leak" not in environ(pid)
        (bench.path / "go").touch()
        await backend.wait(handle)

    bench.run(steps)


# ---- Ends that are not the job's ------------------------------------------------------------


@POOL_IN_CI
def test_a_preempted_job_is_told_as_preempted_and_can_run_again(bench: Bench, form: str) -> None:
    async def steps(backend: SlurmBackend) -> tuple[JobResult, JobResult]:
        handle = await backend.submit(bench.job("job", FIRST_HOLDS, tier="h200"))
        await bench.marked("up")
        bench.slurm.run("sbatch", "-p", "high", "--gres=gpu:h200:2", "-o", "/dev/null", "--wrap", "sleep 1")
        first = await backend.wait(handle)
        again = await backend.wait(await backend.submit(bench.job("again", FIRST_HOLDS, tier="h200")))
        return first, again

    tiers = {"h200": SlurmTier(gres="gpu:h200:1", slots=2)}
    first, again = bench.run(steps, form=form, tiers=tiers)
    assert first.state is JobState.PREEMPTED
    assert "h200-0" in first.message
    assert again.state is JobState.SUCCEEDED


@FORMS
def test_a_node_that_fails_loses_its_job_and_no_other(bench: Bench, form: str) -> None:
    async def steps(backend: SlurmBackend) -> tuple[JobResult, JobResult]:
        tiers = {name: await backend.submit(bench.job(name, HOLD.replace("up", name), tier=name))
                 for name in ("h100", "h200")}  # fmt: skip
        await bench.marked("h100")
        await bench.marked("h200")
        bench.slurm.run("scontrol", "update", "nodename=h200-0", "state=down", "reason=test")
        lost = await backend.wait(tiers["h200"])
        (bench.path / "go").touch()
        return lost, await backend.wait(tiers["h100"])

    try:
        lost, other = bench.run(steps, form=form)
    finally:
        bench.slurm.resume("h200-0")
    assert (lost.state, other.state) == (JobState.LOST, JobState.FAILED)
    assert "node failed" in lost.message
    assert other.exit_code == 6


@CI
@FORMS
def test_a_worker_that_dies_loses_its_job_and_gets_a_successor(bench: Bench, form: str) -> None:
    async def steps(backend: SlurmBackend) -> tuple[JobResult, JobResult]:
        handle = await backend.submit(bench.job("job", FIRST_HOLDS))
        await bench.marked("up")
        for pid in bench.runner_pids():
            os.kill(pid, signal.SIGKILL)
        first = await backend.wait(handle)
        return first, await backend.wait(await backend.submit(bench.job("again", FIRST_HOLDS)))

    first, again = bench.run(steps, form=form)
    assert first.state is JobState.LOST
    assert again.state is JobState.SUCCEEDED


def test_a_worker_that_falls_silent_is_ended_and_its_job_is_lost(bench: Bench) -> None:
    async def steps(backend: SlurmBackend) -> tuple[JobResult, JobResult]:
        handle = await backend.submit(bench.job("job", FIRST_HOLDS))
        await bench.marked("up")
        for pid in bench.runner_pids():
            os.kill(pid, signal.SIGSTOP)
        first = await backend.wait(handle)
        return first, await backend.wait(await backend.submit(bench.job("again", FIRST_HOLDS)))

    first, again = bench.run(steps, silent=2.0)
    assert (first.state, again.state) == (JobState.LOST, JobState.SUCCEEDED)
    assert "fell silent" in first.message


@FORMS
def test_slurm_does_not_put_jobs_back_into_the_queue(bench: Bench, form: str) -> None:
    async def steps(backend: SlurmBackend) -> JobResult:
        handle = await backend.submit(bench.job("job", HOLD))
        await bench.marked("up")
        for job in bench.slurm.jobs("%i"):
            bench.slurm.run("scontrol", "requeue", job, check=False)
        (bench.path / "go").touch()
        return await backend.wait(handle)

    assert bench.run(steps, form=form).exit_code == 6


@CI
@FORMS
def test_scancel_by_hand_is_seen(bench: Bench, form: str) -> None:
    async def steps(backend: SlurmBackend) -> JobResult:
        handle = await backend.submit(bench.job("job", HOLD))
        await bench.marked("up")
        bench.slurm.run("scancel", "-u", str(os.getuid()))
        return await backend.wait(handle)

    expected = JobState.PREEMPTED if form == "pool" else JobState.CANCELLED
    assert bench.run(steps, form=form).state is expected


def test_an_end_that_slurm_has_told_is_still_known_to_the_next_backend(bench: Bench) -> None:
    async def first(backend: SlurmBackend) -> tuple[str, JobResult]:
        handle = await backend.submit(bench.job("job", HOLD))
        await bench.marked("up")
        bench.slurm.run("scancel", "-u", str(os.getuid()))
        return handle, await backend.wait(handle)

    handle, result = bench.run(first, close=False)
    assert bench.run(lambda backend: backend.wait(handle)) == result


def test_an_idle_worker_gives_its_slot_back(bench: Bench) -> None:
    async def steps(backend: SlurmBackend) -> None:
        await backend.wait(await backend.submit(bench.job("job", "true")))
        await bench.until(lambda: not bench.slurm.jobs(), "the idle worker stays")
        assert (
            await backend.wait(await backend.submit(bench.job("next", "true")))
        ).state is JobState.SUCCEEDED

    bench.run(steps, idle=1.0)


def test_workers_end_with_the_study(bench: Bench) -> None:
    async def steps(backend: SlurmBackend) -> None:
        jobs = [bench.job(f"job-{i}", "sleep 0.3") for i in range(4)]
        handles = [await backend.submit(job) for job in jobs]
        await asyncio.gather(*(backend.wait(handle) for handle in handles))

    bench.run(steps, slots=4)
    bench.slurm.wait_until_empty()


@FORMS
def test_what_is_taken_down_has_ended_when_that_is_said(bench: Bench, form: str) -> None:
    async def start(backend: SlurmBackend) -> str:
        handle = await backend.submit(bench.job("job", HOLD))
        await bench.marked("up")
        while [one.state for one in await backend.held_resources()] != ["RUNNING"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # its hello is read at the next look
        return handle

    async def end(backend: SlurmBackend) -> JobResult:
        assert len(await backend.held_resources()) == 1
        await backend.down()
        assert bench.slurm.run("squeue", "-h").strip() == ""
        assert not await backend.held_resources()
        return await backend.wait(handle)

    handle = bench.run(start, close=False, form=form, idle=600)
    assert bench.run(end, form=form).state in (JobState.PREEMPTED, JobState.LOST)  # it runs again, if resumed


# ---- The controller -------------------------------------------------------------------------


@FORMS
def test_a_controller_that_restarts_is_no_reason_to_lose_anything(bench: Bench, form: str) -> None:
    async def steps(backend: SlurmBackend) -> list[JobResult]:
        running = await backend.submit(bench.job("running", HOLD))
        await bench.marked("up")
        bench.slurm.end("slurmctld", signal.SIGTERM)  # killed, it would forget its last jobs
        late = [await backend.submit(bench.job(f"late-{i}", "echo late", tier="h100")) for i in range(4)]
        (bench.path / "go").touch()
        first = await backend.wait(running)  # its end is known without the controller
        bench.slurm.start_controller()
        return [first, *await asyncio.gather(*(backend.wait(handle) for handle in late))]

    first, *late = bench.run(steps, form=form, slots=5)
    bench.slurm.wait_until_up()
    assert (first.state, first.exit_code) == (JobState.FAILED, 6)
    assert {result.state for result in late} == {JobState.SUCCEEDED}


def test_the_controller_is_asked_nothing_while_workers_speak(bench: Bench) -> None:
    async def steps(backend: SlurmBackend) -> tuple[int, int]:
        await backend.wait(await backend.submit(bench.job("first", "true")))
        before = backend.polls
        for i in range(30):
            await backend.wait(await backend.submit(bench.job(f"job-{i}", "sleep 0.1")))
        return before, backend.polls

    before, after = bench.run(steps)
    assert after - before <= 1


# ---- Crashes of arf -------------------------------------------------------------------------


@CI
@FORMS
def test_a_crash_between_sbatch_and_its_record_runs_nothing_twice(bench: Bench, form: str) -> None:
    script = "echo ran >> $MARKS/runs; until [ -e $MARKS/go ]; do sleep 0.05; done; exit 6"

    async def start(backend: SlurmBackend) -> str:
        handle = await backend.submit(bench.job("job", script))
        await bench.marked("runs")
        return handle

    handle = bench.run(start, close=False, form=form)
    for record in (bench.path / "backend/slurm/batches").glob("*/slurm"):
        record.unlink()

    async def find(backend: SlurmBackend) -> JobResult:
        assert await backend.submit(bench.job("job", script)) == handle
        waiting = asyncio.ensure_future(backend.wait(handle))
        (bench.path / "go").touch()
        return await waiting

    assert bench.run(find, form=form).exit_code == 6
    assert (bench.path / "runs").read_text() == "ran\n"


@FORMS
def test_a_batch_that_slurm_never_got_is_submitted_again(bench: Bench, form: str) -> None:
    """As if arf had been killed just before sbatch: the batch is written down, and Slurm knows nothing."""

    async def start(backend: SlurmBackend) -> str:
        return await backend.submit(bench.job("job", "echo ran"))

    handle = bench.run(start, close=False, form=form)
    home = bench.path / "backend/slurm"
    only = [handle] if form == "jobs" else None
    batch = home / "batches/00001"
    batch.mkdir(exist_ok=True)
    (batch / "batch.json").write_text(json.dumps({"name": "h100", "tier": "h100", "only": only, "count": 1}))
    (batch / "0.orders").touch()
    (batch / "0.journal").touch()
    assert bench.run(lambda backend: backend.wait(handle), form=form).state is JobState.SUCCEEDED
    assert bench.log() == "ran\n"


# ---- Waiting, limits and many ---------------------------------------------------------------


@FORMS
def test_a_job_that_never_starts_says_why(bench: Bench, form: str) -> None:
    bench.slurm.run("scontrol", "update", "partitionname=brief", "state=down")
    try:
        options = {"form": form, "partition": "brief", "start_timeout": 1.0, "poll": 0.3}
        result = bench.run_job("true", options=options, tier="h200")
    finally:
        bench.slurm.run("scontrol", "update", "partitionname=brief", "state=up")
    assert result.state is JobState.LOST
    assert "PartitionDown" in result.message
    assert "scontrol show partition" in result.message


@pytest.mark.parametrize("form", ["pool", pytest.param("jobs", marks=pytest.mark.slow)])
def test_workers_that_cannot_start_are_explained(bench: Bench, form: str) -> None:
    options = {"form": form, "python": "/no/such/python", "slots": 3}
    result = bench.run_job("true", options=options)
    assert result.state is JobState.LOST
    assert "end as soon as they start" in result.message
    assert "/no/such/python" in result.message


@CI
def test_workers_that_all_die_at_one_moment_do_not_make_their_tier_broken(bench: Bench) -> None:
    python = bench.path / "python"
    python.write_text(
        f'#!/bin/sh\nmkdir {bench.path}/died-$ARF_INDEX 2>/dev/null && exit 1\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)

    async def steps(backend: SlurmBackend) -> list[JobResult]:
        handles = [await backend.submit(bench.job(f"job-{i}", "true")) for i in range(4)]
        return await asyncio.gather(*(backend.wait(handle) for handle in handles))

    results = bench.run(steps, python=str(python), slots=4)
    assert {result.state for result in results} == {JobState.SUCCEEDED}
    assert (bench.path / "died-3").exists()


@pytest.mark.parametrize("form", ["pool", pytest.param("jobs", marks=pytest.mark.slow)])
def test_a_hundred_jobs_at_once(bench: Bench, form: str) -> None:
    async def steps(backend: SlurmBackend) -> list[JobResult]:
        jobs = [bench.job(f"job-{i}", f"echo {i}; exit {i % 3}") for i in range(100)]
        handles = await asyncio.gather(*(backend.submit(job) for job in jobs))
        return await asyncio.gather(*(backend.wait(handle) for handle in handles))

    results = bench.run(steps, form=form, slots=8)
    assert [result.exit_code for result in results] == [i % 3 for i in range(100)]
    assert [bench.log(f"job-{i}") for i in range(100)] == [f"{i}\n" for i in range(100)]


# ---- With accounting ------------------------------------------------------------------------


@pytest.fixture
def accounted(tmp_path: Path, slurm_with_accounting: Any) -> Bench:
    return Bench(tmp_path, slurm_with_accounting)


def test_accounting_changes_nothing(accounted: Bench) -> None:
    async def steps(backend: SlurmBackend) -> list[JobResult]:
        ends = [await backend.submit(accounted.job("good", "echo good")),
                await backend.submit(accounted.job("bad", "exit 9")),
                await backend.submit(accounted.job("long", "sleep 600", time_limit_s=0.5)),
                await backend.submit(accounted.job("held", HOLD, tier="h200"))]  # fmt: skip
        await accounted.marked("up")
        await backend.cancel(ends[3])
        return await asyncio.gather(*(backend.wait(handle) for handle in ends))

    results = accounted.run(steps, slots=3)
    assert [result.state for result in results] == [
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.TIMED_OUT,
        JobState.CANCELLED,
    ]


def test_what_squeue_has_forgotten_the_accounting_knows(accounted: Bench) -> None:
    job_id = accounted.slurm.run(
        "sbatch", "--parsable", "-J", "arf-test-1", "-o", "/dev/null", "--wrap", "sleep 600"
    ).strip()
    accounted.slurm.run("scancel", job_id)
    watcher = QueueWatcher("arf-test-")
    watcher.read_info = lambda string: {}  # type: ignore[method-assign] # as if squeue had forgotten it
    watcher.register_job(job_id)
    limit = time.monotonic() + PATIENCE_S
    while [sight.state for sight in watcher.sights()] != ["CANCELLED"]:  # the accounting lags
        assert time.monotonic() < limit, watcher.sights()
        time.sleep(0.2)
        watcher.update()


@pytest.mark.parametrize("form", ["pool", pytest.param("jobs", marks=pytest.mark.slow)])
def test_a_quota_is_kept_to_and_the_rest_goes_on(accounted: Bench, form: str) -> None:
    accounted.slurm.run("sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=2")

    async def steps(backend: SlurmBackend) -> list[JobResult]:
        jobs = [accounted.job(f"job-{i}", "sleep 0.2") for i in range(6)]
        handles = [await backend.submit(job) for job in jobs]
        return await asyncio.gather(*(backend.wait(handle) for handle in handles))

    try:
        results = accounted.run(steps, form=form, slots=6)
    finally:
        accounted.slurm.run("sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=-1")
    assert {result.state for result in results} == {JobState.SUCCEEDED}


def test_an_account_that_there_is_not_is_told(accounted: Bench) -> None:
    result = accounted.run_job("true", options={"directives": {"account": "no-such"}})
    assert result.state is JobState.LOST
    assert "backend.directives.account" in result.message
