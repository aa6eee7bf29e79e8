"""The configuration of a study: its sections as classes, and how it is read from files and options."""

from arf.config.layers import Layer, leaf, read_file, wrapped
from arf.config.schema import (
    Budget,
    Choice,
    Config,
    Limits,
    Naming,
    Noise,
    check_study_name,
    is_secret_name,
    load,
)

__all__ = [
    "Budget",
    "Choice",
    "Config",
    "Layer",
    "Limits",
    "Naming",
    "Noise",
    "check_study_name",
    "is_secret_name",
    "leaf",
    "load",
    "read_file",
    "wrapped",
]
