"""`arf status` and `arf list`: read from indexed rows, so that the size of a study does not matter."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from arf.cli.describe import (
    aside_lines,
    best_text,
    claim_text,
    cost_text,
    gain_text,
    hardware_lines,
    noise_text,
    slot_time,
    state_text,
    tier_costs_text,
    time_text,
    verdict_counts,
)
from arf.errors import StoreError, UsageError
from arf.sdk.commands import find_study, json_option, print_json, study_argument, study_folders, written_at
from arf.sdk.formats import duration, number, paint, percentage, small, table
from arf.types import printable

if TYPE_CHECKING:
    from arf.store.database import Store

WATCH_S = 1.0


@click.command()
@study_argument
@json_option
@click.option(
    "--watch", is_flag=True, help="Show it live until Ctrl-C; with --json, print a line on every change."
)
def status(study: str | None, as_json: bool, watch: bool) -> None:
    """Show where STUDY stands: best, gain, noise, what runs, the last verdicts.

    STUDY is a name or the beginning of one; the newest study if it is left out.
    """
    from arf.status.summary import summarize
    from arf.store.database import Store

    store = Store.open(find_study(study))
    try:
        if watch:
            _watch(store, as_json=as_json)
            return
        summary = summarize(store)
    finally:
        store.close()
    if as_json:
        print_json(summary)
    else:
        print_status(summary)


def print_status(summary: Mapping[str, Any]) -> None:
    """The state of a study, as lines on standard output."""
    objective = summary["objective"]
    better = "less" if objective["direction"] == "min" else "more"
    pid = f", pid {summary['pid']}" if summary["pid"] else ""
    rows = [
        ("study", f"{paint(summary['study'], bold=True)}: {state_text(summary)}{pid}"),
        ("folder", summary["directory"]),
        ("objective", f"{objective['metric']}, {better} is better"),
        ("parts", f"{summary['strategy']}, {summary['agent']}, {summary['backend']}: {_tiers(summary)}"),
        ("best", best_text(summary)),
    ]
    best = summary["best"]
    if best is not None and best["gain"]:
        rows.append(("", f"commit {best['commit'][:12]}: {printable(best['title'])}"))
    if (gain := gain_text(summary)) is not None:
        rows.append(("gain", gain))
    if (claim := claim_text(summary)) is not None:
        rows.append(("claim", claim))
    rows += [
        ("noise", noise_text(summary)),
        ("runs", f"{summary['ended']:,} ended ({verdict_counts(summary)}), {_open(summary)}"),
        ("time", _time(summary)),
    ]
    if uses := time_text(summary):
        rows.append(("", uses))
    rows += [("hardware" * (not i), line) for i, line in enumerate(hardware_lines(summary))]
    rows += [("aside" * (not i), paint(line, "red")) for i, line in enumerate(aside_lines(summary))]
    if (cost := cost_text(summary)) is not None:
        rows.append(("cost", cost))
    if (by_tier := tier_costs_text(summary)) is not None:
        rows.append(("", by_tier))
    if (standing := standing_text(summary)) is not None:
        rows.append(("up", standing))
    for label, text in rows:
        click.echo(f"{label:<10} {text}")
    _print_standing(summary)
    _print_running(summary)
    _print_last(summary)


def standing_text(summary: Mapping[str, Any]) -> str | None:
    """What the backend holds whether or not it is used, and since when that is known; None if not known."""
    standing = summary["standing"]
    if standing is None or (not standing["up"] and summary["pid"] is None):
        return None
    if not standing["up"]:
        return "nothing yet"
    seen = (
        f"{len(standing['up'])}, ${standing['usd_per_hour']:.2f} an hour, as of {_since(standing['at'])} ago"
    )
    if summary["pid"] is not None:
        return seen
    return paint(f"{seen}; `arf stop --down {summary['study']}` takes them down", "red")


def _print_standing(summary: Mapping[str, Any]) -> None:
    up = summary["standing"]["up"] if summary["standing"] else []
    if up:
        rows = [
            [
                printable(one["name"]),
                one["tier"],
                one["state"],
                _since(one["since"]) if one["since"] else "",
                f"${one['usd_per_hour']:.2f}",
                printable(one["detail"]),
            ]
            for one in up
        ]
        click.echo("\n" + table(["up", "tier", "state", "for", "an hour", ""], rows, right="---rr"))


def _open(summary: Mapping[str, Any]) -> str:
    return f"{len(summary['running'])} {'running' if summary['pid'] else 'not ended'}"


def _tiers(summary: Mapping[str, Any]) -> str:
    return ", ".join(f"{tier['slots']} x {tier['name']}" for tier in summary["tiers"])


def _time(summary: Mapping[str, Any]) -> str:
    return f"{duration(summary['elapsed_s'])}; {slot_time(summary)}"


def _print_running(summary: Mapping[str, Any]) -> None:
    if summary["running"]:
        rows = [
            [f"#{row['experiment']}", row["role"], row["tier"], _since(row["started_at"]), row["title"]]
            for row in summary["running"]
        ]
        head = "running" if summary["pid"] else "not ended"
        click.echo("\n" + table([head, "role", "tier", "for", "title"], rows, right="---r"))


def _since(started_at: str | None) -> str:
    from datetime import UTC, datetime

    if started_at is None:
        return "queued"
    return duration((datetime.now(UTC) - datetime.fromisoformat(started_at)).total_seconds())


def _print_last(summary: Mapping[str, Any]) -> None:
    if summary["last"]:
        rows = [
            [f"#{row['experiment']}", row["verdict"], number(row["value"]), row["title"], row["reason"]]
            for row in summary["last"]
        ]
        click.echo(
            "\n"
            + table(["last", "verdict", summary["objective"]["metric"], "title", "why"], rows, right="--r")
        )


def _watch(store: Store, *, as_json: bool) -> None:
    """Show the study until it ends or the user has seen enough, which is no interruption."""
    import time

    from arf.status.summary import summarize

    if not as_json and not sys.stderr.isatty():
        raise UsageError("--watch needs a terminal", hint="use --watch --json to follow from a program")
    try:
        if not as_json:
            _watch_picture(store)
            return
        import json

        before = None
        while True:
            summary = summarize(store)
            line = json.dumps(summary, ensure_ascii=False)
            if line != before:
                print(line, flush=True)
            before = line
            if summary["pid"] is None:
                return
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        return


def _watch_picture(store: Store) -> None:
    import time

    from arf.cli.live import Screen
    from arf.cli.view_model import Snapshotter
    from arf.launch import load_study_config
    from arf.plugins.registry import Plugins

    plugins = Plugins.load()
    config = load_study_config(store.directory, plugins)
    parser = plugins.make("parser", config.parser.name, config.parser.options)
    snapshotter = Snapshotter(store, parser, config.limits.budget_s)
    screen = Screen(sys.stderr)
    screen.open()
    try:
        while True:
            board = snapshotter.look()
            screen.show(board)
            if board.summary["pid"] is None:
                break
            time.sleep(WATCH_S)
    finally:
        screen.close()
    print_status(board.summary)


@click.command("list")
@json_option
def list_studies(as_json: bool) -> None:
    """List the studies of the workspace here (and of ./arf-demo), the newest first."""
    folders = sorted(study_folders().values(), key=written_at, reverse=True)
    rows = [_summary(folder) for folder in folders]
    if as_json:
        print_json(rows)
    elif not rows:
        click.echo("no study here; `arf run` starts one", err=True)
    else:
        head = ["study", "state", "runs", "best", "gain", "", "strategy", "agent", "started"]
        click.echo(table(head, [_row(row) for row in rows], right="--rrrr"))


def _summary(folder: Path) -> dict[str, Any]:
    from arf.status.summary import summarize
    from arf.store.database import Store

    try:
        store = Store.open(folder)
        try:
            return summarize(store, verdicts=0)
        finally:
            store.close()
    except StoreError as error:  # one that is damaged must not hide the others
        return {"study": folder.name, "state": "unusable", "error": str(error), "directory": str(folder)}


def _row(summary: Mapping[str, Any]) -> list[str]:
    if "error" in summary:
        return [summary["study"], "unusable", "", "", "", "", "", "", summary["error"]]
    best = summary["best"] or {}
    gain = best.get("gain")
    from datetime import datetime

    started = datetime.fromisoformat(summary["created_at"]).astimezone()
    return [
        summary["study"],
        state_text(summary, short=True),
        f"{summary['ended']:,}",
        number(best.get("mean")),
        small(gain) if gain else "-",
        percentage(best.get("gain_percent")) if gain else "",
        summary["strategy"] or "-",
        summary["agent"] or "-",
        f"{started:%Y-%m-%d %H:%M}",
    ]
