"""Stand-ins for each interface: in memory, deterministic, and scripted by the test.

The module is a plugin itself: `plugins.register(fakes, "fakes")` offers each under the name `fake`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import define, field

from arf.errors import BackendError, nearest
from arf.hooks import Declaration, hookimpl
from arf.interfaces import Agent, Backend, Brief, MetricParser, Strategy
from arf.types import Answer, Ask, AskKind, Draft, FactorDraft, Job, JobResult, JobState, Plan, Reading, Tier

if TYPE_CHECKING:
    from arf.study import Study

Outcome = tuple[float, str, JobState]
"""What a fake job does: seconds that it takes, what it prints, and how it ends."""


class FakeStrategy(Strategy):
    """Tries each idea once on the incumbent and asks for more, or does what `decide` says."""

    def __init__(
        self,
        options: object = None,
        *,
        decide: Callable[[Study, Mapping[str, int]], Sequence[Plan | Ask]] | None = None,
    ) -> None:
        super().__init__(options)
        self._decide = decide

    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        if self._decide is not None:
            return self._decide(study, free)
        base = study.incumbent_commit
        slots = sum(free.values())
        wanted: list[Plan | Ask] = [
            Plan(parent=base, ideas=(idea,)) for idea, _ in zip(study.untried, range(slots), strict=False)
        ]
        if study.untried_count <= slots and not study.open_asks and not study.exhausted(base):
            wanted.append(Ask(n=max(1, slots), base=base))
        return wanted


class FakeAgent(Agent):
    """Gives its drafts in order, each once in a study, and then has nothing more.

    `delay_s` is how long it thinks; `error` is raised instead of an answer. `asks` has what it was asked.
    """

    def __init__(
        self,
        options: object = None,
        *,
        drafts: Sequence[Draft] = (),
        factors: Sequence[FactorDraft] = (),
        delay_s: float = 0.0,
        error: Exception | None = None,
    ) -> None:
        super().__init__(options)
        self.asks: list[Ask] = []
        self.closed = False
        self._drafts = tuple(drafts)
        self._factors = tuple(factors)
        self._delay_s = delay_s
        self._error = error

    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        self.asks.append(ask)
        await asyncio.sleep(self._delay_s)
        if self._error is not None:
            raise self._error
        if ask.kind is AskKind.FACTORS:
            given = {factor.name for factors in brief.study.all_factors().values() for factor in factors}
            factors = [factor for factor in self._factors if factor.name not in given]
            return Answer(factors=tuple(factors[: ask.n]), exhausted=len(factors) <= ask.n)
        known = {idea.title for idea in brief.study.ideas.values()}
        drafts = [draft for draft in self._drafts if draft.title not in known]
        return Answer(ideas=tuple(drafts[: ask.n]), exhausted=len(drafts) <= ask.n)

    async def aclose(self) -> None:
        self.closed = True


@define
class _FakeJob:
    job: Job
    task: asyncio.Task[JobResult]
    result: JobResult | None = None


@define
class FakeCluster:
    """What outlives a FakeBackend, as a cluster outlives arf: give it to a second one to test a resume.

    Jobs are lost when the event loop that they run in ends.
    """

    jobs: dict[str, _FakeJob] = field(factory=dict)
    busy: dict[str, asyncio.Semaphore] = field(factory=dict)


class FakeBackend(Backend):
    """Runs nothing: `outcome` says what becomes of a job, and only `asyncio.sleep` takes time.

    Without `outcome`, each job prints a `val_bpb` of 1.0 and succeeds at once.
    """

    def __init__(
        self,
        options: object = None,
        directory: Path | None = None,
        *,
        outcome: Callable[[Job], Outcome] | None = None,
        tiers: Sequence[Tier] = (Tier(name="fake", slots=2),),
        cluster: FakeCluster | None = None,
    ) -> None:
        super().__init__(options, directory or Path())
        self.submitted: list[Job] = []
        self.closed = False
        self._outcome = outcome or (lambda job: (0.0, "val_bpb: 1.0\n", JobState.SUCCEEDED))
        self._tiers = tuple(tiers)
        self._cluster = cluster if cluster is not None else FakeCluster()
        for tier in self._tiers:
            self._cluster.busy.setdefault(tier.name, asyncio.Semaphore(tier.slots))

    async def tiers(self) -> Sequence[Tier]:
        return self._tiers

    async def submit(self, job: Job) -> str:
        if job.tier not in self._cluster.busy:
            raise BackendError(f"there is no tier {job.tier!r}", hint=nearest(job.tier, self._cluster.busy))
        if job.key not in self._cluster.jobs:
            self.submitted.append(job)
            self._cluster.jobs[job.key] = _FakeJob(job, asyncio.ensure_future(self._run(job)))
        return job.key

    async def wait(self, handle: str) -> JobResult:
        fake = self._cluster.jobs.get(handle)
        if fake is None:
            return JobResult(state=JobState.LOST, message=f"there is no job {handle!r}")
        if fake.result is None:
            if fake.task.get_loop() is not asyncio.get_running_loop():
                fake.result = JobResult(state=JobState.LOST, message="its event loop has ended")
            else:
                await asyncio.wait([fake.task])  # unlike awaiting it, leaves it alone when we are cancelled
                fake.result = _end(fake.task)
        return fake.result

    async def cancel(self, handle: str) -> None:
        fake = self._cluster.jobs.get(handle)
        if fake is not None and fake.task.get_loop() is asyncio.get_running_loop():
            fake.task.cancel()

    async def aclose(self) -> None:
        self.closed = True

    async def _run(self, job: Job) -> JobResult:
        async with self._cluster.busy[job.tier]:
            started = datetime.now(UTC)
            duration_s, text, state = self._outcome(job)
            job.log.write_text(text, encoding="utf-8")
            if duration_s > job.time_limit_s:
                duration_s, state = job.time_limit_s, JobState.TIMED_OUT
            await asyncio.sleep(duration_s)
        return JobResult(
            state=state,
            exit_code={JobState.SUCCEEDED: 0, JobState.FAILED: 1}.get(state),
            started_at=started,
            ended_at=datetime.now(UTC),
            slot=job.tier,
            message="" if state is JobState.SUCCEEDED else f"the fake job {state}",
        )


def _end(task: asyncio.Task[JobResult]) -> JobResult:
    if task.cancelled():
        return JobResult(state=JobState.CANCELLED, message="cancelled")
    return task.result()


class FakeMetricParser(MetricParser):
    """Reads `name=number` words; `name@step=number` for a value with a step."""

    def parse(self, line: str) -> Sequence[Reading]:
        readings = []
        for word in line.split():
            name, _, value = word.partition("=")
            name, _, step = name.partition("@")
            try:
                number = float(value)
            except ValueError:
                continue
            if name.isidentifier() and name.isprintable() and len(name) <= 128:
                at = int(step) if step.isascii() and step.isdigit() and len(step) < 19 else None
                readings.append(Reading(name=name, value=number, step=at))
        return readings


def _fake(summary: str, cls: type) -> list[Declaration]:
    return [Declaration(name="fake", summary=summary, implementation=f"{__name__}:{cls.__name__}")]


@hookimpl
def arf_register_strategies() -> list[Declaration]:
    return _fake("tries each idea once", FakeStrategy)


@hookimpl
def arf_register_agents() -> list[Declaration]:
    return _fake("has the ideas that a test gives it", FakeAgent)


@hookimpl
def arf_register_backends() -> list[Declaration]:
    return _fake("runs nothing", FakeBackend)


@hookimpl
def arf_register_metric_parsers() -> list[Declaration]:
    return _fake("reads name=number words", FakeMetricParser)
