from arf.interfaces import Strategy
from arf.testing.suites import StrategySuite
from arf_plugins.strategy_greedy.strategy import Greedy
class TestGreedy(StrategySuite):
    def make(self) -> Strategy:
        return Greedy()
