"""Starting processes, being told of their end, and finding those that hide.

All processes of a job are known by ARF_JOB in their environment, its mark; the wrapper around it (job.sh) by
its pid in the job's record, and by how all marks begin in its command line. What has cleared its environment
and left the session is known, on Linux, by its OOM score: children inherit it, and the jobs that run at a
time have different ones, all a little above arf's own. (That the kernel ends jobs before arf when memory runs
out is right as well.)
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from attrs import frozen

HAS_PROC = os.path.isdir("/proc/self")
MARK = "ARF_JOB"
WRAPPER = Path(__file__).with_name("job.sh")
RESET_SIGNALS = [
    number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)
]
SPARE = 2
"""Shells that wait: jobs on several slots may end at the same moment."""
MAX_OOM_SCORE = 1000
OTHERS_ZOMBIE_S = 10.0
"""After so long a dead child that nobody has waited for is a job's orphan, not something that arf started."""


class Wrappers:
    """The shells around jobs (job.sh). Some wait ahead of need: to start a job is to tell one what to run."""

    def __init__(self, prefix: str) -> None:
        """`prefix` begins the marks of all jobs; it is what the shells are known by."""
        self._prefix = prefix
        self._spare: list[_Shell] = []
        self._env: Mapping[str, str] = {}
        """Of the job before: the next one's will hardly differ."""

    @property
    def spare(self) -> list[int]:
        """The pids of the shells that wait."""
        return [shell.pid for shell in self._spare]

    def start(
        self,
        mark: str,
        score: int | None,
        record: str,
        directory: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        log_path: str,
    ) -> int:
        """Start a job in a session of its own, and give the pid of its wrapper. Raises OSError, ValueError.

        `score` is its OOM score adjustment, see `oom_score`. `env` is the whole environment. The log is
        created or truncated; standard input is empty.
        """
        os.close(os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644))
        odd = [f"{name}={value}" for name, value in env.items() if not _is_plain(name)]
        if odd:  # a shell drops the variables that it could not name itself
            argv = ["/usr/bin/env", *odd, *argv]
        words = [mark, record, str(score or ""), directory, *argv]
        self._env = {name: value for name, value in env.items() if _is_plain(name)}
        while True:
            shell = self._spare.pop() if self._spare else self._new()
            try:
                shell.tell(_script({**self._env, MARK: mark}, shell.env, log_path, words))
            except BrokenPipeError:
                reap(shell.pid)  # somebody has killed it while it waited
                continue
            return shell.pid

    def make_ready(self) -> None:
        """Have shells wait for the next jobs. Raises OSError."""
        while len(self._spare) < SPARE:
            self._spare.append(self._new())

    def close(self) -> None:
        """End the shells that wait."""
        while self._spare:
            shell = self._spare.pop()
            signal_each([shell.pid], signal.SIGKILL)
            os.close(shell.pipe)
            os.waitpid(shell.pid, 0)

    def _new(self) -> _Shell:
        keep_files_private()
        reader, writer = os.pipe()
        try:
            pid = os.posix_spawn(
                "/bin/sh",
                ["/bin/sh", str(WRAPPER), f"arf:{self._prefix}"],
                self._env,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                    (os.POSIX_SPAWN_DUP2, reader, 3),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=RESET_SIGNALS,
            )
        except BaseException:
            os.close(writer)
            raise
        finally:
            os.close(reader)
        return _Shell(pid, writer, self._env)


@frozen
class _Shell:
    """A wrapper that waits for its job."""

    pid: int
    pipe: int
    """Where it is told."""
    env: Mapping[str, str]
    """What it was started with."""

    def tell(self, script: bytes) -> None:
        with open(self.pipe, "wb", buffering=0) as pipe:
            view = memoryview(script)
            while view:
                view = view[pipe.write(view) :]


def _script(env: Mapping[str, str], known: Mapping[str, str], log_path: str, words: Sequence[str]) -> bytes:
    """What makes a waiting shell the wrapper of a job. Its last line counts: without it nothing is run."""
    changed = [f"{name}={shlex.quote(value)}" for name, value in env.items() if known.get(name) != value]
    gone = [name for name in known if name not in env]
    lines = [
        f"exec >>{shlex.quote(log_path)} 2>&1",
        f"export {' '.join(changed)}",
        f"unset {' '.join(gone)}" if gone else ":",
        f"set -- {shlex.join(words)}",
        'set -- told "$@"',
        "",
    ]
    return os.fsencode("\n".join(lines))


