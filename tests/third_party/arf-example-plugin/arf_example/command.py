import click


@click.command()
@click.argument("name", default="world")
def hello(name: str) -> None:
    """Say hello to NAME."""
    click.echo(f"hello, {name}")
