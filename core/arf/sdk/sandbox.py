"""Confining the jobs of this machine: what it can do, and the program that enters a box."""

from arf.sandbox import enter, machine

__all__ = ["enter", "machine"]
