"""What this machine can confine jobs with, and how a command is started in a box."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from arf.errors import BackendError
from arf.sandbox import enter
from arf.sandbox.plain import box_fields
from arf.types import Box, SandboxMode

PROBE_S = 20.0
NONE = (
    "jobs are NOT confined: {why}. They run with all your rights; docs/sandbox.md says what to install "
    "(`sandbox.mode: off` says that you want it so)"
)


def plain(box: Box, cwd: Path, devices: Collection[str] = ()) -> dict[str, Any]:
    """A box as `enter.py` takes it, for a command that runs in `cwd` with these device files."""
    return {**box_fields(box), "cwd": os.path.abspath(cwd), "devices": list(devices)}


def command(box: Mapping[str, Any], file: Path, argv: Sequence[str]) -> tuple[str, ...]:
    """A command that runs another one in a box. Writes the box to `file`, which it removes when it runs.

    Raises OSError if the file cannot be written.
    """
    file.write_bytes(enter.encode(dict(box)))
    return (sys.executable, "-I", "-S", enter.__file__, str(file), *argv)


def resolved(mode: SandboxMode) -> tuple[SandboxMode, str]:
    """What to confine jobs with on this machine, and a line for people on it.

    Raises BackendError if one was asked for by name that this machine does not have.
    """
    if mode is SandboxMode.OFF:
        return mode, "jobs are not confined (`sandbox.mode: off`)"
    why = lacking()
    if not why:
        return SandboxMode.NAMESPACES, "jobs are confined by namespaces"
    if mode is SandboxMode.AUTO:
        return SandboxMode.OFF, NONE.format(why=why)
    raise BackendError(
        f"sandbox.mode is {mode}, and this machine has none: {why}",
        hint="docs/sandbox.md says what to install",
    )


@lru_cache(maxsize=1)
def lacking() -> str:
    """Why there can be no box of namespaces here, found by making one; empty if there can."""
    if sys.platform != "linux":
        return f"there are no namespaces on {sys.platform}"
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve()
        box = Box(
            tree=tree,
            read=("/usr", "/bin", "/lib", "/lib64", "/nix/store"),
            write=(str(tree),),
            scratch=("/tmp",),
        )
        words = command(plain(box, tree), tree / "box", ["/bin/sh", "-c", ":"])
        try:
            done = subprocess.run(words, capture_output=True, timeout=PROBE_S, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            return str(error)
    if done.returncode == 0:
        return ""
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return (said[-1] if said else f"exit code {done.returncode}").removeprefix(
        "arf: the sandbox cannot be made: "
    )
