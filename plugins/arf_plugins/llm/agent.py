"""An agent that talks to a language model, whoever provides it."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import attrs

from arf.brief import MIN_CHARS, NOTES, Told, notes, render
from arf.errors import AgentError, UsageError
from arf.interfaces import Agent, Brief
from arf.types import Answer, Ask, Usage
from arf_plugins.llm.conversation import Archive, Conversation
from arf_plugins.llm.drafts import Checker
from arf_plugins.llm.faults import ASK_AGAIN_S, Fault, FaultKind, Redactor
from arf_plugins.llm.loop import Loop
from arf_plugins.llm.options import ModelOptions
from arf_plugins.llm.prices import Price, price_of
from arf_plugins.llm.propose import Proposal
from arf_plugins.llm.session import CHARS_PER_TOKEN, Forms, OutOfBudget, Session
from arf_plugins.llm.turns import Form, Model

log = logging.getLogger(__name__)

MAX_NOTES_CHARS = 12_000
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
        self._unbilled = Usage()
        self._under_way: dict[int, Conversation] = {}
        self._asked = 0
        self._passed: dict[str, set[str]] = {}
        self._worked = False

    @abstractmethod
    def connect(self, key: str, price: Price | None) -> Model:
        """The model. Called once; must not connect yet."""

    @property
    def parallel(self) -> int:
        return self.options.parallel

    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        self._open(brief)
        conversation = self._resumed(ask, brief) or self._new(ask)
        if conversation.answer is not None:
            self._passed.setdefault(ask.base, set()).update(conversation.changes)
            got = conversation.answer
            return self._billed(attrs.evolve(got, ideas=got.ideas[: ask.n], factors=got.factors[: ask.n]))
        self._asked += 1
        self._under_way[id(conversation)] = conversation
        try:
            answer = await self._run(conversation, ask, brief)
        except OutOfBudget as error:
            self._unfinished.insert(0, conversation)
            raise AgentError(f"{self.provider}: {error.message}", hint=error.hint) from None
        except Fault as fault:
            self._unfinished.insert(0, conversation)
            raise self._error(fault) from None
        finally:
            del self._under_way[id(conversation)]
        self._worked = True
        return self._billed(answer)

    async def aclose(self) -> None:
        await self._model.aclose()

    # ---- One ask ----------------------------------------------------------------------------

    async def _run(self, conversation: Conversation, ask: Ask, brief: Brief) -> Answer:
        session = Session(
            self._model, self.options, conversation, self._price, lambda: self._spent_usd(brief)
        )
        checker = Checker(brief, ask, self._passed.setdefault(ask.base, set()))

        def tell(share: float) -> Told:
            chars = int(share * self.options.max_input_tokens * CHARS_PER_TOKEN)
            return render(brief, ask, max_chars=max(chars, MIN_CHARS))

        def remember(text: str) -> None:
            remember_in(brief.directory, text)

        try:
            if self.options.mode == "tools":
                return await Loop(session, checker, tell, remember, self._emphasis()).run()
            return await Proposal(session, checker, self._forms, tell, remember, self._emphasis()).run()
        finally:
            if conversation.answer is None:  # it will be gone on with, and must not find itself a repeat
                checker.passed.difference_update(checker.mine)

    def _emphasis(self) -> str:
        if len(self._under_way) < 2:
            return ""
        area = EMPHASES[self._asked % len(EMPHASES)]
        return f"Others think about the same files at this moment. Look first at {area}."

    def _error(self, fault: Fault) -> AgentError:
        error = fault.as_error(self.provider)
        if fault.kind is FaultKind.OVERFLOW:
            error.hint = "set agent.max_input_tokens to less than the model's window"
        elif fault.kind is FaultKind.UNSUPPORTED and self._worked:
            error.retry_after_s = ASK_AGAIN_S  # it is about this one request, such as a filter of content
        return error

    # ---- What was begun before --------------------------------------------------------------

    def _open(self, brief: Brief) -> None:
        """Read the archive, once: what was proposed, and what an earlier process left undone."""
        if self._archive is not None:
            return
        self._archive = Archive.open(brief.directory)
        _begin_notes(brief.directory, self.options.notes_from)
        taken = {(idea.base, idea.title) for idea in brief.study.ideas.values()}
        for at, conversation in enumerate(self._archive.newest_first()):
            if conversation.answer is None:
                if at < self.parallel:
                    self._unfinished.append(conversation)
                continue
            if at < self.parallel and _is_untaken(conversation, taken):
                self._unfinished.append(conversation)
            else:
                self._passed.setdefault(conversation.ask.base, set()).update(conversation.changes)

    def _new(self, ask: Ask) -> Conversation:
        assert self._archive is not None
        return self._archive.new(ask, self._about())

    def _about(self) -> dict[str, str]:
        return {"provider": self.provider, "model": self.options.model, "mode": self.options.mode}

    def _resumed(self, ask: Ask, brief: Brief) -> Conversation | None:
        """A conversation that answers this ask. What can answer none is billed with the next answer."""
        for conversation in list(self._unfinished):
            old = conversation.ask
            fits = (old.kind, old.base) == (ask.kind, ask.base) and conversation.about == self._about()
            if fits:
                self._unfinished.remove(conversation)
                conversation.mend()
                return conversation
            if old.base not in (ask.base, brief.study.incumbent_commit):
                self._unfinished.remove(conversation)
                self._unbilled += conversation.spending.usage
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

    def _spent_usd(self, brief: Brief) -> float:
        under_way = sum(c.spending.usage.usd + c.reserved_usd for c in self._under_way.values())
        left_over = sum(c.spending.usage.usd for c in self._unfinished)
        return brief.study.usage.usd + self._unbilled.usd + under_way + left_over

    def _billed(self, answer: Answer) -> Answer:
        unbilled, self._unbilled = self._unbilled, Usage()
        return attrs.evolve(answer, usage=answer.usage + unbilled)

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
