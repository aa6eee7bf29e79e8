"""Nodes that are broken, slow or off: noticed by comparing what ran there with what ran elsewhere.

A node is what a backend can do without: a host, a GPU, a cluster (`Backend.node_of`). Only the last runs of
each count, so that a node that breaks after a day is noticed as soon as one that never worked, and so that
the cost is the same at any size. What is compared is robust on purpose: an idea that crashes, or that is
slow, is no fault of the machine that it was tried on.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING, Any

from attrs import asdict, define, evolve, field, frozen

from arf.engine.monitor import Monitor, Use
from arf.status.tier_stats import pace
from arf.study import Study
from arf.types import Experiment, JobState, Verdict

if TYPE_CHECKING:
    from arf.interfaces import Backend
    from arf.store.database import Store

log = logging.getLogger(__name__)

KEY = "nodes"
WINDOW = 20
"""So many of a node's last runs count."""
LEVEL = 0.002
"""A node is suspected where chance would do as badly with at most this probability, Bonferroni-corrected for
the nodes of its tier. It is looked at after each run, so that a study makes many such tests."""
DOUBT = 0.05
"""A crash on a node that does worse than the others at this level is run again: it may be the node's."""
MIN_FAILURES = 3
SHARE = 1 / 3
"""A node does not fail unless this share of its runs does."""
MIN_RUNS = 5
"""Runs of a node, and elsewhere, before its speed or its objective is judged."""
SLOWER = 1.25
"""A node is not slow unless its runs take so many times as long."""
OFF = 2.0
"""A node is not off unless its readings differ by so many standard deviations of those elsewhere."""
NORMAL = 1.4826
"""A standard deviation is so many median absolute deviations, of a normal distribution: an estimate that a
few wild values do not move (Hampel, JASA 69, 1974)."""
COMPARED = 8
"""A run is compared with at most so many others."""
REMEMBERED = 256
"""Trees that have crashed and of which it is open whose fault that is."""

Key = tuple[str, str, float | None]
"""(tree, tier, budget), as the groups of a study have it."""


@frozen(kw_only=True)
class Suspect:
    """A node that does worse than the others of its tier."""

    node: str
    tier: str
    why: str
    """In one line for people, such as `4 of 5 of its runs failed, elsewhere 2 of 60`."""
    is_aside: bool = False
    """Whether the backend gives it no more jobs; if not, somebody has to take it out by hand."""


@define
class _Node:
    """The last runs of a node, the newest last."""

    failed: list[bool] = field(factory=list)
    """Whether each run failed by the node's fault: lost, or crashed with code that works elsewhere."""
    crashed: list[bool] = field(factory=list)
    """Whether each run failed, whoever's fault it was."""
    slow: list[float] = field(factory=list)
    """How many times as long as its parent each run took for the same work."""
    off: list[float] = field(factory=list)
    """How much better than its parent's the objective of each change was, in its units."""
    off_again: list[float] = field(factory=list)
    """The same for runs of code that had run before. Not mixed: who gets which kind is not left to chance."""


