"""Warm starts: hands plain Python scripts to fork servers (forkserver.py), one for each environment.

A server is started beside the first job that it could have served, which itself starts cold. Whatever is odd
ends in a cold start: nothing here can fail a job.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from arf.sdk.jobs import last_lines
from arf.sdk.sandbox import enter
from arf.types import Job
from arf_plugins.backend_local import processes
from arf_plugins.backend_local.processes import MARK, ExitWatch, PidFd

log = logging.getLogger(__name__)

SERVER = Path(__file__).with_name("forkserver.py")
MOST_SERVERS = 2
"""Each holds what it has imported: some 200 MB with torch, most of it shared with its jobs."""
MOST_DECLINED = 3
"""So many jobs in a row that a server does not suit mean that the workspace has moved on: it is replaced."""
REPLY_S = 10.0
"""A server that does not answer for so long is ended, and its job starts cold."""
WORTH_TELLING_S = 0.1
"""Saved per job: below this the seconds are not told."""
MARK_ROOM = 160

_PLAIN = re.compile(r"[\w./:@%+,=-]+( +[\w./:@%+,=-]+)*", re.ASCII)
"""Commands that a shell and `str.split` read alike."""
_PYTHON = re.compile(r"python(3(\.\d+)?)?")


@frozen(kw_only=True)
class Script:
    """A command that a fork server can run."""

    python: str
    """The interpreter's path."""
    flags: tuple[str, ...]
    script: str
    """As the command has it, relative to the job's directory unless absolute."""
    args: tuple[str, ...]


def script_of(command: str | tuple[str, ...], directory: Path, env: Mapping[str, str]) -> Script | None:
    """The script that a command runs; None unless it is `PYTHON [-u] SCRIPT.py [ARGUMENT]...` and no more."""
    if isinstance(command, str):
        if not _PLAIN.fullmatch(command):
            return None
        command = tuple(shlex.split(command))
    program, *rest = command
    flags = tuple(rest[:1]) if rest[:1] == ["-u"] else ()
    rest = rest[len(flags) :]
    if not _PYTHON.fullmatch(os.path.basename(program)) or not rest:
        return None
    if rest[0].startswith("-") or not rest[0].endswith(".py"):
        return None
    if any(not os.path.isabs(part) for part in env.get("PYTHONPATH", "/").split(os.pathsep)):
        return None  # would be another folder for each job
    if "/" in program:
        python: str | None = os.path.join(directory, program)
    else:
        python = shutil.which(program, path=env.get("PATH", os.defpath))
    if python is None or not os.path.isabs(python):
        return None
    return Script(python=python, flags=flags, script=rest[0], args=tuple(rest[1:]))


RENDEZVOUS = ("MASTER_PORT", "PET_MASTER_PORT")
"""The variables that name the port where the processes of one job meet."""


def _is_of_job(name: str) -> bool:
    """Whether a variable differs from job to job, so that a server is given it with each."""
    return name.startswith("ARF_") or name in RENDEZVOUS


@frozen(kw_only=True)
class Request:
    """A job for a server. Exactly one of the two is called, later, in the event loop."""

    handle: str
    mark: str
    score: int | None
    record: str
    job: Job
    env: Mapping[str, str]
    box: Mapping[str, Any] | None
    """What it is confined to, as `arf.sandbox.enter` takes it."""
    started: Callable[[int, ExitWatch | None], None]
    """With the wrapper's pid, and what to wait for; None if it has ended already."""
    declined: Callable[[], None]
    """It was not started, unless a wrapper with its mark is found: the server died over it."""


@frozen(kw_only=True)
class _Pending:
    """A request that a server has not answered yet."""

    request: Request
    script: Script
    sent_at: float
    """On the monotonic clock."""
    timer: asyncio.TimerHandle
    """Ends a server that does not answer."""


@define(kw_only=True, eq=False)
class _Server:
    pid: int
    link: socket.socket
    started_at: float
    """On the monotonic clock."""
    log: Path
    ready_s: float | None = None
    """What it took to start and import: what each of its jobs saves. None while it does that."""
    pending: dict[str, _Pending] = field(factory=dict)
    served: int = 0
    declined: int = 0
    """Jobs since the last one that it served."""


