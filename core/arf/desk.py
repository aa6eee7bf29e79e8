"""The desk of the engine's own process, and what it does with the mailbox."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from arf.errors import ArfError, UsageError
from arf.interfaces import Desk
from arf.mailbox import Mailbox, Request, draft_from_json, submission_from_json
from arf.types import Draft, Order, Receipt, Submission

if TYPE_CHECKING:
    from arf.engine import Engine

MAIL_INTERVAL_S = 0.25
WAIT_INTERVAL_S = 0.2


class OwnDesk(Desk):
    """What `Brief.desk` is."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def submit(self, key: str, submissions: Sequence[Submission]) -> Sequence[Receipt]:
        return await self.receipts(await self._engine.order(key, submissions))

    async def known(self, key: str) -> Sequence[Receipt]:
        return [order.receipt for order in self._engine.store.orders_of(key)]

    async def receipts(self, submissions: Sequence[int]) -> Sequence[Receipt]:
        return [order.receipt for order in self._engine.store.orders(submissions)]

    async def wait(
        self, submissions: Sequence[int], timeout_s: float, *, any_done: bool = False
    ) -> Sequence[Receipt]:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while True:
            orders = self._engine.store.orders(submissions)
            done = [self._is_done(order) for order in orders]
            left_s = until - loop.time()
            if all(done) or (any_done and any(done)) or left_s <= 0:
                return [order.receipt for order in orders]
            await asyncio.sleep(min(WAIT_INTERVAL_S, left_s))

    def _is_done(self, order: Order) -> bool:
        experiments = self._engine.study.experiments
        return not order.runs_left and all(experiments[n].verdict is not None for n in order.experiments)

    async def cancel(self, submissions: Sequence[int], experiments: Sequence[int] = ()) -> str:
        return await self._engine.withdraw(submissions, experiments)

    async def try_out(self, draft: Draft, base: str, seconds: float) -> str:
        return await self._engine.try_out(draft, base, seconds)


async def read_mail(engine: Engine, mailbox: Mailbox) -> None:
    """Carry out what other processes ask for, until cancelled. One that takes long holds up no other."""
    under_way: dict[str, asyncio.Task[None]] = {}
    try:
        while True:
            for request in mailbox.take():
                if request.key not in under_way:
                    under_way[request.key] = asyncio.create_task(_serve(engine, mailbox, request))
            for key in [key for key, task in under_way.items() if task.done()]:
                under_way.pop(key).result()
            await asyncio.sleep(MAIL_INTERVAL_S)
    finally:
        for task in under_way.values():
            task.cancel()
        await asyncio.gather(*under_way.values(), return_exceptions=True)
        mailbox.close()


async def _serve(engine: Engine, mailbox: Mailbox, request: Request) -> None:
    try:
        answer = await _carry_out(engine, request)
    except ArfError as error:
        usage = isinstance(error, UsageError)
        answer = {"error": error.message, "hint": error.hint, "usage": usage}
    except (KeyError, TypeError, ValueError) as error:
        answer = {"error": f"the request makes no sense: {error!r}", "usage": True}
    mailbox.give(request.key, answer)


async def _carry_out(engine: Engine, request: Request) -> Mapping[str, Any]:
    body = request.body
    if request.kind == "submit":
        submissions = [submission_from_json(data) for data in body["submissions"]]
        return {"orders": await engine.order(f"mail/{request.key}", submissions)}
    if request.kind == "cancel":
        return {"text": await engine.withdraw(body["submissions"], body["experiments"])}
    if request.kind == "try_out":
        draft = draft_from_json(body["draft"])
        return {"text": await engine.try_out(draft, body["base"], float(body["seconds"]))}
    raise UsageError(
        f"there is no request of the kind {request.kind!r}", hint="is that arf newer than this one?"
    )
