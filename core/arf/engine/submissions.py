"""Submissions of agents and people: whether they can be carried out, and as which plan."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from attrs import evolve, frozen

from arf.engine.ledger import Ledger
from arf.errors import ConflictError, UsageError, nearest
from arf.study import Study
from arf.types import Draft, Order, Plan, Receipt, Role, Submission, SubmissionState

if TYPE_CHECKING:
    from arf.interfaces import Workspace
    from arf.store.database import Store

T = TypeVar("T")

MAX_RUNS = 32
"""Runs of one submission, at most."""
LOOK_S = 0.2
"""How often is looked whether an order is done."""


def check(study: Study, submission: Submission) -> None:
    """Raises UsageError with what is wrong, as far as it can be seen before anything is made of it."""
    if submission.again is not None:
        if submission.draft is not None or submission.ideas:
            raise UsageError("a run again has no change of its own", hint="leave out `again`, or the change")
        if submission.again not in study.experiments:
            raise UsageError(f"there is no experiment {submission.again} to run again")
    elif submission.draft is None and not submission.ideas:
        raise UsageError("a submission needs a change, ideas to put together, or an experiment to run again")
    for idea in submission.ideas:
        if idea not in study.ideas:
            raise UsageError(f"there is no idea {idea}")
    if len(set(submission.ideas)) < len(submission.ideas):
        raise UsageError("an idea is named twice")
    tiers = [tier.name for tier in study.tiers]
    if submission.tier is not None and submission.tier not in tiers:
        raise UsageError(f"there is no tier {submission.tier!r}", hint=nearest(submission.tier, tiers))
    if not 1 <= submission.runs <= MAX_RUNS:
        raise UsageError(f"runs must be from 1 to {MAX_RUNS}, and not {submission.runs}")
    if submission.budget is not None and not 0 < submission.budget <= 1:
        raise UsageError("budget is a share of the full training budget, above 0 and at most 1")


def base_of(study: Study, submission: Submission) -> str:
    """The commit that a submission is for. Raises UsageError if the study has none like it."""
    given = submission.base
    if not given or study.group_at(given, study.tiers[0].name) is not None or given == study.base:
        return given or study.incumbent_commit
    known = {study.base, study.incumbent_commit, *(e.commit for e in study.experiments.values())}
    matches = sorted(commit for commit in known if commit.startswith(given.lower()))
    if len(matches) != 1 or len(given) < 4:
        what = "could be several" if len(matches) > 1 else "is no commit of this study"
        raise UsageError(f"base {given!r} {what}", hint="give the commit of an experiment, or leave it out")
    return matches[0]


def first_plan(study: Study, submission: Submission, base: str, idea: int | None) -> Plan:
    """The plan of its first run; `idea` is what its draft became."""
    tier, budget = submission.tier, submission.budget
    if submission.again is None:
        ideas = (*submission.ideas, idea) if idea is not None else submission.ideas
        return Plan(parent=base, ideas=ideas, tier=tier, budget=budget)
    experiment = study.experiments[submission.again]
    if experiment.ideas and _is_new_on_tier(study, submission):
        # It is judged there by itself: what one tier says is no proof on another.
        return Plan(parent=experiment.parent, ideas=experiment.ideas, tier=tier, budget=budget)
    title = f"again: {experiment.title}".replace("again: again: ", "again: ")
    tier = tier or experiment.tier
    return Plan(parent=experiment.commit, role=Role.REPLICATE, tier=tier, budget=budget, title=title)


def _is_new_on_tier(study: Study, submission: Submission) -> bool:
    assert submission.again is not None
    experiment = study.experiments[submission.again]
    tier = submission.tier or experiment.tier
    return study.group(experiment.tree, tier, submission.budget) is None


def next_plan(study: Study, order: Order) -> Plan:
    """The plan of an order's next run."""
    if not order.experiments:
        return order.plan
    first = study.experiments[order.experiments[0]]
    title = first.title if first.role is Role.REPLICATE else f"again: {first.title}"
    return Plan(
        parent=first.commit,
        role=Role.REPLICATE,
        tier=first.tier,
        budget=first.budget,
        title=title,
        order=order.id,
    )


def wanted(study: Study, slots: int) -> Sequence[Plan]:
    """The runs that waiting orders want next, oldest first, at most one for each order and slot."""
    return [next_plan(study, order) for order in islice(study.waiting.values(), max(1, 4 * slots))]


async def wait_for(
    store: Store,
    numbers: Sequence[int],
    timeout_s: float,
    *,
    any_done: bool,
    is_running: Callable[[], bool] = lambda: True,
) -> list[Receipt]:
    """The receipts of orders, once all (or one) of them are done, the time is over, or nothing runs them."""
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    while True:
        runs = is_running()  # asked first: what an arf writes as it ends is then seen
        found = store.orders(numbers)
        done = [store.is_done(order) for order in found]
        left_s = until - loop.time()
        if all(done) or (any_done and any(done)) or left_s <= 0 or not runs:
            return [order.receipt for order in found]
        await asyncio.sleep(min(left_s, LOOK_S))


def message(draft: Draft) -> str:
    """The message of a draft's commit."""
    return f"{draft.title}\n\n{draft.reason}\n" if draft.reason else f"{draft.title}\n"


@frozen
class Submitted:
    """A submission with the commit that its draft became, or why it cannot be carried out."""

    submission: Submission
    base: str
    commit: str
    problem: str


@frozen(eq=False)
class Ordered:
    """A request from a queue."""

    key: str
    submissions: tuple[Submitted, ...]
    agent: str
    ask: int | None
    reply: asyncio.Future[list[int]]
    """The numbers of its orders, once they are recorded."""


