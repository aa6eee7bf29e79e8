import click

from arf.hooks import Declaration, hookimpl
from arf.sdk.commands import find_study, study_argument
from arf.sdk.studies import StudyReader


@click.command()
@study_argument
def show_best(study: str | None) -> None:
    """Print the number and the value of the best experiment."""
    with StudyReader.open(find_study(study)) as reader:
        kept = reader.kept()
    click.echo(f"#{kept[-1].id}: {kept[-1].value}" if kept else "nothing has been kept yet")


@hookimpl
def arf_register_commands() -> list[Declaration]:
    return [Declaration(name="example", implementation=show_best)]
