from arf.interfaces import Strategy
from arf.testing.suites import StrategySuite
from arf_plugins.strategy_random.strategy import Random
class TestRandom(StrategySuite):
    def make(self) -> Strategy:
        return Random()
