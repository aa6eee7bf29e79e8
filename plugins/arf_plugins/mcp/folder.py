"""The folder of one ask, where an agent's program and arf meet: what was asked, and what was handed in."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from arf.errors import UsageError
from arf.types import Ask, AskKind

ASK = "ask.json"
SUBMITTED = "submitted.jsonl"


@frozen
class AskFolder:
    """Written by who asks; `arf mcp --ask` serves it, and adds a line for each thing that is handed in."""

    path: Path

    def write(self, ask: Ask, study: Path, tree: Path) -> None:
        """Say what is asked: for which study, and in which copy of the files."""
        about = {
            "kind": ask.kind.value,
            "n": ask.n,
            "base": ask.base,
            "study": str(study),
            "tree": str(tree),
        }
        (self.path / ASK).write_text(json.dumps(about), encoding="utf-8")

    def read(self) -> tuple[Ask, Path, Path]:
        """The ask, the study's folder and the work tree. Raises UsageError where the folder holds no ask."""
        file = self.path / ASK
        try:
            data = json.loads(file.read_text("utf-8"))
            ask = Ask(kind=AskKind(data["kind"]), n=int(data["n"]), base=str(data["base"]))
            study, tree = Path(data["study"]), Path(data["tree"])
        except OSError as error:
            raise UsageError(f"{file} cannot be read: {error.strerror}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{file} is no ask: {error!r}") from None
        if not tree.is_dir():
            raise UsageError(f"{file}: there is no work tree {tree}")
        return ask, study, tree

    def records(self) -> list[dict[str, Any]]:
        """What was handed in, in order; a torn last line is left out."""
        try:
            lines = (self.path / SUBMITTED).read_text("utf-8").split("\n")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def add(self, record: Mapping[str, Any]) -> None:
        path = self.path / SUBMITTED
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        with path.open("a", encoding="utf-8") as file:
            file.write(("\n" if torn else "") + json.dumps(record, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())  # the agent is told that it counts
