"""What the backend must know after a crash: files in the study's folder, each written whole or not at all."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from arf.errors import BackendError
from arf.sdk.jobs import is_handle, read_fields, result_from_json, result_to_json, write_whole
from arf.types import JobResult


class StateDir:
    """One study's folder: its name on the nodes' side, its jobs and their ends, its nodes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._jobs: dict[str, dict[str, Any]] = {}

    def prefix(self, study: str) -> str:
        """How the names of this study's nodes begin; made once, and the same wherever the files are."""
        path = self.home / "name"
        try:
            return path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            readable = re.sub(r"[^a-z0-9]+", "-", study.lower()).strip("-")[:12].strip("-") or "study"
            prefix = f"arf-{readable}-{secrets.token_hex(3)}-"
            self._write(path, prefix)
            return prefix

    def known_prefix(self) -> str:
        """As `prefix`; empty if this study has never had a node."""
        try:
            return (self.home / "name").read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    # ---- Jobs -------------------------------------------------------------------------------

    def has(self, handle: str) -> bool:
        return is_handle(handle) and (self.home / "jobs" / handle).exists()

    def add(self, handle: str, fields: Mapping[str, Any]) -> None:
        if fields["set_up"]:
            self._write(self.home / "setups" / handle, "")
        self._write(self.home / "jobs" / handle, json.dumps(fields))

    def job(self, handle: str) -> dict[str, Any]:
        """A job's fields, which do not change; empty if there is no such job."""
        if handle not in self._jobs:
            fields = read_fields(self.home / "jobs" / handle) if is_handle(handle) else {}
            if not fields:
                return {}
            self._jobs[handle] = fields
        return self._jobs[handle]

    def handles(self) -> list[str]:
        """All jobs that have not ended, in the order in which they came."""
        ended = {path.name for path in (self.home / "ends").glob("[!.]*")}
        paths = [path for path in (self.home / "jobs").glob("[!.]*") if path.name not in ended]
        return [path.name for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns)]

    def set_ups(self) -> list[str]:
        """The jobs that make a machine ready, ended ones too."""
        return [path.name for path in sorted((self.home / "setups").glob("[!.]*"))]

    def give(self, handle: str, node: str) -> None:
        """Write down which node has a job, before it is sent there; empty: none."""
        self._write(self.home / "given" / handle, node)

    def given(self, handle: str) -> str:
        try:
            return (self.home / "given" / handle).read_text(encoding="utf-8")
        except OSError:
            return ""

    def end(self, handle: str, result: JobResult) -> None:
        self._write(self.home / "ends" / handle, json.dumps(result_to_json(result)))
        self._jobs.pop(handle, None)

    def result(self, handle: str) -> JobResult | None:
        fields = read_fields(self.home / "ends" / handle) if is_handle(handle) else {}
        return result_from_json(fields) if fields else None

    # ---- Nodes ------------------------------------------------------------------------------

    def note_node(self, name: str, fields: Mapping[str, Any]) -> None:
        self._write(self.home / "nodes" / name, json.dumps(fields))

    def forget_node(self, name: str) -> None:
        (self.home / "nodes" / name).unlink(missing_ok=True)

    def nodes(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in sorted((self.home / "nodes").glob("[!.]*")):
            yield path.name, read_fields(path)

    # ---- The template -----------------------------------------------------------------------

    def template(self) -> dict[str, Any]:
        """The user's YAML as the study began with it; empty before that."""
        return read_fields(self.home / "template")

    def keep_template(self, fields: Mapping[str, Any]) -> None:
        self._write(self.home / "template", json.dumps(fields))

    def _write(self, path: Path, text: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(path, text)
        except OSError as error:
            raise BackendError(
                f"cannot write {path}: {error.strerror}", hint="make room for it, then `arf resume`"
            ) from error
