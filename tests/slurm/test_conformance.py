"""The conformance suite for backends on a real Slurm, in both forms, with shared work trees and sent ones."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pytest

from arf.interfaces import Backend
from arf.testing.suites import BackendSuite
from arf_plugins.backend_slurm import SlurmOptions
from arf_plugins.backend_slurm.backend import SlurmBackend


@pytest.mark.usefixtures("slurm")
class _Suite(BackendSuite):
    form: ClassVar[Literal["pool", "jobs"]]

    def make(self, directory: Path) -> Backend:
        options = SlurmOptions(form=self.form, slots=3, grace=0.3, poll=0.5, heartbeat=2.0)
        return SlurmBackend(options, directory)


@pytest.mark.slurm_ci
class TestPool(_Suite):
    form = "pool"


@pytest.mark.slurm_ci
class TestJobs(_Suite):
    form = "jobs"


class _Sent(_Suite):
    """The nodes see the marks of the jobs, and nothing else of what arf sees."""

    @pytest.fixture(autouse=True)
    def _hidden(self, _places: None, unseen: Path) -> None:
        self.home, self.work, self.logs = (unseen / name for name in ("backend", "work tree é", "logs"))
        for folder in (self.home, self.work, self.logs):
            folder.mkdir()

    def make(self, directory: Path) -> Backend:
        shared = str(self.marks.parent / "shared")
        # Jobs begin half a second after they are handed in. With a poll at that moment, tests that drop a
        # loop would drop it while it starts squeue, and Python 3.11 waits for that for ever.
        options = SlurmOptions(form=self.form, slots=3, grace=0.3, poll=2.0, heartbeat=2.0, shared=shared)
        return SlurmBackend(options, directory)


class TestSentToPool(_Sent):
    form = "pool"


class TestSentToJobs(_Sent):
    form = "jobs"
