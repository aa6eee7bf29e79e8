"""`arf mcp`: the SDK's own client, in process and over stdio, against the real arf on a tiny workspace."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from arf.errors import ArfError, UsageError
from arf.store.database import lock_owner
from arf.types import AskKind
from arf_plugins.llm.tools import tools_for
from arf_plugins.mcp.commands import server_of
from arf_plugins.mcp.outside import Outside

ARF = str(Path(sys.executable).with_name("arf"))
ENV = {**os.environ, "NO_COLOR": "1", "SLOW": "0.2"}

SCRIPT = """#!/bin/sh
LEVEL=100    # the best is 200 [0..1000, step 50]
SIZE=3       # does nothing [1..9]
echo "step 1/2 (50.0%) | loss: 3.0"
[ -n "$SLOW" ] && sleep "$SLOW"
echo "step 2/2 (100.0%) | loss: 2.5"
distance=$((LEVEL > 200 ? LEVEL - 200 : 200 - LEVEL))
echo "---"
echo "val_bpb: 1.$((100000 + distance * 100 + ARF_SEED % 50))"
"""
YAML = """\
workspace: {command: sh train.sh, editable: ["*.sh"], pass_env: [SLOW]}
limits: {budget_s: 1, time_limit_s: 60}
backend: {name: local, slots: 2}
"""

Call = Callable[..., Awaitable[Any]]


def git(cwd: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def arf(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ARF, *arguments], cwd=cwd, env={**ENV, **env}, capture_output=True, text=True, timeout=120,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def make_workspace(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "train.sh").write_text(SCRIPT)
    (directory / "data.txt").write_text("fixed\n")
    (directory / "arf.yaml").write_text(YAML)
    git(directory, "init", "-q")
    git(directory, "add", "-A")
    git(directory, "commit", "-qm", "base")
    return directory


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    directory = make_workspace(tmp_path / "workspace")
    yield directory
    for home in directory.glob("**/.arf/studies/*"):
        if lock_owner(home) is not None:
            arf("stop", str(home), cwd=directory)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a study that has ended. Only to be copied."""
    directory = make_workspace(tmp_path_factory.mktemp("mcp") / "workspace")
    done = arf("run", "--name", "old", "--plain", "--max-experiments", "6", cwd=directory, SLOW="")
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture
def ended(finished: Path, tmp_path: Path) -> Path:
    """A workspace of one's own with a study that has ended."""
    directory = shutil.copytree(finished, tmp_path / "copy")
    database = directory / ".arf" / "studies" / "old" / "arf.db"
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'workspace'", (json.dumps(str(directory)),))
    return directory


def talk(server: Any, script: Callable[[Call], Awaitable[None]], **options: Any) -> list[str]:
    """Run a conversation with a server; gives the progress messages."""
    told: list[str] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    async def main() -> None:
        async with Client(server, **options) as client:

            async def call(tool: str, /, **arguments: Any) -> Any:
                return await client.call_tool(tool, arguments, progress_callback=progress)

            await script(call)

    asyncio.run(main())
    return told


def text(result: Any) -> str:
    return str(result.content[0].text)


def ok(result: Any) -> Any:
    """The data of a result that is no error."""
    assert not result.is_error, text(result)
    return result.structured_content


def problem(result: Any) -> str:
    assert result.is_error, text(result)
    return text(result)


