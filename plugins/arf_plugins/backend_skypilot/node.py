"""What runs on a cluster's node. Needs nothing but Python 3.7; `runner.py` and `unfold.py` lie beside it.

    python node.py foreman HOME TOKEN        SkyPilot's job on the cluster: keeps a worker for each slot
    python node.py worker HOME TOKEN INDEX   takes job after job, and runs them one at a time
    python node.py relay HOME                the far end of arf's SSH connection: hands in, and tells

The workers are those of the Slurm pool (`runner.py` says what is in HOME), with a queue, orders and journals
for each foreman, whose name is its TOKEN. A relay only writes down what arf says and reads what the workers
write: it can end at any time, and the next one goes on at the offsets that arf gives it.

A message is a line of JSON, with the key `bytes` where so many bytes follow it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib

TYPE_CHECKING = False  # as mypy reads it; importing typing would take longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from arf_plugins.backend_slurm import runner
    from arf_plugins.parcels import unfold
else:
    import runner
    import unfold

FOLDERS = (
    "batches", "queues", "jobs", "claims", "tokens", "logs", "trees", "sent", "blobs", "outside", "staging"
)  # fmt: skip
ARF = "arf"
"""Who has claimed a job that arf ended before any worker had it."""
FOREVER_S = 1e9
NOT_THE_JOBS = ("SLURM", "SRUN_", "SSH_", "SKYPILOT_", "SKY_", "PMI", "PMIX", "ARF_")
"""Variables of the cluster's job that frameworks would misread, by their beginnings."""
NOT_THE_JOBS_EITHER = ("PS1", "OLDPWD", "PWD", "SHLVL", "_", "MAIL", "PYTHONWARNINGS", "OMP_NUM_THREADS")
LOCK_S = 150.0
"""How long the workers of a foreman that died may take to end, before the next one gives up."""
CHUNK = 1 << 18
SHORTEST_S, LONGEST_S = 0.01, 0.5
BEAT_S = 10.0
DEATHS = 3
"""Workers of a slot that die within seconds, one after the other, before the slot is given up."""


# ---- The worker -----------------------------------------------------------------------------


class Worker(runner.Runner):
    """The pool's worker, in an environment that is the node's, not that of arf's machine."""

    def main(self) -> int:
        runner.adopt_orphans()
        ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)  # it ends with its foreman
        self.journal.insist(hello=socket.gethostname(), slot=os.environ.get("ARF_SLOT", ""), pid=os.getpid())
        self.journal.insist(bye=self.work())
        return 0

    def environment(self, given: dict[str, str], log: int) -> dict[str, str]:
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(NOT_THE_JOBS) and name not in NOT_THE_JOBS_EITHER
        }
        own["OMP_NUM_THREADS"] = os.environ.get("ARF_THREADS", "1")
        for name in runner.THREADS:
            own.setdefault(name, own["OMP_NUM_THREADS"])
        own.setdefault("PYTHONUNBUFFERED", "1")
        return super().environment(dict(own, **given), log)


# ---- The foreman ----------------------------------------------------------------------------


