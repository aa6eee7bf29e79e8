"""What a backend holds besides jobs: shown by `arf status`, taken down by `arf stop --down`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from arf.store.database import Store

Arf = Callable[..., CompletedProcess[str]]

HOLDER = '''
from pathlib import Path
from datetime import UTC, datetime
from arf.errors import BackendError
from arf.hooks import Declaration, hookimpl
from arf.interfaces import Finding, HeldResource
from arf_plugins.backend_local import LocalOptions
from arf_plugins.backend_local.backend import LocalBackend


class Holder(LocalBackend):
    """As local, with a machine that comes up with the first job and stays."""

    async def submit(self, job):
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "up").touch()
        return await super().submit(job)

    async def check(self):
        return [Finding(what="credentials", problem="none is found", hint="log in")]

    async def held_resources(self):
        if not (self.directory / "up").exists():
            return []
        since = datetime(2026, 1, 1, tzinfo=UTC)
        return [HeldResource(name="box-0", tier="cpu", state="UP", usd_per_hour=2.5, since=since)]

    async def down(self):
        if (self.directory / "stuck").exists():
            raise BackendError("still up: box-0", hint="try again")
        (self.directory / "up").unlink(missing_ok=True)


@hookimpl
def arf_register_backends():
    return [Declaration(name="holder", summary="holds", implementation="holder:Holder", options=LocalOptions)]
'''


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Variables that make the backend `holder` known."""
    place = tmp_path / "plugins"
    info = place / "holder-1.0.dist-info"
    info.mkdir(parents=True)
    (place / "holder.py").write_text(HOLDER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: holder\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[arf]\nholder = holder\n")
    return {"PYTHONPATH": str(place), "SLOW": ""}


@pytest.fixture
def backend(workspace: Path) -> Path:
    """The folder of the backend of the study `s`."""
    return workspace / ".arf/studies/s/backend"


def run_study(arf: Arf, workspace: Path, env: dict[str, str]) -> CompletedProcess[str]:
    options = ("--name", "s", "--plain", "--backend", "holder", "--slots", "2", "--max-experiments", "5")
    done = arf("run", *options, cwd=workspace, **env)
    assert done.returncode == 0, done.stderr
    return done


def test_a_study_that_ends_takes_down_what_it_holds(
    arf: Arf, workspace: Path, backend: Path, env: dict[str, str]
) -> None:
    run_study(arf, workspace, env)
    assert not (backend / "up").exists()
    assert "box-0" not in arf("status", "s", cwd=workspace, **env).stdout
    assert "nothing is up" in arf("stop", "s", "--down", cwd=workspace, **env).stderr


def test_the_doctor_tells_what_the_backend_finds_and_takes_down_what_it_needed(
    arf: Arf, workspace: Path, env: dict[str, str]
) -> None:
    (workspace / ".arf").mkdir(exist_ok=True)
    done = arf("doctor", "--backend", "holder", "--json", cwd=workspace, **env)
    checks = json.loads(done.stdout)["checks"]
    failed = [(check["text"], check["hint"]) for check in checks if check["health"] == "failed"]
    assert failed == [("credentials: none is found", "log in")]
    assert any(check["check"] == "job" and "ran on" in check["text"] for check in checks)
    assert not list((workspace / ".arf").glob("doctor-*/backend/up"))


def test_what_outlives_its_study_is_shown_and_taken_down_later(
    arf: Arf, workspace: Path, backend: Path, env: dict[str, str]
) -> None:
    backend.mkdir(parents=True)
    (backend / "stuck").touch()
    done = run_study(arf, workspace, env)
    assert "still up: box-0" in done.stderr
    store = Store.open(backend.parent)
    with store.transaction():  # as a study does every minute
        up = [
            {"name": "box-0", "tier": "cpu", "state": "UP", "usd_per_hour": 2.5, "since": None, "detail": ""}
        ]
        noted = {"at": time.time() - 3600, "usd_per_hour": 2.5, "usd": 1.0, "up": up}
        store.set_meta("standing", noted)
    store.close()

    shown = arf("status", "s", cwd=workspace, **env).stdout
    assert "1, $2.50 an hour" in shown
    assert "arf stop --down s" in shown
    told = json.loads(arf("status", "s", "--json", cwd=workspace, **env).stdout)
    assert [one["name"] for one in told["standing"]["up"]] == ["box-0"]
    assert "1 machine may still be up" in arf("stop", "s", cwd=workspace, **env).stderr
    stuck = arf("stop", "s", "--down", cwd=workspace, **env)
    assert (stuck.returncode, "still up: box-0" in stuck.stderr) == (1, True)

    (backend / "stuck").unlink()
    assert "taken down: box-0" in arf("stop", "s", "--down", cwd=workspace, **env).stderr
    assert not (backend / "up").exists()
    after = json.loads(arf("status", "s", "--json", cwd=workspace, **env).stdout)
    assert after["standing"]["up"] == []
    assert after["usd"] == pytest.approx(told["usd"] + 2.5, abs=0.1)


def test_a_study_without_anything_that_stands_says_nothing_of_it(arf: Arf, finished: Path) -> None:
    assert "\nup " not in arf("status", cwd=finished).stdout
    assert json.loads(arf("status", "--json", cwd=finished).stdout)["standing"] is None
    assert "nothing is up" in arf("stop", "--down", cwd=finished).stderr
