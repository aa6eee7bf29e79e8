"""The real services, with a key of yours: a small study with each, for some cents. `make test-services`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from arf.store.database import Store

ARF = str(Path(sys.executable).with_name("arf"))
SCRIPT = """LEVEL = 100  # the best is somewhere [0..1000, step 10]
WIDTH = 4  # [1..64]
import os
print("val_bpb:", 1.1 + abs(LEVEL - 140) / 1000 + int(os.environ["ARF_SEED"]) % 5 / 100000)
"""
CONFIG = """
workspace: {command: '{python} train.py', editable: [train.py]}
limits: {budget_s: 1, time_limit_s: 20}
budget: {max_experiments: 8, max_usd: 0.5, max_time: 10m}
backend: {name: local, slots: 2}
"""

pytestmark = pytest.mark.services


@pytest.mark.timeout(700)
@pytest.mark.parametrize(
    ("agent", "key", "program", "options"),
    [
        ("anthropic", "ANTHROPIC_API_KEY", "", ()),
        ("anthropic", "ANTHROPIC_API_KEY", "", ("agent.mode=tools",)),
        ("openai", "OPENAI_API_KEY", "", ()),
        ("openai", "OPENAI_API_KEY", "", ("agent.mode=tools",)),
        ("claude-code", "ANTHROPIC_API_KEY", "claude", ()),
        ("codex", "OPENAI_API_KEY", "codex", ()),
    ],
)
def test_a_small_study(tmp_path: Path, agent: str, key: str, program: str, options: tuple[str, ...]) -> None:
    if not os.environ.get(key):
        pytest.skip(f"{key} is not set")
    if program and shutil.which(program) is None:
        pytest.skip(f"there is no program {program}")
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "arf.yaml").write_text(CONFIG)
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "base"]):
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
        subprocess.run(git, cwd=tmp_path, check=True)
    chosen = [word for option in options for word in ("-o", option)]
    done = subprocess.run(
        [ARF, "run", "--plain", "--name", "s", "--agent", agent, *chosen],
        cwd=tmp_path, capture_output=True, text=True, timeout=650,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    store = Store.open(tmp_path / ".arf" / "studies" / "s")
    assert [one for one in store.experiments() if one.ideas]
    usage = store.load().usage
    assert usage.output_tokens > 0
    assert agent == "codex" or 0 < usage.usd <= 0.5  # what codex uses by itself has no price
    assert os.environ[key] not in done.stdout + done.stderr
