"""The queue of the engine's own process, and what it does with the mailbox."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from arf.engine.submissions import wait_for
from arf.errors import ArfError, StoreError, UsageError
from arf.interfaces import SubmissionQueue, Tried
from arf.submissions.remote import Mailbox, Request, draft_from_json, submission_from_json
from arf.types import Draft, Receipt, Submission

if TYPE_CHECKING:
    from arf.engine.engine import Engine

log = logging.getLogger(__name__)

MAIL_INTERVAL_S = 0.25


class LocalQueue(SubmissionQueue):
    """What `Brief.queue` is. What an agent submits there counts for its ask: so does what that costs."""

    def __init__(self, engine: Engine, agent: str, ask: int | None) -> None:
        self._engine = engine
        self._agent = agent
        self._ask = ask

    async def submit(self, key: str, submissions: Sequence[Submission]) -> Sequence[Receipt]:
        return await self.receipts(await self._engine.book.order(key, submissions, self._agent, self._ask))

    async def known(self, key: str) -> Sequence[Receipt]:
        return [order.receipt for order in self._engine.store.orders_of(key)]

    async def receipts(self, submissions: Sequence[int]) -> Sequence[Receipt]:
        return [order.receipt for order in self._engine.store.orders(submissions)]

    async def wait(
        self, submissions: Sequence[int], timeout_s: float, *, any_done: bool = False
    ) -> Sequence[Receipt]:
        return await wait_for(self._engine.store, submissions, timeout_s, any_done=any_done)

    async def cancel(self, submissions: Sequence[int], experiments: Sequence[int] = ()) -> str:
        return await self._engine.book.withdraw_all(submissions, experiments)

    async def try_out(self, draft: Draft, base: str, seconds: float) -> Tried:
        return await self._engine.try_out(draft, base, seconds)


async def read_mail(engine: Engine, mailbox: Mailbox) -> None:
    """Carry out what other processes ask for, until cancelled. One that takes long holds up no other.

    Whatever is in the mailbox, it does not end the study: anybody may write there.
    """
    under_way: dict[str, asyncio.Task[None]] = {}
    try:
        while True:
            for request in mailbox.take():
                if request.key not in under_way:
                    under_way[request.key] = asyncio.create_task(_serve(engine, mailbox, request))
            for key in [key for key, task in under_way.items() if task.done()]:
                under_way.pop(key).result()
            await asyncio.sleep(MAIL_INTERVAL_S)
    except StoreError as error:
        log.warning("no orders are taken from outside any more: %s", error)
    finally:
        for task in under_way.values():
            task.cancel()
        await asyncio.gather(*under_way.values(), return_exceptions=True)
        mailbox.close()


async def _serve(engine: Engine, mailbox: Mailbox, request: Request) -> None:
    try:
        answer = await _carry_out(engine, request)
    except ArfError as error:
        answer = {"error": error.message, "hint": error.hint, "usage": isinstance(error, UsageError)}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        answer = {"error": f"the request makes no sense: {error!r}", "usage": True}
    except OSError as error:
        answer = {"error": f"it could not be carried out: {error}"}
    mailbox.give(request.key, answer)


async def _carry_out(engine: Engine, request: Request) -> Mapping[str, Any]:
    body = request.body
    if request.kind == "submit":
        submissions = [submission_from_json(data) for data in body["submissions"]]
        return {"orders": await engine.book.order(f"mail/{request.key}", submissions)}
    if request.kind == "cancel":
        return {"text": await engine.book.withdraw_all(body["submissions"], body["experiments"])}
    if request.kind == "rule":
        return {"text": await engine.rule(int(body["experiment"]), accept=bool(body["accept"]))}
    if request.kind == "try_out":
        draft = draft_from_json(body["draft"])
        tried = await engine.try_out(draft, body["base"], float(body["seconds"]))
        return {"text": tried.text, "broke": tried.broke}
    raise UsageError(
        f"there is no request of the kind {request.kind!r}", hint="is that arf newer than this one?"
    )
