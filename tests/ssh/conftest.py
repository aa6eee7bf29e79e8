"""Real SSH servers for the tests in this folder. In continuous integration (`ARF_CI` is set) they must start.

Tests that are marked `ssh_ci` are part of `make test` where there is an OpenSSH server; the others are run by
`make test-ssh`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import ssh_hosts  # it is beside this file, which pytest's import mode does not see


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        ours = Path(__file__).parent in item.path.parents
        if ours and item.get_closest_marker("ssh_ci") is None:
            item.add_marker(pytest.mark.ssh)


@pytest.fixture
def hosts() -> Iterator[ssh_hosts.Hosts]:
    if reason := ssh_hosts.missing():
        if os.environ.get("ARF_CI"):
            pytest.fail(f"the SSH tests cannot run: {reason}")
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="arf-ssh-", ignore_cleanup_errors=True) as home:
        found = ssh_hosts.Hosts(Path(home), "gpu1", "gpu2")
        found.start()
        yield found
        found.end()
