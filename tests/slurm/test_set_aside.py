"""Nodes of a real Slurm that are set aside: in both forms, with what runs there, and after a resume."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Literal

import pytest

from arf.types import Job, JobResult, JobState
from arf_plugins.backend_slurm import SlurmOptions
from arf_plugins.backend_slurm.backend import SlurmBackend

PATIENCE_S = 60.0


@pytest.mark.slurm_ci
@pytest.mark.usefixtures("slurm")
@pytest.mark.parametrize("form", ["pool", "jobs"])
def test_a_node_that_is_set_aside_ends_what_it_runs_and_gets_no_more(
    tmp_path: Path, form: Literal["pool", "jobs"]
) -> None:
    def job(key: str, command: str) -> Job:
        return Job(
            key=key, directory=tmp_path, command=command, env={"PATH": os.environ["PATH"]},
            log=tmp_path / f"{key}.log", tier="h100", time_limit_s=60.0,
        )  # fmt: skip

    def make() -> SlurmBackend:
        options = SlurmOptions(form=form, slots=8, grace=0.3, poll=0.5, heartbeat=0.5)
        return SlurmBackend(options, tmp_path / "backend")

    def up() -> int:
        return len(list(tmp_path.glob("up-*")))

    async def first_process(backend: SlurmBackend) -> list[JobResult]:
        assert [tier.slots for tier in await backend.tiers()] == [8, 2]
        held = [
            await backend.submit(job(f"held-{i}", f"touch up-{i}; until [ -e go ]; do sleep 0.05; done"))
            for i in range(8)
        ]
        limit = time.monotonic() + PATIENCE_S
        while up() < 8:
            assert time.monotonic() < limit
            await asyncio.sleep(0.02)
        done = [backend.set_aside(node, "why") for node in ("h100-0", "h100-1", "h200-0", "nowhere")]
        assert done == [True, False, False, False]
        assert [tier.slots for tier in await backend.tiers()] == [4, 2]
        more = [await backend.submit(job(f"more-{i}", "true")) for i in range(4)]
        (tmp_path / "go").touch()
        return [await backend.wait(handle) for handle in (*held, *more)]

    async def next_process(backend: SlurmBackend) -> list[JobResult]:
        await backend.tiers()
        assert backend.set_aside("h100-0", "why") is True
        handles = [await backend.submit(job(f"last-{i}", "true")) for i in range(4)]
        return [await backend.wait(handle) for handle in handles]

    async def run() -> tuple[list[JobResult], list[JobResult]]:
        results = []
        for steps in (first_process, next_process):
            backend = make()
            try:
                results.append(await asyncio.wait_for(steps(backend), 2 * PATIENCE_S))
            finally:
                await backend.aclose()
        return results[0], results[1]

    first, last = asyncio.run(run())
    assert {result.state for result in [*first, *last]} == {JobState.SUCCEEDED}
    nodes = [make().node_of(result.slot) for result in first]
    assert set(nodes[:8]) == {"h100-0", "h100-1"}
    assert set(nodes[8:]) == {"h100-1"}
    assert {make().node_of(result.slot) for result in last} == {"h100-1"}
