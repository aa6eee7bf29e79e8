"""A whole study through the real `arf`, and everything that can be asked about it afterwards."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from arf.store.database import Store, StudyLock, lock_owner

Arf = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Any]

WITHOUT_REPORTS = {"ARF_DISABLE_PLUGINS": "report"}
"""Drawing a plot takes longer than one of these studies."""


def told(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON document that a command printed."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def begin(start: Start, workspace: Path) -> Callable[..., Any]:
    """Starts a study of slow runs and gives its process, its experiments being under way."""

    @contextmanager
    def begun(*arguments: str) -> Iterator[subprocess.Popen[str]]:
        with start(*arguments, "--json", cwd=workspace, SLOW="60", **WITHOUT_REPORTS) as process:
            running = 0
            for line in process.stdout:
                running += json.loads(line).get("state") == "running"
                if running == 2:
                    break
            yield process

    return begun


# ---- A finished study -----------------------------------------------------------------------


def test_a_run_tells_verdicts_noise_and_what_came_of_it(finished: Path) -> None:
    text = (finished / "run.txt").read_text()
    assert "study first starts: val_bpb, less is better" in text
    assert "noise: standard deviation" in text
    assert re.search(r"  #\d+ keep .* baseline \(baseline\)", text)  # whichever of its runs ended first
    assert "study first finished" in text
    for line in (
        "best ",
        "gain ",
        "arf best --apply",
        "arf diff best",
        "results.tsv",
        "progress.png",
        "report.html",
    ):
        assert line in text


def test_status_and_list(arf: Arf, finished: Path) -> None:
    status = told(arf("status", "--json", cwd=finished))
    assert (status["study"], status["state"], status["pid"]) == ("first", "finished", None)
    assert status["best"]["gain"] > 0
    assert told(arf("list", "--json", cwd=finished))[0]["study"] == "first"
    text = arf("status", "fi", cwd=finished).stdout
    assert f"best       {status['best']['mean']:.5f}" in text
    assert "better" in text
    assert "first  finished" in arf("list", cwd=finished).stdout


def test_status_reads_nothing_but_the_store(arf: Arf, finished: Path) -> None:
    code = (
        "import sys; from arf.cli.app import run; code = run(['status']); "
        "print(code, *[m for m in "
        "('asyncio', 'pygit2', 'yaml', 'cattrs', 'rich', 'scipy', 'arf.engine.engine') "
        "if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=finished, capture_output=True, text=True, check=True
    )
    assert done.stderr.split() == ["0"]


def test_an_experiment_is_found_by_number_commit_and_as_the_best(arf: Arf, finished: Path) -> None:
    best = told(arf("show", "best", "--json", cwd=finished))
    assert best["verdict"] == "keep"
    number = str(best["id"])
    for name in (number, f"#{number}", best["commit"][:8]):
        assert told(arf("show", name, "--json", cwd=finished))["commit"] == best["commit"]
    text = arf("show", number, cwd=finished).stdout
    assert best["commit"] in text
    assert best["title"] in text
    for wrong in ("999", "zzz", "0", "9" * 30):
        done = arf("show", wrong, cwd=finished)
        assert done.returncode == 2
        assert "has no experiment" in done.stderr


def test_its_log_and_its_diff(arf: Arf, finished: Path) -> None:
    log = arf("log", "best", cwd=finished).stdout
    assert log.splitlines()[0] == "step 1/2 (50.0%) | loss: 3.0"
    assert arf("log", "best", "--tail", "2", cwd=finished).stdout == "".join(
        log.splitlines(keepends=True)[-2:]
    )
    assert arf("log", "best", "--follow", cwd=finished).stdout == log
    assert told(arf("log", "best", "--json", cwd=finished))["lines"] == log.splitlines()
    diff = arf("diff", "best", "--base", cwd=finished).stdout
    assert "-LEVEL=100 " in diff
    assert "+LEVEL=" in diff
    assert told(arf("diff", "best", "--base", "--json", cwd=finished))["diff"] == diff
    same = arf("diff", "1", cwd=finished)
    assert (same.stdout, same.returncode) == ("", 0)


def test_export_and_report(arf: Arf, finished: Path) -> None:
    for form, delimiter in (("tsv", "\t"), ("csv", ",")):
        rows = list(
            csv.DictReader(
                arf("export", "--format", form, cwd=finished).stdout.splitlines(), delimiter=delimiter
            )
        )
        assert "keep" in [row["status"] for row in rows if "baseline" in row["description"]]
    assert json.loads(arf("export", "--format", "json", cwd=finished).stdout)
    for path in arf("report", cwd=finished).stdout.split():
        assert Path(path).is_file()


def test_the_best_is_brought_into_the_files_and_nothing_else(
    arf: Arf, git: Callable[..., str], finished: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "workspace"
    shutil.copytree(finished, mine, symlinks=True)
    store = Store.open(mine / ".arf" / "studies" / "first")
    with store.transaction():
        store.set_meta("workspace", str(mine))
    store.close()
    best = told(arf("best", "--json", cwd=mine))
    assert git(mine, "status", "--porcelain", "-uno") == ""
    assert told(arf("best", "--apply", "--json", cwd=mine))["applied"] == ["train.sh"]
    assert git(mine, "diff", "--stat", best["commit"], "--", "train.sh") == ""
    again = arf("best", "--apply", cwd=mine)
    assert again.returncode == 1
    assert "uncommitted changes in train.sh" in again.stderr


def test_a_study_is_found_from_inside_and_by_the_beginning_of_its_name(arf: Arf, finished: Path) -> None:
    inside = finished / ".arf" / "studies" / "first" / "logs"
    for name in ([], ["f"], ["first"]):
        assert told(arf("status", *name, "--json", cwd=inside))["study"] == "first"
    wrong = arf("status", "frist", cwd=finished)
    assert wrong.returncode == 2
    assert "did you mean 'first'" in wrong.stderr


def test_a_name_that_exists_is_refused(arf: Arf, finished: Path) -> None:
    done = arf("run", "--name", "first", cwd=finished)
    assert done.returncode == 2
    assert "study 'first' exists; `arf resume first`" in done.stderr


def test_a_reader_that_leaves_is_no_error(start: Start, finished: Path) -> None:
    log = finished / ".arf" / "studies" / "first" / "logs" / "000001.log"
    before = log.read_bytes()
    log.write_bytes(before + b"more\n" * 200_000)
    try:
        with start("log", "1", cwd=finished) as process:
            process.stdout.readline()
            process.stdout.close()
            assert process.wait() == 1
            assert process.stderr.read() == ""
    finally:
        log.write_bytes(before)


def test_a_damaged_study_does_not_hide_the_others(arf: Arf, finished: Path, tmp_path: Path) -> None:
    mine = tmp_path / "workspace"
    shutil.copytree(finished, mine, symlinks=True)
    broken = mine / ".arf" / "studies" / "broken"
    broken.mkdir()
    (broken / "arf.db").write_bytes(b"no database" * 1000)
    states = {row["study"]: row["state"] for row in told(arf("list", "--json", cwd=mine))}
    assert states == {"first": "finished", "broken": "unusable"}
    assert "unusable" in arf("list", cwd=mine).stdout
    for command in ("status", "resume"):
        done = arf(command, "broken", cwd=mine)
        assert done.returncode == 1
        assert "is damaged" in done.stderr
        assert len(done.stderr.splitlines()) == 1


# ---- A study that runs ----------------------------------------------------------------------


def test_a_study_that_runs_is_shown_and_is_no_other_processs(
    arf: Arf, begin: Callable[..., Any], workspace: Path
) -> None:
    with begin("run", "--name", "busy") as process:
        status = told(arf("status", "--json", cwd=workspace))
        assert (status["state"], status["pid"]) == ("running", process.pid)
        assert len(status["running"]) == 2
        other = arf("resume", "busy", cwd=workspace)
        assert other.returncode == 1
        assert f"another arf process (pid {process.pid}) is running study 'busy'" in other.stderr
        assert arf("run", "--name", "busy", cwd=workspace).returncode == 2


def test_stop_ends_a_study_and_its_jobs_and_it_can_be_resumed(
    arf: Arf, begin: Callable[..., Any], workspace: Path
) -> None:
    with begin("run", "--name", "s") as process:
        done = arf("stop", "s", cwd=workspace)
        assert done.returncode == 0, done.stderr
        last = json.loads(process.communicate()[0].splitlines()[-1])
        assert process.returncode == 130
    assert (last["event"], last["state"]) == ("finished", "stopped")
    again = arf("resume", "s", "--plain", cwd=workspace, SLOW="", **WITHOUT_REPORTS)
    assert again.returncode == 0, again.stderr
    assert told(arf("status", "--json", cwd=workspace))["state"] == "finished"
    assert "nothing is to be stopped" in arf("stop", cwd=workspace).stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_study_in_order(
    begin: Callable[..., Any], workspace: Path, number: signal.Signals
) -> None:
    with begin("run", "--name", "s") as process:
        process.send_signal(number)
        out, err = process.communicate()
    assert process.returncode == 130
    assert "stopping: ending 2 jobs" in err
    assert json.loads(out.splitlines()[-1])["reason"] == "interrupted"


def test_jobs_that_a_dead_arf_has_left_are_ended_by_stop(
    arf: Arf, begin: Callable[..., Any], workspace: Path
) -> None:
    with begin("run", "--name", "s") as process:
        process.kill()
        process.communicate()
    home = workspace / ".arf" / "studies" / "s"
    assert lock_owner(home) is None
    assert "interrupted" in arf("list", cwd=workspace).stdout
    assert "2 jobs that it left are ended" in arf("stop", cwd=workspace).stderr


def test_if_nobody_reads_the_events_the_study_is_stopped(start: Start, arf: Arf, workspace: Path) -> None:
    with start("run", "--name", "s", "--json", cwd=workspace, SLOW="0.3", **WITHOUT_REPORTS) as process:
        assert json.loads(process.stdout.readline())["event"] == "study"
        process.stdout.close()
        assert process.wait() == 130
        assert "Traceback" not in process.stderr.read()
    status = told(arf("status", "--json", cwd=workspace))
    assert (status["state"], status["reason"]) == ("stopped", "nobody reads the output")


def test_a_study_that_ends_is_followed_to_its_end(start: Start, arf: Arf, workspace: Path) -> None:
    with start("run", "--name", "s", "--json", cwd=workspace, SLOW="0.3", **WITHOUT_REPORTS) as process:
        assert json.loads(process.stdout.readline())["event"] == "study"
        with start("status", "s", "--watch", "--json", cwd=workspace) as watching:
            process.communicate()
            seen = [json.loads(line) for line in watching.communicate()[0].splitlines()]
            assert watching.returncode == 0
    assert seen[0]["state"] == "running"
    assert (seen[-1]["state"], seen[-1]["pid"]) == ("finished", None)


def test_stop_ends_no_process_of_the_same_number_that_is_another_one(arf: Arf, finished: Path) -> None:
    home = finished / ".arf" / "studies" / "first"
    with subprocess.Popen(["sleep", "60"]) as bystander:
        lock = StudyLock(home)
        try:
            (home / "lock").write_text(f"{bystander.pid}\n")  # as it looks on a disk that machines share
            done = arf("stop", "first", cwd=finished)
            assert done.returncode == 1
            assert "another machine" in done.stderr
            assert bystander.poll() is None
        finally:
            lock.release()
            bystander.kill()


def test_a_study_of_a_newer_arf_is_told_as_such(arf: Arf, finished: Path, tmp_path: Path) -> None:
    mine = tmp_path / "workspace"
    shutil.copytree(finished, mine, symlinks=True)
    db = sqlite3.connect(mine / ".arf" / "studies" / "first" / "arf.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    for command in ("status", "resume", "stop", "best", "report"):
        done = arf(command, cwd=mine)
        assert done.returncode == 1
        assert "newer arf" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_baseline_that_fails_ends_the_study_with_one_error(
    arf: Arf, git: Callable[..., str], workspace: Path
) -> None:
    (workspace / "train.sh").write_text("echo 'boom: no such data' >&2; exit 3\n")
    git(workspace, "commit", "-qam", "broken")
    done = arf("run", "--name", "s", "--plain", cwd=workspace, **WITHOUT_REPORTS)
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("arf: error: ")]
    assert "the baseline failed (crash)" in error
    assert "boom: no such data" in error
    assert "Traceback" not in done.stderr


def test_nobody_named_it_so_it_is_named_after_the_day(arf: Arf, workspace: Path) -> None:
    for _ in range(2):
        done = arf("run", "--max-experiments", "2", "--plain", cwd=workspace, **WITHOUT_REPORTS)
        assert done.returncode == 0, done.stderr
    first, second = sorted((row["study"] for row in told(arf("list", "--json", cwd=workspace))), key=len)
    assert second == f"{first}-2"


def test_two_workspaces_of_one_repository_have_no_study_of_the_same_name(
    arf: Arf, git: Callable[..., str], workspace: Path
) -> None:
    other = workspace.parent / "other"
    git(workspace, "worktree", "add", "-q", str(other))
    for folder in (workspace, other):
        done = arf("run", "--max-experiments", "2", "--plain", cwd=folder, **WITHOUT_REPORTS)
        assert done.returncode == 0, done.stderr
    (first,) = (row["study"] for row in told(arf("list", "--json", cwd=workspace)))
    (second,) = (row["study"] for row in told(arf("list", "--json", cwd=other)))
    assert second == f"{first}-2"
    done = arf("run", "--name", first, cwd=other)
    assert done.returncode == 2
    assert f"the repository has commits of another study {first!r}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
