"""What goes wrong around a study while it runs: full disks, folders that vanish, databases from a copy."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from arf.config.schema import load
from arf.errors import ArfError, StoreError, WorkspaceError
from arf.hooks import Declaration, hookimpl
from arf.launch import create, resume, study_directory
from arf.plugins.registry import Plugins
from arf.store.database import DATABASE, Store
from arf.testing.fakes import FakeBackend
from arf.types import Experiment, ExperimentState, Job, JobState, Role, Verdict

SCRIPT = """#!/bin/sh
LEVEL=100    # the best is 140 [0..1000, step 10]
HARM
distance=$((LEVEL > 140 ? LEVEL - 140 : 140 - LEVEL))
echo "val_bpb: 1.$((1000 + distance * 10 + ARF_SEED % 5))"
"""


class Case:
    """A workspace whose script does the harm itself, and a study of it."""

    def __init__(self, directory: Path) -> None:
        self.workspace = directory / "workspace"
        self.ideas = directory / "ideas.yaml"
        self.home = study_directory(self.workspace, "s")
        self.plugins = Plugins.load(disable=["report"])

    def make(
        self,
        harm: str = "",
        levels: Sequence[int] = (110, 120, 130, 140),
        experiments: int = 8,
        backend: str = "{name: local, slots: 2}",
    ) -> None:
        """`harm` is shell code that each job runs."""
        self.workspace.mkdir()
        self.propose(levels)
        (self.workspace / "train.sh").write_text(SCRIPT.replace("HARM", harm))
        (self.workspace / "arf.yaml").write_text(
            "workspace: {command: sh train.sh, editable: [train.sh]}\n"
            "sandbox: {mode: off}\nstrategy: greedy\nclaim: none\n"
            f"budget: {{max_experiments: {experiments}}}\n"
            f"agent: {{name: script, path: {self.ideas}}}\n"
            f"backend: {backend}\n"
        )
        for command in ("init -q", "add -A", "-c user.name=t -c user.email=t@t commit -qm base"):
            subprocess.run(["git", *command.split()], cwd=self.workspace, check=True)

    def propose(self, levels: Sequence[int]) -> None:
        ideas = [f"- {{title: LEVEL {value}, constants: {{LEVEL: {value}}}}}\n" for value in levels]
        self.ideas.write_text("".join(ideas))

    def begin(self) -> None:
        """A study in which nothing has happened yet."""

        async def main() -> None:
            config = load(workspace_file=self.workspace / "arf.yaml", options_class=self.plugins.options)
            engine, lock = await create(self.workspace, config, self.plugins, "s")
            engine.store.close()
            lock.release()

        asyncio.run(main())

    def run(self) -> dict[str, Any]:
        self.begin()
        return self.go_on()

    def go_on(self) -> dict[str, Any]:
        async def main() -> dict[str, Any]:
            engine, lock = await resume(self.home, self.plugins)
            try:
                return await engine.run()
            finally:
                engine.store.close()
                lock.release()

        return asyncio.run(main())

    def alter(self, statement: str) -> None:
        """Change the database behind arf's back."""
        db = sqlite3.connect(self.home / DATABASE, isolation_level=None)
        db.execute(statement)
        db.close()

    def meta(self, key: str) -> Any:
        store = Store.open(self.home)
        try:
            return store.meta(key)
        finally:
            store.close()

    def experiments(self) -> list[Experiment]:
        store = Store.open(self.home)
        try:
            store.check()
            return store.experiments()
        finally:
            store.close()


class Buggy(FakeBackend):
    """Breaks when it is given its third job."""

    async def submit(self, job: Job) -> str:
        if len(self.submitted) == 2:
            raise ZeroDivisionError("a bug in the backend")
        return await super().submit(job)


class BuggyPlugin:
    @hookimpl
    def arf_register_backends(self) -> list[Declaration]:
        return [Declaration(name="buggy", summary="a test's", implementation=f"{__name__}:Buggy")]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_after_an_older_copy_of_the_database_no_result_of_what_it_does_not_know_counts(case: Case) -> None:
    case.make()
    case.begin()
    shutil.copy(case.home / DATABASE, case.home / "copy")
    case.propose([200, 300, 400, 500])
    case.go_on()
    shutil.copy(case.home / "copy", case.home / DATABASE)
    case.propose([600, 700, 800, 900])
    case.go_on()
    told = {e.title: e.value for e in case.experiments()}
    assert told["LEVEL 600"] == pytest.approx(1.56, abs=0.001)
    assert told["LEVEL 700"] == pytest.approx(1.66, abs=0.001)


