import arf_example

from arf.testing.suites import ListenerSuite


class TestExample(ListenerSuite):
    def make(self) -> object:
        return arf_example
