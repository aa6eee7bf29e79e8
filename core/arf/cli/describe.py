"""A study's state in words, the same in every view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arf.sdk.formats import count, duration, number, percentage, small
from arf.types import printable

LITTLE = 0.005
"""Shares of time under this are not told."""


def best_text(summary: Mapping[str, Any]) -> str:
    """The best and its gain; what is still missing where there is none."""
    best = summary["best"]
    if best is None:
        return "none yet: the baseline is being measured"
    runs = count(best["n"], "fresh run" if best["fresh"] else "run")
    value = f"{number(best['mean'])} (#{best['experiment']}, {runs})"
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


def claim_text(summary: Mapping[str, Any]) -> str | None:
    """The last claim, where the best came after it and is not what was claimed; else None."""
    results = [claim["result"] for claim in summary["claims"] if claim["result"] is not None]
    if not results or summary["final"] is not None:
        return None
    last = results[-1]
    newer = f"the best is newer: `arf claim {summary['study']}` measures it"
    return f"#{last['experiment']}: {printable(last['text'])}; {newer}"


def state_text(summary: Mapping[str, Any], *, short: bool = False) -> str:
    """What a study does, and why it ended."""
    if summary["state"] == "interrupted":
        return "interrupted" if short else f"interrupted; `arf resume {summary['study']}` goes on"
    reason = printable(summary["reason"])
    return summary["state"] if short or not reason else f"{summary['state']} ({reason})"


def slot_time(summary: Mapping[str, Any]) -> str:
    """How much slot time was used, and the utilization."""
    used = f"{duration(summary['slot_hours'] * 3600)} of slot time used"
    if summary["utilisation"] is None:
        return used
    return f"{used}, {100 * summary['utilisation']:.0f} % utilization"


def cost_text(summary: Mapping[str, Any]) -> str | None:
    """Dollars and tokens: of whom, for an idea, and for a kept gain; None if there are none."""
    spent = summary["money"]
    if not spent["usd"] and not spent["tokens"]:
        return None
    parts = [f"${spent['usd']:,.2f}"]
    if spent["agent_usd"] and spent["machines_usd"]:
        parts = [
            f"${spent['usd']:,.2f} (agent ${spent['agent_usd']:,.2f}, machines ${spent['machines_usd']:,.2f})"
        ]
    if spent["tokens"]:
        parts.append(f"{spent['tokens']:,} tokens")
    if spent["an_idea"] and spent["agent_usd"]:
        parts.append(f"${spent['an_idea']['usd']:,.3g} an idea")
    if spent["a_keep"] and spent["usd"]:
        parts.append(f"${spent['a_keep']['usd']:,.3g} a kept gain")
        if spent["since_keep"]["usd"]:
            parts[-1] += f" (${spent['since_keep']['usd']:,.3g} since the last)"
    return ", ".join(parts)


def tier_costs_text(summary: Mapping[str, Any]) -> str | None:
    """Dollars and slot time of each tier; None where there is one tier, or none costs anything."""
    tiers = summary["money"]["by_tier"]
    if len(tiers) < 2 or not any(one["usd"] for one in tiers.values()):
        return None
    return ", ".join(
        f"{name} ${one['usd']:,.2f} for {duration(one['slot_hours'] * 3600)}" for name, one in tiers.items()
    )


def hardware_lines(summary: Mapping[str, Any]) -> list[str]:
    """What was measured of each tier, a line each; none before a run has ended well."""
    return [f"{one['tier']}: {', '.join(_measured(one))}" for one in summary["hardware"]]


def _measured(one: Mapping[str, Any]) -> list[str]:
    seconds = one["seconds"]
    said = [f"{duration(seconds) if seconds >= 10 else f'{small(seconds)} s'} a run"]
    if one["offset"] is not None:
        said.append("speed unknown" if one["speed"] is None else f"speed {one['speed']:.3g}")
    if one["memory_mb"] is not None:
        said.append(f"{one['memory_mb'] / 1024:.3g} GiB")
    if one["sigma"] is not None:
        said.append(f"noise {small(one['sigma'])}")
    if one["offset"] is not None:
        error = "" if one["offset_error"] is None else f" ± {small(one['offset_error'])}"
        said.append(f"offset {one['offset']:+.3g}{error}")
    return said


def time_text(summary: Mapping[str, Any]) -> str:
    """Where the slots' time went: `training 81 %, queue 3 %, idle 16 % (waiting for the agent 16 %)`."""
    idle = summary["time"]["idle"]
    busy = {use: share for use, share in summary["time"]["shares"].items() if use not in idle}
    said = _shares(busy)
    if why := _shares(idle):
        said.append(f"idle {100 * sum(idle.values()):.0f} % ({', '.join(why)})")
    return ", ".join(said)


def _shares(shares: Mapping[str, float]) -> list[str]:
    """The biggest first."""
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    return [f"{use} {100 * share:.0f} %" for use, share in ranked if share >= LITTLE]


def aside_lines(summary: Mapping[str, Any]) -> list[str]:
    """Nodes that were set aside, and suspects that the backend cannot do without."""
    return [
        f"{printable(one['node'])} ({one['tier']}){'' if one['is_aside'] else ', still in use'}: {one['why']}"
        for one in summary["nodes_aside"]
    ]
