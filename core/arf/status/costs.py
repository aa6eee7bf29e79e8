"""What a study has cost: tokens and dollars by the agent and by machines, an idea, and a kept gain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from arf.engine.monitor import Monitor
from arf.status import held_resources
from arf.types import Role

if TYPE_CHECKING:
    from arf.store.database import Store
    from arf.study import Study
    from arf.types import Experiment, Idea

_KEEPS = "keeps"


@frozen(kw_only=True)
class Cost:
    """What something has cost."""

    slot_hours: float = 0.0
    machines_usd: float = 0.0
    agent_usd: float = 0.0
    tokens: int = 0

    @property
    def usd(self) -> float:
        return self.machines_usd + self.agent_usd

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            slot_hours=self.slot_hours - other.slot_hours,
            machines_usd=self.machines_usd - other.machines_usd,
            agent_usd=self.agent_usd - other.agent_usd,
            tokens=self.tokens - other.tokens,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "slot_hours": self.slot_hours,
            "machines_usd": self.machines_usd,
            "agent_usd": self.agent_usd,
            "usd": self.usd,
            "tokens": self.tokens,
        }


def spent(store: Store, study: Study, totals: Mapping[str, float]) -> Cost:
    """All of it so far. Machines cost what their runs do, or what they do used or not, where that is told."""
    by_tier = {tier.name: totals.get(f"slot_s/{tier.name}", 0.0) / 3600 for tier in study.tiers}
    runs_usd = sum(tier.usd_per_hour * by_tier[tier.name] for tier in study.tiers)
    return Cost(
        slot_hours=sum(by_tier.values()),
        machines_usd=max(runs_usd, float(held_resources.told(store)["usd"])),
        agent_usd=totals.get("usd", 0.0),
        tokens=int(totals.get("tokens", 0)),
    )


def note_keep(store: Store, study: Study, experiment: Experiment) -> None:
    """Record what the study had cost when an experiment was kept, in the transaction that is open."""
    cost = spent(store, study, store.totals())
    store.set_meta(_KEEPS, [*store.meta(_KEEPS, []), {"experiment": experiment.id, **cost.to_json()}])


def account(store: Store, study: Study, totals: Mapping[str, float]) -> dict[str, Any]:
    """What `arf status --json` tells of money; costs no more in a long study than in a short one."""
    cost = spent(store, study, totals)
    ideas = store.last_idea()
    keeps, before = [], Cost()
    for kept in store.meta(_KEEPS, []):
        then = Cost(**{name: kept[name] for name in ("slot_hours", "machines_usd", "agent_usd", "tokens")})
        keeps.append({"experiment": kept["experiment"], **(then - before).to_json()})
        before = then
    return {
        **cost.to_json(),
        "by_tier": {
            tier.name: {
                "slot_hours": totals.get(f"slot_s/{tier.name}", 0.0) / 3600,
                "usd": tier.usd_per_hour * totals.get(f"slot_s/{tier.name}", 0.0) / 3600,
            }
            for tier in study.tiers
        },
        "ideas": ideas,
        "an_idea": {"usd": cost.agent_usd / ideas, "tokens": cost.tokens / ideas} if ideas else None,
        "keeps": keeps,
        "since_keep": (cost - before).to_json(),
        "a_keep": {"usd": cost.usd / len(keeps), "slot_hours": cost.slot_hours / len(keeps)}
        if keeps
        else None,
    }


def of_experiment(store: Store, study: Study, experiment: Experiment) -> Cost:
    """What one experiment cost, with its share of the asks that gave its ideas."""
    price = {tier.name: tier.usd_per_hour for tier in study.tiers}
    hours = experiment.slot_s / 3600
    cost = Cost(slot_hours=hours, machines_usd=hours * price.get(experiment.tier, 0.0))
    for number in experiment.ideas:
        idea = store.idea(number)
        if idea is not None:
            share = of_idea(store, idea)
            cost = evolve(cost, agent_usd=cost.agent_usd + share.agent_usd, tokens=cost.tokens + share.tokens)
    return cost


def of_idea(store: Store, idea: Idea) -> Cost:
    """An idea's share of what its ask cost; nothing if nobody was asked for it."""
    if idea.ask is None:
        return Cost()
    usd, tokens, ideas = store.ask_cost(idea.ask)
    return Cost(agent_usd=usd / max(1, ideas), tokens=tokens // max(1, ideas))


class CostMonitor(Monitor):
    """Records what a study had cost at each of its keeps."""

    def __init__(self, store: Store, study: Study) -> None:
        self._store = store
        self._study = study

    def kept(self, experiment: Experiment) -> None:
        if experiment.role is not Role.BASELINE:
            note_keep(self._store, self._study, experiment)
