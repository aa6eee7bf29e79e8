"""A verdict as tables: rows of text, from which the terminal and the page are made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from attrs import frozen

from arf_plugins.compare.runs import Outcome
from arf_plugins.compare.verdict import EQUAL, Middle, Verdict, spread_name

WORDS = {
    "wall_hours": "wall-clock",
    "slot_hours": "slot-hours",
    "experiments": "experiments",
    "usd": "dollars",
}


@frozen(kw_only=True)
class Grid:
    """A table: its title, a line on how to read it, and its cells, the header first."""

    title: str
    note: str
    rows: tuple[tuple[str, ...], ...]


def grids(outcomes: Sequence[Outcome], verdict: Verdict) -> list[Grid]:
    """All tables, in the order in which they are read."""
    return [
        _overall(verdict),
        *(_gains(verdict, equal) for equal in EQUAL),
        _targets(verdict),
        *([_scaling(verdict)] if verdict.scaling else []),
        *([_races(verdict)] if verdict.races else []),
        _ranks(verdict),
        _tests(verdict),
        _conduct(outcomes, verdict),
    ]


def _overall(verdict: Verdict) -> Grid:
    rows: list[tuple[str, ...]] = [
        (
            "arm", "true gain", "runs to target", "slot-hours to target", "claims", "false claims",
            "intervals that hold", "useless changes",
        )
    ]  # fmt: skip
    for arm in verdict.overall:
        rows.append(
            (
                arm.arm,
                "-" if arm.gain is None else f"{arm.gain:.1%}",
                plain(arm.experiments),
                plain(arm.slot_hours),
                f"{arm.claims}/{arm.studies}",
                f"{arm.false_claims}/{arm.studies}",
                f"{arm.covered}/{arm.intervals}",
                "-" if arm.useless is None else f"{arm.useless:.0%}",
            )
        )
    return Grid(
        title="Over all objectives",
        note="True gain at the end as a share of the possible one (mean); medians over studies until "
        f"{verdict.target:.0%} of it; studies that said at their end that there is a gain, and those that "
        "said so with none; 95 % intervals with the true gain in them; changes of the final patch without "
        "which it is no worse.",
        rows=tuple(rows),
    )


def _scaling(verdict: Verdict) -> Grid:
    rows: list[tuple[str, ...]] = [
        ("objective", "strategy", "slots", "hours", "times as fast", "times the slot-hours")
    ]
    for one in verdict.scaling:
        rows.append(
            (
                one.objective,
                one.searcher,
                f"{one.few} and {one.many}",
                f"{plain(one.few_hours)} and {plain(one.many_hours)}",
                "-" if one.faster is None else f"{one.faster:.1f}",
                "-" if one.dearer is None else f"{one.dearer:.2f}",
            )
        )
    return Grid(
        title="The same strategy with more slots",
        note=f"Median hours until {verdict.target:.0%} of the possible gain was kept.",
        rows=tuple(rows),
    )


def _gains(verdict: Verdict, equal: str) -> Grid:
    levels = ", ".join(f"{o} {verdict.level[equal][o]:.3g}" for o in verdict.objectives)
    rows = [("arm", *verdict.objectives)]
    for arm in verdict.arms:
        rows.append((arm, *(percent(verdict.gain[(equal, o, arm)]) for o in verdict.objectives)))
    return Grid(
        title=f"True gain of what was kept, at equal {WORDS[equal]}",
        note=f"Percent of the possible gain: median ({_spread(verdict)}), at {levels} h.",
        rows=tuple(rows),
    )


def _targets(verdict: Verdict) -> Grid:
    rows: list[tuple[str, ...]] = [
        ("objective", "arm", "reached", "experiments", "slot-hours", "hours", "dollars")
    ]
    for o in verdict.objectives:
        for arm in verdict.arms:
            hit, n = verdict.reached[(o, arm)]
            spent = (
                number(verdict.to_target[(m, o, arm)])
                for m in ("experiments", "slot_hours", "wall_hours", "usd")
            )
            rows.append((o, arm, f"{hit}/{n}", *spent))
    return Grid(
        title=f"What {verdict.target:.0%} of the possible gain took",
        note=f"Median ({_spread(verdict)}) until it was kept; a run that never got there counts as ∞.",
        rows=tuple(rows),
    )


def _races(verdict: Verdict) -> Grid:
    rows = [
        ("objective", "level", "arm", "reached", "hours", "slot-hours", "times as fast", "times the cost")
    ]
    for race in verdict.races:
        speed_up = "-" if race.speed_up is None else f"{race.speed_up:.1f}"
        cost = "-" if race.cost is None else f"{race.cost:.2f}"
        counts = f"{race.reached}/{race.of}"
        spent = (number(race.wall_hours), number(race.slot_hours))
        rows.append((race.objective, f"{race.level:.1%}", race.arm, counts, *spent, speed_up, cost))
    return Grid(
        title=f"The race to where {verdict.race} was at its end",
        note="Hours and slot-hours until the median of its final gains was reached, against those of its "
        "whole studies. A run that never got there counts as ∞.",
        rows=tuple(rows),
    )


def _ranks(verdict: Verdict) -> Grid:
    rows = [("arm", *(f"equal {WORDS[equal]}" for equal in EQUAL))]
    for arm in sorted(verdict.arms, key=lambda a: verdict.ranks[(EQUAL[0], a)]):
        rows.append((arm, *(f"{verdict.ranks[(equal, arm)]:.2f}" for equal in EQUAL)))
    return Grid(title="Mean ranks", note="Over all objectives and seeds; 1 is best.", rows=tuple(rows))


def _tests(verdict: Verdict) -> Grid:
    rows = [("equal", "objective", "arm", "difference", "effect", "p", "p (Holm)")]
    for test in verdict.tests:
        rows.append(
            (
                WORDS[test.equal],
                test.objective,
                test.arm,
                f"{100 * test.difference:+.1f} %",
                f"{test.effect:+.2f}",
                f"{test.p:.2g}",
                f"{test.p_holm:.2g}",
            )
        )
    return Grid(
        title=f"Paired tests against {verdict.reference}",
        note="Median difference in the share of the possible gain, rank-biserial effect size, Wilcoxon's "
        "signed ranks, and Holm's correction over all rows.",
        rows=tuple(rows),
    )


def _conduct(outcomes: Sequence[Outcome], verdict: Verdict) -> Grid:
    rows = [
        ("objective", "arm", "experiments", "an hour", "in use", "keeps", "false keeps", "luckiest is off by")
    ]
    for o in verdict.objectives:
        for arm in verdict.arms:
            runs = [run for run in outcomes if (run.objective, run.arm) == (o, arm)]
            rates = [run.total.experiments / run.total.wall_hours for run in runs if run.total.wall_hours]
            off = [
                run.sign * (run.lucky_truth - run.lucky_reading)
                for run in runs
                if run.lucky_truth is not None and run.lucky_reading is not None
            ]
            rows.append(
                (
                    o,
                    arm,
                    f"{median(run.total.experiments for run in runs):.0f}",
                    f"{median(rates):.0f}" if rates else "",
                    f"{median(run.utilisation for run in runs):.1%}",
                    f"{sum(run.keeps for run in runs)}",
                    f"{sum(run.false_keeps for run in runs)}",
                    f"{median(off):.3g}" if off else "",
                )
            )
    return Grid(
        title="How the studies went",
        note="Medians; keeps are sums over the seeds. The luckiest reading of a study looks better than its "
        "setting truly is, by so much.",
        rows=tuple(rows),
    )


def _spread(verdict: Verdict) -> str:
    return spread_name(min(middle.n for middle in verdict.gain.values()))


def percent(middle: Middle) -> str:
    return f"{100 * middle.value:.1f} ({100 * middle.low:.1f} to {100 * middle.high:.1f})"


def plain(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.3g}"


def number(middle: Middle) -> str:
    if math.isinf(middle.value):
        return "∞" if math.isinf(middle.low) else f"∞ ({middle.low:.3g} to ∞)"
    high = "∞" if math.isinf(middle.high) else f"{middle.high:.3g}"
    return f"{middle.value:.3g} ({middle.low:.3g} to {high})"


def summary(title: str, outcomes: Sequence[Outcome], verdict: Verdict) -> str:
    """The tables as plain text."""
    parts = [title]
    for grid in grids(outcomes, verdict):
        widths = [max(len(row[n]) for row in grid.rows) for n in range(len(grid.rows[0]))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in grid.rows]
        parts.append("\n".join([grid.title, grid.note, *(line.rstrip() for line in lines)]))
    return "\n\n".join(parts) + "\n"
