"""Fixtures for tests of plugins, there in every pytest run where arf is installed.

Nothing of arf is imported until a fixture is used, so that other people's test runs pay nothing.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from arf.plugins.registry import Plugins
    from arf.study import Study

pytest.register_assert_rewrite("arf.testing.suites")

TRAIN = '''\
"""Pretends to train: takes milliseconds, and its result depends on its constants and its seed."""

import os
import random

DEPTH = 4  # layers
LEARNING_RATE = 1e-3
DROPOUT = 0.1
STEPS = 5

random.seed(int(os.environ.get("ARF_SEED", "0")))
loss = 2.0
for step in range(STEPS):
    loss = 1.0 + 0.9**step + random.gauss(0.0, 0.001)
    print(f"step {step:05d} ({100 * step / STEPS:.1f}%) | loss: {loss:.6f}")
penalty = abs(DEPTH - 6) * 0.01 + abs(LEARNING_RATE - 3e-3) + abs(DROPOUT) * 0.1
print("---")
print(f"val_bpb:          {0.9 + penalty + random.gauss(0.0, 0.0005):.6f}")
print(f"training_seconds: {0.01:.2f}")
print(f"num_steps:        {STEPS}")
'''

FILES = {
    "train.py": TRAIN,
    "prepare.py": '"""Read-only: the data and the evaluation would be here."""\n',
    "program.md": "Make val_bpb small.\n",
    "arf.yaml": "workspace:\n  command: python3 train.py\n",
}


@pytest.fixture
def arf_workspace(tmp_path: Path) -> Path:
    """A git repository with a script that runs in milliseconds and prints `val_bpb`; all is committed."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    make_repository(folder)
    return folder


def make_repository(folder: Path) -> None:
    """Make a folder a git repository with all that it holds in one commit."""
    who = {"NAME": "arf", "EMAIL": "arf@localhost"}
    env = {
        **os.environ,
        **{f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
    }
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "a tiny workspace"]):
        subprocess.run(["git", *command], cwd=folder, env=env, check=True, stdin=subprocess.DEVNULL)


@pytest.fixture
def arf_plugins() -> Plugins:
    """What is installed; a test may `register` more without others seeing it."""
    from arf.plugins.registry import Plugins

    return Plugins.load()


@pytest.fixture
def arf_study() -> Study:
    """A study in which nothing has happened, with one tier of two slots."""
    from arf.study import Study
    from arf.types import Tier

    return Study(name="test", base="0" * 40, base_tree="1" * 40, tiers=[Tier(name="cpu", slots=2)])
