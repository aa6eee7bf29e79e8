"""What a job is on a node that shares no folder with arf: its files, its environment, its command."""

from __future__ import annotations

import os
import shlex
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from arf.errors import BackendError
from arf.sdk.configuration import is_secret_name
from arf.sdk.jobs import check_job
from arf.types import Job
from arf_plugins.worker_pool import bundle
from arf_plugins.worker_pool.options import LinkedOptions


def sent_job(job: Job, home: Path, options: LinkedOptions) -> dict[str, Any]:
    """A job as it is written down and sent; `home` is the backend's folder. Raises BackendError."""
    check_job(job)
    if not job.directory.is_dir():
        raise BackendError(f"job {job.key}: there is no folder {job.directory}")
    root = bundle.tree_of(job.directory, home)
    check_links(root, options.send_mb)
    python = options.python
    return {
        "directory": str(root),
        "cwd": os.path.relpath(os.path.realpath(job.directory), root),
        "command": job.command.replace(shlex.quote(sys.executable), python)
        if isinstance(job.command, str)
        else [word.replace(sys.executable, python) for word in job.command],
        "env": {name: value for name, value in job.env.items() if goes_along(name, value, options.pass_env)},
        "log": str(job.log),
        "tier": job.tier,
        "time_limit_s": job.time_limit_s,
        "set_up": job.prepares,
    }


def check_links(root: Path, most_mb: float) -> None:
    for _, target in bundle.links_of(root):
        path = Path(target)
        if path.exists() and (size := bundle.size_of(path)) > most_mb * 2**20:
            raise BackendError(
                f"{target} has {size / 2**20:,.0f} MiB, over backend.send_mb ({most_mb:g})",
                hint="raise it; or let workspace.setup make it on each node; or take it out of "
                "workspace.link and put it there by other means, such as a template's file_mounts",
            )


def goes_along(name: str, value: str, passed: tuple[str, ...]) -> bool:
    """Whether a variable is the job's own; the rest is this machine's, and would be wrong there."""
    if name == "GIT_CEILING_DIRECTORIES":
        return False
    own = os.environ.get(name) != value or name.startswith("ARF_")
    # A secret is in a job's environment only if somebody has asked for it.
    return own or is_secret_name(name) or any(fnmatchcase(name, pattern) for pattern in passed)
