"""What every strategy must do, shown by whole studies in memory: made-up ideas, results and misfortunes."""

from __future__ import annotations

import copy
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from attrs import define, evolve, field

from arf.interfaces import Strategy
from arf.plugins.guards import wrong_decision
from arf.study import Study
from arf.types import (
    Ask,
    AskKind,
    Direction,
    Experiment,
    ExperimentState,
    Factor,
    Idea,
    JobState,
    Objective,
    Plan,
    Role,
    Tier,
    Usage,
    Verdict,
)

BASE = "ba5e" * 10
TIERS = (Tier(name="small", slots=3), Tier(name="big", slots=1, speed=1.5, usd_per_hour=2.0))
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class WatchedStudy(Study):
    """Counts how often somebody walks over all experiments."""

    walks = 0

    @property
    def experiments(self) -> Mapping[int, Experiment]:
        return _Watched(self, super().experiments)


class _Watched(Mapping[int, Experiment]):
    def __init__(self, study: WatchedStudy, inner: Mapping[int, Experiment]) -> None:
        self._study = study
        self._inner = inner

    def __getitem__(self, key: int) -> Experiment:
        return self._inner[key]

    def __iter__(self) -> Iterator[int]:
        self._study.walks += 1
        return iter(self._inner)

    def __len__(self) -> int:
        return len(self._inner)


