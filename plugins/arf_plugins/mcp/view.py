"""A study seen from another process than the one that runs it: everything is read, nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from attrs import define, field

from arf.config.schema import Budget
from arf.engine.budgets import Budgets
from arf.engine.engine import agent_brief
from arf.errors import StoreError
from arf.interfaces import Brief
from arf.launch import load_study_config, study_plugins
from arf.status import held_resources
from arf.status.summary import summarize
from arf.store.database import Store, lock_owner
from arf.study import Study
from arf.submissions.remote import RemoteQueue
from arf.workspace.workspace import Workspace

MAX_LOOKS = 5
"""Times that a study is read while its writer goes on, before what was read is taken for damaged."""


@define
class StudyView:
    """A study's folder, open for reading. The caller closes it."""

    home: Path
    store: Store
    workspace: Workspace
    _study: Study | None = None
    _seen: int = field(default=-1)

    @classmethod
    def open(cls, home: Path) -> Self:
        """Raises ArfError where the study's files cannot be used."""
        store = Store.open(home)
        try:
            config = load_study_config(home, study_plugins(home))
            workspace = Workspace.open(store.workspace, config.workspace, base=store.meta("study")["base"])
        except BaseException:
            store.close()
            raise
        return cls(home, store, workspace)

    def close(self) -> None:
        self.store.close()
        self.workspace.close()

    @property
    def name(self) -> str:
        return self.home.name

    @property
    def is_running(self) -> bool:
        return lock_owner(self.home) is not None

    def study(self) -> Study:
        """The study as it is now."""
        if self._study is None or self.store.sequence() != self._seen:
            self._study, self._seen = self._read()
        return self._study

    def _read(self) -> tuple[Study, int]:
        """One state of the study, though it is written meanwhile."""
        for attempt in range(1, MAX_LOOKS + 1):
            before = self.store.sequence()
            try:
                study = self.store.load()
            except StoreError:
                if attempt == MAX_LOOKS:
                    raise
                continue
            if self.store.sequence() == before or attempt == MAX_LOOKS:
                return study, before
        raise AssertionError("the last attempt returns or raises")

    def brief(self, base: str) -> Brief:
        """What the study's own agent would be told about a base."""
        from attrs import evolve

        brief = agent_brief(self.study(), self.workspace, base, self.home)
        return evolve(brief, budget_left=self.budget_left(), queue=RemoteQueue(self.home))

    def summary(self) -> dict[str, Any]:
        return summarize(self.store)

    def budget_left(self) -> Mapping[str, float]:
        """What is left of the budgets that are set, as of the last thing that happened."""
        elapsed_s = float(self.store.meta("elapsed_s", 0.0))
        budgets = Budgets(Budget(**self.store.meta("budget", {})), self.study(), lambda: elapsed_s)
        budgets.standing_usd = held_resources.told(self.store)["usd"]
        budgets.tried_s = float(self.store.meta("tried_s", 0.0))
        return budgets.left()
