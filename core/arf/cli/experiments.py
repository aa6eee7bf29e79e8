"""`arf show`, `arf log`, `arf diff` and `arf best`: one experiment at a time."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from arf.errors import ArfError, UsageError
from arf.sdk.commands import (
    find_experiment,
    find_study,
    json_option,
    print_json,
    read_study,
    study_argument,
    study_option,
)
from arf.sdk.formats import VERDICT_COLOURS, count, duration, moment, number, paint, small
from arf.types import printable

if TYPE_CHECKING:
    from arf.store.database import Store
    from arf.types import Experiment

FOLLOW_S = 0.2
_ESCAPES = re.compile(
    rb"\x1b(?:\[[0-9;?]*[@-ln-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])|[\x00-\x08\x0b\x0c\x0e-\x1a\x7f]"
)
"""What could do harm on a terminal: all control sequences but colours."""

experiment_argument = click.argument("experiment")


def experiment_json(experiment: Experiment) -> dict[str, Any]:
    """An experiment as JSON has it: times in ISO 8601, seconds as numbers."""
    import attrs

    plain = attrs.asdict(experiment, recurse=False)
    for key in ("accepted_at", "started_at", "ended_at"):
        plain[key] = plain[key] and plain[key].isoformat()
    plain["metrics"] = dict(experiment.metrics)
    plain["slot_s"] = experiment.slot_s
    return plain


# ---- show -----------------------------------------------------------------------------------


@click.command()
@experiment_argument
@study_option
@json_option
def show(experiment: str, study: str | None, as_json: bool) -> None:
    """Show everything about EXPERIMENT: a number, the beginning of a commit, or `best`."""
    told = read_study(study, lambda store: _told(store, find_experiment(store, experiment)))
    if as_json:
        print_json(told)
    else:
        _print_experiment(told)


def _told(store: Store, experiment: Experiment) -> dict[str, Any]:
    """The experiment with its ideas, the other runs of the same code, and where its log is."""
    from arf.cli.view_model import log_path
    from arf.status.costs import of_experiment, of_idea
    from arf.store.database import study_from_json

    ideas = [store.idea(idea) for idea in experiment.ideas]
    runs = store.replicates(experiment.tree, experiment.tier)
    values = [run.value for run in runs if run.value is not None]
    study = study_from_json(store.meta("study"))
    return {
        **experiment_json(experiment),
        "metric": study.objective.metric,
        "cost": of_experiment(store, study, experiment).to_json(),
        "ideas": [
            {
                "id": idea.id,
                "title": idea.title,
                "reason": idea.reason,
                "constants": dict(idea.constants),
                "cost": of_idea(store, idea).to_json(),
            }
            for idea in ideas
            if idea is not None
        ],
        "runs": [run.id for run in runs],
        "mean": sum(values) / len(values) if values else None,
        "log": str(log_path(store.directory, experiment.id)),
        "study": store.directory.name,
    }


def _print_experiment(told: dict[str, Any]) -> None:
    colour = VERDICT_COLOURS.get(told["verdict"], "")
    verdict = paint(str(told["verdict"] or told["state"]), colour, bold=True)
    ended = f", {told['job_state']}" if told["job_state"] else ""
    code = f", exit code {told['exit_code']}" if told["exit_code"] else ""
    rows = [
        ("experiment", f"#{told['id']} of {told['study']}: {printable(told['title'])}"),
        ("verdict", verdict + (f": {printable(told['reason'])}" if told["reason"] else "")),
        (told["metric"], number(told["value"])),
    ]
    if len(told["runs"]) > 1:
        others = ", ".join(f"#{run}" for run in told["runs"])
        rows.append(("same code", f"{others}; mean {number(told['mean'])}"))
    for idea in told["ideas"]:
        reason = f": {printable(idea['reason'])}" if idea["reason"] else ""
        rows.append(("idea", f"{printable(idea['title'])}{reason}"))
    rows += [
        ("commit", told["commit"]),
        ("parent", told["parent"]),
        (
            "run",
            f"{told['role']}, {told['tier']}{_slot(told)}, seed {told['seed']}, attempt {told['attempt']}",
        ),
        ("job", f"{told['state']}{ended}{code}"),
        ("accepted", moment(told["accepted_at"])),
    ]
    if told["started_at"]:
        rows.append(("started", moment(told["started_at"])))
    if told["ended_at"]:
        rows.append(("ended", f"{moment(told['ended_at'])}, after {duration(told['slot_s'])}"))
    if told["cost"]["usd"]:
        cost = told["cost"]
        shares = {"machines": cost["machines_usd"], "its share of the agent's asks": cost["agent_usd"]}
        said = ", ".join(f"{what} ${usd:,.3g}" for what, usd in shares.items() if usd)
        rows.append(("cost", f"${cost['usd']:,.3g}: {said}"))
    rows.append(("log", told["log"]))
    for label, text in rows:
        click.echo(f"{label:<10} {text}")
    if told["metrics"]:
        click.echo("\n" + "\n".join(f"  {name:<24} {value:g}" for name, value in told["metrics"].items()))


def _slot(told: dict[str, Any]) -> str:
    return f", slot {told['slot']}" if told["slot"] else ""


# ---- log ------------------------------------------------------------------------------------


@click.command()
@experiment_argument
@study_option
@click.option("-f", "--follow", is_flag=True, help="Follow the output until the experiment ends.")
@click.option("-n", "--tail", type=click.IntRange(0), metavar="N", help="Print only the last N lines.")
@json_option
def log(experiment: str, study: str | None, follow: bool, tail: int | None, as_json: bool) -> None:
    """Print the output of EXPERIMENT: a number, the beginning of a commit, or `best`.

    It is the output of its last attempt.
    """
    from arf.cli.view_model import log_path
    from arf.store.database import Store

    if follow and as_json:
        raise UsageError("--follow and --json exclude each other", hint="leave one out")
    store = Store.open(find_study(study))
    try:
        found = find_experiment(store, experiment)
        path = log_path(store.directory, found.id)
        if not path.is_file() and not follow:
            raise ArfError(
                f"experiment {found.id} has no log yet", hint="it has not started; --follow waits for it"
            )
        if as_json:
            lines = path.read_text("utf-8", "replace").splitlines()
            print_json({"experiment": found.id, "path": str(path), "lines": lines[-tail:] if tail else lines})
            return
        offset = _print_from(path, _tail_offset(path, tail))
        if follow:
            _follow(store, found.id, path, offset)
    except KeyboardInterrupt:
        return
    finally:
        store.close()


def _tail_offset(path: Path, lines: int | None) -> int:
    """Where the last lines begin."""
    if lines is None or not path.is_file():
        return 0
    with path.open("rb") as file:
        position = end = file.seek(0, 2)
        found = 0
        while position > 0:
            step = min(65_536, position)
            position -= step
            file.seek(position)
            block = file.read(step)
            for index in range(len(block) - 1, -1, -1):
                if block[index] == 0x0A and position + index < end - 1:
                    found += 1
                    if found == lines:
                        return position + index + 1
    return 0 if lines else end


def _print_from(path: Path, offset: int) -> int:
    """Print a file from an offset; gives where it ended. A shorter file is a new attempt, printed whole."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(offset if offset <= size else 0)
            while block := file.read(65_536):
                sys.stdout.buffer.write(_ESCAPES.sub(b"", block) if sys.stdout.isatty() else block)
            sys.stdout.buffer.flush()
            return file.tell()
    except FileNotFoundError:
        return 0


