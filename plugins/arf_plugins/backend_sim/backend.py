"""Jobs that only take time: what becomes of one is drawn when it is submitted, from its commit and seed."""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from attrs import define, evolve, field, frozen

from arf.errors import BackendError, UsageError, nearest
from arf.interfaces import Backend
from arf.sdk.scripts import constants
from arf.types import Direction, Job, JobResult, JobState, Scalar, Tier
from arf_plugins.backend_sim import BadNode, DisturbanceOptions, SimOptions, SimTier
from arf_plugins.backend_sim.clock import loop_now
from arf_plugins.backend_sim.disturbances import Disturbances, Drawn, Place
from arf_plugins.backend_sim.workspace import identity
from arf_plugins.objectives.choose import make_objective
from arf_plugins.objectives.objective import NoCellError, SimulatedObjective

Settings = Callable[[Job], Mapping[str, Scalar]]
"""The value of each constant of a job's script."""


@frozen(kw_only=True)
class Fate:
    """What becomes of a job once it has a machine."""

    seconds: float
    state: JobState
    readings: Mapping[str, float] = field(factory=dict)
    """What it prints, the objective first."""
    message: str = ""

    @property
    def text(self) -> str:
        return "".join(f"{name}: {value!r}\n" for name, value in self.readings.items())


@define
class _SimJob:
    job: Job
    task: asyncio.Task[JobResult]


@define
class _Slots:
    """The slots of a tier: the first that is free goes to whoever has waited longest."""

    free: list[int]
    waiting: deque[asyncio.Future[int]] = field(factory=deque)
    aside: set[int] = field(factory=set)

    async def take(self) -> int:
        if self.free:
            return heapq.heappop(self.free)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give_back(future.result())
            raise

    def give_back(self, slot: int) -> None:
        if slot in self.aside:
            return
        while self.waiting:
            future = self.waiting.popleft()
            if not future.done():
                future.set_result(slot)
                return
        heapq.heappush(self.free, slot)

    def set_aside(self, slot: int) -> None:
        self.aside.add(slot)
        if slot in self.free:
            self.free.remove(slot)
            heapq.heapify(self.free)


