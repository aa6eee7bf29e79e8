"""Distributions of somebody else's, as `arf plugins new` writes them, installed and used by name."""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

from arf.cli.new_plugin import KINDS

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.e2e


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=None if env is None else {**os.environ, **env},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fresh environment, with the wheel of arf and an editable plugin of each kind.

    What arf depends on is taken from this environment, so that nothing is downloaded; arf itself is not.
    """
    place = tmp_path_factory.mktemp("third-party")
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", place / "wheels"]
    run(*build, ROOT, cwd=place)
    run(sys.executable, "-m", "venv", "--without-pip", place / "venv", cwd=place)
    venv = {"base": str(place / "venv"), "platbase": str(place / "venv")}
    python = Path(sysconfig.get_path("scripts", "posix_prefix", venv)) / "python"
    site = Path(sysconfig.get_path("purelib", "posix_prefix", venv))
    (site / "ours.pth").write_text("\n".join(sorted({sysconfig.get_path(p) for p in ("purelib", "platlib")})))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps"]
    run(*pip, *(place / "wheels").glob("*.whl"), cwd=place)
    editable = []
    for kind in KINDS:
        run(python.parent / "arf", "plugins", "new", f"my-{kind}", "--kind", kind, cwd=place)
        editable += ["-e", place / f"arf-my-{kind}"]
    run(*pip, "--no-build-isolation", *editable, cwd=place)
    return place


@pytest.fixture
def bin(place: Path) -> Path:
    return place / "venv" / "bin"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def test_the_wheels_are_what_runs(bin: Path, here: Path) -> None:
    code = "import arf, arf_plugins as a; print(arf.__file__, a.__file__)"
    files = run(bin / "python", "-c", code, cwd=here).split()
    assert all(Path(file).is_relative_to(bin.parent) for file in files)


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_test_passes(kind: str, bin: Path, place: Path) -> None:
    """With the suites and the fixtures that the wheel of arf brings."""
    command = [bin / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", "."]
    assert " passed" in run(*command, cwd=place / f"arf-my-{kind}")


def test_it_is_listed_with_what_it_offers(bin: Path, here: Path) -> None:
    listed = {info["plugin"]: info for info in json.loads(run(bin / "arf", "plugins", "--json", cwd=here))}
    for kind in KINDS:
        found = listed[f"arf_my_{kind}"]
        assert (found["distribution"], found["state"]) == (f"arf-my-{kind}", "ok")
        assert [offer["name"] for offer in found["offers"]] == ([f"my-{kind}"] if kind != "listener" else [])


def test_a_study_uses_them_by_name(bin: Path, arf_workspace: Path) -> None:
    script = arf_workspace / "train.py"
    script.write_text(script.read_text().replace('print(f"val_bpb:          {', 'print(f"val_bpb -> {'))
    who = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    run("git", *who, "commit", "-qam", "arrow", cwd=arf_workspace)
    names = [
        word for kind in ("strategy", "agent", "backend", "parser") for word in (f"--{kind}", f"my-{kind}")
    ]
    study = ["--name", "third", "--max-experiments", "8", "-o", "noise.replicates=2", "-o", "backend.slots=1"]
    path = {"PATH": f"{bin}{os.pathsep}{os.environ['PATH']}"}
    run(bin / "arf", "run", ".", *names, *study, "--plain", cwd=arf_workspace, env=path)
    directory = arf_workspace / ".arf" / "studies" / "third"
    results = (directory / "results.tsv").read_text()
    assert len(results.splitlines()) > 4
    assert "LEARNING_RATE x 2" in results
    assert (directory / "backend" / "slot-0").exists()
    assert (directory / "arf-my-listener.txt").read_text().startswith("finished")
    assert run(bin / "arf", "my-command", directory, cwd=arf_workspace, env=path).startswith("#")


def test_disabled_it_is_gone(bin: Path, here: Path) -> None:
    off = {"ARF_DISABLE_PLUGINS": "arf_my_strategy"}
    listed = run(bin / "arf", "plugins", "--json", cwd=here, env=off)
    assert '"name": "my-strategy"' not in listed
    assert "disabled" in listed
