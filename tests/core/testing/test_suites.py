"""The suites and the fakes, on each other."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest
from attrs import evolve

from arf.cli.new_plugin import write_plugin
from arf.errors import AgentError, BackendError
from arf.hooks import hookimpl
from arf.interfaces import AcceptRule, Agent, Brief, Judgement, MetricParser, Strategy
from arf.judge.evidence import Evidence
from arf.judge.lower import Lower
from arf.judge.proof import Proof
from arf.study import Study
from arf.testing.fakes import FakeAgent, FakeBackend, FakeCluster, FakeMetricParser, FakeStrategy
from arf.testing.suites import (
    AcceptRuleSuite,
    AgentSuite,
    CommandSuite,
    ListenerSuite,
    MetricParserSuite,
    StrategySuite,
)
from arf.testing.suites.agent import BASE
from arf.types import (
    Answer,
    Ask,
    AskKind,
    Draft,
    Edit,
    Experiment,
    FactorDraft,
    Job,
    JobState,
    Plan,
    Reading,
    Role,
    Submission,
    Usage,
    Verdict,
)


class TestFakeStrategy(StrategySuite):
    def make(self) -> Strategy:
        return FakeStrategy()


class TestFakeAgent(AgentSuite):
    gives_factors = True

    def make(self) -> Agent:
        drafts = [Draft(title=f"depth {n}", constants={"DEPTH": n}) for n in range(5, 13)]
        return FakeAgent(drafts=drafts, factors=[FactorDraft(name="depth", levels=(drafts[0],))])


class TestFakeMetricParser(MetricParserSuite):
    examples: ClassVar = {
        "loss=3.5 and lr=1e-3": [Reading(name="loss", value=3.5), Reading(name="lr", value=1e-3)],
        "loss@10=nan": [Reading(name="loss", value=float("nan"), step=10)],
        "nothing here": [],
    }

    def make(self) -> MetricParser:
        return FakeMetricParser()


def job(tmp_path: Path, key: str = "1", tier: str = "fake", time_limit_s: float = 60.0) -> Job:
    return Job(
        key=key,
        directory=tmp_path,
        command="true",
        env={},
        log=tmp_path / f"{key}.log",
        tier=tier,
        time_limit_s=time_limit_s,
    )


def test_a_fake_backend_writes_what_the_test_says(tmp_path: Path) -> None:
    async def main() -> None:
        backend = FakeBackend(outcome=lambda job: (0.001, f"key={job.key}\n", JobState.FAILED))
        result = await backend.wait(await backend.submit(job(tmp_path)))
        assert (result.state, result.exit_code) == (JobState.FAILED, 1)
        assert (tmp_path / "1.log").read_text() == "key=1\n"
        with pytest.raises(BackendError, match="fake"):
            await backend.submit(job(tmp_path, tier="fke"))
        assert (await backend.wait("unknown")).state is JobState.LOST

    asyncio.run(main())


def test_a_fake_backend_keeps_limits_slots_and_cancellations(tmp_path: Path) -> None:
    async def main() -> None:
        backend = FakeBackend(outcome=lambda job: (1000.0, "", JobState.SUCCEEDED))
        short = await backend.submit(job(tmp_path, "short", time_limit_s=0.001))
        long = await backend.submit(job(tmp_path, "long"))
        queued = await backend.submit(job(tmp_path, "queued"))
        assert (await backend.wait(short)).state is JobState.TIMED_OUT
        for handle in (long, queued):
            await backend.cancel(handle)
            await backend.cancel(handle)
            assert (await backend.wait(handle)).state is JobState.CANCELLED
        await backend.aclose()
        assert backend.closed

    asyncio.run(main())


def test_a_fake_cluster_outlives_its_backend(tmp_path: Path) -> None:
    cluster = FakeCluster()

    async def start() -> str:
        backend = FakeBackend(cluster=cluster, outcome=lambda job: (1000.0, "", JobState.SUCCEEDED))
        done = await FakeBackend(cluster=cluster).submit(job(tmp_path, "done"))
        assert (await backend.wait(done)).state is JobState.SUCCEEDED
        return await backend.submit(job(tmp_path, "running"))

    async def find(handle: str) -> None:
        backend = FakeBackend(cluster=cluster)
        assert (await backend.wait("done")).state is JobState.SUCCEEDED
        assert (await backend.wait(handle)).state is JobState.LOST

    asyncio.run(find(asyncio.run(start())))


def test_a_fake_agent_can_fail() -> None:
    suite = TestFakeAgent()
    with pytest.raises(AgentError, match="away"):
        asyncio.run(
            FakeAgent(error=AgentError("away")).answer(
                Ask(base=BASE), brief=_brief(suite.study(), suite.files)
            )
        )


def _brief(study: Study, files: Mapping[str, str]) -> Brief:
    return Brief(study=study, files=files)


# ---- The suites find what is wrong --------------------------------------------------------------


def strategy_suite(decide: Callable[[Study, Mapping[str, int]], Sequence[Plan | Ask]]) -> StrategySuite:
    class Suite(StrategySuite):
        def make(self) -> Strategy:
            return FakeStrategy(decide=decide)

    return Suite()


def test_the_strategy_suite_finds_a_strategy_that_walks_over_the_history() -> None:
    def decide(study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        assert sum(1 for _ in study.experiments.values()) >= 0
        return FakeStrategy().decide(study, free)

    with pytest.raises(AssertionError, match="indexes"):
        strategy_suite(decide).test_a_decision_does_not_walk_over_the_whole_history()


def test_the_strategy_suite_finds_one_that_repeats_a_refused_plan() -> None:
    def decide(study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        if not study.ideas:
            return FakeStrategy().decide(study, free)
        return [Plan(parent=study.base, ideas=(1,))] if not study.running_count else []

    with pytest.raises(AssertionError, match="refused"):
        strategy_suite(decide).test_a_refused_plan_is_not_offered_again()


def test_the_strategy_suite_finds_one_with_a_state_of_its_own() -> None:
    seen: list[int] = []

    def decide(study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        seen.append(1)
        return [Ask(n=len(seen), base=study.base)]

    with pytest.raises(AssertionError, match="state of its own"):
        strategy_suite(decide).test_the_same_study_gives_the_same_decision_from_any_object()


def edit(old: str, new: str, path: str = "train.py") -> Draft:
    return Draft(title="x", edits=(Edit(path=path, old=old, new=new),))


@pytest.mark.parametrize(
    ("draft", "said"),
    [
        (edit("not there", "y"), "not there"),
        (edit("DEPTH = 4", "DEPTH = 4"), "changes nothing"),
        (edit("", "y", "../x.py"), "x.py"),
        (Draft(title="x"), "exactly one"),
        (Draft(title="x", constants={"DEPT": 5}), "DEPT"),
        (Draft(title="x", constants={"DEPTH": 4}), "changes nothing"),
        (Draft(title="x", constants={"DEPTH": "8"}), "DEPTH"),
        (Draft(title="x", patch="--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-no\n+yes\n"), "train.py"),
        (Draft(title="x", constants={"DEPTH": 5}, expected=float("nan")), "isfinite"),
    ],
)
def test_the_agent_suite_finds_a_change_that_is_none(draft: Draft, said: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=re.escape(said)):
        asyncio.run(agent_suite(lambda ask, brief: Answer(ideas=(draft,)), tmp_path).asked(AskKind.IDEAS, 1))


def agent_suite(answer: Callable[[Ask, Brief], Answer], folder: Path) -> AgentSuite:
    class Odd(Agent):
        async def answer(self, ask: Ask, brief: Brief) -> Answer:
            return answer(ask, brief)

    class Suite(AgentSuite):
        def make(self) -> Agent:
            return Odd()

    suite = Suite()
    suite.folder, suite._applied_to, suite.blocked_s = folder, None, []
    return suite


def changing(brief: Brief) -> Answer:
    brief.study.stale.append(1)
    return Answer(exhausted=True)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda ask, brief: None, "it is None"),
        (lambda ask, brief: Answer(ideas=[edit("DEPTH = 4", "DEPTH = 5")]), "is a list"),
        (lambda ask, brief: Answer(ideas=(edit("DEPTH = 4", "DEPTH = 5"),) * 2), "1 ideas were asked for"),
        (lambda ask, brief: Answer(submissions=(Submission(again=1),)), "1 ideas were asked for"),
        (lambda ask, brief: Answer(usage=Usage(usd=-1.0)), "no cost"),
        (lambda ask, brief: changing(brief), "changed the study"),
    ],
)
def test_the_agent_suite_finds_an_answer_that_is_none(
    answer: Callable[[Ask, Brief], Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=said):
        asyncio.run(agent_suite(answer, tmp_path).asked(AskKind.IDEAS, 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda plan: [plan, plan], "twice"),
        (lambda plan: [evolve(plan, role="candidate")], "role is a str"),
        (lambda plan: [evolve(plan, parent=plan.parent[:12])], "no commit"),
        (lambda plan: [evolve(plan, tier="cpu")], "the tier 'cpu'"),
        (lambda plan: (one for one in [plan]), "generator"),
    ],
)
def test_the_strategy_suite_finds_an_unsound_plan(change: Callable[[Plan], Any], said: str) -> None:
    def decide(study: Study, free: Mapping[str, int]) -> Any:
        decided = FakeStrategy().decide(study, free)
        return change(decided[0]) if decided and isinstance(decided[0], Plan) else decided

    with pytest.raises(AssertionError, match=said):
        strategy_suite(decide).test_one_tier_with_one_slot_is_enough()


def test_the_strategy_suite_finds_one_that_changes_the_study() -> None:
    def decide(study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        study.near_misses.append((0.0, 1))
        return FakeStrategy().decide(study, free)

    with pytest.raises(AssertionError):
        strategy_suite(decide).test_deciding_changes_nothing()


def untried(study: Study, free: Mapping[str, int]) -> list[Plan | Ask]:
    return list(FakeStrategy().decide(study, free))


def test_the_strategy_suite_finds_one_that_ignores_the_direction() -> None:
    def decide(study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        group = study.incumbent_group("small")
        return untried(study, free) if group is None or group.mean < 0.99 or study.untried_count < 3 else []

    with pytest.raises(AssertionError, match="direction"):
        strategy_suite(decide).test_more_may_be_better_as_well_as_less()


def test_the_strategy_suite_finds_one_that_breaks_on_an_undecided_run() -> None:
    def decide(study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        for number in study.by_role(Role.CANDIDATE):
            experiment = study.experiments[number]
            assert experiment.value is None or experiment.verdict is not None, "undecided"
        return untried(study, free)

    with pytest.raises(AssertionError, match="undecided"):
        strategy_suite(decide).test_it_goes_on_while_verdicts_are_due()


def test_the_agent_suite_finds_one_that_blocks(tmp_path: Path) -> None:
    def answer(ask: Ask, brief: Brief) -> Answer:
        time.sleep(0.3)
        return Answer(exhausted=True)

    suite = agent_suite(answer, tmp_path)
    type(suite).blocks_s = 0.2
    with pytest.raises(AssertionError, match="blocks the event loop"):
        asyncio.run(suite.asked(AskKind.IDEAS, 1))


class Remembers(FakeMetricParser):
    """Gives each line the step that a line before it had, in any object."""

    last: ClassVar[list[int | None]] = [None]

    def parse(self, line: str) -> Sequence[Reading]:
        if line.startswith("step="):
            self.last[0] = int(line.removeprefix("step="))
            return []
        return [Reading(name=r.name, value=r.value, step=self.last[0]) for r in super().parse(line)]


def test_the_parser_suite_finds_one_with_a_state() -> None:
    class Suite(MetricParserSuite):
        examples: ClassVar = {"step=3": [], "a=1": [Reading(name="a", value=1.0, step=3)], "step=4": []}

        def make(self) -> MetricParser:
            return Remembers()

    suite = Suite()
    with suite.limited(), pytest.raises(AssertionError):
        suite.test_the_same_line_gives_the_same_readings_whatever_came_before()


class TestEvidence(AcceptRuleSuite):
    def make(self) -> AcceptRule:
        return Evidence()


class TestLower(AcceptRuleSuite):
    def make(self) -> AcceptRule:
        return Lower()


class TestProof(AcceptRuleSuite):
    def make(self) -> AcceptRule:
        return Proof()


class Lessening(AcceptRule):
    """Wants less, whatever the study wants."""

    def judge(self, study: Study, candidates: Sequence[Experiment]) -> Judgement:
        group = study.incumbent_group(candidates[0].tier) if candidates else None
        if group is None or not group.n:
            return Judgement()
        verdicts = [
            (e.id, Verdict.KEEP if (e.value or 0.0) < group.mean else Verdict.DISCARD, "less")
            for e in candidates
        ]
        return Judgement(verdicts=tuple(verdicts[:1]))


class Undecided(AcceptRule):
    def judge(self, study: Study, candidates: Sequence[Experiment]) -> Judgement:
        return Judgement()


class Counting(Lower):
    asked: ClassVar[list[int]] = []

    def judge(self, study: Study, candidates: Sequence[Experiment]) -> Judgement:
        self.asked.append(1)
        verdict = Verdict.KEEP if len(self.asked) % 2 else Verdict.DISCARD
        return Judgement(verdicts=tuple((e.id, verdict, "turn about") for e in candidates))


@pytest.mark.parametrize(
    ("rule", "test", "said"),
    [
        (Lessening, "test_more_may_be_better_as_well_as_less", "direction"),
        (Undecided, "test_every_experiment_gets_its_verdict", "undecided"),
        (Counting, "test_every_experiment_gets_its_verdict", "a state of its own"),
    ],
)
def test_the_suite_of_rules_finds_what_is_wrong(rule: type[AcceptRule], test: str, said: str) -> None:
    class Suite(AcceptRuleSuite):
        def make(self) -> AcceptRule:
            return rule()

    with pytest.raises(AssertionError, match=said):
        getattr(Suite(), test)()


class Silent:
    """Hooks that are wrong in one way each."""

    def __init__(self, wrong: str) -> None:
        self.wrong = wrong
        self.numbers: dict[str, set[int]] = {}

    @hookimpl
    def arf_study_started(self, study: Study, resumed: bool) -> None:
        self.numbers[study.name] = set()

    @hookimpl
    def arf_experiment_changed(self, study: Study, experiment: Experiment) -> None:
        if self.wrong == "slow":
            time.sleep(0.1)
        if self.wrong == "changes the study":
            study.stale.append(1)
        if self.wrong == "wants each change once" and experiment.verdict is not None:
            assert experiment.id not in self.numbers[study.name]
            self.numbers[study.name].add(experiment.id)

    @hookimpl
    def arf_study_finished(self, study: Study, directory: Path) -> Any:
        if self.wrong == "keeps one study only":
            assert len(self.numbers) == 1
        self.numbers.pop(study.name, None)
        return [directory / "absent"] if self.wrong == "writes nothing" else None


@pytest.mark.parametrize(
    ("wrong", "test", "said"),
    [
        ("slow", "test_it_is_quick_where_the_engine_waits", "the engine waits"),
        ("changes the study", "test_it_watches_a_whole_study_and_changes_nothing", "changes the study"),
        ("wants each change once", "test_an_event_may_come_again_after_a_crash", "assert"),
        ("writes nothing", "test_a_study_may_end_before_anything_happened", "was not written"),
        ("keeps one study only", "test_two_studies_in_one_process_are_kept_apart", "assert"),
    ],
)
def test_the_listener_suite_finds_what_is_wrong(wrong: str, test: str, said: str, tmp_path: Path) -> None:
    listener = Silent(wrong)

    class Suite(ListenerSuite):
        def make(self) -> object:
            return listener

    suite = Suite()
    suite.folder, suite.took_s = tmp_path, {}
    with pytest.raises(AssertionError, match=said):
        getattr(suite, test)()


@click.command()
@click.argument("study", required=False)
@click.option("--loud", is_flag=True)
def careless(study: str | None, loud: bool) -> None:
    raise KeyError(study)


@pytest.mark.parametrize(
    "test",
    [
        "test_its_help_says_what_it_is_for",
        "test_every_option_has_help",
        "test_where_there_is_no_study_it_says_so_in_one_line",
    ],
)
def test_the_command_suite_finds_what_is_wrong(test: str) -> None:
    class Suite(CommandSuite):
        reads_studies = True

        def make(self) -> click.Command:
            return careless

    with pytest.raises(AssertionError):
        getattr(Suite(), test)()


class Slow(FakeMetricParser):
    def parse(self, line: str) -> Sequence[Reading]:
        re.match(r"(\w+\s?)*:$", line)
        return []


class Lazy(FakeMetricParser):
    def parse(self, line: str) -> Any:
        return (reading for reading in super().parse(line))


@pytest.mark.parametrize(("cls", "said"), [(Slow, "more than 0.2 s"), (Lazy, "generator")])
def test_the_parser_suite_finds_one_that_is_slow_or_gives_no_list(
    cls: type[FakeMetricParser], said: str
) -> None:
    class Suite(MetricParserSuite):
        limit_s = 0.2
        examples: ClassVar = {"a=1": [Reading(name="a", value=1.0)]}

        def make(self) -> MetricParser:
            return cls()

    suite = Suite()
    with suite.limited(), pytest.raises(AssertionError, match=said):
        suite.parse(cls(), "a" * 60)


FAULTS = {
    "leaks arf's environment": (
        'env=order["env"]',
        'env={**os.environ, **order["env"]}',
        "test_a_job_gets_its_environment_and_none_of_arfs",
    ),
    "ends only the main process": (
        "os.killpg(process.pid, signal.SIGKILL)",
        "process.kill()",
        "test_what_a_job_leaves_in_the_background_neither_delays_its_end_nor_stays",
    ),
    "asks where it should force": (
        "signal.SIGKILL",
        "signal.SIGTERM",
        "test_a_cancelled_job_ends_with_all_its_processes",
    ),
    "runs too many": (
        "for slot in range(slots)",
        "for slot in range(slots + 1)",
        "test_no_more_jobs_run_at_a_time_than_there_are_slots",
    ),
    "counts the wait for a slot": (
        'slot = wait_for_slot(folder, order["slots"])',
        'began = time.monotonic(); slot = wait_for_slot(folder, order["slots"]); '
        'order["time_limit_s"] -= time.monotonic() - began',
        "test_waiting_for_a_slot_is_no_time_of_the_job",
    ),
    "runs an ended key again": (
        ' or (folder / "result.json").exists()',
        "",
        "test_the_next_backend_does_not_run_an_ended_key_again",
    ),
    "always says success": (
        'return {"state": state, "exit_code": code,',
        'return {"state": "succeeded", "exit_code": 0,',
        "test_a_job_that_fails_keeps_its_exit_code_and_its_output",
    ),
    "has fewer slots than it says": (
        'order["slots"])',
        "1)",
        "test_as_many_jobs_run_at_a_time_as_there_are_slots",
    ),
    "has its own idea of time": (
        "started_at = datetime.now(UTC).isoformat()",
        'started_at = "2020-01-01T00:00:00+00:00"',
        "test_the_times_of_a_job_are_those_at_which_it_ran",
    ),
    "keeps no limit": (
        "time.monotonic() > deadline",
        "False",
        "test_a_job_over_its_limit_is_ended_with_all_its_processes",
    ),
}
"""What is wrong with a backend: how the example's supervisor is changed, and the test that sees it."""


