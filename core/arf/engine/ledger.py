"""Where something is recorded: written to the store and told to the study, in one step and one order.

Only the engine has one. What it records belongs to the transaction that is open.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from attrs import evolve

from arf.store.database import Store
from arf.study import Study
from arf.types import (
    Ask,
    Claim,
    ClaimPlan,
    Draft,
    Experiment,
    ExperimentState,
    Factor,
    Idea,
    Order,
    Plan,
    SubmissionState,
    Usage,
)


class Ledger:
    """Numbers what is new, and keeps store and study the same."""

    def __init__(self, study: Study, store: Store, now: Callable[[], datetime]) -> None:
        self.study = study
        self.store = store
        self.now = now
        self.changed: list[Experiment] = []
        """Experiments that observers have not been told of."""
        self.asks: list[tuple[int, Ask, Usage | None, str]] = []
        """Asks that were opened (without a cost) or closed since observers were told."""
        self.next_experiment = max(study.experiments, default=0) + 1
        self._next_idea = max(study.ideas, default=0) + 1
        self._next_ask = int(store.meta("asks", 0)) + 1
        self._next_order = store.last_order() + 1

    def _seq(self) -> int:
        """The number of the change that is being made."""
        return self.study.happened + 1

    def event(self, kind: str, text: str) -> None:
        """A line of the study's own log."""
        self.store.add_event(kind, text, self.now())

    # ---- Experiments ------------------------------------------------------------------------

    def accept(self, experiment: Experiment) -> None:
        """Record a new experiment, whose number is `next_experiment`."""
        self.next_experiment += 1
        self.store.insert_experiment(experiment, self._seq())
        self.study.put(experiment)
        self.changed.append(experiment)

    def move(self, experiment: Experiment) -> None:
        """Record an experiment that has moved on."""
        self.store.update_experiment(experiment, self._seq())
        self.study.put(experiment)
        if experiment.state is ExperimentState.ENDED and experiment.value is not None:
            spread = self.study.spread(experiment.tier, experiment.budget)
            self.store.set_spread(experiment.tier, experiment.budget, spread.sum_squares, spread.df)
        self.changed.append(experiment)

    def change_incumbent(self, number: int) -> None:
        """Record that an experiment's commit is the incumbent, though no verdict says so now."""
        self.store.change_incumbent(number, self._seq())
        self.study.change_incumbent(number)
        self.changed.append(self.study.experiments[number])

    def begin_claim(self, plan: ClaimPlan) -> None:
        self.store.begin_claim(plan, self._seq())
        self.study.begin_claim(plan)

    def complete_claim(self, number: int, claim: Claim | None) -> None:
        """Record what came of a claim; None if nothing could be measured."""
        self.store.complete_claim(number, claim, self._seq())
        self.study.complete_claim(number, claim)

    def refuse(self, plan: Plan, reason: str) -> None:
        self.store.refuse(plan.parent, plan.ideas, reason, self._seq())
        self.study.refuse(plan.parent, plan.ideas, reason)

    # ---- Ideas and asks ---------------------------------------------------------------------

    def add_idea(self, draft: Draft, base: str, commit: str, agent: str, ask: int | None) -> Idea:
        idea = Idea(
            id=self._next_idea,
            title=draft.title,
            reason=draft.reason,
            base=base,
            commit=commit,
            constants=dict(draft.constants),
            agent=agent,
            ask=ask,
            expected=draft.expected,
        )
        self._next_idea += 1
        self.store.add_idea(idea, self._seq())
        self.study.add_idea(idea)
        return idea

    def add_factor(self, factor: Factor) -> None:
        self.store.add_factor(factor, self._seq())
        self.study.add_factor(factor)

    def open_ask(self, ask: Ask) -> int:
        """Record an ask, and give its number."""
        number = self._next_ask
        self._next_ask += 1
        self.store.open_ask(number, ask, self._seq(), self.now())
        self.store.set_meta("asks", number)
        self.study.open_ask(number, ask)
        self.asks.append((number, ask, None, ""))
        return number

    def close_ask(self, number: int, usage: Usage, note: str, *, exhausted: bool) -> None:
        self.asks.append((number, self.study.open_asks[number], usage, note))
        self.store.close_ask(number, usage, exhausted, self._seq(), self.now(), note)
        self.study.close_ask(number, usage, exhausted)

    # ---- Orders -----------------------------------------------------------------------------

    def add_order(self, key: str, plan: Plan, runs: int, title: str, problem: str) -> Order:
        """Record a submission as an order, which a problem refuses."""
        order = Order(
            id=self._next_order,
            key=key,
            plan=evolve(plan, order=self._next_order),
            runs=runs,
            title=title,
            state=SubmissionState.REFUSED if problem else SubmissionState.WAITING,
            problem=problem,
        )
        self._next_order += 1
        self.move_order(order)
        return order

    def move_order(self, order: Order) -> None:
        self.store.put_order(order, self._seq())
        self.study.put_order(order)
