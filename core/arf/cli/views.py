"""What `arf run` and `arf resume` show while a study runs: a picture, lines, or JSON lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arf.cli.describe import (
    aside_lines,
    best_text,
    claim_text,
    cost_text,
    gain_text,
    noise_text,
    slot_time,
    time_text,
    verdict_counts,
)
from arf.judge.statistics import SEED_ADVICE, ignores_seed
from arf.sdk.formats import VERDICT_COLOURS, count, duration, number, paint, small
from arf.status.estimate import lines, to_json
from arf.types import Role, Verdict, printable

if TYPE_CHECKING:
    from arf.cli.view_model import Snapshotter
    from arf.config.schema import Config
    from arf.engine.engine import Engine
    from arf.status.estimate import Estimate
    from arf.study import Study
    from arf.types import Experiment


def say(text: str) -> None:
    """A line for people. A terminal that is gone does not matter: the study does."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


class View(ABC):
    """Is told what happens. Nothing that it does may end the study."""

    def open(self, engine: Engine, config: Config, *, resumed: bool) -> None:
        """The engine is ready and about to run."""
        self.engine = engine
        self.config = config

    @abstractmethod
    def changed(self, study: Study, experiment: Experiment) -> None:
        """An experiment was accepted, started, ended or judged."""

    def tick(self) -> None:
        """A quarter of a second has passed."""
        return

    def note(self, text: str) -> None:
        """A line that people should see: a warning, or that the study is stopping."""
        say(f"arf: {text}")

    def foretold(self, told: Estimate) -> None:
        """What the study will probably take; called once, before its first job."""
        for line in lines(told, self.config.agent.name):
            self.note(line)

    def stopping(self, jobs: int) -> None:
        """The study was asked to end, and so many jobs are being ended."""
        self.note(f"stopping: ending {count(jobs, 'job')}; Ctrl-C again leaves at once")

    def close(self) -> None:
        """Give the terminal back. Called once, and before arf leaves in a hurry."""
        return

    @abstractmethod
    def finished(self, summary: Mapping[str, Any]) -> None:
        """The study has ended; called after `close`."""


class Plain(View):
    """A line for each verdict, for the noise, and what a study is at both ends."""

    def __init__(self) -> None:
        self._noisy: set[str] = set()

    def open(self, engine: Engine, config: Config, *, resumed: bool) -> None:
        super().open(engine, config, resumed=resumed)
        study = engine.study
        better = "less" if study.objective.direction == "min" else "more"
        slots = sum(tier.slots for tier in study.tiers)
        parts = f"strategy {config.strategy.name}, agent {config.agent.name}, backend {config.backend.name}"
        how = "goes on" if resumed else "starts"
        what = f"{study.objective.metric}, {better} is better"
        say(f"arf: study {study.name} {how}: {what}; {parts} with {count(slots, 'slot')}")
        say(f"arf: its folder is {engine.directory}")
        if config.workspace.setup and not engine.store.meta("set_up", False):
            from arf.launch import with_interpreter

            say(f"arf: first the workspace is set up: `{with_interpreter(config.workspace.setup)}`")
        if resumed:
            say(f"arf: {count(len(study.experiments), 'experiment')} so far, {study.running_count} under way")

    def changed(self, study: Study, experiment: Experiment) -> None:
        if experiment.verdict is not None:
            say(self._verdict(study, experiment))
        self._tell_noise(study, experiment)

    def _verdict(self, study: Study, experiment: Experiment) -> str:
        verdict = experiment.verdict
        assert verdict is not None
        colour = VERDICT_COLOURS[verdict]
        told = [
            f"{duration(self.engine.elapsed_s):>7}",
            f"{f'#{experiment.id}':>5}",
            paint(f"{verdict:<9}", colour, bold=verdict is Verdict.KEEP, stream=sys.stderr),
            f"{number(experiment.value):>9}",
            f" {printable(experiment.title)}",
        ]
        reason = f" ({printable(experiment.reason)})" if experiment.reason else ""
        return " ".join(told) + reason

    def _tell_noise(self, study: Study, experiment: Experiment) -> None:
        """Once for each tier: when the last replicate of the baseline there has ended."""
        spread = study.spread(experiment.tier)
        if experiment.tier in self._noisy or spread.df + 1 < study.rule.replicates:
            return
        if any(study.experiments[e].role is Role.BASELINE for e in study.running):
            return
        self._noisy.add(experiment.tier)
        sigma = (spread.sum_squares / spread.df) ** 0.5
        where = f" on {experiment.tier}" if len(study.tiers) > 1 else ""
        told = f"standard deviation {small(sigma)}"
        if ignores_seed(study, experiment.tier):
            told = SEED_ADVICE
        say(f"{duration(self.engine.elapsed_s):>7}   noise{where}: {told}")

    def finished(self, summary: Mapping[str, Any]) -> None:
        tell_summary(summary)


