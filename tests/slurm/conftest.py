"""A real Slurm for the tests in this folder. In continuous integration (`ARF_CI` is set) it must start.

Tests that are marked `slurm_ci` are part of `make test`; the others are run by `make test-slurm`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import slurm_cluster  # it is beside this file, which pytest's import mode does not see


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        ours = Path(__file__).parent in item.path.parents
        if ours and item.get_closest_marker("slurm_ci") is None:
            item.add_marker(pytest.mark.slurm)


def _cluster(*, accounting: bool) -> Iterator[slurm_cluster.Cluster]:
    if reason := slurm_cluster.missing(accounting=accounting):
        if os.environ.get("ARF_CI"):
            pytest.fail(f"the Slurm tests cannot run: {reason}")
        pytest.skip(reason)
    # Not in pytest's folder: munge wants none of its parents to be writable for others, sockets a short path.
    with (
        tempfile.TemporaryDirectory(prefix="arf-slurm-", ignore_cleanup_errors=True) as home,
        slurm_cluster.running(Path(home), accounting=accounting) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="session")
def plain_cluster() -> Iterator[slurm_cluster.Cluster]:
    yield from _cluster(accounting=False)


@pytest.fixture(scope="session")
def accounted_cluster() -> Iterator[slurm_cluster.Cluster]:
    yield from _cluster(accounting=True)


@pytest.fixture
def slurm(
    plain_cluster: slurm_cluster.Cluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[slurm_cluster.Cluster]:
    """A Slurm without accounting, empty, which arf's commands reach."""
    monkeypatch.setenv("SLURM_CONF", str(plain_cluster.config))
    yield plain_cluster
    plain_cluster.run("scancel", "-u", str(os.getuid()), check=False)
    plain_cluster.wait_until_empty()


@pytest.fixture
def unseen(slurm: slurm_cluster.Cluster) -> Path:
    """A folder of this test's own that the cluster's nodes do not see."""
    if not slurm_cluster.can_hide():
        pytest.skip("no mount namespaces can be made here, so nothing can be hidden from the nodes")
    folder = Path(tempfile.mkdtemp(dir=slurm.unseen))
    seen = slurm.run("srun", "-w", "h100-0", "sh", "-c", f"[ -e {folder} ] && echo seen || echo unseen")
    assert seen.split() == ["unseen"]
    return folder


@pytest.fixture
def slurm_with_accounting(
    accounted_cluster: slurm_cluster.Cluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[slurm_cluster.Cluster]:
    """The same, with slurmdbd behind it, and limits."""
    monkeypatch.setenv("SLURM_CONF", str(accounted_cluster.config))
    yield accounted_cluster
    accounted_cluster.run("scancel", "-u", str(os.getuid()), check=False)
    accounted_cluster.wait_until_empty()
