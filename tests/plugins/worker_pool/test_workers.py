"""Workers on this machine, through a folder that both sides see. Bundles are tested beside this."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arf.types import Job
from arf_plugins.worker_pool import kit
from arf_plugins.worker_pool.folder import Folder
from arf_plugins.worker_pool.options import PoolOptions
from arf_plugins.worker_pool.sending import FOLDERS, Sending

PATIENCE_S = 30.0


class Place:
    """A shared folder with one batch of workers, and a worker that runs here."""

    program = "worker"

    def __init__(self, home: Path, folder: Path | None = None) -> None:
        self.home = home
        self.folder = Folder(folder or home / "slurm")
        self.folder.prepare(["t"])
        self.batches = self.folder.home / "batches/00001"
        self.batches.mkdir()
        for name in ("0.orders", "0.journal"):
            (self.batches / name).touch()
        self.worker: subprocess.Popen[bytes] | None = None

    def start(self, environment: dict[str, str] | None = None, **fields: Any) -> None:
        batch = {
            "tier": "t", "name": "t", "only": None, "time_s": 3600, "idle_s": 60, "lease_s": 60,
            "heartbeat_s": 60, "grace_s": 0.3, "setup": "", "wrap": "", **fields,
        }  # fmt: skip
        (self.batches / "batch.json").write_text(json.dumps(batch))
        self.worker = subprocess.Popen(
            [
                sys.executable,
                "-S",
                "-E",
                str(self.folder.home / kit.NAME),
                self.program,
                str(self.folder.home),
                "00001",
            ],
            env={**os.environ, **(environment or {})},
        )

    def add(self, handle: str, command: str, limit_s: float = 60.0, **env: str) -> None:
        job = {
            "directory": str(self.home), "command": command, "log": str(self.home / f"{handle}.log"),
            "env": {"PATH": os.environ["PATH"], **env}, "tier": "t", "time_limit_s": limit_s,
        }  # fmt: skip
        (self.folder.home / "jobs" / handle).write_text(json.dumps(job))
        self.folder.announce("t", handle)

    def order(self, line: str) -> None:
        with (self.batches / "0.orders").open("a") as file:
            file.write(line + "\n")

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.batches / "0.journal").read_text().splitlines()]

    def until(self, word: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until the journal has so many lines with a word, and give them."""
        limit = time.monotonic() + PATIENCE_S
        while len(found := [line for line in self.told() if word in line]) < count:
            assert time.monotonic() < limit, self.told()
            time.sleep(0.01)
        return found

    def file(self, name: str) -> None:
        limit = time.monotonic() + PATIENCE_S
        while not (self.home / name).exists():
            assert time.monotonic() < limit, name
            time.sleep(0.01)


class SentPlace(Place):
    """The same where the worker is on another machine, but for a folder that both see."""

    program = "remote-worker"

    def __init__(self, home: Path) -> None:
        self.tree = home / "study/trees/1"
        self.tree.mkdir(parents=True)
        self.disk = home / "disk"
        self.disk.mkdir()
        self.sending = Sending(PoolOptions(), home / "study/backend", home / "shared")
        self.sending.prepare()
        super().__init__(home, self.sending.home)

    def send(self, handle: str, command: str) -> None:
        job = Job(
            key=handle, directory=self.tree, command=command, env={"PATH": os.environ["PATH"]},
            log=self.home / f"{handle}.log", tier="t", time_limit_s=60.0,
        )  # fmt: skip
        self.folder.add(handle, job, self.sending.send(job, handle))
        self.folder.announce("t", handle)

    def start(self, environment: dict[str, str] | None = None, **fields: Any) -> None:
        super().start({"TMPDIR": str(self.disk), "SLURM_TMPDIR": "", **(environment or {})}, **fields)

    def end(self) -> None:
        assert self.worker is not None
        self.worker.terminate()
        self.worker.wait(PATIENCE_S)


def _used(place: Place) -> Iterator[Any]:
    yield place
    if place.worker is not None and place.worker.poll() is None:
        place.worker.terminate()
        place.worker.wait(PATIENCE_S)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield from _used(Place(tmp_path))


@pytest.fixture
def sent(tmp_path: Path) -> Iterator[SentPlace]:
    yield from _used(SentPlace(tmp_path))


# ---- The worker -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", kit.sources(), ids=lambda path: path.stem)
def test_what_runs_on_nodes_needs_nothing_that_old_ones_lack(path: Path) -> None:
    import ast

    tree = ast.parse(path.read_text(), feature_version=(3, 7))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    absolute = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 0}
    assert imported <= sys.stdlib_module_names
    assert absolute <= {"__future__", "collections.abc", "typing"}


