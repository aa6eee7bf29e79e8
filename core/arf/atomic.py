"""Writes a file whole or not at all: a reader sees the old content or the new, also after a crash."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace a file in one step. A new file gets `mode`, as `os.open` takes it (the umask applies).

    The content is on disk when this returns, unless `durable` is False: then a power failure can lose it.
    Text is written as UTF-8. Raises OSError; what was half written is removed.
    """
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
