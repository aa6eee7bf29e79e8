"""What Slurm's words for a job mean: for the job that a worker was running, and for people who wait."""

from __future__ import annotations

from arf.types import JobState
from arf_plugins.backend_slurm.executor import Sight
from arf_plugins.worker_pool.folder import Worker


def verdict(worker: Worker, sight: Sight | None, *, pool: bool) -> tuple[JobState, str, str]:
    """What became of a worker's job, by what Slurm says of the worker: (state, message, one word)."""
    state = sight.state if sight else ""
    where = f" on {worker.slot}" if worker.slot else ""
    if state == "PREEMPTED":
        return JobState.PREEMPTED, f"preempted{where}", "preempted"
    if state in ("NODE_FAIL", "BOOT_FAIL"):
        return JobState.LOST, f"the node failed{where}", "node failed"
    if state == "OUT_OF_MEMORY":
        return JobState.FAILED, f"killed by Slurm{where}: out of memory", "out of memory"
    if state in ("TIMEOUT", "DEADLINE"):
        if pool:
            return JobState.PREEMPTED, f"Slurm's time limit ended its worker{where}", "at its time limit"
        return JobState.TIMED_OUT, "ended at Slurm's time limit", "at its time limit"
    if state == "CANCELLED":
        if pool:
            return JobState.PREEMPTED, f"its worker{where} was ended with scancel", "cancelled"
        return JobState.CANCELLED, "cancelled with scancel", "cancelled"
    if worker.doubtful:
        return JobState.PREEMPTED, f"Slurm has ended it{where}", "ended by Slurm"
    said = f"Slurm says {state}" if state else "Slurm does not know it any more"
    return JobState.LOST, f"its worker{where} is gone and left no exit code ({said})", "died"


def advice(reason: str) -> str:
    """What to do about a reason that a job waits for."""
    low = reason.lower()
    for words, what in (
        ("priority", "others are before it: it will start"),
        ("resources", "the slots are in use: it will start"),
        ("partitiontimelimit", "lower backend.worker_time: the partition allows less"),
        ("partition", "the partition is closed: `scontrol show partition` says more"),
        ("qos", "a limit of the QOS is reached: set fewer backend.slots, or another qos"),
        ("assoc", "a limit of the account is reached: set fewer backend.slots, or another account"),
        ("badconstraints", "no node has what is asked for: look at gres, directives and memory"),
        ("reqnode", "the nodes are down or reserved: `sinfo -R` says more"),
        ("held", "it is held: `scontrol release` lets it go"),
        ("launch failed", "the nodes could not start it: ask the administrators"),
    ):
        if words in low:
            return what
    return "`squeue --start` may say when it will start"
