"""The `skypilot` backend with clusters that are processes of this machine. tests/skypilot has the rest."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from skypilot_stand_in import StandIn  # it is beside this file, which pytest's import mode does not see

from arf.errors import BackendError, UsageError
from arf.interfaces import Backend
from arf.testing.suites import ClusterSuite
from arf.types import Job, JobResult, JobState
from arf_plugins.backend_skypilot import SkyPilotOptions, SkyTier
from arf_plugins.backend_skypilot.backend import SkyPilotBackend
from arf_plugins.backend_skypilot.sdk import Offer, translated
from arf_plugins.backend_skypilot.task import build, kind
from arf_plugins.worker_pool.pool import Gone, NoCapacity, Refused, Unreachable

T = TypeVar("T")

PATIENCE_S = 60.0
QUICK = {"grace": 0.3, "poll": 0.2, "heartbeat": 1.0, "idle": 60.0}


@pytest.fixture
def sky(tmp_path: Path) -> Iterator[StandIn]:
    stand_in = StandIn(tmp_path / "clusters")
    yield stand_in
    stand_in.end_all()


class TestClusterSuite(ClusterSuite):
    """Two clusters of two slots each."""

    @pytest.fixture(autouse=True)
    def _sky(self, sky: StandIn) -> None:
        self.sky = sky

    def make(self, directory: Path) -> Backend:
        tiers = {"h100": {"accelerators": "H100:2", "slots": 4}}
        return SkyPilotBackend(SkyPilotOptions(tiers=tiers, **QUICK), directory, sky=self.sky)

    def kill(self, word: str) -> None:
        for name in [*self.sky.clusters_by_name]:
            for pid in self.sky.processes(name, word):
                os.kill(pid, signal.SIGKILL)

    def lose_workers(self) -> None:
        self.kill("node-worker")

    def cut_links(self) -> None:
        self.kill("relay")

    def left(self) -> Sequence[str]:
        return [*self.sky.clusters_by_name]


class Study:
    """A study's folders, and its backend, made anew for each `run` like by another process."""

    def __init__(self, home: Path, sky: StandIn) -> None:
        self.home = home
        self.sky = sky
        self.options: dict[str, Any] = {"tiers": {"H100": 2}}
        self.tree = home / "trees/1"
        self.marks = home / "marks"
        for folder in (home / "backend", home / "logs", self.tree, self.marks):
            folder.mkdir(parents=True)

    def job(self, key: str, command: str | tuple[str, ...], **changes: Any) -> Job:
        settings: dict[str, Any] = {
            "key": key,
            "directory": self.tree,
            "command": command,
            "env": {"MARKS": str(self.marks)},
            "log": self.home / f"logs/{key}.log",
            "tier": next(iter(self.options["tiers"]), "cpu"),
            "time_limit_s": 600.0,
        }
        return Job(**{**settings, **changes})

    def backend(self) -> SkyPilotBackend:
        options = SkyPilotOptions(**{**QUICK, **self.options})
        return SkyPilotBackend(options, self.home / "backend", sky=self.sky)

    def run(self, steps: Callable[[SkyPilotBackend], Coroutine[Any, Any, T]], *, close: bool = True) -> T:
        async def main() -> T:
            backend = self.backend()
            try:
                return await asyncio.wait_for(steps(backend), PATIENCE_S)
            finally:
                if close:
                    await backend.aclose()

        return asyncio.run(main())

    def run_jobs(self, *jobs: Job) -> list[JobResult]:
        async def steps(backend: SkyPilotBackend) -> list[JobResult]:
            handles = [await backend.submit(job) for job in jobs]
            return list(await asyncio.gather(*(backend.wait(handle) for handle in handles)))

        return self.run(steps)

    def log(self, key: str) -> str:
        return (self.home / f"logs/{key}.log").read_text()

    def hold(self, name: str, end: str = "exit 0") -> str:
        """A script that says that it runs, and waits to be let go."""
        return f"echo began; touch $MARKS/{name}; until [ -e $MARKS/go ]; do sleep 0.02; done; {end}"

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():  # noqa: ASYNC110 -- other processes bring it about
            await asyncio.sleep(0.02)

    async def marked(self, name: str) -> None:
        await self.until((self.marks / name).exists)

    async def heard(self, key: str) -> None:
        """Wait until the backend knows that a job that holds has begun."""
        log = self.home / f"logs/{key}.log"
        await self.until(lambda: log.exists() and "began" in log.read_text())

    def go(self) -> None:
        (self.marks / "go").touch()

    @property
    def names(self) -> list[str]:
        return sorted(self.sky.clusters_by_name)


