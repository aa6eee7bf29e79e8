"""What is known of each job, in one small file: how a job is found again by another process.

Lines are appended, each in one write, by arf and by the wrapper around the job:

    {"tier": ..., "limit_s": ...}    arf, when the job was submitted; with the whole job while it is queued
    {"slot": ..., "started_at": ...} arf, before it is started
    pid 4711                         the wrapper, first thing
    cancel | timeout                 arf, before it ends the job
    exit 0                           the wrapper, last thing; the file's time is the job's end

The first of an ending line and an exit line says how the job ended. A line without its end was never written.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import define

from arf.errors import BackendError
from arf.sdk.jobs import job_from
from arf.types import Job

KEPT = 512
"""Records of ended jobs that are kept: arf has written a result down long before so many more have ended."""

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@define(kw_only=True)
class Record:
    """A record as read from its file."""

    job: Job | None = None
    """Only while it is queued."""
    slot: str = ""
    tier: str = ""
    limit_s: float = 0.0
    started_at: datetime | None = None
    pid: int | None = None
    ending: str = ""
    """`cancel` or `timeout` if arf ended it before it ended by itself."""
    exit_code: int | None = None
    """As the shell says it: 128 and the signal's number for a signal."""
    ended_at: datetime | None = None

    @property
    def queued(self) -> bool:
        return self.started_at is None and not self.ending


class Records:
    """The records of one backend's folder."""

    def __init__(self, directory: Path) -> None:
        self._folder = str(directory / "jobs")

    def path(self, handle: str) -> str:
        """Where the record of a handle is, or would be. Handles that are no file names have none."""
        return f"{self._folder}/{handle}" if _SAFE.fullmatch(handle.replace("~", "-")) else "/nonexistent"

    def create(self, handle: str, line: dict[str, Any]) -> bool:
        """Write a new record; False if there is one. Raises BackendError if it cannot be written."""
        try:
            return self._create(self.path(handle), line)
        except FileNotFoundError:
            self._make_folder()
            return self.create(handle, line)
        except OSError as error:
            raise _refused(error, self._folder) from error

    def _create(self, path: str, line: dict[str, Any]) -> bool:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return False
        try:
            _write(fd, _encoded(line))
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
        return True

    def _make_folder(self) -> None:
        try:
            os.makedirs(self._folder)
        except OSError as error:
            raise _refused(error, self._folder) from error

    def append(self, handle: str, line: str | dict[str, Any]) -> None:
        """Add a line. Raises BackendError if it cannot be written."""
        data = _encoded(line) if isinstance(line, dict) else f"{line}\n".encode()
        try:
            fd = os.open(self.path(handle), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                _write(fd, data)
            finally:
                os.close(fd)
        except OSError as error:
            raise _refused(error, self._folder) from error

    def read(self, handle: str) -> Record | None:
        """The record; None if there is none."""
        try:
            with open(self.path(handle), "rb") as file:
                data = file.read()
                changed = os.fstat(file.fileno()).st_mtime
        except OSError:
            return None
        record = Record()
        for line in data.split(b"\n")[:-1]:
            _take(record, line.decode("utf-8", "replace"), changed)
        return record

    def remove(self, handle: str) -> None:
        try:
            os.unlink(self.path(handle))
        except OSError:
            pass  # it may be gone, and it does no harm

    def handles(self) -> Iterator[str]:
        """All handles that have a record, the oldest first."""
        try:
            with os.scandir(self._folder) as entries:
                found = [(entry.stat().st_mtime, entry.name) for entry in entries if entry.is_file()]
        except FileNotFoundError:
            return
        except OSError as error:
            raise _refused(error, self._folder) from error
        for _, name in sorted(found):
            yield name


def _take(record: Record, line: str, changed: float) -> None:
    word, _, rest = line.partition(" ")
    over = record.ending or record.exit_code is not None
    if line.startswith("{"):
        _take_fields(record, line)
    elif word == "pid" and rest.isdigit():
        record.pid = int(rest)
    elif word in ("cancel", "timeout") and not over:
        record.ending = word
        record.ended_at = datetime.fromtimestamp(changed, UTC)
    elif word == "exit" and rest.lstrip("-").isdigit() and record.exit_code is None:
        record.exit_code = int(rest)
        record.ended_at = datetime.fromtimestamp(changed, UTC)


def _take_fields(record: Record, line: str) -> None:
    try:
        fields = json.loads(line)
    except ValueError:
        return  # damaged: the job is then as good as lost
    record.tier = fields.get("tier", record.tier)
    record.limit_s = fields.get("limit_s", record.limit_s)
    if "job" in fields:
        record.job = job_from(fields["job"])
    if "started_at" in fields:
        record.slot = fields["slot"]
        record.started_at = datetime.fromtimestamp(fields["started_at"], UTC)


def _write(fd: int, data: bytes) -> None:
    if os.write(fd, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _encoded(line: dict[str, Any]) -> bytes:
    return (json.dumps(line) + "\n").encode()


def _refused(error: OSError, folder: str) -> BackendError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space, then `arf resume`"
    else:
        hint = "make the study's folder writable, then `arf resume`"
    return BackendError(f"cannot keep jobs in {folder}: {reason}", hint=hint)
