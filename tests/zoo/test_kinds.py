"""Each kind of script: its settings are found, those of evaluation stay, and a study on it ends well."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.zoo.kinds import KINDS, Kind

from arf.testing.pytest_plugin import make_repository
from arf.testing.studies import run_study
from arf.types import Verdict
from arf_plugins.agent_offline.space import given_by, read_space, scripts_of

QUICK = ("argparse", "a shell script")
"""Of these a whole study runs with all tests; the others have theirs in `make test-zoo`."""
RUNNABLE = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name, kind in KINDS.items()
    if kind.command
]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_moves_and_what_stays(kind: Kind) -> None:
    given = [name for path in scripts_of(kind.command) for name in given_by(kind.files[path])]
    space = read_space(kind.files, given=given)
    assert set(space.scales) == kind.moves
    assert kind.stays <= set(space.stays)


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_study_ends_well(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    for path, text in kind.files.items():
        (tmp_path / path).write_text(text)
    editable = ", ".join(kind.files)
    (tmp_path / "arf.yaml").write_text(
        f"workspace: {{command: '{kind.command}', editable: [{editable}]}}\n"
        "objective: {metric: val_loss, direction: min}\nbackend: {name: local, slots: 2}\n"
        "noise: {replicates: 2, confirm: 1}\nagent: {name: offline}\n"
    )
    make_repository(tmp_path)
    summary, store = run_study(tmp_path, {"budget.max_experiments": 8})
    study = store.load()
    store.close()
    assert not [e for e in study.experiments.values() if e.verdict in (Verdict.CRASH, Verdict.INVALID)]
    touched = {name for idea in study.ideas.values() for name in idea.constants}
    assert touched
    assert touched <= kind.moves
    values = [e.value for e in study.experiments.values() if e.value is not None]
    assert min(values) < values[0] - 0.01, "a setting that moved changed nothing"
    assert summary["objective"]["metric"] == "val_loss"
