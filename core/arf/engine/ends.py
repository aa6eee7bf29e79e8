"""What becomes of a run that is over: a reading for the judge, a failure, or another attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import asdict, evolve, frozen

from arf.engine.runner import Ended, JobRunner, Refusal
from arf.errors import ArfError, LostError
from arf.types import Experiment, ExperimentState, JobResult, JobState, Role, Verdict

if TYPE_CHECKING:
    from arf.engine.budgets import Budgets
    from arf.engine.contenders import Contenders
    from arf.engine.course import Course
    from arf.engine.doubts import Doubts
    from arf.engine.ledger import Ledger
    from arf.engine.monitor import Monitor
    from arf.engine.runs import Run

MAX_ATTEMPTS = 3
"""Runs of one experiment: preempted and lost jobs are run again, twice at most (after a bad node, more)."""
MAX_REFUSED_JOBS = 3
"""Jobs in a row that the backend would not take, after which the study ends."""


@frozen(kw_only=True)
class FailedBaseline:
    """What is known of a baseline that did not run well, for whoever explains it."""

    experiment: Experiment
    """With its verdict and the reason."""
    log: Path
    folder: Path
    """Where the command ran."""
    metrics: Mapping[str, float]
    """What the parser read in the log."""


class Ends:
    """Takes in how runs have ended, within a turn."""

    def __init__(
        self,
        *,
        runner: JobRunner,
        ledger: Ledger,
        budgets: Budgets,
        doubts: Doubts,
        contenders: Contenders,
        course: Course,
        monitors: Sequence[Monitor],
        explain: Callable[[FailedBaseline], str],
        start: Callable[[Experiment], None],
    ) -> None:
        """`explain` gives the hint on how to mend a baseline; `start` starts what is run again."""
        self._study = ledger.study
        self._runner = runner
        self._ledger = ledger
        self._budgets = budgets
        self._doubts = doubts
        self._contenders = contenders
        self._course = course
        self._monitors = monitors
        self._explain = explain
        self._start = start
        self._refused_jobs = 0
        """In a row."""
        self._refusals: dict[int, int] = {}
        """How often an experiment's job was refused since one was not."""

    def take(self, end: Ended) -> None:
        run = self._runner.release(end)
        if run is None:
            return
        if isinstance(end.how, Refusal):
            self._take_refusal(run, end.how)
        else:
            self._refused_jobs = 0
            self._refusals.pop(end.experiment_id, None)
            self._take_result(run, end.how)
        if not (isinstance(end.how, Refusal) and run.handle):  # else a job may still be in it
            self._runner.give_back(run)

    def _take_refusal(self, run: Run, refusal: Refusal) -> None:
        """The job could not be had. Where all are refused that says nothing of an experiment, which stays.

        It is submitted again under the same key: it may be there in spite of the error.
        """
        experiment, error = run.experiment, refusal.error
        if refusal.is_fatal:
            self._course.fail(error)
        if isinstance(error, LostError):
            run.problem = str(error)  # there is nothing to run any more
        else:
            refused = self._refusals[experiment.id] = self._refusals.get(experiment.id, 0) + 1
            self._refused_jobs += 1
            if self._refused_jobs >= MAX_REFUSED_JOBS:
                self._course.fail(error)
            if self._course.fatal is None and refused >= MAX_REFUSED_JOBS:
                run.problem = f"refused again: {error}"
        if run.problem or run.withdrawn:
            self._runner.cancel(run)
            state = JobState.CANCELLED if run.withdrawn else JobState.LOST
            self._take_result(run, JobResult(state=state, ended_at=self._ledger.now(), message=str(error)))
            return
        again = evolve(experiment, state=ExperimentState.ACCEPTED, handle="", reason=f"refused: {error}")
        self._requeue(again, in_its_tree_of=run if run.handle else None)

    def _take_result(self, run: Run, result: JobResult) -> None:
        ended = self._runner.read_end(run, result)
        if ended.value is not None and (doubt := self._doubts.of(ended, ended.value)):
            ended = evolve(ended, value=None, verdict=Verdict.SUSPECT, reason=doubt)
        if ended.value is not None and ended.role is not Role.BASELINE:
            self._contenders.collect(ended, run.tree)
        doubts = [monitor.ended(ended) for monitor in self._monitors]
        again = self._is_to_run_again(run, ended, is_doubtful=any(doubts))
        for monitor in self._monitors:
            monitor.settled(ended, self._ledger.now(), since=run.since, again=again)
        if again:
            stopped = result.state is JobState.CANCELLED
            why = "interrupted" if stopped else f"{result.state}: {result.message}".rstrip(": ")
            self._requeue(_fresh(ended, why))
            return
        self._budgets.ran(ended.slot_s)
        self._ledger.move(ended)
        if ended.verdict is Verdict.SUSPECT:
            self._doubts.tell(ended)
        if ended.role is Role.BASELINE:
            self._learn_from_baseline(run, ended)

    def _is_to_run_again(self, run: Run, ended: Experiment, *, is_doubtful: bool) -> bool:
        """It ended for no fault of its own: the machine was taken away, or the study was stopped.

        Where runs end badly more often than elsewhere, such an end may be the machine's (`is_doubtful`).
        """
        if run.withdrawn or run.problem:
            return False
        if ended.job_state is JobState.CANCELLED and self._course.is_ending:
            return True
        again = ended.job_state in (JobState.PREEMPTED, JobState.LOST, JobState.CANCELLED)
        if ended.job_state in (JobState.FAILED, JobState.TIMED_OUT):
            again = is_doubtful
        # A broken node is often the first that is free again: it may have had all attempts.
        is_blamed = any(monitor.blames(ended) for monitor in self._monitors)
        return again and ended.attempt < (2 if is_blamed else 1) * MAX_ATTEMPTS

    def _requeue(self, experiment: Experiment, in_its_tree_of: Run | None = None) -> None:
        """Run an experiment again, now or, where the study is ending, when it is resumed."""
        self._ledger.move(experiment)
        if self._course.is_ending:
            return
        tree = in_its_tree_of.tree if in_its_tree_of is not None else None
        placed = self._runner.place_again(experiment, tree)
        self._ledger.move(placed)
        asyncio.get_running_loop().call_soon(self._start, placed)

    def withdraw(self, number: int) -> str:
        """End an experiment that nobody wants any more; gives what was done."""
        run = self._runner.runs.get(number)
        if run is None:
            return f"experiment {number} does not run"
        run.withdrawn = True
        self._runner.cancel(run)
        return f"experiment {number} is ended"

    def _learn_from_baseline(self, run: Run, ended: Experiment) -> None:
        if ended.verdict is None:
            self._ledger.store.set_meta("normal", asdict(self._runner.learn(run)))
            return
        runs = [self._study.experiments[e] for e in self._study.by_role(Role.BASELINE)]
        good = any(e.value is not None for e in runs)
        others_run = any(e.state is not ExperimentState.ENDED for e in runs)
        failed = [e for e in runs if e.verdict is not None and e.value is None]
        node_of = self._runner.backend.node_of
        places = {node_of(e.slot) or str(e.id) for e in failed}  # one of them may be broken
        if not good and (len(places) > 1 or not others_run):
            path = self._runner.log_path(ended)
            failure = FailedBaseline(
                experiment=ended, log=path, folder=run.tree.cwd, metrics=run.watch.metrics
            )
            text = f"the baseline failed ({ended.verdict}): {ended.reason}; its log is {path}"
            self._course.fail(ArfError(text, hint=self._explain(failure)))


def _fresh(ended: Experiment, reason: str) -> Experiment:
    """An experiment that is to be run again, as if it had not been."""
    return evolve(
        ended,
        state=ExperimentState.ACCEPTED,
        attempt=ended.attempt + 1,
        handle="",
        job_state=None,
        exit_code=None,
        started_at=None,
        ended_at=None,
        value=None,
        metrics={},
        curve=(),
        verdict=None,
        reason=reason,
    )
