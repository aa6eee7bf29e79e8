"""Keeps a worker for each slot of a node that arf reaches over a connection, as long as there is work.

Its TOKEN names the batch of its workers and their queue; the next foreman of the node has another one. What
it has to do (`foreman.json`), a relay has written down. It ends when there has been nothing to do for long,
when arf is gone and nothing is left to do, when it is told to, and when its folder is gone; its workers end
with it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time

from .files import Journal, Lease, Lines, Over, Presence, append, loads, read_json, write_json
from .gpus import FoundDevices, GivenDevices, variables
from .processes import adopt_orphans, descendants, end_with_parent, signal_one
from .worker import THREADS, Worker

TYPE_CHECKING = False  # as mypy reads it; importing typing would take longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

FOREVER_S = 1e9
NOT_THE_JOBS = ("SLURM", "SRUN_", "SSH_", "SKYPILOT_", "SKY_", "PMI", "PMIX", "ARF_")
"""Variables of the cluster's job that frameworks would misread, by their beginnings."""
NOT_THE_JOBS_EITHER = ("PS1", "OLDPWD", "PWD", "SHLVL", "_", "MAIL", "PYTHONWARNINGS", "OMP_NUM_THREADS")
PROGRAM = (sys.executable, "-S", "-E", sys.argv[0])
"""This program again."""
LOCK_S = 150.0
"""How long the workers of a foreman that died may take to end, before the next one gives up."""
END_S = 5.0
"""How long workers whose folder is gone may take to end, beyond their jobs' grace."""
DEATHS = 3
"""Workers of a slot that die within seconds, one after the other, before the slot is given up."""


class NodeWorker(Worker):
    """A worker whose jobs get the environment of the node, not that of arf's machine."""

    def hello(self) -> dict[str, Any]:
        end_with_parent()
        return {"hello": socket.gethostname(), "slot": os.environ.get("ARF_SLOT", ""), "pid": os.getpid()}

    def environment(self, given: dict[str, str], log: int) -> dict[str, str]:
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(NOT_THE_JOBS) and name not in NOT_THE_JOBS_EITHER
        }
        own["OMP_NUM_THREADS"] = os.environ.get("ARF_THREADS", "1")
        for name in THREADS:
            own.setdefault(name, own["OMP_NUM_THREADS"])
        own.setdefault("PYTHONUNBUFFERED", "1")
        return super().environment(dict(own, **given), log)


