"""`arf report` and `arf export`."""

from __future__ import annotations

import json

import click

from arf.sdk.commands import find_study
from arf.sdk.studies import StudyReader
from arf_plugins.report.files import write_report
from arf_plugins.report.results import to_csv, to_json, to_tsv


@click.command()
@click.argument("study", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def report(study: str | None, as_json: bool) -> None:
    """Write a study's results.tsv, report.html and plots, and print where they are.

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
    with StudyReader.open(find_study(study)) as reader:
        found = reader.study()
    metric, experiments = found.objective.metric, list(found.experiments.values())
    if form == "json":
        lines = to_json(experiments)
    else:
        lines = (to_tsv if form == "tsv" else to_csv)(experiments, metric)
    for line in lines:
        click.echo(line)
