"""Conversations on disk: each turn is written before it is acted on, so a killed study goes on with them.

One file for each ask, in the agent's folder: `conversations/000012.jsonl`. The first record says what was
asked, then come the turns, and at last the answer. A conversation that goes on with the one of an earlier ask
names it, and holds only what is new. No key is ever in a turn, so none is in a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import define, field

from arf.types import Answer, Ask, AskKind, Draft, Edit, FactorDraft, Usage
from arf_plugins.llm.prompt import Seen
from arf_plugins.llm.turns import Question, Reply, Spending, Stop, Turn, from_json, to_json

FOLDER = "conversations"
KEPT_FILES = 200
"""Older conversations are deleted: their ideas and their cost are in the study."""


@define
class Conversation:
    """The turns of one ask. Without a path it lives in memory only."""

    ask: Ask
    about: dict[str, str] = field(factory=dict)
    """With what it is held: model, mode. A conversation goes on only with the same."""
    path: Path | None = None
    seen: Seen | None = None
    """How far its brief tells of the study."""
    before: Conversation | None = None
    """The conversation of an earlier ask that it goes on with."""
    turns: list[Turn] = field(factory=list)
    spending: Spending = field(factory=Spending)
    unbilled: Usage = field(factory=Usage)
    """What it has cost, as far as the study was not told."""
    parted: bool = False
    """Whether it has left behind what was said before its ask."""
    answer: Answer | None = None
    """There once it has ended."""
    changes: tuple[str, ...] = ()
    """What the answer's drafts do, for recognising repeats."""

    def add(self, turn: Turn) -> None:
        """Write a turn, then count it."""
        self._append(to_json(turn))
        self._count(turn)

    def bill(self) -> Usage:
        """What it has cost since this was last asked."""
        usage, self.unbilled = self.unbilled, Usage()
        if self.answer is None and usage != Usage():
            self._append({"kind": "billed"})
        return usage

    @property
    def name(self) -> str:
        """What it is called in its study, and no other conversation is."""
        return self.path.stem if self.path is not None else f"memory-{id(self)}"

    @property
    def history(self) -> list[Turn]:
        """The turns of all asks before this one, oldest first."""
        return [*self.before.history, *self.before.turns] if self.before is not None else []

    @property
    def can_go_on(self) -> bool:
        """Whether another question may follow its last turn."""
        last = self.turns[-1] if self.turns else None
        if isinstance(last, Reply):
            return not last.calls and last.stop is not Stop.REFUSED
        return last is not None

    def part(self) -> None:
        """Go on without what was said before this ask."""
        self._append({"kind": "part"})
        self.before, self.parted = None, True

    def end(self, answer: Answer, changes: Iterable[str]) -> Answer:
        self.changes = tuple(changes)
        self._append({"kind": "answer", "changes": list(self.changes), **_answer_json(answer)})
        self.answer = answer
        return answer

    def restart(self, question: Question) -> None:
        """Begin again with another question; what was spent stays spent."""
        self._append({"kind": "restart"})
        self.turns.clear()
        self.add(question)

    def replies(self) -> int:
        return sum(isinstance(turn, Reply) for turn in self.turns)

    def begin(self) -> None:
        self._append(
            {
                "kind": "begin",
                "ask": {"kind": self.ask.kind.value, "n": self.ask.n, "base": self.ask.base},
                "about": self.about,
                "seen": attrs.asdict(self.seen) if self.seen else None,
                "before": self.before.path.name if self.before and self.before.path else None,
            }
        )

    def _count(self, turn: Turn) -> None:
        self.turns.append(turn)
        if isinstance(turn, Reply):
            self.spending = self.spending.plus(turn)
            self.unbilled += turn.usage

    def _append(self, record: Mapping[str, Any]) -> None:
        if self.path is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())  # what was paid for must not be paid for again

    @classmethod
    def load(cls, path: Path, *, history: bool = True) -> Conversation | None:
        """A conversation as it is on disk, a torn last line left out; None if it cannot be used.

        One that goes on with another that is not there any more cannot be used either, unless it is
        wanted without its history.
        """
        try:
            lines = path.read_text("utf-8", "replace").split("\n")  # splitlines knows too many line ends
            first = json.loads(lines[0])
            ask = Ask(kind=AskKind(first["ask"]["kind"]), n=first["ask"]["n"], base=first["ask"]["base"])
            conversation = cls(ask, dict(first["about"]), path)
            if seen := first.get("seen"):
                conversation.seen = Seen(base=seen["base"], last=seen["last"], open=tuple(seen["open"]))
            before = first.get("before") if history else None
            if before:
                conversation.before = cls.load(path.with_name(Path(before).name))
            lost = before is not None and conversation.before is None
            for line in lines[1:]:
                if line.endswith("}"):
                    conversation._take(json.loads(line))
        except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
            return None
        return None if lost and not conversation.parted else conversation

    def _take(self, record: dict[str, Any]) -> None:
        if record["kind"] == "restart":
            self.turns.clear()
        elif record["kind"] == "part":
            self.before, self.parted = None, True
        elif record["kind"] == "billed":
            self.unbilled = Usage()
        elif record["kind"] == "answer":
            self.changes = tuple(record["changes"])
            self.answer = _read_answer(record)
            self.unbilled = Usage()
        else:
            self._count(from_json(record))

    def mend(self) -> None:
        """Take a torn last line out of the file, so that it can be gone on with."""
        if self.path is None:
            return
        lines = self.path.read_text("utf-8", "replace").split("\n")
        whole = [line for line in lines if line.endswith("}")]
        self.path.write_text("".join(line + "\n" for line in whole), encoding="utf-8")


