"""The tools of a conversation: read, search, edit a copy, check it, look at results, note, submit.

A tool is a name, a schema and a function, and knows no provider. All of them work in memory on the bench,
so that the recorded calls of a broken-off conversation, made again, give the same bench.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field, frozen

from arf import brief as told
from arf.errors import ArfError, UsageError, nearest
from arf.types import AskKind, Draft, Edit, FactorDraft
from arf_plugins.llm.drafts import (
    CONSTANTS,
    Checker,
    edited,
    find_constants,
    problems_of,
    set_constants,
)
from arf_plugins.llm.turns import Schema, ToolSpec

MAX_RESULT_CHARS = 12_000
MAX_MATCHES = 60
DEFAULT_LINES = 400


@define
class Bench:
    """What a conversation works on."""

    checker: Checker
    remember: Callable[[str], None]
    files: dict[str, str] = field(factory=dict)
    """The copy that is edited."""
    ideas: list[Draft] = field(factory=list)
    levels: dict[str, list[Draft]] = field(factory=dict)
    """Levels that were submitted, by factor."""
    changes: list[str] = field(factory=list)
    done: bool = False
    exhausted: bool = False
    note: str = ""

    def __attrs_post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.files = dict(self.checker.brief.files)

    @property
    def submitted(self) -> int:
        return len(self.ideas) + len(self.levels)

    @property
    def factors(self) -> tuple[FactorDraft, ...]:
        return tuple(FactorDraft(name=name, levels=tuple(levels)) for name, levels in self.levels.items())

    @property
    def wants_factors(self) -> bool:
        return self.checker.ask.kind is AskKind.FACTORS


Arguments = Mapping[str, Any]


@frozen(kw_only=True)
class Tool:
    spec: ToolSpec
    run: Callable[[Bench, Arguments], str]
    """Raises UsageError for what the model should do otherwise."""


# ---- Schemas ------------------------------------------------------------------------------------

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}


def _tool(
    name: str, description: str, run: Callable[[Bench, Arguments], str], **properties: Mapping[str, Any]
) -> Tool:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return Tool(spec=ToolSpec(name=name, description=description, parameters=parameters), run=run)


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _whole(description: str) -> dict[str, Any]:
    return {"type": "integer", "description": description}


def checked_arguments(arguments: Any, schema: Schema) -> Arguments:
    """The arguments with what is left out as empty. Raises UsageError where they do not fit."""
    if not isinstance(arguments, dict):
        raise UsageError("the arguments are not a JSON object; write them again")
    properties = schema["properties"]
    for name in arguments:
        if name not in properties:
            raise UsageError(f"there is no argument {name!r}", hint=nearest(name, properties))
    values: dict[str, Any] = {}
    for name, wanted in properties.items():
        kind = wanted["type"]
        value = arguments.get(name)
        if value is None:
            value = {"string": "", "integer": 0, "number": 0, "boolean": False, "array": []}[kind]
        right = isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
        if not right:
            raise UsageError(f"{name} must be of type {kind}")
        values[name] = value
    return values


# ---- The files ----------------------------------------------------------------------------------


def _read_file(bench: Bench, given: Arguments) -> str:
    path = _path(bench, given["path"])
    lines = bench.files[path].splitlines()
    first = max(1, given["first_line"])
    last = min(len(lines), first + (given["lines"] or DEFAULT_LINES) - 1)
    shown = "\n".join(f"{number:5d}  {lines[number - 1]}" for number in range(first, last + 1))
    return f"{path}, lines {first} to {last} of {len(lines)}:\n{shown}"


def _search(bench: Bench, given: Arguments) -> str:
    """Plain text: a model's regular expression could keep the whole study busy."""
    words = [word.casefold() for word in given["text"].split("|") if word.strip()]
    found = [
        f"{path}:{number}: {line.strip()[:160]}"
        for path, text in sorted(bench.files.items())
        for number, line in enumerate(text.splitlines(), 1)
        if any(word in line.casefold() for word in words)
    ]
    more = f"\nand {len(found) - MAX_MATCHES} more" if len(found) > MAX_MATCHES else ""
    return "\n".join(found[:MAX_MATCHES]) + more if found else "no match"