@pytest.fixture
def study(tmp_path: Path, sky: StandIn) -> Study:
    return Study(tmp_path / "study", sky)


# ---- Clusters ---------------------------------------------------------------------------------


def test_only_as_many_clusters_are_launched_as_jobs_wait_for(study: Study) -> None:
    study.options["tiers"] = {"H100": 3}
    assert [r.state for r in study.run_jobs(study.job("one", "true"))] == [JobState.SUCCEEDED]
    assert len(study.names) == 1
    assert study.names[0].startswith("arf-study-")
    results = study.run_jobs(*(study.job(f"j{i}", "sleep 0.3") for i in range(4)))
    assert {result.state for result in results} == {JobState.SUCCEEDED}
    assert len(study.names) == 3


def test_each_job_on_a_node_with_several_gpus_sees_its_own(study: Study) -> None:
    study.options["tiers"] = {"box": {"accelerators": "H100:4", "slots": 2, "gpus_per_job": 2}}
    script = "touch $MARKS/$ARF_EXPERIMENT; until [ -e $MARKS/1 ] && [ -e $MARKS/2 ]; do sleep 0.02; done"
    script += "; echo $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS"
    jobs = [
        study.job(str(i), script, env={"MARKS": str(study.marks), "ARF_EXPERIMENT": str(i)}) for i in (1, 2)
    ]
    results = study.run_jobs(*jobs)
    assert {study.log(str(i)).split()[0] for i in (1, 2)} == {"0,1", "2,3"}
    assert {result.slot.partition(":")[2] for result in results} == {"gpu0,1", "gpu2,3"}
    assert len(study.names) == 1


@pytest.mark.parametrize(("spot", "state"), [(True, JobState.PREEMPTED), (False, JobState.LOST)])
def test_a_cluster_that_is_taken_away_ends_its_job_and_another_takes_the_next(
    study: Study, spot: bool, state: JobState
) -> None:
    study.options |= {"tiers": {"H100": 1}, "spot": spot}

    async def steps(backend: SkyPilotBackend) -> tuple[JobResult, JobResult, list[str]]:
        handle = await backend.submit(study.job("first", study.hold("up")))
        await study.heard("first")
        study.sky.end(study.names[0])
        first = await backend.wait(handle)
        second = await backend.wait(await backend.submit(study.job("second", "true")))
        return first, second, backend.notes()

    first, second, notes = study.run(steps)
    assert first.state is state
    assert "taken away" in first.message
    assert second.state is JobState.SUCCEEDED
    assert any("1 taken away" in note for note in notes)


def test_a_job_that_had_not_begun_when_its_cluster_vanished_runs_elsewhere(study: Study) -> None:
    study.options["tiers"] = {"H100": 1}

    async def steps(backend: SkyPilotBackend) -> list[JobResult]:
        first = await backend.submit(study.job("first", study.hold("up")))
        await study.heard("first")
        second = await backend.submit(study.job("second", "true"))
        study.sky.end(study.names[0])
        return [await backend.wait(first), await backend.wait(second)]

    assert [result.state for result in study.run(steps)] == [JobState.LOST, JobState.SUCCEEDED]


def test_a_broken_connection_costs_nothing(study: Study) -> None:
    study.options["tiers"] = {"H100": 1}

    async def steps(backend: SkyPilotBackend) -> JobResult:
        script = f"{study.hold('up')[:-7]} seq 2000; exit 5"
        handle = await backend.submit(study.job("only", script))
        await study.marked("up")
        for pid in study.sky.processes(study.names[0], "relay"):
            os.kill(pid, signal.SIGKILL)
        study.go()
        return await backend.wait(handle)

    result = study.run(steps)
    assert (result.state, result.exit_code) == (JobState.FAILED, 5)
    assert study.log("only").split() == ["began", *map(str, range(1, 2001))]


