"""What a confined job of the `local` backend can reach, tried by jobs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from arf.config.schema import Sandbox
from arf.errors import BackendError
from arf.sandbox import machine
from arf.sandbox.boxes import Boxes
from arf.types import Box, Job, JobResult, JobState, SandboxMode
from arf_plugins.backend_local import LocalOptions
from arf_plugins.backend_local.backend import LocalBackend

pytestmark = pytest.mark.skipif(bool(machine.lacking()), reason=f"no namespaces here: {machine.lacking()}")

READONLY = frozenset({"prepare.py", "lib/metric.py"})


class Rig:
    """A checkout with a study in it, as arf lays it out, and jobs in the study's work tree."""

    def __init__(self, path: Path) -> None:
        self.checkout = path / "checkout"
        self.study = self.checkout / ".arf" / "studies" / "s"
        self.tree = self.study / "trees" / "1"
        for folder in (self.tree / "lib", self.study / "trees" / "2", self.checkout / ".git"):
            folder.mkdir(parents=True)
        (self.tree / "prepare.py").write_text("VALUE = 1\n")
        (self.tree / "lib" / "metric.py").write_text("VALUE = 1\n")
        (self.tree / "train.py").write_text("print(1)\n")
        (self.study / "arf.db").write_text("secret")
        self.jobs = 0
        self.env = {"PATH": os.environ["PATH"], "HOME": os.path.expanduser("~")}

    def box(self, **settings: object) -> Box:
        boxes = Boxes(
            Sandbox(**settings),  # type: ignore[arg-type]
            command=(sys.executable,),
            env=self.env,
            workspace=self.checkout,
            top=self.checkout,
        )
        box = boxes.make(self.tree, READONLY, {"train.py"})
        assert box is not None
        return box

    def run(self, command: str | tuple[str, ...], jobs: int = 1, **settings: object) -> JobResult:
        """Run a job, `jobs` times one after the other, and give the last one's result."""

        async def main() -> JobResult:
            backend = LocalBackend(LocalOptions(slots=1, grace_s=0.3, gpus=()), self.study / "backend")
            try:
                for number in range(jobs):
                    if number == jobs - 1 and jobs > 1:
                        await asyncio.sleep(1.0)  # the fork server imports
                    result = await backend.wait(await backend.submit(self.job(command, **settings)))
                self.notes = backend.notes()
                return result
            finally:
                await backend.aclose()

        return asyncio.run(main())

    def job(self, command: str | tuple[str, ...], **settings: object) -> Job:
        self.jobs += 1
        return Job(
            key=f"job{self.jobs}",
            directory=self.tree,
            command=command,
            env=self.env,
            log=self.study / "log",
            tier="cpu",
            time_limit_s=60.0,
            box=self.box(**settings),
        )

    @property
    def log(self) -> str:
        return (self.study / "log").read_text()


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


LOOK = """
import json, os, socket
def is_there(path):
    return os.path.lexists(path)
def is_reached(family, address):
    try:
        socket.socket(family, socket.SOCK_STREAM).connect(address)
    except OSError:
        return False
    return True
def can_write(path):
    try:
        open(path, "a").close()
    except OSError:
        return False
    return True
def renames(old, new):
    try:
        os.rename(old, new)
    except OSError:
        return False
    return True
print(json.dumps({
    "checkout": os.listdir(CHECKOUT), "git": is_there(CHECKOUT + "/.git"), "db": is_there(STUDY + "/arf.db"),
    "tree 2": is_there(STUDY + "/trees/2"), "log": is_there(STUDY + "/log"),
    "home": [name for name in os.listdir(os.path.expanduser("~")) if not name.startswith(".")],
    "arf": is_there(f"/proc/{ARF}"), "shadow": is_there("/etc/shadow"), "keys": is_there("/etc/ssh"),
    "network": is_reached(socket.AF_INET, ("127.0.0.1", PORT)),
    "prepare": can_write("prepare.py"), "metric": can_write("lib/metric.py"),
    "rename": renames("lib", "lib2"),
    "rename file": renames("prepare.py", "p.py"), "cache": can_write("__pycache__/prepare.cpython-311.pyc"),
    "train": can_write("train.py"), "new": can_write("out.txt"), "new in lib": can_write("lib/out.txt"),
    "tmp": can_write("/tmp/x"), "shm": can_write("/dev/shm/x"), "usr": can_write("/usr/x"),
    "etc": can_write("/etc/x"),
    "kernel": can_write("/proc/sys/kernel/core_pattern"),
    "capabilities": [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")][0],
}))
"""
WANTED = {
    "checkout": [".arf"], "git": False, "db": False, "tree 2": False, "log": False, "home": [], "arf": False,
    "shadow": False, "keys": False, "network": False, "prepare": False, "metric": False, "rename": False,
    "rename file": False, "cache": False, "train": True, "new": True, "new in lib": True, "tmp": True,
    "shm": True,     "usr": False, "etc": False, "kernel": False, "capabilities": "0" * 16,
}  # fmt: skip


