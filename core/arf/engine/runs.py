"""What the engine holds for an experiment while it runs, and what its end means."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import define, frozen

from arf.engine.watch import Watch, last_lines, objective_value
from arf.interfaces import Tried
from arf.types import Experiment, JobResult, JobState, Objective, Reading, Verdict

if TYPE_CHECKING:
    from arf.interfaces import Workspace, WorkTree


class Trees:
    """Work trees that are used again and again: one for each running job, and a spare."""

    def __init__(self, workspace: Workspace, directory: Path) -> None:
        self._workspace = workspace
        self._directory = directory
        self._free: list[WorkTree] = []
        self._used: set[str] = set()

    def take(self) -> WorkTree:
        """A tree that nobody uses: the one that was given back last, or a new one."""
        if self._free:
            tree = self._free.pop()
            self._used.add(tree.directory.name)
            return tree
        number = 1
        while str(number) in self._used:
            number += 1
        return self.claim(str(number))

    def claim(self, name: str) -> WorkTree:
        """The tree of that name, which an earlier process may have left in use."""
        self._used.add(name)
        return self._workspace.work_tree(self._directory / name)

    def give_back(self, tree: WorkTree) -> None:
        self._used.discard(tree.directory.name)
        self._free.append(tree)

    def remove(self, in_use: Collection[str]) -> None:
        """Delete all trees but those of these names: no other is taken from here any more."""
        for path in self._directory.glob("[0-9]*"):
            if path.name not in in_use:
                shutil.rmtree(path, ignore_errors=True)


@frozen
class Ready:
    """A tree that holds what will probably run next."""

    commit: str
    seed: int
    tree: WorkTree


@define
class Run:
    """What the engine holds for an experiment that has not ended."""

    experiment: Experiment
    tree: WorkTree
    watch: Watch
    filled: bool = False
    """Whether its tree was made ready ahead."""
    handle: str = ""
    since: datetime | None = None
    """When its slot was given to it, if not when it was accepted."""
    problem: str = ""
    """Why arf ended it early."""
    withdrawn: bool = False
    """Whether it is ended because whoever wanted it does not want it any more."""


def read_result(
    run: Run, result: JobResult, objective: Objective, time_limit_s: float, log: Path
) -> tuple[float | None, Verdict | None, str]:
    """(objective, verdict, reason) of a run that has ended; the verdict is None where the judge decides."""
    if run.withdrawn and result.state is JobState.CANCELLED:
        return None, Verdict.CANCELLED, "withdrawn by whoever had submitted it"
    if run.problem:
        return None, Verdict.CRASH, run.problem
    if result.state is JobState.TIMED_OUT:
        return None, Verdict.TIMEOUT, f"reached its time limit of {time_limit_s:g} s"
    if result.state is JobState.CANCELLED:
        return None, Verdict.CANCELLED, "cancelled from outside arf"
    if result.state in (JobState.PREEMPTED, JobState.LOST):
        return None, Verdict.CRASH, f"{result.state} again: {result.message}".rstrip(": ")
    if result.state is not JobState.SUCCEEDED:
        return None, Verdict.CRASH, _crash_reason(result, log)
    changed = run.tree.tampered()
    if changed:
        return None, Verdict.INVALID, f"changed {', '.join(changed[:3])} while it ran"
    value, problem = objective_value(objective, run.watch.objectives, run.watch.metrics)
    if value is None:
        verdict = Verdict.INVALID if "objective.pick" in problem else Verdict.CRASH
        return None, verdict, problem
    return value, None, ""


def _crash_reason(result: JobResult, log: Path) -> str:
    lines = last_lines(log, 1)
    code = result.exit_code if result.exit_code is not None else 0
    how = result.message or (f"killed by signal {-code}" if code < 0 else f"exit code {code}")
    return f"{how}: {lines[0].strip()[:200]}" if lines else how


def tried_out(result: JobResult, seconds: float, readings: Sequence[Reading], log: Path) -> Tried:
    how = {
        JobState.SUCCEEDED: "it ran to its end",
        JobState.TIMED_OUT: f"it still ran after {seconds:g} s, as it should",
    }.get(result.state)
    broke = how is None
    how = how or f"it ended as {result.state} with exit code {result.exit_code}"
    last = {reading.name: f"{reading.name} {reading.value:.6g}" for reading in readings}
    lines = [how, f"readings: {', '.join(last.values()) or 'none'}", "the last lines of its log:"]
    lines += [line[:300] for line in last_lines(log, 8)]
    return Tried(text="\n".join(lines), broke=broke)
