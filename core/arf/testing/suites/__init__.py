"""Conformance suites: subclass one as `class TestMine(BackendSuite)` and say how to make yours."""

from arf.testing.suites.accept import AcceptRuleSuite
from arf.testing.suites.agent import AgentSuite
from arf.testing.suites.backend import BackendSuite
from arf.testing.suites.cluster import ClusterSuite
from arf.testing.suites.command import CommandSuite
from arf.testing.suites.listener import ListenerSuite
from arf.testing.suites.parser import MetricParserSuite
from arf.testing.suites.strategy import StrategySuite
from arf.testing.suites.workspace import WorkspaceSuite

__all__ = [
    "AcceptRuleSuite",
    "AgentSuite",
    "BackendSuite",
    "ClusterSuite",
    "CommandSuite",
    "ListenerSuite",
    "MetricParserSuite",
    "StrategySuite",
    "WorkspaceSuite",
]
