"""The live view: a full-screen picture of a board, drawn on what rich knows of the terminal.

It uses the terminal's second screen, so that resizing leaves nothing behind and the scroll-back stays clean;
the closing summary is then printed on the first. Lines are made here rather than by rich's tables, which take
ten times as long: a view that is drawn all night must cost no slot anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from attrs import frozen
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.segment import Segment
from rich.style import Style

from arf.cli.describe import best_text, noise_text, proof_text, verdict_counts
from arf.cli.view_model import Board, Slot
from arf.sdk.formats import VERDICT_COLOURS, count, duration, number
from arf.types import printable

if TYPE_CHECKING:
    from rich.console import RenderResult

Part = tuple[str, str]
"""A text and a style."""
Line = Sequence[Part]

MIN_WIDTH, MIN_HEIGHT = 30, 8
_BLOCKS = "▁▂▃▄▅▆▇█"
_DIM = "bright_black"


@frozen
class Picture:
    """A board as lines, made for the size that the terminal has when it is drawn."""

    board: Board

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, options.height or console.height
        styles: dict[str, Style] = {"": Style.null()}
        for index, line in enumerate(draw(self.board, width, height)):
            if index:
                yield Segment.line()
            for text, style in fit(line, width):
                if style not in styles:
                    styles[style] = Style.parse(style)
                yield Segment(text, styles[style])


class Screen:
    """Shows boards on a terminal. `close` gives the terminal back as it was, whatever happened."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, force_terminal=True, highlight=False)
        self._live = Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )

    def open(self) -> None:
        self._live.start()

    def show(self, board: Board) -> None:
        self._live.update(Picture(board), refresh=True)

    def close(self) -> None:
        """Safe to call more than once; `open` may follow."""
        self._live.stop()


