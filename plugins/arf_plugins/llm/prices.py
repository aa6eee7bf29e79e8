"""What tokens cost: list prices with the day that they were read, and the user's own over them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from attrs import frozen

from arf.errors import UsageError
from arf.types import Usage

READ_ON = "2026-11-23"
"""The day that the table below was made from the providers' price pages and what quotes them."""


@frozen
class Price:
    """Dollars for a million tokens."""

    input: float
    output: float
    cached: float
    """Input that was read from a cache."""
    cache_write: float = 0.0
    """Input that was written to a cache, where that costs more; 0: the price of input."""
    long_over: int = 0
    """Input tokens above which a request is dearer; 0 for none."""
    long_input: float = 1.0
    """By how much its input is."""
    long_output: float = 1.0

    def usd(self, *, fresh: int, cached: int, written: int, output: int) -> float:
        """Dollars for one request. The input is `fresh`, `cached` and `written` tokens together."""
        is_long = bool(self.long_over) and fresh + cached + written > self.long_over
        by_input, by_output = (self.long_input, self.long_output) if is_long else (1.0, 1.0)
        tokens = fresh * self.input + cached * self.cached + written * (self.cache_write or self.input)
        return (tokens * by_input + output * self.output * by_output) / 1e6


def _claude(input: float, output: float, cached: float) -> Price:
    return Price(input, output, cached, cache_write=1.25 * input)


def _gpt(input: float, output: float, cached: float) -> Price:
    return Price(input, output, cached, 1.25 * input, 272_000, 2.0, 1.5)


TABLE: Mapping[str, Price] = {
    "claude-fable-5-1": _claude(10, 50, 0.25),
    "claude-fable-5": _claude(10, 50, 1),
    "claude-mythos-5-1": _claude(10, 50, 0.25),
    "claude-mythos-5": _claude(10, 50, 1),
    "claude-opus-5-5": _claude(4, 20, 0.2),
    "claude-opus-5": _claude(5, 25, 0.5),
    "claude-opus-4-8": _claude(5, 25, 0.5),
    "claude-opus-4-7": _claude(5, 25, 0.5),
    "claude-opus-4-6": _claude(5, 25, 0.5),
    "claude-opus-4-5": _claude(5, 25, 0.5),
    "claude-sonnet-5-5": _claude(2, 10, 0.1),
    "claude-sonnet-5": _claude(2, 10, 0.2),
    "claude-sonnet-4-6": _claude(3, 15, 0.3),
    "claude-haiku-5-5": Price(0.1, 0.5, 0.01, 0.125, 100_000, 5.0, 5.0),
    "claude-haiku-4-5": _claude(1, 5, 0.1),
    "gpt-6.2-sol": _gpt(2, 10, 0.1),
    "gpt-6.1-sol": _gpt(2, 10, 0.1),
    "gpt-6-sol": _gpt(2, 10, 0.2),
    "gpt-6.1-terra": _gpt(1, 5, 0.05),
    "gpt-6-luna": _gpt(0.1, 0.5, 0.01),
    "gpt-6-astra": _gpt(10, 50, 1),
}
"""Models that are not here cost nothing as far as arf knows; it says so, and takes no budget in dollars."""

_DATED = re.compile(r"-(?:\d{8}|\d{4}-\d{2}-\d{2}|latest)\Z")


def price_of(model: str, own: Mapping[str, Mapping[str, float]]) -> Price | None:
    """The price of a model, the user's own first; None if nobody knows it.

    A dated name (`claude-opus-5-5-20260922`) and one behind a provider's prefix count as the model itself.
    Raises UsageError for a price of the user's that lacks something.
    """
    bare = _DATED.sub("", model.rpartition("/")[2])
    for name in (model, bare):
        if name in own:
            return _own_price(name, own[name])
    return TABLE.get(bare)


def _own_price(name: str, values: Mapping[str, float]) -> Price:
    unknown = set(values) - {"input", "output", "cached", "cache_write"}
    if unknown or not {"input", "output"} <= set(values):
        raise UsageError(
            f"agent.prices.{name} needs input and output, and may have cached and cache_write",
            hint="in dollars for a million tokens",
        )
    return Price(
        values["input"],
        values["output"],
        values.get("cached", values["input"]),
        values.get("cache_write", 0.0),
    )


def priced(price: Price | None, *, fresh: int, cached: int, written: int, output: int) -> Usage:
    """What one request used. A service that counts wrongly gives no negative numbers here."""
    fresh, cached, written, output = (max(0, count) for count in (fresh, cached, written, output))
    usd = price.usd(fresh=fresh, cached=cached, written=written, output=output) if price else 0.0
    return Usage(input_tokens=fresh + cached + written, cached_tokens=cached, output_tokens=output, usd=usd)
