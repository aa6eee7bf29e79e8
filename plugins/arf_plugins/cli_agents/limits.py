"""When a program that has reached a usage limit says that it can be asked again."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_LIMIT = re.compile(r"\blimit\b", re.IGNORECASE)
_EPOCH = re.compile(r"\|(\d{10})\b")
_SPAN = re.compile(
    r"(?:again|resets?) in "
    r"((?:\d+ ?(?:d|h|m|s|days?|hours?|hrs?|minutes?|mins?|seconds?|secs?)\b[ ,]*(?:and )?)+)",
    re.IGNORECASE,
)
_PART = re.compile(r"(\d+) ?([dhms])", re.IGNORECASE)
_CLOCK = re.compile(
    r"(?:again at|resets?(?: at)?) "
    r"(?:(?P<month>[A-Z][a-z]{2})[a-z]* (?P<day>\d{1,2})(?:st|nd|rd|th)?,? (?:\d{4},? )?(?:at )?)?"
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d{2}))? ?(?P<half>[ap]\.?m\.?)?(?: \((?P<zone>[\w/+-]+)\))?",
    re.IGNORECASE,
)
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]


def reset_s(message: str, now: datetime) -> float | None:
    """Seconds from `now`, which has a zone, until the limit in a message ends; None if it names no time.

    Reads what Claude Code and Codex print: `…limit reached|1749924000`, `…limit reached ∙ resets 3pm`,
    `…resets Oct 3, 9:30am (Europe/Berlin)`, `…usage limit… Try again in 3 hours 12 minutes`,
    `…try again at 3:45 PM`. A time of day without a zone is of `now`'s zone, and the next such time.
    """
    if not _LIMIT.search(message):
        return None
    if found := _EPOCH.search(message):
        return max(0.0, float(found[1]) - now.timestamp())
    if found := _SPAN.search(message):
        return sum(float(n) * _UNITS[unit.lower()] for n, unit in _PART.findall(found[1]))
    found = _CLOCK.search(message)
    return _until(found, now) if found else None


def _until(found: re.Match[str], now: datetime) -> float | None:
    hour, minute = int(found["hour"]), int(found["minute"] or 0)
    if found["half"]:
        hour = hour % 12 + (12 if found["half"].lower().startswith("p") else 0)
    here = now.astimezone(_zone(found["zone"], now))
    try:
        then = here.replace(hour=hour, minute=minute, second=0, microsecond=0)
        if found["month"]:
            month = _MONTHS.index(found["month"].lower()) + 1
            then = then.replace(month=month, day=int(found["day"]))
            then = then if then >= here - timedelta(days=1) else then.replace(year=then.year + 1)
    except ValueError:
        return None
    if then < here and not found["month"]:
        then += timedelta(days=1)
    return max(0.0, (then - here).total_seconds())


def _zone(name: str | None, now: datetime) -> tzinfo:
    if name:
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError):
            pass  # not a zone that this machine knows
    return now.tzinfo or UTC
