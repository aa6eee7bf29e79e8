"""Studies on disk, for reading: also of a study that another process is running."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from attrs import define, evolve, field

from arf.errors import StoreError
from arf.store.database import STUDIES, Store, lock_owner

if TYPE_CHECKING:
    from arf.interfaces import Brief, Workspace
    from arf.study import Study
    from arf.types import Experiment, Order

__all__ = ["STUDIES", "StudyReader", "free_names", "lock_owner"]

_ATTEMPTS = 5
"""Times that a study is read while its writer goes on, before what was read is taken for damaged."""
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@define
class StudyReader:
    """A study's folder, open for reading. Close it, or use it in a `with` statement."""

    home: Path
    """The study's folder: `.arf/studies/NAME` in its workspace."""
    _store: Store
    _workspace: Workspace | None = None
    _study: Study | None = None
    _seen: int = field(default=-1)

    @classmethod
    def open(cls, home: Path) -> Self:
        """Raises StoreError where there is no study or its database cannot be used."""
        return cls(home, Store.open(home))

    def close(self) -> None:
        """Close the database, and the workspace if it was used."""
        self._store.close()
        if self._workspace is not None:
            self._workspace.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The study's name."""
        return self.home.name

    @property
    def is_running(self) -> bool:
        """Whether an arf process runs it now."""
        return lock_owner(self.home) is not None

    @property
    def state(self) -> str:
        """How far it is, as last written: `running` also if its process was killed since."""
        return str(self._store.meta("state"))

    @property
    def workspace_directory(self) -> Path:
        """The folder of its script; it may have been removed since."""
        return self._store.workspace

    @property
    def workspace(self) -> Workspace:
        """Its workspace, opened on first use. Raises ArfError where it cannot be used any more."""
        if self._workspace is None:
            from arf.launch import load_study_config, study_plugins
            from arf.workspace import open_workspace

            settings = load_study_config(self.home, study_plugins(self.home)).workspace
            base = self._store.meta("study")["base"]
            self._workspace = open_workspace(self.workspace_directory, settings, base=base)
        return self._workspace

    def study(self) -> Study:
        """The study as it is now; the same object as long as nothing happens. Raises StoreError."""
        if self._study is None or self._store.sequence() != self._seen:
            self._study, self._seen = self._read()
        return self._study

    def _read(self) -> tuple[Study, int]:
        """One state of the study, though it is written meanwhile."""
        for attempt in range(1, _ATTEMPTS + 1):
            before = self._store.sequence()
            try:
                study = self._store.load()
            except StoreError:
                if attempt == _ATTEMPTS:
                    raise
                continue
            if self._store.sequence() == before or attempt == _ATTEMPTS:
                return study, before
        raise AssertionError("the last attempt returns or raises")

    def kept(self) -> list[Experiment]:
        """The baseline and every experiment that was kept, in order; the last one is the best so far."""
        return self._store.kept()

    def experiment(self, name: str) -> Experiment:
        """An experiment by number, beginning of a commit, or `best`. Raises UsageError."""
        from arf.sdk.commands import find_experiment

        return find_experiment(self._store, name)

    def newest_orders(self, limit: int) -> list[Order]:
        """The newest orders of runs, oldest first."""
        last = self._store.last_order()
        return self._store.orders(range(max(1, last - limit + 1), last + 1))

    def orders_of(self, key: str) -> list[Order]:
        """The orders that came with one request, by the request's key; empty if it was never taken in."""
        return self._store.orders_of(key)

    def events(self, limit: int = 20) -> list[tuple[datetime, str, str]]:
        """(when, kind, text) of the newest notes, newest first."""
        return self._store.events(limit)

    def summary(self, *, verdicts: int | None = None) -> dict[str, Any]:
        """What `arf status --json` prints; `verdicts` limits the list of the last ones."""
        from arf.status.summary import summarize

        return summarize(self._store) if verdicts is None else summarize(self._store, verdicts=verdicts)

    def brief(self, base: str) -> Brief:
        """What the study's own agent would be told if it were asked for ideas on the commit `base`."""
        from arf.engine.engine import agent_brief
        from arf.submissions.remote import RemoteQueue

        brief = agent_brief(self.study(), self.workspace, base, self.home)
        return evolve(brief, budget_left=self.budget_left(), queue=RemoteQueue(self.home))

    def budget_left(self) -> Mapping[str, float]:
        """What is left of the budgets that are set, as of the last thing that happened."""
        from arf.config.schema import Budget
        from arf.engine.budgets import Budgets
        from arf.status import held_resources

        elapsed_s = float(self._store.meta("elapsed_s", 0.0))
        budgets = Budgets(
            Budget(**self._store.meta("budget", {})),
            self.study(),
            lambda: elapsed_s,
            held_usd=lambda: held_resources.told(self._store)["usd"],
        )
        budgets.tried_s = float(self._store.meta("tried_s", 0.0))
        return budgets.left()


def free_names(workspace: Path) -> Iterator[str]:
    """Names for a study that no study in the folder has: `nov23`, then `nov23-2` and so on, without end.

    One may still be taken elsewhere: `Workspace.claim` says so.
    """
    now = datetime.now()
    day = f"{_MONTHS[now.month - 1]}{now.day}"
    for number in itertools.count(1):
        name = day if number == 1 else f"{day}-{number}"
        if not (workspace / STUDIES / name).exists():
            yield name
