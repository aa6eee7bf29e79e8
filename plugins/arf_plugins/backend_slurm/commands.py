"""Slurm's commands, and what their errors mean."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from arf.errors import BackendError
from arf_plugins.worker_pool.pool import Unreachable

COMMAND_TIMEOUT_S = 90.0
"""A busy controller takes its time: Slurm's own limit for a message is 10 s, with retries."""
KEPT_VARIABLES = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "LD_LIBRARY_PATH", "SLURM_CONF")
"""What Slurm's commands, and with them the batch script, see of arf's environment: no keys, and no SLURM_* of
a job that arf itself may run in."""
TRANSIENT = re.compile(
    r"unable to contact|timed out|timeout|connection refused|connection reset|temporarily|try again|"
    r"zero bytes|not responding|controller is in|"
    r"backup controller|communication|unexpected message|no route to host|"
    r"network is unreachable|socket|rate limit",
    re.IGNORECASE,
)
LIMITED = re.compile(
    r"accounting/QOS policy|QOS\w*(Limit|Max)|Assoc\w*Limit|submit limit|too many", re.IGNORECASE
)


class LimitReached(BackendError):
    """Slurm takes no more jobs for now: a quota, of the user or of the account."""


def require() -> None:
    """Raises BackendError if this machine has no Slurm commands."""
    missing = [name for name in ("sbatch", "squeue", "scancel", "sinfo", "srun") if not shutil.which(name)]
    if missing:
        raise BackendError(
            f"no {missing[0]} on PATH: this machine cannot submit to Slurm",
            hint="run arf on a login node of the cluster (or `module load slurm`)",
        )


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in KEPT_VARIABLES}
    kept.update((name, value) for name, value in os.environ.items() if name.startswith("LC_"))
    return kept


def run(*command: str) -> str:
    """What a command prints. Blocks. Raises Unreachable or BackendError."""
    try:
        done = subprocess.run(
            command,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise BackendError(
            f"{command[0]} cannot be run: {error.strerror}", hint="run arf on a login node of the cluster"
        ) from error
    except subprocess.TimeoutExpired:
        raise Unreachable(f"{command[0]} did not answer within {COMMAND_TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise explain(command[0], done.stderr.decode("utf-8", "replace"))
    return done.stdout.decode("utf-8", "replace")


def explain(command: str, text: str) -> BackendError:
    """An error of a Slurm command, with what to do about it where that is known."""
    lines = [re.sub(r"^\w+: (error: )?", "", line).strip() for line in text.splitlines()]
    lines = [line for line in lines if line and "pmix" not in line.lower()]
    message = "; ".join(dict.fromkeys(lines[:3])) or "it failed and did not say why"
    kind = Unreachable if TRANSIENT.search(text) else LimitReached if LIMITED.search(text) else BackendError
    return kind(f"{command}: {message}", hint=_hint(text, kind))


def _hint(text: str, kind: type[BackendError]) -> str:
    if kind is Unreachable:
        return "is the controller up? `scontrol ping` says"
    if kind is LimitReached:
        return "`sacctmgr show assoc user=$USER` and `... show qos` have the limits; set fewer backend.slots"
    low = text.lower()
    for words, hint in (
        ("invalid partition", "`sinfo -s` shows the partitions; set backend.partition"),
        ("invalid account", "set backend.directives.account; `sacctmgr show assoc user=$USER` shows yours"),
        ("invalid qos", "set backend.directives.qos; `sacctmgr show assoc user=$USER` shows yours"),
        ("generic resource", "`sinfo -o '%P %G'` shows what there is; set gres of the tier"),
        ("node configuration", "no node has so much: look at gres, cpus_per_job and memory"),
        ("time limit", "set backend.worker_time to what the partition allows (`sinfo -o '%P %l'`)"),
        ("unrecognized option", "look at backend.directives: `man sbatch` has the names"),
        ("fetch config", "this machine is not set up for a cluster: run arf on a login node"),
        ("slurm.conf", "this machine is not set up for a cluster: run arf on a login node"),
        ("access/permission", "you may not use it: ask for access, or choose another partition or account"),
    ):
        if words in low:
            return hint
    return "try the batch script by hand: the study's backend folder has it" if "batch" in low else ""
