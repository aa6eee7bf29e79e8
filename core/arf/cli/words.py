"""A study's state in words, the same in every view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arf.cli.formats import count, duration, number, percentage, printable, small

REPORT_FILES = ("results.tsv", "progress.png", "report.html")


def best_text(summary: Mapping[str, Any]) -> str:
    """The best and its gain; what is still missing where there is none."""
    best = summary["best"]
    if best is None:
        return "none yet: the baseline is being measured"
    value = f"{number(best['mean'])} (#{best['experiment']}, {count(best['n'], 'run')})"
    if not best["gain"]:
        return f"{value}, the baseline"
    word = "better" if best["gain"] > 0 else "worse"
    share = "" if best["gain_percent"] is None else f" ({percentage(abs(best['gain_percent']))})"
    return f"{value}, {small(abs(best['gain']))}{share} {word}"


def proof_text(summary: Mapping[str, Any]) -> str:
    """Why the best was kept; empty while it is the baseline."""
    best = summary["best"]
    return printable(summary["kept"][-1]["reason"]) if best is not None and best["gain"] else ""


def noise_text(summary: Mapping[str, Any]) -> str:
    """The noise of each tier."""
    noise = summary["noise"]
    if not noise:
        return "not measured yet"
    many = len(noise) > 1
    return " · ".join(
        f"{small(tier['sigma'])}{f' on {name}' if many else ''} (standard deviation, df {tier['df']:.0f})"
        for name, tier in noise.items()
    )


def verdict_counts(summary: Mapping[str, Any]) -> str:
    """`2 keep, 11 discard, 1 crash`."""
    counts = ", ".join(f"{n:,} {verdict}" for verdict, n in summary["verdicts"].items())
    return counts or "no verdict yet"


def gain_text(summary: Mapping[str, Any]) -> str | None:
    """The gain at the end with its interval, by fresh runs where there are any; None if there is none."""
    final = summary["final"]
    return None if final is None else str(final["text"]).removeprefix("gain ")


def state_text(summary: Mapping[str, Any], *, short: bool = False) -> str:
    """What a study does, and why it ended."""
    if summary["state"] == "interrupted":
        return "interrupted" if short else f"interrupted; `arf resume {summary['study']}` goes on"
    reason = printable(summary["reason"])
    return summary["state"] if short or not reason else f"{summary['state']} ({reason})"


def slot_time(summary: Mapping[str, Any]) -> str:
    """How much slot time was used, and which share of what there was."""
    used = f"{duration(summary['slot_hours'] * 3600)} of slot time used"
    if summary["utilisation"] is None:
        return used
    return f"{used}, {summary['utilisation']:.0%} of what there was"
