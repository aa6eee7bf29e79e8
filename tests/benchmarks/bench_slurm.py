"""What a pool of workers saves on a cluster: many one-second jobs on eight slots of a real, throw-away Slurm.

Through arf's pool; through arf with one Slurm job each; through submitit alone, one by one as its users do;
and through arf's local backend, without any Slurm. What counts is the share of the slots that is in use, and
how often the controller was asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from arf.interfaces import Backend
from arf.types import Job, JobState

sys.path.insert(0, str(Path(__file__).parents[1] / "slurm"))
import slurm_cluster

JOBS, SLOTS, SECONDS = 200, 8, 1.0
COMMAND = f"sleep {SECONDS}; echo val_bpb: 1.0"


def job(folder: Path, i: int, tier: str) -> Job:
    return Job(
        key=f"job-{i}", directory=folder, command=COMMAND, env={"PATH": os.environ["PATH"]}, tier=tier,
        log=folder / f"{i}.log", time_limit_s=60,
    )  # fmt: skip


async def through(backend: Backend, folder: Path, *, in_turn: bool) -> tuple[float, float, list[float]]:
    """(seconds in all, share of the slots in use once all were in use, seconds between two jobs of a slot).

    `in_turn` submits a job when another has ended, as the engine does.
    """
    tier = (await backend.tiers())[0].name
    todo = list(range(JOBS))[::-1]
    ends = []

    async def work() -> None:
        while todo:
            result = await backend.wait(await backend.submit(job(folder, todo.pop(), tier)))
            assert result.state is JobState.SUCCEEDED, result
            ends.append(result)

    began = time.monotonic()
    await asyncio.gather(*(work() for _ in range(SLOTS if in_turn else JOBS)))
    total_s = time.monotonic() - began
    by_slot: dict[str, list[tuple[float, float]]] = {}
    for end in ends:
        assert end.started_at is not None
        assert end.ended_at is not None
        by_slot.setdefault(end.slot, []).append((end.started_at.timestamp(), end.ended_at.timestamp()))
    spans = [sorted(spans) for spans in by_slot.values()]
    first = min(span[0][0] for span in spans)
    last = max(span[-1][1] for span in spans)
    used = sum(b - a for span in spans for a, b in span) / (SLOTS * (last - first))
    gaps = [b[0] - a[1] for span in spans for a, b in pairwise(span)]
    await backend.aclose()
    return total_s, used, gaps


def submitit_alone(folder: Path) -> float:
    import submitit

    executor = submitit.SlurmExecutor(folder=str(folder))
    executor.update_parameters(time=5, gres="gpu:h100:1", mem="100MB", wckey="x")
    began = time.monotonic()
    with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
        jobs = [executor.submit(time.sleep, SECONDS) for _ in range(JOBS)]
        for one in jobs:
            while not one.paths.result_pickle.exists():
                time.sleep(0.05)
            one.result()
    return time.monotonic() - began


def line(name: str, total_s: float, used: float | None, gaps: list[float], note: str = "") -> None:
    share = "     -" if used is None else f"{used:6.1%}"
    gap = f"{statistics.median(gaps) * 1000:6.0f} ms" if gaps else "        -"
    print(
        f"  {name:<34} {total_s:7.1f} s {JOBS / total_s:6.2f} jobs/s  slots in use {share}  gap {gap}  {note}"
    )


def main() -> int:
    reason = slurm_cluster.missing()
    try:
        from arf_plugins.backend_slurm import SlurmOptions
        from arf_plugins.backend_slurm.backend import SlurmBackend
    except ImportError as error:
        reason = str(error)
    if reason:
        print(f"skipped: {reason}")
        return 0
    from arf_plugins.backend_local import LocalOptions
    from arf_plugins.backend_local.backend import LocalBackend

    print(f"{JOBS} jobs of {SECONDS:g} s on {SLOTS} slots; the floor is {JOBS * SECONDS / SLOTS:.1f} s")
    with tempfile.TemporaryDirectory(prefix="arf-slurm-", ignore_cleanup_errors=True) as home:
        root = Path(home)

        def folder(name: str) -> Path:
            (root / name).mkdir()
            return root / name

        local = LocalBackend(LocalOptions(slots=SLOTS, gpus=(), warm="off"), folder("local"))
        base_s, base, gaps = asyncio.run(through(local, folder("local-jobs"), in_turn=True))
        line("arf, local", base_s, base, gaps)
        with slurm_cluster.running(folder("slurm")) as cluster:
            os.environ["SLURM_CONF"] = str(cluster.config)
            for form, in_turn in (("pool", True), ("pool", False), ("jobs", True)):
                name = f"{form}-{in_turn}"
                options = SlurmOptions(form="pool" if form == "pool" else "jobs", slots=SLOTS)
                backend = SlurmBackend(options, folder(name))
                total_s, used, gaps = asyncio.run(through(backend, folder(f"{name}-jobs"), in_turn=in_turn))
                how = "one ends, one is submitted" if in_turn else "all at once"
                minutes = total_s / 60
                note = f"{backend.polls} queries, {backend.polls / minutes:.1f} a minute"
                line(f"arf, {form} ({how})", total_s, used, gaps, f"{used / base:.1%} of local; {note}")
                cluster.wait_until_empty()
            alone_s = submitit_alone(folder("submitit"))
            line("submitit alone, one by one", alone_s, None, [])
    return 0


if __name__ == "__main__":
    sys.exit(main())