# ---- A whole study ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_study_is_driven_over_stdio(workspace: Path, mode: str) -> None:
    async def script(call: Call) -> None:
        begun = ok(await call("start_study", name="mine", max_experiments=20, key="once"))
        assert ok(await call("start_study", name="mine", max_experiments=20, key="once")) == begun
        assert "runs already" in problem(await call("start_study", name="mine"))
        assert "give a name" in problem(await call("start_study"))
        file = Path(begun["work_tree"]) / "train.sh"
        file.write_text(SCRIPT.replace("LEVEL=100", "LEVEL=150"))
        assert "+LEVEL=150" in text(await call("check"))
        first = ok(await call("submit", title="higher", reason="towards 200", runs=2))
        assert file.read_text() == SCRIPT
        again = await call("submit", title="higher", reason="towards 200", runs=2)
        assert "made before" in text(again)
        size = [{"name": "SIZE", "value": 5}]
        second = ok(await call("submit", title="size", constants=size, key="size"))
        assert (
            ok(await call("submit", title="size", constants=size, key="size"))["submissions"][0]["submission"]
            == (second["submissions"][0]["submission"])
        )
        numbers = [told["submissions"][0]["submission"] for told in (first, second)]
        assert numbers == [1, 2]
        waited = ok(await call("wait", timeout_s=60))
        assert waited["timed_out"] is False
        higher = waited["submissions"][0]
        assert higher["done"]
        assert [run["verdict"] for run in higher["experiments"]] == ["keep", "measured"]
        assert higher["experiments"][0]["gain"] == pytest.approx(0.005, abs=1e-3)
        assert "not at the best" in text(
            await call("submit", title="far", constants=[{"name": "LEVEL", "value": 900}])
        )
        at_best = ok(await call("work_tree", base="best"))
        assert at_best["is_best"]
        assert "LEVEL=150" in file.read_text()
        (file.parent / "more.sh").write_text("echo more\n")
        ok(await call("submit", title="a new file", runs=1))
        assert not (file.parent / "more.sh").exists()
        ok(await call("submit", title="best", constants=[{"name": "LEVEL", "value": 200}]))
        ok(await call("wait", timeout_s=60))
        assert "gain" in text(await call("results", best_first=True))
        assert "LEVEL=200" in text(await call("best"))
        status = ok(await call("status"))
        assert status["state"] == "running"
        assert status["budget_left"]["experiments"] < 20
        ok(await call("stop_study"))
        assert ok(await call("status"))["state"] == "stopped"
        assert "resume_study" in problem(
            await call("submit", title="late", constants=[{"name": "SIZE", "value": 7}])
        )
        ok(await call("resume_study"))
        ok(await call("submit", again=1))
        ok(await call("cancel", submissions=[6]))
        ok(await call("best", apply=True))
        ok(await call("stop_study"))

    server = StdioServerParameters(command=ARF, args=["mcp"], cwd=str(workspace), env=ENV)
    told = talk(server, script, mode=mode)
    assert "arf is starting" in told
    assert "LEVEL=200" in (workspace / "train.sh").read_text()
    assert git(workspace, "status", "--porcelain").split() == ["M", "train.sh"]


