"""How other processes order something from the arf that runs a study: a mailbox in the study's folder.

The study's own database has one writer. Who wants something puts a request into `mailbox.db`, under a key of
his own choice; the engine takes it, answers, and the same key gives the same answer for ever.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import NOTHING, asdict, frozen

from arf.engine.submissions import wait_for
from arf.errors import ArfError, StoreError, UsageError
from arf.interfaces import SubmissionQueue, Tried
from arf.store.database import Store, lock_owner, unusable
from arf.types import Draft, Edit, Receipt, Submission

MAILBOX = "mailbox.db"
LOOK_S = 0.1
"""How often an answer is looked for."""
PATIENCE_S = 60.0
"""An engine that has not answered for so long has a problem of its own."""

_DAMAGED = "remove it: only requests that had no answer are lost"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, body TEXT NOT NULL, answer TEXT
)
"""


@frozen
class Request:
    key: str
    kind: str
    """`submit`, `cancel`, `rule` or `try_out`."""
    body: Mapping[str, Any]


class Mailbox:
    """A connection to the mailbox of a study; both sides have one each."""

    def __init__(self, home: Path) -> None:
        self._path = home / MAILBOX
        try:
            self._db = sqlite3.connect(self._path, isolation_level=None, timeout=30)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(_SCHEMA)
        except sqlite3.Error as error:
            raise unusable(self._path, error, "use", damaged=_DAMAGED) from error
        self._seen = -1

    def close(self) -> None:
        self._db.close()

    def _execute(self, statement: str, values: tuple[str, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise unusable(self._path, error, "use", damaged=_DAMAGED) from error

    def post(self, request: Request) -> None:
        """Put a request in, unless its key is there. Raises UsageError if that asked for something else."""
        body = _dumps(request.body)
        self._execute(
            "INSERT INTO requests (key, kind, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (request.key, request.kind, body),
        )
        row = self._execute("SELECT kind, body FROM requests WHERE key = ?", (request.key,)).fetchone()
        if row != (request.kind, body):
            raise UsageError(
                f"the key {request.key!r} was used for another request",
                hint="a new request needs a new key",
            )

    def answer(self, key: str) -> Mapping[str, Any] | None:
        """What the engine answered; None if it has not."""
        row = self._execute("SELECT answer FROM requests WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row and row[0] else None

    def take(self) -> list[Request]:
        """The requests that have no answer yet, oldest first; cheap when nothing has changed."""
        seen = self._execute("PRAGMA data_version").fetchone()[0]
        if seen == self._seen:
            return []
        self._seen = seen
        rows = self._execute("SELECT key, kind, body FROM requests WHERE answer IS NULL ORDER BY id")
        return [Request(key, kind, _loads(body)) for key, kind, body in rows]

    def give(self, key: str, answer: Mapping[str, Any]) -> None:
        """Answer a request."""
        self._execute("UPDATE requests SET answer = ? WHERE key = ?", (_dumps(answer), key))


class RemoteQueue(SubmissionQueue):
    """The queue of a study that another process runs. `home` is the study's folder.

    What orders something raises StoreError if no arf runs the study; `wait` then tells how things stand.
    """

    def __init__(self, home: Path) -> None:
        self.home = home

    async def submit(self, key: str, submissions: Sequence[Submission]) -> Sequence[Receipt]:
        body = {"submissions": [submission_to_json(submission) for submission in submissions]}
        answer = await self._ask(Request(key, "submit", body))
        return await self.receipts(answer["orders"])

    async def known(self, key: str) -> Sequence[Receipt]:
        store = Store.open(self.home)
        try:
            return [order.receipt for order in store.orders_of(f"mail/{key}")]
        finally:
            store.close()

    async def receipts(self, submissions: Sequence[int]) -> Sequence[Receipt]:
        store = Store.open(self.home)
        try:
            return [order.receipt for order in store.orders(submissions)]
        finally:
            store.close()

    async def wait(
        self, submissions: Sequence[int], timeout_s: float, *, any_done: bool = False
    ) -> Sequence[Receipt]:
        store = Store.open(self.home)
        try:
            return await wait_for(
                store,
                submissions,
                timeout_s,
                any_done=any_done,
                is_running=lambda: lock_owner(self.home) is not None,
            )
        finally:
            store.close()

    async def cancel(self, submissions: Sequence[int], experiments: Sequence[int] = ()) -> str:
        body = {"submissions": list(submissions), "experiments": list(experiments)}
        answer = await self._ask(Request(f"cancel-{uuid.uuid4()}", "cancel", body))
        return str(answer["text"])

    async def rule(self, experiment: int, *, accept: bool) -> str:
        """Say whether a suspect experiment is believed; gives a line on what follows from it."""
        body = {"experiment": experiment, "accept": accept}
        answer = await self._ask(Request(f"rule-{uuid.uuid4()}", "rule", body))
        return str(answer["text"])

    async def try_out(self, draft: Draft, base: str, seconds: float) -> Tried:
        body = {"draft": asdict(draft), "base": base, "seconds": seconds}
        answer = await self._ask(Request(f"try-{uuid.uuid4()}", "try_out", body), PATIENCE_S + seconds)
        return Tried(text=str(answer["text"]), broke=bool(answer["broke"]))

    async def _ask(self, request: Request, patience_s: float = PATIENCE_S) -> Mapping[str, Any]:
        """Raises StoreError if no arf runs the study, and the ArfError that the engine answered."""
        mailbox = Mailbox(self.home)
        try:
            if mailbox.answer(request.key) is None:
                self._check_running()
            mailbox.post(request)
            answer = await self._answer(mailbox, request.key, patience_s)
        finally:
            mailbox.close()
        if "error" in answer:
            kind = UsageError if answer.get("usage") else ArfError
            raise kind(answer["error"], hint=answer.get("hint", ""))
        return answer

    async def _answer(self, mailbox: Mailbox, key: str, patience_s: float) -> Mapping[str, Any]:
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_s
        while (answer := mailbox.answer(key)) is None:
            self._check_running()
            if loop.time() > until:
                raise StoreError(
                    f"the arf that runs study {self.home.name!r} does not answer",
                    hint="the request is kept and may still be carried out; ask again with the same key",
                )
            await asyncio.sleep(LOOK_S)
        return answer

    def _check_running(self) -> None:
        if lock_owner(self.home) is None:
            raise StoreError(
                f"study {self.home.name!r} does not run, so nothing can be ordered from it",
                hint=f"`arf resume {self.home.name}` goes on with it",
            )


def submission_to_json(submission: Submission) -> dict[str, Any]:
    """What is set of a submission; `submission_from_json` is its inverse."""
    return asdict(
        submission, filter=lambda field, value: field.default is NOTHING or value not in (None, "", (), {})
    )


def submission_from_json(data: Mapping[str, Any]) -> Submission:
    """Raises KeyError or TypeError where the data is not one's."""
    draft = data.get("draft")
    return Submission(
        **{
            **data,
            "draft": None if draft is None else draft_from_json(draft),
            "ideas": tuple(data.get("ideas", ())),
        }
    )


def draft_from_json(data: Mapping[str, Any]) -> Draft:
    """Raises KeyError or TypeError where the data is not one's."""
    return Draft(**{**data, "edits": tuple(Edit(**edit) for edit in data.get("edits", ()))})


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True)


def _loads(text: str) -> Any:
    """What a request holds; empty where somebody wrote what is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return {}