@define
class World:
    """A study, and what decides how it goes: the engine, the agent and the machines, in a few lines.

    Time is counted in turns. Each turn the strategy fills the free slots, then one running job ends, or an
    open ask is answered if none runs.
    """

    strategy: Strategy
    ideas: int = 30
    """How many ideas (or factors of two levels) the agent has in all."""
    crash: Callable[[Experiment], bool] = lambda experiment: False
    refuse: Callable[[Plan], str] = lambda plan: ""
    parallel: int = 2
    """How many asks the agent takes at a time."""
    seed: int = 0
    tiers: Sequence[Tier] = TIERS
    direction: Direction = Direction.MIN
    """With MAX all values are negated, so that the study is the same in a mirror."""
    late: bool = False
    """Whether verdicts come some turns after the ends of the runs, which are undecided until then."""
    check: Callable[[World, Mapping[str, int], Sequence[Plan | Ask]], None] = lambda *_: None
    """Called with every decision."""
    study: WatchedStudy = field(init=False)
    history: list[tuple[str, tuple[Any, ...]]] = field(factory=list)
    """Everything that the study was told."""
    trees: dict[str, frozenset[int]] = field(factory=dict)
    """The ideas that a commit holds."""
    chance: random.Random = field(init=False)
    undecided: list[int] = field(factory=list)
    """Experiments that have ended and wait for their verdicts."""
    given: int = 0
    turns: int = 0

    def __attrs_post_init__(self) -> None:
        self.study = self.new_study()
        self.chance = random.Random(self.seed)
        self.trees[BASE] = frozenset()

    def new_study(self) -> WatchedStudy:
        tree = _tree(frozenset())
        return WatchedStudy(
            name="suite",
            base=BASE,
            base_tree=tree,
            objective=Objective(direction=self.direction),
            seed=self.seed,
            tiers=self.tiers,
        )

    def replayed(self) -> Study:
        """The same study, as the store rebuilds it after a crash."""
        study = self.new_study()
        for method, arguments in self.history:
            getattr(study, method)(*arguments)
        return study

    def run(self, turns: int = 150) -> None:
        """Go on until the strategy has nothing more to do, or for so many turns."""
        self.settle()
        for tier in self.tiers:
            if not any(e.tier == tier.name for e in self.study.experiments.values()):
                self.accept(Plan(parent=BASE, role=Role.BASELINE), tier.name)
        for _ in range(turns):
            self.turns += 1
            self.settle()
            if self.study.running_count:
                self.end(self.chance.choice(list(self.study.running)))
            elif self.study.open_asks:
                self.answer(min(self.study.open_asks))
            elif not self.undecided:
                return
            if self.undecided and (not self.study.running_count or self.chance.random() < 0.4):
                self.decide(self.undecided.pop(0))
            if self.study.open_asks and self.chance.random() < 0.3:
                self.answer(min(self.study.open_asks))

    def settle(self) -> None:
        """Let the strategy decide until nothing moves, as the engine does."""
        for _ in range(200):
            free = self.free()
            decided = self.strategy.decide(self.study, free)
            self.check(self, free, decided)
            if not [item for item in decided if self.carry_out(item)]:
                return
        pytest.fail("200 decisions in a row, and each wants something new")

    def carry_out(self, item: Plan | Ask) -> bool:
        """Do what was decided, if there is room; whether there was."""
        if isinstance(item, Ask):
            if len(self.study.open_asks) >= self.parallel or self.study.exhausted(item.base):
                return False
            self.tell("open_ask", self.study.happened + 1, item)
            return True
        free = self.free()
        tier = item.tier or next((name for name, slots in free.items() if slots > 0), None)
        if tier is None or free[tier] <= 0:
            return False
        self.accept(item, tier)
        return True

    def free(self) -> dict[str, int]:
        free = {tier.name: tier.slots for tier in self.tiers}
        for experiment in self.study.running:
            free[self.study.experiments[experiment].tier] -= 1
        return free

    def accept(self, plan: Plan, tier: str) -> None:
        held = self.trees[plan.parent] | set(plan.ideas)
        group = self.study.group(_tree(held), tier, plan.budget)
        reason = self.refuse(plan)
        if group is not None and plan.role in (Role.CANDIDATE, Role.CELL):
            roles = {self.study.experiments[number].role for number in group.experiments}
            is_measured = Role.CELL in roles and roles <= {Role.CELL, Role.REPLICATE}
            if plan.role is Role.CELL or not is_measured:
                reason = reason or f"the same code as experiment {group.experiments[0]}"
        if reason:
            self.tell("refuse", plan.parent, plan.ideas, reason)
            return
        commit = BASE if not held else f"{abs(hash(held)):040x}"
        self.trees[commit] = held
        runs = len(group.experiments) if group else 0
        experiment = Experiment(
            id=len(self.study.experiments) + 1,
            role=plan.role,
            parent=plan.parent,
            ideas=plan.ideas,
            commit=commit,
            tree=_tree(held),
            tier=tier,
            seed=self.study.run_seed(runs) if plan.seed is None else plan.seed,
            budget=plan.budget,
            round=plan.round,
            title=plan.title,
            accepted_at=EPOCH,
            started_at=EPOCH + timedelta(seconds=self.turns),
        )
        self.tell("put", experiment)

    def end(self, number: int) -> None:
        """End a job, and judge it, at once or later: better by a little is kept."""
        experiment = self.study.experiments[number]
        crashed = self.crash(experiment)
        value = None if crashed else self.value(experiment)
        ended = evolve(
            experiment,
            state=ExperimentState.ENDED,
            job_state=JobState.FAILED if crashed else JobState.SUCCEEDED,
            ended_at=EPOCH + timedelta(seconds=self.turns + 1),
            value=value,
        )
        self.tell("put", ended)
        if self.late and self.study.kept:
            self.undecided.append(number)
        else:
            self.decide(number)

    def decide(self, number: int) -> None:
        """Give an experiment that has ended its verdict."""
        experiment = self.study.experiments[number]
        self.tell("put", evolve(experiment, verdict=self.verdict(experiment)))

    def value(self, experiment: Experiment) -> float:
        """Each idea has an effect of its own, good or bad; the runs have noise."""
        effects = sum(random.Random(idea).gauss(0.0, 0.01) for idea in self.trees[experiment.commit])
        value = 1.0 + effects + random.Random(experiment.seed).gauss(0.0, 0.001)
        return value if self.direction is Direction.MIN else -value

    def verdict(self, experiment: Experiment) -> Verdict:
        if experiment.value is None:
            return Verdict.CRASH
        if experiment.role is Role.BASELINE and not self.study.kept:
            return Verdict.KEEP
        if experiment.role is not Role.CANDIDATE:
            return Verdict.MEASURED
        incumbent = self.study.incumbent_group(experiment.tier)
        if incumbent is None or not incumbent.n:
            return Verdict.DISCARD
        return (
            Verdict.KEEP
            if self.study.objective.gain(incumbent.mean, experiment.value) > 0.003
            else Verdict.DISCARD
        )

    def answer(self, number: int) -> None:
        ask = self.study.open_asks[number]
        count = min(ask.n, self.ideas - self.given)
        self.given += count
        for _ in range(count):
            if ask.kind is not AskKind.FACTORS:
                self.add_idea(ask, number)
            else:
                levels = (self.add_idea(ask, number), self.add_idea(ask, number))
                self.tell("add_factor", Factor(name=f"factor {levels[0]}", levels=levels, ask=number))
        self.tell("close_ask", number, Usage(), self.given >= self.ideas)

    def add_idea(self, ask: Ask, number: int) -> int:
        id_ = len(self.study.ideas) + 1
        idea = Idea(id=id_, title=f"idea {id_}", base=ask.base, commit=f"1dea{id_:036x}", ask=number)
        self.tell("add_idea", idea)
        return id_

    def tell(self, method: str, *arguments: Any) -> None:
        self.history.append((method, arguments))
        getattr(self.study, method)(*arguments)


