"""*Propose*: one structured answer an ask, checked, with one chance to mend what cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from attrs import define, evolve, field

from arf.brief import Told, wanted
from arf.errors import UsageError
from arf.types import Answer, AskKind, Draft, FactorDraft
from arf_plugins.llm.drafts import Checker, answer_tool, entries, read_json, said
from arf_plugins.llm.faults import Fault, FaultKind
from arf_plugins.llm.session import Forms, OutOfBudget, Session
from arf_plugins.llm.turns import Form, Question, Reply, Request, Stop, answering

SYSTEM = (
    "You improve machine-learning training scripts by proposing experiments. You answer in the JSON that is "
    "asked for, and nothing else. You are precise: edits quote the files exactly, constants exist."
)
MAX_PROBLEMS = 12
LONGEST_OUTPUT = 64_000

_EXAMPLE = {
    "title": "DEPTH 4 -> 6",
    "reason": "…",
    "expected_gain": 0.01,
    "risk": "",
    "constants": [{"name": "DEPTH", "value": 6}],
    "edits": [{"path": "train.py", "old": "…", "new": "…"}],
}


@define
class Proposal:
    """One ask in this mode. `run` may go on with a conversation that was broken off."""

    session: Session
    checker: Checker
    forms: Forms
    tell: Callable[[float], Told]
    """The brief in a share of its full length."""
    remember: Callable[[str], None]
    emphasis: str = ""
    ideas: list[Draft] = field(factory=list)
    factors: list[FactorDraft] = field(factory=list)
    changes: list[str] = field(factory=list)
    problems: list[str] = field(factory=list)
    exhausted: bool = False
    note: str = ""

    async def run(self) -> Answer:
        """Raises Fault, and OutOfBudget if nothing could be asked."""
        conversation = self.session.conversation
        if not conversation.turns:
            conversation.add(self._question(1.0))
        for attempt in range(2):
            try:
                reply = await self._reply(attempt)
            except (Fault, OutOfBudget) as error:
                mended_later = isinstance(error, Fault) and not self._any()
                if attempt == 0 or mended_later:
                    raise
                self.note = str(error)[:300]  # what the first reply gave is not held up
                break
            self._take(reply)
            if attempt or reply.stop is Stop.REFUSED or not self.problems or self._left() == 0:
                break
            if isinstance(conversation.turns[-1], Reply):
                conversation.add(answering(reply, self._complaint()))
        return conversation.end(self._answer(), self.changes)

    async def _reply(self, attempt: int) -> Reply:
        """The reply of an attempt: from the record, or by asking."""
        recorded = [turn for turn in self.session.conversation.turns if isinstance(turn, Reply)]
        if len(recorded) > attempt:
            return recorded[attempt]
        cut = bool(recorded) and recorded[-1].stop is Stop.LENGTH
        try:
            return await self._ask(longer=cut)
        except Fault as fault:
            if fault.kind is not FaultKind.OVERFLOW or attempt:
                raise
        self.session.conversation.restart(self._question(0.5))
        return await self._ask(longer=False)

    async def _ask(self, *, longer: bool) -> Reply:
        most = self.session.options.max_output_tokens
        most = max(most, min(2 * most, LONGEST_OUTPUT)) if longer else most
        ask = self.checker.ask

        def request(form: Form) -> Request:
            return Request(
                system=SYSTEM,
                turns=tuple(self.session.conversation.turns),
                max_output=most,
                answer=answer_tool(ask),
                form=form,
                cache_key=f"arf-{self.checker.brief.study.name}-{ask.base[:12]}",
            )

        return await self.forms.exchange(self.session, request)

    def _question(self, share: float) -> Question:
        told = self.tell(share)
        ask = self.checker.ask
        key = "factors" if ask.kind is AskKind.FACTORS else "ideas"
        entry: dict[str, Any] = {"name": "…", "levels": [_EXAMPLE]} if key == "factors" else _EXAMPLE
        form = json.dumps({key: [entry], "learned": "", "exhausted": False}, ensure_ascii=False)
        if ask.kind is AskKind.EXPERIMENTS:  # in one answer there is no planning: each idea is run by itself
            ask = evolve(ask, kind=AskKind.IDEAS)
        parts = [f"## What is wanted\n\n{wanted(ask)}"]
        if self.emphasis:
            parts.append(self.emphasis)
        parts.append(f"Use constants where they are enough, and edits otherwise. The form:\n{form}")
        return Question(parts=(told.stable, told.current, "\n\n".join(parts)), stable=1)

    # ---- Reading ----------------------------------------------------------------------------

    def _left(self) -> int:
        return self.checker.ask.n - len(self.ideas) - len(self.factors)

    def _take(self, reply: Reply) -> None:
        """Take what can be used; say of the rest why not."""
        self.problems.clear()
        if reply.stop is Stop.REFUSED:
            self.note = f"the model refused to answer{f': {reply.why}' if reply.why else ''}"
            return
        try:
            value = _value(reply)
            found = entries(value, self.checker.ask)
        except UsageError as error:
            cut = (
                "it was cut at the limit of its length, so be shorter; " if reply.stop is Stop.LENGTH else ""
            )
            self.problems.append(f"the answer cannot be read: {cut}{error}")
            return
        if learned := said(value, "learned"):
            self.remember(learned)
        for raw in found:
            if self._left() == 0:
                break
            self._take_one(raw)
        if not found:
            self.exhausted = isinstance(value, dict) and value.get("exhausted") is True
            if not self.exhausted and not self._any():
                self.problems.append(
                    "there is nothing in the answer; set exhausted if nothing is left to try"
                )

    def _take_one(self, raw: Any) -> None:
        try:
            if self.checker.ask.kind is AskKind.FACTORS:
                factor, changes = self.checker.factor(raw)
                if any(factor.name == other.name for other in self.factors):
                    raise UsageError(f"there is a factor {factor.name!r} already")
                self.factors.append(factor)
                self.changes += changes
            else:
                checked = self.checker.draft(raw)
                self.ideas.append(checked.draft)
                self.changes.append(checked.change)
        except UsageError as error:
            name = raw.get("title") or raw.get("name") if isinstance(raw, dict) else ""
            self.problems.append(f"{str(name)[:100] or 'an entry'}: {error}")

    def _any(self) -> bool:
        return bool(self.ideas or self.factors)

    def _complaint(self) -> str:
        lines = [f"- {problem}" for problem in self.problems[:MAX_PROBLEMS]]
        accepted = len(self.ideas) + len(self.factors)
        taken = f"{accepted} can be used and must not be repeated. " if accepted else ""
        return (
            f"{taken}These cannot be used:\n" + "\n".join(lines) + "\n\n"
            f"Mend or replace them: give up to {self._left()} more, in the same form."
        )

    def _answer(self) -> Answer:
        note = self.note
        if not note and self.problems:
            note = f"{len(self.problems)} proposals could not be used: {self.problems[0]}"[:300]
        return Answer(
            ideas=tuple(self.ideas),
            factors=tuple(self.factors),
            usage=self.session.conversation.spending.usage,
            exhausted=self.exhausted and not self._any(),
            note=note,
        )


def _value(reply: Reply) -> Any:
    """The JSON of a reply: of the tool call, if there is one. Raises UsageError."""
    for call in reply.calls:
        value = call.object()
        if value is not None:
            return value
    if reply.calls:
        raise UsageError("the arguments are no JSON object")
    return read_json(reply.text)