def test_a_worker_that_is_killed_loses_its_job_and_its_slot_goes_on(study: Study) -> None:
    study.options["tiers"] = {"H100": 1}

    async def steps(backend: SkyPilotBackend) -> list[JobResult]:
        first = await backend.submit(study.job("first", study.hold("up")))
        await study.marked("up")
        for pid in study.sky.processes(study.names[0], "node-worker"):
            os.kill(pid, signal.SIGKILL)
        lost = await backend.wait(first)
        return [lost, await backend.wait(await backend.submit(study.job("second", "true")))]

    assert [result.state for result in study.run(steps)] == [JobState.LOST, JobState.SUCCEEDED]
    assert study.sky.count("launch") == 1


def test_a_foreman_that_is_killed_is_replaced_on_the_same_cluster(study: Study) -> None:
    study.options["tiers"] = {"H100": 1}

    async def steps(backend: SkyPilotBackend) -> list[JobResult]:
        first = await backend.submit(study.job("first", study.hold("up")))
        await study.marked("up")
        for pid in study.sky.processes(study.names[0], "foreman"):
            os.kill(pid, signal.SIGKILL)
        lost = await backend.wait(first)
        return [lost, await backend.wait(await backend.submit(study.job("second", "true")))]

    states = [result.state for result in study.run(steps)]
    assert states == [JobState.PREEMPTED, JobState.SUCCEEDED]
    assert study.sky.count("start_job") >= 1
    assert study.sky.count("launch") == 1


def test_an_idle_cluster_is_used_again_without_a_launch(study: Study) -> None:
    study.options |= {"tiers": {"H100": 1}, "idle": 1.0}

    async def steps(backend: SkyPilotBackend) -> JobResult:
        await backend.wait(await backend.submit(study.job("first", "true")))
        await study.until(lambda: not study.sky.processes(study.names[0], "foreman"))
        return await backend.wait(await backend.submit(study.job("second", "true")))

    assert study.run(steps).state is JobState.SUCCEEDED
    assert (study.sky.count("launch"), study.sky.count("start_job")) == (1, 1)


def test_a_cluster_that_cannot_be_made_ready_is_given_back_and_replaced(study: Study) -> None:
    """The set-up succeeded on the first cluster and fails once on the second."""
    script = (
        "if [ -e $MARKS/first ] && ! [ -e $MARKS/failed ]; then touch $MARKS/failed; exit 3; fi; "
        "touch $MARKS/first"
    )

    async def steps(backend: SkyPilotBackend) -> tuple[list[JobResult], Sequence[str]]:
        await backend.wait(await backend.submit(study.job("setup-1", script, prepares=True)))
        handles = [await backend.submit(study.job(f"j{i}", "sleep 0.5")) for i in range(6)]
        results = [await backend.wait(handle) for handle in handles]
        await study.marked("failed")
        await study.until(lambda: any("set aside" in note for note in backend.notes()))
        return results, backend.notes()

    results, notes = study.run(steps)
    assert {result.state for result in results} == {JobState.SUCCEEDED}
    assert any("1 set aside" in note for note in notes)


def test_a_cluster_that_is_set_aside_is_taken_down_and_another_one_takes_its_place(study: Study) -> None:
    study.options["tiers"] = {"H100": 1}

    async def steps(backend: SkyPilotBackend) -> tuple[JobResult, JobResult]:
        first = await backend.submit(study.job("first", study.hold("up")))
        await study.marked("up")
        (bad,) = study.names
        assert backend.set_aside("elsewhere", "why") is False
        assert backend.set_aside(bad, "why") is True
        second = await backend.submit(study.job("second", "true"))
        study.go()
        return await backend.wait(first), await backend.wait(second)

    first, second = study.run(steps)
    assert first.state is second.state is JobState.SUCCEEDED
    assert SkyPilotBackend(None, study.home).node_of(second.slot) != first.slot.partition(":")[0]

    async def in_another_process(backend: SkyPilotBackend) -> JobResult:
        """Its name is not taken by a new one, which would be set aside too."""
        assert backend.set_aside(first.slot.partition(":")[0], "why") is True
        return await backend.wait(await backend.submit(study.job("third", "true")))

    assert study.run(in_another_process).slot.partition(":")[0] == second.slot.partition(":")[0]


