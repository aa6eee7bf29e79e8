"""What goes over one connection to a node: jobs and orders there; journals, logs and files back."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arf.errors import BackendError
from arf_plugins.worker_pool import bundle
from arf_plugins.worker_pool.link import Link, LinkLost
from arf_plugins.worker_pool.remote_node import RemoteNode
from arf_plugins.worker_pool.state_dir import StateDir

if TYPE_CHECKING:
    from arf_plugins.worker_pool.linked_jobs import LinkedJobs

log = logging.getLogger(__name__)


class Session:
    """One connection, from its beginning to its end. Made anew for each try."""

    def __init__(
        self,
        node: RemoteNode,
        state: StateDir,
        inbox: LinkedJobs,
        *,
        is_set_up: Callable[[str], bool],
        return_mb: float,
    ) -> None:
        self._node = node
        self._state = state
        self._inbox = inbox
        self._is_set_up = is_set_up
        self._most = int(return_mb * 2**20) + 1
        self._link = Link(node.folder)
        self._listing: dict[str, tuple[str, str]] = {}
        """The files of the job that was sent last: the next one's are told by what differs."""

    async def serve(self, command: Sequence[str], settings: Mapping[str, Any]) -> None:
        """Connect, bring the relay up to date, and listen until the connection ends. Raises BackendError."""
        node, link = self._node, self._link
        try:
            greeting = await link.open(command)
            node.home = str(greeting["home"])
            node.skew_s = time.time() - float(greeting["now"])
            node.blobs, node.there = set(greeting["blobs"]), set()
            follow = {handle: self._log_size(handle) for handle in node.jobs}
            await link.send("begin", {"settings": settings, "read_to": node.read_to, "follow": follow})
            now = asyncio.get_running_loop().time()
            node.link, node.misses, node.changed_at, node.heard_at = link, 0, now, now
            node.session = self
            self._inbox.node_connected(node)
            await link.listen(self._hear)
        finally:
            if node.link is link:
                node.link, node.session = None, None
                node.changed_at = asyncio.get_running_loop().time()
            node.drop_answers()
            link.close()

    def _log_size(self, handle: str) -> int:
        try:
            return Path(self._state.job(handle)["log"]).stat().st_size
        except (OSError, KeyError):
            return 0

    # ---- Sending ----------------------------------------------------------------------------

    async def send_job(self, handle: str, cancels: Collection[str]) -> None:
        """Hand a job to the node; if the connection breaks, the next one does it again."""
        node = self._node
        async with node.sending:
            again = handle in node.preparing
            if node.session is not self or (handle not in node.jobs and not again):
                return
            fields = self._state.job(handle)
            try:
                found = await asyncio.to_thread(bundle.bundle, Path(fields["directory"]))
                await self._send_links(found)
                await self._send_large(found)
                blobs, payload = await asyncio.to_thread(found.pack, node.blobs)
            except BackendError as error:
                self._inbox.job_unsendable(handle, error)
                return
            except LinkLost:
                return
            put = {
                "put": handle,
                "job": {
                    "command": fields["command"],
                    "env": bundle.environment_there(fields["env"], node.home),
                    "time_limit_s": fields["time_limit_s"],
                    "tier": node.token,
                },
                "queue": node.token,
                "cwd": "" if fields["cwd"] == "." else fields["cwd"],
                "blobs": blobs,
                "log_at": 0 if again else self._log_size(handle),
                "links": found.links,
                **self._difference(found),
            }
            await self._link.send("put", put, payload)
            node.blobs.update(blob for blob, _ in blobs)
            if handle in cancels:
                await self._link.send("cancel", {"handle": handle})

    async def _send_large(self, found: bundle.Bundle) -> None:
        """Raises LinkLost or BackendError."""
        parts = found.large(self._node.blobs)
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            blob, at, last, data = part
            if self._node.session is not self:
                raise LinkLost
            payload = await asyncio.to_thread(zlib.compress, data, 1)
            await self._link.send("blob", {"blob": blob, "at": at, "last": last}, payload)
            if last:
                self._node.blobs.add(blob)

    def _difference(self, found: bundle.Bundle) -> dict[str, Any]:
        """A job's files against those of the last one on this connection."""
        before, self._listing = self._listing, {name: (mode, blob) for name, mode, blob in found.files}
        changed = [(name, *kind) for name, kind in self._listing.items() if before.get(name) != kind]
        return {"changed": changed, "removed": [name for name in before if name not in self._listing]}

    async def _send_links(self, found: bundle.Bundle) -> None:
        """Send what the links of a tree lead to, where it is here and not there. Raises LinkLost."""
        node = self._node
        wanted = {target for _, target in found.links} - node.there
        here = [target for target in sorted(wanted) if bundle.is_something(Path(target))]
        if not here:
            return
        there = await node.ask("ask", {"paths": here}, "there")
        for target in here:
            if target not in there:
                for path, at, mode, data in bundle.pieces(Path(target)):
                    if node.link is None:
                        raise LinkLost
                    await node.link.send("file", {"path": path, "at": at, "mode": mode}, data)
                await node.ask("place", {"path": target}, "placed")
            node.there.add(target)

    # ---- Hearing ----------------------------------------------------------------------------

    async def _hear(self, fields: dict[str, Any], payload: bytes) -> None:
        if "line" in fields:
            if fields["source"]:
                self._node.read_to[fields["source"]] = fields["offset"]
            self._take_line(fields["source"], fields["line"])
        elif "log" in fields:
            self._write_log(fields["log"], fields["at"], payload)
        elif "file" in fields:
            if (root := self._returns_to(fields["handle"])) is not None:
                bundle.put_back(root, fields["file"], fields["mode"], payload, self._most)
        elif "files" in fields:
            if (root := self._returns_to(fields["files"])) is not None:
                for name in fields["removed"]:
                    bundle.take_away(root, name)
                self._inbox.files_left(fields["left_there"])
        else:
            self._node.take_answer(fields)

    def _returns_to(self, handle: str) -> Path | None:
        fields = self._state.job(handle) if handle in self._node.jobs else {}
        return Path(fields["directory"]) if fields and not self._is_set_up(handle) else None

    def _write_log(self, handle: str, at: int, data: bytes) -> None:
        if handle not in self._node.jobs:
            return
        try:
            fd = os.open(self._state.job(handle)["log"], os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(fd, data, at)
            finally:
                os.close(fd)
        except OSError as error:
            log.warning("cannot write the log of %s: %s", handle, error.strerror)

    def _take_line(self, source: str, line: Mapping[str, Any]) -> None:
        node = self._node
        if source.partition("/")[0] == node.token:
            self._take_sign_of_life(line)
        if "closed" in line:
            node.closed = line["closed"]
            self._inbox.foreman_ended(node, line["closed"])
        elif "slots" in line and source == f"{node.token}/foreman.journal":
            node.slots = line["slots"]
            self._inbox.slots_changed(node)
        elif "hello" in line:
            self._inbox.worker_died(node, source, "its worker was killed")
            node.places[source] = f"{node.name}:{line['slot']}"
        elif "start" in line:
            node.running[source] = line["start"]
            if line["start"] in node.jobs:
                node.started[line["start"]] = node.moment(line["at"])
        elif "end" in line:
            node.running.pop(source, None)
            self._inbox.job_ended(node, source, line)
        elif "died" in line:
            self._inbox.worker_died(node, source, "its worker was killed (out of memory?)")

    def _take_sign_of_life(self, line: Mapping[str, Any]) -> None:
        """The foreman of now, or one of its workers, has spoken."""
        node = self._node
        node.heard_at = asyncio.get_running_loop().time()
        if line.get("bye") == "terminated":  # it ends with its foreman
            node.ready = False
            self._inbox.foreman_terminated(node)
        elif not node.ready and ("up" in line or "beat" in line):
            node.ready, node.failures = True, 0
            self._inbox.node_spoke(node)
