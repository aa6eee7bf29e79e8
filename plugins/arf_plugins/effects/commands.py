"""The command: reads a study, prints tables or JSON, and draws what it found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from attrs import asdict, frozen

from arf import constants
from arf.cli.formats import small, table
from arf.cli.studies import find_study
from arf.effects import Design, Fit, fit, read_design, to_json
from arf.errors import ArfError
from arf.stats import noise
from arf.store import Store
from arf.study import Study
from arf.types import Scalar
from arf_plugins.effects.history import (
    IdeaEffect,
    Importance,
    design_labels,
    idea_effects,
    importance,
)

MOST_ROWS = 20
"""Of a table for people; `--all` and `--json` have them all."""
MOST_DESIGNS = 8
"""The newest ones are shown and drawn."""


@frozen(kw_only=True)
class Found:
    """What a study tells."""

    study: Study
    designs: tuple[tuple[Design, Fit], ...]
    ideas: tuple[IdeaEffect, ...]
    pairs: tuple[IdeaEffect, ...]
    importance: Importance | None


@click.command()
@click.argument("study", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--all", "everything", is_flag=True, help="Show every row and every design.")
@click.option("--plots/--no-plots", default=True, help="Draw effects-….png into the study's folder.")
def effects(study: str | None, as_json: bool, everything: bool, plots: bool) -> None:
    """Show what each factor, idea and constant does, alone and together.

    STUDY is a name, the beginning of one, or a study's folder; the newest study if it is left out. All gains
    are positive where they are better. `real` means that the effect stands after correction for the number of
    effects in its table (Holm).
    """
    directory = find_study(study)
    found = read_effects(directory)
    chosen = found.designs if everything else found.designs[-MOST_DESIGNS:]
    paths, note = _draw(directory, found, chosen) if plots else ([], "")
    if as_json:
        click.echo(json.dumps(as_document(found, paths), ensure_ascii=False, indent=2))
        return
    click.echo("\n\n".join(_texts(found, chosen, None if everything else MOST_ROWS)))
    for path in paths:
        click.echo(path, err=True)
    if note:
        click.echo(note, err=True)


def read_effects(directory: Path) -> Found:
    """All that a study tells about effects. Raises StoreError if it cannot be read."""
    store = Store.open(directory)
    try:
        study = store.load()
        workspace = store.meta("workspace")
    finally:
        store.close()
    alpha = study.rule.alpha
    designs = [read_design(study, label) for label in design_labels(study)]
    ideas, pairs = idea_effects(study, alpha)
    return Found(
        study=study,
        designs=tuple(
            (
                design,
                fit(
                    design.axes,
                    design.cells,
                    objective=study.objective,
                    known=noise(study, design.tier),
                    alpha=alpha,
                ),
            )
            for design in designs
            if design is not None and len(design.cells) > 1
        ),
        ideas=tuple(ideas),
        pairs=tuple(pairs),
        importance=importance(study, base_constants(workspace, study), alpha),
    )


def _fitted(study: Study, design: Design) -> Fit:
    known = noise(study, design.tier)
    return fit(design.axes, design.cells, objective=study.objective, known=known, alpha=study.rule.alpha)


def base_constants(workspace: Any, study: Study) -> dict[str, Scalar]:
    """The values, at the base, of the constants that ideas set; empty if its repository is not there."""
    import pygit2

    wanted = {name for idea in study.ideas.values() for name in idea.constants}
    found: dict[str, Scalar] = {}
    try:
        repository = pygit2.Repository(str(workspace))
        tree = repository[study.base].peel(pygit2.Tree)
    except (pygit2.GitError, KeyError, ValueError):
        return found
    for path, text in _texts_of(repository, tree, ""):
        for constant in constants.read(text, path):
            value = constant.value
            if constant.name in wanted and not isinstance(value, tuple):
                found.setdefault(constant.name, value)
    return found


def _texts_of(repository: Any, tree: Any, prefix: str) -> list[tuple[str, str]]:
    """Path and text of the small source and configuration files of a tree."""
    found: list[tuple[str, str]] = []
    for entry in tree:
        path = f"{prefix}{entry.name}"
        if entry.type_str == "tree":
            found += _texts_of(repository, entry, f"{path}/")
        elif entry.type_str == "blob" and entry.size < 2**20 and not entry.is_binary:
            found.append((path, entry.data.decode("utf-8", errors="replace")))
    return found


# ---- For people ---------------------------------------------------------------------------------


def _texts(found: Found, designs: Sequence[tuple[Design, Fit]], rows: int | None) -> list[str]:
    texts = [_design_text(found.study, design, fitted, rows) for design, fitted in designs]
    left = len(found.designs) - len(designs)
    if left:
        texts.insert(0, f"{left} older designs are not shown; --all shows them.")
    if found.ideas:
        texts.append(_ideas_text(found, rows))
    if found.importance is not None:
        texts.append(_importance_text(found.importance, rows))
    return texts or ["Nothing to tell yet: no idea has run beside its parent."]


def _design_text(study: Study, design: Design, fitted: Fit, rows: int | None) -> str:
    runs = sum(cell.n for cell in fitted.cells)
    lines = [
        f"{design.label}: {len(design.axes)} factors, {len(fitted.cells)} cells, {runs} runs"
        + (f", {design.open} still open" if design.open else "")
        + (f", {len(design.failed)} without a value" if design.failed else "")
    ]
    if fitted.sigma is not None:
        lines.append(f"noise of a run {small(fitted.sigma)}, from {fitted.source}")
    else:
        lines.append(f"noise {fitted.source}")
    shown = sorted(fitted.effects, key=lambda e: -abs(e.gain))[:rows]
    body = [
        (
            e.name,
            f"{e.gain:+.4g}",
            _error(e.error),
            _p(e.p),
            _p(e.adjusted),
            str(e.finding),
            _aliases(e.aliases),
        )
        for e in shown
    ]
    lines.append(
        table(("effect", "gain", "± SE", "p", "Holm", "verdict", "aliased with"), body, right=" rrrr")
    )
    if fitted.missing:
        lines.append(f"cannot be told: {', '.join(fitted.missing)}")
    lines.append(_best_text(fitted))
    return "\n".join(lines)


def _best_text(fitted: Fit) -> str:
    """The best cell that the model expects, among those of a grid that is small enough to look at."""
    from itertools import islice, product

    cells = list(islice(product(*(range(1 + len(axis.levels)) for axis in fitted.axes)), 8192))
    gains = fitted.predict(cells)
    best = max(range(len(cells)), key=lambda i: (round(gains[i], 12), -sum(map(bool, cells[i]))))
    names = [axis.levels[level - 1] for axis, level in zip(fitted.axes, cells[best], strict=True) if level]
    if not names:
        return "expected best: the base"
    return f"expected best: {' + '.join(names)}, gain {gains[best]:.4g} (shrunk by the noise)"


def _ideas_text(found: Found, rows: int | None) -> str:
    lines = [
        "ideas, each against the commit that it was tried on",
        "Trust: not designed. What was run was chosen by what had run before, most of it once, and gains "
        "of what was kept are likely too good; a design tells more.",
        _ideas_table(found.ideas[:rows]),
    ]
    if rows is not None and len(found.ideas) > rows:
        lines.append(f"and {len(found.ideas) - rows} more; --all shows them.")
    if found.pairs:
        lines += [
            "",
            "pairs: half of what both gain beyond the sum of each",
            _ideas_table(found.pairs[:rows]),
        ]
    return "\n".join(lines)


def _ideas_table(effects: Sequence[IdeaEffect]) -> str:
    body = [
        (
            e.name,
            f"{e.gain:+.4g}",
            _error(e.error),
            _p(e.p),
            _p(e.adjusted),
            str(e.finding),
            str(e.runs),
            str(e.bases),
        )
        for e in effects
    ]
    return table(("idea", "gain", "± SE", "p", "Holm", "verdict", "runs", "bases"), body, right=" rrrr rr")


def _importance_text(found: Importance, rows: int | None) -> str:
    body = [
        (
            c.name,
            f"{c.share:.1%}",
            _p(c.p),
            _p(c.adjusted),
            str(c.finding),
            str(c.best),
            str(len(c.values)),
            str(c.changed),
        )
        for c in found.constants[:rows]
    ]
    head = ("constant", "share", "p", "Holm", "verdict", "expected best", "values", "commits")
    return "\n".join(
        [
            f"constants over all experiments: a regression over {found.commits} commits, which explains "
            f"{found.explained:.0%} of their variance",
            "Trust: what the constants are likely to matter, not proof. The search chose the values, so "
            "constants that moved together share their credit.",
            table(head, body, right=" rrr  rr"),
        ]
    )


def _error(error: float | None) -> str:
    return "-" if error is None else f"{error:.2g}"


def _p(p: float | None) -> str:
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _aliases(aliases: Sequence[tuple[str, float]], most: int = 3) -> str:
    names = [name if share == 1 else f"{share:+.2g} {name}" for name, share in aliases[:most]]
    more = len(aliases) - most
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


# ---- For programs and pictures ------------------------------------------------------------------


def as_document(found: Found, paths: Sequence[Path]) -> dict[str, Any]:
    """The JSON document of `arf effects --json`."""
    objective = found.study.objective
    return {
        "study": found.study.name,
        "objective": {"metric": objective.metric, "direction": str(objective.direction)},
        "alpha": found.study.rule.alpha,
        "designs": [
            {
                "label": d.label,
                "parent": d.parent,
                "tier": d.tier,
                "open": d.open,
                "failed": len(d.failed),
                **to_json(f),
            }
            for d, f in found.designs
        ],
        "ideas": [_idea_document(effect) for effect in found.ideas],
        "pairs": [_idea_document(effect) for effect in found.pairs],
        "constants": None if found.importance is None else _constants_document(found.importance),
        "plots": [str(path) for path in paths],
    }


def _idea_document(effect: IdeaEffect) -> dict[str, Any]:
    told = asdict(effect)
    return {**told, "ideas": list(effect.ideas), "finding": str(effect.finding)}


def _constants_document(found: Importance) -> dict[str, Any]:
    rows = [
        {**asdict(constant), "values": list(constant.values), "finding": str(constant.finding)}
        for constant in found.constants
    ]
    return {"explained": found.explained, "commits": found.commits, "rows": rows}


def _draw(directory: Path, found: Found, designs: Sequence[tuple[Design, Fit]]) -> tuple[list[Path], str]:
    """The plots that were written; or why there are none."""
    try:
        from arf_plugins.effects import plots
    except ImportError as error:
        return [], f"no plots ({error}): pip install 'arf-research[report]'"
    try:
        return plots.draw(directory, found.study.objective, designs, found.importance), ""
    except OSError as error:
        raise ArfError(
            f"cannot write plots: {error}", hint="use --no-plots, or make the folder writable"
        ) from error