@pytest.mark.parametrize("start", ["cold", "warm"])
def test_a_job_reaches_what_it_was_given_and_nothing_else(rig: Rig, start: str) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        here = {"CHECKOUT": str(rig.checkout), "STUDY": str(rig.study), "ARF": os.getpid()}
        here["PORT"] = server.getsockname()[1]
        head = "".join(f"{name} = {value!r}\n" for name, value in here.items())
        (rig.tree / "train.py").write_text(LOOK.replace("def is_there", head + "def is_there", 1))
        result = rig.run((sys.executable, "train.py"), jobs=1 if start == "cold" else 3)
    assert result.state is JobState.SUCCEEDED, rig.log
    assert any("warm" in note for note in rig.notes) == (start == "warm")
    assert json.loads(rig.log) == WANTED


def test_declared_places_and_the_network_can_be_had(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("text")
    (tmp_path / "out").mkdir()
    rig.env["PLACE"] = str(tmp_path)
    command = "cat $PLACE/data/x; echo 1 > $PLACE/out/y; echo 1 > $PLACE/data/x; tail -n +3 /proc/net/dev"
    rig.run(command, read=("$PLACE/data", "$UNKNOWN/data"), write=(str(tmp_path / "out"),))
    assert rig.log.startswith("text")
    assert "Read-only file system" in rig.log
    assert [line.split()[0] for line in rig.log.splitlines() if line.startswith("   ")] == ["lo:"]
    assert (tmp_path / "out" / "y").read_text() == "1\n"
    rig.run(command, network=True)
    assert len(rig.log.splitlines()) >= len(Path("/proc/net/dev").read_text().splitlines()) - 2


@pytest.mark.parametrize(
    ("command", "state", "code"),
    [
        ("exit 3", JobState.FAILED, 3),
        ("kill -SEGV $$", JobState.FAILED, -signal.SIGSEGV),
        ("nohup setsid sleep 100 & sleep 0.1", JobState.SUCCEEDED, 0),
        ("trap 'exit 5' TERM; sleep 0.2; kill -TERM $$; sleep 9", JobState.FAILED, 5),
        (("no-such-program",), JobState.FAILED, 127),
    ],
)
def test_a_job_ends_as_it_would_unconfined(rig: Rig, command: str, state: JobState, code: int) -> None:
    result = rig.run(command)
    assert (result.state, result.exit_code) == (state, code), rig.log


def test_a_stopped_job_ends_with_all_its_processes(rig: Rig) -> None:
    async def main() -> JobResult:
        backend = LocalBackend(LocalOptions(slots=1, grace_s=0.3, gpus=()), rig.study / "backend")
        handle = await backend.submit(
            rig.job("setsid sh -c 'trap \"\" TERM; sleep 98765' & trap '' TERM; touch up; sleep 98765")
        )
        limit_s = time.monotonic() + 20
        while not (rig.tree / "up").exists():
            assert time.monotonic() < limit_s, rig.log
            await asyncio.sleep(0.02)
        await backend.cancel(handle)
        result = await backend.wait(handle)
        await backend.aclose()
        return result

    assert asyncio.run(main()).state is JobState.CANCELLED
    words = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [word for word in words if b"98765" in word]


def test_a_confined_job_outlives_arf_and_is_found_again(rig: Rig) -> None:
    async def main() -> JobResult:
        first = LocalBackend(LocalOptions(slots=1, gpus=()), rig.study / "backend")
        handle = await first.submit(rig.job("sleep 0.6; echo done"))
        await asyncio.sleep(0.2)
        await first.aclose()
        second = LocalBackend(LocalOptions(slots=1, gpus=()), rig.study / "backend")
        result = await second.wait(handle)
        await second.aclose()
        return result

    assert asyncio.run(main()).state is JobState.SUCCEEDED
    assert rig.log == "done\n"


def test_a_file_has_a_largest_length_and_no_core_is_left(rig: Rig) -> None:
    rig.run("ulimit -c; head -c 3000000 /dev/zero > big; stat -c %s big", file_gb=0.001)
    assert rig.log.split()[0] == "0"
    assert "1000000" in rig.log.split()


def test_what_the_machine_lacks_is_said_and_refused_if_it_was_asked_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "lacking", lambda: "the kernel forbids it")
    assert rig.run("true").state is JobState.SUCCEEDED
    assert "NOT confined: the kernel forbids it" in rig.notes[0]
    with pytest.raises(BackendError, match="the kernel forbids it"):
        rig.run("true", mode=SandboxMode.NAMESPACES)
