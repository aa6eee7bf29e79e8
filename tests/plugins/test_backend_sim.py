"""Simulated studies: the same engine, judge, store and strategies on a virtual clock."""

import asyncio
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from arf.config.schema import Budget
from arf.errors import BackendError, ConflictError, UsageError
from arf.interfaces import Brief, Workspace
from arf.plugins.registry import Plugins
from arf.testing.fakes import FakeAgent
from arf.testing.suites import WorkspaceSuite
from arf.types import Answer, Ask, Draft, Idea, Job, JobState, Verdict
from arf_plugins.backend_sim import ObjectiveOptions, SimOptions, SimTier
from arf_plugins.backend_sim.backend import SimBackend
from arf_plugins.backend_sim.clock import VirtualLoop, run_virtual
from arf_plugins.backend_sim.random import RandomAgent
from arf_plugins.backend_sim.simulate import Simulated, Simulation, simulate, simulate_here
from arf_plugins.backend_sim.thinking import ThinkingAgent
from arf_plugins.backend_sim.workspace import SimWorkspace
from arf_plugins.objectives.choose import make_objective
from arf_plugins.objectives.objective import SCRIPT, SimulatedObjective


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins.load()


def options(name: str = "additive", *, slots: int = 4, **given: Any) -> SimOptions:
    tier = SimTier(slots=slots, usd_per_hour=2.0)
    return SimOptions(objective=ObjectiveOptions(name=name), tiers={"a": tier}, **given)


def run(plugins: Plugins, opts: SimOptions | None = None, *, n: int = 120, **given: Any) -> Simulated:
    given = {"strategy": "greedy", "agent": "random", **given}
    parts = {name: given.pop(name) for name in ("agent",) if not isinstance(given[name], str)}
    simulation = Simulation(options=opts or options(), budget=Budget(max_experiments=n), **given)
    return simulate(simulation, plugins, agent=parts.get("agent"))


def history(done: Simulated) -> list[tuple[Any, ...]]:
    return [
        (e.id, e.role, e.commit, e.seed, e.tier, e.value, e.verdict, e.accepted_at, e.ended_at, e.reason)
        for e in done.study.experiments.values()
    ]


def job(objective: SimulatedObjective, *, seed: int = 1, attempt: int = 1, **changed: Any) -> Job:
    workspace = SimWorkspace(objective)
    commit = workspace.base_commit()
    if changed:
        commit = workspace.make_idea(Draft(title="x", constants=changed), commit, message="x")
    env = {"ARF_COMMIT": commit, "ARF_SEED": str(seed)}
    return Job(
        key=f"000001-{attempt}", directory=Path(), command="x", env=env, log=Path("x.log"), tier="a",
        time_limit_s=600.0,
    )  # fmt: skip


def backend(opts: SimOptions, settings: Mapping[str, Any] | None = None) -> SimBackend:
    objective = make_objective(opts.objective, opts.tiers)
    logs: dict[Path, str] = {}
    return SimBackend(
        opts,
        settings=lambda _: settings or objective.base,
        write=lambda path, text: logs.update({path: text}),
    )


# ---- The clock ------------------------------------------------------------------------------------


def test_hours_pass_at_once() -> None:
    async def sleep() -> float:
        loop = asyncio.get_running_loop()
        before = loop.time()
        await asyncio.gather(asyncio.sleep(8 * 3600), asyncio.sleep(3600))
        return loop.time() - before

    assert run_virtual(sleep()) == pytest.approx(8 * 3600)


def test_timers_fire_in_order_however_far_away_they_are() -> None:
    async def collect() -> list[float]:
        seen: list[float] = []

        async def one(delay: float) -> None:
            await asyncio.sleep(delay)
            seen.append(delay)

        await asyncio.gather(*(one(delay) for delay in (1e9, 3.0, 1e6, 0.5, 1e9 + 1)))
        return seen

    assert run_virtual(collect()) == [0.5, 3.0, 1e6, 1e9, 1e9 + 1]


def test_the_date_moves_with_the_clock() -> None:
    async def dates() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        before = loop.now()
        await asyncio.sleep(90)
        return (loop.now() - before).total_seconds()

    assert run_virtual(dates()) == pytest.approx(90)


# ---- Whole studies --------------------------------------------------------------------------------


def test_a_study_is_the_same_for_the_same_seed_and_another_for_another(plugins: Plugins) -> None:
    first, second, other = (run(plugins, n=150, seed=seed) for seed in (1, 1, 2))
    assert history(first) == history(second)
    assert first.moments == second.moments
    assert history(first) != history(other)


