from arf_example import Example

from arf.interfaces import Agent
from arf.testing.suites import AgentSuite


class TestExample(AgentSuite):
    def make(self) -> Agent:
        return Example(Example.Options())
