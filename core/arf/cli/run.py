"""`arf run` and `arf resume`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from arf.errors import NameTakenError, UsageError, WorkspaceError
from arf.sdk.commands import ARF_YAML, DEMO, find_study, is_meant, study_argument, workspace_file

if TYPE_CHECKING:
    from arf.config.schema import Config
    from arf.engine.engine import Engine
    from arf.plugins.registry import Plugins
    from arf.store.database import StudyLock

    Begun = tuple[Engine, StudyLock]


def view_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--json", "style", flag_value="json", help="Print one JSON object per line for each event."
        ),
        click.option("--plain", "style", flag_value="plain", help="Print plain lines, even on a terminal."),
        click.option("-v", "--verbose", is_flag=True, help="Log more of what arf does."),
    ):
        command = option(command)
    return command


def _budget_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--max-usd", type=float, metavar="X", help="Stop before this many US dollars are spent."
        ),
        click.option("--max-slot-hours", type=float, metavar="X", help="Stop after this many slot hours."),
        click.option("--max-time", metavar="TIME", help="Stop after this long, such as 30m or 8h."),
        click.option("--max-experiments", type=int, metavar="N", help="Stop after this many experiments."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("workspace", required=False)
@click.option("--config", "config_file", metavar="FILE", help="A study's configuration (see configs/).")
@click.option("--name", help="Name of the study; the date by default.")
@click.option("--strategy", metavar="S", help="Strategy that decides what to run.")
@click.option("--backend", metavar="B", help="Backend that runs the jobs.")
@click.option("--agent", metavar="A", help="Agent that proposes ideas.")
@click.option("--parser", metavar="P", help="Parser that reads metrics from the output.")
@click.option("--slots", type=int, metavar="N", help="Number of concurrent jobs.")
@_budget_options
@click.option("--seed", type=int, metavar="N", help="Random seed of the study.")
@click.option(
    "-o", "overrides", multiple=True, metavar="KEY=VALUE", help="Set any key, such as -o noise.alpha=0.01."
)
@view_options
def run(
    workspace: str | None,
    config_file: str | None,
    overrides: tuple[str, ...],
    style: str | None,
    verbose: bool,
    **flags: Any,
) -> int:
    """Start a study of WORKSPACE and run it to its end.

    WORKSPACE is a folder in a git repository with a training script; the current folder if it is left out.
    Where that holds no script, the bundled workspace is set up in ./arf-demo and studied.
    """
    directory = _workspace(workspace)
    config, plugins, notes = _configure(directory, config_file, overrides, flags)

    async def begin() -> Begun:
        from arf import launch

        if config.study.name:
            return await launch.create(directory, config, plugins, config.study.name)
        from arf.sdk.studies import free_names

        for name in free_names(directory):
            try:
                return await launch.create(directory, config, plugins, name)
            except NameTakenError:
                continue  # by a study elsewhere in the repository, or one that was begun in the same moment
        raise AssertionError("the names do not end")

    from arf.cli.session import conduct

    return conduct(begin, plugins, notes, style=style, verbose=verbose, resumed=False)


@click.command()
@study_argument
@_budget_options
@view_options
def resume(study: str | None, style: str | None, verbose: bool, **flags: Any) -> int:
    """Continue STUDY after any exit: finished, stopped, or killed.

    STUDY is a name or the beginning of one; the newest study if it is left out. Jobs that still run are taken
    up again, and nothing is run twice. A budget given here takes the place of the study's own.
    """
    from arf.plugins.registry import Plugins
    from arf.store.database import Store

    home = find_study(study)
    Store.open(home).close()  # what is wrong with it is told before what is missing around it
    disabled = _disabled(config_file=home / "study.yaml")
    plugins = Plugins.load(disabled)

    async def begin() -> Begun:
        from arf import launch

        return await launch.resume(home, plugins, _dotted(flags))

    from arf.cli.session import conduct

    return conduct(begin, plugins, left_out(plugins), style=style, verbose=verbose, resumed=True)


# ---- What to run ----------------------------------------------------------------------------


def _workspace(named: str | None) -> Path:
    """The folder to study: the named one, the current one, or the bundled one."""
    from arf.cli import demo
    from arf.cli.views import say

    here = Path.cwd()
    if named is not None:
        directory = Path(named)
        if not directory.is_dir():
            what = "is a file, not a folder" if directory.exists() else "does not exist"
            raise WorkspaceError(f"{directory} {what}", hint="name the folder that holds the script")
    elif is_meant(here):
        directory = here
    else:
        demo.check_torch()
        directory = here / DEMO
        made = demo.set_up(directory)
        what = "the bundled one was set up in" if made else "the bundled one is used, which is in"
        say(f"arf: no workspace here, so {what} ./{DEMO}")
    if (directory / ARF_YAML).is_file() and directory.name == DEMO:
        demo.check_torch()
    return directory


def _configure(
    directory: Path, config_file: str | None, overrides: tuple[str, ...], flags: Mapping[str, Any]
) -> tuple[Config, Plugins, list[str]]:
    """The configuration from all that was said, the plugins that it leaves in, and notes for people."""
    from arf.config.schema import load
    from arf.plugins.registry import Plugins
    from arf.workspace.detection import detect

    yaml = workspace_file(directory)
    files = {
        "workspace_file": yaml,
        "config_file": Path(config_file) if config_file else None,
    }
    pairs = [_pair(text) for text in overrides]
    plugins = Plugins.load(_disabled(**files, overrides=pairs))
    detected = detect(directory) if yaml is None else None
    if detected is not None and detected.settings is None and not _names_command(files["config_file"], pairs):
        raise WorkspaceError(detected.reason, hint=f"`arf init {_shown(directory)} --script FILE` writes one")
    config = load(
        **files,
        detected=detected.settings if detected else None,
        overrides=pairs,
        flags=_dotted(flags),
        options_class=plugins.options,
    )
    notes = [] if detected is None else [detected.reason]
    notes += [f"warning: {warning}" for warning in config.warnings]
    return config, plugins, [*notes, *left_out(plugins)]


def _dotted(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags of the command line as keys of the configuration."""
    keys = {"name": "study.name", "seed": "study.seed", "slots": "backend.slots"}
    return {
        f"budget.{flag}" if flag.startswith("max_") else keys.get(flag, flag): value
        for flag, value in flags.items()
    }


def left_out(plugins: Plugins) -> list[str]:
    return [f"warning: the plugin {name} is left out: {why}" for name, why in plugins.broken.items()]


def _shown(directory: Path) -> str:
    return "." if directory.resolve() == Path.cwd() else str(directory)


def _names_command(config_file: Path | None, overrides: list[tuple[str, str]]) -> bool:
    """Whether the command comes from elsewhere, so that nothing needs to be detected."""
    from arf.config.layers import read_file

    if any(key == "workspace.command" for key, _ in overrides):
        return True
    return config_file is not None and read_file(config_file).at(("workspace", "command")) is not None


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(
            f"-o {text}: there is no `=`", hint="write -o key.path=value, such as -o noise.alpha=0.1"
        )
    return key.strip(), value


def _disabled(**sources: Any) -> tuple[str, ...]:
    from arf.config.schema import disabled_plugins

    return disabled_plugins(**sources)
