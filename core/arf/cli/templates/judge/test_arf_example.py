from arf_example import Example

from arf.interfaces import AcceptRule
from arf.testing.suites import AcceptRuleSuite


class TestExample(AcceptRuleSuite):
    def make(self) -> AcceptRule:
        return Example()
