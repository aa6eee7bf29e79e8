"""The whole test of a plugin: a subclass of the suite of each kind."""

from pathlib import Path
from typing import ClassVar

from arf_example import InOrderOptions, ScaleOptions, SupervisedOptions
from arf_example.agent import Scale
from arf_example.backend import Supervised
from arf_example.parser import Arrow
from arf_example.strategy import InOrder

from arf.interfaces import Agent, Backend, MetricParser, Strategy
from arf.plugins.registry import Plugins
from arf.testing.suites import AgentSuite, BackendSuite, MetricParserSuite, StrategySuite
from arf.types import Reading


class TestInOrder(StrategySuite):
    def make(self) -> Strategy:
        return InOrder(InOrderOptions())


class TestScale(AgentSuite):
    def make(self) -> Agent:
        return Scale(ScaleOptions())


class TestSupervised(BackendSuite):
    def make(self, directory: Path) -> Backend:
        return Supervised(SupervisedOptions(slots=3), directory)


class TestArrow(MetricParserSuite):
    examples: ClassVar = {
        "val_bpb -> 0.99": [Reading(name="val_bpb", value=0.99)],
        "val_bpb: 0.99": [],
    }

    def make(self) -> MetricParser:
        return Arrow()


def test_is_found_by_name(arf_plugins: Plugins) -> None:
    assert arf_plugins.provider("strategy", "in-order").name == "example"
    assert "example" not in arf_plugins.broken
