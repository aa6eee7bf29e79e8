"""Results that are not believed: told at once, left out, and put before a person."""

from __future__ import annotations

import logging
from typing import Any

from arf.engine.ledger import Ledger
from arf.errors import UsageError
from arf.judge.plausibility import doubts
from arf.types import Experiment, Verdict

log = logging.getLogger(__name__)

KEY = "suspects"


class Doubts:
    """What is suspect in one study, and what people have said about it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        told: dict[str, Any] = ledger.store.meta(KEY, {})
        self._open: list[int] = list(told.get("open", []))
        self._accepted: set[str] = set(told.get("accepted", []))

    def of(self, ended: Experiment, value: float) -> str:
        """Why a run that has ended with a value is not believed; empty if it is, or if a person said so."""
        if self.is_accepted(ended.tree):
            return ""
        return doubts(self._ledger.study, ended, value)

    def is_accepted(self, tree: str) -> bool:
        """Whether a person believes what this tree gives."""
        return tree in self._accepted

    def tell(self, suspect: Experiment) -> None:
        """Say that an experiment is suspect. In a transaction of the store."""
        self._open.append(suspect.id)
        what = f"`arf accept {suspect.id}` or `arf reject {suspect.id}`"
        text = f"experiment {suspect.id} is suspect: {suspect.reason} ({what})"
        log.warning("%s", text)
        self._ledger.event("suspect", text)
        self._note()

    def is_in_doubt(self, experiment: Experiment) -> bool:
        """Whether a run of the same code is suspect, so that none of them is kept."""
        study = self._ledger.study
        runs = [study.experiments[number] for number in study.group_of(experiment).experiments]
        return not self.is_accepted(experiment.tree) and any(run.verdict is Verdict.SUSPECT for run in runs)

    def take(self, number: int, *, accept: bool) -> Experiment:
        """What a person says of a suspect experiment. Raises UsageError if it is none."""
        experiment = self._ledger.study.experiments.get(number)
        if experiment is None or experiment.verdict is not Verdict.SUSPECT:
            raise UsageError(f"experiment {number} is not suspect", hint="`arf status` names those that are")
        with self._ledger.store.transaction():
            self._open = [other for other in self._open if other != number]
            if accept:
                self._accepted.add(experiment.tree)
            self._ledger.event(
                "suspect", f"experiment {number} was {'accepted' if accept else 'rejected'} by a person"
            )
            self._note()
        return experiment

    def _note(self) -> None:
        self._ledger.store.set_meta(KEY, {"open": self._open, "accepted": sorted(self._accepted)})
