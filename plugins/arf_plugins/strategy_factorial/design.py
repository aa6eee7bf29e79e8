"""One design of the strategy: what it was to run, what of it has run, and what follows from it.

Everything is worked out anew from the study; only what depends on nothing but values is remembered.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations, product

from attrs import evolve, frozen

from arf.sdk.statistics import Noise, noise
from arf.study import Study
from arf.types import ExperimentState, Factor, Objective, Plan, Role, Verdict
from arf_plugins.effects.model import Axis, Cell, Levels, fit, levels_of, read_design
from arf_plugins.strategy_factorial import Options
from arf_plugins.strategy_factorial.layouts import (
    Pair,
    augment,
    candidates,
    lay_out,
    smallest,
)

RUNS = 16
"""Cells of a design where there are no more slots than that."""
MOST_RUNS = 64
SHARE = 0.5
"""Of the experiments that are left, the share that one design may take: the rest is for what follows."""
FEWEST = 4
"""Runs of a design; fewer factors or runs are not worth one."""
MOST_TRIES = 8
"""Of the cells that are expected to be best, so many are looked at for one that merges."""
MOST_CELLS = 8192
"""Of a grid, all are looked at for the best."""
MISFIT = 4.0
"""Standard deviations of a run by which a cell may read better than the model says."""
FAILURES = 2
"""Cells that have failed with a level or a pair, none having run, after which it may be to blame."""


@frozen(kw_only=True)
class Design:
    """A design as it is to be."""

    label: str
    parent: str
    ideas: tuple[tuple[int, ...], ...]
    """For each factor, the ideas that are its levels."""
    rows: tuple[Levels, ...]
    """The cells in the order in which they are run."""
    apart: frozenset[Pair]
    """Levels that set the same constant differently."""
    seed: str

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(len(levels) for levels in self.ideas)

    def chosen(self, cell: Levels) -> tuple[int, ...]:
        """The ideas of a cell, in ascending order."""
        return tuple(sorted(self.ideas[f][level - 1] for f, level in enumerate(cell) if level))


def best_label(label: str) -> str:
    """The round of the candidates of a design."""
    return f"{label}, best"


def design_of(study: Study, ask: int, options: Options) -> Design | None:
    """The design for the factors that answered an ask; None if they or the budget are too few for one.

    The same from its first run to its end: it depends on the factors, the options, and what was there
    when its first run was accepted.
    """
    label = f"design {ask}"
    there = study.by_round(label)
    first = there[0] if there else len(study.experiments) + 1
    parent = study.experiments[first].parent if there else study.incumbent_commit
    runs = _runs(study, first, options)
    ideas = _that_fit(study.factors(ask), runs, options)
    if len(ideas) < 2 or runs < FEWEST:
        return None
    apart = _apart(study, ideas)
    grid = tuple(len(levels) for levels in ideas)
    seed = f"{study.seed}/{label}"
    rows = lay_out(grid, runs, options.layout, seed, apart)
    return Design(label=label, parent=parent, ideas=ideas, rows=rows, apart=apart, seed=seed)


def _runs(study: Study, first: int, options: Options) -> int:
    slots = sum(tier.slots for tier in study.tiers)
    wanted = options.runs
    if wanted is None:
        wanted = min(MOST_RUNS, max(RUNS, 2 ** int(math.log2(max(1, slots)))))
    if study.max_experiments is not None:
        wanted = min(wanted, int(SHARE * (study.max_experiments - first + 1)) // options.replicates)
    return wanted


def _that_fit(factors: Sequence[Factor], runs: int, options: Options) -> tuple[tuple[int, ...], ...]:
    """The levels that so many runs tell apart: the last levels go first, then the last factors."""
    ideas = [factor.levels[: options.levels] for factor in factors[: options.factors]]
    while ideas and smallest(tuple(map(len, ideas))) > runs:
        most = max(map(len, ideas))
        last = max(i for i, levels in enumerate(ideas) if len(levels) == most)
        if most > 1:
            ideas[last] = ideas[last][:-1]
        else:
            del ideas[last]
    return tuple(ideas)


def _apart(study: Study, ideas: Sequence[Sequence[int]]) -> frozenset[Pair]:
    """Levels of different factors that set one constant to different values: no cell can hold both."""
    places = [
        (f, i, study.ideas[idea].constants)
        for f, levels in enumerate(ideas)
        for i, idea in enumerate(levels, 1)
    ]
    return frozenset(
        ((a, i), (b, j))
        for (a, i, ours), (b, j, theirs) in combinations(places, 2)
        if a != b and any(theirs.get(name, value) != value for name, value in ours.items())
    )


# ---- How far it is ------------------------------------------------------------------------------


@frozen(kw_only=True)
class Progress:
    """What has become of a design's cells."""

    run: tuple[Levels, ...]
    """Accepted, whatever came of it."""
    refused: frozenset[Levels]
    failed: tuple[Levels, ...]
    """Ended without a value."""
    succeeded: tuple[Levels, ...]
    open: bool
    """Whether a cell is under way."""

    @property
    def suspects(self) -> frozenset[Pair]:
        """Pairs of levels that do not go together, as far as it is known; one that fails alone is a pair with
        itself.

        Of a refused cell, every pair that no accepted cell has had together may be to blame.
        """
        merged = {pair for cell in self.run for pair in _pairs(cell)}
        return self.causes | {pair for cell in self.refused for pair in _pairs(cell) if pair not in merged}

    @property
    def good(self) -> tuple[Levels, ...]:
        """What has run, or may yet."""
        return tuple(cell for cell in self.run if cell not in self.failed)

    @property
    def causes(self) -> frozenset[Pair]:
        """What explains the failures best: levels before pairs, and nothing that another cell ran with.

        The cause of most failures first, then that of most of the rest (greedy set cover). Nothing is blamed
        while several explain as many: cells to come will tell them apart.
        """
        good = {pair for cell in self.succeeded for pair in _pairs(cell)}
        left = [[pair for pair in _pairs(cell) if pair not in good] for cell in self.failed]
        found: set[Pair] = set()
        while left:
            counts = Counter(pair for pairs in left for pair in pairs)
            most = max(counts.values(), default=0)
            leaders = [pair for pair, count in counts.items() if count == most]
            leaders = [pair for pair in leaders if pair[0] == pair[1]] or leaders
            if most < FAILURES or len(leaders) > 1:
                break
            found.add(leaders[0])
            left = [pairs for pairs in left if leaders[0] not in pairs]
        return frozenset(found)


