"""What a report tells, read from a study's folder: nothing in it that is not in `arf.db` or in git."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from arf.sdk.studies import StudyReader
from arf.study import Study
from arf.types import Experiment, Objective

Series = tuple[str, float | None]
"""A tier and a share of the budget: only values of one series can be compared as they are."""


@frozen(kw_only=True)
class Story:
    """A study, at rest."""

    directory: Path
    study: Study
    objective: Objective
    summary: Mapping[str, Any]
    """As `arf status --json` shows it."""
    experiments: tuple[Experiment, ...]
    """All of them, in the order in which they were accepted."""
    kept: tuple[Experiment, ...]
    """In the order in which they were kept, the baseline's first run before all."""
    reference: Mapping[Series, float]
    """The baseline's mean in each series in which it has run."""
    means: Mapping[tuple[str, Series], tuple[float, int]]
    """Mean and count of the objective, by tree and series."""
    diff: str = ""
    """From the base to the best commit; empty if there is none."""
    diff_problem: str = ""
    """Why there is no diff although there should be."""
    events: tuple[tuple[str, str, str], ...] = field(default=())
    """(time, kind, text) of the study's own log, the newest first."""

    @property
    def series(self) -> list[Series]:
        """Those that have values, in the order of their first."""
        return list(dict.fromkeys(series_of(e) for e in self.experiments if e.value is not None))

    def sigma(self, tier: str) -> float | None:
        """The standard deviation of one run on a tier; None while it is unknown."""
        noise = self.summary["noise"].get(tier)
        return float(noise["sigma"]) if noise is not None and math.isfinite(noise["sigma"]) else None

    def mean(self, experiment: Experiment) -> float | None:
        """The mean over all counted runs of the experiment's tree in its series."""
        found = self.means.get((experiment.tree, series_of(experiment)))
        return None if found is None else found[0]


def series_of(experiment: Experiment) -> Series:
    return experiment.tier, experiment.budget


def better_by(percent: float) -> str:
    """A gain for people: `2.21 % better`."""
    return f"{abs(percent):.2f} % {'worse' if percent < 0 else 'better'}"


def read_story(directory: Path, study: Study | None = None) -> Story:
    """Read a study, running or not. Raises StoreError if there is none or it cannot be read.

    `study` is the study if it is at hand: loading it is most of the work.
    """
    with StudyReader.open(directory) as reader:
        study = study or reader.study()
        experiments = tuple(study.experiments.values())
        kept = tuple(reader.kept())
        workspace = str(reader.workspace_directory)
        means = _means(experiments)
        diff, problem = _diff(workspace, study.base, kept[-1].commit) if len(kept) > 1 else ("", "")
        return Story(
            directory=directory,
            study=study,
            objective=study.objective,
            summary=reader.summary(),
            experiments=experiments,
            kept=kept,
            reference={
                series: mean for (tree, series), (mean, _) in means.items() if tree == study.base_tree
            },
            means=means,
            diff=diff,
            diff_problem=problem,
            events=tuple(
                (at.isoformat(timespec="seconds"), kind, text) for at, kind, text in reader.events(50)
            ),
        )


def _means(experiments: tuple[Experiment, ...]) -> dict[tuple[str, Series], tuple[float, int]]:
    values: dict[tuple[str, Series], list[float]] = {}
    for e in experiments:
        if e.value is not None:
            values.setdefault((e.tree, series_of(e)), []).append(e.value)
    return {key: (math.fsum(runs) / len(runs), len(runs)) for key, runs in values.items()}


def _diff(workspace: str, base: str, best: str) -> tuple[str, str]:
    """The patch from one commit to another, or why there is none."""
    import pygit2

    try:
        repository = pygit2.Repository(pygit2.discover_repository(workspace) or workspace)
        # Of text that is not UTF-8, what can be shown is.
        return (repository.diff(base, best).patch or ""), ""
    except (pygit2.GitError, KeyError, ValueError) as error:
        return "", f"{workspace}: {error}"
