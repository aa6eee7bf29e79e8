"""SkyPilot in a process of its own: it prints where it likes, and its import takes two seconds and 300 MB.

    python -m arf_plugins.backend_skypilot.process FD

answers the calls of `SkyProcess` on a socket, each in a thread; it ends with whoever has the other end.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from attrs import define, field

from arf.errors import ArfError
from arf_plugins.backend_skypilot.sdk import JobSight, Offer, Sight, SkySdk
from arf_plugins.worker_pool.pool import Unreachable


@define(eq=False)
class _Call:
    connection: Connection | None = None
    """The process that was asked."""
    done: threading.Event = field(factory=threading.Event)
    result: Any = None
    error: BaseException | None = None


class SkyProcess:
    """`Sky`, answered by that process, which the first call starts, and the next one again if it has died."""

    def __init__(self) -> None:
        self._here = SkySdk()
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._calls: dict[int, _Call] = {}
        self._connection: Connection | None = None

    # ---- Sky --------------------------------------------------------------------------------

    def require(self) -> None:
        self._here.require()

    def enabled(self) -> Sequence[str]:
        found: Sequence[str] = self._ask("enabled")
        return found

    def offer(self, task: Mapping[str, Any]) -> Offer:
        found: Offer = self._ask("offer", task)
        return found

    def launch(self, name: str, task: Mapping[str, Any], autodown_min: int) -> None:
        self._ask("launch", name, task, autodown_min)

    def start_job(self, name: str, task: Mapping[str, Any]) -> None:
        self._ask("start_job", name, task)

    def clusters(self, prefix: str, names: Collection[str] = (), *, look: bool = False) -> Sequence[Sight]:
        found: Sequence[Sight] = self._ask("clusters", prefix, tuple(names), look=look)
        return found

    def jobs(self, name: str) -> Sequence[JobSight]:
        found: Sequence[JobSight] = self._ask("jobs", name)
        return found

    def last_line(self, name: str, job_id: int) -> str:
        return str(self._ask("last_line", name, job_id))

    def prepare_ssh(self, names: Collection[str]) -> None:
        self._here.prepare_ssh(names)

    def ssh(self, name: str, command: str) -> Sequence[str]:
        return self._here.ssh(name, command)

    def down(self, name: str) -> None:
        self._ask("down", name)

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OSError):  # it has died
                connection.send(None)

    # ---- Asking -----------------------------------------------------------------------------

    def _ask(self, what: str, *args: Any, **kwargs: Any) -> Any:
        self._here.require()
        call, number = _Call(), next(self._numbers)
        with self._lock:
            self._calls[number] = call
            try:
                if self._connection is None:
                    self._connection = self._start()
                call.connection = self._connection
                self._connection.send((number, what, args, kwargs))
            except OSError as error:
                self._connection = None
                del self._calls[number]
                raise Unreachable(f"SkyPilot's process cannot be reached: {error}") from error
        call.done.wait()
        if call.error is not None:
            raise call.error
        return call.result

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", __spec__.name, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for arf: what is under way is ended in order
                env={**os.environ, "PYTHONSAFEPATH": "1"},  # a workspace may have modules of any name
            )
        connection = Connection(ours.detach())
        threading.Thread(target=self._listen, args=(connection, process), daemon=True).start()
        return connection

    def _listen(self, connection: Connection, process: subprocess.Popen[bytes]) -> None:
        try:
            while True:
                number, result, error = connection.recv()
                self._settle(number, result, error)
        except (EOFError, OSError):
            pass  # it has ended
        process.wait()
        with self._lock:
            if self._connection is connection:
                self._connection = None
            numbers = [number for number, call in self._calls.items() if call.connection is connection]
        for number in numbers:
            self._settle(number, None, Unreachable("SkyPilot's process has died"))
        connection.close()

    def _settle(self, number: int, result: Any, error: BaseException | None) -> None:
        call = self._calls.pop(number, None)
        if call is not None:
            call.result, call.error = result, error
            call.done.set()


def serve(connection: Connection) -> None:
    """Answer calls until the other end is closed, or says that there will be no more."""
    sdk = SkySdk()
    sending = threading.Lock()

    def answer(number: int, what: str, args: Any, kwargs: Any) -> None:
        result: Any = None
        error: Exception | None = None
        try:
            result = getattr(sdk, what)(*args, **kwargs)
        except ArfError as caught:
            caught.__cause__ = None
            error = caught
        except Exception as caught:  # a bug of arf's, which the other side must see
            error = RuntimeError(f"{what}: {type(caught).__name__}: {caught}")
        with sending:
            connection.send((number, result, error))

    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            return
        if message is None:
            return
        threading.Thread(target=answer, args=message, daemon=True).start()


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
    os._exit(0)  # threads may be in calls that take an hour
