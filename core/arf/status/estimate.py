"""What a study will probably take, said before its first job: experiments, time, slot hours, dollars."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import asdict, evolve, field, frozen

from arf.types import Role, Usage

if TYPE_CHECKING:
    from arf.config.schema import Budget
    from arf.interfaces import Agent, Brief
    from arf.study import Study
    from arf.types import Tier

log = logging.getLogger(__name__)

HOUR_S = 3600.0
UNLIMITED = "nothing limits what the study may cost: set --max-usd, or another budget such as --max-time 8h"


@frozen(kw_only=True)
class Estimate:
    """What is still to come, with all slots in use to the end."""

    run_s: float
    """Seconds of one run: as runs have taken so far, or as the user expects."""
    is_measured: bool
    is_rest: bool
    """Whether it is of a study that goes on, and so of what is left."""
    slots: int
    usd_per_hour: float
    """Dollars for machines while all slots are in use."""
    ends_by: str = ""
    """The budget that is used up first; empty if nothing limits the study."""
    seconds: float = math.inf
    experiments: int | None = None
    """None without a limit; so are those below."""
    slot_hours: float | None = None
    usd: float | None = None
    """Dollars for machines."""
    usd_by_tier: Mapping[str, float] = field(factory=dict)
    """Tiers that cost nothing are left out."""
    asks: int | None = None
    """How often the agent is asked, about."""
    agent: Usage | None = None
    """What the asks cost together (an hour of them, without a limit); None if that is not known."""
    claim_share: float = 0.0
    """The share of it, at most, that is kept for the claim at the end."""
    warnings: tuple[str, ...] = ()


def cost_of_ask(agent: Agent, name: str, brief: Brief) -> Usage | None:
    """What an agent says that one ask of it usually costs; None if it cannot say, or not what can be used."""
    try:
        told = agent.estimate(brief)
        if told is not None and not all(0 <= value < math.inf for value in asdict(told).values()):
            raise ValueError(f"no cost: {told}")
    except Exception as error:  # other people's code, and no more than an estimate
        log.warning("agent %s cannot tell what it costs: %s", name, error)
        return None
    return told


def usual_cost(study: Study, agent: Agent, name: str, brief: Brief) -> Usage | None:
    """What an ask has cost on average, or what the agent says that one usually does; None if unknown."""
    closed, usage = study.closed_asks, study.usage
    if not closed or usage == Usage():
        return cost_of_ask(agent, name, brief)
    return Usage(
        input_tokens=usage.input_tokens // closed,
        cached_tokens=usage.cached_tokens // closed,
        output_tokens=usage.output_tokens // closed,
        usd=usage.usd / closed,
    )


def estimate(
    study: Study,
    budget: Budget,
    left: Mapping[str, float],
    expected_s: float,
    ask: Usage | None,
) -> Estimate:
    """What is still to come of a study, by what is `left` of its budgets (as `Brief.budget_left`).

    `expected_s` is how long the user says that one run takes; runs that have ended well tell better. `ask` is
    what one ask of the agent usually costs. That slots are all alike and never idle is assumed, so that the
    time is at its shortest where experiments are limited and the money at its most where time is.
    """
    measured = _typical_s(study)
    run_s = measured or expected_s
    slots = sum(tier.slots for tier in study.tiers)
    usd_an_hour = sum(tier.slots * tier.usd_per_hour for tier in study.tiers)
    asks_an_hour = _asks(slots, HOUR_S / run_s * slots)
    agent_usd_an_hour = ask.usd * asks_an_hour if ask else 0.0
    tokens_an_hour = (ask.input_tokens + ask.output_tokens) * asks_an_hour if ask else 0.0
    lasts = {
        "max_experiments": _at(left, "experiments", slots / run_s, whole_run_s=run_s),
        "max_time": left.get("seconds", math.inf),
        "max_slot_hours": _at(left, "slot_hours", slots / HOUR_S),
        "max_usd": _at(left, "usd", (usd_an_hour + agent_usd_an_hour) / HOUR_S),
        "max_tokens": _at(left, "tokens", tokens_an_hour / HOUR_S),
    }
    ends_by = min(lasts, key=lambda name: lasts[name])
    seconds = lasts[ends_by]
    told = Estimate(
        run_s=run_s,
        is_measured=measured is not None,
        is_rest=bool(study.experiments),
        slots=slots,
        usd_per_hour=usd_an_hour,
    )
    if math.isinf(seconds):
        return evolve(
            told,
            agent=None if ask is None else _times(ask, math.ceil(asks_an_hour)),
            warnings=(UNLIMITED,) if usd_an_hour or ask != Usage() else (),
        )
    experiments = int(min(left.get("experiments", math.inf), seconds / run_s * slots + 1e-9))
    hours = min(seconds / HOUR_S, experiments * run_s / slots / HOUR_S)
    asks = math.ceil(_asks(slots, max(0, experiments - _overhead(study))))
    return evolve(
        told,
        ends_by=ends_by,
        seconds=seconds,
        experiments=experiments,
        slot_hours=hours * slots,
        usd=hours * usd_an_hour,
        usd_by_tier={t.name: hours * t.slots * t.usd_per_hour for t in study.tiers if t.usd_per_hour},
        asks=asks,
        agent=None if ask is None else _times(ask, asks),
        warnings=tuple(_warnings(study, budget, left, run_s, ask)),
    )


def lines(told: Estimate, agent: str) -> list[str]:
    """The estimate for people, then its warnings. `agent` is the agent's name."""
    what = "estimate of what is left" if told.is_rest else "estimate"
    how = "measured" if told.is_measured else "limits.budget_s"
    warnings = [f"warning: {warning}" for warning in told.warnings]
    pace = f"{_duration(told.run_s)} a run ({how})"
    if told.experiments is None:
        rate = told.slots * HOUR_S / told.run_s
        parts = [f"{what}: at {pace}, {rate:,.0f} experiments an hour"]
        if told.usd_per_hour:
            parts.append(f"${told.usd_per_hour:,.2f} an hour for machines")
        if told.agent is None:
            parts.append(f"the cost of {agent} is not known")
        elif told.agent != Usage():
            parts.append(f"about {_cost(told.agent)} an hour for {agent}")
        parts.append("no budget ends the study, `arf stop` does")
        return ["; ".join(parts), *warnings]
    if not told.experiments:
        return [f"{what}: no experiment; {told.ends_by} is used up", *warnings]
    parts = [
        f"{what}: about {told.experiments:,} experiments in {_duration(told.seconds)}, at {pace}",
        f"{told.slot_hours:.3g} slot hours",
    ]
    if told.usd:
        by_tier = ", ".join(f"{name} ${usd:,.2f}" for name, usd in told.usd_by_tier.items())
        parts.append(
            f"${told.usd:,.2f} for machines" + (f" ({by_tier})" if len(told.usd_by_tier) > 1 else "")
        )
    asks = f"{told.asks:,} ask{'s' * (told.asks != 1)} of {agent}"
    if told.asks and told.agent is None:
        parts.append(f"the cost of about {asks} is not known")
    elif told.asks and told.agent is not None and told.agent != Usage():
        parts.append(f"about {_cost(told.agent)} for {asks}")
    if told.claim_share:
        parts.append(f"up to {100 * told.claim_share:.0f} % of it for the claim at the end")
    parts.append(f"{told.ends_by} ends it")
    return ["; ".join(parts), *warnings]


