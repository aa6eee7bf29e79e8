"""What a decision of `bayes` costs: 100 constants, after 100, 1,000 and 4,000 experiments.

    OPENBLAS_NUM_THREADS=1 python tests/benchmarks/bench_bayes.py

Each decision is made after one more run has ended, as in a study, so it takes a reading in and draws one
plan. The median and the longest of them are shown: the longest are those at which the sizes of the terms are
estimated anew.
"""

from __future__ import annotations

import random
import statistics
import time
from datetime import UTC, datetime, timedelta

import click

from arf.sdk.scripts import constants
from arf.study import Study
from arf.types import Experiment, ExperimentState, Idea, Plan, Role, Tier, Verdict
from arf_plugins.strategy_bayes.strategy import Bayes

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
BASE = "ba5e" * 10
CONSTANTS = 100
GOAL_MS = 20.0


class Bench:
    """A study of which the strategy decides each run, and a made-up hill gives the values."""

    def __init__(self) -> None:
        script = "".join(f"C{i} = 0.5  # [0.0..1.0]\n" for i in range(CONSTANTS))
        self.study = Study(name="bench", base=BASE, base_tree=BASE, tiers=[Tier(name="a", slots=16)])
        self.study.constants = {c.name: c for c in constants.read(script, "train.py")}
        for i in range(CONSTANTS):
            self._idea(f"C{i}", 0.6)
        self.strategy = Bayes()
        self.chance = random.Random(0)
        for _ in range(8):
            self._run(Plan(parent=BASE, role=Role.BASELINE))

    def _idea(self, name: str, value: float) -> int:
        number = len(self.study.ideas) + 1
        commit = f"1dea{number:036x}"
        self.study.add_idea(Idea(id=number, title=name, base=BASE, commit=commit, constants={name: value}))
        return number

    def _run(self, plan: Plan) -> None:
        study = self.study
        known = [study.idea_that_sets(n, v) or self._idea(n, float(v)) for n, v in plan.constants.items()]
        ideas = tuple(sorted({*plan.ideas, *known}))
        number = len(study.experiments) + 1
        commit = f"{hash((plan.parent, ideas)) & (2**64 - 1):040x}" if ideas else plan.parent
        values = [float(next(iter(study.ideas[idea].constants.values()))) for idea in ideas]
        gain = sum(1 - ((value - 0.7) / 0.2) ** 2 for value in values[:20])
        study.put(
            Experiment(
                id=number,
                role=plan.role,
                parent=plan.parent,
                ideas=ideas,
                commit=commit,
                tree=commit,
                tier="a",
                seed=number,
                state=ExperimentState.ENDED,
                accepted_at=EPOCH,
                started_at=EPOCH,
                ended_at=EPOCH + timedelta(seconds=number),
                value=1.0 - 0.001 * gain + self.chance.gauss(0.0, 0.002),
                verdict=Verdict.MEASURED,
            )
        )

    def decisions(self, until: int, last: int) -> list[float]:
        """Seconds of each of the last decisions before so many experiments."""
        found: list[float] = []
        while len(self.study.experiments) < until:
            began = time.process_time()
            plans = [item for item in self.strategy.decide(self.study, {"a": 1}) if isinstance(item, Plan)]
            found.append(time.process_time() - began)
            self._run(plans[0])
        return found[-last:]


@click.command()
@click.option("--most", default=4000, show_default=True, help="Experiments.")
def main(most: int) -> None:
    bench = Bench()
    for until in (100, 1000, most):
        ms = [1000 * seconds for seconds in bench.decisions(until, until // 3)]
        median = statistics.median(ms)
        print(
            f"{until:6d} experiments: median {median:6.1f} ms, longest {max(ms):7.1f} ms; "
            f"{median / GOAL_MS:.2f} of the goal of {GOAL_MS:g} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
