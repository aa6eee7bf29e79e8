"""The folder that arf shares with workers: what arf writes there, and what it reads of theirs."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from attrs import define, field

from arf.errors import BackendError
from arf.sdk.jobs import (
    handle_of,
    is_handle,
    job_fields,
    read_fields,
    result_from_json,
    result_to_json,
    write_whole,
)
from arf.types import Job, JobResult
from arf_plugins.worker_pool import kit
from arf_plugins.worker_pool.on_node.files import ARF, Lines, append, claim, touch


@define(kw_only=True, eq=False)
class Worker:
    """One worker, such as a Slurm job (or array element), and what its journal has said."""

    batch: str
    index: str
    tier: str
    name: str
    """What those who have its machine call it, with `index`."""
    only: str = ""
    """The handle of its only job; empty for a worker that takes what comes."""
    journal: Lines
    job_id: str = ""
    """Its number there; empty while it is not known."""
    launched_at: float = 0.0
    heard_at: float = 0.0
    slot: str = ""
    """Where it runs; empty until it has said hello."""
    current: str = ""
    """The handle of the job that it runs."""
    started_at: datetime | None = None
    doubtful: bool = False
    """It was ended from outside, or is about to be: why, must be asked."""
    confirmed: bool = False
    """Whether it has been heard or seen since this process began."""
    draining: bool = False
    leaving: bool = False
    """Its node was set aside: it takes nothing more."""
    dismissed: bool = False
    """arf has asked to end it."""
    gone: bool = False
    missed: int = 0
    """Answers in a row that did not name it."""
    reason: str = ""
    """Why it has not started."""
    last: Mapping[str, Any] = field(factory=dict)
    """The line with which its job ended when it was ended from outside."""

    @property
    def who(self) -> str:
        """Its name in claims."""
        return f"{self.batch}.{self.index}"


class Folder:
    """One backend's part of the shared file system."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._queues: dict[str, Path] = {}

    def prepare(self, tiers: Sequence[str]) -> None:
        """Make what is not there. Raises BackendError."""
        try:
            for name in ("batches", "queues", "jobs", "claims", "ends"):
                (self.home / name).mkdir(parents=True, exist_ok=True)
            self.home.chmod(0o700)
            for tier in tiers:
                self._queues[tier] = self.home / "queues" / handle_of(tier)
                self._queues[tier].touch()
            # Anew each time: a newer arf may go on with the study. The old one stays until it is replaced.
            copy = self.home / f".{kit.NAME}"
            copy.write_bytes(kit.program())
            copy.replace(self.home / kit.NAME)
            self.touch()
        except OSError as error:
            raise _refused(error, self.home) from error

    def touch(self) -> None:
        """Say that arf is interested. Raises OSError."""
        touch(str(self.home / ARF))

    def has_batches(self) -> bool:
        """Whether there has ever been a worker."""
        return (self.home / "batches").is_dir() and any((self.home / "batches").iterdir())

    def seen(self) -> bool:
        """Whether a node has ever written here: then the nodes see it."""
        return any(path.stat().st_size for path in self.home.glob("batches/*/*.journal"))

    # ---- Jobs -------------------------------------------------------------------------------

    def has(self, handle: str) -> bool:
        return is_handle(handle) and (self.home / "jobs" / handle).exists()

    def handles(self) -> list[str]:
        """All jobs, the oldest first."""
        try:
            with os.scandir(self.home / "jobs") as entries:
                return [
                    name
                    for _, name in sorted(
                        (entry.stat().st_mtime_ns, entry.name)
                        for entry in entries
                        if not entry.name.startswith(".")
                    )
                ]
        except FileNotFoundError:
            return []

    def add(self, handle: str, job: Job, sent: Mapping[str, Any]) -> None:
        """Write a job down; only then may anybody run it. Raises BackendError.

        `sent` has what is different where its tree was sent along.
        """
        try:
            job.log.write_bytes(b"")  # what an earlier job has written there must not be read as this one's
            write_whole(self.home / "jobs" / handle, json.dumps({**job_fields(job), **sent}))
        except OSError as error:
            raise _refused(error, self.home) from error

    def job(self, handle: str) -> dict[str, Any]:
        """A job's fields; empty if it cannot be read."""
        return read_fields(self.home / "jobs" / handle)

    def announce(self, tier: str, handle: str) -> None:
        self._append(self._queues[tier], handle)

    def announced(self, tier: str) -> set[str]:
        return set(Lines(str(self._queues[tier])).read())

    # ---- Claims and ends --------------------------------------------------------------------

    def claim(self, handle: str) -> bool:
        """Take a job, so that no worker runs it; False if one has it already. Raises BackendError."""
        try:
            return bool(claim(str(self.home), handle, ARF))
        except OSError as error:
            raise _refused(error, self.home) from error

    def claimant(self, handle: str) -> str:
        """Who has taken a job: a worker, `ARF`, or nobody (empty)."""
        try:
            return (self.home / "claims" / handle).read_text(encoding="utf-8")
        except OSError:
            return ""

    def write_end(self, handle: str, result: JobResult) -> None:
        """Keep an end that no worker has written. Raises BackendError."""
        try:
            write_whole(self.home / "ends" / handle, json.dumps(result_to_json(result)))
        except OSError as error:
            raise _refused(error, self.home) from error

    def ends(self) -> Iterator[tuple[str, JobResult]]:
        """The ends that arf has written."""
        for path in sorted((self.home / "ends").glob("[!.]*")):
            fields = read_fields(path)
            if fields:
                yield path.name, result_from_json(fields)

    # ---- Batches of workers -----------------------------------------------------------------

    def new_batch(self, fields: Mapping[str, Any], count: int) -> str:
        """A folder for a batch of workers, with all that they will look for. Raises BackendError."""
        try:
            number = sum(1 for _ in (self.home / "batches").iterdir()) + 1
            while True:
                token = f"{number:05d}"
                folder = self.home / "batches" / token
                try:
                    folder.mkdir()
                    break
                except FileExistsError:
                    number += 1
            for index in range(count):
                (folder / f"{index}.orders").touch()
                (folder / f"{index}.journal").touch()
            write_whole(folder / "batch.json", json.dumps({**fields, "count": count}))
        except OSError as error:
            raise _refused(error, self.home) from error
        return token

    def batch_path(self, token: str) -> Path:
        return self.home / "batches" / token

    def note(self, token: str, job_id: str) -> None:
        """Write down what a batch is called by those who have its machines. Raises BackendError."""
        try:
            write_whole(self.batch_path(token) / "slurm", job_id)
        except OSError as error:
            raise _refused(error, self.home) from error

    def drop_batch(self, token: str) -> None:
        """Forget a batch that was refused."""
        shutil.rmtree(self.batch_path(token), ignore_errors=True)

    def workers(self, prefix: str) -> Iterator[Worker]:
        """All workers that there have ever been, the oldest first."""
        for folder in sorted((self.home / "batches").glob("[!.]*")):
            batch = read_fields(folder / "batch.json")
            if not batch:
                continue  # arf was killed before it was whole: nobody has seen it
            try:
                job_id = (folder / "slurm").read_text(encoding="utf-8").strip()
            except OSError:
                job_id = ""
            for index in range(batch["count"]):
                yield self.worker(prefix, folder.name, index, batch, job_id)

    def worker(self, prefix: str, token: str, index: int, batch: Mapping[str, Any], job_id: str) -> Worker:
        folder = self.batch_path(token)
        element = f"{job_id}_{index}" if job_id and batch["count"] > 1 else job_id
        orders = Lines(str(folder / f"{index}.orders")).read()
        return Worker(
            batch=token,
            index=str(index),
            tier=batch["name"],
            name=prefix + token,
            only=batch["only"][index] if batch["only"] else "",
            journal=Lines(str(folder / f"{index}.journal")),
            job_id=element,
            draining=[line for line in orders if line in ("drain", "stay")][-1:] == ["drain"],
        )

    def cancelled(self, worker: Worker) -> bool:
        """Whether the worker was told to cancel the job that it runs."""
        orders = Lines(str(self.batch_path(worker.batch) / f"{worker.index}.orders")).read()
        return f"cancel {worker.current}" in orders

    def order(self, worker: Worker, line: str) -> None:
        """Raises BackendError."""
        self._append(self.batch_path(worker.batch) / f"{worker.index}.orders", line)

    def mark_gone(self, worker: Worker) -> None:
        """Write down that a worker ended without a word, so that nobody asks about it again."""
        try:
            (self.batch_path(worker.batch) / f"{worker.index}.gone").touch()
        except OSError:
            pass  # it is asked about again, then

    def is_gone(self, worker: Worker) -> bool:
        return (self.batch_path(worker.batch) / f"{worker.index}.gone").exists()

    def _append(self, path: Path, line: str) -> None:
        try:
            append(str(path), line)
        except OSError as error:
            raise _refused(error, self.home) from error


def _refused(error: OSError, folder: Path) -> BackendError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space, then `arf resume`"
    else:
        hint = "make the study's folder writable, then `arf resume`"
    return BackendError(f"cannot keep jobs in {error.filename or folder}: {reason}", hint=hint)