def _pairs(cell: Levels) -> list[Pair]:
    there = [(f, level) for f, level in enumerate(cell) if level]
    return [*((one, one) for one in there), *combinations(there, 2)]


def progress(study: Study, design: Design) -> Progress:
    """What has become of the design's own cells and of those that were run in place of others."""
    run: dict[Levels, None] = {}
    failed: dict[Levels, None] = {}
    succeeded: dict[Levels, None] = {}
    is_open = False
    for number in study.by_round(design.label):
        experiment = study.experiments[number]
        cell = levels_of(design.ideas, experiment.ideas)
        if experiment.role is not Role.CELL:
            is_open |= experiment.state is not ExperimentState.ENDED
            continue
        run[cell] = None
        if experiment.state is not ExperimentState.ENDED:
            is_open = True
        elif study.group_of(experiment).n:
            succeeded[cell] = None
        else:
            failed[cell] = None
    refused = frozenset(
        cell for cell in design.rows if (design.parent, design.chosen(cell)) in study.refusals
    )
    return Progress(
        run=tuple(run), refused=refused, failed=tuple(failed), succeeded=tuple(succeeded), open=is_open
    )


def cells_to_run(study: Study, design: Design, there: Progress, options: Options) -> Iterator[Plan]:
    """The cells that are still to be run, then those in place of cells that could not be, then replicates."""
    wanted = [cell for cell in design.rows if any(cell)]
    causes = there.causes
    left = [c for c in wanted if c not in there.run and c not in there.refused and not _is_suspect(c, causes)]
    is_complete = not left and len(there.succeeded) + len(there.failed) >= len(wanted)
    more = len(wanted) if is_complete and _is_unexplained(study, design) else 0
    for cell in left or _in_place_of(study, design, there, len(wanted) + more):
        yield Plan(parent=design.parent, ideas=design.chosen(cell), role=Role.CELL, round=design.label)
    if options.replicates > 1:
        yield from _replicates(study, design, options)


