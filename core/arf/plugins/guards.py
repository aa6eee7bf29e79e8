"""What stands between arf and the code of plugins, which may do anything.

A guard is what it guards, with the same methods. What these raise that is no `ArfError`, and what they give
that is not what the interface says, becomes a `PluginError` that names the plugin. Where arf can do without
an answer, the interface's own takes its place, and a warning is logged once: nothing ends for want of a note.
"""

from __future__ import annotations

import asyncio
import logging
import math
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from arf.errors import AgentError, ArfError, PluginError
from arf.interfaces import (
    AcceptRule,
    Agent,
    Backend,
    Brief,
    ClaimRule,
    Finding,
    HeldResource,
    Judgement,
    MetricParser,
    Recommendation,
    Strategy,
)
from arf.plugins.type_check import misfit
from arf.types import Answer, Ask, Claim, ClaimPlan, Experiment, Job, JobResult, Plan, Reading, Tier, Usage

if TYPE_CHECKING:
    from arf.study import Study

log = logging.getLogger(__name__)

T = TypeVar("T")

Broken = Callable[[str, BaseException | None], PluginError]
"""Makes the error that names the plugin, from what is wrong with it and what it raised."""

MAX_NAME = 128
"""Characters of a metric's name."""
MAX_SEED = 2**31
MAX_INT = 2**63
"""What a database holds."""


class Blame:
    """Calls a plugin's methods, and says whose fault it was."""

    def __init__(self, inner: object, broken: Broken) -> None:
        self._package = type(inner).__module__.partition(".")[0] + "."
        self._broken = broken
        self._warned: set[str] = set()

    def error(self, method: str, problem: str | BaseException) -> PluginError:
        if isinstance(problem, str):
            return self._broken(f"`{method}` gave what cannot be used: {problem}", None)
        return self._broken(f"`{method}` raised {_said(problem)}{self._place(problem)}", problem)

    def call(self, method: str, call: Callable[[], T], check: Callable[[T], str]) -> T:
        """What `call` gives, if `check` has nothing against it. Raises ArfError."""
        try:
            given = call()
        except (ArfError, KeyboardInterrupt):
            raise
        except BaseException as error:  # other people's code, which may as well exit
            raise self.error(method, error) from error
        if wrong := check(given):
            raise self.error(method, wrong)
        return given

    async def wait(self, method: str, call: Callable[[], Awaitable[T]], check: Callable[[T], str]) -> T:
        """As `call`, for a coroutine function; leaves a cancellation alone that comes from outside."""
        try:
            given = await call()
        except (ArfError, KeyboardInterrupt, GeneratorExit):
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise self.error(method, error) from error
        except BaseException as error:  # other people's code
            raise self.error(method, error) from error
        if wrong := check(given):
            raise self.error(method, wrong)
        return given

    def call_or(self, method: str, call: Callable[[], T], check: Callable[[T], str], instead: T) -> T:
        """As `call`, for what arf can do without: on an error `instead` is given, and a warning."""
        try:
            return self.call(method, call, check)
        except ArfError as error:
            self.warn(method, error)
            return instead

    async def close(self, call: Callable[[], Awaitable[None]]) -> None:
        """Close what is guarded; an error is a warning."""
        try:
            await self.wait("aclose", call, _anything)
        except ArfError as error:
            self.warn("aclose", error)

    def warn(self, method: str, error: Exception) -> None:
        """Once for each method: it may be called thousands of times."""
        level = logging.DEBUG if method in self._warned else logging.WARNING
        self._warned.add(method)
        log.log(level, "%s", error)

    def _place(self, error: BaseException) -> str:
        """Where an error came from: the last line of the plugin's own that led to it."""
        frames = list(traceback.walk_tb(error.__traceback__))
        own = [(f, n) for f, n in frames if f"{f.f_globals.get('__name__')}.".startswith(self._package)]
        frame, line = (own or frames)[-1]
        return f" ({frame.f_code.co_filename}:{line})"


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# ---- What is guarded --------------------------------------------------------------------------


