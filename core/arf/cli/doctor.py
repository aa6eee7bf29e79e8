"""`arf doctor`: does everything work that a study here would need, and what to do if not."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import frozen

from arf.errors import ArfError
from arf.sdk.commands import DEMO, is_meant, json_option, print_json, workspace_file
from arf.sdk.formats import count, paint
from arf.types import printable

if TYPE_CHECKING:
    from arf.config.schema import Config
    from arf.interfaces import Agent, Backend, Brief
    from arf.interfaces import Finding as Checked
    from arf.plugins.registry import Plugins
    from arf.types import Tier

JOB_LIMIT_S = 60.0
"""How long the trivial job may take, waiting in a queue included."""
LITTLE_DISK_GB = 2.0
_SAYS = "arf-doctor: ok"


class Health(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """A study may do without it."""
    FAILED = "failed"


@frozen
class Finding:
    """What one check found. `hint` says what to do; empty where nothing is to be done."""

    name: str
    health: Health
    text: str
    hint: str = ""


@click.command()
@click.argument("workspace", required=False)
@click.option("--backend", metavar="B", help="Backend to check; the workspace's by default.")
@click.option("--agent", metavar="A", help="Agent to check; the workspace's by default.")
@click.option("--config", "config_file", metavar="FILE", help="A study's configuration (see configs/).")
@json_option
def doctor(
    workspace: str | None, backend: str | None, agent: str | None, config_file: str | None, as_json: bool
) -> int:
    """Check that everything works that a study of WORKSPACE needs, and run a trivial job on each tier.

    WORKSPACE is the current folder if it is left out. The exit code is 1 if something failed.
    """
    findings = []
    chosen: dict[str, Any] = {
        "config_file": Path(config_file) if config_file else None,
        "flags": {"backend": backend, "agent": agent},
    }
    for finding in _findings(_place(workspace), chosen):
        findings.append(finding)
        if not as_json:
            _print(finding)
    failed = sum(finding.health is Health.FAILED for finding in findings)
    if as_json:
        rows = [{"check": f.name, "health": str(f.health), "text": f.text, "hint": f.hint} for f in findings]
        print_json({"ok": not failed, "checks": rows})
    elif failed:
        click.echo(f"\n{count(failed, 'check')} failed", err=True)
    return 1 if failed else 0


def _print(finding: Finding) -> None:
    mark = {Health.OK: ("ok", "green"), Health.WARNING: ("warn", "yellow"), Health.FAILED: ("FAIL", "red")}
    word, colour = mark[finding.health]
    hint = f"; {printable(finding.hint)}" if finding.hint else ""
    click.echo(
        f"{paint(f'{word:<4}', colour, bold=True)}  {finding.name:<12} {printable(finding.text)}{hint}"
    )


def _place(named: str | None) -> Path:
    if named is not None:
        return Path(named)
    here = Path.cwd()
    demo = here / DEMO
    return demo if demo.is_dir() and not is_meant(here) else here


def _findings(directory: Path, chosen: Mapping[str, Any]) -> Iterator[Finding]:
    """`chosen` is what the command line says of the configuration, as `config.load` takes it."""
    from arf.plugins.registry import Plugins

    yield _python()
    yield _git()
    yield _disk(directory)
    plugins = Plugins.load()
    yield from _plugins(plugins)
    try:
        config = _config(directory, plugins, chosen)
    except ArfError as error:
        yield _failed("settings", error)
        try:
            config = _defaults(plugins, chosen)
        except ArfError:  # a name that no plugin has, which was told just now
            return
    else:
        yield Finding("settings", Health.OK, _choices(config))
        yield from _workspace(directory, config, plugins)
    for kind in ("strategy", "agent", "parser"):
        yield _part(plugins, config, kind, directory)
    yield from outlook(plugins, config, directory)
    tiers: list[Tier] = []
    yield from _backend(plugins, config, directory, tiers)
    if tiers:
        yield from _estimate(plugins, config, directory, tiers)
    yield from _measured(directory)


def _failed(name: str, error: Exception) -> Finding:
    if isinstance(error, ArfError):
        return Finding(name, Health.FAILED, error.message, error.hint)
    return Finding(name, Health.FAILED, f"{type(error).__name__}: {error}")


# ---- The machine ----------------------------------------------------------------------------


def _python() -> Finding:
    import platform

    from arf import __version__

    return Finding("python", Health.OK, f"{platform.python_version()} at {sys.executable}, arf {__version__}")


def _git() -> Finding:
    import pygit2

    library = f"libgit2 {pygit2.LIBGIT2_VERSION}"
    program = shutil.which("git")
    if program is None:
        hint = "arf does without it; you will want it to commit and to merge: install git"
        return Finding("git", Health.WARNING, f"{library}, but no git program", hint)
    return Finding("git", Health.OK, f"{program}, {library}")


def _disk(directory: Path) -> Finding:
    place = next((p for p in (directory, *directory.absolute().parents) if p.exists()), Path("/"))
    free_gb = shutil.disk_usage(place).free / 2**30
    if free_gb < LITTLE_DISK_GB:
        return Finding(
            "disk",
            Health.WARNING,
            f"{free_gb:.1f} GiB free at {place}",
            "free some: logs and commits need room",
        )
    return Finding("disk", Health.OK, f"{free_gb:.0f} GiB free at {place}")


# ---- Plugins --------------------------------------------------------------------------------


def _plugins(plugins: Plugins) -> Iterator[Finding]:
    """The broken ones, the parts that lack what they need, and how many are well."""
    for name, reason in plugins.broken.items():
        yield Finding("plugin", Health.WARNING, f"{name} is left out: {reason}", "update or remove it")
    well = 0
    for info in plugins.describe():
        for kind, declarations in info.declarations.items():
            for declaration in declarations:
                problem = _import_problem(declaration.implementation)
                if not problem:
                    well += 1
                    continue
                hint = f"pip install '{declaration.extra}'" if declaration.extra else "tell its author"
                text = f"{kind} {declaration.name} cannot be used: {problem}"
                yield Finding("plugin", Health.WARNING, text, hint)
    yield Finding("plugins", Health.OK, f"{count(well, 'part')} can be used; `arf plugins` lists them")


def _import_problem(implementation: object) -> str:
    """Why an implementation cannot be imported; empty if it can."""
    from importlib import import_module

    if not isinstance(implementation, str):
        return ""
    module, _, attribute = implementation.partition(":")
    try:
        found: Any = import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # other people's code
        return f"{type(error).__name__}: {error}"
    return ""


def _config(directory: Path, plugins: Plugins, chosen: Mapping[str, Any]) -> Config:
    from arf.config.schema import load
    from arf.errors import WorkspaceError
    from arf.workspace.detection import detect

    if not directory.is_dir():
        raise WorkspaceError(f"{directory} is no folder", hint="name the folder that holds the script")
    yaml = workspace_file(directory)
    detected = detect(directory) if yaml is None else None
    if detected is not None and detected.settings is None:
        raise WorkspaceError(detected.reason, hint="or `arf run` here sets up the bundled workspace")
    return load(
        workspace_file=yaml,
        detected=detected.settings if detected else None,
        options_class=plugins.options,
        **chosen,
    )


def _defaults(plugins: Plugins, chosen: Mapping[str, Any]) -> Config:
    """What a study would use if there were a workspace. Raises ArfError for an unknown name."""
    from arf.config.schema import load
    from arf.types import WorkspaceSettings

    return load(detected=WorkspaceSettings(command="true"), options_class=plugins.options, **chosen)


def _choices(config: Config) -> str:
    parts = (config.strategy, config.agent, config.backend, config.parser)
    return f"`{_shown(config.workspace.command)}` with " + ", ".join(part.name for part in parts)


def _shown(command: str | tuple[str, ...]) -> str:
    return command if isinstance(command, str) else " ".join(command)


def _workspace(directory: Path, config: Config, plugins: Plugins) -> Iterator[Finding]:
    from arf.launch import job_environment, with_interpreter
    from arf.workspace import open_workspace

    settings = config.workspace
    try:
        workspace = open_workspace(directory, settings)
        commit = workspace.base_commit()
        files = workspace.files(commit)
    except (ArfError, OSError) as error:
        yield _failed("workspace", error)
        return
    shown = ", ".join(sorted(files)[:4])
    yield Finding("workspace", Health.OK, f"{workspace.directory} at {commit[:12]}; editable: {shown}")
    env = job_environment(workspace, settings.env, settings.pass_env)
    yield from _script(
        workspace.directory, with_interpreter(settings.command), files, env, _runs_here(plugins, config)
    )


def _runs_here(plugins: Plugins, config: Config) -> bool:
    """Whether jobs run on this machine; not if the backend cannot be imported."""
    try:
        backend: Any = plugins.implementation("backend", config.backend.name)
    except ArfError:
        return False
    return not backend.outlives_host


def _script(
    directory: Path, command: str | tuple[str, ...], files: dict[str, str], env: dict[str, str], here: bool
) -> Iterator[Finding]:
    """Whether the command's program is there, and whether the Python files are Python.

    On a cluster the program may be there though it is not here.
    """
    words = shlex.split(command) if isinstance(command, str) else list(command)
    words = list(dropwhile(lambda word: re.match(r"[A-Za-z_]\w*=", word), words)) or [""]
    program = words[0]
    found = subprocess.run(
        ["/bin/sh", "-c", 'command -v -- "$1"', "sh", program],
        cwd=directory, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode:
        health = Health.FAILED if here else Health.WARNING
        yield Finding("command", health, f"there is no {program} here", "install it, or put it on PATH")
        return
    path = found.stdout.strip()
    yield Finding("command", Health.OK, f"{program} is {path}" if path != program else path)
    python = path if re.fullmatch(r"python[\d.]*", Path(program).name) else sys.executable
    texts = {name: text for name, text in sorted(files.items()) if name.endswith(".py")}
    for name, problem in _syntax_problems(directory, python, texts, env).items():
        yield Finding("script", Health.FAILED, f"{name}: {problem}", "mend it, and commit")


_COMPILE = """
import json, sys
for name, text in json.load(sys.stdin).items():
    try:
        compile(text, name, "exec")
    except (SyntaxError, ValueError) as error:
        line, said = getattr(error, "lineno", 1), getattr(error, "msg", error)
        print(json.dumps([name, "line %s: %s: %s" % (line, type(error).__name__, said)]))
