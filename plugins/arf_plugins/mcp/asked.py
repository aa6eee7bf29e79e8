"""The tools for an agent that arf itself has asked, and that runs as a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import define, field

from arf.errors import UsageError
from arf.sdk.scripts import apply_hunks, parse_patch
from arf.sdk.studies import StudyReader
from arf.types import Ask, AskKind, Draft
from arf_plugins.llm.drafts import Checked
from arf_plugins.llm.tools import Outcome, Tool, ToolContext, tools_for, unified
from arf_plugins.mcp.contexts import (
    KEY,
    bench_over,
    content_key,
    files_for,
    on_files,
    order_on_files,
    schema_of,
)
from arf_plugins.mcp.folder import AskFolder
from arf_plugins.mcp.server import Offered, Report
from arf_plugins.mcp.trees import AgentTree

INSTRUCTIONS = """\
You were asked for experiments on a training script. Edit the files of the current folder with your own \
tools; `submit` hands in what you changed as one change and restores the files, then go on with the next. \
What you only say is lost: only what you submit counts. End with `done`."""


@define
class Asked:
    """The tools of `arf mcp --ask FOLDER`. What is submitted is a line in the folder's `submitted.jsonl`."""

    folder: AskFolder
    view: StudyReader
    ask: Ask
    tree: AgentTree
    context: ToolContext = field(init=False)
    _report: Report | None = None

    def __attrs_post_init__(self) -> None:
        self.context = bench_over(self.view, self.ask, report=self._tell)
        self._recall()

    @classmethod
    def open(cls, folder: Path) -> Asked:
        """Raises UsageError where the folder holds no ask."""
        ask, home, top = AskFolder(folder).read()
        view = StudyReader.open(home)
        return cls(AskFolder(folder), view, ask, AgentTree(top.resolve(), view.workspace, ask.base))

    def tools(self) -> list[Offered]:
        return [self._offered(tool) for tool in tools_for(self.ask.kind, own_editor=True)]

    def _offered(self, tool: Tool) -> Offered:
        orders = tool.spec.name == "submit"

        async def run(arguments: dict[str, Any], report: Report) -> Outcome:
            key = str(arguments.pop("key", None) or "") if orders else ""
            self._report = report
            if tool.spec.name == "done":
                return await self._done(tool, arguments)
            if orders and self.ask.kind is not AskKind.EXPERIMENTS:
                return await self._propose(tool, arguments, key)
            if orders:
                self.context.files = files_for(self.context, self.tree, tool, arguments)
                key = key or content_key(self.context, tool, arguments)
                return await order_on_files(self.view, self.context, self.tree, tool, arguments, key)
            return await on_files(self.context, self.tree, tool, arguments, key)

        return Offered(
            name=tool.spec.name,
            description=tool.spec.description,
            schema=schema_of(tool, {"key": KEY} if orders else {}),
            run=run,
            read_only=tool.read_only,
            alone=tool.restores,
            destructive=tool.spec.name in ("reset", "cancel"),
        )

    async def _tell(self, done: float, total: float, message: str) -> None:
        if self._report is not None:
            await self._report(done, total, message)

    # ---- Ideas and factors ------------------------------------------------------------------

    async def _propose(self, tool: Tool, arguments: Mapping[str, Any], key: str) -> Outcome:
        """Take the files as an idea, and write it down before it is told to be accepted."""
        context, base = self.context, self.context.checker.brief.files
        after = self.tree.read(base)
        context.files = dict(after)
        key = key or content_key(context, tool, arguments)
        if self._is_known(key):
            return Outcome(text=f"This very call was made before: {context.submitted} are submitted.")
        had = len(context.changes)
        got = await on_files(context, self.tree, tool, arguments, key)
        if len(context.changes) > had:
            draft = _last(context, str(arguments.get("factor") or ""))
            self.folder.add(
                {
                    "title": draft.title,
                    "reason": draft.reason,
                    "expected": draft.expected,
                    "patch": unified(base, after),
                    "factor": " ".join(str(arguments.get("factor") or "").split()),
                    "constants": dict(draft.constants),
                    "key": key,
                }
            )
        return got

    async def _done(self, tool: Tool, arguments: Mapping[str, Any]) -> Outcome:
        if any(record.get("done") for record in self.folder.records()):
            return Outcome(text="Thank you.")
        got = await on_files(self.context, self.tree, tool, arguments, "done")
        if not got.failed:
            self.folder.add({"done": True, "note": self.context.note, "exhausted": self.context.exhausted})
        return got

    # ---- The record -------------------------------------------------------------------------

    def _is_known(self, key: str) -> bool:
        return any(record.get("key") == key for record in self.folder.records())

    def _recall(self) -> None:
        """Take up what an earlier server of this ask has written down, so that nothing is taken twice."""
        context = self.context
        for record in self.folder.records():
            if record.get("done"):
                context.done = True
                continue
            after = _patched(context.checker.brief.files, record["patch"])
            try:
                checked = context.checker.changed(after, title=record["title"], reason=record["reason"])
            except UsageError:  # the study has it by now
                checked = Checked(Draft(title=record["title"], patch=record["patch"]), "")
            if record["factor"]:
                context.levels.setdefault(record["factor"], []).append(checked.draft)
            else:
                context.ideas.append(checked.draft)
            context.changes.append(checked.change)


def _last(context: ToolContext, factor: str) -> Draft:
    return context.levels[" ".join(factor.split())][-1] if context.wants_factors else context.ideas[-1]


def _patched(files: Mapping[str, str], patch: str) -> dict[str, str]:
    """The files with a patch that `unified` has made."""
    after = dict(files)
    for part in parse_patch(patch):
        path = (part.new or "").removeprefix("b/")
        after[path] = apply_hunks(after.get(path, ""), part.hunks, path)
    return after
