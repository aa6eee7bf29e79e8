"""How often a claim is made where nothing is better, and how often its interval holds the truth.

docs/statistics.md has the results. The first table is of the test alone: pairs of runs one after the other,
in the order that is drawn for them, with noise that has a history (`--claims N` of each). The second is of
whole studies in memory (`arf.testing.laboratory`): `greedy` accepts by evidence, then what it has found is
pruned and measured (`--studies N`). Exits with 1 if more than 5 % claim something under any noise, or an
interval holds the truth in fewer than 93 %, beyond what is chance.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
from collections.abc import Callable, Iterator

from arf.judge.evidence import Evidence
from arf.sdk.statistics import t_critical
from arf.testing.laboratory import Ideas, Laboratory
from arf.types import Role, Tier
from arf_plugins.claims.interleaved import Interleaved, chance_without_effect, order
from arf_plugins.strategy_greedy import Options
from arf_plugins.strategy_greedy.strategy import Greedy

PAIRS = 12
STUDY_RUNS = 100
"""What a drift over the study is spread over; its claim is the last quarter."""
ALPHA = 0.025
"""Of the first claim, one-sided."""

Noise = Callable[[random.Random], Iterator[float]]
"""Deviations of runs one after the other, in standard deviations."""


def normal(chance: random.Random) -> Iterator[float]:
    while True:
        yield chance.gauss()


def drift(sigmas: float) -> Noise:
    def deviations(chance: random.Random) -> Iterator[float]:
        for run, value in enumerate(normal(chance)):
            yield value - sigmas * run / STUDY_RUNS

    return deviations


def step(sigmas: float) -> Noise:
    """A step somewhere within the claim."""

    def deviations(chance: random.Random) -> Iterator[float]:
        at = chance.randrange(2 * PAIRS)
        for run, value in enumerate(normal(chance)):
            yield value - sigmas * (run >= at)

    return deviations


def autoregressive(share: float) -> Noise:
    def deviations(chance: random.Random) -> Iterator[float]:
        value = chance.gauss()
        while True:
            yield value
            value = share * value + math.sqrt(1 - share * share) * chance.gauss()

    return deviations


def nodes(spread: float, count: int = 4) -> Noise:
    def deviations(chance: random.Random) -> Iterator[float]:
        offsets = [spread * chance.gauss() for _ in range(count)]
        for value in normal(chance):
            yield value + chance.choice(offsets)

    return deviations


def student_3(chance: random.Random) -> Iterator[float]:
    for value in normal(chance):
        yield value / math.sqrt(sum(chance.gauss() ** 2 for _ in range(3)))


def log_normal(chance: random.Random) -> Iterator[float]:
    for value in normal(chance):
        yield (math.exp(value) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)


def contaminated(chance: random.Random) -> Iterator[float]:
    for value in normal(chance):
        yield value + 5.0 * (chance.random() < 0.05)


def rounded(to: float) -> Noise:
    """Read with a grid that lies anywhere."""

    def deviations(chance: random.Random) -> Iterator[float]:
        start = chance.random() * to
        for value in normal(chance):
            yield to * round((value + start) / to) - start

    return deviations


NOISES: dict[str, tuple[Noise, float]] = {
    "normal": (normal, 0.0),
    "drift of 1 sigma over the study": (drift(1.0), 0.0),
    "drift of 2 sigma": (drift(2.0), 0.0),
    "drift of 4 sigma": (drift(4.0), 0.0),
    "step of 2 sigma within the claim": (step(2.0), 0.0),
    "4 nodes, standard deviation 1 sigma": (nodes(1.0), 0.0),
    "AR(1) 0.7": (autoregressive(0.7), 0.0),
    "AR(1) 0.9": (autoregressive(0.9), 0.0),
    "noise by commit, log-normal 0.7": (normal, 0.7),
    "noise by commit, log-normal 1.0": (normal, 1.0),
    "Student's t, 3 degrees of freedom": (student_3, 0.0),
    "log-normal": (log_normal, 0.0),
    "5 % of the runs off by 5 sigma": (contaminated, 0.0),
    "rounded to 2 sigma": (rounded(2.0), 0.0),
    "rounded to 4 sigma": (rounded(4.0), 0.0),
}


def gains(seed: int, noise: Noise, spread: float) -> list[float]:
    """The differences within the pairs of a claim about a patch that does nothing."""
    chance = random.Random(seed)
    scale = math.exp(spread * chance.gauss()) if spread else 1.0
    deviations = noise(chance)
    found = []
    for index in range(PAIRS):
        new_first = order(f"{seed}/claim/1/pairs", index)[1]
        first, second = next(deviations), next(deviations)
        new, old = (first, second) if new_first else (second, first)
        found.append(old - scale * new)
    return found


def of_the_test(name: str, claims: int) -> tuple[float, float]:
    """Print a row; gives how many claim, and how many intervals hold the truth."""
    proven = held = 0
    margin_t = t_critical(0.025, PAIRS - 1)
    for seed in range(claims):
        found = gains(seed, *NOISES[name])
        mean, deviation = statistics.fmean(found), statistics.stdev(found)
        margin = margin_t * deviation / math.sqrt(PAIRS)
        held += abs(mean) <= margin
        if mean >= margin and mean > 0.0:  # else Student's chance alone is too large
            proven += chance_without_effect(found, str(seed)) <= ALPHA
    print(f"{name:38} {100 * proven / claims:6.2f} % {100 * held / claims:8.1f} %", flush=True)
    return proven / claims, held / claims


def nothing(ideas: Ideas) -> float:
    return 0.0


def few(ideas: Ideas) -> float:
    """Three of 60 ideas are better by 3 sigma."""
    return -3.0 * len(ideas & {10, 30, 50})


def many(ideas: Ideas) -> float:
    """A third of them are better by 0.7 sigma."""
    return -0.7 * sum(idea % 3 == 0 for idea in ideas)


def of_studies(name: str, studies: int, truth: Callable[[Ideas], float]) -> tuple[float, float]:
    """The same of whole studies of 60 ideas."""
    proven = held = runs = useless = left = made = dropped = 0
    for seed in range(20_000, 20_000 + studies):
        tiers = [Tier(name="a", slots=4)]
        greedy = Greedy(Options(combine=False))
        lab = Laboratory(greedy, ideas=60, seed=seed, tiers=tiers, truth=truth, accept_rule=Evidence())
        lab.run()
        claim = lab.claim(Interleaved())
        runs += len(lab.study.by_role(Role.CLAIM))
        if claim is None or claim.low is None or claim.high is None:
            continue
        patch = frozenset(claim.ideas)
        made += 1
        held += claim.low <= truth(frozenset()) - truth(patch) <= claim.high
        proven += claim.proven
        dropped += len(claim.dropped)
        left += len(patch)
        useless += sum(truth(patch) >= truth(patch - {idea}) for idea in patch)
    shown = f"{100 * proven / studies:6.1f} % {100 * held / max(1, made):8.1f} % of {made}"
    print(
        f"{name:38} {shown}, {runs / studies:.0f} runs, taken back {dropped / max(1, made):.1f} changes, "
        f"left {left / max(1, made):.1f} of which {useless / max(1, made):.1f} do nothing",
        flush=True,
    )
    return proven / studies, held / max(1, made)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--claims", type=int, default=4000)
    parser.add_argument("--studies", type=int, default=100)
    given = parser.parse_args()
    slack = 3 * math.sqrt(0.05 * 0.95 / given.claims)
    print(f"{'the test alone':38} {'proven':>8} {'interval holds':>15}")
    rows = [of_the_test(name, given.claims) for name in NOISES]
    sound = all(proven <= 0.05 + slack and held >= 0.93 - slack for proven, held in rows)
    print(f"{'whole studies':38} {'proven':>8} {'interval holds':>15}")
    proven, _ = of_studies("nothing is better", given.studies, nothing)
    of_studies("3 of 60 by 3 sigma", given.studies, few)
    of_studies("20 of 60 by 0.7 sigma", given.studies, many)
    return 0 if sound and proven <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / given.studies) else 1


if __name__ == "__main__":
    sys.exit(main())
