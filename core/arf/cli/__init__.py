"""The command line: `arf`. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import os
import sys
import threading

LEAVE_S = 5.0
"""How long threads that a plugin has left running are waited for."""


def main() -> None:
    """The entry point of `arf`; leaves with its exit code."""
    from arf.cli.app import run

    code = run(sys.argv[1:])
    if _others():
        last = threading.Timer(LEAVE_S, _leave, [code])
        last.daemon = True
        last.start()
    sys.exit(code)


def _others() -> list[threading.Thread]:
    """The threads that Python waits for before it ends."""
    return [one for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]


def _leave(code: int) -> None:
    names = ", ".join(one.name for one in _others())
    print(f"arf: left although threads of a plugin go on: {names}", file=sys.stderr, flush=True)
    os._exit(code)
