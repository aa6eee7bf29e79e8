"""Takes jobs from a folder and runs them, one at a time. The package says what is in that folder."""

from __future__ import annotations

import errno
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import time

from .files import Journal, Lease, Lines, Over, Presence, claim, read_json
from .processes import adopt_orphans, descendants, has_children, signal_group, signal_one

TYPE_CHECKING = False  # as mypy reads it; importing typing would take longer than all the rest
if TYPE_CHECKING:
    from typing import Any

DEVICES = (
    "CUDA_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "NVIDIA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "CUDA_MPS_PIPE_DIRECTORY",
    "CUDA_MPS_LOG_DIRECTORY",
)
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
)
LINGER_S = 0.5
"""What a job leaves behind may end by itself for so long."""
SLURM_S = 1.0
"""If it was Slurm that has ended a job with a signal, this worker gets that signal too within so long."""
STOPPED_S = 5.0
"""A pause in this loop that is longer was Slurm's (a suspended job): it does not count against a limit."""
MARGIN_S = 20.0
"""Before the end that Slurm has set: to end what runs, and to write that down."""
TERM_S = 5.0
"""How long a worker that was told to end by a signal tries to write that down."""
SHORTEST_S, LONGEST_S = 0.01, 1.0
"""Between two looks for orders, or for a job: short after the last event, then longer and longer."""


