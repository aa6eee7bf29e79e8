"""Asks: which the agent gets, what becomes of its answers, and what is done when it stays away."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from attrs import frozen

from arf.engine.ledger import Ledger
from arf.engine.submissions import OrderBook, Submitted, message
from arf.errors import AgentError, ArfError, ConflictError, UsageError
from arf.interfaces import Agent, Brief
from arf.status.estimate import cost_of_ask
from arf.types import Answer, Ask, AskKind, Draft, Factor, Usage

if TYPE_CHECKING:
    from arf.workspace.workspace import Workspace

log = logging.getLogger(__name__)

MAX_BARREN_ANSWERS = 5
"""Answers in a row without anything usable, after which the agent is taken to have nothing more."""
MAX_FAILURES = 5
"""Failures in a row that are waited out."""
RETRY_S = 10.0
"""The first wait after a failure; it doubles with each."""
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
    agent: Agent
    name: str
    """The agent's."""
    answer: Answer
    error: AgentError | None
    ideas: tuple[Made, ...] = ()
    factors: tuple[tuple[str, tuple[Made, ...]], ...] = ()
    submissions: tuple[Submitted, ...] = ()


class Thinker:
    """The agent of a study, and the one that takes over when it stays away."""

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
    ) -> None:
        self._agent = agent
        self._name = name
        self._fallback = fallback
        self._fallback_name = fallback_name
        self._all = [one for one in (agent, fallback) if one is not None]
        self._ledger = ledger
        self._study = ledger.study
        self._book = book
        self._workspace = workspace
        self._brief = brief
        self._tell = tell
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._usable_at: dict[int, int] = {}
        """How much was usable when an ask for experiments was opened: they may be ordered meanwhile."""
        self._ideas = 0
        self._barren_answers = 0
        self._failures = 0
        self._back_at = 0.0
        self._is_away = False
        self.last_words = ""
        """What the agent said when it had nothing more; empty if nothing."""
        self._news_at = 0
        """How many verdicts there must be before an agent that awaits results is asked again."""

    def usual_cost(self, brief: Brief) -> Usage | None:
        """What an ask has cost on average, or what the agent says that one usually does; None if unknown."""
        closed, usage = self._study.closed_asks, self._study.usage
        if closed and usage != Usage():
            return Usage(
                input_tokens=usage.input_tokens // closed,
                cached_tokens=usage.cached_tokens // closed,
                output_tokens=usage.output_tokens // closed,
                usd=usage.usd / closed,
            )
        return cost_of_ask(self._agent, self._name, brief)

    # ---- Asking -----------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._tasks)

    @property
    def is_waited_for(self) -> bool:
        """Whether it cannot answer now, and will be asked again."""
        return bool(self._back_at) and not self._is_away

    def is_back(self, now: float, *, give_up: bool) -> bool:
        """Whether the wait for it is over by now, or given up; true once."""
        if not self._back_at or (now < self._back_at and not give_up):
            return False
        self._back_at = 0.0
        return True

    def open(self, ask: Ask, opened: int) -> int | None:
        """Record an ask, and give its number; None if the agent is busy or away, for another try later.

        `opened` is how many were recorded and not yet started.
        """
        busy = len(self._tasks) + opened >= max(1, self._agent.parallel)
        if busy or self._is_away or self._back_at or self._study.exhausted(ask.base):
            return None
        if ask.kind is AskKind.EXPERIMENTS and self._under_way and self._verdicts < self._news_at:
            return None
        number = self._ledger.open_ask(ask)
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
        agent, name = self._agent, self._name  # another may have taken over by the end
        try:
            answer = await agent.answer(ask, self._brief(ask.base, name, number))
        except AgentError as error:
            failure = error
        except ArfError as error:
            failure = AgentError(error.message, hint=error.hint)
        ideas = await self._make(answer.ideas, ask)
        factors = [(factor.name, await self._make(factor.levels, ask)) for factor in answer.factors]
        submissions = await self._book.make(answer.submissions)
        self._tell(Answered(number, agent, name, answer, failure, ideas, tuple(factors), submissions))

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
        ask = self._study.open_asks[item.ask_id]
        note, usage = item.answer.note, item.answer.usage
        before = self._usable_at.pop(item.ask_id, self._usable)
        if item.error is not None:
            note, usage = str(item.error), item.error.usage or usage
            self._failed(item.agent, item.error)
        else:
            self._failures = 0
            self._record(item, ask)
            self._count_barren(ask, before)
        exhausted = item.answer.exhausted or self._barren_answers >= MAX_BARREN_ANSWERS
        self._ledger.close_ask(item.ask_id, usage, note, exhausted=exhausted)
        if exhausted:
            self.last_words = note
        if note:
            self._ledger.event("agent", note)

    def _count_barren(self, ask: Ask, before: int) -> None:
        """Take note of an answer without anything usable. One that awaits results is no such answer."""
        if self._usable != before:
            self._barren_answers = 0
        elif ask.kind is AskKind.EXPERIMENTS and self._under_way:
            self._news_at = self._verdicts + math.ceil(NEWS_SHARE * self._under_way)
        else:
            self._barren_answers += 1

    def _record(self, item: Answered, ask: Ask) -> None:
        for made in item.ideas:
            self._take_idea(item, ask.base, made)
        for name, levels in item.factors:
            ideas = [self._take_idea(item, ask.base, level) for level in levels]
            usable = tuple(idea for idea in ideas if idea is not None)
            if usable:
                self._ledger.add_factor(Factor(name=name, levels=usable, ask=item.ask_id))
        for submitted in item.submissions:
            self._book.take(f"ask/{item.ask_id}", submitted, item.name, item.ask_id)

    def _take_idea(self, item: Answered, base: str, made: Made) -> int | None:
        """The id of the idea that a draft became; None if it cannot be used, which is recorded."""
        if made.problem:
            self._ledger.event("idea", f"{made.draft.title}: {made.problem}")
            log.info("idea refused: %s: %s", made.draft.title, made.problem)
            return None
        self._ideas += 1
        idea = self._ledger.add_idea(made.draft, base, made.commit, item.name, item.ask_id)
        self._workspace.keep_idea(self._study.name, idea.id, idea.commit)
        return idea.id

    # ---- Absence ----------------------------------------------------------------------------

    def _failed(self, agent: Agent, error: AgentError) -> None:
        if agent is not self._agent:
            return  # it was replaced meanwhile
        self._failures += 1
        delay_s = error.retry_after_s
        if delay_s is None or self._failures >= MAX_FAILURES:
            self._replace(error)
            return
        log.warning("the agent cannot answer now, and is asked again later: %s", error)
        wait_s = max(delay_s, RETRY_S * 2 ** (self._failures - 1))
        self._back_at = asyncio.get_running_loop().time() + wait_s

    def _replace(self, error: AgentError) -> None:
        """It stays away: the one that the user has named for that takes over, if there is one."""
        if self._fallback is None:
            self._is_away = True
            log.warning("the agent is not asked any more: %s", error)
            return
        log.warning("%s answers from now on: %s", self._fallback_name, error)
        self._agent, self._name, self._fallback = self._fallback, self._fallback_name, None
        self._failures = self._barren_answers = 0
        self._back_at = 0.0

    def give_up(self) -> None:
        """Wait for no answer any more."""
        log.warning("the agent does not answer, and is not waited for any more")
        self.cancel()
        for number in list(self._tasks):
            del self._tasks[number]
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
        for agent in self._all:
            await agent.aclose()