@pytest.mark.parametrize(("right", "wrong", "test"), FAULTS.values(), ids=FAULTS.keys())
def test_the_backend_suite_finds_a_fault(right: str, wrong: str, test: str, tmp_path: Path) -> None:
    write_plugin("mine", "backend", tmp_path)
    (source,) = (file for file in tmp_path.glob("arf_mine*.py") if right in file.read_text())
    source.write_text(source.read_text().replace(right, wrong))
    (tmp_path / "conftest.py").write_text("from test_arf_mine import TestMine as T\nT.timeout_s = 1.0\n")
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", ".", "-k", test]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"::{test}" in done.stdout


def test_a_pytest_run_that_uses_no_fixture_imports_nothing_of_arf(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\n"
        "def test_light():\n"
        "    ours = {m for m in sys.modules if m.startswith('arf.')}\n"
        "    assert ours == {'arf.testing', 'arf.testing.pytest_plugin'}\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        tmp_path,
        tmp_path,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_workspace_fixture_is_a_clean_repository_that_runs(arf_workspace: Path) -> None:
    git = subprocess.run(["git", "status", "--porcelain"], cwd=arf_workspace, capture_output=True, check=True)
    assert git.stdout == b""
    env = {**os.environ, "ARF_SEED": "1"}
    done = [
        subprocess.run(
            [sys.executable, "train.py"], cwd=arf_workspace, env=env, capture_output=True, check=True
        )
        for _ in range(2)
    ]
    assert done[0].stdout == done[1].stdout
    assert b"\nval_bpb:  " in done[0].stdout
