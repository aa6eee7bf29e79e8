"""Claude Code and Codex as agents: recorded lines, and a stand-in program that behaves well and badly."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from arf.engine.engine import agent_brief
from arf.errors import AgentError, UsageError
from arf.interfaces import Brief
from arf.study import Study
from arf.testing.studies import run_study
from arf.types import Answer, Ask, AskKind, Usage, WorkspaceSettings
from arf.workspace.workspace import GitWorkspace
from arf_plugins.agent_claude_code import ClaudeCodeOptions
from arf_plugins.agent_claude_code.agent import ClaudeCode
from arf_plugins.agent_codex import CodexOptions
from arf_plugins.agent_codex.agent import Codex
from arf_plugins.cli_agents.agent import CliAgent, Heard
from arf_plugins.cli_agents.agent_session import Lane

FILES = {"train.py": "LEVEL = 100  # [0..1000]\nWIDTH = 4\nprint('val_bpb:', LEVEL)\n"}

STAND_IN = '''#!{python}
"""Both programs in one: tells by its arguments which it is meant to be."""
import asyncio, json, os, pathlib, sys, time

arguments = sys.argv[1:]
if "--version" in arguments:
    print("9.9.9 (stand-in)")
    sys.exit(0)
codex = "exec" in arguments
prompt = sys.stdin.read()
pathlib.Path(os.environ["SEEN"]).write_text(json.dumps(
    {{"arguments": arguments, "prompt": prompt, "env": dict(os.environ), "cwd": os.getcwd()}}))
session = "s1"
if codex and "resume" in arguments:
    session = arguments[arguments.index("resume") + 1]
if "--resume" in arguments:
    session = arguments[arguments.index("--resume") + 1]


def say(**event):
    print(json.dumps(event), flush=True)


def begin():
    if codex:
        say(type="thread.started", thread_id=session)
    else:
        say(type="system", subtype="init", session_id=session, mcp_servers=[])


def end(text="", **more):
    if codex:
        say(type="item.completed", item={{"type": "agent_message", "text": text}})
        usage = {{"input_tokens": 4000, "cached_input_tokens": 3200, "output_tokens": 200}}
        say(type="turn.completed", usage=usage)
    else:
        usage = {{"input_tokens": 800, "cache_read_input_tokens": 3200, "output_tokens": 200}}
        say(type="result", subtype="success", is_error=False, result=text, session_id=session, usage=usage,
            total_cost_usd=0.25, permission_denials=[], **more)


def fail(status, text):
    if codex:
        say(type="turn.failed", error={{"message": f"unexpected status {{status}}: {{text}}"}})
    else:
        say(type="result", subtype="success", is_error=True, result=text, session_id=session,
            api_error_status=status)
    sys.exit(1)


def lost():
    """As the real ones say it: Claude Code with the id that it does not know, codex with nothing."""
    if not codex:
        say(type="result", subtype="error_during_execution", is_error=True, num_turns=0, session_id=session,
            usage={{}}, errors=["No conversation found with session ID: " + session])
    sys.exit(1)


def edit(old, new):
    path = pathlib.Path("train.py")
    text = path.read_text()
    assert old in text, text
    path.write_text(text.replace(old, new))


async def through_mcp(*calls):
    from mcp import Client, StdioServerParameters
    if codex:
        given = dict(item.split("=", 1) for item in arguments if item.startswith("mcp_servers.arf."))
        command = json.loads(given["mcp_servers.arf.command"])
        args = json.loads(given["mcp_servers.arf.args"])
    else:
        config = json.loads(pathlib.Path(arguments[arguments.index("--mcp-config") + 1]).read_text())
        command, args = config["mcpServers"]["arf"]["command"], config["mcpServers"]["arf"]["args"]
    async with Client(StdioServerParameters(command=command, args=args, env=dict(os.environ))) as client:
        for change, name, given in calls:
            if change:
                edit(*change)
            got = await client.call_tool(name, given)
            pathlib.Path(os.environ["SEEN"] + ".said").open("a").write(str(got.content) + "\\n")


{behaviour}
'''
GOOD = "begin()\nedit('LEVEL = 100', 'LEVEL = 140')\nend('Raise LEVEL to 140\\nIt should help.')"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    monkeypatch.setenv("SEEN", str(tmp_path / "seen.json"))

    def make(behaviour: str) -> str:
        path = tmp_path / "stand-in"
        path.write_text(STAND_IN.format(python=sys.executable, behaviour=behaviour))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


def seen(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "seen.json").read_text())  # type: ignore[no-any-return]


def agent(which: str, program: str, **options: Any) -> CliAgent:
    if which == "codex":
        return Codex(CodexOptions(program=program, model="gpt-6.2-sol", **options))
    return ClaudeCode(ClaudeCodeOptions(program=program, **options))


def brief(tmp_path: Path, files: dict[str, str] = FILES, inside: str = "") -> Brief:
    """As a study gives it, for a workspace at the top of a repository or in a folder of it."""
    repository = tmp_path / "repository"
    if not repository.exists():
        for path, text in {**files, "data.txt": "read-only\n"}.items():
            (repository / inside / path).parent.mkdir(parents=True, exist_ok=True)
            (repository / inside / path).write_text(text)
        commit(repository)
    settings = WorkspaceSettings(command="true", editable=("*.py",))
    workspace = GitWorkspace.open(repository / inside, settings)
    base = workspace.base_commit()
    directory = tmp_path / "study" / "agent"
    directory.mkdir(parents=True, exist_ok=True)
    study = Study(name="s", base=base, base_tree=workspace.tree_of(base))
    return evolve(agent_brief(study, workspace, base, directory.parent), logs=None)


def commit(repository: Path) -> None:
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "base"]):
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
        subprocess.run(command, cwd=repository, check=True)


def answer(one: CliAgent, tmp_path: Path, kind: AskKind = AskKind.IDEAS) -> Answer:
    told = brief(tmp_path)
    return asyncio.run(one.answer(Ask(kind=kind, n=2, base=told.study.base), told))


both = pytest.mark.parametrize("which", ["claude-code", "codex"])


@both
def test_what_it_leaves_changed_is_an_idea(which: str, stand_in: Any, tmp_path: Path) -> None:
    got = answer(agent(which, stand_in(GOOD)), tmp_path)
    assert [idea.title for idea in got.ideas] == ["Raise LEVEL to 140"]
    assert got.ideas[0].constants == {"LEVEL": 140}
    assert (got.usage.input_tokens, got.usage.cached_tokens, got.usage.output_tokens) == (4000, 3200, 200)
    assert got.usage.usd > 0
    shown = seen(tmp_path)
    assert "train.py" in shown["prompt"]
    assert shown["cwd"].endswith("/tree")


@both
def test_the_session_goes_on_and_its_cost_is_counted_once(which: str, stand_in: Any, tmp_path: Path) -> None:
    one = agent(which, stand_in(GOOD))
    answer(one, tmp_path)
    again = answer(one, tmp_path)
    arguments = seen(tmp_path)["arguments"]
    assert arguments[arguments.index("resume" if which == "codex" else "--resume") + 1] == "s1"
    assert "Results have come in" in seen(tmp_path)["prompt"]
    assert again.usage.input_tokens == (0 if which == "codex" else 4000)  # codex counts on in a session


@both
def test_what_was_handed_in_before_arf_was_killed_is_not_asked_for_again(
    which: str, stand_in: Any, tmp_path: Path
) -> None:
    told = brief(tmp_path)
    lane = Lane(tmp_path / "study" / "agent" / f"{which}-0")
    lane.open(Ask(n=2, base=told.study.base), told)
    lane.asked.add(
        {"title": "level 140", "reason": "r", "patch": "-", "constants": {"LEVEL": 140}, "factor": ""}
    )
    (lane.tree / "train.py").write_text("WIDTH = 5  # under way when arf is killed")
    one = agent(which, stand_in(GOOD))  # of another process
    again = answer(one, tmp_path)
    assert [(idea.title, idea.constants) for idea in again.ideas] == [("level 140", {"LEVEL": 140})]
    assert not (tmp_path / "seen.json").exists()
    assert [idea.title for idea in answer(one, tmp_path).ideas] == ["Raise LEVEL to 140"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@both
def test_what_an_arf_that_was_killed_left_running_is_ended(which: str, stand_in: Any, tmp_path: Path) -> None:
    folder = tmp_path / "study" / "agent" / f"{which}-0"
    others = subprocess.Popen(["sleep", "60"], env={**os.environ, "ARF_AGENT": f"{folder}-1"})
    left = subprocess.Popen(["sleep", "60"], env={**os.environ, "ARF_AGENT": str(folder)})
    answer(agent(which, stand_in(GOOD)), tmp_path)
    assert left.wait(10) == -signal.SIGKILL
    assert others.poll() is None
    others.kill()
    others.wait()


@both
def test_a_session_that_is_gone_is_begun_anew(which: str, stand_in: Any, tmp_path: Path) -> None:
    answer(agent(which, stand_in(GOOD)), tmp_path)
    gone = "if session == 's1' and 'resume' in ' '.join(arguments):\n    lost()\n" + GOOD
    got = answer(agent(which, stand_in(gone)), tmp_path)
    assert got.ideas
    assert "resume" not in " ".join(seen(tmp_path)["arguments"])


@both
def test_the_secrets_of_others_are_not_shown_to_it(
    which: str, stand_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "secret")
    answer(agent(which, stand_in(GOOD)), tmp_path)
    env = seen(tmp_path)["env"]
    assert "HF_TOKEN" not in env
    assert ("OPENAI_API_KEY" in env) == (which == "codex")
    assert ("ANTHROPIC_API_KEY" in env) == (which == "claude-code")


@both
@pytest.mark.parametrize(
    ("behaviour", "words", "retry"),
    [
        ("begin()\nfail(401, 'invalid key')", "log in", False),
        ("begin()\nfail(429, 'too many requests')", "too many requests", True),
        ("begin()\nfail(500, 'oops')", "oops", True),
        ("begin()\nsys.stderr.write('segfault')\nsys.exit(139)", "last word (exit code 139): segf", True),
        ("begin()\ntime.sleep(60)", "printed nothing for 0.5 s", True),
        ("begin()\nwhile True:\n    say(type='x')\n    time.sleep(0.05)", "time limit of 2 s", True),
        ("sys.stdout.write('not json\\n{\"torn')\nsys.exit(0)", "without a last word", True),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_clear_error(
    which: str, behaviour: str, words: str, retry: bool, stand_in: Any, tmp_path: Path
) -> None:
    one = agent(which, stand_in(behaviour), silence_limit=0.5, time_limit=2.0)
    with pytest.raises(AgentError) as caught:
        answer(one, tmp_path)
    assert words in str(caught.value)
    assert (caught.value.retry_after_s is not None) == retry
    assert "\n" not in str(caught.value)


def test_a_connection_of_codex_that_came_back_is_no_problem() -> None:
    one, heard = Codex(CodexOptions(program="codex", model="gpt-6.2-sol")), Heard()
    one.hear({"type": "error", "message": "Reconnecting... 1/5 (unexpected status 401)"}, heard, {})
    assert heard.lasting
    one.hear({"type": "error", "message": "Reconnecting... 2/5 (after 4003 ms)"}, heard, {})
    assert not heard.lasting
    one.hear({"type": "turn.completed", "usage": {}}, heard, {})
    assert (heard.problem, heard.hint, heard.finished) == ("", "", True)


@both
def test_a_program_that_does_nothing_gives_an_empty_answer(which: str, stand_in: Any, tmp_path: Path) -> None:
    got = answer(agent(which, stand_in("begin()\nend('I would try a higher LEVEL.')")), tmp_path)
    assert not got.ideas
    assert got.note == "I would try a higher LEVEL."


@both
def test_an_unusable_change_is_told_and_not_taken(which: str, stand_in: Any, tmp_path: Path) -> None:
    got = answer(agent(which, stand_in("begin()\nedit('LEVEL', 'LEVEL LEVEL')\nend('x')")), tmp_path)
    assert not got.ideas
    assert "cannot be used" in got.note


@both
def test_a_new_file_is_a_part_of_the_change_and_what_is_read_only_spoils_it(
    which: str, stand_in: Any, tmp_path: Path
) -> None:
    behaviour = """begin()
