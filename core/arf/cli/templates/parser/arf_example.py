import re
from collections.abc import Sequence

from arf.hooks import Declaration, hookimpl
from arf.interfaces import MetricParser
from arf.types import Reading

LINE = re.compile(r"([A-Za-z_]\w{0,63}) -> ([-+]?\d{1,300}(?:\.\d{0,300})?(?:e[-+]?\d{1,3})?)", re.ASCII)


class Example(MetricParser):
    """Reads lines of the form `name -> number`"""

    def parse(self, line: str) -> Sequence[Reading]:
        match = LINE.fullmatch(line.strip())
        return [Reading(name=match[1], value=float(match[2]))] if match else []

    def example(self, metric: str) -> str:
        return f"{metric} -> 1.23"


@hookimpl
def arf_register_metric_parsers() -> list[Declaration]:
    return [Declaration(name="example", implementation=Example)]
