"""How often the judge keeps what is no better, and how often it finds what is: docs/statistics.md.

Whole studies in memory (`arf.testing.laboratory`), with `greedy` and the default rule. `--studies N` sets how
many make up a figure (200); `--plot docs/power.png` draws the power curves. Exits with 1 if the false keeps
are more than the rule promises.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random as Chance
from typing import Any

from arf.interfaces import Strategy
from arf.judge.statistics import noise
from arf.testing.laboratory import Ideas, Laboratory
from arf.types import NoiseRule, Role, Tier
from arf_plugins.strategy_greedy import Options
from arf_plugins.strategy_greedy.strategy import Greedy
from arf_plugins.strategy_random.strategy import Random

PLANTED = 10
"""The idea that is better, in the power curve."""
GAINS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
"""Of it, in sigma."""
CURVES = {f"max_replicates {most}": NoiseRule(max_replicates=most) for most in (2, 4, 6, 10)}
"""The rules that are drawn; 6 is the default."""
SHADES = ("#9ecae1", "#4292c6", "#08519c", "#d95f02")
RULES = {**CURVES, "replicates 8": NoiseRule(replicates=8), "alpha 0.2": NoiseRule(alpha=0.2)}


def laboratory(
    seed: int, ideas: int, slots: int = 4, strategy: Strategy | None = None, **settings: Any
) -> Laboratory:
    tiers = [Tier(name="a", slots=slots)]
    strategy = strategy or Greedy(Options(combine=False))
    made = Laboratory(strategy, ideas=ideas, seed=seed, tiers=tiers, **settings)
    made.run()
    return made


def false_keeps(name: str, studies: int, *, ideas: int = 100, spread: float = 0.0, **settings: Any) -> float:
    """Print and give the share of studies of ideas that do nothing in which anything was kept.

    The seeds are not those by which the constants of the judge were chosen.
    """
    seeds = range(10_000, 10_000 + studies)
    made = [laboratory(seed, ideas, scatter=scattered(seed, spread), **settings) for seed in seeds]
    share = statistics.fmean(len(lab.study.kept) > 1 for lab in made)
    runs = statistics.fmean(len(lab.study.experiments) / ideas for lab in made)
    sigmas = [known.sigma for lab in made if (known := noise(lab.study, "a"))]
    print(f"{name:46} {100 * share:5.1f} % {runs:6.2f} runs an idea   sigma {statistics.median(sigmas):.2f}")
    return share


def power(studies: int, rule: NoiseRule, gain: float, ideas: int = 20) -> tuple[float, float, float]:
    """(how often one better idea of `ideas` is kept, runs of it to decide, runs of the study an idea)."""
    kept, runs, total = 0, [], 0
    for seed in range(studies):
        lab = laboratory(seed, ideas, rule=rule, truth=lambda held: -gain if PLANTED in held else 0.0)
        candidates = (lab.study.experiments[number] for number in lab.study.by_role(Role.CANDIDATE))
        planted = next(experiment for experiment in candidates if experiment.ideas == (PLANTED,))
        kept += PLANTED in lab.trees[lab.study.incumbent_commit]
        group = lab.study.group_of(planted)
        again = [lab.study.experiments[number].title.startswith("again") for number in group.experiments]
        runs.append(1 + sum(again))
        total += len(lab.study.experiments)
    return kept / studies, statistics.fmean(runs), total / studies / ideas


Power = Mapping[str, Sequence[tuple[float, float, float]]]
"""By rule, for each of the gains, what `power` gives."""


def power_curves(studies: int) -> Power:
    """Print and give them; the table is as docs/statistics.md has it."""
    found = {name: [power(studies, rule, gain) for gain in GAINS] for name, rule in RULES.items()}
    print("| gain | " + " | ".join(RULES) + " |\n|" + "---:|" * (1 + len(RULES)))
    for i, gain in enumerate(GAINS):
        cells = (f"{100 * found[name][i][0]:.0f} % ({found[name][i][1]:.1f})" for name in RULES)
        print(f"| {gain:g} sigma | " + " | ".join(cells) + " |")
    print("| runs an idea | " + " | ".join(f"{found[name][0][2]:.2f}" for name in RULES) + " |")
    return found


def draw(found: Power, path: Path) -> None:
    """The curves of the rules that differ by `max_replicates`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.9), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, marker), colour in zip(zip(CURVES, "vsoD", strict=True), SHADES, strict=True):
        kept, runs, _ = zip(*found[name], strict=True)
        label = name + (" (default)" if RULES[name] == NoiseRule() else "")
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.8}
        left.plot(GAINS, [100 * share for share in kept], label=label, **style)
        right.plot(GAINS, runs, label=label, **style)
    left.set_ylabel("kept, % of studies")
    left.set_ylim(-2, 102)
    right.set_ylabel("runs of it until it is decided")
    right.set_ylim(0, None)
    right.legend(loc="upper right", fontsize=9, frameon=False)
    for axes in (left, right):
        axes.set_xlabel("gain of the one better idea, in sigma of a run")
        axes.set_xlim(0, GAINS[-1] + 0.2)
        axes.grid(True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})


