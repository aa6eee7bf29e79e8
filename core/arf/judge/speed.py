"""The speed of machines as a covariate: readings as they would be on a machine of average speed.

Where training has a fixed time, a faster machine does more steps and reads better, and most of the noise is
that: over 878 runs of one script on H200s the steps done and val_bpb correlate by -0.98, and the standard
deviation falls from 0.00050 to 0.00010 once steps are accounted for. But a change that makes training itself
faster has earned its gain, so that only the machine's share of a run's speed may be adjusted for.

The logarithm of a run's steps is taken apart, over the runs of all commits of a tier (a linear mixed model;
Robinson, That BLUP is a Good Thing, Statistical Science 6, 1991):

    log steps = own speed of the commit + node + wandering of the node + wandering of all nodes + rest

Own speeds are inherited: a commit's is its parent's plus a difference, which is heavy-tailed about zero
(Student's t, by reweighting: most ideas leave the speed alone, and those that do not are no news about
machines). The own speed of a commit with `SPEAKS` runs or more is a fixed effect, of which nothing is
assumed. Variances are the most likely ones of a small grid. What is left of a run once its commit's own speed
is taken off is the machine.

The slope of readings on the logarithm of steps is that within commits, where only machines differ (analysis
of covariance; Cochran, Biometrics 13, 1957). It is used only where it is certain.

How well own speeds are known is part of what a comparison of two commits is worth: `own_sd`. Where the speed
of machines is another for each run and does not follow from where and when it was, little is won.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

from arf.study import Study
from arf.types import Experiment

Floats = NDArray[np.float64]

CERTAIN = 4.0
"""Readings are adjusted where the slope is so many standard errors from zero ..."""
FEWEST = 6
"""... with so many degrees of freedom: the sum over commits of their runs less one."""
SPEAKS = 3
"""A commit's own speed is a fixed effect from so many runs on."""
OWN = (0.0005, 0.004, 0.03)
"""Scales of differences in own speed between a commit and its parent (relative)."""
LOUD = 3.0
"""A difference of so many standard deviations of the machines is a fixed effect too."""
TAIL = 1.0
"""Degrees of freedom of their t distribution."""
ROUNDS = 6
"""Reweightings."""
FIXED = 1.0
"""The prior standard deviation of a fixed effect, in logarithms: as good as infinite."""
MOST = 800
"""Runs that are taken apart at a time; those of commits with most runs first, then the newest."""
TUNED_ON = 160
"""Runs by which variances are chosen."""
SHARES = (0.0, 0.45, 0.9)
"""Of the machines' variance: how much may be the nodes', and how much wandering."""
LENGTHS = (4.0, 16.0, 64.0)
"""In runs: how long a wandering lasts."""
SCALES = (1.0, 4.0, 16.0)
"""The variance of machines, as a multiple of that within commits: replicates are often close in time."""


@frozen(kw_only=True)
class SpeedModel:
    """What the speed of machines did to the readings of a tier."""

    metric: str
    slope: float
    """What 1 % more steps add to a reading, in units of the objective."""
    slope_se: float
    sd_before: float
    """The standard deviation within commits as read."""
    sd_after: float
    """The same of adjusted readings."""
    df: int
    """Degrees of freedom of `sd_before`; one less after."""
    machine: Mapping[int, float] = field(repr=False)
    """By experiment: how much faster than average its machine was then, as a logarithm."""
    own: Mapping[str, float] = field(repr=False)
    """By tree: how much faster than the baseline it is by itself, as a logarithm."""
    own_covariance: Floats = field(repr=False, eq=False)
    """(trees, trees): how well these are known, in the order of `own`."""

    def adjusted(self, experiment: Experiment) -> float:
        """The value of a run that counts, on a machine of average speed. Raises KeyError for other runs."""
        assert experiment.value is not None
        return experiment.value - 100.0 * self.slope * self.machine[experiment.id]

    def own_sd(self, tree: str, other: str) -> float:
        """The posterior standard deviation of the difference of two own speeds. Raises KeyError."""
        numbers = {name: n for n, name in enumerate(self.own)}
        a, b, c = numbers[tree], numbers[other], self.own_covariance
        return math.sqrt(max(0.0, float(c[a, a] + c[b, b] - 2 * c[a, b])))

    def standard_error(self, tree: str, runs: int, other: str, other_runs: int) -> float:
        """Of the difference of the means of adjusted readings of two commits."""
        residual = self.sd_after**2 * (1.0 / runs + 1.0 / other_runs)
        return math.sqrt(residual + (100.0 * self.slope * self.own_sd(tree, other)) ** 2)

    @property
    def text(self) -> str:
        """One line for people."""
        fewer = (self.sd_before / self.sd_after) ** 2 if self.sd_after else math.inf
        return (
            f"1 % more {self.metric} reads {self.slope:+.2g}; adjusted for the speed of machines, noise is "
            f"{self.sd_after:.2g} instead of {self.sd_before:.2g}: as much as {fewer:.3g} times the runs"
        )


