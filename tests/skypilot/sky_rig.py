"""SkyPilot's real API server over a real, throw-away Slurm on this machine: clusters without a cloud.

Needs root, Debian's Slurm and OpenSSH server, a Python 3.10 (SkyPilot's runtime on the nodes is one), and
the packages `skypilot[slurm]` and `uv` where the tests run. What SkyPilot fetches from the internet besides
Python packages is put in place here: the catalogue, and uv's installer.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "slurm"))

import slurm_cluster  # it is in the folder of the Slurm tests

INFRA = "slurm/arf/gpu"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_S = 60.0

SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {home}/ssh/hostkey
PidFile {home}/sshd.pid
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
StrictModes no
MaxStartups 200:30:400
MaxSessions 200
Subsystem sftp internal-sftp
SetEnv SLURM_CONF={home}/slurm.conf PATH={home}/bin:{path} SSL_CERT_FILE={certificates} \
UV_PYTHON_DOWNLOADS=never UV_CACHE_DIR={home}/uvcache SKYPILOT_DISABLE_USAGE_COLLECTION=1
"""
CURL = """#!/bin/bash
case "$*" in
*astral.sh/uv/install.sh*) echo 'mkdir -p "$UV_INSTALL_DIR" && ln -sf {uv} "$UV_INSTALL_DIR/uv"'; exit 0;;
esac
exec /usr/bin/curl "$@"
"""
CLIENT = """Host arf
    HostName 127.0.0.1
    Port {port}
    User root
    IdentityFile {home}/ssh/id
    IdentitiesOnly yes
"""
CATALOGUE = {
    "accelerators.csv": "AcceleratorName,Clouds\nH100,\"['Slurm']\"\nH200,\"['Slurm']\"\n",
    "metadata.csv": "GPU,MemoryGB,Manufacturer\nH100,80,NVIDIA\nH200,141,NVIDIA\n",
}


def missing() -> str:
    """Why this cannot be had here; empty if it can."""
    if reason := slurm_cluster.missing():
        return reason
    for module in ("sky", "uv"):
        if importlib.util.find_spec(module) is None:
            return f"no {module}: pip install 'skypilot[slurm]' uv (`make test-skypilot` does)"
    if not shutil.which("sshd", path=PATH):
        return "no sshd: apt-get install openssh-server"
    if python310() is None:
        return "no Python 3.10: set ARF_TEST_PYTHON310 to one"
    return ""


def python310() -> Path | None:
    """A Python 3.10, wherever it is."""
    candidates = [
        os.environ.get("ARF_TEST_PYTHON310", ""),
        "/usr/bin/python3.10",
        "/usr/local/bin/python3.10",
    ]
    candidates += map(str, Path("~/.pyenv/versions").expanduser().glob("3.10.*/bin/python3.10"))
    candidates += map(str, Path("~/.local/share/uv/python").expanduser().glob("cpython-3.10*/bin/python3.10"))
    return next((Path(path) for path in candidates if path and Path(path).is_file()), None)


