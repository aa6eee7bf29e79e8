"""What the report plugin leaves in a study's folder."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner

from arf.errors import UsageError
from arf.sdk.commands import find_study
from arf.store.database import Store, StudyLock
from arf.study import Study
from arf.types import (
    Claim,
    ClaimPlan,
    Direction,
    Experiment,
    ExperimentState,
    Idea,
    JobState,
    Objective,
    Role,
    Tier,
    Verdict,
)
from arf_plugins import report
from arf_plugins.report import commands
from arf_plugins.report.effects import Chapter
from arf_plugins.report.files import PAGE, PLOT, write_report
from arf_plugins.report.page import render
from arf_plugins.report.report_data import read_story
from arf_plugins.report.results import RESULTS, STATUS, ResultsFile, columns, to_csv, to_json, to_tsv

START = datetime(2026, 1, 1, tzinfo=UTC)
HOSTILE = (
    "</td><script>alert(1)</script><img src=x onerror=alert(1)>"
    "\t$\\frac{1}{0}$\n\x1b[31m\u202egnp.exe\x00 {0} %s"
)


def sha(number: int) -> str:
    return f"{number:040x}"


class Scene:
    """A study with a real database, told as the engine tells it."""

    def __init__(
        self,
        directory: Path,
        *,
        objective: Objective | None = None,
        tiers: tuple[str, ...] = ("gpu",),
        base: str = "",
    ) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.study = Study(
            name=directory.name,
            base=base or sha(1),
            base_tree=sha(1),
            objective=objective,
            tiers=[Tier(name=name, slots=4) for name in tiers],
        )
        about = {"strategy": "greedy", "agent": "offline", "backend": "local", "workspace": str(directory)}
        self.store = Store.create(directory, self.study, about)
        self.told: list[Experiment] = []

    def add(
        self,
        value: float | None,
        verdict: Verdict | None,
        *,
        change: int | None = None,
        commit: str = "",
        role: Role = Role.CANDIDATE,
        tier: str = "gpu",
        title: str = "an idea",
        reason: str = "",
        budget: float | None = None,
        seconds: float = 300,
        metrics: dict[str, float] | None = None,
        ideas: tuple[int, ...] = (),
    ) -> Experiment:
        number = len(self.study.experiments) + 1
        at = START + timedelta(seconds=75 * number)
        experiment = Experiment(
            id=number,
            role=role,
            parent=self.study.incumbent_commit,
            ideas=ideas,
            commit=commit or sha((change or number) << 130 | 7),
            tree=sha(1) if role is Role.BASELINE else sha(1000 + (change or number)),
            tier=tier,
            seed=number,
            budget=budget,
            title=title,
            accepted_at=at,
        )
        with self.store.transaction():
            self.store.insert_experiment(experiment, self.study.happened + 1)
            self.study.put(experiment)
        ended = attrs.evolve(
            experiment,
            state=ExperimentState.ENDED,
            job_state=JobState.SUCCEEDED,
            started_at=at,
            ended_at=at + timedelta(seconds=seconds),
            value=value,
            metrics=metrics or {},
        )
        self.put(ended)
        return self.put(attrs.evolve(ended, verdict=verdict, reason=reason)) if verdict else ended

    def put(self, experiment: Experiment) -> Experiment:
        with self.store.transaction():
            self.store.update_experiment(experiment, self.study.happened + 1)
            self.study.put(experiment)
            if experiment.value is not None:
                spread = self.study.spread(experiment.tier, experiment.budget)
                self.store.set_spread(experiment.tier, experiment.budget, spread.sum_squares, spread.df)
        self.told.append(experiment)
        return experiment

    def baseline(
        self, values: tuple[float, ...] = (0.998, 0.9985, 0.9975, 0.9982), tier: str = "gpu"
    ) -> None:
        for value in values:
            first = self.study.incumbent_experiment is None or not self.study.kept
            verdict = Verdict.KEEP if first else Verdict.MEASURED
            self.add(value, verdict, role=Role.BASELINE, tier=tier, title="baseline", change=9999)

    def search(self, count: int, *, seed: int = 0, tier: str = "gpu") -> None:
        """Ideas as they come: most are useless, some crash, a few help."""
        source = random.Random(seed)
        best = 0.998
        words = (
            "halve the batch",
            "warm-up 5 %",
            "depth 9",
            "rotary base 200000",
            "embedding lr 0.8",
            "softcap 15",
        )
        for _ in range(count):
            luck = source.random()
            if luck < 0.08:
                self.add(
                    None,
                    source.choice([Verdict.CRASH, Verdict.TIMEOUT, Verdict.INVALID]),
                    reason="exit code 1",
                )
                continue
            effect = source.gauss(0.002, 0.004) if luck < 0.95 else -abs(source.gauss(0, 0.0015))
            value = best + effect + source.gauss(0, 0.0004)
            title = f"{source.choice(words)}, take {len(self.study.experiments)}"
            if effect < -0.0005:
                kept = self.add(
                    value, Verdict.KEEP, title=title, tier=tier, reason="better by 3 σ, p = 0.001"
                )
                again = kept.id
                self.add(
                    value + 0.0003,
                    Verdict.MEASURED,
                    role=Role.REPLICATE,
                    change=again,
                    title=title,
                    tier=tier,
                )
                best += effect
            else:
                self.add(
                    value, Verdict.DISCARD, title=title, tier=tier, reason="not better than the noise allows"
                )


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "one")
    yield made
    made.store.close()


def rows(directory: Path) -> list[dict[str, str]]:
    text = (directory / RESULTS).read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))


# ---- results.tsv -----------------------------------------------------------------------------


def test_the_columns_are_those_of_autoresearch_and_then_our_own(scene: Scene) -> None:
    scene.add(0.9979, Verdict.KEEP, role=Role.BASELINE, title="baseline", metrics={"peak_vram_mb": 45060.2})
    scene.add(
        None, Verdict.CRASH, title="double the width", metrics={"peak_vram_mb": 80000.0}, reason="exit code 1"
    )
    write_report(scene.directory)
    lines = (scene.directory / RESULTS).read_text().splitlines()
    assert lines[0].split("\t")[:5] == ["commit", "val_bpb", "memory_gb", "status", "description"]
    assert lines[1].split("\t")[1:5] == ["0.997900", "44.0", "keep", "baseline"]
    assert lines[2].split("\t")[1:5] == ["0.000000", "0.0", "crash", "double the width"]
    assert [len(line.split("\t")) for line in lines] == [len(columns("val_bpb"))] * 3
    assert len(lines[1].split("\t")[0]) == 7
    crash = rows(scene.directory)[1]
    assert (crash["verdict"], crash["seconds"], crash["reason"]) == ("crash", "300.0", "exit code 1")


def test_every_verdict_has_a_status_that_autoresearch_knows() -> None:
    assert set(STATUS) == set(Verdict)
    assert set(STATUS.values()) == {"keep", "discard", "crash"}


def test_the_second_column_is_named_after_the_objective(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "one", objective=Objective(metric="accuracy", direction=Direction.MAX))
    scene.add(1.5e-7, Verdict.KEEP, role=Role.BASELINE)
    write_report(scene.directory)
    assert rows(scene.directory)[0]["accuracy"] == "1.5e-07"
    scene.store.close()


def test_a_hostile_title_stays_in_its_cell(scene: Scene) -> None:
    scene.add(0.9, Verdict.KEEP, title=HOSTILE, reason="a\r\nb\u2028c\td")
    write_report(scene.directory)
    (row,) = rows(scene.directory)
    assert row["reason"] == "a b c d"
    assert row["description"].startswith("</td><script>")
    assert not re.search(r"[\x00-\x1f\x7f\u202e]", row["description"])


def test_rows_are_appended_as_verdicts_come(scene: Scene) -> None:
    report.arf_study_started(scene.study, scene.directory, resumed=False)
    path = scene.directory / RESULTS
    assert path.read_text().count("\n") == 1
    inode = path.stat().st_ino
    scene.baseline()
    waiting = scene.add(0.99, None, title="contender")
    scene.add(0.999, Verdict.DISCARD)
    for experiment in scene.told:
        report.arf_experiment_changed(scene.study, experiment)
    assert [row["experiment"] for row in rows(scene.directory)] == ["1", "2", "3", "4", "6"]
    report.arf_experiment_changed(scene.study, scene.put(attrs.evolve(waiting, verdict=Verdict.KEEP)))
    assert [row["experiment"] for row in rows(scene.directory)] == ["1", "2", "3", "4", "6", "5"]
    assert path.stat().st_ino == inode, "the file was written anew instead of appended to"


def test_a_changed_verdict_changes_its_row_only(scene: Scene) -> None:
    scene.baseline()
    late = scene.add(0.99, Verdict.DISCARD)
    scene.add(0.999, Verdict.DISCARD)
    file = ResultsFile(scene.directory / RESULTS, "val_bpb", scene.study.experiments.values())
    before = rows(scene.directory)
    file.put(attrs.evolve(late, verdict=Verdict.KEEP))
    after = rows(scene.directory)
    assert [a["experiment"] for a in after] == [b["experiment"] for b in before]
    assert [a["experiment"] for a, b in zip(after, before, strict=True) if a != b] == [str(late.id)]


def test_a_study_that_goes_on_mends_its_file(scene: Scene) -> None:
    """A kill can cut the last line, and can come between the database and the file."""
    path = scene.directory / RESULTS
    file = ResultsFile(path, "val_bpb", ())
    scene.baseline()
    first, second, third, fourth = (scene.study.experiments[i] for i in (1, 2, 3, 4))
    for experiment in (first, third, second):
        file.put(experiment)
    path.write_bytes(path.read_bytes()[:-25])
    again = ResultsFile(path, "val_bpb", scene.study.experiments.values())
    assert [row["experiment"] for row in rows(scene.directory)] == ["1", "3", "2", "4"]
    again.put(fourth)
    assert len(rows(scene.directory)) == 4


def test_a_file_that_somebody_changed_or_removed_is_made_whole(scene: Scene) -> None:
    path = scene.directory / RESULTS
    scene.baseline()
    file = ResultsFile(path, "val_bpb", list(scene.study.experiments.values())[:2])
    path.unlink()
    file.put(scene.study.experiments[3])
    assert [row["experiment"] for row in rows(scene.directory)] == ["1", "2", "3"]
    path.write_text("something else\n")
    file.put(scene.study.experiments[4])
    assert [row["experiment"] for row in rows(scene.directory)] == ["1", "2", "3", "4"]


def test_the_cost_of_a_row_does_not_grow_with_the_file(scene: Scene) -> None:
    """Counted in bytes written, which no busy machine changes."""
    one = scene.add(0.9, Verdict.KEEP)
    file = ResultsFile(scene.directory / RESULTS, "val_bpb", ())
    inode = (scene.directory / RESULTS).stat().st_ino
    for number in range(2, 3000):
        file.put(attrs.evolve(one, id=number))
    assert (scene.directory / RESULTS).stat().st_ino == inode
    assert len(rows(scene.directory)) == 2998


# ---- Export ----------------------------------------------------------------------------------


def test_exports_hold_the_same_experiments(scene: Scene) -> None:
    scene.baseline()
    scene.add(0.99, None, title="waits")
    scene.add(0.99, Verdict.DISCARD, title='=HYPERLINK("x"), "quoted"')
    experiments = list(scene.study.experiments.values())
    table = list(csv.reader(to_tsv(experiments, "val_bpb"), delimiter="\t", quoting=csv.QUOTE_NONE))
    sheet = list(csv.reader(to_csv(experiments, "val_bpb")))
    assert len(table) == len(sheet) == 6
    assert sheet[-1][4] == "'" + table[-1][4] == '\'=HYPERLINK("x"), "quoted"'
    document = json.loads("".join(to_json(experiments)))
    assert [record["id"] for record in document] == [1, 2, 3, 4, 5, 6]
    assert (document[4]["verdict"], document[5]["verdict"]) == (None, "discard")
    assert document[0]["accepted_at"] == "2026-01-01T00:01:15+00:00"
    assert json.loads("".join(to_json([]))) == []


# ---- The report ------------------------------------------------------------------------------


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(1 for name, _ in self.tags if name == tag)


def page(directory: Path) -> Page:
    return Page((directory / PAGE).read_text(encoding="utf-8"))


def test_a_report_has_its_three_files(scene: Scene) -> None:
    scene.baseline()
    scene.search(40)
    written = write_report(scene.directory)
    assert [path.name for path in written.paths] == [RESULTS, PLOT, PAGE]
    assert written.notes == ()
    assert (scene.directory / PLOT).read_bytes().startswith(b"\x89PNG")
    shown = page(scene.directory)
    for heading in ("How sure", "What was kept", "Where the time went", "All experiments"):
        assert heading in shown.text
    rows_shown = [a["data-verdict"] for tag, a in shown.tags if tag == "tr" and "data-verdict" in a]
    assert len(rows_shown) == len(scene.study.experiments)


def test_the_page_needs_nothing_from_elsewhere(scene: Scene) -> None:
    scene.baseline()
    write_report(scene.directory)
    for tag, attributes in page(scene.directory).tags:
        assert tag not in ("link", "iframe", "object", "base", "form")
        for name in ("src", "href", "action", "style"):
            value = attributes.get(name)
            assert value is None or (tag == "img" and value.startswith("data:image/png;base64,"))


def test_a_hostile_study_breaks_neither_page_nor_plot(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "one", objective=Objective(metric=HOSTILE), tiers=(HOSTILE,))
    scene.baseline(tier=HOSTILE)
    scene.add(0.9, Verdict.KEEP, title=HOSTILE, reason=HOSTILE, tier=HOSTILE)
    scene.add(0.9, Verdict.DISCARD, title="\U0001f600 漢字 &lt;b&gt; \u202eabc", tier=HOSTILE)
    scene.add(None, Verdict.CRASH, title="", reason=HOSTILE * 50, tier=HOSTILE)
    write_report(scene.directory)
    shown = page(scene.directory)
    assert shown.count("script") == 1
    assert [attributes.keys() for tag, attributes in shown.tags if tag == "img"] == [{"alt", "src"}]
    assert not any(name.startswith("on") for _, attributes in shown.tags for name in attributes)
    assert "alert(1)" in shown.text
    scene.store.close()


def test_values_of_different_tiers_are_not_shown_on_one_scale(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "one", tiers=("h100", "h200"))
    scene.baseline(tier="h100")
    scene.baseline((0.97, 0.971, 0.9705, 0.9702), tier="h200")
    scene.search(20, tier="h100")
    scene.add(0.965, Verdict.MEASURED, role=Role.PROMOTION, tier="h200", budget=0.25)
    story = read_story(scene.directory)
    assert set(story.reference) == {("h100", None), ("h200", None)}
    assert ("h200", 0.25) in story.series
    write_report(scene.directory)
    assert (scene.directory / PLOT).stat().st_size > 10_000
    scene.store.close()


def _empty(scene: Scene) -> None:
    pass


def _crash(scene: Scene) -> None:
    scene.add(None, Verdict.CRASH, role=Role.BASELINE, reason="exit code 1")


def _one(scene: Scene) -> None:
    scene.add(0.99, Verdict.KEEP, role=Role.BASELINE)


def _equal(scene: Scene) -> None:
    scene.baseline((1.0, 1.0, 1.0, 1.0))


def _huge(scene: Scene) -> None:
    scene.baseline((1e300, -1e300, 0.0, 1e-300))
    idea = Idea(id=1, title="huge", base=scene.study.base, commit=sha(77))
    with scene.store.transaction():
        scene.store.add_idea(idea, scene.study.happened + 1)
        scene.study.add_idea(idea)
    scene.add(-1e308, Verdict.DISCARD, ideas=(1,))


@pytest.mark.parametrize("tell", [_empty, _crash, _one, _equal, _huge])
def test_odd_studies_can_be_reported(scene: Scene, tell: Any) -> None:
    tell(scene)
    write_report(scene.directory)
    assert (scene.directory / PLOT).exists()
    assert "All experiments" in page(scene.directory).text


def test_without_matplotlib_the_rest_is_written(scene: Scene) -> None:
    scene.baseline()
    scene.search(5)
    program = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pathlib import Path\n"
        "from arf_plugins.report.files import write_report\n"
        f"print(*write_report(Path({str(scene.directory)!r})).notes)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'arf-research[report]'" in done.stdout
    assert not (scene.directory / PLOT).exists()
    assert page(scene.directory).count("img") == 0
    assert len(rows(scene.directory)) == len(scene.study.experiments)


def test_declaring_the_plugin_imports_nothing_heavy() -> None:
    program = (
        "import sys, arf_plugins.report\n"
        "arf_plugins.report.arf_register_commands()\n"
        "print(*({'matplotlib', 'numpy', 'pygit2', 'click', 'sqlite3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_end_of_a_study_writes_the_report(scene: Scene) -> None:
    report.arf_study_started(scene.study, scene.directory, resumed=False)
    scene.baseline()
    report.arf_study_finished(scene.study, scene.directory, {})
    assert {RESULTS, PLOT, PAGE} <= {path.name for path in scene.directory.iterdir()}


def test_the_page_of_a_study_that_ends_does_not_call_it_running(scene: Scene) -> None:
    scene.baseline()
    lock = StudyLock(scene.directory)  # as the arf that ends it still holds it
    try:
        report.arf_study_finished(scene.study, scene.directory, {"state": "finished"})
    finally:
        lock.release()
    text = page(scene.directory).text
    assert "backend · finished" in text
    assert "running" not in text


def claimed(scene: Scene, experiment: int, gain: float, margin: float) -> None:
    """A claim of an experiment's commit over a baseline of 1."""
    plan = ClaimPlan(number=1, parent="base", tier="gpu", pairs=12, alpha=0.025)
    claim = Claim(
        number=1, proven=True, gain=gain, low=gain - margin, high=gain + margin, p=1e-5, alpha=0.025,
        percent=100 * gain, best=1 - gain, baseline=1.0, best_runs=12, baseline_runs=12, tier="gpu",
        experiment=experiment, text="all of it",
    )  # fmt: skip
    with scene.store.transaction():
        scene.store.begin_claim(plan, scene.study.happened + 1)
        scene.store.complete_claim(1, claim, scene.study.happened + 2)


