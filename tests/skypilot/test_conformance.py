"""The conformance suite for backends on a real SkyPilot: one cluster for all of its tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sky_rig
from attrs import evolve

from arf.interfaces import Backend
from arf.testing.suites import BackendSuite
from arf.types import Job, Tier
from arf_plugins.backend_skypilot import SkyPilotOptions
from arf_plugins.backend_skypilot.backend import SkyPilotBackend


@pytest.fixture(scope="module")
def backend_folder(started_rig: sky_rig.Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("study") / "backend"
    folder.mkdir()
    yield folder
    with pytest.MonkeyPatch.context() as patch:
        for name, value in started_rig.variables.items():
            patch.setenv(name, value)
        asyncio.run(make(folder).down())
    assert started_rig.clusters() == {}


def make(folder: Path) -> SkyPilotBackend:
    tiers = {"h100": {"accelerators": "H100:4", "slots": 3, "jobs_per_cluster": 3}}
    options = SkyPilotOptions(
        infra=(sky_rig.INFRA,), tiers=tiers, resources={"memory": 8}, grace=0.3, heartbeat=2.0
    )
    return SkyPilotBackend(options, folder)


class TestSkyPilot(BackendSuite):
    timeout_s = 240.0
    same_machine = False  # the nodes have process numbers of their own
    takes_down = False  # the tests share the cluster

    @pytest.fixture(autouse=True)
    def _cluster(
        self, rig: sky_rig.Rig, _places: None, backend_folder: Path, request: pytest.FixtureRequest
    ) -> None:
        self.home = backend_folder
        self.test = "".join(c if c.isalnum() else "-" for c in request.node.name)[:70]

    def make(self, directory: Path) -> Backend:
        return make(directory)

    def job(self, key: str, command: str | tuple[str, ...], tier: Tier, /, **changes: Any) -> Job:
        job = super().job(key, command, tier, **changes)
        return evolve(job, key=f"{self.test}-{key}")  # the study of all tests knows the keys of all
