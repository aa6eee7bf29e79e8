"""arf: autonomous, parallel machine-learning research."""

__version__ = "0.1.0"
