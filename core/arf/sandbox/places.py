"""Which places of this machine a job gets to see: the system, its interpreter, what was declared."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/sys",
    "/nix/store",
    "/gnu/store",
)
_ETC = (
    "alternatives", "ca-certificates", "ca-certificates.conf", "cuda", "fonts", "gai.conf", "group",
    "host.conf", "hostname", "hosts", "infiniband", "inputrc", "ld.so.cache", "ld.so.conf", "ld.so.conf.d",
    "libnl", "locale.alias", "localtime", "login.defs", "lsb-release", "machine-id", "mime.types",
    "nsswitch.conf", "nvidia", "OpenCL", "os-release", "passwd", "pki/ca-trust", "pki/tls/certs",
    "pki/tls/cert.pem", "profile", "protocols", "resolv.conf", "rocm", "services", "shells", "ssl/certs",
    "ssl/cert.pem", "ssl/openssl.cnf", "static", "terminfo", "timezone", "vulkan",
)  # fmt: skip
"""What of /etc: not the passwords, host keys and settings of services that are there as well."""
RESOLVERS = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager/resolv.conf")
"""Where /etc/resolv.conf may lead."""
_PROBE = """
import json, os, sys
print(json.dumps([sys.prefix, sys.exec_prefix, sys.base_prefix, os.path.realpath(sys.executable), *sys.path]))
"""
_PROBE_S = 60.0
_FOLDERS_IN = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")
_FOLDER_IN = (
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "UV_PROJECT_ENVIRONMENT",
    "CUDA_HOME",
    "CUDA_PATH",
    "ROCM_PATH",
    "ROCM_HOME",
)


def readable(command: str | tuple[str, ...], env: Mapping[str, str], *, network: bool) -> tuple[str, ...]:
    """What any program needs to run here: system, interpreter, and what the environment names."""
    found = [*SYSTEM, *(f"/etc/{name}" for name in _ETC), *(RESOLVERS if network else ())]
    for name in _FOLDERS_IN:
        found += env.get(name, "").split(os.pathsep)
    # A version manager (pyenv, asdf, mise, rbenv) has its programs beside its folder of shims.
    found += [os.path.dirname(path) for path in found if os.path.basename(path) == "shims"]
    found += [env.get(name, "") for name in _FOLDER_IN]
    for python in _interpreters(command, env):
        found += _places_of(python, env.get("PYTHONPATH", ""))
    return tuple(
        path for path in dict.fromkeys(map(os.path.normpath, filter(os.path.isabs, found))) if path != "/"
    )


def _interpreters(command: str | tuple[str, ...], env: Mapping[str, str]) -> list[str]:
    """The Python that a command runs, or may run: its first word, what is beside it, and that of PATH."""
    words: Iterable[str] = command
    if isinstance(command, str):
        try:
            words = shlex.split(command)
        except ValueError:
            words = command.split()
    path = env.get("PATH", os.defpath)
    programs = [
        found for word in list(words)[:4] if (found := shutil.which(word, path=path)) and os.path.isabs(found)
    ]
    named = [
        os.path.join(env[name], "bin") for name in ("UV_PROJECT_ENVIRONMENT", "VIRTUAL_ENV") if env.get(name)
    ]
    beside = [os.path.join(folder, "python") for folder in [*map(os.path.dirname, programs), *named]]
    usual = [shutil.which(name, path=path) for name in ("python", "python3")]
    pythons = [path for path in [*programs, *beside] if os.path.basename(path).startswith("python")]
    return [path for path in dict.fromkeys([*pythons, *filter(None, usual)]) if os.path.exists(path)]


@lru_cache(maxsize=32)
def _places_of(python: str, pythonpath: str) -> tuple[str, ...]:
    """The folders that an interpreter is and imports from; none if it does not say."""
    env = {"PATH": os.defpath, "PYTHONPATH": pythonpath}
    try:
        done = subprocess.run(
            [python, "-c", _PROBE], env=env, capture_output=True, timeout=_PROBE_S, check=True, cwd="/"
        )
        prefix, exec_prefix, base, real, *rest = json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return ()
    home = os.path.dirname(os.path.dirname(real))
    return tuple(dict.fromkeys([prefix, exec_prefix, base, home, *filter(os.path.exists, rest)]))


def declared(paths: Iterable[str], workspace: Path, env: Mapping[str, str]) -> tuple[str, ...]:
    """Paths as people write them, absolute; those with a variable that is not set are left out."""
    found = []
    for text in paths:
        path = _expanded(text, env)
        if path is not None:
            found.append(os.path.normpath(workspace / path))
    return tuple(found)


def _expanded(text: str, env: Mapping[str, str]) -> str | None:
    parts = text.split("/")
    for number, part in enumerate(parts):
        if part.startswith("$"):
            value = env.get(part[1:].strip("{}"))
            if not value:
                return None
            parts[number] = value
    return os.path.expanduser("/".join(parts))


def outside(paths: Iterable[str], folder: Path) -> tuple[str, ...]:
    """Those that are neither a folder nor above it."""
    return tuple(path for path in paths if not Path(folder).is_relative_to(path))