# ---- What cannot be had -----------------------------------------------------------------------


def test_the_study_goes_on_with_the_clusters_that_can_be_had(study: Study) -> None:
    study.sky.capacity = 1
    results = study.run_jobs(*(study.job(f"j{i}", "sleep 0.1") for i in range(4)))
    assert {result.state for result in results} == {JobState.SUCCEEDED}
    assert len(study.names) == 1


def test_a_tier_that_cannot_be_had_at_all_is_given_up(study: Study) -> None:
    study.sky.capacity = 0
    study.options["start_timeout"] = 0.5

    async def steps(backend: SkyPilotBackend) -> JobResult:
        result = await backend.wait(await backend.submit(study.job("first", "true")))
        with pytest.raises(BackendError, match="no node came up"):
            await backend.submit(study.job("second", "true"))
        return result

    result = study.run(steps)
    assert result.state is JobState.LOST
    assert "no H100 can be had" in result.message


def test_an_unknown_accelerator_is_told_before_the_first_job(study: Study) -> None:
    study.options["tiers"] = {"H1000": 1}
    with pytest.raises(BackendError, match="tier H1000: there is no H1000"):
        study.run(lambda backend: backend.tiers())
    findings = study.run(lambda backend: backend.check())
    assert [finding.what for finding in findings if finding.problem] == ["tier H1000"]


def test_a_set_up_that_fails_is_told_with_its_last_line(study: Study) -> None:
    study.options |= {"tiers": {"H100": 1}, "setup": ("echo no such module; false",)}
    result = study.run_jobs(study.job("first", "true"))[0]
    assert result.state is JobState.LOST
    assert "set-up failed: no such module" in result.message


def test_a_server_that_does_not_answer_for_a_while_ends_nothing(study: Study) -> None:
    study.options["tiers"] = {"H100": 1}

    async def steps(backend: SkyPilotBackend) -> JobResult:
        handle = await backend.submit(study.job("first", study.hold("up")))
        await study.marked("up")
        study.sky.problem = Unreachable("the API server does not answer")
        for pid in study.sky.processes(study.names[0], "relay"):
            os.kill(pid, signal.SIGKILL)
        study.go()
        return await backend.wait(handle)

    assert study.run(steps).state is JobState.SUCCEEDED


def test_no_more_is_spent_an_hour_than_allowed(study: Study) -> None:
    study.options |= {"tiers": {"H100": 13, "H200": 3}, "max_usd_per_hour": 11.0}
    tiers = study.run(lambda backend: backend.tiers())
    assert [(tier.name, tier.slots, tier.usd_per_hour) for tier in tiers] == [
        ("H100", 2, 2.0),
        ("H200", 2, 3.0),
    ]
    study.options["max_usd_per_hour"] = 1.0
    with pytest.raises(BackendError, match="cheapest cluster costs"):
        study.run(lambda backend: backend.tiers())


# ---- Crashes of arf ---------------------------------------------------------------------------


def test_a_launch_that_arf_did_not_live_to_see_is_made_again_with_one_foreman(study: Study) -> None:
    study.options["tiers"] = {"H100": 1}
    begun = threading.Event()
    study.sky.before_launch = lambda _: begun.set()

    async def start(backend: SkyPilotBackend) -> None:
        await backend.submit(study.job("only", "echo ran >> $MARKS/runs"))
        await study.until(begun.is_set)

    async def find(backend: SkyPilotBackend) -> JobResult:
        return await backend.wait(await backend.submit(study.job("only", "echo ran >> $MARKS/runs")))

    study.run(start, close=False)
    assert study.run(find).state is JobState.SUCCEEDED
    assert (study.marks / "runs").read_text() == "ran\n"
    assert len(study.names) == 1


def test_a_cluster_that_vanished_with_arf_loses_its_job(study: Study) -> None:
    study.options["tiers"] = {"H100": 1}

    async def start(backend: SkyPilotBackend) -> str:
        handle = await backend.submit(study.job("only", study.hold("up")))
        await study.marked("up")
        return handle

    handle = study.run(start, close=False)
    study.sky.end(study.names[0])
    assert study.run(lambda backend: backend.wait(handle)).state is JobState.LOST