class StrategySuite(ABC):
    """Subclass it, implement `make`, and name it `Test…`."""

    turns: ClassVar[int] = 150
    """How long the studies are, in ends of jobs."""
    may_walk: ClassVar[bool] = False
    """Whether a decision may go over all experiments, and so gets slower as a study grows."""

    @abstractmethod
    def make(self) -> Strategy:
        """A strategy as a study would make it."""

    def world(self, **settings: Any) -> World:
        """A simulated study with the strategy of `make`."""
        return World(self.make(), check=_sound, **settings)

    @pytest.mark.parametrize("seed", range(3))
    def test_whole_studies_are_made_of_sound_plans_and_asks(self, seed: int) -> None:
        world = self.world(seed=seed, crash=lambda experiment: experiment.id % 7 == 0)
        world.run(self.turns)
        assert any(e.ideas for e in world.study.experiments.values()), "no idea was ever tried"

    def test_one_tier_with_one_slot_is_enough(self) -> None:
        world = self.world(tiers=[Tier(name="only", slots=1)])
        world.run(self.turns)
        assert any(e.ideas for e in world.study.experiments.values())

    def test_the_same_study_gives_the_same_decision_from_any_object(self) -> None:
        def check(world: World, free: Mapping[str, int], decided: Sequence[Plan | Ask]) -> None:
            assert list(self.make().decide(world.study, free)) == list(decided), "it has a state of its own"

        world = World(self.make(), check=check)
        world.run(self.turns)

    def test_a_study_that_was_resumed_gives_the_same_decision(self) -> None:
        def check(world: World, free: Mapping[str, int], decided: Sequence[Plan | Ask]) -> None:
            if world.study.happened % 10 == 0:
                assert list(self.make().decide(world.replayed(), free)) == list(decided)

        world = World(self.make(), check=check)
        world.run(self.turns)

    def test_deciding_changes_nothing(self) -> None:
        world = self.world()
        world.run(self.turns // 3)
        before = copy.deepcopy(vars(world.study))
        for _ in range(3):
            self.make().decide(world.study, world.free())
        assert vars(world.study) == before

    def test_it_can_be_asked_when_no_slot_is_free(self) -> None:
        world = self.world()
        world.run(self.turns // 3)
        for free in ({}, {tier.name: 0 for tier in world.tiers}):
            _sound(world, free, self.make().decide(world.study, free))

    @pytest.mark.parametrize("ideas", [0, 3])
    def test_it_ends_when_the_agent_has_nothing_more(self, ideas: int) -> None:
        world = self.world(ideas=ideas)
        world.run(100_000)
        assert not world.study.running_count
        assert not world.study.open_asks
        why = self.make().why_ended(world.study)
        assert isinstance(why, str)
        assert len(why.splitlines()) <= 1

    def test_it_goes_on_when_every_change_crashes(self) -> None:
        world = self.world(crash=lambda experiment: bool(experiment.ideas), ideas=10)
        world.run(100_000)
        assert not world.study.running_count

    def test_it_goes_on_when_the_baseline_crashes(self) -> None:
        world = self.world(crash=lambda experiment: not experiment.ideas, ideas=10)
        world.run(self.turns)

    def test_more_may_be_better_as_well_as_less(self) -> None:
        """Two studies that are each other's mirror are decided alike."""
        decided: dict[Direction, list[Sequence[Plan | Ask]]] = {}
        for direction in Direction:

            def check(world: World, _: Mapping[str, int], wanted: Sequence[Plan | Ask]) -> None:
                untitled = [evolve(item, title="") if isinstance(item, Plan) else item for item in wanted]
                decided.setdefault(world.direction, []).append(untitled)

            World(self.make(), check=check, direction=direction).run(self.turns)
        assert decided[Direction.MIN] == decided[Direction.MAX], "it does not heed the objective's direction"

    def test_it_goes_on_while_verdicts_are_due(self) -> None:
        world = self.world(late=True, ideas=10)
        world.run(100_000)
        assert not world.study.running_count
        assert any(e.ideas for e in world.study.experiments.values()), "no idea was ever tried"

    def test_a_refused_plan_is_not_offered_again(self) -> None:
        """Every second idea merges with nothing."""

        def refuse(plan: Plan) -> str:
            return "conflict" if any(idea % 2 for idea in plan.ideas) else ""

        world = self.world(refuse=refuse, ideas=10)
        world.run(100_000)
        assert not world.study.running_count

    def test_a_decision_does_not_walk_over_the_whole_history(self) -> None:
        if self.may_walk:
            return
        world = self.world(ideas=1000)
        world.run(self.turns)
        before = world.study.walks
        self.make().decide(world.study, world.free())
        assert world.study.walks == before, "a decision goes over all experiments: use the study's indexes"


def _sound(world: World, _: Mapping[str, int], decided: Sequence[Plan | Ask]) -> None:
    """What must hold of every decision."""
    assert not wrong_decision(decided, world.study)
    new: set[object] = set()
    for item in decided:
        if isinstance(item, Ask):
            assert not world.study.exhausted(item.base), "asks again about a base that the agent is done with"
            continue
        refused = (item.parent, item.ideas) in world.study.refusals
        assert not refused, "offers a plan again that was refused"
        if item.role in (Role.CANDIDATE, Role.CELL):
            key = item.parent, item.ideas, item.tier, item.budget
            assert key not in new, "plans the same twice in one decision"
            new.add(key)


def _tree(ideas: frozenset[int]) -> str:
    return "7ree" + "-".join(map(str, sorted(ideas)))
