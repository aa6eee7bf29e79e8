"""The conformance suite, and whole studies with tiers that disagree more or less about what is good."""

from arf.interfaces import Strategy
from arf.testing.suites import StrategySuite
from arf_plugins.strategy_two_tier import Options
from arf_plugins.strategy_two_tier.strategy import TwoTier


class TestTwoTier(StrategySuite):
    def make(self) -> Strategy:
        return TwoTier()


class TestTwoTierOnShortBudgets(StrategySuite):
    def make(self) -> Strategy:
        return TwoTier(Options(share=0.1, lookahead=0))
