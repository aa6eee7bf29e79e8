"""`arf plugins new`: a distribution with a working plugin and its test, from the templates here."""

from __future__ import annotations

import re
from pathlib import Path

import click

from arf import __version__
from arf.errors import UsageError

TEMPLATES = Path(__file__).parent / "templates"
KINDS = {
    "strategy": ("A strategy for arf: tries every idea once.", "arf run --strategy NAME"),
    "agent": ("An agent for arf: scales one constant.", "arf run --agent NAME"),
    "backend": ("A backend for arf: processes that outlive it.", "arf run --backend NAME"),
    "parser": ("A metric parser for arf: lines like `name -> number`.", "arf run --parser NAME"),
    "judge": ("A rule of acceptance for arf: whatever reads better.", "arf run -o accept=NAME"),
    "command": ("A command for arf: prints the best experiment.", "arf NAME"),
    "listener": ("A listener for arf: notes what was kept.", "arf run"),
}
"""What each template is, and how it is used."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@click.command("new")
@click.argument("name")
@click.option("--kind", type=click.Choice(list(KINDS)), required=True, help="What the plugin adds.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Target folder; ./arf-NAME by default.",
)
def new(name: str, kind: str, directory: Path | None) -> None:
    """Write a plugin called NAME with its test, ready for `pip install -e`."""
    name = name.removeprefix("arf-")
    target = directory or Path(f"arf-{name}")
    write_plugin(name, kind, target)
    click.echo(
        f"{target}: a {kind} called {name}. Next:\n\n  pip install -e '{target}[test]'\n  pytest {target}"
    )
    click.echo(f"  {KINDS[kind][1].replace('NAME', name)}")


def write_plugin(name: str, kind: str, target: Path) -> None:
    """Write the distribution `arf-NAME` into an empty or a new folder. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot name a plugin", hint="use lower-case letters, digits and dashes")
    if target.exists() and any(target.iterdir()):
        raise UsageError(f"{target} is not empty", hint="name another folder with --directory")
    summary, use = KINDS[kind]
    words = {
        "arf_example": f"arf_{name.replace('-', '_')}",
        "arf-example": f"arf-{name}",
        '"example"': f'"{name}"',
        "Example": "".join(word.capitalize() for word in name.split("-")),
        "SUMMARY": summary,
        "REQUIRED": __version__,
        "USE": use.replace("NAME", name),
    }
    target.mkdir(parents=True, exist_ok=True)
    for source in (*TEMPLATES.glob("*.*"), *(TEMPLATES / kind).glob("*.py")):
        text = source.read_text(encoding="utf-8")
        for word, instead in words.items():
            text = text.replace(word, instead)
        place = target / source.name.removesuffix(".in").replace("arf_example", words["arf_example"])
        place.write_text(text, encoding="utf-8")
