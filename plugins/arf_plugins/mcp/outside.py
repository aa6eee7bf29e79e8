"""The tools for somebody's own agent: start and stop studies, and drive one from outside."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field

from arf.errors import ArfError, UsageError
from arf.sdk.commands import find_study, study_folders, written_at
from arf.sdk.studies import StudyReader
from arf.types import Ask, AskKind
from arf_plugins.llm import prompt as told
from arf_plugins.llm.tools import Outcome, Tool, ToolContext, tools_for
from arf_plugins.llm.tools.context import checked_arguments, flag, text
from arf_plugins.mcp import studies
from arf_plugins.mcp.contexts import (
    KEY,
    bench_over,
    content_key,
    files_for,
    on_files,
    order_on_files,
    schema_of,
)
from arf_plugins.mcp.server import Offered, Report
from arf_plugins.mcp.trees import AgentTree, git_tree, move

TREE = "work"
"""The folder of the agent's work tree, in the study's."""
MAX_DIFF = 20_000

INSTRUCTIONS = """\
arf runs machine-learning experiments in parallel and judges them against the measured noise. Start a \
study (start_study), or take up one (studies, resume_study). work_tree tells a folder that is yours: edit \
the script there with your own tools, submit what you changed, and go on with the next change at once; arf \
runs the submissions as slots get free, also while you are away. Submit in batches, wait, read the results, \
and decide. A gain of less than two or three sigma is noise: have it run again before you believe it. Keep \
the slots busy, mind the budget, and end with stop_study, or let the study run out of its budget."""

STUDY = text("The study's name, or the beginning of it; empty for the one that this session is about.")


@define
class Outside:
    """The tools of `arf mcp [STUDY]`. Studies are opened for one call and closed again."""

    current: str | None = None
    """The folder of the study that is meant where none is named; None: the newest one's."""
    _told: dict[Path, set[int]] = field(factory=dict)
    """By study: the submissions whose end this session was told."""
    _last: dict[Path, tuple[dict[str, Any], str]] = field(factory=dict)
    """What `submit` last took from a work tree, and its key."""

    def tools(self) -> list[Offered]:
        registry = [self._offered(tool) for tool in tools_for(None)]
        return [*self._own(), *registry]

    # ---- The registry's tools ---------------------------------------------------------------

    def _offered(self, tool: Tool) -> Offered:
        orders = tool.spec.name == "submit"
        more = {"study": STUDY, **({"key": KEY} if orders else {})}

        async def run(arguments: dict[str, Any], report: Report) -> Outcome:
            study = _popped(arguments, "study")
            key = _popped(arguments, "key") if orders else ""
            with StudyReader.open(self._home(study)) as view:
                tree = self._tree(view)
                ask = Ask(kind=AskKind.EXPERIMENTS, n=1, base=tree.base)
                context = bench_over(view, ask, report=report, told=self._told.get(view.home))
                self._told[view.home] = context.told
                context.kind = None
                if not orders:
                    return _with_advice(await on_files(context, tree, tool, arguments, ""), view)
                key = key or self._content_key(context, tree, tool, arguments)
                got = await order_on_files(view, context, tree, tool, arguments, key)
                if got.failed:
                    return _with_advice(got, view)
                self._last[tree.top] = (arguments, key)
                return self._with_hint(got, view, tree)

        return Offered(
            name=tool.spec.name,
            description=tool.spec.description,
            schema=schema_of(tool, more),
            run=run,
            read_only=tool.read_only,
            alone=tool.restores,
            destructive=tool.spec.name in ("reset", "cancel"),
        )

    def _content_key(
        self, context: ToolContext, tree: AgentTree, tool: Tool, arguments: dict[str, Any]
    ) -> str:
        """A key for a call without one. A call that a client has sent again finds its files restored."""
        context.files = files_for(context, tree, tool, arguments)
        last, key = self._last.get(tree.top, (None, ""))
        if last == arguments and not context.diff():
            return key
        return content_key(context, tool, arguments)

    def _with_hint(self, got: Outcome, view: StudyReader, tree: AgentTree) -> Outcome:
        if tree.base == view.study().incumbent_commit:
            return got
        hint = "\nYour work tree is not at the best so far: work_tree with base `best` brings it there."
        return Outcome(text=got.text + hint, data=got.data)

    # ---- Studies ----------------------------------------------------------------------------

    def _own(self) -> list[Offered]:
        return [
            _own(
                "start_study",
                "Start a study of a workspace: arf runs it in a process of its own, whether this session "
                "goes on or not. By default, only you submit experiments. First the "
                "baseline is run a few times, to measure the noise.",
                self._start,
                {**studies.START, "key": KEY},
            ),
            _own(
                "resume_study",
                "Go on with a study that has ended or was stopped; a budget given here takes the place of "
                "its own.",
                self._resume,
                {"study": STUDY, **studies.BUDGET},
            ),
            _own(
                "stop_study",
                "End a study that runs: its jobs are ended, all is recorded, and it can be resumed.",
                self._stop,
                {"study": STUDY},
                destructive=True,
            ),
            _own(
                "studies",
                "The studies of the workspace, the newest first.",
                self._studies,
                {},
                read_only=True,
            ),
            _own(
                "status",
                "Where a study stands: state, best, noise, budget, running, last verdicts, your work tree.",
                self._status,
                {"study": STUDY},
                read_only=True,
            ),
            _own(
                "best",
                "The best so far, its gain and its diff against the original; with `apply`, its changes are "
                "written to the user's files, and nothing is committed.",
                self._best,
                {"study": STUDY, "apply": flag("Write it to the files. Only if the user wants that.")},
            ),
            _own(
                "work_tree",
                "Your own copy of the workspace, to edit with your own tools: the folder, its base, what may "
                "be changed, and what you changed. `base` brings it to another commit.",
                self._work_tree,
                {
                    "study": STUDY,
                    "base": text(
                        "`best`, `original`, or the number of an experiment; empty: leave it where it is."
                    ),
                    "discard": flag("Lose what was edited and not submitted."),
                },
            ),
        ]

    async def _start(self, given: dict[str, Any], report: Report) -> Outcome:
        home, log = await studies.start(given, report)
        return self._begun(home, log, "started")

    async def _resume(self, given: dict[str, Any], report: Report) -> Outcome:
        home = self._home(given.pop("study"))
        log = await studies.resume(home, given, report)
        return self._begun(home, log, "goes on")

    def _begun(self, home: Path, log: Path, how: str) -> Outcome:
        self.current = str(home)
        with StudyReader.open(home) as view:
            tree = self._tree(view)
            said = [f"Study {home.name} {how}. It writes its progress to {log}.", *_tree_lines(tree, view)]
            said.append(told.hardware(view.study()))
            data = {
                "study": home.name,
                "directory": str(view.home),
                "log": str(log),
                "work_tree": str(tree.root),
            }
            return Outcome(text="\n".join(said), data=data)

    async def _stop(self, given: dict[str, Any], report: Report) -> Outcome:
        home = self._home(given["study"])
        said = await studies.stop(home, report)
        return Outcome(text=said, data={"study": home.name, "running": False})

    async def _studies(self, given: dict[str, Any], report: Report) -> Outcome:
        folders = sorted(study_folders().values(), key=written_at, reverse=True)
        rows, lines = [], []
        for home in folders:
            try:
                summary = _summary(home)
            except ArfError as error:
                lines.append(f"{home.name}: cannot be read: {error}")
                continue
            best = summary["best"] or {}
            lines.append(
                f"{home.name}: {summary['state']}, {summary['ended']} experiments, "
                f"strategy {summary['strategy']}, best gain {best.get('gain') or 0:.5g}"
            )
            rows.append(
                {
                    name: summary[name]
                    for name in ("study", "state", "ended", "strategy", "agent", "directory")
                }
            )
        none = "There is no study yet: start_study starts one."
        return Outcome(text="\n".join(lines) or none, data={"studies": rows})

    async def _status(self, given: dict[str, Any], report: Report) -> Outcome:
        with StudyReader.open(self._home(given["study"])) as view:
            summary, tree = view.summary(), self._tree(view)
            lines = [*_status_lines(summary), *_left_lines(view), *_tree_lines(tree, view)]
            shown = {name: value for name, value in summary.items() if name not in ("slot_s", "workspace")}
            shown |= {"budget_left": dict(view.budget_left()), "work_tree": str(tree.root)}
            return Outcome(text="\n".join(lines), data=shown)

    async def _best(self, given: dict[str, Any], report: Report) -> Outcome:
        home = self._home(given["study"])
        data = await studies.best(home, apply=given["apply"])
        with StudyReader.open(home) as view:
            diff = view.workspace.diff(view.study().base, data["commit"])
        rows = [
            f"#{data['experiment']} {data['title']}",
            f"{data['metric']} {data['mean']:.6g} (mean of {data['n']})",
            f"gain {data['gain'] or 0:.5g} against the baseline, commit {data['commit']}",
        ]
        if data.get("final"):
            rows.append(str(data["final"]["text"]))
        if given["apply"]:
            rows.append(
                f"written: {', '.join(data['applied']) or 'nothing: the files are like that already'}"
            )
        rows.append(diff[:MAX_DIFF] or "It is the original script.")
        return Outcome(text="\n".join(rows), data=data)

    async def _work_tree(self, given: dict[str, Any], report: Report) -> Outcome:
        with StudyReader.open(self._home(given["study"])) as view:
            tree = self._tree(view)
            if given["base"]:
                commit = _commit(view, given["base"])
                changed = tree.root.is_dir() and _changed(tree, view)
                if changed and not given["discard"]:
                    raise UsageError(
                        f"{', '.join(changed)} in your work tree was changed and not submitted",
                        hint="submit it first, or say discard",
                    )
                tree = move(tree, commit)
            elif given["discard"]:
                tree = move(tree, tree.base)
            return Outcome(
                text="\n".join(_tree_lines(tree, view)),
                data={
                    "path": str(tree.root),
                    "base": tree.base,
                    "is_best": tree.base == view.study().incumbent_commit,
                    "editable": list(view.workspace.settings.editable),
                    "changed": _changed(tree, view),
                },
            )

    # ---- Finding ----------------------------------------------------------------------------

    def _home(self, name: str | None) -> Path:
        return find_study(name or self.current)

    def _tree(self, view: StudyReader) -> AgentTree:
        return git_tree(view.workspace, view.home / TREE, view.study().incumbent_commit)