def test_the_study_outlives_the_server(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOW", "0.3")

    async def begin(call: Call) -> None:
        ok(await call("start_study", name="mine", strategy="greedy", agent="offline"))
        ok(await call("submit", title="size", constants=[{"name": "SIZE", "value": 5}], runs=2))

    async def go_on(call: Call) -> None:
        waited = ok(await call("wait", submissions=[1], timeout_s=60))
        assert len(waited["submissions"][0]["experiments"]) == 2
        assert ok(await call("studies"))["studies"][0]["state"] == "running"
        ok(await call("stop_study"))

    for script in (begin, go_on):
        server = StdioServerParameters(command=ARF, args=["mcp"], cwd=str(workspace), env=ENV)
        talk(server, script)


# ---- What can go wrong --------------------------------------------------------------------------


def test_a_study_of_another_folder_is_driven_too(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    async def script(call: Call) -> None:
        there = str(workspace)
        begun = ok(await call("start_study", workspace=there, strategy="greedy", agent="offline", key="k"))
        assert Path(begun["directory"]).is_relative_to(workspace)
        ok(await call("status"))
        ok(await call("stop_study"))
        ok(await call("resume_study", max_experiments=7))
        ok(await call("stop_study"))

    talk(server_of(None), script)


def test_without_a_study_it_says_how_to_start_one(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)

    async def script(call: Call) -> None:
        assert "start_study" in text(await call("studies"))
        assert "no study" in problem(await call("status"))
        assert "no study" in problem(await call("submit", title="x"))
        assert "no strategy 'greedi'; did you mean 'greedy'?" in problem(
            await call("start_study", strategy="greedi")
        )
        assert "nowhere" in problem(await call("start_study", workspace="nowhere"))
        assert "max_expermnts" in problem(await call("start_study", max_expermnts=3))
        assert "of type integer" in problem(await call("start_study", max_experiments="many"))
        assert "texts such as" in problem(await call("start_study", options=[{"a": 1}]))
        assert "there is no tool" in problem(await call("sumbit"))

    talk(server_of(None), script)
    assert not list((workspace / ".arf").glob("studies/*/arf.db"))


def test_an_ended_study_can_be_looked_at(ended: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ended)

    async def script(call: Call) -> None:
        assert ok(await call("studies"))["studies"][0]["state"] == "finished"
        tree = Path(ok(await call("work_tree"))["path"])
        assert (tree / "data.txt").is_file()
        (tree / "train.sh").write_text((tree / "train.sh").read_text().replace("SIZE=", "SIZE=1"))
        assert "changed and not submitted" in problem(await call("work_tree", base="original"))
        assert "resume_study" in problem(await call("submit", title="x"))
        assert ok(await call("work_tree"))["changed"] == ["train.sh"]
        assert ok(await call("work_tree", base="original", discard=True))["changed"] == []
        assert "has no experiment 'nothing'" in problem(await call("work_tree", base="nothing"))
        (tree / "data.txt").write_text("other\n")
        assert "data.txt changed, which may not be changed" in problem(await call("check"))
        ok(await call("results"))
        ok(await call("submissions"))
        ok(await call("reset"))
        assert (tree / "data.txt").read_text() == "fixed\n"
        (tree / "data.txt").write_text("other\n")
        assert "something wrong" in text(await call("status"))
        ok(await call("work_tree", discard=True))
        (tree / "train.sh").unlink()
        assert "train.sh is gone" in problem(await call("submit", title="x"))
        (tree / "train.sh").symlink_to("/etc/hostname")
        assert "symbolic link" in problem(await call("check"))
        ok(await call("work_tree", discard=True))
        (tree / "more.sh").write_text("echo more\n")
        assert "+echo more" in text(await call("check"))
        ok(await call("reset"))
        assert not (tree / "more.sh").exists()
        assert "did not run" in text(await call("stop_study"))
        assert "verdict: " in text(await call("experiment", id=1))
        ok(await call("write_note", text="sizes do not matter"))
        assert "sizes do not matter" in text(await call("read_notes"))
        assert "no study 'odl'; did you mean 'old'?" in problem(await call("status", study="odl"))

    talk(server_of(None), script)
    talk(server_of("old"), script)
    assert git(ended, "status", "--porcelain") == ""
    with pytest.raises(UsageError):
        server_of("new")


def test_read_only_tools_say_so() -> None:
    async def main() -> None:
        async with Client(server_of(None)) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {name for name, tool in tools.items() if not tool.annotations.read_only_hint} == {
            "start_study", "resume_study", "stop_study", "best", "work_tree", "reset", "submit", "cancel",
            "try_out", "write_note",
        }  # fmt: skip
        assert tools["stop_study"].annotations.destructive_hint
        assert not tools["submit"].annotations.destructive_hint
        for tool in tools.values():
            assert tool.input_schema["additionalProperties"] is False
        assert "key" in tools["submit"].input_schema["properties"]
        assert tools["experiment"].input_schema["required"] == ["id"]

    asyncio.run(main())


def test_the_missing_extra_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['mcp'] = None; from arf.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "mcp"], cwd=tmp_path, capture_output=True, text=True, input=""
    )
    assert done.returncode == 1
    assert done.stderr == "arf: error: `arf mcp` needs the package mcp; pip install 'arf-research[mcp]'\n"
    assert done.stdout == ""


# ---- An ask of arf's own ------------------------------------------------------------------------


def asked(ended: Path, kind: AskKind, n: int = 3) -> Path:
    """The folder of an ask about the study's base, with a plain copy of the files as the tree."""
    folder = ended.parent / "ask"
    tree = folder / "tree"
    tree.mkdir(parents=True)
    for name in ("train.sh", "data.txt", "arf.yaml"):
        shutil.copy(ended / name, tree)
    home = ended / ".arf" / "studies" / "old"
    base = git(ended, "rev-parse", "HEAD").strip()
    ask = {"kind": kind.value, "n": n, "base": base, "study": str(home), "tree": str(tree)}
    (folder / "ask.json").write_text(json.dumps(ask))
    return folder