class JsonLines(View):
    """One JSON object for each event, on standard output."""

    def __init__(self) -> None:
        self._out = sys.stdout
        """While plugins are called, `sys.stdout` is something else."""
        self._is_refused = False
        """Whether it was said that a line could not be written."""

    def open(self, engine: Engine, config: Config, *, resumed: bool) -> None:
        super().open(engine, config, resumed=resumed)
        self._emit("study", study=engine.study.name, directory=str(engine.directory), resumed=resumed)

    def foretold(self, told: Estimate) -> None:
        super().foretold(told)
        self._emit("estimate", **to_json(told))

    def changed(self, study: Study, experiment: Experiment) -> None:
        from arf.cli.experiments import experiment_json

        told = experiment_json(experiment)
        del told["curve"]
        self._emit("experiment", **told)

    def note(self, text: str) -> None:
        super().note(text)
        self._emit("note", text=text)

    def finished(self, summary: Mapping[str, Any]) -> None:
        self._emit("finished", **summary)

    def _emit(self, event: str, **values: Any) -> None:
        try:
            line = json.dumps({"event": event, **values}, ensure_ascii=False)
            print(line, file=self._out, flush=True)
        except BrokenPipeError:
            # Nobody reads any more: like a terminal that was closed. Writing on would fail again and again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
            self.engine.stop("nobody reads the output")
        except OSError as error:
            if not self._is_refused:
                say(f"arf: warning: standard output cannot be written: {error.strerror}; the study goes on")
            self._is_refused = True


class Picture(View):
    """The live view, on a terminal. Should the terminal go away, the study goes on."""

    def __init__(self, snapshotter: Callable[[Engine, Config], Snapshotter]) -> None:
        from arf.cli.live import Screen

        self._make_lookout = snapshotter
        self._screen = Screen(sys.stderr)
        self._broken = False
        """There is nothing to draw on any more; the study goes on."""
        self._notes: deque[str] = deque(maxlen=100)
        self._dirty = True
        self._shown_at = 0.0

    def open(self, engine: Engine, config: Config, *, resumed: bool) -> None:
        super().open(engine, config, resumed=resumed)
        self._snapshotter = self._make_lookout(engine, config)
        self._screen.open()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTSTP, self._suspend)
        self.tick()

    def changed(self, study: Study, experiment: Experiment) -> None:
        self._dirty = True

    def note(self, text: str) -> None:
        if self._broken:
            super().note(text)
            return
        self._notes.append(text)
        self._dirty = True
        self.tick()

    def stopping(self, jobs: int) -> None:
        self._dirty = True
        self.tick()

    def tick(self) -> None:
        """Draw if something changed, or a second has passed."""
        now = self.engine.elapsed_s
        if self._broken or not (self._dirty or now - self._shown_at >= 1.0):
            return
        self._dirty = False
        self._shown_at = now
        board = self._snapshotter.look(
            elapsed_s=now,
            ideas_waiting=self.engine.study.untried_count,
            stopping=self.engine.stopping,
            notes=tuple(self._notes),
        )
        try:
            self._screen.show(board)
        except (OSError, ValueError):
            self._broken = True

    def _suspend(self) -> None:
        """Ctrl-Z: give the terminal back, stop, and take it again when the shell lets arf go on."""
        self._screen.close()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._screen.open()
        self._dirty = True

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._screen.close()
        self._broken = True
        for note in self._notes:
            say(f"arf: {note}")
        self._notes.clear()

    def finished(self, summary: Mapping[str, Any]) -> None:
        tell_summary(summary)


def tell_summary(summary: Mapping[str, Any]) -> None:
    """The end of a study, for people: what came of it, how sure that is, and what to do next."""
    name, best = summary["study"], summary["best"]
    improved = bool(best and best["gain"])
    say("")
    reason = printable(summary["reason"])
    say(f"study {name} {summary['state']} after {duration(summary['elapsed_s'])}: {reason}")
    rows = []
    if suspects := summary["suspects"]:
        which = ", ".join(f"#{number}" for number in suspects[:10]) + (" ..." if len(suspects) > 10 else "")
        rows += [("SUSPECT", f"{which}: look (`arf show N`), then `arf accept N` or `arf reject N`")]
    rows += [("best", best_text(summary))]
    if improved:
        rows += [("", f"commit {best['commit'][:12]} on branch arf/{name}: {printable(best['title'])}")]
    if (gain := gain_text(summary)) is not None:
        rows += [("gain", gain)]
    if (claim := claim_text(summary)) is not None:
        rows += [("claim", claim)]
    rows += [("noise", noise_text(summary))]
    rows += [("runs", f"{summary['ended']} ({verdict_counts(summary)})")]
    if summary["utilisation"] is not None:
        rows += [("slots", slot_time(summary))]
    if uses := time_text(summary):
        rows += [("", uses)]
    rows += [("aside", line) for line in aside_lines(summary)]
    if (cost := cost_text(summary)) is not None:
        rows += [("cost", cost)]
    rows += [("note", printable(note)) for note in summary["notes"]]
    if improved:
        rows += [("see it", "arf diff best --base"), ("take it", "arf best --apply")]
    if summary["state"] != "finished":
        rows += [("go on", f"arf resume {name}")]
    rows += [(Path(file).stem, file) for file in summary.get("files", ())]
    for label, text in rows:
        say(f"  {label:<9} {text}")
