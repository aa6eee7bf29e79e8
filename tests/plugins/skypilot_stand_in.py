"""A stand-in for SkyPilot: clusters are folders of this machine, their jobs and SSH sessions are processes.

What runs in them (foreman, workers, relays) is the real thing. Tests say what goes wrong.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import define, field

from arf_plugins.backend_skypilot.sdk import JobSight, Offer, Sight
from arf_plugins.worker_pool.pool import Gone, NoCapacity, Refused

PATH = os.environ.get("PATH", os.defpath)


@define(kw_only=True)
class FakeCluster:
    home: Path
    task: Mapping[str, Any]
    state: str = "UP"
    jobs: list[subprocess.Popen[bytes]] = field(factory=list)
    sessions: list[int] = field(factory=list)


class StandIn:
    """Implements `Sky`. `catalogue` has dollars an hour by accelerator."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.catalogue = {"H100": 2.0, "H200": 3.0}
        self.clusters_by_name: dict[str, FakeCluster] = {}
        self.calls: list[tuple[str, str]] = []
        self.capacity: int | None = None
        self.problem: Exception | None = None
        """Raised by whatever is asked next, and from then on."""
        self.undead = False
        """Clusters cannot be taken down."""
        self.before_launch: Callable[[str], None] = lambda name: None
        self.tasks: list[Mapping[str, Any]] = []
        self._lock = threading.Lock()

    # ---- Sky --------------------------------------------------------------------------------

    def require(self) -> None:
        self._called("require", "")

    def enabled(self) -> Sequence[str]:
        self._called("enabled", "")
        return ["kubernetes"]

    def offer(self, task: Mapping[str, Any]) -> Offer:
        self._called("offer", "")
        accelerators = task["resources"].get("accelerators")
        if accelerators is None:
            return Offer(infra="kubernetes", usd_per_hour=0.5)
        name, _, count = str(accelerators).partition(":")
        if name not in self.catalogue:
            raise Refused(f"there is no {name}", hint="`sky gpus list`")
        return Offer(infra="kubernetes", usd_per_hour=self.catalogue[name] * int(count or 1), memory_gb=80.0)

    def launch(self, name: str, task: Mapping[str, Any], autodown_min: int) -> None:
        self._called("launch", name)
        self.before_launch(name)
        with self._lock:
            if name not in self.clusters_by_name:
                if self.capacity is not None and len(self.clusters_by_name) >= self.capacity:
                    raise NoCapacity("no H100 can be had", hint="wait")
                home = self.root / name
                shutil.rmtree(home, ignore_errors=True)
                home.mkdir(parents=True)
                self.clusters_by_name[name] = FakeCluster(home=home, task=task)
            self.tasks.append(task)
            self._run(self.clusters_by_name[name], task)

    def start_job(self, name: str, task: Mapping[str, Any]) -> None:
        self._called("start_job", name)
        self._run(self._cluster(name), task)

    def clusters(self, prefix: str, names: Collection[str] = (), *, look: bool = False) -> Sequence[Sight]:
        self._called("clusters", prefix)
        return [
            Sight(name=name, state=one.state, usd_per_hour=2.0, since=datetime.now(UTC), infra="kubernetes")
            for name, one in self.clusters_by_name.items()
            if name.startswith(prefix) and (not names or name in names)
        ]

    def jobs(self, name: str) -> Sequence[JobSight]:
        self._called("jobs", name)
        cluster = self._cluster(name)
        found = [JobSight(id=i, state=self._job_state(job)) for i, job in enumerate(cluster.jobs)]
        return found[::-1]

    def last_line(self, name: str, job_id: int) -> str:
        lines = (self._cluster(name).home / "job.log").read_text().splitlines()
        return lines[-1] if lines else ""

    def prepare_ssh(self, names: Collection[str]) -> None:
        self._called("prepare_ssh", ",".join(sorted(names)))

    def ssh(self, name: str, command: str) -> Sequence[str]:
        cluster = self.clusters_by_name.get(name)
        if cluster is None or cluster.state != "UP":
            return ["sh", "-c", "echo 'ssh: no such host' >&2; exit 255"]
        env = [f"HOME={cluster.home}", f"PATH={PATH}", f"STAND_IN={name}"]
        return ["env", "-i", *env, "sh", "-c", f"cd; echo Welcome; {command}"]

    def down(self, name: str) -> None:
        self._called("down", name)
        if self.undead:
            raise NoCapacity("the cloud does not answer")
        self.end(name)

    # ---- What tests do ----------------------------------------------------------------------

    def end(self, name: str) -> None:
        """Take a cluster away, with all that runs there."""
        cluster = self.clusters_by_name.pop(name, None)
        if cluster is not None:
            self._cut_power(name)
            for job in cluster.jobs:
                job.wait()

    def _cut_power(self, name: str) -> None:
        """End all processes of a cluster at one moment: none sees another end, none is begun meanwhile."""
        stopped: set[int] = set()
        while new := set(self.processes(name)) - stopped:
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            stopped |= new
        while self.processes(name):
            self.kill_all(name)

    def kill_all(self, name: str, number: int = signal.SIGKILL) -> None:
        """End all processes of a cluster; they have its name in their environment."""
        for pid in self.processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def processes(self, name: str, word: str = "") -> list[int]:
        """Those of a cluster, or those among them with a word among their arguments."""
        mark = f"STAND_IN={name}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment = (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_bytes().split(b"\0")
                if mark in environment and (not word or word.encode() in command):
                    found.append(int(folder.name))
        return found

    def close(self) -> None:
        self.calls.append(("close", ""))

    def end_all(self) -> None:
        for name in [*self.clusters_by_name]:
            self.end(name)

    def count(self, call: str) -> int:
        return sum(name == call for name, _ in self.calls)

    # ---- Parts ------------------------------------------------------------------------------

    def _called(self, call: str, what: str) -> None:
        self.calls.append((call, what))
        if self.problem is not None:
            raise self.problem

    def _cluster(self, name: str) -> FakeCluster:
        if name not in self.clusters_by_name:
            raise Gone(f"cluster {name} does not exist")
        return self.clusters_by_name[name]

    def _run(self, cluster: FakeCluster, task: Mapping[str, Any]) -> None:
        name = cluster.home.name
        env = {"HOME": str(cluster.home), "PATH": PATH, "STAND_IN": name, **task.get("envs", {})}
        script = f"{task.get('setup', '')}\n[ $? = 0 ] || exit 77\n{task['run']}"
        with (cluster.home / "job.log").open("ab") as out:
            cluster.jobs.append(
                subprocess.Popen(
                    ["/bin/bash", "-c", script], env=env, cwd=cluster.home, stdin=subprocess.DEVNULL,
                    stdout=out, stderr=out, start_new_session=True,
                )
            )  # fmt: skip

    @staticmethod
    def _job_state(job: subprocess.Popen[bytes]) -> str:
        code = job.poll()
        if code is None:
            return "RUNNING"
        return {0: "SUCCEEDED", 77: "FAILED_SETUP"}.get(code, "FAILED")