def test_a_study_finds_what_is_better_and_knows_its_true_value(plugins: Plugins) -> None:
    done = run(plugins, n=300, claim="none")
    objective = make_objective(ObjectiveOptions(name="additive"), {})
    assert done.experiments == 300
    assert len(done.moments) > 1
    assert done.moments[0].truth == 1.0
    last = done.moments[-1]
    assert last.truth == objective.truth(last.settings) < 0.99
    assert done.study.verdicts[Verdict.KEEP] <= len(done.moments)
    assert done.best_reading is not None
    assert done.best_reading < last.truth
    for before, after in zip(done.moments, done.moments[1:], strict=False):
        assert after.truth_before == before.truth
        assert after.wall_s >= before.wall_s
        assert after.slot_hours >= before.slot_hours
        assert after.usd == pytest.approx(2 * after.slot_hours)


def test_eight_hours_on_sixteen_slots_are_used_up(plugins: Plugins) -> None:
    simulation = Simulation(options=options(slots=16), budget=Budget(max_time=8 * 3600.0), agent="random")
    done = simulate(simulation, plugins)
    assert done.experiments > 16 * 8 * 11
    assert done.utilisation > 0.97
    assert done.summary["reason"] == "max_time"
    assert done.wall_s < 8 * 3600 + 600
    assert done.summary["slot_hours"] == pytest.approx(done.slot_hours)


def test_the_engine_decides_as_on_a_real_clock(plugins: Plugins, tmp_path: Path) -> None:
    """Runs of 20 ms on the loop of plain asyncio: the same study, but for its times."""
    simulation = Simulation(
        options=options(slots=1, run_s=0.02),
        budget=Budget(max_experiments=40),
        strategy="greedy",
        agent="random",
    )
    virtual = simulate(simulation, plugins)
    parts = plugins.make("strategy", "greedy"), plugins.make("agent", "random")
    real = asyncio.run(simulate_here(simulation, plugins, *parts, tmp_path))
    told = [
        [(e.id, e.commit, e.role, e.seed, e.value, e.verdict, e.reason) for e in d.study.experiments.values()]
        for d in (virtual, real)
    ]
    assert told[0] == told[1]
    assert [m.truth for m in virtual.moments] == [m.truth for m in real.moments]


def test_a_dear_tier_costs_more_and_has_its_own_values(plugins: Plugins) -> None:
    tiers = {"a": SimTier(slots=2), "b": SimTier(slots=2, usd_per_hour=3.0, offset=-0.5)}
    opts = SimOptions(objective=ObjectiveOptions(name="additive"), tiers=tiers)
    done = run(plugins, opts, n=60)
    means = {
        name: statistics.fmean(e.value for e in done.study.experiments.values() if e.tier == name and e.value)
        for name in tiers
    }
    assert means["b"] == pytest.approx(means["a"] - 0.5, abs=0.05)
    assert done.usd == pytest.approx(3 * done.study.slot_s["b"] / 3600)


def test_crashes_preemptions_and_stragglers_do_not_stop_a_study(plugins: Plugins) -> None:
    opts = options(crashes=0.1, preemptions=2.0, stragglers=0.1)
    done = run(plugins, opts, n=200, claim="none")
    experiments = done.study.experiments.values()
    assert sum(e.verdict is Verdict.CRASH for e in experiments) > 5
    assert any(e.attempt > 1 for e in experiments)
    assert any(e.verdict is Verdict.TIMEOUT for e in experiments)
    assert done.experiments == 200


def test_an_agent_that_never_answers_does_not_outlast_the_budget(plugins: Plugins) -> None:
    hour = Budget(max_time=3600.0)
    simulation = Simulation(options=options(), budget=hour, strategy="greedy", agent="random")
    done = simulate(simulation, plugins, agent=FakeAgent(delay_s=1e9))
    assert done.study.experiments
    assert not done.study.open_asks


def test_nothing_false_is_kept_of_pure_noise(plugins: Plugins) -> None:
    kept = [run(plugins, options("noise"), n=60, seed=s, accept="proof").false_keeps for s in range(6)]
    assert sum(kept) <= 1


def test_settings_that_crash_are_crashes(plugins: Plugins) -> None:
    deep = Draft(title="deep", constants={"DEPTH": 12})
    done = run(plugins, options("autoresearch"), n=20, agent=FakeAgent(drafts=[deep]))
    verdict = next(e.verdict for e in done.study.experiments.values() if e.title == "deep")
    assert verdict is Verdict.CRASH


def test_an_idea_that_the_table_lacks_costs_no_run(plugins: Plugins) -> None:
    drafts = [Draft(title="odd", constants={"WIDTH": 48}), Draft(title="fine", constants={"WIDTH": 32})]
    opts = SimOptions(objective=ObjectiveOptions(kind="table"), tiers={"a": SimTier(slots=2)})
    done = run(plugins, opts, n=20, agent=FakeAgent(drafts=drafts))
    titles = {e.title for e in done.study.experiments.values()}
    assert "fine" in titles
    assert "odd" not in titles


