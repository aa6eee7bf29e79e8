"""The `local` backend: real processes, and everything that they can do to hide or to die."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from arf.errors import BackendError
from arf.interfaces import Backend
from arf.sdk.jobs import handle_of
from arf.testing.suites import BackendSuite
from arf.types import Job, JobResult, JobState
from arf_plugins.backend_local import LocalOptions, devices, processes, records, warm
from arf_plugins.backend_local.backend import LocalBackend
from arf_plugins.backend_local.devices import Gpu, Machine

T = TypeVar("T")
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


class TestSuite(BackendSuite):
    def make(self, directory: Path) -> Backend:
        return LocalBackend(LocalOptions(slots=3, grace_s=0.3, gpus=()), directory)


class Box:
    """A backend's folder, a work tree, and what tests do with them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = path / "tree"
        self.tree.mkdir()

    def make(self, **options: Any) -> LocalBackend:
        settings = {"slots": 1, "grace_s": 0.3, "gpus": (), **options}
        return LocalBackend(LocalOptions(**settings), self.path / "backend")

    def job(self, key: str, command: str | tuple[str, ...], **changes: Any) -> Job:
        settings: dict[str, Any] = {
            "key": key,
            "directory": self.tree,
            "command": command,
            "env": {"PATH": os.environ["PATH"], "MARKS": str(self.path)},
            "log": self.path / f"{key}.log",
            "tier": "cpu",
            "time_limit_s": 60.0,
        }
        return Job(**{**settings, **changes})

    def log(self, key: str = "job") -> str:
        return (self.path / f"{key}.log").read_text()

    def run(self, steps: Callable[[LocalBackend], Coroutine[Any, Any, T]], **options: Any) -> T:
        async def main() -> T:
            backend = self.make(**options)
            try:
                return await asyncio.wait_for(steps(backend), 300)
            finally:
                await backend.aclose()

        return asyncio.run(main())

    def run_job(self, command: str | tuple[str, ...], key: str = "job", **changes: Any) -> JobResult:
        async def steps(backend: LocalBackend) -> JobResult:
            return await backend.wait(await backend.submit(self.job(key, command, **changes)))

        return self.run(steps)

    async def appears(self, name: str) -> Path:
        """A file that a job makes."""
        path = self.path / name
        limit = time.monotonic() + 30
        while not path.exists() or not path.read_text():
            assert time.monotonic() < limit, f"the job made no {name}"
            await asyncio.sleep(0.01)
        return path

    async def pid(self, name: str) -> int:
        return int((await self.appears(name)).read_text())


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def alive(pid: int) -> bool:
    return any(process.pid == pid and not process.dead for process in processes.table())


# ---- Devices --------------------------------------------------------------------------------


class FakeNvml:
    """As much of `pynvml` as is used, with the answers of a real box: names, MiB and modes."""

    class NVMLError(Exception):
        pass

    def __init__(self, *names: str, mib: int = 81559) -> None:
        self.names = names
        self.mib = mib

    def nvmlDeviceGetCount(self) -> int:
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        name = self.names[index]
        if name == "broken":
            raise self.NVMLError("GPU is lost")
        memory = 143771 if "H200" in name else self.mib
        mig = [f"{name} MIG 1g.10gb", None, f"{name} MIG 3g.40gb"] if name.endswith("*") else []
        return SimpleNamespace(name=name.rstrip("*"), uuid=f"GPU-{index}-aaaa", memory=memory, mig=mig)

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        return str(handle.uuid)

    def nvmlDeviceGetName(self, handle: Any) -> str:
        return str(handle.name)

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        return SimpleNamespace(total=handle.memory * 2**20)

    def nvmlDeviceGetMigMode(self, handle: Any) -> list[int]:
        if "A10" in handle.name:
            raise self.NVMLError("Not Supported")
        return [int(bool(handle.mig)), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int:
        return len(handle.mig)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, place: int) -> Any:
        name = handle.mig[place]
        if name is None:
            raise self.NVMLError("Not Found")
        return SimpleNamespace(
            name=name.replace("*", ""), uuid=f"MIG-{handle.uuid}-{place}", memory=9984, mig=[]
        )


H100, H200 = "NVIDIA H100 80GB HBM3", "NVIDIA H200"


def machine(*names: str, cores: int = 32) -> Machine:
    return Machine(cores=cores, memory_gb=64.0, gpus=tuple(devices.gpus(FakeNvml(*names))))


def labels(layout: devices.Layout) -> list[str]:
    return [slot.label for slot in layout.slots]


