"""The conformance suite, designs, and whole studies on objectives whose best is known."""

from arf.interfaces import Strategy
from arf.testing.suites import StrategySuite
from arf_plugins.strategy_factorial import Layout, Options
from arf_plugins.strategy_factorial.strategy import Factorial


class TestFactorial(StrategySuite):
    def make(self) -> Strategy:
        return Factorial()


class TestFactorialWithSmallReplicatedDesigns(StrategySuite):
    def make(self) -> Strategy:
        return Factorial(Options(factors=3, runs=4, replicates=2, candidates=1))


class TestFactorialWithManyLevels(StrategySuite):
    def make(self) -> Strategy:
        return Factorial(Options(levels=2, runs=12, layout=Layout.OPTIMAL))