def to_json(told: Estimate) -> dict[str, Any]:
    return {**asdict(told), "seconds": None if math.isinf(told.seconds) else told.seconds}


def _typical_s(study: Study) -> float | None:
    """Slot seconds of the experiments that have ended, each; None before there is one."""
    ended = len(study.experiments) - study.running_count
    seconds = sum(study.slot_s.values())
    return seconds / ended if ended and seconds > 0 else None


def _at(left: Mapping[str, float], name: str, rate: float, *, whole_run_s: float = 0.0) -> float:
    """How many seconds a budget lasts at a rate a second; of whole runs, the last one is run to its end."""
    if name not in left or rate <= 0:
        return math.inf
    seconds = left[name] / rate
    return math.ceil(seconds / whole_run_s - 1e-9) * whole_run_s if whole_run_s else seconds


def _asks(slots: int, experiments: float) -> float:
    """An ask fills the slots once, and some ideas are run again."""
    return experiments / max(2, slots)


def _overhead(study: Study) -> int:
    """Runs of the baseline that are still to come: they need no idea."""
    started = len(study.by_role(Role.BASELINE))
    return max(0, study.rule.replicates * len(study.tiers) - started)


def _times(usage: Usage, n: int) -> Usage:
    return Usage(
        input_tokens=usage.input_tokens * n,
        cached_tokens=usage.cached_tokens * n,
        output_tokens=usage.output_tokens * n,
        usd=usage.usd * n,
    )


def _cost(usage: Usage) -> str:
    """Dollars; tokens where there is no price."""
    return f"${usage.usd:,.2f}" if usage.usd else f"{usage.input_tokens + usage.output_tokens:,} tokens"


def _warnings(
    study: Study, budget: Budget, left: Mapping[str, float], run_s: float, ask: Usage | None
) -> list[str]:
    """Which budgets the runs of the baseline or one ask use up, so that nothing could be found."""
    if study.experiments:
        return []
    runs = study.rule.replicates
    ask = ask or Usage()
    tokens = ask.input_tokens + ask.output_tokens
    needed = {
        "experiments": ("max_experiments", runs * len(study.tiers), f"{runs * len(study.tiers)} runs"),
        "seconds": ("max_time", _baseline_s(study.tiers, runs, run_s), ""),
        "slot_hours": ("max_slot_hours", runs * len(study.tiers) * run_s / HOUR_S, ""),
        "usd": ("max_usd", sum(runs * run_s / HOUR_S * t.usd_per_hour for t in study.tiers), ""),
    }
    found = []
    if (budget.max_experiments or math.inf) <= runs:
        del needed["experiments"]  # the configuration itself is warned of
    for name, (key, need, shown) in needed.items():
        if name in left and left[name] <= need > 0:
            shown = shown or {"seconds": _duration(need), "usd": f"${need:,.2f}"}.get(name, f"{need:.3g}")
            given = getattr(budget, key)
            found.append(
                f"budget.{key} ({given:g}) leaves nothing for ideas: the baseline alone takes about {shown}; "
                "raise it, or lower noise.replicates"
            )
        elif name == "usd" and name in left and left[name] < need + ask.usd:
            found.append(
                f"budget.max_usd ({budget.max_usd:g}) pays for no ask of the agent: the baseline takes about "
                f"${need:,.2f}, and an ask ${ask.usd:,.2f}; raise it"
            )
    if left.get("tokens", math.inf) < tokens:
        found.append(
            f"budget.max_tokens ({budget.max_tokens:,}) pays for no ask of the agent: one takes about "
            f"{tokens:,}; raise it"
        )
    return found


def _baseline_s(tiers: Sequence[Tier], runs: int, run_s: float) -> float:
    return max((math.ceil(runs / tier.slots) * run_s for tier in tiers), default=0.0)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
