"""The `jsonl` parser."""

import math
from typing import ClassVar

from arf.interfaces import MetricParser
from arf.plugins.registry import Plugins
from arf.testing.suites import MetricParserSuite
from arf.types import Reading
from arf_plugins.metrics_jsonl import Options
from arf_plugins.metrics_jsonl.parser import JsonLinesParser


def at(step: int | None = None, /, **values: float) -> list[Reading]:
    return [Reading(name=name.replace("__", "/"), value=value, step=step) for name, value in values.items()]


class TestJsonLines(MetricParserSuite):
    examples: ClassVar = {
        '{"step": 10, "loss": 3.2, "lr": 1e-4}': at(10, loss=3.2, lr=1e-4),
        '  {"loss": 3, "done": true, "note": "x", "none": null, "list": [1]}\r': at(loss=3.0),
        '{"step": 7, "val": {"bpb": 0.98, "deep": {"er": 1}}}': at(7, val__bpb=0.98),
        '{"loss": NaN, "a": -Infinity, "b": "nan", "c": "Infinity"}': at(
            loss=math.nan, a=-math.inf, b=math.nan, c=math.inf
        ),
        '{"epoch": "3", "valid_loss": "5.12", "name": "7b", "version": "1.2.3"}': at(
            epoch=3.0, valid_loss=5.12
        ),
        '{"step": 10.0, "loss": 1}': at(10, loss=1.0),
        '{"step": 1.5, "loss": 1}': at(loss=1.0),
        '{"step": -1, "loss": 1}': at(loss=1.0),
        '{"loss": 1}{"loss": 2}': [],
        '[{"loss": 1}]': [],
        '{"loss": 1': [],
        "{'loss': 1}": [],
        "loss: 1": [],
        "{}": [],
    }

    def make(self) -> MetricParser:
        return JsonLinesParser()


def test_the_step_may_have_another_name_also_an_inner_one(arf_plugins: Plugins) -> None:
    parser = arf_plugins.make("parser", "jsonl", Options(step="trainer/iteration"))
    assert parser.parse('{"trainer": {"iteration": 3, "lr": 0.1}, "step": 9}') == at(
        3, trainer__lr=0.1, step=9.0
    )
