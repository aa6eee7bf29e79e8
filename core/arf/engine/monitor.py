"""What looks on while a study runs: node health, slot usage, costs, held resources, shared data.

`launch` makes the monitors and hangs them on the engine, which calls all of them in turn and knows none. What
a monitor finds it records itself: within the turn's transaction, except in `look`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from arf.types import Experiment


class Use(StrEnum):
    """What a slot was used for."""

    PROVISIONING = "provisioning"
    """Given a job before anything had started on its tier: waiting for machines to start."""
    QUEUE = "queue"
    """Given a job that had not started: the work tree, the backend's queue."""
    SET_UP = "set-up"
    """Waited for `workspace.setup`."""
    STARTUP = "start-up"
    """Ran, and did not train yet, as far as the runs say."""
    TRAINING = "training"
    REST = "rest of the runs"
    """Ran, and did not train (evaluation); all of it where runs do not print their training time."""
    LOST = "lost"
    """Ran what had to be run again: preempted, lost, or interrupted."""
    HANDLING = "handling"
    """Its run had ended, and arf had not heard of it, or not taken it in."""
    TRIED = "tried out"
    """Checked for an agent whether a change runs."""
    AGENT = "waiting for the agent"
    VERDICTS = "waiting for verdicts"
    """Nothing could be planned before runs that were under way had ended: the baseline, replicates."""
    NOTHING = "nothing to run"
    """The strategy offered nothing."""
    ENDING = "ending"
    """The budget was used up, or the study was being stopped, and other slots still ran."""
    ASIDE = "set aside"
    """The slot's node was set aside."""


class Monitor:
    """Observes a study. Each method may be left as it is."""

    usd = 0.0
    """Dollars that machines have cost, used or not, as far as this monitor knows."""

    def begin(self, elapsed_s: float, now: datetime) -> bool:
        """The study begins or goes on. True: the backend's slots are to be counted again."""
        return False

    def ended(self, run: Experiment) -> bool:
        """A run has ended, however it did. True: that may be the fault of the place where it ran."""
        return False

    def blames(self, run: Experiment) -> bool:
        """Whether the place where it ran is known to be bad."""
        return False

    def settled(self, run: Experiment, now: datetime, *, since: datetime | None, again: bool) -> None:
        """What follows from that end is decided; `again`: it is run again, so that this run was for nothing.

        `since` is when its slot was given to it, if not when it was accepted.
        """

    def kept(self, experiment: Experiment) -> None:
        """A change has become the incumbent."""

    def turned(self, elapsed_s: float, idle: Sequence[tuple[str, Use, int]]) -> bool:
        """A turn is over; `idle` are (tier, why, slots) from now on. True: count the slots again."""
        return False

    async def look(self) -> None:
        """Called about once a minute, and once when the study has ended."""