def speed_model(study: Study, tier: str, budget: float | None = None) -> SpeedModel | None:
    """The model of a tier; None where it is turned off, nothing counts steps, or the slope is not certain.

    Costs about a second for 800 runs: for claims and reports, not for each decision.
    """
    metric = study.rule.steps_metric
    return model_of(_runs(study, tier, budget, metric), study.base_tree, metric) if metric else None


def model_of(runs: Sequence[Experiment], base_tree: str, metric: str) -> SpeedModel | None:
    """The model of runs of one tier and budget, in the order of their start, that have a value and steps."""
    log_steps = np.array([math.log(run.metrics[metric]) for run in runs])
    values = np.array([run.value for run in runs], dtype=float)
    groups = _groups([run.tree for run in runs])
    slope = _slope(log_steps, values, groups)
    if slope is None:
        return None
    own_speeds = _own_speeds(runs, log_steps, groups)
    own = own_speeds.means[groups]
    machine = log_steps - own
    adjusted = values - slope.value * (machine - machine.mean())
    base = next((own[n] for n, run in enumerate(runs) if run.tree == base_tree), float(np.median(own)))
    return SpeedModel(
        metric=metric,
        slope=slope.value / 100.0,
        slope_se=slope.se / 100.0,
        sd_before=math.sqrt(_within(values, groups) / slope.df),
        sd_after=math.sqrt(_within(adjusted, groups) / max(1, slope.df - 1)),
        df=slope.df,
        machine={run.id: float(m - machine.mean()) for run, m in zip(runs, machine, strict=True)},
        own={run.tree: float(o - base) for run, o in zip(runs, own, strict=True)},
        own_covariance=own_speeds.covariance,
    )


@frozen(kw_only=True)
class Adjusted:
    """Two commits compared on machines of average speed."""

    old: float
    """The mean of adjusted readings."""
    new: float
    error: float
    """The standard error of their difference."""
    df: int
    text: str
    """One line for people on what was adjusted."""


def adjusted(
    study: Study, old: Sequence[Experiment], new: Sequence[Experiment], error: float
) -> Adjusted | None:
    """Two commits by counted runs of one tier and budget; None where that is no surer than `error`.

    `error` is the standard error of the difference of plain means. Which of the two is taken does not depend
    on the difference.
    """
    model = speed_model(study, old[0].tier, old[0].budget)
    if model is None or not all(run.id in model.machine for run in (*old, *new)):
        return None
    surer = model.standard_error(new[0].tree, len(new), old[0].tree, len(old))
    if surer >= error:
        return None
    means = [math.fsum(model.adjusted(run) for run in runs) / len(runs) for runs in (old, new)]
    return Adjusted(old=means[0], new=means[1], error=surer, df=model.df - 1, text=model.text)


def _runs(study: Study, tier: str, budget: float | None, metric: str) -> list[Experiment]:
    """Those that count and have counted their steps, in the order of their start."""
    found = [
        run
        for run in study.experiments.values()
        if run.tier == tier
        and run.budget == budget
        and run.value is not None
        and run.ended_at is not None
        and run.metrics.get(metric, 0.0) > 0.0
    ]
    if len(found) > MOST:
        counts = Counter(run.tree for run in found)
        found = sorted(found, key=lambda run: (-min(SPEAKS, counts[run.tree]), -run.id))[:MOST]
    return sorted(found, key=lambda run: (run.started_at or run.ended_at or run.accepted_at, run.id))


