"""The conformance suite for backends on hosts that are reached by real SSH."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from ssh_hosts import Hosts  # it is beside this file

from arf.interfaces import Backend
from arf.testing.suites import ClusterSuite
from arf_plugins.backend_ssh import SshOptions
from arf_plugins.backend_ssh.backend import SshBackend


class TestSsh(ClusterSuite):
    """Two hosts of two slots each; the jobs see the folders of this machine, but not their work trees."""

    @pytest.fixture(autouse=True)
    def _hosts(self, hosts: Hosts) -> None:
        self.hosts = hosts

    def make(self, directory: Path) -> Backend:
        options = SshOptions(
            hosts=("gpu1:2", "gpu2:2"), ssh=("-F", str(self.hosts.config)), grace=0.3, poll=0.3, heartbeat=1.0
        )
        return SshBackend(options, directory)

    def lose_workers(self) -> None:
        for host in self.hosts.by_name.values():
            host.kill("node-worker")

    def cut_links(self) -> None:
        for host in self.hosts.by_name.values():
            host.cut()

    def left(self) -> Sequence[str]:
        found: list[str] = []
        for host in self.hosts.by_name.values():
            found += [path.name for path in (host.home / ".arf").glob("gpu*-*")]
            found += map(str, host.processes("foreman") + host.processes("node-worker"))
        return found
