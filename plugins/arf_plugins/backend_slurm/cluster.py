"""Slurm's commands: what there is, submitting, ending, and what became of jobs: one question for all."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from attrs import frozen

from arf.errors import BackendError, nearest
from arf.types import Scalar

COMMAND_TIMEOUT_S = 90.0
"""A busy controller takes its time: Slurm's own limit for a message is 10 s, with retries."""
KEPT_VARIABLES = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "LD_LIBRARY_PATH", "SLURM_CONF")
"""What Slurm's commands, and with them the batch script, see of arf's environment: no keys, and no SLURM_* of
a job that arf itself may run in."""
DEAD_STATES = ("DOWN", "DRAIN", "FAIL", "MAINT", "POWERED_DOWN", "INVAL", "UNKNOWN", "FUTURE")
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
OURS = (
    "nodes",
    "ntasks",
    "ntasks-per-node",
    "array",
    "output",
    "error",
    "export",
    "requeue",
    "no-requeue",
    "wrap",
)
"""Directives that arf sets itself: a slot is one task on one node."""


class Unreachable(BackendError):
    """The controller does not answer: nothing is known, and it may answer later."""


class LimitReached(BackendError):
    """Slurm takes no more jobs for now: a quota, of the user or of the account."""


@frozen(kw_only=True)
class Node:
    """A node in a partition."""

    name: str
    partition: str
    default: bool
    gres: tuple[tuple[str, str, int], ...]
    """(name, type or "", count)."""
    cpus: int
    state: str
    limit_s: float | None
    """The partition's; None: none."""

    @property
    def usable(self) -> bool:
        return not any(self.state.upper().startswith(dead) for dead in DEAD_STATES)


@frozen(kw_only=True)
class Sight:
    """What Slurm says of one job or array element."""

    name: str
    """The job's name, which arf gave it."""
    index: str
    """Of the array element; `0` for a job that is none."""
    job_id: str
    """What scancel takes."""
    state: str
    reason: str
    node: str

    @property
    def pending(self) -> bool:
        return self.state in ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")

    @property
    def live(self) -> bool:
        return self.pending or self.state in ("RUNNING", "SUSPENDED", "COMPLETING", "STOPPED", "STAGE_OUT")


@frozen(kw_only=True)
class Request:
    """A batch of equal Slurm jobs."""

    name: str
    folder: Path
    count: int
    partition: str | None
    gres: str | None
    cpus: int | None
    memory: str | None
    minutes: int
    directives: Mapping[str, Scalar]
    srun: tuple[str, ...]
    command: str
    """For bash; `$ARF_INDEX` is which of the batch it is."""
    leaves: str = ""
    """How a job's folder on the node's own disk is called, but for the index; empty: it has none."""


def require() -> None:
    """Raises BackendError if this machine has no Slurm commands."""
    missing = [name for name in ("sbatch", "squeue", "scancel", "sinfo", "srun") if not shutil.which(name)]
    if missing:
        raise BackendError(
            f"no {missing[0]} on PATH: this machine cannot submit to Slurm",
            hint="run arf on a login node of the cluster (or `module load slurm`)",
        )


# ---- What there is --------------------------------------------------------------------------


async def nodes() -> list[Node]:
    """All nodes, once for each partition that they are in. Raises BackendError."""
    text = await _output("sinfo", "-h", "-N", "-o", "%N|%P|%G|%c|%T|%l")
    return [node for line in text.splitlines() if (node := _node(line)) is not None]


def _node(line: str) -> Node | None:
    parts = line.split("|")
    if len(parts) != 6:
        return None
    name, partition, gres, cpus, state, limit = parts
    return Node(
        name=name,
        partition=partition.rstrip("*"),
        default=partition.endswith("*"),
        gres=parse_gres(gres),
        cpus=int(re.sub(r"\D.*", "", cpus) or 1),
        state=state,
        limit_s=parse_time(limit),
    )


