"""The errors that arf raises on purpose.

    ArfError                 exit code 1: something went wrong, and the message says what to do
    ├── UsageError           exit code 2: the request itself is wrong (bad name, key, value, option)
    │   └── ConfigError      … in a configuration file or a `-o` override; knows file, line and key
    ├── WorkspaceError       the workspace or its git repository cannot be used
    │   └── ConflictError    ideas that do not merge; costs no run, and is told to the strategy
    ├── PluginError          a plugin is broken, missing, or lacks an extra
    ├── StoreError           a study's database is damaged, newer than arf, or in use
    ├── BackendError         a backend cannot run jobs
    └── AgentError           exit code 3: an agent cannot answer; `retry_after_s` where it said when it could
        └── SpentError       … since the rest of a budget does not pay for it: the study ends in order

Anything else that escapes is a bug in arf and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from arf.types import Usage


class ArfError(Exception):
    """An expected error. `str()` is one line for people; `hint` says what to do about it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(ArfError):
    """What was asked for cannot be: an unknown name, a value out of range, options at odds."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration that cannot be used.

    `where` is `FILE:LINE` or `-o key=value`; `key` is the dotted path of the key.
    """

    def __init__(self, message: str, *, where: str = "", key: str = "", hint: str = "") -> None:
        prefix = ": ".join(part for part in (where, key) if part)
        super().__init__(f"{prefix}: {message}" if prefix else message, hint=hint)
        self.where = where
        self.key = key


class WorkspaceError(ArfError):
    """The workspace, or the git repository that holds it, cannot be used."""


class NameTakenError(UsageError):
    """Another study has the name."""


class LostError(WorkspaceError):
    """Something that the repository had is missing from it, or damaged."""


class ConflictError(WorkspaceError):
    """Ideas that do not apply together. `paths` are the files in conflict."""

    def __init__(self, message: str, *, paths: Iterable[str] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.paths = tuple(paths)


class PluginError(ArfError):
    """A plugin that is missing, broken, or lacks what it needs."""


class StoreError(ArfError):
    """A study's files cannot be used as they are."""


class BackendError(ArfError):
    """A backend cannot do what it was asked."""


class AgentError(ArfError):
    """An agent cannot answer.

    `retry_after_s` is when it may be asked again; None means never: a wrong key, no credit, an unknown model.
    `usage` is what the ask has cost nevertheless.
    """

    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        usage: Usage | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
        self.usage = usage


class SpentError(AgentError):
    """What is left of a budget does not pay for another answer: an end in order, not a failure."""

    exit_code = 0


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest right one, and all of them where they are few."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    if not names:
        return ""
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"known: {shown}"