class GuardedStrategy(Strategy):
    def __init__(self, inner: Strategy, broken: Broken) -> None:
        super().__init__(inner.options)
        self._inner = inner
        self._blame = Blame(inner, broken)

    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        decided = self._blame.call(
            "decide", lambda: self._inner.decide(study, free), lambda given: wrong_decision(given, study)
        )
        refused = [plan for plan in decided if isinstance(plan, Plan) and _is_refused(plan, study)]
        if not refused:
            return decided
        reason = study.refusals[refused[0].parent, refused[0].ideas]
        self._blame.warn("decide", self._blame.error("decide", f"a plan again that was refused ({reason})"))
        return [item for item in decided if item not in refused]

    def why_ended(self, study: Study) -> str:
        return self._blame.call_or(
            "why_ended", lambda: self._inner.why_ended(study), _wrong(str), super().why_ended(study)
        )

    def recommend(self, study: Study) -> Recommendation | None:
        return self._blame.call_or(
            "recommend",
            lambda: self._inner.recommend(study),
            lambda given: wrong_recommendation(given, study),
            None,
        )


def _is_refused(plan: Plan, study: Study) -> bool:
    return not plan.constants and (plan.parent, plan.ideas) in study.refusals


class GuardedAcceptRule(AcceptRule):
    def __init__(self, inner: AcceptRule, broken: Broken) -> None:
        super().__init__(inner.options)
        self._inner = inner
        self._blame = Blame(inner, broken)

    def judge(self, study: Study, candidates: Sequence[Experiment]) -> Judgement:
        return self._blame.call(
            "judge",
            lambda: self._inner.judge(study, candidates),
            lambda given: wrong_judgement(given, study, candidates),
        )


class GuardedClaimRule(ClaimRule):
    def __init__(self, inner: ClaimRule, broken: Broken) -> None:
        super().__init__(inner.options)
        self._inner = inner
        self._blame = Blame(inner, broken)

    @property
    def every_s(self) -> float | None:
        return self._blame.call("every_s", lambda: self._inner.every_s, _wrong(float | None))

    @property
    def share(self) -> float:
        return self._blame.call("share", lambda: self._inner.share, _wrong(float))

    def runs(self, study: Study) -> int:
        return self._blame.call("runs", lambda: self._inner.runs(study), _wrong(int))

    def begin(self, study: Study, patch: Recommendation, runs: int, why: str) -> ClaimPlan | None:
        return self._blame.call(
            "begin", lambda: self._inner.begin(study, patch, runs, why), _wrong(ClaimPlan | None)
        )

    def plans(self, study: Study, plan: ClaimPlan) -> Sequence[Plan]:
        return self._blame.call(
            "plans", lambda: self._inner.plans(study, plan), lambda given: wrong_decision(given, study)
        )

    def result(self, study: Study, plan: ClaimPlan, *, closing: bool = False) -> Claim | None:
        return self._blame.call(
            "result", lambda: self._inner.result(study, plan, closing=closing), _wrong(Claim | None)
        )


class GuardedAgent(Agent):
    def __init__(self, inner: Agent, broken: Broken) -> None:
        super().__init__(inner.options)
        self._inner = inner
        self._blame = Blame(inner, broken)

    @property
    def parallel(self) -> int:
        return self._blame.call_or("parallel", lambda: self._inner.parallel, _wrong_parallel, 1)

    def check(self, brief: Brief) -> None:
        return self._blame.call("check", lambda: self._inner.check(brief), _anything)

    def outlook(self, brief: Brief) -> Sequence[Finding]:
        return self._blame.call_or(
            "outlook", lambda: self._inner.outlook(brief), _wrong(Sequence[Finding]), ()
        )

    def estimate(self, brief: Brief) -> Usage | None:
        return self._blame.call_or("estimate", lambda: self._inner.estimate(brief), wrong_cost, None)

    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        try:
            return await self._blame.wait("answer", lambda: self._inner.answer(ask, brief), wrong_answer)
        except AgentError as error:
            if error.usage is not None and (wrong := wrong_cost(error.usage)):
                raise self._blame.error("answer", wrong) from error
            raise

    async def aclose(self) -> None:
        await self._blame.close(self._inner.aclose)


