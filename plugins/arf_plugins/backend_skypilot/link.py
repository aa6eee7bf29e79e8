"""The connection to a cluster's relay: messages over the standard input and output of one ssh."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from arf.errors import BackendError
from arf_plugins.backend_slurm import runner

log = logging.getLogger(__name__)

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
    node = Path(__file__).with_name("node.py")
    return {"node.py": node.read_text("utf-8"), "runner.py": Path(runner.__file__).read_text("utf-8")}


class Link:
    """One connection, from its beginning to its end. Made anew for each try."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._process: asyncio.subprocess.Process | None = None
        self._sending = asyncio.Lock()

    async def open(self, command: Sequence[str]) -> dict[str, Any]:
        """Connect, bring the program along, and give the relay's greeting. Raises BackendError."""
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LIMIT,
            start_new_session=True,  # Ctrl-C is for arf, not for its connections
        )
        boot = _PUT_KIT.format(home=self._home, files=_kit()).encode()
        try:
            await self._write(f"{len(boot):012d}".encode() + boot)
            async with asyncio.timeout(GREETING_S):
                return await self._greeting()
        except TimeoutError:
            raise BackendError("the cluster does not answer over SSH") from None
        except OSError as error:
            raise BackendError(f"no SSH connection: {await self._complaint() or error}") from error

    async def _greeting(self) -> dict[str, Any]:
        """The relay's first message; what login scripts print before it is passed over."""
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            with contextlib.suppress(ValueError):
                fields = json.loads(line)
                if isinstance(fields, dict) and "relay" in fields:
                    return fields
        raise BackendError(f"no SSH connection: {await self._complaint()}")

    async def listen(self, hear: Callable[[dict[str, Any], bytes], Awaitable[None]]) -> None:
        """Hand on all messages until the connection ends."""
        assert self._process is not None
        out = self._process.stdout
        assert out is not None
        while True:
            try:
                async with asyncio.timeout(QUIET_S):
                    line = await out.readline()
                    fields = json.loads(line) if line else {}
                    payload = await out.readexactly(fields.get("bytes", 0))
            except (TimeoutError, ValueError, asyncio.IncompleteReadError):
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
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        await self._process.stdin.drain()

    async def close(self) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()
        # Else its pipes are closed when the loop is gone, which warns.
        transport = getattr(process, "_transport", None)
        if transport is not None:
            transport.close()

    async def _complaint(self) -> str:
        """The last line that ssh has printed."""
        assert self._process is not None
        assert self._process.stderr is not None
        try:
            async with asyncio.timeout(5.0):
                text = (await self._process.stderr.read()).decode(errors="replace")
        except TimeoutError:
            return "no reason given"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else "it ended without a word"
