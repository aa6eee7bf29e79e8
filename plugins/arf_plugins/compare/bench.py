"""`arf bench record`: a table of real runs over a grid of constants, for simulations to look up."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import frozen

from arf import __version__
from arf.errors import ArfError, UsageError, nearest
from arf.types import Draft, Job, JobState, Scalar
from arf_plugins.objectives.objective import Parameter
from arf_plugins.objectives.table import Cell, Table, pooled_sigma

if TYPE_CHECKING:
    from arf.config.schema import Config
    from arf.interfaces import Backend, MetricParser
    from arf.workspace.work_trees import WorkTree
    from arf.workspace.workspace import Workspace


@click.group()
def bench() -> None:
    """Make and look at benchmarks for simulations (docs/simulation.md)."""


@bench.command()
@click.argument("workspace", default=".", type=click.Path(path_type=Path))
@click.option(
    "--grid", "grids", multiple=True, required=True, metavar="NAME=V1,V2,…", help="A constant and its values."
)
@click.option("--replicates", default=2, show_default=True, metavar="N", help="Runs of each cell.")
@click.option("--output", default="table.json", show_default=True, type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="What the order and the seeds come from.")
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
    directory = workspace.resolve()
    config, backend, parser = _load(directory, overrides)
    recording = Recording.begin(directory, config, grids, replicates, seed, output)
    click.echo(
        f"arf: {len(recording.cells)} cells, {replicates} runs each; {len(recording.done)} of "
        f"{len(recording.cells) * replicates} runs are recorded",
        err=True,
    )
    asyncio.run(_record(recording, backend, parser))
    table = recording.table()
    output.write_text(table.to_json(), encoding="utf-8")
    recording.part.unlink()
    sigma = pooled_sigma(cell.values for cell in table.cells)
    click.echo(f"{output}: {len(table.cells)} cells, sigma {sigma:.4g}")


def _load(directory: Path, overrides: Sequence[str]) -> tuple[Config, Backend, MetricParser]:
    from arf.config.schema import load
    from arf.plugins.registry import Plugins
    from arf.workspace.detection import detect

    plugins = Plugins.load()
    yaml = directory / "arf.yaml"
    config = load(
        workspace_file=yaml if yaml.is_file() else None,
        detected=None if yaml.is_file() else detect(directory).settings,
        overrides=[_pair(text) for text in overrides],
        options_class=plugins.options,
    )
    home = directory / ".arf" / "bench"
    backend = plugins.make("backend", config.backend.name, config.backend.options, home / "backend")
    return config, backend, plugins.make("parser", config.parser.name, config.parser.options)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"-o {text}: there is no `=`", hint="write -o key.path=value")
    return key.strip(), value


@frozen(kw_only=True)
class Recording:
    """What is to be run, and what has been."""

    workspace: Workspace
    config: Config
    parameters: tuple[Parameter, ...]
    replicates: int
    seed: int
    part: Path
    done: dict[tuple[tuple[int, ...], int], tuple[float | None, float]]
    """(value or None, seconds) of each run, by cell and replicate."""

    @classmethod
    def begin(
        cls, directory: Path, config: Config, grids: Sequence[str], replicates: int, seed: int, output: Path
    ) -> Recording:
        """Check the grid and take up what an earlier process has recorded in `OUTPUT.part`."""
        from arf.workspace.workspace import Workspace

        workspace = Workspace.open(directory, config.workspace)
        parameters = tuple(_parameters(workspace, grids))
        part = output.with_name(output.name + ".part")
        self = cls(
            workspace=workspace, config=config, parameters=parameters, replicates=replicates, seed=seed,
            part=part, done={},
        )  # fmt: skip
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
            "base": self.workspace.base_commit(),
            "command": self.config.workspace.command,
            "env": dict(self.config.workspace.env),
            "replicates": self.replicates,
            "seed": self.seed,
        }
        return Table(
            objective=self.config.objective,
            parameters=self.parameters,
            cells=tuple(cells),
            provenance=provenance,
        )


def _parameters(workspace: Workspace, grids: Sequence[str]) -> Iterator[Parameter]:
    from arf.config.layers import leaf
    from arf.workspace import constants

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


async def _record(recording: Recording, backend: Backend, parser: MetricParser) -> None:
    home = recording.workspace.directory / ".arf" / "bench"
    (home / "logs").mkdir(parents=True, exist_ok=True)
    tiers = await backend.tiers()
    queue = recording.wanted()
    runner = _Runner(recording, backend, parser, home, tiers[0].name)
    try:
        await runner.set_up()
        async with asyncio.TaskGroup() as group:
            for slot in range(tiers[0].slots):
                group.create_task(runner.work(slot, queue))
    except* ArfError as failures:
        raise failures.exceptions[0] from None
    finally:
        await backend.aclose()


class _Runner:
    def __init__(
        self, recording: Recording, backend: Backend, parser: MetricParser, home: Path, tier: str
    ) -> None:
        self._recording = recording
        self._backend = backend
        self._parser = parser
        self._home = home
        self._tier = tier

    async def set_up(self) -> None:
        setup = self._recording.config.workspace.setup
        if not setup:
            return
        tree = self._recording.workspace.work_tree(self._home / "trees" / "setup")
        tree.fill(self._recording.workspace.base_commit(), 0)
        limit_s = self._recording.config.workspace.setup_time_limit_s
        job = self._job("setup", tree, setup, 0, limit_s)
        result = await self._backend.wait(await self._backend.submit(job))
        if result.state is not JobState.SUCCEEDED:
            raise ArfError(f"the set-up command failed ({result.state})", hint=f"its log is {job.log}")

    async def work(self, slot: int, queue: list[tuple[tuple[int, ...], int]]) -> None:
        """Run what is in the queue, one after the other, in a work tree of its own."""
        recording = self._recording
        tree = recording.workspace.work_tree(self._home / "trees" / str(slot))
        base = recording.workspace.base_commit()
        while queue:
            cell, replicate = queue.pop()
            values = {
                p.name: v for p, v in zip(recording.parameters, recording.values(cell).values(), strict=True)
            }
            changed = {p.name: values[p.name] for p in recording.parameters if values[p.name] != p.base}
            title = ", ".join(f"{name} = {value}" for name, value in changed.items())
            commit = base
            if changed:
                draft = Draft(title=title, constants=changed)
                commit = recording.workspace.make_idea(draft, base, message=title)
            seed = recording.run_seed(cell, replicate)
            tree.fill(commit, seed)
            key = f"{'-'.join(map(str, cell))}.{replicate}"
            value, seconds = await self._run(key, tree, seed)
            recording.add(cell, replicate, value, seconds)
            total = len(recording.cells) * recording.replicates
            shown = "failed" if value is None else f"{value:.6f}"
            click.echo(f"{len(recording.done)}/{total}  {shown}  {title or 'unchanged'}", err=True)

    async def _run(self, key: str, tree: WorkTree, seed: int) -> tuple[float | None, float]:
        from arf.engine.watch import LogTail, Watch, WatchLimits, objective_value

        config = self._recording.config
        job = self._job(key, tree, config.workspace.command, seed, config.limits.time_limit_s)
        result = await self._backend.wait(await self._backend.submit(job))
        seconds = 0.0
        if result.started_at is not None and result.ended_at is not None:
            seconds = (result.ended_at - result.started_at).total_seconds()
        if result.state is not JobState.SUCCEEDED or tree.tampered():
            return None, seconds
        watch = Watch(tail=LogTail(job.log), parser=self._parser, objective=config.objective)
        watch.finish(0.0, WatchLimits(log_bytes=2**28, stall_s=None, diverge_factor=None))
        return objective_value(config.objective, watch.objectives)[0], seconds

    def _job(
        self, key: str, tree: WorkTree, command: str | tuple[str, ...], seed: int, limit_s: float
    ) -> Job:
        from arf.launch import job_environment, with_interpreter

        settings = self._recording.config.workspace
        env: dict[str, Any] = {
            **job_environment(self._recording.workspace, settings.env, settings.pass_env),
            "ARF_SEED": str(seed),
        }
        return Job(
            key=f"{os.getpid()}-{key}",
            directory=tree.cwd,
            command=with_interpreter(command),
            env=env,
            log=self._home / "logs" / f"{key}.log",
            tier=self._tier,
            time_limit_s=limit_s,
        )
