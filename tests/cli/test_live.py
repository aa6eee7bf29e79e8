"""The live view: what it draws at any size, and that it gives the terminal back."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from arf.cli.live import draw, fit
from arf.cli.view_model import Board, Progress, Slot, read_progress
from arf.interfaces import MetricParser
from arf.plugins.registry import Plugins
from arf.types import printable

ARF = str(Path(sys.executable).with_name("arf"))
SECOND_SCREEN, FIRST_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"
HIDE_CURSOR, SHOW_CURSOR = b"\x1b[?25l", b"\x1b[?25h"


def summary(**changes: Any) -> dict[str, Any]:
    row = {
        "experiment": 12345,
        "commit": "a" * 40,
        "title": "DEPTH 4 -> 6 \x1b[31m\n注意 " + "x" * 300,
        "role": "candidate",
        "verdict": "keep",
        "value": 1.40123,
        "reason": "gain 0.0231 ± 0.0021 over the baseline\r" + "y" * 300,
    }
    best = {**row, "mean": 1.4, "n": 3, "tier": "cpu", "gain": 0.0231, "gain_percent": 1.6, "fresh": False}
    told = {
        "study": "nov23",
        "state": "running",
        "pid": 1,
        "strategy": "greedy",
        "agent": "offline",
        "backend": "local",
        "workspace": "/home/somebody/" + "w" * 100,
        "objective": {"metric": "val_bpb", "direction": "min"},
        "tiers": [{"name": "cpu", "slots": 20, "usd_per_hour": 0.0}],
        "experiments": 12345,
        "ended": 12300,
        "verdicts": {"keep": 1, "crash": 2},
        "last": [row] * 60,
        "noise": {"cpu": {"sigma": 0.0021, "df": 7}},
        "baseline": {"mean": 1.42, "n": 4, "tier": "cpu"},
        "best": best,
        "kept": [{**row, "experiment": 1, "value": 1.42}, row],
        "budget": {"max_time": 600.0, "max_experiments": 20_000, "max_usd": None},
        "slot_s": {"cpu": 5740.0},
        "slot_hours": 3.2,
        "utilisation": 0.97,
        "usd": 0.0,
        "tokens": 0,
        "open_asks": 1,
        "reason": "",
    }
    return {**told, **changes}


def slot(number: int, **changes: Any) -> Slot:
    values = {
        "experiment": number,
        "title": "注意 LEARNING_RATE 0.02 -> 0.04 and something long " * 3,
        "role": "candidate",
        "tier": "cpu",
        "attempt": 2,
        "elapsed_s": 5.0,
        "progress": Progress(fraction=0.5, step=123_456, loss=3.21),
        "expected_s": 10.0,
    }
    return Slot(**{**values, **changes})


def board(**changes: Any) -> Board:
    slots = tuple(slot(number) for number in range(16))
    return Board(**{"summary": summary(), "slots": slots, "elapsed_s": 300.0, "ideas_waiting": 3, **changes})


BEGINNING = board(
    elapsed_s=0.0,
    summary=summary(
        experiments=0, ended=0, best=None, kept=[], last=[], noise={}, verdicts={}, utilisation=None
    ),
    slots=(),
    setting_up="preparing the data",
)
BOARDS = {
    "busy": board(),
    "beginning": BEGINNING,
    "queued": board(slots=(slot(1, elapsed_s=None, progress=Progress(), expected_s=None),)),
    "stopping": board(stopping="interrupted", notes=("warning: something\nthat is long " * 20,) * 5),
    "no gain": board(summary=summary(best={**summary()["best"], "gain": 0.0}, budget={})),
}


@pytest.mark.parametrize("name", BOARDS)
@pytest.mark.parametrize(
    ("width", "height"), [(80, 24), (200, 50), (40, 10), (30, 8), (20, 5), (7, 2), (1, 1)]
)
def test_a_picture_fits_its_terminal(name: str, width: int, height: int) -> None:
    lines = [fit(line, width) for line in draw(BOARDS[name], width, height)]
    assert len(lines) <= height
    for line in lines:
        text = "".join(text for text, _ in line)
        assert cell_len(text) <= width
        assert text.isprintable()


def test_on_a_low_terminal_notes_give_way_to_what_is_left() -> None:
    low = board(notes=("warning: one", "warning: two"))
    text = ["".join(text for text, _ in line) for line in draw(low, 80, 10)]
    assert any(line.startswith("left") for line in text)
    assert not any("warning" in line for line in text)


def test_titles_lose_escape_sequences_whole() -> None:
    title = "\x1b[31mred\x1b[0m \x1b[2J\x1b]0;window\x07 alert\r\n\u202ehere"
    assert printable(title) == "red alert here"


def test_a_picture_says_what_matters() -> None:
    text = "\n".join("".join(text for text, _ in line) for line in draw(BOARDS["busy"], 200, 50))
    for words in ("1.40000 (#12345, 3 runs), 0.0231 (1.60 %) better", "proof", "running 16, 4 idle", "97 %"):
        assert words in text
    assert "7,655 experiments · 5m00s" in text
    assert "set-up: preparing the data" in "".join(t for line in draw(BEGINNING, 80, 24) for t, _ in line)


@pytest.mark.parametrize(
    ("text", "progress"),
    [
        ("step 00035 (12.5%) | loss: 3.21 | dt: 5ms\n", Progress(fraction=0.125, step=35, loss=3.21)),
        ("step 5/20 loss: 2.5\nevaluating\n", Progress(fraction=0.25, step=5, loss=2.5)),
        ("iter 10: loss 3.2, time 12.31ms\r", Progress(step=10, loss=3.2)),
        ("downloading 55%\n", Progress()),
        ("", Progress()),
    ],
)
def test_how_far_a_run_is_comes_from_its_log(tmp_path: Path, text: str, progress: Progress) -> None:
    log = tmp_path / "log"
    log.write_text(text)
    parser: MetricParser = Plugins.load().make("parser", "summary")
    assert read_progress(log, parser) == progress
    assert read_progress(tmp_path / "none", parser) == Progress()


def test_without_a_word_from_the_log_the_time_of_other_runs_tells_how_far_a_run_is() -> None:
    assert slot(1, progress=Progress()).fraction == 0.5
    assert slot(1, progress=Progress(), elapsed_s=20.0).fraction == 0.99
    assert slot(1, progress=Progress(), expected_s=None).fraction is None


# ---- On a terminal --------------------------------------------------------------------------


class Terminal:
    """`arf` with a terminal of its own, which it may signal through."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self.seen = b""

    def wait_for(self, text: bytes, times: int = 1) -> None:
        """Read until a text has been shown."""
        while self.seen.count(text) < times:
            block = self._read()
            assert block, f"{text!r} was not shown:\n{self.seen.decode(errors='replace')[-3000:]}"
            self.seen += block

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def rest(self) -> bytes:
        while block := self._read():
            self.seen += block
        return self.seen

    def _read(self) -> bytes:
        try:
            return os.read(self._master, 65_536)
        except OSError:  # Linux says EIO when the other end is closed
            return b""