def _groups(trees: Sequence[str]) -> NDArray[np.intp]:
    """The number of each run's tree."""
    numbers = {tree: n for n, tree in enumerate(dict.fromkeys(trees))}
    return np.array([numbers[tree] for tree in trees], dtype=np.intp)


@frozen(kw_only=True)
class _Slope:
    value: float
    se: float
    df: int


def _slope(log_steps: Floats, values: Floats, groups: NDArray[np.intp]) -> _Slope | None:
    """Within groups, by least squares; None where it is not certain."""
    df = len(values) - len(np.unique(groups))
    if df < FEWEST:
        return None
    x, y = _centred(log_steps, groups), _centred(values, groups)
    across = float(x @ x)
    if across <= 0.0:
        return None
    slope = float(x @ y) / across
    se = math.sqrt(float(((y - slope * x) ** 2).sum()) / (df - 1) / across)
    return _Slope(value=slope, se=se, df=df) if abs(slope) > CERTAIN * se else None


def _centred(values: Floats, groups: NDArray[np.intp]) -> Floats:
    means = np.bincount(groups, values) / np.bincount(groups)
    centred: Floats = values - means[groups]
    return centred


def _within(values: Floats, groups: NDArray[np.intp]) -> float:
    return float((_centred(values, groups) ** 2).sum())


# ---- Own speeds ------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class _Variances:
    """Of own speeds, and of what machines do as shares of `total`; what is left of it is each run's."""

    own: float
    """The scale of differences in own speed."""
    total: float
    node: float
    wander: float
    everywhere: float
    length: float
    """In runs."""


@frozen(kw_only=True)
class _Machines:
    """Where and when runs were."""

    same: Floats
    """(runs, runs): 1 where both were on one node."""
    apart: Floats
    """(runs, runs): how many runs would fit between them."""

    @classmethod
    def of(cls, runs: Sequence[Experiment]) -> _Machines:
        nodes = _groups([run.slot for run in runs])
        length_s = float(np.median([run.slot_s for run in runs])) or 1.0
        starts = np.array([(run.started_at or run.accepted_at).timestamp() for run in runs])
        middles = (starts + np.array([run.slot_s for run in runs]) / 2) / length_s
        return cls(
            same=(nodes[:, None] == nodes[None, :]).astype(float),
            apart=np.abs(middles[:, None] - middles[None, :]),
        )

    def last(self, n: int) -> _Machines:
        return _Machines(same=self.same[-n:, -n:], apart=self.apart[-n:, -n:])

    def covariance(self, v: _Variances) -> Floats:
        near = np.exp(-self.apart / v.length)
        rest = 1.0 - v.node - v.wander - v.everywhere
        shares = v.node * self.same + v.wander * self.same * near + v.everywhere * near
        covariance: Floats = v.total * (shares + rest * np.eye(len(near)))
        return covariance


@frozen(kw_only=True)
class _Own:
    """Own speeds of groups, as logarithms, and how well they are known."""

    means: Floats
    covariance: Floats


def _own_speeds(runs: Sequence[Experiment], log_steps: Floats, groups: NDArray[np.intp]) -> _Own:
    descends = _descent(runs, groups)
    counts = np.bincount(groups)
    fixed = counts >= SPEAKS
    fixed[groups[0]] = True  # the first commit is what the others are compared with
    centre = float(np.median(log_steps))
    x, machines = log_steps - centre, _Machines.of(runs)
    noise = _within(log_steps, groups) / max(1, len(x) - len(counts)) or OWN[0] ** 2
    means = np.bincount(groups, x) / counts
    steps = means - np.array([means[above] for above in _parents(runs, groups)])
    fixed |= np.abs(steps) > LOUD * math.sqrt(2.0 * noise)
    likeliest = _likeliest(x, groups, descends, fixed, machines, noise)
    first = _weighed(x, groups, descends, fixed, machines, likeliest)
    fixed |= np.abs(first.differences) > LOUD * math.sqrt(noise)
    likeliest = _likeliest(x, groups, descends, fixed, machines, noise)
    last = _weighed(x, groups, descends, fixed, machines, likeliest)
    return _Own(means=descends @ last.differences + centre, covariance=last.covariance)


