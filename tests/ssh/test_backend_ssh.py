"""The `ssh` backend on real SSH servers: GPUs of others, cut connections, what is sent and what is left."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from ssh_hosts import Hosts  # it is beside this file

from arf.errors import BackendError
from arf.types import Job, JobResult, JobState
from arf_plugins.backend_ssh import SshOptions
from arf_plugins.backend_ssh.backend import SshBackend

T = TypeVar("T")

CI = pytest.mark.ssh_ci
PATIENCE_S = 60.0
H100, H200 = "NVIDIA H100 80GB HBM3", "NVIDIA H200"
QUICK: dict[str, Any] = {"grace": 0.3, "poll": 0.3, "heartbeat": 1.0, "idle": 60.0}


class Study:
    """A study's folders, and its backend, made anew for each `run` like by another process."""

    def __init__(self, home: Path, hosts: Hosts) -> None:
        self.home = home
        self.hosts = hosts
        self.options: dict[str, Any] = {"hosts": ("gpu1",)}
        self.tree, self.marks = home / "trees/1", home / "marks"
        for folder in (home / "backend", home / "logs", self.tree, self.marks):
            folder.mkdir(parents=True)

    def job(self, key: str, command: str, **changes: Any) -> Job:
        settings: dict[str, Any] = {
            "key": key,
            "directory": self.tree,
            "command": command,
            "env": {"MARKS": str(self.marks)},
            "log": self.home / f"logs/{key}.log",
            "tier": "cpu",
            "time_limit_s": 600.0,
        }
        return Job(**{**settings, **changes})

    def backend(self) -> SshBackend:
        options = {**QUICK, "ssh": ("-F", str(self.hosts.config)), **self.options}
        return SshBackend(SshOptions(**options), self.home / "backend")

    def run(self, steps: Callable[[SshBackend], Coroutine[Any, Any, T]], *, close: bool = True) -> T:
        async def main() -> T:
            backend = self.backend()
            try:
                return await asyncio.wait_for(steps(backend), PATIENCE_S)
            finally:
                if close:
                    await backend.aclose()

        return asyncio.run(main())

    def run_jobs(self, *jobs: Job) -> list[JobResult]:
        async def steps(backend: SshBackend) -> list[JobResult]:
            handles = [await backend.submit(job) for job in jobs]
            return list(await asyncio.gather(*(backend.wait(handle) for handle in handles)))

        return self.run(steps)

    def log(self, key: str = "job") -> str:
        return (self.home / f"logs/{key}.log").read_text()

    def hold(self, name: str, then: str = "exit 0") -> str:
        return f"echo began; touch $MARKS/{name}; until [ -e $MARKS/go ]; do sleep 0.02; done; {then}"

    def go(self) -> None:
        (self.marks / "go").touch()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():  # noqa: ASYNC110 -- other processes bring it about
            await asyncio.sleep(0.02)

    async def marked(self, name: str) -> None:
        await self.until((self.marks / name).exists)


@pytest.fixture
def study(tmp_path: Path, hosts: Hosts) -> Study:
    return Study(tmp_path / "study", hosts)


