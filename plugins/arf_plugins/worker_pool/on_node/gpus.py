"""The GPUs of a node: which there are, which others use, and which slot has which."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time

from .worker import DEVICES

TYPE_CHECKING = False  # as mypy reads it; importing typing would take longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

SOON_S, LOOK_S = 3.0, 15.0
"""Between two looks at who uses the GPUs: while some slot has none, and else."""
QUERY = "index,uuid,name,memory.total,memory.used"


class Gpu:
    """One GPU, as nvidia-smi shows it."""

    def __init__(self, line: str, used: Sequence[str]) -> None:
        self.index, self.uuid, self.name, memory_mb, used_mb = [word.strip() for word in line.split(",")]
        self.memory_mb, self.used_mb = float(memory_mb), float(used_mb)
        self.has_processes = self.uuid in used

    def is_busy(self, busy_mb: float) -> bool:
        """Whether somebody uses it, by its processes and its memory."""
        return self.has_processes or self.used_mb > busy_mb


def gpus() -> list[Gpu]:
    """All GPUs; none where there is no nvidia-smi. What cannot be read of a GPU has it left out."""
    used = [line.partition(",")[0].strip() for line in _ask("--query-compute-apps=gpu_uuid,pid")]
    found = []
    for line in _ask(f"--query-gpu={QUERY}"):
        try:
            found.append(Gpu(line, used))
        except ValueError:
            continue  # fallen off the bus: `[Unknown Error]`
    return found


def _ask(query: str) -> list[str]:
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.decode("utf-8", "replace").splitlines() if done.returncode == 0 else []


class GivenDevices:
    """The GPUs of a node that is arf's alone, in equal shares."""

    def __init__(self, slots: int, count: int) -> None:
        self.slots = slots
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        self.names = [str(i) for i in range(count)] if given is None else [n for n in given.split(",") if n]

    def usable(self, slots: list[int], idle: Sequence[int], workers: Sequence[int]) -> list[int]:
        return slots

    def share(self, index: int) -> list[str]:
        each = max(1, len(self.names) // self.slots)
        return self.names[index * each : (index + 1) * each]

    def files(self, index: int) -> list[int]:
        return []


class FoundDevices:
    """The GPUs of a machine that others use too: only those that are free, each held by one slot of all
    studies.

    `wanted` has `uuids`, `each` (GPUs for a slot) and `busy_mb`. Who holds a GPU has a lock on a file, which
    its workers have too; users do not see each other's locks, so what is in use is left alone as well.
    """

    def __init__(self, wanted: dict[str, Any]) -> None:
        self.wanted = wanted
        self.folder = os.path.expanduser("~/.arf/gpus")
        self.held: dict[int, dict[str, tuple[str, int]]] = {}
        """By slot and UUID: the index of the GPU, and its lock."""
        self.lost: set[int] = set()
        self.busy: set[str] = set()
        self.free: list[Gpu] = []
        self.looked_at = 0.0

    def usable(self, slots: list[int], idle: Sequence[int], workers: Sequence[int]) -> list[int]:
        """The slots that have GPUs. Those of `idle` slots that somebody else has begun to use are lost to
        it."""
        missing = any(index not in self.held for index in slots)
        if not self.looked_at or time.monotonic() - self.looked_at > (SOON_S if missing else LOOK_S):
            self._look()
            self.lost.update(i for i in idle if any(uuid in self.busy for uuid in self.held.get(i, ())))
        for index in [index for index in self.held if index not in workers]:
            if index in self.lost or index not in slots:
                self._release(index)
        for index in slots:
            if index not in self.held:
                self._take(index)
        return [index for index in slots if index in self.held and index not in self.lost]

    def share(self, index: int) -> list[str]:
        return [number for number, _ in self.held[index].values()]

    def files(self, index: int) -> list[int]:
        """What a slot's worker inherits: the locks."""
        return [lock for _, lock in self.held[index].values()]

    def _look(self) -> None:
        self.looked_at = time.monotonic()
        mine = [gpu for gpu in gpus() if gpu.uuid in self.wanted["uuids"]]
        self.busy = {gpu.uuid for gpu in mine if gpu.is_busy(self.wanted["busy_mb"])}
        self.free = [gpu for gpu in mine if gpu.uuid not in self.busy]

    def _take(self, index: int) -> None:
        taken = {uuid for held in self.held.values() for uuid in held}
        self.held[index] = {}
        for gpu in self.free:
            if len(self.held[index]) < self.wanted["each"] and gpu.uuid not in taken:
                lock = self._lock(gpu.uuid)
                if lock is not None:
                    self.held[index][gpu.uuid] = gpu.index, lock
        if len(self.held[index]) < self.wanted["each"]:
            self._release(index)

    def _lock(self, uuid: str) -> int | None:
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        lock = os.open(os.path.join(self.folder, uuid), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return None
        return lock

    def _release(self, index: int) -> None:
        self.lost.discard(index)
        for _, lock in self.held.pop(index).values():
            os.close(lock)


def variables(share: Sequence[str]) -> dict[str, str]:
    """What tells a job its GPUs."""
    if not share:
        return {}
    names = ["CUDA_VISIBLE_DEVICES"] + [name for name in DEVICES[1:5] if name in os.environ]
    return dict.fromkeys(names, ",".join(share))


def probe() -> dict[str, Any]:
    """What a machine has, for whoever is to decide how to use it."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "gpus": [
            {
                "index": gpu.index, "uuid": gpu.uuid, "name": gpu.name, "memory_mb": gpu.memory_mb,
                "used_mb": gpu.used_mb, "processes": gpu.has_processes,
            }
            for gpu in gpus()
        ],
    }  # fmt: skip
