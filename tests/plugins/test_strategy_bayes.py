"""The conformance suite, and whole studies on objectives whose best is known."""

from arf.interfaces import Strategy
from arf.testing.suites import StrategySuite
from arf_plugins.strategy_bayes.strategy import Bayes


class TestBayes(StrategySuite):
    turns = 50

    def make(self) -> Strategy:
        return Bayes()
