"""Slurm through submitit: an executor, a job and a watcher of its kinds, for arf's workers.

submitit's own run a pickled Python function, for which nodes need submitit and the same Python; they ask
the accounting alone, which many clusters do not have, and swallow its errors; they cancel job by job. What
is changed here are the methods that submitit has its own executors, jobs and watchers implement.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from attrs import frozen
from submitit.helpers import CommandFunction, DelayedSubmission
from submitit.slurm.slurm import SlurmInfoWatcher

from arf.errors import BackendError
from arf.types import Scalar
from arf_plugins.backend_slurm.commands import run
from arf_plugins.worker_pool.pool import Unreachable

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
FORM = "%F|%K|%i|%j|%T|%N|%r"


@frozen(kw_only=True)
class Sight:
    """What Slurm says of one job or array element."""

    name: str
    """The job's name, which arf gave it."""
    index: str
    """Of the array element; `0` for a job that is none."""
    job_id: str
    """As in `WorkerJob.job_id`."""
    state: str
    reason: str
    node: str

    @property
    def pending(self) -> bool:
        return self.state in ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")

    @property
    def live(self) -> bool:
        return self.pending or self.state in ("RUNNING", "SUSPENDED", "COMPLETING", "STOPPED", "STAGE_OUT")


class QueueWatcher(SlurmInfoWatcher):
    """One question for all of a study's workers: to squeue, and for those that it does not show, to sacct."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def update(self) -> None:
        """Ask. Blocks. Raises BackendError if the controller does not answer, unlike submitit's own."""
        self._num_calls += 1
        found = self.read_info(run("squeue", "-h", "-r", "-t", "all", "-u", str(os.getuid()), "-o", FORM))
        # The accounting lags: what it calls alive and squeue does not show has ended a moment ago.
        missing = self._registered - self._finished - found.keys()
        found.update(
            (key, info) for key, info in self._accounted(missing).items() if not _sight(key, info).live
        )
        self._info_dict = found

    def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
        """What squeue has printed, by job id."""
        text = string.decode() if isinstance(string, bytes) else string
        parted = [line.split("|", 6) for line in text.splitlines()]
        return {
            job_id: {"JobName": name, "Index": index, "State": state, "NodeList": node, "Reason": reason}
            for _, index, job_id, name, state, node, reason in (p for p in parted if len(p) == 7)
        }

    def _accounted(self, job_ids: Collection[str]) -> dict[str, dict[str, str]]:
        """What the accounting says of jobs; nothing where there is none."""
        if not job_ids or not shutil.which("sacct"):
            return {}
        columns = "JobID,JobName,State,NodeList"
        try:
            text = run(
                "sacct",
                "-X",
                "-n",
                "-P",
                "-D",
                "--delimiter=|",
                "-o",
                columns,
                "-j",
                ",".join(sorted(job_ids)),
            )
        except BackendError:
            return {}
        parted = [line.split("|") for line in text.splitlines()]
        return {
            job_id: {
                "JobName": name, "Index": job_id.partition("_")[2], "NodeList": node, "Reason": "",
                "State": state.split()[0] if state else "",  # `CANCELLED by 1000`
            }
            for job_id, name, state, node in (p for p in parted if len(p) == 4)
        }  # fmt: skip

    def sights(self) -> list[Sight]:
        """All of this study's workers, as they were at the last `update`; lately ended ones too."""
        ours = {
            key: info for key, info in self._info_dict.items() if info["JobName"].startswith(self._prefix)
        }
        return [_sight(job_id, info) for job_id, info in ours.items()]

    def forget(self, job_id: str) -> None:
        """Nobody wants to know of it any more."""
        self._finished.add(job_id)


def _sight(job_id: str, info: Mapping[str, str]) -> Sight:
    return Sight(
        name=info["JobName"],
        index=info["Index"] if info["Index"].isdigit() else "0",
        job_id=job_id,
        state=info["State"],
        reason=info["Reason"],
        node=info["NodeList"].strip(),
    )


class WorkerJob(submitit.SlurmJob[Any]):
    """One worker: a Slurm job, or an element of an array."""

    def __init__(self, folder: Path, job_id: str, watcher: QueueWatcher) -> None:
        self.watcher = watcher
        super().__init__(folder=folder, job_id=job_id)

    def cancel(self, check: bool = True) -> None:
        cancel([self])

    def exit_code(self) -> str:
        """`CODE:SIGNAL`, if it ended lately; empty if Slurm no longer knows. Blocks."""
        try:
            text = run("scontrol", "-o", "show", "job", self.job_id)
        except BackendError:
            return ""
        match = re.search(r"\bExitCode=(\d+:\d+)", text)
        return match[1] if match else ""

    def last_words(self) -> str:
        """The last line that tells something of all that it has printed."""
        lines = (self.stdout() or "").strip().splitlines()
        kept = [line for line in lines if "pmix" not in line.lower()]
        telling = [line for line in kept if not line.startswith("srun:")] or kept
        return telling[-1].strip() if telling else ""