def test_a_turn_that_cannot_be_written_leaves_each_run_its_work_tree(case: Case) -> None:
    case.make()
    case.begin()
    case.alter(
        "CREATE TRIGGER full BEFORE INSERT ON experiments WHEN new.id = 7"
        " BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    with pytest.raises(StoreError, match="disk full"):
        case.go_on()
    case.alter("DROP TRIGGER full")
    case.go_on()
    assert not {e.verdict for e in case.experiments()} & {Verdict.INVALID, Verdict.CRASH, None}


def test_a_repository_that_refuses_ends_the_study_and_costs_no_experiment(case: Case) -> None:
    refs = case.workspace / ".git" / "refs" / "arf" / "s"
    until_it_is_a_file = f"until [ -f {refs} ]; do rm -rf {refs}; echo > {refs}; done 2> /dev/null"
    mended = case.workspace.parent / "mended"
    case.make(f'[ "$ARF_EXPERIMENT" -ge 4 ] && [ ! -e {mended} ] && {until_it_is_a_file}')
    with pytest.raises(WorkspaceError, match=r"cannot write to the repository.*arf resume"):
        case.run()
    assert case.meta("state") == "failed"
    assert not [e.reason for e in case.experiments() if e.verdict is Verdict.CRASH]
    mended.touch()
    refs.unlink()
    case.go_on()
    experiments = case.experiments()
    assert [e.id for e in experiments] == list(range(1, 9))
    assert all(e.job_state is JobState.SUCCEEDED for e in experiments)
    assert not list(case.workspace.glob(".git/refs/**/*.lock"))


def test_a_branch_that_cannot_be_written_does_not_end_the_study(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    case.make(levels=[140])
    subprocess.run(["git", "branch", "arf/s/mine"], cwd=case.workspace, check=True)
    assert case.run()["best"]["title"] == "LEVEL 140"
    assert "cannot write the branch arf/s" in caplog.text


def test_a_folder_of_logs_that_is_deleted_is_made_again(case: Case) -> None:
    case.make()
    case.begin()
    shutil.rmtree(case.home / "logs")
    assert case.go_on()["state"] == "finished"
    assert all(e.job_state is JobState.SUCCEEDED for e in case.experiments())


def test_a_study_whose_folder_is_deleted_says_so(case: Case) -> None:
    case.make(f'[ "$ARF_EXPERIMENT" -ge 4 ] && rm -rf {case.home}')
    with pytest.raises(StoreError, match="has been deleted or moved while the study ran"):
        case.run()


def test_a_bug_in_a_backend_ends_the_study_in_order(case: Case) -> None:
    case.make(backend="buggy")
    case.plugins.register(BuggyPlugin(), "test")
    with pytest.raises(ArfError, match="ZeroDivisionError: a bug in the backend"):
        case.run()
    assert case.meta("state") == "failed"
    assert all(e.verdict is not Verdict.CRASH for e in case.experiments())


def test_a_study_goes_on_without_what_was_to_run_and_is_lost(case: Case) -> None:
    case.make('[ "$ARF_EXPERIMENT" -gt 4 ] && [ ! -e "$ARF_GO" ] && sleep 30', experiments=10)

    async def main() -> None:
        config = load(workspace_file=case.workspace / "arf.yaml", options_class=case.plugins.options)
        engine, lock = await create(case.workspace, config, case.plugins, "s")

        def stop() -> None:
            running = [engine.study.experiments[n] for n in engine.study.running]
            if any(e.handle and e.role is Role.CANDIDATE for e in running):
                engine.stop()
            else:
                asyncio.get_running_loop().call_later(0.01, stop)

        stop()
        await engine.run()
        engine.store.close()
        lock.release()

    asyncio.run(main())
    waiting = [e for e in case.experiments() if e.state is ExperimentState.ACCEPTED]
    lost = next(e for e in waiting if e.role is Role.CANDIDATE)
    commit = case.workspace / ".git" / "objects" / lost.commit[:2] / lost.commit[2:]
    commit.chmod(0o600)
    commit.write_bytes(b"")
    (case.workspace / "go").touch()
    os.environ["ARF_GO"] = str(case.workspace / "go")
    try:
        case.go_on()
    finally:
        del os.environ["ARF_GO"]
    ended = {e.id: e for e in case.experiments()}
    assert ended[lost.id].verdict is Verdict.CRASH
    assert "git fsck" in ended[lost.id].reason
    assert {e.title for e in ended.values() if e.role is Role.CANDIDATE} == {
        f"LEVEL {n}" for n in (110, 120, 130, 140)
    }
