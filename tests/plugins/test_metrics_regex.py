"""The `regex` parser."""

from typing import ClassVar

import pytest

from arf.errors import UsageError
from arf.interfaces import MetricParser
from arf.plugins.registry import Plugins
from arf.testing.suites import MetricParserSuite
from arf.types import Reading
from arf_plugins.metrics_regex import Options
from arf_plugins.metrics_regex.parser import LONGEST_LINE, RegexParser


def at(step: int | None = None, /, **values: float) -> list[Reading]:
    return [Reading(name=name, value=value, step=step) for name, value in values.items()]


class TestRegex(MetricParserSuite):
    examples: ClassVar = {
        "Final validation perplexity is 12.5!": at(perplexity=12.5),
        "Final validation perplexity is 1,012.5%": at(perplexity=1012.5),
        "Final validation perplexity is (12.5).": at(perplexity=12.5),
        "Final validation perplexity is 12.5,": at(perplexity=12.5),
        "Final validation perplexity is 0,512": [],  # no thousand, and no guess at a decimal comma
        "Final validation perplexity is 12,5": [],
        "Final validation perplexity is unknown": [],
        "[7] accuracy -> 41.5": at(7, accuracy=41.5),
        "[7] accuracy -> 41.5 [8] recall -> 0.5": at(7, accuracy=41.5) + at(8, recall=0.5),
        "[] accuracy -> 41.5": at(accuracy=41.5),
        "no metric": [],
    }

    def make(self) -> MetricParser:
        return RegexParser(
            Options(
                patterns={
                    "perplexity": r"perplexity is ([^\s!]+)",
                    "other": r"\[(?P<step>\d*)\] (?P<name>\w+) -> (?P<value>\S+)",
                }
            )
        )


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "no regular expression"),
        ("loss", "one group"),
        ("(loss) (.*)", "one group"),
        ("(?P<step>.*)", "one group"),
        ("(?P<valeu>.*)", "'valeu'"),
        ("(?P<value>.*) (?P<name>.*) (?P<unit>.*)", "'unit'"),
    ],
)
def test_a_wrong_pattern_is_refused_when_it_is_configured(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Options(patterns={"val_loss": pattern})
    assert "'val_loss'" in str(caught.value)


def test_a_metric_needs_a_name() -> None:
    with pytest.raises(ValueError, match="no name"):
        Options(patterns={"": "(.*)"})


def test_without_patterns_there_is_nothing_to_do(arf_plugins: Plugins) -> None:
    with pytest.raises(UsageError, match="patterns"):
        arf_plugins.make("parser", "regex")


def test_a_line_in_which_a_careless_expression_would_be_lost_is_not_searched() -> None:
    parser = RegexParser(Options(patterns={"loss": r"loss.*=.*=(\d+)"}))
    assert parser.parse("loss = =3") == at(loss=3.0)
    assert parser.parse("loss==3" + " " * LONGEST_LINE) == ()
