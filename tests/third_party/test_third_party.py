"""A distribution of somebody else's, built and installed as users do it, and used by name."""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = Path(__file__).parent / "arf-example-plugin"

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
def bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment with the wheels of arf and of the example installed.

    What arf depends on is taken from this environment, so that nothing is downloaded; arf itself is not.
    """
    place = tmp_path_factory.mktemp("third-party")
    for source in (ROOT, EXAMPLE):
        build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", place / "wheels"]
        run(*build, source, cwd=place)
    run(sys.executable, "-m", "venv", "--without-pip", place / "venv", cwd=place)
    venv = {"base": str(place / "venv"), "platbase": str(place / "venv")}
    wheels = sorted((place / "wheels").glob("*.whl"))
    python = Path(sysconfig.get_path("scripts", "posix_prefix", venv)) / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps"]
    run(*pip, *wheels, cwd=place)
    site = Path(sysconfig.get_path("purelib", "posix_prefix", venv))
    (site / "ours.pth").write_text("\n".join(sorted({sysconfig.get_path(p) for p in ("purelib", "platlib")})))
    return python.parent


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def test_the_wheels_are_what_runs(bin: Path, here: Path) -> None:
    code = "import arf, arf_plugins as a, arf_example as b; print(arf.__file__, a.__file__, b.__file__)"
    files = run(bin / "python", "-c", code, cwd=here).split()
    assert all(Path(file).is_relative_to(bin.parent) for file in files)


def test_its_own_tests_pass(bin: Path, here: Path) -> None:
    """With the suites and the fixtures that the wheel of arf brings."""
    command = [bin / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", EXAMPLE]
    assert " passed" in run(*command, EXAMPLE / "tests", cwd=here)


def test_it_is_listed_with_what_it_offers(bin: Path, here: Path) -> None:
    listed = json.loads(run(bin / "arf", "plugins", "--json", cwd=here))
    text = json.dumps(listed)
    for name in ("arf-example-plugin", "in-order", "scale", "supervised", "arrow", "example-hello"):
        assert name in text


def test_its_command_is_one_of_arfs(bin: Path, here: Path) -> None:
    assert run(bin / "arf", "example-hello", "you", cwd=here) == "hello, you\n"
    assert "says hello" in run(bin / "arf", "--help", cwd=here)


def test_a_study_uses_its_four_kinds_by_name(bin: Path, arf_workspace: Path) -> None:
    script = arf_workspace / "train.py"
    script.write_text(script.read_text().replace('print(f"val_bpb:          {', 'print(f"val_bpb -> {'))
    run(
        "git",
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@localhost",
        "commit",
        "-qam",
        "arrow",
        cwd=arf_workspace,
    )
    names = ["--strategy", "in-order", "--agent", "scale", "--backend", "supervised", "--parser", "arrow"]
    study = ["--name", "third", "--max-experiments", "8", "-o", "noise.replicates=2", "-o", "backend.slots=1"]
    path = {"PATH": f"{bin}{os.pathsep}{os.environ['PATH']}"}
    run(bin / "arf", "run", ".", *names, *study, "--plain", cwd=arf_workspace, env=path)
    directory = arf_workspace / ".arf" / "studies" / "third"
    results = (directory / "results.tsv").read_text()
    assert len(results.splitlines()) > 4
    assert "LEARNING_RATE x 2" in results
    assert (directory / "backend" / "slot-0").exists()
    assert (directory / "example.txt").read_text().startswith("finished")


def test_disabled_it_is_gone(bin: Path, here: Path) -> None:
    off = {"ARF_DISABLE_PLUGINS": "example"}
    listed = run(bin / "arf", "plugins", "--json", cwd=here, env=off)
    assert "in-order" not in listed
    assert "disabled" in listed
