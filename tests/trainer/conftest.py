"""The bundled workspace as its users have it: two scripts in a folder, run as processes or imported."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

TRAINER = Path(__file__).resolve().parents[2] / "trainer"
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this session's corpora are prepared; the embedded one takes six seconds, once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def prepare(data_dir: Path) -> ModuleType:
    pytest.importorskip("torch")
    os.environ["ARF_DATA_DIR"] = str(data_dir)
    sys.path.insert(0, str(TRAINER))
    import prepare

    return prepare


@pytest.fixture(scope="session")
def train(prepare: ModuleType) -> ModuleType:
    import train

    return train


@pytest.fixture(scope="session")
def corpus(prepare: ModuleType):
    return prepare.load_corpus("shakespeare")


class Workspace:
    """A copy of the workspace that a test may edit."""

    def __init__(self, path: Path, data_dir: Path) -> None:
        self.path, self.data_dir = path, data_dir
        shutil.copytree(TRAINER, path, ignore=shutil.ignore_patterns("__pycache__"))

    def edit(self, *changes: tuple[str, str], file: str = "train.py") -> None:
        source = (self.path / file).read_text(encoding="utf-8")
        for old, new in changes:
            assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times in {file}"
            source = source.replace(old, new)
        (self.path / file).write_text(source, encoding="utf-8")

    def run(self, *args: str, script: str = "train.py", **env: str) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("ARF_")}
        return subprocess.run(
            [sys.executable, script, *args],
            cwd=self.path,
            env={**clean, "ARF_DATA_DIR": str(self.data_dir), "OMP_NUM_THREADS": "1", **env},
            capture_output=True,
            text=True,
            timeout=240,
        )

    def block(self, **env: str) -> dict[str, str]:
        """Train; the closing block."""
        run = self.run(**env)
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
        return self.read_block(run.stdout)

    @staticmethod
    def read_block(stdout: str) -> dict[str, str]:
        lines = stdout.rpartition("\n---\n")[2].splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@pytest.fixture
def workspace(tmp_path: Path, data_dir: Path, corpus) -> Workspace:
    return Workspace(tmp_path / "workspace", data_dir)


@pytest.fixture
def copy(tmp_path: Path, data_dir: Path, corpus) -> Callable[[str], Workspace]:
    """More than one copy of the workspace."""
    return lambda name: Workspace(tmp_path / name, data_dir)
