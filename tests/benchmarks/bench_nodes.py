"""How soon a bad node is set aside, and how often a healthy one is: whole simulated studies.

python tests/benchmarks/bench_nodes.py [STUDIES]
"""

from __future__ import annotations

import logging
import statistics
import sys

from arf.config.schema import Budget
from arf.plugins.registry import Plugins
from arf_plugins.backend_sim import BadNode, ObjectiveOptions, SimOptions, SimTier
from arf_plugins.backend_sim.simulate import Simulation, simulate

BAD = {
    "healthy": None,
    "every run crashes": BadNode(crashes=1.0),
    "half of its runs crash": BadNode(crashes=0.5),
    "half of its runs are lost": BadNode(lost=0.5),
    "1.5 times as long": BadNode(slow=1.5),
    "readings 25 sigma worse": BadNode(offset=0.05),
    "readings 5 sigma worse": BadNode(offset=0.01),
}
"""By what is wrong with the first of the slots; the noise of the objective is 0.002."""


def main(studies: int) -> None:
    logging.disable(logging.WARNING)
    plugins = Plugins.load()
    print(f"{studies} studies of 200 experiments each; 5 % of ideas crash, 2 % of runs take 3 times as long")
    print(f"{'':28}{'slots':>6}{'found':>7}{'runs on it (median)':>21}{'healthy ones set aside':>24}")
    for name, bad in BAD.items():
        for slots in (4, 16):
            found, runs, wrong = 0, [], 0
            for seed in range(studies):
                options = SimOptions(
                    objective=ObjectiveOptions(name="additive"),
                    tiers={"a": SimTier(slots=slots, bad=bad)},
                    crashes=0.05,
                    stragglers=0.02,
                    seed=seed,
                )
                budget = Budget(max_experiments=200)
                done = simulate(
                    Simulation(options=options, budget=budget, agent="random", seed=seed), plugins
                )
                aside = {one["node"] for one in done.summary["nodes_aside"]}
                wrong += len(aside - {"a:1"} if bad else aside)
                if bad and "a:1" in aside:
                    found += 1
                    told = [e for e in done.study.experiments.values() if e.slot == "a:1"]
                    runs.append(len(told))
            median = f"{statistics.median(runs):.0f}" if runs else "-"
            print(f"{name:28}{slots:6}{found if bad else '-':>7}{median:>21}{wrong:24}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
