"""`arf compare` and `arf bench record`, as a user has them."""

import csv
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from arf.cli.app import run as arf
from arf.errors import ArfError
from arf.plugins.registry import Plugins
from arf_plugins.backend_sim.simulate import Claim
from arf_plugins.compare.overall import overall, scaling
from arf_plugins.compare.plan import read_comparison
from arf_plugins.compare.runs import Outcome, Point, run_all, run_one
from arf_plugins.compare.verdict import judge, middle
from arf_plugins.objectives.table import read_table

FILE = """
title: Small
seeds: 2
budget: {max_experiments: 40}
objectives:
  additive: {name: additive}
  trainer: {kind: table}
machines:
  one: {tiers: {a: {slots: 1, usd_per_hour: 2.0}}}
  four: {tiers: {a: {slots: 4, usd_per_hour: 2.0}}}
agents: {random: {agent: random, think_s: 30s}}
strategies:
  greedy: {strategy: greedy}
  random: {strategy: random}
arms:
  - {strategy: greedy, machines: one}
  - {strategy: greedy, machines: four}
  - {name: control, strategy: random, machines: four}
"""


def write(tmp_path: Path, text: str = FILE) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(text)
    return path


def outcome(
    arm: str,
    seed: int,
    *gains: tuple[float, float],
    reason: str = "max_time",
    claim: Claim | None = None,
    changes: tuple[int, int] = (0, 0),
    searcher: str = "",
    slots: int = 1,
    optimum: float = 0.0,
) -> Outcome:
    """A study of 10 hours on one slot that keeps gains at times; the possible gain is 1."""
    points = [
        Point(experiments=10 * t, slot_hours=slots * t, wall_hours=t, usd=2 * t, truth=1.0 - gain)
        for t, gain in ((0.0, 0.0), *gains)
    ]
    end = Point(experiments=100, slot_hours=10.0, wall_hours=10.0, usd=20.0, truth=points[-1].truth)
    return Outcome(
        arm=arm, objective="o", seed=seed, base=1.0, optimum=optimum, sign=1, points=tuple(points), total=end,
        utilisation=1.0, keeps=len(gains), false_keeps=0, changes=changes[0], useless_changes=changes[1],
        claim=claim,
        searcher=searcher or arm, slots=slots, lucky_reading=None, lucky_truth=None, cpu_s=0.0,
        reason=reason,
    )  # fmt: skip


# ---- The file -------------------------------------------------------------------------------------


