"""The conformance suite for backends on a real Slurm, in both forms."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pytest

from arf.interfaces import Backend
from arf.testing.suites import BackendSuite
from arf_plugins.backend_slurm import SlurmOptions
from arf_plugins.backend_slurm.backend import SlurmBackend


@pytest.mark.slurm_ci
@pytest.mark.usefixtures("slurm")
class _Suite(BackendSuite):
    form: ClassVar[Literal["pool", "jobs"]]

    def make(self, directory: Path) -> Backend:
        options = SlurmOptions(form=self.form, slots=3, grace=0.3, poll=0.5, heartbeat=2.0)
        return SlurmBackend(options, directory)


class TestPool(_Suite):
    form = "pool"


class TestJobs(_Suite):
    form = "jobs"
