"""One simulated study from beginning to end: arf's engine, judge, store and strategies on a virtual clock."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from attrs import define, evolve, field, frozen

from arf.hooks import hookimpl
from arf.interfaces import Agent, Strategy
from arf.sdk.configuration import Budget, Choice, Config, Limits, Naming, Noise
from arf.sdk.engine import Finished, Plugins, run_in_memory
from arf.study import Study
from arf.types import Experiment, Scalar, Verdict, WorkspaceSettings
from arf_plugins.backend_sim import SimOptions
from arf_plugins.backend_sim.backend import SimBackend
from arf_plugins.backend_sim.clock import loop_now, run_virtual
from arf_plugins.backend_sim.workspace import MemoryLogs, SimWorkspace
from arf_plugins.objectives.choose import make_objective
from arf_plugins.objectives.objective import SimulatedObjective

USELESS = 0.05
"""A change of a patch is worth nothing if without it the true value is worse by less than so many sigmas."""
LOOKS = 10
"""How often the engine looks at the log of a run, which is empty until its end."""


@frozen(kw_only=True)
class Simulation:
    """What is simulated."""

    options: SimOptions
    budget: Budget
    noise: Noise = field(factory=Noise)
    limits: Limits = field(factory=Limits)
    seed: int = 0
    strategy: str = "greedy"
    agent: str = "offline"
    accept: str = "evidence"
    claim: str = "interleaved"


@frozen(kw_only=True)
class Moment:
    """What the study had at hand when it kept something."""

    experiments: int
    """Experiments that had ended."""
    slot_hours: float
    wall_s: float
    usd: float
    truth: float
    """The true value of what was kept, on the first tier."""
    truth_before: float
    """The true value of what it replaced."""
    settings: Mapping[str, Scalar]
    by_claim: bool
    """Whether a claim has pruned it: it need be no better than what it replaced, only no worse."""


@frozen(kw_only=True)
class Claim:
    """A gain with its interval, beside the truth."""

    low: float
    high: float
    """The 95 % interval of the gain over the unchanged script, in units of the objective."""
    true_gain: float
    """Of the patch that it is about."""
    is_made: bool
    """Whether it says that a gain is proven."""

    @property
    def is_false(self) -> bool:
        """Whether it says so, and there is none."""
        return self.is_made and self.true_gain <= 0.0

    @property
    def covers(self) -> bool:
        """Whether the true gain is in the interval."""
        return self.low <= self.true_gain <= self.high


@frozen(kw_only=True)
class Simulated:
    """How a simulated study went."""

    summary: Mapping[str, Any]
    moments: tuple[Moment, ...]
    """The baseline, and then every change of the incumbent."""
    experiments: int
    slot_hours: float
    wall_s: float
    usd: float
    utilisation: float
    """Slot time inside of experiments over slot time at hand."""
    false_keeps: int
    """Keeps of something that is not truly better than what it replaced."""
    changes: int
    """Constants of the final patch: the one that was claimed, else the incumbent."""
    useless_changes: int
    """Those of them without which it is truly no worse, by `USELESS` of the noise or more."""
    claim: Claim | None
    """What was said at the end; None if nothing was."""
    best_reading: float | None
    """The luckiest reading of all: what `keep if lower` would believe."""
    best_reading_truth: float | None
    """The true value of the setting that gave it."""
    cpu_s: float
    study: Study = field(eq=False, repr=False)


@define
class _Observer:
    """Notes the state of the study at every keep, and the luckiest reading."""

    workspace: SimWorkspace
    objective: SimulatedObjective
    prices: Mapping[str, float]
    tier: str
    began: datetime
    moments: list[Moment] = field(factory=list)
    luckiest: Experiment | None = None

    @hookimpl
    def arf_experiment_changed(self, study: Study, experiment: Experiment) -> None:
        if experiment.value is not None and (
            self.luckiest is None or study.objective.gain(self.luckiest.value or 0.0, experiment.value) > 0
        ):
            self.luckiest = experiment
        if experiment.verdict is Verdict.KEEP:
            self._note(study, experiment)
        if self.moments:  # a rule may also go back to what it had, or take something that was judged before
            number = study.incumbent_experiment
            assert number is not None, "a baseline was kept"
            self._note(study, study.experiments[number])

    def _note(self, study: Study, run: Experiment) -> None:
        if not self.moments or self.moments[-1].settings != self.workspace.values(run.commit):
            self.moments.append(self._moment(study, run.commit, run.round.startswith("claim/")))

    def truth(self, commit: str) -> float:
        return self.objective.truth(self.workspace.values(commit), self.tier)

    def _moment(self, study: Study, commit: str, by_claim: bool) -> Moment:
        now = loop_now()
        slot_s = dict(study.slot_s)
        for number in study.running:
            running = study.experiments[number]
            if running.started_at is not None:
                held = (now - running.started_at).total_seconds()
                slot_s[running.tier] = slot_s.get(running.tier, 0.0) + held
        base = self.workspace.base_commit()
        truth = self.truth(commit)
        return Moment(
            experiments=len(study.experiments) - study.running_count,
            slot_hours=sum(slot_s.values()) / 3600,
            wall_s=(now - self.began).total_seconds(),
            usd=study.usage.usd + sum(self.prices[tier] * s / 3600 for tier, s in slot_s.items()),
            truth=truth,
            truth_before=self.moments[-1].truth if self.moments else self.truth(base),
            settings=dict(self.workspace.values(commit)),
            by_claim=by_claim,
        )


def simulate(
    simulation: Simulation,
    plugins: Plugins,
    *,
    strategy: Strategy | None = None,
    agent: Agent | None = None,
) -> Simulated:
    """Run a simulated study to its end. `strategy` and `agent` take the place of the named ones.

    Raises ArfError for what cannot be simulated. Deterministic for a seed.
    """
    strategy = strategy or plugins.make("strategy", simulation.strategy)
    agent = agent or plugins.make("agent", simulation.agent)
    with tempfile.TemporaryDirectory(prefix="arf-sim-") as folder:
        return run_virtual(simulate_here(simulation, plugins, strategy, agent, Path(folder)))


async def simulate_here(
    simulation: Simulation, plugins: Plugins, strategy: Strategy, agent: Agent, home: Path
) -> Simulated:
    """The same on the running loop's clock, virtual or real. `home` is an empty folder."""
    started = time.process_time()
    (home / "agent").mkdir()
    options = evolve(simulation.options, seed=simulation.seed)
    objective = make_objective(options.objective, options.tiers, options.seed)
    workspace = SimWorkspace(objective)
    logs = MemoryLogs()
    backend = SimBackend(
        options,
        home,
        objective=objective,
        settings=lambda job: workspace.values(job.env["ARF_COMMIT"]),
        write=logs.write,
    )
    tiers = await backend.tiers()
    config = Config(
        workspace=WorkspaceSettings(command="simulated"),
        objective=objective.objective,
        limits=simulation.limits,
        budget=simulation.budget,
        noise=simulation.noise,
        study=Naming(seed=simulation.seed),
        strategy=Choice(name=simulation.strategy),
        agent=Choice(name=simulation.agent),
        backend=Choice(name="sim"),
        accept=Choice(name=simulation.accept),
        claim=Choice(name=simulation.claim),
    )
    prices = {tier.name: tier.usd_per_hour for tier in tiers}
    observer = _Observer(workspace, objective, prices, tiers[0].name, loop_now())
    finished = await run_in_memory(
        config,
        home,
        workspace=workspace,
        strategy=strategy,
        agent=agent,
        backend=backend,
        parser=plugins.make("parser", "summary"),
        accept=plugins.make("accept", simulation.accept),
        claim=plugins.make("claim", simulation.claim),
        observer=observer,
        now=loop_now,
        tail=logs.tail,
        watch_interval_s=options.run_s / LOOKS,
    )
    return _told(finished, observer, time.process_time() - started)


