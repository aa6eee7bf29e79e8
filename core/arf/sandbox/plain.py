"""Boxes as JSON has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from arf.types import Box, SandboxMode


def box_fields(box: Box) -> dict[str, Any]:
    """A box as JSON, in the form that `arf.sandbox.enter` takes."""
    return {
        key: [str(item) for item in value] if isinstance(value, tuple) else _plain(value)
        for key, value in attrs.asdict(box, recurse=False).items()
    }


def box_from(fields: Mapping[str, Any]) -> Box:
    """The box that `box_fields` wrote."""
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
    }
    values |= {"mode": SandboxMode(fields["mode"]), "tree": Path(fields["tree"])}
    return Box(**values)


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path | SandboxMode) else value
