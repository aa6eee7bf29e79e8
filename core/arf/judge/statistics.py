"""The statistics behind a verdict: noise, and the sequential test of `proof`.

All of it is for two groups of runs of one tier and budget, whose values scatter about their means with one
common standard deviation. docs/statistics.md explains the choices and has the measured error rates.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from attrs import frozen

from arf.types import Role

if TYPE_CHECKING:
    from arf.study import Group, Study
    from arf.types import Experiment, Objective

SCALE = 20
"""Half of a stretch's alpha is for its first so many ideas, two thirds for twice as many."""
SETTLED = 64
"""Candidates after which it is settled which tier decides."""
SCATTER_LEVEL = 0.1
"""A contender whose runs scatter more than the noise explains at this level is judged by its own scatter."""


def load() -> None:
    """Import what tests of significance need, which takes 0.2 s the first time."""
    import scipy.special  # noqa: F401 - for its effect


@lru_cache(maxsize=4096)
def t_critical(alpha: float, df: float) -> float:
    """The value that Student's t with `df` degrees of freedom exceeds with probability `alpha`."""
    from scipy.special import stdtrit

    return -float(stdtrit(df, alpha))


def t_tail(t: float, df: float) -> float:
    """The probability that Student's t with `df` degrees of freedom exceeds `t`."""
    from scipy.special import stdtr

    return float(stdtr(df, -t))


@lru_cache(maxsize=4096)
def _f_critical(alpha: float, df_over: int, df_under: int) -> float:
    from scipy.special import fdtri

    return float(fdtri(df_over, df_under, 1 - alpha))


@frozen(kw_only=True)
class Noise:
    """The standard deviation of the objective over runs of one commit, and how well it is known."""

    sigma: float
    """In units of the objective; 0 where all replicates gave the same."""
    df: int
    """Degrees of freedom; at least 1."""

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """A confidence interval of sigma: `df * sigma**2` over the true variance is chi-squared with `df`
        degrees of freedom (Snedecor and Cochran, Statistical Methods, 8th ed., section 5.11)."""
        tail = (1 - level) / 2
        from scipy.special import chdtri

        low, high = chdtri(self.df, tail), chdtri(self.df, 1 - tail)
        return self.sigma * math.sqrt(self.df / low), self.sigma * math.sqrt(self.df / high)


def deciding_order(study: Study) -> list[str]:
    """The names of the tiers: the one whose runs decide what is kept, then the others by preference.

    What is good on one tier need not be so on another, so that one of them has the last word: the first, in
    the backend's order, on which candidates have run (the first `SETTLED` of them, so that it does not
    change later) and on which the baseline has not failed.
    """
    names = [tier.name for tier in study.tiers]
    if len(names) < 2:
        return names
    experiments = study.experiments
    used = {experiments[number].tier for number in study.by_role(Role.CANDIDATE)[:SETTLED]}
    works = {name for name in names if _may_work(study.baseline_group(name))}
    return sorted(names, key=lambda name: (name not in works, name not in used))


def _may_work(baseline: Group | None) -> bool:
    return baseline is None or bool(baseline.n or baseline.running)


def noise(study: Study, tier: str, budget: float | None = None) -> Noise | None:
    """The pooled within-group standard deviation on a tier; None while no commit has run there twice.

    The within mean square of a one-way analysis of variance (Montgomery, Design and Analysis of
    Experiments, 8th ed., section 3.3): exact however much the groups' means differ. A candidate is run
    again because its first run was good, so its group scatters a little more than the noise: the estimate
    errs on the high side, which errs against a false keep.
    """
    spread = study.spread(tier, budget)
    if spread.df < 1:
        return None
    return Noise(sigma=math.sqrt(max(0.0, spread.sum_squares) / spread.df), df=spread.df)


@frozen(kw_only=True)
class Comparison:
    """A contender against another group on the same tier and budget."""

    gain: float
    """How much better the contender's mean is; negative where it is worse."""
    error: float
    """Standard error of the gain."""
    df: float
    """Degrees of freedom of that standard error."""
    old_variance: float
    """Variance of one run of the other group."""
    new_variance: float
    """Variance of one run of the contender."""

    @property
    def t(self) -> float:
        if self.error == 0.0:
            return math.copysign(math.inf, self.gain) if self.gain else 0.0
        return self.gain / self.error

    @property
    def p(self) -> float:
        """The chance of such a gain or more if the contender is no better (one-sided)."""
        return t_tail(self.t, self.df)


