"""`arf init`: a workspace to start from, or an `arf.yaml` for a script that is there."""

from __future__ import annotations

import itertools
import math
import os
import re
import shlex
import tempfile
from pathlib import Path

import click
from attrs import frozen

from arf.cli import trial
from arf.config.metric_names import direction_of
from arf.errors import UsageError, nearest
from arf.sdk.commands import ARF_YAML
from arf.types import Direction

_TEMPLATE = """\
# What arf is told of this workspace. Every key can be overridden: `arf run -o limits.budget_s=60`.
# docs/configuration.md has all keys, with their defaults.
workspace:
  command: {command}
  editable: [{script}]        # What ideas may change. All other tracked files are read-only.
  # setup: python prepare.py     # Run once for a study, before the first job: data, a tokenizer.
  {link}
objective:
  metric: {metric}            # {seen}
  direction: {direction}             # {why}
  {pick}                  # Which value counts where it is printed more than once: first, last or best.
limits:
  budget_s: {budget}                # What one run takes, for estimates{timed}.
  time_limit_s: {limit}           # A run that takes longer is ended.
{parser}                  # How its output is read; `arf plugins` lists all parsers.
"""


@click.command()
@click.argument("directory", metavar="[DIR]", default=".")
@click.option("--script", metavar="FILE", help="Write DIR/arf.yaml for this script, which is in DIR.")
@click.option(
    "--command", metavar="CMD", help="Command that runs the script; guessed from its name by default."
)
@click.option("--metric", help="Metric to improve, as the script prints it; the most likely one by default.")
@click.option(
    "--direction",
    type=click.Choice(["min", "max"]),
    help="Which way is better; guessed from the name by default.",
)
@click.option("--log", metavar="FILE", help="Log of an earlier run, read instead of running the script.")
@click.option("--no-run", is_flag=True, help="Do not run the script; --metric must name what it prints.")
@click.option("--run-limit", metavar="TIME", default="10m", show_default=True, help="Time limit of the run.")
def init(
    directory: str,
    script: str | None,
    command: str | None,
    metric: str | None,
    direction: str | None,
    log: str | None,
    no_run: bool,
    run_limit: str,
) -> None:
    """Make a workspace in DIR: a copy of the bundled one, with a git repository of its own.

    With --script, run a script of your own once, and write a commented arf.yaml for it into DIR: what it
    prints tells the metric, how long it took the time limit. What was guessed is marked.
    """
    target = Path(directory)
    if script is not None:
        _write_yaml(target, script, command, _Wanted(metric, direction, log, no_run, run_limit))
        _print_outlook(target)
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


@frozen
class _Wanted:
    """What the user has said of the objective, and of how to learn the rest."""

    metric: str | None
    direction: str | None
    log: str | None
    no_run: bool
    run_limit: str


def _write_yaml(target: Path, script: str, command: str | None, wanted: _Wanted) -> None:
    if not target.is_dir():
        raise UsageError(f"{target} is no folder", hint="name the folder that holds the script")
    file = target / ARF_YAML
    if os.path.lexists(file):
        raise UsageError(f"{file} exists", hint="edit it, or move it away")
    script = _inside(target, script)
    if not (target / script).is_file():
        names = [path.relative_to(target).as_posix() for path in target.iterdir() if path.is_file()]
        raise UsageError(f"there is no {script} in {target}", hint=nearest(script, names))
    metric = wanted.metric
    if metric is not None and (not metric.strip() or not metric.isprintable()):
        raise UsageError(
            "--metric needs a name", hint="name what the script prints, such as --metric val_loss"
        )
    command = command or _command(target, script)
    edited = _behind_links(target, script)
    output = _output(target, command, wanted)
    proposal = _proposal(output, wanted)
    text = _filled(command, edited, output, proposal, wanted, _link(target))
    file.write_text(text, encoding="utf-8")
    where = "" if target.resolve() == Path.cwd() else f" {target}"
    direction = wanted.direction or proposal.direction or Direction.MIN
    click.echo(
        f"wrote {file}: `{command}` is run, {edited} may change, {proposal.metric} is {direction}imized; "
        f"look it over, commit, and start with `arf run{where}`",
        err=True,
    )
    if wanted.direction is None and proposal.direction is None:
        click.echo(
            f"arf: nothing in the name {proposal.metric!r} tells which way is better: min was taken; "
            f"set objective.direction in {file} if more is better",
            err=True,
        )


