"""The connection to a node's relay: messages over the standard input and output of one ssh."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from arf.errors import BackendError
from arf_plugins.worker_pool import kit

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
_RELAY = """
import base64,os,sys
home=os.path.expanduser({home!r})
path=os.path.join(home,"{name}")
os.makedirs(home,mode=0o700,exist_ok=True)
data=base64.b64decode({kit!r})
try:
    with open(path,"rb") as file: there=file.read()==data
except OSError: there=False
if not there:
    with open(path+str(os.getpid()),"wb") as file: file.write(data)
    os.rename(path+str(os.getpid()),path)
os.execv(sys.executable,[sys.executable,"-S","-E",path,"relay",home])
"""
_PROBE = """
import base64,os,shutil,subprocess,sys,tempfile
home=tempfile.mkdtemp()
try:
    path=os.path.join(home,"{name}")
    with open(path,"wb") as file: file.write(base64.b64decode({kit!r}))
    code=subprocess.call([sys.executable,"-S","-E",path,"probe"])
finally: shutil.rmtree(home)
sys.exit(code)
"""


def foreman_command(home: str, token: str) -> str:
    """What a cluster's job runs: wait for arf to bring the program, then work."""
    place, name = _remote(home), shlex.quote(token)
    return (
        f"for i in $(seq 3000); do [ -e {place}/foreman.json ] && break; sleep 0.3; done\n"
        f"exec $({_find_python()}) -S -E {place}/{kit.NAME} foreman {place} {name}\n"
    )


def boot_command() -> str:
    """What is run by SSH on a node: it reads from its input what it is to do there."""
    return f"exec $({_find_python()}) -c {shlex.quote(_BOOT)}"


def _find_python() -> str:
    return f"for p in {_PYTHONS}; do command -v $p && break; done"


def _remote(path: str) -> str:
    """A path below `~` for a shell."""
    return "~/" + shlex.quote(path.removeprefix("~/"))


def _boot(template: str, home: str = "") -> bytes:
    """What `boot_command` reads first: the program, and what it is run for."""
    data = base64.b64encode(kit.program()).decode()
    text = template.format(home=home, name=kit.NAME, kit=data).encode()
    return f"{len(text):012d}".encode() + text


def probe(command: Sequence[str]) -> dict[str, Any]:
    """What a machine has, by a local command that runs `boot_command` there. Blocks. Raises BackendError.

    Nothing is left there.
    """
    try:
        done = subprocess.run(
            command,
            input=_boot(_PROBE),
            capture_output=True,
            timeout=GREETING_S,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BackendError(f"it did not answer within {GREETING_S:.0f} s") from None
    except OSError as error:
        raise BackendError(f"{command[0]} cannot be run: {error.strerror}") from error
    for line in done.stdout.decode(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            fields = json.loads(line)
            if isinstance(fields, dict) and "probe" in fields:
                return dict(fields["probe"])
    raise BackendError(last_line(done.stderr) or last_line(done.stdout) or f"exit code {done.returncode}")


def last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


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
        try:
            await self._start(command)
            await self._write(_boot(_RELAY, self._home))
            async with asyncio.timeout(GREETING_S):
                return await self._greeting()
        except TimeoutError:
            raise BackendError("the node does not answer over SSH") from None
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
        return last_line(self._complaints.read())