def _is_unexplained(study: Study, design: Design) -> bool:
    """Whether a cell reads better than the model says by more than the noise allows.

    Then a design is augmented with as many cells again, which tell apart what it has aliased (Montgomery,
    Design and Analysis of Experiments, 8th ed., section 8.5).
    """
    read = read_design(study, design.label)
    known = None if read is None else noise(study, read.tier)
    if read is None or known is None or len(read.cells) < FEWEST:
        return False
    return _misfit(read.axes, read.cells, study.objective, _rounded(known), study.rule.alpha) > MISFIT


@lru_cache(maxsize=64)
def _misfit(
    axes: tuple[Axis, ...], cells: tuple[Cell, ...], objective: Objective, known: Noise | None, alpha: float
) -> float:
    """By how much a cell reads better than the model says, at most, in standard deviations of a run."""
    fitted = fit(axes, cells, objective=objective, known=known, alpha=alpha)
    gains = _observed(cells, objective)
    expected = fitted.predict([cell.levels for cell in cells])
    middle = math.fsum(expected) / len(expected)
    worst = max(gains[cell.levels] - (e - middle) for cell, e in zip(cells, expected, strict=True))
    return worst / known.sigma if known is not None and known.sigma > 0 else 0.0


def _in_place_of(study: Study, design: Design, there: Progress, wanted: int) -> list[Levels]:
    """Cells that tell the most beside those that ran, as many as are missing, without what went wrong."""
    missing = wanted - len(there.run)
    if missing <= 0:
        return []
    pool = candidates(design.grid, design.seed)
    refused = {cell for cell in pool if (design.parent, design.chosen(cell)) in study.refusals}
    there = evolve(there, refused=there.refused | refused)
    if len(refused) > 4 * wanted:
        return []
    suspects = there.suspects
    never = frozenset(
        cell
        for cell in pool
        if cell in refused or cell in there.failed or not any(cell) or _is_suspect(cell, suspects)
    )
    return _augmented(design.grid, there.good, missing, design.seed, design.apart, never)


@lru_cache(maxsize=64)
def _augmented(
    grid: tuple[int, ...],
    run: tuple[Levels, ...],
    missing: int,
    seed: str,
    apart: frozenset[Pair],
    never: frozenset[Levels],
) -> list[Levels]:
    return augment(grid, run, missing, seed, apart, never)


def _is_suspect(cell: Levels, suspects: frozenset[Pair]) -> bool:
    return not suspects.isdisjoint(_pairs(cell))


def _replicates(study: Study, design: Design, options: Options) -> Iterator[Plan]:
    """Further runs of the cells that ran, the next one of every cell before the one after it."""
    cells = [study.experiments[number] for number in study.by_round(design.label)]
    cells = [cell for cell in cells if cell.role is Role.CELL and (cell.commit, ()) not in study.refusals]
    for runs in range(1, options.replicates):
        for cell in cells:
            group = study.group_of(cell)
            if not group.failed and len(group.experiments) <= runs:
                yield Plan(
                    parent=cell.commit,
                    role=Role.REPLICATE,
                    tier=cell.tier,
                    round=design.label,
                    title=f"again: {cell.title}",
                )


# ---- What follows from it -----------------------------------------------------------------------


def is_confirmed(study: Study, design: Design, options: Options) -> bool:
    """Whether enough of its best cells have been tried, or one of them has been kept."""
    tried = [study.experiments[number] for number in study.by_round(best_label(design.label))]
    return len(tried) >= options.candidates or any(run.verdict is Verdict.KEEP for run in tried)


def best_to_confirm(study: Study, design: Design, there: Progress, options: Options) -> Iterator[Plan]:
    """The cells that are expected to be best, as candidates on the incumbent."""
    tried = {study.experiments[n].ideas for n in study.by_round(best_label(design.label))}
    missing = options.candidates - len(tried)
    for gain, cell in _ranked(study, design, there)[: MOST_TRIES + options.candidates]:
        ideas = design.chosen(cell)
        if missing > 0 and ideas not in tried and not _was_judged(study, ideas):
            missing -= 1
            yield Plan(
                parent=study.incumbent_commit,
                ideas=ideas,
                round=best_label(design.label),
                title=f"best of {design.label} (expected gain {gain:.3g}): {_titles(study, ideas)}",
            )