def test_kinds_of_gpu_are_tiers_and_jobs_get_one_by_uuid() -> None:
    layout = devices.cut(machine(H200, H100, H100), LocalOptions(price=2.0, prices={"h200-141gb": 3.5}))
    assert [(tier.name, tier.slots, tier.usd_per_hour) for tier in layout.tiers] == [
        ("h100-80gb", 2, 2.0),
        ("h200-141gb", 1, 3.5),
    ]
    assert [tier.memory_gb for tier in layout.tiers] == [79.6, 140.4]
    assert labels(layout) == ["gpu:1", "gpu:2", "gpu:0"]
    assert [slot.env["CUDA_VISIBLE_DEVICES"] for slot in layout.slots] == [
        "GPU-1-aaaa",
        "GPU-2-aaaa",
        "GPU-0-aaaa",
    ]
    assert layout.threads["OMP_NUM_THREADS"] == str(32 // 3)


def test_a_job_can_have_several_gpus_of_one_kind() -> None:
    layout = devices.cut(machine(H100, H200, H100, H100), LocalOptions(gpus_per_job=2))
    assert [(tier.name, tier.slots, tier.memory_gb) for tier in layout.tiers] == [("h100-80gb", 1, 159.3)]
    assert labels(layout) == ["gpu:0,2"]
    assert layout.slots[0].env["CUDA_VISIBLE_DEVICES"] == "GPU-0-aaaa,GPU-2-aaaa"


def test_jobs_can_share_a_gpu() -> None:
    layout = devices.cut(machine(H100, H100), LocalOptions(jobs_per_gpu=2, slots=3))
    assert labels(layout) == ["gpu:0/1", "gpu:0/2", "gpu:1/1"]
    assert (layout.tiers[0].slots, layout.tiers[0].memory_gb) == (3, 39.8)


def test_mig_devices_stand_in_for_their_gpu_and_a_broken_gpu_is_left_out() -> None:
    layout = devices.cut(machine(H100 + "*", "broken", "NVIDIA A10"), LocalOptions())
    assert {tier.name for tier in layout.tiers} == {"h100-mig-1g.10gb", "h100-mig-3g.40gb", "a10-80gb"}
    assert {slot.env["CUDA_VISIBLE_DEVICES"] for slot in layout.slots} == {
        "MIG-GPU-0-aaaa-0",
        "MIG-GPU-0-aaaa-2",
        "GPU-2-aaaa",
    }


@pytest.mark.parametrize(
    ("product", "mib", "kind"),
    [
        ("NVIDIA A100-SXM4-40GB", 40960, "a100-40gb"),
        ("NVIDIA H100 PCIe", 81559, "h100-pcie-80gb"),
        ("NVIDIA GeForce RTX 4090", 24564, "rtx-4090-24gb"),
        ("Tesla V100-SXM2-16GB", 16384, "v100-16gb"),
        ("NVIDIA B200", 183359, "b200-180gb"),
    ],
)
def test_tiers_are_named_after_the_product_and_its_memory(product: str, mib: int, kind: str) -> None:
    (gpu,) = devices.gpus(FakeNvml(product, mib=mib))
    assert gpu.kind == kind


@pytest.mark.parametrize(
    ("setting", "indices"),
    [
        (None, ["0", "1", "2"]),
        ("", []),
        ("2,0", ["2", "0"]),
        ("GPU-1", ["1"]),
        ("0,9,1", ["0"]),
        ("-1", []),
        ("1,1", ["1"]),
    ],
)
def test_an_existing_cuda_visible_devices_is_kept_to(setting: str | None, indices: list[str]) -> None:
    found = machine(H100, H100, H100).gpus
    assert [gpu.index for gpu in devices.visible(found, setting)] == indices


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (LocalOptions(gpus=("7",)), "there are 0, 1"),
        (LocalOptions(gpus_per_job=4), "h100-80gb: 2"),
        (LocalOptions(slots=3), "jobs_per_gpu"),
        (LocalOptions(gpus_per_job=2, jobs_per_gpu=2), "choose one"),
        (LocalOptions(prices={"h100": 1.0}), "h100-80gb"),
    ],
)
def test_options_that_the_machine_cannot_meet_are_refused_with_what_there_is(
    options: LocalOptions, said: str
) -> None:
    with pytest.raises(BackendError, match=said):
        devices.cut(machine(H100, H100), options)


def test_a_gpu_that_is_set_aside_gets_no_more_jobs_and_the_last_one_is_kept(box: Box) -> None:
    async def main() -> tuple[list[str], list[int]]:
        options = LocalOptions(grace_s=0.3, jobs_per_gpu=2)
        backend = LocalBackend(options, box.path / "backend", machine=machine(H100, H100))
        job = {"tier": "h100-80gb"}
        begun = await backend.submit(
            box.job("begun", "echo > begun; until [ -e go ]; do sleep 0.02; done", **job)
        )
        await box.appears("tree/begun")
        assert backend.node_of("gpu:0/1") == "gpu:0"
        assert backend.node_of("cpu:1") == ""
        done = [backend.set_aside(node, "why") for node in ("gpu:0", "gpu:1", "gpu:7", "cpu:1", "")]
        assert done == [True, False, False, False, False]
        left = [tier.slots for tier in await backend.tiers()]
        handles = [await backend.submit(box.job(f"j{i}", "true", **job)) for i in range(5)]
        (box.tree / "go").touch()
        slots = [(await backend.wait(handle)).slot for handle in (begun, *handles)]
        await backend.aclose()
        return slots, left

    slots, left = asyncio.run(main())
    assert slots[0] == "gpu:0/1"
    assert set(slots[1:]) == {"gpu:1/1", "gpu:1/2"}
    assert left == [2]


def test_without_gpus_cores_and_memory_make_the_slots_and_share_the_threads() -> None:
    bare = Machine(cores=8, memory_gb=16.0)
    assert labels(devices.cut(bare, LocalOptions())) == [f"cpu:{i}" for i in range(1, 9)]
    few = devices.cut(bare, LocalOptions(memory_gb=5.0))
    assert (few.tiers[0].slots, few.threads["OMP_NUM_THREADS"]) == (3, "2")
    many = devices.cut(bare, LocalOptions(slots=16))
    assert (many.tiers[0].slots, many.threads["MKL_NUM_THREADS"]) == (16, "1")
    hidden = devices.cut(machine(H100), LocalOptions(gpus=()))
    assert (hidden.tiers[0].name, hidden.slots[0].env) == ("cpu", {"CUDA_VISIBLE_DEVICES": ""})