def test_a_job_is_cancelled_while_its_cluster_cannot_be_reached(study: Study) -> None:
    study.options["tiers"] = {"H100": 1}

    async def steps(backend: SkyPilotBackend) -> JobResult:
        handle = await backend.submit(study.job("only", study.hold("up")))
        await study.marked("up")
        study.sky.clusters_by_name[study.names[0]].state = "INIT"
        for pid in study.sky.processes(study.names[0], "relay"):
            os.kill(pid, signal.SIGKILL)
        await backend.cancel(handle)
        study.sky.clusters_by_name[study.names[0]].state = "UP"
        return await backend.wait(handle)

    assert study.run(steps).state is JobState.CANCELLED


# ---- What stands, and its end -----------------------------------------------------------------


def test_what_stands_is_told_and_taken_down_by_another_process(study: Study) -> None:
    study.run_jobs(study.job("a", "sleep 0.2"), study.job("b", "sleep 0.2"))
    standing = study.run(lambda backend: backend.held_resources())
    assert [(one.name, one.tier, one.state) for one in standing] == [(n, "H100", "UP") for n in study.names]
    assert sum(one.usd_per_hour for one in standing) == 4.0
    study.run(lambda backend: backend.down())
    assert study.names == []
    assert study.run(lambda backend: backend.held_resources()) == []
    study.run(lambda backend: backend.down())


def test_a_study_that_had_no_cluster_asks_nothing(study: Study) -> None:
    assert study.run(lambda backend: backend.held_resources()) == ()
    study.run(lambda backend: backend.down())
    assert {call for call, _ in study.sky.calls} == {"close"}


def test_what_cannot_be_taken_down_is_named(study: Study) -> None:
    study.run_jobs(study.job("a", "true"))
    study.sky.undead = True
    with pytest.raises(BackendError, match=study.names[0]):
        study.run(lambda backend: backend.down())


def test_a_cluster_that_is_being_launched_is_taken_down_too(study: Study) -> None:
    begun, go = threading.Event(), threading.Event()

    def wait(_: str) -> None:
        begun.set()
        go.wait(PATIENCE_S)

    study.sky.before_launch = wait

    async def steps(backend: SkyPilotBackend) -> None:
        await backend.submit(study.job("a", "true"))
        await study.until(begun.is_set)
        asyncio.get_running_loop().call_later(0.2, go.set)
        await backend.down()

    study.run(steps)
    assert study.names == []


# ---- What is sent along, and what comes back --------------------------------------------------


def test_a_tree_is_sent_with_its_modes_and_links_and_only_once(study: Study) -> None:
    (study.tree / "pkg/deep").mkdir(parents=True)
    (study.tree / "pkg/deep/a.txt").write_text("α\n")
    (study.tree / "tool.sh").write_text("#!/bin/sh\ncat pkg/deep/a.txt\n")
    (study.tree / "tool.sh").chmod(0o755)
    (study.tree / "near").symlink_to("pkg/deep/a.txt")
    data = study.home / "data"
    data.mkdir()
    (data / "big.bin").write_bytes(b"x" * 3_000_000)
    (study.tree / "data").symlink_to(data)
    script = "./tool.sh; cat near; wc -c < data/big.bin; [ $(pwd) != $ODD ] && echo elsewhere"
    env = {"ODD": str(study.tree)}
    jobs = [study.job(str(i), script, env=env) for i in range(2)]
    assert {result.state for result in study.run_jobs(*jobs)} == {JobState.SUCCEEDED}
    assert study.log("0") == study.log("1") == "α\nα\n3000000\nelsewhere\n"


def test_data_that_is_too_much_is_refused_with_what_to_do(study: Study) -> None:
    data = study.home / "data"
    data.mkdir()
    (data / "big.bin").write_bytes(b"x" * 3_000_000)
    (study.tree / "data").symlink_to(data)
    study.options["send_mb"] = 1
    with pytest.raises(BackendError, match="send_mb"):
        study.run_jobs(study.job("a", "true"))


