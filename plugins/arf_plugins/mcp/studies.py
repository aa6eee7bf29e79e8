"""Studies as processes: `arf run`, `resume`, `stop` and `best`, called as a user would call them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arf.errors import ArfError, UsageError
from arf.sdk.commands import DEMO, is_meant
from arf.sdk.configuration import check_study_name
from arf.sdk.studies import STUDIES, StudyReader, lock_owner
from arf_plugins.llm.tools.context import number, text, whole
from arf_plugins.mcp.server import Report

ARF = (sys.executable, "-c", "from arf.cli import main; main()")
START_PATIENCE_S = 120.0
STOP_PATIENCE_S = 240.0
LOOK_S = 0.2

BUDGET: Mapping[str, Any] = {
    "max_experiments": whole("End after so many experiments; 0: as configured."),
    "max_time": text("End after so long, such as `30m` or `8h`; empty: as configured."),
    "max_usd": number("End before so many dollars are spent; 0: as configured."),
    "max_slot_hours": number("End after so many hours of slots in use; 0: as configured."),
}
START: Mapping[str, Any] = {
    "workspace": text("The folder with the training script, in a git repository; empty: the current one."),
    "name": text("What the study is called; empty: the date."),
    "strategy": text("Who decides what to run; empty: `agent`, which is you. `arf plugins` lists others."),
    "agent": text("Who has the ideas; empty: `external`, which is you."),
    "backend": text("Where jobs run, such as local, slurm or skypilot; empty: as configured."),
    "config": text("A file with the study's configuration; empty for none."),
    "slots": whole("Jobs at a time; 0: as many as the machine bears."),
    **BUDGET,
    "options": {
        "type": "array",
        "description": "Any other key as `KEY=VALUE`, such as `limits.budget_s=300`; may be empty.",
        "items": {"type": "string"},
    },
}


# ---- Starting -----------------------------------------------------------------------------------


async def start(given: Mapping[str, Any], report: Report) -> tuple[Path, Path]:
    """Start a study, and give its folder and its log once it runs. The same key starts it once."""
    folder = _folder(given["workspace"])
    name = _name(given["name"], given["key"])
    home = folder / STUDIES / name
    log = folder / ".arf" / f"{name}.log"
    if lock_owner(home) is not None:
        if given["key"]:
            return home, log
        raise UsageError(f"study {name!r} runs already", hint="go on with it, or choose another name")
    if not given["name"] and (others := _running(folder)):
        raise UsageError(
            f"study {others[0]!r} of this workspace runs already",
            hint="go on with it, stop it, or give a name to run another beside it",
        )
    arguments = ["run", *_workspace_argument(given["workspace"]), "--name", name, "--plain", *_budget(given)]
    plans_itself = not given["strategy"]
    arguments += ["--strategy", given["strategy"] or "agent"]
    if given["agent"] or plans_itself:
        arguments += ["--agent", given["agent"] or "external"]
    for option in ("backend", "config"):
        arguments += [f"--{option}", given[option]] if given[option] else []
    arguments += ["--slots", str(given["slots"])] if given["slots"] else []
    for pair in given["options"]:
        if not isinstance(pair, str):
            raise UsageError("options are texts such as `limits.budget_s=300`")
        arguments += ["-o", pair]
    await _launch(arguments, home, log, report)
    return home, log


async def resume(home: Path, given: Mapping[str, Any], report: Report) -> Path:
    """Go on with a study, and give its log once it runs. One that runs is left as it is."""
    log = home.parent.parent / f"{home.name}.log"
    if lock_owner(home) is None:
        await _launch(["resume", str(home), "--plain", *_budget(given)], home, log, report)
    return log


def _folder(named: str) -> Path:
    """The workspace's folder, as `arf run` finds it."""
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            raise UsageError(f"there is no folder {named!r}", hint="name the folder that holds the script")
        return folder.resolve()
    here = Path.cwd()
    return here if is_meant(here) else here / DEMO


def _workspace_argument(named: str) -> list[str]:
    return [str(_folder(named))] if named else []


