"""The worker where nodes do not see the study's folder: unpacks what was sent, gives back what changed.

    python courier.py HOME BATCH [INDEX]

Needs nothing but Python 3.7; `runner.py` and `node.py` lie beside it. HOME is as `runner.py` says, and has
also:

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
import sys
import zlib

TYPE_CHECKING = False  # as mypy reads it; importing typing would take longer than all the rest
if TYPE_CHECKING:
    import subprocess
    from typing import Any

    from arf_plugins.backend_skypilot import node
    from arf_plugins.backend_slurm import runner
else:
    import node
    import runner


class Courier(runner.Runner):
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
            self.build(job["cwd"], node.read_json(self.listing(handle_of(job))))
        except (OSError, ValueError, KeyError, zlib.error) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise runner.SetUpFailed(
                f"the code cannot be unpacked in {self.local} on {socket.gethostname()}: {why}"
            ) from error
        directory = os.path.join(self.tree, job["cwd"]) if job["cwd"] else self.tree
        return super().start(dict(job, directory=directory), env, log)

    def end(self, handle: str, began: float, code: int | None, why: str, message: str) -> None:
        if why not in ("term", "setup", "error"):  # then it runs again elsewhere, in a tree that is as it was
            self.give_back(handle)
        if self.tree:
            shutil.rmtree(self.tree, ignore_errors=True)
        super().end(handle, began, code, why, message)

    def listing(self, handle: str) -> str:
        return os.path.join(self.home, "sent", handle)

    def build(self, cwd: str, sent: dict[str, Any]) -> None:
        """Make a job's tree; contents are fetched once. Raises OSError, and what bad data raises."""
        blobs = os.path.join(self.local, "blobs")
        os.makedirs(blobs, exist_ok=True)
        for name in sent["packs"]:
            if name not in self.unpacked:
                for blob, data in unpack(os.path.join(self.home, "packs", name)):
                    with open(os.path.join(blobs, blob), "wb") as file:
                        file.write(data)
                self.unpacked.add(name)
        os.makedirs(os.path.join(self.tree, cwd))
        for name, mode, blob in sent["files"]:
            path = os.path.join(self.tree, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if mode == "link":
                with open(os.path.join(blobs, blob), "rb") as file:
                    os.symlink(os.fsdecode(file.read()), path)
                continue
            shutil.copyfile(os.path.join(blobs, blob), path)
            os.chmod(path, int(mode, 8))
        for name, target in sent["links"]:
            path = os.path.join(self.tree, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.symlink(target, path)

    def give_back(self, handle: str) -> None:
        """Write down what the job has changed in its tree: files up to a limit, and names of what is gone."""
        found = node.read_json(self.listing(handle))
        if not found or not os.path.isdir(self.tree):
            return
        sent = {name: blob for name, _, blob in found["files"]}
        links = dict(found["links"])
        left, listing, parts = int(found["return_mb"] * 2**20), [], []
        removed = [name for name in [*sent, *links] if not os.path.lexists(os.path.join(self.tree, name))]
        left_there = 0
        for name in node.walk(self.tree):
            path = os.path.join(self.tree, name)
            try:
                status = os.lstat(path)
                if name in links and stat.S_ISLNK(status.st_mode) and os.readlink(path) == links[name]:
                    continue
                if name in sent and node.is_blob(path, status, sent[name]):
                    continue
                large = stat.S_ISREG(status.st_mode) and status.st_size > left
                left_there += large
                if stat.S_ISREG(status.st_mode) and not large:
                    with open(path, "rb") as file:
                        data = file.read()
                    left -= len(data)
                    parts.append(zlib.compress(data, 1))
                    listing.append((name, oct(status.st_mode & 0o777)[2:], len(parts[-1])))
                    continue
            except OSError:
                pass
            if name in sent or name in links:
                removed.append(name)  # so that a file that no run may change is seen to have changed
        if listing or removed or left_there:
            head = {"files": listing, "removed": removed, "left_there": left_there}
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


def unpack(path: str) -> list[tuple[str, bytes]]:
    """(hash, content) of all that is in a pack. Raises OSError, ValueError or zlib.error."""
    with open(path, "rb") as file:
        listing = json.loads(file.readline())
        data = zlib.decompress(file.read())
    found, at = [], 0
    for blob, size in listing:
        found.append((blob, data[at : at + size]))
        at += size
    return found


if __name__ == "__main__":
    sys.exit(Courier(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "0").main())