@frozen(eq=False)
class Withdrawn:
    orders: tuple[int, ...]
    experiments: tuple[int, ...]
    reply: asyncio.Future[str]


class OrderBook:
    """The orders of a study: takes submissions up, follows what becomes of them."""

    def __init__(
        self,
        ledger: Ledger,
        workspace: Workspace,
        closed: Callable[[], str],
        put: Callable[[Ordered | Withdrawn], None],
    ) -> None:
        self._ledger = ledger
        self._study = ledger.study
        self._workspace = workspace
        self._closed = closed
        """Why nothing more can be ordered; empty while something can."""
        self._put = put
        """Brings a request into the next turn."""
        self._replies: list[Callable[[], None]] = []
        self.accepted = 0
        """Counts the submissions that were not refused at once."""

    # ---- Requests, from outside of a turn -----------------------------------------------------

    async def order(
        self, key: str, submissions: Sequence[Submission], agent: str = "queue", ask: int | None = None
    ) -> list[int]:
        """Take submissions up, and give the numbers of their orders once they are recorded.

        Idempotent in `key`. What cannot be carried out is an order too, refused with the reason. `ask` is the
        ask in the course of which an agent submits them; None: somebody does so unasked.
        """
        known = self._ledger.store.orders_of(key)
        if known:
            return [order.id for order in known]
        made = await self.make(submissions)
        reply: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._put(Ordered(key, made, agent, ask, reply))
        return await reply

    async def withdraw_all(self, numbers: Sequence[int], experiments: Sequence[int] = ()) -> str:
        """Withdraw orders, and end experiments; gives a line on what was done."""
        reply: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._put(Withdrawn(tuple(numbers), tuple(experiments), reply))
        return await reply

    def take_order(self, item: Ordered) -> None:
        taken = self._ledger.store.orders_of(item.key)  # the same request may have come twice at a time
        if not taken:
            taken = [self.take(item.key, submitted, item.agent, item.ask) for submitted in item.submissions]
        self._tell(item.reply, [order.id for order in taken])

    def take_withdrawal(self, item: Withdrawn, end: Callable[[int], str]) -> None:
        """`end` ends an experiment, and says what it did."""
        said = [self.withdraw(number) for number in item.orders]
        said += [end(number) for number in item.experiments]
        self._tell(item.reply, "; ".join(said))

    def _tell(self, reply: asyncio.Future[T], what: T) -> None:
        """Answer a request once the transaction is written."""
        self._replies.append(lambda: None if reply.done() else reply.set_result(what))

    @property
    def has_replies(self) -> bool:
        """Whether somebody waits for what is recorded to be on disk."""
        return bool(self._replies)

    def reply(self) -> None:
        """Answer the requests that were taken in."""
        replies, self._replies = self._replies, []
        for reply in replies:
            reply()

    # ---- Orders, within a turn ----------------------------------------------------------------

    async def make(self, submissions: Sequence[Submission]) -> tuple[Submitted, ...]:
        """Check submissions and make commits of their drafts, one at a time."""
        made = []
        for submission in submissions:
            made.append(self._make_one(submission))
            await asyncio.sleep(0)
        return tuple(made)

    def _make_one(self, submission: Submission) -> Submitted:
        try:
            check(self._study, submission)
            base = base_of(self._study, submission)
            draft = submission.draft
            commit = ""
            if draft is not None:
                commit = self._workspace.make_idea(draft, base, message=message(draft))
        except (ConflictError, UsageError) as error:
            return Submitted(submission, self._study.base, "", str(error))
        return Submitted(submission, base, commit, "")

    def take(self, key: str, submitted: Submitted, agent: str, ask: int | None = None) -> Order:
        """Record a submission: as an order that waits for its slots, or as a refused one."""
        submission, problem = submitted.submission, submitted.problem or self._closed()
        plan = Plan(parent=submitted.base, ideas=submission.ideas)
        draft = submission.draft
        title = draft.title if draft else ""
        if not problem:
            idea = None
            if draft is not None:
                new = self._ledger.add_idea(draft, submitted.base, submitted.commit, agent, ask)
                self._workspace.keep_idea(self._study.name, new.id, new.commit)
                idea = new.id
            plan = first_plan(self._study, submission, submitted.base, idea)
            problem = self._study.refusals.get((plan.parent, plan.ideas), "")
            title = plan.title or " + ".join(self._study.ideas[idea].title for idea in plan.ideas)
        self.accepted += not problem
        return self._ledger.add_order(key, plan, submission.runs, title, problem)

    def count_run(self, number: int, experiment_id: int) -> None:
        """An experiment was made for an order."""
        order = self._study.waiting[number]
        runs = (*order.experiments, experiment_id)
        state = SubmissionState.ACCEPTED if len(runs) == order.runs else order.state
        self._ledger.move_order(evolve(order, experiments=runs, state=state))

    def refuse(self, number: int, problem: str) -> None:
        order = self._study.waiting[number]
        self._ledger.move_order(evolve(order, state=SubmissionState.REFUSED, problem=problem))

    def refuse_all(self, problem: str) -> None:
        for number in list(self._study.waiting):
            self.refuse(number, problem)

    def withdraw(self, number: int) -> str:
        """What was done about an order that is not wanted any more, for people."""
        order = self._study.waiting.get(number)
        if order is None:
            return f"nothing of {number} waits"
        self._ledger.move_order(evolve(order, state=SubmissionState.CANCELLED))
        return f"{number} is withdrawn"
