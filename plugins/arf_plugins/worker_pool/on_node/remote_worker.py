"""The worker where nodes see nothing of arf's machine but one folder: unpacks what was sent, and gives back.

HOME has also:

    HOME/packs/NAME         arf: a line that names contents and sizes, then the contents, compressed
    HOME/sent/HANDLE        arf: a job's files, links, and the packs that have the contents
    HOME/outside/PATH       arf: what links of work trees lead to, by its path on arf's machine
    HOME/logs/HANDLE        the worker: a job's log; arf takes it over while the job runs
    HOME/returned/HANDLE    the worker: what the job has changed in its tree; arf takes it over at the end

Work trees are on the node's own disk, in a folder that its worker holds a lock in: a folder that nobody holds
was left by a worker that was killed, and the next worker on the node removes it.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import shutil
import socket
import stat
import zlib

from .files import read_json
from .unpack import Changes, unpack
from .worker import SetUpFailed, Worker

TYPE_CHECKING = False  # as mypy reads it; importing typing would take longer than all the rest
if TYPE_CHECKING:
    import subprocess
    from typing import Any


class RemoteWorker(Worker):
    """Runs each job in a tree that it makes for it on the node's own disk."""

    def __init__(self, home: str, batch: str, index: str) -> None:
        super().__init__(home, batch, index)
        self.local = os.path.join(local_disk(), f"arf-{os.path.basename(home)}-{batch}-{index}")
        self.tree = ""
        """The work tree of the job that runs: no other job has ever had it."""
        self.unpacked: set[str] = set()
        """Names of packs whose contents are on this node."""

    def main(self) -> int:
        try:
            lock = hold(self.local)
            remove_abandoned(local_disk())
        except OSError as error:
            print(f"no folder for work trees at {self.local}: {error.strerror}", flush=True)
            return 1
        try:
            return super().main()
        finally:
            shutil.rmtree(self.local, ignore_errors=True)
            os.close(lock)

    # ---- Before a job and after it ----------------------------------------------------------

    def start(
        self, job: dict[str, Any], env: dict[str, str], log: int
    ) -> tuple[subprocess.Popen[bytes] | None, int | None, str]:
        self.tree = os.path.join(self.local, handle_of(job))
        try:
            self.build(job["cwd"], self.sent(handle_of(job)))
        except (OSError, ValueError, KeyError, zlib.error) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise SetUpFailed(
                f"the code cannot be unpacked in {self.local} on {socket.gethostname()}: {why}"
            ) from error
        directory = os.path.join(self.tree, job["cwd"]) if job["cwd"] else self.tree
        return super().start(dict(job, directory=directory), env, log)

    def end(self, handle: str, began: float, code: int | None, why: str, message: str) -> None:
        if why not in (
            "term",
            "ended",
            "setup",
            "error",
        ):  # then it runs again elsewhere, in a tree that is as it was
            self.give_back(handle)
        if self.tree:
            shutil.rmtree(self.tree, ignore_errors=True)
        super().end(handle, began, code, why, message)

    def sent(self, handle: str) -> dict[str, Any]:
        """What was sent of a job; empty if that cannot be read."""
        return read_json(os.path.join(self.home, "sent", handle))

    def build(self, cwd: str, sent: dict[str, Any]) -> None:
        """Make a job's tree; contents are fetched once. Raises OSError, and what bad data raises."""
        blobs = os.path.join(self.local, "blobs")
        os.makedirs(blobs, exist_ok=True)
        for name in sent["packs"]:
            if name not in self.unpacked:
                for blob, data in read_pack(os.path.join(self.home, "packs", name)):
                    with open(os.path.join(blobs, blob), "wb") as file:
                        file.write(data)
                self.unpacked.add(name)
        os.makedirs(os.path.join(self.tree, cwd))
        unpack(self.tree, sent["files"], sent["links"], blobs)

    def give_back(self, handle: str) -> None:
        """Write down what the job has changed in its tree: files up to a limit, and names of what is gone."""
        sent = self.sent(handle)
        if not sent or not os.path.isdir(self.tree):
            return
        changes = Changes(self.tree, sent["files"], sent["links"], int(sent["return_mb"] * 2**20))
        listing, parts = [], []
        for name, mode, data in changes:
            parts.append(zlib.compress(data, 1))
            listing.append((name, mode, len(parts[-1])))
        if listing or changes.removed or changes.too_large:
            head = {"files": listing, "removed": changes.removed, "left_there": changes.too_large}
            self.write_returned(handle, json.dumps(head).encode() + b"\n" + b"".join(parts))

    def write_returned(self, handle: str, data: bytes) -> None:
        part = os.path.join(self.home, "returned", "." + handle)
        try:
            with open(part, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(part, os.path.join(self.home, "returned", handle))
        except OSError as error:
            print(f"what {handle} has written does not come back: {error.strerror}", flush=True)


# ---- The node's own disk --------------------------------------------------------------------


def local_disk() -> str:
    for name in ("SLURM_TMPDIR", "TMPDIR"):
        if os.path.isdir(os.environ.get(name, "")):
            return os.environ[name]
    return "/tmp"


def hold(folder: str) -> int:
    """Make a folder that only we can read, and the lock that says that it is in use. Raises OSError."""
    lock = os.path.join(folder, "lock")
    while True:
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            if os.lstat(folder).st_uid != os.getuid() or not stat.S_ISDIR(os.lstat(folder).st_mode):
                raise
        try:
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue  # removed by another worker, which took it for abandoned
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)


def remove_abandoned(disk: str) -> None:
    """Remove what workers that were killed have left on this disk."""
    for lock in glob.glob(os.path.join(glob.escape(disk), "arf-*", "lock")):
        try:
            fd = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if os.fstat(fd).st_uid == os.getuid():
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(os.path.dirname(lock), ignore_errors=True)
        except OSError:
            pass  # its worker lives
        finally:
            os.close(fd)


def handle_of(job: dict[str, Any]) -> str:
    return os.path.basename(str(job["log"]))


def read_pack(path: str) -> list[tuple[str, bytes]]:
    """(hash, content) of all that is in a pack. Raises OSError, ValueError or zlib.error."""
    with open(path, "rb") as file:
        listing = json.loads(file.readline())
        data = zlib.decompress(file.read())
    found, at = [], 0
    for blob, size in listing:
        found.append((blob, data[at : at + size]))
        at += size
    return found
