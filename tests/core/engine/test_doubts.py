"""Studies with results that nobody should believe."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from arf.config.schema import load
from arf.errors import UsageError
from arf.launch import create, study_directory
from arf.plugins.registry import Plugins
from arf.status.summary import summarize
from arf.store.database import Store
from arf.submissions.remote import RemoteQueue
from arf.types import Draft, Edit, Submission, Verdict

SCRIPT = """
x=0
echo "val_bpb: 2.$((600 + ARF_SEED % 97))"
"""
CONFIG = """
workspace: {command: sh train.sh, editable: [train.sh], seed: env}
agent: external
strategy: agent
backend: {name: local, slots: 2}
noise: {confirm: 0}
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "train.sh").write_text(SCRIPT)
    (tmp_path / "arf.yaml").write_text(CONFIG)
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "base"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def test_an_implausible_result_is_left_out_until_a_person_accepts_it(workspace: Path) -> None:
    store, number = asyncio.run(asyncio.wait_for(_steps(workspace), 120))
    again = store.load().experiments[number + 1]
    assert again.value is not None
    assert again.verdict is not Verdict.SUSPECT
    store.close()


async def _steps(workspace: Path) -> tuple[Store, int]:
    """Submit what is too good, look at it, accept it; the store at the end, and its number."""
    plugins = Plugins.load(disable=["report"])
    config = load(workspace_file=workspace / "arf.yaml", flags={}, options_class=plugins.options)
    engine, lock = await create(workspace, config, plugins, "s")
    running = asyncio.ensure_future(engine.run())
    queue = RemoteQueue(study_directory(workspace, "s"))
    try:
        await _until(lambda: bool(engine.study.kept) and not engine.study.running_count)
        edit = Edit(path="train.sh", old='echo "val_bpb: 2.$((600', new='echo "val_bpb: 0.$((500')
        receipts = await queue.submit("one", [Submission(draft=Draft(title="too good", edits=(edit,)))])
        receipts = await queue.wait([receipts[0].id], 60)
        (number,) = receipts[0].experiments
        assert engine.study.experiments[number].verdict is Verdict.SUSPECT
        assert summarize(engine.store)["suspects"] == [number]
        assert engine.study.incumbent_tree == engine.study.base_tree
        with pytest.raises(UsageError, match="not suspect"):
            await queue.rule(1, accept=True)
        assert "is believed" in await queue.rule(number, accept=True)
        assert summarize(engine.store)["suspects"] == []
        await _until(lambda: number + 1 in engine.study.experiments and not engine.study.running_count)
    finally:
        engine.stop("enough")
        await running
        lock.release()
    return Store.open(study_directory(workspace, "s")), number


async def _until(holds: Callable[[], bool]) -> None:
    for _ in range(2000):
        if holds():
            return
        await asyncio.sleep(0.03)
    raise AssertionError("it does not come to pass")