class GuardedBackend(Backend):
    def __init__(self, inner: Backend, broken: Broken) -> None:
        super().__init__(inner.options, inner.directory)
        self.outlives_host = bool(inner.outlives_host)
        self._inner = inner
        self._blame = Blame(inner, broken)
        self._keys: dict[str, str] = {}
        """The keys of the jobs that have not ended, by handle."""

    async def tiers(self) -> Sequence[Tier]:
        return await self._blame.wait("tiers", self._inner.tiers, wrong_tiers)

    async def submit(self, job: Job) -> str:
        def wrong(handle: str) -> str:
            if wrong := misfit(handle, str):
                return wrong
            if not handle or not handle.isprintable():
                return f"the handle {handle!r}, which is no text to be stored"
            other = self._keys.get(handle, job.key)
            return "" if other == job.key else f"the handle {handle!r} for {job.key}, which {other} has"

        handle = await self._blame.wait("submit", lambda: self._inner.submit(job), wrong)
        self._keys[handle] = job.key
        return handle

    async def wait(self, handle: str) -> JobResult:
        result = await self._blame.wait("wait", lambda: self._inner.wait(handle), wrong_result)
        self._keys.pop(handle, None)
        return result

    async def cancel(self, handle: str) -> None:
        await self._blame.wait("cancel", lambda: self._inner.cancel(handle), _anything)

    def node_of(self, slot: str) -> str:
        return self._blame.call_or(
            "node_of", lambda: self._inner.node_of(slot), _wrong(str), super().node_of(slot)
        )

    def set_aside(self, node: str, why: str) -> bool:
        return self._blame.call_or(
            "set_aside", lambda: self._inner.set_aside(node, why), _wrong(bool), super().set_aside(node, why)
        )

    def notes(self) -> Sequence[str]:
        return self._blame.call_or("notes", self._inner.notes, _wrong(Sequence[str]), super().notes())

    async def check(self) -> Sequence[Finding]:
        try:
            return await self._blame.wait("check", self._inner.check, _wrong(Sequence[Finding]))
        except PluginError as error:
            return [Finding(what="backend", problem=error.message, hint=error.hint)]

    async def held_resources(self) -> Sequence[HeldResource]:
        return await self._blame.wait("held_resources", self._inner.held_resources, wrong_held)

    async def down(self) -> None:
        await self._blame.wait("down", self._inner.down, _anything)

    async def aclose(self) -> None:
        await self._blame.close(self._inner.aclose)


class GuardedParser(MetricParser):
    def __init__(self, inner: MetricParser, broken: Broken) -> None:
        super().__init__(inner.options)
        self._parse = inner.parse
        self._inner = inner
        self._blame = Blame(inner, broken)

    def example(self, metric: str) -> str:
        return self._blame.call_or(
            "example", lambda: self._inner.example(metric), _wrong(str), super().example(metric)
        )

    def parse(self, line: str) -> Sequence[Reading]:
        # A log may have millions of lines: nothing is called here that is not needed for a sound one.
        try:
            readings = self._parse(line)
            if not readings and isinstance(readings, list | tuple):
                return readings
            wrong = wrong_readings(readings)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # other people's code
            self._blame.warn("parse", self._blame.error("parse", error))
            return ()
        if wrong:
            self._blame.warn("parse", self._blame.error("parse", wrong))
            return ()
        return readings


GUARDS: Mapping[str, Callable[[Any, Broken], object]] = {
    "agent": GuardedAgent,
    "backend": GuardedBackend,
    "strategy": GuardedStrategy,
    "parser": GuardedParser,
    "accept": GuardedAcceptRule,
    "claim": GuardedClaimRule,
}
"""By kind."""


# ---- What is wrong with what was given ----------------------------------------------------------


def _anything(given: object) -> str:
    return ""


def _wrong(hint: Any) -> Callable[[object], str]:
    return lambda given: misfit(given, hint)


def wrong_decision(given: Sequence[Plan | Ask], study: Study) -> str:
    """What is wrong with it, in a few words; empty if nothing is. So with those below."""
    if wrong := misfit(given, Sequence[Plan | Ask]):
        return wrong
    return next((wrong for item in given if (wrong := _wrong_item(item, study))), "")


def _wrong_item(item: Plan | Ask, study: Study) -> str:
    if isinstance(item, Ask):
        if item.n < 1:
            return f"an ask for {item.n} {item.kind}"
        return (
            ""
            if study.has_commit(item.base)
            else f"an ask for {item.base!r}, which is no commit of the study"
        )
    if not study.has_commit(item.parent):
        return f"a plan for {item.parent!r}, which is no commit of the study"
    for idea in item.ideas:
        if idea not in study.ideas:
            return f"a plan for idea {idea}, which the study does not have"
    if len(set(item.ideas)) < len(item.ideas):
        return f"a plan with an idea twice: {item.ideas}"
    if item.tier is not None and item.tier not in (tiers := [tier.name for tier in study.tiers]):
        return f"a plan for the tier {item.tier!r}; there is {', '.join(tiers)}"
    if item.budget is not None and not 0 < item.budget <= 1:
        return f"a plan with the budget {item.budget}, not a share above 0 and at most 1"
    if item.seed is not None and not 0 <= item.seed < MAX_SEED:
        return f"a plan with the seed {item.seed}, not one from 0 to {MAX_SEED - 1}"
    return ""


