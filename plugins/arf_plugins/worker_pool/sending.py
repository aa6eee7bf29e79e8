"""Sends code along to nodes that do not see the study's folder, and takes over what comes back.

It goes through a folder that the nodes do see, with all else that arf and its workers tell each other;
`on_node/remote_worker.py` is the other side, and says what is in that folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from arf.errors import BackendError
from arf.sdk.jobs import read_fields, write_whole
from arf.types import Job
from arf_plugins.worker_pool import bundle
from arf_plugins.worker_pool.options import PoolOptions

log = logging.getLogger(__name__)

FOLDERS = ("packs", "sent", "outside", "logs", "returned")


class Sending:
    """One study's part of the folder that the nodes see; `shared` is that folder.

    `data` says where nodes have what links in work trees are called here.
    """

    def __init__(
        self,
        options: PoolOptions,
        directory: Path,
        shared: Path,
        data: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._data = data
        self._options = options
        self._directory = directory
        self._note = directory / "sent"
        found = read_fields(self._note)
        self.begun = bool(found)
        """Whether this study has sent before: then it goes on that way."""
        name = f"{directory.parent.name[:40]}-{secrets.token_hex(4)}"
        self.home = Path(found["home"]) if found else shared / name
        self._lock = threading.Lock()
        """Jobs are sent one after the other: what two of them need goes once."""
        self._pack_of: dict[str, str] = {}
        self._sent: set[str] = set()
        """Targets of links that are there."""
        self._read: dict[str, int] = {}
        """How much of a job's log has been taken over."""
        self._jobs: dict[str, dict[str, Any]] = {}
        """What the files of jobs say whose logs are read."""
        self.left_there = 0
        """Files that were too large to come back."""

    def prepare(self) -> None:
        """Make what is not there. Raises BackendError."""
        try:
            for name in FOLDERS:
                (self.home / name).mkdir(parents=True, exist_ok=True)
            self.home.chmod(0o700)
            for pack in (self.home / "packs").glob("[!.]*"):
                with pack.open("rb") as file:
                    self._pack_of.update((blob, pack.name) for blob, _ in json.loads(file.readline()))
            if not self.begun:
                self._directory.mkdir(parents=True, exist_ok=True)
                write_whole(self._note, json.dumps({"home": str(self.home)}))
                self.begun = True
        except (OSError, ValueError) as error:
            raise BackendError(
                f"cannot send code through {self.home}: {getattr(error, 'strerror', None) or error}",
                hint="set backend.shared to a folder that is writable, and that the nodes see too",
            ) from error

    # ---- There ------------------------------------------------------------------------------

    def send(self, job: Job, handle: str) -> dict[str, Any]:
        """Put a job's tree where nodes see it; what the job's file must say of that. Raises BackendError."""
        if not job.directory.is_dir():
            raise BackendError(f"job {job.key}: there is no folder {job.directory}")
        with self._lock:
            return self._send(job, handle)

    def _send(self, job: Job, handle: str) -> dict[str, Any]:
        root = bundle.tree_of(job.directory, self._directory)
        cwd = os.path.relpath(os.path.realpath(job.directory), root)
        cwd = "" if cwd == "." else cwd
        found = bundle.bundle(root)
        try:
            links = [(name, self._target(name, target, cwd)) for name, target in found.links]
            self._add_pack(found)
            sent = {
                "files": found.files,
                "links": links,
                "packs": sorted({self._pack_of[blob] for _, _, blob in found.files}),
                "return_mb": self._options.return_mb,
            }
            write_whole(self.home / "sent" / handle, json.dumps(sent))
        except OSError as error:
            raise BackendError(
                f"cannot send code through {self.home}: {error.strerror or error}",
                hint="free some space there, then `arf resume`",
            ) from error
        return {
            "cwd": cwd,
            "tree": str(root),
            "env": bundle.environment_there(job.env, str(self.home)),
            "log": str(self.home / "logs" / handle),
            "log_here": str(job.log),
        }

    def _add_pack(self, found: bundle.Bundle) -> None:
        """Write what no pack has yet. Raises OSError or BackendError."""
        listing, payload = found.pack(self._pack_of)
        if not listing:
            return
        head = json.dumps(listing).encode() + b"\n"
        name = hashlib.sha256(head).hexdigest()[:24]
        part = self.home / "packs" / f".{name}"
        with part.open("wb") as file:
            file.write(head + payload)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.home / "packs" / name)
        self._pack_of.update((blob, name) for blob, _ in listing)

    def _target(self, name: str, target: str, cwd: str) -> str:
        """Where a link of a tree leads on the nodes. Raises OSError or BackendError."""
        here = os.path.relpath(name, cwd) if cwd else name
        given = {path.rstrip("/"): there for path, there in self._data.items()}
        if here in given:
            return given[here]
        there = self.home / "outside" / target.lstrip("/")
        if target not in self._sent:
            source = Path(target)
            if not there.exists() or (there.is_dir() and not any(there.iterdir())):
                if bundle.is_something(source):
                    self._copy(here, source, there)
                elif not there.exists() and not there.suffix:
                    there.mkdir(parents=True)
            there.parent.mkdir(parents=True, exist_ok=True)
            self._sent.add(target)
        return str(there)

    def _copy(self, name: str, source: Path, there: Path) -> None:
        size, most_mb = bundle.size_of(source), self._options.send_mb
        if size > most_mb * 2**20:
            raise BackendError(
                f"{source} has {size / 2**20:,.0f} MiB, over backend.send_mb ({most_mb:g})",
                hint=f"say where the nodes have it: `backend.data: {{{name}: /path/there}}`; or raise it",
            )
        part = there.with_name(f".{there.name}.part")
        there.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(source, part)
            if there.exists():
                there.rmdir()
        else:
            shutil.copy2(source, part)
        part.replace(there)

    # ---- Back -------------------------------------------------------------------------------

    def follow_log(self, handle: str) -> None:
        """Take over what a job has written since the last look."""
        source = self.home / "logs" / handle
        try:
            with source.open("rb") as there:
                here = self._job(handle)["log_here"]
                if handle not in self._read:
                    self._read[handle] = os.stat(here).st_size if os.path.exists(here) else 0
                there.seek(self._read[handle])
                fd = os.open(here, os.O_WRONLY | os.O_CREAT, 0o644)
                with open(fd, "wb") as file:
                    file.seek(self._read[handle])
                    shutil.copyfileobj(there, file)
                    self._read[handle] = file.tell()
        except (FileNotFoundError, KeyError):
            pass  # it has not started
        except OSError as error:
            log.warning("cannot take over the log of %s: %s", handle, error.strerror)

    def collect(self, handle: str) -> None:
        """Take over the rest of the log and what the job has changed in its tree; then forget both there."""
        files = [self.home / kind / handle for kind in ("sent", "returned", "logs")]
        if not any(path.exists() for path in files):
            return  # an end of long ago
        self.follow_log(handle)
        if files[1].exists():
            self._take_back(files[1], Path(self._job(handle)["tree"]))
        for path in files:
            with contextlib.suppress(OSError):
                path.unlink()
        self._read.pop(handle, None)
        self._jobs.pop(handle, None)

    def _job(self, handle: str) -> dict[str, Any]:
        if handle not in self._jobs:
            self._jobs[handle] = read_fields(self.home / "jobs" / handle)
        return self._jobs[handle]

    def _take_back(self, path: Path, root: Path) -> None:
        try:
            with path.open("rb") as file:
                head = json.loads(file.readline())
                most = int(self._options.return_mb * 2**20) + 1
                for name, mode, size in head["files"]:
                    bundle.put_back(root, name, mode, file.read(size), most)
            for name in head["removed"]:
                bundle.take_away(root, name)
            self.left_there += head["left_there"]
        except (OSError, ValueError, KeyError) as error:
            log.warning("cannot take over what %s has written: %s", path.name, error)
