"""Which tier has the last word and which ones screen, found from prices and measured speed."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from arf.errors import UsageError, nearest
from arf.study import Study
from arf.types import Experiment, ExperimentState, Tier
from arf_plugins.strategy_two_tier import Options

SHARE = 0.25
"""The share of the budget that a cheap look gets where only one tier is there."""
NO_SHORTER = 0.9
"""A short budget whose runs take more than this part of a full run is not heeded by the script."""
DIFFERENT = 0.05
"""Relative difference from which two speeds or prices count as different."""
FAILURES = 2
"""Failed runs of the unchanged script after which nothing is screened there."""
STEPS = ("num_steps", "steps", "step")
"""Metrics that tell how many steps a run trained for."""


@frozen(kw_only=True)
class Rung:
    """Where an idea is looked at: a tier, and a share of the full budget."""

    tier: str
    budget: float | None = None

    def __str__(self) -> str:
        return self.tier if self.budget is None else f"{self.budget:.0%} of the budget on {self.tier}"

    @property
    def round(self) -> str:
        """The label of its screening runs."""
        return f"screen on {self}"


@frozen(kw_only=True)
class Rungs:
    final: Rung
    screens: tuple[Rung, ...]
    """Where ideas are screened, in the order in which they are filled; empty where that makes no sense."""
    found: str
    """What was found out, in a line for people."""


def find_rungs(study: Study, options: Options) -> Rungs | None:
    """Who screens for whom; None while it takes the baseline's runs to know. Raises UsageError."""
    _check(study, options)
    found = _final(study, options)
    if found is None:
        return None
    final, why = found
    others = [tier.name for tier in study.tiers if tier is not final]
    names = [options.screen] if options.screen else others
    budget = options.share
    if not names or names == [final.name]:
        names, budget = [final.name], options.share or SHARE
    screens = [_screen(study, name, budget, final.name) for name in names]
    return Rungs(
        final=Rung(tier=final.name), screens=tuple(rung for rung in screens if rung is not None), found=why
    )


def _screen(study: Study, tier: str, budget: float | None, final: str) -> Rung | None:
    """How a tier screens; None if it cannot."""
    rung = Rung(tier=tier, budget=budget)
    if _is_of_use(study, rung):
        return rung
    full = Rung(tier=tier)
    return full if budget is not None and tier != final and _is_of_use(study, full) else None


def _check(study: Study, options: Options) -> None:
    names = [tier.name for tier in study.tiers]
    for key, name in (("screen", options.screen), ("final", options.final)):
        if name and name not in names:
            raise UsageError(f"strategy.{key}: there is no tier {name!r}", hint=nearest(name, names))
    same = options.final == options.screen or len(names) == 1
    if options.screen and same and options.share is None:
        raise UsageError(
            f"strategy.screen: {options.screen!r} is the tier that has the last word",
            hint="name another tier, or set strategy.share to screen on a shorter budget",
        )


def _final(study: Study, options: Options) -> tuple[Tier, str] | None:
    """The tier with the last word, and why; None while only the baseline can tell."""
    tiers = [tier for tier in study.tiers if tier.name != options.screen] or list(study.tiers)
    if options.final:
        return study.tier(options.final), "as strategy.final says"
    if len(tiers) == 1:
        return tiers[0], "the only tier" if len(study.tiers) == 1 else "the other tier screens"
    price = {tier.name: tier.usd_per_hour for tier in tiers}
    declared = {tier.name: tier.speed for tier in tiers}
    if top := _highest(price):
        return study.tier(top), f"the dearest, {price[top]:.4g} $/h against {_rest(price, top)} $/h"
    if top := _highest(declared):
        return study.tier(top), f"the fastest, {declared[top]:.4g} against {_rest(declared, top)}"
    if not all(_is_measured(study, tier.name) for tier in tiers):
        return None
    measured = {tier.name: speed_of(study, tier.name) for tier in tiers}
    if all(measured.values()) and (top := _highest(measured)):
        ratio = measured[top] / sorted(measured.values())[-2]
        return study.tier(top), f"the fastest, {ratio:.3g} times as fast with the baseline"
    fewest = min(tiers, key=lambda tier: tier.slots)
    return fewest, "neither dearer nor faster than others: the one with the fewest slots"


def _highest(values: dict[str, float]) -> str:
    """The name with the highest value, if it is clearly the highest."""
    first, second = sorted(values, key=lambda name: -values[name])[:2]
    return first if values[first] > (1 + DIFFERENT) * values[second] else ""


def _rest(values: dict[str, float], top: str) -> str:
    return ", ".join(f"{value:.4g}" for name, value in values.items() if name != top)


def _baselines(study: Study, tier: str) -> list[Experiment]:
    """The first runs of the unchanged script at full budget: always the same ones, once there are enough."""
    group = study.baseline_group(tier)
    numbers = group.experiments[: max(1, study.rule.replicates)] if group else []
    return [study.experiments[number] for number in numbers]


def _is_measured(study: Study, tier: str) -> bool:
    runs = _baselines(study, tier)
    return len(runs) >= max(1, study.rule.replicates) and all(
        run.state is ExperimentState.ENDED for run in runs
    )


def speed_of(study: Study, tier: str) -> float:
    """Steps (or, where no run tells its steps, runs) of the baseline in an hour of a slot; 0 if unknown.

    Where every run trains for the same time, only the steps show which hardware is faster.
    """
    runs = [run for run in _baselines(study, tier) if run.value is not None and run.slot_s > 0]
    if not runs:
        return 0.0
    return sum(3600 * (_steps(run) or 1.0) / run.slot_s for run in runs) / len(runs)


def _steps(run: Experiment) -> float:
    for name in STEPS:
        if run.metrics.get(name, 0.0) > 0:
            return run.metrics[name]
    return float(run.curve[-1][0]) if run.curve else 0.0


def _is_of_use(study: Study, rung: Rung) -> bool:
    """Whether the script works there, and is cheaper there if it is the budget that is smaller."""
    group = study.baseline_group(rung.tier, rung.budget)
    if group is None or not group.n:
        return group is None or group.running > 0 or group.failed < FAILURES
    short_s = _mean_s(study.experiments[number] for number in group.experiments[:4])
    full_s = _mean_s(_baselines(study, rung.tier))
    return rung.budget is None or not full_s or short_s <= NO_SHORTER * full_s


def _mean_s(runs: Iterable[Experiment]) -> float:
    """Mean seconds of a slot of the runs that count; 0 if there are none."""
    seconds = [run.slot_s for run in runs if run.value is not None]
    return sum(seconds) / len(seconds) if seconds else 0.0
