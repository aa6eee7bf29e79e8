"""The chapter of the report on effects and interactions: what `arf effects` tells, in short."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from arf_plugins.effects.reading import Found
from arf_plugins.effects.sections import FEW_IDEAS, Picture, Section, sections

MOST_ROWS = 12
MOST_DESIGNS = 3
"""The newest ones."""


@frozen(kw_only=True)
class Chapter:
    """Sections, each with its pictures; and what is left out, or why there is nothing."""

    parts: tuple[tuple[Section, Sequence[Picture]], ...] = ()
    note: str = ""

    @property
    def pictures(self) -> list[Picture]:
        return [picture for _, several in self.parts for picture in several]


def chapter(found: Found, *, draw: bool) -> Chapter:
    """The chapter on what was found. Drawing needs matplotlib."""
    designs = found.designs[-MOST_DESIGNS:]
    if not designs and len(found.ideas) < FEW_IDEAS:
        return Chapter(note=_why_none(found))
    shown = sections(found, designs, MOST_ROWS)
    drawn: dict[str, list[Picture]] = {}
    if draw:
        from arf_plugins.effects.plots import pictures

        drawn = pictures(found, designs)
    left = len(found.designs) - len(designs)
    return Chapter(
        parts=tuple((section, drawn.get(section.key, ())) for section in shown),
        note=f"Designs before the last {MOST_DESIGNS} ({left}) are not shown: arf effects --all"
        if left
        else "",
    )


def _why_none(found: Found) -> str:
    if found.note:
        return f"Left out. {found.note}"
    ideas = len(found.ideas)
    had = f"only {ideas} idea{' has' if ideas == 1 else 's have'}" if ideas else "no idea has"
    return (
        f"Left out: no design has two cells with a value, and {had} run beside the commit that it changes; "
        f"{FEW_IDEAS} are needed."
    )
