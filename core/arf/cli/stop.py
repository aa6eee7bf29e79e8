"""`arf stop`: end a study from another terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from arf.errors import ArfError
from arf.sdk.commands import find_study, json_option, print_json, study_argument
from arf.sdk.formats import count

if TYPE_CHECKING:
    from arf.interfaces import Backend

POLL_S = 0.1


@click.command()
@study_argument
@json_option
@click.option("--down", is_flag=True, help="Also take down what the backend holds and pays for: clusters.")
def stop(study: str | None, as_json: bool, down: bool) -> None:
    """End STUDY: its jobs are ended, all is recorded, and `arf resume` goes on with it.

    If the arf that ran it has died, the jobs that it left are ended.
    """
    from arf.store.database import lock_owner

    home = find_study(study)
    pid = lock_owner(home)
    jobs: int | None = None
    if pid is not None:
        _stop_process(home, pid)
        text = f"study {home.name} has stopped; `arf resume {home.name}` goes on with it"
    else:
        jobs = asyncio.run(_end_jobs(home))
        left = f"{count(jobs, 'job')} that it left are ended" if jobs else "nothing is to be stopped"
        text = f"study {home.name} does not run; {left}"
    told: dict[str, Any] = {"study": home.name, "stopped": pid, "jobs": jobs}
    if down:
        told["down"] = asyncio.run(_take_down(home))
        text += "; " + (f"taken down: {', '.join(told['down'])}" if told["down"] else "nothing is up")
    elif up := _standing(home):
        text += f"; {count(len(up), 'machine')} may still be up: `arf stop --down {home.name}`"
    if as_json:
        print_json(told)
    else:
        click.echo(text, err=True)


def _stop_process(home: Path, pid: int) -> None:
    """Ask the process that holds the study's lock to stop, and wait until it has let go of it."""
    from arf.store.database import lock_owner

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
    from arf.store.database import LOCK

    files = Path(f"/proc/{pid}/fd")
    if not Path("/proc/self/fd").is_dir():
        return True
    lock = (home / LOCK).resolve()
    return any(file.resolve() == lock for file in files.iterdir()) if files.is_dir() else False


async def _end_jobs(home: Path) -> int:
    """End the jobs that a dead arf has left; gives how many there are."""
    from arf.store.database import Store

    store = Store.open(home)
    try:
        handles = [experiment.handle for experiment in store.running() if experiment.handle]
    finally:
        store.close()
    if handles:
        async with _backend(home) as backend:
            await asyncio.gather(*map(backend.cancel, handles))
            await asyncio.gather(*map(backend.wait, handles))
    return len(handles)


async def _take_down(home: Path) -> list[str]:
    """Take down what the study's backend holds, and note that; gives the names of what was up."""
    from datetime import UTC, datetime

    from arf.status.held_resources import note
    from arf.store.database import Store

    async with _backend(home) as backend:
        names = [one.name for one in await backend.held_resources()]
        await backend.down()
        store = Store.open(home)
        try:
            note(store, (), datetime.now(UTC))
        finally:
            store.close()
    return names


def _standing(home: Path) -> list[Any]:
    """What the backend held when it was last looked at."""
    from arf.status.held_resources import told
    from arf.store.database import Store

    store = Store.open(home)
    try:
        return list(told(store)["up"])
    finally:
        store.close()


@contextlib.asynccontextmanager
async def _backend(home: Path) -> AsyncIterator[Backend]:
    """The backend of a study that nobody runs, for as long as nobody else may run it."""
    from arf.launch import load_study_config
    from arf.plugins.registry import Plugins
    from arf.store.database import StudyLock

    plugins = Plugins.load()
    config = load_study_config(home, plugins)
    lock = StudyLock(home)
    try:
        backend: Backend = plugins.make(
            "backend", config.backend.name, config.backend.options, home / "backend"
        )
        try:
            yield backend
        finally:
            await backend.aclose()
    finally:
        lock.release()
