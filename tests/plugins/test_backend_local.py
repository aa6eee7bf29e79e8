"""The `local` backend: real processes, and everything that they can do to hide or to die."""

from __future__ import annotations

from pathlib import Path

from arf.interfaces import Backend
from arf.testing.suites import BackendSuite
from arf_plugins.backend_local import LocalOptions
from arf_plugins.backend_local.backend import LocalBackend


class TestSuite(BackendSuite):
    def make(self, directory: Path) -> Backend:
        return LocalBackend(LocalOptions(slots=3, grace_s=0.3, gpus=()), directory)