def draw(board: Board, width: int, height: int) -> list[Line]:
    """The lines of a picture, at most `height` of them; each may be wider than `width` and is cut later."""
    if width < MIN_WIDTH or height < MIN_HEIGHT:
        return _tiny(board)[:height]
    top = [*_head(board, width), *_facts(board, width)]
    room = max(0, min(2, height - len(top) - 4))
    notes = [[(printable(note), "yellow")] for note in board.notes[max(0, len(board.notes) - room) :]]
    foot = [*notes, _foot(board)]
    rest = height - len(top) - len(foot) - 2
    slots = _slots(board, width, max(1, min(len(board.slots), rest * 2 // 3)))
    verdicts = _verdicts(board, width, max(0, rest - len(slots)))
    running = f"running {len(board.slots)}" + (f", {board.idle} idle" if board.idle else "")
    middle: list[Line] = [_rule(running, width), *slots, _rule("verdicts", width), *verdicts]
    lines = [*top, *middle]
    lines = lines[: height - len(foot)]
    lines += [[]] * (height - len(foot) - len(lines))
    return [*lines, *foot]


def _tiny(board: Board) -> list[Line]:
    """What fits where nothing fits."""
    return [
        [(f"{board.summary['study']} {duration(board.elapsed_s)}", "bold")],
        [(f"{board.summary['ended']} ended, {len(board.slots)} running", "")],
        [(best_text(board.summary), "green")],
    ]


# ---- Parts ----------------------------------------------------------------------------------


def _head(board: Board, width: int) -> Iterator[Line]:
    summary = board.summary
    state = "stopping" if board.stopping else summary["state"]
    left: Line = [("arf ", "bold cyan"), (summary["study"], "bold")]
    right: Line = [
        (f"{state} ", "yellow" if board.stopping else "green"),
        (duration(board.elapsed_s), "bold"),
    ]
    yield _ends(left, right, width)
    slots = sum(tier["slots"] for tier in summary["tiers"])
    objective = summary["objective"]
    better = "less" if objective["direction"] == "min" else "more"
    parts = (
        summary["strategy"],
        summary["agent"],
        f"{summary['backend']}: {count(slots, 'slot')}",
        f"{objective['metric']}, {better} is better",
        _short_path(summary["workspace"]),
    )
    yield [(" · ".join(map(str, parts)), _DIM)]
    yield []


def _short_path(path: str) -> str:
    home = os.path.expanduser("~")
    return "~" + path.removeprefix(home) if path.startswith(home + os.sep) else path


def _facts(board: Board, width: int) -> Iterator[Line]:
    summary = board.summary
    curve = sparkline(summary, max(8, min(40, width // 4))) if width >= 60 else ""
    yield _ends(_fact("best", _best(summary)), [(curve, "green")], width)
    if proof := proof_text(summary):
        yield _fact("proof", [(proof, "")])
    yield _fact("noise", [(noise_text(summary), "")])
    used = board.utilisation
    share = f" · {100 * used:.0f} % of slot time in use" if used is not None else ""
    yield _fact("runs", [(f"{summary['ended']:,}", "bold"), (f": {verdict_counts(summary)}{share}", "")])
    left = board.budget_left
    texts = " · ".join(text for _, text in left)
    bar = [(_bar(1 - left[0][0], 12), "cyan"), ("  ", "")] if left and width >= 60 else []
    yield _fact("left", [*bar, (texts or "no limit", ""), (_thinking(board), _DIM)])


def _fact(name: str, parts: Line) -> Line:
    return [(f"{name:<7}", _DIM), *parts]


def _best(summary: Mapping[str, Any]) -> Line:
    best = summary["best"]
    if best is None:
        return [(best_text(summary), _DIM)]
    if not best["gain"]:
        return [(best_text(summary), "")]
    return [(best_text(summary), "bold green"), (f"  {printable(best['title'])}", "")]


def _thinking(board: Board) -> str:
    parts = []
    if board.ideas_waiting is not None:
        parts.append(f"{count(board.ideas_waiting, 'idea')} waiting")
    if board.summary["open_asks"]:
        parts.append("the agent is thinking")
    return "".join(f" · {part}" for part in parts)


def _slots(board: Board, width: int, rows: int) -> list[Line]:
    shown = board.slots if len(board.slots) <= rows else board.slots[: rows - 1]
    lines = [_slot(slot, width) for slot in shown]
    if board.setting_up:
        lines.append([("      set-up: ", _DIM), (printable(board.setting_up), "")])
    if len(shown) < len(board.slots):
        lines.append([(f"      and {len(board.slots) - len(shown)} more", _DIM)])
    return lines


def _slot(slot: Slot, width: int) -> Line:
    progress = slot.progress
    fraction = slot.fraction
    right: list[Part] = []
    if width >= 70:
        right.append((_bar(fraction or 0.0, 14 if width < 120 else 28), "cyan"))
    right.append((f"{fraction:>5.0%}" if fraction is not None else "     ", ""))
    if width >= 50:
        right.append((f"  step {progress.step:<6}" if progress.step is not None else " " * 13, _DIM))
    if width >= 100:
        right.append(
            (f"  loss {number(progress.loss):<9.9}" if progress.loss is not None else " " * 16, _DIM)
        )
    if width >= 130:
        right.append((f"  {slot.role:<9} {slot.tier}", _DIM))
    right.append((f" {duration(slot.elapsed_s):>7}" if slot.elapsed_s is not None else "  queued", ""))
    again = f" (attempt {slot.attempt})" if slot.attempt > 1 else ""
    left = [(f"{f'#{slot.experiment}':>5} ", "bold"), (printable(slot.title) + again, "")]
    return _ends(left, right, width)


def _verdicts(board: Board, width: int, rows: int) -> list[Line]:
    lines: list[Line] = []
    title_width = max(12, (width - 28) * 2 // 5)
    for row in board.summary["last"][:rows]:
        colour = VERDICT_COLOURS.get(row["verdict"], "")
        line: list[Part] = [
            (f"{'#' + str(row['experiment']):>5} ", "bold"),
            (f"{row['verdict']:<9} ", f"bold {colour}" if row["verdict"] == "keep" else colour),
        ]
        if width >= 44:
            line.append((f"{number(row['value']):>9.9}  ", ""))
        line.append((_cell(printable(row["title"]), title_width), ""))
        line.append(("  " + printable(row["reason"]), _DIM))
        lines.append(line)
    return lines


def _foot(board: Board) -> Line:
    if board.stopping:
        return [(f"ending {count(len(board.slots), 'job')}; Ctrl-C again leaves at once", "yellow")]
    if board.summary["pid"] is None:
        return [(f"not running: {printable(board.summary['reason']) or board.summary['state']}", _DIM)]
    name = board.summary["study"]
    if board.watching:
        return [(f"Ctrl-C ends watching, `arf stop {name}` the study", _DIM)]
    return [(f"Ctrl-C stops; `arf resume {name}` goes on", _DIM)]


# ---- Drawing --------------------------------------------------------------------------------


def sparkline(summary: Mapping[str, Any], width: int) -> str:
    """The best value over the experiments so far, one character for a share of them; empty without a gain."""
    kept = [(row["experiment"], row["value"]) for row in summary["kept"] if row["value"] is not None]
    if len(kept) < 2:
        return ""
    low, high = min(v for _, v in kept), max(v for _, v in kept)
    last = max(summary["experiments"], kept[-1][0])
    levels = []
    for column in range(width):
        until = 1 + (last - 1) * column / max(1, width - 1)
        value = [value for experiment, value in kept if experiment <= until or experiment == kept[0][0]][-1]
        levels.append(round((value - low) / (high - low) * (len(_BLOCKS) - 1)) if high > low else 0)
    return "".join(_BLOCKS[level] for level in levels)


def _bar(fraction: float, width: int) -> str:
    filled = round(max(0.0, min(1.0, fraction)) * width)
    return "━" * filled + "╌" * (width - filled)


def _rule(title: str, width: int) -> Line:
    return [("── ", _DIM), (title, "bold"), (" " + "─" * max(0, width - len(title) - 4), _DIM)]


def _ends(left: Line, right: Line, width: int) -> Line:
    """One line with a part at each end; the left one gives way."""
    room = width - sum(cell_len(text) for text, _ in right)
    if room < 4:
        return left
    return [*fit(left, room - 1, pad=True), (" ", ""), *right]


def _cell(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, width - 1) + "…"


def fit(line: Line, width: int, *, pad: bool = False) -> list[Part]:
    """The parts that fit, the last one cut with an ellipsis; filled with blanks to the width if asked."""
    fitted: list[Part] = []
    room = width
    for text, style in line:
        length = cell_len(text)
        if length > room:
            fitted.append((_cell(text, room) if room > 0 else "", style))
            return fitted
        fitted.append((text, style))
        room -= length
    if pad and room > 0:
        fitted.append((" " * room, ""))
    return fitted