def test_the_set_up_of_the_workspace_runs_once_on_each_cluster(study: Study) -> None:
    workspace = study.home
    while not (workspace / "study").exists():
        workspace = workspace.parent
    (workspace / "prepare.sh").write_text("echo made on $STAND_IN > data/made; echo set up >> $MARKS/setups")
    (workspace / "data").mkdir()
    (study.tree / "data").symlink_to(workspace / "data")
    tree = study.home / "trees/setup"  # as a study has it: one of its own, which stays
    tree.mkdir()
    shutil.copy(workspace / "prepare.sh", tree)
    (tree / "data").symlink_to(workspace / "data")
    set_up = study.job("setup-1", "sh prepare.sh", directory=tree, prepares=True)
    assert study.run_jobs(set_up)[0].state is JobState.SUCCEEDED
    jobs = [study.job(f"j{i}", "sleep 0.5; cat data/made") for i in range(4)]
    results = study.run_jobs(*jobs)
    assert {result.state for result in results} == {JobState.SUCCEEDED}
    for job, result in zip(jobs, results, strict=True):
        assert study.log(job.key) == f"made on {result.slot.partition(':')[0]}\n"
    assert len(study.names) == 2
    assert (study.marks / "setups").read_text() == "set up\n" * 2


def test_what_a_job_writes_changes_and_removes_comes_back(study: Study) -> None:
    (study.tree / "prepare.py").write_text("read-only")
    (study.tree / "gone.txt").write_text("x")
    (study.tree / "same.txt").write_text("x")
    outside = study.home / "outside"
    outside.mkdir()
    (study.tree / "data").symlink_to(outside)
    before = (study.tree / "same.txt").stat().st_mtime_ns
    script = (
        "mkdir -p out __pycache__; echo 1 > out/result.json; touch __pycache__/x; echo changed > prepare.py; "
        "rm gone.txt; rm data; mkdir data; echo evil > data/evil; ln -s /etc/passwd link"
    )
    study.run_jobs(study.job("a", script))
    assert (study.tree / "out/result.json").read_text() == "1\n"
    assert (study.tree / "prepare.py").read_text() == "changed\n"
    assert not (study.tree / "gone.txt").exists()
    assert not (study.tree / "__pycache__").exists()
    assert not (study.tree / "link").is_symlink()
    assert list(outside.iterdir()) == []
    assert (study.tree / "same.txt").stat().st_mtime_ns == before


def test_files_over_the_limit_stay_there_and_are_counted(study: Study) -> None:
    study.options["return_mb"] = 1

    async def steps(backend: SkyPilotBackend) -> list[str]:
        script = "head -c 3000000 /dev/zero > model.pt; echo small > small"
        await backend.wait(await backend.submit(study.job("a", script)))
        return backend.notes()

    notes = study.run(steps)
    assert sorted(path.name for path in study.tree.iterdir()) == ["small"]
    assert any("1 files" in note and "return_mb" in note for note in notes)


def test_a_job_gets_what_is_its_own_and_the_machines_rest(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITOR_OF_MINE", "vi")
    monkeypatch.setenv("WANTED_HERE", "yes")
    monkeypatch.setenv("HF_TOKEN", "passed on purpose")
    study.options |= {"pass_env": ("WANTED_*",), "python": "python3 -X utf8"}
    env = {**os.environ, "ARF_SEED": "3", "MINE": "1", "HOME": os.environ["HOME"]}
    command = f"{shlex.quote(sys.executable)} -c 'import sys; print(sys.flags.utf8_mode)'; env"
    study.run_jobs(study.job("a", command, env=env))
    lines = study.log("a").splitlines()
    assert lines[0] == "1"
    found = dict(line.split("=", 1) for line in lines[1:] if "=" in line)
    assert (found["ARF_SEED"], found["MINE"], found["WANTED_HERE"]) == ("3", "1", "yes")
    assert found["HF_TOKEN"] == "passed on purpose"
    assert "EDITOR_OF_MINE" not in found
    assert found["HOME"] != os.environ["HOME"]
    assert not [name for name in found if name.startswith(("SKYPILOT", "SLURM"))]


# ---- Options ----------------------------------------------------------------------------------


def test_the_users_yaml_is_the_template_and_is_kept_with_the_study(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "resources: {accelerators: 'H200:1', disk_size: 300, image_id: 'docker:me/torch'}\n"
        "setup: echo template\nrun: python train.py\nenvs: {FROM_TEMPLATE: '7'}\n"
        "file_mounts: {/data: ./data, /bucket: 's3://mine'}\n"
    )
    study.options = {"template": str(path), "setup": ("echo mine",), "slots": 1, "tiers": {}}
    results = study.run_jobs(study.job("a", "echo $FROM_TEMPLATE", tier="h200"))
    assert results[0].state is JobState.SUCCEEDED
    assert study.log("a") == "7\n"
    task = study.sky.tasks[0]
    assert task["resources"] == {"accelerators": "H200:1", "disk_size": 300, "image_id": "docker:me/torch"}
    assert task["setup"] == "echo template\necho mine\n"
    assert task["file_mounts"] == {"/data": str(tmp_path / "data"), "/bucket": "s3://mine"}
    assert "train.py" not in task["run"]
    path.unlink()
    assert study.run(lambda backend: backend.tiers())[0].name == "h200"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("num_nodes: 2", "2 nodes"),
        ("- a list", "no SkyPilot task"),
        ("a: [", "no YAML"),
        (None, "cannot read"),
    ],
)
def test_a_template_that_cannot_be_used_is_told(
    study: Study, tmp_path: Path, text: str | None, match: str
) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    study.options = {"template": str(path), "tiers": {}}
    with pytest.raises(UsageError, match=match):
        study.run(lambda backend: backend.tiers())


