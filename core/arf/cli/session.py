"""Runs a study to its end under a view: what it shows, its warnings, and the signals that stop it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from arf.cli.app import INTERRUPTED
from arf.cli.views import JsonLines, Picture, Plain, View, say
from arf.hooks import hookimpl
from arf.sdk.formats import count

if TYPE_CHECKING:
    from arf.config.schema import Config
    from arf.engine.engine import Engine
    from arf.plugins.registry import Plugins
    from arf.store.database import StudyLock
    from arf.study import Study
    from arf.types import Experiment

    Begin = Callable[[], Coroutine[Any, Any, tuple[Engine, StudyLock]]]

log = logging.getLogger(__name__)

TICK_S = 0.25


class Observer:
    """A plugin of the command line's own, which tells the view what happens."""

    def __init__(self, view: View) -> None:
        self._view = view

    @hookimpl
    def arf_experiment_changed(self, study: Study, experiment: Experiment) -> None:
        self._view.changed(study, experiment)


class Notes(logging.Handler):
    """Log records as notes of the view."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self._view = view

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        self._view.note(f"{record.levelname.lower()}: {' '.join(text.split())}")


def conduct(
    begin: Begin,
    plugins: Plugins,
    notes: Sequence[str],
    *,
    style: str | None,
    verbose: bool,
    resumed: bool,
) -> int:
    """Run a study to its end under a view, which tells the notes first; gives the exit code."""
    view = _make_view(style, plugins)
    plugins.register(Observer(view), "arf.cli")
    with contextlib.redirect_stdout(sys.stderr):  # what plugins print must not get into the data
        return asyncio.run(_conduct(begin, plugins, view, notes, verbose=verbose, resumed=resumed))


async def _conduct(
    begin: Begin, plugins: Plugins, view: View, notes: Sequence[str], *, verbose: bool, resumed: bool
) -> int:
    from arf.launch import estimate_rest, load_study_config

    engine, lock = await begin()
    config = load_study_config(engine.directory, plugins)
    handler = Notes(view)
    logging.captureWarnings(True)
    for ours in ("arf", "arf_plugins"):
        logging.getLogger(ours).setLevel(logging.INFO if verbose else logging.WARNING)
    ticking = asyncio.ensure_future(_tick(view))
    try:
        view.open(engine, config, resumed=resumed)
        logging.getLogger().addHandler(handler)
        for note in notes:
            view.note(note)
        view.foretold(estimate_rest(engine, config))
        _catch_signals(engine, view)
        summary = await engine.run()
    finally:
        ticking.cancel()
        logging.getLogger().removeHandler(handler)
        view.close()
        engine.store.close()
        lock.release()
        if left := engine.jobs_left:
            name, jobs = engine.study.name, count(left, "job")
            say(f"arf: {jobs} may go on; `arf resume {name}` takes them up, `arf stop {name}` ends them")
    view.finished(summary)
    return INTERRUPTED if engine.stopping else 0


async def _tick(view: View) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        try:
            view.tick()
        except Exception:  # a view that breaks must not take the study with it
            view.close()
            log.exception("the view broke, and the study goes on")
            return


def _make_view(style: str | None, plugins: Plugins) -> View:
    if style == "json":
        return JsonLines()
    if style == "plain" or not _has_screen():
        return Plain()

    def snapshotter(engine: Engine, config: Config) -> Any:
        from arf.cli.view_model import Snapshotter

        parser = plugins.make("parser", config.parser.name, config.parser.options)
        return Snapshotter(engine.store, parser, config.limits.budget_s)

    return Picture(snapshotter)


def _has_screen() -> bool:
    """Whether standard error is a terminal that can show a picture, and arf is in its foreground."""
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return False
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    except OSError:
        return False


def _catch_signals(engine: Engine, view: View) -> None:
    """The first Ctrl-C, SIGTERM or SIGHUP ends the study; a Ctrl-C after that leaves at once.

    A second SIGTERM or SIGHUP changes nothing: a terminal that closes may send several. What was ignored when
    arf began (`nohup`) stays ignored.
    """
    loop = asyncio.get_running_loop()

    def caught(number: signal.Signals) -> None:
        if not engine.stopping:
            engine.stop("interrupted")
            view.stopping(engine.study.running_count)
        elif number == signal.SIGINT:
            view.close()
            say(f"arf: left at once; jobs may go on: `arf resume {engine.study.name}` takes them up again")
            os._exit(INTERRUPTED)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, caught, number)
