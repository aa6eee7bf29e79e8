"""Run the benchmarks: `make bench`, or `make bench ARGS="engine startup"` for some of them.

Each is a program of its own that prints its figures beside something that was measured in the same run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    known = {path.stem.removeprefix("bench_"): path for path in sorted(HERE.glob("bench_*.py"))}
    names = sys.argv[1:] or list(known)
    if unknown := [name for name in names if name not in known]:
        print(f"no such benchmark: {', '.join(unknown)}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    failed = 0
    for name in names:
        print(f"\n== {name} " + "=" * (76 - len(name)), flush=True)
        failed |= subprocess.run([sys.executable, str(known[name])], check=False).returncode
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
