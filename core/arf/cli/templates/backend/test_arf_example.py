from pathlib import Path

from arf_example import Example

from arf.interfaces import Backend
from arf.testing.suites import BackendSuite


class TestExample(BackendSuite):
    def make(self, directory: Path) -> Backend:
        return Example(Example.Options(slots=3), directory)