def wrong_recommendation(given: Recommendation | None, study: Study) -> str:
    if wrong := misfit(given, Recommendation | None):
        return wrong
    return "" if given is None else _wrong_item(Plan(parent=given.parent, ideas=given.ideas), study)


def wrong_judgement(given: Judgement, study: Study, candidates: Sequence[Experiment]) -> str:
    if wrong := misfit(given, Judgement):
        return wrong
    numbers = [number for number, _, _ in given.verdicts]
    if strange := set(numbers).difference(experiment.id for experiment in candidates):
        return f"a verdict of experiment {min(strange)}, which was no candidate to be judged"
    if len(set(numbers)) < len(numbers):
        return "two verdicts of one experiment"
    if given.incumbent is not None and given.incumbent not in study.experiments:
        return f"experiment {given.incumbent} as the incumbent, which the study does not have"
    return next((wrong for plan in given.replicates if (wrong := _wrong_item(plan, study))), "")


def _wrong_parallel(given: int) -> str:
    return misfit(given, int) or ("" if given >= 1 else f"{given}, which is not at least 1")


def wrong_cost(given: Usage | None) -> str:
    if wrong := misfit(given, Usage | None):
        return wrong
    if given is not None and not all(0 <= value < MAX_INT for value in attrs.astuple(given)):
        return f"{given}, which is no cost"
    return ""


def wrong_answer(given: Answer) -> str:
    return misfit(given, Answer) or wrong_cost(given.usage)


def wrong_tiers(given: Sequence[Tier]) -> str:
    if wrong := misfit(given, Sequence[Tier]):
        return wrong
    if not given:
        return "no tier"
    if len({tier.name for tier in given}) < len(given):
        return "two tiers of one name"
    for tier in given:
        if not tier.name or not tier.name.isprintable():
            return f"a tier with the name {tier.name!r}"
        memory_gb = 1.0 if tier.memory_gb is None else tier.memory_gb
        sound = {
            "slots": 1 <= tier.slots < MAX_INT,
            "usd_per_hour": 0 <= tier.usd_per_hour < math.inf,
            "speed": 0 < tier.speed < math.inf,
            "memory_gb": 0 < memory_gb < math.inf,
        }
        for name in (name for name, is_sound in sound.items() if not is_sound):
            return f"the tier {tier.name!r} with {name} {getattr(tier, name)}"
    return ""


def wrong_result(given: JobResult) -> str:
    if wrong := misfit(given, JobResult):
        return wrong
    if not given.state.is_end:
        return f"the state {given.state}, which is no end"
    if given.exit_code is not None and not -MAX_INT <= given.exit_code < MAX_INT:
        return f"the exit code {given.exit_code}"
    for name, at in (("started_at", given.started_at), ("ended_at", given.ended_at)):
        if at is not None and at.utcoffset() is None:
            return f"{name} without a time zone (times are UTC)"
    return ""


def wrong_held(given: Sequence[HeldResource]) -> str:
    if wrong := misfit(given, Sequence[HeldResource]):
        return wrong
    return next(
        (f"{one}, whose price cannot be" for one in given if not 0 <= one.usd_per_hour < math.inf), ""
    )


def wrong_readings(given: Sequence[Reading]) -> str:
    if not isinstance(given, list | tuple):
        return misfit(given, Sequence[Reading])
    for reading in given:
        if not isinstance(reading, Reading):
            return misfit(given, Sequence[Reading])
        name, value, step = reading.name, reading.value, reading.step
        plain = type(value) is float and type(name) is str and (step is None or type(step) is int)
        if not plain and (wrong := misfit(reading, Reading)):
            return wrong
        if not name.isprintable() or not 0 < len(name) <= MAX_NAME:
            return f"{name[:MAX_NAME]!r}, which is no name of a metric"
        if step is not None and not 0 <= step < MAX_INT:
            return f"the step {step}, which is none"
    return ""
