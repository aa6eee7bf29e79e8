"""What goes wrong between arf and a model's service, and trying again where that helps."""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from attrs import frozen

from arf.errors import AgentError

T = TypeVar("T")
log = logging.getLogger(__name__)

ASK_AGAIN_S = 60.0
"""When the engine asks again after a service has stayed away, if the service did not say."""
MAX_MESSAGE = 300


class FaultKind(StrEnum):
    TRANSIENT = "transient"
    """It may work the next time."""
    OVERFLOW = "overflow"
    """The request is longer than the model's window."""
    UNSUPPORTED = "unsupported"
    """The service does not take the request as it is; another form of it may work."""
    FATAL = "fatal"
    """Nothing helps but the user."""


class Fault(Exception):
    """One exchange that failed. `str()` is one line and holds no key."""

    def __init__(
        self, kind: FaultKind, message: str, *, retry_after_s: float | None = None, hint: str = ""
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retry_after_s = retry_after_s
        self.hint = hint

    def as_error(self, provider: str) -> AgentError:
        """The same for the engine."""
        again = max(self.retry_after_s or 0.0, ASK_AGAIN_S) if self.kind is FaultKind.TRANSIENT else None
        return AgentError(f"{provider}: {self.message}", retry_after_s=again, hint=self.hint)


@frozen(kw_only=True)
class RetryRule:
    attempts: int = 5
    """Of one request, the first included."""
    first_s: float = 1.0
    """The wait before the second attempt; it doubles from one to the next."""
    max_wait_s: float = 120.0
    """A service that asks for a longer wait is asked again by the engine, and slots go on meanwhile."""


async def retried(exchange: Callable[[], Awaitable[T]], rule: RetryRule) -> T:
    """The exchange's result. Raises the last Fault when trying again does not help, or not soon."""
    for attempt in range(1, rule.attempts + 1):
        try:
            return await exchange()
        except Fault as fault:
            backoff_s = rule.first_s * 2 ** (attempt - 1) * random.uniform(1.0, 1.25)
            wait_s = max(backoff_s, fault.retry_after_s or 0.0)
            if fault.kind is not FaultKind.TRANSIENT or attempt == rule.attempts or wait_s > rule.max_wait_s:
                raise
            log.info("%s; trying again in %.1f s", fault, wait_s)
            await asyncio.sleep(wait_s)
    raise AssertionError("unreachable")  # attempts is at least 1


# ---- Reading errors -----------------------------------------------------------------------------

_TRANSIENT_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_OVERFLOW = re.compile(
    r"context.?(?:length|window|size)|prompt is too long|too many (?:input )?tokens|maximum context"
    r"|exceeds? the (?:model|maximum|available)|input is too long|request too large|string_above_max",
    re.IGNORECASE,
)
_MONEY = re.compile(
    r"insufficient_quota|credit balance|billing|exceeded your current quota|spend(?:ing)? limit",
    re.IGNORECASE,
)
_TRANSIENT_TYPES = frozenset(
    {
        "overloaded_error",
        "api_error",
        "rate_limit_error",
        "timeout_error",
        "server_error",
        "rate_limit_exceeded",
    }
)
_TRANSPORT = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "anyio", "h11"})
_KEY = re.compile(r"\b(?:sk|pk|rk|key)-[\w*.-]{4,}")


class Redactor:
    """Takes keys out of texts that come from a service or a library."""

    def __init__(self, *secrets: str) -> None:
        self._secrets = [secret for secret in secrets if len(secret) >= 4]

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        text = re.sub(r"(\w+://)[^/\s@]*@", r"\1[key]@", _KEY.sub("[key]", text))
        text = " ".join(text.split())
        return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"

    def __repr__(self) -> str:
        return "Redactor()"


def fault_of(error: Exception, redact: Redactor, *, key_name: str) -> Fault | None:
    """What an exception of an SDK, or of what is below it, means; None if it is none of theirs."""
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return _of_status(error, status, redact, key_name)
    names = {cls.__name__ for cls in type(error).__mro__}
    if "APITimeoutError" in names or isinstance(error, TimeoutError):
        return Fault(FaultKind.TRANSIENT, "the service did not answer in time")
    if "APIConnectionError" in names:
        return Fault(FaultKind.TRANSIENT, f"cannot reach the service: {redact(_root(error))}")
    if isinstance(error, json.JSONDecodeError):
        return Fault(FaultKind.TRANSIENT, "the reply was garbled on its way")
    if type(error).__module__.partition(".")[0] in _TRANSPORT or isinstance(error, OSError):
        return Fault(
            FaultKind.TRANSIENT, f"the connection broke: {redact(str(error)) or type(error).__name__}"
        )
    if "APIResponseValidationError" in names:
        return Fault(FaultKind.FATAL, "the service's reply is not what its API says", hint="check base_url")
    if "APIError" in names:
        return of_event(_body(error), redact, fallback=str(error))
    return None


def of_event(body: Mapping[str, Any], redact: Redactor, *, fallback: str = "") -> Fault:
    """What an error that came inside a reply means."""
    names = {str(body.get("type", "")), str(body.get("code", ""))}
    message = redact(str(body.get("message") or fallback or "the service reported an error"))
    if _OVERFLOW.search(f"{message} {names}"):
        return Fault(FaultKind.OVERFLOW, message)
    if _MONEY.search(f"{message} {names}"):
        return Fault(FaultKind.FATAL, message, hint="see the billing page of the account")
    return Fault(FaultKind.TRANSIENT if names & _TRANSIENT_TYPES else FaultKind.FATAL, message)


def _of_status(error: Exception, status: int, redact: Redactor, key_name: str) -> Fault:
    body = _body(error)
    message = redact(str(body.get("message") or error))
    said = f"{message} {body.get('type', '')} {body.get('code', '')}"
    text = f"{status}: {message}"
    if _MONEY.search(said) or status == 402:
        return Fault(FaultKind.FATAL, text, hint="see the billing page of the account")
    if status < 400:  # an error inside a stream that had begun well
        return of_event(body, redact, fallback=str(error))
    if status in (401, 403):
        return Fault(FaultKind.FATAL, text, hint=f"check {key_name} and what its account may use")
    if status == 404:
        return Fault(FaultKind.FATAL, text, hint="check agent.model and agent.base_url")
    if status == 413 or (status in (400, 422) and _OVERFLOW.search(said)):
        return Fault(FaultKind.OVERFLOW, text)
    if status in _TRANSIENT_STATUS or status >= 500:
        return Fault(FaultKind.TRANSIENT, text, retry_after_s=_retry_after(error))
    return Fault(FaultKind.UNSUPPORTED, text, hint="check agent.model and the agent's options")


def _body(error: Exception) -> Mapping[str, Any]:
    body = getattr(error, "body", None)
    if isinstance(body, Mapping):
        inner = body.get("error")
        return inner if isinstance(inner, Mapping) else body
    return {}


def _root(error: BaseException) -> str:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return str(cause) or type(cause).__name__


def _retry_after(error: Exception) -> float | None:
    """Seconds that the service wants us to wait; None if it does not say."""
    headers = getattr(getattr(error, "response", None), "headers", None)
    if headers is None:
        return None
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    if (seconds := _number(value)) is not None:
        return seconds
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time()) if value else None
    except ValueError:
        return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text else None
    except ValueError:
        return None
    return number if number is not None and 0 <= number < 1e9 else None
