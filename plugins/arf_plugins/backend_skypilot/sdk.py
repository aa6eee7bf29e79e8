"""All that arf asks of SkyPilot. Every call blocks for seconds; `in_thread` is for the event loop.

What SkyPilot raises leaves here as one of the errors below, in one line with what to do about it.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from attrs import frozen

from arf.errors import BackendError, PluginError
from arf_plugins.worker_pool.pool import Gone, NoCapacity, Refused, Unreachable

log = logging.getLogger(__name__)

T = TypeVar("T")

SSH_OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=30",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    "LogLevel=ERROR",
    "ForwardX11=no",
)
STATUS_S = 120.0


@frozen(kw_only=True)
class Offer:
    """What a cluster of some resources would be."""

    infra: str = ""
    """Where, for people; empty if SkyPilot chooses at the launch."""
    usd_per_hour: float | None = None
    """None: the catalogue does not say."""
    memory_gb: float | None = None
    """Of one accelerator."""


@frozen(kw_only=True)
class Sight:
    """A cluster, as SkyPilot knows it."""

    name: str
    state: str
    """`INIT`, `PENDING`, `UP`, `STOPPED` or `AUTOSTOPPING`."""
    usd_per_hour: float = 0.0
    since: datetime | None = None
    infra: str = ""
    detail: str = ""


@frozen(kw_only=True)
class JobSight:
    """A job in a cluster's queue."""

    id: int
    state: str
    """`INIT`, `PENDING`, `SETTING_UP`, `RUNNING`, `SUCCEEDED`, `FAILED`, `FAILED_SETUP`, ..."""

    @property
    def live(self) -> bool:
        return self.state in ("INIT", "PENDING", "SETTING_UP", "RUNNING")


class Sky(Protocol):
    """What the backend needs of SkyPilot. A task is a mapping, as in SkyPilot's YAML."""

    def require(self) -> None:
        """Raise an error if SkyPilot cannot be used at all."""

    def enabled(self) -> Sequence[str]:
        """The infrastructure that there are credentials for."""

    def offer(self, task: Mapping[str, Any]) -> Offer:
        """What a cluster for a task would be. Raises Refused if there is no such thing."""

    def launch(self, name: str, task: Mapping[str, Any], autodown_min: int) -> None:
        """Make a cluster, or use the one that is there, and have it run the task. Gives back when it runs."""

    def start_job(self, name: str, task: Mapping[str, Any]) -> None:
        """Run a task on a cluster that is up."""

    def clusters(self, prefix: str, names: Collection[str] = (), *, look: bool = False) -> Sequence[Sight]:
        """Our clusters; with `look`, SkyPilot asks the cloud about those that are named."""

    def jobs(self, name: str) -> Sequence[JobSight]:
        """The jobs of a cluster, the newest first."""

    def last_line(self, name: str, job_id: int) -> str:
        """The last line that a job has printed."""

    def prepare_ssh(self, names: Collection[str]) -> None:
        """Have the keys and addresses of clusters written down here."""

    def ssh(self, name: str, command: str) -> Sequence[str]:
        """A local command whose standard input and output are those of a command on the cluster."""

    def down(self, name: str) -> None:
        """Take a cluster down, and give back when it is. One that is not there is fine."""

    def close(self) -> None:
        """Let go of what is held here. It can be used again."""


