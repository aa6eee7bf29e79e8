"""`arf submit`, `arf wait` and `arf cancel`: what people and their own agents order from a running study."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from arf.errors import UsageError
from arf.sdk.commands import find_study, json_option, print_json, study_option

if TYPE_CHECKING:
    from arf.store.database import Store
    from arf.submissions.remote import RemoteQueue
    from arf.types import Draft, Receipt, Submission


@click.command()
@study_option
@click.option("--set", "constants", multiple=True, metavar="NAME=VALUE", help="Set a constant of the script.")
@click.option("--patch", metavar="FILE", help="A unified diff; `-` reads standard input.")
@click.option("--changes", is_flag=True, help="What you changed in the editable files of your checkout.")
@click.option("--idea", "ideas", type=int, multiple=True, metavar="N", help="Apply an idea of the study.")
@click.option("--again", type=int, metavar="N", help="Run an experiment's commit again.")
@click.option(
    "--base", default="", metavar="COMMIT", help="Commit to apply it to; the best so far by default."
)
@click.option("--tier", metavar="T", help="Hardware tier to run on; any by default.")
@click.option("--runs", type=int, default=1, show_default=True, metavar="N", help="How many seeds.")
@click.option("--budget", type=float, metavar="X", help="A share of the training budget, for a cheaper look.")
@click.option("--title", default="", help="One-line description of the change.")
@click.option("--reason", default="", help="Why it should help.")
@click.option("--file", "batch", metavar="FILE", help="A JSON list of submissions; `-`: standard input.")
@click.option(
    "--key", metavar="KEY", help="Idempotency key: repeated requests with the same key submit once."
)
@json_option
def submit(study: str | None, key: str | None, batch: str | None, as_json: bool, **given: Any) -> None:
    """Queue experiments in a running study, whatever its strategy plans.

    One change by --set, --patch or --changes, ideas put together by --idea, or another run by --again; many
    at a time by --file, whose entries have the keys of these options: set, patch, ideas, again, base, tier,
    runs, budget, title, reason. Prints a number for each, which `arf wait` and `arf cancel` take.
    """
    home = find_study(study)
    entries = _read_batch(batch) if batch else [_entry(home, **given)]
    submissions = [_submission(entry, at) for at, entry in enumerate(entries, 1)]
    queue = _queue(home)
    receipts = asyncio.run(queue.submit(key or f"cli-{uuid.uuid4()}", submissions))
    _show(home, receipts, as_json=as_json)
    if all(receipt.state == "refused" for receipt in receipts):
        sys.exit(1)


@click.command()
@study_option
@click.argument("numbers", type=int, nargs=-1)
@click.option("--any", "any_done", is_flag=True, help="Wait for any of them, not all.")
@click.option(
    "--timeout", default="10m", show_default=True, metavar="TIME", help="Stop waiting after this long."
)
@json_option
def wait(study: str | None, numbers: tuple[int, ...], any_done: bool, timeout: str, as_json: bool) -> None:
    """Wait until submissions NUMBERS have run and are judged, and say how they stand."""
    from arf.config.layers import seconds

    try:
        limit_s = seconds(timeout)
    except ValueError:
        raise UsageError(f"--timeout {timeout} is no time", hint="write 90s, 10m or 1h30m") from None
    home = find_study(study)
    receipts = asyncio.run(_queue(home).wait(_numbers(numbers), limit_s, any_done=any_done))
    if unknown := sorted(set(numbers) - {receipt.id for receipt in receipts}):
        raise UsageError(
            f"study {home.name!r} has no submission {', '.join(map(str, unknown))}",
            hint="give the numbers that `arf submit` printed",
        )
    _show(home, receipts, as_json=as_json)


@click.command()
@study_option
@click.argument("numbers", type=int, nargs=-1)
@click.option("--experiment", "experiments", type=int, multiple=True, help="Cancel a running experiment.")
@json_option
def cancel(study: str | None, numbers: tuple[int, ...], experiments: tuple[int, ...], as_json: bool) -> None:
    """Withdraw what waits of the submissions NUMBERS; end experiments that run with --experiment."""
    if not experiments:
        _numbers(numbers)
    said = asyncio.run(_queue(find_study(study)).cancel(numbers, experiments))
    print_json({"said": said}) if as_json else click.echo(said)


@click.command()
@study_option
@click.argument("experiment", type=int)
@json_option
def accept(study: str | None, experiment: int, as_json: bool) -> None:
    """Believe EXPERIMENT, which is suspect: it runs once more, and is judged like anything else."""
    _rule(study, experiment, accept=True, as_json=as_json)


@click.command()
@study_option
@click.argument("experiment", type=int)
@json_option
def reject(study: str | None, experiment: int, as_json: bool) -> None:
    """Leave EXPERIMENT, which is suspect, out for good: it is no longer asked about."""
    _rule(study, experiment, accept=False, as_json=as_json)


def _rule(study: str | None, experiment: int, *, accept: bool, as_json: bool) -> None:
    said = asyncio.run(_queue(find_study(study)).rule(experiment, accept=accept))
    print_json({"said": said}) if as_json else click.echo(said)


def _queue(home: Path) -> RemoteQueue:
    from arf.submissions.remote import RemoteQueue

    return RemoteQueue(home)


def _numbers(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if not numbers:
        raise UsageError("no submission is named", hint="give the numbers that `arf submit` printed")
    return numbers


# ---- What is ordered ------------------------------------------------------------------------


def _entry(home: Path, **given: Any) -> dict[str, Any]:
    entry = {name: value for name, value in given.items() if value not in (None, "", (), False)}
    if constants := entry.pop("constants", ()):
        entry["set"] = dict(_pair(text) for text in constants)
    if patch := entry.get("patch"):
        entry["patch"] = _read(patch)
    if entry.pop("changes", False):
        entry["edits"], entry["base"] = _changes(home, entry.get("base", ""))
    return entry


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"--set {text}: not a constant", hint="write --set NAME=VALUE")
    return name.strip(), _scalar(value.strip())


def _scalar(text: str) -> Any:
    import ast

    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, bool | int | float | str) else text


def _read(name: str) -> str:
    return sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")


def _read_batch(name: str) -> list[dict[str, Any]]:
    try:
        data = json.loads(_read(name))
    except ValueError as error:
        raise UsageError(f"--file {name} is no JSON: {error}") from None
    entries = data if isinstance(data, list) else [data]
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"--file {name}: a list of objects is expected")
    return entries


_KEYS: Mapping[str, tuple[str, tuple[type, ...]]] = {
    "set": ("an object of constants and their values", (dict,)),
    "patch": ("text", (str,)),
    "edits": ("a list of objects with path, old and new", (list,)),
    "title": ("text", (str,)),
    "reason": ("text", (str,)),
    "expected": ("a number", (int, float)),
    "ideas": ("a list of numbers", (list,)),
    "again": ("a whole number", (int,)),
    "base": ("text", (str,)),
    "tier": ("text", (str,)),
    "runs": ("a whole number", (int,)),
    "budget": ("a number", (int, float)),
}
"""What an entry may say, and what is expected there."""


def _submission(entry: dict[str, Any], at: int) -> Submission:
    from arf.types import Submission

    _check(entry, at)
    names = ("again", "base", "tier", "runs", "budget")
    rest = {name: entry[name] for name in names if name in entry}
    return Submission(draft=_draft(entry), ideas=tuple(entry.get("ideas", ())), **rest)


def _check(entry: dict[str, Any], at: int) -> None:
    from arf.errors import nearest

    for name, value in entry.items():
        if name not in _KEYS:
            raise UsageError(f"entry {at} has the key {name!r}", hint=nearest(name, _KEYS))
        expected, types = _KEYS[name]
        right = isinstance(value, types) and not isinstance(value, bool)
        if name == "ideas":
            right = right and all(isinstance(idea, int) for idea in value)
        if name == "edits":
            right = right and all(
                isinstance(edit, dict)
                and edit.keys() == {"path", "old", "new"}
                and all(isinstance(text, str) for text in edit.values())
                for edit in value
            )
        if name == "set":
            right = right and all(isinstance(one, bool | int | float | str) for one in value.values())
        if not right:
            raise UsageError(f"entry {at}: {name}: expected {expected}, found {json.dumps(value)[:80]}")


def _draft(entry: dict[str, Any]) -> Draft | None:
    from arf.types import Draft, Edit

    if not any(entry.get(name) for name in ("set", "patch", "edits")):
        return None
    constants = entry.get("set", {})
    title = entry.get("title") or ", ".join(f"{name} = {value}" for name, value in constants.items())
    return Draft(
        title=title or "a change",
        reason=entry.get("reason", ""),
        constants=constants,
        patch=entry.get("patch", ""),
        edits=tuple(Edit(**edit) for edit in entry.get("edits", ())),
        expected=entry.get("expected"),
    )


def _changes(home: Path, base: str) -> tuple[list[dict[str, str]], str]:
    """What the checkout's editable files differ by from a commit, as edits of whole files; and the commit.

    Without one it is the commit that the study began with: that is what the checkout usually holds.
    """
    from arf.launch import load_study_config, study_plugins
    from arf.store.database import Store
    from arf.workspace import open_workspace

    config = load_study_config(home, study_plugins(home))
    store = Store.open(home)
    try:
        folder, commit = store.workspace, base or str(store.meta("study")["base"])
    finally:
        store.close()
    workspace = open_workspace(folder, config.workspace, base=commit)
    try:
        files = workspace.files(commit)
    finally:
        workspace.close()
    edits = list(_edits(folder, files))
    if not edits:
        raise UsageError(
            f"the editable files in {folder} are as in {commit[:12]}", hint="change them, then submit"
        )
    return edits, commit


def _edits(folder: Path, files: dict[str, str]) -> Iterable[dict[str, str]]:
    for path, old in files.items():
        here = folder / path
        new = here.read_text("utf-8", "replace") if here.is_file() else old
        if new != old:
            yield {"path": path, "old": old, "new": new}


# ---- What became of it ----------------------------------------------------------------------


def _show(home: Path, receipts: Sequence[Receipt], *, as_json: bool) -> None:
    from arf.store.database import Store

    store = Store.open(home)
    try:
        told = [{**attrs.asdict(receipt), "runs": _runs(store, receipt)} for receipt in receipts]
    finally:
        store.close()
    if as_json:
        print_json(told)
        return
    for one in told:
        click.echo(
            f"{one['id']}: {one['title']}: {one['state']}" + (f": {one['problem']}" * bool(one["problem"]))
        )
        for run in one["runs"]:
            value = "" if run["value"] is None else f" {run['value']:.6g}"
            verdict = run["verdict"] or run["state"]
            click.echo(f"   #{run['experiment']} {verdict}{value} {run['reason']}".rstrip())


def _runs(store: Store, receipt: Receipt) -> list[dict[str, Any]]:
    found = [store.experiment(number) for number in receipt.experiments]
    return [
        {
            "experiment": e.id,
            "commit": e.commit,
            "tier": e.tier,
            "state": str(e.state),
            "value": e.value,
            "verdict": str(e.verdict) if e.verdict else None,
            "reason": e.reason,
        }
        for e in found
        if e is not None
    ]
