"""What a pool of workers saves on a cluster: one-second experiments on eight slots of a real Slurm.

Whole studies by `arf run`, with the pool, with one Slurm job each, and with the local backend and no Slurm;
and submitit alone, one by one as its users do. What counts is the share of the slots that is in use, the time
from one experiment's last line to the next one's first on the same slot, and what the controller was asked,
by its own count, whatever the number of jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from arf.launch import study_directory
from arf.store.database import Store
from arf.types import Job, JobState

sys.path.insert(0, str(Path(__file__).parents[1] / "slurm"))
import slurm_cluster

EXPERIMENTS, SLOTS, SECONDS = 200, 8, 1.0
SCRIPT = f"""#!/bin/sh
LEVEL=100   # [0..9990, step 10]
echo "$ARF_EXPERIMENT $(date +%s.%N)" >> "$MARKS"
sleep {SECONDS}
echo "---"
echo "val_bpb: $((2000 + LEVEL)).$ARF_SEED"
echo "$ARF_EXPERIMENT $(date +%s.%N)" >> "$MARKS"
"""
Spans = dict[str, list[tuple[float, float]]]
"""From first line to last line, by slot."""


def study(folder: Path, backend: str) -> Spans:
    """Run one, to its end."""
    folder.mkdir()
    marks = folder / "marks"
    (folder / "ideas.yaml").write_text(
        "".join(f"- {{title: L{v}, constants: {{LEVEL: {v}}}}}\n" for v in range(110, 9990, 10))
    )
    workspace = folder / "workspace"
    workspace.mkdir()
    (workspace / "train.sh").write_text(SCRIPT)
    (workspace / "arf.yaml").write_text(
        "workspace: {command: 'sh train.sh', editable: [train.sh], pass_env: [MARKS]}\n"
        f"budget: {{max_experiments: {EXPERIMENTS}}}\n"
        "limits: {time_limit_s: 60}\n"
        f"agent: {{name: script, path: {folder}/ideas.yaml}}\n"
        "strategy: greedy\n"
        f"backend: {{{backend}, slots: {SLOTS}}}\n"
    )
    git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "base"]):
        subprocess.run([*git, *words], cwd=workspace, check=True)
    arf = [sys.executable, "-c", "from arf.cli import main; main()"]
    done = subprocess.run(
        [*arf, "run", "--name", "bench", "--plain"],
        cwd=workspace, env={**os.environ, "MARKS": str(marks)}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    times: dict[str, list[float]] = {}
    for number, moment in (line.split() for line in marks.read_text().splitlines()):
        times.setdefault(number, []).append(float(moment))
    store = Store.open(study_directory(workspace, "bench"))
    try:
        experiments = list(store.load().experiments.values())
    finally:
        store.close()
    assert len(experiments) == EXPERIMENTS
    assert {experiment.job_state for experiment in experiments} == {JobState.SUCCEEDED}
    spans: Spans = {}
    for experiment in experiments:
        first, last = times[str(experiment.id)]
        spans.setdefault(experiment.slot, []).append((first, last))
    return spans


def submitit_alone(folder: Path) -> Spans:
    import submitit

    def task() -> tuple[str, float, float]:
        first = time.time()
        time.sleep(SECONDS)
        return f"{os.environ['SLURMD_NODENAME']}:{os.environ['SLURM_STEP_GPUS']}", first, time.time()

    executor = submitit.SlurmExecutor(folder=str(folder))
    executor.update_parameters(time=5, gres="gpu:h100:1", mem="100MB", wckey="x")
    spans: Spans = {}
    with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
        jobs = [executor.submit(task) for _ in range(EXPERIMENTS)]
        for job in jobs:
            while not job.paths.result_pickle.exists():
                time.sleep(0.05)
            slot, first, last = job.result()
            spans.setdefault(slot, []).append((first, last))
    return spans


def measure(name: str, spans: Spans, base: float | None = None, note: str = "") -> float:
    """Print a row; the share of the slots in use, from the first line of all to the last."""
    every = [span for of_slot in spans.values() for span in of_slot]
    total_s = max(last for _, last in every) - min(first for first, _ in every)
    used = sum(last - first for first, last in every) / (SLOTS * total_s)
    gaps = [(b[0] - a[1]) * 1000 for of_slot in spans.values() for a, b in pairwise(sorted(of_slot))]
    median, worst = statistics.median(gaps), statistics.quantiles(gaps, n=20)[-1]
    share = f"{used / base:6.1%}" if base else "     -"
    print(f"{name:<22}{total_s:7.1f}{used:10.1%}{share:>10}{median:10.0f}{worst:9.0f}   {note}", flush=True)
    return used


def asked(cluster: slurm_cluster.Cluster) -> dict[str, int]:
    """What the controller was asked since the last reset, by its own count, without the nodes' messages."""
    text = cluster.run("sdiag")
    kinds = re.findall(r"^\s+(REQUEST_\w+)\s+\(.*?count:(\d+)", text.partition("by user")[0], re.MULTILINE)
    return {kind: int(count) for kind, count in kinds}


