"""A study in memory: arf's engine, judge and store over a workspace and a backend that you bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from arf.engine.engine import Parts
from arf.engine.watch import LogTail
from arf.launch import assemble
from arf.plugins.registry import Plugins
from arf.store.database import Store
from arf.study import Study

if TYPE_CHECKING:
    from arf.config.schema import Config
    from arf.interfaces import (
        AcceptRule,
        Agent,
        Backend,
        ClaimRule,
        MetricParser,
        Strategy,
        Workspace,
    )

__all__ = ["Finished", "LogTail", "Plugins", "run_in_memory"]


@frozen(kw_only=True)
class Finished:
    """How a study in memory ended."""

    study: Study
    summary: Mapping[str, Any]
    """What `arf status --json` prints."""
    elapsed_s: float
    """On the clock that was given."""


async def run_in_memory(
    config: Config,
    home: Path,
    *,
    workspace: Workspace,
    strategy: Strategy,
    agent: Agent,
    backend: Backend,
    parser: MetricParser,
    accept: AcceptRule,
    claim: ClaimRule,
    observer: object,
    now: Callable[[], datetime],
    tail: Callable[[Path], LogTail],
    watch_interval_s: float,
) -> Finished:
    """Run a study of `config` to its end; nothing of it is written but what the parts write in `home`.

    `observer` is an object with event hooks. `now` and the event loop must tell the same time, real or
    virtual. `tail` opens the log of a job. Raises the ArfError that ended the study.
    """
    base = workspace.base_commit()
    study = Study(
        name="in-memory",
        base=base,
        base_tree=workspace.tree_of(base),
        objective=config.objective,
        seed=config.study.seed,
        rule=config.noise,
        tiers=await backend.tiers(),
        max_experiments=config.budget.max_experiments,
    )
    store = Store.in_memory(home, study, {"workspace": ""})
    observers = Plugins()
    observers.register(observer, "observer")
    engine = assemble(
        study=study,
        store=store,
        workspace=workspace,
        config=config,
        parts=Parts(
            strategy=strategy,
            strategy_name=config.strategy.name,
            accept=accept,
            claim=claim,
            agent=agent,
            agent_name=config.agent.name,
            events=observers.events,
        ),
        backend=backend,
        parser=parser,
        job_env={},
        now=now,
        tail=tail,
        watch_interval_s=watch_interval_s,
    )
    try:
        summary = await engine.run()
    finally:
        store.close()
    return Finished(study=study, summary=summary, elapsed_s=engine.elapsed_s)
