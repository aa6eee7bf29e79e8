"""Keeps `results.tsv` while a study runs, and writes the plots and `report.html` when it ends."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from arf.hooks import Declaration, hookimpl

if TYPE_CHECKING:
    from arf.study import Study
    from arf.types import Experiment
    from arf_plugins.report.results import ResultsFile

_log = logging.getLogger(__name__)
_files: WeakKeyDictionary[Study, ResultsFile] = WeakKeyDictionary()


@hookimpl
def arf_register_commands() -> Sequence[Declaration]:
    return [
        Declaration(
            name="report",
            summary="Write a study's results.tsv, report.html and plots",
            implementation="arf_plugins.report.commands:report",
            extra="arf-research[report]",
        ),
        Declaration(
            name="export",
            summary="Print a study's experiments as TSV, CSV or JSON",
            implementation="arf_plugins.report.commands:export",
        ),
    ]


@hookimpl
def arf_study_started(study: Study, directory: Path, resumed: bool) -> None:
    from arf_plugins.report.results import RESULTS, ResultsFile

    _files[study] = ResultsFile(directory / RESULTS, study.objective.metric, study.experiments.values())


@hookimpl
def arf_experiment_changed(study: Study, experiment: Experiment) -> None:
    file = _files.get(study)
    if file is not None:
        file.put(experiment)


@hookimpl
def arf_study_finished(study: Study, directory: Path, summary: Mapping[str, Any]) -> Sequence[Path]:
    from arf_plugins.report.files import write_report

    _files.pop(study, None)
    written = write_report(directory, state=summary.get("state"), study=study)
    for line in written.notes:
        _log.warning("%s", line)
    return [path for path in written.paths if not path.name.startswith("effects-")]