def cancel(jobs: Iterable[WorkerJob]) -> None:
    """End jobs, 200 by one scancel; those that are gone are fine. Blocks. Raises Unreachable."""
    ids = sorted({job.job_id for job in jobs})
    for start in range(0, len(ids), 200):
        try:
            run("scancel", *ids[start : start + 200])
        except Unreachable:
            raise
        except BackendError:
            pass  # gone already, which scancel calls an error


class WorkerExecutor(submitit.SlurmExecutor):
    """Submits equal commands as one Slurm job, an array if there are several, without pickles.

    `submit_array([CommandFunction(command)] * n)` gives n `WorkerJob`s. `$ARF_INDEX` is which of them it is.
    """

    def __init__(self, folder: Path, watcher: QueueWatcher) -> None:
        super().__init__(folder=folder)
        self._watcher = watcher

    def script(self, command: Sequence[str], count: int) -> str:
        """The batch script."""
        parameters, folder = self.parameters, self.folder
        if count > 1:
            self.parameters = {**parameters, "map_count": count, "array_parallelism": count}
        self.folder = Path(str(folder).replace("%", "%%"))  # which sbatch would replace
        try:
            return str(self._make_submission_file_text(shlex.join(command), uid=""))
        finally:
            self.parameters, self.folder = parameters, folder

    def _internal_process_submissions(
        self, delayed_submissions: list[DelayedSubmission]
    ) -> list[submitit.Job[Any]]:
        """Raises BackendError, with why."""
        command, count = delayed_submissions[0].function, len(delayed_submissions)
        assert isinstance(command, CommandFunction)
        script = self.folder / "batch.sh"
        script.write_text(self.script(command.command, count), encoding="utf-8")
        answer = run(*self._make_submission_command(script))
        try:
            job_id = self._get_job_id_from_submission_command(answer)
        except submitit.core.utils.FailedSubmissionError as error:
            raise BackendError(f"sbatch answered {answer.strip()!r} instead of a job's number") from error
        ids = [f"{job_id}_{index}" for index in range(count)] if count > 1 else [job_id]
        return [WorkerJob(self.folder, one, self._watcher) for one in ids]


def parameters(
    *,
    name: str,
    minutes: int,
    partition: str | None,
    gres: str | None,
    cpus: int | None,
    memory: str | None,
    directives: Mapping[str, Scalar],
    srun: Sequence[str],
    leaves: str = "",
) -> dict[str, Any]:
    """For `update_parameters`. Raises BackendError for directives that cannot be passed on.

    `leaves` is how a worker's folder on the node's own disk is called, but for the index; empty: it has none.
    """
    given = {name.replace("_", "-"): value for name, value in directives.items()}
    for directive in given:
        if directive in OURS:
            raise BackendError(
                f"the Slurm directive {directive!r} is arf's to set", hint="take it out of backend.directives"
            )
    extra = {"open-mode": "append", "no-requeue": True, "export": "ALL", **given}
    setup = [
        'export ARF_INDEX="${SLURM_ARRAY_TASK_ID:-0}"',
        # srun does not ask for as many CPUs as its job has since Slurm 22.05.
        'if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi',
    ]
    if leaves:
        # A step that Slurm has ended cannot tidy up; `trap :` has this shell wait for the end of the step.
        folder = '"${SLURM_TMPDIR:-${TMPDIR:-/tmp}}"/' + shlex.quote(leaves) + '"$ARF_INDEX"'
        setup += [f"trap {shlex.quote(f'rm -rf -- {folder}')} EXIT", "trap : TERM"]
    return {
        "job_name": name,
        "time": minutes,
        "nodes": 1,
        "ntasks_per_node": 1,
        "partition": partition,
        "gres": gres,
        "cpus_per_task": cpus,
        "mem": memory,
        # No warning: Slurm gives one to all processes, up to half a minute too early, and it ends jobs.
        "signal_delay_s": 0,
        "wckey": None,  # else submitit names one, which clusters that track them refuse
        "stderr_to_stdout": True,
        "srun_args": list(srun),
        "setup": setup,
        "additional_parameters": {key: value for key, value in extra.items() if value is not False},
    }