class Nodes:
    """What is known of the nodes of a study."""

    def __init__(
        self, study: Study, node_of: Callable[[str], str], told: Mapping[str, Any] | None = None
    ) -> None:
        """`node_of` gives the node of a slot; `told` is what `to_json` gave in an earlier process."""
        self._study = study
        self._node_of = node_of
        self._tiers: dict[str, dict[str, _Node]] = {}
        self._crashes: dict[Key, list[str]] = {}
        """Where a tree has crashed that has not run well anywhere yet."""
        self._news: set[tuple[str, str]] = set()
        """(tier, node) of which something was learnt that has not been looked at."""
        self.reported: list[Suspect] = []
        """Those that were reported, in order, whether the backend could do without them or not."""
        if told:
            self._read(told)

    # ---- What happens -----------------------------------------------------------------------

    def take(self, run: Experiment) -> None:
        """Count a run that has ended; one that is to be run again, before that. The study knows it already,
        or never will."""
        name = self._node_of(run.slot)
        if not name or run.job_state in (None, JobState.PREEMPTED):
            return
        key = (run.tree, run.tier, run.budget)
        node = self._learn_of(run.tier, name)
        if run.job_state is JobState.LOST:
            _add(node.failed, True)
            _add(node.crashed, True)
        elif run.job_state is JobState.FAILED or run.verdict in (Verdict.CRASH, Verdict.TIMEOUT):
            _add(node.crashed, True)
            self._take_crash(key, name, node)
        elif run.job_state is JobState.SUCCEEDED:
            _add(node.failed, False)
            _add(node.crashed, False)
            for guilty in self._crashes.pop(key, ()):
                _add(self._learn_of(run.tier, guilty).failed, True)
            self._compare(run, node)

    def is_doubtful(self, run: Experiment) -> bool:
        """Whether the crash of a run may be its node's fault, so that it should be run again.

        Not if the same code has crashed on another node, or ran nowhere but there.
        """
        name = self._node_of(run.slot)
        if not name:
            return False
        crashes = self._crashes.get((run.tree, run.tier, run.budget), ())
        if any(other != name for other in crashes):
            return False
        if self.is_reported(run):
            return True
        here = self._node(run.tier, name).crashed
        elsewhere = [crashed for _, node in self._others(run.tier, name) for crashed in node.crashed]
        return sum(here) > 1 and _tail(sum(here), len(here), sum(elsewhere), len(elsewhere)) <= DOUBT

    def is_reported(self, run: Experiment) -> bool:
        """Whether a run was on a node that was reported."""
        return any((one.node, one.tier) == (self._node_of(run.slot), run.tier) for one in self.reported)

    def report(self, suspect: Suspect) -> None:
        """Note that a suspect was reported: it is not suspected again, and nothing is compared with it."""
        self.reported.append(suspect)

    def note_aside(self, suspect: Suspect, is_aside: bool) -> None:
        """Note what the backend has done about a suspect that was reported."""
        self.reported[self.reported.index(suspect)] = evolve(suspect, is_aside=is_aside)

    @property
    def knows_any(self) -> bool:
        """Whether any run has been on a node that can be told from others."""
        return bool(self._tiers)

    # ---- What follows -----------------------------------------------------------------------

    def suspects(self) -> list[Suspect]:
        """The nodes that do worse than the others of their tier, and have not been reported.

        Of those of which something was learnt since the last call, so that a call costs as much with many.

        Never so many that more than half of a tier's nodes would be reported: if most nodes are slow, that
        is how fast they are.
        """
        found = []
        news, self._news = self._news, set()
        for tier in sorted({tier for tier, _ in news}):
            nodes = self._tiers[tier]
            room = len(nodes) // 2 - sum(one.tier == tier for one in self.reported)
            here = self._in_use(tier)
            if room < 1 or len(here) < 2:
                continue
            level = LEVEL / len(here)
            judged = [
                (*self._worst(tier, name, node, level), name) for name, node in here if (tier, name) in news
            ]
            for _, why, name in sorted(one for one in judged if one[1])[:room]:
                found.append(Suspect(node=name, tier=tier, why=why))
        return found

    def _worst(self, tier: str, name: str, node: _Node, level: float) -> tuple[float, str]:
        """The probability of what speaks most against a node, and that in words; empty if nothing does."""
        others = [other for _, other in self._others(tier, name)]
        said = [
            _failing(node.failed, [failed for other in others for failed in other.failed]),
            _slow(node.slow, [ratio for other in others for ratio in other.slow]),
        ]
        if len(others) > 1:  # of two that differ nobody can say which one is off
            said.append(_off(node.off, [deviation for other in others for deviation in other.off]))
            again = [deviation for other in others for deviation in other.off_again]
            said.append(_off(node.off_again, again))
        return min((one for one in said if one[0] <= level), default=(1.0, ""))

    # ---- Inside -----------------------------------------------------------------------------

    def _learn_of(self, tier: str, name: str) -> _Node:
        self._news.add((tier, name))
        return self._node(tier, name)

    def _node(self, tier: str, name: str) -> _Node:
        return self._tiers.setdefault(tier, {}).setdefault(name, _Node())

    def _in_use(self, tier: str) -> list[tuple[str, _Node]]:
        out = {one.node for one in self.reported if one.tier == tier}
        return [(name, node) for name, node in self._tiers.get(tier, {}).items() if name not in out]

    def _others(self, tier: str, name: str) -> list[tuple[str, _Node]]:
        return [(other, node) for other, node in self._in_use(tier) if other != name]

    def _take_crash(self, key: Key, name: str, node: _Node) -> None:
        group = self._study.group(*key)
        if group is not None and group.n:
            _add(node.failed, True)
            return
        crashes = self._crashes.setdefault(key, [])
        if name not in crashes:
            crashes.append(name)
        while len(self._crashes) > REMEMBERED:
            del self._crashes[next(iter(self._crashes))]

    def _compare(self, run: Experiment, node: _Node) -> None:
        """Compare a run with its parent's runs; a replicate has its own code as its parent.

        Wherever those ran: with a reference of its own for each node, the error of the reference would look
        like a difference between nodes.
        """
        parent = self._study.group_at(run.parent, run.tier, run.budget)
        if parent is None:
            return
        experiments = (self._study.experiments[number] for number in parent.experiments if number != run.id)
        others = list(islice((one for one in experiments if one.value is not None), COMPARED))
        if ratios := [ratio for other in others if (ratio := pace(run, other)) is not None]:
            _add(node.slow, median(ratios))
        if run.value is not None and run.budget is None and others:
            usual = median(other.value or 0.0 for other in others)
            window = node.off_again if run.tree == parent.tree else node.off
            _add(window, self._study.objective.gain(usual, run.value))

    # ---- To the next process ----------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """What the next process must know; `aside` is what people want to know."""
        return {
            "aside": [asdict(suspect) for suspect in self.reported],
            "nodes": {
                tier: {name: asdict(node) for name, node in nodes.items()}
                for tier, nodes in self._tiers.items()
            },
            "crashes": [[*key, nodes] for key, nodes in self._crashes.items()],
        }

    def _read(self, told: Mapping[str, Any]) -> None:
        self.reported = [Suspect(**fields) for fields in told["aside"]]
        for tier, nodes in told["nodes"].items():
            self._tiers[tier] = {name: _Node(**fields) for name, fields in nodes.items()}
        self._crashes = {(tree, tier, budget): list(nodes) for tree, tier, budget, nodes in told["crashes"]}


