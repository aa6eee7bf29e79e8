"""What the local backend adds to starting a process, and what warm starts take away again.

First trivial jobs, against a loop of nothing but posix_spawn and one with asyncio's subprocesses; then,
where torch is installed, the bundled trainer: seconds from submitting it to its first step, and in all.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import resource
import select
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from arf.types import Job, JobState
from arf_plugins.backend_local import LocalOptions
from arf_plugins.backend_local.backend import LocalBackend

JOBS, SLOTS, ROUNDS = 200, 16, 5
COMMAND = "echo val_bpb: 1.0"
TRAINER = Path(__file__).parents[2] / "trainer"
RUNS = 6


def bare(folder: Path) -> None:
    """The floor: no record, no limit, no clean-up."""
    env, poll, running, started = dict(os.environ), select.epoll(), {}, 0

    def start() -> None:
        log = (os.POSIX_SPAWN_OPEN, 1, str(folder / f"{started}.log"), os.O_WRONLY | os.O_CREAT, 0o644)
        pid = os.posix_spawn("/bin/sh", ["/bin/sh", "-c", COMMAND], env, setsid=True, file_actions=[log])
        fd = os.pidfd_open(pid)
        running[fd] = pid
        poll.register(fd, select.EPOLLIN)

    while running or started < JOBS:
        while len(running) < SLOTS and started < JOBS:
            start()
            started += 1
        for fd, _ in poll.poll():
            os.waitpid(running.pop(fd), 0)
            poll.unregister(fd)
            os.close(fd)


def with_asyncio(folder: Path) -> None:
    async def work(todo: list[int]) -> None:
        while todo:
            with (folder / f"{todo.pop()}.log").open("wb") as log:
                process = await asyncio.create_subprocess_exec(
                    "/bin/sh", "-c", COMMAND, stdout=log, stderr=log, start_new_session=True
                )
            await process.wait()

    async def main() -> None:
        todo = list(range(JOBS))
        await asyncio.gather(*(work(todo) for _ in range(SLOTS)))

    asyncio.run(main())


def with_backend(folder: Path) -> None:
    async def work(backend: LocalBackend, todo: list[int]) -> None:
        while todo:
            key = str(todo.pop())
            job = Job(
                key=key,
                directory=folder,
                command=COMMAND,
                env=dict(os.environ),
                log=folder / f"{key}.log",
                tier="cpu",
                time_limit_s=60.0,
            )
            result = await backend.wait(await backend.submit(job))
            assert result.state is JobState.SUCCEEDED

    async def main() -> None:
        backend = LocalBackend(LocalOptions(slots=SLOTS, gpus=()), folder / "backend")
        todo = list(range(JOBS))
        await asyncio.gather(*(work(backend, todo) for _ in range(SLOTS)))
        await backend.aclose()

    asyncio.run(main())


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def compare() -> None:
    ways: dict[str, Callable[[Path], None]] = {
        "posix_spawn": bare,
        "asyncio": with_asyncio,
        "local backend": with_backend,
    }
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, run in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                cpu, wall = cpu_s(), time.perf_counter()
                run(Path(folder))
                figures[name].append((time.perf_counter() - wall, cpu_s() - cpu))
    print(f"{JOBS} trivial jobs on {SLOTS} slots, medians of {ROUNDS}")
    print(f"{'':16}{'jobs/s':>8}{'CPU ms a job':>14}")
    for name, pairs in figures.items():
        walls, cpus = zip(*pairs, strict=True)
        rate = JOBS / statistics.median(walls)
        print(f"{name:16}{rate:8.0f}{1000 * statistics.median(cpus) / JOBS:14.2f}")


async def train(backend: LocalBackend, tree: Path, key: str) -> tuple[float, float, str]:
    """Seconds to the first step and to the end, and the closing val_bpb."""
    env = {**os.environ, "ARF_SEED": "7", "ARF_BUDGET_MODE": "steps", "ARF_BUDGET": "20"}
    log = tree.parent / f"{key}.log"
    command = (sys.executable, "prepare.py" if key == "prepare" else "train.py")
    job = Job(key=key, directory=tree, command=command, env=env, log=log, tier="cpu", time_limit_s=600.0)
    before = time.perf_counter()
    end = asyncio.ensure_future(backend.wait(await backend.submit(job)))
    first = 0.0
    while not end.done():
        if not first and log.exists() and re.search(r"^step", log.read_text(), re.MULTILINE):
            first = time.perf_counter() - before
        await asyncio.sleep(0.002)
    assert end.result().state is JobState.SUCCEEDED, log.read_text()
    values = re.findall(r"^val_bpb: +(\S+)", log.read_text(), re.MULTILINE)
    return first, time.perf_counter() - before, "".join(values)


async def warm_and_cold() -> None:
    print(f"\nthe bundled trainer for 20 steps, one at a time, medians of {RUNS}")
    print(f"{'':8}{'s to first step':>16}{'s in all':>10}  val_bpb")
    for warm in ("off", "auto"):
        with tempfile.TemporaryDirectory() as folder:
            tree = Path(folder) / "tree"
            shutil.copytree(TRAINER, tree)
            options = LocalOptions(slots=1, threads=1, gpus=(), warm="off" if warm == "off" else "auto")
            backend = LocalBackend(options, Path(folder) / "backend")
            await train(backend, tree, "prepare")
            await train(backend, tree, "first")  # the server imports beside this one
            runs = [await train(backend, tree, f"{i}") for i in range(RUNS)]
            firsts, alls, values = zip(*runs, strict=True)
            name = "cold" if warm == "off" else "warm"
            shown = ", ".join(sorted(set(values)))
            print(f"{name:8}{statistics.median(firsts):16.2f}{statistics.median(alls):10.2f}  {shown}")
            for note in backend.notes():
                print(f"{'':8}{note}")
            await backend.aclose()


def main() -> None:
    compare()
    if importlib.util.find_spec("torch"):
        asyncio.run(warm_and_cold())


if __name__ == "__main__":
    main()
