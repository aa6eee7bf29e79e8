"""What arf adds to launching commands: idle gap, CPU time, utilisation and makespan.

160 experiments of about a second (five minutes scaled by 300) on 16 slots, each `sleep d` with d drawn once,
uniform in 0.5 to 1.5 s, and a metric printed at the end. Against a bare asyncio and sqlite3 loop that
launches the same commands and records their metric (WAL, synchronous=FULL): the practical limit. Both run as
processes of their own, one after the other, `ROUNDS` times in turn; the median round of each is shown.

What counts is what the experiments see: each script makes an empty file first and another one last, and
their times, by the file system's clock, are its span. So the gap of a slot is from one script's last line to
the next one's first: how the end is noticed, all that arf does then, and the start of a shell.

A second list of trivial experiments (`sleep 0`) shows the throughput.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import os
import random
import re
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SLOTS = 16
COUNT = 160
ROUNDS = 3
TRIVIAL = 200

SCRIPT = """#!/bin/sh
ALPHA=10     # [1..1000]
BETA=20      # [1..1000]
GAMMA=30     # [1..1000]
DELTA=40     # [1..1000]
EPSILON=50   # [1..1000]
ZETA=60      # [1..1000]
ETA=70       # [1..1000]
THETA=80     # [1..1000]
IOTA=90      # [1..1000]
KAPPA=100    # [1..1000]
LAMBDA=110   # [1..1000]
MU=120       # [1..1000]
: > "$BENCH_MARKS/$ARF_EXPERIMENT.start"
i=0; while read -r d; do i=$((i + 1)); [ "$i" = "$ARF_EXPERIMENT" ] && break; done < durations.txt
sleep "$d"
echo "---"
echo "val_bpb: 1.$((1000 + ARF_SEED % 1000))"
: > "$BENCH_MARKS/$ARF_EXPERIMENT.end"
"""

CONFIG = f"""workspace: {{command: "sh train.sh", editable: [train.sh]}}
budget: {{max_experiments: null}}
claim: none
backend: {{name: local, slots: {SLOTS}}}
"""


def durations(count: int, scale: float) -> list[float]:
    rng = random.Random(1)
    return [round(rng.uniform(0.5, 1.5) * scale, 4) for _ in range(count)]


def make_workspace(directory: Path, seconds: list[float]) -> None:
    (directory / "train.sh").write_text(SCRIPT)
    (directory / "durations.txt").write_text("".join(f"{d}\n" for d in seconds))
    (directory / "arf.yaml").write_text(CONFIG)
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=b", "-c", "user.email=b@b", "commit", "-qm", "base"],
    ):
        subprocess.run(["git", *command], cwd=directory, check=True)


# ---- The bare loop --------------------------------------------------------------------------


def marked(number: int) -> tuple[float, float]:
    """When an experiment began and ended, by what it left behind."""
    marks = Path(os.environ["BENCH_MARKS"])
    start, end = ((marks / f"{number}.{what}").stat().st_mtime for what in ("start", "end"))
    return start, end


async def bare(directory: Path, count: int) -> list[tuple[int, float, float]]:
    db = sqlite3.connect(directory / "bare.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE runs (id INTEGER PRIMARY KEY, value REAL)")
    numbers = iter(range(1, count + 1))
    spans: list[tuple[int, float, float]] = []

    async def slot(index: int) -> None:
        for number in numbers:
            log = directory / f"bare-{number}.log"
            with log.open("wb") as file:
                process = await asyncio.create_subprocess_exec(
                    "/bin/sh", "-c", "sh train.sh", cwd=directory, stdout=file, stderr=file,
                    stdin=subprocess.DEVNULL, start_new_session=True,
                    env={**os.environ, "ARF_EXPERIMENT": str(number), "ARF_SEED": "1"},
                )  # fmt: skip
                await process.wait()
            found = re.search(r"^val_bpb:\s*(\S+)", log.read_text(), re.MULTILINE)
            assert found
            with db:
                db.execute("INSERT INTO runs VALUES (?, ?)", (number, float(found.group(1))))
            spans.append((index, *marked(number)))

    await asyncio.gather(*(slot(index) for index in range(SLOTS)))
    return spans


# ---- arf ------------------------------------------------------------------------------------


async def arf(directory: Path, count: int) -> list[tuple[int, float, float]]:
    from arf.config.schema import load
    from arf.launch import create
    from arf.plugins.registry import Plugins
    from arf.store.database import Store

    plugins = Plugins.load(disable=["report"])
    config = load(
        workspace_file=directory / "arf.yaml",
        flags={"budget.max_experiments": count},
        options_class=plugins.options,
    )
    engine, lock = await create(directory, config, plugins, "bench")
    await engine.run()
    lock.release()
    spans = []
    for experiment in Store.open(engine.directory).experiments():
        slot = int(experiment.slot.rsplit(":", 1)[1])
        spans.append((slot, *marked(experiment.id)))
    return spans


# ---- Measuring ------------------------------------------------------------------------------


def measure_arm(arm: str, directory: Path, count: int) -> dict[str, Any]:
    """Run in a process of its own: figures of one arm."""
    before = time.time()
    spans = asyncio.run((bare if arm == "bare" else arf)(directory, count))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "spans": spans,
        "wall_s": time.time() - before,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "rss_mb": usage.ru_maxrss / 1024,
    }


def run_arm(arm: str, count: int, scale: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as marks:
        directory = Path(folder)
        make_workspace(directory, durations(count, scale))
        output = subprocess.run(
            [sys.executable, __file__, arm, str(directory), str(count)],
            check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "BENCH_MARKS": marks},
        ).stdout  # fmt: skip
    figures: dict[str, Any] = json.loads(output)
    figures.update(schedule(figures.pop("spans"), SLOTS))
    return figures


def schedule(spans: list[tuple[int, float, float]], slots: int) -> dict[str, float]:
    """Gap between experiments on a slot, use of slots to the last start, makespan against the ideal."""
    spans.sort(key=lambda span: span[1])
    by_slot: dict[int, list[tuple[float, float]]] = {}
    for slot, start, end in spans:
        by_slot.setdefault(slot, []).append((start, end))
    gaps = [b[0] - a[1] for runs in by_slot.values() for a, b in itertools.pairwise(runs)]
    first, last = spans[0][1], spans[-1][1]
    busy = sum(min(end, last) - min(start, last) for _, start, end in spans)
    makespan = max(end for _, _, end in spans) - first
    ideal = list_schedule([end - start for _, start, end in spans], slots)
    return {
        "gap_ms": 1000 * statistics.fmean(gaps),
        "gap_max_ms": 1000 * max(gaps),
        "use": busy / (slots * (last - first)),
        "makespan_s": makespan,
        "makespan_ratio": makespan / ideal,
        "waves_ratio": waves([end - start for _, start, end in spans], slots) / makespan,
    }


def list_schedule(lengths: list[float], slots: int) -> float:
    """Makespan if each job starts, in this order, the moment a slot is free (Graham 1966)."""
    free = [0.0] * slots
    for length in lengths:
        heapq.heappush(free, heapq.heappop(free) + length)
    return max(free)


def waves(lengths: list[float], slots: int) -> float:
    """Makespan if each group of `slots` jobs waits for the whole group before it."""
    return sum(max(lengths[i : i + slots]) for i in range(0, len(lengths), slots))


def median(rounds: list[dict[str, Any]], key: str) -> float:
    return statistics.median(figures[key] for figures in rounds)


def main() -> None:
    if len(sys.argv) == 4:
        print(json.dumps(measure_arm(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
        return
    print(f"{COUNT} experiments of 0.5 to 1.5 s on {SLOTS} slots, median of {ROUNDS} rounds")
    arms: dict[str, list[dict[str, Any]]] = {"bare": [], "arf": []}
    for _ in range(ROUNDS):
        for arm, rounds in arms.items():
            rounds.append(run_arm(arm, COUNT, 1.0))
    print(f"{'':28}{'bare loop':>12}{'arf':>12}{'ratio':>10}")
    for label, key, digits in (
        ("idle gap of a slot, ms", "gap_ms", 1),
        ("largest gap, ms", "gap_max_ms", 1),
        ("use of slots to last start", "use", 4),
        ("makespan against ideal", "makespan_ratio", 4),
        ("peak memory, MB", "rss_mb", 0),
    ):
        low, high = median(arms["bare"], key), median(arms["arf"], key)
        print(f"{label:28}{low:12.{digits}f}{high:12.{digits}f}{high / low:10.2f}")
    low, high = (1000 * median(arms[arm], "cpu_s") / COUNT for arm in ("bare", "arf"))
    print(f"{'CPU, ms an experiment *':28}{low:12.1f}{high:12.1f}{high / low:10.2f}")
    print(f"waves of {SLOTS} would take {median(arms['arf'], 'waves_ratio'):.2f} times as long")
    print("* of the orchestrating process, its start-up included; goals: gap 1.5 x, use 0.97, makespan 1.02")
    low_s, high_s = (run_arm(arm, TRIVIAL, 0.0)["wall_s"] for arm in ("bare", "arf"))
    print(
        f"{TRIVIAL} trivial experiments, start-up included: bare loop {TRIVIAL / low_s:.0f} a second, "
        f"arf {TRIVIAL / high_s:.0f} a second with isolation, ratio {low_s / high_s:.2f}"
    )


if __name__ == "__main__":
    main()