def questions(
    counts: dict[str, int], names: Iterable[str] = ("JOB_INFO", "JOB_USER_INFO", "JOB_INFO_SINGLE")
) -> int:
    return sum(counts.get(f"REQUEST_{name}", 0) for name in names)


async def throw(folder: Path, form: str, jobs: int) -> float:
    """All jobs at once, each 0.2 s long; the seconds until the last has ended."""
    from arf_plugins.backend_slurm import SlurmOptions
    from arf_plugins.backend_slurm.backend import SlurmBackend

    backend = SlurmBackend(SlurmOptions(form="pool" if form == "pool" else "jobs", slots=SLOTS), folder)
    tier = (await backend.tiers())[0].name

    async def one(i: int) -> None:
        job = Job(
            key=f"job-{i}", directory=folder, command="sleep 0.2", env={"PATH": os.environ["PATH"]},
            tier=tier, log=folder / f"{i}.log", time_limit_s=60,
        )  # fmt: skip
        result = await backend.wait(await backend.submit(job))
        assert result.state is JobState.SUCCEEDED, result

    began = time.monotonic()
    await asyncio.gather(*(one(i) for i in range(jobs)))
    total_s = time.monotonic() - began
    await backend.aclose()
    return total_s


def main() -> int:
    reason = slurm_cluster.missing()
    try:
        import submitit
    except ImportError as error:
        reason = str(error)
    if reason:
        print(f"skipped: {reason}")
        return 0
    print(f"{EXPERIMENTS} experiments of {SECONDS:g} s on {SLOTS} slots; the floor is ", end="")
    print(f"{EXPERIMENTS * SECONDS / SLOTS:.1f} s; Slurm, with submitit {submitit.__version__}")
    print(f"{'':<22}{'seconds':>7}{'in use':>10}{'of local':>10}{'gap, ms':>10}{'95th':>9}   the controller")
    with tempfile.TemporaryDirectory(prefix="arf-slurm-", ignore_cleanup_errors=True) as home:
        root = Path(home)
        base = measure("arf, local", study(root / "local", "name: local, gpus: []"))
        (root / "slurm").mkdir()
        with slurm_cluster.running(root / "slurm") as cluster:
            os.environ["SLURM_CONF"] = str(cluster.config)
            tier = "name: slurm, tiers: {h100: {gres: 'gpu:h100:1'}}"
            for form in ("pool", "jobs"):
                cluster.run("sdiag", "-r")
                spans = study(root / form, f"{tier}, form: {form}")
                counts = asked(cluster)
                submits = counts.get("REQUEST_SUBMIT_BATCH_JOB", 0)
                measure(f"arf, slurm, {form}", spans, base, f"{questions(counts)} squeue, {submits} sbatch")
                cluster.wait_until_empty()
            cluster.run("sdiag", "-r")
            spans = submitit_alone(root / "submitit")
            submits = asked(cluster).get("REQUEST_SUBMIT_BATCH_JOB", 0)
            measure("submitit, one by one", spans, base, f"{submits} sbatch")
            cluster.wait_until_empty()
            print("\nwhat the controller is asked, by the number of jobs of 0.2 s that are submitted at once")
            for form, jobs in (("pool", 50), ("pool", 800), ("jobs", 50), ("jobs", 200)):
                cluster.run("sdiag", "-r")
                folder = root / f"{form}-{jobs}"
                folder.mkdir()
                total_s = asyncio.run(throw(folder, form, jobs))
                counts = asked(cluster)
                count = questions(counts)
                every = f"one in {total_s / count:.1f} s" if count else "none"
                submits = counts.get("REQUEST_SUBMIT_BATCH_JOB", 0)
                print(
                    f"{form:<6}{jobs:>5} jobs {total_s:6.1f} s {count:4} squeue ({every}), {submits} sbatch",
                    flush=True,
                )
                cluster.wait_until_empty()
    return 0


if __name__ == "__main__":
    sys.exit(main())