class SimBackend(Backend):
    """Simulated machines. On a virtual clock a study takes no time; on a real one it takes what it says.

    Jobs end with the process: one that is asked for in another process is lost, and run again.
    """

    outlives_host = False

    def __init__(
        self,
        options: SimOptions | None = None,
        directory: Path | None = None,
        *,
        objective: SimulatedObjective | None = None,
        settings: Settings | None = None,
        write: Callable[[Path, str], None] | None = None,
    ) -> None:
        """`settings` and `write` are for simulations without files: where constants and logs are."""
        super().__init__(options, directory or Path())
        self._options = options or SimOptions()
        self._tiers = _tiers(self._options)
        self._objective = objective or make_objective(
            self._options.objective, self._tiers, self._options.seed
        )
        self._settings = settings or self._read_settings
        self._write = write or _write_file
        self._jobs: dict[str, _SimJob] = {}
        self._ended: dict[str, JobResult] = {}
        self._slots = {name: _Slots(list(range(1, tier.slots + 1))) for name, tier in self._tiers.items()}
        slots = {name: tier.slots for name, tier in self._tiers.items()}
        startup_s = next(iter(self._tiers.values())).startup_s
        self._disturbances = Disturbances(
            self._options.disturbances, slots, self._options.run_s + startup_s, self._options.seed
        )
        self._is_disturbed = self._options.disturbances != DisturbanceOptions()

    async def tiers(self) -> Sequence[Tier]:
        return [
            Tier(
                name=name,
                slots=tier.slots - len(self._slots[name].aside),
                usd_per_hour=tier.usd_per_hour,
                speed=tier.speed,
                description="simulated",
            )
            for name, tier in self._tiers.items()
        ]

    async def submit(self, job: Job) -> str:
        if job.tier not in self._tiers:
            raise BackendError(f"there is no tier {job.tier!r}", hint=nearest(job.tier, self._tiers))
        if job.key not in self._jobs and job.key not in self._ended:
            task = asyncio.get_running_loop().create_task(self._run(job))
            self._jobs[job.key] = _SimJob(job, task)
        return job.key

    async def wait(self, handle: str) -> JobResult:
        if handle in self._ended:
            return self._ended[handle]
        running = self._jobs.get(handle)
        if running is None:
            return JobResult(state=JobState.LOST, message=f"no job {handle!r} is simulated here")
        await asyncio.wait([running.task])  # unlike awaiting it, leaves it alone when we are cancelled
        self._jobs.pop(handle, None)
        if handle not in self._ended:
            self._ended[handle] = (
                JobResult(state=JobState.CANCELLED, ended_at=loop_now(), message="cancelled")
                if running.task.cancelled()
                else running.task.result()
            )
        return self._ended[handle]

    async def cancel(self, handle: str) -> None:
        running = self._jobs.get(handle)
        if running is not None:
            running.task.cancel()

    def node_of(self, slot: str) -> str:
        """Each slot is a node. Where they are all alike they cannot be told apart: looking for a bad
        one costs time, and in a comparison of many studies some healthy one would be found wanting."""
        o = self._options.disturbances
        differ = o.node_offset or o.node_speed
        return slot if differ or any(tier.bad for tier in self._tiers.values()) else ""

    def set_aside(self, node: str, why: str) -> bool:
        tier, _, number = node.rpartition(":")
        slots = self._slots.get(tier)
        if slots is None or not number.isdigit() or not 1 <= int(number) <= self._tiers[tier].slots:
            return False
        if len(slots.aside | {int(number)}) == self._tiers[tier].slots:
            return False
        slots.set_aside(int(number))
        return True

    async def aclose(self) -> None:
        for running in self._jobs.values():
            running.task.cancel()

    async def _run(self, job: Job) -> JobResult:
        settings = self._settings(job)
        chance = self._chance(job, identity(settings), "machine")
        tier = self._tiers[job.tier]
        if tier.queue_s:
            await asyncio.sleep(chance.expovariate(1 / tier.queue_s))
        slot = await self._slots[job.tier].take()
        try:
            started = loop_now()
            fate = self._fate(job, settings, chance, slot)
            if tier.bad is not None and tier.bad.slot == slot:
                fate = self._spoilt(
                    fate, tier.bad, job, self._chance(job, identity(settings), "machine", "bad")
                )
            await asyncio.sleep(fate.seconds)
            self._write(job.log, fate.text)
            return _result(f"{job.tier}:{slot}", fate, started)
        finally:
            self._slots[job.tier].give_back(slot)

    def _spoilt(self, fate: Fate, bad: BadNode, job: Job, chance: random.Random) -> Fate:
        """What becomes of a job on a machine that is not well."""
        seconds = fate.seconds * bad.slow
        what = chance.random()
        if what < bad.lost:
            return Fate(seconds=seconds * chance.random(), state=JobState.LOST, message="its machine is gone")
        if what < bad.lost + bad.crashes:
            return Fate(seconds=seconds * chance.random(), state=JobState.FAILED, message="a broken machine")
        if seconds > job.time_limit_s:
            return Fate(seconds=job.time_limit_s, state=JobState.TIMED_OUT)
        metric = self._objective.objective.metric
        readings = {name: v + bad.offset if name == metric else v for name, v in fate.readings.items()}
        return evolve(fate, seconds=seconds, readings=readings)

    def fate(self, job: Job, slot: int = 1) -> Fate:
        """What becomes of a job: the same for the same settings, seed, tier, attempt, slot and number."""
        settings = self._settings(job)
        return self._fate(job, settings, self._chance(job, identity(settings), "machine"), slot)

    def _fate(self, job: Job, settings: Mapping[str, Scalar], chance: random.Random, slot: int) -> Fate:
        options, tier = self._options, self._tiers[job.tier]
        place = Place(tier=job.tier, slot=slot, number=int(job.env.get("ARF_EXPERIMENT", 1)))
        speed = self._disturbances.speed(place)
        share = float(job.env.get("ARF_BUDGET_SHARE", 1.0))
        train_s = options.run_s * share / (tier.speed * speed if options.fixed == "work" else 1.0)
        if options.jitter:
            train_s *= math.exp(chance.gauss(0.0, options.jitter))
        if chance.random() < options.stragglers:
            train_s *= options.straggle
        when = chance.random()
        preempted_s = chance.expovariate(options.preemptions / 3600) if options.preemptions else math.inf
        crashes = settings != self._objective.base and self._breaks(settings)
        why = "a simulated crash"
        readings: Mapping[str, float] = {}
        try:
            if not crashes:
                readings = self._read(job, settings, place, share, speed)
                why = "crashed, as settings like this do"
        except NoCellError as error:
            why = str(error)
        fate = Fate(seconds=tier.startup_s + train_s, state=JobState.SUCCEEDED, readings=readings)
        if not readings:
            known_s = None if crashes else self._objective.seconds_to_crash(settings)
            crash_s = when * train_s if known_s is None else known_s
            fate = Fate(seconds=tier.startup_s + crash_s, state=JobState.FAILED, message=why)
        if fate.seconds > job.time_limit_s:
            fate = Fate(seconds=job.time_limit_s, state=JobState.TIMED_OUT)
        if fate.seconds > preempted_s:
            fate = Fate(seconds=preempted_s, state=JobState.PREEMPTED, message="a simulated preemption")
        return fate

    def _read(
        self, job: Job, settings: Mapping[str, Scalar], place: Place, share: float, speed: float
    ) -> Mapping[str, float]:
        """What a run prints if nothing goes wrong; nothing where such settings crash. Raises NoCellError."""
        objective, options = self._objective, self._options.disturbances
        name = identity(settings)
        chance = self._chance(job, name, "value")
        value = objective.draw(settings, job.tier, share, chance)
        if math.isnan(value):
            return {}
        machine = speed if self._options.fixed == "time" else 1.0
        if self._is_disturbed:
            drawn = Drawn(
                truth=objective.truth(settings, job.tier, share),
                value=value,
                unit=objective.sigma(objective.base, job.tier),
                gets_worse=1.0 if objective.objective.direction is Direction.MIN else -1.0,
            )
            value = self._disturbances.read(drawn, place, name, chance, machine)
        readings = {objective.objective.metric: value, **objective.also_prints(settings, share)}
        steps = readings.get("num_steps", options.printed_steps * share)
        if steps:
            readings["num_steps"] = round(steps * self._disturbances.own_speed(name) * machine)
        return readings

    def _breaks(self, settings: Mapping[str, Scalar]) -> bool:
        """Whether a change is one of those that crash: whatever the seed and the machine."""
        if not self._options.crashes:
            return False
        chance = random.Random(f"{self._options.seed}/crash/{identity(settings)}")
        return chance.random() < self._options.crashes

    def _chance(self, job: Job, settings: str, purpose: str, more: str = "") -> random.Random:
        """Randomness that any strategy finds alike: it depends on what is run, not on when.

        An attempt is another go of the machine, and the same training run.
        """
        seed = job.env.get("ARF_SEED", "")
        attempt = job.key.rpartition("-")[2] if purpose == "machine" else ""
        if purpose == "value" and self._options.disturbances.same_seed:
            seed = ""
        return random.Random(f"{self._options.seed}/{purpose}/{job.tier}/{settings}/{seed}/{attempt}{more}")

    def _read_settings(self, job: Job) -> Mapping[str, Scalar]:
        """The constants in the Python files of the job's folder."""
        found: dict[str, Scalar] = {}
        for path in sorted(job.directory.glob("*.py")):
            for constant in constants.read(path.read_text("utf-8", "replace"), path.name):
                if constant.name in self._objective.base and not isinstance(constant.value, tuple):
                    found[constant.name] = constant.value
        missing = self._objective.base.keys() - found.keys()
        if missing:
            raise BackendError(
                f"the script has no constant {min(missing)}, which the simulated objective needs",
                hint="`arf run` it on a script with the objective's constants, or use `arf compare`",
            )
        return found


def _tiers(options: SimOptions) -> dict[str, SimTier]:
    if not options.tiers:
        raise UsageError("backend.tiers is empty", hint="name one at least, such as tiers: {sim: {slots: 4}}")
    tiers = dict(options.tiers)
    if options.slots is not None:
        first = next(iter(tiers))
        tiers[first] = evolve(tiers[first], slots=options.slots)
    return tiers


def _result(slot: str, fate: Fate, started: datetime) -> JobResult:
    return JobResult(
        state=fate.state,
        exit_code={JobState.SUCCEEDED: 0, JobState.FAILED: 1}.get(fate.state),
        started_at=started,
        ended_at=loop_now(),
        slot=slot,
        message=fate.message,
    )


def _write_file(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
