"""The database: what is written is what is loaded, whatever happened in between."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from attrs import evolve

from arf.errors import StoreError
from arf.status.summary import summarize
from arf.store.database import SCHEMA_VERSION, Store, StudyLock, lock_owner
from arf.study import Study
from arf.types import (
    Ask,
    AskKind,
    Claim,
    ClaimPlan,
    Experiment,
    ExperimentState,
    Factor,
    Idea,
    JobState,
    Role,
    Tier,
    Usage,
    Verdict,
)

START = datetime(2026, 1, 1, tzinfo=UTC)


class Recorder:
    """Tells a study and its store the same things, as the engine does."""

    def __init__(self, directory: Path) -> None:
        self.study = Study(name="s", base="base", base_tree="t0", tiers=[Tier(name="cpu", slots=2)])
        self.store = Store.create(directory, self.study, {"workspace": "/w"})

    def put(self, experiment: Experiment) -> None:
        seq = self.study.happened + 1
        with self.store.transaction():
            if experiment.id in self.study.experiments:
                self.store.update_experiment(experiment, seq)
            else:
                self.store.insert_experiment(experiment, seq)
            self.study.put(experiment)
            spread = self.study.spread("cpu")
            self.store.set_spread("cpu", None, spread.sum_squares, spread.df)

    def run(
        self, number: int, value: float | None, verdict: Verdict | None, *, tree: str = "t0", role: Role
    ) -> Experiment:
        accepted = Experiment(
            id=number,
            role=role,
            parent="base",
            commit=f"c{tree}",
            tree=tree,
            tier="cpu",
            seed=number,
            accepted_at=START,
            title=f"title {number} ünïcode",
            directory="trees/1",
        )
        running = evolve(accepted, state=ExperimentState.RUNNING, handle="h", started_at=START)
        ended = evolve(
            running,
            state=ExperimentState.ENDED,
            job_state=JobState.SUCCEEDED if value is not None else JobState.FAILED,
            ended_at=datetime(2026, 1, 1, 0, 1, tzinfo=UTC),
            value=value,
            metrics={"val_bpb": value} if value is not None else {},
            curve=((1, 2.5), (2, 2.25)),
        )
        judged = evolve(ended, verdict=verdict, reason="why")
        for step in (accepted, running, ended, judged):
            self.put(step)
        return judged


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


def the_same(one: Study, other: Study) -> None:
    assert dict(one.experiments) == dict(other.experiments)
    assert dict(one.ideas) == dict(other.ideas)
    assert one.kept == other.kept
    assert one.happened == other.happened
    assert one.incumbent_commit == other.incumbent_commit
    assert dict(one.verdicts) == dict(other.verdicts)
    assert dict(one.slot_s) == dict(other.slot_s)
    assert list(one.running) == list(other.running)
    assert list(one.undecided) == list(other.undecided)
    assert list(one.untried) == list(other.untried)
    assert dict(one.open_asks) == dict(other.open_asks)
    assert dict(one.refusals) == dict(other.refusals)
    assert one.usage == other.usage
    assert one.spread("cpu") == other.spread("cpu")
    assert one.random().random() == other.random().random()


def test_a_loaded_study_is_the_one_that_was_told(recorder: Recorder, tmp_path: Path) -> None:
    recorder.run(1, 1.0, Verdict.KEEP, role=Role.BASELINE)
    recorder.run(2, 1.1, Verdict.MEASURED, role=Role.BASELINE)
    study, store = recorder.study, recorder.store
    with store.transaction():
        ask = Ask(kind=AskKind.IDEAS, n=3, base="base")
        store.open_ask(1, ask, study.happened + 1, START)
        study.open_ask(1, ask)
        for number in (1, 2, 3):
            idea = Idea(id=number, title="i", base="base", commit=f"i{number}", constants={"A": 1.5}, ask=1)
            store.add_idea(idea, study.happened + 1)
            study.add_idea(idea)
        factor = Factor(name="f", levels=(1, 2), ask=1)
        store.add_factor(factor, study.happened + 1)
        study.add_factor(factor)
        usage = Usage(input_tokens=10, output_tokens=5, usd=0.25)
        store.close_ask(1, usage, True, study.happened + 1, START, "note")
        study.close_ask(1, usage, exhausted=True)
        store.refuse("base", (3,), "conflict", study.happened + 1)
        study.refuse("base", (3,), "conflict")
    recorder.run(3, 0.8, Verdict.KEEP, tree="t1", role=Role.CANDIDATE)
    recorder.run(4, None, Verdict.CRASH, tree="t2", role=Role.CANDIDATE)
    recorder.run(5, 0.9, None, tree="t3", role=Role.CANDIDATE)
    recorder.put(
        Experiment(
            id=6, role=Role.CANDIDATE, parent="base", ideas=(1,), commit="c6", tree="t6", tier="cpu",
            seed=1, accepted_at=START,
        )
    )  # fmt: skip
    loaded = Store.open(tmp_path).load()
    the_same(loaded, study)
    assert loaded.exhausted("base")
    assert loaded.factors(1) == (factor,)


def test_totals_and_summary_are_kept_up_without_reading_history(recorder: Recorder) -> None:
    recorder.run(1, 1.0, Verdict.KEEP, role=Role.BASELINE)
    recorder.run(2, 1.2, Verdict.MEASURED, role=Role.BASELINE)
    recorder.run(3, 0.8, Verdict.KEEP, tree="t1", role=Role.CANDIDATE)
    totals = recorder.store.totals()
    assert totals["experiments"] == 3
    assert totals["ended"] == 3
    assert totals["verdict/keep"] == 2
    assert totals["slot_s/cpu"] == pytest.approx(180)
    summary = summarize(recorder.store)
    assert summary["best"]["experiment"] == 3
    assert summary["best"]["gain"] == pytest.approx(0.3)
    assert summary["baseline"] == {"mean": pytest.approx(1.1), "n": 2, "tier": "cpu"}
    assert summary["noise"]["cpu"]["df"] == 1
    assert summary["verdicts"] == {"keep": 2, "measured": 1}


def claim(number: int, experiment: int) -> Claim:
    return Claim(
        number=number, proven=True, gain=0.2, low=0.1, high=0.3, p=0.001, alpha=0.025, percent=20.0, best=0.8,
        baseline=1.0, best_runs=12, baseline_runs=12, tier="cpu", experiment=experiment, ideas=(2, 1),
        text="proven: better than the baseline by 0.2",
    )  # fmt: skip


def test_the_best_is_told_by_its_claim_once_it_has_one(recorder: Recorder) -> None:
    """Not by the mean of all its runs, in which are those that it was chosen by."""
    for number in (1, 2):
        recorder.run(number, 1.0, Verdict.KEEP if number == 1 else Verdict.MEASURED, role=Role.BASELINE)
    recorder.run(3, 0.7, Verdict.KEEP, tree="t1", role=Role.CANDIDATE)
    plan = ClaimPlan(number=1, parent="base", ideas=(1, 2), tier="cpu", pairs=12, alpha=0.025)
    with recorder.store.transaction():
        recorder.store.begin_claim(plan, recorder.study.happened + 1)
    recorder.study.begin_claim(plan)
    assert summarize(recorder.store)["best"]["fresh"] is False
    with recorder.store.transaction():
        recorder.store.complete_claim(1, claim(1, 3), recorder.study.happened + 1)
    recorder.study.complete_claim(1, claim(1, 3))
    told = summarize(recorder.store)
    assert (told["best"]["mean"], told["best"]["n"], told["best"]["fresh"]) == (0.8, 12, True)
    assert (told["best"]["gain"], told["best"]["gain_percent"]) == (0.2, 20)
    assert told["final"]["text"] == "proven: better than the baseline by 0.2"
    loaded = recorder.store.load()
    assert (loaded.claim_plans, loaded.claims) == (recorder.study.claim_plans, recorder.study.claims)
    assert loaded.happened == recorder.study.happened
    recorder.run(6, 0.5, Verdict.KEEP, tree="t6", role=Role.CANDIDATE)
    told = summarize(recorder.store)
    assert told["final"] is None, "it is not that of the new best"
    assert (told["best"]["mean"], told["best"]["fresh"]) == (0.5, False)


def test_a_change_back_of_the_incumbent_is_told_again_in_its_place(recorder: Recorder) -> None:
    recorder.run(1, 1.0, Verdict.KEEP, role=Role.BASELINE)
    for number, value in ((2, 0.9), (3, 0.8)):
        recorder.run(number, value, Verdict.KEEP, tree=f"t{number}", role=Role.CANDIDATE)
    with recorder.store.transaction():
        recorder.store.change_incumbent(2, recorder.study.happened + 1)
    recorder.study.change_incumbent(2)
    assert [e.id for e in recorder.store.kept()] == recorder.study.kept == [1, 2, 3, 2]
    loaded = recorder.store.load()
    assert (loaded.kept, loaded.incumbent_experiment) == ([1, 2, 3, 2], 2)
    assert loaded.happened == recorder.study.happened


def test_a_transaction_that_fails_leaves_nothing(recorder: Recorder) -> None:
    with pytest.raises(RuntimeError), recorder.store.transaction():
        recorder.store.set_meta("k", 1)
        raise RuntimeError
    assert recorder.store.meta("k") is None


def test_what_was_written_quickly_is_there_for_others_and_can_be_flushed(
    recorder: Recorder, tmp_path: Path
) -> None:
    with recorder.store.transaction(durable=False):
        recorder.store.set_meta("k", 1)
    recorder.store.flush()
    assert Store.open(tmp_path).meta("k") == 1
    (tmp_path / "arf.db-wal").unlink()
    recorder.store.flush()  # whoever deletes the files is told elsewhere


def test_a_study_that_exists_is_not_made_again(recorder: Recorder, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"exists.*arf resume"):
        Store.create(tmp_path, recorder.study, {})


def test_a_newer_database_is_refused_with_what_to_do(recorder: Recorder, tmp_path: Path) -> None:
    recorder.store.close()
    db = sqlite3.connect(tmp_path / "arf.db")
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(StoreError, match=r"newer arf.*pip install"):
        Store.open(tmp_path)


@pytest.mark.parametrize("damage", ["header", "truncated", "empty"])
def test_a_damaged_database_is_named(recorder: Recorder, tmp_path: Path, damage: str) -> None:
    for number in range(1, 60):
        recorder.run(number, 1.0, Verdict.MEASURED, role=Role.BASELINE)
    recorder.store.close()
    path = tmp_path / "arf.db"
    data = path.read_bytes()
    path.write_bytes(
        {"header": b"x" * 100 + data[100:], "truncated": data[: len(data) // 2], "empty": b""}[damage]
    )
    with pytest.raises(StoreError, match=r"arf\.db"):
        store = Store.open(tmp_path)
        store.check()


def test_damage_anywhere_is_named_by_whatever_meets_it(recorder: Recorder, tmp_path: Path) -> None:
    for number in range(1, 60):
        recorder.run(number, 1.0, Verdict.MEASURED, role=Role.BASELINE)
    recorder.store.close()
    path = tmp_path / "arf.db"
    data = path.read_bytes()
    named = 0
    for page in range(1, len(data) // 4096):
        path.write_bytes(data[: page * 4096] + b"\xa5" * 4096 + data[(page + 1) * 4096 :])
        try:
            with closing(Store.open(tmp_path)) as store:
                summarize(store)
                store.events()
                store.refusals()
                store.load()
        except StoreError as error:
            named += "is damaged" in str(error)
    assert named > 5


@pytest.mark.parametrize("name", ["arf.db", "arf.db-wal"])
def test_a_database_that_is_deleted_while_it_is_open_is_written_again(
    recorder: Recorder, tmp_path: Path, name: str
) -> None:
    recorder.run(1, 1.0, Verdict.KEEP, role=Role.BASELINE)
    assert not recorder.store.restore()
    (recorder.store.directory / name).unlink()
    recorder.run(2, 1.1, Verdict.MEASURED, role=Role.BASELINE)
    assert recorder.store.restore()
    assert not recorder.store.restore()
    recorder.run(3, 1.2, Verdict.MEASURED, role=Role.BASELINE)
    other = Store.open(recorder.store.directory)
    other.check()
    assert [experiment.value for experiment in other.experiments()] == [1.0, 1.1, 1.2]
    other.close()
    shutil.rmtree(recorder.store.directory)
    with pytest.raises(StoreError, match="has been deleted"):
        recorder.store.restore()


def test_no_study_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no study"):
        Store.open(tmp_path)


def test_only_one_process_holds_a_study_and_death_frees_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from arf.store.database import StudyLock\n"
        "lock = StudyLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    assert lock_owner(tmp_path) == other.pid
    with pytest.raises(StoreError, match=f"pid {other.pid}"):
        StudyLock(tmp_path)
    other.kill()
    other.communicate()
    assert lock_owner(tmp_path) is None
    lock = StudyLock(tmp_path)
    lock.release()


def test_a_full_disk_is_one_clear_error(recorder: Recorder) -> None:
    pages = recorder.store._db.execute("PRAGMA page_count").fetchone()[0]
    recorder.store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="free some disk space"):
        for number in range(1, 400):
            recorder.run(number, 1.0, Verdict.MEASURED, role=Role.BASELINE)


def test_a_path_that_is_too_long_for_sqlite_is_told(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["x" * 100] * 5)
    deep.mkdir(parents=True)
    with pytest.raises(StoreError, match="move the workspace to a shorter one"):
        Recorder(deep)


def test_a_database_that_another_program_keeps_locked_is_told(recorder: Recorder, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "arf.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    recorder.store._db.execute("PRAGMA busy_timeout = 1")
    with pytest.raises(StoreError, match=r"locked; end the program.*arf resume"):
        recorder.run(1, 1.0, Verdict.KEEP, role=Role.BASELINE)
    other.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_study_can_be_looked_at_where_nothing_can_be_written(recorder: Recorder, tmp_path: Path) -> None:
    recorder.run(1, 1.0, Verdict.KEEP, role=Role.BASELINE)
    recorder.store.close()
    tmp_path.chmod(0o555)
    try:
        with closing(Store.open(tmp_path)) as store:
            assert summarize(store)["ended"] == 1
            with pytest.raises(StoreError, match=r"make it and its folder writable"), store.transaction():
                store.set_meta("x", 1)
    finally:
        tmp_path.chmod(0o755)
