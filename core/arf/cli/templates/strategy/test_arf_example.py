from arf_example import Example

from arf.interfaces import Strategy
from arf.testing.suites import StrategySuite


class TestExample(StrategySuite):
    def make(self) -> Strategy:
        return Example()