def _was_judged(study: Study, ideas: tuple[int, ...]) -> bool:
    """Whether these ideas were a candidate on the incumbent, or were refused there; a cell is not judged."""
    parent = study.incumbent_commit
    judged = (study.experiments[n].role is Role.CANDIDATE for n in study.planned(parent, ideas))
    return any(judged) or (parent, ideas) in study.refusals


def _titles(study: Study, ideas: Sequence[int]) -> str:
    return " + ".join(study.ideas[idea].title for idea in ideas)


def _ranked(study: Study, design: Design, there: Progress) -> list[tuple[float, Levels]]:
    """(expected gain, cell) of what is worth confirming, in the order in which to try it."""
    read = read_design(study, design.label)
    if read is None or len(read.cells) < 2:
        return []
    known = noise(study, read.tier)
    never = there.suspects | design.apart
    found = _expected(
        read.axes,
        read.cells,
        study.objective,
        _rounded(known),
        study.rule.alpha,
        read.ideas,
        design.ideas,
        never,
        design.seed,
    )
    return list(found)


def _rounded(known: Noise | None) -> Noise | None:
    """The noise to two digits, so that what was worked out once holds while it hardly changes."""
    if known is None:
        return None
    df = next(step for step in (*range(1, 9), 12, 16, 24, 32, 48, 64, 10**9) if known.df <= step)
    return Noise(sigma=float(f"{known.sigma:.2g}"), df=min(df, known.df if df < 9 else 64))


@lru_cache(maxsize=64)
def _expected(
    axes: tuple[Axis, ...],
    cells: tuple[Cell, ...],
    objective: Objective,
    known: Noise | None,
    alpha: float,
    read: tuple[tuple[int, ...], ...],
    ideas: tuple[tuple[int, ...], ...],
    never: frozenset[Pair],
    seed: str,
) -> tuple[tuple[float, Levels], ...]:
    """The best cell by the whole model first, then that by main effects alone, then the others."""
    fitted = fit(axes, cells, objective=objective, known=known, alpha=alpha)
    pool = [cell for cell in _all_cells(ideas, seed) if any(cell) and not _is_suspect(cell, never)]
    if not pool:
        return ()
    seen = [levels_of(read, _ideas_of(ideas, cell)) for cell in pool]
    whole = fitted.predict(seen)
    mains = fitted.predict(seen, interactions=False)
    # Of cells that are expected to be the same, the one with the fewest ideas.
    order = sorted(range(len(pool)), key=lambda i: (-whole[i], sum(map(bool, pool[i])), pool[i]))
    simple = min(range(len(pool)), key=lambda i: (-mains[i], sum(map(bool, pool[i])), pool[i]))
    # What a cell has read counts whatever a model makes of it, which may be aliased.
    gains = _observed(cells, objective)
    best = max(range(len(pool)), key=lambda i: gains.get(seen[i], -math.inf))
    promise = {best: gains.get(seen[best], 0.0), simple: mains[simple]}
    chosen = dict.fromkeys([order[0], best, simple, *order[1 : MOST_TRIES * 2]])
    return tuple((whole[i], pool[i]) for i in chosen if max(whole[i], promise.get(i, 0.0)) > 0)


def _observed(cells: Sequence[Cell], objective: Objective) -> dict[Levels, float]:
    """The gain of each cell that has run over the mean of its block, by what it read."""
    blocks: dict[str, list[Cell]] = {}
    for cell in cells:
        blocks.setdefault(cell.block, []).append(cell)
    means = {block: math.fsum(cell.mean for cell in some) / len(some) for block, some in blocks.items()}
    return {cell.levels: objective.gain(means[cell.block], cell.mean) for cell in cells}


def _ideas_of(ideas: Sequence[Sequence[int]], cell: Levels) -> tuple[int, ...]:
    return tuple(ideas[f][level - 1] for f, level in enumerate(cell) if level)


def _all_cells(ideas: Sequence[Sequence[int]], seed: str) -> Sequence[Levels]:
    """The grid; of one that is too large, the cells among which designs are sought."""
    sizes = [1 + len(levels) for levels in ideas]
    if math.prod(sizes) > MOST_CELLS:
        return candidates(tuple(size - 1 for size in sizes), seed)
    return list(product(*map(range, sizes)))
