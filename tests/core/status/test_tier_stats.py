"""Tiers as they were measured, nodes that are found wanting, and where the time went."""

import json
import math
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from arf.cli.describe import aside_lines, hardware_lines, time_text
from arf.config.schema import Budget
from arf.plugins.registry import Plugins
from arf.status.node_health import Nodes, Suspect, rank_tail
from arf.status.slot_usage import SlotUsage, Use, shares
from arf.status.summary import summarize
from arf.status.tier_stats import Measured, measured, measured_in, pace
from arf.store.database import Store
from arf.study import Study
from arf.types import Experiment, ExperimentState, JobState, Role, Tier, Verdict
from arf_plugins.backend_sim import BadNode, ObjectiveOptions, SimOptions, SimTier
from arf_plugins.backend_sim.simulate import Simulated, Simulation, simulate
from arf_plugins.llm.prompt import measured_hardware

START = datetime(2026, 1, 1, tzinfo=UTC)


class Story:
    """A study to which runs are told one after the other."""

    def __init__(self, *tiers: str) -> None:
        self.study = Study(
            name="s",
            base="base",
            base_tree="base-tree",
            tiers=[Tier(name=t, slots=4) for t in tiers or ("a",)],
        )
        self.nodes = Nodes(self.study, lambda slot: slot)

    def run(
        self,
        tree: str = "base",
        value: float | None = 1.0,
        *,
        node: str = "n1",
        tier: str = "a",
        seconds: float = 300.0,
        state: JobState = JobState.SUCCEEDED,
        parent: str = "base",
        **metrics: float,
    ) -> Experiment:
        if state is not JobState.SUCCEEDED:
            value = None
        started = Experiment(
            id=len(self.study.experiments) + 1,
            role=Role.BASELINE if tree == "base" else Role.CANDIDATE,
            parent=parent,
            commit=tree,
            tree=f"{tree}-tree",
            tier=tier,
            seed=0,
            accepted_at=START,
            started_at=START,
            slot=node,
        )
        self.study.put(started)
        ended = evolve(
            started,
            state=ExperimentState.ENDED,
            job_state=state,
            ended_at=START + timedelta(seconds=seconds),
            value=value,
            metrics=metrics,
            verdict={JobState.FAILED: Verdict.CRASH, JobState.TIMED_OUT: Verdict.TIMEOUT}.get(state),
        )
        self.nodes.take(ended)
        self.study.put(ended)
        return ended

    def baselines(self, *nodes: str) -> None:
        for node in nodes:
            self.run(node=node)

    def why(self) -> dict[str, str]:
        return {suspect.node: suspect.why for suspect in self.nodes.suspects()}


# ---- Tiers ------------------------------------------------------------------------------------------


def two_tiers(**metrics: tuple[float, float]) -> Story:
    """The baseline three times on each of two tiers; the second reads 0.01 more."""
    story = Story("a", "b")
    for deviation in (-0.002, 0.0, 0.002):
        for i, tier in enumerate("ab"):
            seen: dict[str, Any] = {name: values[i] for name, values in metrics.items()}
            story.run(value=1.0 + 0.01 * i + deviation, tier=tier, node=tier, **seen)
    return story


def test_a_tier_is_measured_against_the_first_by_runs_of_the_same_code() -> None:
    story = two_tiers(num_steps=(1000.0, 1500.0), training_seconds=(300.0, 300.0), peak_vram_mb=(4e4, 6e4))
    first, second = measured(story.study)
    assert (first.tier, first.speed, first.memory_mb, first.offset) == ("a", 1.0, 4e4, None)
    assert (second.tier, second.memory_mb, second.runs) == ("b", 6e4, 3)
    assert second.speed == pytest.approx(1.5)
    assert second.sigma == pytest.approx(0.002)
    assert second.df == 2
    assert second.offset == pytest.approx(0.01)
    assert second.offset_error == pytest.approx(0.002 * math.sqrt(2 / 3))


def test_tokens_say_more_of_the_work_than_steps() -> None:
    story = two_tiers(num_steps=(1000.0, 1000.0), total_tokens_M=(100.0, 80.0))
    assert measured(story.study)[1].speed == pytest.approx(0.8)


