"""`arf report` and `arf export`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from arf.errors import UsageError, nearest
from arf.store import DATABASE, Store, study_from_json
from arf_plugins.report.files import write_report
from arf_plugins.report.results import to_csv, to_json, to_tsv

STUDIES = Path(".arf") / "studies"
DEMO = Path("arf-demo")
"""Where `arf run` sets up the bundled workspace."""


@click.command()
@click.argument("study", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def report(study: str | None, as_json: bool) -> None:
    """Write a study's results.tsv, progress.png and report.html, and print where they are.

    STUDY is a name or a study's folder; the newest study if it is left out. A study that runs can be
    reported too.
    """
    written = write_report(find_study(study))
    if as_json:
        click.echo(json.dumps({"files": [str(path) for path in written.paths], "notes": written.notes}))
        return
    for path in written.paths:
        click.echo(path)
    for note in written.notes:
        click.echo(note, err=True)


@click.command()
@click.argument("study", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["tsv", "csv", "json"]),
    default="tsv",
    show_default=True,
    help="tsv: as results.tsv. csv: the same for spreadsheets. json: all that is recorded.",
)
def export(study: str | None, form: str) -> None:
    """Print a study's experiments, oldest first.

    STUDY is a name or a study's folder; the newest study if it is left out.
    """
    store = Store.open(find_study(study))
    try:
        metric = study_from_json(store.meta("study")).objective.metric
        experiments = store.experiments()
    finally:
        store.close()
    if form == "json":
        lines = to_json(experiments)
    else:
        lines = (to_tsv if form == "tsv" else to_csv)(experiments, metric)
    for line in lines:
        click.echo(line)


def find_study(name: str | None) -> Path:
    """The folder of a study of the workspace here, or of the demo here. Raises UsageError."""
    if name is not None and (Path(name) / DATABASE).is_file():
        return Path(name).resolve()
    roots = (STUDIES, DEMO / STUDIES)
    found = {path.parent.name: path.parent for root in reversed(roots) for path in root.glob(f"*/{DATABASE}")}
    if name is None and found:
        return max(found.values(), key=lambda folder: (folder / DATABASE).stat().st_mtime).resolve()
    if name in found:
        return found[name].resolve()
    if not found:
        raise UsageError("there is no study here", hint="go to a workspace, or name a study's folder")
    raise UsageError(f"there is no study {name!r}", hint=nearest(name or "", found))