def compare(objective: Objective, old: Group, new: Group, noise: Noise) -> Comparison:
    """Compare two groups with the pooled noise (Student's two-sample t; Montgomery, section 2.4).

    Common random numbers (run k of each commit has the same seed) make the two means vary together, if
    anything, so that the standard error errs on the high side (Law and Kelton, Simulation Modeling and
    Analysis, section 11.2).

    A change can make training less stable as well as better. If the contender's own runs scatter more than
    the pooled noise explains (an F test), its own variance takes the place of the pooled one, with the
    degrees of freedom of Welch (Biometrika 34, 1947) and Satterthwaite (Biometrics Bulletin 2, 1946).
    """
    gain = objective.gain(old.mean, new.mean)
    pooled = noise.sigma**2
    own = new.sum_squares / (new.n - 1) if new.n > 1 else 0.0
    if new.n < 2 or own <= pooled * _f_critical(SCATTER_LEVEL, new.n - 1, noise.df):
        error = math.sqrt(pooled * (1 / old.n + 1 / new.n))
        return Comparison(gain=gain, error=error, df=noise.df, old_variance=pooled, new_variance=pooled)
    of_old, of_new = pooled / old.n, own / new.n
    df = (of_old + of_new) ** 2 / (of_old**2 / noise.df + of_new**2 / (new.n - 1))
    return Comparison(
        gain=gain, error=math.sqrt(of_old + of_new), df=df, old_variance=pooled, new_variance=own
    )


def idea_share(index: int) -> float:
    """The share of alpha for candidate number `index` (from 1) of a stretch: `m / ((m + i - 1) (m + i))`.

    Alpha-spending over an unknown number of ideas: the shares telescope to 1, so that by Bonferroni the
    chance of any false keep in a stretch is at most alpha, whatever depends on what (Tian and Ramdas,
    Online control of the familywise error rate, Statistical Methods in Medical Research 30, 2021). A stretch
    ends with a keep, which earns alpha anew, as in alpha-investing (Foster and Stine, JRSS B 70, 2008;
    Javanmard and Montanari, Annals of Statistics 46, 2018): false keeps are expected to be at most alpha
    times (keeps + 1), and a study of nothing but noise keeps anything with a chance of at most alpha.
    """
    return SCALE / ((SCALE + index - 1) * (SCALE + index))


def look_share(runs: int, most: int) -> float:
    """The share of an idea's alpha for the look at it after `runs` of at most `most` runs.

    The shares add up to 1 (Bonferroni over the looks), so the run that made it a contender may count: what
    is discarded on the way can only lower the chance of a keep. Nothing is kept on one run, unless the rule
    allows no more: only a second one shows how much the contender itself scatters.
    """
    if most == 1:
        return 1.0
    return 0.0 if runs == 1 else 1 / (most - 1)


def chance_of_keep(comparison: Comparison, old: Group, new: Group, most: int, alpha: float) -> float:
    """The chance that the contender is kept after `most` runs of it, given those so far.

    Predictive power with a flat prior (Spiegelhalter, Freedman and Blackburn, Controlled Clinical Trials 7,
    1986; Lan, Simon and Halperin's stochastic curtailment, Sequential Analysis 1, 1982). The final gain has
    mean `gain` and variance `new_variance (1/n - 1/most)`, plus the same for the other group, which is
    brought up to as many runs. `alpha` is for the last look. Futility is never binding for the error rate.
    """
    others = max(old.n, most)
    df = comparison.df + (most - new.n) + (others - old.n)
    error = math.sqrt(comparison.old_variance / others + comparison.new_variance / most)
    to_come = comparison.new_variance * (1 / new.n - 1 / most)
    to_come += comparison.old_variance * (1 / old.n - 1 / others)
    short = t_critical(alpha, df) * error - comparison.gain
    if to_come <= 0.0:
        return float(short <= 0.0)
    return t_tail(short / math.sqrt(to_come), comparison.df)


def lead_over_parent(study: Study, experiment: Experiment) -> Comparison | None:
    """An experiment's group against its parent's; None where one has no value or the noise is unknown."""
    parent = study.group_at(experiment.parent, experiment.tier, experiment.budget)
    group = study.group_of(experiment)
    sigma = noise(study, experiment.tier, experiment.budget)
    if parent is None or not parent.n or not group.n or sigma is None or parent.tree == group.tree:
        return None
    return compare(study.objective, parent, group, sigma)


def ignores_seed(study: Study, tier: str) -> bool:
    """Whether runs of the baseline with different seeds read the same, and that is not as it should be.

    Such a script has no less chance in it: each change is another draw, and no number of runs tells a lucky
    one from a good one.
    """
    base = study.baseline_group(tier)
    if study.rule.exact or base is None or base.n < 2 or min(base.values) != max(base.values):
        return False
    return len({run.seed for run in _counted(study, base)}) > 1


SEED_ADVICE = (
    "the runs of the baseline read the same with different seeds, so the script ignores its seed: any change "
    "is another draw of chance, and no gain will be proven. Have it use ARF_SEED (a seed in a file that is "
    "not editable is left as it is); or set noise.exact if nothing in it is random"
)
"""What to tell people of a script that `ignores_seed`."""


def _counted(study: Study, group: Group) -> list[Experiment]:
    """The runs that a group's values are of."""
    runs = (study.experiments[number] for number in group.experiments)
    return [run for run in runs if run.value is not None]