@define
class Archive:
    """The conversations of one study."""

    directory: Path | None
    _next: int = 1

    @classmethod
    def open(cls, directory: Path | None) -> Archive:
        if directory is None:
            return cls(None)
        folder = directory / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        numbers = [int(path.stem) for path in folder.glob("*.jsonl") if path.stem.isdigit()]
        return cls(folder, max(numbers, default=0) + 1)

    def new(
        self,
        ask: Ask,
        about: Mapping[str, str],
        seen: Seen | None = None,
        before: Conversation | None = None,
    ) -> Conversation:
        path = None if self.directory is None else self.directory / f"{self._next:06d}.jsonl"
        if self.directory is not None and self._next > KEPT_FILES:
            (self.directory / f"{self._next - KEPT_FILES:06d}.jsonl").unlink(missing_ok=True)
        self._next += 1
        conversation = Conversation(ask, dict(about), path, seen, before)
        conversation.begin()
        return conversation

    def newest_first(self, whole: int) -> Iterable[Conversation]:
        """The conversations; all but the first `whole` without what they go on with."""
        if self.directory is None:
            return
        for at, path in enumerate(sorted(self.directory.glob("*.jsonl"), reverse=True)):
            conversation = Conversation.load(path, history=at < whole)
            if conversation is not None:
                yield conversation


# ---- Answers as JSON ----------------------------------------------------------------------------


def _answer_json(answer: Answer) -> dict[str, Any]:
    return attrs.asdict(answer)


def _read_answer(record: Mapping[str, Any]) -> Answer:
    return Answer(
        ideas=tuple(_read_draft(draft) for draft in record["ideas"]),
        factors=tuple(
            FactorDraft(name=f["name"], levels=tuple(_read_draft(level) for level in f["levels"]))
            for f in record["factors"]
        ),
        usage=Usage(**record["usage"]),
        exhausted=record["exhausted"],
        note=record["note"],
    )


def _read_draft(data: Mapping[str, Any]) -> Draft:
    return Draft(**{**data, "edits": tuple(Edit(**edit) for edit in data["edits"])})
