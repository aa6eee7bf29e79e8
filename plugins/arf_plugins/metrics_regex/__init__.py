"""The `regex` parser: the user's own regular expressions."""

import re
from collections.abc import Mapping
from typing import Any

from attrs import Attribute, field, frozen

from arf.hooks import Declaration, hookimpl


def _check(_options: Any, _field: "Attribute[Any]", patterns: Mapping[str, str]) -> None:
    for metric, pattern in patterns.items():
        if not metric or not metric.isprintable():
            raise ValueError(f"{metric!r} is no name for a metric")
        try:
            compiled = re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"the pattern of {metric!r} is no regular expression: {error}") from None
        if unknown := compiled.groupindex.keys() - {"name", "value", "step"}:
            raise ValueError(
                f"the pattern of {metric!r} names a group {min(unknown)!r}; known are name, step and value"
            )
        if "value" not in compiled.groupindex and (compiled.groups != 1 or compiled.groupindex):
            raise ValueError(
                f"the pattern of {metric!r} needs one group, the number, or one named so: (?P<value>…)"
            )


@frozen(kw_only=True)
class Options:
    patterns: Mapping[str, str] = field(
        factory=dict,
        validator=_check,
        metadata={
            "help": "regular expression for each metric: its one group is the number, or it has groups named "
            "`value`, `step` and `name` (which replaces the metric's name)"
        },
    )


@hookimpl
def arf_register_metric_parsers() -> list[Declaration]:
    return [
        Declaration(
            name="regex",
            summary="your own regular expressions, one per metric",
            implementation="arf_plugins.metrics_regex.parser:RegexParser",
            options=Options,
        )
    ]