def until(condition: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


# ---- Hosts and GPUs -------------------------------------------------------------------------


@CI
def test_free_gpus_make_tiers_by_kind_and_each_job_sees_its_own(study: Study, hosts: Hosts) -> None:
    hosts["gpu1"].set_gpus((H100, 3), (H100, 20_000), (H100, 3), (H200, 3), used=(2,))
    hosts["gpu2"].set_gpus((H100, 3), (H100, 3))
    study.options["hosts"] = ("gpu1", "root@gpu2:1")
    both = "touch $MARKS/$(hostname)$CUDA_VISIBLE_DEVICES.$ON_HOST; echo $CUDA_VISIBLE_DEVICES"
    jobs = [study.job(f"h100-{i}", both + "; sleep 0.5", tier="h100-80gb") for i in range(2)]
    results = study.run_jobs(*jobs, study.job("h200", both, tier="h200-80gb"))
    assert {result.slot for result in results} == {"gpu1-h100-80gb:gpu0", "gpu2:gpu0", "gpu1-h200-80gb:gpu3"}
    assert study.log("h200") == "3\n"
    tiers = study.run(lambda backend: backend.tiers())
    assert {tier.name: tier.slots for tier in tiers} == {"h100-80gb": 2, "h200-80gb": 1}


def test_a_gpu_that_somebody_else_begins_to_use_is_left_to_them(study: Study, hosts: Hosts) -> None:
    hosts["gpu1"].set_gpus((H100, 3), (H100, 3))

    async def steps(backend: SshBackend) -> list[str]:
        first = study.job("first", "true", tier="h100-80gb")
        await backend.wait(await backend.submit(first))
        hosts["gpu1"].set_gpus((H100, 3), (H100, 30_000))
        await study.until(lambda: any(node.slots == 1 for node in backend._nodes.values()))
        jobs = [study.job(f"job-{i}", "sleep 0.2", tier="h100-80gb") for i in range(3)]
        handles = [await backend.submit(job) for job in jobs]
        return [(await backend.wait(handle)).slot for handle in handles]

    assert study.run(steps) == ["gpu1:gpu0"] * 3


def test_two_studies_do_not_take_the_same_gpu(tmp_path: Path, study: Study, hosts: Hosts) -> None:
    hosts["gpu1"].set_gpus((H100, 3), (H100, 3))
    other = Study(tmp_path / "other", hosts)
    study.options["most_gpus"] = other.options["most_gpus"] = 1

    async def steps(backend: SshBackend) -> tuple[str, str]:
        job = study.job("job", study.hold("up"), tier="h100-80gb")
        handle = await backend.submit(job)
        await study.marked("up")
        theirs = await asyncio.to_thread(other.run_jobs, other.job("job", "true", tier="h100-80gb"))
        study.go()
        return (await backend.wait(handle)).slot, theirs[0].slot

    assert set(study.run(steps)) == {"gpu1:gpu0", "gpu1:gpu1"}


@CI
def test_hosts_that_cannot_be_reached_are_told_and_the_others_are_used(study: Study, hosts: Hosts) -> None:
    hosts["gpu2"].end()
    study.options["hosts"] = ("gpu1", "gpu2")
    assert study.run_jobs(study.job("job", "true"))[0].slot == "gpu1:0"
    study.options["hosts"] = ("gpu2",)
    alone = Study(study.home / "alone", hosts)
    alone.options["hosts"] = ("gpu2",)
    with pytest.raises(BackendError, match=r"gpu2: .*refused.*is its SSH server up"):
        alone.run_jobs(alone.job("job", "true"))


def test_the_environment_is_set_up_once_and_jobs_stand_back(study: Study, hosts: Hosts) -> None:
    venv = hosts["gpu1"].home / "env/bin"
    venv.mkdir(parents=True)
    (venv / "activate").write_text("export IN_VENV=1; echo x >> ~/activated\n")
    study.options |= {"venv": "~/env", "setup": ("export MORE=2",), "nice": 5, "wrap": "env WRAPPED=3"}
    study.run_jobs(*(study.job(f"job-{i}", "echo $IN_VENV $MORE $WRAPPED $(nice)") for i in range(3)))
    assert study.log("job-2") == f"1 2 3 {min(19, os.nice(0) + 5)}\n"
    assert (hosts["gpu1"].home / "activated").read_text() == "x\n"


# ---- Connections ----------------------------------------------------------------------------


@CI
def test_a_connection_that_is_cut_in_the_middle_of_a_line_costs_nothing(study: Study, hosts: Hosts) -> None:
    async def steps(backend: SshBackend) -> JobResult:
        script = "printf half; touch $MARKS/up; until [ -e $MARKS/go ]; do sleep 0.02; done; echo .; exit 5"
        handle = await backend.submit(study.job("job", script))
        await study.marked("up")
        for _ in range(2):
            await study.until(lambda: any(node.link for node in backend._nodes.values()))
            hosts["gpu1"].cut()
            await study.until(lambda: not any(node.link for node in backend._nodes.values()))
        study.go()
        return await backend.wait(handle)

    assert study.run(steps).exit_code == 5
    assert study.log() == "half.\n"


def test_a_job_goes_on_while_its_host_cannot_be_reached(study: Study, hosts: Hosts) -> None:
    async def steps(backend: SshBackend) -> JobResult:
        handle = await backend.submit(study.job("job", study.hold("up", "echo over > $MARKS/over; exit 5")))
        await study.marked("up")
        hosts["gpu1"].cut(stay_down=True)
        study.go()
        await study.marked("over")
        hosts["gpu1"].start()
        return await backend.wait(handle)

    assert study.run(steps).exit_code == 5


def test_a_host_that_stays_away_loses_its_job_and_another_takes_the_next(study: Study, hosts: Hosts) -> None:
    study.options |= {"hosts": ("gpu1", "gpu2"), "silent": 2.0}

    async def steps(backend: SshBackend) -> tuple[JobResult, JobResult]:
        handle = await backend.submit(study.job("first", study.hold("up")))
        await study.marked("up")
        hosts["gpu1"].cut(stay_down=True)
        first = await backend.wait(handle)
        return first, await backend.wait(await backend.submit(study.job("second", "true")))

    first, second = study.run(steps)
    assert (first.state, "not to be reached" in first.message) == (JobState.LOST, True)
    assert (second.state, second.slot) == (JobState.SUCCEEDED, "gpu2:0")
    hosts["gpu1"].start()
    study.run(lambda backend: backend.down())
    assert not hosts["gpu1"].processes("foreman")


def test_a_foreman_that_is_killed_loses_its_job_and_is_replaced(study: Study, hosts: Hosts) -> None:
    async def steps(backend: SshBackend) -> tuple[JobResult, JobResult]:
        handle = await backend.submit(study.job("first", study.hold("up")))
        await study.marked("up")
        hosts["gpu1"].kill("foreman")
        hosts["gpu1"].kill("node-worker")
        first = await backend.wait(handle)
        return first, await backend.wait(await backend.submit(study.job("second", "true")))

    first, second = study.run(steps)
    assert (first.state, second.state) == (JobState.LOST, JobState.SUCCEEDED)


# ---- What is sent ---------------------------------------------------------------------------

COUNTING = """
import os, select, socket, sys
host, port, path = sys.argv[1:]
line, sent, ends = socket.create_connection((host, int(port))), 0, {}
while True:
    for one in select.select([0, line], [], [])[0]:
        data = os.read(0, 65536) if one == 0 else line.recv(65536)
        if not data:
            sys.exit()
        if one == 0:
            line.sendall(data)
            sent += len(data)
            with open(path, "w") as file:
                file.write(str(sent))
        else:
            os.write(1, data)
"""


def test_a_change_of_one_line_in_a_large_workspace_is_a_small_message(study: Study, hosts: Hosts) -> None:
    proxy, counted = study.home / "proxy.py", study.home / "sent"
    proxy.write_text(COUNTING)
    study.options["ssh"] = (
        "-F", str(hosts.config), "-o", f"ProxyCommand={sys.executable} {proxy} %h %p {counted}"
    )  # fmt: skip
    subprocess.run(["dd", "if=/dev/urandom", f"of={study.tree}/data", "bs=1M", "count=100"], check=True)
    for i in range(1000):
        (study.tree / f"module_{i}.py").write_text(f"X = {i}\n")
    (study.tree / "train.py").write_text("LR = 1\n")

    async def steps(backend: SshBackend) -> int:
        await backend.wait(await backend.submit(study.job("first", "cat train.py")))
        before = int(counted.read_text())
        (study.tree / "train.py").write_text("LR = 2\n")
        await backend.wait(await backend.submit(study.job("second", "cat train.py; wc -c < data")))
        return int(counted.read_text()) - before

    sent = study.run(steps)
    assert study.log("second") == f"LR = 2\n{100 * 2**20}\n"
    assert sent < 10_000, sent


# ---- Nothing outlives its purpose -----------------------------------------------------------


@CI
def test_what_is_taken_down_by_another_process_is_gone_with_its_folders(study: Study, hosts: Hosts) -> None:
    async def start(backend: SshBackend) -> str:
        handle = await backend.submit(study.job("job", study.hold("up")))
        await study.marked("up")
        return handle

    async def end(backend: SshBackend) -> None:
        assert [one.name for one in await backend.held_resources()] == ["gpu1"]
        await backend.down()
        assert not await backend.held_resources()

    study.run(start, close=False)
    study.run(end)
    assert not hosts["gpu1"].processes("foreman")
    assert not hosts["gpu1"].processes("node-worker")
    assert not list((hosts["gpu1"].home / ".arf").glob("gpu1-*"))


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_what_runs_ends_by_itself_when_its_folder_is_gone(study: Study, hosts: Hosts, busy: bool) -> None:
    async def start(backend: SshBackend) -> None:
        handle = await backend.submit(study.job("job", study.hold("up") if busy else "touch $MARKS/up"))
        await study.marked("up")
        if not busy:
            await backend.wait(handle)

    study.run(start, close=False)
    (folder,) = (hosts["gpu1"].home / ".arf").glob("gpu1-*")
    shutil.rmtree(folder)
    until(lambda: not hosts["gpu1"].processes(), "something goes on")


def test_what_arf_has_forgotten_does_what_it_has_and_ends(study: Study, hosts: Hosts) -> None:
    study.options["idle"] = 3.0

    async def start(backend: SshBackend) -> str:
        handle = await backend.submit(study.job("job", study.hold("up", "exit 5")))
        await study.marked("up")
        return handle

    handle = study.run(start)
    study.go()
    until(lambda: not hosts["gpu1"].processes("foreman"), "the foreman goes on")
    assert study.run(lambda backend: backend.wait(handle)).exit_code == 5