def test_the_page_says_how_sure_the_gain_is_in_words(scene: Scene) -> None:
    scene.baseline()
    scene.add(0.97, Verdict.KEEP)
    claimed(scene, 5, 0.03, 0.01)
    write_report(scene.directory)
    text = page(scene.directory).text
    for shown in (
        "+0.03 (+3.00 %)",
        "+0.02 to +0.04",
        "patch, 12 fresh runs",
        "baseline, 12 fresh runs",
        "proven",
    ):
        assert shown in text
    assert "all of it" not in text


def test_the_headline_is_the_gain_of_fresh_runs_or_says_that_it_is_not(scene: Scene) -> None:
    scene.baseline((1.0, 1.0, 1.0, 1.0))
    kept = scene.add(0.9, Verdict.KEEP, title="the best")
    write_report(scene.directory)
    assert "→ 0.900000, 10.00 % better by 1 run that it was chosen by" in page(scene.directory).text
    claimed(scene, kept.id, 0.05, 0.01)
    write_report(scene.directory)
    assert "→ 0.950000, 5.00 % better by 12 fresh runs" in page(scene.directory).text


def test_effects_are_left_out_of_a_report_with_the_reason(scene: Scene) -> None:
    scene.baseline()
    write_report(scene.directory)
    assert "Left out: no design has two cells with a value, and no idea has run" in page(scene.directory).text
    assert not list(scene.directory.glob("effects-*"))