def _output(target: Path, command: str, wanted: _Wanted) -> trial.Output | None:
    """What a run has printed: from a log, from running it now, or None."""
    if wanted.log is not None:
        try:
            return trial.Output(text=Path(wanted.log).read_text("utf-8", "replace"))
        except OSError as error:
            raise UsageError(f"--log {wanted.log} cannot be read: {error.strerror}") from None
    if wanted.no_run:
        if wanted.metric is None:
            raise UsageError("--no-run needs --metric", hint="name what the script prints, such as val_loss")
        return None
    from arf.config.layers import seconds

    try:
        limit_s = seconds(wanted.run_limit)
    except ValueError:
        raise UsageError(
            f"--run-limit {wanted.run_limit} is no time", hint="write 90s, 10m or 1h30m"
        ) from None
    log = Path(tempfile.mkdtemp(prefix="arf-init-")) / "output.log"
    click.echo(
        f"arf: running `{command}` once, for at most {wanted.run_limit} (--no-run skips that)", err=True
    )
    return trial.run(command, target, limit_s, log)


def _proposal(output: trial.Output | None, wanted: _Wanted) -> trial.Proposal:
    if output is None:
        assert wanted.metric is not None
        return trial.Proposal(
            metric=wanted.metric,
            value=math.nan,
            direction=direction_of(wanted.metric),
            parser="",
            pick="only",
        )
    from arf.plugins.registry import Plugins

    proposal = trial.propose(output, Plugins.load(), wanted.metric)
    took = "" if output.seconds is None else f" in {output.seconds:.0f} s"
    click.echo(f"arf: it printed {proposal.metric} {proposal.value:.6g}{took}", err=True)
    if proposal.others:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in proposal.others.items())
        click.echo(f"arf: and {shown} (--metric names another one)", err=True)
    return proposal


def _filled(
    command: str,
    edited: str,
    output: trial.Output | None,
    proposal: trial.Proposal,
    wanted: _Wanted,
    link: str,
) -> str:
    """The text of arf.yaml, with what was guessed marked."""
    seconds = None if output is None else output.seconds
    budget, limit = trial.limits(seconds)
    if output is None:
        seen = f"As the script prints it: a closing line such as `{proposal.metric}: 1.234`."
    else:
        seen = f"Its last value was {proposal.value:.6g}" + (
            "." if wanted.metric else "; guessed: the likeliest."
        )
    direction = wanted.direction or proposal.direction or Direction.MIN
    why = "min or max: which way is better"
    if wanted.direction is None:
        why += "; guessed by the name" if proposal.direction else "; a guess, the name tells nothing"
    other_parser = proposal.parser not in ("", trial.default_parser())
    return _TEMPLATE.format(
        command=_quoted(command),
        script=_quoted(edited),
        metric=_quoted(proposal.metric),
        direction=str(direction),
        seen=seen,
        why=f"{why}.",
        pick=f"pick: {proposal.pick}" if proposal.pick != "only" else "# pick: last",
        budget=budget,
        limit=limit,
        timed="" if seconds is None else f": it took {seconds:.0f} s here",
        parser=f"parser: {proposal.parser}" if other_parser else "# parser: NAME",
        link=link,
    )


def _print_outlook(target: Path) -> None:
    """What the agent would change, as far as the script is committed."""
    from arf.cli.doctor import outlook
    from arf.config.schema import load
    from arf.plugins.registry import Plugins

    plugins = Plugins.load()
    config = load(workspace_file=target / ARF_YAML, options_class=plugins.options)
    for finding in outlook(plugins, config, target):
        click.echo(f"  {finding.name}: {finding.text}", err=True)


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
