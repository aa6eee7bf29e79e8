"""*Tools*: a conversation in which the model reads, edits, checks and submits, and arf keeps the history."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from attrs import define, field

from arf.types import Answer
from arf_plugins.llm.drafts import Checker
from arf_plugins.llm.faults import Fault, FaultKind
from arf_plugins.llm.preflight import Preflight
from arf_plugins.llm.prompt import Told, news, wanted
from arf_plugins.llm.session import CHARS_PER_TOKEN, Session, estimated_tokens
from arf_plugins.llm.spend_limiter import OutOfBudget
from arf_plugins.llm.tools import ToolContext, call, replay, tools_of
from arf_plugins.llm.turns import Question, Reply, Request, Result, Results, Stop, ToolCall, Turn

SYSTEM = (
    "You improve machine-learning training scripts by designing experiments. You work with tools on a copy "
    "of the files: look, edit, check, and submit each idea by itself. You never run anything: what you "
    "submit is run by others, and you see the results in later conversations. End with done."
)
PLANNING = (
    "You lead the research on a machine-learning training script: you plan experiments, machines run them, "
    "and statistics decide what is kept. You work with tools on a copy of the files: look, edit, check, "
    "submit. What you submit is queued at once. Submit a whole batch, then call done with a line on your "
    "plan: you are asked again when results have come in, so do not wait for long runs."
)
SAME_CALLS_WARN = 3
SAME_CALLS_END = 6
"""The same call so many times in a row, and the conversation goes in circles."""
KEPT_RESULTS = 4
"""Turns whose tool results stay whole when the conversation has outgrown the model's window."""


