"""Reading logs while they grow, and noticing runs that have gone wrong."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from attrs import evolve

from arf.engine.watch import (
    CURVE_POINTS,
    MAX_LINE_BYTES,
    MAX_REST_BYTES,
    LogTail,
    Normal,
    Watch,
    WatchLimits,
    counted_metrics,
    last_lines,
    objective_value,
)
from arf.interfaces import MetricParser
from arf.types import Direction, Objective, Pick, Reading
from arf_plugins.metrics_regex import Options
from arf_plugins.metrics_regex.parser import RegexParser

LIMITS = WatchLimits(log_bytes=1_000_000, stall_s=60.0, diverge_factor=3.0)


class Words(MetricParser):
    """`step name value` or `name value`."""

    def parse(self, line: str) -> Sequence[Reading]:
        words = line.split()
        try:
            if len(words) == 3:
                return [Reading(name=words[1], value=float(words[2]), step=int(words[0]))]
            if len(words) == 2:
                return [Reading(name=words[0], value=float(words[1]))]
        except ValueError:
            pass
        return []


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def watch(log: Path) -> Watch:
    return Watch(tail=LogTail(log), parser=Words(), objective=Objective())


def append(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def test_lines_come_once_and_only_when_they_are_complete(log: Path) -> None:
    tail = LogTail(log)
    assert tail.read() == []
    append(log, "one\ntw")
    assert tail.read() == ["one"]
    append(log, "o\rthree\r\nfour")
    assert tail.read() == ["two", "three"]
    assert tail.rest(10**6) == ["four"]


def test_a_line_without_end_and_bytes_that_are_no_text_do_no_harm(log: Path) -> None:
    log.write_bytes(b"a" * (5 * 2**20) + b"\n\xff\x00b\n")
    lines = LogTail(log).rest(10**8)
    assert len(lines[0]) <= MAX_LINE_BYTES
    assert lines[-1].endswith("b")


def test_rest_stops_at_its_limit(log: Path) -> None:
    log.write_bytes(b"x\n" * 10_000_000)
    assert len(LogTail(log).rest(1_000_000)) < 4_000_000


def test_a_loss_that_stays_nan_is_a_problem_and_one_that_recovers_is_none(log: Path) -> None:
    seen = watch(log)
    append(log, "1 loss 3.0\n2 loss nan\n3 loss inf\n4 loss 2.9\n5 loss nan\n6 loss nan\n")
    assert seen.look(0.0, LIMITS)[1] == ""
    append(log, "7 loss nan\n")
    assert seen.look(1.0, evolve(LIMITS, diverge_factor=None))[1] == ""
    append(log, "8 loss nan\n")
    assert seen.look(2.0, LIMITS)[1] == "loss is nan at step 8"


class Pairs(MetricParser):
    """`step name=value name=value`."""

    def parse(self, line: str) -> Sequence[Reading]:
        step, *pairs = line.split()
        named = [pair.split("=") for pair in pairs]
        return [Reading(name=name, value=float(value), step=int(step)) for name, value in named]


@pytest.mark.parametrize(
    "line",
    [
        "train_loss=2 val_loss=nan",  # not measured at this step
        "loss_a=0.02 loss_b=0.7 loss_c=0.8 loss_d=0.9 loss=2.4",  # each against its own beginning
        "loss=0.1 best_loss=inf prev_loss=inf",
        "loss={step} loss_scale={power}",
        "accuracy=nan loss=1",
    ],
)
def test_lines_of_good_runs_are_no_problem(log: Path, line: str) -> None:
    seen = Watch(tail=LogTail(log), parser=Pairs(), objective=Objective(metric="val_loss"))
    for step in range(1, 9):
        append(log, f"{step} " + line.format(step=1 + step / 5, power=2**step) + "\n")
    assert seen.look(0.0, LIMITS)[1] == ""


def test_what_the_baseline_did_is_normal(log: Path) -> None:
    append(log, "".join(f"{step} running_loss {step}\n" for step in range(1, 30)))
    baseline = watch(log)
    assert baseline.look(0.0, evolve(LIMITS, diverge_factor=math.inf))[1] == ""
    normal = Normal().after(baseline)
    assert watch(log).look(0.0, evolve(LIMITS, highest=normal.highest))[1] == ""
    assert watch(log).look(0.0, LIMITS)[1].startswith("diverged")
    append(log, "".join(f"{step} running_loss {step}\n" for step in range(88, 99)))
    assert watch(log).look(0.0, evolve(LIMITS, highest=normal.highest))[1].startswith("diverged")


def test_a_slow_start_is_no_stall_unless_somebody_says_so(log: Path) -> None:
    seen = watch(log)
    append(log, "compiling\n")
    seen.look(0.0, LIMITS)
    assert seen.look(1000.0, LIMITS)[1] == ""
    assert "limits.stall_s" in seen.look(1000.0, evolve(LIMITS, silent_start_s=60.0))[1]


def test_the_curve_is_that_of_one_loss(log: Path) -> None:
    seen = Watch(tail=LogTail(log), parser=Pairs(), objective=Objective())
    append(log, "0 val_loss=9\n" + "".join(f"{step} loss={step} aux_loss=7\n" for step in range(1, 9)))
    seen.look(0.0, LIMITS)
    assert seen.curve == [(step, step) for step in range(1, 9)]


def test_one_spike_is_not_divergence_but_three_readings_are(log: Path) -> None:
    seen = watch(log)
    append(log, "1 loss 3.0\n2 loss 30\n3 loss 3.0\n4 loss 30\n5 loss 30\n")
    assert seen.look(0.0, LIMITS)[1] == ""
    append(log, "6 loss 30\n")
    assert seen.look(1.0, LIMITS)[1].startswith("diverged: loss 30 at step 6")


def test_silence_is_a_stall_only_where_it_is_known_what_is_normal(log: Path) -> None:
    seen = watch(log)
    append(log, "1 loss 3.0\n")
    seen.look(0.0, LIMITS)
    unknown = WatchLimits(log_bytes=10**6, stall_s=None, diverge_factor=None)
    assert seen.look(1000.0, unknown)[1] == ""
    assert seen.look(1000.0, LIMITS)[1].startswith("stalled")


def test_a_flood_of_output_is_a_problem(log: Path) -> None:
    append(log, "x" * 2_000_000)
    assert "limits.log_mb" in watch(log).look(0.0, LIMITS)[1]


def test_the_curve_is_thinned_and_keeps_its_shape(log: Path) -> None:
    seen = watch(log)
    append(log, "".join(f"{step} loss {10 - step / 1000}\n" for step in range(1, 5001)))
    seen.finish(0.0, LIMITS)
    assert CURVE_POINTS / 2 <= len(seen.curve) < 2 * CURVE_POINTS
    steps = [step for step, _ in seen.curve]
    assert steps == sorted(steps)
    assert steps[-1] > 4900


def test_metrics_never_hold_what_json_cannot(log: Path) -> None:
    seen = watch(log)
    append(log, "a 1\na inf\nb nan\n")
    seen.finish(0.0, LIMITS)
    assert seen.metrics == {"a": 1.0}


@pytest.mark.parametrize(
    ("pick", "direction", "readings", "value"),
    [
        (Pick.ONLY, Direction.MIN, [(1.0, None)], 1.0),
        (Pick.ONLY, Direction.MIN, [(1.0, None), (1.0, None)], 1.0),
        (Pick.ONLY, Direction.MIN, [(3.0, 10), (2.0, 20)], 2.0),
        (Pick.ONLY, Direction.MIN, [(3.0, 10), (1.5, None)], 1.5),
        (Pick.ONLY, Direction.MIN, [(1.2244, None), (1.2243657, None)], 1.2243657),
        (Pick.FIRST, Direction.MIN, [(3.0, None), (1.0, None)], 3.0),
        (Pick.LAST, Direction.MIN, [(3.0, None), (4.0, None)], 4.0),
        (Pick.BEST, Direction.MIN, [(3.0, 1), (1.0, 2), (2.0, 3)], 1.0),
        (Pick.BEST, Direction.MAX, [(3.0, 1), (math.nan, 2)], 3.0),
    ],
)
def test_which_value_counts(
    pick: Pick, direction: Direction, readings: list[tuple[float, int | None]], value: float
) -> None:
    objective = Objective(metric="m", pick=pick, direction=direction)
    assert objective_value(objective, readings) == (value, "")


@pytest.mark.parametrize(
    ("readings", "problem"),
    [
        ([], "printed no m or other metric that the parser can read"),
        ([(1.0, None), (2.0, None)], "printed m 2 times"),
        ([(0.5, None), (0.52, None)], "printed m 2 times"),
        ([(math.nan, None)], "m is nan"),
        ([(1e200, None)], "m is 1e+200"),
        ([(1.0, None), (math.inf, None)], "printed m 2 times"),
    ],
)
def test_why_no_value_counts(readings: list[tuple[float, int | None]], problem: str) -> None:
    value, why = objective_value(Objective(metric="m"), readings)
    assert value is None
    assert why.startswith(problem)


def test_last_lines_skip_empty_ones_and_missing_files(log: Path) -> None:
    assert last_lines(log, 3) == []
    append(log, "a\n\nb\r50%\r\n\n")
    assert last_lines(log, 2) == ["b", "50%"]


def test_without_the_metric_it_says_what_was_printed_instead_the_nearest_first() -> None:
    objective = Objective(metric="accuracy", direction=Direction.MAX)
    _, problem = objective_value(objective, [], ["loss", "Test_Accuracy"])
    assert problem.startswith("printed no accuracy, but Test_Accuracy, loss (objective.metric")
    _, problem = objective_value(objective, [], list("abcdefg"))
    assert "but a, b, c, d, e and 2 more" in problem
    _, problem = objective_value(objective, [])
    assert problem == "printed no accuracy or other metric that the parser can read"


def test_a_metric_may_be_written_with_the_blanks_that_are_printed(log: Path) -> None:
    seen = Watch(tail=LogTail(log), parser=Words(), objective=Objective(metric="val  loss"))
    append(log, "val_loss 0.5\n")
    seen.finish(0.0, LIMITS)
    assert seen.objectives == [(0.5, None)]


def test_a_parser_may_give_names_with_blanks(log: Path) -> None:
    parser = RegexParser(Options(patterns={"Top-1 error": r"Top-1 error is (\S+)"}))
    seen = Watch(tail=LogTail(log), parser=parser, objective=Objective(metric="Top-1 error"))
    append(log, "The Top-1 error is |24.5%|\n")
    seen.finish(0.0, LIMITS)
    assert seen.objectives == [(24.5, None)]


def test_of_a_long_rest_the_end_is_read(log: Path) -> None:
    log.write_bytes(b"noise 1\n" * (2 * MAX_REST_BYTES // 8) + b"val_bpb 0.5\n")
    seen = watch(log)
    seen.finish(0.0, evolve(LIMITS, log_bytes=10**9))
    assert seen.objectives == [(0.5, None)]


def test_the_metrics_that_came_last_have_a_row() -> None:
    assert list(counted_metrics({f"m{i}": float(i) for i in range(100)}, 3)) == ["m97", "m98", "m99"]