def _add(window: list[Any], value: Any) -> None:
    window.append(value)
    del window[:-WINDOW]


# ---- The tests --------------------------------------------------------------------------------------


def _failing(here: Sequence[bool], elsewhere: Sequence[bool]) -> tuple[float, str]:
    k, n, other_k, other_n = sum(here), len(here), sum(elsewhere), len(elsewhere)
    if k < MIN_FAILURES or k < SHARE * n or not other_n:
        return 1.0, ""
    return _tail(k, n, other_k, other_n), f"{k} of {n} of its runs failed, elsewhere {other_k} of {other_n}"


def _slow(here: Sequence[float], elsewhere: Sequence[float]) -> tuple[float, str]:
    if min(len(here), len(elsewhere)) < MIN_RUNS:
        return 1.0, ""
    ratio = median(here) / median(elsewhere)
    if ratio < SLOWER:
        return 1.0, ""
    return rank_tail(
        here, elsewhere
    ), f"its runs take {ratio:.2g} times as long as elsewhere ({len(here)} runs)"


def _off(here: Sequence[float], elsewhere: Sequence[float]) -> tuple[float, str]:
    if min(len(here), len(elsewhere)) < MIN_RUNS:
        return 1.0, ""
    middle = median(elsewhere)
    scatter = NORMAL * median(abs(deviation - middle) for deviation in elsewhere)
    distance = median(here) - middle
    if abs(distance) <= OFF * scatter:
        return 1.0, ""
    p = rank_tail(here, elsewhere) if distance > 0 else rank_tail(elsewhere, here)
    word = "better" if distance > 0 else "worse"
    return 2 * p, f"its readings are {abs(distance):.2g} {word} than elsewhere ({len(here)} runs)"


