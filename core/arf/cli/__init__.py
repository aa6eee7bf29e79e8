"""The command line: `arf`. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point of `arf`; leaves with its exit code."""
    from arf.cli.app import run

    sys.exit(run(sys.argv[1:]))
