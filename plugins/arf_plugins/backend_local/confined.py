"""Boxes around the jobs of this machine: made of what a job asks for, the slot's GPUs, and what there is."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arf.sdk.sandbox import machine
from arf.types import Job, SandboxMode
from arf_plugins.backend_local.devices import device_files

log = logging.getLogger(__name__)

PlainBox = dict[str, Any]
"""A box as `arf.sandbox.enter` takes it."""


class Confiner:
    """Boxes of one backend; `folder` is where they are written down for commands that start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._modes: dict[SandboxMode, tuple[SandboxMode, str]] = {}

    def notes(self) -> list[str]:
        """A line if jobs ran unconfined that should not have."""
        return [line for mode, line in self._modes.values() if mode is SandboxMode.OFF]

    def box(self, job: Job, env: dict[str, str]) -> PlainBox | None:
        """The box of a job, and None if it is to have none, or can have none; then that is said, once.

        `env` loses what names places that are not there in a box. Raises BackendError if the machine lacks
        the kind that was asked for by name.
        """
        if job.box is None:
            return None
        if job.box.mode not in self._modes:
            found = self._modes[job.box.mode] = machine.resolved(job.box.mode)
            log.log(logging.WARNING if found[0] is SandboxMode.OFF else logging.INFO, "%s", found[1])
        if self._modes[job.box.mode][0] is SandboxMode.OFF:
            return None
        for name in ("TMPDIR", "TEMP", "TMP", "XDG_RUNTIME_DIR"):
            env.pop(name, None)
        return machine.plain(job.box, job.directory, device_files(env))

    def command(self, box: Mapping[str, Any], handle: str, argv: Sequence[str]) -> tuple[str, ...]:
        """The command that runs another one in a box. Raises OSError if there is no space to note it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return machine.command(box, (self._folder / handle).absolute(), argv)
