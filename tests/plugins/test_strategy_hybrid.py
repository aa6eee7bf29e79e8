"""The conformance suite, and whole studies on objectives whose best is known."""

from arf.interfaces import Strategy
from arf.testing.suites import StrategySuite
from arf_plugins.strategy_hybrid import Options
from arf_plugins.strategy_hybrid.strategy import Hybrid


class TestHybrid(StrategySuite):
    def make(self) -> Strategy:
        return Hybrid()


class TestHybridWithoutExtras(StrategySuite):
    def make(self) -> Strategy:
        return Hybrid(Options(lookahead=0, mix=0, fill=False, leave_one_out=0))