def _is_plain(name: str) -> bool:
    return name.isidentifier() and name.isascii()


def keep_files_private() -> None:
    """Let no file that is open here be inherited: files that arf itself inherited, or that C code opened."""
    for name in os.listdir("/dev/fd"):
        fd = int(name)
        if fd > 2:
            try:
                os.set_inheritable(fd, False)
            except OSError:
                pass  # the one that listed the folder, closed by now


# ---- Being told of an end -------------------------------------------------------------------


class ExitWatch(Protocol):
    """Something that an event loop can wait for: readable once the process has ended."""

    def fileno(self) -> int: ...
    def close(self) -> None: ...


def watch_exit(pid: int, how: str = "") -> ExitWatch:
    """Watch any process, a child or not. Raises ProcessLookupError if there is none.

    `how` is `pidfd` (Linux 5.3), `kqueue` (BSD, macOS) or `thread`; empty for the best there is.
    """
    if how in ("", "pidfd") and hasattr(os, "pidfd_open"):
        try:
            return PidFd(os.pidfd_open(pid))
        except ProcessLookupError:
            raise
        except OSError:
            pass  # an old kernel, or a sandbox that forbids it
    if how in ("", "kqueue") and sys.platform != "linux":
        import select

        queue = select.kqueue()
        event = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
        queue.control([event], 0)
        return queue
    return _ThreadWatch(pid)


class PidFd:
    """A file descriptor that stands for a process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


class _ThreadWatch:
    """A thread that waits for the end of a child; of another process it can only ask again and again."""

    def __init__(self, pid: int) -> None:
        os.kill(pid, 0)
        self._reader, self._writer = os.pipe()
        threading.Thread(target=self._wait, args=(pid,), daemon=True, name=f"wait-{pid}").start()

    def _wait(self, pid: int) -> None:
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            while _exists(pid):
                time.sleep(0.2)
        os.close(self._writer)

    def fileno(self) -> int:
        return self._reader

    def close(self) -> None:
        os.close(self._reader)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


async def ended(pids: Collection[int], timeout_s: float) -> set[int]:
    """Wait until these processes have ended, or for `timeout_s`, and give those that have not."""
    loop = asyncio.get_running_loop()
    left: dict[int, ExitWatch] = {}
    done = loop.create_future()

    def gone(pid: int) -> None:
        watch = left.pop(pid)
        loop.remove_reader(watch.fileno())
        watch.close()
        if not left and not done.done():
            done.set_result(None)

    for pid in pids:
        try:
            left[pid] = watch_exit(pid)
        except ProcessLookupError:
            continue
        loop.add_reader(left[pid].fileno(), gone, pid)
    try:
        if left:
            await asyncio.wait_for(done, timeout_s)
    except TimeoutError:
        pass
    finally:
        remaining = set(left)
        for pid in remaining:
            gone(pid)
    return remaining


# ---- What there is --------------------------------------------------------------------------


@frozen
class Process:
    """What the system tells of a process."""

    pid: int
    parent: int
    group: int
    session: int
    """0 where the system does not tell (macOS)."""
    dead: bool
    """Dead, and nobody has waited for it yet."""


def table() -> Iterator[Process]:
    """Every process of this machine that can be seen."""
    if HAS_PROC:
        for name in os.listdir("/proc"):
            if name.isdigit() and (process := _process(int(name))):
                yield process
    else:
        for line in _ps("-A", "-o", "pid=,ppid=,pgid=,stat="):
            pid, parent, group, state = line.split()
            yield Process(int(pid), int(parent), int(group), 0, state.startswith("Z"))


def _process(pid: int) -> Process | None:
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    if not fields:
        return None
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[3]), fields[0] in (b"Z", b"X"))


def mark_of(pid: int) -> str:
    """The mark of the job that a living process belongs to; empty if none, or if it cannot be known."""
    for entry in _read(f"/proc/{pid}/environ").split(b"\0"):
        if entry.startswith(b"ARF_JOB="):
            return entry[8:].decode("utf-8", "replace")
    return ""


def is_wrapper(pid: int, prefix: str) -> bool:
    """Whether a process is the living wrapper of a job whose mark begins so."""
    if HAS_PROC:
        # Only a wrapper has the mark in this place: not a `ps` or `grep` with the same words.
        words = _read(f"/proc/{pid}/cmdline").decode("utf-8", "replace").split("\0")
    else:
        words = " ".join(_ps("-p", str(pid), "-o", "command=")).split()
    return len(words) > 2 and words[2].startswith(f"arf:{prefix}")


def marks(prefix: str) -> set[str]:
    """The marks that begin so and that living processes have, looked for among all processes."""
    return {mark for process in table() if (mark := mark_of(process.pid)).startswith(prefix)}


def _ps(*arguments: str) -> list[str]:
    import subprocess

    return subprocess.run(
        ["ps", "-ww", *arguments], capture_output=True, text=True, check=False
    ).stdout.splitlines()


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""  # it has ended, or belongs to somebody else


def group_lives(pid: int) -> bool:
    """Whether the process group has members, dead ones that nobody has waited for included."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def left_behind(mark: str, leader: int) -> set[int]:
    """The living processes of a job whose wrapper has ended, looked for among all processes."""
    return {
        process.pid
        for process in table()
        if not process.dead
        and process.pid != os.getpid()
        and (leader in (process.group, process.session) or mark_of(process.pid) == mark)
    }


