"""A real SkyPilot for the tests in this folder. In continuous integration (`CI` is set) it must start."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import sky_rig  # it is beside this file, which pytest's import mode does not see


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skypilot)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def started_rig() -> Iterator[sky_rig.Rig]:
    if reason := sky_rig.missing():
        if os.environ.get("CI"):
            pytest.fail(f"the SkyPilot tests cannot run: {reason}")
        pytest.skip(reason)
    # Not in pytest's folder: munge wants none of its parents to be writable for others, sockets a short path.
    with (
        tempfile.TemporaryDirectory(prefix="arf-sky-", ignore_cleanup_errors=True) as home,
        sky_rig.running(Path(home)) as rig,
    ):
        yield rig


@pytest.fixture
def rig(started_rig: sky_rig.Rig, monkeypatch: pytest.MonkeyPatch) -> sky_rig.Rig:
    """A SkyPilot that arf reaches from here."""
    for name, value in started_rig.variables.items():
        monkeypatch.setenv(name, value)
    return started_rig
