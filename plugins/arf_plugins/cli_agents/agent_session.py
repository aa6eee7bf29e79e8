"""What one conversation has: its copy of the files, its session, and the folder of the present ask."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arf.errors import AgentError, UsageError
from arf.interfaces import Brief, Workspace
from arf.types import Answer, Ask, AskKind, Draft, FactorDraft, Usage
from arf_plugins.llm.drafts import Checker
from arf_plugins.mcp.folder import AskFolder
from arf_plugins.mcp.trees import AgentTree

SESSION = "session.json"


class Lane:
    """`folder` is its own and is kept with the study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.tree = self.folder / "tree"
        """The whole repository at the ask's base."""
        self.asked = AskFolder(self.folder / "ask")

    def open(self, ask: Ask, brief: Brief) -> None:
        """Bring the files to the ask's base, and write down what `arf mcp --ask` serves."""
        workspace, home = _on_disk(brief)
        self.folder.mkdir(parents=True, exist_ok=True)
        workspace.work_tree(self.tree).fill(ask.base, None)
        shutil.rmtree(self.asked.path, ignore_errors=True)
        self.asked.path.mkdir()
        self.asked.write(ask, home.resolve().parent, self.tree)

    def cwd(self, brief: Brief) -> Path:
        """The workspace's folder in the tree, where the program works."""
        return _on_disk(brief)[0].work_tree(self.tree).cwd

    # ---- The session ------------------------------------------------------------------------

    def session(self) -> dict[str, Any]:
        """What is known of the session that the last ask had; empty if there is none."""
        try:
            data = json.loads((self.folder / SESSION).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def keep_session(self, data: Mapping[str, Any]) -> None:
        (self.folder / SESSION).write_text(json.dumps(dict(data)), encoding="utf-8")

    def forget_session(self) -> None:
        (self.folder / SESSION).unlink(missing_ok=True)

    # ---- What came of it --------------------------------------------------------------------

    def left(self, ask: Ask, brief: Brief) -> Answer | None:
        """What was handed in for the same ask to a process that ended before it told the study; else None.

        Experiments are no part of it: they go straight to the study.
        """
        try:
            old = self.asked.read()[0]
        except UsageError:
            return None
        titles = [record["title"] for record in self.asked.records() if "patch" in record]
        known = {idea.title for idea in brief.study.ideas.values() if idea.base == ask.base}
        if (old.kind, old.base) != (ask.kind, ask.base) or not titles or known.intersection(titles):
            return None
        ideas, factors = self._handed_in()
        note = "what was handed in before arf was stopped"
        return Answer(ideas=tuple(ideas[: ask.n]), factors=factors, note=note)

    def _handed_in(self) -> tuple[list[Draft], tuple[FactorDraft, ...]]:
        ideas: list[Draft] = []
        levels: dict[str, list[Draft]] = {}
        for record in self.asked.records():
            if "patch" in record:
                to = levels.setdefault(record["factor"], []) if record["factor"] else ideas
                to.append(_draft(record))
        factors = (FactorDraft(name=name, levels=tuple(drafts)) for name, drafts in levels.items())
        return ideas, tuple(factors)

    def answer(self, ask: Ask, brief: Brief, usage: Usage, said: str) -> Answer:
        """What was handed in, and what was left changed in the files without being handed in."""
        done = next((record for record in self.asked.records() if record.get("done")), {})
        ideas, factors = self._handed_in()
        note = str(done.get("note") or "")
        if ask.kind is AskKind.IDEAS and len(ideas) < ask.n:
            left, problem = self._left_over(ask, brief, said)
            ideas += left
            note = note or problem
        return Answer(
            ideas=tuple(ideas[: ask.n]),
            factors=factors,
            usage=usage,
            exhausted=bool(done.get("exhausted")) and not ideas and not factors,
            note=note or " ".join(said.split())[:200],
        )

    def has_submitted(self) -> bool:
        return any("patch" in record for record in self.asked.records())

    def _left_over(self, ask: Ask, brief: Brief, said: str) -> tuple[list[Draft], str]:
        """Changes of the files that nobody handed in, as one idea; or why they cannot be one."""
        tree = AgentTree(self.tree, _on_disk(brief)[0], ask.base)
        title = next((line.strip() for line in said.splitlines() if line.strip()), "")[:100]
        try:
            after = tree.read(brief.files)
            if after == dict(brief.files):
                return [], ""
            checked = Checker(brief, ask).changed(
                after, title=title or "a change of the files", reason=said.strip()[:1000], expected=None
            )
        except UsageError as error:
            return [], f"what it left in the files cannot be used: {error}"
        return [checked.draft], ""


def _on_disk(brief: Brief) -> tuple[Workspace, Path]:
    """The workspace and the agent's folder. Raises AgentError where a study has none."""
    if brief.workspace is None or brief.directory is None:
        raise AgentError("this agent needs a study with files on disk")
    return brief.workspace, brief.directory


def _draft(record: Mapping[str, Any]) -> Draft:
    """A line of `submitted.jsonl`: constants where they are enough, else the patch."""
    constants = record.get("constants") or {}
    return Draft(
        title=record["title"],
        reason=record.get("reason") or "",
        expected=record.get("expected"),
        constants=constants,
        patch="" if constants else record["patch"],
    )
