"""What a simulated experiment costs: CPU time with 16 and with 1,000 slots, beside the virtual clock alone.

The agent `random` costs next to nothing, so this is the engine, the judge, the store, the strategy and the
simulated machines. The first argument is the number of experiments of each study (10,000).
"""

from __future__ import annotations

import asyncio
import sys
import time

from arf.config.schema import Budget
from arf.plugins.registry import Plugins
from arf_plugins.backend_sim import ObjectiveOptions, SimOptions, SimTier
from arf_plugins.backend_sim.clock import run_virtual
from arf_plugins.backend_sim.simulate import Simulation, simulate
from arf_plugins.backend_sim.thinking import ThinkingAgent

SLOTS = (16, 1_000)
STRATEGIES = ("random", "greedy", "hybrid")


def study(plugins: Plugins, slots: int, strategy: str, experiments: int) -> tuple[float, float]:
    """CPU seconds for an experiment, and the share of the slot time that was used."""
    simulation = Simulation(
        options=SimOptions(
            objective=ObjectiveOptions(name="autoresearch"),
            tiers={"gpu": SimTier(slots=slots, startup_s=20.0)},
            crashes=0.02,
        ),
        budget=Budget(max_experiments=experiments),
        strategy=strategy,
        agent="random",
    )
    agent = ThinkingAgent(plugins.make("agent", "random"), seconds=30.0, spread=0.3, usd=0.0, seed=0)
    done = simulate(simulation, plugins, agent=agent)
    return done.cpu_s / done.experiments, done.utilisation


def clock_alone(slots: int, sleeps: int) -> float:
    """CPU seconds of one job that does nothing but take its time."""

    async def slot() -> None:
        for _ in range(sleeps // slots):
            await asyncio.sleep(320.0)

    async def all_slots() -> None:
        await asyncio.gather(*(slot() for _ in range(slots)))

    began = time.process_time()
    run_virtual(all_slots())
    return (time.process_time() - began) / (sleeps // slots * slots)


def main() -> None:
    experiments = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    plugins = Plugins.load()
    print(f"{'slots':>6}  {'strategy':<10}{'CPU, ms':>9}{'in use':>9}")
    for slots in SLOTS:
        for strategy in STRATEGIES:
            cost, used = study(plugins, slots, strategy, experiments)
            print(f"{slots:>6}  {strategy:<10}{1e3 * cost:>9.2f}{used:>9.1%}", flush=True)
        print(f"{slots:>6}  {'(clock)':<10}{1e3 * clock_alone(slots, experiments):>9.3f}", flush=True)


if __name__ == "__main__":
    main()