def _follow(store: Store, experiment: int, path: Path, offset: int) -> None:
    """Print what is added until the experiment has ended."""
    import time

    from arf.types import ExperimentState

    while True:
        found = store.experiment(experiment)
        offset = _print_from(path, offset)
        if found is None or found.state is ExperimentState.ENDED:
            return
        time.sleep(FOLLOW_S)


# ---- diff -----------------------------------------------------------------------------------


@click.command()
@experiment_argument
@study_option
@click.option("--base", is_flag=True, help="Against the study's first commit, not the experiment's parent.")
@json_option
def diff(experiment: str, study: str | None, base: bool, as_json: bool) -> None:
    """Print what EXPERIMENT changed: a number, the beginning of a commit, or `best`."""
    told = read_study(study, lambda store: _diff(store, find_experiment(store, experiment), base=base))
    if as_json:
        print_json(told)
    elif told["diff"]:
        sys.stdout.write(_coloured(told["diff"]))
    else:
        click.echo(f"experiment {told['experiment']} has the code of {told['old'][:12]}", err=True)


def _diff(store: Store, experiment: Experiment, *, base: bool) -> dict[str, Any]:
    import pygit2

    from arf.workspace.repository import Repository

    old = store.meta("study")["base"] if base else experiment.parent
    workspace = str(store.workspace)
    try:
        repository = Repository(pygit2.Repository(pygit2.discover_repository(workspace) or workspace))
    except pygit2.GitError as error:
        raise ArfError(
            f"the repository of {workspace} cannot be opened: {error}", hint="was it moved?"
        ) from None
    text = repository.diff(old, experiment.commit)
    return {"experiment": experiment.id, "old": old, "new": experiment.commit, "diff": text}


