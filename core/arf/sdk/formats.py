"""Numbers, durations and rows as people read them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import IO

from arf.types import Verdict, printable

VERDICT_COLOURS = {
    Verdict.KEEP: "green",
    Verdict.DISCARD: "bright_black",
    Verdict.MEASURED: "blue",
    Verdict.CRASH: "red",
    Verdict.TIMEOUT: "yellow",
    Verdict.INVALID: "magenta",
    Verdict.SUSPECT: "bright_red",
    Verdict.CANCELLED: "bright_black",
}


def duration(seconds: float) -> str:
    """`8s`, `3m12s`, `2h05m`, `3d04h`."""
    whole = int(max(0.0, seconds) + 0.5)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def moment(at: str) -> str:
    """A time in ISO format as the clock on the wall shows it."""
    from datetime import datetime

    return f"{datetime.fromisoformat(at).astimezone():%Y-%m-%d %H:%M:%S %Z}"


def number(value: float | None) -> str:
    """Six digits, without an exponent where a person needs none; a dash for None."""
    if value is None:
        return "-"
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.5g}"
    whole = int(abs(value))
    return f"{value:.{max(0, 6 - len(str(whole)) if whole else 6)}f}"


def small(value: float | None) -> str:
    """Three significant digits: for noise and gains; a dash for None."""
    if value is None:
        return "-"
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:#.3g}".rstrip(".")


def percentage(value: float | None) -> str:
    """Two decimals and the sign; a dash for None."""
    return "-" if value is None else f"{value:.2f} %"


def count(n: int, noun: str, plural: str = "") -> str:
    """`1 run`, `2,000 runs`; `plural` is for nouns that take no s."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def has_colour(stream: IO[str]) -> bool:
    """Whether a stream wants colour: a terminal that can, and nobody who said NO_COLOR (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str = "", *, bold: bool = False, stream: IO[str] | None = None) -> str:
    """The text in a colour, if the stream (standard output) wants any."""
    if not has_colour(stream or sys.stdout):
        return text
    import click

    return click.style(text, fg=colour or None, bold=bold or None)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: str = "") -> str:
    """Aligned columns. On a terminal the last one is cut to the width; elsewhere nothing is.

    `right` has an `r` at the index of each column that is aligned to the right, and anything else elsewhere.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in (list(head), *cells)) for i in range(len(head))]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10**9

    def line(row: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if right[i : i + 1] == "r" else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return cut("  ".join(parts).rstrip(), room)

    return "\n".join([paint(line(head), bold=True), *map(line, cells)])


def cut(text: str, width: int) -> str:
    """The text, or its beginning with an ellipsis if it is wider."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"
