"""Asks: which the agent gets, what becomes of its answers, and what is done when it stays away."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from arf.engine.availability import Availability, Member
from arf.engine.ledger import Ledger
from arf.engine.submissions import OrderBook, Submitted, message
from arf.errors import AgentError, ArfError, ConflictError, UsageError
from arf.interfaces import Agent, Brief
from arf.types import Answer, Ask, AskKind, Draft, Factor, Usage

if TYPE_CHECKING:
    from arf.interfaces import Workspace

log = logging.getLogger(__name__)

COMPLAINTS = 5
"""How many of the problems of an unusable answer the agent is told."""
NEWS_SHARE = 0.5
"""An agent that plans and has ordered nothing is asked again when so much of what ran has its verdict."""


@frozen
class Made:
    """A draft with the commit that it became, or why it cannot be used."""

    draft: Draft
    commit: str
    problem: str


@frozen
class Answered:
    ask_id: int
    member: Member
    answer: Answer
    error: AgentError | None
    ideas: tuple[Made, ...] = ()
    factors: tuple[tuple[str, tuple[Made, ...]], ...] = ()
    submissions: tuple[Submitted, ...] = ()


class Thinker:
    """The agents of a study: the one that it was begun with, and the one that stands in for it."""

    def __init__(
        self,
        agent: Agent,
        name: str,
        *,
        fallback: Agent | None,
        fallback_name: str,
        ledger: Ledger,
        book: OrderBook,
        workspace: Workspace,
        brief: Callable[[str, str, int], Brief],
        tell: Callable[[Answered], None],
        has_time_budget: bool,
    ) -> None:
        self._own = Member(agent, name)
        standing_in = None if fallback is None else Member(fallback, fallback_name)
        self._availability = Availability(
            self._own, standing_in, now=lambda: asyncio.get_running_loop().time()
        )
        self._has_time_budget = has_time_budget
        self._ledger = ledger
        self._study = ledger.study
        self._book = book
        self._workspace = workspace
        self._brief = brief
        self._tell = tell
        self._asked: dict[int, Member] = {}
        """Who was given an open ask."""
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._usable_at: dict[int, int] = {}
        """How much was usable when an ask for experiments was opened: they may be ordered meanwhile."""
        self._ideas = 0
        self._answering = self._own
        """Who was asked last, to say so once when it changes."""
        self.last_words = ""
        """What the agent said when it had nothing more; empty if nothing."""
        self._news_at = 0
        """How many verdicts there must be before an agent that awaits results is asked again."""

    # ---- Asking -----------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._tasks)

    @property
    def is_waited_for(self) -> bool:
        """Whether an agent cannot answer now, and will be asked again."""
        return self._availability.is_awaited

    @property
    def gone(self) -> AgentError | None:
        """Why no agent can be asked ever again; None while one can."""
        return self._availability.gone

    def is_back(self, *, give_up: bool) -> bool:
        """Whether a wait for an agent is over by now, or given up; true once."""
        return self._availability.release(give_up=give_up)

    def open(self, ask: Ask) -> int | None:
        """Record an ask, and give its number; None if every agent is busy or away, for another try later."""
        if self._study.exhausted(ask.base):
            return None
        busy = Counter(id(member) for member in self._asked.values())
        member = self._availability.choose(ask.base, busy)
        if member is None:
            return None
        if ask.kind is AskKind.EXPERIMENTS and self._under_way and self._verdicts < self._news_at:
            return None
        if member is not self._answering:
            log.warning("%s answers from now on", member.name)
            self._answering = member
        number = self._ledger.open_ask(ask)
        self._asked[number] = member
        if ask.kind is AskKind.EXPERIMENTS:
            self._usable_at[number] = self._usable
        return number

    def follow(self, number: int, task: asyncio.Task[None]) -> None:
        """An ask is being answered by a task."""
        self._tasks[number] = task

    @property
    def _usable(self) -> int:
        return self._ideas + self._book.accepted

    @property
    def _under_way(self) -> int:
        """How many experiments have no verdict yet."""
        return len(self._study.experiments) - self._verdicts

    @property
    def _verdicts(self) -> int:
        return sum(self._study.verdicts.values())

    async def think(self, number: int, ask: Ask) -> None:
        """Have an ask answered, make commits of what is answered, and tell."""
        answer, failure = Answer(), None
        member = self._asked[number]
        brief = self._brief(ask.base, member.name, number)
        try:
            answer = await member.agent.answer(
                ask, evolve(brief, complaint=self._availability.complaint(member))
            )
        except AgentError as error:
            failure = error
        except ArfError as error:
            failure = AgentError(error.message, hint=error.hint)
        ideas = await self._make(answer.ideas, ask)
        factors = [(factor.name, await self._make(factor.levels, ask)) for factor in answer.factors]
        submissions = await self._book.make(answer.submissions)
        self._tell(Answered(number, member, answer, failure, ideas, tuple(factors), submissions))

    async def _make(self, drafts: Sequence[Draft], ask: Ask) -> tuple[Made, ...]:
        """Commit drafts, one at a time, so that a job that ends meanwhile does not wait for all of them."""
        made = []
        for draft in drafts:
            try:
                made.append(
                    Made(draft, self._workspace.make_idea(draft, ask.base, message=message(draft)), "")
                )
            except (ConflictError, UsageError) as error:
                made.append(Made(draft, "", str(error)))
            await asyncio.sleep(0)
        return tuple(made)

    # ---- Answers ----------------------------------------------------------------------------

    def take(self, item: Answered) -> None:
        """Record an answer."""
        if self._tasks.pop(item.ask_id, None) is None:
            return  # it was given up
        del self._asked[item.ask_id]
        ask = self._study.open_asks[item.ask_id]
        note, usage = item.answer.note, item.answer.usage
        before = self._usable_at.pop(item.ask_id, self._usable)
        exhausted = item.answer.exhausted
        if item.error is not None:
            note, usage = str(item.error), item.error.usage or usage
            self._failed(item.member, item.error)
        else:
            self._record(item, ask)
            exhausted = self._is_unusable(item, ask, before) or exhausted
        if exhausted:
            exhausted = self._availability.finished(item.member, ask.base)
        self._ledger.close_ask(item.ask_id, usage, note, exhausted=exhausted)
        if exhausted:
            self.last_words = note
        if note:
            self._ledger.event("agent", note)

    def _is_unusable(self, item: Answered, ask: Ask, before: int) -> bool:
        """Take note of how usable an answer was; whether the agent is taken to have nothing more.

        An answer that awaits results is not an unusable one.
        """
        if self._usable != before:
            self._availability.answered(item.member)
        elif ask.kind is AskKind.EXPERIMENTS and self._under_way:
            self._news_at = self._verdicts + math.ceil(NEWS_SHARE * self._under_way)
        elif not item.answer.exhausted:
            complaint = _complaint(item)
            log.info("nothing in the answer of %s was usable: %s", item.member.name, complaint)
            return self._availability.was_unusable(item.member, complaint, for_ever=self._has_time_budget)
        return False

    def _record(self, item: Answered, ask: Ask) -> None:
        for made in item.ideas:
            self._take_idea(item, ask.base, made)
        for name, levels in item.factors:
            ideas = [self._take_idea(item, ask.base, level) for level in levels]
            usable = tuple(idea for idea in ideas if idea is not None)
            if usable:
                self._ledger.add_factor(Factor(name=name, levels=usable, ask=item.ask_id))
        for submitted in item.submissions:
            self._book.take(f"ask/{item.ask_id}", submitted, item.member.name, item.ask_id)

    def _take_idea(self, item: Answered, base: str, made: Made) -> int | None:
        """The id of the idea that a draft became; None if it cannot be used, which is recorded."""
        if made.problem:
            self._ledger.event("idea", f"{made.draft.title}: {made.problem}")
            log.info("idea refused: %s: %s", made.draft.title, made.problem)
            return None
        self._ideas += 1
        idea = self._ledger.add_idea(made.draft, base, made.commit, item.member.name, item.ask_id)
        self._workspace.keep_idea(self._study.name, idea.id, idea.commit)
        return idea.id

    # ---- Absence ----------------------------------------------------------------------------

    def _failed(self, member: Member, error: AgentError) -> None:
        wait_s = self._availability.failed(member, error)
        if wait_s is None:
            log.warning("%s is not asked any more: %s", member.name, error)
        else:
            log.warning("%s cannot answer now, and is asked again in %.0f s: %s", member.name, wait_s, error)

    def give_up(self) -> None:
        """Wait for no answer any more."""
        log.warning("the agent does not answer, and is not waited for any more")
        self.cancel()
        for number in list(self._tasks):
            del self._tasks[number]
            del self._asked[number]
            self._ledger.close_ask(number, Usage(), "not answered in time", exhausted=False)

    # ---- Beginning and end ------------------------------------------------------------------

    def recover(self) -> None:
        """Close what an earlier process had asked and nobody answered: it is asked again if still wanted."""
        for number in list(self._study.open_asks):
            self._ledger.close_ask(number, Usage(), "interrupted", exhausted=False)

    def cancel(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    async def aclose(self) -> None:
        for member in self._availability.members:
            await member.agent.aclose()


def _complaint(item: Answered) -> str:
    """What was wrong with an answer in which nothing was usable, for the agent."""
    made = [*item.ideas, *(level for _, levels in item.factors for level in levels)]
    problems = [f"{one.draft.title}: {one.problem}" for one in made if one.problem]
    problems += [one.problem for one in item.submissions if one.problem]
    return "; ".join(problems[:COMPLAINTS]) or item.answer.note or "it held no idea"


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
