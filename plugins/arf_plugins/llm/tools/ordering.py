"""The tools that order experiments from a study's queue: submit, wait, cancel, try out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from arf.errors import UsageError, nearest
from arf.types import Draft, Edit, Receipt, Submission, SubmissionState
from arf_plugins.llm.drafts import CONSTANTS, EDITS, Checked, edited, set_constants
from arf_plugins.llm.tools.context import (
    MAX_WAIT_S,
    Arguments,
    Shown,
    ToolContext,
    flag,
    number,
    text,
    tool,
    whole,
    wholes,
)
from arf_plugins.llm.tools.looking import is_done, shown_receipts
from arf_plugins.llm.tools.proposing import CHANGE, reasoned, titled

DEFAULT_WAIT_S = 45.0
SLICE_S = 5.0
"""How often progress is told while a tool waits."""
TRY_OUT_S = 20.0
MAX_LISTED = 40


# ---- Submitting ---------------------------------------------------------------------------------


async def _submit(context: ToolContext, given: Arguments) -> Shown:
    queue = context.own_queue()
    known = await queue.known(given["key"])
    if known:
        _check_same(given, known)
        _take(context, known)
        return shown_receipts(_by_number(known), context.study, _REPEATED)
    submission, checked = _submission(context, given)
    try:
        receipts = await queue.submit(given["key"], [submission])
    except BaseException:
        _forget(context, checked)
        raise
    _take(context, receipts)
    refused = [receipt for receipt in receipts if receipt.state is SubmissionState.REFUSED]
    if refused:
        _forget(context, checked)
        raise UsageError("; ".join(receipt.problem for receipt in refused))
    if checked is not None:
        context.changes.append(checked.change)
        context.reset()
    back = " The files are as at the base again." if checked is not None else ""
    return shown_receipts(_by_number(receipts), context.study, f"Submitted.{back}")


def _check_same(given: Arguments, known: Sequence[Receipt]) -> None:
    """Raises UsageError where a key was used before for something else, as far as that can be seen."""
    title = titled(given)
    if title and not given["again"] and not given["ideas"] and title not in {item.title for item in known}:
        raise UsageError("that key was used for another submission", hint="choose a new key for a new one")


_REPEATED = "This very call was made before, so nothing new is submitted. It stands like this:"


def _submission(context: ToolContext, given: Arguments) -> tuple[Submission, Checked | None]:
    checked = None if given["again"] else _change(context, given, is_needed=not given["ideas"])
    if given["again"] and (given["ideas"] or given["constants"] or given["edits"]):
        raise UsageError("a run again has no change of its own", hint="leave out `again`, or the change")
    tiers = [tier.name for tier in context.study.tiers]
    if given["tier"] and given["tier"] not in tiers:
        _forget(context, checked)
        raise UsageError(f"there is no tier {given['tier']!r}", hint=nearest(given["tier"], tiers))
    submission = Submission(
        draft=checked.draft if checked is not None else None,
        ideas=given["ideas"] or (),
        again=given["again"] or None,
        base=context.checker.ask.base if checked is not None else "",
        tier=given["tier"] or None,
        runs=given["runs"] or 1,
        budget=given["budget"] or None,
    )
    return submission, checked


def _change(context: ToolContext, given: Arguments, *, is_needed: bool) -> Checked | None:
    """The draft of the edited files, with what the call adds to them; None if nothing is changed."""
    after = _after(context, given)
    if not is_needed and after == dict(context.checker.brief.files):
        return None
    title = titled(given)
    if not title:
        raise UsageError("the change needs a title")
    expected = float(given["expected_gain"]) or None
    try:
        return context.checker.changed(after, title=title, reason=reasoned(given), expected=expected)
    except UsageError as error:
        if not error.message.startswith("the same as idea"):
            raise
        hint = "name it in `ideas` to have it run on the best so far, or its experiment in `again`"
        raise UsageError(error.message, hint=hint) from None


def _after(context: ToolContext, given: Arguments) -> dict[str, str]:
    files = set_constants(context.files, context.checker.values(given["constants"]))
    for item in given["edits"]:
        parts = [item.get(name) for name in ("path", "old", "new")] if isinstance(item, dict) else [None]
        if not all(isinstance(part, str) for part in parts):
            raise UsageError("each edit needs path, old and new, all of them text")
        path = context.checker.path(item["path"], made=not item["old"])
        files[path] = edited(files, Edit(path=path, old=item["old"], new=item["new"]))
    return files


def _forget(context: ToolContext, checked: Checked | None) -> None:
    """Let a change that was not taken be proposed again."""
    if checked is not None:
        context.checker.passed.discard(checked.change)
        context.checker.mine.discard(checked.change)


async def restore_submission(context: ToolContext, key: str) -> None:
    """What `submit` has left on the context, when a recorded conversation is gone through again."""
    receipts = await context.own_queue().known(key)
    _take(context, receipts)
    if any(receipt.state is not SubmissionState.REFUSED for receipt in receipts):
        context.reset()


def _take(context: ToolContext, receipts: Sequence[Receipt]) -> None:
    for receipt in receipts:
        if receipt.state is not SubmissionState.REFUSED:
            context.receipts[receipt.id] = receipt


def _by_number(receipts: Sequence[Receipt]) -> dict[int, Receipt]:
    return {receipt.id: receipt for receipt in receipts}


# ---- Looking after them -------------------------------------------------------------------------


async def _wait(context: ToolContext, given: Arguments) -> Shown:
    queue = context.own_queue()
    limit_s = min(given["timeout_s"] if given["timeout_s"] > 0 else DEFAULT_WAIT_S, context.max_wait_s)
    numbers = given["submissions"] or _open(context)
    if not numbers:
        return Shown(
            text="You were told the end of all that you submitted.",
            data={"submissions": [], "timed_out": False},
        )
    if not await queue.receipts(numbers):
        raise UsageError(f"there is no submission {', '.join(map(str, numbers))}")
    left_s, receipts = limit_s, list[Receipt]()
    while True:
        part_s = min(left_s, SLICE_S)
        receipts = list(await queue.wait(numbers, part_s, any_done=given["any_done"]))
        left_s -= part_s
        study = context.study
        done = [is_done(receipt, study) for receipt in receipts]
        if all(done) or (given["any_done"] and any(done)) or left_s <= 0:
            break
        if context.progress is not None:
            await context.progress(
                limit_s - left_s, limit_s, f"{sum(done)} of {len(done)} submissions are done"
            )
    _take(context, receipts)
    context.told.update(receipt.id for receipt, is_over in zip(receipts, done, strict=True) if is_over)
    timed_out = not (all(done) or (given["any_done"] and any(done)))
    heading = "The time is over; these are not all done yet." if timed_out else "Done."
    shown = shown_receipts(_by_number(receipts), study, heading)
    return Shown(text=shown.text, data={**shown.data, "timed_out": timed_out})


def _open(context: ToolContext) -> tuple[int, ...]:
    """Submissions of this conversation, and those that wait, without the ones whose end was told."""
    return tuple(sorted({*context.receipts, *context.study.waiting} - context.told))


async def _submissions(context: ToolContext, given: Arguments) -> Shown:
    study = context.study
    numbers = given["submissions"] or sorted({*context.receipts, *study.waiting})
    receipts = list(await context.own_queue().receipts(numbers))
    _take(context, receipts)
    left_out = max(0, len(receipts) - MAX_LISTED)
    heading = f"The newest {MAX_LISTED} of {len(receipts)}:" if left_out else ""
    shown = shown_receipts(_by_number(receipts[left_out:]), study, heading)
    missing = sorted(set(given["submissions"]) - {receipt.id for receipt in receipts})
    if missing:
        raise UsageError(f"there is no submission {', '.join(map(str, missing))}")
    return Shown(text=shown.text or "There is no submission yet.", data={**shown.data, "left_out": left_out})


async def _cancel(context: ToolContext, given: Arguments) -> str:
    if not given["submissions"] and not given["experiments"]:
        raise UsageError("say what to cancel: numbers of submissions, of experiments, or both")
    text = await context.own_queue().cancel(given["submissions"], given["experiments"])
    return text or "There was nothing to cancel."


async def _try_out(context: ToolContext, given: Arguments) -> Shown:
    checked = context.checker.changed(_after(context, given), title="a try")
    _forget(context, checked)
    draft: Draft = checked.draft
    seconds = min(given["seconds"] if given["seconds"] > 0 else TRY_OUT_S, 3 * TRY_OUT_S)
    trying = asyncio.ensure_future(context.own_queue().try_out(draft, context.checker.ask.base, seconds))
    waited_s = 0.0
    try:
        while not (await asyncio.wait([trying], timeout=SLICE_S))[0]:
            waited_s += SLICE_S
            if context.progress is not None:
                await context.progress(min(waited_s, seconds), seconds, "trying it out")
    finally:
        trying.cancel()
    tried = trying.result()
    return Shown(text=tried.text, data={"broke": tried.broke})


_MORE_CONSTANTS = {
    **CONSTANTS,
    "description": "Constants to set by name, on top of your edits; may be empty.",
}
_MORE_EDITS = {**EDITS, "description": "Search and replace, on top of your edits; may be empty."}

ORDERING = (
    tool(
        "submit",
        "Submit one change to be run as an experiment: your edits since the last submit, or constants and "
        "edits given here. Or have earlier ideas put together (`ideas`), or an experiment run again "
        "(`again`). It is queued at once, and this does not wait for it: submit a batch, then wait.",
        _submit,
        CHANGE,
        on_files=True,
        restores=True,
        constants=_MORE_CONSTANTS,
        edits=_MORE_EDITS,
        ideas=wholes(
            "Numbers of earlier ideas to put together, under the change if there is one; may be empty."
        ),
        again=whole("An experiment to run again, with other seeds; 0 for none."),
        tier=text("The tier to run on; empty for the first with a free slot."),
        runs=whole("How many runs, each with another seed; 0 for 1."),
        budget=number(
            "A share of the full training budget, such as 0.25, for a cheaper look; 0 for all of it."
        ),
    ),
    tool(
        "wait",
        "Wait until submissions are done, for a limited time; says what they gave, and whether it timed out.",
        _wait,
        read_only=True,
        submissions=wholes("Their numbers; empty for all of yours whose end you were not told."),
        any_done=flag("Return as soon as one of them is done; otherwise when all are."),
        timeout_s=number(f"Seconds, at most {MAX_WAIT_S:g}; 0 for {DEFAULT_WAIT_S:g}."),
    ),
    tool(
        "submissions",
        "How submissions stand: waiting, running, done, refused.",
        _submissions,
        read_only=True,
        submissions=wholes("Their numbers; empty for all of yours."),
    ),
    tool(
        "cancel",
        "Withdraw submissions, waiting or running, or end single experiments.",
        _cancel,
        submissions=wholes("Numbers of submissions; may be empty."),
        experiments=wholes("Numbers of experiments; may be empty."),
    ),
)
TRY_OUT = tool(
    "try_out",
    f"Run your edits for {TRY_OUT_S:g} seconds on a free slot, as a check: does it start, train, and fit "
    "in memory? It is no experiment and has no verdict.",
    _try_out,
    on_files=True,
    constants=_MORE_CONSTANTS,
    edits=_MORE_EDITS,
    seconds=number(f"How long; 0 for {TRY_OUT_S:g}, at most {3 * TRY_OUT_S:g}."),
)
