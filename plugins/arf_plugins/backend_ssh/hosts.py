"""Hosts: how they are named, how they are reached, and the tiers that they make."""

from __future__ import annotations

import math
import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from arf.errors import BackendError, UsageError
from arf_plugins.backend_local.devices import Gpu
from arf_plugins.backend_ssh import SshOptions
from arf_plugins.worker_pool.host_pool import Place
from arf_plugins.worker_pool.link import boot_command

SSH_OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=20",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
    "LogLevel=ERROR",
    "ForwardX11=no",
    "ForwardAgent=no",
)
CONTROL_S = 30
"""How long a connection stays open for the next one, if arf does not close it before."""
_HOST = re.compile(r"(?P<host>[^\s:]+)(?::(?P<most>\d+))?")


@frozen(kw_only=True)
class Host:
    """A machine, as it is named in the configuration."""

    name: str
    """For ssh: an alias of its configuration, a name or an address, with a user or without."""
    most: int | None = None
    """Jobs at a time; None: as many as it has GPUs for."""


def hosts_of(options: SshOptions) -> list[Host]:
    """All that are named. Raises UsageError."""
    words = [*options.hosts]
    if options.hosts_file is not None:
        path = Path(options.hosts_file).expanduser()
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UsageError(f"backend.hosts_file: cannot read {path}: {error.strerror}") from error
        words += [word for line in lines if (word := line.partition("#")[0].strip())]
    if not words:
        raise UsageError("backend `ssh` has no hosts", hint="such as `hosts: [gpu1, gpu2:4, user@gpu3]`")
    found: dict[str, Host] = {}
    for word in words:
        match = _HOST.fullmatch(word)
        if match is None or match["host"].startswith("-") or match["most"] == "0":
            raise UsageError(
                f"backend.hosts: {word!r} is no host",
                hint="write `gpu1`, `user@gpu1` or `gpu1:4`; a port is set in ~/.ssh/config",
            )
        found[match["host"]] = Host(name=match["host"], most=int(match["most"]) if match["most"] else None)
    return [*found.values()]


def node_name(host: str, kind: str, alone: bool) -> str:
    """What people read: the host, with the kind of GPU if it has several; also a name for files."""
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", host.rpartition("@")[2]).strip("-.") or "host"
    return plain if alone else f"{plain}-{kind}"


def places_of(host: Host, probe: Mapping[str, Any], options: SshOptions) -> list[Place]:
    """What of a host can be used now: free GPUs by kind; its cores if it has none."""
    if not probe["gpus"]:
        return [Place(host=host.name, tier="cpu", slots=host.most or options.slots)]
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for gpu in probe["gpus"]:
        memory_gb = gpu["memory_mb"] / 1024
        kind = Gpu(index=gpu["index"], uuid=gpu["uuid"], name=gpu["name"], memory_gb=memory_gb).kind
        by_kind.setdefault(kind, []).append(gpu)
    places: list[Place] = []
    left = options.most_gpus if options.most_gpus is not None else math.inf
    for kind, gpus in by_kind.items():
        free = [gpu for gpu in gpus if not gpu["processes"] and gpu["used_mb"] <= options.busy_mb]
        slots = int(min(len(free), left) // options.gpus_per_job)
        if host.most is not None:
            slots = min(slots, host.most - sum(place.slots for place in places))
        if slots > 0:
            left -= slots * options.gpus_per_job
            places.append(
                Place(
                    host=host.name,
                    tier=kind,
                    slots=slots,
                    uuids=tuple(gpu["uuid"] for gpu in gpus),
                    memory_gb=gpus[0]["memory_mb"] / 1024 * options.gpus_per_job,
                )
            )
    return places


def setup_lines(options: SshOptions) -> str:
    """What a worker runs once to have the environment that is named."""
    lines = []
    if options.modules:
        lines += [
            "command -v module >/dev/null || . /etc/profile.d/modules.sh 2>/dev/null"
            " || . /etc/profile.d/lmod.sh",
            *(f"module load {shlex.quote(name)}" for name in options.modules),
        ]
    if options.conda is not None:
        lines += [
            'for c in "$(command -v conda)" ~/miniconda3/bin/conda ~/miniforge3/bin/conda '
            '~/anaconda3/bin/conda /opt/conda/bin/conda; do [ -x "$c" ] && break; done',
            'eval "$("$c" shell.bash hook)"',
            f"conda activate {shlex.quote(options.conda)}",
        ]
    if options.venv is not None:
        folder = options.venv.removeprefix("~/")
        lines.append(f". {'~/' if folder != options.venv else ''}{shlex.quote(folder)}/bin/activate")
    return "\n".join([*lines, *options.setup])


class Ssh:
    """The system's ssh, with the user's configuration; connections to a host share one until `close`."""

    def __init__(self, options: SshOptions) -> None:
        self._given = options.ssh
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._used: set[str] = set()

    def command(self, host: str) -> Sequence[str]:
        """A local command that runs `boot_command` on a host."""
        return [*self._base(host), "-T", host, f"sh -c {shlex.quote(boot_command())}"]

    def _base(self, host: str) -> list[str]:
        options = [word for option in SSH_OPTIONS for word in ("-o", option)]
        if self._folder is None:  # a socket's path must be short, so it is not in the study's folder
            self._folder = tempfile.TemporaryDirectory(prefix="arf-ssh-")
        self._used.add(host)
        control = f"ControlPath={self._folder.name}/%C"
        return [
            "ssh", *self._given, *options, "-o", "ControlMaster=auto", "-o", control, "-o",
            f"ControlPersist={CONTROL_S}",
        ]  # fmt: skip

    def close(self) -> None:
        """End what is kept open. It can be used again."""
        for host in self._used:
            subprocess.run(
                [*self._base(host), "-O", "exit", host], capture_output=True, check=False, timeout=20
            )
        self._used.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def explained(host: str, error: BackendError) -> BackendError:
    """Why a host cannot be reached, with what to do."""
    low = error.message.lower()
    for words, hint in (
        ("host key verification", f"`ssh {host}` once by hand, to accept its key"),
        ("permission denied", f"`ssh {host} true` must work without a question: a key, and ssh-agent for it"),
        ("could not resolve", "is the name right, and in ~/.ssh/config or the DNS?"),
        ("connection refused", "is its SSH server up, and the port right?"),
        ("timed out", "is it up, and does a firewall or a jump host (`ProxyJump`) stand between?"),
        ("not found", "a Python 3.7 or newer is needed there: python3 on the PATH of `ssh HOST`"),
    ):
        if words in low:
            return BackendError(f"{host}: {error.message}", hint=hint)
    return BackendError(f"{host}: {error.message}", hint=f"try `ssh {host} true`")