def test_without_a_counter_the_time_of_a_run_tells_the_speed() -> None:
    story = Story("a", "b")
    story.run(tier="a", seconds=300.0)
    story.run(tier="b", seconds=200.0)
    assert measured(story.study)[1].speed == pytest.approx(1.5)


def test_a_fixed_time_without_a_counter_tells_no_speed() -> None:
    assert measured(two_tiers().study)[1].speed is None


def test_ideas_that_do_more_on_one_tier_make_its_offset_less_sure() -> None:
    story = two_tiers()
    sure = measured(story.study)[1].offset_error
    for tree, more in (("x", 0.0), ("y", 0.05), ("z", -0.04)):
        for tier in "ab":
            run = story.run(tree, 0.9 + (more if tier == "b" else 0.0), tier=tier, node=tier)
        story.study.put(evolve(run, verdict=Verdict.KEEP))
    known = measured(story.study)[1]
    assert known.runs == 6
    assert known.offset == pytest.approx(0.005)
    assert known.offset_error is not None
    assert sure is not None
    assert known.offset_error > 5 * sure


def test_a_tier_on_which_nothing_ran_well_is_not_there() -> None:
    story = Story("a", "b")
    assert measured(story.study) == []
    story.run(tier="b", node="b1")
    story.run(tier="a", state=JobState.FAILED)
    assert [one.tier for one in measured(story.study)] == ["b"]


def test_runs_without_a_time_have_no_pace() -> None:
    story = Story()
    assert pace(story.run(seconds=0.0), story.run()) is None


def test_people_and_agents_are_told() -> None:
    story = two_tiers(num_steps=(1000.0, 1500.0), peak_vram_mb=(40960.0, 61440.0))
    told = measured_hardware(story.study)
    assert "b: 300 s a run, speed 1.5, 60 GiB for the baseline, noise 0.002" in told
    assert "reads +0.01 ± 0.0016 against a" in told
    lines = hardware_lines({"hardware": [one.to_json() for one in measured(story.study)]})
    assert lines[1] == "b: 5m00s a run, speed 1.5, 60 GiB, noise 0.00200, offset +0.01 ± 0.00163"
    assert measured_hardware(Story().study) == ""


def test_the_database_says_the_same(tmp_path: Path) -> None:
    story = two_tiers(num_steps=(1000.0, 1500.0))
    store = Store.create(tmp_path, story.study, {})
    with store.transaction():
        for number, run in story.study.experiments.items():
            store.insert_experiment(run, number)
            store.update_experiment(run, number)
        for tier in "ab":
            spread = story.study.spread(tier)
            store.set_spread(tier, None, spread.sum_squares, spread.df)
    there: list[Measured] = measured_in(store, story.study, store.kept())
    assert there == measured(story.study)
    assert [one["tier"] for one in summarize(store)["hardware"]] == ["a", "b"]
    store.close()


# ---- Nodes ------------------------------------------------------------------------------------------


def test_a_node_that_loses_its_runs_is_suspected() -> None:
    story = Story()
    story.baselines("n1", "n2", "n3", *["n2", "n3", "n4"] * 6)
    for _ in range(3):
        story.run(state=JobState.LOST)
        assert story.why() == {}
    story.run(state=JobState.LOST)
    assert story.why() == {"n1": "4 of 5 of its runs failed, elsewhere 0 of 20"}


def test_ideas_that_crash_are_no_fault_of_the_node() -> None:
    story = Story()
    story.baselines(*["n1", "n2", "n3", "n4"] * 5)
    for i in range(15):
        story.run(f"idea{i}", state=JobState.FAILED)
    assert story.why() == {}


def test_a_crash_is_the_nodes_fault_once_the_same_code_ran_well_elsewhere() -> None:
    story = Story()
    story.baselines(*["n2", "n3", "n4"] * 5)
    for i in range(5):
        story.run(f"idea{i}", state=JobState.FAILED)
    assert story.why() == {}
    for i in range(5):
        story.run(f"idea{i}", node="n2")
    assert story.why() == {"n1": "5 of 5 of its runs failed, elsewhere 0 of 20"}


