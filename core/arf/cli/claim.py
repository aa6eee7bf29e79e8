"""`arf claim`: have what a study has found measured against the baseline now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from arf.cli.run import left_out, view_options
from arf.launch import study_plugins
from arf.sdk.commands import find_study, study_argument

if TYPE_CHECKING:
    from pathlib import Path

    from arf.cli.run import Begun
    from arf.plugins.registry import Plugins


@click.command()
@study_argument
@view_options
def claim(study: str | None, style: str | None, verbose: bool) -> int:
    """Measure what STUDY has found against the baseline, by fresh runs of both.

    A study that runs does so beside its search. One that has ended is taken up for it, whatever its budget,
    and searches no more.
    """
    from arf.engine.claims import REQUEST
    from arf.store.database import lock_owner

    home = find_study(study)
    (home / REQUEST).touch()
    if lock_owner(home) is not None:
        click.echo(f"arf: asked for; `arf status {home.name}` tells what comes of it", err=True)
        return 0
    return _claim_only(home, study_plugins(home), style=style, verbose=verbose)


def _claim_only(home: Path, plugins: Plugins, *, style: str | None, verbose: bool) -> int:
    from arf.cli.session import conduct

    async def begin() -> Begun:
        from arf import launch

        engine, lock = await launch.resume(home, plugins)
        engine.claim_only()
        return engine, lock

    return conduct(begin, plugins, left_out(plugins), style=style, verbose=verbose, resumed=True)
