"""`arf submit`, `arf wait` and `arf cancel` on a study that runs in another process."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Arf = Callable[..., subprocess.CompletedProcess[str]]


def told(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def running(start: Callable[..., Any], workspace: Path) -> Iterator[Path]:
    """A workspace whose study runs, with short jobs, until the test ends it."""
    options = ("--json", "--name", "s", "--max-experiments", "5000", "-o", "noise.replicates=2")
    env = {"SLOW": "0.4", "ARF_DISABLE_PLUGINS": "report"}
    with start("run", *options, cwd=workspace, **env) as process:
        for line in process.stdout:
            if json.loads(line).get("state") == "running":
                break
        # A pipe that nobody reads would fill, and hold the study up.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield workspace


def test_a_change_is_submitted_waited_for_and_told(arf: Arf, running: Path) -> None:
    (one,) = told(
        arf("submit", "--set", "LEVEL=250", "--runs", "2", "--title", "a try", "--json", cwd=running)
    )
    assert (one["state"], one["title"]) == ("waiting", "a try")
    (done,) = told(arf("wait", str(one["id"]), "--timeout", "60s", "--json", cwd=running))
    assert done["state"] == "accepted"
    assert [run["verdict"] is not None for run in done["runs"]] == [True, True]
    assert done["runs"][0]["value"] == pytest.approx(1.105, abs=0.001)
    unknown = arf("wait", "9" * 30, cwd=running)
    assert unknown.returncode == 2, unknown.stderr
    shown = arf("wait", str(one["id"]), cwd=running).stdout
    assert f"{one['id']}: a try: accepted" in shown
    assert f"#{done['runs'][0]['experiment']} " in shown


def test_changes_of_the_checkout_and_patches_are_submitted(arf: Arf, running: Path) -> None:
    script = running / "train.sh"
    text = script.read_text()
    nothing = arf("submit", "--changes", cwd=running)
    assert nothing.returncode == 2
    assert "are as in" in nothing.stderr
    script.write_text(text.replace("SIZE=3", "SIZE=3\nEXTRA=1"))
    base = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=running, check=True, capture_output=True, text=True
    ).stdout.strip()
    (one,) = told(arf("submit", "--changes", "--title", "mine", "--json", cwd=running))
    assert one["problem"] == ""
    patch = subprocess.run(["git", "diff"], cwd=running, check=True, capture_output=True, text=True).stdout
    (running / "my.patch").write_text(patch.replace("EXTRA=1", "EXTRA=2"))
    (two,) = told(
        arf("submit", "--patch", "my.patch", "--base", base, "--title", "a patch", "--json", cwd=running)
    )
    assert two["problem"] == ""
    done = told(arf("wait", str(one["id"]), str(two["id"]), "--json", cwd=running))
    assert all(entry["runs"][0]["verdict"] for entry in done)


def test_a_batch_is_submitted_once_under_its_key(arf: Arf, running: Path) -> None:
    batch = [{"set": {"LEVEL": 350}, "tier": "cpu"}, {"set": {"LEVLE": 1}}, {"again": 1, "runs": 2}]
    (running / "batch.json").write_text(json.dumps(batch))
    said = [
        told(arf("submit", "--file", "batch.json", "--key", "k1", "--json", cwd=running)) for _ in range(2)
    ]
    assert [one["id"] for one in said[0]] == [one["id"] for one in said[1]]
    assert "did you mean 'LEVEL'" in said[0][1]["problem"]
    withdrawn = arf("cancel", str(said[0][0]["id"]), "--experiment", "99999", cwd=running)
    assert "experiment 99999 does not run" in withdrawn.stdout
    other = arf("submit", "--set", "LEVEL=400", "--key", "k1", cwd=running)
    assert (other.returncode, "another request" in other.stderr) == (2, True)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("submit --set LEVEL", "write --set NAME=VALUE"),
        ("submit --file missing.json", "No such file"),
        ("wait 99 --timeout 1s", "has no submission 99"),
        ("wait", "no submission is named"),
        ("wait 1 --timeout soon", "write 90s, 10m or 1h30m"),
        ("cancel", "no submission is named"),
    ],
)
def test_what_cannot_be_ordered_is_told(arf: Arf, finished: Path, command: str, words: str) -> None:
    done = arf(*command.split(), cwd=finished)
    assert done.returncode != 0
    assert words in done.stderr


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ('{"set": {"LEVEL": 150}, "runs": "two"}', 'entry 1: runs: expected a whole number, found "two"'),
        ('{"set": ["LEVEL", 150]}', "entry 1: set: expected an object of constants"),
        ('{"edits": [{"path": "train.sh"}]}', "expected a list of objects with path, old and new"),
        ('{"set": {"LEVEL": 150}, "ideas": "12"}', "entry 1: ideas: expected a list of numbers"),
        ('{"set": {"LEVEL": {"a": 1}}}', "entry 1: set: expected an object of constants"),
        ('{"sett": {"LEVEL": 150}}', "did you mean 'set'"),
        ("17", "a list of objects is expected"),
        ("{", "is no JSON"),
    ],
)
def test_a_batch_that_makes_no_sense_is_told_by_entry_and_key(
    arf: Arf, finished: Path, tmp_path: Path, entry: str, words: str
) -> None:
    batch = tmp_path / "batch.json"
    batch.write_text(entry)
    done = arf("submit", "--file", str(batch), cwd=finished)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr


def test_a_study_that_has_ended_takes_no_orders(arf: Arf, finished: Path) -> None:
    done = arf("submit", "--set", "LEVEL=250", cwd=finished)
    assert done.returncode == 1
    assert "does not run" in done.stderr
    assert "`arf resume first`" in done.stderr
