"""Running an agent's program: its lines as they come, its limits, and its end with all its children."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from arf.errors import AgentError

MARK = "ARF_AGENT"
"""By this variable the program and its children are known; its value is the folder of its conversation."""
MAX_LINE = 64 * 2**20
"""Bytes of one line of output: a file that the agent read may be in it."""
GRACE_S = 5.0
TAIL_CHARS = 600


@frozen
class Ended:
    exit_code: int
    stopped: str
    """Why arf ended it; empty if it ended by itself."""
    stderr: str
    """The end of what it complained about."""


async def run(
    command: Sequence[str],
    *,
    text: str,
    cwd: Path,
    env: Mapping[str, str],
    time_limit_s: float,
    silence_limit_s: float,
    hear: Callable[[str], None],
) -> Ended:
    """Run a program with a text on its standard input, and hear each line that it prints.

    Its whole process group is ended when the limits are reached, and when this is cancelled. Raises
    AgentError if there is no such program.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=cwd, env=dict(env), start_new_session=True, limit=MAX_LINE,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        raise AgentError(f"{command[0]} cannot be started: {error.strerror}") from None
    complaints = asyncio.ensure_future(_tail(process))
    stopped = ""
    try:
        async with asyncio.timeout(time_limit_s):
            await _feed(process, text)
            stopped = await _listen(process, silence_limit_s, hear)
    except TimeoutError:
        stopped = f"reached its time limit of {time_limit_s:g} s"
    finally:
        await _end_group(process)
    return Ended(await process.wait(), stopped, await complaints)


def end_left_over(mark: str) -> None:
    """End what an arf that was killed has left running: all that has the mark in its environment.

    But for ourselves: it may be that program that has started us. Looked for in /proc; elsewhere such a
    program works on until it finds that nobody hears it.
    """
    wanted = f"{MARK}={mark}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            pid = int(entry.name)
            if pid != os.getpid() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)
        except OSError:
            continue  # it has ended, or is somebody else's


async def _feed(process: asyncio.subprocess.Process, text: str) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(text.encode())
        await process.stdin.drain()
        process.stdin.close()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it has ended already, and says why on its standard error


async def _listen(
    process: asyncio.subprocess.Process, silence_limit_s: float, hear: Callable[[str], None]
) -> str:
    assert process.stdout is not None
    while True:
        try:
            line = await asyncio.wait_for(process.stdout.readline(), silence_limit_s)
        except TimeoutError:
            return f"printed nothing for {silence_limit_s:g} s"
        except ValueError:  # a line over the limit: what follows is heard again
            continue
        if not line:
            return ""
        hear(line.decode("utf-8", "replace").rstrip("\r\n"))


async def _tail(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    tail = ""
    while block := await process.stderr.read(65536):
        tail = (tail + block.decode("utf-8", "replace"))[-TAIL_CHARS:]
    return " ".join(tail.split())


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """End the program, and what it started: they are one session."""
    for number, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        try:
            await asyncio.wait_for(process.wait(), patience_s)
        except TimeoutError:
            continue
