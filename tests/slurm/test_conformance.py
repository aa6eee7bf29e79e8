"""The conformance suite for backends on a real Slurm, in both forms, with shared work trees and sent ones."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from slurm_cluster import Cluster  # it is beside this file

from arf.interfaces import Backend
from arf.testing.suites import ClusterSuite
from arf_plugins.backend_slurm import SlurmOptions
from arf_plugins.backend_slurm.backend import SlurmBackend


def workers() -> list[int]:
    """Those that run on the nodes, which are all here."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].rpartition(b"/")[2].startswith(b"python") and any(
            w.endswith(b"worker.pyz") for w in words
        ):
            found.append(int(entry.name))
    return found


@pytest.mark.usefixtures("slurm")
class _Suite(ClusterSuite):
    form: ClassVar[Literal["pool", "jobs"]]

    def make(self, directory: Path) -> Backend:
        options = SlurmOptions(form=self.form, slots=3, grace=0.3, poll=0.5, heartbeat=2.0)
        return SlurmBackend(options, directory)

    has_links = False
    has_sent_trees = False

    @pytest.fixture(autouse=True)
    def _cluster(self, slurm: Cluster) -> None:
        self.slurm = slurm

    def lose_workers(self) -> None:
        for pid in workers():
            os.kill(pid, signal.SIGKILL)

    def left(self) -> Sequence[str]:
        return self.slurm.run("squeue", "-h", "-o", "%i %j %T").splitlines()


@pytest.mark.slurm_ci
class TestPool(_Suite):
    form = "pool"


@pytest.mark.slurm_ci
class TestJobs(_Suite):
    form = "jobs"


class _Sent(_Suite):
    """The nodes see the marks of the jobs, and nothing else of what arf sees."""

    has_sent_trees = True

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