def _own(
    name: str,
    description: str,
    run: Callable[[dict[str, Any], Report], Awaitable[Outcome]],
    properties: Mapping[str, Any],
    *,
    read_only: bool = False,
    destructive: bool = False,
) -> Offered:
    schema = {"type": "object", "properties": dict(properties), "additionalProperties": False}

    async def checked(arguments: dict[str, Any], report: Report) -> Outcome:
        return await run(checked_arguments(arguments, schema), report)

    return Offered(
        name=name,
        description=description,
        schema=schema,
        run=checked,
        read_only=read_only,
        alone=not read_only,
        destructive=destructive,
    )


def _popped(arguments: dict[str, Any], name: str) -> str:
    value = arguments.pop(name, None)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{name} must be of type string")
    return (value or "").strip()


def _with_advice(got: Outcome, view: StudyReader) -> Outcome:
    """What failed because the study does not run is told with the tool that helps."""
    if not got.failed or view.is_running or "does not run" not in got.text:
        return got
    return Outcome(text=f"{got.text} (the tool resume_study does that)", failed=True)


def _summary(home: Path) -> dict[str, Any]:
    with StudyReader.open(home) as reader:
        return reader.summary(verdicts=0)


def _commit(view: StudyReader, named: str) -> str:
    word = named.strip()
    if word == "best":
        return view.study().incumbent_commit
    return view.study().base if word == "original" else view.experiment(word).commit


