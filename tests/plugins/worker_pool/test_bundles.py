"""Work trees that are sent to a node and come back: the node's side with arf's, on real files."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import define

from arf_plugins.worker_pool import bundle
from arf_plugins.worker_pool.on_node import unpack


@define
class Sent:
    """A tree of arf's, the same tree on a node, and what comes back from there."""

    here: Path
    there: Path
    files: list[tuple[str, str, str]]
    links: list[tuple[str, str]]

    def take_back(self, most: int = 1 << 20) -> unpack.Changes:
        changes = unpack.Changes(str(self.there), self.files, self.links, most)
        for name, mode, data in changes:
            assert bundle.put_back(self.here, name, mode, zlib.compress(data), most)
        for name in changes.removed:
            bundle.take_away(self.here, name)
        return changes


@pytest.fixture
def sent(tmp_path: Path) -> Sent:
    here, there, data = tmp_path / "here", tmp_path / "there", tmp_path / "data"
    (here / "src").mkdir(parents=True)
    data.mkdir()
    (here / "src/train.py").write_text("print(1)\n")
    (here / "judge.txt").write_text("fair\n")
    (here / "run.sh").write_text("#!/bin/sh\n")
    (here / "run.sh").chmod(0o755)
    (here / "alias").symlink_to("judge.txt")
    (here / "data").symlink_to(data)
    found = bundle.bundle(here)
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    listing, payload = found.pack(())
    content, at = zlib.decompress(payload), 0
    for blob, size in listing:
        (blobs / blob).write_bytes(content[at : at + size])
        at += size
    unpack.unpack(str(there), found.files, found.links, str(blobs))
    return Sent(here, there, found.files, found.links)


def test_a_tree_is_the_same_there_and_nothing_comes_back_if_nothing_changed(sent: Sent) -> None:
    assert (sent.there / "src/train.py").read_text() == "print(1)\n"
    assert os.access(sent.there / "run.sh", os.X_OK)
    assert os.readlink(sent.there / "alias") == "judge.txt"
    assert (sent.there / "data").is_dir()
    changes = unpack.Changes(str(sent.there), sent.files, sent.links, 1 << 20)
    assert (list(changes), changes.removed, changes.too_large) == ([], [], 0)


def test_what_a_job_has_written_comes_back(sent: Sent) -> None:
    (sent.there / "out").mkdir()
    (sent.there / "out/model.bin").write_bytes(b"\0\1")
    (sent.there / "src/train.py").write_text("print(2)\n")
    (sent.there / "__pycache__").mkdir()
    (sent.there / "__pycache__/x.pyc").write_bytes(b"x")
    sent.take_back()
    assert (sent.here / "out/model.bin").read_bytes() == b"\0\1"
    assert (sent.here / "src/train.py").read_text() == "print(2)\n"
    assert not (sent.here / "__pycache__").exists()


def _by_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/null")


def _by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "replace",
    [Path.unlink, _by_a_link, _by_a_pipe, lambda path: path.write_bytes(b"x" * 2000)],
    ids=["removed", "by a link", "by a pipe", "too large"],
)
@pytest.mark.parametrize("name", ["judge.txt", "data"])
def test_what_may_not_change_is_seen_to_have_changed(
    sent: Sent, name: str, replace: Callable[[Path], object]
) -> None:
    path = sent.there / name
    if name == "data":
        path.unlink()
        path.write_text("own data\n")
    replace(path)
    changes = sent.take_back(most=1000)
    assert changes.removed == [name]
    assert not os.path.lexists(sent.here / name)


def test_files_come_back_up_to_a_limit_in_all(sent: Sent) -> None:
    for number in range(4):
        (sent.there / f"{number}.log").write_bytes(b"x" * 400)
    assert sent.take_back(most=1000).too_large == 2
    assert len(list(sent.here.glob("*.log"))) == 2


def test_a_change_is_seen_that_keeps_size_and_time(sent: Sent) -> None:
    path = sent.here / "src/train.py"
    os.utime(path, (1e9, 1e9))
    before = bundle.bundle(sent.here).files
    assert bundle.bundle(sent.here).files == before
    path.write_text("print(2)\n")
    os.utime(path, (1e9, 1e9))
    assert bundle.bundle(sent.here).files != before
