from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arf.hooks import hookimpl
from arf.study import Study
from arf.types import Experiment, Verdict

kept: dict[str, list[int]] = {}
"""The experiments that were kept, by study."""


@hookimpl
def arf_study_started(study: Study) -> None:
    kept[study.name] = list(study.kept)


@hookimpl
def arf_experiment_changed(study: Study, experiment: Experiment) -> None:
    numbers = kept.setdefault(study.name, list(study.kept))
    if experiment.verdict is Verdict.KEEP and experiment.id not in numbers:
        numbers.append(experiment.id)


@hookimpl
def arf_study_finished(study: Study, directory: Path, summary: Mapping[str, Any]) -> Sequence[Path]:
    file = directory / "arf-example.txt"
    file.write_text(f"{summary['state']}; kept: {kept.pop(study.name, list(study.kept))}\n")
    return [file]
