"""When a program that has reached a usage limit is asked again, by what it prints."""

from datetime import UTC, datetime

import pytest

from arf_plugins.cli_agents.limits import reset_s

NOON = datetime(2026, 9, 30, 12, 0, tzinfo=UTC)
H = 3600.0


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        (f"Claude AI usage limit reached|{int(NOON.timestamp()) + 7200}", 2 * H),
        ("5-hour limit reached ∙ resets 3pm", 3 * H),
        ("You've hit your limit · resets 11:30am (UTC)", 23.5 * H),
        ("You've hit your weekly limit · resets Oct 3, 2pm (Europe/Berlin)", 3 * 24 * H),
        ("You've hit your usage limit. Try again in 3 hours 12 minutes.", 3.2 * H),
        ("You've hit your usage limit. Upgrade to Pro or try again in 1 day 2 hours.", 26 * H),
        ("usage limit reached, try again at 3:45 PM.", 3.75 * H),
        ("rate limit exceeded: try again in 20s", 20.0),
        ("You've hit your limit · resets 11pm (Mars/Olympus)", 11 * H),
        ("API Error: 529 overloaded, try again in 5m", None),
        ("usage limit reached", None),
        ("the limit resets at 77:99", None),
        ("ended at its limit (max_turns)", None),
    ],
)
def test_the_time_of_the_reset_is_read(message: str, seconds: float | None) -> None:
    assert reset_s(message, NOON) == seconds
