"""From a configuration to an engine that is ready to run: new studies and resumed ones."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from arf import __version__
from arf.atomic import write_whole
from arf.config.schema import VERSIONS_KEY, Config, disabled_plugins, dump, load
from arf.engine.contenders import Contenders
from arf.engine.engine import Engine, Parts, Surroundings, agent_brief
from arf.engine.runner import WATCH_INTERVAL_S, Commands, JobRunner
from arf.engine.watch import LogTail
from arf.errors import NameTakenError, StoreError
from arf.interfaces import Backend, MetricParser, Workspace
from arf.judge import statistics
from arf.plugins.registry import Plugins
from arf.sandbox import environment
from arf.sandbox.boxes import Boxes
from arf.status.costs import CostMonitor
from arf.status.diagnosis import explain
from arf.status.estimate import Estimate, estimate, lines, usual_cost
from arf.status.held_resources import HeldResourcesMonitor
from arf.status.node_health import NodeHealthMonitor
from arf.status.shared_data import SharedDataMonitor
from arf.status.slot_usage import SlotUsageMonitor
from arf.status.summary import summarize
from arf.store.database import DATABASE, STUDIES, Store, StudyLock
from arf.study import Study
from arf.submissions.local import LocalQueue, read_mail
from arf.submissions.remote import Mailbox
from arf.types import Tier
from arf.workspace import open_workspace

CONFIG_FILE = "study.yaml"


def study_directory(workspace: Path, name: str) -> Path:
    return workspace / STUDIES / name


async def create(directory: Path, config: Config, plugins: Plugins, name: str) -> tuple[Engine, StudyLock]:
    """A new study in a workspace's folder. Nothing is written unless all that it needs is there.

    Raises ArfError for what cannot be used. The caller releases the lock when the engine has run.
    """
    workspace = open_workspace(directory, config.workspace)
    base = workspace.base_commit()
    home = study_directory(workspace.directory, name)
    if (home / DATABASE).exists():
        raise NameTakenError(
            f"study {name!r} exists", hint=f"`arf resume {name}` goes on with it; or choose another --name"
        )
    parts = _Parts(config, plugins, home)
    study = _new_study(name, workspace, config, await parts.backend.tiers())
    whole = {} if config.budget.max_usd is None else {"usd": config.budget.max_usd}
    parts.agent.check(attrs.evolve(agent_brief(study, workspace, base, home), budget_left=whole))
    workspace.claim(name, base)  # as late as can be: a kill before the database is there leaves it claimed
    try:
        lock, store = _make_home(home, study, workspace, config, plugins)
    except BaseException:
        workspace.release(name)
        raise
    return parts.engine(study, store, workspace, resumed=False), lock


def _new_study(name: str, workspace: Workspace, config: Config, tiers: Sequence[Tier]) -> Study:
    base = workspace.base_commit()
    return Study(
        name=name,
        base=base,
        base_tree=workspace.tree_of(base),
        objective=config.objective,
        seed=config.study.seed,
        rule=config.noise,
        tiers=tiers,
        max_experiments=config.budget.max_experiments,
    )


def _make_home(
    home: Path, study: Study, workspace: Workspace, config: Config, plugins: Plugins
) -> tuple[StudyLock, Store]:
    """The folder of a new study, with its lock, its configuration and its database."""
    home.mkdir(parents=True, exist_ok=True)
    for folder in ("logs", "trees", "agent", "backend"):
        (home / folder).mkdir(exist_ok=True)
    lock = StudyLock(home)
    _write_config(home, config, plugins)
    store = Store.create(
        home,
        study,
        {
            "workspace": str(workspace.directory),
            "strategy": config.strategy.name,
            "agent": config.agent.name,
            "backend": config.backend.name,
            "budget": attrs.asdict(config.budget),
        },
    )
    return lock, store


async def resume(
    home: Path, plugins: Plugins, flags: Mapping[str, object] | None = None
) -> tuple[Engine, StudyLock]:
    """A study that continues after any exit; `flags` give it another budget.

    Raises StoreError if it runs already, or its files cannot be used.
    """
    if not (home / DATABASE).is_file():
        raise StoreError(f"no study at {home}", hint="`arf list` shows the studies")
    lock = StudyLock(home)
    store = Store.open(home)
    store.check()
    config = load(config_file=home / CONFIG_FILE, flags=flags, options_class=plugins.options)
    study = store.load()
    study.max_experiments = config.budget.max_experiments
    workspace = open_workspace(store.workspace, config.workspace, base=study.base)
    parts = _Parts(config, plugins, home)
    study.tiers = tuple(await parts.backend.tiers())
    _write_config(home, config, plugins)
    with store.transaction():
        store.set_meta("budget", attrs.asdict(config.budget))
    return parts.engine(study, store, workspace, resumed=True), lock


def study_plugins(home: Path) -> Plugins:
    """The plugins that a study leaves in."""
    return Plugins.load(disabled_plugins(config_file=home / CONFIG_FILE))


def load_study_config(home: Path, plugins: Plugins) -> Config:
    """The configuration that a study runs with."""
    return load(config_file=home / CONFIG_FILE, options_class=plugins.options)


def _write_config(home: Path, config: Config, plugins: Plugins) -> None:
    """Write the resolved configuration, whole or not at all."""
    write_whole(home / CONFIG_FILE, _versions(plugins) + dump(config), mode=0o666)


class _Parts:
    """The plugins that a configuration names, made."""

    def __init__(self, config: Config, plugins: Plugins, home: Path) -> None:
        self._config = config
        self._plugins = plugins
        self.strategy = plugins.make("strategy", config.strategy.name, config.strategy.options)
        self.agent = plugins.make("agent", config.agent.name, config.agent.options)
        self.accept = plugins.make("accept", config.accept.name, config.accept.options)
        self.claim = plugins.make("claim", config.claim.name, config.claim.options)
        self.parser = plugins.make("parser", config.parser.name, config.parser.options)
        self.fallback = plugins.make("agent", config.study.fallback) if config.study.fallback else None
        self.backend = plugins.make("backend", config.backend.name, config.backend.options, home / "backend")

    def engine(self, study: Study, store: Store, workspace: Workspace, *, resumed: bool) -> Engine:
        settings = self._config.workspace
        config = self._config
        return assemble(
            study=study,
            store=store,
            workspace=workspace,
            config=attrs.evolve(
                config,
                workspace=attrs.evolve(
                    settings,
                    command=with_interpreter(settings.command),
                    setup=with_interpreter(settings.setup),
                ),
                evaluation=attrs.evolve(
                    config.evaluation, command=with_interpreter(config.evaluation.command)
                ),
                guards=attrs.evolve(config.guards, commands=with_interpreter(config.guards.commands)),
            ),
            parts=Parts(
                strategy=self.strategy,
                strategy_name=config.strategy.name,
                accept=self.accept,
                claim=self.claim,
                agent=self.agent,
                agent_name=config.agent.name,
                fallback=self.fallback,
                fallback_name=config.study.fallback or "",
                events=self._plugins.events,
            ),
            backend=self.backend,
            parser=self.parser,
            job_env=job_environment(workspace, settings.env, settings.pass_env),
            beside=[_load_statistics, partial(read_mail, mailbox=Mailbox(store.directory))],
            resumed=resumed,
        )


def assemble(
    *,
    study: Study,
    store: Store,
    workspace: Workspace,
    config: Config,
    parts: Parts,
    backend: Backend,
    parser: MetricParser,
    job_env: Mapping[str, str],
    beside: Sequence[Callable[[Engine], Coroutine[Any, Any, None]]] = (),
    resumed: bool = False,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    tail: Callable[[Path], LogTail] = LogTail,
    watch_interval_s: float = WATCH_INTERVAL_S,
) -> Engine:
    """An engine with all that is hung on it. Commands in `config` are as they are run."""
    settings = config.workspace
    boxes = Boxes(
        config.sandbox,
        command=settings.command,
        env=job_env,
        workspace=workspace.directory,
        top=workspace.top,
        linked=workspace.links().values(),
        private=config.evaluation.private,
        sources=_fixed_sources(workspace, study.base),
    )
    runner = JobRunner(
        name=study.name,
        directory=store.directory,
        objective=study.objective,
        workspace=workspace,
        backend=backend,
        parser=parser,
        boxes=boxes,
        commands=Commands(
            command=settings.command,
            env=job_env,
            limits=config.limits,
            setup=settings.setup,
            setup_time_limit_s=settings.setup_time_limit_s,
        ),
        now=now,
        tail=tail,
        watch_interval_s=watch_interval_s,
    )
    contenders = Contenders(
        config=config,
        study=study,
        directory=store.directory,
        trees=runner.trees,
        boxes=boxes,
        backend=backend,
        parser=parser,
        env=job_env,
        tail=tail,
    )
    around = Surroundings(
        monitors=(
            NodeHealthMonitor(study, store, backend, now),
            SlotUsageMonitor(store),
            CostMonitor(store, study),
            HeldResourcesMonitor(store, backend, now),
            SharedDataMonitor(store, lambda: workspace.links().values(), now),
        ),
        queue=LocalQueue,
        summarize=summarize,
        explain=lambda failed: explain(failed, workspace, config, parser.example(study.objective.metric)),
        beside=beside,
    )
    return Engine(
        study=study,
        store=store,
        workspace=workspace,
        runner=runner,
        contenders=contenders,
        parts=parts,
        budget=config.budget,
        around=around,
        resumed=resumed,
    )


def _fixed_sources(workspace: Workspace, base: str) -> Iterator[str]:
    """The Python files that ideas cannot change."""
    for path in sorted(workspace.tracked(base)):
        if path.endswith(".py") and not workspace.is_editable(path):
            file = workspace.read(base, path)
            if file is not None:
                yield file.data.decode("utf-8", "replace")


def estimate_rest(engine: Engine, config: Config) -> Estimate:
    """What is still to come of a study, by the budgets, also for the study's own log. Asks nobody."""
    study, parts = engine.study, engine.parts
    usual = usual_cost(study, parts.agent, parts.agent_name, engine.brief(study.incumbent_commit))
    told = estimate(study, config.budget, engine.budget_left, config.limits.budget_s, usual)
    told = attrs.evolve(told, claim_share=parts.claim.share)
    engine.note("estimate", *lines(told, config.agent.name))
    return told


