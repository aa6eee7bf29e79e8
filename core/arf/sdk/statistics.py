"""Noise, Student's t and the measured speed of tiers, as arf itself computes them."""

from arf.judge.statistics import Noise, deciding_order, ignores_seed, noise, t_critical, t_tail
from arf.status.tier_stats import measured

__all__ = ["Noise", "deciding_order", "ignores_seed", "measured", "noise", "t_critical", "t_tail"]
