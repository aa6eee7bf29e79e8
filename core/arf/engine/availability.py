"""Whether the agents of a study can be asked: waits after failures, and who stands in meanwhile.

Capped exponential back-off without end: a service that is down comes back, and a night is longer than an
outage. Only an error that no wait can heal (`AgentError.retry_after_s` is None) ends the asking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import define, field, frozen

from arf.errors import AgentError
from arf.interfaces import Agent

FIRST_WAIT_S = 10.0
"""The first wait after a failure; it doubles with each in a row."""
LONGEST_WAIT_S = 600.0
"""No wait is longer, unless the service has said when it can be asked again."""
FREE_REPEATS = 2
"""Unusable answers in a row after which the agent is asked again at once."""
MAX_UNUSABLE = 12
"""Unusable answers in a row, some 40 minutes with their waits, after which the agent is taken to have nothing
more. A study with a time budget asks on until that ends."""


@frozen(eq=False)
class Member:
    """An agent of the study by the name that the user knows it by."""

    agent: Agent
    name: str


@define(eq=False)
class _State:
    member: Member
    failures: int = 0
    """In a row."""
    unusable: int = 0
    """Answers in a row with nothing usable in them."""
    back_at: float | None = None
    """When it may be asked again, on the loop's clock; None if it may be asked now."""
    gone: AgentError | None = None
    """Why it can never be asked again."""
    complaint: str = ""
    done: set[str] = field(factory=set)
    """Bases for which it has nothing more. Of the study's own agent the study itself knows them."""


class Availability:
    """The study's own agent, and the one that stands in while it cannot answer. `now` is the loop's clock."""

    def __init__(self, own: Member, fallback: Member | None, *, now: Callable[[], float]) -> None:
        members = [own] if fallback is None else [own, fallback]
        self._states = {id(member): _State(member) for member in members}
        self._own = self._states[id(own)]
        self._now = now

    @property
    def members(self) -> list[Member]:
        """The study's own agent first."""
        return [state.member for state in self._states.values()]

    def choose(self, base: str, busy: Mapping[int, int]) -> Member | None:
        """Who is to be asked for a base now; None if nobody can be.

        The fallback only while the study's own agent is away, which is preferred as soon as its wait is over.
        `busy` has how many asks each is answering, by `id` of the member.
        """
        for state in self._states.values():
            if state.gone is not None or state.back_at is not None or base in state.done:
                continue
            has_room = busy.get(id(state.member), 0) < max(1, state.member.agent.parallel)
            return state.member if has_room else None
        return None

    def complaint(self, member: Member) -> str:
        """What was wrong with its last answers, for its next ask; empty if nothing was."""
        return self._states[id(member)].complaint

    @property
    def is_awaited(self) -> bool:
        """Whether somebody cannot answer now and will be asked again."""
        return any(state.back_at is not None for state in self._states.values())

    @property
    def gone(self) -> AgentError | None:
        """Why nobody can be asked ever again; None while somebody can."""
        if all(state.gone is not None for state in self._states.values()):
            return self._own.gone
        return None

    def release(self, *, give_up: bool) -> bool:
        """End the waits that are over by now, or all of them; whether there was one."""
        over = [
            state
            for state in self._states.values()
            if state.back_at is not None and (give_up or state.back_at <= self._now())
        ]
        for state in over:
            state.back_at = None
        return bool(over)

    def failed(self, member: Member, error: AgentError) -> float | None:
        """Take note of a failure; seconds until it is asked again, None for never."""
        state = self._states[id(member)]
        state.failures += 1
        if error.retry_after_s is None:
            state.gone, state.back_at = error, None
            return None
        wait_s = max(error.retry_after_s, _wait_s(state.failures))
        state.back_at = max(state.back_at or 0.0, self._now() + wait_s)
        return wait_s

    def answered(self, member: Member) -> None:
        """Take note of a usable answer."""
        state = self._states[id(member)]
        state.failures = state.unusable = 0
        state.complaint, state.back_at = "", None

    def was_unusable(self, member: Member, complaint: str, *, for_ever: bool) -> bool:
        """Take note of an answer with nothing usable in it; whether it is taken to have nothing more."""
        state = self._states[id(member)]
        state.failures = 0
        state.unusable += 1
        state.complaint = complaint
        if state.unusable >= MAX_UNUSABLE and not for_ever:
            return True
        if state.unusable > FREE_REPEATS:
            state.back_at = self._now() + _wait_s(state.unusable - FREE_REPEATS)
        return False

    def finished(self, member: Member, base: str) -> bool:
        """Take note that it has nothing more for a base; whether that ends the asking for it."""
        state = self._states[id(member)]
        if state is not self._own and self._own.gone is None:
            state.done.add(base)
            return False
        return True


def _wait_s(times: int) -> float:
    return float(min(FIRST_WAIT_S * 2.0 ** min(times - 1, 16), LONGEST_WAIT_S))