edit("WIDTH = 4", "from extra import WIDTH")
pathlib.Path("extra.py").write_text("WIDTH = 8\\n")
end("a file of its own")"""
    (idea,) = answer(agent(which, stand_in(behaviour)), tmp_path).ideas
    assert {edit.path for edit in idea.edits} | set(re.findall(r"\+\+\+ b/(\S+)", idea.patch)) == {
        "train.py",
        "extra.py",
    }
    spoilt = behaviour + '\npathlib.Path("data.txt").write_text("more")'
    got = answer(agent(which, stand_in(spoilt)), tmp_path)
    assert not got.ideas
    assert "data.txt" in got.note


@both
def test_the_program_works_in_the_workspaces_folder(which: str, stand_in: Any, tmp_path: Path) -> None:
    told = brief(tmp_path, inside="part/of it")
    one = agent(which, stand_in(GOOD))
    got = asyncio.run(one.answer(Ask(base=told.study.base), told))
    assert got.ideas[0].constants == {"LEVEL": 140}
    assert seen(tmp_path)["cwd"].endswith("/tree/part/of it")


@both
def test_a_missing_program_is_told_with_how_to_get_it(which: str, tmp_path: Path) -> None:
    one = agent(which, "no-such-program")
    with pytest.raises(AgentError, match="npm install"):
        one.check(brief(tmp_path))  # before the first job
    with pytest.raises(AgentError, match="npm install"):
        answer(one, tmp_path)


@both
def test_cancelled_it_ends_with_its_children(which: str, stand_in: Any, tmp_path: Path) -> None:
    child = tmp_path / "child"
    behaviour = (
        "import subprocess\nbegin()\nchild = subprocess.Popen(['sleep', '60'])\n"
        f"pathlib.Path({str(child)!r}).write_text(str(child.pid))\ntime.sleep(60)"
    )
    one = agent(which, stand_in(behaviour))

    async def main() -> None:
        told = brief(tmp_path)
        task = asyncio.ensure_future(one.answer(Ask(base=told.study.base), told))
        while not (child.exists() and child.read_text()):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        while _lives(child.read_text()):  # noqa: ASYNC110 - init reaps it
            await asyncio.sleep(0.02)

    asyncio.run(main())


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_claude_code_is_held_to_its_tools_and_its_budget(stand_in: Any, tmp_path: Path) -> None:
    answer(agent("claude-code", stand_in(GOOD), model="some-model", max_usd_per_ask=2.0), tmp_path)
    arguments = seen(tmp_path)["arguments"]
    after = dict(pairwise(arguments))
    assert after["--permission-mode"] == "dontAsk"
    assert "Bash" not in after["--allowedTools"]
    assert after["--max-budget-usd"] == "2.0000"
    assert after["--model"] == "some-model"


def test_recorded_lines_of_claude_code_are_understood() -> None:
    one, heard = ClaudeCode(), Heard()
    for line in (Path(__file__).parent / "data" / "claude_stream.jsonl").read_text().splitlines():
        one.hear(json.loads(line), heard, {})
    assert heard.finished
    assert heard.session
    assert heard.said
    assert heard.usage != Usage()


def test_recorded_lines_of_codex_are_understood() -> None:
    one, heard = Codex(CodexOptions(model="gpt-6.2-sol")), Heard()
    for line in (Path(__file__).parent / "data" / "codex_exec.jsonl").read_text().splitlines():
        one.hear(json.loads(line), heard, {})
    assert heard.finished
    assert heard.said == '{"best": "e2", "lr": 0.02}'
    assert heard.usage.input_tokens == 4000
    assert not heard.problem


SCRIPT = """LEVEL = 100  # the best is 140 [0..1000, step 10]
WIDTH = 4  # [1..64]
import os
print("val_bpb:", 1.1 + abs(LEVEL - 140) / 1000 + int(os.environ["ARF_SEED"]) % 5 / 100000)
"""


@both
def test_a_whole_study_through_mcp(which: str, stand_in: Any, tmp_path: Path) -> None:
    behaviour = """
