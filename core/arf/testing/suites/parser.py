"""What every metric parser must do: read its examples, keep no state, and survive any log."""

from __future__ import annotations

import contextlib
import json
import math
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import pytest

from arf.interfaces import MetricParser
from arf.plugins.guards import wrong_readings
from arf.types import Reading

LONGEST = 64 * 1024
"""Characters; arf cuts lines there before it shows them to a parser."""

HOSTILE: Mapping[str, str] = {
    "empty": "",
    "blank": " \t\v\f ",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x85\u2028\u2029",
    "NUL": "val_bpb:\x00 0.9\x00",
    "not UTF-8": "val_bpb: 0.9\ufffd\ufffd",
    "surrogates": "val_bpb\udc80: 0.9 \ud800 step 3 | \udfff: 1",
    "other digits": "val_bpb: ٣.٥ step ١٠ | loss: ३",
    "long number": "val_bpb: " + "9" * LONGEST,
    "long step": "step " + "9" * 5000 + " | loss: 1",
    "big exponent": "val_bpb: 1e999999999 loss=1e-999999999",
    "long word": "a" * LONGEST,
    "long words": "ab " * (LONGEST // 3),
    "many colons": "a:" * (LONGEST // 2),
    "many pairs": "step 1 " + "a: 1 | " * (LONGEST // 7),
    "many digits and commas": "step 1 | a: " + "1,111" * (LONGEST // 5),
    "many blanks": "step 1 | a:" + " " * LONGEST + "1",
    "many escapes": "\x1b[" * (LONGEST // 2),
    "deep JSON": '{"a":' * 20_000 + "1" + "}" * 20_000,
    "deep lists": '{"a": ' + "[" * 30_000 + "]" * 30_000 + "}",
    "JSON numbers": '{"a": 1e999, "b": -0.0, "c": NaN, "d": 1' + "0" * 400 + ', "step": 1e400}',
    "JSON names": '{"": 1, "\\ud800": 2, "\\n": 3, "\\u0000": 4, "' + "x" * 5000 + '": 5}',
    "JSON of all kinds": '{"a": null, "b": true, "c": [1], "d": {"e": {"f": 1}}, "step": "x"}',
    "half a JSON": '{"loss": 1.5, "val',
    "traceback": '  File "train.py", line 3, in <module>\nZeroDivisionError: division by zero',
}
"""Lines by what is odd about them."""


class MetricParserSuite(ABC):
    """Subclass it, implement `make`, give examples, and name it `Test…`."""

    examples: ClassVar[Mapping[str, Sequence[Reading]]]
    """Lines of a log, and what they hold; a line that holds nothing has an empty sequence."""

    limit_s: ClassVar[float] = 2.0
    """Processor time for one line, however long; a study stands still meanwhile."""

    @abstractmethod
    def make(self) -> MetricParser:
        """A parser as a study would make it."""

    def lines(self) -> Iterator[str]:
        """The examples, and then the hostile lines."""
        yield from self.examples
        yield from HOSTILE.values()

    @pytest.fixture(autouse=True)
    def _limit(self) -> Iterator[None]:
        with self.limited():
            yield

    @contextlib.contextmanager
    def limited(self) -> Iterator[None]:
        """Ends a line that would take for ever, as those of some regular expressions do."""

        def too_slow(number: int, frame: object) -> None:
            raise AssertionError(f"a line takes more than {self.limit_s} s")

        before = signal.signal(signal.SIGVTALRM, too_slow)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
            signal.signal(signal.SIGVTALRM, before)

    def parse(self, parser: MetricParser, line: str) -> Sequence[Reading]:
        """Parse a line, and check what must hold of its readings."""
        signal.setitimer(signal.ITIMER_VIRTUAL, self.limit_s)
        readings = parser.parse(line[:LONGEST])
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        assert not wrong_readings(readings), line[:200]
        return readings

    def test_reads_its_examples(self) -> None:
        assert any(self.examples.values()), "give at least one line that holds a reading"
        for line, wanted in self.examples.items():
            assert _plain(self.parse(self.make(), line)) == _plain(wanted), line

    @pytest.mark.parametrize("line", HOSTILE.values(), ids=HOSTILE.keys())
    def test_survives_any_line_and_gives_sound_readings(
        self, line: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        for reading in self.parse(self.make(), line):
            json.dumps(reading.name).encode()
        assert capfd.readouterr() == ("", ""), "it prints"

    def test_the_same_line_gives_the_same_readings_whatever_came_before(self) -> None:
        used = self.make()
        first = [_plain(self.parse(used, line)) for line in self.lines()]
        assert [_plain(self.parse(used, line)) for line in self.lines()] == first
        assert [_plain(self.parse(self.make(), line)) for line in self.lines()] == first
        backwards = [_plain(self.parse(used, line)) for line in reversed(list(self.lines()))]
        assert backwards[::-1] == first, "it keeps something from one line to the next"


def _plain(readings: Sequence[Reading]) -> list[tuple[str, float | str, int | None]]:
    """Readings that can be compared: NaN is not equal to itself."""
    return [(r.name, "nan" if math.isnan(r.value) else r.value, r.step) for r in readings]
