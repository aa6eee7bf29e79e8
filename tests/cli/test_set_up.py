"""Commands that need no study: help, plugins, doctor, init."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from arf.cli.app import COMMANDS, run
from arf.cli.app import arf as group
from arf.cli.demo import bundled
from arf.config.schema import load
from arf.plugins.registry import Plugins
from arf.workspace.workspace import GitWorkspace

Arf = Callable[..., subprocess.CompletedProcess[str]]

DOCS = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
HEAVY = ("asyncio", "pygit2", "yaml", "cattrs", "rich", "sqlite3", "scipy", "numpy", "torch", "matplotlib")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_there_and_says_what_the_list_of_commands_says(name: str) -> None:
    result = CliRunner().invoke(group, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert len(result.output.splitlines()) > 5


@pytest.mark.parametrize("arguments", ["--help", "plugins", "run --help"])
def test_what_is_asked_often_imports_nothing_heavy(arguments: str, tmp_path: Path) -> None:
    code = (
        "import sys; from arf.cli.app import run; code = run(sys.argv[1:]); "
        f"print(code, *[m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *arguments.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["0"]


def test_help_lists_built_ins_and_the_commands_of_plugins(arf: Arf, tmp_path: Path) -> None:
    text = arf("--help", cwd=tmp_path).stdout
    for name in (*COMMANDS, "report", "export"):
        assert f"\n  {name} " in text


@pytest.mark.parametrize("name", [*COMMANDS, "report", "export"])
def test_a_command_and_its_options_are_documented(name: str) -> None:
    command = group.get_command(group.make_context("arf", ["--help"], resilient_parsing=True), name)
    assert command is not None
    assert f"| `arf {name}" in DOCS
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert f"`{max(parameter.opts, key=len)}" in DOCS, parameter.opts


def test_without_arguments_arf_shows_its_help(arf: Arf, tmp_path: Path) -> None:
    done = arf(cwd=tmp_path)
    assert done.returncode == 0
    assert "Usage: arf" in done.stdout


def test_a_current_folder_that_was_removed_is_told(tmp_path: Path) -> None:
    arf = shlex.quote(str(Path(sys.executable).with_name("arf")))
    gone = shlex.quote(str(tmp_path / "gone"))
    done = subprocess.run(
        ["sh", "-c", f"mkdir {gone} && cd {gone} && rmdir {gone} && {arf} status"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "arf: error: the current folder is gone; `cd` to one that is there\n"


def test_no_plugin_shadows_a_built_in_command() -> None:
    plugins = Plugins.load()
    context = group.make_context("arf", ["--help"], resilient_parsing=True)
    for name in COMMANDS:
        command = group.get_command(context, name)
        assert command is not None
        assert (command.callback or group).__module__.startswith("arf.cli")
    assert {"report", "export"} <= set(plugins.names("command"))


def test_plugins_are_listed_with_what_they_offer(arf: Arf, tmp_path: Path) -> None:
    told = json.loads(arf("plugins", "--json", cwd=tmp_path).stdout)
    offers = {(offer["kind"], offer["name"]) for plugin in told for offer in plugin["offers"]}
    assert {
        ("backend", "local"),
        ("strategy", "greedy"),
        ("agent", "offline"),
        ("parser", "summary"),
    } <= offers
    text = arf("plugins", cwd=tmp_path).stdout
    assert all(name in text for _, name in offers)


def test_a_plugin_is_shown_with_its_options(arf: Arf, tmp_path: Path) -> None:
    text = arf("plugins", "local", cwd=tmp_path).stdout
    assert "backend.slots  (whole number or null; default null)" in text
    (told,) = json.loads(arf("plugins", "local", "--json", cwd=tmp_path).stdout)
    options = {option["name"]: option for option in told["offers"][0]["options"]}
    assert options["slots"]["default"] is None
    assert options["slots"]["help"]


def test_what_is_disabled_is_listed_as_left_out(arf: Arf, tmp_path: Path) -> None:
    done = arf("plugins", cwd=tmp_path, ARF_DISABLE_PLUGINS="metrics_jsonl")
    assert "disabled  metrics_jsonl" in done.stdout
    assert "parser    jsonl" not in done.stdout


def test_the_bundled_workspace_becomes_a_repository_of_its_own(
    arf: Arf, git: Callable[..., str], tmp_path: Path
) -> None:
    done = arf("init", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "mine"
    assert git(made, "status", "--porcelain") == ""
    assert git(made, "rev-list", "--count", "HEAD").strip() == "1"
    assert (made / "train.py").read_bytes() == (bundled() / "train.py").read_bytes()
    assert not list(tmp_path.glob(".mine-*"))
    (made / "train.py").write_text("mine\n")
    again = arf("init", "mine", cwd=tmp_path)
    assert again.returncode == 0
    assert (made / "train.py").read_text() == "mine\n"


def test_an_arf_yaml_for_a_script_is_one_that_arf_can_read(
    arf: Arf, git: Callable[..., str], workspace: Path
) -> None:
    (workspace / "arf.yaml").unlink()
    (workspace / "our model.py").write_text("RATE = 0.1\nprint('accuracy: 0.5')\n")
    git(workspace, "add", "-A")
    git(workspace, "commit", "-qm", "script")
    options = ["--metric", "accuracy", "--direction", "max"]
    done = arf("init", ".", "--script", "our model.py", *options, cwd=workspace)
    assert done.returncode == 0, done.stderr
    config = load(workspace_file=workspace / "arf.yaml", options_class=Plugins.load().options)
    assert (config.objective.metric, config.objective.direction) == ("accuracy", "max")
    assert config.workspace.command == "{python} 'our model.py'"
    opened = GitWorkspace.open(workspace, config.workspace)
    assert list(opened.files(opened.base_commit())) == ["our model.py"]


NO_RUN = ("--no-run", "--metric", "val_loss")


def test_an_arf_yaml_links_the_data_that_git_ignores(
    arf: Arf, git: Callable[..., str], workspace: Path
) -> None:
    (workspace / "arf.yaml").unlink()
    for name in ("data/part/train.bin", "data/part/prepare.py", "my_data/x.csv", "output/y.csv"):
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text("1\n")
    (workspace / ".gitignore").write_text("*.bin\nmy_data/\noutput/\n")
    (workspace / "fit.sh").write_text("#!/usr/bin/env bash\ncat data/part/train.bin my_data/x.csv\n")
    git(workspace, "add", "-A")
    git(workspace, "commit", "-qm", "data")
    assert "`bash fit.sh` is run" in arf("init", ".", "--script", "fit.sh", *NO_RUN, cwd=workspace).stderr
    config = load(workspace_file=workspace / "arf.yaml", options_class=Plugins.load().options)
    assert config.workspace.link == ("data/part/train.bin", "my_data")
    assert set(GitWorkspace.open(workspace, config.workspace).links()) == {"data/part/train.bin", "my_data"}


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("fit.js", "node fit.js"),
        ("fit.pl", "perl fit.pl"),
        ("fit.jl", "julia fit.jl"),
        ("-fit.py", "{python} ./-fit.py"),
    ],
)
def test_how_a_script_is_run_is_told_by_its_name(arf: Arf, workspace: Path, name: str, command: str) -> None:
    (workspace / "arf.yaml").unlink()
    (workspace / name).write_text("x = 1\n")
    done = arf("init", ".", f"--script={name}", *NO_RUN, cwd=workspace)
    assert f"`{command}` is run" in done.stderr


def test_a_script_that_is_a_link_is_run_and_what_it_leads_to_is_edited(arf: Arf, workspace: Path) -> None:
    (workspace / "arf.yaml").unlink()
    (workspace / "src").mkdir()
    (workspace / "src" / "fit.py").write_text("x = 1\n")
    (workspace / "fit.py").symlink_to("src/fit.py")
    done = arf("init", ".", "--script", "fit.py", *NO_RUN, cwd=workspace)
    assert "`{python} fit.py` is run, src/fit.py may change" in done.stderr
    assert "editable: [src/fit.py]" in (workspace / "arf.yaml").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--script", "train.sh", "--metric", " "], "--metric needs a name"),
        (["--script", "../other/train.py"], "is not in ."),
        (["--script", "look.ipynb"], "is a notebook"),
    ],
)
def test_init_refuses_what_cannot_be_studied(
    arf: Arf, workspace: Path, options: list[str], message: str
) -> None:
    (workspace / "arf.yaml").unlink()
    (workspace / "look.ipynb").write_text("{}")
    done = arf("init", ".", *options, cwd=workspace)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert not (workspace / "arf.yaml").exists()


def test_the_doctor_runs_a_job_and_says_what_is_wrong(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace)
    (workspace / ".arf").mkdir()
    (workspace / "train.sh").write_text("changed\n")
    assert run(["doctor", "--json"]) == 1
    checks = {check["check"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert [name for name, check in checks.items() if check["health"] == "failed"] == ["workspace"]
    assert "git commit" in checks["workspace"]["hint"]
    assert "a trivial job ran" in checks["job"]["text"]
    assert not list((workspace / ".arf").iterdir())


def test_the_doctor_misses_the_program_of_an_agent(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert run(["doctor", "--agent", "claude-code", "--json"]) == 1
    checks = {check["check"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert "there is no program 'claude'" in checks["agent"]["text"]
    assert "npm install" in checks["agent"]["hint"]


def test_the_doctor_is_content_with_a_workspace_that_is_well(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace)
    assert run(["doctor", "--backend", "local", "--agent", "offline"]) == 0
    said = capsys.readouterr().out
    assert "a trivial job ran" in said
    assert "estimate     about 14 experiments in 7 s, at 1 s a run (limits.budget_s)" in said


def test_the_doctor_checks_the_configuration_of_a_study(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace)
    (workspace.parent / "night.yaml").write_text("backend: {name: local, slots: 1}\nstrategy: random\n")
    assert run(["doctor", "--config", "../night.yaml"]) == 0
    said = capsys.readouterr().out
    assert "random" in said
    assert "cpu: 1 slot" in said


@pytest.mark.parametrize(
    ("command", "script", "check", "said"),
    [
        ("pythom3 train.py", "X = 1\n", "command", "there is no pythom3 here"),
        ("SEED=1 ./missing.sh", "X = 1\n", "command", "there is no ./missing.sh here"),
        ("{python} train.py", "X = 1\nprint(\n", "script", "train.py: line 2: SyntaxError"),
    ],
)
def test_the_doctor_finds_what_could_never_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    script: str,
    check: str,
    said: str,
) -> None:
    (tmp_path / "train.py").write_text(script)
    (tmp_path / "arf.yaml").write_text(f"workspace: {{command: '{command}', editable: [train.py]}}\n")
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@t")
    for arguments in (["init", "-q"], ["add", "--all"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    assert run(["doctor", "--json"]) == 1
    checks = {check["check"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert [name for name, found in checks.items() if found["health"] == "failed"] == [check]
    assert said in checks[check]["text"]