def test_the_best_change_is_shown_as_text(tmp_path: Path) -> None:
    import pygit2

    repository = pygit2.init_repository(tmp_path / "one")
    author = pygit2.Signature("arf", "arf@localhost")

    def commit(content: bytes, parents: list[pygit2.Oid]) -> pygit2.Oid:
        builder = repository.TreeBuilder()
        builder.insert("train.py", repository.create_blob(content), pygit2.GIT_FILEMODE_BLOB)
        return repository.create_commit(None, author, author, "m", builder.write(), parents)

    base = commit(b"LR = 1\n", [])
    best = commit(b"LR = 2  # <script>alert(1)</script>\x1b[31m \xff\n", [base])
    scene = Scene(tmp_path / "one", base=str(base))
    scene.baseline()
    scene.add(0.99, Verdict.KEEP, commit=str(best))
    story = read_story(scene.directory)
    assert story.diff_problem == ""
    shown = Page(render(story, b"", Chapter()))
    assert shown.count("script") == 1
    assert "-LR = 1" in shown.text
    assert "+LR = 2  # <script>alert(1)</script>" in shown.text
    scene.store.close()


def test_an_objective_to_maximise_is_drawn_the_other_way_up(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "one", objective=Objective(metric="accuracy", direction=Direction.MAX))
    scene.baseline((0.5, 0.51, 0.49, 0.5))
    scene.add(0.7, Verdict.KEEP, title="better")
    scene.add(0.1, Verdict.DISCARD, title="much worse")
    write_report(scene.directory)
    assert "accuracy 0.500000 → 0.700000, 40.00 % better" in page(scene.directory).text
    scene.store.close()


