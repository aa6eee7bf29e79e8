from typing import ClassVar

from arf_example import Example

from arf.interfaces import MetricParser
from arf.testing.suites import MetricParserSuite
from arf.types import Reading


class TestExample(MetricParserSuite):
    examples: ClassVar = {
        "val_bpb -> 0.99": [Reading(name="val_bpb", value=0.99)],
        "val_bpb: 0.99": [],
    }

    def make(self) -> MetricParser:
        return Example()
