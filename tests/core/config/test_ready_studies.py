"""The ready studies in configs/ load with the built-in plugins, and say what they seem to say."""

from __future__ import annotations

from pathlib import Path

import pytest

from arf.config.schema import dump, load
from arf.plugins.registry import Plugins
from arf.types import WorkspaceSettings

CONFIGS = Path(__file__).parents[3] / "configs"
STUDIES = sorted(path for path in CONFIGS.glob("*.yaml") if not path.stem.startswith("comparison"))
"""All but the files for `arf compare`, which have a schema and tests of their own."""


def test_there_are_ready_studies() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} >= {"laptop", "one-gpu", "gpu-box"}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_ready_study_loads_and_survives_its_own_record(path: Path, tmp_path: Path) -> None:
    detected = WorkspaceSettings(command="{python} train.py")
    plugins = Plugins.load()
    config = load(config_file=path, detected=detected, options_class=plugins.options)
    assert config.warnings == ()
    assert config.budget.max_time is not None
    record = tmp_path / "study.yaml"
    record.write_text(dump(config), encoding="utf-8")
    assert load(config_file=record, options_class=plugins.options) == config


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_ready_study_teaches(path: Path) -> None:
    first, *lines = path.read_text(encoding="utf-8").splitlines()
    assert first.startswith("# ")
    assert f"#   arf run --config {path.name}" in lines