@define
class Loop:
    """One ask in this mode. `run` may go on with a conversation that was broken off."""

    session: Session
    checker: Checker
    tell: Callable[[float], Told]
    remember: Callable[[str], None]
    preflight: Preflight
    emphasis: str = ""
    context: ToolContext = field(init=False)
    note: str = ""
    _same: tuple[str, str] = ("", "")
    _same_count: int = 0
    _nudged: bool = False
    _trimmed: bool = False

    def __attrs_post_init__(self) -> None:
        self.context = ToolContext(self.checker, self.remember)

    async def run(self) -> Answer:
        """Raises Fault, and OutOfBudget if nothing could be asked. What was submitted is never lost."""
        conversation = self.session.conversation
        if not conversation.turns:
            conversation.add(self._follow_up() or self._question(1.0))
        at = 0
        while not self.context.done:
            if at == len(conversation.turns) and not await self._exchange():
                break
            turn = conversation.turns[at]
            at += 1
            if not isinstance(turn, Reply):
                continue
            if at < len(conversation.turns) and isinstance(conversation.turns[at], Results):
                await self._replay(turn)
                continue
            following = await self._act(turn)
            if following is None:
                break
            if at == len(conversation.turns):
                conversation.add(following)
        return conversation.end(self._answer(), self.context.changes)

    async def _exchange(self) -> bool:
        """Have one more reply. False if the conversation must end instead."""
        conversation = self.session.conversation
        if conversation.replies() >= self.session.options.max_turns:
            self.note = f"the conversation ended after max_turns {self.session.options.max_turns}"
            return False
        try:
            await self._ask()
        except (Fault, OutOfBudget) as error:
            if not self.context.submitted and not (isinstance(error, OutOfBudget) and conversation.replies()):
                raise
            self.note = f"the conversation was broken off: {error}"[:300]
            return False
        return True

    async def _ask(self) -> None:
        try:
            await self.session.exchange(self._request())
        except Fault as fault:
            if fault.kind is not FaultKind.OVERFLOW or self._trimmed:
                raise
            conversation = self.session.conversation
            self._trimmed = True
            if conversation.replies() == 0:
                share = 0.5 if conversation.before is None else 1.0
                conversation.part()
                conversation.restart(self._question(share))
            await self.session.exchange(self._request())

    def _request(self) -> Request:
        conversation = self.session.conversation
        turns: Sequence[Turn] = [*conversation.history, *conversation.turns]
        ask, study = self.checker.ask, self.checker.brief.study
        return Request(
            system=PLANNING if self.context.wants_experiments else SYSTEM,
            turns=trimmed(turns) if self._trimmed else tuple(turns),
            max_output=self.session.options.max_output_tokens,
            tools=tuple(tool.spec for tool in tools_of(self.context)),
            cache_key=f"arf-{study.name}-{ask.base[:12]}-tools",
        )

    def _follow_up(self) -> Question | None:
        """What is new since the conversation of the last ask; None if all must be told."""
        conversation = self.session.conversation
        before = conversation.before
        if before is None:
            return None
        history, limit = conversation.history, self.session.options.max_history_tokens
        left = limit - estimated_tokens(Request(system="", turns=history, max_output=0))
        ask, since = self.checker.ask, before.seen
        told = ""
        if since is not None and left > 0:
            told = news(self.checker.brief, ask, since, max_chars=left * CHARS_PER_TOKEN)
        if not told:
            conversation.part()
            return None
        copy = (
            "Your copy of the files is as at the base again. Submit what is to be run next, then call done."
        )
        wants = f"## What is wanted\n\n{wanted(ask)}\n\n{copy}"
        return Question(parts=(f"Results have come in.\n\n{told}", wants))

    def _question(self, share: float) -> Question:
        told = self.tell(share)
        parts = [f"## What is wanted\n\n{wanted(self.checker.ask)}", self.emphasis]
        parts.append("Use the tools: edit, check, submit; then go on with the next idea, or call done.")
        text = "\n\n".join(part for part in parts if part)
        return Question(parts=(told.stable, told.current, text), stable=1)

    # ---- Acting -----------------------------------------------------------------------------

    async def _act(self, reply: Reply) -> Turn | None:
        """Do what the reply asks for, and what to say to it; None ends the conversation."""
        if reply.stop is Stop.REFUSED:
            self.note = f"the model refused to go on{f': {reply.why}' if reply.why else ''}"
            return None
        if not reply.calls:
            return self._nudge(reply)
        results = tuple([await self._call(one) for one in reply.calls])
        if self._same_count >= SAME_CALLS_END:
            self.note = f"the conversation went in circles: {self._same[0]} {self._same_count} times"
            return None
        if reply.stop is Stop.LENGTH:
            last = results[-1]
            text = f"{last.text}\nYour reply was cut at the limit of its length: be shorter."
            results = (*results[:-1], attrs.evolve(last, text=text))
        return Results(results=self._with_warning(results))

    async def _replay(self, reply: Reply) -> None:
        """Go through a reply that was acted on before the conversation was broken off."""
        for one in reply.calls:
            if not self.context.done:
                self._count_same(one)
                await replay(self.context, one.name, one.object(), key=self._key(one))

    async def _call(self, one: ToolCall) -> Result:
        if self.context.done:
            return Result(call=one.id, text="the conversation has ended", failed=True)
        self._count_same(one)
        key, arguments = self._key(one), one.object()
        problem = ""
        if one.name == "submit":
            problem = await self.preflight.problem_of_submit(self.context, arguments, key)
        text, failed = (problem, True) if problem else await call(self.context, one.name, arguments, key=key)
        if self._same_count >= SAME_CALLS_WARN:
            text += f"\nYou have made this very call {self._same_count} times: do something else."
        return Result(call=one.id, text=text, failed=failed)

    def _count_same(self, one: ToolCall) -> None:
        this = (one.name, one.arguments)
        self._same_count = self._same_count + 1 if this == self._same else 1
        self._same = this

    def _key(self, one: ToolCall) -> str:
        """What this call, and no other of the study, is known by."""
        return f"{self.session.conversation.name}/{one.id}"

    def _with_warning(self, results: tuple[Result, ...]) -> tuple[Result, ...]:
        left = self.session.options.max_turns - self.session.conversation.replies()
        if self.context.done or left not in (1, 3):
            return results
        text = f"{results[-1].text}\n{left} more replies, then the conversation ends: submit what you have."
        return (*results[:-1], attrs.evolve(results[-1], text=text))

    def _nudge(self, reply: Reply) -> Turn | None:
        if self._nudged or (self.context.submitted and reply.stop is not Stop.LENGTH):
            return None
        self._nudged = True
        cut = "Your reply was cut at the limit of its length. " if reply.stop is Stop.LENGTH else ""
        return Question(parts=(f"{cut}Only the tools count: submit your ideas, or call done.",))

    def _answer(self) -> Answer:
        return Answer(
            ideas=tuple(self.context.ideas),
            factors=self.context.factors,
            usage=self.session.conversation.unbilled,
            exhausted=self.context.exhausted,
            note=self.context.note or self.note,
        )


def trimmed(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns with the older tool results left out."""
    results = [at for at, turn in enumerate(turns) if isinstance(turn, Results)]
    old = set(results[:-KEPT_RESULTS])
    return tuple(_without_text(turn) if at in old else turn for at, turn in enumerate(turns))


def _without_text(turn: Turn) -> Turn:
    assert isinstance(turn, Results)
    return Results(results=tuple(attrs.evolve(result, text="[left out]") for result in turn.results))