def submitted(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "submitted.jsonl").read_text().splitlines()]


def test_ideas_are_read_from_the_files_that_changed(ended: Path) -> None:
    folder = asked(ended, AskKind.IDEAS)
    script = folder / "tree" / "train.sh"

    async def first(call: Call) -> None:
        assert "changes nothing" in problem(await call("submit", title="nothing"))
        script.write_text(SCRIPT.replace("LEVEL=100", "LEVEL=170"))
        assert "needs a title" in problem(await call("submit"))
        ok_text = text(await call("submit", title="to 170", reason="nearer", expected_gain=0.01))
        assert "1 of up to 3" in ok_text
        assert script.read_text() == SCRIPT
        script.write_text(SCRIPT.replace("LEVEL=100", "LEVEL=170"))
        assert "proposed before" in problem(await call("submit", title="170 again"))
        (folder / "tree" / "data.txt").write_text("better\n")
        assert "data.txt changed" in problem(await call("submit", title="data"))
        (folder / "tree" / "data.txt").write_text("fixed\n")

    async def second(call: Call) -> None:
        assert "proposed before" in problem(await call("submit", title="170 again"))
        script.write_text(SCRIPT.replace("ARF_SEED % 50", "ARF_SEED % 5"))
        assert "2 of up to 3" in text(await call("submit", title="steadier", key="k"))
        assert "made before" in text(await call("submit", title="steadier", key="k"))
        ok(await call("done", note="that is all"))
        ok(await call("done", note="that is all"))

    talk(server_of(None, folder), first)
    talk(server_of(None, folder), second)  # a server lives as long as its client: this one must remember
    one, two, end = submitted(folder)
    assert (one["title"], one["reason"], one["expected"]) == ("to 170", "nearer", 0.01)
    assert one["constants"] == {"LEVEL": 170}
    assert two["constants"] == {}
    assert "+echo" in two["patch"]
    assert end == {"done": True, "note": "that is all", "exhausted": False}
    (folder / "idea.patch").write_text(two["patch"])
    git(ended, "apply", "--check", str(folder / "idea.patch"))