def test_a_crash_of_code_that_is_known_to_work_counts_at_once() -> None:
    story = Story()
    story.baselines(*["n2", "n3", "n4"] * 6)
    for _ in range(4):
        story.run(state=JobState.FAILED)
    assert list(story.why()) == ["n1"]


def test_a_crash_where_all_crash_is_doubtful_until_it_crashes_elsewhere() -> None:
    story = Story()
    story.baselines(*["n2", "n3", "n4"] * 5)
    assert not story.nodes.is_doubtful(story.run("x", state=JobState.FAILED))
    doubtful = story.run("y", state=JobState.FAILED)
    assert story.nodes.is_doubtful(doubtful)
    story.run("y", node="n3", state=JobState.FAILED)
    assert not story.nodes.is_doubtful(doubtful)


def test_when_all_nodes_fail_none_is_suspected() -> None:
    story = Story()
    for _ in range(10):
        for node in ("n1", "n2", "n3", "n4"):
            story.run(node=node, state=JobState.LOST)
    assert story.why() == {}


def test_a_preempted_run_says_nothing_of_its_node() -> None:
    story = Story()
    story.baselines(*["n1", "n2", "n3"] * 5)
    for _ in range(12):
        story.run(state=JobState.PREEMPTED)
    assert story.why() == {}


def test_never_more_than_half_of_a_tiers_nodes() -> None:
    story = Story()
    for _ in range(20):
        story.baselines("n4", "n5")
        for node in ("n1", "n2", "n3"):
            story.run(node=node, state=JobState.LOST)
    found = story.nodes.suspects()
    assert len(found) == 2
    for suspect in found:
        story.nodes.report(suspect)
    for node in ("n1", "n2", "n3"):
        story.run(node=node, state=JobState.LOST)
    assert story.nodes.suspects() == []


def test_the_only_node_is_never_suspected() -> None:
    story = Story()
    for _ in range(10):
        story.run(state=JobState.LOST)
    assert story.why() == {}


def test_tiers_are_judged_apart() -> None:
    story = Story("a", "b")
    for _ in range(8):
        for node in ("n1", "n2"):
            story.run(node=node, tier="a")
            story.run(node=f"b{node}", tier="b", seconds=900.0)
    assert story.why() == {}


def test_a_slow_node_is_suspected_by_its_pace_and_not_by_an_ideas() -> None:
    story = Story()
    story.baselines("n1", "n2", "n3", "n4")
    for i in range(8):
        for node in ("n1", "n2", "n3", "n4"):
            idea = 1.0 + 0.5 * (i % 2)  # every other idea is slower, wherever it runs
            story.run(f"{i}-{node}", node=node, seconds=300.0 * idea * (1.6 if node == "n3" else 1.0) + i)
    why = story.why()
    assert list(why) == ["n3"]
    assert "times as long as elsewhere" in why["n3"]


def test_a_node_whose_readings_are_off_is_suspected() -> None:
    story, chance = Story(), random.Random(1)
    for _ in range(12):
        for node in ("n1", "n2", "n3", "n4"):
            story.run(value=chance.gauss(1.0, 0.01) + (0.05 if node == "n4" else 0.0), node=node)
    why = story.why()
    assert list(why) == ["n4"]
    assert "worse than elsewhere" in why["n4"]


def test_of_two_nodes_that_differ_nobody_says_which_one_is_off() -> None:
    story, chance = Story(), random.Random(1)
    for _ in range(20):
        for node in ("n1", "n2"):
            story.run(value=chance.gauss(1.0, 0.01) + (0.05 if node == "n2" else 0.0), node=node)
    assert story.why() == {}


def test_healthy_nodes_are_hardly_ever_suspected() -> None:
    suspected = 0
    for seed in range(60):
        story, chance = Story(), random.Random(seed)
        for i in range(120):
            crashed = chance.random() < 0.15
            story.run(
                "base" if i < 4 or chance.random() < 0.2 else f"idea{i}",
                chance.gauss(1.0, 0.01),
                node=f"n{chance.randrange(6)}",
                seconds=300.0 * math.exp(chance.gauss(0.0, 0.1)),
                state=JobState.FAILED if crashed else JobState.SUCCEEDED,
            )
            suspected += bool(found := story.nodes.suspects())
            for suspect in found:
                story.nodes.report(suspect)
    assert suspected <= 3


