"""Optuna's samplers as strategies. Importing this needs optuna.

A decision is a pure function of the study: the sampler is given the trials so far, numbered as the study
numbers its experiments, and is seeded by `study.random()`. What is kept between decisions only saves time.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from random import Random
from typing import Any
from weakref import WeakKeyDictionary

import optuna
from attrs import define, field
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from arf.interfaces import Strategy
from arf.study import Study
from arf.types import Ask, Experiment, Plan, Role
from arf_plugins.strategy_optuna import OptunaOptions
from arf_plugins.strategy_optuna.space import BASE, Space, read_space

DRAWS = 3
"""Draws of a sampler that may be known already, before something near the last one is taken."""
MUTATIONS = 100
PAGE = 150
"""The sampler sees the experiments of this and the last page, so that its cost does not grow."""
ASK = 8
"""Ideas that are asked for at a time, at least."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


@define
class _Memory:
    """What saves time between two decisions about one study."""

    ideas: int = -1
    refusals: int = -1
    space: Space = field(factory=lambda: Space(dimensions={}))
    trials: Any = None
    """What the strategy keeps about this space."""
    happened: int = -1
    decided: tuple[Plan | Ask, ...] = ()


class _OptunaStrategy(Strategy):
    """The part that both share: the space, the asks, and that nothing is run twice."""

    def __init__(self, options: OptunaOptions | None = None) -> None:
        super().__init__(options)
        self._options = options or OptunaOptions()
        self._memories: WeakKeyDictionary[Study, _Memory] = WeakKeyDictionary()

    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        memory = self._memories.setdefault(study, _Memory())
        if (memory.ideas, memory.refusals) != (len(study.ideas), len(study.refusals)):
            space = read_space(study)
            if space != memory.space:
                memory.space, memory.trials = space, None
            memory.ideas, memory.refusals = len(study.ideas), len(study.refusals)
        asks = self._asks(study)
        if not any(count > 0 for count in free.values()) or not memory.space.dimensions:
            return asks
        if memory.happened != study.happened:
            # One plan at a time: what is accepted counts for the next one.
            memory.decided = tuple(islice(self._plans(study, memory), 1))
            memory.happened = study.happened
        return [*memory.decided, *asks]

    def _asks(self, study: Study) -> list[Plan | Ask]:
        missing = self._options.ideas - len(study.ideas) - sum(ask.n for ask in study.open_asks.values())
        if missing <= 0 or study.open_asks or study.exhausted(study.base):
            return []
        slots = sum(tier.slots for tier in study.tiers)
        return [Ask(n=min(missing, max(ASK, slots)), base=study.base)]

    def _space_is_complete(self, study: Study) -> bool:
        return not self._asks(study) and not study.open_asks

    def _plans(self, study: Study, memory: _Memory) -> Iterator[Plan]:
        """The sampler's choice; a neighbour of it where that has been tried; nothing if all has been."""
        chance = study.random()
        space = memory.space
        choice: dict[str, int] = {}
        for _ in range(DRAWS):
            choice, label = self._draw(study, memory, chance)
            if self._is_new(study, space.ideas(choice)):
                yield Plan(parent=study.base, ideas=space.ideas(choice), round=label)
                return
        for _ in range(MUTATIONS):
            name = chance.choice(list(space.dimensions))
            choice = {**choice, name: chance.choice(space.dimensions[name])}
            if self._is_new(study, space.ideas(choice)):
                yield Plan(parent=study.base, ideas=space.ideas(choice))
                return

    @staticmethod
    def _is_new(study: Study, ideas: tuple[int, ...]) -> bool:
        known = study.planned(study.base, ideas) or (study.base, ideas) in study.refusals
        return bool(ideas) and not known

    @abstractmethod
    def _draw(self, study: Study, memory: _Memory, chance: Random) -> tuple[dict[str, int], str]:
        """A level for each dimension, and the label of its plan."""


def _at_random(space: Space, chance: Random) -> dict[str, int]:
    return {name: chance.choice(levels) for name, levels in space.dimensions.items()}


def _value(study: Study, experiment: Experiment) -> float:
    """The objective as something to be minimised."""
    assert experiment.value is not None
    return -study.objective.gain(0.0, experiment.value)


def _new_study() -> optuna.Study:
    return optuna.create_study(storage=optuna.storages.InMemoryStorage())


def _scratch(study: optuna.Study) -> FrozenTrial:
    """A running trial that samplers can write to."""
    storage = study._storage
    return storage.get_trial(storage.create_new_trial(study._study_id))


# ---- TPE ------------------------------------------------------------------------------------------


@define
class _Trials:
    """The candidates of the last pages as trials, in the order of their numbers."""

    study: optuna.Study
    scratch: FrozenTrial
    page: int
    taken: int
    """Candidates that have been looked at."""
    count: int = 0
    """Trials, the scratch one aside, whose number is 0."""
    running: dict[int, int] = field(factory=dict)
    """Trial number by experiment."""
    ended: int = 0


