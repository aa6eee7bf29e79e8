"""Whether a study gets slower as it grows: the cost of one step at 100 to 100,000 experiments.

A study with that many experiments is recorded in a real database; then each step is timed over many
repetitions (median): the judge and the strategy (decision), writing an end, a verdict and a new experiment
in one transaction on disk (record), `arf status` without its start-up (status), and for orientation a
resume's reading of everything (load), which does grow.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import evolve

from arf.judge.evidence import Evidence
from arf.judge.rule import judge
from arf.plugins.registry import Plugins
from arf.status.summary import summarize
from arf.store.database import DATABASE, Store
from arf.study import Study
from arf.types import Experiment, ExperimentState, Idea, JobState, Role, Tier, Verdict

SIZES = (100, 1_000, 10_000, 100_000)
REPEATS = 200
START = datetime(2026, 1, 1, tzinfo=UTC)


class Ledger:
    """A study and its store, filled with experiments that ran and were discarded."""

    def __init__(self, directory: Path) -> None:
        self.study = Study(
            name="growth", base="b" * 40, base_tree="t" * 40, tiers=[Tier(name="cpu", slots=16)]
        )
        self.store = Store.create(directory, self.study, {"workspace": "/w"})
        self.rng = random.Random(0)
        self.count = 0

    def grow_to(self, size: int) -> None:
        while self.count < size:
            with self.store.transaction():
                for _ in range(min(1000, size - self.count)):
                    self.add()

    def add(self) -> None:
        """Accept, end and judge one experiment, in the transaction that is open."""
        self.count += 1
        baseline = self.count <= 4
        tree = "t" * 40 if baseline else f"{self.count:040x}"
        ideas = () if baseline else (self._idea(),)
        value = 1.0 + self.rng.gauss(0, 0.003) + (0 if baseline else 0.05)
        accepted = Experiment(
            id=self.count,
            role=Role.BASELINE if baseline else Role.CANDIDATE,
            parent="b" * 40,
            ideas=ideas,
            commit=tree,
            tree=tree,
            tier="cpu",
            seed=self.count,
            title=f"LEARNING_RATE 0.04 -> 0.0{self.count}",
            directory="trees/1",
            accepted_at=START,
        )
        ended = evolve(
            accepted,
            state=ExperimentState.ENDED,
            job_state=JobState.SUCCEEDED,
            started_at=START,
            ended_at=START + timedelta(seconds=300),
            value=value,
            metrics={f"metric_{i}": value for i in range(10)},
            curve=tuple((step * 10, 3.0 - step / 100) for step in range(64)),
        )
        verdict = Verdict.DISCARD
        if baseline:
            verdict = Verdict.KEEP if self.count == 1 else Verdict.MEASURED
        self.store.insert_experiment(accepted, self.study.happened + 1)
        self.study.put(accepted)
        for step in (ended, evolve(ended, verdict=verdict, reason="within noise: gain 0.0011, sigma 0.0031")):
            self.store.update_experiment(step, self.study.happened + 1)
            self.study.put(step)
        spread = self.study.spread("cpu")
        self.store.set_spread("cpu", None, spread.sum_squares, spread.df)

    def stock(self, count: int) -> None:
        """Untried ideas for the strategy to choose from, as in any study that runs."""
        for _ in range(count - self.study.untried_count):
            self._idea()

    def _idea(self) -> int:
        number = len(self.study.ideas) + 1
        idea = Idea(id=number, title="LR", base="b" * 40, commit=f"{number:040x}", constants={"LR": number})
        self.store.add_idea(idea, self.study.happened + 1)
        self.study.add_idea(idea)
        return number


def timed(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median milliseconds of a call."""
    seconds = []
    for _ in range(repeats):
        before = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - before)
    return 1000 * statistics.median(seconds)


def main() -> None:
    plugins = Plugins.load()
    strategy = plugins.make("strategy", "greedy", _defaults(plugins.options("strategy", "greedy")))
    steps = ("decision", "record", "status", "load", "KB an experiment")
    rows: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder))
        for size in SIZES:
            ledger.grow_to(size)
            with ledger.store.transaction():
                ledger.stock(32)

            def record() -> None:
                with ledger.store.transaction():
                    ledger.add()

            def decide() -> None:
                judge(ledger.study, Evidence())
                assert strategy.decide(ledger.study, {"cpu": 4})

            rows[size] = {
                "decision": timed(decide),
                "record": timed(record),
                "status": timed(lambda: summarize(ledger.store)),
                "load": timed(ledger.store.load, 1),
                "KB an experiment": (Path(folder) / DATABASE).stat().st_size / 1024 / ledger.count,
            }
    print("milliseconds of one step (median), by the size of the study")
    print(f"{'experiments':>12}" + "".join(f"{step:>18}" for step in steps))
    for size, row in rows.items():
        print(f"{size:12,}" + "".join(f"{row[step]:18.3f}" for step in steps))
    first, last = rows[SIZES[0]], rows[SIZES[-1]]
    print(f"{'ratio':>12}" + "".join(f"{last[step] / first[step]:18.2f}" for step in steps))


def _defaults(options: type | None) -> object:
    return options() if options else None


if __name__ == "__main__":
    main()
