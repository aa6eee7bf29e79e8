"""A study as everybody but the engine sees it: an indexed, read-only view of what has happened.

Each index is kept up as things happen, so that a decision costs the same after ten experiments and after
a hundred thousand. Only the engine calls the methods under "What the engine tells"; the store replays the
same calls to rebuild a study, which is all that a resume is.
"""

from __future__ import annotations

import math
import random
from bisect import insort
from collections.abc import Iterable, Mapping
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from attrs import define, field

from arf.types import (
    Ask,
    Claim,
    ClaimPlan,
    Experiment,
    ExperimentState,
    Factor,
    Idea,
    NoiseRule,
    Objective,
    Order,
    Role,
    Scalar,
    Tier,
    Usage,
    Verdict,
)

if TYPE_CHECKING:
    from arf.workspace.constants import Constant

K = TypeVar("K")
V = TypeVar("V")


@define
class Group:
    """The counted runs of one tree on one tier with one budget: replicates of each other."""

    commit: str
    tree: str
    tier: str
    budget: float | None
    experiments: list[int] = field(factory=list)
    """All of them, whatever their state, in the order in which they were accepted."""
    values: list[float] = field(factory=list)
    """The objective of those that count, in the order in which they ended."""
    mean: float = 0.0
    sum_squares: float = 0.0
    """Sum of squared deviations from the mean (Welford 1962)."""
    running: int = 0
    """How many were accepted and have not ended."""

    @property
    def n(self) -> int:
        """How many runs there are."""
        return len(self.values)

    @property
    def failed(self) -> int:
        """How many ended without a value that counts."""
        return len(self.experiments) - self.n - self.running

    def add(self, value: float) -> float:
        """Count a value; returns by how much the sum of squares grew."""
        self.values.append(value)
        delta = value - self.mean
        self.mean += delta / self.n
        grown = delta * (value - self.mean)
        self.sum_squares += grown
        return grown


@define
class Spread:
    """Within-group sums over a tier and budget, from which the noise is estimated."""

    sum_squares: float = 0.0
    df: int = 0
    """Degrees of freedom: counted runs less the groups that they are in."""


GroupKey = tuple[str, str, float | None]

NEAR_MISSES = 16
"""How many discarded candidates are remembered as nearly better than their parent."""
LEADERS = 32
"""How many groups are remembered as those with the best means on a tier."""
STALE = 64
"""How many discarded candidates are remembered as made from an older incumbent."""