# ---- Commands --------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with two studies, the second of them newer."""
    for number, name in enumerate(("first", "second")):
        scene = Scene(tmp_path / ".arf" / "studies" / name)
        scene.baseline()
        scene.store.close()
        os.utime(scene.directory / "arf.db", (1e9 + number, 1e9 + number))
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".arf" / "studies"


def test_the_report_command_prints_where_the_files_are(here: Path) -> None:
    done = CliRunner().invoke(commands.report, [], catch_exceptions=False)
    assert done.stdout.splitlines() == [str(here / "second" / name) for name in (RESULTS, PLOT, PAGE)]
    done = CliRunner().invoke(commands.report, ["first", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["files"][0] == str(here / "first" / RESULTS)


def test_the_export_command_prints_a_study(here: Path) -> None:
    done = CliRunner().invoke(commands.export, ["first"], catch_exceptions=False)
    assert done.stdout.startswith("commit\tval_bpb\tmemory_gb\tstatus\tdescription\t")
    assert len(done.stdout.splitlines()) == 5
    by_path = CliRunner().invoke(
        commands.export, [str(here / "first"), "--format", "json"], catch_exceptions=False
    )
    assert len(json.loads(by_path.stdout)) == 4


def test_a_study_that_is_not_there_is_told_with_the_nearest_name(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="did you mean 'first'"):
        find_study("frist")
    monkeypatch.chdir(here.root)
    with pytest.raises(UsageError, match="there is no study here"):
        find_study(None)
