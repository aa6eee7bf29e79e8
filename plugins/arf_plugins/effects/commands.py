"""The command: reads a study, prints tables or JSON, and draws what it found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from attrs import asdict

from arf.errors import ArfError
from arf.sdk.commands import find_study
from arf.sdk.formats import table
from arf.sdk.jobs import write_whole
from arf.sdk.studies import StudyReader
from arf_plugins.effects.history import IdeaEffect, Importance
from arf_plugins.effects.model import Design, Fit, to_json
from arf_plugins.effects.reading import Found, read_effects
from arf_plugins.effects.sections import Section, sections

MOST_ROWS = 20
"""Of a table for people; `--all` and `--json` have them all."""
MOST_DESIGNS = 8
"""The newest ones are shown and drawn."""


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
    with StudyReader.open(directory) as reader:
        found = read_effects(reader.study(), reader.workspace_directory)
    chosen = found.designs if everything else found.designs[-MOST_DESIGNS:]
    paths, note = _draw(directory, found, chosen) if plots else ([], "")
    if as_json:
        click.echo(json.dumps(as_document(found, paths), ensure_ascii=False, indent=2))
        return
    texts = [_text(section) for section in sections(found, chosen, None if everything else MOST_ROWS)]
    if left := len(found.designs) - len(chosen):
        texts.insert(0, f"{left} older designs are not shown; --all shows them.")
    click.echo(
        "\n\n".join(texts or [found.note or "Nothing to tell yet: no idea has run beside its parent."])
    )
    for path in paths:
        click.echo(path, err=True)
    if note:
        click.echo(note, err=True)


def _text(section: Section) -> str:
    body = [table(section.head, section.rows, right=section.right)] if section.rows else []
    return "\n".join([section.title, *section.notes, *body, *section.after])


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
    paths = []
    try:
        for picture in (one for several in plots.pictures(found, designs).values() for one in several):
            paths.append(directory / picture.name)
            write_whole(paths[-1], picture.png, mode=0o666, durable=False)
    except OSError as error:
        raise ArfError(
            f"cannot write plots: {error}", hint="use --no-plots, or make the folder writable"
        ) from error
    return paths, ""