# ---- In words -----------------------------------------------------------------------------------


def _changed(tree: AgentTree, view: StudyReader) -> list[str]:
    before = view.workspace.files(tree.base)
    after = tree.read(before)
    return sorted(path for path in after if after[path] != before.get(path))


def _tree_lines(tree: AgentTree, view: StudyReader) -> list[str]:
    study = view.study()
    where = "the best so far" if tree.base == study.incumbent_commit else "not the best so far"
    if tree.base == study.base and study.incumbent_commit == study.base:
        where = "the original script"
    lines = [
        f"Your work tree: {tree.root}",
        f"It is at commit {tree.base[:12]}, {where}.",
        f"You may change: {', '.join(view.workspace.settings.editable)}.",
    ]
    try:
        changed = _changed(tree, view)
    except ArfError as error:
        return [*lines, f"There is something wrong with it: {error}"]
    return [*lines, f"Changed and not submitted: {', '.join(changed) or 'nothing'}."]


def _status_lines(summary: Mapping[str, Any]) -> list[str]:
    best, objective = summary["best"], summary["objective"]
    reason = f" ({summary['reason']})" if summary["reason"] and summary["state"] != "running" else ""
    lines = [
        f"Study {summary['study']}: {summary['state']}{reason}; strategy {summary['strategy']}, agent "
        f"{summary['agent']}, backend {summary['backend']}; {objective['metric']} is to be "
        f"{'less' if objective['direction'] == 'min' else 'more'}.",
        f"{summary['ended']} experiments have ended: "
        + (
            ", ".join(f"{count} {verdict}" for verdict, count in summary["verdicts"].items()) or "none judged"
        ),
    ]
    if best:
        lines.append(f"Best: #{best['experiment']} {best['title']}, gain {best['gain'] or 0:.5g}")
    for tier, noise in summary["noise"].items():
        lines.append(f"Noise on {tier}: " + ", ".join(f"{name} {value:.3g}" for name, value in noise.items()))
    for run in summary["running"]:
        lines.append(f"Running: #{run['experiment']} {run['title']} on {run['tier']}")
    for run in summary["last"]:
        lines.append(f"Last: #{run['experiment']} {run['title']}: {run['verdict']} {run['reason']}".rstrip())
    return [*lines, *map(str, summary["notes"])]


def _left_lines(view: StudyReader) -> list[str]:
    left = view.budget_left()
    waiting = view.study().waiting_runs
    lines = (
        ["Budget left: " + ", ".join(f"{name} {value:.5g}" for name, value in left.items())] if left else []
    )
    return [*lines, f"{waiting} submitted runs wait for a slot."] if waiting else lines