def test_what_is_known_of_nodes_survives_the_process() -> None:
    story = Story()
    story.baselines(*["n2", "n3", "n4"] * 5)
    for i in range(4):
        story.run(f"idea{i}", state=JobState.FAILED)
    story.nodes.report(Suspect(node="n9", tier="a", why="for a reason"))
    told = json.loads(json.dumps(story.nodes.to_json()))
    story.nodes = Nodes(story.study, lambda slot: slot, told)
    assert story.nodes.to_json() == told
    assert [one.node for one in story.nodes.reported] == ["n9"]
    for i in range(4):
        story.run(f"idea{i}", node="n2")
    assert list(story.why()) == ["n1"]


def test_a_million_runs_take_no_more_room_than_a_hundred() -> None:
    story = Story()
    for i in range(400):
        story.run(f"idea{i}", node=f"n{i % 4}", state=JobState.FAILED if i % 3 else JobState.SUCCEEDED)
    told = story.nodes.to_json()
    assert len(told["crashes"]) <= 256
    assert all(len(window) <= 20 for node in told["nodes"]["a"].values() for window in node.values())


def test_ranks_against_a_published_table() -> None:
    # Mann and Whitney's table: of 8 and 8 all on one side has the chance 1 / 12,870.
    exact = 1 / math.comb(16, 8)
    assert exact < rank_tail(range(8, 16), range(8)) < 10 * exact
    assert rank_tail([1.0] * 6, [1.0] * 6) == 1.0
    assert rank_tail([1.0, 3.0, 5.0, 7.0, 9.0], [2.0, 4.0, 6.0, 8.0, 10.0]) > 0.5


# ---- Where the time went ----------------------------------------------------------------------------


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def ran(accepted_s: float, started_s: float | None, ended_s: float, **metrics: float) -> Experiment:
    return Experiment(
        id=1, role=Role.CANDIDATE, parent="p", commit="c", tree="t", tier="a", seed=0,
        accepted_at=at(accepted_s), started_at=None if started_s is None else at(started_s),
        ended_at=at(ended_s), metrics=metrics,
    )  # fmt: skip


def used(sheet: SlotUsage) -> dict[str, float]:
    return dict(sheet.to_json()["used_s"]["a"])


def test_a_run_is_split_into_what_its_time_went_into() -> None:
    sheet = SlotUsage()
    sheet.take(ran(0, 60, 400, startup_seconds=10.0, training_seconds=300.0), at(405))
    assert used(sheet) == {
        Use.PROVISIONING: 60,
        Use.STARTUP: 10,
        Use.TRAINING: 300,
        Use.REST: 30,
        Use.HANDLING: 5,
    }
    sheet.take(ran(380, 405, 500, training_seconds=95.0), at(500))
    assert used(sheet)[Use.QUEUE] == 25
    sheet.take(ran(500, 510, 600), at(600), again=True)
    sheet.take(ran(600, None, 630), at(630))
    assert used(sheet)[Use.LOST] == 90
    assert used(sheet)[Use.QUEUE] == 25 + 10 + 30
    assert sum(used(sheet).values()) == 405 + 120 + 100 + 30


def test_time_in_which_nobody_ran_the_study_was_no_slot_s_time() -> None:
    """Nor is an attempt that was lost also time in which the next one waited."""
    sheet = SlotUsage()
    sheet.begin(100.0, at(3600))
    sheet.take(ran(0, 0, 50, training_seconds=50.0), at(3602))
    sheet.take(ran(10, 3605, 3700, training_seconds=95.0), at(3700), since=at(3601))
    assert used(sheet) == {Use.TRAINING: 50 + 95, Use.HANDLING: 2, Use.QUEUE: 4}


def test_what_a_run_says_of_its_time_cannot_be_more_than_it_took() -> None:
    sheet = SlotUsage()
    sheet.take(ran(0, 0, 100, startup_seconds=500.0, training_seconds=90.0), at(100))
    assert used(sheet) == {Use.TRAINING: 90, Use.STARTUP: 10}


