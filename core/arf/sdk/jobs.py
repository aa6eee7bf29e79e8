"""What backends share that keep their jobs in files: names, checks, ends, and how those are written."""

from __future__ import annotations

import hashlib
import json
import re
import signal
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from arf.atomic import write_whole
from arf.config.schema import is_secret_name
from arf.engine.watch import last_lines
from arf.errors import BackendError
from arf.sandbox.plain import box_fields, box_from
from arf.types import Job, JobResult, JobState

__all__ = [
    "check_job",
    "exit_reason",
    "handle_of",
    "is_handle",
    "is_secret_name",
    "job_fields",
    "job_from",
    "last_lines",
    "read_fields",
    "result_from_json",
    "result_to_json",
    "write_whole",
]

_HANDLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,99}")


def handle_of(key: str) -> str:
    """The handle of a job's key: a name for files."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", key):
        return key
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", key)[:60].lstrip(".-")
    return f"{readable or 'job'}~{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def is_handle(text: str) -> bool:
    """Whether `handle_of` could have given it, so that it may name a file."""
    return _HANDLE.fullmatch(text) is not None


def check_job(job: Job) -> None:
    """Raises BackendError for what could never run."""
    if not job.command:
        raise BackendError(f"job {job.key} has an empty command", hint="set workspace.command")
    words = (job.command,) if isinstance(job.command, str) else job.command
    if any("\0" in text for text in (*words, *job.env, *job.env.values())):
        raise BackendError(f"job {job.key} has a NUL character in its command or environment")
    if not job.log.parent.is_dir():
        raise BackendError(f"job {job.key}: there is no folder {job.log.parent} for its log")


def exit_reason(code: int) -> str:
    """Why a command failed, by its exit code (minus the signal's number for a signal): one line."""
    if code == 127:
        return "exit code 127: command not found"
    if code == 126:
        return "exit code 126: the command cannot be executed, or its directory is not there"
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"killed by signal {-code}, {name}{hint}"


def job_fields(job: Job) -> dict[str, Any]:
    """A job as JSON, for what starts it later or elsewhere."""
    return {
        "key": job.key,
        "directory": str(job.directory),
        "command": job.command if isinstance(job.command, str) else list(job.command),
        "env": dict(job.env),
        "log": str(job.log),
        "tier": job.tier,
        "time_limit_s": job.time_limit_s,
        **({"box": box_fields(job.box)} if job.box else {}),
    }


def job_from(fields: dict[str, Any]) -> Job:
    """The job that `job_fields` wrote."""
    command = fields["command"]
    return Job(
        key=fields["key"],
        directory=Path(fields["directory"]),
        command=command if isinstance(command, str) else tuple(command),
        env=fields["env"],
        log=Path(fields["log"]),
        tier=fields["tier"],
        time_limit_s=fields["time_limit_s"],
        box=box_from(fields["box"]) if "box" in fields else None,
    )


def result_to_json(result: JobResult) -> dict[str, Any]:
    """An end as JSON, for what reads it later or elsewhere."""
    return {
        "state": str(result.state),
        "code": result.exit_code,
        "started": result.started_at.timestamp() if result.started_at else None,
        "ended": result.ended_at.timestamp() if result.ended_at else None,
        "slot": result.slot,
        "message": result.message,
    }


def result_from_json(fields: Mapping[str, Any]) -> JobResult:
    """The end that `result_to_json` wrote."""
    started, ended = fields.get("started"), fields.get("ended")
    return JobResult(
        state=JobState(fields["state"]),
        exit_code=fields.get("code"),
        started_at=datetime.fromtimestamp(started, UTC) if started is not None else None,
        ended_at=datetime.fromtimestamp(ended, UTC) if ended is not None else None,
        slot=fields.get("slot", ""),
        message=fields.get("message", ""),
    )


def read_fields(path: Path) -> dict[str, Any]:
    """A JSON object in a file; empty if it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