def _name(name: str, key: str) -> str:
    if name:
        return check_study_name(name)
    key = key or secrets.token_hex()
    return f"mcp-{hashlib.sha256(key.encode()).hexdigest()[:10]}"


def _running(folder: Path) -> list[str]:
    homes = (folder / STUDIES).glob("*/arf.db")
    return sorted(home.parent.name for home in homes if lock_owner(home.parent) is not None)


def _budget(given: Mapping[str, Any]) -> list[str]:
    arguments = []
    for name in BUDGET:
        if given[name]:
            arguments += [f"--{name.replace('_', '-')}", str(given[name])]
    return arguments


async def _launch(arguments: Sequence[str], home: Path, log: Path, report: Report) -> None:
    """Start arf in a session of its own, so that it outlives this one, and wait until the study runs."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        begins_at = out.tell()
        process = await asyncio.create_subprocess_exec(
            *ARF,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    waited_s = 0.0
    while not _is_up(home, process.pid):
        if process.returncode is not None:
            if process.returncode == 0 and (home / "arf.db").exists():
                return  # a study with nothing left to do has ended at once
            raise ArfError(_why(log, begins_at), hint=f"its output is in {log}")
        if waited_s >= START_PATIENCE_S:
            raise ArfError(f"the study has not begun after {waited_s:.0f} s", hint=f"its output is in {log}")
        await asyncio.sleep(LOOK_S)
        waited_s += LOOK_S
        await report(waited_s, START_PATIENCE_S, "arf is starting")


def _is_up(home: Path, pid: int) -> bool:
    """Whether the study is run by that process, and can be read."""
    if not (home / "arf.db").exists() or lock_owner(home) != pid:
        return False
    try:
        with StudyReader.open(home) as reader:
            return reader.state == "running"
    except ArfError:
        return False


def _why(log: Path, begins_at: int) -> str:
    with log.open("rb") as file:
        file.seek(begins_at)
        lines = file.read().decode("utf-8", "replace").split("\n")
    lines = [line.strip() for line in lines if line.strip()]
    if told := [line for line in lines if line.startswith("arf: error: ")]:
        return told[-1].removeprefix("arf: error: ")
    own = [line for line in lines if not line.startswith("arf: a bug in")]
    return f"arf ended: {own[-1]}" if own else "arf ended without a word"


# ---- Other commands -----------------------------------------------------------------------------


async def stop(home: Path, report: Report) -> str:
    """End a study; gives what arf says."""
    told = await _told(["stop", str(home), "--json"], report, STOP_PATIENCE_S)
    if told["stopped"] is None:
        jobs = f"; {told['jobs']} jobs that it left are ended" if told["jobs"] else ""
        return f"Study {home.name} did not run{jobs}."
    return f"Study {home.name} has stopped; resume_study goes on with it."


async def best(home: Path, *, apply: bool) -> dict[str, Any]:
    """What `arf best` tells. Raises ArfError with what it said."""
    told: dict[str, Any] = await _told(["best", str(home), "--json", *(["--apply"] if apply else [])])
    return told


async def _told(arguments: Sequence[str], report: Report | None = None, patience_s: float = 60.0) -> Any:
    """The JSON document that a command prints."""
    process = await asyncio.create_subprocess_exec(
        *ARF,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    talking = asyncio.ensure_future(process.communicate())
    waited_s = 0.0
    while not talking.done():
        await asyncio.wait([talking], timeout=1.0)
        waited_s += 1.0
        if report is not None and not talking.done():
            await report(min(waited_s, patience_s), patience_s, f"arf {arguments[0]}")
        if waited_s >= patience_s and not talking.done():
            talking.cancel()
            raise ArfError(f"`arf {arguments[0]}` has not ended after {waited_s:.0f} s", hint="it goes on")
    out, err = talking.result()
    try:
        data = json.loads(out)
    except ValueError:
        data = {}
    if process.returncode:
        said = err.decode("utf-8", "replace").strip().splitlines()
        hint = data.get("hint", "")
        raise ArfError(data.get("error") or (said[-1] if said else "it failed"), hint=hint)
    return data
