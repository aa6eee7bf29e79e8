"""`arf stop`: end a study from another terminal."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import click

from arf.cli.formats import count
from arf.cli.studies import find_study, json_option, print_json, study_argument
from arf.errors import ArfError

POLL_S = 0.1


@click.command()
@study_argument
@json_option
def stop(study: str | None, as_json: bool) -> None:
    """End STUDY: its jobs are ended, all is recorded, and `arf resume` goes on with it.

    If the arf that ran it has died, the jobs that it left are ended.
    """
    from arf.store import lock_owner

    home = find_study(study)
    pid = lock_owner(home)
    if pid is not None:
        _stop_process(home, pid)
        told = {"study": home.name, "stopped": pid, "jobs": None}
        text = f"study {home.name} has stopped; `arf resume {home.name}` goes on with it"
    else:
        jobs = asyncio.run(_end_jobs(home))
        told = {"study": home.name, "stopped": None, "jobs": jobs}
        left = f"{count(jobs, 'job')} that it left are ended" if jobs else "nothing is to be stopped"
        text = f"study {home.name} does not run; {left}"
    if as_json:
        print_json(told)
    else:
        click.echo(text, err=True)


def _stop_process(home: Path, pid: int) -> None:
    """Ask the process that holds the study's lock to stop, and wait until it has let go of it."""
    from arf.store import lock_owner

    try:
        if not _holds_lock(pid, home):
            raise ProcessLookupError
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        raise ArfError(
            f"study {home.name} is run by process {pid} of another machine or container",
            hint="run `arf stop` there",
        ) from None
    except PermissionError:
        raise ArfError(f"process {pid}, which runs study {home.name}, is another user's") from None
    click.echo(f"asked process {pid} to stop; it ends its jobs first", err=True)
    while lock_owner(home) == pid:
        time.sleep(POLL_S)


def _holds_lock(pid: int, home: Path) -> bool:
    """Whether the process of that number here is the one that runs the study, as far as the system tells.

    On a shared disk the lock may be held by another machine, where the number means another process.
    """
    from arf.store import LOCK

    files = Path(f"/proc/{pid}/fd")
    if not Path("/proc/self/fd").is_dir():
        return True
    lock = (home / LOCK).resolve()
    return any(file.resolve() == lock for file in files.iterdir()) if files.is_dir() else False


async def _end_jobs(home: Path) -> int:
    """End the jobs that a dead arf has left; gives how many there are."""
    from arf.launch import load_study_config
    from arf.plugins import Plugins
    from arf.store import Store, StudyLock

    store = Store.open(home)
    try:
        handles = [experiment.handle for experiment in store.running() if experiment.handle]
    finally:
        store.close()
    if not handles:
        return 0
    plugins = Plugins.load()
    config = load_study_config(home, plugins)
    lock = StudyLock(home)
    try:
        backend = plugins.make("backend", config.backend.name, config.backend.options, home / "backend")
        try:
            await asyncio.gather(*map(backend.cancel, handles))
            await asyncio.gather(*map(backend.wait, handles))
        finally:
            await backend.aclose()
    finally:
        lock.release()
    return len(handles)