def test_changes_that_do_nothing_are_counted_and_claims_are_held_against_the_truth(plugins: Plugins) -> None:
    both = Draft(title="both", constants={"ALPHA": 0.9, "THETA": 0.7})  # THETA does nothing
    done = run(plugins, n=40, agent=FakeAgent(drafts=[both]))
    assert (done.changes, done.useless_changes) == (2, 1)
    assert done.claim is not None
    assert done.claim.true_gain == pytest.approx(0.012)
    assert done.claim.is_made
    assert not done.claim.is_false


def test_thinking_takes_virtual_time(plugins: Plugins) -> None:
    study = run(plugins, n=8).study

    async def main() -> tuple[float, Answer]:
        agent = ThinkingAgent(FakeAgent(drafts=[Draft(title="x")]), seconds=30.0, usd=0.25)
        loop = asyncio.get_running_loop()
        before = loop.time()
        answer = await agent.answer(Ask(base="b"), Brief(study=study, files={}))
        return loop.time() - before, answer

    waited, answer = run_virtual(main())
    assert waited == pytest.approx(30.0)
    assert answer.usage.usd == 0.25


# ---- Jobs -----------------------------------------------------------------------------------------


def test_the_same_run_reads_the_same_and_a_replicate_does_not() -> None:
    opts = options()
    objective = make_objective(opts.objective, opts.tiers)
    there = backend(opts)
    texts = [there.fate(job(objective, seed=seed)).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_another_attempt_is_the_same_training_on_another_machine() -> None:
    opts = options(jitter=0.1)
    objective = make_objective(opts.objective, opts.tiers)
    there = backend(opts)
    first, second = (there.fate(job(objective, attempt=attempt)) for attempt in (1, 2))
    assert first.text == second.text
    assert first.seconds != second.seconds


def test_noise_and_rates_are_what_the_options_say() -> None:
    opts = options(stragglers=0.1, jitter=0.05)
    objective = make_objective(opts.objective, opts.tiers)
    there = backend(opts)
    fates = [there.fate(job(objective, seed=seed)) for seed in range(2000)]
    values = [float(fate.text.split(": ")[1]) for fate in fates if fate.text]
    assert statistics.fmean(values) == pytest.approx(1.0, abs=4 * 0.002 / math.sqrt(len(values)))
    assert statistics.stdev(values) == pytest.approx(0.002, rel=0.1)
    # Three times as long is over the time limit.
    assert sum(fate.state is JobState.TIMED_OUT for fate in fates) == pytest.approx(200, abs=60)


def test_a_change_crashes_whatever_its_seed_and_the_unchanged_script_never_does() -> None:
    opts = options(crashes=0.3)
    objective = make_objective(opts.objective, opts.tiers)
    assert all(backend(opts).fate(job(objective, seed=seed)).text for seed in range(30))
    broken = 0
    for step in range(80):
        there = backend(opts, {**objective.base, "ALPHA": step / 200})
        states = {there.fate(job(objective, seed=seed, ALPHA=step / 200)).state for seed in range(3)}
        assert len(states) < 2
        broken += JobState.FAILED in states
    assert broken == pytest.approx(24, abs=14)


def test_work_takes_less_time_on_a_faster_tier_and_time_does_not() -> None:
    tiers = {"a": SimTier(speed=2.0, startup_s=10.0)}
    for fixed, seconds in (("work", 160.0), ("time", 310.0)):
        opts = SimOptions(objective=ObjectiveOptions(name="additive"), tiers=tiers, fixed=fixed, jitter=0.0)  # type: ignore[arg-type]
        objective = make_objective(opts.objective, tiers)
        assert backend(opts).fate(job(objective)).seconds == pytest.approx(seconds)


def test_jobs_beyond_the_slots_wait_and_can_be_cancelled() -> None:
    async def three() -> list[tuple[JobState, float]]:
        from attrs import evolve

        opts = options(slots=1, jitter=0.0)
        objective = make_objective(opts.objective, opts.tiers)
        there = backend(opts)
        handles = [await there.submit(evolve(job(objective), key=f"{n}-1")) for n in (1, 2, 3)]
        assert await there.submit(evolve(job(objective), key="1-1")) == handles[0]
        await there.cancel(handles[1])
        results = [await there.wait(handle) for handle in handles]
        assert (await there.wait("nobody")).state is JobState.LOST
        start = min(r.started_at for r in results if r.started_at)
        await there.aclose()
        return [(r.state, (r.ended_at - start).total_seconds()) for r in results if r.ended_at]

    ends = run_virtual(three())
    assert [state for state, _ in ends] == [JobState.SUCCEEDED, JobState.CANCELLED, JobState.SUCCEEDED]
    assert ends[0][1] == pytest.approx(300)
    assert ends[2][1] == pytest.approx(600)


def test_an_unknown_tier_is_refused() -> None:
    async def submit() -> None:
        from attrs import evolve

        opts = options()
        objective = make_objective(opts.objective, opts.tiers)
        await backend(opts).submit(evolve(job(objective), tier="b"))

    with pytest.raises(BackendError, match="no tier 'b'"):
        run_virtual(submit())


def test_a_plain_study_reads_the_constants_of_its_script(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("X1 = 3.14159265  # x [-5.0..10.0]\nX2 = 2.275  # y [0.0..15.0]\n")
    opts = SimOptions(objective=ObjectiveOptions(name="branin", noise=0.0), tiers={"a": SimTier()})
    there = SimBackend(opts)
    objective = make_objective(opts.objective, opts.tiers)
    from attrs import evolve

    fate = there.fate(evolve(job(objective), directory=tmp_path))
    assert float(fate.text.split(": ")[1]) == pytest.approx(0.397887, abs=1e-5)
    (tmp_path / "train.py").write_text("X1 = 1.0\n")
    with pytest.raises(BackendError, match="no constant X2"):
        there.fate(evolve(job(objective), directory=tmp_path))


# ---- The workspace --------------------------------------------------------------------------------


class TestSimWorkspace(WorkspaceSuite):
    objective = make_objective(ObjectiveOptions(name="autoresearch"), {})
    files: ClassVar[Mapping[str, str]] = {SCRIPT: objective.script}
    constants = ({"DEPTH": 4}, {"MATRIX_LR": 0.05})
    edits = on_disk = False

    def make(self, folder: Path) -> Workspace:
        return SimWorkspace(self.objective)


@pytest.fixture
def workspace() -> SimWorkspace:
    return SimWorkspace(make_objective(ObjectiveOptions(name="autoresearch"), {}))


def idea(workspace: SimWorkspace, number: int, **constants: Any) -> Idea:
    base = workspace.base_commit()
    draft = Draft(title=f"idea {number}", constants=constants)
    commit = workspace.make_idea(draft, base, message="x")
    return Idea(id=number, title=draft.title, base=base, commit=commit, constants=constants)


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"DEPHT": 9}, "did you mean 'DEPTH'"),
        ({"DEPTH": 99}, "is above 16"),
        ({"DEPTH": "deep"}, "another type"),
        ({"DEPTH": 8}, "changes nothing"),
        ({}, "nothing but constants"),
    ],
)
def test_what_cannot_be_set_is_refused(
    workspace: SimWorkspace, constants: dict[str, Any], message: str
) -> None:
    draft = Draft(title="x", constants=constants, patch="" if constants else "--- a\n+++ b\n")
    with pytest.raises(UsageError, match=message):
        workspace.make_idea(draft, workspace.base_commit(), message="x")


