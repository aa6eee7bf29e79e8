"""`arf compare FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from arf.errors import UsageError


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--output", "-O", type=click.Path(path_type=Path), help="Folder for the results; defaults to FILE's name."
)
@click.option("--seeds", type=click.IntRange(min=1), metavar="N", help="Number of seeds, overriding FILE.")
@click.option(
    "--jobs", type=click.IntRange(min=1), metavar="N", help="Number of processes; one per core by default."
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON document.")
def compare(file: Path, output: Path | None, seeds: int | None, jobs: int | None, as_json: bool) -> None:
    """Simulate the comparison in FILE, and write tables and plots of what came out.

    What is done is kept in the folder of the results, run by run: the same command goes on where it was
    interrupted. docs/simulation.md says what a file may hold, and how to read the results.
    """
    from arf.sdk.engine import Plugins
    from arf_plugins.compare.files import to_json, write_results
    from arf_plugins.compare.plan import read_comparison
    from arf_plugins.compare.runs import cores, run_all
    from arf_plugins.compare.tables import summary
    from arf_plugins.compare.verdict import judge

    comparison = read_comparison(file, Plugins.load(), seeds=seeds)
    output = output or Path(f"{file.stem}-results")
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file", hint="name another folder by --output")
    outcomes = run_all(comparison, output / "runs", jobs=jobs or cores(), tell=_tell)
    verdict = judge(outcomes, reference=comparison.reference, target=comparison.target, race=comparison.race)
    written = write_results(output, comparison, outcomes, verdict)
    if as_json:
        click.echo(json.dumps(to_json(comparison, outcomes, verdict)))
        return
    click.echo(summary(comparison.title, outcomes, verdict))
    for path in written.paths:
        click.echo(path)
    for note in written.notes:
        click.echo(f"arf: {note}", err=True)


def _tell(done: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\rarf: {done}/{total} studies", err=True, nl=done == total)
    elif done == total or done % max(1, total // 10) == 0:
        click.echo(f"arf: {done}/{total} studies", err=True)
