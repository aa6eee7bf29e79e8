"""The `jsonl` parser: a JSON object a line."""

from attrs import field, frozen

from arf.hooks import Declaration, hookimpl


@frozen(kw_only=True)
class Options:
    step: str = field(
        default="step", metadata={"help": "key of the training step; `a/b` for one inside another"}
    )


@hookimpl
def arf_register_metric_parsers() -> list[Declaration]:
    return [
        Declaration(
            name="jsonl",
            summary="JSON lines: top-level numbers, and nested ones as `outer/inner`",
            implementation="arf_plugins.metrics_jsonl.parser:JsonLinesParser",
            options=Options,
        )
    ]
