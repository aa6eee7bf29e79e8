"""Writes what a report is: `results.tsv`, the plots and `report.html` in the study's folder."""

from __future__ import annotations

from pathlib import Path

from attrs import evolve, frozen

from arf.sdk.jobs import write_whole
from arf.study import Study
from arf_plugins.effects.reading import read_effects
from arf_plugins.report.effects import chapter
from arf_plugins.report.page import render
from arf_plugins.report.report_data import read_story
from arf_plugins.report.results import RESULTS, ResultsFile

PLOT = "progress.png"
PAGE = "report.html"


@frozen(kw_only=True)
class Written:
    paths: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    """What could not be written, and what to do about it."""


def write_report(directory: Path, *, state: str | None = None, study: Study | None = None) -> Written:
    """Write the files of a study's report, running or not. Raises StoreError if it cannot be read.

    `state` is how a study ended whose arf still holds its lock, and so looks as if it ran. `study` is the
    study if it is at hand. Without matplotlib there are no plots, and a note that says so.
    """
    story = read_story(directory, study)
    if state is not None:
        story = evolve(story, summary={**story.summary, "state": state})
    ResultsFile(directory / RESULTS, story.objective.metric, story.experiments)
    paths, notes = [directory / RESULTS], []
    plot, found = b"", read_effects(story.study, story.summary["workspace"])
    try:
        from arf_plugins.report.plot import draw
    except ImportError as error:
        effects = chapter(found, draw=False)
        notes.append(f"no {PLOT} ({error}): pip install 'arf-research[report]', then `arf report`")
    else:
        plot = draw(story)
        write_whole(directory / PLOT, plot, mode=0o666, durable=False)
        paths.append(directory / PLOT)
        effects = chapter(found, draw=True)
        for picture in effects.pictures:
            write_whole(directory / picture.name, picture.png, mode=0o666, durable=False)
            paths.append(directory / picture.name)
    write_whole(
        directory / PAGE,
        render(story, plot, effects).encode("utf-8", errors="replace"),
        mode=0o666,
        durable=False,
    )
    return Written(paths=(*paths, directory / PAGE), notes=tuple(notes))
