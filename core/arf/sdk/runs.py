"""Runs of a workspace's script outside of any study: one commit, one seed, one value."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from attrs import frozen

from arf.engine.watch import LogTail, Watch, WatchLimits, objective_value
from arf.errors import ArfError, UsageError
from arf.launch import job_environment, with_interpreter
from arf.types import Job, JobState

if TYPE_CHECKING:
    from arf.config.schema import Config
    from arf.interfaces import Backend, MetricParser, Workspace, WorkTree

__all__ = ["Runs"]

_MAX_LOG_BYTES = 2**28


@frozen(kw_only=True)
class Runs:
    """A workspace with the backend and the parser that its configuration names."""

    home: Path
    """Where logs, work trees and the backend's files are."""
    config: Config
    workspace: Workspace
    backend: Backend
    parser: MetricParser

    @classmethod
    def open(cls, directory: Path, overrides: Sequence[str], home: Path) -> Self:
        """The workspace in a folder, with its `arf.yaml` or what is detected there.

        `overrides` are texts like `limits.time_limit_s=60`. Raises ArfError for what cannot be used.
        """
        from arf.config.schema import load
        from arf.plugins.registry import Plugins
        from arf.workspace import open_workspace
        from arf.workspace.detection import detect

        plugins = Plugins.load()
        yaml = directory / "arf.yaml"
        config = load(
            workspace_file=yaml if yaml.is_file() else None,
            detected=None if yaml.is_file() else detect(directory).settings,
            overrides=[_pair(text) for text in overrides],
            options_class=plugins.options,
        )
        (home / "logs").mkdir(parents=True, exist_ok=True)
        return cls(
            home=home,
            config=config,
            workspace=open_workspace(directory, config.workspace),
            backend=plugins.make("backend", config.backend.name, config.backend.options, home / "backend"),
            parser=plugins.make("parser", config.parser.name, config.parser.options),
        )

    def tree(self, name: str) -> WorkTree:
        """A work tree of that name, kept between runs. Only one run at a time may use it."""
        return self.workspace.work_tree(self.home / "trees" / name)

    async def set_up(self, tier: str) -> None:
        """Run the workspace's set-up command, if it has one. Raises ArfError if it fails."""
        settings = self.config.workspace
        if not settings.setup:
            return
        tree = self.tree("setup")
        tree.fill(self.workspace.base_commit(), 0)
        job = self._job("setup", tree, settings.setup, 0, tier, settings.setup_time_limit_s)
        result = await self.backend.wait(await self.backend.submit(job))
        if result.state is not JobState.SUCCEEDED:
            raise ArfError(f"the set-up command failed ({result.state})", hint=f"its log is {job.log}")

    async def run(
        self, key: str, commit: str, seed: int, *, tree: WorkTree, tier: str
    ) -> tuple[float | None, float]:
        """Run a commit once: the value of the objective, None if it failed, and how many seconds it ran."""
        tree.fill(commit, seed)
        job = self._job(key, tree, self.config.workspace.command, seed, tier, self.config.limits.time_limit_s)
        result = await self.backend.wait(await self.backend.submit(job))
        seconds = 0.0
        if result.started_at is not None and result.ended_at is not None:
            seconds = (result.ended_at - result.started_at).total_seconds()
        if result.state is not JobState.SUCCEEDED or tree.tampered():
            return None, seconds
        watch = Watch(tail=LogTail(job.log), parser=self.parser, objective=self.config.objective)
        watch.finish(0.0, WatchLimits(log_bytes=_MAX_LOG_BYTES, stall_s=None, diverge_factor=None))
        return objective_value(self.config.objective, watch.objectives)[0], seconds

    def _job(
        self, key: str, tree: WorkTree, command: str | tuple[str, ...], seed: int, tier: str, limit_s: float
    ) -> Job:
        settings = self.config.workspace
        env = {**job_environment(self.workspace, settings.env, settings.pass_env), "ARF_SEED": str(seed)}
        return Job(
            key=f"{os.getpid()}-{key}",
            directory=tree.cwd,
            command=with_interpreter(command),
            env=env,
            log=self.home / "logs" / f"{key}.log",
            tier=tier,
            time_limit_s=limit_s,
        )


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"-o {text}: there is no `=`", hint="write -o key.path=value")
    return key.strip(), value