def test_ideas_compose_and_conflict(workspace: SimWorkspace) -> None:
    base = workspace.base_commit()
    deep, soft, shallow = (
        idea(workspace, 1, DEPTH=9),
        idea(workspace, 2, SOFTCAP=10),
        idea(workspace, 3, DEPTH=4),
    )
    both = workspace.compose(base, [deep, soft], message="x")
    other_way = workspace.compose(workspace.compose(base, [soft], message="x").commit, [deep], message="y")
    assert both.tree == other_way.tree
    assert workspace.values(both.commit)["SOFTCAP"] == 10.0
    assert "DEPTH = 9" in workspace.files(both.commit)["train.py"]
    assert workspace.diff(base, both.commit).count("\n") == 4
    with pytest.raises(ConflictError, match="sets DEPTH to 9"):
        workspace.compose(base, [deep, shallow], message="x")


def test_dice_repeat_nothing_and_end_when_all_has_been_said() -> None:
    script = "A = 1  # a [1 | 2 | 3]\nB = 0  # b [0 | 1]\n"

    class OneStudy:
        seed = 0
        ideas: Mapping[int, Idea] = {}

    async def ask() -> Answer:
        brief = Brief(study=OneStudy(), files={"train.py": script})  # type: ignore[arg-type]
        return await RandomAgent().answer(Ask(n=50, base="b"), brief)

    answer = asyncio.run(ask())
    changes = [tuple(sorted(draft.constants.items())) for draft in answer.ideas]
    assert len(changes) == len(set(changes)) == 5
    assert answer.exhausted
