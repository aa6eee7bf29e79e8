"""Whole studies with real git, SQLite and processes: a shell script stands in for the training script."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from arf.config.schema import load
from arf.engine.engine import Engine
from arf.errors import AgentError, ArfError, UsageError
from arf.hooks import Declaration, hookimpl
from arf.interfaces import Agent, Brief
from arf.launch import create, resume, study_directory
from arf.plugins.registry import Plugins
from arf.store.database import Store
from arf.study import Study
from arf.types import (
    Answer,
    Ask,
    Draft,
    Edit,
    Experiment,
    ExperimentState,
    JobState,
    Role,
    Scalar,
    Usage,
    Verdict,
)

SCRIPT = """#!/bin/sh
LEVEL=100    # the best is 140 [0..1000, step 10]
MODE=plain   # what to do
echo "step 1/2 loss: 3.0"
case $MODE in
crash) echo "boom: it broke" >&2; exit 3 ;;
nan) for i in 2 3 4; do echo "step $i/4 loss: nan"; done; sleep 60 ;;
silent) exit 0 ;;
twice) echo "val_bpb: 0.5" ;;
infinite) echo "---"; echo "val_bpb: nan"; exit 0 ;;
tamper) echo changed > prepare.txt ;;
hang) sleep 60 ;;
flood) while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done ;;
esac
[ -n "$RUNS" ] && echo "$ARF_EXPERIMENT" >> "$RUNS"
distance=$((LEVEL > 140 ? LEVEL - 140 : 140 - LEVEL))
echo "---"
echo "val_bpb: 1.$((1000 + distance * 10 + ARF_SEED % 5))"
echo "peak_vram_mb: 512.0"
"""


def git(directory: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments],
        cwd=directory, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    directory = tmp_path / "workspace"
    directory.mkdir()
    (directory / "train.sh").write_text(SCRIPT)
    (directory / "prepare.txt").write_text("data\n")
    (directory / "arf.yaml").write_text(
        "workspace: {command: 'sh train.sh', editable: [train.sh], pass_env: [RUNS]}\n"
        "sandbox: {mode: off}\n"
        "budget: {max_experiments: 14}\n"
        "limits: {budget_s: 1, time_limit_s: 20}\n"
        "strategy: {name: greedy}\n"
    )
    git(directory, "init", "-q")
    git(directory, "add", "-A")
    git(directory, "commit", "-qm", "base")
    return directory


class Scripted(Agent):
    """Gives its drafts in order, each once."""

    drafts: Sequence[Draft] = ()

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.given: int | None = None

    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        first = len(brief.study.ideas) if self.given is None else self.given
        self.given = first + ask.n
        return Answer(ideas=tuple(self.drafts[first : self.given]), exhausted=self.given >= len(self.drafts))


class Away(Agent):
    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        raise AgentError("the service is closed")


class Buggy(Agent):
    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        raise RuntimeError("a bug in the agent")


class TestPlugin:
    """The agents above, and an observer that breaks."""

    __test__ = False

    @hookimpl
    def arf_register_agents(self) -> list[Declaration]:
        return [
            Declaration(
                name=cls.__name__.lower(), summary="a test's", implementation=f"{__name__}:{cls.__name__}"
            )
            for cls in (Scripted, Away, Buggy)
        ]

    @hookimpl
    def arf_experiment_changed(self, experiment: Experiment) -> None:
        raise RuntimeError("a bug in an observer")


def mode(name: str) -> Draft:
    return Draft(title=f"mode {name}", edits=(Edit(path="train.sh", old="MODE=plain", new=f"MODE={name}"),))


def level(value: int) -> Draft:
    return Draft(title=f"LEVEL {value}", constants={"LEVEL": value})


def plugins_with() -> Plugins:
    plugins = Plugins.load(disable=["report"])
    plugins.register(TestPlugin(), "test")
    return plugins


async def make(workspace: Path, plugins: Plugins, flags: Mapping[str, object]) -> tuple[Engine, Any]:
    config = load(
        workspace_file=workspace / "arf.yaml",
        flags={"backend.slots": 2, **flags},
        options_class=plugins.options,
    )
    return await create(workspace, config, plugins, "s")


def run(
    workspace: Path, drafts: Sequence[Draft] | None = None, observer: object = None, **flags: object
) -> tuple[dict[str, Any], Store]:
    """Run a study to its end with the scripted agent (or the one in `flags`)."""
    plugins = plugins_with()
    if observer is not None:
        plugins.register(observer, "observer")
    Scripted.drafts = drafts or ()

    async def main() -> dict[str, Any]:
        named = {key.replace("__", "."): value for key, value in flags.items()}
        engine, lock = await make(workspace, plugins, {"agent.name": "scripted", **named})
        try:
            return await engine.run()
        finally:
            lock.release()

    summary = asyncio.run(main())
    return summary, Store.open(study_directory(workspace, "s"))


def of_title(store: Store, title: str) -> Experiment:
    return next(e for e in store.experiments() if e.title == title and e.role is Role.CANDIDATE)


def test_a_study_finds_the_better_level_and_leaves_the_checkout_alone(workspace: Path) -> None:
    head = git(workspace, "rev-parse", "HEAD")
    summary, store = run(workspace, [level(90), level(130), level(140), level(200)])
    assert summary["state"] == "finished"
    assert summary["best"]["title"].endswith("LEVEL 140")
    assert summary["best"]["gain"] == pytest.approx(0.0400, abs=0.003)
    assert summary["final"] is not None
    experiments = store.experiments()
    assert all(e.state is ExperimentState.ENDED and e.verdict is not None for e in experiments)
    assert [e.id for e in experiments] == list(range(1, len(experiments) + 1))
    assert len([e for e in experiments if e.role is Role.BASELINE]) == 4
    assert git(workspace, "rev-parse", "HEAD") == head
    assert git(workspace, "status", "--porcelain") == ""
    assert git(workspace, "rev-parse", "arf/s").strip() == summary["best"]["commit"]
    refs = git(workspace, "for-each-ref", "--format=%(objectname)", "refs/arf/s/[0-9]*").split()
    assert sorted(refs) == sorted(e.commit for e in experiments)


class Diary:
    """Writes down asks, and the settings of what was kept."""

    def __init__(self) -> None:
        self.asks: list[tuple[str, int]] = []
        self.kept: list[Mapping[str, Scalar]] = []

    @hookimpl
    def arf_ask_opened(self, number: int) -> None:
        self.asks.append(("opened", number))

    @hookimpl
    def arf_ask_closed(self, study: Study, number: int, usage: Usage) -> None:
        assert number not in study.open_asks
        assert usage.usd >= 0
        self.asks.append(("closed", number))

    @hookimpl
    def arf_experiment_changed(self, study: Study, experiment: Experiment) -> None:
        if experiment.verdict is Verdict.KEEP:
            self.kept.append(study.settings(experiment))


def test_observers_hear_of_asks_and_can_see_the_settings_of_every_run(workspace: Path) -> None:
    diary = Diary()
    run(workspace, [level(140)], diary)
    opened = [number for what, number in diary.asks if what == "opened"]
    assert opened
    assert sorted(number for what, number in diary.asks if what == "closed") == sorted(opened)
    assert [values["LEVEL"] for values in diary.kept] == [100, 140]


def test_replicates_have_seeds_of_their_own_and_run_k_is_the_same_for_all(workspace: Path) -> None:
    _, store = run(workspace, [level(140)])
    baseline = [e.seed for e in store.experiments() if e.role is Role.BASELINE]
    assert len(set(baseline)) == len(baseline)
    assert of_title(store, "LEVEL 140").seed == baseline[0]


@pytest.mark.parametrize(
    ("name", "verdict", "reason"),
    [
        ("crash", Verdict.CRASH, "exit code 3: boom: it broke"),
        ("nan", Verdict.CRASH, "loss is nan at step 4"),
        ("silent", Verdict.CRASH, "printed no val_bpb"),
        ("twice", Verdict.INVALID, "printed val_bpb 2 times"),
        ("infinite", Verdict.CRASH, "val_bpb is nan"),
        ("tamper", Verdict.INVALID, "changed prepare.txt"),
        ("hang", Verdict.TIMEOUT, "time limit of 3 s"),
        ("flood", Verdict.CRASH, "limits.log_mb"),
    ],
)
def test_a_failed_experiment_is_told_apart_and_does_not_end_the_study(
    workspace: Path, name: str, verdict: Verdict, reason: str
) -> None:
    summary, store = run(
        workspace, [mode(name), level(140)], limits__time_limit_s=3, limits__log_mb=5, backend__grace_s=0.2
    )
    failed = of_title(store, f"mode {name}")
    assert (failed.verdict, reason in failed.reason) == (verdict, True), failed.reason
    assert failed.value is None
    assert of_title(store, "LEVEL 140").verdict is Verdict.KEEP
    assert summary["state"] == "finished"


def test_a_tree_that_was_tampered_with_is_clean_for_the_next(workspace: Path) -> None:
    _, store = run(workspace, [mode("tamper"), level(140), level(150), level(130)])
    assert of_title(store, "mode tamper").verdict is Verdict.INVALID
    assert all(e.verdict is not Verdict.INVALID for e in store.experiments() if e.title.startswith("LEVEL"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("crash", "exit code 3"), ("silent", "printed no val_bpb"), ("infinite", "val_bpb is nan")],
)
def test_a_baseline_that_fails_ends_the_study_with_what_to_do(
    workspace: Path, name: str, reason: str
) -> None:
    text = SCRIPT.replace("MODE=plain", f"MODE={name}")
    (workspace / "train.sh").write_text(text)
    git(workspace, "commit", "-qam", "broken")
    with pytest.raises(ArfError, match=r"the baseline failed.*commit") as raised:
        run(workspace, [level(140)])
    assert reason in str(raised.value)
    store = Store.open(study_directory(workspace, "s"))
    assert store.meta("state") == "failed"


def test_a_study_whose_database_is_deleted_while_it_runs_loses_nothing(workspace: Path) -> None:
    drop = '[ $MODE = drop ] && rm -f "$PWD/../../arf.db"\n'
    (workspace / "train.sh").write_text(SCRIPT.replace("case $MODE in\n", drop + "case $MODE in\n"))
    git(workspace, "commit", "-qam", "drops")
    summary, _ = run(workspace, [level(140), mode("drop"), level(150)])
    store = Store.open(study_directory(workspace, "s"))
    store.check()
    assert of_title(store, "LEVEL 140").verdict is Verdict.KEEP
    assert summary["state"] == store.meta("state") == "finished"
    assert any("had been deleted" in text for _, kind, text in store.events() if kind == "data")


def test_budgets_hold(workspace: Path) -> None:
    _, store = run(workspace, [level(100 + 10 * i) for i in range(1, 30)], budget__max_experiments=9)
    assert len(store.experiments()) <= 9


@pytest.mark.parametrize("agent", ["away", "buggy"])
def test_an_agent_that_cannot_answer_does_not_hang_the_study(workspace: Path, agent: str) -> None:
    with pytest.raises(AgentError) as ended:
        run(workspace, agent__name=agent)
    assert ended.value.exit_code == 3
    store = Store.open(study_directory(workspace, "s"))
    assert store.meta("state") == "failed"
    assert str(ended.value) == store.meta("end_reason")
    assert len(store.experiments()) == 4
    assert any(kind == "agent" for _, kind, _ in store.events())


def test_ideas_that_cannot_be_used_cost_nothing_and_are_recorded(workspace: Path) -> None:
    bad = [
        Draft(title="no such constant", constants={"LEVLE": 3}),
        Draft(title="read-only", edits=(Edit(path="prepare.txt", old="data", new="more"),)),
        Draft(title="outside", edits=(Edit(path="../x", old="", new="more"),)),
        level(140),
    ]
    summary, store = run(workspace, bad)
    events = " ".join(text for _, kind, text in store.events() if kind == "idea")
    assert "no such constant" in events
    assert "LEVEL" in events
    assert "read-only" in events
    assert "outside" in events
    assert summary["best"]["title"] == "LEVEL 140"


def test_the_same_code_is_not_run_twice(workspace: Path) -> None:
    _, store = run(workspace, [level(140), level(140), mode("plain "), level(100)])
    candidates = [e for e in store.experiments() if e.role is Role.CANDIDATE]
    assert len({e.tree for e in candidates}) == len(candidates)


def test_secrets_do_not_reach_jobs(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sesame")
    monkeypatch.setenv("MY_TOKEN", "sesame")
    (workspace / "train.sh").write_text(SCRIPT.replace('echo "---"', "env; echo ---"))
    git(workspace, "commit", "-qam", "env")
    _, store = run(workspace, [])
    logs = "".join(path.read_text() for path in (store.directory / "logs").glob("*.log"))
    assert "ARF_SEED=" in logs
    assert "sesame" not in logs


def test_setup_runs_once_and_a_failing_one_is_named(workspace: Path, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    run(workspace, [level(140)], workspace__setup=f"echo set up >> {marks}")
    assert marks.read_text() == "set up\n"
    # It may have to run again on another machine, as it was: no experiment gets its tree.
    kept = study_directory(workspace, "s") / "trees" / "setup" / "train.sh"
    assert kept.read_text() == SCRIPT
    plugins = plugins_with()

    async def main() -> None:
        config = load(
            workspace_file=workspace / "arf.yaml",
            flags={"workspace.setup": "echo no disk; exit 5", "agent.name": "scripted"},
            options_class=plugins.options,
        )
        engine, _ = await create(workspace, config, plugins, "other")
        await engine.run()

    with pytest.raises(ArfError, match=r"set-up command failed.*no disk"):
        asyncio.run(main())


def test_a_name_that_exists_is_refused(workspace: Path) -> None:
    run(workspace, [])
    with pytest.raises(UsageError, match="arf resume s"):
        run(workspace, [])


def test_a_stopped_study_ends_its_jobs_and_goes_on_where_it_was(workspace: Path) -> None:
    """Stop while experiments run; resume; each is there once and all have ended."""
    (workspace / "train.sh").write_text(SCRIPT.replace('echo "---"', "sleep 0.4; echo ---"))
    git(workspace, "commit", "-qam", "slower")
    plugins = plugins_with()
    Scripted.drafts = [level(140), level(150), level(130)]

    async def first() -> dict[str, Any]:
        engine, lock = await make(workspace, plugins, {"agent.name": "scripted"})
        asyncio.get_running_loop().call_later(0.9, engine.stop)
        try:
            return await engine.run()
        finally:
            lock.release()

    async def again() -> dict[str, Any]:
        engine, lock = await resume(study_directory(workspace, "s"), plugins)
        try:
            return await engine.run()
        finally:
            lock.release()

    stopped = asyncio.run(first())
    assert stopped["state"] == "stopped"
    store = Store.open(study_directory(workspace, "s"))
    assert all(e.job_state is None for e in store.running())
    for folder in ("logs", "trees"):  # somebody has made room
        shutil.rmtree(study_directory(workspace, "s") / folder, ignore_errors=True)
    finished = asyncio.run(again())
    assert finished["state"] == "finished"
    assert finished["best"]["title"] == "LEVEL 140"
    ended = store.experiments()
    assert len({e.id for e in ended}) == len(ended)
    assert all(e.job_state is JobState.SUCCEEDED for e in ended)


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("cat: data/words.txt: No such file or directory", r"workspace.link: \[data\]"),
        ("ModuleNotFoundError: No module named 'einops.layers'", "install einops where"),
        ("sh: 1: nvcc: not found", "install nvcc"),
        ("torch.OutOfMemoryError: CUDA out of memory.", "fewer slots"),
        ("open('out.txt'): Permission denied", "work trees of their own"),
        ("fatal: not a git repository", "work trees are no git repositories"),
        ("sh: 1: ./train.sh: Permission denied", r"`chmod \+x train.sh && git update-index --chmod=\+x"),
        ("ModuleNotFoundError: No module named 'data.words'", "data: not tracked by git.*commit it"),
        (
            "python3: can't open file '/a/trian.sh': [Errno 2] No such file or directory",
            "no /a/trian.sh in git",
        ),
        ("anything else", r"make `sh train\.sh` work"),
    ],
)
def test_the_hint_after_a_failed_baseline_follows_its_log(workspace: Path, said: str, hint: str) -> None:
    (workspace / "data").mkdir()
    (workspace / "data" / "words.txt").write_text("words")
    (workspace / ".gitignore").write_text("data/\n")
    (workspace / "train.sh").write_text(f'echo "{said}" >&2; exit 1\n')
    git(workspace, "add", "--all")
    git(workspace, "commit", "-qm", "broken")
    with pytest.raises(ArfError) as raised:
        run(workspace, [level(140)])
    assert re.search(hint, raised.value.hint or "")


@pytest.mark.parametrize(
    ("printed", "hint"),
    [
        (
            "the final val bpb is 0.5 now",
            r"`the final val bpb is 0.5 now`.*'val_bpb': 'val bpb is \(\\S\+\)'",
        ),
        ("val_bpb: 0,5", "has a comma: print"),
        ("Val_BPB: 0.5", "-o objective.metric=Val_BPB"),
        ("loss: 0.5", "print `val_bpb: 1.23` on a line of its own.*objective.metric"),
        ("done", "only in a file"),
    ],
)
def test_a_baseline_without_its_metric_is_told_how_to_print_it(
    workspace: Path, printed: str, hint: str
) -> None:
    (workspace / "train.sh").write_text(f"echo '{printed}'\n")
    git(workspace, "commit", "-qam", "other words")
    with pytest.raises(ArfError, match="printed no val_bpb") as raised:
        run(workspace, [level(140)])
    assert re.search(hint, raised.value.hint or "")


def test_a_baseline_that_prints_several_values_is_told_of_the_choice(workspace: Path) -> None:
    (workspace / "train.sh").write_text(SCRIPT.replace("MODE=plain", "MODE=twice"))
    git(workspace, "commit", "-qam", "twice")
    with pytest.raises(ArfError, match="2 times") as raised:
        run(workspace, [level(140)])
    assert "-o objective.pick=last" in (raised.value.hint or "")


def test_a_baseline_that_is_too_slow_is_told_of_the_limit(workspace: Path) -> None:
    (workspace / "train.sh").write_text(SCRIPT.replace("MODE=plain", "MODE=hang"))
    git(workspace, "commit", "-qam", "slow")
    with pytest.raises(ArfError, match="time limit") as raised:
        run(workspace, [level(140)], limits__budget_s=0.3, limits__time_limit_s=0.6)
    assert "raise limits.time_limit_s (it is 0.6)" in (raised.value.hint or "")


def test_ideas_that_no_run_has_tried_are_noted_at_the_end(workspace: Path) -> None:
    gone = Draft(title="gone", edits=(Edit(path="train.sh", old="nothing like it", new="x"),))
    summary, _ = run(workspace, [gone, level(140), attrs.evolve(level(140), title="the same")])
    assert any(
        note.startswith("1 idea was refused (-v tells each), the last: gone:") for note in summary["notes"]
    )
    assert any(note.startswith("1 idea was never run, the last: the same: ") for note in summary["notes"])


def test_a_script_that_changes_shared_data_is_noticed(workspace: Path) -> None:
    (workspace / "data").mkdir()
    (workspace / "data" / "words.txt").write_text("words")
    (workspace / ".gitignore").write_text("data/\n")
    (workspace / "train.sh").write_text("echo more >> data/words.txt; echo x > data/cache\n" + SCRIPT)
    git(workspace, "add", "--all")
    git(workspace, "commit", "-qm", "writes")
    _, store = run(workspace, [level(140)], workspace__link=["data"], budget__max_experiments=4)
    told = [text for _, kind, text in store.events() if kind == "data"]
    assert len(told) == 1
    assert "data/words.txt" in told[0]
    assert "cache" not in told[0]
