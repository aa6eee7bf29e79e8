"""Another study's ledger as a table: its experiments, read from its arf.db and its commits.

Only what was a setting of constants can be looked up again; changes of code have no place on a grid.
"""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

from arf.errors import UsageError
from arf.sdk.studies import StudyReader
from arf.study import Study
from arf.types import Scalar
from arf_plugins.effects.reading import base_constants
from arf_plugins.objectives.objective import Parameter
from arf_plugins.objectives.table import Cell, Table


def read_ledger(directory: str | Path) -> Table:
    """The runs of a study on its first tier, at full budget. Raises ArfError with what is missing."""
    home = Path(directory).expanduser()
    with StudyReader.open(home) as reader:
        study, workspace = reader.study(), reader.workspace_directory
    names = {name for idea in study.ideas.values() for name in idea.constants}
    if not names:
        raise UsageError(f"study {study.name!r} has set no constants by name, so there is nothing to replay")
    base = base_constants(workspace, study)
    if not base:
        raise UsageError(
            f"the workspace of {home} cannot be read",
            hint="a replay needs the commit that the study began with",
        )
    missing = names - base.keys()
    if missing:
        raise UsageError(f"the script of study {study.name!r} has no constant {min(missing)}")
    settings = _settings(study, base)
    runs: dict[tuple[Scalar, ...], list[float]] = defaultdict(list)
    for experiment in study.experiments.values():
        setting = settings.get(experiment.commit)
        if setting is None or experiment.tier != study.tiers[0].name or experiment.budget is not None:
            continue
        values = runs[tuple(setting[name] for name in base)]
        if experiment.value is not None:
            values.append(experiment.value)
    parameters = tuple(
        Parameter(name=name, base=value, levels=_levels({setting[n] for setting in runs}))
        for n, (name, value) in enumerate(base.items())
    )
    cells = tuple(
        Cell(
            levels=tuple(p.levels.index(v) for p, v in zip(parameters, setting, strict=True)),
            values=tuple(values),
        )
        for setting, values in runs.items()
    )
    used = tuple(n for n, p in enumerate(parameters) if len(p.levels) > 1)
    return Table(
        objective=study.objective,
        parameters=tuple(parameters[n] for n in used),
        cells=tuple(Cell(levels=tuple(cell.levels[n] for n in used), values=cell.values) for cell in cells),
        provenance={"study": study.name, "base": study.base},
    )


def _settings(study: Study, base: dict[str, Scalar]) -> dict[str, dict[str, Scalar]]:
    """The constants of each commit that was reached by setting constants alone."""
    settings = {study.base: dict(base)}
    for experiment in study.experiments.values():
        ideas = [study.ideas[idea] for idea in experiment.ideas]
        parent = settings.get(experiment.parent)
        if parent is None or not all(idea.constants for idea in ideas):
            continue
        new = dict(parent)
        for idea in ideas:
            new.update(idea.constants)
        settings.setdefault(experiment.commit, new)
    return settings


def _levels(values: set[Scalar]) -> tuple[Scalar, ...]:
    numbers = [value for value in values if isinstance(value, int | float) and not math.isnan(value)]
    if len(numbers) == len(values):
        return tuple(sorted(numbers))
    return tuple(sorted(values, key=str))
