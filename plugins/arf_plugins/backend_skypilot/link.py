"""The connection to a cluster's relay: messages over the standard input and output of one ssh."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from arf.errors import BackendError
from arf_plugins.backend_slurm import runner
from arf_plugins.parcels import unfold

GREETING_S = 90.0
"""How long a connection may take until the relay speaks."""
QUIET_S = 45.0
"""A relay says something every ten seconds."""
LIMIT = 1 << 26

_BOOT = """
import os,sys
def r(n):
    b=b""
    while len(b)<n:
        c=os.read(0,n-len(b))
        if not c: sys.exit(3)
        b+=c
    return b
exec(r(int(r(12))))
"""
_PYTHONS = "python3 ~/miniconda3/bin/python3 ~/skypilot-runtime/bin/python3 /usr/bin/python3"
_PUT_KIT = """
import os,sys
home=os.path.expanduser({home!r})
kit=os.path.join(home,"kit")
os.makedirs(kit,mode=0o700,exist_ok=True)
for name,text in {files!r}.items():
    part=os.path.join(kit,"."+name+str(os.getpid()))
    with open(part,"w",encoding="utf-8") as file: file.write(text)
    os.rename(part,os.path.join(kit,name))
os.execv(sys.executable,[sys.executable,"-S","-E",os.path.join(kit,"node.py"),"relay",home])
"""


def foreman_command(home: str, token: str) -> str:
    """What a cluster's job runs: wait for arf to bring the program, then work."""
    place, name = _remote(home), shlex.quote(token)
    return (
        f"for i in $(seq 3000); do [ -e {place}/foreman.json ] && break; sleep 0.3; done\n"
        f"exec $({_find_python()}) -S -E {place}/kit/node.py foreman {place} {name}\n"
    )


def relay_command() -> str:
    return f"exec $({_find_python()}) -c {shlex.quote(_BOOT)}"


def _find_python() -> str:
    return f"for p in {_PYTHONS}; do command -v $p && break; done"


def _remote(path: str) -> str:
    """A path below `~` for a shell."""
    return "~/" + shlex.quote(path.removeprefix("~/"))


def _kit() -> dict[str, str]:
    """What runs on a node, by file name."""
    paths = (Path(__file__).with_name("node.py"), Path(runner.__file__), Path(unfold.__file__))
    return {path.name: path.read_text("utf-8") for path in paths}


class LinkLost(Exception):
    """The connection has ended; the next one does again what is under way."""


class Link:
    """One connection, from its beginning to its end. Made anew for each try."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 -- `close` closes it
        self._reader = asyncio.StreamReader()
        self._writer: asyncio.StreamWriter | None = None
        self._sending = asyncio.Lock()

    async def open(self, command: Sequence[str]) -> dict[str, Any]:
        """Connect, bring the program along, and give the relay's greeting. Raises BackendError."""
        boot = _PUT_KIT.format(home=self._home, files=_kit()).encode()
        try:
            await self._start(command)
            await self._write(f"{len(boot):012d}".encode() + boot)
            async with asyncio.timeout(GREETING_S):
                return await self._greeting()
        except TimeoutError:
            raise BackendError("the cluster does not answer over SSH") from None
        except OSError as error:
            raise BackendError(f"no SSH connection: {self._complaint() or error}") from error

    async def _start(self, command: Sequence[str]) -> None:
        ours = self._spawn(command)
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=LIMIT)

    def _spawn(self, command: Sequence[str]) -> socket.socket:
        # Not asyncio's own subprocess: one that is cancelled while it starts may wait for ever (Python 3.11).
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._complaints,
                start_new_session=True,  # Ctrl-C is for arf, not for its connections
            )
        return ours

    async def _greeting(self) -> dict[str, Any]:
        """The relay's first message; what login scripts print before it is passed over."""
        while line := await self._reader.readline():
            with contextlib.suppress(ValueError):
                fields = json.loads(line)
                if isinstance(fields, dict) and "relay" in fields:
                    return fields
        raise BackendError(f"no SSH connection: {self._complaint() or 'it ended without a word'}")

    async def listen(self, hear: Callable[[dict[str, Any], bytes], Awaitable[None]]) -> None:
        """Hand on all messages until the connection ends."""
        while True:
            try:
                async with asyncio.timeout(QUIET_S):
                    line = await self._reader.readline()
                    fields = json.loads(line) if line else {}
                    payload = await self._reader.readexactly(fields.get("bytes", 0))
            except (OSError, ValueError, asyncio.IncompleteReadError):
                return
            if not line:
                return
            await hear(fields, payload)

    async def send(self, do: str, fields: Mapping[str, Any], payload: bytes = b"") -> None:
        """Say something. What is said to a connection that has ended is lost; `listen` tells of that."""
        message = {"do": do, **fields, "bytes": len(payload)}
        async with self._sending:
            with contextlib.suppress(OSError):
                await self._write(json.dumps(message).encode() + b"\n" + payload)

    async def _write(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        """End the connection. The other side goes on. Idempotent."""
        if self._writer is not None:
            self._writer.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._complaints.close()

    def _complaint(self) -> str:
        """The last line that ssh has printed."""
        self._complaints.seek(0)
        text = self._complaints.read().decode(errors="replace")
        return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