def _told(finished: Finished, observer: _Observer, cpu_s: float) -> Simulated:
    study, wall_s = finished.study, finished.elapsed_s
    slot_s = sum(study.slot_s.values())
    slots = sum(tier.slots for tier in study.tiers)
    direction = study.objective
    gains = [(m, direction.gain(m.truth_before, m.truth)) for m in observer.moments[1:]]
    false = [m for m, gain in gains if gain < 0 or (gain == 0 and not m.by_claim)]
    lucky = observer.luckiest
    useless = _useless(observer, _final_settings(finished, observer))
    return Simulated(
        summary=finished.summary,
        moments=tuple(observer.moments),
        experiments=len(study.experiments),
        slot_hours=slot_s / 3600,
        wall_s=wall_s,
        usd=study.usage.usd
        + sum(observer.prices[tier] * seconds / 3600 for tier, seconds in study.slot_s.items()),
        utilisation=slot_s / (slots * wall_s) if wall_s else 0.0,
        false_keeps=len(false),
        changes=len(useless),
        useless_changes=sum(useless.values()),
        claim=_claim(finished, observer),
        best_reading=lucky.value if lucky else None,
        best_reading_truth=observer.truth(lucky.commit) if lucky else None,
        cpu_s=cpu_s,
        study=study,
    )


def _useless(observer: _Observer, final: Mapping[str, Scalar]) -> dict[str, bool]:
    """By constant that a patch changes: whether taking it back makes nothing worse."""
    objective, tier = observer.objective, observer.tier
    least = USELESS * objective.sigma(objective.base, tier)
    truth = objective.truth(final, tier)
    return {
        name: objective.objective.gain(objective.truth({**final, name: base}, tier), truth) < least
        for name, base in objective.base.items()
        if final[name] != base  # without it a crash, which is NaN, is worse
    }


def _final_settings(finished: Finished, observer: _Observer) -> Mapping[str, Scalar]:
    """Of the patch that was claimed, else of the incumbent."""
    final = finished.summary["final"]
    commit = (
        finished.study.experiments[final["experiment"]].commit if final else finished.study.incumbent_commit
    )
    return observer.workspace.values(commit)


def _claim(finished: Finished, observer: _Observer) -> Claim | None:
    final = finished.summary["final"]
    if final is None or final["low"] is None or final["high"] is None:
        return None
    objective, tier = observer.objective, observer.tier
    truth = objective.truth(_final_settings(finished, observer), tier)
    return Claim(
        low=final["low"],
        high=final["high"],
        true_gain=objective.objective.gain(objective.truth(objective.base, tier), truth),
        is_made=final["proven"],
    )
