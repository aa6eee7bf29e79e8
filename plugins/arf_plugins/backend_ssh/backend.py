"""The backend `ssh`: a linked pool whose nodes are hosts, which nobody makes and nobody schedules."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arf.errors import BackendError
from arf.interfaces import Finding
from arf_plugins.backend_ssh import SshOptions
from arf_plugins.backend_ssh.hosts import (
    Host,
    Ssh,
    explained,
    hosts_of,
    node_name,
    places_of,
    setup_lines,
)
from arf_plugins.worker_pool.host_pool import HostPool, Place
from arf_plugins.worker_pool.link import probe
from arf_plugins.worker_pool.pool import in_thread

log = logging.getLogger(__name__)


class SshBackend(HostPool):
    """Jobs on hosts that are reached by SSH. See docs/backends/ssh.md."""

    options: SshOptions

    def __init__(self, options: SshOptions | None, directory: Path) -> None:
        super().__init__(options or SshOptions(), directory, folder="ssh")
        self._ssh = Ssh(self.options)

    # ---- The interface ----------------------------------------------------------------------

    async def find_places(self) -> dict[str, Place]:
        """Raises BackendError if no host can be used."""
        hosts = hosts_of(self.options)
        found = await asyncio.gather(*(self._probe(host) for host in hosts))
        places: dict[str, Place] = {}
        problems = [one for one in found if isinstance(one, BackendError)]
        for host, one in zip(hosts, found, strict=True):
            if isinstance(one, BackendError):
                log.warning("%s", one)
                continue
            mine = places_of(host, one, self.options)
            if not mine:
                problems.append(BackendError(f"{host.name}: others use its GPUs"))
            for place in mine:
                places[node_name(host.name, place.tier, len(mine) == 1)] = place
        if not places:
            raise BackendError(
                "no host can be used: " + "; ".join(one.message for one in problems[:3]),
                hint=problems[0].hint or "wait, or see `nvidia-smi` there; backend.busy_mb says what counts",
            )
        return places

    async def _probe(self, host: Host) -> dict[str, Any] | BackendError:
        try:
            return await in_thread(probe, self._ssh.command(host.name))
        except BackendError as error:
            return explained(host.name, error)

    async def check(self) -> Sequence[Finding]:
        if shutil.which("ssh") is None:
            return [Finding(what="ssh", problem="there is no ssh here", hint="install an OpenSSH client")]
        try:
            hosts = hosts_of(self.options)
        except BackendError as error:
            return [Finding(what="hosts", problem=error.message, hint=error.hint)]
        findings = []
        for host, one in zip(hosts, await asyncio.gather(*map(self._probe, hosts)), strict=True):
            if isinstance(one, BackendError):
                findings.append(Finding(what="host", problem=one.message, hint=one.hint))
                continue
            free = sum(place.slots for place in places_of(host, one, self.options))
            has = f"{len(one['gpus'])} GPUs" if one["gpus"] else f"{one['cores']} cores, no GPU"
            findings.append(Finding(what=f"host {host.name}", detail=f"{has}; {free} jobs at a time now"))
        return findings

    async def aclose(self) -> None:
        await super().aclose()
        await in_thread(self._ssh.close)

    def reach(self, host: str) -> Sequence[str]:
        return self._ssh.command(host)

    def more_settings(self, place: Place) -> Mapping[str, Any]:
        wanted = {"uuids": place.uuids, "each": self.options.gpus_per_job, "busy_mb": self.options.busy_mb}
        return {
            "find": wanted if place.uuids else None,
            "setup": setup_lines(self.options),
            "wrap": self.options.wrap,
            "nice": self.options.nice,
        }
