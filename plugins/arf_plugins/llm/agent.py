"""An agent that talks to a language model, whoever provides it."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import attrs

from arf.errors import AgentError, SpentError, UsageError
from arf.interfaces import Agent, Brief
from arf.types import Answer, Ask, AskKind, Usage
from arf_plugins.llm.conversation import Archive, Conversation
from arf_plugins.llm.drafts import Checker
from arf_plugins.llm.faults import ASK_AGAIN_S, Fault, FaultKind, Redactor
from arf_plugins.llm.loop import Loop
from arf_plugins.llm.options import ModelOptions
from arf_plugins.llm.preflight import Preflight
from arf_plugins.llm.prices import Price, price_of, priced
from arf_plugins.llm.prompt import MIN_CHARS, NOTES, Told, notes, render
from arf_plugins.llm.prompt import seen as known_now
from arf_plugins.llm.propose import Proposal
from arf_plugins.llm.session import CHARS_PER_TOKEN, Forms, Session
from arf_plugins.llm.spend_limiter import OutOfBudget, SpendLimiter, refuse_dollars
from arf_plugins.llm.turns import Form, Model

log = logging.getLogger(__name__)

MAX_NOTES_CHARS = 12_000
ANSWER_TOKENS = 3_000
"""A reply with its thinking, and the results of a round of tools, as far as one can say before: a guess."""
USUAL_TURNS = 12
"""Replies in a conversation with tools: a guess too."""
EMPHASES = (
    "sizes and shapes of the model",
    "the optimizer and its schedule",
    "normalisation, residuals and initialisation",
    "batch, data order and regularisation",
    "what can be removed or simplified without loss",
)
"""Where conversations that think at the same time look first, so that they do not have the same ideas."""


class ModelAgent(Agent):
    """Answers by asking a model. A subclass says which, in `connect`."""

    provider: ClassVar[str]
    key_env: ClassVar[str]
    url_env: ClassVar[str]
    """The environment variable with which the SDK is pointed to another server."""

    options: ModelOptions

    def __init__(self, options: ModelOptions) -> None:
        super().__init__(options)
        key = self._key()
        self._price = self._known_price()
        self.redact = Redactor(key)
        self._model = self.connect(key, self._price)
        forms = self._model.forms
        if options.structured != "auto":
            forms = (Form(options.structured),)
        self._forms = Forms(forms)
        self._archive: Archive | None = None
        self._unfinished: list[Conversation] = []
        """Conversations that may be gone on with, or whose answer nobody took; the newest first."""
        self._threads: list[Conversation] = []
        """Ended conversations that the next ask for experiments may go on with; the newest first."""
        self._unbilled = Usage()
        """What conversations have cost that will not be gone on with."""
        self._limiter: SpendLimiter | None = None
        self._under_way = 0
        self._asked = 0
        self._passed: dict[str, set[str]] = {}
        self._worked = False

    @abstractmethod
    def connect(self, key: str, price: Price | None) -> Model:
        """The model. Called once; must not connect yet."""

    @property
    def parallel(self) -> int:
        return self.options.parallel

    def check(self, brief: Brief) -> None:
        if self._price is None:
            refuse_dollars(brief, self.options.model)

    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        limiter = self._open(brief)
        conversation = self._resumed(ask, brief, limiter) or self._new(ask, brief)
        if conversation.answer is not None:
            self._passed.setdefault(ask.base, set()).update(conversation.changes)
            got = conversation.answer
            limiter.count(got.usage)
            return self._told(
                attrs.evolve(got, ideas=got.ideas[: ask.n], factors=got.factors[: ask.n]), got.usage
            )
        self._asked += 1
        self._under_way += 1
        limiter.hold(conversation)
        try:
            answer = await self._run(conversation, ask, brief, limiter)
        except (OutOfBudget, Fault) as error:
            self._unfinished.insert(0, conversation)
            raise self._error(error, self._bill(limiter.tell(conversation))) from None
        finally:
            self._under_way -= 1
        self._worked = True
        self._keep(conversation)
        return self._told(answer, limiter.tell(conversation))

    def estimate(self, brief: Brief) -> Usage | None:
        """A brief of the usual length and half of the longest reply, uncached; None without a price."""
        if self._price is None:
            return None
        options = self.options
        told = render(brief, Ask(base=brief.study.base), max_chars=self._chars(1.0))
        tokens = len(told.text) // CHARS_PER_TOKEN + ANSWER_TOKENS
        if options.mode == "propose":
            return priced(self._price, fresh=tokens, cached=0, written=0, output=ANSWER_TOKENS)
        one = priced(self._price, fresh=2 * ANSWER_TOKENS, cached=tokens, written=0, output=ANSWER_TOKENS)
        first = priced(self._price, fresh=tokens, cached=0, written=0, output=ANSWER_TOKENS)
        return sum([one] * (min(options.max_turns, USUAL_TURNS) - 1), first)

    async def aclose(self) -> None:
        await self._model.aclose()

    # ---- One ask ----------------------------------------------------------------------------

    async def _run(self, conversation: Conversation, ask: Ask, brief: Brief, limiter: SpendLimiter) -> Answer:
        caps = limiter.caps(brief, self.options.max_usd)
        session = Session(self._model, self.options, conversation, self._price, limiter, caps)
        preflight = Preflight(brief, ask.base, self.options.preflight)
        checker = Checker(brief, ask, self._passed.setdefault(ask.base, set()))

        def tell(share: float) -> Told:
            return render(brief, ask, max_chars=self._chars(share))

        def remember(text: str) -> None:
            remember_in(brief.directory, text)

        try:
            if self.options.mode == "tools":
                return await Loop(session, checker, tell, remember, preflight, self._emphasis()).run()
            return await Proposal(
                session, checker, self._forms, tell, remember, preflight, self._emphasis()
            ).run()
        finally:
            if conversation.answer is None:  # it will be gone on with, and must not find itself a repeat
                checker.passed.difference_update(checker.mine)

    def _chars(self, share: float) -> int:
        return max(int(share * self.options.max_input_tokens * CHARS_PER_TOKEN), MIN_CHARS)

    def _emphasis(self) -> str:
        if self._under_way < 2:
            return ""
        area = EMPHASES[self._asked % len(EMPHASES)]
        return f"Others think about the same files at this moment. Look first at {area}."

    def _error(self, fault: OutOfBudget | Fault, usage: Usage) -> AgentError:
        if isinstance(fault, OutOfBudget):
            return SpentError(f"{self.provider}: {fault.message}", usage=usage, hint=fault.hint)
        error = fault.as_error(self.provider)
        error.usage = usage
        if fault.kind is FaultKind.OVERFLOW:
            error.hint = "set agent.max_input_tokens to less than the model's window"
        elif fault.kind is FaultKind.UNSUPPORTED and self._worked:
            error.retry_after_s = ASK_AGAIN_S  # it is about this one request, such as a filter of content
        return error

    # ---- What was begun before --------------------------------------------------------------

    def _open(self, brief: Brief) -> SpendLimiter:
        """Read the archive, once: what was proposed, and what an earlier process left undone."""
        if self._limiter is not None:
            return self._limiter
        self._limiter = SpendLimiter(brief.study)
        self._archive = Archive.open(brief.directory)
        _begin_notes(brief.directory, self.options.notes_from)
        taken = {(idea.base, idea.title) for idea in brief.study.ideas.values()}
        followed: set[str] = set()
        for at, conversation in enumerate(self._archive.newest_first(whole=2 * self.parallel)):
            if conversation.answer is None:
                if at < self.parallel:
                    self._unfinished.append(conversation)
                    self._limiter.hold(conversation)
            elif at < self.parallel and _is_untaken(conversation, taken):
                self._unfinished.append(conversation)
            else:
                self._passed.setdefault(conversation.ask.base, set()).update(conversation.changes)
                if at < 2 * self.parallel and conversation.name not in followed:
                    self._keep(conversation, newest=False)
            if conversation.before is not None:
                followed.add(conversation.before.name)
        return self._limiter

    def _new(self, ask: Ask, brief: Brief) -> Conversation:
        assert self._archive is not None
        seen, about, before = known_now(brief.study, ask.base), self._about(), None
        if ask.kind is AskKind.EXPERIMENTS and self.options.mode == "tools":
            before = next((thread for thread in self._threads if thread.about == about), None)
        if before is not None:
            self._threads.remove(before)
        return self._archive.new(ask, about, seen, before)

    def _keep(self, conversation: Conversation, *, newest: bool = True) -> None:
        """Let the next ask go on with it, if that can be."""
        if conversation.ask.kind is AskKind.EXPERIMENTS and conversation.can_go_on:
            self._threads.insert(0 if newest else len(self._threads), conversation)
            del self._threads[self.parallel :]

    def _about(self) -> dict[str, str]:
        return {"provider": self.provider, "model": self.options.model, "mode": self.options.mode}

    def _resumed(self, ask: Ask, brief: Brief, limiter: SpendLimiter) -> Conversation | None:
        """A conversation that answers this ask. What can answer none is billed with the next answer."""
        for conversation in list(self._unfinished):
            old = conversation.ask
            fits = (old.kind, old.base) == (ask.kind, ask.base) and conversation.about == self._about()
            if fits:
                self._unfinished.remove(conversation)
                conversation.mend()
                return conversation
            if old.kind is AskKind.EXPERIMENTS or old.base not in (ask.base, brief.study.incumbent_commit):
                self._unfinished.remove(conversation)
                conversation.mend()
                self._unbilled += limiter.tell(conversation)
                if conversation.answer is not None:
                    limiter.count(conversation.answer.usage)
                    self._unbilled += conversation.answer.usage
                self._keep(conversation)
        return None

    # ---- Money ------------------------------------------------------------------------------

    def _known_price(self) -> Price | None:
        options = self.options
        price = price_of(options.model, options.prices)
        if price is None and (options.max_usd is not None or options.max_usd_per_ask is not None):
            raise UsageError(
                f"no price is known for {options.model!r}, so agent.max_usd cannot be kept",
                hint=f"set agent.prices: {{{options.model}: {{input: …, output: …}}}}",
            )
        if price is None:
            log.warning("no price is known for %s: it counts as free (see agent.prices)", options.model)
        return price

    def _told(self, answer: Answer, usage: Usage) -> Answer:
        return attrs.evolve(answer, usage=self._bill(usage))

    def _bill(self, usage: Usage) -> Usage:
        """What is to be counted with what is told now."""
        unbilled, self._unbilled = self._unbilled, Usage()
        return usage + unbilled

    # ---- The key ----------------------------------------------------------------------------

    def _key(self) -> str:
        """The key, from the environment. Another server than the provider's may need none."""
        name = self.options.key_env or self.key_env
        key = os.environ.get(name, "").strip()
        if key:
            return key
        if self.options.base_url or os.environ.get(self.url_env):
            return "none"
        raise AgentError(
            f"{self.provider} needs a key, and {name} is not set",
            hint=f"export {name}=…, or set agent.base_url to a server that needs none",
        )


