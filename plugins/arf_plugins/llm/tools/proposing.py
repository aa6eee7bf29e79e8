"""The tools that hand in ideas and factors, and end a conversation."""

from __future__ import annotations

from arf.errors import UsageError
from arf.types import AskKind
from arf_plugins.llm.tools.context import Arguments, ToolContext, flag, number, text, tool


def _submit(context: ToolContext, given: Arguments) -> str:
    checker = context.checker
    title = titled(given)
    if not title:
        raise UsageError("the idea needs a title")
    factor = " ".join(given["factor"].split())
    if context.wants_factors:
        if not factor:
            raise UsageError("factors were asked for: say which factor this is a level of")
        checker.check_factor_name(factor)
        if factor not in context.levels and context.submitted >= checker.ask.n:
            raise UsageError(f"{checker.ask.n} factors were asked for, and they are there")
    elif context.submitted >= checker.ask.n:
        raise UsageError(f"{checker.ask.n} ideas were asked for, and they are there; call done")
    checked = checker.changed(
        context.files, title=title, reason=reasoned(given), expected=float(given["expected_gain"])
    )
    if context.wants_factors:
        context.levels.setdefault(factor, []).append(checked.draft)
    else:
        context.ideas.append(checked.draft)
    context.changes.append(checked.change)
    context.reset()
    context.done = context.submitted >= checker.ask.n and not context.wants_factors
    return f"Accepted: {context.submitted} of up to {checker.ask.n}. The files are as at the base again." + (
        "" if context.done else " Go on with the next, or call done."
    )


def titled(given: Arguments) -> str:
    return " ".join(given["title"].split())[:100]


def reasoned(given: Arguments) -> str:
    """The reason, and the risk after it."""
    reason = given["reason"].strip()[:1000]
    risk = given["risk"].strip()[:300]
    return f"{reason}\nRisk: {risk}".strip() if risk else str(reason)


def _done(context: ToolContext, given: Arguments) -> str:
    context.done = True
    context.note = " ".join(given["note"].split())[:300]
    context.exhausted = given["exhausted"] and (not context.submitted or context.kind is AskKind.EXPERIMENTS)
    return "Thank you."


CHANGE = {
    "title": text("One line that says what changes."),
    "reason": text("Why it should help."),
    "expected_gain": number("In units of the objective; positive is better."),
    "risk": text("What may go wrong; empty if nothing special."),
}
PROPOSING = (
    tool(
        "submit",
        "Submit your edits since the last submit as one idea, to be run as an experiment.",
        _submit,
        CHANGE,
        on_files=True,
        restores=True,
        needed=["title"],
        factor=text("Where factors were asked for: the factor that this is a level of; otherwise empty."),
    ),
)
DONE = tool(
    "done",
    "End the conversation.",
    _done,
    restores=True,
    note=text("A line for the study's log."),
    exhausted=flag("True only if nothing worth a run is left for this base."),
)
DONE_PLANNING = tool(
    "done",
    "End your turn: nothing more to submit before results come in. You are asked again when slots get free.",
    _done,
    restores=True,
    note=text("A line for the study's log."),
    exhausted=flag(
        "True only if nothing is worth a run any more: the study then ends when its runs have ended."
    ),
)