def parse_gres(text: str) -> tuple[tuple[str, str, int], ...]:
    """`gpu:h100:2(S:0-1),nvme:1` as (name, type, count) each; what has no count has one."""
    found = []
    for item in re.sub(r"\([^)]*\)", "", text).split(","):
        name, *rest = item.strip().split(":")
        if not name or name == "null":
            continue
        count = 1
        if rest and (match := re.fullmatch(r"(\d+)([KMG]?)", rest[-1])):
            count = int(match[1]) * {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}[match[2]]
            rest = rest[:-1]
        found.append((name, rest[0] if rest else "", count))
    return tuple(found)


def parse_time(text: str) -> float | None:
    """`1-00:00:00`, `30:00` or `infinite` in seconds; None where there is no limit."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


# ---- Submitting -----------------------------------------------------------------------------


def batch_script(request: Request) -> str:
    """The batch script, by submitit. Raises BackendError for directives that cannot be passed on."""
    directives = {name.replace("_", "-"): value for name, value in request.directives.items()}
    for name in directives:
        if name in OURS:
            raise BackendError(
                f"the Slurm directive {name!r} is arf's to set", hint="take it out of backend.directives"
            )
    extra = {"open-mode": "append", "no-requeue": True, "export": "ALL", **directives}
    executor = submitit.SlurmExecutor(folder=str(request.folder).replace("%", "%%"))
    settings: dict[str, Any] = {
        "job_name": request.name,
        "time": request.minutes,
        "nodes": 1,
        "ntasks_per_node": 1,
        "partition": request.partition,
        "gres": request.gres,
        "cpus_per_task": request.cpus,
        "mem": request.memory,
        # No warning: Slurm gives one to all processes, up to half a minute too early, and it ends jobs.
        "signal_delay_s": 0,
        "wckey": None,
        "stderr_to_stdout": True,
        "srun_args": list(request.srun),
        "setup": [
            'export ARF_INDEX="${SLURM_ARRAY_TASK_ID:-0}"',
            # srun does not ask for as many CPUs as its job has since Slurm 22.05.
            'if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi',
        ],
        "additional_parameters": {key: value for key, value in extra.items() if value is not False},
    }
    if request.leaves:
        # A step that Slurm has ended cannot tidy up; `trap :` has this shell wait for the end of the step.
        folder = '"${SLURM_TMPDIR:-${TMPDIR:-/tmp}}"/' + shlex.quote(request.leaves) + '"$ARF_INDEX"'
        settings["setup"] += [f"trap {shlex.quote(f'rm -rf -- {folder}')} EXIT", "trap : TERM"]
    executor.update_parameters(**{key: value for key, value in settings.items() if value is not None})
    executor.parameters["wckey"] = None  # else submitit names one, which clusters that track them refuse
    if request.count > 1:
        executor.parameters.update(map_count=request.count, array_parallelism=request.count)
    text: str = executor._make_submission_file_text(f"bash -c {shlex.quote(request.command)}", request.name)
    return text


async def submit(script: Path) -> str:
    """Give a batch script to Slurm, and get the job's id. Raises BackendError, with why."""
    text = await _output("sbatch", "--parsable", str(script))
    job_id = text.strip().splitlines()[-1].partition(";")[0] if text.strip() else ""
    if not job_id.isdigit():
        raise BackendError(f"sbatch answered {text.strip()!r} instead of a job's number")
    return job_id


async def cancel(job_ids: Collection[str]) -> None:
    """End Slurm jobs; those that are gone are fine. Raises Unreachable."""
    ids = sorted(job_ids)
    for start in range(0, len(ids), 200):
        try:
            await _output("scancel", *ids[start : start + 200])
        except Unreachable:
            raise
        except BackendError:
            pass  # gone already, which scancel calls an error


# ---- What became of them --------------------------------------------------------------------


async def sights(prefix: str) -> list[Sight]:
    """All jobs of this user whose names begin with `prefix`, lately ended ones too. Raises BackendError."""
    form = "%F|%K|%i|%j|%T|%N|%r"
    text = await _output("squeue", "-h", "-r", "-t", "all", "-u", str(os.getuid()), "-o", form)
    return _sights(text.splitlines(), prefix)