async def _load_statistics(engine: Engine) -> None:
    """In a thread, while the baseline runs: else the first test of significance would hold up the slots."""
    await asyncio.to_thread(statistics.load)


def with_interpreter(command: Any) -> Any:
    """`{python}` in a command becomes the interpreter that arf runs under."""
    if isinstance(command, str):
        return command.replace("{python}", shlex.quote(sys.executable))
    return tuple(part.replace("{python}", sys.executable) for part in command)


def job_environment(workspace: Workspace, own: Mapping[str, str], passed: tuple[str, ...]) -> dict[str, str]:
    """What jobs see: what is allowed of arf's environment and what is `passed`, then what the workspace adds.

    Output is unbuffered, or a Python script's log would come in blocks of 8 KB and look stalled.
    """
    env = environment.for_jobs(os.environ, passed)
    env.setdefault("PYTHONUNBUFFERED", "1")
    return {**env, **workspace.job_env(), **own}


def _versions(plugins: Plugins) -> str:
    import platform

    lines = [
        "# The resolved configuration of this study. `arf resume` reads it.",
        f"{VERSIONS_KEY}:",
        f"  arf: {__version__}",
        f"  python: {platform.python_version()}",
    ]
    for info in plugins.describe():
        if info.distribution and info.distribution != "arf-research":
            lines.append(f"  {info.distribution}: {info.version!r}")
    return "\n".join(dict.fromkeys(lines)) + "\n"
