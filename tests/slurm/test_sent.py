"""Studies in a folder that the nodes of a real Slurm do not see: code goes along, and results come back."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any, TypeVar

import pytest
from test_backend_slurm import Bench  # it is beside this file
from test_studies import Lab

from arf.errors import BackendError
from arf.types import JobResult, JobState, Verdict
from arf_plugins.backend_slurm import SlurmTier
from arf_plugins.backend_slurm.backend import SlurmBackend

T = TypeVar("T")
CI = pytest.mark.slurm_ci
FORMS = pytest.mark.parametrize("form", ["pool", "jobs"])
PATIENCE_S = 60.0
SCRIPT = """#!/bin/sh
LEVEL=100   # [0..1000, step 10]
echo "$ARF_EXPERIMENT $(pwd)" >> "$RUNS"
cat data/words made/here || exit
[ "$LEVEL" = 120 ] && echo cheat > judge.txt
sleep 0.3
echo "$ARF_EXPERIMENT" >> "$RUNS.done"
distance=$((LEVEL > 140 ? LEVEL - 140 : 140 - LEVEL))
echo "---"
echo "val_bpb: 1.$((1000 + distance * 10 + ARF_SEED % 5))"
"""


def left_on_nodes(study: str) -> list[Path]:
    """What is left of a study on the nodes' own disks, which are all this machine's."""
    return [Path(name) for name in Path("/tmp").glob(f"arf-{study}-*")]


def words_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""  # it has ended


def pids_of(program: str) -> list[int]:
    """The Pythons that run a program."""
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if re.match(rf"\S*python\S* -S -E \S*worker.pyz {program} ", words_of(pid))]


# ---- Whole studies --------------------------------------------------------------------------


class SentLab(Lab):
    """A workspace that the nodes do not see, with data, a set-up command, and a script that may cheat."""

    def __init__(self, path: Path, unseen: Path, slurm: Any) -> None:
        super().__init__(path, slurm)
        self.directory.rename(unseen / "workspace")
        self.directory = unseen / "workspace"
        (self.directory / "train.sh").write_text(SCRIPT)
        (self.directory / "judge.txt").write_text("fair\n")
        (self.directory / "data").mkdir()
        (self.directory / "data/words").write_text("these are the data\n")
        (self.directory / ".gitignore").write_text("data\nmade\n")

    def configure(self, *, experiments: int, strategy: str = "greedy", backend: str = "slots: 4") -> None:
        settings = "link: [data, made], setup: 'cat data/words && echo set up > made/here'"
        super().configure(experiments=experiments, strategy=strategy, backend=backend)
        yaml = self.directory / "arf.yaml"
        yaml.write_text(yaml.read_text().replace("editable: [", f"{settings}, editable: ["))
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run([*git, "commit", "-qam", "settings"], cwd=self.directory, check=True)

    def log(self, number: int) -> str:
        return (self.directory / f".arf/studies/s/logs/{number:06d}.log").read_text()


@pytest.fixture
def lab(tmp_path: Path, unseen: Path, slurm: Any, monkeypatch: pytest.MonkeyPatch) -> SentLab:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return SentLab(tmp_path, unseen, slurm)


@pytest.mark.parametrize("form", [pytest.param("pool", marks=CI), "jobs"])
def test_a_study_that_no_node_sees_is_sent_along_by_itself(lab: SentLab, form: str, tmp_path: Path) -> None:
    lab.configure(experiments=10, backend=f"slots: 4, form: {form}")
    output = lab.finish(lab.arf("run", "--name", "s", "--plain"))
    assert "code is sent along from now on, through" in output
    experiments = lab.experiments()
    assert len(experiments) == 10
    assert {e.job_state for e in experiments} == {JobState.SUCCEEDED}
    assert {e.attempt for e in experiments} == {1}
    assert any(e.verdict is Verdict.KEEP for e in experiments)
    assert [e.reason for e in experiments if e.verdict is Verdict.INVALID] == [
        "changed judge.txt while it ran"
    ]
    for experiment in experiments:
        assert lab.log(experiment.id).startswith("these are the data\nset up\n---\nval_bpb")
    trees = [line.split()[1] for line in lab.runs.read_text().splitlines()]
    assert all(tree.startswith("/tmp/arf-s-") for tree in trees)
    lab.slurm.wait_until_empty()
    assert left_on_nodes("s") == []
    (home,) = (tmp_path / "home/.arf/slurm").iterdir()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert not [*(home / "logs").iterdir(), *(home / "returned").iterdir()]


@FORMS
def test_arf_is_killed_and_resumed_and_nothing_sent_runs_twice(lab: SentLab, form: str) -> None:
    lab.configure(experiments=12, backend=f"slots: 3, form: {form}")
    process = lab.arf("run", "--name", "s", "--plain")
    for runs in (3, 7):
        lab.until_runs(runs, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        lab.until_started_have_ended()
        process = lab.arf("resume", "s", "--plain")
    lab.finish(process)
    experiments = lab.each_ran_once(12)
    assert all("val_bpb" in lab.log(e.id) for e in experiments)


def test_the_doctor_tries_it_and_says_which_way_is_used(lab: SentLab) -> None:
    lab.configure(experiments=1)
    output = lab.finish(lab.arf("doctor"))
    assert "work trees: used where they are if the nodes see" in output
    assert "code is sent along from now on, through" in output
    assert output.count("a trivial job ran on h") == 2


# ---- Single jobs ----------------------------------------------------------------------------


class SentBench(Bench):
    """A tree that the nodes do not see, and what tests do with backends."""

    def __init__(self, path: Path, unseen: Path, slurm: Any) -> None:
        super().__init__(path, slurm)
        self.home = unseen / "study"
        self.tree = self.home / "trees/1"
        self.tree.mkdir(parents=True)
        (self.tree / "code.txt").write_text("v1\n")

    def make(self, **options: Any) -> SlurmBackend:
        return super().make(**{"shared": str(self.path / "shared"), **options})

    def left(self) -> list[Path]:
        return left_on_nodes("study")


@pytest.fixture
def bench(tmp_path: Path, unseen: Path, slurm: Any) -> SentBench:
    return SentBench(tmp_path, unseen, slurm)


@FORMS
def test_the_log_comes_while_the_job_runs(bench: SentBench, form: str) -> None:
    async def steps(backend: SlurmBackend) -> JobResult:
        command = "echo begun; until [ -e $MARKS/go ]; do sleep 0.05; done; echo over"
        handle = await backend.submit(bench.job("job", command))
        await bench.until(lambda: bench.log() == "begun\n", "the log does not come")
        (bench.path / "go").touch()
        return await backend.wait(handle)

    assert bench.run(steps, form=form).state is JobState.SUCCEEDED
    assert bench.log() == "begun\nover\n"


@CI
def test_what_a_job_changes_comes_back_up_to_a_limit(bench: SentBench) -> None:
    for name in ("changed", "gone", "swapped"):
        (bench.tree / name).write_text("as it was")
    (bench.tree / "tool").write_text("#!/bin/sh\necho tool\n")
    (bench.tree / "tool").chmod(0o755)
    (bench.tree / "alias").symlink_to("tool")
    (bench.tree / "sub").mkdir()
    script = (
        "../tool && ../alias && cd .. && echo more >> changed && rm gone && ln -sf /etc/passwd swapped && "
        "mkdir out && echo new > out/made && head -c 2000000 /dev/zero > out/large"
    )

    async def steps(backend: SlurmBackend) -> JobResult:
        job = bench.job("job", script, directory=bench.tree / "sub")
        result = await backend.wait(await backend.submit(job))
        assert "1 files that jobs wrote did not come back: too large" in backend.notes()
        return result

    assert bench.run(steps, return_mb=1.0).state is JobState.SUCCEEDED, bench.log()
    assert bench.log() == "tool\ntool\n"
    assert (bench.tree / "changed").read_text() == "as it wasmore\n"
    assert (bench.tree / "out/made").read_text() == "new\n"
    assert not [name for name in ("gone", "swapped", "out/large") if os.path.lexists(bench.tree / name)]


@FORMS
def test_a_worker_that_is_killed_leaves_a_tree_that_the_next_one_removes(bench: SentBench, form: str) -> None:
    async def steps(backend: SlurmBackend) -> JobResult:
        handle = await backend.submit(bench.job("held", "touch $MARKS/up; sleep 600"))
        await bench.marked("up")
        assert len(bench.left()) == 1
        bench.slurm.run("scancel", "--signal=KILL", "-u", str(os.getuid()))
        return await backend.wait(handle)

    options = {"form": form, "directives": {"nodelist": "h100-0"}}
    assert bench.run(steps, **options).state in (JobState.LOST, JobState.CANCELLED, JobState.PREEMPTED)
    assert bench.run_job("true", options=options).state is JobState.SUCCEEDED
    bench.slurm.wait_until_empty()
    assert bench.left() == []


@FORMS
def test_a_runner_that_is_killed_alone_leaves_nothing(bench: SentBench, form: str) -> None:
    async def steps(backend: SlurmBackend) -> JobResult:
        handle = await backend.submit(bench.job("held", "touch $MARKS/up; sleep 600"))
        await bench.marked("up")
        (runner,) = [pid for pid in pids_of("remote-worker") if str(bench.path) in words_of(pid)]
        os.kill(runner, signal.SIGKILL)
        return await backend.wait(handle)

    assert bench.run(steps, form=form).state is JobState.LOST
    bench.slurm.wait_until_empty()
    assert bench.left() == []


@FORMS
def test_a_preempted_job_leaves_nothing_on_its_node_and_can_run_again(bench: SentBench, form: str) -> None:
    command = (
        "if mkdir $MARKS/first 2> /dev/null; then echo 1 > code.txt; touch $MARKS/up; sleep 600 || exit; fi; "
        "cat code.txt"
    )

    async def steps(backend: SlurmBackend) -> tuple[JobResult, JobResult]:
        handle = await backend.submit(bench.job("job", command, tier="h200"))
        await bench.marked("up")
        bench.slurm.run("sbatch", "-p", "high", "--gres=gpu:h200:2", "-o", "/dev/null", "--wrap", "sleep 1")
        first = await backend.wait(handle)
        again = await backend.wait(await backend.submit(bench.job("again", command, tier="h200")))
        return first, again

    tiers = {"h200": SlurmTier(gres="gpu:h200:1", slots=2)}
    first, again = bench.run(steps, form=form, tiers=tiers)
    assert first.state is JobState.PREEMPTED
    assert again.state is JobState.SUCCEEDED
    assert bench.log("again") == "v1\n"
    bench.slurm.wait_until_empty()
    assert bench.left() == []


@FORMS
def test_a_time_limit_ends_a_sent_job_and_what_it_wrote_comes_back(bench: SentBench, form: str) -> None:
    result = bench.run_job("echo 7 > step; sleep 600", options={"form": form}, time_limit_s=1.0)
    assert result.state is JobState.TIMED_OUT
    assert (bench.tree / "step").read_text() == "7\n"
    bench.slurm.wait_until_empty()
    assert bench.left() == []


@CI
def test_data_is_where_the_configuration_says(bench: SentBench) -> None:
    (bench.path / "there").mkdir()
    (bench.path / "there/words").write_text("on the nodes\n")
    (bench.home / "data").mkdir()
    (bench.home / "data/words").write_text("x" * 2_000_000)
    (bench.tree / "data").symlink_to(bench.home / "data")
    with pytest.raises(BackendError, match=r"backend.data: \{data: /path/there\}"):
        bench.run_job("true", options={"send_mb": 1.0})
    given = {"send_mb": 1.0, "data": {"data": str(bench.path / "there")}}
    assert bench.run_job("cat data/words", options=given).state is JobState.SUCCEEDED
    assert bench.log() == "on the nodes\n"


@FORMS
def test_jobs_that_wait_are_sent_when_it_is_found_out_that_no_node_sees_them(
    bench: SentBench, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(bench.path / "home"))

    async def steps(backend: SlurmBackend) -> list[JobResult]:
        handles = [await backend.submit(bench.job(f"j{i}", f"cat code.txt; exit {i}")) for i in range(5)]
        return [await backend.wait(handle) for handle in handles]

    results = bench.run(steps, form=form, slots=3, shared=None)
    assert [result.exit_code for result in results] == [0, 1, 2, 3, 4]
    assert bench.log("j4") == "v1\n"
    assert bench.run_job("true", options={"shared": None}).state is JobState.SUCCEEDED


@CI
def test_jobs_that_wait_are_sent_after_a_resume_with_another_folder(bench: SentBench) -> None:
    async def submit(backend: SlurmBackend) -> str:
        return await backend.submit(bench.job("job", "cat code.txt"))

    handle = bench.run(submit, shared=None, send=False)

    async def wait(backend: SlurmBackend) -> JobResult:
        return await backend.wait(handle)

    assert bench.run(wait).state is JobState.SUCCEEDED
    assert bench.log() == "v1\n"
    assert bench.run(wait, shared=None, send=False).state is JobState.SUCCEEDED  # as it went on


@FORMS
def test_a_folder_that_is_not_shared_either_is_told(bench: SentBench, form: str) -> None:
    result = bench.run_job("true", options={"form": form, "shared": str(bench.home / "shared")})
    assert result.state is JobState.LOST
    assert "set backend.shared to a folder that this machine and the nodes share" in result.message


def test_who_wants_nothing_sent_is_told_that_the_folder_is_not_shared(bench: SentBench) -> None:
    result = bench.run_job("true", options={"shared": None, "send": False})
    assert result.state is JobState.LOST
    assert "is not there" in result.message
    assert "backend.shared" in result.message


def test_the_doctor_says_which_way_is_used(bench: SentBench) -> None:
    def way(**options: Any) -> str:
        (finding,) = asyncio.run(bench.make(**options).check())
        return finding.detail

    assert "sent along through" in way()
    assert "if not, they are sent along through" in way(shared=None)
    assert "the nodes must see" in way(shared=None, send=False)
