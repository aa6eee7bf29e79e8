"""A virtual clock: an asyncio event loop whose time jumps to the next timer instead of waiting for it."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""When every simulation begins."""
START = 1.0
"""What a virtual loop's clock says at `EPOCH`; above 0, which can stand for "not yet"."""
PATIENCE_S = 30.0
"""Real seconds that a loop without timers waits for a thread or a socket, before it gives up."""


class _JumpingSelector(selectors.DefaultSelector):  # type: ignore[misc, valid-type, unused-ignore]
    """Looks at real files and sockets without waiting, and moves the clock instead."""

    now = START

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            ready: list[tuple[selectors.SelectorKey, int]] = super().select(PATIENCE_S)
            if not ready:
                raise RuntimeError("the simulation waits for something that never comes")
            return ready
        if timeout <= 0:
            return []
        ready = super().select(0)
        if not ready:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Only timers take time, and they take none of yours. Deterministic, as long as nothing uses threads."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # A timer is due when it is nearer than this; after years the smallest step of a float is bigger
        # than the default.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._jumping.now

    def now(self) -> datetime:
        """The virtual date and time."""
        return EPOCH + timedelta(seconds=self.elapsed_s)

    @property
    def elapsed_s(self) -> float:
        """Virtual seconds since the beginning."""
        return self._jumping.now - START


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a virtual clock that starts at `EPOCH`."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def loop_now() -> datetime:
    """The date and time on the running loop's clock: virtual, or real in a plain study."""
    loop = asyncio.get_running_loop()
    return loop.now() if isinstance(loop, VirtualLoop) else datetime.now(UTC)