@pytest.fixture
def terminal(workspace: Path) -> Callable[..., Any]:
    @contextmanager
    def opened(*arguments: str, **env: str) -> Iterator[Terminal]:
        pid, master = pty.fork()
        if pid == 0:
            os.chdir(workspace)
            os.execve(ARF, [ARF, *arguments], {**os.environ, "TERM": "xterm-256color", **env})
        terminal = Terminal(_Child(pid), master)  # type: ignore[arg-type]
        try:
            yield terminal
        finally:
            terminal.process.kill()
            os.close(master)

    return opened


class _Child:
    """A child of `pty.fork`, with what is needed of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


def test_the_view_is_on_the_second_screen_and_the_summary_on_the_first(terminal: Callable[..., Any]) -> None:
    with terminal("run", "--name", "s", ARF_DISABLE_PLUGINS="report") as shown:
        shown.wait_for(SECOND_SCREEN)
        shown.wait_for(b"Ctrl-C stops")
        shown.rest()
        assert shown.process.wait() == 0
    view, _, after = shown.seen.partition(FIRST_SCREEN)
    assert b"verdicts" in view
    assert b"study s finished" in after
    assert after.rfind(SHOW_CURSOR) > after.rfind(HIDE_CURSOR) or view.rfind(SHOW_CURSOR) > view.rfind(
        HIDE_CURSOR
    )


def test_ctrl_c_ends_the_study_and_a_second_one_leaves_at_once(
    terminal: Callable[..., Any], tmp_path: Path
) -> None:
    # A job that ignores SIGTERM holds up the end for as long as the backend has patience.
    enough = tmp_path / "enough"
    command = f"trap '' TERM; echo started; until [ -e {enough} ]; do sleep 0.1; done"
    options = ["-o", f"workspace.command={command}"]
    with terminal("run", "--name", "s", *options, "-o", "backend.grace_s=30") as shown:
        shown.wait_for(b"running 2")
        shown.press(b"\x03")
        shown.wait_for(b"Ctrl-C again leaves at once")
        shown.press(b"\x03")
        assert shown.process.wait() == 130
        enough.touch()
        shown.rest()
    after = shown.seen.partition(FIRST_SCREEN)[2]
    assert b"`arf resume s` takes them up again" in after
    assert shown.seen.rfind(SHOW_CURSOR) > shown.seen.rfind(HIDE_CURSOR)


def test_ctrl_z_gives_the_terminal_back_and_takes_it_again(terminal: Callable[..., Any]) -> None:
    with terminal("run", "--name", "s", SLOW="1", ARF_DISABLE_PLUGINS="report") as shown:
        shown.wait_for(b"running 2")
        os.kill(shown.process.pid, signal.SIGTSTP)
        assert os.WIFSTOPPED(os.waitpid(shown.process.pid, os.WUNTRACED)[1])
        shown.wait_for(FIRST_SCREEN)
        os.kill(shown.process.pid, signal.SIGCONT)
        shown.wait_for(SECOND_SCREEN, times=2)
        shown.press(b"\x03")
        shown.rest()
        assert shown.process.wait() == 130
