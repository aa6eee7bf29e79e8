"""`arf init`: a workspace to start from, or an `arf.yaml` for a script that is there."""

from __future__ import annotations

import itertools
import os
import re
import shlex
from pathlib import Path

import click

from arf.errors import UsageError, nearest
from arf.sdk.commands import ARF_YAML

_TEMPLATE = """\
# What arf is told of this workspace. Every key can be overridden: `arf run -o limits.budget_s=60`.
# docs/configuration.md has all keys, with their defaults.
workspace:
  command: {command}
  editable: [{script}]        # What ideas may change. All other tracked files are read-only.
  # setup: python prepare.py     # Run once for a study, before the first job: data, a tokenizer.
  {link}
objective:
  metric: {metric}            # As the script prints it: a closing line such as `{metric}: 1.234`.
  direction: {direction}             # min or max: which way is better.
  # pick: last                   # Which value counts where it is printed more than once.
limits:
  budget_s: 5m                # What one run takes, for estimates.
  time_limit_s: 10m           # A run that takes longer is ended.
# parser: jsonl                  # If the script prints JSON lines; `arf plugins` lists all parsers.
"""


@click.command()
@click.argument("directory", metavar="[DIR]", default=".")
@click.option("--script", metavar="FILE", help="Write DIR/arf.yaml for this script, which is in DIR.")
@click.option("--command", metavar="CMD", help="How the script is run; else what its name suggests.")
@click.option(
    "--metric", default="val_bpb", show_default=True, help="The metric to improve, as the script prints it."
)
@click.option("--direction", type=click.Choice(["min", "max"]), default="min", show_default=True)
def init(directory: str, script: str | None, command: str | None, metric: str, direction: str) -> None:
    """Make a workspace in DIR: a copy of the bundled one, with a git repository of its own.

    With --script, write a commented arf.yaml for a script of your own into DIR instead.
    """
    target = Path(directory)
    if script is not None:
        _write_yaml(target, script, command, metric, direction)
    elif command is not None:
        raise UsageError("--command needs --script", hint="name the script that the command runs")
    else:
        _copy(target)


def _copy(target: Path) -> None:
    from arf.cli import demo

    if target.resolve() == Path.cwd():
        raise UsageError(
            "name a folder for the workspace, such as `arf init trainer`",
            hint="or say which script to study: `arf init --script train.py`",
        )
    made = demo.set_up(target)
    click.echo(
        f"{target} {'is ready' if made else 'is a workspace already'}; start with `arf run {target}`",
        err=True,
    )


def _write_yaml(target: Path, script: str, command: str | None, metric: str, direction: str) -> None:
    if not target.is_dir():
        raise UsageError(f"{target} is no folder", hint="name the folder that holds the script")
    file = target / ARF_YAML
    if os.path.lexists(file):
        raise UsageError(f"{file} exists", hint="edit it, or move it away")
    script = _inside(target, script)
    if not (target / script).is_file():
        names = [path.relative_to(target).as_posix() for path in target.iterdir() if path.is_file()]
        raise UsageError(f"there is no {script} in {target}", hint=nearest(script, names))
    if not metric.strip() or not metric.isprintable():
        raise UsageError(
            "--metric needs a name", hint="name what the script prints, such as --metric val_loss"
        )
    command = command or _command(target, script)
    edited = _behind_links(target, script)
    text = _TEMPLATE.format(
        command=_quoted(command),
        script=_quoted(edited),
        metric=_quoted(metric),
        direction=direction,
        link=_link(target),
    )
    file.write_text(text, encoding="utf-8")
    where = "" if target.resolve() == Path.cwd() else f" {target}"
    click.echo(
        f"wrote {file}: `{command}` is run, {edited} may change, {metric} is {direction}imised; "
        f"look it over, commit, and start with `arf run{where}`",
        err=True,
    )


def _inside(target: Path, script: str) -> str:
    """The script's path in the folder, with forward slashes. Raises UsageError if it is elsewhere."""
    folder = target.resolve()
    path = Path(os.path.normpath(folder / script))
    if not path.is_relative_to(folder):
        raise UsageError(
            f"{script} is not in {target}",
            hint=f"`arf init {shlex.quote(str(path.parent))} --script {path.name}`",
        )
    return path.relative_to(folder).as_posix()


def _behind_links(target: Path, script: str) -> str:
    """The file that a script is where it is a symbolic link in the folder, as ideas cannot change links."""
    folder, path = target.resolve(), (target / script).resolve()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else script


def _link(target: Path) -> str:
    """The line of the template about data that git ignores, as far as folders are named like data."""
    found = []
    for folder in sorted(item for item in target.iterdir() if item.is_dir() and _DATA.match(item.name)):
        if _is_ignored(folder):
            found.append(folder.name)
            continue
        files = sorted(itertools.islice(folder.rglob("*"), 2000))
        found += [
            path.relative_to(target).as_posix()
            for path in files
            if path.is_file() and "__pycache__" not in path.parts and _is_ignored(path)
        ]
    if not found:
        return "# link: [data]                 # Untracked files and folders that each run needs."
    names = ", ".join(map(_quoted, found[:_LINKS]))
    return f"link: [{names}]  # Untracked files and folders that each run needs."


_DATA = re.compile(r"(?:.*[_-])?(?:data|datasets?|corpus|corpora)\Z", re.IGNORECASE)
_LINKS = 20


def _is_ignored(path: Path) -> bool:
    """Whether git ignores a file, or a folder with all that is in it; false outside a repository."""
    import pygit2

    from arf.workspace.repository import find_repository

    try:
        repo = find_repository(path.parent)
        if repo is None or repo.workdir is None:
            return False
        inside = path.resolve().relative_to(Path(repo.workdir).resolve()).as_posix()
        tracked = any(entry.path == inside or entry.path.startswith(inside + "/") for entry in repo.index)
        return not tracked and repo.path_is_ignored(inside + ("/" if path.is_dir() else ""))
    except (pygit2.GitError, ValueError):
        return False


def _command(target: Path, script: str) -> str:
    """How a script is run, by its name. Raises UsageError if nothing suggests it."""
    path = shlex.quote(f"./{script}" if script.startswith("-") else script)
    programs = {
        ".py": "{python}",
        ".sh": "bash" if _has_shebang(target / script, "bash") else "sh",
        ".r": "Rscript",
        ".jl": "julia",
        ".js": "node",
        ".mjs": "node",
        ".pl": "perl",
        ".rb": "ruby",
        ".lua": "lua",
    }
    if Path(script).suffix == ".py" and (target / "uv.lock").is_file():
        return f"uv run {path}"
    if (program := programs.get(Path(script).suffix.lower())) is not None:
        return f"{program} {path}"
    if os.access(target / script, os.X_OK):
        return f"./{path}"
    if Path(script).suffix == ".ipynb":
        raise UsageError(
            f"{script} is a notebook, which prints no metric",
            hint=f"`jupyter nbconvert --to script {path}` first",
        )
    raise UsageError(f"nothing tells how {script} is run", hint=f"say it, such as --command './{script}'")


def _has_shebang(script: Path, program: str) -> bool:
    with script.open("rb") as file:
        first = file.readline(200)
    return first.startswith(b"#!") and program.encode() in first


def _quoted(text: str) -> str:
    """The text as a YAML scalar: a JSON string is one."""
    import json

    plain = (
        text.replace("_", "").replace("-", "").replace(".", "").replace("/", "").replace(" ", "").isalnum()
    )
    return text if plain and text[0].isalpha() else json.dumps(text, ensure_ascii=False)