def _is_untaken(conversation: Conversation, taken: set[tuple[str, str]]) -> bool:
    """Whether the study knows nothing of an answer's ideas: the process ended before it was told."""
    answer = conversation.answer
    if answer is None:
        return False
    drafts = [*answer.ideas, *(level for factor in answer.factors for level in factor.levels)]
    return bool(drafts) and not any((conversation.ask.base, draft.title) in taken for draft in drafts)


def _begin_notes(directory: Path | None, source: str) -> None:
    if directory is None or not source or (directory / NOTES).exists():
        return
    try:
        text = Path(source).expanduser().read_text("utf-8", "replace")
    except OSError as error:
        raise AgentError(f"agent.notes_from cannot be read: {error}") from None
    (directory / NOTES).write_text(text[-MAX_NOTES_CHARS:], encoding="utf-8")


def remember_in(directory: Path | None, text: str) -> None:
    """Add to the notes what is not in them; the oldest lines go when they become too long."""
    line = " ".join(text.split())[:600]
    before = notes(directory)
    if directory is None or not line or line in before:
        return
    lines = [*before.splitlines(), f"- {line}"]
    while sum(len(line) + 1 for line in lines) > MAX_NOTES_CHARS and len(lines) > 1:
        lines.pop(0)
    (directory / NOTES).write_text("\n".join(lines) + "\n", encoding="utf-8")