@pytest.mark.parametrize(
    ("cgroup", "files", "cores", "memory"),
    [
        ("0::/a/b\n", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1, 8.0),
        ("0::/not/here\n", {"cpu.max": "50000 100000", "memory.max": str(2**30)}, 1, 1.0),
        (
            "4:memory:/x\n1:cpu,cpuacct:/x\n0::/\n",
            {
                "cpu/x/cpu.cfs_quota_us": "-1",
                "cpu/x/cpu.cfs_period_us": "100000",
                "memory/x/memory.limit_in_bytes": str(2**31),
            },
            0,
            2.0,
        ),
    ],
)
def test_cgroup_limits_count(
    tmp_path: Path, cgroup: str, files: dict[str, str], cores: int, memory: float
) -> None:
    written = {"proc/self/cgroup": cgroup, "proc/meminfo": f"MemTotal: {8 * 2**20} kB\n"}
    written |= {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in written.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert devices.cores(tmp_path) == (cores or len(os.sched_getaffinity(0)))
    assert devices.memory_gb(tmp_path) == memory


def test_this_machine_is_discovered() -> None:
    found = devices.discover()
    assert found.cores >= 1
    assert found.memory_gb > 0.1
    assert all(isinstance(gpu, Gpu) for gpu in found.gpus)


# ---- What a job gets ------------------------------------------------------------------------


def test_a_job_is_told_its_threads_unless_it_says_them_itself(box: Box) -> None:
    env = {"PATH": os.environ["PATH"], "MKL_NUM_THREADS": "7"}

    async def steps(backend: LocalBackend) -> JobResult:
        script = "echo $OMP_NUM_THREADS $MKL_NUM_THREADS $RAYON_NUM_THREADS $PYTHONHASHSEED"
        return await backend.wait(await backend.submit(box.job("job", script, env=env)))

    result = box.run(steps, threads=3)
    assert box.log() == "3 7 3 0\n"
    assert result.slot == "cpu:1"


def test_a_gpu_job_sees_its_device_whatever_its_environment_says(box: Box) -> None:
    async def main() -> None:
        backend = LocalBackend(LocalOptions(), box.path / "backend", machine=machine(H100, H100))
        env = {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": "5"}
        script = "echo $CUDA_VISIBLE_DEVICES; until [ -e $MARKS/go ]; do sleep 0.02; done"
        jobs = [
            box.job(key, script, env={**env, "MARKS": str(box.path)}, tier="h100-80gb") for key in ("a", "b")
        ]
        handles = [await backend.submit(job) for job in jobs]
        (box.path / "go").touch()
        assert [(await backend.wait(handle)).slot for handle in handles] == ["gpu:0", "gpu:1"]
        await backend.aclose()

    asyncio.run(main())
    assert (box.log("a"), box.log("b")) == ("GPU-0-aaaa\n", "GPU-1-aaaa\n")


def test_jobs_side_by_side_meet_at_ports_of_their_own(box: Box) -> None:
    """As two torchrun do, which would both take 29500."""
    serve = (
        "import os, socket, time\ns = socket.create_server(('127.0.0.1', int(os.environ['MASTER_PORT'])))\n"
        "print(os.environ['MASTER_PORT'] == os.environ['PET_MASTER_PORT'], flush=True)\ntime.sleep(0.5)"
    )

    async def main() -> None:
        backend = box.make(slots=2)
        handles = [await backend.submit(box.job(key, (sys.executable, "-c", serve))) for key in ("a", "b")]
        assert {(await backend.wait(handle)).state for handle in handles} == {JobState.SUCCEEDED}
        await backend.aclose()

    asyncio.run(main())
    assert box.log("a") == box.log("b") == "True\n"


@linux
def test_a_job_inherits_no_files_and_no_ignored_signals(box: Box) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        result = box.run_job("ls /proc/$$/fd; grep SigIgn /proc/$$/status; yes | head -n 1")
    finally:
        signal.signal(signal.SIGUSR2, before)
        os.close(reader)
        os.close(writer)
    *files, ignored, yes = box.log().split("\n")[:-1]
    assert set(files) <= {"0", "1", "2", "3"}  # 3 is `ls` reading the folder
    assert int(ignored.split()[1], 16) & 0x7FFF_FFFF == 0  # 32 and 33 are the C library's own
    assert (yes, result.exit_code) == ("y", 0)


def test_variables_that_a_shell_could_not_name_arrive(box: Box) -> None:
    env = {"PATH": os.environ["PATH"], "with-dash": "1", "with.dot": "a b"}
    box.run_job(("env",), env=env)
    assert {"with-dash=1", "with.dot=a b"} <= set(box.log().splitlines())


def test_a_program_is_never_taken_for_a_word_of_the_shell(box: Box) -> None:
    assert box.run_job(("exit", "3")).exit_code == 127
    assert box.run_job(("pwd", "--help-no-such-option"), key="b").exit_code == 1


def test_the_end_is_explained(box: Box) -> None:
    assert "out of memory?" in box.run_job("exit 137").message
    assert "SIGSEGV" in box.run_job("kill -SEGV $$", key="b").message
    assert "not found" in box.run_job("no-such-program", key="c").message
    absent = box.run_job("true", key="d", directory=box.path / "absent")
    assert (absent.state, absent.exit_code) == (JobState.FAILED, 126)
    assert "directory" in absent.message


# ---- What is refused ------------------------------------------------------------------------


def test_an_empty_command_is_refused(box: Box) -> None:
    with pytest.raises(BackendError, match="empty command"):
        box.run_job(())


def test_a_log_that_cannot_be_written_is_refused_and_leaves_nothing(box: Box) -> None:
    async def steps(backend: LocalBackend) -> JobResult:
        with pytest.raises(BackendError, match="no folder"):
            await backend.submit(box.job("job", "true", log=box.path / "absent" / "log"))
        return await backend.wait(await backend.submit(box.job("job", "true")))

    assert box.run(steps).state is JobState.SUCCEEDED


def test_a_folder_that_cannot_be_written_is_refused_with_what_to_do(box: Box) -> None:
    (box.path / "backend").write_text("a file")
    with pytest.raises(BackendError, match="writable"):
        box.run_job("true")


def test_any_key_makes_a_handle_that_is_a_file_name(box: Box) -> None:
    keys = ["a/b", "../x", ".", "é", "x" * 300, "a b", "a-b", "000001-1"]
    handles = [handle_of(key) for key in keys]
    assert len(set(handles)) == len(keys)
    assert all("/" not in handle and len(handle) < 120 for handle in handles)
    assert handle_of("000001-1") == "000001-1"
    assert box.run_job("true", key="a/b", log=box.path / "log").state is JobState.SUCCEEDED


# ---- Processes that hide --------------------------------------------------------------------

DAEMON = f"""{sys.executable} -c '
import os, time
os.fork() and os._exit(0)
os.setsid()
os.fork() and os._exit(0)
open(os.environ["MARKS"] + "/daemon", "w").write(str(os.getpid()))
time.sleep(1000)
'"""


@linux
@pytest.mark.parametrize("end", ["normal", "cancel", "timeout"])
def test_a_daemon_does_not_outlive_its_job(box: Box, end: str) -> None:
    async def steps(backend: LocalBackend) -> JobResult:
        script = f"{DAEMON}; until [ -s $MARKS/daemon ]; do sleep 0.02; done; " + (
            "exit 3" if end == "normal" else "sleep 1000"
        )
        limit_s = 1.0 if end == "timeout" else 60.0
        handle = await backend.submit(box.job("job", script, time_limit_s=limit_s))
        pid = await box.pid("daemon")
        if end == "cancel":
            await backend.cancel(handle)
        result = await backend.wait(handle)
        assert not alive(pid)
        return result

    states = {"normal": JobState.FAILED, "cancel": JobState.CANCELLED, "timeout": JobState.TIMED_OUT}
    assert box.run(steps).state is states[end]


@linux
@pytest.mark.parametrize("warm", ["off", "on"])
def test_a_daemon_that_clears_its_environment_does_not_outlive_its_job(box: Box, warm: str) -> None:
    (box.tree / "hide.py").write_text(
        """\
import os, sys, time
marks = sys.argv[1]
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.closerange(0, 3)
    code = f"import os, time; open({marks + '/daemon'!r}, 'w').write(str(os.getpid())); time.sleep(1000)"
    os.execve(sys.executable, [sys.executable, "-c", code], {})
while not os.path.exists(marks + "/daemon") or not open(marks + "/daemon").read():
    time.sleep(0.02)
if sys.argv[2] == "stay":
    time.sleep(1000)
"""
    )

    async def steps(backend: LocalBackend) -> None:
        command = (sys.executable, "hide.py", str(box.path))
        other = await backend.submit(box.job("other", (*command[:2], str(box.path / "o"), "stay")))
        theirs = await box.pid("o/daemon")
        handle = await backend.submit(box.job("job", (*command, "end")))
        pid = await box.pid("daemon")
        assert (await backend.wait(handle)).state is JobState.SUCCEEDED
        assert not alive(pid)
        assert alive(theirs)  # it belongs to a job that runs on
        await backend.cancel(other)
        await backend.wait(other)
        assert not alive(theirs)

    (box.path / "o").mkdir()
    box.run(steps, slots=2, warm=warm)


def test_the_end_of_a_pipe_may_still_write(box: Box) -> None:
    script = "sh -c 'sleep 0.1; echo late' & exit 0"
    assert box.run_job(script).state is JobState.SUCCEEDED
    assert box.log() == "late\n"


def test_a_wrapper_that_is_killed_takes_its_job_along(box: Box) -> None:
    async def steps(backend: LocalBackend) -> JobResult:
        handle = await backend.submit(
            box.job("job", "echo $PPID > $MARKS/wrapper; echo $$ > $MARKS/own; sleep 1000")
        )
        own = await box.pid("own")
        os.kill(await box.pid("wrapper"), signal.SIGKILL)
        result = await backend.wait(handle)
        assert not alive(own)
        return result

    result = box.run(steps)
    assert (result.state, result.exit_code) == (JobState.FAILED, -9)


def test_a_stopped_job_can_be_cancelled(box: Box) -> None:
    async def steps(backend: LocalBackend) -> JobResult:
        handle = await backend.submit(box.job("job", "echo $$ > $MARKS/own; kill -STOP $$"))
        await box.pid("own")
        await backend.cancel(handle)
        return await backend.wait(handle)

    assert box.run(steps).state is JobState.CANCELLED


# ---- The shell that waits -------------------------------------------------------------------


async def spare_of(backend: LocalBackend) -> int:
    """The pid of the shell that waits for the next job."""
    limit = time.monotonic() + 30
    while not (pids := backend._wrappers.spare):
        assert time.monotonic() < limit, "no shell waits"
        await asyncio.sleep(0.01)
    return pids[-1]


def test_a_shell_that_waits_runs_the_next_job_with_its_own_environment_log_and_folder(box: Box) -> None:
    show = 'echo "$PWD|$PPID|$GONE|$KEPT|$NEW|$ARF_JOB"'
    (box.tree / "it's here").mkdir()
    env = {"PATH": os.environ["PATH"], "KEPT": "kept"}
    odd = "$(echo no) 'quoted'\nsecond line \\ \udcff"

    async def steps(backend: LocalBackend) -> int:
        first = box.job("first", show, env={**env, "GONE": "gone"})
        await backend.wait(await backend.submit(first))
        spare = await spare_of(backend)
        second = box.job(
            "second",
            show,
            env={**env, "NEW": odd},
            directory=box.tree / "it's here",
            log=box.path / "log of 'second'",
        )
        await backend.wait(await backend.submit(second))
        return spare

    spare = box.run(steps)
    lines = (box.path / "log of 'second'").read_bytes().decode(errors="surrogateescape").splitlines()
    assert lines[0] == f"{box.tree}/it's here|{spare}||kept|$(echo no) 'quoted'"
    assert lines[1:] == [f"second line \\ \udcff|{_prefix(box)}second"]
    assert box.log("first").splitlines()[0].endswith(f"|gone|kept||{_prefix(box)}first")


def _prefix(box: Box) -> str:
    return box.make()._prefix


def test_a_shell_that_is_killed_while_it_waits_costs_no_job(box: Box) -> None:
    async def steps(backend: LocalBackend) -> JobResult:
        await backend.wait(await backend.submit(box.job("first", "true")))
        spare = await spare_of(backend)
        os.kill(spare, signal.SIGKILL)
        await processes.ended([spare], 30)
        return await backend.wait(await backend.submit(box.job("second", "exit 3")))

    assert box.run(steps).exit_code == 3


def test_a_shell_that_waits_is_no_orphan_and_ends_with_its_backend(box: Box) -> None:
    async def steps(backend: LocalBackend) -> int:
        slow = await backend.submit(box.job("slow", "until [ -e $MARKS/go ]; do sleep 0.02; done"))
        spare = await spare_of(backend)
        (box.path / "go").touch()
        await backend.wait(slow)
        assert alive(spare)
        return spare

    assert not alive(box.run(steps))


def test_a_shell_that_waits_ends_when_arf_is_killed(box: Box) -> None:
    submit_and_die(box, "echo $PPID > $MARKS/wrapper; sleep 1000")
    wrapper = asyncio.run(box.pid("wrapper"))
    limit = time.monotonic() + 30
    while others := {p.pid for p in processes.table() if processes.is_wrapper(p.pid, _prefix(box))} - {
        wrapper
    }:
        assert time.monotonic() < limit, f"{others} are left"
        time.sleep(0.01)
    os.killpg(wrapper, signal.SIGKILL)


def test_a_shell_that_is_told_half_of_a_job_runs_nothing(box: Box) -> None:
    words = ["mark", str(box.path / "record"), "", str(box.tree), "touch", str(box.path / "ran")]
    script = processes._script({"A": "it's"}, {}, str(box.path / "log"), words)
    for told in [*range(0, len(script) - 1, 7), len(script) - 2, len(script)]:
        with subprocess.Popen(
            ["/bin/sh", "-c", f"exec 3<&0 </dev/null; . {processes.WRAPPER}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as shell:
            shell.communicate(script[:told])
        assert (box.path / "ran").exists() == (told == len(script)), script[:told]


# ---- arf dies -------------------------------------------------------------------------------

SUBMITTER = """
import asyncio, os, sys, time
from pathlib import Path
from arf_plugins.backend_local import LocalOptions
from arf_plugins.backend_local.backend import LocalBackend
from arf.types import Job

async def main():
    path = Path(sys.argv[1])
    backend = LocalBackend(LocalOptions(slots=1, gpus=(), grace_s=0.3), path / "backend")
    for number, command in enumerate(sys.argv[2:]):
        await backend.submit(Job(key=f"job-{number}", directory=path / "tree", command=command,
            env={"PATH": os.environ["PATH"], "MARKS": str(path)}, log=path / f"job-{number}.log", tier="cpu",
            time_limit_s=60.0))
        while backend._warm and not backend.notes() and command.startswith("python"):
            await asyncio.sleep(0.01)
    print("submitted", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


def submit_and_die(box: Box, *commands: str) -> None:
    """Submit jobs from another process, and kill it with -9."""
    with subprocess.Popen(
        [sys.executable, "-c", SUBMITTER, str(box.path), *commands], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"submitted\n"
        process.kill()


HOLD = "echo ran >> $MARKS/runs; echo up > $MARKS/up; until [ -e $MARKS/go ]; do sleep 0.02; done; exit 6"


def test_jobs_go_on_and_queued_ones_are_started_after_a_kill(box: Box) -> None:
    submit_and_die(box, HOLD, "echo second; exit 7", "echo third; exit 8")

    async def steps(backend: LocalBackend) -> list[JobResult]:
        assert await backend.submit(box.job("job-0", HOLD)) == "job-0"
        waiting = [asyncio.ensure_future(backend.wait(f"job-{i}")) for i in range(3)]
        await box.appears("up")
        (box.path / "go").touch()
        return list(await asyncio.gather(*waiting))

    results = box.run(steps)
    assert [result.exit_code for result in results] == [6, 7, 8]
    assert {result.slot for result in results} == {"cpu:1"}
    assert (box.path / "runs").read_text() == "ran\n"
    assert box.log("job-2") == "third\n"


def test_an_end_while_arf_was_dead_keeps_its_code_and_its_time(box: Box) -> None:
    submit_and_die(box, HOLD)
    (box.path / "go").touch()
    record = box.path / "backend" / "jobs" / "job-0"
    limit = time.monotonic() + 30
    while "exit" not in record.read_text():
        assert time.monotonic() < limit
        time.sleep(0.01)

    async def steps(backend: LocalBackend) -> JobResult:
        return await backend.wait("job-0")

    result = box.run(steps)
    assert (result.state, result.exit_code) == (JobState.FAILED, 6)
    assert result.ended_at is not None
    assert abs(result.ended_at.timestamp() - record.stat().st_mtime) < 0.01
    assert box.run(steps) == result


@linux
def test_what_hid_while_arf_was_dead_is_found(box: Box) -> None:
    submit_and_die(box, f"{DAEMON}; until [ -s $MARKS/daemon ]; do sleep 0.02; done; exit 5")

    async def steps(backend: LocalBackend) -> JobResult:
        pid = await box.pid("daemon")
        result = await backend.wait("job-0")
        assert not alive(pid)
        return result

    assert box.run(steps).exit_code == 5


def test_a_job_whose_process_is_gone_without_a_trace_is_lost(box: Box) -> None:
    submit_and_die(box, "echo $PPID > $MARKS/wrapper; sleep 1000")

    async def steps(backend: LocalBackend) -> JobResult:
        os.killpg(await box.pid("wrapper"), signal.SIGKILL)
        return await backend.wait("job-0")

    assert box.run(steps).state is JobState.LOST


def test_a_number_that_is_another_process_by_now_is_not_taken_for_the_job(box: Box) -> None:
    folder = box.path / "backend" / "jobs"
    folder.mkdir(parents=True)
    line = '{"tier": "cpu", "limit_s": 0.0, "slot": "cpu:1", "started_at": 1.0}\n'
    with subprocess.Popen(["sleep", "1000"]) as other:
        (folder / "job").write_text(f"{line}pid {other.pid}\n")

        async def steps(backend: LocalBackend) -> JobResult:
            return await backend.wait("job")

        assert box.run(steps).state is JobState.LOST
        assert other.poll() is None
        other.kill()


def test_a_number_that_is_another_jobs_by_now_is_not_taken_for_one_that_ended(box: Box) -> None:
    submit_and_die(box, f"echo $PPID > $MARKS/wrapper; {HOLD}")
    pid = asyncio.run(box.pid("wrapper"))
    line = '{"tier": "cpu", "limit_s": 0.1, "slot": "cpu:1", "started_at": 1.0}\n'
    (box.path / "backend/jobs/old").write_text(f"{line}pid {pid}\nexit 0\n")

    async def steps(backend: LocalBackend) -> list[JobResult]:
        old = await backend.wait("old")
        (box.path / "go").touch()
        return [old, await backend.wait("job-0")]

    assert [result.exit_code for result in box.run(steps)] == [0, 6]


def test_ten_thousand_jobs_do_not_leave_ten_thousand_records(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def steps(backend: LocalBackend) -> None:
        for i in range(records.KEPT + 40):
            await backend.submit(box.job(f"{i}", ("true",), log=box.path / "log"))
        await backend.wait(f"{records.KEPT + 39}")

    box.run(steps, slots=4)
    assert records.KEPT <= len(list((box.path / "backend" / "jobs").iterdir())) <= records.KEPT + 4


@pytest.mark.parametrize("how", ["pidfd", "thread"])
def test_the_end_of_any_process_can_be_watched(how: str) -> None:
    async def main() -> None:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:  # noqa: ASYNC220 - its start blocks briefly
            watch = processes.watch_exit(child.pid, how)
            done = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_reader(watch.fileno(), done.set)
            assert not done.is_set()
            assert child.stdin is not None
            child.stdin.close()
            await asyncio.wait_for(done.wait(), 30)
            loop.remove_reader(watch.fileno())
            watch.close()

    asyncio.run(main())
    with pytest.raises(ProcessLookupError):
        processes.watch_exit(2**22 + 1, how)


# ---- Warm starts ----------------------------------------------------------------------------

PYTHON = sys.executable


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("python train.py", ()),
        ("python3.12 -u sub/train.py --lr=0.1 a,b", ("--lr=0.1", "a,b")),
        (("/opt/bin/python3", "train.py", "a b;$HOME"), ("a b;$HOME",)),
        ("python train.py > out", None),
        ("python train.py; true", None),
        ("LR=1 python train.py", None),
        ("python -m train", None),
        ("python -O train.py", None),
        ("python train.py '$x'", None),
        ("uv run train.py", None),
        ("python", None),
        ("torchrun train.py", None),
        ("python train", None),
    ],
)
def test_only_plain_python_scripts_can_start_warm(
    tmp_path: Path, command: str | tuple[str, ...], args: tuple[str, ...] | None
) -> None:
    for name in ("python", "python3.12"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    script = warm.script_of(command, tmp_path, {"PATH": str(tmp_path)})
    assert (script.args if script else None) == args
    assert warm.script_of(command, tmp_path, {"PATH": str(tmp_path), "PYTHONPATH": "."}) is None


WORLD = """
import os, random, sys, json, argparse, signal, threading
EXTRA = 1
OWN = ("OLDPWD", "_", "SHLVL", "ARF_JOB", "MASTER_PORT", "PET_MASTER_PORT")
def show():
    main = sys.modules["__main__"]
    names = sorted(set(vars(main)) - {"show"})
    yield from (sys.argv, sys.path, __file__, __name__, __spec__, type(__loader__), names, sys.flags)
    yield sorted((k, v) for k, v in os.environ.items() if k not in OWN)
    yield (os.getcwd(), os.getpgid(0) == os.getsid(0), sys.executable)
    yield [str(signal.getsignal(n)) for n in signal.valid_signals()], signal.pthread_sigmask(0, [])
    yield threading.active_count(), sys.stdin.read(), sys.stdout.encoding, sys.stdout.line_buffering
    yield open("/proc/self/comm").read(), open("/proc/self/cmdline").read().strip(chr(0)).split(chr(0))[1:]
    yield sorted(os.listdir("/proc/self/fd")), sys.orig_argv, sorted({"a", "b", "c", "d"}), hash("x")
    yield main.show is show, __builtins__.__name__, __doc__, __annotations__, sys.gettrace(), os.umask(18)
for item in show():
    print(item)
if "random" in sys.argv:
    print("RANDOM", random.random())
import beside
beside.fail()
"""
BESIDE = "def fail():\n    raise ValueError('as it should')\n"


async def warm_up(box: Box, backend: LocalBackend, script: str = "world.py") -> None:
    """Run jobs until one has started warm."""
    limit = time.monotonic() + 50
    number = 0
    while not backend.notes():
        assert time.monotonic() < limit, "no job started warm"
        number += 1
        await backend.wait(await backend.submit(box.job(f"up-{number}", f"{PYTHON} {script}")))


def write(box: Box, **files: str) -> None:
    for name, text in files.items():
        (box.tree / f"{name}.py").write_text(text)


def warm_jobs(backend: LocalBackend) -> int:
    return int(backend.notes()[0].split()[0]) if backend.notes() else 0


@linux
def test_a_script_that_starts_warm_sees_what_it_would_see_cold(box: Box) -> None:
    write(box, world=WORLD, beside=BESIDE)

    async def steps(backend: LocalBackend) -> list[JobResult]:
        env = {**os.environ, "ARF_SEED": "3", "ODD": "a\nb é"}
        job = box.job("first", f"{PYTHON} ./world.py --x 1", env=env)
        first = await backend.wait(await backend.submit(job))
        while not backend.notes():
            again = box.job(f"up-{time.monotonic_ns()}", f"{PYTHON} ./world.py", env=env)
            await backend.wait(await backend.submit(again))
        second = await backend.wait(
            await backend.submit(box.job("second", f"{PYTHON} ./world.py --x 1", env=env))
        )
        return [first, second]

    first, second = box.run(steps)
    assert (first.state, first.exit_code) == (second.state, second.exit_code) == (JobState.FAILED, 1)
    assert box.log("second").splitlines() == box.log("first").splitlines()
    assert "as it should" in box.log("first")
    assert "'--x'" in box.log("first")


@linux
def test_random_numbers_are_not_shared_between_warm_jobs(box: Box) -> None:
    write(box, world=WORLD, beside=BESIDE)

    async def steps(backend: LocalBackend) -> None:
        await warm_up(box, backend)
        for key in "abc":
            await backend.wait(await backend.submit(box.job(key, f"{PYTHON} world.py random")))
        assert warm_jobs(backend) >= 4

    box.run(steps)
    drawn = [line for key in "abc" for line in box.log(key).splitlines() if line.startswith("RANDOM")]
    assert len(set(drawn)) == 3


ENDS = """
import json, os, sys, signal, atexit
how = sys.argv[1]
atexit.register(print, "atexit", flush=True)
if how == "text": sys.exit("a text")
if how == "interrupt": raise KeyboardInterrupt
if how == "kill": os.kill(os.getpid(), 9)
if how == "abort": os.abort()
if how == "exit": os._exit(4)
if how == "syntax": exec("a b")
if how == "hook":
    sys.excepthook = lambda *a: print("hook", a[0].__name__)
    1 / 0
if how == "thread":
    import threading
    threading.Thread(target=lambda: print("thread")).start()
if how == "file":
    held = open("held.txt", "w")
    held.write("written")
if how == "del":
    class Loud:
        def __del__(self): print("destroyed", flush=True)
    loud = Loud()
if how == "cycle":
    class Ring:
        def __init__(self): self.me = self
        def __del__(self): print("collected")
    Ring()
if how == "handler":
    atexit.register(lambda: 1 / 0)
if how == "closed": sys.stdout.close()
if how == "full": os.dup2(os.open("/dev/full", os.O_WRONLY), 1); print("lost")
if how == "child":
    import subprocess
    subprocess.run([sys.executable, "-c", "import os; print('child', os.environ['ARF_JOB'] > '')"])
if how == "pool":
    import multiprocessing
    with multiprocessing.Pool(2) as pool: print(pool.map(abs, [-1, -2]))
if how == "spawn":
    import multiprocessing
    multiprocessing.set_start_method("spawn")
    process = multiprocessing.Process(target=print, args=("spawned",))
    if __name__ == "__main__": process.start()
    if __name__ == "__main__": process.join()
if how.lstrip("-").isdigit(): sys.exit(int(how))
"""


@linux
def test_warm_jobs_end_as_cold_ones_do(box: Box) -> None:
    write(box, ends=ENDS, world="import json, os, sys, signal, atexit\n")
    ways = ["text", "interrupt", "kill", "abort", "exit", "syntax", "hook", "thread", "0", "3", "256", "-1"]
    ways += ["file", "del", "cycle", "handler", "closed", "full", "child", "pool", "spawn", "9" * 30]

    async def steps(backend: LocalBackend) -> list[tuple[JobState, int | None, str]]:
        if backend.options.warm == "auto":
            await warm_up(box, backend)
        before = warm_jobs(backend)
        ends = []
        for way in ways:
            key = f"{backend.options.warm}-{way}"
            result = await backend.wait(await backend.submit(box.job(key, f"{PYTHON} ends.py {way}")))
            said = (
                "" if way in ("handler", "closed", "full") else box.log(key)
            )  # tracebacks have one frame more
            ends.append((result.state, result.exit_code, result.message + said))
        assert (box.tree / "held.txt").read_text() == "written"
        (box.tree / "held.txt").unlink()
        assert warm_jobs(backend) - before == (len(ways) if backend.options.warm == "auto" else 0)
        return ends

    cold = box.run(steps, warm="off")
    hot = box.run(steps, warm="auto")
    assert dict(zip(ways, hot, strict=True)) == dict(zip(ways, cold, strict=True))


FAMILY = """
import json, os, subprocess, sys, time
if len(sys.argv) > 1:
    if os.fork() == 0:
        os.setsid()
        if os.fork(): os._exit(0)
        open(os.environ["MARKS"] + "/daemon", "w").write(str(os.getpid()))
        time.sleep(1000)
    child = subprocess.Popen(["sleep", "1000"])
    open(os.environ["MARKS"] + "/child", "w").write(str(child.pid))
    if sys.argv[1] == "stay": time.sleep(1000)
    while not os.path.exists(os.environ["MARKS"] + "/daemon"): time.sleep(0.01)
"""


@linux
@pytest.mark.parametrize("end", ["normal", "cancel", "timeout"])
def test_nothing_outlives_a_warm_job(box: Box, end: str) -> None:
    write(box, world=FAMILY)

    async def steps(backend: LocalBackend) -> JobResult:
        await warm_up(box, backend)
        word = "go" if end == "normal" else "stay"
        limit_s = 1.0 if end == "timeout" else 60.0
        job = box.job("job", f"{PYTHON} world.py {word}", time_limit_s=limit_s)
        handle = await backend.submit(job)
        pids = [await box.pid("daemon"), await box.pid("child")]
        if end == "cancel":
            await backend.cancel(handle)
        result = await backend.wait(handle)
        assert not any(alive(pid) for pid in pids)
        assert warm_jobs(backend) >= 2
        return result

    states = {"normal": JobState.SUCCEEDED, "cancel": JobState.CANCELLED, "timeout": JobState.TIMED_OUT}
    assert box.run(steps).state is states[end]


@linux
def test_a_warm_job_outlives_arf_and_its_server(box: Box) -> None:
    write(
        box,
        world="import json, os, sys, time\n"
        "if len(sys.argv) > 1: open(os.environ['MARKS'] + '/running', 'w').write('1')\n"
        "while len(sys.argv) > 1 and not os.path.exists(os.environ['MARKS'] + '/go'): time.sleep(0.01)\n"
        "sys.exit(len(sys.argv) + 4)\n",
    )

    async def start() -> None:
        backend = box.make()
        await warm_up(box, backend)
        await backend.submit(box.job("job", f"{PYTHON} world.py wait"))
        await box.pid("running")
        while warm_jobs(backend) < 2:  # noqa: ASYNC110 -- the server tells it, after the job has begun
            await asyncio.sleep(0.01)
        for process in processes.table():
            if process.parent == os.getpid() and "forkserver.py" in _command(process.pid):
                os.kill(process.pid, signal.SIGKILL)

    async def find(backend: LocalBackend) -> JobResult:
        waiting = asyncio.ensure_future(backend.wait("job"))
        await asyncio.sleep(0)
        (box.path / "go").touch()
        return await waiting

    asyncio.run(start())
    assert box.run(find).exit_code == 6


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@linux
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"json": "x = 1\n"}, "stands in"),
        ({"world": "import os, sys\n"}, "other modules"),
        ({"world": "import os\nos.environ['A'] = 'b'\nimport json\n"}, "other modules"),
    ],
    ids=["shadowed", "import removed", "environment set"],
)
def test_what_a_server_does_not_suit_starts_cold(
    box: Box, change: dict[str, str], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(box, world="import json, os\n")

    async def steps(backend: LocalBackend) -> JobResult:
        await warm_up(box, backend)
        write(box, **change)
        before = warm_jobs(backend)
        result = await backend.wait(await backend.submit(box.job("job", f"{PYTHON} world.py")))
        assert warm_jobs(backend) == before
        return result

    assert box.run(steps, warm="on").state is JobState.SUCCEEDED
    assert why in caplog.text


@linux
def test_a_server_that_was_made_for_another_script_is_replaced(box: Box) -> None:
    write(box, prepare="import json, wave\n", world="import json, os\n")

    async def steps(backend: LocalBackend) -> None:
        await backend.wait(await backend.submit(box.job("prepare", f"{PYTHON} prepare.py")))
        await warm_up(box, backend)
        await backend.wait(await backend.submit(box.job("other", f"{PYTHON} prepare.py")))
        before = warm_jobs(backend)
        await backend.wait(await backend.submit(box.job("again", f"{PYTHON} world.py")))
        assert warm_jobs(backend) == before + 1

    box.run(steps)


@linux
@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import no_such_module_anywhere\n", "fails"),
        ("import threaded_module\n", "threads"),
    ],
)
def test_a_server_that_is_unfit_is_not_tried_again(
    box: Box, source: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(box, world=source)
    library = box.path / "library"
    library.mkdir()
    (library / "threaded_module.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(library)}

    async def steps(backend: LocalBackend) -> None:
        limit = time.monotonic() + 30
        number = 0
        while why not in caplog.text:
            assert time.monotonic() < limit
            number += 1
            job = box.job(f"{number}", f"{PYTHON} world.py", env=env)
            await backend.wait(await backend.submit(job))
        await backend.wait(await backend.submit(box.job("last", f"{PYTHON} world.py", env=env)))
        assert not backend.notes()

    box.run(steps, warm="on")
    assert len(list((box.path / "backend").glob("warm-*.log"))) <= 1


@linux
def test_a_server_that_dies_costs_no_job(box: Box) -> None:
    write(box, world="import json, os\nprint('done')\n")

    async def steps(backend: LocalBackend) -> JobResult:
        await warm_up(box, backend)
        for process in processes.table():
            if process.parent == os.getpid() and "forkserver.py" in _command(process.pid):
                os.kill(process.pid, signal.SIGKILL)
        return await backend.wait(await backend.submit(box.job("job", f"{PYTHON} world.py")))

    assert box.run(steps).state is JobState.SUCCEEDED
    assert box.log() == "done\n"


@linux
@pytest.mark.e2e
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_the_bundled_trainer_gives_the_same_result_warm_and_cold(box: Box) -> None:
    import shutil

    trainer = Path(__file__).parents[2] / "trainer"
    shutil.copytree(trainer, box.tree, dirs_exist_ok=True)
    env = {**os.environ, "ARF_SEED": "7", "ARF_BUDGET_MODE": "steps", "ARF_BUDGET": "5"}
    env["ARF_DATA_DIR"] = str(box.path / "data")

    async def steps(backend: LocalBackend) -> None:
        job = box.job("prepare", f"{PYTHON} prepare.py", env=env, time_limit_s=200.0)
        assert (await backend.wait(await backend.submit(job))).state is JobState.SUCCEEDED
        for number in range(5):
            job = box.job(f"{number}", f"{PYTHON} train.py", env=env)
            assert (await backend.wait(await backend.submit(job))).state is JobState.SUCCEEDED
        assert 1 <= warm_jobs(backend) < 5 + 1

    box.run(steps)
    lines = [line for n in range(5) for line in box.log(f"{n}").splitlines() if line.startswith("val_bpb")]
    assert len(lines) == 5
    assert len(set(lines)) == 1
