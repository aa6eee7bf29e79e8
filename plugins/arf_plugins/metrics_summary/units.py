"""Units of printed numbers, each converted to one: seconds, bytes, and so many a second."""

from __future__ import annotations

import re

_TIMES = {
    **dict.fromkeys(("ns", "nsec", "nsecs"), 1e-9),
    **dict.fromkeys(("us", "µs", "μs", "usec", "usecs"), 1e-6),
    **dict.fromkeys(("ms", "msec", "msecs"), 1e-3),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "mins", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
}
_PREFIXES = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_COUNTED = r"(?:ops?|it|iters?|toks?|tokens?|samples?|req|requests?|images?|imgs?|elem|queries|rows|steps?)"
_PREFIXED = re.compile(
    r"(?P<prefix>[kKMGTP])\s?"
    rf"(?P<binary>i)?(?P<base>[bB](?:/s(?:ec)?|ps)?|(?i:flops?|flop)(?:/s)?|{_COUNTED}/s(?:ec)?)\Z"
)


def scale_of(unit: str) -> float:
    """What a number with this unit is multiplied by; 1 for a unit that is not known, and for percent.

    `m` alone may be minutes or metres, and stays.
    """
    unit = unit.strip()
    if not unit:
        return 1.0
    time, _, per = unit.partition("/")
    if time in _TIMES and (not per or per.isalpha()):
        return _TIMES[time]
    if unit in _PREFIXES:
        return _PREFIXES[unit]
    prefixed = _PREFIXED.match(unit)
    if prefixed is None:
        return 1.0
    if prefixed["binary"]:
        return float(1024 ** ("kMGTP".index(prefixed["prefix"].replace("K", "k")) + 1))
    return _PREFIXES[prefixed["prefix"]]


def scaled(value: float, unit: str) -> float:
    """A number in its base unit, without the noise of a binary product: 980 us is 0.00098."""
    scale = scale_of(unit)
    if scale == 1.0:
        return value
    return value * scale if scale > 1 else value / round(1 / scale)