def _tail(k: int, n: int, other_k: int, other_n: int) -> float:
    """Fisher's exact test, one-sided (Fisher 1935): the chance that of `k + other_k` failures `k` or more are
    among these `n` of `n + other_n` runs, if they fell at random."""
    failures, runs = k + other_k, n + other_n
    ways = sum(
        math.comb(failures, i) * math.comb(runs - failures, n - i) for i in range(k, min(n, failures) + 1)
    )
    return ways / math.comb(runs, n)


def rank_tail(high: Sequence[float], low: Sequence[float]) -> float:
    """The chance that values like `low` would rank as far under values like `high` if both were alike.

    Mann and Whitney's U (Annals of Mathematical Statistics 18, 1947), one-sided, by the normal approximation
    with the corrections for continuity and for ties. With the 5 and more values on each side that it is used
    for it errs on the safe side far out in the tail.
    """
    n, m = len(high), len(low)
    ranked = sorted(low)
    wins = sum((bisect_left(ranked, value) + bisect_right(ranked, value)) / 2 for value in high)
    ties = sum(count**3 - count for count in Counter([*high, *low]).values())
    variance = n * m / 12 * (n + m + 1 - ties / ((n + m) * (n + m - 1)))
    if variance <= 0:
        return 1.0
    return 0.5 * math.erfc((wins - n * m / 2 - 0.5) / math.sqrt(2 * variance))


# ---- Beside a study that runs ---------------------------------------------------------------------


class NodeHealthMonitor(Monitor):
    """Has the nodes set aside that are found wanting, and says so."""

    def __init__(self, study: Study, store: Store, backend: Backend, now: Callable[[], datetime]) -> None:
        self._store = store
        self._backend = backend
        self._now = now
        self._nodes = Nodes(study, backend.node_of, store.meta(KEY))
        self._news: list[Suspect] = []
        """Those that were found in this turn."""
        self._has_changed = False

    def begin(self, elapsed_s: float, now: datetime) -> bool:
        """What an earlier process has set aside stays so."""
        done = [self._backend.set_aside(one.node, one.why) for one in self._nodes.reported]
        return any(done)

    def ended(self, run: Experiment) -> bool:
        self._nodes.take(run)
        for suspect in self._nodes.suspects():
            self._nodes.report(suspect)
            self._news.append(suspect)
        self._has_changed = self._nodes.knows_any
        return run.job_state in (JobState.FAILED, JobState.TIMED_OUT) and self._nodes.is_doubtful(run)

    def blames(self, run: Experiment) -> bool:
        return self._nodes.is_reported(run)

    def turned(self, elapsed_s: float, idle: Sequence[tuple[str, Use, int]]) -> bool:
        news, self._news = self._news, []
        done = [self._set_aside(suspect) for suspect in news]
        if self._has_changed:
            self._store.set_meta(KEY, self._nodes.to_json())
            self._has_changed = False
        return any(done)

    def _set_aside(self, suspect: Suspect) -> bool:
        is_aside = self._backend.set_aside(suspect.node, suspect.why)
        done = "set aside" if is_aside else "suspect (the backend cannot do without it: take it out by hand)"
        text = f"node {suspect.node} {done}: {suspect.why}"
        log.warning("%s", text)
        self._nodes.note_aside(suspect, is_aside)
        self._store.add_event("node", text, self._now())
        return is_aside