def scattered(seed: int, spread: float) -> Callable[[Ideas], float]:
    """Each idea of a study has noise of its own, log-normal about that of the baseline."""
    if not spread:
        return lambda ideas: 1.0
    return lambda ideas: Chance(f"{seed}/{sorted(ideas)}").lognormvariate(0, spread) if ideas else 1.0


def effects(seed: int, good: float, least: float, most: float) -> Callable[[Ideas], float]:
    """A share `good` of ideas gains `least` to `most` sigma, half are worse, the rest do next to nothing."""

    def effect(idea: int) -> float:
        chance = Chance(f"{seed}/{idea}")
        kind = chance.random()
        if kind < good:
            return -chance.uniform(least, most)
        return chance.uniform(0.5, 8) if kind < good + 0.5 else chance.gauss(0, 0.2)

    return lambda ideas: sum(effect(idea) for idea in ideas)


def search(
    name: str,
    studies: int,
    strategy: Strategy,
    *,
    slots: int,
    runs: int,
    good: float,
    least: float,
    most: float,
) -> None:
    """Print what a search of so many runs finds, against all that its candidates had to offer."""
    found, offered, keeps, false, tries = [], [], [], [], []
    for seed in range(studies):
        truth = effects(seed, good, least, most)
        lab = laboratory(seed, 10**6, slots, strategy, truth=truth, max_experiments=runs)
        used = {idea for e in lab.study.experiments.values() for idea in e.ideas}
        found.append(-lab.best)
        offered.append(-sum(min(0.0, truth(frozenset({idea}))) for idea in used))
        keeps.append(len(lab.keeps()))
        false.append(sum(gain <= 0 for _, gain in lab.keeps()))
        tries.append(len(used))
    mean = statistics.fmean
    print(
        f"{name:45} {mean(found):5.1f} of {mean(offered):5.1f} sigma {mean(keeps):6.2f} keeps "
        f"{mean(false):6.3f} false {mean(tries):6.1f} ideas"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    studies: int = options.studies

    print(f"False keeps: studies of 100 ideas that do nothing, {studies} each")
    shares = [
        false_keeps("independent noise, 4 slots", studies),
        false_keeps("16 slots", studies, slots=16),
        false_keeps("90 % of the noise shared by runs of a seed", studies, shared=0.9),
        false_keeps("2 baseline runs", studies, rule=NoiseRule(replicates=2)),
    ]
    false_keeps("each idea's noise its own, log-normal 0.3", studies, spread=0.3)
    false_keeps("each idea's noise its own, log-normal 0.7", studies, spread=0.7)
    false_keeps("1,000 ideas", max(10, studies // 10), ideas=1000)

    print("\nPower: how often one better idea of 20 is kept (and runs of it), by its gain")
    found = power_curves(studies)
    if options.plot is not None:
        draw(found, options.plot)

    print(f"\nSearches, mean of {max(10, studies // 4)}")
    for name, settings in {
        "gains 2.5-12 sigma, 70 runs, 2 slots": {
            "slots": 2,
            "runs": 70,
            "good": 0.15,
            "least": 2.5,
            "most": 12,
        },
        "gains 1-4 sigma, 300 runs, 1 slot": {"slots": 1, "runs": 300, "good": 0.1, "least": 1, "most": 4},
        "gains 1-4 sigma, 300 runs, 16 slots": {"slots": 16, "runs": 300, "good": 0.1, "least": 1, "most": 4},
    }.items():
        for strategy in (Greedy(), Random()):
            title = f"{type(strategy).__name__.lower():7} {name}"
            search(title, max(10, studies // 4), strategy, **settings)  # type: ignore[arg-type]
    return int(max(shares) > 0.05)


if __name__ == "__main__":
    sys.exit(main())
