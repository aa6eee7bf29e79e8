"""What strategies share: what is held, what goes together, and when to ask."""

from attrs import evolve

from arf.sdk.strategies import ask_ahead, held_ideas, is_idle, together, was_planned
from arf.testing.fakes import FakeStrategy
from arf.testing.laboratory import Ideas, Laboratory
from arf.types import Ask, Idea, Tier


def laboratory(ideas: int = 6, slots: int = 1) -> Laboratory:
    """Each idea is 10 better, so each is kept in turn."""

    def truth(ideas: Ideas) -> float:
        return -10.0 * len(ideas)

    return Laboratory(FakeStrategy(), ideas=ideas, tiers=[Tier(name="a", slots=slots)], truth=truth)


def test_the_ideas_of_the_incumbent_are_in_the_order_in_which_they_got_in() -> None:
    world = laboratory()
    assert held_ideas(world.study) == ()
    world.run()
    kept = [idea for number in world.study.kept for idea in world.study.experiments[number].ideas]
    assert held_ideas(world.study) == tuple(kept)
    assert len(kept) == 6


def test_the_experiments_of_an_idea_are_found_by_it() -> None:
    world = laboratory(slots=4)
    world.run()
    for idea in world.study.ideas:
        runs = [run.id for run in world.study.experiments.values() if idea in run.ideas]
        assert list(world.study.with_idea(idea)) == runs
    assert world.study.with_idea(99) == []


def test_of_ideas_that_set_the_same_constant_only_the_first_given_goes_along() -> None:
    world = laboratory()
    for number, names in enumerate(("LR", "DEPTH", "LR", ""), 1):
        idea = Idea(id=number, title=names, base=world.study.base, commit=f"{number:040x}")
        world.study.add_idea(evolve(idea, constants={names: number} if names else {}))
    assert together(world.study, [(3,), (1,), (2,), (4,)]) == (2, 3, 4)
    assert together(world.study, [(1, 2), (3,)]) == (1, 2)
    assert together(world.study, []) == ()


def test_it_asks_when_half_of_the_stock_is_used_up_and_not_of_an_agent_that_is_done() -> None:
    world = laboratory(slots=4)
    base = world.study.base
    assert ask_ahead(world.study, base, 2.0) == [Ask(n=4, base=base)]
    world.tell("open_ask", 1, Ask(n=4, base=base))
    assert ask_ahead(world.study, base, 2.0) == [Ask(n=4, base=base)]
    world.tell("open_ask", 2, Ask(n=4, base=base))
    assert ask_ahead(world.study, base, 2.0) == []
    world.run()
    assert world.study.exhausted(world.study.incumbent_commit)
    assert ask_ahead(world.study, world.study.incumbent_commit, 2.0) == []


def test_a_study_is_idle_when_nothing_can_come_any_more() -> None:
    world = laboratory()
    world.settle()
    assert not is_idle(world.study)
    world.run()
    assert is_idle(world.study)


def test_what_was_tried_or_refused_on_the_incumbent_is_known() -> None:
    world = laboratory(ideas=3)
    base = world.study.base
    world.study.refuse(base, (1, 2), "conflict")
    assert was_planned(world.study, (1, 2))
    assert not was_planned(world.study, (1,))
    world.run()
    assert was_planned(world.study, (1,), base)
