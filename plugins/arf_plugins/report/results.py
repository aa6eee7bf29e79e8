"""`results.tsv`: autoresearch's five columns, then arf's own. A row for each experiment that is judged.

Rows are appended in the order of the verdicts. The file is written as a whole, atomically, only when a study
starts or goes on, when an earlier row changes, or when somebody else has changed the file.
"""

from __future__ import annotations

import csv
import io
import json
import math
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs

from arf.sdk.jobs import write_whole
from arf.types import Experiment, Verdict

RESULTS = "results.tsv"

STATUS = {
    Verdict.KEEP: "keep",
    Verdict.DISCARD: "discard",
    Verdict.MEASURED: "discard",
    Verdict.CRASH: "crash",
    Verdict.TIMEOUT: "crash",
    Verdict.INVALID: "crash",
    Verdict.SUSPECT: "discard",
    Verdict.CANCELLED: "crash",
}
"""The three words that autoresearch has, so that what reads its files reads these: a run that gave a value
and was not kept is `discard`, one that gave none `crash`. The column `verdict` has arf's own word."""

OWN_COLUMNS = (
    "experiment", "role", "tier", "seed", "budget", "verdict", "seconds", "parent", "ended_at", "reason",
)  # fmt: skip


def columns(metric: str) -> tuple[str, ...]:
    """The header, with the objective's own name as the second column."""
    return ("commit", one_line(metric), "memory_gb", "status", "description", *OWN_COLUMNS)


def cells(experiment: Experiment) -> tuple[str, ...]:
    """The row of an experiment that has a verdict."""
    e = experiment
    assert e.verdict is not None
    failed = e.value is None
    return (
        e.commit[:7],
        "0.000000" if e.value is None else number(e.value),
        "0.0" if failed else f"{e.metrics.get('peak_vram_mb', 0.0) / 1024:.1f}",
        STATUS[e.verdict],
        one_line(e.title) or str(e.role),
        str(e.id),
        str(e.role),
        one_line(e.tier),
        str(e.seed),
        "" if e.budget is None else f"{e.budget:g}",
        str(e.verdict),
        f"{e.slot_s:.1f}",
        e.parent[:7],
        e.ended_at.isoformat(timespec="seconds") if e.ended_at else "",
        one_line(e.reason),
    )


def number(value: float) -> str:
    """Six decimals, as autoresearch writes them, unless they would hide the value."""
    return f"{value:.6f}" if value == 0 or 1e-3 <= abs(value) < 1e9 else f"{value:.6g}"


def one_line(text: str) -> str:
    """Text that stays in its cell and looks like what it is: no controls, no marks of direction."""
    spaced = "".join(" " if c.isspace() else c for c in text)
    shown = (c for c in spaced if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp"))
    return " ".join("".join(shown).split())


class ResultsFile:
    """The file of a study that runs. Appending costs the same however long it is."""

    def __init__(self, path: Path, metric: str, experiments: Iterable[Experiment]) -> None:
        """Brings the file in line with the experiments, keeping the order of the rows that it has."""
        self._path = path
        self._header = "\t".join(columns(metric))
        known = {e.id: _row(e) for e in experiments if e.verdict is not None}
        order = [*_written(path, self._header), *known]
        self._rows = {i: known[i] for i in order if i in known}
        self._rewrite()

    def put(self, experiment: Experiment) -> None:
        """Record an experiment that has changed; one without a verdict has no row yet."""
        if experiment.verdict is None:
            return
        row = _row(experiment)
        old = self._rows.get(experiment.id)
        if old == row:
            return
        self._rows[experiment.id] = row
        if old is not None or not self._append(row):
            self._rewrite()

    def _append(self, row: str) -> bool:
        """False if the file is not as it was left."""
        with self._path.open("ab") as file:
            if file.tell() != self._size:
                return False
            self._size += file.write(_line(row))
        return True

    def _rewrite(self) -> None:
        content = b"".join(map(_line, (self._header, *self._rows.values())))
        write_whole(self._path, content, mode=0o666, durable=False)
        self._size = len(content)


def _row(experiment: Experiment) -> str:
    return "\t".join(cells(experiment))


def _line(row: str) -> bytes:
    return row.encode() + b"\n"


def _written(path: Path, header: str) -> Iterator[int]:
    """The experiments that an earlier file has rows of, in its order."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    if lines and lines[0] == header:
        for line in lines[1:]:
            parts = line.split("\t")
            if len(parts) > 5 and parts[5].isascii() and parts[5].isdigit():
                yield int(parts[5])


# ---- Export ----------------------------------------------------------------------------------


def to_tsv(experiments: Iterable[Experiment], metric: str) -> Iterator[str]:
    """Lines: the rows of `results.tsv`, in the order of the experiments."""
    yield "\t".join(columns(metric))
    for experiment in experiments:
        if experiment.verdict is not None:
            yield _row(experiment)


def to_csv(experiments: Iterable[Experiment], metric: str) -> Iterator[str]:
    """Lines, for spreadsheets: text that one would take for a formula gets an apostrophe before it."""
    yield _csv_line(columns(metric))
    for experiment in experiments:
        if experiment.verdict is not None:
            texts = cells(experiment)
            yield _csv_line([*texts[:4], _no_formula(texts[4]), *texts[5:-1], _no_formula(texts[-1])])


def to_json(experiments: Iterable[Experiment]) -> Iterator[str]:
    """The lines of one JSON array, with all that is recorded of each experiment, judged or not."""
    before = "["
    for experiment in experiments:
        yield before
        before = ","
        yield json.dumps(_record(experiment), ensure_ascii=True)
    yield "]" if before == "," else "[]"


def _record(experiment: Experiment) -> dict[str, Any]:
    def simple(_: object, __: object, value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value.isoformat() if hasattr(value, "isoformat") else value

    return {**attrs.asdict(experiment, value_serializer=simple), "seconds": experiment.slot_s}


def _csv_line(texts: Iterable[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(texts)
    return out.getvalue()


def _no_formula(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
