"""What to do when the first run of a study fails: said by what its log shows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from arf.engine.ends import FailedBaseline
from arf.engine.watch import last_lines, nearest_metric
from arf.errors import nearest
from arf.interfaces import Workspace
from arf.types import Verdict

if TYPE_CHECKING:
    from arf.config.schema import Config

READ_LINES = 60
_MISSING_MODULE = re.compile(r"(?:ModuleNotFoundError|ImportError): No module named '?([\w.]+)'?")
_MISSING_PROGRAM = re.compile(r"(?:^|[\s:'\"/])([\w.+-]+)['\"]?: (?:command )?not found")
_MISSING_SCRIPT = re.compile(r"can't open file '([^'\n]+)'.*No such file")
_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|MemoryError|CUDA_ERROR_OUT_OF_MEMORY", re.IGNORECASE
)
_NOT_FOUND = re.compile(
    r"no such file|not found|does not exist|cannot (?:open|find|read)|missing", re.IGNORECASE
)
_PATH = re.compile(r"[^\s'\"`:;,()<>\[\]{}=]+")
_NOT_EXECUTABLE = re.compile(r"([^\s:'\"]+)['\"]?: permission denied", re.IGNORECASE)
_DENIED = re.compile(r"permission denied|read-only file system", re.IGNORECASE)


def explain(failed: FailedBaseline, workspace: Workspace, config: Config, example: str) -> str:
    """One line on how to mend a baseline that failed so.

    `example` is a line in which the parser would read the objective.
    """
    commit, verdict, reason = failed.experiment.commit, failed.experiment.verdict, failed.experiment.reason
    command, log, folder, metrics = config.workspace.command, failed.log, failed.folder, failed.metrics
    time_limit_s = config.limits.time_limit_s
    shown = command if isinstance(command, str) else shlex.join(command)
    again = "then start a new study"
    lines = last_lines(log, READ_LINES)
    text = "\n".join(lines)
    if verdict is Verdict.TIMEOUT:
        return (
            f"raise limits.time_limit_s (it is {time_limit_s:g}), or make `{shown}` do less, {again}"
            if lines
            else f"`{shown}` printed nothing for {time_limit_s:g} s: does it wait for something?"
        )
    if "objective.pick" in reason:
        return "arf run -o objective.pick=last (or first, or best), or the same in arf.yaml"
    if verdict is Verdict.INVALID:
        return f"`{shown}` must leave tracked files as they are: let it write to others, commit, {again}"
    inside = f"{folder}/"
    paths = list(_untracked(workspace, commit, [line.replace(inside, "") for line in lines]))
    if paths:
        names = ", ".join(paths[:3])
        return f"{names}: not tracked by git, so not in the work trees: set workspace.link: [{names}]"
    if "not a git repository" in text:
        return f"work trees are no git repositories: let the script do without git in one, commit, {again}"
    if module := _MISSING_MODULE.search(text):
        first = module[1].partition(".")[0]
        own = [name for name in (f"{first}.py", first) if (workspace.directory / name).exists()]
        if own and own[0] not in workspace.tracked(commit):
            return f"{own[0]}: not tracked by git, so not in the work trees: commit it, {again}"
        return (
            f"install {first} where `{shown}` runs, or name another interpreter in "
            f"workspace.command (such as `uv run train.py`), {again}"
        )
    if script := _MISSING_SCRIPT.search(text.replace(inside, "")):
        found = nearest(script[1], workspace.tracked(commit))
        return f"workspace.command: there is no {script[1]} in git; {found}"
    if program := _MISSING_PROGRAM.search(text):
        return f"install {program[1]}, or put it on PATH, {again}"
    if _OUT_OF_MEMORY.search(text):
        return (
            f"it needs more memory than a slot has: fewer slots (backend.slots), or a smaller model; {again}"
        )
    if name := _not_executable(workspace, commit, text):
        return f"`chmod +x {name} && git update-index --chmod=+x {name}`, commit, {again}"
    if _DENIED.search(text):
        return f"jobs run in work trees of their own, with arf's rights: see its last lines; mend it, {again}"
    if limit := _LIMIT.search(reason):
        return f"raise {limit[0]}, or mend what `{shown}` does, {again}"
    if "at step" in reason:
        return f"mend `{shown}`, {again}; limits.diverge_factor=null lets it go on with such a loss"
    if reason.startswith("printed no "):
        return _on_the_metric(config, metrics, log, example)
    return f"make `{shown}` work as it is, commit, and start a new study"


_LIMIT = re.compile(r"limits\.\w+")
_SEARCHED_BYTES = 1_048_576
"""Of the end of a log, for a line with the metric."""
_SHOWN = 80


def _on_the_metric(config: Config, metrics: Collection[str], log: Path, example: str) -> str:
    """What to do where a run ended well, and the parser found no objective in what it printed."""
    name, parser = config.objective.metric, config.parser.name
    example = f"`{example}`"
    if metrics:
        near = nearest_metric(name, metrics)
        if "_".join(name.split()).lower() == near.lower():
            return f"arf run -o objective.metric={near}, or the same in arf.yaml"
    words = [re.escape(word) for word in re.findall(r"[^\W_]+", name)]
    there = re.compile(
        r"(?<![^\W_])(" + r"[\W_]{0,3}".join(words) + r"(?![^\W_])[^\d\n]{0,24}?)([-+]?\d[\d.,]*)",
        re.IGNORECASE,
    )
    for line in reversed(last_lines(log, 100_000, _SEARCHED_BYTES) if words else []):
        if len(line) < 4096 and (hit := there.search(line)):
            start = max(0, hit.start() - _SHOWN // 2)
            quoted = line[start : start + _SHOWN].strip()
            if "," in hit[2].rstrip(","):
                return f"the number in `{quoted}` has a comma: print {example}, with a point, and commit"
            before = re.escape(hit[1]).replace("\\ ", " ").replace("'", ".")
            return (
                f"the parser {parser!r} does not read it in the line `{quoted}`: print {example} on a line "
                "of its own and commit, or set parser: "
                f"{{name: regex, patterns: {{{name!r}: '{before}(\\S+)'}}}}"
            )
    return (
        f"print {example} on a line of its own at the end, on stdout or stderr (what is only in a file, or "
        "far above the end of a long log, is not read), and commit; or set objective.metric to its name"
    )


def _not_executable(workspace: Workspace, commit: str, text: str) -> str:
    """The tracked file that was to be executed and that git holds as one that is not; else empty."""
    found = _NOT_EXECUTABLE.search(text)
    if found is None:
        return ""
    name = found[1].removeprefix("./")
    file = workspace.read(commit, name)
    return shlex.quote(name) if file is not None and not file.executable else ""


def _untracked(workspace: Workspace, commit: str, lines: Sequence[str]) -> Iterator[str]:
    """Files of the workspace that the log says are missing and that git does not track, as far as to link."""
    lines = [line for line in lines if _NOT_FOUND.search(line)]
    if not lines:
        return
    tracked = workspace.tracked(commit)
    linked = {name.rstrip("/") for name in workspace.settings.link}
    found: set[str] = set()
    for line in lines:
        for word in _PATH.findall(line):
            part = _first_untracked(workspace.directory, word, tracked)
            if part and part not in linked and part not in found:
                found.add(part)
                yield part


def _first_untracked(directory: Path, word: str, tracked: Collection[str]) -> str:
    """The shortest beginning of a relative path that is there, and that nothing tracked has; else empty."""
    path = Path(word)
    if path.is_absolute() or ".." in path.parts or not path.parts or not (directory / path).exists():
        return ""
    for end in range(1, len(path.parts) + 1):
        part = "/".join(path.parts[:end])
        if part not in tracked and not any(name.startswith(part + "/") for name in tracked):
            return part
    return ""
