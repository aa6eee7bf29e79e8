"""What another slot-hour, or dollar, can be expected to bring: when to stop looking."""

from __future__ import annotations

import math

from attrs import frozen

from arf.sdk.statistics import noise
from arf.study import Study
from arf.types import Role, Verdict

WINDOW = 100
"""Candidates and probes, the latest ones, that tell how it goes at present."""
TRIES = (Role.CANDIDATE, Role.PROBE)
FEWEST = 40
"""Candidates and probes before which nothing is said."""


@frozen(kw_only=True)
class Expected:
    """Gain in units of the objective."""

    per_slot_hour: float
    """Infinite while too little has happened to say."""
    per_usd: float
    """The same; infinite also where nothing costs anything."""


UNKNOWN = Expected(per_slot_hour=math.inf, per_usd=math.inf)


def expected(study: Study) -> Expected:
    """What the latest ideas brought, and half a keep more, over what they took with their replicates.

    Keeps are rare events: with Jeffreys' prior, the rate after k of them in a time T is (k + 1/2) / T
    (Box and Tiao, Bayesian Inference in Statistical Analysis, 1973, section 1.3.4). The half keep is as
    large as the mean one of the window, else as the last one ever, else as two standard deviations of
    the noise, about the least that can be proven.
    """
    tried = sorted(number for role in TRIES for number in study.by_role(role)[-WINDOW:])
    latest = [study.experiments[number] for number in tried[-WINDOW:]]
    if len(latest) < FEWEST:
        return UNKNOWN
    ended = [run for run in latest if run.ended_at is not None]
    seconds = sum(run.slot_s for run in ended)
    runs = len(study.experiments) - latest[0].id + 1
    hours = seconds / len(ended) * runs / 3600 if ended else 0.0
    if not hours:
        return UNKNOWN
    gains = [_gain(study, run.id) for run in latest if run.verdict is Verdict.KEEP]
    gain = math.fsum(gains) + _typical(study, gains) / 2
    price = {tier.name: tier.usd_per_hour / 3600 for tier in study.tiers}
    usd = sum(price[run.tier] * run.slot_s for run in ended) / len(ended) * runs
    usd += study.usage.usd * runs / len(study.experiments)
    return Expected(per_slot_hour=gain / hours, per_usd=gain / usd if usd else math.inf)


def _gain(study: Study, number: int) -> float:
    """The gain of a kept candidate over its parent; 0 where it is not known."""
    kept = study.experiments[number]
    group, parent = study.group_of(kept), study.group_at(kept.parent, kept.tier, kept.budget)
    if parent is None or not parent.n or not group.n:
        return 0.0
    return max(0.0, study.objective.gain(parent.mean, group.mean))


def _typical(study: Study, gains: list[float]) -> float:
    if gains:
        return math.fsum(gains) / len(gains)
    if len(study.kept) > 1:
        return _gain(study, study.kept[-1])
    known = noise(study, study.tiers[0].name)
    return 2 * known.sigma if known else math.inf
