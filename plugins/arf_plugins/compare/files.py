"""Writes a comparison's results: CSV, JSON, PNG and one page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from arf import __version__
from arf_plugins.compare.plan import Comparison
from arf_plugins.compare.runs import MEASURES, Outcome
from arf_plugins.compare.tables import Grid, grids
from arf_plugins.compare.verdict import Middle, Verdict


@frozen(kw_only=True)
class Written:
    paths: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    """Lines for people on what could not be written."""


def write_results(
    directory: Path, comparison: Comparison, outcomes: Sequence[Outcome], verdict: Verdict
) -> Written:
    """Write everything into a folder that exists. Without matplotlib there are no plots."""
    files: dict[str, bytes] = {
        "runs.csv": _runs_csv(outcomes, comparison.target).encode(),
        "compare.json": (json.dumps(to_json(comparison, outcomes, verdict), indent=1) + "\n").encode(),
    }
    notes = []
    plots: dict[str, bytes] = {}
    try:
        from arf_plugins.compare.plots import draw_all

        plots = draw_all(outcomes, verdict)
    except ImportError:
        notes.append("no plots: they need matplotlib (pip install 'arf-research[report]')")
    files |= plots
    files["compare.html"] = page(comparison, grids(outcomes, verdict), plots).encode()
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return Written(paths=tuple(directory / name for name in files), notes=tuple(notes))


def _runs_csv(outcomes: Sequence[Outcome], target: float) -> str:
    """A row for each study."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        ["objective", "arm", "seed", "base", "optimum", "truth", "share_of_gain", *MEASURES]
        + [f"{measure}_to_target" for measure in MEASURES]
        + ["utilisation", "keeps", "false_keeps", "changes", "useless_changes"]
        + ["claim_low", "claim_high", "true_gain", "lucky_reading", "lucky_truth", "cpu_s", "reason"]
    )
    for run in outcomes:
        spent = [run.spent_for(measure, target) for measure in MEASURES]
        columns: list[object] = [run.objective, run.arm, run.seed, run.base, run.optimum, run.total.truth]
        columns += [run.gain(run.total.truth), *(getattr(run.total, measure) for measure in MEASURES)]
        columns += ["" if math.isinf(x) else x for x in spent]
        columns += [run.utilisation, run.keeps, run.false_keeps, run.changes, run.useless_changes]
        claim = run.claim
        columns += [claim.low, claim.high, claim.true_gain] if claim else ["", "", ""]
        columns += [run.lucky_reading, run.lucky_truth, round(run.cpu_s, 3), run.reason]
        writer.writerow(columns)
    return out.getvalue()


def to_json(comparison: Comparison, outcomes: Sequence[Outcome], verdict: Verdict) -> dict[str, Any]:
    """All results. What is infinite is null."""
    return {
        "title": comparison.title,
        "arf": __version__,
        "seeds": list(comparison.seeds),
        "target": verdict.target,
        "reference": verdict.reference,
        "level": {equal: dict(levels) for equal, levels in verdict.level.items()},
        "gain": _records(verdict.gain, ("equal", "objective", "arm")),
        "to_target": _records(verdict.to_target, ("measure", "objective", "arm")),
        "reached": [
            {"objective": o, "arm": arm, "reached": hit, "of": n}
            for (o, arm), (hit, n) in verdict.reached.items()
        ],
        "ranks": [
            {"equal": equal, "arm": arm, "mean_rank": rank} for (equal, arm), rank in verdict.ranks.items()
        ],
        "races": [
            {
                **asdict(race, recurse=False),
                "wall_hours": _finite(race.wall_hours),
                "slot_hours": _finite(race.slot_hours),
            }
            for race in verdict.races
        ],
        "tests": [asdict(test) for test in verdict.tests],
        "overall": [_without_infinity(asdict(one)) for one in verdict.overall],
        "scaling": [_without_infinity(asdict(one)) for one in verdict.scaling],
        "runs": [asdict(outcome) for outcome in outcomes],
    }


def _records(table: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            **dict(zip(names, key, strict=True)),
            **_finite(value),
        }
        for key, value in table.items()
    ]


def _finite(value: Middle) -> dict[str, Any]:
    return _without_infinity(asdict(value))


def _without_infinity(record: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in record.items()}


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem;
  color: #222 }
table { border-collapse: collapse; margin: .5rem 0 2rem; font-size: 14px }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .7rem; text-align: left;
  font-variant-numeric: tabular-nums }
th { border-bottom: 2px solid #999 } img { max-width: 100% } p.note { color: #555; margin: 0 }
"""


def page(comparison: Comparison, tables: Sequence[Grid], plots: dict[str, bytes]) -> str:
    """One page with everything in it."""
    from base64 import b64encode
    from html import escape

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    parts = [f"<h1>{escape(comparison.title)}</h1>"]
    seeds, arms = len(comparison.seeds), len(comparison.arms)
    parts.append(f"<p>{arms} arms, {seeds} seeds, simulated by arf {escape(__version__)}.</p>")
    for name, data in plots.items():
        source = b64encode(data).decode()
        parts.append(f'<p><img src="data:image/png;base64,{source}" alt="{escape(name)}"></p>')
    for grid in tables:
        body = "".join(row(cells, "td") for cells in grid.rows[1:])
        parts.append(f'<h2>{escape(grid.title)}</h2><p class="note">{escape(grid.note)}</p>')
        parts.append(f"<table>{row(grid.rows[0], 'th')}{body}</table>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(comparison.title)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )
