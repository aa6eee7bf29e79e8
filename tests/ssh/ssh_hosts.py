"""Hosts that are told apart by their ports: real sshd's on the loopback, each with its own home and GPUs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
NVIDIA_SMI = """#!/bin/sh
case "$1" in
  --query-gpu=*) cat {folder}/gpus.csv ;;
  --query-compute-apps=*) cat {folder}/apps.csv ;;
esac
"""


def missing() -> str:
    """Why there can be no hosts here; empty if there can."""
    if SSHD is None or shutil.which("ssh") is None:
        return "there is no OpenSSH server here: .ci/install-ssh"
    return ""


class SshHost:
    """One of them. What is set on it counts for connections that come later."""

    def __init__(self, folder: Path, name: str, key: Path) -> None:
        self.name = name
        self.folder = folder / name
        self.home = self.folder / "home"
        self.home.mkdir(parents=True)
        (self.folder / "bin").mkdir()
        self.port = free_port()
        self._key = key
        self._sshd: subprocess.Popen[bytes] | None = None
        smi = self.folder / "bin/nvidia-smi"
        smi.write_text(NVIDIA_SMI.format(folder=self.folder))
        smi.chmod(0o755)
        self.set_gpus()

    def set_gpus(self, *gpus: tuple[str, int], used: tuple[int, ...] = ()) -> None:
        """(product, MiB in use) of each; `used` has the numbers of those with a process of somebody else."""
        lines = [f"{i}, GPU-{self.name}-{i}, {gpu}, 81559, {mb}" for i, (gpu, mb) in enumerate(gpus)]
        (self.folder / "gpus.csv").write_text("".join(line + "\n" for line in lines))
        (self.folder / "apps.csv").write_text("".join(f"GPU-{self.name}-{i}, 4242\n" for i in used))

    def start(self) -> None:
        config = self.folder / "sshd_config"
        path = f"{self.folder}/bin:{os.environ.get('PATH', os.defpath)}"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self._key}\n"
            f"AuthorizedKeysFile {self._key}.pub\n"
            f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nMaxStartups 100\n"
            f"SetEnv HOME={self.home} PATH={path} ON_HOST={self.name}-{self.port}\n"
        )
        assert SSHD is not None
        os.makedirs("/run/sshd", exist_ok=True)
        with (self.folder / "sshd.log").open("ab") as log:
            self._sshd = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", str(config)], stderr=log, start_new_session=True
            )
        limit = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert time.monotonic() < limit, (self.folder / "sshd.log").read_text()
            time.sleep(0.05)

    def cut(self, *, stay_down: bool = False) -> None:
        """End all connections at once; what runs on the host goes on. `stay_down`: there is no other one."""
        assert self._sshd is not None
        sessions = children(self._sshd.pid)
        if stay_down:
            self._sshd.kill()
            self._sshd.wait()
        for pid in sessions:
            for one in (*children(pid), pid):
                if "sshd" in name_of(one):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(one, signal.SIGKILL)

    def processes(self, *words: str) -> list[int]:
        """What runs here, with all of these words among its arguments."""
        mark, found = f"ON_HOST={self.name}-{self.port}".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    command = (entry / "cmdline").read_bytes().split(b"\0")
                    if all(word.encode() in command for word in words):
                        found.append(int(entry.name))
        return found

    def kill(self, *words: str) -> None:
        for pid in self.processes(*words):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        if self._sshd is not None:
            self.cut(stay_down=True)
        limit = time.monotonic() + 10
        while self.processes() and time.monotonic() < limit:
            self.kill()


class Hosts:
    """Several, and the user's configuration of ssh that names them."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        self.by_name = {name: SshHost(folder, name, key) for name in names}
        self.config = folder / "ssh_config"
        self.config.write_text(
            "".join(
                f"Host {host.name}\n  HostName 127.0.0.1\n  Port {host.port}\n"
                for host in self.by_name.values()
            )
            + f"Host *\n  IdentityFile {key}\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known\n"
            "  StrictHostKeyChecking accept-new\n  User root\n"
        )

    def __getitem__(self, name: str) -> SshHost:
        return self.by_name[name]

    def start(self) -> None:
        for host in self.by_name.values():
            host.start()

    def end(self) -> None:
        for host in self.by_name.values():
            host.end()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
