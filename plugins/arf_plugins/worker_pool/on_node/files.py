"""The files in which workers and arf tell each other things: lines, whole objects of JSON, and claims."""

from __future__ import annotations

import errno
import json
import os
import time

TYPE_CHECKING = False  # as mypy reads it; importing typing would take longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

ARF = "arf"
"""Who has claimed a job that arf ended before any worker had it; and the file that arf touches."""
INSIST_S = 600.0
"""How long a worker tries to write something down, such as on a disk that is full, before it ends."""


class Over(Exception):
    """There is nothing more to do for whoever raises it, and nobody to tell: it ends at once."""


class Lines:
    """New whole lines of a file that somebody else appends to."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.offset = 0

    def read(self) -> list[str]:
        return [line for line, _ in self.read_with_offsets()]

    def read_with_offsets(self) -> Iterator[tuple[str, int]]:
        """Each line with the offset after it."""
        try:
            if os.stat(self.path).st_size <= self.offset:
                return
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                data = file.read()
        except OSError:
            return
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            self.offset += len(line)
            yield line.decode("utf-8", "replace").rstrip("\n"), self.offset


class Journal:
    """What a worker has to tell. `check` is called while it cannot be written, and raises `Over`."""

    def __init__(self, path: str, beat_s: float, check: Callable[[], None]) -> None:
        self.path = path
        self.beat_s = beat_s
        self.check = check
        self.beaten = time.monotonic()

    def tell(self, **fields: Any) -> None:
        """Append a line. Raises OSError."""
        append(self.path, json.dumps(dict(fields, at=time.time())))
        self.beaten = time.monotonic()

    def insist(self, **fields: Any) -> None:
        """Append a line, once there is space or the folder is back. Raises Over if that is not to be
        expected."""
        limit = time.monotonic() + INSIST_S
        while True:
            try:
                return self.tell(**fields)
            except OSError as error:
                self.check()
                if time.monotonic() > limit:
                    raise Over(f"{self.path} cannot be written: {error.strerror}") from error
                time.sleep(0.5)

    def beat(self) -> None:
        if time.monotonic() - self.beaten >= self.beat_s:
            try:
                self.tell(beat=1)
            except OSError:
                self.beaten = time.monotonic()


class Lease:
    """Whether arf is interested: by a file that it touches, watched by this machine's clock only."""

    def __init__(self, home: str) -> None:
        self.path = os.path.join(home, ARF)
        self.seen = 0
        self.since = time.monotonic()

    def age_s(self) -> float:
        """For how long nobody has touched it."""
        try:
            touched = os.stat(self.path).st_mtime_ns
        except OSError:
            touched = self.seen
        if touched != self.seen:
            self.seen, self.since = touched, time.monotonic()
        return time.monotonic() - self.since


class Presence:
    """Whether a folder is there; one that is gone for seconds does not come back."""

    GONE_S = 4.0

    def __init__(self, path: str) -> None:
        self.path = path
        self.missing_since = 0.0
        self.looked = 0.0

    def check(self) -> None:
        """Raises Over if it is gone. Looks once a second."""
        now = time.monotonic()
        if now - self.looked < 1.0 and not self.missing_since:
            return
        self.looked = now
        try:
            os.stat(self.path)
        except FileNotFoundError:
            self.missing_since = self.missing_since or now
            if now - self.missing_since > self.GONE_S:
                raise Over(f"{self.path} is gone") from None
            return
        except OSError:
            pass  # a file system that does not answer is not gone
        self.missing_since = 0.0


def touch(path: str) -> None:
    """Make a file, or say that it is of now. Raises OSError."""
    with open(path, "a", encoding="utf-8"):
        os.utime(path)


def append(path: str, line: str) -> None:
    """Append a line whole. Raises OSError."""
    data = (line + "\n").encode()
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        if os.write(fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)


def loads(line: str) -> dict[str, Any]:
    """An object of JSON; empty if it is damaged."""
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def read_json(path: str) -> dict[str, Any]:
    """As `loads`, of a file; empty if it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return loads(file.read())
    except OSError:
        return {}


def write_json(path: str, fields: dict[str, Any]) -> None:
    """Whole or not at all. Raises OSError."""
    part = os.path.join(os.path.dirname(path), "." + os.path.basename(path))
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(fields, file)
    os.rename(part, path)


def claim(home: str, handle: str, name: str) -> bool:
    """Whether the job is ours now. What counts is the number of links: an answer may be lost on its way."""
    mine = os.path.join(home, "claims", f".{handle}.{name}")
    try:
        with open(mine, "w", encoding="utf-8") as file:
            file.write(name)
        try:
            os.link(mine, os.path.join(home, "claims", handle))
        except OSError:
            pass
        return os.stat(mine).st_nlink == 2
    finally:
        try:
            os.unlink(mine)
        except OSError:
            pass
