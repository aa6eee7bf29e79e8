"""Whether a study goes on: until somebody stops it, an error ends it, or its budget is used up."""

from __future__ import annotations

import asyncio

from arf.errors import ArfError


class Course:
    """What all parts of an engine look at before they begin something new."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        """Set where the next turn should come now."""
        self.stopped = asyncio.Event()
        self.stopping = ""
        """Why the study is being stopped; empty if it is not."""
        self.fatal: ArfError | None = None
        """What ended it."""
        self.search_over = ""
        """Which budget is used up; empty while none is."""
        self.search_over_at = 0.0
        """In seconds that the study has run."""

    @property
    def is_ending(self) -> bool:
        """Whether nothing new begins and what runs is ended, to be gone on with by a resume."""
        return bool(self.stopping) or self.fatal is not None

    def stop(self, reason: str) -> None:
        self.stopping = self.stopping or reason
        self.stopped.set()
        self.wake.set()

    def fail(self, error: BaseException) -> None:
        """End the study because of an error, unless one has ended it already.

        One that is no ArfError is not ours to hide: it is a bug, or the store cannot be written.
        """
        if self.fatal is None:
            if isinstance(error, ArfError):
                self.fatal = error
            else:
                self.fatal = ArfError(f"{type(error).__name__}: {error}")
                self.fatal.__cause__ = error
        self.wake.set()

    def closed(self) -> str:
        """Why nothing more can be ordered; empty while something can."""
        return f"the study's budget is used up ({self.search_over})" if self.search_over else ""
