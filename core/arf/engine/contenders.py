"""What is looked at before a change is kept: guards, and the evaluation outside the code that was edited.

The outputs that an evaluation needs are taken out of the work tree when a run ends, before the next job gets
it. When a run is about to be kept, they are put into a fresh tree of its commit, and nothing else that it has
left. The commands run there in boxes of their own, which alone may see the private files.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from arf.config.schema import Config
from arf.engine.runs import Trees
from arf.engine.watch import LogTail, Watch, WatchLimits, last_lines
from arf.errors import ArfError
from arf.interfaces import Backend, MetricParser
from arf.judge.guards import broken
from arf.sandbox.boxes import Boxes
from arf.study import Study
from arf.types import Experiment, Job, JobState, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arf.interfaces import WorkTree


@frozen
class Looked:
    """What came of it: no verdict if it may be kept."""

    verdict: Verdict | None = None
    reason: str = ""


class Contenders:
    """Runs of one study that may be kept, and what became of the look at them."""

    def __init__(
        self,
        *,
        config: Config,
        study: Study,
        directory: Path,
        trees: Trees,
        boxes: Boxes,
        backend: Backend,
        parser: MetricParser,
        env: Mapping[str, str],
        tail: Callable[[Path], LogTail],
    ) -> None:
        self._config = config
        self._study = study
        self._directory = directory
        self._trees = trees
        self._boxes = boxes
        self._backend = backend
        self._parser = parser
        self._env = env
        self._tail = tail
        self._looked: dict[int, Looked | None] = {}
        """None while it is looked."""

    @property
    def is_busy(self) -> bool:
        """Whether something is being looked at."""
        return None in self._looked.values()

    def collect(self, experiment: Experiment, tree: WorkTree) -> None:
        """Take what the evaluation needs out of the tree of a run that has ended well."""
        for name in self._config.evaluation.outputs:
            source = tree.cwd / name
            try:
                is_plain = (
                    stat.S_ISREG(source.lstat().st_mode) and source.resolve() == tree.cwd.resolve() / name
                )
                if is_plain:
                    target = self._outputs(experiment) / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(source, target)
            except OSError:
                continue  # it left none: that is said if it comes to an evaluation

    def forget(self, experiment: Experiment) -> None:
        """Remove what was kept of a run that has its verdict."""
        self._looked.pop(experiment.id, None)
        if self._config.evaluation.outputs:
            shutil.rmtree(self._outputs(experiment), ignore_errors=True)

    def of(self, experiment: Experiment) -> Looked | None:
        """What came of the look at a run; None if it has yet to be made, or is being made."""
        reason = broken(self._config.guards, self._study, experiment)
        if reason:
            return Looked(Verdict.DISCARD, reason)
        if not self._config.evaluation.command and not self._config.guards.commands:
            return Looked()
        return self._looked.get(experiment.id)

    def may_lead(self, experiment: Experiment) -> bool:
        """Whether one with another verdict can be the incumbent: if it must be looked at, it was."""
        looks = self._config.evaluation.command or self._config.guards.commands
        return not broken(self._config.guards, self._study, experiment) and (
            not looks or experiment.id in self._study.kept
        )

    def begin(self, experiment: Experiment) -> bool:
        """Say that a run is about to be looked at; False if it is already."""
        if experiment.id in self._looked:
            return False
        self._looked[experiment.id] = None
        return True

    async def look(self, experiment: Experiment) -> None:
        """Run the commands for one that may be kept. What goes wrong with the machine makes it suspect."""
        try:
            found = await self._look(experiment)
        except (ArfError, OSError) as error:
            found = Looked(Verdict.SUSPECT, f"it could not be evaluated: {error}")
        except BaseException:
            del self._looked[experiment.id]
            raise
        self._looked[experiment.id] = found

    async def _look(self, experiment: Experiment) -> Looked:
        for number, command in enumerate(self._config.guards.commands, 1):
            ended, log, _ = await self._run(experiment, command, f"guard{number}", private=False)
            if ended is not JobState.SUCCEEDED:
                return Looked(Verdict.DISCARD, f"guard `{command}` fails: {_last_line(log, ended)}")
        evaluation = self._config.evaluation
        if not evaluation.command:
            return Looked()
        missing = [name for name in evaluation.outputs if not (self._outputs(experiment) / name).exists()]
        if missing:
            return Looked(Verdict.SUSPECT, f"it left no {missing[0]}, so that it cannot be evaluated")
        ended, log, value = await self._run(experiment, evaluation.command, "evaluation", private=True)
        metric, printed = self._study.objective.metric, experiment.value or 0.0
        if ended is not JobState.SUCCEEDED:
            return Looked(Verdict.SUSPECT, f"its evaluation fails: {_last_line(log, ended)}")
        if value is None:
            return Looked(Verdict.SUSPECT, f"its evaluation gives no {metric}")
        if abs(value - printed) > evaluation.tolerance * max(abs(value), abs(printed)):
            return Looked(Verdict.SUSPECT, f"it says {metric} {printed:.6g}, its evaluation {value:.6g}")
        return Looked()

    async def _run(
        self, experiment: Experiment, command: str, what: str, *, private: bool
    ) -> tuple[JobState, Path, float | None]:
        tree = self._trees.take()
        try:
            tree.fill(experiment.commit, experiment.seed)
            for name in self._config.evaluation.outputs if private else ():
                target = tree.cwd / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._outputs(experiment) / name, target)
            log = self._directory / "logs" / f"{experiment.id:06d}-{what}.log"
            job = Job(
                key=f"{what}-{experiment.id}-{os.urandom(4).hex()}",
                directory=tree.cwd,
                command=command,
                env={**self._env, "ARF_SEED": str(experiment.seed), "ARF_COMMIT": experiment.commit},
                log=log,
                tier=experiment.tier,
                time_limit_s=self._config.limits.time_limit_s,
                box=self._boxes.make(tree.directory, tree.readonly, tree.others, private=private),
            )
            result = await self._backend.wait(await self._backend.submit(job))
            watch = Watch(tail=self._tail(log), parser=self._parser, objective=self._study.objective)
            limits = self._config.limits
            watch.finish(
                0.0, WatchLimits(log_bytes=int(limits.log_mb * 2**20), stall_s=None, diverge_factor=None)
            )
            return result.state, log, watch.metrics.get(self._study.objective.metric)
        finally:
            self._trees.give_back(tree)

    def _outputs(self, experiment: Experiment) -> Path:
        return self._directory / "outputs" / f"{experiment.id:06d}"


def _last_line(log: Path, ended: JobState) -> str:
    lines = last_lines(log, 1)
    return lines[0].strip()[:200] if lines else str(ended)