def test_without_arms_everything_meets_everything(tmp_path: Path) -> None:
    path = write(tmp_path, FILE[: FILE.index("arms:")])
    comparison = read_comparison(path, Plugins.load())
    assert [arm.name for arm in comparison.arms] == [
        "greedy · one", "greedy · four", "random · one", "random · four",
    ]  # fmt: skip
    assert comparison.reference == "greedy · one"
    assert len(list(comparison.runs())) == 4 * 2 * 2
    assert len({run.key for run in comparison.runs()}) == 16


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("strategy: random}\narms", "strategy: rondom}\narms", "yaml:14: strategies.random.str.*'random'"),
        ("agent: random", "agent: randomr", "did you mean 'random'"),
        ("kind: table", "kind: tabel", "small.yaml:7: objectives.trainer: .*did you mean 'table'"),
        ("name: additive", "name: aditive", "did you mean 'additive'"),
        ("machines: one}\n", "machines: on}\n", r"arms\[0\].machines: there is no machines 'on' in machines"),
        ("slots: 1,", "slots: 0,", "small.yaml:9: machines.one.tiers.a.slots"),
        ("seeds: 2", "sedes: 2", "did you mean 'seeds'"),
        ("title: Small", "reference: nobody", "there is no arm 'nobody'"),
        ("title: Small", "race: controll", "race: there is no arm 'controll'.*did you mean 'control'"),
        ("name: control,", "name: control, noise: {alfa: 0.1},", "did you mean 'alpha'"),
        ("name: control, strategy: random", "name: greedy · four, strategy: random", "two arms are called"),
        ("{max_experiments: 40}", "{max_usd: 5}", "has no end"),
        ("{strategy: random}\narms", "{strategy: random, options: {mast: 3}}\narms", "did you mean 'most'"),
        ("{name: additive}", "{name: additive, noise: loud}", "expected a number"),
        ("four: {tiers:", "four: {crashes: 2, tiers:", "machines.four.crashes"),
        (
            "{name: additive}",
            "{start: 1.0, constants: {X: {base: 8, best: 10, gain: 0.1, low: 1, high: 16, crash_above: 7}}}",
            "unchanged script of this objective crashes",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert FILE.count(old) >= 1
    path = write(tmp_path, FILE.replace(old, new, 1))
    with pytest.raises(ArfError, match=message) as caught:
        read_comparison(path, Plugins.load())
    assert "\n" not in str(caught.value)


def test_a_table_beside_the_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(read_table("bundled").to_json())
    path = write(tmp_path, FILE.replace("kind: table", "kind: table, file: mine.json"))
    assert read_comparison(path, Plugins.load()).objectives["trainer"].file == str(tmp_path / "mine.json")


CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("comparison*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_comparison_can_be_read(path: Path) -> None:
    comparison = read_comparison(path, Plugins.load())
    assert len(comparison.seeds) == 20
    assert len({arm.name for arm in comparison.arms}) == len(comparison.arms) >= 4


def test_an_arm_can_have_a_budget_and_a_rule_of_its_own(tmp_path: Path) -> None:
    own = "strategy: random, machines: four, accept: lower, budget: {max_experiments: 30}"
    path = write(tmp_path, FILE.replace("strategy: random, machines: four", own))
    greedy, _, control = read_comparison(path, Plugins.load()).arms
    assert (greedy.accept, greedy.budget.max_experiments) == ("evidence", 40)
    assert (control.accept, control.budget.max_experiments) == ("lower", 30)


# ---- Running --------------------------------------------------------------------------------------


def test_a_comparison_gives_tables_plots_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert arf(["compare", str(write(tmp_path)), "--jobs", "2"]) == 0
    out = capsys.readouterr().out
    assert "Paired tests against greedy · one" in out
    results = tmp_path / "small-results"
    rows = list(csv.DictReader((results / "runs.csv").open()))
    assert len(rows) == 3 * 2 * 2
    assert {row["arm"] for row in rows} == {"greedy · one", "greedy · four", "control"}
    data = json.loads((results / "compare.json").read_text())
    assert len(data["tests"]) == 2 * 2 * 2
    page = (results / "compare.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert (results / "additive.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_comparison_goes_on_where_it_was(tmp_path: Path) -> None:
    comparison = read_comparison(write(tmp_path), Plugins.load())
    told: list[tuple[int, int]] = []

    def interrupt(done: int, total: int) -> None:
        told.append((done, total))
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(comparison, tmp_path / "runs", jobs=1, tell=interrupt)
    assert told[-1] == (5, 12)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.json")}
    assert len(stamps) == 5
    told.clear()
    outcomes = run_all(comparison, tmp_path / "runs", jobs=1, tell=lambda *counts: told.append(counts))
    assert told[0] == (5, 12)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    again = run_one(next(iter(comparison.runs())))
    assert again.points == outcomes[0].points


@pytest.mark.parametrize(
    "damage",
    [lambda text: text[:40], lambda text: "[]", lambda text: text.replace('"keeps": ', '"keeps": "x')],
)
def test_a_damaged_result_is_run_again(tmp_path: Path, damage: Callable[[str], str]) -> None:
    comparison = read_comparison(write(tmp_path), Plugins.load(), seeds=1)
    first = run_all(comparison, tmp_path / "runs", jobs=1, tell=lambda *_: None)
    victim = next((tmp_path / "runs").glob("*.json"))
    victim.write_text(damage(victim.read_text()))
    second = run_all(comparison, tmp_path / "runs", jobs=1, tell=lambda *_: None)
    assert [run.points for run in first] == [run.points for run in second]


def test_waves_leave_slots_idle(tmp_path: Path) -> None:
    text = FILE.replace("  random: {strategy: random}", "  random: {strategy: greedy, waves: true}")
    text = text.replace("max_experiments: 40", "max_experiments: 120")
    text = text.replace("{slots: 4, usd_per_hour: 2.0}}", "{slots: 4}}, jitter: 0.3")
    text = text.replace("arms:", "claim: none\narms:")
    comparison = read_comparison(write(tmp_path, text), Plugins.load(), seeds=1)
    runs = {run.arm.name: run for run in comparison.runs() if run.objective_name == "additive"}
    free, waves = run_one(runs["greedy · four"]), run_one(runs["control"])
    assert waves.utilisation < free.utilisation - 0.1
    assert waves.total.experiments == free.total.experiments == 120


def test_keeping_whatever_reads_better_keeps_what_is_not_better(tmp_path: Path) -> None:
    text = FILE.replace("name: additive", "name: noise").replace("max_experiments: 40", "max_experiments: 80")
    lower = "name: control, strategy: greedy, machines: four, accept: lower, noise: {replicates: 2}"
    text = text.replace("name: control, strategy: random, machines: four", lower)
    text = text.replace("arms:", "accept: proof\narms:")
    comparison = read_comparison(write(tmp_path, text), Plugins.load(), seeds=1)
    runs = {run.arm.name: run for run in comparison.runs() if run.objective_name == "additive"}
    assert run_one(runs["greedy · four"]).keeps == 0
    assert run_one(runs["control"]).false_keeps >= 3


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_end_with_a_comparison_that_is_killed(tmp_path: Path) -> None:
    path = write(tmp_path, FILE.replace("max_experiments: 40", "max_experiments: 100000"))
    program = "import sys; from arf.cli.app import run; sys.exit(run(sys.argv[1:]))"
    arguments = ["compare", str(path), "--jobs", "2", "--output", str(tmp_path / "out")]
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as comparison:
        until(lambda: len(workers_of(comparison.pid)) == 2)
        workers = workers_of(comparison.pid)
        comparison.kill()
    until(lambda: not any(map(lives, workers)))


def workers_of(parent: int) -> list[int]:
    """The processes of a comparison's pool, without the one that looks after their semaphores."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def lives(pid: int) -> bool:
    """A process that has ended and waits for somebody to take note of it has no command line."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---- The verdict ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0], (1.0, 1.0, 1.0)),
        ([3.0, 1.0, 2.0], (2.0, 1.0, 3.0)),
        ([1.0, math.inf], (math.inf, 1.0, math.inf)),
        # Conover's table: for n = 20 the 6th and the 15th value, at 95.86 %.
        (list(map(float, range(1, 21))), (10.5, 6.0, 15.0)),
        # For n = 10 the 2nd and the 9th, at 97.85 %.
        (list(map(float, range(1, 11))), (5.5, 2.0, 9.0)),
    ],
)
def test_medians_and_their_intervals(values: list[float], expected: tuple[float, float, float]) -> None:
    found = middle(values)
    assert (found.value, found.low, found.high) == expected


def test_gains_targets_and_ranks() -> None:
    runs = [
        *(outcome("slow", seed, (5.0, 0.5), (9.0, 0.9)) for seed in range(3)),
        *(outcome("fast", seed, (1.0, 0.6), (2.0, 0.8)) for seed in range(3)),
        *(outcome("idle", seed) for seed in range(3)),
    ]
    verdict = judge(runs, reference="slow", target=0.7)
    assert verdict.gain[("wall_hours", "o", "slow")].value == pytest.approx(0.9)
    assert verdict.to_target[("wall_hours", "o", "fast")].value == 2.0
    assert verdict.to_target[("usd", "o", "slow")].value == 18.0
    assert math.isinf(verdict.to_target[("usd", "o", "idle")].value)
    assert verdict.reached[("o", "idle")] == (0, 3)
    assert verdict.ranks[("wall_hours", "slow")] == 1.0
    assert verdict.ranks[("wall_hours", "idle")] == 3.0


def test_a_race_is_to_where_another_arm_was_at_its_end() -> None:
    runs = [
        *(outcome("slow", seed, (5.0, 0.5), (9.0, 0.8 + 0.01 * seed)) for seed in range(3)),  # median 0.81
        *(outcome("fast", seed, (1.0, 0.6), (2.0, 0.81)) for seed in range(3)),
        *(outcome("idle", seed) for seed in range(3)),
    ]
    verdict = judge(runs, reference="slow", target=0.7, race="slow")
    races = {race.arm: race for race in verdict.races}
    assert races["fast"].level == pytest.approx(0.81)
    assert (races["fast"].reached, races["fast"].of, races["fast"].wall_hours.value) == (3, 3, 2.0)
    assert (races["fast"].speed_up, races["fast"].cost) == (5.0, 0.2)  # 10 hours, in 2; 10 slot-hours, with 2
    assert races["slow"].reached == 2
    assert races["slow"].speed_up == pytest.approx(10 / 9)
    assert (races["idle"].reached, races["idle"].speed_up, races["idle"].cost) == (0, None, None)
    assert not judge(runs, reference="slow", target=0.7).races


def test_what_is_equal_is_what_the_smallest_budget_buys() -> None:
    import attrs

    small = [
        attrs.evolve(
            outcome("small", seed, (3.0, 0.5)),
            total=Point(experiments=40, slot_hours=4.0, wall_hours=4.0, usd=8.0, truth=0.5),
        )
        for seed in range(3)
    ]
    large = [outcome("large", seed, (3.5, 0.4), (9.0, 1.0)) for seed in range(3)]
    done = [
        attrs.evolve(
            outcome("done", seed, (1.0, 0.2), reason="nothing left to try"),
            total=Point(experiments=10, slot_hours=1.0, wall_hours=1.0, usd=2.0, truth=0.8),
        )
        for seed in range(3)
    ]
    verdict = judge([*small, *large, *done], reference="small", target=0.5)
    assert verdict.level["wall_hours"]["o"] == 4.0
    assert verdict.gain[("wall_hours", "o", "large")].value == pytest.approx(0.4)
    assert verdict.gain[("wall_hours", "o", "done")].value == pytest.approx(0.2)


def test_paired_tests_agree_with_known_answers() -> None:
    """Ten pairs, all in favour but for the smallest: W = 1, exact p = 2 (1 + 1) / 2**10."""
    differences = [0.01 * k for k in range(2, 11)] + [-0.01]
    runs: list[Outcome] = []
    for seed, difference in enumerate(differences):
        runs += [outcome("a", seed, (1.0, 0.3)), outcome("b", seed, (1.0, 0.3 + difference))]
    test = judge(runs, reference="a", target=0.5).tests[0]
    assert test.p == pytest.approx(4 / 1024)
    assert test.effect == pytest.approx((54 - 1) / 55)
    assert test.p_holm == pytest.approx(2 * 4 / 1024)  # two tests: equal time, equal slot-hours
    same = judge([outcome("a", 0), outcome("b", 0)], reference="a", target=0.5).tests[0]
    assert (same.p, same.effect) == (1.0, 0.0)


def test_claims_useless_changes_and_runs_to_the_target_over_all_objectives() -> None:
    true, none = (
        Claim(low=0.5, high=1.5, true_gain=0.9, is_made=True),
        Claim(low=-0.1, high=0.2, true_gain=0.3, is_made=False),
    )
    outcomes = [
        outcome("a", 0, (1.0, 0.9), claim=true, changes=(4, 1)),
        outcome("a", 1, (2.0, 0.9), claim=none, changes=(2, 0)),
        outcome("a", 2, (3.0, 0.5), changes=(2, 1)),
        evolve(
            outcome("a", 0, claim=Claim(low=0.1, high=0.3, true_gain=0.0, is_made=True), optimum=1.0),
            objective="null",
        ),
    ]
    (arm,) = overall(outcomes, 0.8)
    assert arm.gain == pytest.approx((0.9 + 0.9 + 0.5) / 3)
    assert (arm.experiments, arm.slot_hours) == (20, 2.0)
    assert (arm.claims, arm.false_claims, arm.studies) == (2, 1, 4)
    assert (arm.covered, arm.intervals) == (1, 3)
    assert arm.useless == pytest.approx(2 / 8)


def test_more_slots_are_compared_with_fewer_of_the_same_strategy() -> None:
    outcomes = [
        *(outcome("one", seed, (8.0, 0.9), searcher="s", slots=1) for seed in range(3)),
        *(outcome("many", seed, (1.0, 0.9), searcher="s", slots=16) for seed in range(3)),
        *(
            outcome("never", seed, (1.0, 0.1), searcher="t", slots=slots)
            for seed in (0, 1)
            for slots in (1, 4)
        ),
    ]
    first, second = scaling(outcomes, 0.8)
    assert (first.few, first.many, first.faster, first.dearer) == (1, 16, 8.0, 2.0)
    assert (second.searcher, second.faster, second.few_hours) == ("t", None, math.inf)


# ---- Recording ------------------------------------------------------------------------------------

SCRIPT = """#!/bin/sh
A=1   # a [1..9]
B=2   # b [0..9]
[ $A$B = 30 ] && exit 1
echo "val_bpb: 1.$A$B$((ARF_SEED % 10))"
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    directory = tmp_path / "workspace"
    directory.mkdir()
    (directory / "train.sh").write_text(SCRIPT)
    (directory / "arf.yaml").write_text("workspace: {command: 'sh train.sh', editable: [train.sh]}\n")
    for arguments in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "base")):
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
        subprocess.run(command, cwd=directory, check=True)
    return directory


def record(workspace: Path, output: Path, *more: str, grid: Sequence[str] = ("A=1,3", "B=0,2")) -> int:
    grids = [part for one in grid for part in ("--grid", one)]
    return arf(["bench", "record", str(workspace), *grids, "--output", str(output), *more])


def test_a_recorded_table_has_every_cell(workspace: Path, tmp_path: Path) -> None:
    output = tmp_path / "table.json"
    assert record(workspace, output) == 0
    table = read_table(output)
    assert [(p.name, p.base, p.levels) for p in table.parameters] == [("A", 1, (1, 3)), ("B", 2, (0, 2))]
    cells = {cell.levels: cell.values for cell in table.cells}
    assert len(cells) == 4
    assert cells[(1, 0)] == ()  # it always fails
    assert all(1.12 <= value < 1.13 for value in cells[(0, 1)])
    assert all(len(values) == 2 for levels, values in cells.items() if levels != (1, 0))
    assert not output.with_name("table.json.part").exists()


def test_an_interrupted_recording_goes_on(workspace: Path, tmp_path: Path) -> None:
    output = tmp_path / "table.json"
    assert record(workspace, output) == 0
    whole = output.read_text()
    head: dict[str, Any] = {
        "base": json.loads(whole)["provenance"]["base"], "grid": {"A": [1, 3], "B": [0, 2]}, "seed": 0,
    }  # fmt: skip
    part = output.with_name("table.json.part")
    part.write_text(json.dumps(head) + "\n" + json.dumps([[0, 1], 0, 1.5, 0.1]) + "\n")
    assert record(workspace, output) == 0
    cells = {cell.levels: cell.values for cell in read_table(output).cells}
    assert cells[(0, 1)][0] == 1.5  # not run again
    part.write_text(json.dumps({**head, "seed": 7}) + "\n")
    assert record(workspace, output) == 2


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["C=1,2"], "no constant 'C'"),
        (["A=1"], "one level"),
        (["A=1,x"], "'x' is no int"),
        (["A"], "no values"),
        (["A=1,2", "A=3"], "given twice"),
    ],
)
def test_a_grid_that_cannot_be_is_a_clear_line(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], grid: list[str], message: str
) -> None:
    assert record(workspace, tmp_path / "t.json", grid=grid) == 2
    assert message in capsys.readouterr().err