class Worker:
    """Takes job after job, until there is nothing more for it to do."""

    def __init__(self, home: str, batch: str, index: str) -> None:
        self.home = home
        self.folder = os.path.join(home, "batches", batch)
        self.name = f"{batch}.{index}"
        with open(os.path.join(self.folder, "batch.json"), encoding="utf-8") as file:
            self.batch = json.load(file)
        only = self.batch["only"]
        self.only = only[int(index)] if only else None
        journal = os.path.join(self.folder, index + ".journal")
        self.journal = Journal(journal, self.batch["heartbeat_s"], self.check)
        self.orders = Lines(os.path.join(self.folder, index + ".orders"))
        self.queue = Lines(os.path.join(home, "queues", self.batch["tier"]))
        self.waiting: list[str] = []
        self.cancelled: set[str] = set()
        self.draining = False
        self.leaving = False
        self.ending = False
        self.term_at = 0.0
        """When it was told to end by a signal; 0: it was not."""
        self.presence = Presence(os.path.join(self.folder, "batch.json"))
        self.lease = Lease(home)
        self.set_up: dict[str, dict[str, str]] = {}
        self.born = time.monotonic()
        self.ends = self.born + self.batch["time_s"] - MARGIN_S
        self.wakeup = self.listen()

    def listen(self) -> int:
        """Signals wake whoever waits for the pipe that is returned."""
        reader, writer = os.pipe()
        for fd in (reader, writer):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.on_term)
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT):
            signal.signal(number, lambda *_: None)
        return reader

    def on_term(self, *_: Any) -> None:
        self.term_at = self.term_at or time.monotonic()

    @property
    def term(self) -> bool:
        return bool(self.term_at)

    def check(self) -> None:
        """Asked while the journal cannot be written. Raises Over if nobody reads it, or no time is left."""
        self.presence.check()
        if self.term and time.monotonic() - self.term_at > TERM_S:
            raise Over("it was told to end")

    def sleep(self, seconds: float) -> None:
        """Until then, or until a signal."""
        if select.select([self.wakeup], [], [], max(0.0, seconds))[0]:
            try:
                os.read(self.wakeup, 4096)
            except BlockingIOError:
                pass

    # ---- Taking jobs ------------------------------------------------------------------------

    def main(self) -> int:
        adopt_orphans()
        try:
            self.journal.insist(**self.hello())
            reason = "once" if self.only else self.work()
            if self.only:
                self.heed()
                self.run_if_mine(self.only)
            self.journal.insist(bye=reason)
        except Over as error:
            print(f"arf's worker ends: {error}", flush=True)
            return 1
        return 0

    def hello(self) -> dict[str, Any]:
        slurm = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID", "")
        host = socket.gethostname().split(".")[0]
        return {"hello": host, "slurm": slurm, "slot": place(), "pid": os.getpid()}

    def work(self) -> str:
        """Take job after job, and say why there will be no more."""
        idle_since = time.monotonic()
        while True:
            self.heed()
            if self.term:
                return "terminated"
            if self.ending:
                return "told to end"
            if self.leaving:
                return "set aside"
            draining = self.draining  # before the look at the queue: what was ordered before it is done
            outcome = self.take()
            if outcome == "ran":
                idle_since = time.monotonic()
                continue
            idle_s = time.monotonic() - idle_since
            if outcome == "no time" or time.monotonic() > self.ends:
                return "its time is up"
            if draining:
                return "drained"
            if idle_s > self.batch["idle_s"]:
                return "idle"
            if self.lease.age_s() > self.batch["lease_s"]:
                return "arf is gone"
            self.journal.beat()
            self.sleep(min(max(idle_s / 10, SHORTEST_S), LONGEST_S))

    def heed(self) -> None:
        """Take in what arf has said. Raises Over if the folder is gone."""
        self.presence.check()
        for line in self.orders.read():
            word, _, rest = line.partition(" ")
            if word == "cancel":
                self.cancelled.add(rest)
            elif word in ("drain", "stay"):
                self.draining = word == "drain"
                self.leaving = False
            elif word == "leave":
                self.leaving = True
            elif word == "end":
                self.ending = True

    def take(self) -> str:
        """Run the first job in the queue that nobody else has taken."""
        self.waiting += self.queue.read()
        while self.waiting:
            handle = self.waiting[0]
            if not os.path.exists(os.path.join(self.home, "claims", handle)):
                job = read_json(os.path.join(self.home, "jobs", handle))
                if job:
                    left_s = self.ends - time.monotonic()
                    if job["time_limit_s"] + self.batch["grace_s"] > left_s:
                        return "no time"
            self.waiting.pop(0)
            if self.run_if_mine(handle):
                return "ran"
        return "nothing"

    def run_if_mine(self, handle: str) -> bool:
        job = read_json(os.path.join(self.home, "jobs", handle))
        if not job or not claim(self.home, handle, self.name):
            return False
        self.run(handle, job)
        return True

    # ---- Running one ------------------------------------------------------------------------

    def run(self, handle: str, job: dict[str, Any]) -> None:
        self.journal.insist(start=handle)
        began = time.monotonic()
        try:
            log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        except OSError as error:
            self.end(handle, began, None, "error", f"no log at {job['log']}: {error.strerror}")
            return
        try:
            env = self.environment(job["env"], log)
            child, code, message = self.start(job, env, log)
        except SetUpFailed as error:
            self.end(handle, began, None, "term" if self.term else "setup", str(error))
            return
        finally:
            os.close(log)
        why = ""
        if child is not None:
            try:
                code, why = self.watch(handle, child, time.monotonic() + job["time_limit_s"])
            except Over:
                signal_group(child.pid, signal.SIGTERM)
                self.sweep(0.0)
                raise
            self.sweep(0.0 if why else LINGER_S)
        self.end(handle, began, code, why, message)

    def end(self, handle: str, began: float, code: int | None, why: str, message: str) -> None:
        seconds = time.monotonic() - began
        self.journal.insist(end=handle, code=code, why=why, message=message, seconds=seconds)

    def start(
        self, job: dict[str, Any], env: dict[str, str], log: int
    ) -> tuple[subprocess.Popen[bytes] | None, int | None, str]:
        """(process, None, ""), or (None, exit code, why)."""
        command = job["command"]
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        argv = shlex.split(self.batch["wrap"]) + argv
        if not os.path.isdir(job["directory"]):
            where = socket.gethostname()
            return None, 126, f"there is no folder {job['directory']} on {where}; is it shared?"
        try:
            child = subprocess.Popen(
                argv,
                cwd=job["directory"],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                restore_signals=True,
            )
        except OSError as error:
            code = 127 if error.errno == errno.ENOENT else 126
            return None, code, f"{argv[0]} cannot be run: {error.strerror}"
        return child, None, ""

    def watch(self, handle: str, child: subprocess.Popen[bytes], limit: float) -> tuple[int | None, str]:
        """Wait for the end of a job, or bring it about. (exit code or None, why it was ended)."""
        why, kill_at = "", 0.0
        began = seen = time.monotonic()
        while child.poll() is None:
            now = time.monotonic()
            if now - seen > STOPPED_S + LONGEST_S:
                limit += now - seen
            seen = now
            self.journal.beat()
            self.heed()
            if not why:
                why = self.reason_to_end(handle, now >= limit)
                if why:
                    signal_group(child.pid, signal.SIGTERM)
                    kill_at = now + self.batch["grace_s"]
            elif now >= kill_at:
                signal_group(child.pid, signal.SIGKILL)
            pause = min(max((now - began) / 20, SHORTEST_S), LONGEST_S)
            self.sleep(min(pause, max(0.0, (kill_at or limit) - now) + 0.005))
        code = child.returncode
        if not why and code in (-signal.SIGTERM, -signal.SIGKILL, 128 + signal.SIGTERM):
            self.await_slurm()
        if not why and self.term:
            why = "term"
        return code, why

    def await_slurm(self) -> None:
        """Slurm signals all processes of a step, in any order: was it Slurm that has ended the job?"""
        limit = time.monotonic() + SLURM_S
        while not self.term and time.monotonic() < limit:
            self.sleep(limit - time.monotonic())

    def reason_to_end(self, handle: str, late: bool) -> str:
        if self.term:
            return "term"
        if handle in self.cancelled:
            return "cancel"
        if self.ending:
            return "ended"
        return "timeout" if late else ""

    def sweep(self, linger_s: float) -> None:
        """End all that a job has left behind; only then is the slot free."""
        for number, patience_s in (
            (0, linger_s),
            (signal.SIGTERM, self.batch["grace_s"]),
            (signal.SIGKILL, 5.0),
        ):
            limit = time.monotonic() + patience_s
            pause_s = 0.005
            while has_children():
                if number:
                    for pid in descendants(os.getpid()):
                        signal_one(pid, number)
                if time.monotonic() >= limit:
                    break
                self.journal.beat()
                self.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.2)
            else:
                return

    # ---- The environment of a job -----------------------------------------------------------

    def environment(self, given: dict[str, str], log: int) -> dict[str, str]:
        """The job's own, with the devices that Slurm has given and what the set-up lines export."""
        env = dict(given)
        if env.get("TMPDIR") and not os.path.isdir(env["TMPDIR"]):
            del env["TMPDIR"]
        if "TMPDIR" in os.environ:
            env["TMPDIR"] = os.environ["TMPDIR"]
        for name in DEVICES:
            if name in os.environ:
                env[name] = os.environ[name]
        cpus = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE", "1")
        for name in THREADS:
            env.setdefault(name, cpus)
        env.setdefault("PYTHONHASHSEED", "0")
        if self.batch["setup"]:
            own = {name: value for name, value in env.items() if name.startswith("ARF_")}
            env = dict(self.after_setup({n: v for n, v in env.items() if n not in own}, log), **own)
        return env

    def after_setup(self, env: dict[str, str], log: int) -> dict[str, str]:
        """What an environment is after the set-up lines. They run once for each that differs."""
        key = json.dumps(env, sort_keys=True)
        if key not in self.set_up:
            reader, writer = os.pipe()
            script = f"set -e\n{self.batch['setup']}\nexec env -0 >&{writer}\n"
            child = subprocess.Popen(
                ["/bin/bash", "-c", script],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(writer,),
                start_new_session=True,
            )
            os.close(writer)
            data = self.read_all(reader, child.pid)
            code = child.wait()
            if code:
                raise SetUpFailed(f"the set-up lines failed with exit code {code} on {socket.gethostname()}")
            pairs = (item.partition(b"=") for item in data.split(b"\0") if item)
            after = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
            self.set_up[key] = {n: v for n, v in after.items() if n not in ("_", "SHLVL", "PWD", "OLDPWD")}
        return self.set_up[key]

    def read_all(self, fd: int, pid: int) -> bytes:
        """All that comes until the other side closes; Slurm's SIGTERM ends the other side."""
        data = b""
        with open(fd, "rb", buffering=0) as file:
            while True:
                if self.term:
                    signal_group(pid, signal.SIGKILL)
                if select.select([fd, self.wakeup], [], [], LONGEST_S)[0]:
                    self.sleep(0)
                if select.select([fd], [], [], 0)[0]:
                    part = file.read(65536)
                    if not part:
                        return data
                    data += part
                self.journal.beat()


class SetUpFailed(Exception):
    pass


def place() -> str:
    """Where this is, for people: `node7:gpu:0`."""
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname().split(".")[0]
    gpus = os.environ.get("SLURM_STEP_GPUS") or os.environ.get("SLURM_JOB_GPUS")
    return f"{node}:gpu:{gpus}" if gpus else node