class Rig(slurm_cluster.Cluster):
    """The Slurm, in mount and process namespaces that keep SkyPilot from the rest of this machine."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.sky_home = home / "skyhome"
        self.ports = _free_ports(2)
        self._holder: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._make_login_node()
        super().start()
        self._start("sshd", "/usr/sbin/sshd", "-D", "-f", str(self.home / "sshd.conf"), "-E",
                    str(self.home / "sshd.log"))  # fmt: skip
        self.sky("api", "start")
        self.sky("check", "slurm")

    def stop(self) -> None:
        with contextlib.suppress(subprocess.SubprocessError):
            self.sky("down", "--all", "--yes", check=False)
            self.sky("api", "stop", check=False)
        super().stop()
        self.end("sshd", signal.SIGTERM)
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait()
        for pid in self._left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def sky(self, *arguments: str, check: bool = True) -> str:
        """Run SkyPilot's command; gives what it prints."""
        command = [str(Path(sys.executable).with_name("sky")), *arguments]
        done = subprocess.run(
            command, env={**os.environ, **self.variables}, cwd=self.home, capture_output=True, text=True,
            timeout=300, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def variables(self) -> Mapping[str, str]:
        """What leads SkyPilot, and arf, to this rig."""
        return {
            "HOME": str(self.sky_home),
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
            "SKYPILOT_API_SERVER_LOCAL_PORT": str(self.ports[1]),
            "PYTHONSAFEPATH": "1",
        }

    def clusters(self) -> dict[str, str]:
        """The Slurm jobs that are SkyPilot's clusters: number by name."""
        rows = [line.split() for line in self.jobs("%i %j")]
        return {name: number for number, name in rows}

    # ---- Parts ------------------------------------------------------------------------------

    def _make_login_node(self) -> None:
        for name in ("root/.ssh", "bin", "ssh", "skyhome/.slurm", "skyhome/.sky/catalogs/v8/common"):
            (self.home / name).mkdir(parents=True)
        Path("/run/sshd").mkdir(exist_ok=True)
        (self.home / "root/.ssh").chmod(0o700)
        for key in ("id", "hostkey"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.home / "ssh" / key)]
            subprocess.run(command, check=True)
        shutil.copy(self.home / "ssh/id.pub", self.home / "root/.ssh/authorized_keys")
        (self.home / "root/.bashrc").touch()
        uv, python = Path(sys.executable).with_name("uv"), python310()
        assert python is not None
        (self.home / "bin/curl").write_text(CURL.format(uv=uv))
        (self.home / "bin/curl").chmod(0o755)
        (self.home / "bin/python3.10").symlink_to(python)
        certificates = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
        (self.home / "sshd.conf").write_text(
            SSHD.format(port=self.ports[0], home=self.home, path=PATH, certificates=certificates)
        )
        (self.sky_home / ".slurm/config").write_text(CLIENT.format(port=self.ports[0], home=self.home))
        for name, text in CATALOGUE.items():
            (self.sky_home / ".sky/catalogs/v8/common" / name).write_text(text)
        (self.home / "hosts").write_text(
            Path("/etc/hosts").read_text() + f"127.0.0.1 {' '.join(slurm_cluster.NODES)}\n"
        )
        self._hold(python)

    def _hold(self, python: Path) -> None:
        """Keep a mount namespace in which root's home, curl and the hosts file are the rig's."""
        home = Path("~").expanduser()
        lines = []
        for tool in {python.parents[1], Path(sys.prefix)}:
            if tool.is_relative_to(home):
                place = self.home / "root" / tool.relative_to(home)
                lines.append(f"mkdir -p {place} && mount --bind {tool} {place}")
        lines += [
            f"mount --rbind {self.home}/root {home}",
            f"mount --bind {self.home}/bin /usr/local/sbin",
            f"mount --bind {self.home}/hosts /etc/hosts",
            f"touch {self.home}/mounted",
            "exec sleep infinity",
        ]
        self._holder = subprocess.Popen(
            ["unshare", "-m", "--propagation", "private", "bash", "-ec", "\n".join(lines)],
            stdin=subprocess.DEVNULL,
            preexec_fn=slurm_cluster._end_with_parent,
        )
        slurm_cluster._until((self.home / "mounted").exists, "the namespace cannot be made")

    def _start(self, name: str, *command: str) -> None:
        assert self._holder is not None
        inside = ["nsenter", "-m", "-t", str(self._holder.pid)]
        if name.startswith("slurmd."):
            # SkyPilot ends other agents of its own that `ps` shows: each node has its own processes.
            inside += ["unshare", "-p", "-f", "--mount-proc", "--kill-child"]
        super()._start(name, *inside, *command)

    def end(self, name: str, number: signal.Signals) -> None:
        # `unshare -p` heeds only SIGKILL, and then ends what it holds.
        super().end(name, signal.SIGKILL if name.startswith("slurmd.") else number)

    def _left(self) -> list[int]:
        """What SkyPilot has left behind: processes whose home is the rig's."""
        mark = f"HOME={self.sky_home}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found


@contextlib.contextmanager
def running(home: Path) -> Iterator[Rig]:
    rig = Rig(home)
    try:
        rig.start()
        yield rig
    finally:
        rig.stop()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def until(condition: object, what: str, limit_s: float = 300.0) -> None:
    assert callable(condition)
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.1)