begin()
import random
level = random.Random(len(prompt)).randrange(101, 139)
asyncio.run(through_mcp(
    (("LEVEL = 1", "LEVEL = 2 if 1 el"), "submit", {"title": "broken", "reason": "a mistake"}),
    (None, "reset", {}),
    (("LEVEL = ", f"LEVEL = {level} + 0 * "), "submit", {"title": f"level {level}", "reason": "r"}),
    (None, "done", {"note": "for now", "exhausted": False}),
))
end("done")
"""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "train.py").write_text(SCRIPT)
    (workspace / "arf.yaml").write_text(
        "workspace: {command: '{python} train.py', editable: [train.py]}\n"
        "limits: {budget_s: 1, time_limit_s: 20}\nbackend: {name: local, slots: 2}\n"
    )
    commit(workspace)
    flags = {"agent.name": which, "agent.program": stand_in(behaviour), "budget.max_experiments": 8}
    _, store = run_study(workspace, flags, disable=["report"])
    titles = [experiment.title for experiment in store.experiments()]
    assert [title for title in titles if title.startswith("level")], (tmp_path / "seen.json.said").read_text()
    assert "broken" not in titles
    assert store.load().usage.output_tokens > 0


def test_codex_without_a_priced_model_takes_no_budget_of_dollars(
    stand_in: Callable[[str], str], tmp_path: Path
) -> None:
    told = evolve(brief(tmp_path), budget_left={"usd": 5.0})
    unpriced = Codex(CodexOptions(program=stand_in(GOOD)))
    with pytest.raises(UsageError, match=r"agent\.model"):
        unpriced.check(told)
    unpriced.check(brief(tmp_path))
    agent("codex", stand_in(GOOD)).check(told)