class Tpe(_OptunaStrategy):
    """Bergstra et al., NeurIPS 2011, in Optuna's multivariate form; running trials count as bad ones."""

    def _draw(self, study: Study, memory: _Memory, chance: Random) -> tuple[dict[str, int], str]:
        space = memory.space
        distributions = {name: CategoricalDistribution(levels) for name, levels in space.dimensions.items()}
        trials = memory.trials = self._take_in(study, space, memory.trials, distributions)
        if trials.ended < self._options.startup:
            return _at_random(space, chance), ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                multivariate=True, constant_liar=True, n_startup_trials=1, seed=chance.randrange(2**31)
            )
        found = sampler.sample_relative(trials.study, trials.scratch, dict(distributions))
        return ({name: int(found[name]) for name in space.dimensions} or _at_random(space, chance)), ""

    def _take_in(
        self,
        study: Study,
        space: Space,
        trials: _Trials | None,
        distributions: Mapping[str, BaseDistribution],
    ) -> _Trials:
        candidates = study.by_role(Role.CANDIDATE)
        page = max(0, len(candidates) // PAGE - 1)
        if trials is None or trials.page != page:
            optuna_study = _new_study()
            trials = _Trials(optuna_study, _scratch(optuna_study), page=page, taken=page * PAGE)
        for number in candidates[trials.taken :]:
            choice = space.choice(study.experiments[number].ideas)
            if choice is not None and study.experiments[number].parent == study.base:
                trials.study.add_trial(
                    create_trial(state=TrialState.RUNNING, params=choice, distributions=dict(distributions))
                )
                trials.count += 1
                trials.running[number] = trials.count
        trials.taken = len(candidates)
        for number in [n for n in trials.running if study.experiments[n].state == "ended"]:
            self._tell(study, trials, number)
        return trials

    @staticmethod
    def _tell(study: Study, trials: _Trials, number: int) -> None:
        storage = trials.study._storage
        index = trials.running.pop(number)
        trial_id = storage.get_trial_id_from_study_id_trial_number(trials.study._study_id, index)
        experiment = study.experiments[number]
        if experiment.value is None:
            storage.set_trial_state_values(trial_id, TrialState.FAIL)
        else:
            storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [_value(study, experiment)])
            trials.ended += 1


# ---- CMA-ES ---------------------------------------------------------------------------------------


@define
class _Generations:
    """How far the search has come: the optimizer before generation `number`, as Optuna keeps it."""

    number: int = 0
    optimizer: Mapping[str, Any] = field(factory=dict)
    population: int = 0


class CmaEs(_OptunaStrategy):
    """Hansen and Ostermeier, Evolutionary Computation 9, 2001. Levels count by their order.

    A plan's label has its generation. A generation ends with as many results as its population has, those
    that ended first; meanwhile free slots draw more from it, so that nothing waits.
    """

    def _draw(self, study: Study, memory: _Memory, chance: Random) -> tuple[dict[str, int], str]:
        space = memory.space
        if not self._space_is_complete(study) or len(space.dimensions) < 2:
            return _at_random(space, chance), ""
        generations: _Generations = memory.trials or _Generations()
        memory.trials = generations
        while self._advance(study, space, generations):
            pass
        places, _ = self._sample(space, generations, (), chance.randrange(2**31))
        choice = {name: levels[places[name]] for name, levels in space.dimensions.items()}
        return choice, self._label(study, generations.number)

    @staticmethod
    def _label(study: Study, generation: int) -> str:
        return f"cmaes {len(study.ideas)}/{generation}"

    def _advance(self, study: Study, space: Space, generations: _Generations) -> bool:
        """Go on to the next generation if this one has its results."""
        label = self._label(study, generations.number)
        runs = [study.experiments[number] for number in study.by_round(label)]
        ended = [run for run in runs if run.value is not None and run.ended_at is not None]
        dimensions = len(space.dimensions)
        population = generations.population or 4 + int(3 * math.log(dimensions))
        if len(ended) < population:
            return False
        ended.sort(key=lambda run: (run.ended_at, run.id))
        solutions = []
        for run in ended[:population]:
            choice = space.choice(run.ideas) or dict.fromkeys(space.dimensions, BASE)
            places = {name: levels.index(choice[name]) for name, levels in space.dimensions.items()}
            solutions.append((places, _value(study, run)))
        _, attributes = self._sample(space, generations, solutions, study.seed)
        generations.optimizer = {k: v for k, v in attributes.items() if k.startswith("cma:optimizer")}
        generations.population = population
        generations.number += 1
        return True

    @staticmethod
    def _sample(
        space: Space,
        generations: _Generations,
        solutions: Sequence[tuple[Mapping[str, int], float]],
        seed: int,
    ) -> tuple[dict[str, int], Mapping[str, Any]]:
        """Places that Optuna's sampler gives after these solutions, and what it noted with its trial."""
        distributions: dict[str, BaseDistribution] = {
            name: IntDistribution(0, len(levels) - 1) for name, levels in space.dimensions.items()
        }
        sampler = optuna.samplers.CmaEsSampler(n_startup_trials=1, seed=seed, warn_independent_sampling=False)
        study = _new_study()
        base = {name: levels.index(BASE) for name, levels in space.dimensions.items()}
        carrier = create_trial(
            params=base, distributions=distributions, value=0.0, system_attrs=dict(generations.optimizer)
        )
        trials = [carrier] + [
            create_trial(
                params=dict(places),
                distributions=distributions,
                value=value,
                system_attrs={"cma:generation": generations.number},
            )
            for places, value in solutions
        ]
        study.add_trials(trials)
        scratch = _scratch(study)
        found = sampler.sample_relative(study, scratch, distributions)
        noted = study._storage.get_trial(scratch._trial_id).system_attrs
        return {name: int(found[name]) for name in space.dimensions}, noted
