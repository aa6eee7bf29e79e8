"""*Propose*: one structured answer an ask, checked, with one chance to mend what cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from attrs import define, evolve, field

from arf.errors import UsageError
from arf.types import Answer, Ask, AskKind, Draft, FactorDraft
from arf_plugins.llm.answers import entries, read_json, said
from arf_plugins.llm.drafts import FACTORS, IDEAS, Checker, key_of, of_answer
from arf_plugins.llm.faults import Fault, FaultKind
from arf_plugins.llm.preflight import Preflight
from arf_plugins.llm.prompt import Told, wanted
from arf_plugins.llm.session import Forms, Session
from arf_plugins.llm.spend_limiter import OutOfBudget
from arf_plugins.llm.tools import ToolContext, call, tools_for
from arf_plugins.llm.turns import Form, Question, Reply, Request, Stop, ToolSpec, answering

SYSTEM = (
    "You improve machine-learning training scripts by proposing experiments. You answer in the JSON that is "
    "asked for, and nothing else. You are precise: edits quote the files exactly, constants exist."
)
PLANNING = (
    "You lead the research on a machine-learning training script: you plan experiments, machines run them, "
    "and statistics decide what is kept. You answer in the JSON that is asked for, and nothing else. You are "
    "precise: edits quote the files exactly, constants and numbers of ideas and experiments exist."
)
MAX_PROBLEMS = 12
LONGEST_OUTPUT = 64_000
GENEROUS = 4
"""One answer may order so many times the runs that were asked for."""
T = TypeVar("T")

_EXAMPLE = {
    "title": "DEPTH 4 -> 6",
    "reason": "…",
    "expected_gain": 0.01,
    "risk": "",
    "constants": [{"name": "DEPTH", "value": 6}],
    "edits": [{"path": "train.py", "old": "…", "new": "…"}],
}


_SUBMIT = next(tool.spec for tool in tools_for(AskKind.EXPERIMENTS) if tool.spec.name == "submit")
_PLANNED = {
    **_EXAMPLE,
    "ideas": [],
    "again": 0,
    "tier": "",
    "runs": 1,
    "budget": 0,
}


def answer_tool(ask: Ask) -> ToolSpec:
    """The form of the one answer to an ask."""
    if ask.kind is not AskKind.EXPERIMENTS:
        return FACTORS if ask.kind is AskKind.FACTORS else IDEAS
    entry = {
        **_SUBMIT.parameters,
        "description": "A change, by constants or edits; or `ideas` put together; or an experiment `again`.",
    }
    return ToolSpec(
        name="plan_experiments",
        description="Plan what is to be run next.",
        parameters=of_answer("experiments", entry, plan="Why this batch, in a line for the study's log."),
    )


@define
class Proposal:
    """One ask in this mode. `run` may go on with a conversation that was broken off."""

    session: Session
    checker: Checker
    forms: Forms
    tell: Callable[[float], Told]
    """The brief in a share of its full length."""
    remember: Callable[[str], None]
    preflight: Preflight
    emphasis: str = ""
    ideas: list[Draft] = field(factory=list)
    factors: list[FactorDraft] = field(factory=list)
    changes: list[str] = field(factory=list)
    problems: list[str] = field(factory=list)
    exhausted: bool = False
    note: str = ""
    context: ToolContext = field(init=False)
    """Where an answer of experiments is handed in."""
    _runs: int = 0

    def __attrs_post_init__(self) -> None:
        self.context = ToolContext(self.checker, self.remember)

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
            await self._take(reply, attempt)
            if attempt or reply.stop is Stop.REFUSED or not self.problems or self._left() == 0:
                break
            if isinstance(conversation.turns[-1], Reply):
                conversation.add(answering(reply, self._complaint()))
        return conversation.end(self._answer(), [*self.changes, *self.context.changes])

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
                system=PLANNING if self.context.wants_experiments else SYSTEM,
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
        key = key_of(ask)
        entry: dict[str, Any] = _PLANNED if self.context.wants_experiments else _EXAMPLE
        if key == "factors":
            entry = {"name": "…", "levels": [_EXAMPLE]}
        more = {"plan": "…"} if self.context.wants_experiments else {}
        form = json.dumps({key: [entry], **more, "learned": "", "exhausted": False}, ensure_ascii=False)
        parts = [f"## What is wanted\n\n{wanted(ask)}"]
        if self.emphasis:
            parts.append(self.emphasis)
        parts.append(f"Use constants where they are enough, and edits otherwise. The form:\n{form}")
        return Question(parts=(told.stable, told.current, "\n\n".join(parts)), stable=1)

    # ---- Reading ----------------------------------------------------------------------------

    def _left(self) -> int:
        ask = self.checker.ask
        if self.context.wants_experiments:
            return max(0, ask.n - self._runs)
        return ask.n - len(self.ideas) - len(self.factors)

    def _room(self) -> int:
        """How many entries may be taken. What one answer orders is "about" what was asked for, or more."""
        if self.context.wants_experiments:
            return max(0, GENEROUS * self.checker.ask.n - self._runs)
        return self._left()

    async def _take(self, reply: Reply, attempt: int) -> None:
        """Take what can be used; say of the rest why not."""
        self.problems.clear()
        if reply.stop is Stop.REFUSED:
            self.note = f"the model refused to answer{f': {reply.why}' if reply.why else ''}"
            return
        try:
            key = key_of(self.checker.ask)
            value = _value(reply, key)
            found = entries(value, key)
        except UsageError as error:
            cut = (
                "it was cut at the limit of its length, so be shorter; " if reply.stop is Stop.LENGTH else ""
            )
            self.problems.append(f"the answer cannot be read: {cut}{error}")
            return
        if learned := said(value, "learned"):
            self.remember(learned)
        self.note = said(value, "plan")[:300]
        await self._take_all(found, attempt)
        is_last = isinstance(value, dict) and value.get("exhausted") is True
        self.exhausted = is_last and (not found or self.context.wants_experiments)
        if not found and not self.exhausted and not self._any() and not self._may_wait():
            self.problems.append("there is nothing in the answer; set exhausted if nothing is left to try")

    async def _take_all(self, found: list[Any], attempt: int) -> None:
        """Take entries in their order, until there is enough."""
        at = 0
        while at < len(found) and (room := self._room()) > 0:
            batch = list(enumerate(found))[at : at + room]
            at += len(batch)
            if self.context.wants_experiments:
                await self._order(batch, attempt)
            elif self.checker.ask.kind is AskKind.FACTORS:
                await self._take_factors(batch)
            else:
                await self._take_ideas(batch)

    async def _take_ideas(self, batch: Sequence[tuple[int, Any]]) -> None:
        usable = [checked for _, raw in batch if (checked := self._usable(raw, self.checker.draft))]
        problems = await self.preflight.problems([checked.draft for checked in usable])
        for checked, problem in zip(usable, problems, strict=True):
            if problem:
                self.problems.append(f"{checked.draft.title}: {problem}")
            else:
                self.ideas.append(checked.draft)
                self.changes.append(checked.change)

    async def _take_factors(self, batch: Sequence[tuple[int, Any]]) -> None:
        for _, raw in batch:
            made = self._usable(raw, self._factor)
            if made is None:
                continue
            factor, changes = made
            problems = await self.preflight.problems(factor.levels)
            levels = tuple(one for one, problem in zip(factor.levels, problems, strict=True) if not problem)
            self.problems += [f"{factor.name}: {problem}" for problem in problems if problem]
            if levels:
                self.factors.append(evolve(factor, levels=levels))
                self.changes += changes

    def _factor(self, raw: Any) -> tuple[FactorDraft, list[str]]:
        factor, changes = self.checker.factor(raw)
        if any(factor.name == other.name for other in self.factors):
            raise UsageError(f"there is a factor {factor.name!r} already")
        return factor, changes

    async def _order(self, batch: Sequence[tuple[int, Any]], attempt: int) -> None:
        """Hand in experiments, each under a key that is the same when the reply is gone through again."""
        tried = {at: self._tried(raw) for at, raw in batch}
        drafts = [draft for draft in tried.values() if draft is not None]
        problems = iter(await self.preflight.problems(drafts))
        for at, raw in batch:
            problem = next(problems) if tried[at] is not None else ""
            entry = _sendable(raw)
            if not problem:
                key = f"{self.session.conversation.name}/{attempt}.{at}"
                text, failed = await call(self.context, "submit", entry, key=key)
                problem = text if failed else ""
            if problem:
                self.problems.append(f"{_named(raw)}: {problem}")
            else:
                self._runs += max(1, int(entry.get("runs") or 1))

    def _tried(self, raw: Any) -> Draft | None:
        """What a preflight of an entry runs; None if there is none, or nothing that could be run."""
        if self.preflight.seconds is None:
            return None
        try:
            checked = self.checker.draft(raw)
        except UsageError:  # said again, and better, when it is submitted
            return None
        self.checker.forget(checked)
        return checked.draft

    def _usable(self, raw: Any, make: Callable[[Any], T]) -> T | None:
        """What is made of an entry; None if it cannot be used, which is told to the model."""
        try:
            return make(raw)
        except UsageError as error:
            self.problems.append(f"{_named(raw)}: {error}")
            return None

    def _may_wait(self) -> bool:
        """Whether it makes sense to order nothing now: results are awaited that may tell more."""
        study = self.checker.brief.study
        return self.context.wants_experiments and bool(study.running_count or study.waiting)

    def _any(self) -> bool:
        return bool(self.ideas or self.factors or self.context.receipts)

    def _complaint(self) -> str:
        lines = [f"- {problem}" for problem in self.problems[:MAX_PROBLEMS]]
        accepted = len(self.ideas) + len(self.factors) + len(self.context.receipts)
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
            usage=self.session.conversation.unbilled,
            exhausted=self.exhausted and (self.context.wants_experiments or not self._any()),
            note=note,
        )


def _named(raw: Any) -> str:
    """What a model calls an entry, as far as it does."""
    name = raw.get("title") or raw.get("name") if isinstance(raw, dict) else ""
    return str(name)[:100] if name else "an entry"


def _sendable(raw: Any) -> dict[str, Any]:
    """An entry as the arguments of `submit`, without what is not one of them."""
    known = _SUBMIT.parameters["properties"]
    entry = {name: value for name, value in raw.items() if name in known} if isinstance(raw, dict) else {}
    constants = entry.get("constants")
    if isinstance(constants, dict):
        entry["constants"] = [{"name": name, "value": value} for name, value in constants.items()]
    return entry


def _value(reply: Reply, key: str) -> Any:
    """The JSON of a reply: of the tool call, if there is one. Raises UsageError."""
    for made in reply.calls:
        value = made.object()
        if value is not None:
            return value
    if reply.calls:
        raise UsageError("the arguments are no JSON object")
    return read_json(reply.text, key)