def with_descendants(pids: Collection[int]) -> set[int]:
    """These processes, as far as they live, and all that they have started."""
    if not pids:
        return set()
    living = {process.pid: process.parent for process in table() if not process.dead}
    found = living.keys() & set(pids)
    while more := {pid for pid, parent in living.items() if parent in found} - found:
        found |= more
    return found


def signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
        if number == signal.SIGTERM:
            os.killpg(pid, signal.SIGCONT)  # what is stopped could not end
    except (ProcessLookupError, PermissionError):
        pass  # it has ended; on macOS a group of the dead gives the second


def signal_each(pids: Collection[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # it has ended, or is somebody else's by now


def reap(pid: int) -> int | None:
    """The exit code of a child that has ended, minus the signal's number for a signal; None if unknown."""
    try:
        ended_pid, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None  # not our child
    return os.waitstatus_to_exitcode(status) if ended_pid else None


def oom_score(place: int) -> int | None:
    """The OOM score adjustment of jobs in a slot; None where there is none that tells them from others."""
    own = _score_of("self")
    score = None if own is None else own + 1 + place
    return None if score is None or score > MAX_OOM_SCORE else score


def _score_of(pid: int | str) -> int | None:
    try:
        return int(_read(f"/proc/{pid}/oom_score_adj"))
    except ValueError:
        return None


# ---- Orphans --------------------------------------------------------------------------------


class Orphans:
    """Processes that lost their parents come to us, and are told apart from what arf itself started.

    Linux only: elsewhere an orphan goes to init, and what has left its job's process group is not found.
    """

    def __init__(self) -> None:
        self._adopting = False
        self._dead_since: dict[int, float] = {}

    def adopt(self, on: bool = True) -> None:
        """Become the parent of orphans among our descendants, or stop being it."""
        if sys.platform == "linux" and self._adopting != on:
            import ctypes

            set_child_subreaper = 36
            ctypes.CDLL(None).prctl(set_child_subreaper, int(on), 0, 0, 0)
            self._adopting = on

    def of(self, mark: str, score: int | None, leader: int, known: Collection[int | None]) -> set[int]:
        """The living orphans of a job, by its mark or its OOM score; dead ones are reaped.

        Its wrapper was `leader`; `known` are children that are no orphans.
        """
        strange = [pid for pid in _children() if pid not in known]
        if not strange and not self._dead_since:
            return set()
        found = [process for pid in strange if (process := _process(pid))]
        self._reap([process for process in found if process.dead], leader)
        living = [process.pid for process in found if not process.dead]
        return {
            pid for pid in living if mark_of(pid) == mark or (score is not None and _score_of(pid) == score)
        }

    def _reap(self, dead: Sequence[Process], leader: int) -> None:
        """Reap the job's dead at once, and others when they have been dead so long that nobody else will."""
        now = time.monotonic()
        self._dead_since = {process.pid: self._dead_since.get(process.pid, now) for process in dead}
        for process in dead:
            ours = leader in (process.group, process.session)
            if ours or now - self._dead_since[process.pid] > OTHERS_ZOMBIE_S:
                reap(process.pid)
                del self._dead_since[process.pid]


def _children() -> list[int]:
    """Our children by the kernel's list, or by a look at all processes where it keeps none."""
    own = os.getpid()
    try:
        with open(f"/proc/self/task/{own}/children", "rb") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return [process.pid for process in table() if process.parent == own]