@frozen(kw_only=True)
class _Weighed:
    differences: Floats
    """By group: its own speed less its parent's."""
    covariance: Floats
    """(groups, groups): of own speeds."""


def _weighed(
    x: Floats,
    groups: NDArray[np.intp],
    descends: Floats,
    fixed: NDArray[np.bool_],
    machines: _Machines,
    variances: _Variances,
) -> _Weighed:
    """The best linear unbiased prediction, with the prior of each difference reweighted until it settles."""
    from scipy.linalg import cho_factor, cho_solve

    covariance = machines.covariance(variances)
    variance = np.where(fixed, FIXED**2, variances.own**2)
    for _ in range(ROUNDS):
        prior = (descends * variance) @ descends.T
        factor = cho_factor(prior[np.ix_(groups, groups)] + covariance, lower=True)
        by_group = np.bincount(groups, cho_solve(factor, x), minlength=len(prior))
        differences = variance * (descends.T @ by_group)
        heavier = (TAIL + (differences / variances.own) ** 2) / (TAIL + 1.0)
        variance = np.where(fixed, FIXED**2, variances.own**2 * np.maximum(1.0, heavier))
    seen = prior[:, groups]
    return _Weighed(differences=differences, covariance=prior - seen @ cho_solve(factor, seen.T))


def _parents(runs: Sequence[Experiment], groups: NDArray[np.intp]) -> list[int]:
    """The group of each group's parent; the first group where that has not run."""
    descends = {run.commit: group for run, group in zip(runs, groups.tolist(), strict=True)}
    found: dict[int, int] = {}
    for run, group in zip(runs, groups.tolist(), strict=True):
        found.setdefault(group, descends.get(run.parent, int(groups[0])))
    return [found[group] for group in range(len(found))]


def _descent(runs: Sequence[Experiment], groups: NDArray[np.intp]) -> Floats:
    """(groups, groups): 1 where the second is the first or among its ancestors."""
    commits: dict[str, int] = {}
    parents: dict[int, str] = {}
    for run, group in zip(runs, groups.tolist(), strict=True):
        commits.setdefault(run.commit, group)
        parents.setdefault(group, run.parent)
    descends = np.eye(len(parents))
    for group in parents:
        above, seen = commits.get(parents[group]), {group}
        while above is not None and above not in seen:
            descends[group, above] = 1.0
            seen.add(above)
            above = commits.get(parents[above])
    return descends


def _likeliest(
    x: Floats,
    groups: NDArray[np.intp],
    descends: Floats,
    fixed: NDArray[np.bool_],
    machines: _Machines,
    noise: float,
) -> _Variances:
    """The variances that make the newest runs most likely."""
    x, groups, machines = x[-TUNED_ON:], groups[-TUNED_ON:], machines.last(TUNED_ON)
    some = np.ix_(groups, groups)
    own = {scale: ((descends * np.where(fixed, FIXED**2, scale**2)) @ descends.T)[some] for scale in OWN}
    candidates = [
        _Variances(
            own=scale, total=noise * times, node=node, wander=wander, everywhere=everywhere, length=length
        )
        for scale in OWN
        for times in SCALES
        for node, wander, everywhere in itertools.product(SHARES, repeat=3)
        if node + wander + everywhere < 1.0
        for length in (LENGTHS if wander or everywhere else LENGTHS[:1])
    ]
    return max(candidates, key=lambda v: _log_likelihood(x, own[v.own] + machines.covariance(v)))


def _log_likelihood(x: Floats, covariance: Floats) -> float:
    """Of a normal vector of mean 0, but for a constant."""
    from scipy.linalg import cho_factor, cho_solve

    factor, lower = cho_factor(covariance, lower=True)
    return float(-0.5 * x @ cho_solve((factor, lower), x) - np.log(np.diag(factor)).sum())
