"""The backend of docs/backends/own.md, with folders of this machine for containers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from arf.interfaces import Backend
from arf.testing.suites import ClusterSuite
from arf.types import Job

PAGE = Path(__file__).parents[3] / "docs/backends/own.md"


def code_of_the_page() -> dict[str, Any]:
    found = re.search(r"```python\n# arf_containers.py\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    names: dict[str, Any] = {}
    exec(compile(found[1], str(PAGE), "exec"), names)
    return names


@pytest.mark.slow
class TestOwnBackend(ClusterSuite):
    """Two containers of two slots each."""

    @pytest.fixture(autouse=True)
    def _containers(self, _places: None, tmp_path: Path) -> Iterator[None]:
        self.root = tmp_path / "containers"
        for name in ("one", "two"):
            (self.root / name).mkdir(parents=True)
        yield
        self.kill()

    def make(self, directory: Path) -> Backend:
        names = code_of_the_page()
        path = os.environ.get("PATH", os.defpath)
        options = names["ContainerOptions"](
            containers=("one", "two"), slots=2, enter=f"env -i HOME={self.root}/{{}} PATH={path}",
            grace=0.3, poll=0.2, heartbeat=1.0,
        )  # fmt: skip
        backend: Backend = names["ContainerBackend"](options, directory)
        return backend

    def processes(self, *words: str) -> list[int]:
        mark, found = f"HOME={self.root}/".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes():
                    command = (entry / "cmdline").read_bytes().split(b"\0")
                    if all(word.encode() in command for word in words):
                        found.append(int(entry.name))
        return found

    def kill(self, *words: str) -> None:
        for pid in self.processes(*words):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def lose_workers(self) -> None:
        self.kill("node-worker")

    def cut_links(self) -> None:
        self.kill("relay")

    def left(self) -> Sequence[str]:
        folders = [path.name for path in self.root.glob("*/.arf/*-*")]
        return [*folders, *map(str, self.processes("foreman") + self.processes("node-worker"))]


def test_the_code_of_the_page_runs_a_job(tmp_path: Path) -> None:
    names, root = code_of_the_page(), tmp_path / "one"
    for folder in (root, tmp_path / "tree", tmp_path / "backend"):
        folder.mkdir()
    (tmp_path / "tree/code").write_text("hello\n")
    enter = f"env -i HOME={root} PATH={os.environ.get('PATH', os.defpath)}"
    job = Job(
        key="job", directory=tmp_path / "tree", command="cat code; exit 5", env={}, log=tmp_path / "log",
        tier="cpu", time_limit_s=60.0,
    )  # fmt: skip

    async def steps() -> int | None:
        options = names["ContainerOptions"](containers=("one",), enter=enter)
        backend: Backend = names["ContainerBackend"](options, tmp_path / "backend")
        try:
            return (await backend.wait(await backend.submit(job))).exit_code
        finally:
            await backend.down()
            await backend.aclose()

    assert asyncio.run(steps()) == 5
    assert (tmp_path / "log").read_text() == "hello\n"
    assert not list((root / ".arf").iterdir())