def test_idle_slots_are_counted_by_what_they_wait_for() -> None:
    sheet = SlotUsage()
    sheet.begin(1000.0, at(0))
    sheet.look(1010.0, [("a", Use.AGENT, 3)])
    sheet.look(1020.0, [("a", Use.VERDICTS, 2), ("b", Use.NOTHING, 1)])
    sheet.look(1025.0, [])
    sheet.look(2000.0, [])
    assert sheet.to_json()["used_s"] == {"a": {Use.AGENT: 30, Use.VERDICTS: 10}, "b": {Use.NOTHING: 5}}
    again = SlotUsage(json.loads(json.dumps(sheet.to_json())))
    assert again.to_json() == sheet.to_json()


def test_shares_add_up_and_are_told_the_biggest_first() -> None:
    told = shares(
        {"a": {"training": 75.0, "queue": 5.0}, "b": {"training": 8.0, "waiting for the agent": 12.0}}
    )
    assert told == {"queue": 0.05, "training": 0.83, "waiting for the agent": 0.12}
    assert shares({}) == {}
    time = {"shares": told, "idle": {"waiting for the agent": 0.12}}
    assert time_text({"time": time}) == "training 83 %, queue 5 %, idle 12 % (waiting for the agent 12 %)"


# ---- Whole studies ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def play() -> Callable[..., Simulated]:
    """Runs a simulated study with a node that is not well."""
    plugins = Plugins.load()

    def play(bad: BadNode | None, *, slots: int = 8, n: int = 120, **given: Any) -> Simulated:
        options = SimOptions(
            objective=ObjectiveOptions(name="additive"), tiers={"a": SimTier(slots=slots, bad=bad)}, **given
        )
        simulation = Simulation(options=options, budget=Budget(max_experiments=n), agent="random")
        return simulate(simulation, plugins)

    return play


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (BadNode(slot=3, crashes=1.0), "of its runs failed"),
        (BadNode(slot=1, crashes=1.0), "of its runs failed"),
        (BadNode(slot=3, lost=0.9), "of its runs failed"),
        (BadNode(slot=3, slow=1.6), "times as long"),
        (BadNode(slot=3, offset=0.05), "worse than elsewhere"),
    ],
    ids=["broken", "broken from the first run on", "gone", "slow", "off"],
)
def test_a_bad_node_is_found_and_used_no_more(play: Callable[..., Simulated], bad: BadNode, why: str) -> None:
    done = play(bad)
    (aside,) = done.summary["nodes_aside"]
    assert aside["node"] == f"a:{bad.slot}"
    assert aside["is_aside"]
    assert why in aside["why"]
    there = [e.id for e in done.study.experiments.values() if e.slot == aside["node"]]
    assert len(there) < 30
    assert max(there) < 100
    assert done.summary["time"]["shares"]["set aside"] > 0
    assert aside_lines(done.summary) == [f"{aside['node']} (a): {aside['why']}"]


def test_what_crashed_on_a_broken_node_is_run_again_elsewhere(play: Callable[..., Simulated]) -> None:
    done = play(BadNode(slot=3, crashes=1.0))
    again = [e for e in done.study.experiments.values() if e.attempt > 1]
    assert again
    assert all(e.verdict is not Verdict.CRASH for e in again)
    crashed = [e for e in done.study.experiments.values() if e.verdict is Verdict.CRASH]
    assert {e.role for e in crashed} == {Role.BASELINE}  # no idea was blamed for it


def test_healthy_nodes_stay_in_use(play: Callable[..., Simulated]) -> None:
    done = play(None, crashes=0.15, stragglers=0.05)
    assert done.summary["nodes_aside"] == []
    assert sum(done.summary["time"]["used_s"]["a"].values()) == pytest.approx(8 * done.wall_s, rel=0.01)


def test_the_last_slot_is_kept_whatever_it_does(play: Callable[..., Simulated]) -> None:
    done = play(BadNode(slot=1, lost=0.5), slots=1, n=30)
    assert done.summary["nodes_aside"] == []
