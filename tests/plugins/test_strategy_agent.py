"""The strategy `agent`, with agents that plan and with those that only have ideas; the agent `external`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arf.config.schema import load
from arf.errors import AgentError
from arf.interfaces import Brief
from arf.launch import create, study_directory
from arf.plugins.registry import Plugins
from arf.store.database import Store
from arf.study import Study
from arf.submissions.remote import RemoteQueue
from arf.testing.suites import StrategySuite
from arf.types import Ask, AskKind, Draft, Idea, Order, Plan, Role, Submission, SubmissionState, Tier
from arf_plugins.agent_external import Options as ExternalOptions
from arf_plugins.agent_external.agent import External
from arf_plugins.strategy_agent import Options
from arf_plugins.strategy_agent.strategy import AgentPlans


class TestConformance(StrategySuite):
    def make(self) -> AgentPlans:
        return AgentPlans(Options())


def study(slots: int = 4) -> Study:
    return Study(name="s", base="b" * 40, base_tree="t" * 40, tiers=[Tier(name="gpu", slots=slots)])


def asks(found: Any) -> list[Ask]:
    return [item for item in found if isinstance(item, Ask)]


def order(number: int, runs: int) -> Order:
    return Order(id=number, key=f"k{number}", plan=Plan(parent="b" * 40), runs=runs, title="x")


def test_it_asks_ahead_while_too_little_waits() -> None:
    here = study()
    (ask,) = asks(AgentPlans().decide(here, {"gpu": 4}))
    assert (ask.kind, ask.n, ask.base) == (AskKind.EXPERIMENTS, 4, here.base)
    here.put_order(order(1, 2))
    assert asks(AgentPlans().decide(here, {"gpu": 0}))
    here.put_order(order(2, 1))
    assert not asks(AgentPlans().decide(here, {"gpu": 0}))
    (ask,) = asks(AgentPlans(Options(lookahead=2, batch=9)).decide(here, {"gpu": 0}))
    assert ask.n == 9


def test_one_ask_at_a_time_unless_more_are_wanted() -> None:
    here = study()
    here.open_ask(1, Ask(kind=AskKind.EXPERIMENTS, base=here.base))
    assert not asks(AgentPlans().decide(here, {"gpu": 4}))
    assert asks(AgentPlans(Options(asks=2)).decide(here, {"gpu": 4}))


def test_plain_ideas_are_run_on_the_incumbent() -> None:
    here = study()
    for number in (1, 2):
        here.add_idea(Idea(id=number, title="i", base=here.base, commit=f"{number}" * 40))
    plans = [item for item in AgentPlans().decide(here, {"gpu": 1}) if isinstance(item, Plan)]
    assert [(plan.ideas, plan.role, plan.parent) for plan in plans] == [((1,), Role.CANDIDATE, here.base)]


def test_external_says_what_it_is_not_for() -> None:
    brief = Brief(study=study(), files={})
    with pytest.raises(AgentError, match="--strategy agent"):
        asyncio.run(External().answer(Ask(base="b" * 40), brief))


def test_external_ends_when_nothing_was_ordered_for_long() -> None:
    brief = Brief(study=study(), files={})
    ask = Ask(kind=AskKind.EXPERIMENTS, base="b" * 40)
    answer = asyncio.run(External(ExternalOptions(idle_limit=0.05)).answer(ask, brief))
    assert answer.exhausted


FLAGS = {"strategy.name": "agent", "backend.slots": 2, "limits.budget_s": 1, "limits.time_limit_s": 20}


def run(
    workspace: Path, flags: dict[str, object], beside: Callable[[RemoteQueue], Any] | None = None
) -> Store:
    plugins = Plugins.load(disable=["report"])

    async def main() -> None:
        config = load(
            workspace_file=workspace / "arf.yaml", flags={**FLAGS, **flags}, options_class=plugins.options
        )
        engine, lock = await create(workspace, config, plugins, "s")
        other = asyncio.ensure_future(beside(RemoteQueue(engine.directory))) if beside else None
        try:
            await engine.run()
            if other is not None:
                await other
        finally:
            lock.release()
            engine.store.close()

    asyncio.run(main())
    return Store.open(study_directory(workspace, "s"))


def test_a_whole_study_that_somebody_plans_from_outside(arf_workspace: Path) -> None:
    async def beside(mail: RemoteQueue) -> None:
        for depth in (5, 6, 7):
            draft = Draft(title=f"DEPTH {depth}", constants={"DEPTH": depth})
            (receipt,) = await mail.submit(f"depth {depth}", [Submission(draft=draft, runs=2)])
            (done,) = await mail.wait([receipt.id], 60)
            assert done.state is SubmissionState.ACCEPTED

    store = run(arf_workspace, {"agent.name": "external", "agent.idle_limit": 1.0}, beside)
    assert store.meta("state") == "finished"
    assert store.meta("end_reason") == "the agent has nothing more: nothing was ordered for 1 s"
    kept = [experiment.title for experiment in store.kept()]
    assert kept[0] == "baseline"
    assert kept[-1] == "DEPTH 6"
    assert [claim is not None and claim.best > 0 for _, claim in store.claims()] == [True]


def test_a_whole_study_with_an_agent_that_only_has_ideas(arf_workspace: Path) -> None:
    store = run(arf_workspace, {"agent.name": "offline", "budget.max_experiments": 24})
    assert store.meta("state") == "finished"
    best = store.kept()[-1]
    assert best.title != "baseline"