def _edit(bench: Bench, given: Arguments) -> str:
    path = bench.checker.path(given["path"], made=not given["old"])
    bench.files[path] = edited(bench.files, Edit(path=path, old=given["old"], new=given["new"]))
    return _state(bench)


def _set_constants(bench: Bench, given: Arguments) -> str:
    values = bench.checker.values(given["constants"])
    bench.files = set_constants(bench.files, values)
    return _state(bench)


def _reset(bench: Bench, given: Arguments) -> str:
    bench.reset()
    return "The files are as at the base."


def _check(bench: Bench, given: Arguments) -> str:
    return f"{_state(bench)}\n{_diff(bench) or 'There is no change yet.'}"


def _state(bench: Bench) -> str:
    problems = problems_of(bench.files)
    return "\n".join(problems) if problems else "The files parse."


def _diff(bench: Bench) -> str:
    before = bench.checker.brief.files
    lines: list[str] = []
    for path, text in sorted(bench.files.items()):
        old = before.get(path, "")
        if old != text:
            lines += difflib.unified_diff(
                old.splitlines(), text.splitlines(), f"a/{path}", f"b/{path}", lineterm="", n=2
            )
    return "\n".join(lines)


def _path(bench: Bench, path: str) -> str:
    clean = path.strip().removeprefix("./")
    if clean not in bench.files:
        raise UsageError(f"there is no file {path!r} to read", hint=nearest(clean, bench.files))
    return clean


# ---- The study ----------------------------------------------------------------------------------


def _results(bench: Bench, given: Arguments) -> str:
    study = bench.checker.brief.study
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
    count = given["count"] or 30
    lines = [told.describe(item, study) for item in items[:count]]
    more = f"\nand {len(items) - count} more" if len(items) > count else ""
    return "\n".join(lines) + more if lines else "Nothing was tried that fits."


def _experiment(bench: Bench, given: Arguments) -> str:
    brief = bench.checker.brief
    experiment = brief.study.experiments.get(given["id"])
    if experiment is None:
        raise UsageError(f"there is no experiment {given['id']}")
    metrics = ", ".join(f"{name} {value:.6g}" for name, value in sorted(experiment.metrics.items()))
    parts = [
        f"#{experiment.id} {experiment.title} ({experiment.role}, {experiment.tier}, {experiment.state})",
        f"verdict: {experiment.verdict or 'none yet'} {experiment.reason}".rstrip(),
        f"metrics: {metrics or 'none'}",
    ]
    if experiment.curve:
        parts.append("loss by step: " + ", ".join(f"{step}: {loss:.4g}" for step, loss in experiment.curve))
    if brief.diff is not None and experiment.commit != experiment.parent:
        parts.append(brief.diff(experiment.parent, experiment.commit)[:6000])
    parts.append(told.log_tail(brief, experiment.id, 30))
    return "\n".join(part for part in parts if part)


def _effects(bench: Bench, given: Arguments) -> str:
    return told.effects(bench.checker.brief.study) or "There was no design yet."


def _hardware(bench: Bench, given: Arguments) -> str:
    return told.hardware(bench.checker.brief.study)


def _constants(bench: Bench, given: Arguments) -> str:
    lines = [
        f"{path}:{constant.line}: {name} = {constant.literal}  # {constant.comment}".rstrip(" #")
        for name, where in sorted(find_constants(bench.files).items())
        for path, constant in where
    ]
    return "\n".join(lines) or "There are no constants."


def _notes(bench: Bench, given: Arguments) -> str:
    return told.notes(bench.checker.brief.directory) or "There are no notes yet."


def _note(bench: Bench, given: Arguments) -> str:
    bench.remember(given["text"])
    return "Noted."


# ---- Submitting ---------------------------------------------------------------------------------


