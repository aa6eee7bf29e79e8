"""`arf bench record`: a table of real runs over a grid of constants, for simulations to look up."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import frozen

from arf import __version__
from arf.errors import ArfError, UsageError, nearest
from arf.types import Draft, Scalar
from arf_plugins.objectives.objective import Parameter
from arf_plugins.objectives.table import Cell, Table, pooled_sigma

if TYPE_CHECKING:
    from arf.interfaces import Workspace, WorkTree
    from arf.sdk.runs import Runs


@click.group()
def bench() -> None:
    """Make and look at benchmarks for simulations (docs/simulation.md)."""


@bench.command()
@click.argument("workspace", default=".", type=click.Path(path_type=Path))
@click.option(
    "--grid", "grids", multiple=True, required=True, metavar="NAME=V1,V2,…", help="A constant and its values."
)
@click.option("--replicates", default=2, show_default=True, metavar="N", help="Number of runs per cell.")
@click.option("--output", default="table.json", show_default=True, type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Seed for the order and for the runs' seeds.")
@click.option("-o", "overrides", multiple=True, metavar="KEY=VALUE", help="Set any key of the configuration.")
def record(
    workspace: Path,
    grids: tuple[str, ...],
    replicates: int,
    output: Path,
    seed: int,
    overrides: tuple[str, ...],
) -> None:
    """Run every cell of a full factorial grid on WORKSPACE's backend, and write the table.

    The value that the script has now always belongs to a constant's values. Runs are recorded one by one
    in OUTPUT.part, so that a recording that was interrupted goes on where it was. A run that fails is
    recorded as such: a cell of which all runs fail crashes in simulations too.
    """
    if replicates < 2:
        raise UsageError("--replicates must be 2 or more", hint="the noise is measured from replicates")
    from arf.sdk.runs import Runs

    directory = workspace.resolve()
    recording = Recording.begin(
        Runs.open(directory, overrides, directory / ".arf" / "bench"), grids, replicates, seed, output
    )
    click.echo(
        f"arf: {len(recording.cells)} cells, {replicates} runs each; {len(recording.done)} of "
        f"{len(recording.cells) * replicates} runs are recorded",
        err=True,
    )
    asyncio.run(_record(recording))
    table = recording.table()
    output.write_text(table.to_json(), encoding="utf-8")
    recording.part.unlink()
    sigma = pooled_sigma(cell.values for cell in table.cells)
    click.echo(f"{output}: {len(table.cells)} cells, sigma {sigma:.4g}")


@frozen(kw_only=True)
class Recording:
    """What is to be run, and what has been."""

    runs: Runs
    parameters: tuple[Parameter, ...]
    replicates: int
    seed: int
    part: Path
    done: dict[tuple[tuple[int, ...], int], tuple[float | None, float]]
    """(value or None, seconds) of each run, by cell and replicate."""

    @classmethod
    def begin(cls, runs: Runs, grids: Sequence[str], replicates: int, seed: int, output: Path) -> Recording:
        """Check the grid and take up what an earlier process has recorded in `OUTPUT.part`."""
        workspace = runs.workspace
        parameters = tuple(_parameters(workspace, grids))
        part = output.with_name(output.name + ".part")
        self = cls(runs=runs, parameters=parameters, replicates=replicates, seed=seed, part=part, done={})
        head = {
            "base": workspace.base_commit(),
            "grid": {p.name: list(p.levels) for p in parameters},
            "seed": seed,
        }
        if part.exists():
            lines = [json.loads(line) for line in part.read_text("utf-8").splitlines()]
            if not lines or lines[0] != head:
                raise UsageError(
                    f"{part} is of another recording", hint="remove it, or name another --output"
                )
            for levels, replicate, value, seconds in lines[1:]:
                self.done[(tuple(levels), replicate)] = (value, seconds)
        else:
            part.write_text(json.dumps(head) + "\n", encoding="utf-8")
        return self

    @property
    def cells(self) -> list[tuple[int, ...]]:
        return list(itertools.product(*(range(len(p.levels)) for p in self.parameters)))

    def wanted(self) -> list[tuple[tuple[int, ...], int]]:
        """The runs that are missing, in random order, so that nothing that drifts looks like an effect."""
        runs = [(cell, replicate) for cell in self.cells for replicate in range(self.replicates)]
        random.Random(self.seed).shuffle(runs)
        return [run for run in runs if run not in self.done]

    def values(self, cell: tuple[int, ...]) -> dict[str, Scalar]:
        return {p.name: p.levels[level] for p, level in zip(self.parameters, cell, strict=True)}

    def run_seed(self, cell: tuple[int, ...], replicate: int) -> int:
        """Each run has a seed of its own: shared ones would tie the noise of the cells together."""
        return random.Random(f"{self.seed}/{cell}/{replicate}").randrange(2**31)

    def add(self, cell: tuple[int, ...], replicate: int, value: float | None, seconds: float) -> None:
        self.done[(cell, replicate)] = (value, seconds)
        with self.part.open("a", encoding="utf-8") as file:
            file.write(json.dumps([list(cell), replicate, value, round(seconds, 2)]) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def table(self) -> Table:
        cells = []
        for levels in self.cells:
            runs = [self.done[(levels, replicate)] for replicate in range(self.replicates)]
            cells.append(
                Cell(
                    levels=levels,
                    values=tuple(value for value, _ in runs if value is not None),
                    seconds=sum(seconds for _, seconds in runs) / len(runs),
                )
            )
        provenance = {
            "arf": __version__,
            "base": self.runs.workspace.base_commit(),
            "command": self.runs.config.workspace.command,
            "env": dict(self.runs.config.workspace.env),
            "replicates": self.replicates,
            "seed": self.seed,
        }
        return Table(
            objective=self.runs.config.objective,
            parameters=self.parameters,
            cells=tuple(cells),
            provenance=provenance,
        )


def _parameters(workspace: Workspace, grids: Sequence[str]) -> Iterator[Parameter]:
    from arf.sdk.configuration import leaf
    from arf.sdk.scripts import constants

    known: dict[str, constants.Constant] = {}
    for path, text in workspace.files(workspace.base_commit()).items():
        known |= {c.name: c for c in constants.read(text, path) if c.movable}
    seen: set[str] = set()
    for grid in grids:
        name, equals, listed = grid.partition("=")
        if not equals or not listed:
            raise UsageError(f"--grid {grid}: no values", hint="write --grid NAME=VALUE,VALUE")
        if name not in known:
            raise UsageError(f"--grid: the script has no constant {name!r}", hint=nearest(name, known))
        if name in seen:
            raise UsageError(f"--grid {name} is given twice")
        seen.add(name)
        base = known[name].value
        assert not isinstance(base, tuple)
        levels: list[Scalar] = []
        for text in listed.split(","):
            value = text if isinstance(base, str) else leaf(text).value
            if isinstance(base, float) and isinstance(value, int) and not isinstance(value, bool):
                value = float(value)
            if value is None or type(value) is not type(base):
                raise UsageError(f"--grid {name}: {text!r} is no {type(base).__name__}")
            levels.append(value)
        levels = list(dict.fromkeys([*levels, base]))
        if len(levels) < 2:
            raise UsageError(f"--grid {name} has one level", hint="a constant that does not vary needs none")
        if all(isinstance(level, int | float) for level in levels):
            levels.sort()
        yield Parameter(name=name, base=base, levels=tuple(levels), about=known[name].text)


async def _record(recording: Recording) -> None:
    runs = recording.runs
    tiers = await runs.backend.tiers()
    queue = recording.wanted()
    try:
        await runs.set_up(tiers[0].name)
        async with asyncio.TaskGroup() as group:
            for slot in range(tiers[0].slots):
                group.create_task(_work(recording, runs.tree(str(slot)), tiers[0].name, queue))
    except* ArfError as failures:
        raise failures.exceptions[0] from None
    finally:
        await runs.backend.aclose()


async def _work(
    recording: Recording, tree: WorkTree, tier: str, queue: list[tuple[tuple[int, ...], int]]
) -> None:
    """Run what is in the queue, one after the other, in a work tree of its own."""
    workspace = recording.runs.workspace
    base = workspace.base_commit()
    while queue:
        cell, replicate = queue.pop()
        values = recording.values(cell)
        changed = {p.name: values[p.name] for p in recording.parameters if values[p.name] != p.base}
        title = ", ".join(f"{name} = {value}" for name, value in changed.items())
        commit = (
            workspace.make_idea(Draft(title=title, constants=changed), base, message=title)
            if changed
            else base
        )
        key = f"{'-'.join(map(str, cell))}.{replicate}"
        seed = recording.run_seed(cell, replicate)
        value, seconds = await recording.runs.run(key, commit, seed, tree=tree, tier=tier)
        recording.add(cell, replicate, value, seconds)
        total = len(recording.cells) * recording.replicates
        shown = "failed" if value is None else f"{value:.6f}"
        click.echo(f"{len(recording.done)}/{total}  {shown}  {title or 'unchanged'}", err=True)
