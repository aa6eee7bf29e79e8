"""A table of real training runs over a grid of constants, with replicates: `arf bench record` makes one.

The truth of a cell is the mean of its recorded runs. The noise of a simulated run is normal, with the
standard deviation pooled over all cells (the square root of the summed squares over the summed degrees of
freedom): two or three runs of one cell say next to nothing about that cell's own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from attrs import field, frozen

from arf.errors import UsageError
from arf.types import Direction, Objective
from arf_plugins.objectives.objective import NoCellError, Parameter, SimulatedObjective, Values, better

FORMAT = "arf-table/1"
BUNDLED = "bundled"
"""The name of the table that comes with arf."""


@frozen(kw_only=True)
class Cell:
    """The runs of one setting."""

    levels: tuple[int, ...]
    """The index of each constant's value."""
    values: tuple[float, ...]
    """What the runs that ended well printed; empty if none did."""
    seconds: float = 0.0
    """The mean time of a run."""


@frozen(kw_only=True)
class Table:
    """What a table's file holds."""

    objective: Objective
    parameters: tuple[Parameter, ...]
    cells: tuple[Cell, ...]
    provenance: Mapping[str, Any] = field(factory=dict)

    def to_json(self) -> str:
        """One line for each cell, so that a change of the file can be read."""
        head = {
            "format": FORMAT,
            "provenance": dict(self.provenance),
            "objective": {"metric": self.objective.metric, "direction": str(self.objective.direction)},
            "constants": [
                {"name": p.name, "base": p.base, "levels": list(p.levels), "about": p.about}
                for p in self.parameters
            ],
        }
        rows = [json.dumps([list(c.levels), list(c.values), round(c.seconds, 2)]) for c in self.cells]
        text = json.dumps(head, indent=1, ensure_ascii=False)
        return text[:-2] + ',\n "cells": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n"


def read_table(name: str | Path) -> Table:
    """The table in a file, or the bundled one. Raises UsageError with what is wrong with it."""
    try:
        if name == BUNDLED:
            text = (files("arf_plugins.objectives") / "data" / "trainer.json").read_text("utf-8")
        else:
            text = Path(name).expanduser().read_text("utf-8")
        return _parse(json.loads(text))
    except OSError as error:
        raise UsageError(
            f"the table {name} cannot be read ({error.strerror})",
            hint=f"`arf bench record` makes one; {BUNDLED!r} names the one that comes with arf",
        ) from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UsageError(
            f"{name} is no table ({type(error).__name__}: {error})", hint="`arf bench record` makes one"
        ) from None


def _parse(data: Any) -> Table:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    parameters = tuple(
        Parameter(name=c["name"], base=c["base"], levels=tuple(c["levels"]), about=c.get("about", ""))
        for c in data["constants"]
    )
    objective = Objective(
        metric=data["objective"]["metric"], direction=Direction(data["objective"]["direction"])
    )
    cells = tuple(
        Cell(levels=tuple(levels), values=tuple(values), seconds=seconds)
        for levels, values, seconds in data["cells"]
    )
    return Table(
        objective=objective, parameters=parameters, cells=cells, provenance=data.get("provenance", {})
    )


def pooled_sigma(groups: Iterable[Sequence[float]]) -> float:
    """The standard deviation within groups of replicates; 0 if there are no replicates."""
    squares, df = 0.0, 0
    for values in groups:
        if len(values) > 1:
            mean = math.fsum(values) / len(values)
            squares += math.fsum((value - mean) ** 2 for value in values)
            df += len(values) - 1
    return math.sqrt(squares / df) if df else 0.0


class TableObjective(SimulatedObjective):
    """Looks settings up in a table."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.parameters = table.parameters
        self.objective = table.objective
        self._cells = {cell.levels: cell for cell in table.cells}
        self._index = {p.name: {level: n for n, level in enumerate(p.levels)} for p in table.parameters}
        self._sigma = pooled_sigma(cell.values for cell in table.cells)
        self.truth(self.base)  # the unchanged script must be there

    def truth(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        cell = self._cell(values)
        return math.fsum(cell.values) / len(cell.values) if cell.values else math.nan

    def sigma(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        return self._sigma

    def optimum(self, tier: str = "") -> float:
        return self._optimum

    @cached_property
    def _optimum(self) -> float:
        means = [math.fsum(cell.values) / len(cell.values) for cell in self.table.cells if cell.values]
        return better(self.objective.direction, means)

    def _cell(self, values: Values) -> Cell:
        key = []
        for name, index in self._index.items():
            level = index.get(values[name])
            if level is None:
                known = ", ".join(repr(level) for level in index)
                raise NoCellError(
                    f"the table has no cell with {name} = {values[name]!r}", hint=f"it has {name} = {known}"
                )
            key.append(level)
        cell = self._cells.get(tuple(key))
        if cell is None:
            shown = ", ".join(f"{name} = {value!r}" for name, value in values.items())
            raise NoCellError(f"the table has no cell with {shown}", hint="it was never recorded")
        return cell