def test_tiers_are_numbers_or_mappings() -> None:
    options = SkyPilotOptions(tiers={"H100": 13, "any": {"accelerators": ["A100:8", "H100:8"], "slots": 16}})
    assert options.tiers["H100"].slots == 13
    for wrong in ({"H100": "many"}, {"H100": 0}, {"x": {"acelerators": "H100"}}, {"x": {"slots": -1}}):
        with pytest.raises(UsageError):
            SkyPilotOptions(tiers=wrong)


def test_any_of_several_accelerators_and_places_is_asked_for(study: Study) -> None:
    tier = SkyTier(accelerators=("A100:8", "H100:8"), slots=16, infra=("aws", "gcp"), spot=True, max_price=20)
    options = SkyPilotOptions(resources={"disk_size": 100})
    found = build(tier, options, {"resources": {"infra": "azure", "cpus": "8+"}})["resources"]
    assert found == {
        "cpus": "8+",
        "disk_size": 100,
        "any_of": [{"infra": "aws"}, {"infra": "gcp"}],
        "accelerators": {"A100": 8, "H100": 8},
        "use_spot": True,
        "max_hourly_cost": 20,
    }
    made = kind("big", tier, {"resources": found}, Offer(usd_per_hour=16.0))
    assert (made.jobs, made.nodes, made.tier.slots, made.tier.usd_per_hour) == (8, 2, 16, 2.0)


class ResourcesUnavailableError(Exception):
    """Of the name that SkyPilot's has."""


class ClusterDoesNotExist(ValueError):
    pass


class ApiServerConnectionError(RuntimeError):
    pass


@pytest.mark.parametrize(
    ("error", "kind_of_error", "hint"),
    [
        (ResourcesUnavailableError("Task 'arf' requires aws which is not enabled. To"), Refused, "sky check"),
        (ResourcesUnavailableError("Catalog does not contain any instances"), Refused, "sky gpus list"),
        (ResourcesUnavailableError("Failed: QuotaExceeded: quota 'GPUS'"), NoCapacity, "quota"),
        (ResourcesUnavailableError("Failed to provision all"), NoCapacity, "tried again"),
        (ClusterDoesNotExist("Cluster 'x' does not exist."), Gone, ""),
        (ApiServerConnectionError("Could not connect"), Unreachable, "sky api info"),
        (ValueError("Invalid resources YAML"), Refused, "template"),
    ],
)
def test_what_skypilot_raises_becomes_one_line_with_what_to_do(
    error: Exception, kind_of_error: type[BackendError], hint: str
) -> None:
    found = translated(error)
    assert type(found) is kind_of_error
    assert "\n" not in str(found)
    assert hint in found.hint


def test_skypilot_is_not_imported_before_it_is_used() -> None:
    code = (
        "import sys, arf_plugins.backend_skypilot.backend; print('sky' in sys.modules, 'yaml' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "False"