def test_a_worker_takes_one_job_after_the_other_until_it_is_drained(place: Place) -> None:
    place.start()
    for i in range(5):
        place.add(f"job-{i}", f"echo {i}; exit {i}")
    assert [end["code"] for end in place.until("end", 5)] == [0, 1, 2, 3, 4]
    place.order("drain")
    assert place.until("bye")[0]["bye"] == "drained"
    assert place.worker is not None
    assert place.worker.wait(PATIENCE_S) == 0


def test_what_is_queued_before_the_drain_is_done(place: Place) -> None:
    place.add("job", "exit 5")
    place.order("drain")
    place.start()
    assert place.until("end")[0]["code"] == 5
    place.until("bye")


def test_a_job_that_somebody_has_claimed_is_not_run(place: Place) -> None:
    assert place.folder.claim("taken") is True
    assert place.folder.claim("taken") is False
    place.add("taken", "touch ran")
    place.add("free", "true")
    place.start()
    assert place.until("end")[0]["end"] == "free"
    assert not (place.home / "ran").exists()


def test_of_many_who_claim_one_gets_it(place: Place) -> None:
    script = f"import sys; sys.path.insert(0, {kit.NAME!r}); from arf_worker.files import claim"
    script += "; print(int(claim(*sys.argv[1:])))"
    command = [sys.executable, "-c", script, str(place.folder.home), "job"]
    claimers = [
        subprocess.Popen([*command, f"w{i}"], cwd=place.folder.home, stdout=subprocess.PIPE) for i in range(8)
    ]
    answers = [claimer.communicate(timeout=PATIENCE_S)[0].strip() for claimer in claimers]
    winner = place.folder.claimant("job")
    assert answers.count(b"1") == 1
    assert answers[int(winner[1:])] == b"1"


def test_a_worker_whose_time_is_short_leaves_a_long_job_to_the_next(place: Place) -> None:
    place.add("short", "true", limit_s=1.0)
    place.add("long", "true", limit_s=600.0)
    place.start(time_s=300)
    place.until("bye")
    assert [line["end"] for line in place.told() if "end" in line] == ["short"]
    assert place.until("bye")[0]["bye"] == "its time is up"
    assert place.folder.claimant("long") == ""


def test_a_job_over_its_limit_is_ended(place: Place) -> None:
    place.add("job", "trap '' TERM; while :; do sleep 9; done", limit_s=0.2)
    place.start()
    assert place.until("end")[0]["why"] == "timeout"


def test_slurms_sigterm_ends_the_job_and_is_told(place: Place) -> None:
    place.add("job", "touch up; sleep 600")
    place.start()
    place.file("up")
    assert place.worker is not None
    place.worker.send_signal(signal.SIGTERM)
    assert place.until("end")[0]["why"] == "term"
    assert place.until("bye")[0]["bye"] == "terminated"


def test_time_in_which_slurm_has_suspended_a_job_does_not_count(place: Place) -> None:
    place.add("job", "touch up; until [ -e go ]; do sleep 0.05; done", limit_s=7.0)
    place.start()
    place.file("up")
    assert place.worker is not None
    place.worker.send_signal(signal.SIGSTOP)
    time.sleep(7.5)  # what Slurm does has no event: this is the time itself
    place.worker.send_signal(signal.SIGCONT)
    (place.home / "go").touch()
    assert place.until("end")[0]["why"] == ""


def test_devices_are_slurms_and_the_rest_is_the_jobs(place: Place) -> None:
    place.add("job", "echo $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS $NOT_MINE", CUDA_VISIBLE_DEVICES="7")
    place.start(
        {"CUDA_VISIBLE_DEVICES": "2,3", "SLURM_CPUS_PER_TASK": "5", "NOT_MINE": "x", "SLURM_STEP_GPUS": "6,7"}
    )
    place.until("end")
    assert (place.home / "job.log").read_text() == "2,3 5\n"
    assert place.until("hello")[0]["slot"].endswith(":gpu:6,7")


