"""Whole studies with the real programs, and what may happen to them."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import rigs
import service

from arf.store.database import Store
from arf.types import Verdict

ARF = str(Path(sys.executable).with_name("arf"))
SCRIPT = """LEVEL = 100  # the best is 140 [0..1000, step 10]
WIDTH = 4  # [1..64]
import os
print("val_bpb:", 1.1 + abs(LEVEL - 140) / 1000 + int(os.environ["ARF_SEED"]) % 5 / 100000)
"""
CONFIG = """
workspace: {command: '{python} train.py', editable: [train.py]}
limits: {budget_s: 1, time_limit_s: 20}
backend: {name: local, slots: 2}
"""


class Lab:
    def __init__(self, rig: rigs.Rig, workspace: Path) -> None:
        self.rig = rig
        self.workspace = workspace
        workspace.mkdir()
        (workspace / "train.py").write_text(SCRIPT)
        (workspace / "data.txt").write_text("read-only\n")
        (workspace / "arf.yaml").write_text(CONFIG)
        for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "base"]):
            command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
            subprocess.run(command, cwd=workspace, check=True)

    def arguments(self, *more: str) -> list[str]:
        options = [f"agent.name={self.rig.name}", f"agent.program={self.rig.program}", *more]
        return ["run", "--plain", "--name", "s", *(word for option in options for word in ("-o", option))]

    def arf(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ARF, *arguments], cwd=self.workspace, env=self.rig.env, capture_output=True, text=True,
            timeout=200,
        )  # fmt: skip

    def run(self, *more: str) -> str:
        done = self.arf(*self.arguments(*more))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def store(self) -> Store:
        return Store.open(self.workspace / ".arf" / "studies" / "s")


@pytest.fixture
def lab(rig: rigs.Rig, tmp_path: Path) -> Lab:
    return Lab(rig, tmp_path / "workspace")


MODELS = {"claude-code": "claude-opus-5-5", "codex": "gpt-6.2-sol"}


def test_it_reads_edits_submits_and_the_study_runs_that(lab: Lab) -> None:
    rig = lab.rig
    rig.read("train.py")
    rig.edit("LEVEL = 100", "LEVEL = 140")
    rig.submit("level 140")
    rig.tool("done", note="that is all", exhausted=True)
    rig.say("I handed in one.")
    said = lab.run("budget.max_experiments=8", f"agent.model={MODELS[rig.name]}")
    store = lab.store()
    (kept,) = (one for one in store.experiments() if one.title == "level 140")
    assert kept.verdict is Verdict.KEEP
    assert "LEVEL = 100" in json.dumps(rig.service.requests)  # it has read the file
    usage = store.load().usage
    answers = rig.service.answered
    assert usage.input_tokens == answers * (service.FRESH + service.CACHED)
    assert usage.cached_tokens == answers * service.CACHED
    assert usage.output_tokens == answers * service.OUTPUT
    assert usage.usd > 0
    assert "cost" in said
    assert "that is all" in [text for _, kind, text in store.events(100) if kind == "agent"]
    assert (lab.workspace / "train.py").read_text() == SCRIPT  # the user's checkout is left alone


def test_it_has_arfs_tools_and_none_that_it_does_not_need(lab: Lab) -> None:
    lab.rig.tool("done", exhausted=True)
    lab.run("budget.max_experiments=5", f"agent.model={MODELS[lab.rig.name]}")
    offered = set().union(*map(lab.rig.offered, lab.rig.service.requests))
    assert offered >= {"arf:submit", "arf:check", "arf:results", "arf:hardware", "arf:done"}
    own = {name.lower() for name in offered if not name.startswith("arf:")}
    assert not own & {"webfetch", "websearch", "web_search", "task", "agent", "multi_agent_v1"}


def test_it_reaches_nothing_outside_its_files(lab: Lab, tmp_path: Path) -> None:
    rig = lab.rig
    outside = tmp_path / "outside.txt"
    outside.write_text("a secret of the user's")
    if rig.name == "claude-code":
        rig.call("Grep", {"pattern": "best is", "output_mode": "content"})
        rig.read(str(outside))
        rig.call("Grep", {"pattern": "secret", "path": str(tmp_path), "output_mode": "content"})
        rig.call("Write", {"file_path": str(tmp_path / "new.txt"), "content": "x"})
        rig.call("Edit", {"file_path": str(outside), "old_string": "a", "new_string": "b"})
    else:
        # Its sandbox leaves /tmp open, on purpose.
        elsewhere = Path(f"/var/tmp/arf-outside-{os.getpid()}")
        rig.shell(f"echo key: $OPENAI_API_KEY; echo x > {elsewhere}")
    rig.tool("done", exhausted=True)
    lab.run("budget.max_experiments=5")
    assert outside.read_text() == "a secret of the user's"
    assert not (tmp_path / "new.txt").exists()
    said = json.dumps(rig.service.requests)
    assert "a secret of the user's" not in said
    if rig.name == "claude-code":
        assert re.search(r"train.py:\d*:?LEVEL = 100", said)  # inside, it may search
    assert rigs.KEY not in said
    if rig.name == "codex":
        is_written = elsewhere.exists()
        elsewhere.unlink(missing_ok=True)
        assert not is_written


def test_what_it_breaks_goes_back_to_it(lab: Lab) -> None:
    rig = lab.rig
    rig.edit("LEVEL = 100", "LEVEL = (")
    rig.submit("no Python")
    rig.edit("LEVEL = (", "LEVEL = 130")
    rig.submit("level 130")
    rig.tool("done", exhausted=True)
    lab.run("budget.max_experiments=8")
    titles = {one.title for one in lab.store().experiments()}
    assert "no Python" not in titles
    assert "level 130" in titles


def test_the_next_ask_goes_on_with_its_session(lab: Lab) -> None:
    rig = lab.rig
    rig.edit("LEVEL = 100", "LEVEL = 140")
    rig.submit("level 140")
    rig.say("The first is on its way.")
    first = len(rig.service.turns)
    rig.tool("done", exhausted=True)
    lab.run("budget.max_experiments=20", "agent.parallel=1", f"agent.model={MODELS[rig.name]}")
    later = rig.service.requests[first]
    assert "The first is on its way." in rig.conversation(later)
    with sqlite3.connect(lab.workspace / ".arf/studies/s/arf.db") as db:
        costs = [usd / tokens for usd, tokens in db.execute(
            "SELECT usd, output_tokens FROM asks WHERE output_tokens > 0")]  # fmt: skip
    assert len(costs) > 1
    assert costs == pytest.approx(
        [costs[0]] * len(costs)
    )  # a resumed session counts on, and is not paid twice


def test_a_study_that_was_killed_while_it_thought_goes_on(lab: Lab) -> None:
    rig = lab.rig
    rig.edit("LEVEL = 100", "LEVEL = 140")
    rig.submit("level 140")
    rig.hold()
    arf = subprocess.Popen(
        [ARF, *lab.arguments("budget.max_experiments=8", "agent.parallel=1")],
        cwd=lab.workspace, env=rig.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert rig.service.held.wait(60)
    arf.kill()
    arf.wait()
    rig.service.release.set()
    rig.tool("done", exhausted=True)
    done = lab.arf("resume", "s", "--plain")
    assert done.returncode == 0, done.stderr
    store = lab.store()
    assert [one.title for one in store.experiments()].count("level 140") == 1  # and it was not asked again
    assert store.meta("state") == "finished"


def test_a_key_that_is_refused_is_told_in_one_line(lab: Lab) -> None:
    lab.rig.fail(401, "invalid x-api-key", times=50)
    done = lab.arf(*lab.arguments("budget.max_experiments=8"))
    lines = [line for line in (done.stdout + done.stderr).splitlines() if lab.rig.name in line]
    assert any("log in" in line or "key" in line or "401" in line for line in lines), (
        done.stdout + done.stderr
    )
    assert len(lab.store().experiments()) == 4  # the baseline ran all the same
