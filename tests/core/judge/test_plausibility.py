"""What is believed and what is not, on small studies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve
from tests.core.judge.test_rule import Case

from arf.judge.plausibility import doubts
from arf.types import Direction, Experiment, Role

START = datetime(2026, 1, 1, tzinfo=UTC)
BLOCK = {
    "training_seconds": 300.0,
    "total_seconds": 330.0,
    "eval_tokens": 1e6,
    "budget_spent": 5.93788e10,
    "num_params": 5e7,
    "mfu": 39.8,
}
BASELINE = (2.65452, 2.67024, 2.66289, 2.65353)


def start(case: Case, commit: str, value: float, role: Role = Role.CANDIDATE, **fields: Any) -> Experiment:
    """A run of 340 s with autoresearch's closing block, but for what `fields` say."""
    took_s = fields.pop("took_s", 340.0)
    metrics = {"val_bpb": value, **BLOCK, **fields.pop("metrics", {})}
    times = {"started_at": START, "ended_at": START + timedelta(seconds=took_s)}
    number = case.accept(commit, role, **times, **fields)
    ended = evolve(
        case.study.experiments[number], metrics={k: v for k, v in metrics.items() if v is not None}
    )
    case.study.put(ended)
    return ended


def study(values: tuple[float, ...] = BASELINE, direction: Direction = Direction.MIN) -> Case:
    case = Case()
    case.study.objective = evolve(case.study.objective, direction=direction)
    for value in values:
        case.end(start(case, "base", value, Role.BASELINE).id, value)
    case.judge()
    return case


def doubt(case: Case, value: float, **fields: Any) -> str:
    """What is said of a run when it ends, before it counts."""
    run = start(case, fields.pop("commit", "x"), value, **fields)
    said = doubts(case.study, run, value)
    case.end(run.id, value)
    return said


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"value": 0.0}, "sign"),
        ({"value": -1.2}, "sign"),
        ({"value": 1e-9}, "gain of 100 %"),
        ({"value": 1.33}, "gain of 50 %"),
        ({"value": 2.6, "took_s": 3.0}, "ran for 3 s"),
        ({"value": 2.6, "took_s": 900.0}, "ran for 900 s"),
        ({"value": 2.6, "took_s": 620.0, "metrics": {"total_seconds": 610.0}}, "training_seconds 300"),
        ({"value": 2.6, "metrics": {"total_seconds": 900.0}}, "says total_seconds 900"),
        ({"value": 2.6, "metrics": {"eval_tokens": 1e3}}, "eval_tokens is 1000"),
        ({"value": 2.6, "metrics": {"eval_tokens": None}}, "lacks eval_tokens"),
        ({"value": 2.6, "metrics": dict.fromkeys(BLOCK)}, "closing block lacks"),
    ],
)
def test_what_no_honest_change_does_is_told_with_its_evidence(fields: dict[str, Any], why: str) -> None:
    assert why in doubt(study(), **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"value": 1.87},
        {"value": 2.60, "took_s": 120.0, "metrics": {"training_seconds": 100.0, "total_seconds": 115.0}},
        {"value": 2.60, "took_s": 700.0, "metrics": {"training_seconds": 650.0, "total_seconds": 690.0}},
        {"value": 2.60, "metrics": {"num_params": 2e8, "mfu": 55.0}},
        {"value": 2.60, "metrics": {"mfu": None}},
        {"value": 2.60, "metrics": {"budget_spent": 6.01253e10}},
        {"value": 2.60, "metrics": {"grad_norm": 1.0}},
        {"value": 0.0, "direction": Direction.MAX},
        {"value": 9.9},
    ],
)
def test_honest_changes_are_believed(fields: dict[str, Any]) -> None:
    case = study(direction=fields.pop("direction", Direction.MIN))
    assert doubt(case, **fields) == ""


def test_a_script_that_is_over_at_once_may_be_over_sooner() -> None:
    case = Case()
    for value in BASELINE:
        case.end(start(case, "base", value, Role.BASELINE, took_s=0.04).id, value)
    case.judge()
    assert "the baseline for" not in doubt(case, 2.6, took_s=0.001)


def test_a_value_that_does_not_scatter_with_the_seed_is_not_believed() -> None:
    case = study()
    assert doubt(case, 2.51234, commit="x") == ""
    assert "the same code with another seed" in doubt(case, 2.51234, commit="x")
    assert "other code with another seed" in doubt(case, 2.51234, commit="y")
    assert doubt(case, 2.51235, commit="y") == ""


def test_values_may_be_equal_where_those_of_the_baseline_are_or_by_the_same_seed() -> None:
    case = study((2.5, 2.5, 2.5, 2.5))
    assert doubt(case, 2.41111, commit="x") == ""
    assert doubt(case, 2.41111, commit="y") == ""
    case = study()
    assert doubt(case, 2.51234, commit="x", seed=99) == ""
    assert doubt(case, 2.51234, commit="no-op on x", seed=99) == ""


def test_gains_add_up_as_far_as_the_study_has_seen_them() -> None:
    case = study()
    for step, value in enumerate((1.9, 1.3, 0.9, 0.6)):
        assert doubt(case, value, commit=f"step {step}") == ""
    assert doubt(case, 0.0001, commit="leap") == ""
    assert "sign" in doubt(case, 0.0, commit="zero")
