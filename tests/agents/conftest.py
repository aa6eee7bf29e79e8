"""The real Claude Code and Codex. In continuous integration (`CI` is set) they must be there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import rigs  # these two are beside this file, which pytest's import mode does not see
import service


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.agents)


@pytest.fixture(params=[rigs.ClaudeRig, rigs.CodexRig], ids=lambda kind: kind.name)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[rigs.Rig]:
    kind = request.param
    with service.serving() as served:
        yield kind(_program(kind), tmp_path / "home", served)


def _program(kind: type[rigs.Rig]) -> str:
    program = kind.find()
    if program is None:
        reason = f"{kind.name} is not installed: see `make test-agents`"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return program
