"""How long a user waits for `arf --help` and `arf plugins`, against what Python and click alone take.

Goal: under 150 ms each, and within 2.5 times `python -c "import click"`, with every extra installed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 15
ARF = str(Path(sys.executable).with_name("arf"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import click'": [sys.executable, "-c", "import click"],
    "arf --help": [ARF, "--help"],
    "arf plugins": [ARF, "plugins"],
    "arf --version": [ARF, "--version"],
}


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            before = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times[name].append(1000 * (time.perf_counter() - before))
    click = statistics.median(times["python -c 'import click'"])
    print(f"{'command':28}{'median ms':>12}{'min ms':>10}{'x click':>10}")
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"{name:28}{middle:12.0f}{min(values):10.0f}{middle / click:10.2f}")


if __name__ == "__main__":
    main()
