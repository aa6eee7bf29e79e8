"""The `skypilot` backend: clusters on any cloud, Kubernetes or Slurm that SkyPilot reaches."""

from collections.abc import Mapping
from typing import Any

from attrs import field, fields_dict, frozen, validators

from arf.errors import UsageError, nearest
from arf.hooks import Declaration, hookimpl
from arf.types import Scalar, Seconds
from arf_plugins.worker_pool.options import LinkedOptions

_HOUR_S: float | None = 3600.0


@frozen(kw_only=True)
class SkyTier:
    """One kind of slot. What is left out is as for the whole backend, then as in the template."""

    accelerators: str | tuple[str, ...] | None = None
    """Those of one cluster: `H100`, `H100:8`, or any one of several; None: no GPU."""
    slots: int = 1
    """Jobs at a time, on all clusters together."""
    gpus_per_job: int = 1
    infra: str | tuple[str, ...] | None = None
    spot: bool | None = None
    price: float | None = None
    """US dollars for one cluster and hour; None: as in SkyPilot's catalogue."""
    max_price: float | None = None
    """The most that one cluster may cost an hour."""
    speed: float = 1.0
    memory_gb: float | None = None
    jobs_per_cluster: int | None = None
    """None: as many as its GPUs allow; 1 without GPUs."""


def _tier(name: str, given: Any) -> SkyTier:
    """A tier as people write it: a number of slots, or a mapping. Raises UsageError."""
    if isinstance(given, SkyTier):
        return given
    if isinstance(given, int) and not isinstance(given, bool):
        given = {"accelerators": name, "slots": given}
    if not isinstance(given, Mapping):
        raise UsageError(
            f"tier {name}: {given!r} is neither a number of slots nor a mapping", hint="write `H100: 8`"
        )
    known = fields_dict(SkyTier)
    for key in given:
        if key not in known:
            raise UsageError(f"tier {name}: there is no key {key!r}", hint=nearest(str(key), known))
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    for key in ("slots", "gpus_per_job", "jobs_per_cluster"):
        value = given.get(key, 1)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise UsageError(f"tier {name}: {key} must be a whole number above 0, not {value!r}")
    for key in ("price", "max_price", "speed", "memory_gb"):
        value = given.get(key, 1.0)
        if value is not None and (not isinstance(value, int | float) or isinstance(value, bool) or value < 0):
            raise UsageError(f"tier {name}: {key} must be a number that is not negative, not {value!r}")
    return SkyTier(**given)


def _tiers(given: Mapping[str, Any]) -> dict[str, SkyTier]:
    return {name: _tier(name, tier) for name, tier in given.items()}


@frozen(kw_only=True)
class SkyPilotOptions(LinkedOptions):
    """What the `skypilot` backend can be told."""

    tiers: Mapping[str, Any] = field(
        factory=dict,
        converter=_tiers,
        metadata={
            "help": "Kinds of slots, the preferred one first: `{H100: 13, H200: 3}`, or a mapping for each; "
            "empty: what the template asks for"
        },
    )
    infra: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Where to look for machines: `kubernetes`, `aws/us-east-1`, `slurm/name`, `ssh/pool`;"
            " empty: everything that SkyPilot has access to"
        },
    )
    template: str | None = field(
        default=None,
        metadata={"help": "A SkyPilot YAML of your own: resources, setup, file mounts, image, envs"},
    )
    slots: int = field(
        default=1,
        validator=validators.and_(validators.gt(0), validators.le(100_000)),
        metadata={"help": "Jobs at a time where there are no tiers, only a template"},
    )
    resources: Mapping[str, Scalar] = field(
        factory=dict,
        metadata={
            "help": "More of SkyPilot's `resources` for all tiers, such as `disk_size: 200`, `cpus: 8+`"
        },
    )
    setup: tuple[str, ...] = field(
        default=(),
        metadata={"help": "Lines of bash, run once on each cluster, after the template's set-up"},
    )
    spot: bool = field(default=False, metadata={"help": "Cheaper machines that may be taken away"})
    max_usd_per_hour: float | None = field(
        default=None,
        validator=validators.optional(validators.gt(0)),
        metadata={"help": "The most that all clusters together may cost an hour; fewer are launched then"},
    )
    autodown: int = field(
        default=10,
        validator=validators.gt(0),
        metadata={
            "help": "Minutes after that until SkyPilot takes it down by itself, whatever became of arf"
        },
    )
    start_timeout: Seconds | None = field(
        default=_HOUR_S,
        validator=validators.optional(validators.gt(0)),
        metadata={
            "help": "How long a tier may be without any cluster while jobs wait for it; null: for ever"
        },
    )


@hookimpl
def arf_register_backends() -> list[Declaration]:
    return [
        Declaration(
            name="skypilot",
            summary="clusters through SkyPilot: any cloud, Kubernetes, Slurm; taken down at the end",
            implementation="arf_plugins.backend_skypilot.backend:SkyPilotBackend",
            options=SkyPilotOptions,
            extra="arf-research[skypilot]",
        )
    ]