"""


def _syntax_problems(
    directory: Path, python: str, texts: dict[str, str], env: dict[str, str]
) -> dict[str, str]:
    """Which files are no Python, and why, by an interpreter: the one that is to run them, if it is known."""
    done = subprocess.run(
        [python, "-I", "-c", _COMPILE],
        cwd=directory, env=env, input=json.dumps(texts), capture_output=True, text=True, check=False,
    )  # fmt: skip
    return dict(json.loads(line) for line in done.stdout.splitlines())


def _part(plugins: Plugins, config: Config, kind: Any, directory: Path) -> Finding:
    choice = getattr(config, kind)
    try:
        made: Any = plugins.make(kind, choice.name, choice.options)
        if kind == "agent":
            _check_agent(made, config, directory)
    except (ArfError, OSError) as error:
        return _failed(kind, error)
    return Finding(kind, Health.OK, choice.name)


def outlook(plugins: Plugins, config: Config, directory: Path) -> Iterator[Finding]:
    """What the agent would change in the script, and what it leaves alone and why."""
    try:
        brief = _brief(config, directory)
        if brief is None:
            return
        agent = plugins.make("agent", config.agent.name, config.agent.options)
        told = agent.outlook(brief)
        asyncio.run(agent.aclose())
    except (ArfError, OSError):  # told where workspace and agent were checked
        return
    yield from (Finding(one.what, Health.OK, one.detail) for one in told)


def _check_agent(agent: Agent, config: Config, directory: Path) -> None:
    """As a study does before its first job."""
    brief = _brief(config, directory)
    if brief is not None:
        agent.check(brief)
        asyncio.run(agent.aclose())


def _brief(config: Config, directory: Path, tiers: Sequence[Tier] = ()) -> Brief | None:
    """What an agent would be told first; None where the workspace cannot be used, which is told of itself."""
    from arf.engine.engine import agent_brief
    from arf.errors import WorkspaceError
    from arf.study import Study
    from arf.workspace import open_workspace

    try:
        workspace = open_workspace(directory, config.workspace, clean=False)
        base = workspace.base_commit()
        study = Study(
            name="doctor",
            base=base,
            base_tree=workspace.tree_of(base),
            rule=config.noise,
            tiers=tuple(tiers),
            max_experiments=config.budget.max_experiments,
        )
        return agent_brief(study, workspace, base, directory)
    except WorkspaceError:
        return None


def _estimate(plugins: Plugins, config: Config, directory: Path, tiers: Sequence[Tier]) -> Iterator[Finding]:
    """What a study would say before its first job."""
    from arf.engine.budgets import Budgets
    from arf.status.estimate import cost_of_ask, estimate, lines

    try:
        brief = _brief(config, directory, tiers)
        if brief is None:
            return
        agent = plugins.make("agent", config.agent.name, config.agent.options)
        ask = cost_of_ask(agent, config.agent.name, brief)
        asyncio.run(agent.aclose())
    except (ArfError, OSError):  # told where workspace and agent were checked
        return
    left = Budgets(config.budget, brief.study, lambda: 0.0).left()
    told = estimate(brief.study, config.budget, left, config.limits.budget_s, ask)
    said = lines(told, config.agent.name)[0]
    yield Finding("estimate", Health.OK, said.removeprefix("estimate: "))
    for warning in told.warnings:
        yield Finding("estimate", Health.WARNING, warning)


# ---- The backend ----------------------------------------------------------------------------


def _backend(plugins: Plugins, config: Config, directory: Path, tiers: list[Tier]) -> Iterator[Finding]:
    """What it says of itself, its tiers (which are added to `tiers`), and a trivial job on each of them."""
    name = config.backend.name
    # A cluster's machines see the workspace, and not the /tmp of this one.
    places = (place for place in (directory / ".arf", directory) if place.is_dir())
    usable = next((place for place in places if os.access(place, os.W_OK | os.X_OK)), None)
    with tempfile.TemporaryDirectory(prefix="doctor-", dir=usable) as folder:
        found: list[Finding] = []
        try:
            backend = plugins.make("backend", name, config.backend.options, Path(folder) / "backend")
            asyncio.run(_try_backend(backend, Path(folder), found, tiers))
        except (ArfError, OSError) as error:
            found.append(_failed("backend", error))
    yield from found


async def _try_backend(backend: Backend, folder: Path, found: list[Finding], tiers: list[Tier]) -> None:
    """Add to what was found. What the jobs have brought up is taken down again."""
    (folder / "backend").mkdir(exist_ok=True)
    try:
        found += [_told(one) for one in await backend.check()]
        tiers += await backend.tiers()
        found += [
            Finding(
                "tier",
                Health.OK,
                f"{tier.name}: {count(tier.slots, 'slot')}"
                + (f", ${tier.usd_per_hour:.2f} a slot hour" if tier.usd_per_hour else "")
                + (f", {tier.memory_gb:.1f} GiB a slot" if tier.memory_gb else "")
                + (f", {tier.description}" if tier.description else ""),
            )
            for tier in tiers
        ]
        found += await asyncio.gather(*(_try_job(backend, folder / str(n), t) for n, t in enumerate(tiers)))
    finally:
        try:
            await backend.down()
        finally:
            await backend.aclose()


def _measured(directory: Path) -> Iterator[Finding]:
    """What the newest study here has measured of the hardware, and which nodes it has set aside."""
    from arf.cli.describe import aside_lines, hardware_lines
    from arf.sdk.commands import written_at
    from arf.status.summary import summarize
    from arf.store.database import DATABASE, STUDIES, Store

    folders = [file.parent for file in (directory / STUDIES).glob(f"*/{DATABASE}")]
    if not folders:
        return
    try:
        store = Store.open(max(folders, key=written_at))
        try:
            summary = summarize(store, verdicts=0)
        finally:
            store.close()
    except ArfError as error:
        yield Finding("measured", Health.WARNING, error.message, error.hint)
        return
    for line in hardware_lines(summary):
        yield Finding("measured", Health.OK, f"{line} (study {summary['study']})")
    for line in aside_lines(summary):
        yield Finding("node", Health.WARNING, f"{line} (study {summary['study']})", "have a look at it")


def _told(one: Checked) -> Finding:
    """What a backend says of itself, as the doctor says it."""
    if one.problem:
        return Finding("backend", Health.FAILED, f"{one.what}: {one.problem}", one.hint)
    return Finding("backend", Health.OK, f"{one.what}: {one.detail}" if one.detail else one.what)


async def _try_job(backend: Backend, folder: Path, tier: Tier) -> Finding:
    from arf.types import Job, JobState

    (folder / "tree").mkdir(parents=True)
    job = Job(
        key=f"doctor-{os.getpid()}-{folder.name}",
        directory=folder / "tree",
        command=f"echo {_SAYS}",
        env={"PATH": os.environ.get("PATH", os.defpath)},
        log=folder / "job.log",
        tier=tier.name,
        time_limit_s=JOB_LIMIT_S,
    )
    began = time.monotonic()
    handle = await backend.submit(job)
    try:
        result = await asyncio.wait_for(backend.wait(handle), JOB_LIMIT_S)
    except TimeoutError:
        await backend.cancel(handle)
        hint = "is the queue full? a study waits; the doctor does not"
        late = f"a trivial job on {tier.name} did not end within {JOB_LIMIT_S:.0f} s"
        return Finding("job", Health.WARNING, late, hint)
    text = job.log.read_text("utf-8", "replace").strip() if job.log.exists() else ""
    if result.state is not JobState.SUCCEEDED:
        return Finding(
            "job",
            Health.FAILED,
            f"a trivial job on {tier.name} ended as {result.state}: {result.message or text}",
        )
    if _SAYS not in text:
        return Finding(
            "job", Health.FAILED, f"a trivial job's output is not in {job.log}", "is that folder shared?"
        )
    where = f" on {result.slot or tier.name}"
    return Finding("job", Health.OK, f"a trivial job ran{where} in {time.monotonic() - began:.1f} s")
