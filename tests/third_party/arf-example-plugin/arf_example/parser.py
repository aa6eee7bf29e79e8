import re
from collections.abc import Sequence

from arf.interfaces import MetricParser
from arf.types import Reading

LINE = re.compile(
    r"([A-Za-z_]\w{0,63}) -> ([-+]?(?:\d{1,300}(?:\.\d{0,300})?(?:e[-+]?\d{1,3})?|nan|inf))", re.ASCII
)


class Arrow(MetricParser):
    def parse(self, line: str) -> Sequence[Reading]:
        match = LINE.fullmatch(line.strip())
        return [Reading(name=match[1], value=float(match[2]))] if match else []
