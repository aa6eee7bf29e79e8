"""What the sandbox adds to a job: trivial ones of the local backend, confined and not, cold and warm.

The time of processors is beside that on the clock, which other work on the machine lengthens.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from arf.config.schema import Sandbox
from arf.sandbox import machine
from arf.sandbox.boxes import Boxes
from arf.types import Job, JobState
from arf_plugins.backend_local import LocalOptions
from arf_plugins.backend_local.backend import LocalBackend

JOBS, ROUNDS = 40, 3
READONLY = frozenset({"prepare.py", *(f"lib/{number}.py" for number in range(10))})


async def seconds_a_job(folder: Path, *, confined: bool, warm: bool) -> tuple[float, float]:
    """The mean of JOBS jobs, one after the other: on the clock, and of processors."""
    tree = folder / "checkout" / ".arf" / "tree"
    (tree / "lib").mkdir(parents=True, exist_ok=True)
    for name in READONLY:
        (tree / name).touch()
    (tree / "train.py").write_text("import json\n")
    env = {"PATH": os.environ["PATH"], "HOME": str(Path.home())}
    command: tuple[str, ...] = (sys.executable, "train.py") if warm else ("/bin/true",)
    boxes = Boxes(Sandbox(), command=command, env=env, workspace=folder, top=folder / "checkout")
    box = boxes.make(tree, READONLY, {"train.py"}) if confined else None
    backend = LocalBackend(
        LocalOptions(slots=1, gpus=()), folder / f"backend-{confined}-{warm}-{time.time_ns()}"
    )

    async def run(number: int) -> None:
        job = Job(
            key=f"job{number}", directory=tree, command=command, env=env, log=folder / "log", tier="cpu",
            time_limit_s=60.0, box=box,
        )  # fmt: skip
        result = await backend.wait(await backend.submit(job))
        assert result.state is JobState.SUCCEEDED, (folder / "log").read_text()

    await run(0)
    for number in range(100):  # what waits for the next jobs is made, and the fork server imports
        await asyncio.sleep(0.2)
        await run(-number - 1)
        if not warm or any("warm" in note for note in backend.notes()):
            break
    began, used_s = time.perf_counter(), _used_s()
    for number in range(1, JOBS + 1):
        await run(number)
    taken_s, used_s = (time.perf_counter() - began) / JOBS, (_used_s() - used_s) / JOBS
    assert any("warm" in note for note in backend.notes()) == warm
    await backend.aclose()
    return taken_s, used_s


def _used_s() -> float:
    """Of this process and those children that have ended and been waited for."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both)


def main() -> int:
    if machine.lacking():
        print(f"no sandbox here: {machine.lacking()}")
        return 0
    with tempfile.TemporaryDirectory() as name:
        for warm in (False, True):
            plain, boxed = [], []
            for _ in range(ROUNDS):
                plain.append(asyncio.run(seconds_a_job(Path(name), confined=False, warm=warm)))
                boxed.append(asyncio.run(seconds_a_job(Path(name), confined=True, warm=warm)))
            without, confined = (
                [1000 * statistics.median(values) for values in zip(*rounds, strict=True)]
                for rounds in (plain, boxed)
            )
            print(f"{'warm' if warm else 'cold'} start, ms a job (of processors):", end=" ")
            print(
                f"{without[0]:.1f} ({without[1]:.1f}), confined {confined[0]:.1f} ({confined[1]:.1f}):",
                end=" ",
            )
            print(f"{confined[0] / without[0]:.1f} times")
    return 0


if __name__ == "__main__":
    sys.exit(main())
