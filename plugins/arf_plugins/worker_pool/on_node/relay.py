"""The far end of a connection: hands in what arf sends, and tells what the workers write.

It only writes down what arf says and reads what the workers write: it can end at any time, and the next one
goes on at the offsets that arf gives it. A message is a line of JSON, with the key `bytes` where so many
bytes follow it. HOME has also:

    HOME/foreman.json                   how the foreman is to work
    HOME/sent/HANDLE                    a job's files and links, to see what it has changed
    HOME/trees/HANDLE                   its work tree
    HOME/logs/HANDLE                    its log
    HOME/blobs/HASH                     contents of files, each once
    HOME/outside/PATH                   what links of work trees lead to, by its path on arf's machine
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
import zlib

from .files import ARF, Lines, append, claim, loads, read_json, touch, write_json
from .foreman import PROGRAM, take_lock
from .unpack import Changes, unpack

TYPE_CHECKING = False  # as mypy reads it; importing typing would take longer than all the rest
if TYPE_CHECKING:
    from typing import Any

FOLDERS = (
    "batches", "queues", "jobs", "claims", "tokens", "logs", "trees", "sent", "blobs", "outside", "staging"
)  # fmt: skip
CHUNK = 1 << 18
SHORTEST_S, LONGEST_S = 0.01, 0.5
BEAT_S = 10.0


class Relay:
    def __init__(self, home: str) -> None:
        self.home = home
        self.input = bytearray()
        self.head: dict[str, Any] | None = None
        """The message whose bytes are awaited."""
        self.read_to: dict[str, int] = {}
        """Offsets in journals, by `TOKEN/NAME`."""
        self.followed: dict[str, int] = {}
        """Offsets in the logs of jobs whose end arf waits for."""
        self.settings: dict[str, Any] = {}
        self.news_at = self.told_at = time.monotonic()
        self.touched_at = float("-inf")
        self.over = False
        self.listing: dict[str, tuple[str, str]] = {}
        """The files of the job that was sent last, by path."""

    def main(self) -> int:
        os.umask(0o077)
        for name in FOLDERS:
            os.makedirs(os.path.join(self.home, name), exist_ok=True)
        self.tell(
            relay=1,
            now=time.time(),
            home=self.home,
            have=os.listdir(os.path.join(self.home, "jobs")),
            blobs=[name for name in os.listdir(os.path.join(self.home, "blobs")) if "." not in name],
        )
        while True:
            now = time.monotonic()
            pause_s = min(max((now - self.news_at) / 20, SHORTEST_S), LONGEST_S)
            if select.select([0], [], [], pause_s)[0]:
                data = os.read(0, 1 << 20)
                if not data:
                    return 0
                self.input += data
                self.heed()
            if self.over:
                break
            self.look()
            self.beat()

        return 0

    def beat(self) -> None:
        """Let arf know that the connection lives, and whoever works here that arf does."""
        if time.monotonic() - self.touched_at > BEAT_S / 2:
            touch(os.path.join(self.home, ARF))
            self.touched_at = time.monotonic()
        if time.monotonic() - self.told_at > BEAT_S:
            self.tell(beat=1)

    def tell(self, payload: bytes = b"", **fields: Any) -> None:
        if payload:
            fields["bytes"] = len(payload)
        data = json.dumps(fields).encode() + b"\n" + payload
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]
        self.told_at = time.monotonic()

    # ---- What arf says ----------------------------------------------------------------------

    def heed(self) -> None:
        while True:
            if self.head is None:
                end = self.input.find(b"\n")
                if end < 0:
                    return
                self.head = json.loads(self.input[:end])
                del self.input[: end + 1]
            length = self.head.get("bytes", 0)
            if len(self.input) < length:
                return
            fields, payload, self.head = self.head, bytes(self.input[:length]), None
            del self.input[:length]
            self.news_at = time.monotonic()
            getattr(self, "do_" + fields["do"])(fields, payload)

    def do_begin(self, fields: dict[str, Any], _: bytes) -> None:
        self.settings = fields["settings"]
        write_json(os.path.join(self.home, "foreman.json"), self.settings)
        self.read_to = fields["read_to"]
        self.followed = fields["follow"]

    def do_foreman(self, fields: dict[str, Any], _: bytes) -> None:
        """Have a foreman work here that goes on when this connection ends."""
        log = os.open(os.path.join(self.home, "foreman.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        subprocess.Popen(
            [*PROGRAM, "foreman", self.home, fields["token"]],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        os.close(log)

    def do_alive(self, _: dict[str, Any], __: bytes) -> None:
        """Whether a foreman, or one of its workers, is here."""
        with open(os.path.join(self.home, "lock"), "a", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.tell(alive=False)
            except OSError:
                self.tell(alive=True)

    def do_end(self, _: dict[str, Any], __: bytes) -> None:
        """End all that works here, and remove the folder; say so when it is done."""
        for token in os.listdir(os.path.join(self.home, "batches")):
            append(os.path.join(self.home, "batches", token, "foreman.orders"), "end")
        with open(os.path.join(self.home, "lock"), "a", encoding="utf-8") as lock:
            gone = take_lock(lock.fileno(), self.beat)
        if gone:
            shutil.rmtree(self.home, ignore_errors=True)
        self.tell(ended=gone)
        self.over = gone

    def do_put(self, fields: dict[str, Any], payload: bytes) -> None:
        """Take a job in. Once only: the same job again is only followed, and queued for today's workers."""
        handle, job, files = fields["put"], fields["job"], self.listed(fields)
        path = os.path.join(self.home, "jobs", handle)
        self.followed.setdefault(handle, fields["log_at"])
        if not os.path.exists(path):
            self.store(fields["blobs"], zlib.decompress(payload))
            root = os.path.join(self.home, "trees", handle)
            if os.path.exists(root):
                shutil.rmtree(root)
            links = [(name, self.there(target)) for name, target in fields["links"]]
            unpack(root, files, links, os.path.join(self.home, "blobs"))
            job["directory"] = os.path.join(root, fields["cwd"]) if fields["cwd"] else root
            job["log"] = os.path.join(self.home, "logs", handle)
            sent = {"files": files, "links": links}
            write_json(os.path.join(self.home, "sent", handle), sent)
            write_json(path, job)
        queue = os.path.join(self.home, "queues", fields["queue"])
        if handle not in Lines(queue).read():
            append(queue, handle)

    def listed(self, fields: dict[str, Any]) -> list[tuple[str, str, str]]:
        """A job's files, of which only what differs from the last job's was sent."""
        for name in fields["removed"]:
            self.listing.pop(name, None)
        self.listing.update((name, (mode, blob)) for name, mode, blob in fields["changed"])
        return [(name, mode, blob) for name, (mode, blob) in self.listing.items()]

    def do_blob(self, fields: dict[str, Any], payload: bytes) -> None:
        """A part of a large content, whose other parts come before and after it."""
        path = os.path.join(self.home, "blobs", fields["blob"])
        with open(path + ".part", "r+b" if fields["at"] else "wb") as file:
            file.seek(fields["at"])
            file.write(zlib.decompress(payload))
        if fields["last"]:
            os.rename(path + ".part", path)

    def store(self, blobs: list[list[Any]], data: bytes) -> None:
        at = 0
        for blob, size in blobs:
            path = os.path.join(self.home, "blobs", blob)
            with open(path + ".part", "wb") as file:
                file.write(data[at : at + size])
            os.rename(path + ".part", path)
            at += size

    def outside(self, path: str) -> str:
        """Where something of arf's machine that is in no work tree is kept here."""
        return os.path.join(self.home, "outside", path.lstrip("/"))

    def there(self, target: str) -> str:
        """The same for a link of a work tree: a folder is made where nothing is and one may be."""
        path = self.outside(target)
        if not os.path.exists(path) and not os.path.splitext(path)[1]:
            os.makedirs(path)
        return path

    def do_ask(self, fields: dict[str, Any], _: bytes) -> None:
        """Which of some things outside of the trees are here."""
        there = [path for path in fields["paths"] if os.path.lexists(self.outside(path))]
        self.tell(there=there, paths=fields["paths"])

    def do_file(self, fields: dict[str, Any], payload: bytes) -> None:
        """A part of a file that is outside of the trees; it is put in its place when all are here."""
        path = os.path.join(self.home, "staging", fields["path"].lstrip("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "r+b" if fields["at"] else "wb") as file:
            file.seek(fields["at"])
            file.write(payload)
        os.chmod(path, int(fields["mode"], 8))

    def do_place(self, fields: dict[str, Any], _: bytes) -> None:
        source, target = (
            os.path.join(self.home, "staging", fields["path"].lstrip("/")),
            self.outside(fields["path"]),
        )
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.exists(source):
            os.makedirs(source)  # an empty folder
        if os.path.isdir(target) and not os.listdir(target):
            os.rmdir(target)
        if not os.path.lexists(target):
            os.rename(source, target)
        self.tell(placed=fields["path"])

    def do_cancel(self, fields: dict[str, Any], _: bytes) -> None:
        handle = fields["handle"]
        if claim(self.home, handle, ARF):
            self.tell(line={"end": handle, "code": None, "why": "cancel", "message": "", "seconds": 0.0,
                            "unstarted": True, "at": time.time()}, source="", offset=0)  # fmt: skip
            return
        try:
            with open(os.path.join(self.home, "claims", handle), encoding="utf-8") as file:
                token, _dot, index = file.read().rpartition(".")
        except OSError:
            return
        if token:
            append(os.path.join(self.home, "batches", token, index + ".orders"), "cancel " + handle)
        else:  # it was ended here before, and arf has not heard of it
            self.tell(line={"end": handle, "code": None, "why": "cancel", "message": "", "seconds": 0.0,
                            "unstarted": True, "at": time.time()}, source="", offset=0)  # fmt: skip

    def do_done(self, fields: dict[str, Any], _: bytes) -> None:
        handle = fields["handle"]
        self.followed.pop(handle, None)
        shutil.rmtree(os.path.join(self.home, "trees", handle), ignore_errors=True)
        for name in ("sent", "logs"):
            try:
                os.unlink(os.path.join(self.home, name, handle))
            except OSError:
                pass  # it never ran

    # ---- What it tells ----------------------------------------------------------------------

    def look(self) -> None:
        for token in sorted(os.listdir(os.path.join(self.home, "batches"))):
            folder = os.path.join(self.home, "batches", token)
            for name in sorted(os.listdir(folder)):
                if name.endswith(".journal"):
                    self.read_journal(f"{token}/{name}", os.path.join(folder, name))
        for handle in list(self.followed):
            self.send_log(handle)

    def read_journal(self, source: str, path: str) -> None:
        lines = Lines(path)
        lines.offset = self.read_to.get(source, 0)
        for line, offset in lines.read_with_offsets():
            self.read_to[source] = offset
            fields = loads(line)
            handle = fields.get("end", "")
            if handle in self.followed:
                self.send_log(handle)
                self.send_files(handle)
            self.tell(line=fields, source=source, offset=offset)
            if "beat" not in fields:
                self.news_at = time.monotonic()

    def send_log(self, handle: str) -> None:
        try:
            with open(os.path.join(self.home, "logs", handle), "rb") as file:
                file.seek(self.followed[handle])
                while True:
                    data = file.read(CHUNK)
                    if not data:
                        return
                    self.tell(data, log=handle, at=self.followed[handle])
                    self.followed[handle] += len(data)
        except OSError:
            return  # it has not started

    def send_files(self, handle: str) -> None:
        """Send what the job has written or changed in its tree, up to a limit, and name what it removed."""
        root = os.path.join(self.home, "trees", handle)
        sent = read_json(os.path.join(self.home, "sent", handle))
        if not sent or not os.path.isdir(root):
            return
        most = int(self.settings["return_mb"] * 2**20)
        changes = Changes(root, sent["files"], sent["links"], most)
        for name, mode, data in changes:
            self.tell(zlib.compress(data, 1), file=name, handle=handle, mode=mode)
        self.tell(files=handle, removed=changes.removed, left_there=changes.too_large)
