"""What was found, in words and tables: for `arf effects` and for the report."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, product

from attrs import field, frozen

from arf.sdk.formats import small
from arf_plugins.effects.history import IdeaEffect, Importance
from arf_plugins.effects.model import Design, Effect, Fit
from arf_plugins.effects.reading import Found

FEW_IDEAS = 3
"""Fewer ideas than this are not drawn, and have no place in a report."""


@frozen(kw_only=True)
class Section:
    """One thing that was found."""

    key: str
    """`design/LABEL`, `ideas`, `pairs` or `constants`."""
    title: str
    notes: tuple[str, ...] = ()
    """What it was found from, and how far to trust it."""
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: str
    """For each column a space, or `r` where it is aligned to the right."""
    after: tuple[str, ...] = field(default=())
    """What follows from the table."""


@frozen(kw_only=True)
class Picture:
    """A PNG that goes with a section."""

    name: str
    """Of its file."""
    alt: str
    """What it shows, in words."""
    png: bytes


def sections(found: Found, designs: Sequence[tuple[Design, Fit]], rows: int | None = None) -> list[Section]:
    """All that was found, with these designs; at most so many rows in each table."""
    told = [of_design(design, fitted, rows) for design, fitted in designs]
    if found.ideas:
        told.append(of_ideas(found, rows))
    if found.pairs:
        told.append(of_pairs(found, rows))
    if found.importance is not None:
        told.append(of_constants(found.importance, rows))
    return told


def design_key(design: Design) -> str:
    """Of a design's section."""
    return f"design/{design.label}"


def of_design(design: Design, fitted: Fit, rows: int | None = None) -> Section:
    """The effects of a design, the largest first."""
    runs = sum(cell.n for cell in fitted.cells)
    size = (
        f"{len(design.axes)} factors, {len(fitted.cells)} cells, {runs} runs"
        + (f", {design.open} still open" if design.open else "")
        + (f", {len(design.failed)} without a value" if design.failed else "")
    )
    known = fitted.sigma is not None
    source = f"noise of a run {small(fitted.sigma or 0.0)}, from {fitted.source}" if known else ""
    shown = sorted(fitted.effects, key=lambda e: -abs(e.gain))[:rows]
    body = tuple((*_cells(e), _aliases(e.aliases)) for e in shown)
    missing = (f"cannot be told: {', '.join(fitted.missing)}",) if fitted.missing else ()
    return Section(
        key=design_key(design),
        title=f"{design.label}: {size}",
        notes=(source or f"noise {fitted.source}",),
        head=("effect", "gain", "± SE", "p", "Holm", "verdict", "aliased with"),
        rows=body,
        right=" rrrr  ",
        after=(*missing, _best(fitted)),
    )


def of_ideas(found: Found, rows: int | None = None) -> Section:
    """Single ideas, which nobody designed."""
    left = 0 if rows is None else max(0, len(found.ideas) - rows)
    return Section(
        key="ideas",
        title="ideas, each against the commit that it was tried on",
        notes=(
            "Trust: not designed. What was run was chosen by what had run before, most of it once, and gains "
            "of what was kept are likely too good; a design tells more.",
        ),
        head=_IDEAS,
        rows=_idea_rows(found.ideas[:rows]),
        right=_IDEAS_RIGHT,
        after=(f"and {left} more; --all shows them.",) if left else (),
    )


def of_pairs(found: Found, rows: int | None = None) -> Section:
    """Pairs of ideas that ran alone and together on one commit."""
    return Section(
        key="pairs",
        title="pairs: half of what both gain beyond the sum of each",
        head=_IDEAS,
        rows=_idea_rows(found.pairs[:rows]),
        right=_IDEAS_RIGHT,
    )


_IDEAS = ("idea", "gain", "± SE", "p", "Holm", "verdict", "runs", "bases")
_IDEAS_RIGHT = " rrrr rr"


def _idea_rows(effects: Sequence[IdeaEffect]) -> tuple[tuple[str, ...], ...]:
    return tuple((*_cells(e), str(e.runs), str(e.bases)) for e in effects)


def _cells(e: Effect | IdeaEffect) -> tuple[str, ...]:
    """What every table of effects begins with."""
    return e.name, f"{e.gain:+.4g}", _error(e.error), _p(e.p), _p(e.adjusted), str(e.finding)


def of_constants(found: Importance, rows: int | None = None) -> Section:
    """The constants by their share of the variance."""
    return Section(
        key="constants",
        title=f"constants over all experiments: a regression over {found.commits} commits, which explains "
        f"{found.explained:.0%} of their variance",
        notes=(
            "Trust: what the constants are likely to matter, not proof. The search chose the values, so "
            "constants that moved together share their credit, and are not told apart if they always did.",
        ),
        head=("constant", "share", "p", "Holm", "verdict", "expected best", "values", "commits"),
        rows=tuple(
            (
                c.name,
                f"{c.share:.1%}" if c.share or c.p is not None else "-",
                _p(c.p),
                _p(c.adjusted),
                str(c.finding),
                str(c.best),
                str(len(c.values)),
                str(c.changed),
            )
            for c in found.constants[:rows]
        ),
        right=" rrr  rr",
    )


def _best(fitted: Fit) -> str:
    """The best cell that the model expects, among those of a grid that is small enough to look at."""
    cells = list(islice(product(*(range(1 + len(axis.levels)) for axis in fitted.axes)), 8192))
    gains = fitted.predict(cells)
    best = max(range(len(cells)), key=lambda i: (gains[i], -sum(map(bool, cells[i]))))
    names = [axis.levels[level - 1] for axis, level in zip(fitted.axes, cells[best], strict=True) if level]
    if not names:
        return "expected best: the base"
    return f"expected best: {' + '.join(names)}, gain {gains[best]:.4g} (shrunk by the noise)"


def _error(error: float | None) -> str:
    return "-" if error is None else f"{error:.2g}"


def _p(p: float | None) -> str:
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _aliases(aliases: Sequence[tuple[str, float]], most: int = 3) -> str:
    names = [name if share == 1 else f"{share:+.2g} {name}" for name, share in aliases[:most]]
    more = len(aliases) - most
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
