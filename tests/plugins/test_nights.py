"""Whole nights on the virtual clock, with agents whose service fails as real ones do."""

from __future__ import annotations

import asyncio

import pytest

from arf.config.schema import Budget
from arf.errors import AgentError
from arf.interfaces import Agent, Brief
from arf.plugins.registry import Plugins
from arf.types import Answer, Ask, Draft
from arf_plugins.backend_sim import ObjectiveOptions, SimOptions, SimTier
from arf_plugins.backend_sim.simulate import Simulated, Simulation, simulate


class Flaky(Agent):
    """Has endless ideas, but for the first `down_s` of every hour, in which its service is overloaded."""

    def __init__(self, down_s: float, refusals: int = 0) -> None:
        super().__init__()
        self.down_s = down_s
        self.refusals = refusals
        self.ideas = 0
        self.complaints: set[str] = set()

    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(30.0)
        self.complaints.add(brief.complaint)
        if now % 3600 < self.down_s:
            raise AgentError("529: overloaded", retry_after_s=60.0)
        if self.refusals:
            self.refusals -= 1
            return Answer(note="I would rather not")
        self.ideas += ask.n
        levels = range(self.ideas - ask.n, self.ideas)
        return Answer(ideas=tuple(Draft(title=f"X1 {n}", constants={"X1": 0.3 + n / 1e4}) for n in levels))


def night(agent: Agent, plugins: Plugins, hours: float) -> Simulated:
    options = SimOptions(objective=ObjectiveOptions(name="hartmann6"), tiers={"gpu": SimTier(slots=16)})
    budget = Budget(max_time=hours * 3600)
    return simulate(Simulation(options=options, budget=budget, strategy="greedy"), plugins, agent=agent)


def test_an_outage_of_ten_minutes_in_every_hour_costs_little(arf_plugins: Plugins) -> None:
    done = night(Flaky(down_s=600), arf_plugins, hours=8)
    assert done.utilisation >= 0.9
    assert done.experiments > 8 * 192 * 0.85


def test_a_service_that_is_down_for_hours_does_not_end_the_night(arf_plugins: Plugins) -> None:
    agent = Flaky(down_s=3000)
    done = night(agent, arf_plugins, hours=4)
    assert agent.ideas
    assert done.summary["reason"] == "max_time"


def test_refusals_do_not_end_a_night_and_the_agent_is_told(arf_plugins: Plugins) -> None:
    agent = Flaky(down_s=0, refusals=20)
    done = night(agent, arf_plugins, hours=4)
    assert done.summary["reason"] == "max_time"
    assert agent.ideas
    assert agent.complaints == {"", "I would rather not"}


def test_an_agent_without_a_usable_answer_ends_a_study_without_a_time_budget(
    arf_plugins: Plugins,
) -> None:
    options = SimOptions(objective=ObjectiveOptions(name="hartmann6"))
    simulation = Simulation(options=options, budget=Budget(max_experiments=100))
    done = simulate(simulation, arf_plugins, agent=Flaky(down_s=0, refusals=10**6))
    assert "I would rather not" in done.summary["reason"]


def test_an_agent_that_no_wait_heals_ends_the_study_with_its_own_reason(arf_plugins: Plugins) -> None:
    class Broke(Flaky):
        async def answer(self, ask: Ask, brief: Brief) -> Answer:
            raise AgentError("402: no credit")

    with pytest.raises(AgentError, match="no credit"):
        night(Broke(0), arf_plugins, hours=1)
