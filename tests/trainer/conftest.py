"""The bundled workspace as its users have it: two scripts in a folder, run as processes or imported."""

import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="session")
def write_parquet() -> Callable[[Path, list], None]:
    """Writes documents as rows of a parquet file."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    return lambda path, documents: parquet.write_table(pyarrow.table({"text": documents}), path)


class ShardServer(http.server.ThreadingHTTPServer):
    """Serves `files` over HTTP, with the faults that a test sets."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), ShardHandler)
        self.files = files
        self.asked: list[tuple[str, str | None]] = []  # path and range of each request
        self.headers: dict[str, str] = {}
        self.redirects: dict[str, tuple[str, dict[str, str]]] = {}  # path -> where to, with these headers
        self.cuts = 0  # so many answers stop half way
        self.busy = 0  # so many requests are answered 429, with half a minute to wait
        self.ranges = True
        self.first_byte: int | None = None  # with which an answer starts, whatever was asked for
        self.chunked = False
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class ShardHandler(http.server.BaseHTTPRequestHandler):
    server: ShardServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name, asked = self.path.lstrip("/"), self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        self.close_connection = True
        if name in self.server.redirects:
            self.redirect(*self.server.redirects[name])
        elif self.server.busy:
            self.server.busy -= 1
            self.send_response(429)
            self.send_header("Retry-After", "30")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif (content := self.server.files.get(name)) is None:
            self.send_error(404)
        else:
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
            self.answer(content, start, partly=bool(asked) and self.server.ranges)

    def redirect(self, target: str, headers: dict[str, str]) -> None:
        self.send_response(302)
        for key, value in {"Location": target, "Content-Length": "0", **headers}.items():
            self.send_header(key, value)
        self.end_headers()

    def answer(self, content: bytes, start: int, *, partly: bool) -> None:
        if start >= len(content):
            self.send_error(416)
            return
        start = start if self.server.first_byte is None else self.server.first_byte
        body = content[start:]
        self.send_response(206 if partly else 200)
        if partly:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        for key, value in self.server.headers.items():
            self.send_header(key, value)
        self.end_headers()
        cut = self.server.cuts > 0
        self.server.cuts -= cut
        sent = body[: len(body) // 2] if cut else body
        if self.server.chunked:
            self.wfile.write(f"{len(body):x}\r\n".encode() + sent + (b"" if cut else b"\r\n0\r\n\r\n"))
        else:
            self.wfile.write(sent)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Callable[[dict[str, bytes]], ShardServer]]:
    """Starts servers of files, on this machine."""
    servers = []

    def start(files: dict[str, bytes]) -> ShardServer:
        servers.append(ShardServer(files))
        return servers[-1]

    yield start
    for running in servers:
        running.shutdown()
        running.server_close()
