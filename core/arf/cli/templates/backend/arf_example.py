"""Each job has a folder, and a supervisor: a process of its own that outlives arf.

The supervisor holds a lock on its folder while it lives, and leaves `result.json` behind when the job has
ended. So the folder says it all: with a result the job has ended, with a lock it is running, and with neither
it is lost.
"""

import asyncio
import fcntl
import hashlib
import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from attrs import field, frozen

from arf.errors import BackendError, nearest
from arf.hooks import Declaration, hookimpl
from arf.interfaces import Backend
from arf.types import Job, JobResult, JobState, Tier

TIER = "processes"


class Example(Backend):
    """Runs processes on this machine that outlive arf"""

    @frozen(kw_only=True)
    class Options:
        slots: int = field(default=2, metadata={"help": "how many jobs run at a time"})

    async def tiers(self) -> Sequence[Tier]:
        return [Tier(name=TIER, slots=self.options.slots)]

    async def submit(self, job: Job) -> str:
        if job.tier != TIER:
            raise BackendError(f"there is no tier {job.tier!r}", hint=nearest(job.tier, [TIER]))
        handle = hashlib.sha256(job.key.encode()).hexdigest()[:32]
        folder = self.directory / handle
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            if _locked(lock.fileno()) or (folder / "result.json").exists():
                return handle
            order = {
                "command": job.command,
                "env": dict(job.env),
                "directory": str(job.directory),
                "log": str(job.log),
                "time_limit_s": job.time_limit_s,
                "slots": self.options.slots,
            }
            (folder / "order.json").write_text(json.dumps(order))
            supervisor = await asyncio.create_subprocess_exec(
                sys.executable,
                str(Path(__file__).with_name("arf_example_supervisor.py")),
                str(folder),
                pass_fds=[lock.fileno()],  # the lock is the supervisor's from now on
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            await supervisor.wait()  # it goes into the background
        return handle

    async def wait(self, handle: str) -> JobResult:
        folder = self.directory / handle
        if not handle.isalnum() or not folder.is_dir():
            return JobResult(state=JobState.LOST, message=f"there is no job {handle!r}")
        while True:
            with (folder / "lock").open("w") as lock:
                goes_on = _locked(lock.fileno())
            if (folder / "result.json").exists():
                return _result(folder / "result.json")
            if not goes_on:
                return JobResult(state=JobState.LOST, message="its supervisor is gone")
            await asyncio.sleep(0.02)

    async def cancel(self, handle: str) -> None:
        if handle.isalnum() and (self.directory / handle).is_dir():
            (self.directory / handle / "cancel").touch()


def _locked(file: int) -> bool:
    """Whether somebody else holds the lock; if not, it is ours until the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _result(file: Path) -> JobResult:
    result = json.loads(file.read_text())
    started_at = result.pop("started_at")
    return JobResult(
        state=JobState(result.pop("state")),
        started_at=datetime.fromisoformat(started_at) if started_at else None,
        ended_at=datetime.fromisoformat(result.pop("ended_at")),
        **result,
    )


@hookimpl
def arf_register_backends() -> list[Declaration]:
    return [Declaration(name="example", implementation=Example)]
