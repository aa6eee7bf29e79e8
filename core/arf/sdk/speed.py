"""Comparisons as on machines of average speed; imports linear algebra, so import it where it is used."""

from arf.judge.speed import Adjusted, adjusted

__all__ = ["Adjusted", "adjusted"]
