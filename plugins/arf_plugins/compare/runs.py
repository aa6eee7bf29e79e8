"""Runs a comparison's studies on the machine's cores, and keeps what each of them gave."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from attrs import asdict, frozen

from arf.errors import ArfError, UsageError
from arf.interfaces import Strategy
from arf.sdk.jobs import write_whole
from arf.types import Ask, Plan
from arf_plugins.backend_sim.simulate import Claim
from arf_plugins.compare.plan import Comparison, Run, make_part

if TYPE_CHECKING:
    from arf.sdk.engine import Plugins
    from arf.study import Study

MEASURES = ("experiments", "slot_hours", "wall_hours", "usd")
"""What a search is charged by."""


@frozen(kw_only=True)
class Point:
    """A moment at which something was kept."""

    experiments: float
    slot_hours: float
    wall_hours: float
    usd: float
    truth: float


@frozen(kw_only=True)
class Outcome:
    """What one simulated study gave."""

    arm: str
    objective: str
    seed: int
    base: float
    """The true value of the unchanged script."""
    optimum: float
    sign: int
    """1 if less is better, else -1."""
    points: tuple[Point, ...]
    """The baseline, and each keep."""
    total: Point
    """At the end; its truth is that of the incumbent."""
    utilisation: float
    keeps: int
    false_keeps: int
    changes: int
    """Constants of the final patch."""
    useless_changes: int
    """Those without which it is truly no worse."""
    claim: Claim | None
    """What the study said at its end."""
    searcher: str
    """The strategy, by its name in the file."""
    slots: int
    lucky_reading: float | None
    lucky_truth: float | None
    cpu_s: float
    reason: str

    @property
    def possible(self) -> float:
        """The gain that is possible, in units of the objective; 0 where nothing can be gained."""
        possible = self.sign * (self.base - self.optimum)
        return possible if possible > 1e-12 else 0.0

    def gain(self, truth: float) -> float:
        """A true value as a share of the possible gain; the plain gain where nothing can be gained."""
        return self.sign * (self.base - truth) / (self.possible or 1.0)

    def best_at(self, measure: str, x: float) -> float:
        """The share of the possible gain of what was kept when so much was spent."""
        gain = 0.0
        for point in self.points:
            if getattr(point, measure) > x:
                break
            gain = self.gain(point.truth)
        return gain

    def spent_for(self, measure: str, target: float) -> float:
        """What it took until something with this share of the possible gain was kept; inf if it never was."""
        for point in self.points:
            if self.gain(point.truth) >= target:
                return float(getattr(point, measure))
        return math.inf


class Waves(Strategy):
    """Another strategy that works as people and most agents do: think, start a wave, wait until all of it has
    ended, think again."""

    def __init__(self, inner: Strategy) -> None:
        super().__init__()
        self._inner = inner

    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        if study.open_asks:
            return []
        running = set(study.running)
        if running and running != set(_last_wave(study)):
            return []  # some of them have ended, or belong to an older wave
        decided = self._inner.decide(study, free)
        if not running and (asks := [item for item in decided if isinstance(item, Ask)]):
            return asks
        return [item for item in decided if isinstance(item, Plan)]


def _last_wave(study: Study) -> Iterator[int]:
    """The experiments that were accepted in the same instant as the last one."""
    newest = len(study.experiments)
    for number in range(newest, 0, -1):
        if study.experiments[number].accepted_at != study.experiments[newest].accepted_at:
            return
        yield number


def run_one(run: Run) -> Outcome:
    """Simulate one study. Raises ArfError with what cannot be."""
    from arf_plugins.backend_sim.simulate import Simulation, simulate
    from arf_plugins.backend_sim.thinking import ThinkingAgent
    from arf_plugins.objectives.choose import make_objective

    plugins = _plugins()
    arm = run.arm
    strategy = make_part(plugins, "strategy", arm.searcher.strategy, arm.searcher.options)
    agent = make_part(plugins, "agent", arm.thinker.agent, arm.thinker.options)
    if arm.thinker.think_s or arm.thinker.usd:
        thinker = arm.thinker
        agent = ThinkingAgent(
            agent, seconds=thinker.think_s, spread=thinker.spread, usd=thinker.usd, seed=run.seed
        )
    simulation = Simulation(
        options=arm.machines.options(run.objective),
        budget=arm.budget,
        noise=arm.noise,
        accept=arm.accept,
        claim=arm.claim,
        limits=run.limits,
        seed=run.seed,
        strategy=arm.searcher.strategy,
        agent=arm.thinker.agent,
    )
    try:
        done = simulate(
            simulation, plugins, strategy=Waves(strategy) if arm.searcher.waves else strategy, agent=agent
        )
    except ArfError as error:
        where = f"{arm.name} on {run.objective_name}, seed {run.seed}"
        raise UsageError(f"{where}: {error.message}", hint=error.hint) from None
    tier = next(iter(arm.machines.tiers))
    objective = make_objective(run.objective, arm.machines.tiers, run.seed)
    points = tuple(
        Point(
            experiments=m.experiments,
            slot_hours=m.slot_hours,
            wall_hours=m.wall_s / 3600,
            usd=m.usd,
            truth=m.truth,
        )
        for m in done.moments
    )
    base = objective.truth(objective.base, tier)
    return Outcome(
        arm=arm.name,
        objective=run.objective_name,
        seed=run.seed,
        base=base,
        optimum=objective.optimum(tier),
        sign=1 if objective.objective.gain(1.0, 0.0) > 0 else -1,
        points=points,
        total=Point(
            experiments=done.experiments,
            slot_hours=done.slot_hours,
            wall_hours=done.wall_s / 3600,
            usd=done.usd,
            truth=points[-1].truth if points else base,
        ),
        utilisation=done.utilisation,
        keeps=max(0, len(points) - 1),
        false_keeps=done.false_keeps,
        changes=done.changes,
        useless_changes=done.useless_changes,
        claim=done.claim,
        searcher=arm.searcher_name,
        slots=sum(tier.slots for tier in arm.machines.tiers.values()),
        lucky_reading=done.best_reading,
        lucky_truth=done.best_reading_truth,
        cpu_s=done.cpu_s,
        reason=str(done.summary["reason"]),
    )


_loaded: list[Plugins] = []


def _plugins() -> Plugins:
    """The plugins of this process, loaded once."""
    from arf.sdk.engine import Plugins

    if not _loaded:
        _loaded.append(Plugins.load())
    return _loaded[0]


def run_all(
    comparison: Comparison, directory: Path, *, jobs: int, tell: Callable[[int, int], None]
) -> list[Outcome]:
    """Every run of a comparison; those that `directory` has are read instead. Raises the first ArfError.

    `tell` is called with how many are done and how many there are. What is done when it ends early, for
    whatever reason, is there the next time.
    """
    directory.mkdir(parents=True, exist_ok=True)
    runs = list(comparison.runs())
    found = {run.key: outcome for run in runs if (outcome := _read(directory, run)) is not None}
    missing = [run for run in runs if run.key not in found]
    tell(len(found), len(runs))
    if jobs == 1 or len(missing) < 2:
        for run in missing:
            found[run.key] = _keep(directory, run, run_one(run))
            tell(len(found), len(runs))
    else:
        # As many studies as cores: threads of BLAS in each would wait for each other.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        # A fresh interpreter each: a forked one would have the locks of whatever threads there are.
        with ProcessPoolExecutor(
            min(jobs, len(missing)), get_context("spawn"), initializer=_end_with_parent
        ) as pool:
            futures = {pool.submit(run_one, run): run for run in missing}
            try:
                for future in as_completed(futures):
                    run = futures[future]
                    found[run.key] = _keep(directory, run, future.result())
                    tell(len(found), len(runs))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return [found[run.key] for run in runs]


def _end_with_parent() -> None:
    """Have this worker end when the process that started it is killed: by itself it would wait for ever."""
    if (parent := parent_process()) is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        Thread(target=follow, daemon=True).start()


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep(directory: Path, run: Run, outcome: Outcome) -> Outcome:
    path = directory / f"{run.key}.json"
    write_whole(path, json.dumps(asdict(outcome), allow_nan=True), mode=0o666, durable=False)
    return outcome


def _read(directory: Path, run: Run) -> Outcome | None:
    """What an earlier comparison kept; None if it did not, or it cannot be read."""
    import cattrs

    try:
        data = json.loads((directory / f"{run.key}.json").read_text("utf-8"))
        return cattrs.structure(data, Outcome)
    except (OSError, ValueError, cattrs.BaseValidationError):
        return None