def test_files_are_given_back_byte_for_byte(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Line ends, other encodings, git's filters, and a workspace below the repository's top."""
    monkeypatch.chdir(workspace)
    below = workspace / "below"
    below.mkdir()
    for name in ("train.sh", "arf.yaml"):
        git(workspace, "mv", name, f"below/{name}")
    wild = {"crlf.sh": b"A=1\r\necho $A\r\n", "latin.sh": b"# caf\xe9\nB=1\n", "end.sh": b"C=1"}
    for name, data in wild.items():
        (below / name).write_bytes(data)
    (workspace / ".gitattributes").write_text("*.txt eol=crlf\ncrlf.sh -text\n")
    git(workspace, "add", "-A")
    git(workspace, "commit", "-qm", "wild")
    monkeypatch.chdir(below)

    async def script(call: Call) -> None:
        begun = ok(await call("start_study", name="wild"))
        tree = Path(begun["work_tree"])
        assert ok(await call("work_tree"))["changed"] == []
        for name, data in wild.items():
            (tree / name).write_bytes(data.replace(b"=1", b"=2"))
        assert len(ok(await call("work_tree"))["changed"]) == 3
        ok(await call("reset"))
        assert {name: (tree / name).read_bytes() for name in wild} == wild
        for name in ("crlf.sh", "end.sh"):
            (tree / name).write_bytes(wild[name].replace(b"=1", b"=2"))
            ok(await call("submit", title=name))
            assert (tree / name).read_bytes() == wild[name]
        ok(await call("stop_study"))

    talk(server_of(None), script)


def test_factors_have_names(ended: Path) -> None:
    folder = asked(ended, AskKind.FACTORS, 1)
    script = folder / "tree" / "train.sh"

    async def levels(call: Call) -> None:
        for level in (140, 160):
            script.write_text(SCRIPT.replace("LEVEL=100", f"LEVEL={level}"))
            if level == 140:
                assert "which factor" in problem(await call("submit", title="x"))
            ok(await call("submit", title=f"to {level}", factor="level"))
        script.write_text(SCRIPT.replace("SIZE=3", "SIZE=8"))
        assert "they are there" in problem(await call("submit", title="size", factor="size"))

    talk(server_of(None, folder), levels)
    assert [(record["title"], record["factor"]) for record in submitted(folder)] == [
        ("to 140", "level"),
        ("to 160", "level"),
    ]


def test_experiments_go_to_the_desk(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("SLOW", "0.3")
    folder = workspace.parent / "ask"
    folder.mkdir()

    async def begin(call: Call) -> None:
        begun = ok(await call("start_study", name="mine", strategy="greedy", agent="offline"))
        ask = {
            "kind": "experiments",
            "n": 2,
            "base": git(workspace, "rev-parse", "HEAD").strip(),
            "study": begun["directory"],
            "tree": begun["work_tree"],
        }
        (folder / "ask.json").write_text(json.dumps(ask))

    async def script(call: Call) -> None:
        file = Path(json.loads((folder / "ask.json").read_text())["tree"]) / "train.sh"
        file.write_text(SCRIPT.replace("SIZE=3", "SIZE=8"))
        assert ok(await call("submit", title="size"))["submissions"][0]["title"] == "size"
        assert file.read_text() == SCRIPT
        waited = ok(await call("wait", submissions=[1], timeout_s=60))
        assert waited["submissions"][0]["done"]
        ok(await call("done", exhausted=True))

    async def end(call: Call) -> None:
        ok(await call("stop_study"))

    talk(server_of(None), begin)
    talk(server_of(None, folder), script)
    talk(server_of(None), end)
    assert submitted(folder) == [{"done": True, "note": "", "exhausted": True}]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "cannot be read"),
        ("{", "is no ask"),
        ("[]", "is no ask"),
        ('{"kind": "poems"}', "is no ask"),
        ('{"kind": "ideas", "n": 1, "base": "b", "study": "/nowhere", "tree": "/nowhere"}', "no work tree"),
        ('{"kind": "ideas", "n": 1, "base": "b", "study": "/nowhere", "tree": "/"}', "/nowhere"),
    ],
)
def test_an_ask_that_cannot_be_used_is_told(tmp_path: Path, content: str | None, what: str) -> None:
    if content is not None:
        (tmp_path / "ask.json").write_text(content)
    with pytest.raises(ArfError, match=what):
        server_of(None, tmp_path)


# ---- The skill ----------------------------------------------------------------------------------


def test_the_skill_is_put_where_both_find_it(tmp_path: Path) -> None:
    import yaml

    done = arf("skill", "install", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    files = [tmp_path / folder / "skills" / "arf" / "SKILL.md" for folder in (".claude", ".agents")]
    shown = arf("skill", "show", cwd=tmp_path).stdout
    for file in files:
        assert file.read_text().startswith(shown)
        head = yaml.safe_load(file.read_text().split("---\n")[1])
        assert set(head) == {"name", "description"}
        assert head["name"] == "arf"
        assert len(head["description"]) <= 1024
        assert len(file.read_text().splitlines()) < 500
    assert "claude mcp add arf -- " in done.stdout
    assert "codex mcp add arf -- " in done.stdout
    assert "up to date" in arf("skill", "install", str(tmp_path), cwd=tmp_path.parent).stdout


def test_a_changed_skill_is_not_overwritten(tmp_path: Path) -> None:
    assert arf("skill", "install", "--codex", cwd=tmp_path).returncode == 0
    assert not (tmp_path / ".claude").exists()
    file = tmp_path / ".agents" / "skills" / "arf" / "SKILL.md"
    whole = file.read_text()
    file.write_text(whole.replace("budget", "limiter", 1))
    refused = arf("skill", "install", cwd=tmp_path)
    assert refused.returncode == 1
    assert "was changed by hand; --force overwrites it" in refused.stderr
    assert not (tmp_path / ".claude").exists()
    assert arf("skill", "install", "--force", cwd=tmp_path).returncode == 0
    assert file.read_text() == whole


def test_a_skill_of_another_version_is_replaced(tmp_path: Path) -> None:
    from arf_plugins.mcp.skill import signed, text

    file = tmp_path / ".claude" / "skills" / "arf" / "SKILL.md"
    file.parent.mkdir(parents=True)
    file.write_text(signed("an older text\n"))
    assert arf("skill", "install", "--claude", cwd=tmp_path).returncode == 0
    assert file.read_text() == signed(text())


def test_the_skill_for_a_user_goes_to_the_users_folders(tmp_path: Path) -> None:
    where = {"CLAUDE_CONFIG_DIR": str(tmp_path / "c"), "CODEX_HOME": str(tmp_path / "x")}
    done = arf("skill", "install", "--user", "--json", cwd=tmp_path, **where)
    told = json.loads(done.stdout)
    assert [file["path"] for file in told["files"]] == [
        str(tmp_path / folder / "skills" / "arf" / "SKILL.md") for folder in ("c", "x")
    ]
    assert arf("skill", "install", "--user", ".", cwd=tmp_path, **where).returncode == 2


def test_the_server_is_added_beside_others(tmp_path: Path) -> None:
    file = tmp_path / ".mcp.json"
    file.write_text('{"mcpServers": {"other": {"command": "x"}}}')
    assert arf("skill", "install", "--claude", "--mcp", cwd=tmp_path).returncode == 0
    servers = json.loads(file.read_text())["mcpServers"]
    assert set(servers) == {"other", "arf"}
    assert servers["arf"]["args"] == ["mcp"]
    file.write_text('{"mcpServers": {"arf": {"command": "mine"}}}')
    assert "--force" in arf("skill", "install", "--mcp", cwd=tmp_path).stderr
    file.write_text("{")
    assert "is no JSON" in arf("skill", "install", "--mcp", cwd=tmp_path).stderr


def test_the_skill_names_only_tools_and_commands_that_are_there() -> None:
    from arf_plugins.mcp.skill import text

    tools = {offered.name for offered in Outside().tools()}
    rows = [line.split("|")[1:3] for line in text().splitlines() if line.startswith("| `")]
    named = {name for left, _ in rows for name in re.findall(r"`(\w+)`", left)}
    arguments = {name for tool in tools_for(None) for name in tool.spec.parameters["properties"]}
    assert named <= tools | arguments
    for command in sorted(set(re.findall(r"`arf ([a-z]+)", text()))):
        assert arf(command, "--help", cwd=Path.cwd()).returncode == 0, command


# ---- Documentation ------------------------------------------------------------------------------


OWN = {"study", "key"}
"""Arguments of many tools, told once."""


def test_every_tool_is_documented_with_its_arguments() -> None:
    page = (Path(__file__).parents[2] / "docs" / "agents" / "mcp.md").read_text("utf-8")
    sections = {
        match[1]: match[2] for match in re.finditer(r"^### `(\w+)`.*?\n(.*?)(?=^##|\Z)", page, re.M | re.S)
    }
    offered = {tool.name: dict(tool.schema["properties"]) for tool in Outside().tools()}
    for kind in AskKind:
        for tool in tools_for(kind):
            offered.setdefault(tool.spec.name, {}).update(tool.spec.parameters["properties"])
    assert set(sections) == set(offered)
    told = {tool.name: (tool.description, tool.schema) for tool in Outside().tools()}
    told |= {
        tool.spec.name: (tool.spec.description, tool.spec.parameters)
        for tool in tools_for(AskKind.EXPERIMENTS)
    }
    for name, (description, schema) in told.items():
        section = " ".join(sections[name].split())
        arguments = [said["description"] for key, said in schema["properties"].items() if key not in OWN]
        for words in (description, *arguments):
            assert " ".join(words.split()) in section, name
    for name, properties in offered.items():
        listed = set(re.findall(r"^- `(\w+)`", sections[name], re.M))
        assert listed == set(properties) - OWN, name
