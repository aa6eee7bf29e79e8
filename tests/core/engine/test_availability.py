"""Who is asked while an agent cannot answer, and when it is asked again."""

from __future__ import annotations

import pytest

from arf.engine.availability import LONGEST_WAIT_S, MAX_UNUSABLE, Availability, Member
from arf.errors import AgentError
from arf.testing.fakes import FakeAgent

OVERLOADED = AgentError("529: overloaded", retry_after_s=1.0)
NO_CREDIT = AgentError("402: no credit")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def member(name: str) -> Member:
    return Member(FakeAgent(), name)


def test_waits_grow_to_ten_minutes_and_never_end(clock: Clock) -> None:
    own = member("model")
    there = Availability(own, None, now=clock)
    waits = [there.failed(own, OVERLOADED) for _ in range(50)]
    assert waits[:4] == [10, 20, 40, 80]
    assert waits[-1] == LONGEST_WAIT_S
    assert there.is_awaited
    assert there.gone is None


def test_a_service_that_says_when_is_not_asked_before(clock: Clock) -> None:
    own = member("model")
    there = Availability(own, None, now=clock)
    assert there.failed(own, AgentError("limit reached", retry_after_s=3 * 3600)) == 3 * 3600
    clock.now = 3 * 3600 - 1.0
    assert not there.release(give_up=False)
    assert there.choose("base", {}) is None
    clock.now += 2
    assert there.release(give_up=False)
    assert there.choose("base", {}) is own


def test_the_fallback_stands_in_only_while_the_agent_is_away(clock: Clock) -> None:
    own, other = member("model"), member("offline")
    there = Availability(own, other, now=clock)
    assert there.choose("base", {}) is own
    there.failed(own, OVERLOADED)
    assert there.choose("base", {}) is other
    clock.now = 11.0
    there.release(give_up=False)
    assert there.choose("base", {}) is own


def test_what_the_fallback_has_nothing_for_is_still_asked_of_the_agent(clock: Clock) -> None:
    own, other = member("model"), member("offline")
    there = Availability(own, other, now=clock)
    there.failed(own, OVERLOADED)
    assert not there.finished(other, "base")
    assert there.choose("base", {}) is None
    assert there.is_awaited
    there.release(give_up=True)
    assert there.choose("base", {}) is own


def test_only_an_error_that_no_wait_heals_ends_the_asking(clock: Clock) -> None:
    own, other = member("model"), member("offline")
    there = Availability(own, other, now=clock)
    assert there.failed(own, NO_CREDIT) is None
    assert there.gone is None
    assert there.choose("base", {}) is other
    there.failed(other, AgentError("broken"))
    assert there.gone is NO_CREDIT
    assert there.choose("base", {}) is None


def test_another_ask_that_is_answered_ends_the_wait(clock: Clock) -> None:
    own = member("model")
    there = Availability(own, None, now=clock)
    there.failed(own, OVERLOADED)
    there.answered(own)
    assert not there.is_awaited
    assert there.failed(own, OVERLOADED) == 10


def test_unusable_answers_are_complained_of_and_slow_the_asking_down(clock: Clock) -> None:
    own = member("model")
    there = Availability(own, None, now=clock)
    done = [there.was_unusable(own, "no such constant", for_ever=False) for _ in range(MAX_UNUSABLE)]
    assert done == [False] * (MAX_UNUSABLE - 1) + [True]
    assert there.is_awaited
    assert there.complaint(own) == "no such constant"
    there.answered(own)
    assert there.complaint(own) == ""
