"""Guards: what a change must not make worse, whatever it does to the objective."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from arf.study import Study
from arf.types import Experiment

if TYPE_CHECKING:
    from arf.config.schema import Guards


def broken(guards: Guards, study: Study, experiment: Experiment) -> str:
    """Which bound a change breaks by the mean of its runs, in a line; empty if none.

    A metric that its runs do not print breaks none, if the baseline does not print it either.
    """
    group = study.group_of(experiment)
    runs = [study.experiments[number] for number in group.experiments if number != experiment.id]
    base = study.baseline_group(experiment.tier, experiment.budget)
    base_runs = [study.experiments[number] for number in base.experiments] if base else []
    return "; ".join(_broken(guards, [experiment, *runs], base_runs))


def _broken(guards: Guards, runs: list[Experiment], baseline: list[Experiment]) -> Iterator[str]:
    for name in dict.fromkeys([*guards.max, *guards.min, *guards.max_share, *guards.min_share]):
        value, base = _mean(runs, name), _mean(baseline, name)
        if value is None:
            if base is not None:
                yield f"guard: it prints no {name}"
            continue
        highest = [guards.max[name]] if name in guards.max else []
        lowest = [guards.min[name]] if name in guards.min else []
        if base is not None:
            highest += [guards.max_share[name] * base] if name in guards.max_share else []
            lowest += [guards.min_share[name] * base] if name in guards.min_share else []
        if highest and value > min(highest):
            yield f"guard: {name} {value:.6g} is above {min(highest):.6g}"
        if lowest and value < max(lowest):
            yield f"guard: {name} {value:.6g} is below {max(lowest):.6g}"


def _mean(runs: Iterable[Experiment], name: str) -> float | None:
    values = [run.metrics[name] for run in runs if name in run.metrics]
    return sum(values) / len(values) if values else None