class Foreman:
    """Keeps a worker for each slot, until there has been nothing to do for long."""

    def __init__(self, home: str, token: str) -> None:
        self.home = home
        self.token = token
        self.folder = os.path.join(home, "batches", token)
        self.settings = read_json(os.path.join(home, "foreman.json"))
        self.presence = Presence(os.path.join(home, "foreman.json"))
        self.lease = Lease(home)
        self.orders = Lines(os.path.join(self.folder, "foreman.orders"))
        self.devices: GivenDevices | FoundDevices = (
            FoundDevices(self.settings["find"])
            if self.settings.get("find")
            else GivenDevices(int(self.settings["slots"]), int(self.settings["gpus"]))
        )
        self.queue = Lines(os.path.join(home, "queues", token))
        self.waiting: list[str] = []
        self.term = False
        self.children: dict[int, subprocess.Popen[bytes]] = {}
        self.started: dict[int, float] = {}
        self.deaths: dict[int, int] = {}
        self.journals: dict[int, Lines] = {}
        self.busy: dict[int, bool] = {}
        self.orphans: list[int] = []
        """What killed workers left behind, to be reaped."""

    def main(self) -> int:
        try:
            os.mkdir(os.path.join(self.home, "tokens", self.token))
        except FileExistsError:
            return 0  # a launch that was made twice
        # Held to the end, by the workers too.
        lock = open(os.path.join(self.home, "lock"), "a")  # noqa: SIM115
        os.set_inheritable(lock.fileno(), True)
        if not take_lock(lock.fileno()):
            print("another foreman is at work here", flush=True)
            return 1
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.on_term)
        adopt_orphans()
        os.nice(int(self.settings.get("nice", 0)))
        own = Journal(os.path.join(self.folder, "foreman.journal"), FOREVER_S, self.presence.check)
        try:
            self.bury()
            slots = self.prepare()
            own.insist(up=self.token, slots=slots, host=socket.gethostname())
            self.work(slots, lock.fileno(), own)
            own.insist(closed=self.token)
        except Over as error:
            print(f"arf's foreman ends: {error}", flush=True)
            self.end_all()
            return 1
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
                for line in Lines(path).read() if name.endswith(".journal") else ():
                    fields = loads(line)
                    running = fields.get("start", "" if "end" in fields else running)
                if running:
                    Journal(path, FOREVER_S, self.presence.check).insist(
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
            "lease_s": FOREVER_S,
            "setup": self.settings.get("setup", ""),
            "wrap": self.settings.get("wrap", ""),
        }
        write_json(os.path.join(self.folder, "batch.json"), batch)
        open(self.queue.path, "a").close()
        return slots

    def work(self, slots: int, lock: int, own: Journal) -> None:
        idle_since = time.monotonic()
        self.journals = {i: Lines(os.path.join(self.folder, f"{i}.journal")) for i in range(slots)}
        draining, told = False, slots
        while True:
            self.presence.check()
            self.term = self.term or "end" in self.orders.read()
            self.reap()
            alive = [index for index in range(slots) if self.deaths.get(index, 0) < DEATHS]
            idle = [index for index in self.children if not self.busy.get(index)]
            usable = self.devices.usable(alive, idle, list(self.children))
            for index in idle:
                if index not in usable:
                    self.order(index, "leave")
            if len(usable) != told:
                told = len(usable)
                own.insist(slots=told)
            for index in usable:
                if index not in self.children and not self.term and (not draining or self.has_work()):
                    draining = False
                    self.start(index, slots, lock)
            self.listen()
            if any(self.busy.values()) or self.has_work():
                idle_since = time.monotonic()
            idle_s = time.monotonic() - idle_since
            forgotten = idle_s > 1.0 and self.lease.age_s() > self.settings["lease_s"]
            if self.term:
                for child in self.children.values():
                    signal_one(child.pid, signal.SIGTERM)
            elif not draining and (forgotten or idle_s > self.settings["idle_s"]):
                draining = True
                self.order_all("drain")
            if not self.children and (draining or self.term or not alive):
                return
            time.sleep(0.2)

    def end_all(self) -> None:
        """End the workers, whether they obey or not, and all that they have begun."""
        limit = time.monotonic() + self.settings["grace_s"] + END_S
        for child in self.children.values():
            signal_one(child.pid, signal.SIGTERM)
        while any(child.poll() is None for child in self.children.values()) and time.monotonic() < limit:
            time.sleep(0.1)
        self.children.clear()
        self.sweep()

    def start(self, index: int, slots: int, lock: int) -> None:
        self.order(index, "stay")
        share = self.devices.share(index)
        slot = "gpu" + ",".join(share) if share else str(index)
        env = dict(os.environ, ARF_SLOT=slot, **variables(share))
        env["ARF_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // slots))
        self.children[index] = subprocess.Popen(
            [*PROGRAM, "node-worker", self.home, self.token, str(index)],
            env=env,
            stdin=subprocess.DEVNULL,
            pass_fds=(lock, *self.devices.files(index)),
        )
        self.started[index] = time.monotonic()

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
            lines = Lines(os.path.join(self.folder, f"{index}.journal")).read()
            if not lines or "bye" not in loads(lines[-1]):
                path = os.path.join(self.folder, f"{index}.journal")
                Journal(path, FOREVER_S, self.presence.check).insist(died=child.returncode)
                self.sweep()
            brief = time.monotonic() - self.started[index] < 10.0
            self.deaths[index] = self.deaths.get(index, 0) + 1 if brief and child.returncode else 0
            self.busy[index] = False

    def sweep(self) -> None:
        """End what a worker that was killed has left behind: it has the slot's GPUs."""
        workers = [child.pid for child in self.children.values()]
        spared = set(workers).union(*map(descendants, workers))
        for pid in descendants(os.getpid()):
            if pid not in spared:
                signal_one(pid, signal.SIGKILL)
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


def take_lock(lock: int, wait: Callable[[], None] = lambda: None) -> bool:
    """Whether no other foreman, and none of its workers, is left here; `wait` is called while there is
    one."""
    limit = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() > limit:
                return False
            wait()
            time.sleep(0.2)