def _sights(lines: Iterable[str], prefix: str) -> list[Sight]:
    found = []
    for line in lines:
        parts = line.split("|", 6)
        if len(parts) == 7 and parts[3].startswith(prefix):
            _, index, job_id, name, state, node, reason = parts
            index = index if index.isdigit() else "0"
            found.append(
                Sight(name=name, index=index, job_id=job_id, state=state, reason=reason, node=node.strip())
            )
    return found


async def accounted(job_ids: Collection[str], prefix: str) -> list[Sight] | None:
    """What the accounting says of jobs that squeue no longer shows; None where there is no accounting."""
    if not job_ids or not shutil.which("sacct"):
        return None
    ids = ",".join(sorted(job_ids))
    try:
        text = await _output(
            "sacct", "-X", "-n", "-P", "-D", "--delimiter=|", "-o", "JobID,JobName,State,NodeList", "-j", ids
        )
    except BackendError:
        return None
    found = []
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) == 4 and parts[1].startswith(prefix):
            job_id, name, state, node = parts
            index = job_id.partition("_")[2]
            state = state.split()[0] if state else ""  # `CANCELLED by 1000`
            index = index if index.isdigit() else "0"
            found.append(Sight(name=name, index=index, job_id=job_id, state=state, reason="", node=node))
    return found


async def exit_code(job_id: str) -> str:
    """`CODE:SIGNAL` of a job that ended lately; empty if Slurm no longer knows."""
    try:
        text = await _output("scontrol", "-o", "show", "job", job_id)
    except BackendError:
        return ""
    match = re.search(r"\bExitCode=(\d+:\d+)", text)
    return match[1] if match else ""


# ---- Calling them ---------------------------------------------------------------------------


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in KEPT_VARIABLES}
    kept.update((name, value) for name, value in os.environ.items() if name.startswith("LC_"))
    return kept


async def _output(*command: str) -> str:
    """What a command prints. Raises Unreachable or BackendError."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise BackendError(
            f"{command[0]} cannot be run: {error.strerror}", hint="run arf on a login node of the cluster"
        ) from error
    try:
        out, err = await asyncio.wait_for(process.communicate(), COMMAND_TIMEOUT_S)
    except TimeoutError:
        raise Unreachable(f"{command[0]} did not answer within {COMMAND_TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise explain(command[0], err.decode("utf-8", "replace"))
    return out.decode("utf-8", "replace")


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


# ---- Tiers ----------------------------------------------------------------------------------


def in_partition(found: Sequence[Node], partition: str | None) -> list[Node]:
    """The nodes of a partition; None: the default one. Raises BackendError, with what there is."""
    known = dict.fromkeys(node.partition for node in found)
    if partition is None:
        default = [node for node in found if node.default]
        if not default and found:
            raise BackendError(
                "this cluster has no default partition", hint=f"set backend.partition: {', '.join(known)}"
            )
        return default
    asked = partition.split(",")
    for name in asked:
        if name not in known:
            raise BackendError(f"there is no Slurm partition {name!r}", hint=nearest(name, known))
    return [node for node in found if node.partition in asked]


def count_slots(found: Sequence[Node], gres: str | None, cpus: int) -> int:
    """How many jobs fit on nodes at a time. Raises BackendError if none of them has such a GRES."""
    usable = {node.name: node for node in found if node.usable}.values()
    wanted = parse_gres(gres) if gres else ()
    slots = 0
    for node in usable:
        fits = [node.cpus // cpus]
        for name, kind, count in wanted:
            have = sum(n for own, own_kind, n in node.gres if own == name and kind in ("", own_kind))
            fits.append(have // max(1, count))
        slots += max(0, min(fits))
    return slots


def gpu_kinds(found: Sequence[Node]) -> list[str]:
    """The types of GPUs, the most numerous first; an empty one where they have no type."""
    totals: dict[str, int] = {}
    for node in {node.name: node for node in found if node.usable}.values():
        for name, kind, count in node.gres:
            if name == "gpu":
                totals[kind] = totals.get(kind, 0) + count
    return sorted(totals, key=lambda kind: -totals[kind])