class Foreman:
    """Keeps a worker for each slot, until there has been nothing to do for long."""

    def __init__(self, home: str, token: str) -> None:
        self.home = home
        self.token = token
        self.folder = os.path.join(home, "batches", token)
        self.settings = read_json(os.path.join(home, "foreman.json"))
        self.queue = runner.Lines(os.path.join(home, "queues", token))
        self.waiting: list[str] = []
        self.term = False
        self.children: dict[int, subprocess.Popen[bytes]] = {}
        self.started: dict[int, float] = {}
        self.deaths: dict[int, int] = {}
        self.journals: dict[int, runner.Lines] = {}
        self.busy: dict[int, bool] = {}
        self.orphans: list[int] = []
        """What killed workers left behind, to be reaped."""

    def main(self) -> int:
        try:
            os.mkdir(os.path.join(self.home, "tokens", self.token))
        except FileExistsError:
            return 0  # a launch that was made twice
        lock = open(os.path.join(self.home, "lock"), "a")  # noqa: SIM115 -- it is held to the end, by the workers too
        os.set_inheritable(lock.fileno(), True)
        if not take_lock(lock.fileno()):
            print("another foreman is at work here", flush=True)
            return 1
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.on_term)
        runner.adopt_orphans()
        self.bury()
        slots = self.prepare()
        own = runner.Journal(os.path.join(self.folder, "foreman.journal"), FOREVER_S)
        own.insist(up=self.token, slots=slots, host=socket.gethostname())
        self.work(slots, lock.fileno())
        own.insist(closed=self.token)
        return 0

    def on_term(self, *_: Any) -> None:
        self.term = True

    def bury(self) -> None:
        """Say of the jobs that an earlier foreman's workers were running that they are gone."""
        batches = os.path.join(self.home, "batches")
        for token in sorted(os.listdir(batches)):
            for name in sorted(os.listdir(os.path.join(batches, token))):
                path = os.path.join(batches, token, name)
                running = ""
                for line in runner.Lines(path).read() if name.endswith(".journal") else ():
                    fields = loads(line)
                    running = fields.get("start", "" if "end" in fields else running)
                if running:
                    runner.Journal(path, FOREVER_S).insist(
                        end=running, code=None, why="gone", message="", seconds=0.0
                    )

    def prepare(self) -> int:
        """Make the files of a batch of workers, and say how many there are to be."""
        slots = int(self.settings["slots"])
        os.makedirs(self.folder, exist_ok=True)
        for index in range(slots):
            for kind in ("orders", "journal"):
                open(os.path.join(self.folder, f"{index}.{kind}"), "a").close()
        batch = {
            "name": self.token,
            "tier": self.token,
            "only": None,
            "time_s": FOREVER_S,
            "idle_s": FOREVER_S,
            "heartbeat_s": self.settings["heartbeat_s"],
            "grace_s": self.settings["grace_s"],
            "setup": "",
            "wrap": "",
        }
        write_json(os.path.join(self.folder, "batch.json"), batch)
        open(self.queue.path, "a").close()
        return slots

    def work(self, slots: int, lock: int) -> None:
        idle_since = time.monotonic()
        self.journals = {i: runner.Lines(os.path.join(self.folder, f"{i}.journal")) for i in range(slots)}
        draining = False
        while True:
            self.reap()
            for index in range(slots):
                missing = index not in self.children and self.deaths.get(index, 0) < DEATHS
                if missing and not self.term and (not draining or self.has_work()):
                    draining = False
                    self.start(index, slots, lock)
            self.listen()
            now = time.monotonic()
            if any(self.busy.values()) or self.has_work():
                idle_since = now
            if self.term:
                for child in self.children.values():
                    runner.signal_one(child.pid, signal.SIGTERM)
            elif not draining and now - idle_since > self.settings["idle_s"]:
                draining = True
                self.order_all("drain")
            if not self.children:
                return
            time.sleep(0.2)

    def start(self, index: int, slots: int, lock: int) -> None:
        self.order(index, "stay")
        devices, slot = self.share(index, slots)
        env = dict(os.environ, ARF_SLOT=slot, **devices)
        env["ARF_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // slots))
        self.children[index] = subprocess.Popen(
            [
                sys.executable,
                "-S",
                "-E",
                os.path.abspath(__file__),
                "worker",
                self.home,
                self.token,
                str(index),
            ],
            env=env,
            stdin=subprocess.DEVNULL,
            pass_fds=(lock,),
        )
        self.started[index] = time.monotonic()

    def share(self, index: int, slots: int) -> tuple[dict[str, str], str]:
        """The variables that give a slot its part of the GPUs, and what people call that part."""
        gpus = self.gpus()
        each = max(1, len(gpus) // slots)
        mine = gpus[index * each : (index + 1) * each]
        if not mine:
            return {}, str(index)
        names = ["CUDA_VISIBLE_DEVICES"] + [name for name in runner.DEVICES[1:5] if name in os.environ]
        return dict.fromkeys(names, ",".join(mine)), "gpu" + ",".join(mine)

    def gpus(self) -> list[str]:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        if given is not None:
            return [name for name in given.split(",") if name]
        return [str(i) for i in range(int(self.settings["gpus"]))]

    def reap(self) -> None:
        for pid in list(self.orphans):
            try:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    self.orphans.remove(pid)
            except ChildProcessError:
                self.orphans.remove(pid)
        for index, child in list(self.children.items()):
            if child.poll() is None:
                continue
            del self.children[index]
            lines = runner.Lines(os.path.join(self.folder, f"{index}.journal")).read()
            if not lines or "bye" not in loads(lines[-1]):
                path = os.path.join(self.folder, f"{index}.journal")
                runner.Journal(path, FOREVER_S).insist(died=child.returncode)
                self.sweep()
            brief = time.monotonic() - self.started[index] < 10.0
            self.deaths[index] = self.deaths.get(index, 0) + 1 if brief and child.returncode else 0
            self.busy[index] = False

    def sweep(self) -> None:
        """End what a worker that was killed has left behind: it has the slot's GPUs."""
        workers = [child.pid for child in self.children.values()]
        spared = set(workers).union(*map(runner.descendants, workers))
        for pid in runner.descendants(os.getpid()):
            if pid not in spared:
                runner.signal_one(pid, signal.SIGKILL)
                self.orphans.append(pid)

    def listen(self) -> None:
        for index, journal in self.journals.items():
            for line in journal.read():
                fields = loads(line)
                if "start" in fields or "end" in fields or "died" in fields:
                    self.busy[index] = "start" in fields

    def has_work(self) -> bool:
        claims = os.path.join(self.home, "claims")
        known = self.waiting + self.queue.read()
        self.waiting = [handle for handle in known if not os.path.exists(os.path.join(claims, handle))]
        return bool(self.waiting)

    def order_all(self, line: str) -> None:
        for index in self.children:
            self.order(index, line)

    def order(self, index: int, line: str) -> None:
        append(os.path.join(self.folder, f"{index}.orders"), line)


def take_lock(lock: int) -> bool:
    limit = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() > limit:
                return False
            time.sleep(0.5)


# ---- The relay ------------------------------------------------------------------------------


class Relay:
    def __init__(self, home: str) -> None:
        self.home = home
        self.input = b""
        self.read_to: dict[str, int] = {}
        """Offsets in journals, by `TOKEN/NAME`."""
        self.followed: dict[str, int] = {}
        """Offsets in the logs of jobs whose end arf waits for."""
        self.settings: dict[str, Any] = {}
        self.news_at = self.told_at = time.monotonic()

    def main(self) -> int:
        os.umask(0o077)
        for name in FOLDERS:
            os.makedirs(os.path.join(self.home, name), exist_ok=True)
        self.tell(
            relay=1,
            now=time.time(),
            home=self.home,
            have=os.listdir(os.path.join(self.home, "jobs")),
            blobs=os.listdir(os.path.join(self.home, "blobs")),
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
            self.look()
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
            head, line_end, rest = self.input.partition(b"\n")
            if not line_end:
                return
            fields = json.loads(head)
            length = fields.get("bytes", 0)
            if len(rest) < length:
                return
            self.input = rest[length:]
            self.news_at = time.monotonic()
            getattr(self, "do_" + fields["do"])(fields, rest[:length])

    def do_begin(self, fields: dict[str, Any], _: bytes) -> None:
        self.settings = fields["settings"]
        write_json(os.path.join(self.home, "foreman.json"), self.settings)
        self.read_to = fields["read_to"]
        self.followed = fields["follow"]

    def do_put(self, fields: dict[str, Any], payload: bytes) -> None:
        """Take a job in. Once only: the same job again is only followed, and queued for today's workers."""
        handle, job = fields["put"], fields["job"]
        path = os.path.join(self.home, "jobs", handle)
        self.followed.setdefault(handle, fields["log_at"])
        if not os.path.exists(path):
            self.store(fields["blobs"], zlib.decompress(payload))
            root = os.path.join(self.home, "trees", handle)
            if os.path.exists(root):
                shutil.rmtree(root)
            links = [(name, self.there(target)) for name, target in fields["links"]]
            unfold.build(root, fields["files"], links, os.path.join(self.home, "blobs"))
            job["directory"] = os.path.join(root, fields["cwd"]) if fields["cwd"] else root
            job["log"] = os.path.join(self.home, "logs", handle)
            sent = {"files": fields["files"], "links": links}
            write_json(os.path.join(self.home, "sent", handle), sent)
            write_json(path, job)
        queue = os.path.join(self.home, "queues", fields["queue"])
        if handle not in runner.Lines(queue).read():
            append(queue, handle)

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
        if runner.claim(self.home, handle, ARF):
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
        for line, offset in lines_from(path, self.read_to.get(source, 0)):
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
        changes = unfold.Changes(root, sent["files"], sent["links"], most)
        for name, mode, data in changes:
            self.tell(zlib.compress(data, 1), file=name, handle=handle, mode=mode)
        self.tell(files=handle, removed=changes.removed, left_there=changes.too_large)


def lines_from(path: str, offset: int) -> Iterator[tuple[str, int]]:
    """New whole lines of a file, each with the offset after it."""
    try:
        if os.stat(path).st_size <= offset:
            return
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read()
    except OSError:
        return
    for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
        offset += len(line)
        yield line.decode("utf-8", "replace"), offset


def loads(line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            return loads(file.read())
    except OSError:
        return {}


def write_json(path: str, fields: dict[str, Any]) -> None:
    part = os.path.join(os.path.dirname(path), "." + os.path.basename(path))
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(fields, file)
    os.rename(part, path)


def append(path: str, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, (line + "\n").encode())
    finally:
        os.close(fd)


if __name__ == "__main__":
    command, where = sys.argv[1], os.path.abspath(sys.argv[2])
    if command == "relay":
        sys.exit(Relay(where).main())
    if command == "foreman":
        sys.exit(Foreman(where, sys.argv[3]).main())
    sys.exit(Worker(where, sys.argv[3], sys.argv[4]).main())