def _submit(bench: Bench, given: Arguments) -> str:
    checker = bench.checker
    title = " ".join(given["title"].split())[:100]
    if not title:
        raise UsageError("the idea needs a title")
    factor = " ".join(given["factor"].split())
    if bench.wants_factors:
        if not factor:
            raise UsageError("factors were asked for: say which factor this is a level of")
        checker.check_factor_name(factor)
        if factor not in bench.levels and bench.submitted >= checker.ask.n:
            raise UsageError(f"{checker.ask.n} factors were asked for, and they are there")
    elif bench.submitted >= checker.ask.n:
        raise UsageError(f"{checker.ask.n} ideas were asked for, and they are there; call done")
    reason = given["reason"].strip()[:1000]
    if given["risk"].strip():
        reason = f"{reason}\nRisk: {given['risk'].strip()[:300]}".strip()
    checked = checker.changed(bench.files, title=title, reason=reason, expected=float(given["expected_gain"]))
    if bench.wants_factors:
        bench.levels.setdefault(factor, []).append(checked.draft)
    else:
        bench.ideas.append(checked.draft)
    bench.changes.append(checked.change)
    bench.reset()
    bench.done = bench.submitted >= checker.ask.n and not bench.wants_factors
    return f"Accepted: {bench.submitted} of up to {checker.ask.n}. The files are as at the base again." + (
        "" if bench.done else " Go on with the next, or call done."
    )


def _done(bench: Bench, given: Arguments) -> str:
    bench.done = True
    bench.note = " ".join(given["note"].split())[:300]
    bench.exhausted = given["exhausted"] and not bench.submitted
    return "Thank you."


TOOLS: tuple[Tool, ...] = (
    _tool(
        "read_file",
        "Read lines of a file, with your edits. Line numbers are not part of the text.",
        _read_file,
        path=_text("The file."),
        first_line=_whole("From 1."),
        lines=_whole(f"How many; 0 for {DEFAULT_LINES}."),
    ),
    _tool(
        "search",
        "Find the lines of the files that contain a text, in capitals or not.",
        _search,
        text=_text("The text; several alternatives are separated by |."),
    ),
    _tool("constants", "List the constants of the files with their values and comments.", _constants),
    _tool(
        "set_constants",
        "Set constants by name in your copy of the files. Prefer it to edit where it is enough.",
        _set_constants,
        constants=CONSTANTS,
    ),
    _tool(
        "edit",
        "Replace text in your copy of a file. `old` must be there exactly once.",
        _edit,
        path=_text("The file."),
        old=_text("The text as it is, spaces included; empty to make a new file."),
        new=_text("What it becomes."),
    ),
    _tool("check", "Check that the files parse, and show your change as a diff.", _check),
    _tool("reset", "Take back all edits since the last submit.", _reset),
    _tool(
        "results",
        "What was tried, with gains in sigmas, verdicts and reasons.",
        _results,
        pattern=_text("Only what contains this text; empty for all."),
        best_first={"type": "boolean", "description": "By gain; otherwise the newest first."},
        count=_whole("How many; 0 for 30."),
    ),
    _tool(
        "experiment",
        "One experiment: metrics, curve, diff and the end of its log.",
        _experiment,
        id=_whole("Its number."),
    ),
    _tool("effects", "Main effects in the designed experiments.", _effects),
    _tool("hardware", "What there is to run on.", _hardware),
    _tool("read_notes", "What you noted in earlier conversations.", _notes),
    _tool(
        "write_note",
        "Note what is worth remembering in later conversations.",
        _note,
        text=_text("One or two sentences."),
    ),
    _tool(
        "submit",
        "Submit your edits since the last submit as one idea, to be run as an experiment.",
        _submit,
        title=_text("One line that says what changes."),
        reason=_text("Why it should help."),
        expected_gain={"type": "number", "description": "In units of the objective; positive is better."},
        risk=_text("What may go wrong; empty if nothing special."),
        factor=_text("Where factors were asked for: the factor that this is a level of; otherwise empty."),
    ),
    _tool(
        "done",
        "End the conversation.",
        _done,
        note=_text("A line for the study's log."),
        exhausted={
            "type": "boolean",
            "description": "True only if nothing worth a run is left for this base.",
        },
    ),
)
BY_NAME: Mapping[str, Tool] = {tool.spec.name: tool for tool in TOOLS}


def call(bench: Bench, name: str, arguments: Any) -> tuple[str, bool]:
    """What a tool says, and whether it failed."""
    tool = BY_NAME.get(name)
    if tool is None:
        return f"there is no tool {name!r}; {nearest(name, BY_NAME)}", True
    try:
        text = tool.run(bench, checked_arguments(arguments, tool.spec.parameters))
    except ArfError as error:
        return str(error), True
    if len(text) > MAX_RESULT_CHARS:
        text = text[:MAX_RESULT_CHARS] + f"\n[… {len(text) - MAX_RESULT_CHARS:,} characters left out …]"
    return text, False
