"""Doubts about a result: what no honest change is likely to do, told with the evidence.

A pure function of the study and one run that has ended well. It looks only at runs that look better than the
baseline: the others are not kept anyway. The reference is the runs of the baseline on the same tier; without
them there are no doubts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from statistics import median

from arf.study import Study
from arf.types import Direction, Experiment

LARGEST_GAIN = 0.4
"""Share of the baseline by which a metric that gets smaller may improve on the best run so far."""
LARGEST_GROWTH = 1.0
"""The same for one that gets larger."""
SHORTEST = 0.25
"""Of the shortest run of the baseline. Warm starts and faster code take away less."""
LONGEST = 2.5
"""Of the longest run of the baseline."""
SLACK_S = 5.0
"""Differences in time below this are those of a busy machine."""
LEAST_S = 1.0
"""A run that is shorter by less than this has saved nothing: one that was started warm, of a script that is
over at once."""
RECENT = 5000
"""So many runs are looked through for the same value."""
DIGITS = 5
"""Values of fewer digits may be the same by chance."""
FIXED = re.compile(
    r"^(time_|train_|flop_)?budget(_s|_seconds|_flops|_steps|_tokens)?$|^(eval|val|test)_?(tokens|rows|bytes|steps|batches|samples|examples)$"
    r"|^(vocab_size|max_seq_len)$"
)
"""Closing values that say what a run was measured by, and that a change has no business with."""
TIMES = re.compile(r"^(total|training|train|wall|elapsed)_?(seconds|time|s|time_s)$")


def doubts(study: Study, experiment: Experiment, value: float) -> str:
    """Why the value of a run that has ended is not believed; empty if there is no reason.

    `experiment` has its metrics and times. Takes longer the more runs there are, up to RECENT.
    """
    if experiment.tree == study.base_tree:
        return ""
    baseline = study.baseline_group(experiment.tier)
    if baseline is None or not baseline.n or study.objective.gain(baseline.mean, value) <= 0:
        return ""
    runs = [run for number in baseline.experiments if (run := study.experiments[number]).value is not None]
    found = [
        *_size(study, experiment, value, baseline.values),
        *_scatter(study, experiment, value, baseline.values),
    ]
    if experiment.budget is None:
        found += [*_time(experiment, runs), *_closing_values(experiment, runs)]
    return "; ".join(found)


def _size(study: Study, experiment: Experiment, value: float, baseline: Sequence[float]) -> Iterator[str]:
    mean = sum(baseline) / len(baseline)
    if (min(baseline) > 0 >= value) or (max(baseline) < 0 <= value):
        yield f"{value:.6g} is not of the baseline's sign ({mean:.6g})"
        return
    leaders = study.leaders(experiment.tier) if experiment.budget is None else []
    best = max((study.objective.gain(mean, group.mean) for group in leaders), default=0.0)
    gain = study.objective.gain(mean, value)
    largest = LARGEST_GAIN if study.objective.direction is Direction.MIN else LARGEST_GROWTH
    if mean and gain - max(0.0, best) > largest * abs(mean):
        seen = (
            f"the best so far gained {100 * best / abs(mean):.0f} %"
            if best > 0
            else "nothing has gained so far"
        )
        yield f"a gain of {100 * gain / abs(mean):.0f} % at once, where {seen}"


def _scatter(study: Study, experiment: Experiment, value: float, baseline: Sequence[float]) -> Iterator[str]:
    """The same digits where runs differ: with another seed, or of other code."""
    if len(set(baseline)) < len(baseline) or len(baseline) < 2 or _digits(value) < DIGITS:
        return
    last = len(study.experiments)
    for number in range(last, max(0, last - RECENT), -1):
        other = study.experiments[number]
        if number == experiment.id or (other.tier, other.budget) != (experiment.tier, experiment.budget):
            continue
        if _value_of(study, other) != value:
            continue
        if other.seed != experiment.seed:
            which = "the same code" if other.tree == experiment.tree else "other code"
            yield f"exactly the value of experiment {other.id}, {which} with another seed"
            return


def _value_of(study: Study, run: Experiment) -> float | None:
    """The objective of a run, also where it did not count."""
    return run.value if run.value is not None else run.metrics.get(study.objective.metric)


def _digits(value: float) -> int:
    return len(re.sub(r"e.*|\D", "", repr(value)).strip("0"))


def _time(experiment: Experiment, baseline: Sequence[Experiment]) -> Iterator[str]:
    times = [run.slot_s for run in baseline if run.slot_s > 0]
    took_s = experiment.slot_s
    if not times or took_s <= 0:
        return
    if took_s < SHORTEST * min(times) and took_s < min(times) - LEAST_S:
        yield f"it ran for {took_s:.3g} s, the baseline for {min(times):.3g} s and more"
    if took_s > LONGEST * max(times) + SLACK_S:
        yield f"it ran for {took_s:.3g} s, the baseline for {max(times):.3g} s and less"
    for name, claimed in experiment.metrics.items():
        if TIMES.match(name) is None:
            continue
        rests = [run.slot_s - run.metrics[name] for run in baseline if name in run.metrics]
        if min(rests, default=0.0) < -LEAST_S:
            continue  # the baseline claims more than it took, too: it means something else
        if claimed > took_s + max(1.0, 0.02 * took_s):
            yield f"it says {name} {claimed:.3g}, and ran for {took_s:.3g} s in all"
        rest_s = took_s - claimed
        if len(rests) == len(baseline) and rest_s > 2 * max(rests) + 0.25 * median(times) + SLACK_S:
            yield f"it says {name} {claimed:.3g}, and ran {rest_s:.3g} s more; the baseline {max(rests):.3g}"


def _closing_values(experiment: Experiment, baseline: Sequence[Experiment]) -> Iterator[str]:
    common = set.intersection(*(set(run.metrics) for run in baseline))
    missing = common - experiment.metrics.keys()
    if len(common) > 1 and 2 * len(missing) >= len(common):
        yield f"its closing block lacks {', '.join(sorted(missing)[:3])}"
    for name in sorted(filter(FIXED.search, common)):
        values = {run.metrics[name] for run in baseline}
        if len(values) == 1 and name in missing:
            yield f"its closing block lacks {name}"
        elif len(values) == 1 and experiment.metrics[name] not in values:
            yield f"{name} is {experiment.metrics[name]:.6g}, and was {values.pop():.6g} in the baseline"
