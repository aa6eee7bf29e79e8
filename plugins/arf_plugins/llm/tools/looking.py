"""The tools that look at the study: results, effects, hardware, budget, notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arf.errors import UsageError
from arf.study import Study
from arf.types import Experiment, Receipt, SubmissionState
from arf_plugins.llm import prompt as told
from arf_plugins.llm.tools.context import Arguments, Shown, ToolContext, flag, text, tool, whole

MAX_CHARS_OF_DIFF = 6000
LOG_LINES = 30


def _results(context: ToolContext, given: Arguments) -> Shown:
    study = context.study
    items = told.tried(study)
    if given["pattern"]:
        wanted = given["pattern"].casefold()
        items = [item for item in items if wanted in told.describe(item, study).casefold()]
    if given["best_first"]:
        items.sort(
            key=lambda item: (-(item.gain if item.gain is not None else float("-inf")), item.experiment.id)
        )
    else:
        items.reverse()
    count = max(0, given["count"]) or 30
    lines = [told.describe(item, study) for item in items[:count]]
    more = f"\nand {len(items) - count} more" if len(items) > count else ""
    return Shown(
        text="\n".join(lines) + more if lines else "Nothing was tried that fits.",
        data={
            "results": [{**_facts(item.experiment), **_measured(item)} for item in items[:count]],
            "left_out": max(0, len(items) - count),
        },
    )


def _experiment(context: ToolContext, given: Arguments) -> Shown:
    brief, study = context.checker.brief, context.study
    experiment = study.experiments.get(given["id"])
    if experiment is None:
        last = max(study.experiments, default=0)
        hint = f"numbers go from 1 to {last}" if last else "there is none yet"
        raise UsageError(f"there is no experiment {given['id']}", hint=hint)
    metrics = ", ".join(f"{name} {value:.6g}" for name, value in sorted(experiment.metrics.items()))
    parts = [
        f"#{experiment.id} {experiment.title} ({experiment.role}, {experiment.tier}, {experiment.state})",
        f"verdict: {experiment.verdict or 'none yet'} {experiment.reason}".rstrip(),
        f"metrics: {metrics or 'none'}",
    ]
    if experiment.curve:
        parts.append("loss by step: " + ", ".join(f"{step}: {loss:.4g}" for step, loss in experiment.curve))
    if brief.diff is not None and experiment.commit != experiment.parent:
        parts.append(brief.diff(experiment.parent, experiment.commit)[:MAX_CHARS_OF_DIFF])
    parts.append(told.log_tail(brief, experiment.id, LOG_LINES))
    return Shown(
        text="\n".join(part for part in parts if part),
        data={
            **_facts(experiment),
            "commit": experiment.commit,
            "ideas": list(experiment.ideas),
            "seed": experiment.seed,
            "metrics": dict(experiment.metrics),
        },
    )


def _effects(context: ToolContext, given: Arguments) -> str:
    return told.effects(context.study) or "There was no design yet."


def _hardware(context: ToolContext, given: Arguments) -> str:
    return told.hardware(context.study)


def _budget(context: ToolContext, given: Arguments) -> Shown:
    study = context.study
    left = context.budget() if context.budget is not None else context.checker.brief.budget_left
    when = "" if context.budget is not None else " (when this conversation began)"
    amounts = ", ".join(_amount(name, value) for name, value in sorted(left.items()))
    lines = [f"Budget left{when}: {amounts}" if left else "No budget is set: it ends when it is stopped."]
    tiers: dict[str, Any] = {}
    for tier in study.tiers:
        sigma, df = told.noise(study, tier.name)
        running = study.running_on(tier.name)
        noise = (
            f"noise sigma {sigma:.3g} ({df} degrees of freedom)" if sigma is not None else "noise unknown yet"
        )
        lines.append(f"- {tier.name}: {running} of {tier.slots} slots in use, {noise}")
        tiers[tier.name] = {"slots": tier.slots, "running": running, "noise_sigma": sigma, "noise_df": df}
    lines.append(f"{study.waiting_runs} submitted runs wait for a slot.")
    return Shown(
        text="\n".join(lines), data={"left": dict(left), "tiers": tiers, "waiting_runs": study.waiting_runs}
    )


def _amount(name: str, value: float) -> str:
    if name == "seconds":
        return f"{value / 3600:.1f} h" if value >= 3600 else f"{value / 60:.0f} min"
    return f"${value:.2f}" if name == "usd" else f"{value:,.5g} {name.replace('_', ' ')}"


def _notes(context: ToolContext, given: Arguments) -> str:
    return told.notes(context.checker.brief.directory) or "There are no notes yet."


def _note(context: ToolContext, given: Arguments) -> str:
    if not given["text"].strip():
        raise UsageError("there is nothing to note")
    context.remember(given["text"])
    return "Noted."


# ---- Experiments and submissions in words and as data -------------------------------------------


def _facts(experiment: Experiment) -> dict[str, Any]:
    return {
        "experiment": experiment.id,
        "title": experiment.title,
        "tier": experiment.tier,
        "role": str(experiment.role),
        "state": str(experiment.state),
        "verdict": str(experiment.verdict) if experiment.verdict else None,
        "value": experiment.value,
        "reason": experiment.reason,
    }


def _measured(item: told.Tried) -> dict[str, Any]:
    return {"gain": item.gain, "sigmas": item.sigmas, "runs": item.runs}


def shown_receipts(receipts: Mapping[int, Receipt], study: Study, heading: str = "") -> Shown:
    """Submissions with their experiments, and what these gave so far; all runs of a change together."""
    wanted = {number for receipt in receipts.values() for number in receipt.experiments}
    items = (
        {
            (item.experiment.tree, item.experiment.tier, item.experiment.budget): item
            for item in told.tried(study)
        }
        if wanted
        else {}
    )
    lines, data = [heading] if heading else [], []
    for receipt in receipts.values():
        lines.append(f"submission {receipt.id} ({receipt.title}): {_standing(receipt, study)}")
        runs = []
        for number in receipt.experiments:
            experiment = study.experiments.get(number)
            if experiment is None:
                continue
            item = items.get((experiment.tree, experiment.tier, experiment.budget))
            runs.append({**_facts(experiment), **(_measured(item) if item else {})})
            lines.append(f"  {_told_run(experiment, item, study)}")
        data.append(
            {
                "submission": receipt.id,
                "title": receipt.title,
                "state": str(receipt.state),
                "problem": receipt.problem,
                "done": is_done(receipt, study),
                "experiments": runs,
            }
        )
    return Shown(text="\n".join(lines), data={"submissions": data})


def _standing(receipt: Receipt, study: Study) -> str:
    if receipt.state is SubmissionState.ACCEPTED and is_done(receipt, study):
        return "done"
    if receipt.state is SubmissionState.ACCEPTED:
        return "all its runs have started"
    if receipt.state is SubmissionState.WAITING and receipt.experiments:
        return f"{len(receipt.experiments)} of its runs have started, the others wait for a slot"
    if receipt.state is SubmissionState.WAITING:
        return "waits for a slot"
    return f"{receipt.state}: {receipt.problem}" if receipt.problem else str(receipt.state)


def _told_run(experiment: Experiment, item: told.Tried | None, study: Study) -> str:
    if item is not None and item.experiment.id == experiment.id:
        return told.describe(item, study)
    value = f" | {study.objective.metric} {experiment.value:.6g}" if experiment.value is not None else ""
    verdict = experiment.verdict or ("running" if experiment.ended_at is None else "undecided")
    of = f" | a run of #{item.experiment.id}" if item is not None else ""
    return f"#{experiment.id} {experiment.title}{of}{value} | {verdict}: {experiment.reason}".rstrip(": ")


def is_done(receipt: Receipt, study: Study) -> bool:
    """Whether nothing of it waits and each of its experiments has its verdict."""
    if receipt.state is SubmissionState.WAITING:
        return False
    runs = [study.experiments.get(number) for number in receipt.experiments]
    return all(run is not None and run.verdict is not None for run in runs)


LOOKING = (
    tool(
        "results",
        "What was tried, with gains in sigmas, verdicts and reasons.",
        _results,
        read_only=True,
        pattern=text("Only what contains this text; empty for all."),
        best_first=flag("By gain; otherwise the newest first."),
        count=whole("How many; 0 for 30."),
    ),
    tool(
        "experiment",
        "One experiment: metrics, curve, diff and the end of its log.",
        _experiment,
        read_only=True,
        needed=["id"],
        id=whole("Its number."),
    ),
    tool("effects", "Main effects in the designed experiments.", _effects, read_only=True),
    tool("hardware", "What there is to run on.", _hardware, read_only=True),
    tool("read_notes", "What you noted in earlier conversations.", _notes, read_only=True),
    tool(
        "write_note",
        "Note what is worth remembering in later conversations.",
        _note,
        needed=["text"],
        text=text("One or two sentences."),
    ),
)
BUDGET = tool(
    "budget",
    "What is left of the budget, how noisy each tier is, and how many slots are in use.",
    _budget,
    read_only=True,
)
