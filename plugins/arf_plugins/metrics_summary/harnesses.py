"""Lines of benchmark harnesses, which print a table or a layout of their own. Times are in seconds."""

from __future__ import annotations

import re
from collections.abc import Iterator

from arf.types import Reading
from arf_plugins.metrics_summary.units import scaled

_TIME = r"(?P<{0}>\d[\d,]{{0,24}}(?:\.\d{{1,12}})?)\s(?P<{0}_unit>[nmuµμ]?s)"
_CRITERION = re.compile(
    r"(?P<name>[^\s\[\]:][^\[\]:]{0,63}?)?\s{0,64}\btime:\s{1,8}"
    r"\[\d[\d.]{0,24} [nmuµμ]?s " + _TIME.format("middle") + r" \d[\d.]{0,24} [nmuµμ]?s\]\Z"
)
_HYPERFINE = re.compile(
    r"Time \((?:mean|abs)[^()]{0,16}\):\s{1,16}" + _TIME.format("mean") + r"(?:\s{1,8}(?:±|\+-)|\s{0,8}\Z)"
)
_GOOGLE = re.compile(
    r"(?P<name>[A-Za-z_][\w/:<>,.]{1,127})\s{1,32}"
    + _TIME.format("real")
    + r"\s{1,32}\d[\d.]{0,24} [nmuµμ]?s\s{1,32}\d{1,18}\b"
)
_GO = re.compile(
    r"(?P<name>Benchmark[\w/=.,-]{0,127}?)(?:-\d{1,4})?\s{1,32}\d{1,18}\s{1,32}(?P<columns>\d.{0,512})\Z"
)
_GO_COLUMN = re.compile(r"(?P<value>\d[\d.]{0,24}(?:e[-+]?\d{1,3})?)\s(?P<unit>[\w/%-]{1,32})")
_LIBTEST = re.compile(
    r"test (?P<name>\S{1,128}) {1,32}\.\.\. bench: {1,32}(?P<value>\d[\d,.]{0,24}) (?P<unit>[nmu]s)/iter\b"
)


def benchmarks(line: str) -> list[Reading]:
    """The readings of a line of criterion, hyperfine, Google Benchmark, `go test` or libtest; else none."""
    return [Reading(name=name, value=value) for name, value in _found(line)]


def _found(line: str) -> Iterator[tuple[str, float]]:
    if "time:" in line and (hit := _CRITERION.match(line)):
        name = "_".join((hit["name"] or "").split())
        yield f"{name}_time" if name else "time", _seconds(hit["middle"], hit["middle_unit"])
    elif line.startswith("Time (") and (hit := _HYPERFINE.match(line)):
        yield "time", _seconds(hit["mean"], hit["mean_unit"])
    elif line.startswith("Benchmark") and (hit := _GO.match(line)):
        for column in _GO_COLUMN.finditer(hit["columns"]):
            unit = column["unit"]
            name = hit["name"] if unit == "ns/op" else f"{hit['name']}_{unit}"
            yield name, scaled(float(column["value"]), unit)
    elif line.startswith("test ") and (hit := _LIBTEST.match(line)):
        yield hit["name"], _seconds(hit["value"], hit["unit"])
    elif hit := _GOOGLE.match(line):
        yield hit["name"], _seconds(hit["real"], hit["real_unit"])


def _seconds(number: str, unit: str) -> float:
    return scaled(float(number.replace(",", "")), unit)
