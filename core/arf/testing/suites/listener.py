"""What every plugin with event hooks must do: observe, be quick, and cope with repeats and resumes."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from attrs import evolve

from arf.hooks import PROJECT
from arf.plugins.registry import HOOKS, REGISTER, UNHURRIED, Plugins
from arf.study import Study
from arf.testing.fakes import FakeStrategy
from arf.testing.suites.strategy import World
from arf.types import Ask, Experiment, Reading, Usage

EVENTS = HOOKS - REGISTER.keys()


class ListenerSuite(ABC):
    """Subclass it, implement `make`, and name it `Test…`."""

    quick_s: ClassVar[float] = 0.05
    """How long an event may take on average, but for the first and the last; the engine waits meanwhile."""

    @abstractmethod
    def make(self) -> object:
        """The plugin: a module or an object with event hooks."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.took_s: dict[str, list[float]] = {}

    def tell(self, hook: str, **arguments: Any) -> Any:
        """Call one of its hooks, if it has it, with the arguments that it takes."""
        function = getattr(self.make(), hook, None)
        if function is None:
            return None
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        started = time.perf_counter()
        given = function(**{name: arguments[name] for name in names if name in arguments})
        self.took_s.setdefault(hook, []).append(time.perf_counter() - started)
        return given

    def study(self) -> World:
        """A study of some experiments, crashes among them."""
        world = World(FakeStrategy(), crash=lambda experiment: experiment.id % 4 == 0)
        world.run(40)
        return world

    def experiments(self, study: Study) -> list[Experiment]:
        """The experiments of a study as they changed: accepted, ended, judged."""
        changes: list[Experiment] = []
        for experiment in study.experiments.values():
            changes += [evolve(experiment, value=None, verdict=None), experiment]
        return changes

    def watch(self, study: Study, *, resumed: bool = False, repeat: int = 1) -> None:
        """Tell the plugin of a whole study, each change `repeat` times."""
        self.tell("arf_study_started", study=study, directory=self.folder, resumed=resumed)
        ask = {"study": study, "number": 1, "ask": Ask(base=study.base)}
        self.tell("arf_ask_opened", **ask)
        self.tell("arf_ask_closed", **ask, usage=Usage(usd=0.5), note="two ideas")
        for experiment in self.experiments(study):
            for _ in range(repeat):
                self.tell("arf_experiment_changed", study=study, experiment=experiment)
            for value in (1.0, float("nan"), float("inf")):
                reading = Reading(name="loss", value=value)
                self.tell("arf_reading", study=study, experiment=experiment, reading=reading)
        self.finish(study)

    def finish(self, study: Study) -> None:
        """Tell the plugin that the study ended, and check what it returns."""
        given = self.tell("arf_study_finished", study=study, directory=self.folder, summary=_summary(study))
        if given is None:
            return
        assert isinstance(given, list | tuple), "arf_study_finished returns a list of paths or None"
        for path in given:
            assert Path(path).exists(), f"{path} was not written"

    def test_it_is_taken_and_has_event_hooks(self) -> None:
        plugins = Plugins()
        plugins.register(self.make(), "mine")
        assert set(plugins.describe()[0].hooks) & EVENTS, f"no event hook of {PROJECT} is marked"

    def test_it_watches_a_whole_study_and_changes_nothing(self) -> None:
        study = self.study().study
        before = _told(study)
        self.watch(study)
        assert _told(study) == before, "it changes the study"

    def test_an_event_may_come_again_after_a_crash(self) -> None:
        self.watch(self.study().study, repeat=2)

    def test_a_study_that_goes_on_begins_in_its_middle(self) -> None:
        """A new process: nothing was told of what happened before."""
        world = self.study()
        self.watch(world.study)
        self.watch(world.study, resumed=True)

    def test_a_study_may_end_before_anything_happened(self) -> None:
        study = World(FakeStrategy()).study
        self.tell("arf_study_started", study=study, directory=self.folder, resumed=False)
        self.finish(study)

    def test_two_studies_in_one_process_are_kept_apart(self) -> None:
        first, second = self.study().study, World(FakeStrategy(), seed=1).study
        self.tell("arf_study_started", study=first, directory=self.folder, resumed=False)
        self.tell("arf_study_started", study=second, directory=self.folder, resumed=False)
        self.finish(second)
        for experiment in self.experiments(first):
            self.tell("arf_experiment_changed", study=first, experiment=experiment)
        self.finish(first)

    def test_it_is_quick_where_the_engine_waits(self) -> None:
        self.watch(self.study().study)
        for hook in EVENTS - UNHURRIED:
            if took := self.took_s.get(hook):
                mean_s = sum(took) / len(took)
                assert mean_s <= self.quick_s, f"{hook} takes {mean_s:.3f} s: the engine waits for it"


def _told(study: Study) -> Mapping[str, object]:
    """All that a study holds, but for how often it was walked over."""
    return {name: copy.deepcopy(value) for name, value in vars(study).items() if name != "walks"}


def _summary(study: Study) -> Mapping[str, Any]:
    """Enough of what `arf status --json` shows."""
    return {
        "study": study.name,
        "state": "finished",
        "reason": "the suite is over",
        "best": None,
        "notes": [],
        "elapsed_s": 1.0,
        "workspace": "",
    }