class WarmStarts:
    """The fork servers of one backend."""

    def __init__(self, directory: Path, *, loud: bool) -> None:
        """`loud`: log at WARNING, not INFO, why something could not be started warm."""
        self._directory = directory
        self._level = logging.WARNING if loud else logging.INFO
        self._servers: dict[object, _Server] = {}
        self._unfit: set[object] = set()
        self._said: set[str] = set()
        self._made = 0
        self.jobs = 0
        self.spent_s = 0.0
        self.saved_s = 0.0

    @property
    def pids(self) -> list[int]:
        return [server.pid for server in self._servers.values()]

    def notes(self) -> list[str]:
        """What warm starts have saved so far, for people; empty if there were none."""
        if not self.jobs:
            return []
        if self.saved_s < WORTH_TELLING_S * self.jobs:
            return [f"{self.jobs} jobs started warm, which saved next to nothing"]
        warm_s = self.spent_s / self.jobs
        cold_s = warm_s + self.saved_s / self.jobs
        return [f"{self.jobs} jobs started warm: imports took {warm_s:.2f} s each instead of {cold_s:.1f} s"]

    def offer(self, request: Request) -> bool:
        """Hand a job to a server that is ready for it; False if it must start cold."""
        script = script_of(request.job.command, request.job.directory, request.env)
        if script is None:
            return self._decline(f"`{request.job.command}` is not `python SCRIPT.py`")
        if request.env.get("PYTHONHASHSEED") == "random" or not request.job.log.parent.is_dir():
            return False
        same = frozenset(item for item in request.env.items() if not _is_of_job(item[0]))
        key = (script.python, script.flags, same)
        server = self._servers.get(key)
        if server is None and key not in self._unfit:
            self._make(key, script, request)
        if server is None or server.ready_s is None:
            return False
        self._send(server, script, request)
        return True

    def _decline(self, why: str) -> bool:
        if why not in self._said and len(self._said) < 20:
            self._said.add(why)
            log.log(self._level, "cold start: %s", why)
        return False

    # ---- Servers ----------------------------------------------------------------------------

    def _make(self, key: object, script: Script, request: Request) -> None:
        if len(self._servers) >= MOST_SERVERS:
            self._decline(f"{MOST_SERVERS} warm servers run for other environments")
            return
        self._made += 1
        path = self._directory / f"warm-{self._made}.log"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        target = str(request.job.directory / script.script)
        processes.keep_files_private()
        env = {name: value for name, value in request.env.items() if not _is_of_job(name)}
        try:
            pid = os.posix_spawn(
                script.python,
                [script.python, *script.flags, str(SERVER), "x" * MARK_ROOM, target],
                {**env, MARK: "x" * MARK_ROOM},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (
                        os.POSIX_SPAWN_OPEN,
                        1,
                        str(path),
                        os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND,
                        0o644,
                    ),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=processes.RESET_SIGNALS,
            )
        except (OSError, ValueError) as error:
            ours.close()
            self._unfit.add(key)
            self._decline(f"{script.python} cannot be started: {error}")
            return
        finally:
            theirs.close()
        self._servers[key] = server = _Server(pid=pid, link=ours, started_at=time.monotonic(), log=path)
        asyncio.get_running_loop().add_reader(ours.fileno(), self._hear, key, server)

    def _send(self, server: _Server, script: Script, request: Request) -> None:
        job = request.job
        message = {
            "id": request.handle,
            "script": script.script,
            "args": script.args,
            "cwd": os.path.abspath(job.directory),
            "log": os.path.abspath(job.log),
            "record": os.path.abspath(request.record),
            "mark": request.mark,
            "score": request.score,
            "box": request.box,
            "enter": enter.__file__,
            "env": {name: value for name, value in request.env.items() if _is_of_job(name)},
        }
        timer = asyncio.get_running_loop().call_later(
            REPLY_S, processes.signal_each, [server.pid], signal.SIGKILL
        )
        server.pending[request.handle] = _Pending(
            request=request, script=script, sent_at=time.monotonic(), timer=timer
        )
        try:
            server.link.send(json.dumps(message).encode())
        except OSError:
            processes.signal_each([server.pid], signal.SIGKILL)  # its end is heard of, and the job declined

    def _hear(self, key: object, server: _Server) -> None:
        """Take one message of a server, or its end."""
        try:
            data, files, _, _ = socket.recv_fds(server.link, 1 << 20, 1)
        except BlockingIOError:
            return
        except OSError:
            data, files = b"", []
        if not data:
            self._lost(key, server)
            return
        message = json.loads(data)
        if "ready" in message:
            server.ready_s = message["ready"] - server.started_at
            log.info("warm starts: imported %s in %.1f s", ", ".join(message["modules"]), server.ready_s)
        elif "unfit" in message:
            self._unfit.add(key)
            self._decline(message["unfit"])
        else:
            self._answered(key, server, message, [PidFd(fd) for fd in files])

    def _answered(self, key: object, server: _Server, message: dict[str, Any], watches: list[PidFd]) -> None:
        pending = server.pending.pop(message["id"])
        pending.timer.cancel()
        request = pending.request
        if "declined" in message:
            server.declined += 1
            self._decline(message["declined"])
            # One that never suited anybody was made for something else, such as a set-up command.
            if not server.pending and (not server.served or server.declined >= MOST_DECLINED):
                self._close(key, server)
                self._make(key, pending.script, request)
            request.declined()
            return
        server.served += 1
        server.declined = 0
        assert server.ready_s is not None
        spent_s = time.monotonic() - pending.sent_at
        self.jobs += 1
        self.spent_s += spent_s
        self.saved_s += server.ready_s - spent_s
        request.started(message["pid"], watches[0] if watches else None)

    def _lost(self, key: object, server: _Server) -> None:
        """A server has ended: where it is unfit by itself, else it was killed. It gets no successor."""
        if key not in self._unfit:
            said = last_lines(server.log, 1) or ["it was killed"]
            self._decline(f"the warm server ended: {said[0]}")
            self._unfit.add(key)
        self._close(key, server)
        for pending in server.pending.values():
            pending.timer.cancel()
            pending.request.declined()

    def _close(self, key: object, server: _Server) -> None:
        asyncio.get_running_loop().remove_reader(server.link.fileno())
        server.link.close()
        self._servers.pop(key, None)
        self._forget_later(server)

    def _forget_later(self, server: _Server) -> None:
        if server.ready_s is None:
            processes.signal_each([server.pid], signal.SIGKILL)  # it imports, and would not hear
        loop = asyncio.get_running_loop()
        task = loop.create_task(processes.ended([server.pid], REPLY_S))
        task.add_done_callback(lambda _: processes.reap(server.pid))

    async def aclose(self) -> None:
        """End the servers. Their jobs go on."""
        servers = list(self._servers.items())
        for key, server in servers:
            for pending in server.pending.values():
                pending.timer.cancel()
            self._close(key, server)
        await processes.ended([server.pid for _, server in servers], REPLY_S)
        for _, server in servers:
            processes.reap(server.pid)
            server.log.unlink(missing_ok=True)


def possible() -> bool:
    """Whether this system has what warm starts need."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open")
