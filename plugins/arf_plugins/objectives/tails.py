"""Shapes of noise: from a normal deviate to one with heavier tails."""

from __future__ import annotations

import math
import random
from typing import Literal

Tails = Literal["normal", "t3", "contaminated", "lognormal"]

CONTAMINATED = 0.05
"""The share of `contaminated` runs that are off, to either side."""
OFF = 5.0
"""By so many standard deviations."""
LOG_SD = 1.0
"""The standard deviation of the logarithm of `lognormal` noise."""


def with_tails(noise: float, unit: float, tails: Tails, chance: random.Random) -> float:
    """Normal noise of standard deviation `unit` as noise of another shape.

    The standard deviation stays the same, but for `contaminated`. t3 is a scale mixture of normals:
    N(0, 1) / sqrt(chi2(3) / 3), whose variance is 3.
    """
    match tails:
        case "normal":
            return noise
        case "t3":
            return noise / math.sqrt(chance.gammavariate(1.5, 2.0))
        case "contaminated":
            off = chance.random() < CONTAMINATED
            return noise + (chance.choice((-OFF, OFF)) * unit if off else 0.0)
        case "lognormal":
            if not unit:
                return noise
            mean, variance = math.exp(LOG_SD**2 / 2), math.exp(LOG_SD**2)
            return unit * (math.exp(LOG_SD * noise / unit) - mean) / (mean * math.sqrt(variance - 1.0))