class SkySdk:
    """The real one, in this process: it prints to standard output. arf uses it through `SkyProcess`."""

    def close(self) -> None:
        return

    def require(self) -> None:
        if importlib.util.find_spec("sky") is None:
            raise PluginError(
                "the backend `skypilot` needs SkyPilot",
                hint="pip install 'arf-research[skypilot]' and what your cloud needs, such as "
                "'skypilot[kubernetes]' or 'skypilot[aws]'",
            )
        if not any((Path(folder) / "ssh").is_file() for folder in os.get_exec_path()):
            raise BackendError("there is no `ssh` on PATH", hint="install an OpenSSH client")

    def enabled(self) -> Sequence[str]:
        return [str(name) for name in self._get(lambda sky: sky.client.sdk.enabled_clouds())]

    def offer(self, task: Mapping[str, Any]) -> Offer:
        self._get(lambda sky: sky.optimize(self._dag(sky, task)))
        resources = task.get("resources", {})
        count_by_name = _accelerators(resources.get("accelerators"))
        infras = [one["infra"] for one in resources.get("any_of", ()) if "infra" in one]
        infras = infras or ([resources["infra"]] if "infra" in resources else [])
        clouds = sorted({infra.split("/")[0].lower().replace("k8s", "kubernetes") for infra in infras})
        if not count_by_name:
            return Offer(infra=", ".join(infras))
        clouds = clouds or [name.lower() for name in self.enabled()]
        spot = bool(resources.get("use_spot"))
        prices: list[tuple[float, str]] = []
        memory: list[float] = []
        for name, count in count_by_name.items():
            for item in self._listed(name, count, clouds):
                price = float(item.spot_price if spot else item.price)
                if not math.isnan(price):
                    prices.append((price, str(item.cloud)))
                if item.device_memory:
                    memory.append(float(item.device_memory))
        best = min(prices, default=None)
        return Offer(
            infra=", ".join(infras) or (best[1] if best else ""),
            usd_per_hour=best[0] if best else None,
            memory_gb=min(memory, default=None),
        )

    def _listed(self, name: str, count: float, clouds: list[str]) -> Sequence[Any]:
        """The catalogue's entries; none where it cannot be had, which only costs the price."""
        try:
            found = self._get(
                lambda sky: sky.client.sdk.list_accelerators(
                    name_filter=f"^{re.escape(name)}$", quantity_filter=count, clouds=clouds,
                    require_price=False, case_sensitive=False,
                )
            )  # fmt: skip
        except BackendError as error:
            log.warning("no prices for %s: %s", name, error.message)
            return ()
        return [item for items in found.values() for item in items]

    def launch(self, name: str, task: Mapping[str, Any], autodown_min: int) -> None:
        self._get(
            lambda sky: sky.launch(
                self._task(sky, task),
                cluster_name=name,
                idle_minutes_to_autostop=autodown_min,
                down=True,
                _need_confirmation=False,
            )
        )

    def start_job(self, name: str, task: Mapping[str, Any]) -> None:
        job = {key: value for key, value in task.items() if key not in ("setup", "file_mounts", "workdir")}
        self._get(lambda sky: sky.exec(self._task(sky, job), cluster_name=name))

    def clusters(self, prefix: str, names: Collection[str] = (), *, look: bool = False) -> Sequence[Sight]:
        def ask(sky: Any) -> Any:
            mode = sky.StatusRefreshMode.FORCE if look else sky.StatusRefreshMode.NONE
            return sky.status(sorted(names) or None, refresh=mode)

        return [_sight(record) for record in self._get(ask) if str(record["name"]).startswith(prefix)]

    def jobs(self, name: str) -> Sequence[JobSight]:
        found = self._get(lambda sky: sky.queue(name))
        sights = [JobSight(id=int(job["job_id"]), state=job["status"].value) for job in found]
        return sorted(sights, key=lambda job: -job.id)

    def last_line(self, name: str, job_id: int) -> str:
        import io

        out = io.StringIO()
        try:
            importlib.import_module("sky").tail_logs(name, job_id, follow=False, tail=20, output_stream=out)
        except Exception:  # SkyPilot's code; the line is a courtesy
            log.debug("no log of job %d on %s", job_id, name, exc_info=True)
        lines = [_plain(line) for line in out.getvalue().splitlines()]
        return next((line for line in reversed(lines) if line), "")

    def prepare_ssh(self, names: Collection[str]) -> None:
        # `sky status NAME` is the documented way to have ~/.sky/generated/ssh/NAME written.
        command = Path(sys.executable).with_name("sky")
        argv = [str(command) if command.is_file() else "sky", "status", *sorted(names)]
        try:
            done = subprocess.run(
                argv,
                capture_output=True,
                text=True,
                timeout=STATUS_S,
                check=False,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONSAFEPATH": "1"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unreachable(f"`sky status` does not answer: {error}") from error
        if done.returncode:
            raise Unreachable(f"`sky status` fails: {_last(done.stderr or done.stdout)}")

    def ssh(self, name: str, command: str) -> Sequence[str]:
        # Not through ~/.ssh/config: ssh reads that of the account, not of $HOME, and the user's own options.
        config = Path("~/.sky/generated/ssh").expanduser() / name
        options = [word for option in SSH_OPTIONS for word in ("-o", option)]
        try:
            found = re.search(r"^\s*IdentityFile\s+(.+)$", config.read_text(encoding="utf-8"), re.MULTILINE)
        except OSError as error:
            raise Unreachable(
                f"there is no SSH configuration for cluster {name}", hint=f"`sky status {name}`"
            ) from error
        if found:
            options += ["-i", os.path.expanduser(found.group(1).strip().strip('"'))]
        return ["ssh", "-F", str(config), "-T", *options, name, command]

    def down(self, name: str) -> None:
        try:
            self._get(lambda sky: sky.down(name))
        except Gone:
            pass

    # ---- Asking -----------------------------------------------------------------------------

    def _get(self, ask: Callable[[Any], Any]) -> Any:
        """The answer to a request. Raises BackendError; SkyPilot's own errors go no further."""
        try:
            sky: Any = importlib.import_module("sky")
            importlib.import_module("sky.client.sdk")
        except ImportError as error:
            self.require()
            raise PluginError(f"SkyPilot cannot be imported: {error}") from error
        try:
            return sky.get(ask(sky))
        except BackendError:
            raise
        except Exception as error:  # other people's code, of any kind
            log.debug("SkyPilot", exc_info=True)
            raise translated(error) from error

    def _task(self, sky: Any, task: Mapping[str, Any]) -> Any:
        return sky.Task.from_yaml_config(dict(task))

    def _dag(self, sky: Any, task: Mapping[str, Any]) -> Any:
        dag = sky.Dag()
        dag.add(self._task(sky, task))
        return dag


def translated(error: Exception) -> BackendError:
    """What SkyPilot raised, as one of arf's errors. By name: they move between its modules and versions."""
    kinds = {cls.__name__ for cls in type(error).__mro__}
    text = _last_telling(str(error)) or type(error).__name__
    low = str(error).lower()
    if kinds & {"ClusterDoesNotExist", "ClusterNotUpError", "CachedClusterUnavailable"}:
        return Gone(text)
    if kinds & {"ApiServerConnectionError", "ServerTemporarilyUnavailableError", "RequestInterruptedError",
                "RequestCancelled", "ConnectionError", "Timeout", "NetworkError",
                "ConcurrentWorkerExhaustedError", "ClusterStatusFetchingError"}:  # fmt: skip
        return Unreachable(text, hint="`sky api info` says whether the API server is there")
    if kinds & {"ApiServerAuthenticationError", "APIVersionMismatchError"}:
        return Refused(text, hint="`sky api login`, or the same version of SkyPilot as the API server's")
    if "is not enabled" in low or kinds & {
        "NoCloudAccessError",
        "InvalidCloudCredentials",
        "CloudUserIdentityError",
    }:
        return Refused(text, hint="`sky check` says which credentials are missing, and what to do")
    if "catalog does not contain" in low:
        return Refused(
            text, hint="`sky gpus list --all` shows what there is; check the name, the number and `infra`"
        )
    if "ResourcesUnavailableError" in kinds or "KubeAPIUnreachableError" in kinds:
        quota = any(word in low for word in ("quota", "limit exceeded", "limitexceeded", "vcpulimit"))
        hint = (
            "ask the cloud for more quota, or set fewer slots"
            if quota
            else (
                "it is tried again; another `infra`, `spot: false` or another accelerator may be there sooner"
            )
        )
        return NoCapacity(text, hint=hint)
    if kinds & {"ClusterSetUpError", "CommandError", "ProvisionPrechecksError"}:
        return Refused(text, hint="`sky logs --provision CLUSTER` has all of it")
    if kinds & {"InvalidSkyPilotConfigError", "ResourcesMismatchError", "NotSupportedError", "ValueError",
                "StorageError", "InvalidClusterNameError", "UserRequestRejectedByPolicy", "TypeError",
                "FileNotFoundError", "PermissionDeniedError"}:  # fmt: skip
        return Refused(text, hint="correct `backend` or the template")
    return NoCapacity(f"{type(error).__name__}: {text}", hint="it is tried again; `sky status` may say more")


def _sight(record: Mapping[str, Any]) -> Sight:
    handle = record.get("handle")
    state = getattr(record["status"], "value", str(record["status"]))
    usd = 0.0
    if state != "STOPPED":
        try:
            usd = float(handle.get_hourly_price())  # type: ignore[union-attr]
        except Exception:  # a cluster whose machines are not chosen yet, or of a cloud without prices
            log.debug("no price of %s", record["name"], exc_info=True)
    launched = record.get("launched_at")
    infra = "/".join(filter(None, (str(record.get("cloud") or ""), str(record.get("region") or ""))))
    return Sight(
        name=str(record["name"]),
        state=state,
        usd_per_hour=0.0 if math.isnan(usd) else usd,
        since=datetime.fromtimestamp(launched, UTC) if launched else None,
        infra=infra,
        detail=_plain(str(record.get("resources_str") or "")),
    )


def _accelerators(given: Any) -> dict[str, float]:
    """Names and numbers, from any of the forms that SkyPilot takes."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {str(name): float(count or 1) for name, count in given.items()}
    found = {}
    for word in [given] if isinstance(given, str) else list(given):
        name, _, count = str(word).partition(":")
        found[name] = float(count.rstrip("+") or 1)
    return found


_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def _plain(text: str) -> str:
    return _ESCAPES.sub("", text).strip()


def _last(text: str) -> str:
    lines = [_plain(line) for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "no reason given")


def _last_telling(text: str) -> str:
    """The part of a message that says what is wrong: it comes first, hints follow."""
    lines = [_plain(line) for line in text.splitlines()]
    kept = [line for line in lines if line and not line.lower().startswith(("hint:", "to fix:", "resource:"))]
    first = kept[0] if kept else ""
    return first.rstrip(".")[:400]