def test_daemons_that_a_job_leaves_behind_are_ended(place: Place) -> None:
    daemon = 'echo $$ > pid; trap "" TERM; while :; do sleep 9; done'
    script = f"setsid sh -c '{daemon}' & until [ -s pid ]; do :; done"
    place.add("job", script)
    place.start()
    place.until("end")
    pid = int((place.home / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# ---- Nothing outlives its purpose -------------------------------------------------------------


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_worker_whose_folder_is_gone_ends_with_its_job(place: Place, busy: bool) -> None:
    if busy:
        place.add("job", "echo $$ > pid; trap '' TERM; while :; do sleep 9; done")
    place.start()
    place.file("pid") if busy else place.until("hello")
    shutil.rmtree(place.folder.home)
    assert place.worker is not None
    assert place.worker.wait(PATIENCE_S) == 1
    if busy:
        with pytest.raises(ProcessLookupError):
            os.kill(int((place.home / "pid").read_text()), 0)


def test_a_worker_that_cannot_write_and_is_told_to_end_ends(place: Place) -> None:
    place.start()
    place.until("hello")
    journal = place.batches / "0.journal"
    journal.unlink()
    journal.mkdir()  # root may write to what is read-only
    assert place.worker is not None
    place.worker.terminate()
    assert place.worker.wait(PATIENCE_S) == 1


def test_a_worker_that_is_told_to_end_ends_its_job_too(place: Place) -> None:
    place.add("job", "touch up; sleep 600")
    place.start()
    place.file("up")
    place.order("end")
    assert place.until("end")[0]["why"] == "ended"
    assert place.until("bye")[0]["bye"] == "told to end"


def test_a_worker_that_arf_has_forgotten_does_what_waits_and_ends(place: Place) -> None:
    place.add("job", "sleep 1.5; exit 5")
    place.start(lease_s=1.0)
    assert place.until("end")[0]["code"] == 5
    assert place.until("bye")[0]["bye"] == "arf is gone"


def test_a_worker_waits_as_long_as_arf_is_there(place: Place) -> None:
    place.start(lease_s=1.0)
    limit = time.monotonic() + 3.0
    while time.monotonic() < limit:  # the time is what is tested
        place.folder.touch()
        time.sleep(0.2)
    place.add("job", "exit 5")
    assert place.until("end")[0]["code"] == 5


# ---- Code that is sent along ----------------------------------------------------------------


def test_what_is_there_is_not_sent_again_and_trees_go_with_their_job(sent: SentPlace) -> None:
    (sent.tree / "large").write_bytes(os.urandom(100_000))
    for number in range(3):
        (sent.tree / "code").write_text(f"v{number}\n")
        sent.send(f"job-{number}", "cat code; ls; echo dirt > dirt; echo pwd: $(pwd)")
    packs = sorted(path.stat().st_size for path in (sent.folder.home / "packs").iterdir())
    assert [size > 100_000 for size in packs] == [False, False, True]
    sent.start()
    sent.until("end", 3)
    for number in range(3):
        sent.sending.collect(f"job-{number}")
        text = (sent.home / f"job-{number}.log").read_text()
        assert text.startswith(f"v{number}\ncode\nlarge\npwd: {sent.disk}/arf-")
    assert (sent.tree / "dirt").read_text() == "dirt\n"
    sent.end()
    assert list(sent.disk.iterdir()) == []
    assert not any((sent.folder.home / name).joinpath("job-0").exists() for name in FOLDERS)


def test_the_next_worker_removes_what_a_killed_one_left_and_nothing_of_one_that_lives(
    sent: SentPlace,
) -> None:
    (sent.disk / "arf-x").mkdir()
    (sent.disk / "arf-x/mine").touch()
    with (sent.disk / "lock-less").open("w"), (sent.disk / "arf-x/lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        sent.start()
        sent.until("hello")
        assert (sent.disk / "arf-x/mine").exists()
        sent.end()
    sent.start()
    sent.until("hello", 2)
    assert sent.worker is not None
    sent.worker.kill()
    sent.worker.wait()
    (left,) = sent.disk.glob("arf-*")
    assert left.name != "arf-x"
    sent.start()
    sent.until("hello", 3)
    sent.end()
    assert not list(sent.disk.glob("arf-*"))


def test_code_that_cannot_be_unpacked_is_not_the_jobs_fault(sent: SentPlace) -> None:
    (sent.tree / "code").write_text("x\n")
    sent.send("job", "true")
    for pack in (sent.folder.home / "packs").iterdir():
        pack.write_bytes(pack.read_bytes()[:-4])
    sent.start()
    end = sent.until("end")[0]
    assert end["why"] == "setup"
    assert "the code cannot be unpacked in" in end["message"]


def test_a_study_is_sent_through_the_same_folder_after_a_resume(sent: SentPlace) -> None:
    (sent.tree / "code").write_text("x\n")
    sent.send("one", "true")
    again = Sending(PoolOptions(), sent.home / "study/backend", Path("/elsewhere"))
    assert again.home == sent.folder.home
    again.prepare()
    job = Job(
        key="two", directory=sent.tree, command="true", env={}, log=sent.home / "two.log", tier="t",
        time_limit_s=1.0,
    )  # fmt: skip
    again.send(job, "two")
    assert len(list((again.home / "packs").iterdir())) == 1
