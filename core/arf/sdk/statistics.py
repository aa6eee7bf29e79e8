"""Noise, Student's t and the measured speed of tiers, as arf itself computes them."""

from arf.judge.statistics import Noise, deciding_order, noise, t_critical, t_tail
from arf.status.tier_stats import measured

__all__ = ["Noise", "deciding_order", "measured", "noise", "t_critical", "t_tail"]