class Study:
    """What has happened in a study. All mappings are live and must not be changed."""

    def __init__(
        self,
        *,
        name: str,
        base: str,
        base_tree: str,
        objective: Objective | None = None,
        seed: int = 0,
        rule: NoiseRule | None = None,
        tiers: Iterable[Tier] = (),
        max_experiments: int | None = None,
    ) -> None:
        self.name = name
        self.base = base
        """The commit that the study began with."""
        self.base_tree = base_tree
        self.objective = objective or Objective()
        self.seed = seed
        self.rule = rule or NoiseRule()
        self.tiers: tuple[Tier, ...] = tuple(tiers)
        """The preferred one first."""
        self.max_experiments = max_experiments
        self.constants: Mapping[str, Constant] = {}
        """The constants of the base's editable files that can be set by name; empty until the engine runs."""
        self.happened = 0
        """Counts everything that has happened; the same for the same history."""
        self.incumbent_commit = base
        self.incumbent_tree = base_tree
        self.incumbent_experiment: int | None = None
        """The first run of the incumbent; None until one has been accepted."""
        self.kept: list[int] = []
        """The first runs of all incumbents so far, in order, the baseline's included. One that was replaced
        and came back is there again."""
        self.first_open = 1
        """The first candidate that was not yet judged when the incumbent was kept: from it on, candidates
        are compared with this incumbent."""
        self.claim_plans: dict[int, ClaimPlan] = {}
        """Every claim that was begun, by its number."""
        self.claims: dict[int, Claim | None] = {}
        """What came of those that are complete; None where nothing could be measured."""
        self.stale: list[int] = []
        """Candidates that did better than their parent and are not in the incumbent, because it was replaced
        meanwhile: discarded ones, and kept ones that another was kept over. Oldest first, at most `STALE`.
        One whose ideas were tried on an incumbent leaves with it."""
        self.near_misses: list[tuple[float, int]] = []
        """Discarded candidates of one idea that did better than their parent, as (minus the gain in units of
        the noise, experiment), best first, at most `NEAR_MISSES`."""
        self.usage = Usage()
        self.closed_asks = 0
        self._experiments: dict[int, Experiment] = {}
        self._ideas: dict[int, Idea] = {}
        self._setters: dict[tuple[str, type[Scalar], Scalar], int] = {}
        self._factors: dict[int, list[Factor]] = {}
        self._asks: dict[int, Ask] = {}
        self._refusals: dict[tuple[str, tuple[int, ...]], str] = {}
        self._groups: dict[GroupKey, Group] = {}
        self._spread: dict[tuple[str, float | None], Spread] = {}
        self._running: dict[int, None] = {}
        self._undecided: dict[int, None] = {}
        self._untried: dict[int, None] = {}
        self._planned: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        self._by_idea: dict[int, list[int]] = {}
        self._rounds: dict[str, list[int]] = {}
        self._verdicts: dict[Verdict, int] = {}
        self._slot_s: dict[str, float] = {}
        self._exhausted: set[str] = set()
        self._waiting: dict[int, Order] = {}
        self._running_on: dict[str, int] = {}
        self._by_role: dict[Role, list[int]] = {role: [] for role in Role}
        self._trees = {base: base_tree}
        self._first: dict[str, int] = {}
        """The first experiment of each commit."""
        self._origins: dict[str, int] = {}
        self._children: dict[str, int] = {}
        self._leaders: dict[str, list[tuple[float, str]]] = {}

    # ---- What anybody asks ------------------------------------------------------------------

    @property
    def experiments(self) -> Mapping[int, Experiment]:
        """Every experiment by its id, in order."""
        return MappingProxyType(self._experiments)

    @property
    def ideas(self) -> Mapping[int, Idea]:
        """Every idea by its id, in order."""
        return MappingProxyType(self._ideas)

    def idea_that_sets(self, name: str, value: Scalar) -> int | None:
        """The first idea that sets this constant to this value and does nothing else, if there is one."""
        return self._setters.get((name, type(value), value))

    @property
    def untried(self) -> Iterable[int]:
        """Ideas that no experiment has used and no refusal names, oldest first."""
        return self._untried.keys()

    @property
    def untried_count(self) -> int:
        """How many ideas no experiment has applied yet."""
        return len(self._untried)

    @property
    def open_asks(self) -> Mapping[int, Ask]:
        """Asks that were made and not yet answered, by their id."""
        return MappingProxyType(self._asks)

    @property
    def refusals(self) -> Mapping[tuple[str, tuple[int, ...]], str]:
        """Plans that could not be run, as (parent, ideas), and why."""
        return MappingProxyType(self._refusals)

    @property
    def running(self) -> Iterable[int]:
        """Experiments that were accepted and have not ended."""
        return self._running.keys()

    @property
    def running_count(self) -> int:
        """How many experiments were accepted and have not ended."""
        return len(self._running)

    def running_on(self, tier: str) -> int:
        """How many experiments were accepted on a tier and have not ended."""
        return self._running_on.get(tier, 0)

    @property
    def waiting(self) -> Mapping[int, Order]:
        """Orders of agents and people that still wait for a slot, by their id, oldest first."""
        return MappingProxyType(self._waiting)

    @property
    def waiting_runs(self) -> int:
        """How many runs the waiting orders still want."""
        return sum(order.runs_left for order in self._waiting.values())

    @property
    def undecided(self) -> Iterable[int]:
        """Experiments that have ended and wait for their verdict."""
        return self._undecided.keys()

    @property
    def verdicts(self) -> Mapping[Verdict, int]:
        """How many experiments have each verdict."""
        return MappingProxyType(self._verdicts)

    @property
    def slot_s(self) -> Mapping[str, float]:
        """Seconds of slot time used so far, by tier."""
        return MappingProxyType(self._slot_s)

    def factors(self, ask: int) -> tuple[Factor, ...]:
        """The factors that answered an ask; empty while it is open."""
        return tuple(self._factors.get(ask, ()))

    def all_factors(self) -> Mapping[int, list[Factor]]:
        """Factors by the ask that they answered, oldest first."""
        return MappingProxyType(self._factors)

    def last_factors(self, n: int) -> list[int]:
        """The last `n` asks that factors answered, the newest first."""
        return list(islice(reversed(self._factors), n))

    def exhausted(self, base: str) -> bool:
        """Whether the agent has said that it has nothing more for this base."""
        return base in self._exhausted

    def by_role(self, role: Role) -> list[int]:
        """Experiments with a role, in order. Do not change the list."""
        return self._by_role[role]

    def by_round(self, label: str) -> list[int]:
        """Experiments that a strategy labelled so, in order. Do not change the list."""
        return self._rounds.get(label, [])

    def planned(self, parent: str, ideas: tuple[int, ...]) -> list[int]:
        """Experiments that were made by applying these ideas to this parent. Do not change the list."""
        return self._planned.get((parent, ideas), [])

    def with_idea(self, idea: int) -> list[int]:
        """Experiments that applied an idea, by itself or with others, in order. Do not change the list.

        Those that run a commit again apply none.
        """
        return self._by_idea.get(idea, [])

    def group(self, tree: str, tier: str, budget: float | None = None) -> Group | None:
        """The runs of a tree on a tier; None if there is none."""
        return self._groups.get((tree, tier, budget))

    def group_of(self, experiment: Experiment) -> Group:
        """The group that an experiment belongs to."""
        return self._groups[(experiment.tree, experiment.tier, experiment.budget)]

    def incumbent_group(self, tier: str, budget: float | None = None) -> Group | None:
        """The runs of the incumbent on a tier; None if there is none."""
        return self.group(self.incumbent_tree, tier, budget)

    def baseline_group(self, tier: str, budget: float | None = None) -> Group | None:
        """The runs of the unchanged script on a tier; None if there is none."""
        return self.group(self.base_tree, tier, budget)

    def group_at(self, commit: str, tier: str, budget: float | None = None) -> Group | None:
        """The runs of a commit that is the base or was an experiment's; None if there is none."""
        tree = self._trees.get(commit)
        return None if tree is None else self.group(tree, tier, budget)

    def origin(self, commit: str) -> Experiment | None:
        """The first experiment that ran a commit; None for the base before its run, and for unknown ones."""
        number = self._origins.get(commit)
        return None if number is None else self._experiments[number]

    def children(self, commit: str) -> int:
        """How many experiments have applied ideas to a commit."""
        return self._children.get(commit, 0)

    def lineage(self, commit: str) -> tuple[int, ...]:
        """The ideas that lead from the base to a commit, in the order in which they were applied."""
        steps: list[tuple[int, ...]] = []
        while commit != self.base and (origin := self.origin(commit)) is not None:
            steps.append(origin.ideas)
            commit = origin.parent
        return tuple(dict.fromkeys(idea for ideas in reversed(steps) for idea in ideas))

    def leaders(self, tier: str) -> list[Group]:
        """The groups with the best means on a tier at full budget, best first, at most `LEADERS`."""
        return [self._groups[tree, tier, None] for _, tree in self._leaders.get(tier, ())]

    def tree_of(self, commit: str) -> str | None:
        """The tree of a commit that is the base or was an experiment's; None for others."""
        return self._trees.get(commit)

    def has_commit(self, commit: str) -> bool:
        """Whether a commit is the base or was an experiment's."""
        return commit in self._trees

    def spread(self, tier: str, budget: float | None = None) -> Spread:
        """Within-group spread of the objective on a tier: `sum_squares / df` is its variance."""
        return self._spread.get((tier, budget)) or Spread()

    def tier(self, name: str) -> Tier:
        """The tier of that name. Raises KeyError."""
        for tier in self.tiers:
            if tier.name == name:
                return tier
        raise KeyError(name)

    def random(self) -> random.Random:
        """A source of randomness that is the same for the same history."""
        return random.Random(f"{self.seed}/{self.happened}")

    def run_seed(self, run: int) -> int:
        """The seed (0 to 2**31 - 1) of run number `run` (from 0) of every commit.

        All commits share it, so that a first look at two of them differs by the change more than by the
        seed (common random numbers), while their replicates differ.
        """
        return random.Random(f"{self.seed}/run/{run}").randrange(2**31)

    def settings(self, experiment: Experiment) -> Mapping[str, Scalar]:
        """The value of each constant that an experiment ran with: the base's, then what its ideas have set.

        Changes of code are not looked into, so a constant that one of them sets keeps the value from before.
        Empty for a study that no engine runs, as the base's constants are read from the workspace.
        """
        values = {n: c.value for n, c in self.constants.items() if not isinstance(c.value, tuple)}
        chain = [experiment]
        while (before := self._first.get(chain[-1].parent)) is not None and before != chain[-1].id:
            chain.append(self._experiments[before])
        for one in reversed(chain):
            for idea in one.ideas:
                values |= {n: v for n, v in self._ideas[idea].constants.items() if n in values}
        return values

    # ---- What the engine tells --------------------------------------------------------------

    def add_idea(self, idea: Idea) -> None:
        """Record a new idea. Only the engine does."""
        self._ideas[idea.id] = idea
        self._untried[idea.id] = None
        if len(idea.constants) == 1:
            ((name, value),) = idea.constants.items()
            self._setters.setdefault((name, type(value), value), idea.id)
        self.happened += 1

    def add_factor(self, factor: Factor) -> None:
        """Record a new factor. Only the engine does."""
        self._factors.setdefault(factor.ask, []).append(factor)
        self.happened += 1

    def open_ask(self, ask_id: int, ask: Ask) -> None:
        """Record that an agent was asked. Only the engine does."""
        self._asks[ask_id] = ask
        self.happened += 1

    def close_ask(self, ask_id: int, usage: Usage, exhausted: bool) -> None:
        """Record the end of an ask and its cost. Only the engine does."""
        ask = self._asks.pop(ask_id)
        if exhausted:
            self._exhausted.add(ask.base)
        self.usage = self.usage + usage
        self.closed_asks += 1
        self.happened += 1

    def put_order(self, order: Order) -> None:
        """Record an order that is new or has changed. Its ideas are spoken for: no strategy need try them."""
        for idea in order.plan.ideas:
            self._untried.pop(idea, None)
        if order.runs_left:
            self._waiting[order.id] = order
        else:
            self._waiting.pop(order.id, None)
        self.happened += 1

    def refuse(self, parent: str, ideas: tuple[int, ...], reason: str) -> None:
        """Record that a plan cannot be run, and why. Only the engine does."""
        self._refusals[(parent, ideas)] = reason
        for idea in ideas:
            self._untried.pop(idea, None)
        self.happened += 1

    def begin_claim(self, plan: ClaimPlan) -> None:
        """Record that a claim is being measured. Only the engine does."""
        self.claim_plans[plan.number] = plan
        self.happened += 1

    def complete_claim(self, number: int, claim: Claim | None) -> None:
        """Record what a claim came to. Only the engine does."""
        self.claims[number] = claim
        self.happened += 1

    def change_incumbent(self, number: int) -> None:
        """Make an experiment's commit the incumbent, though its verdict was another: evidence has changed."""
        self._set_incumbent(self._experiments[number])
        self.happened += 1

    def put(self, experiment: Experiment) -> None:
        """Record an experiment that is new or has changed."""
        old = self._experiments.get(experiment.id)
        self._experiments[experiment.id] = experiment
        self.happened += 1
        if old is None:
            self._accepted(experiment)
        if experiment.state is ExperimentState.ENDED and (
            old is None or old.state is not ExperimentState.ENDED
        ):
            self._ended(experiment)
        if experiment.verdict is not None and (old is None or old.verdict is None):
            self._judged(experiment)

    def _accepted(self, experiment: Experiment) -> None:
        self._first.setdefault(experiment.commit, experiment.id)
        key = (experiment.tree, experiment.tier, experiment.budget)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(
                commit=experiment.commit,
                tree=experiment.tree,
                tier=experiment.tier,
                budget=experiment.budget,
            )
        group.experiments.append(experiment.id)
        group.running += 1
        self._trees[experiment.commit] = experiment.tree
        if experiment.ideas:
            self._children[experiment.parent] = self._children.get(experiment.parent, 0) + 1
        self._origins.setdefault(experiment.commit, experiment.id)
        self._running[experiment.id] = None
        self._running_on[experiment.tier] = self._running_on.get(experiment.tier, 0) + 1
        self._by_role[experiment.role].append(experiment.id)
        self._planned.setdefault((experiment.parent, experiment.ideas), []).append(experiment.id)
        if experiment.round:
            self._rounds.setdefault(experiment.round, []).append(experiment.id)
        for idea in experiment.ideas:
            self._untried.pop(idea, None)
            self._by_idea.setdefault(idea, []).append(experiment.id)
        if self.incumbent_experiment is None and experiment.tree == self.incumbent_tree:
            self.incumbent_experiment = experiment.id

    def _ended(self, experiment: Experiment) -> None:
        del self._running[experiment.id]
        self._running_on[experiment.tier] -= 1
        self._undecided[experiment.id] = None
        self._slot_s[experiment.tier] = self._slot_s.get(experiment.tier, 0.0) + experiment.slot_s
        group = self.group_of(experiment)
        group.running -= 1
        if experiment.value is None:
            return
        grown = group.add(experiment.value)
        if experiment.budget is None:
            self._rank(group)
        if group.n > 1:
            key = (experiment.tier, experiment.budget)
            spread = self._spread.setdefault(key, Spread())
            spread.sum_squares += grown
            spread.df += 1

    def _judged(self, experiment: Experiment) -> None:
        verdict = experiment.verdict
        assert verdict is not None
        self._undecided.pop(experiment.id, None)
        self._verdicts[verdict] = self._verdicts.get(verdict, 0) + 1
        if verdict is Verdict.KEEP:
            self._set_incumbent(experiment)
        elif verdict is Verdict.DISCARD and experiment.role is Role.CANDIDATE:
            self._discarded(experiment)

    def _set_incumbent(self, experiment: Experiment) -> None:
        self.stale = [n for n in self.stale if not self._is_re_based(n)]
        self._bypassed(experiment)
        self.kept.append(experiment.id)
        self.incumbent_commit = experiment.commit
        self.incumbent_tree = experiment.tree
        self.incumbent_experiment = experiment.id
        self.first_open = self._first_open()

    def _rank(self, group: Group) -> None:
        """Give a group whose mean has changed its place among the leaders of its tier."""
        leaders = self._leaders.setdefault(group.tier, [])
        if group.n > 1:
            leaders[:] = [entry for entry in leaders if entry[1] != group.tree]
        insort(leaders, (-self.objective.gain(0.0, group.mean), group.tree))
        del leaders[LEADERS:]

    def _first_open(self) -> int:
        waiting = [
            number
            for numbers in (self._running, self._undecided)
            for number in numbers
            if self._experiments[number].role is Role.CANDIDATE
        ]
        return min(waiting, default=len(self._experiments) + 1)

    def _is_re_based(self, number: int) -> bool:
        return bool(self.planned(self.incumbent_commit, self._experiments[number].ideas))

    def _bypassed(self, kept: Experiment) -> None:
        """Remember what was kept since the parent of what is kept now."""
        if kept.parent != self.incumbent_commit:
            for number in reversed(self.kept[1:]):
                if self._experiments[number].commit == kept.parent:
                    break
                self._add_stale(number)

    def _add_stale(self, number: int) -> None:
        if number not in self.stale:
            self.stale.append(number)
            del self.stale[:-STALE]

    def _discarded(self, experiment: Experiment) -> None:
        """Remember it if it did better than its parent."""
        group = self.group_of(experiment)
        parent = self.group_at(experiment.parent, experiment.tier, experiment.budget)
        if not experiment.ideas or parent is None or not parent.n or not group.n:
            return
        gain = self.objective.gain(parent.mean, group.mean)
        if gain <= 0:
            return
        if experiment.parent != self.incumbent_commit:
            self._add_stale(experiment.id)
        spread = self.spread(experiment.tier, experiment.budget)
        if len(experiment.ideas) == 1 and spread.sum_squares > 0:
            sigma = math.sqrt(spread.sum_squares / spread.df)
            insort(self.near_misses, (-gain / sigma, experiment.id))
            del self.near_misses[NEAR_MISSES:]
