"""Each provider of agents in a whole study of the bundled workspace, with answers that contain mistakes.

The model's service is llmock over loopback; Claude Code and Codex are a stand-in program (the real ones are
run by `make test-agents`).
"""

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from llmock.pytest_plugin import LLMock

from arf.testing.studies import run_study
from arf.types import ExperimentState, Verdict

ARF = str(Path(sys.executable).with_name("arf"))
SHORT = "10e9"
"""FLOPs: a thirtieth of the laptop's budget."""
EXPERIMENTS = 14
IDEAS = [
    {"LR_MULT": 2.0}, {"LR_MULTI": 2.0}, {"DEPTH": 2}, {"WIDTH": 32}, {"DEPTH": "deep"}, {"LR_MULT": 4.0},
    {"DEPTH": 2}, {"MATRIX_LR": 0.01}, {"EMBED_LR": 0.4}, {"WIDTH": 48}, {"MATRIX_LR": 0.03},
    {"EMBED_LR": 0.1},
]  # fmt: skip
"""One unknown constant, one value of a wrong type and one repeat among them."""

pytestmark = pytest.mark.e2e


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARF_BUDGET", SHORT)
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "sk-no-real-key")
    subprocess.run([ARF, "init", "workspace"], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / "workspace"


def check(workspace: Path, flags: dict[str, Any]) -> None:
    _, store = run_study(
        workspace, {"budget.max_experiments": EXPERIMENTS, "agent.parallel": 1, **flags}, disable=["report"]
    )
    experiments = store.experiments()
    assert len(experiments) >= 12
    assert all(one.state is ExperimentState.ENDED and one.verdict is not None for one in experiments)
    assert sum(one.verdict is Verdict.CRASH for one in experiments) <= 1
    ideas = store.load().ideas.values()
    assert len(ideas) >= 4
    assert not [
        idea for idea in ideas if "LR_MULTI" in idea.constants or idea.constants.get("DEPTH") == "deep"
    ]
    trees = [one.tree for one in experiments if one.role == "candidate"]
    assert len(trees) == len(set(trees))  # nothing ran twice
    usage = store.load().usage
    assert usage.output_tokens > 0
    assert usage.usd > 0


@pytest.mark.parametrize("dialect", ["anthropic", "responses", "chat"])
def test_a_model_improves_the_bundled_workspace(llmock: LLMock, workspace: Path, dialect: str) -> None:
    llmock.rate_limit(retry_after=0.1)
    for number, change in enumerate(IDEAS):
        constants = [{"name": name, "value": value} for name, value in change.items()]
        idea = {
            "title": f"idea {number}", "reason": "r", "expected_gain": 0.01, "risk": "",
            "constants": constants, "edits": [],
        }  # fmt: skip
        llmock.reply(json.dumps({"ideas": [idea], "learned": "", "exhausted": False}))
        if number == 3:
            llmock.reply("Here is what I think: no JSON at all.")
    flags = (
        {"agent.name": "anthropic"}
        if dialect == "anthropic"
        else {"agent.name": "openai", "agent.api": dialect}
    )
    check(workspace, {**flags, "agent.backoff_s": 0.02})
    llmock.assert_resilient()


PROGRAM = '''#!{python}
"""Claude Code or Codex, by its arguments: makes the next change of a list, now and then a wrong one."""
import json, pathlib, re, sys

if "--version" in sys.argv:
    print("9.9.9 (stand-in)")
    sys.exit(0)
codex = "exec" in sys.argv
sys.stdin.read()
count = pathlib.Path({count!r})
number = int(count.read_text()) if count.exists() else 0
count.write_text(str(number + 1))
changes = json.loads({ideas!r})
name, value = next(iter(changes[number % len(changes)].items()))
path = pathlib.Path("train.py")
text = path.read_text()
if name in text:
    path.write_text(re.sub(rf"(?m)^{{name}} = [^ ]+", f"{{name}} = {{value!r}}", text))
else:
    path.write_text(text + "\\nno python (\\n")


def say(**event):
    print(json.dumps(event), flush=True)


said = f"{{name}} {{value}}"
if codex:
    told = number + 1
    usage = {{"input_tokens": 400 * told, "cached_input_tokens": 0, "output_tokens": 20 * told}}
    say(type="thread.started", thread_id="s1")
    say(type="item.completed", item={{"type": "agent_message", "text": said}})
    say(type="turn.completed", usage=usage)
else:
    usage = {{"input_tokens": 400, "cache_read_input_tokens": 0, "output_tokens": 20}}
    say(type="system", subtype="init", session_id="s1", mcp_servers=[])
    say(type="result", subtype="success", is_error=False, result=said, session_id="s1", usage=usage,
        total_cost_usd=0.01, permission_denials=[])
'''


@pytest.mark.parametrize("which", ["claude-code", "codex"])
def test_a_program_improves_the_bundled_workspace(workspace: Path, tmp_path: Path, which: str) -> None:
    ideas = [change for change in IDEAS if "deep" not in change.values()]
    program = tmp_path / "program"
    text = PROGRAM.format(python=sys.executable, count=str(tmp_path / "count"), ideas=json.dumps(ideas))
    program.write_text(text)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    model = {"agent.model": "gpt-6.2-sol"} if which == "codex" else {}
    check(workspace, {"agent.name": which, "agent.program": str(program), **model})
