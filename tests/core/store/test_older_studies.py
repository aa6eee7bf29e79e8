"""Studies that older versions have written open, report, export and go on."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from arf.cli.app import run
from arf.launch import resume
from arf.plugins.registry import Plugins
from arf.status.summary import summarize
from arf.store.database import STUDIES, Store

DATA = Path(__file__).parent / "data" / "0.1.0"
NAMES = sorted(path.parent.name for path in DATA.glob("*/arf.db"))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace in which the stored studies were made, with its commits."""
    folder = tmp_path_factory.mktemp("lab")
    for command in (
        ["init", "-q", "-b", "main"],
        ["fetch", "-q", "--update-head-ok", str(DATA / "workspace.bundle"), "refs/*:refs/*"],
        ["reset", "-q", "--hard", "main"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.fixture(params=NAMES)
def home(workspace: Path, request: pytest.FixtureRequest) -> Path:
    """The folder of a stored study in that workspace."""
    folder = workspace / STUDIES / request.param
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DATA / request.param, folder)
    for name in ("logs", "trees", "agent", "backend"):
        (folder / name).mkdir()
    return folder


def written(home: Path) -> tuple[Counter[str], list[tuple[int, str, float | None]]]:
    """The verdicts and the readings as they are in the file."""
    with closing(sqlite3.connect(home / "arf.db")) as db:
        rows = db.execute('SELECT verdict, id, "commit", value FROM experiments ORDER BY id').fetchall()
    return Counter(row[0] for row in rows if row[0]), [row[1:] for row in rows]


def test_there_is_one_of_each_strategy() -> None:
    assert {*NAMES} == {
        "agent", "cmaes", "factorial", "greedy", "hybrid", "killed", "random", "tpe", "two-tier",
    }  # fmt: skip


@pytest.mark.parametrize("home", ["factorial"], indirect=True)
def test_an_older_study_is_reported(home: Path) -> None:
    assert run(["report", str(home)]) == 0
    assert (home / "results.tsv").read_text().count("\n") > 20
    assert "interaction" in (home / "report.html").read_text().lower()


def test_an_older_study_is_read_exported_and_resumed(home: Path) -> None:
    verdicts, readings = written(home)
    with closing(Store.open(home)) as store:
        summary = summarize(store)
        assert summary["verdicts"] == verdicts
        assert summary["state"] == ("interrupted" if home.name == "killed" else "finished")
        study = store.load()
        assert [(e.id, e.commit, e.value) for e in study.experiments.values()] == readings
        assert study.incumbent_commit == store.kept()[-1].commit
    show(home)
    after, total = go_on(home, len(readings) + 6)
    assert after["state"] == "finished"
    assert total[: len(readings)] == readings or home.name == "killed"
    assert len(total) > len(readings) or home.name == "agent"  # nobody orders anything from that


def show(home: Path) -> None:
    study = str(home)
    for command in (["export", study], ["status", study, "--json"], ["show", "1", "-s", study]):
        assert run(command) == 0, command


def go_on(home: Path, experiments: int) -> tuple[dict[str, Any], list[tuple[int, str, float | None]]]:
    """Resume it with a larger budget; its summary, and all readings then."""

    async def main() -> dict[str, Any]:
        flags = {"budget.max_experiments": experiments, "backend.slots": 2}
        engine, lock = await resume(home, Plugins.load(disable=["report"]), flags)
        try:
            return await engine.run()
        finally:
            engine.store.close()
            lock.release()

    return asyncio.run(main()), written(home)[1]
