"""The `summary` parser: `key: number` lines and step lines, as autoresearch and its relatives print them."""

from arf.hooks import Declaration, hookimpl


@hookimpl
def arf_register_metric_parsers() -> list[Declaration]:
    return [
        Declaration(
            name="summary",
            summary="`key: number` lines and step lines (autoresearch, nanochat, nanoGPT, modded-nanogpt)",
            implementation="arf_plugins.metrics_summary.parser:SummaryParser",
        )
    ]