def _coloured(text: str) -> str:
    """A diff in colour, if standard output wants any."""
    colours = {"+": "green", "-": "red", "@": "cyan"}

    def line(content: str) -> str:
        if content.startswith(("+++", "---", "diff ", "index ")):
            return paint(content, bold=True)
        return paint(content, colours[content[0]]) if content[:1] in colours else content

    return "\n".join(line(content) for content in text.split("\n"))


# ---- best -----------------------------------------------------------------------------------


@click.command()
@study_argument
@click.option(
    "--apply", "apply_it", is_flag=True, help="Write its changes to your files. Nothing is committed."
)
@json_option
def best(study: str | None, apply_it: bool, as_json: bool) -> None:
    """Show the best of STUDY so far, or bring it into your files.

    Only the files that differ are written, and only if they have no uncommitted changes. The best is also the
    branch `arf/STUDY`.
    """
    home = find_study(study)
    told = read_study(str(home), _best)
    if apply_it:
        told["applied"] = _apply(home, told)
    if as_json:
        print_json(told)
        return
    runs = count(told["n"], "fresh run" if told["fresh"] else "run")
    rows = [
        ("experiment", f"#{told['experiment']}: {printable(told['title'])}"),
        (told["metric"], f"{number(told['mean'])} (mean of {runs})"),
        ("gain", _gain(told)),
        ("commit", told["commit"]),
    ]
    if told["claim"] is not None:
        rows.append(("claim", told["claim"]))
    if apply_it:
        rows.append(("written", ", ".join(told["applied"]) or "nothing: your files are like that already"))
    elif told["gain"]:
        rows.append(("branch", f"arf/{told['study']}"))
    for label, text in rows:
        click.echo(f"{label:<10} {text}")
    if told["gain"] and not apply_it:
        click.echo("see it with `arf diff best --base`, take it with `arf best --apply`", err=True)


def _gain(told: dict[str, Any]) -> str:
    if not told["gain"]:
        return "none: it is the baseline"
    if told["final"] is not None:
        return str(told["final"]["text"]).removeprefix("gain ")
    share = "" if told["gain_percent"] is None else f" ({told['gain_percent']:.2f} %)"
    return f"{small(told['gain'])}{share} against the baseline; the runs that it was chosen by count too"


def _best(store: Store) -> dict[str, Any]:
    from arf.cli.describe import claim_text
    from arf.status.summary import summarize

    summary = summarize(store, verdicts=0)
    if summary["best"] is None:
        raise ArfError(
            "nothing has been measured yet", hint=f"`arf status {summary['study']}` shows where it stands"
        )
    return {
        **summary["best"],
        "metric": summary["objective"]["metric"],
        "study": summary["study"],
        "base": summary["base"],
        "workspace": summary["workspace"],
        "final": summary["final"],
        "claim": claim_text(summary),
    }


def _apply(home: Path, told: dict[str, Any]) -> list[str]:
    """Write the best to the user's files; gives their paths."""
    from arf.launch import load_study_config
    from arf.plugins.registry import Plugins
    from arf.workspace import open_workspace

    if not told["gain"]:
        raise ArfError("nothing has beaten the baseline yet", hint="there is nothing to apply")
    config = load_study_config(home, Plugins.load())
    workspace = open_workspace(Path(told["workspace"]), config.workspace, base=told["base"])
    return list(workspace.apply_to_checkout(told["base"], told["commit"]))
