"""The SkyPilot task of a tier's clusters: the user's template, with what the tier and the backend say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from arf.errors import BackendError, UsageError
from arf.types import Tier
from arf_plugins.backend_skypilot import SkyPilotOptions, SkyTier
from arf_plugins.backend_skypilot.sdk import Offer
from arf_plugins.worker_pool.remote_node import NodeKind

NOT_THE_USERS = ("name", "run", "num_nodes")


@frozen(kw_only=True)
class SkyKind(NodeKind):
    """A tier, and the clusters that it is made of, each of one node."""

    task: Mapping[str, Any]
    """As in SkyPilot's YAML, without `run`."""
    usd_per_hour: float
    """Of one cluster."""


def read_template(path: Path) -> dict[str, Any]:
    """A SkyPilot YAML, its local paths made absolute. Raises UsageError."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"backend.template: cannot read {path}: {error.strerror}",
            hint="a path is relative to the folder in which arf is started",
        ) from error
    except yaml.YAMLError as error:
        raise UsageError(f"backend.template: {path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise UsageError(
            f"backend.template: {path} is no SkyPilot task", hint="a task has keys such as `resources`"
        )
    if found.get("num_nodes", 1) != 1:
        raise UsageError(
            f"backend.template: {path} asks for {found['num_nodes']} nodes",
            hint="a cluster of arf's has one node",
        )
    here = path.resolve().parent
    if isinstance(found.get("workdir"), str):
        found["workdir"] = _absolute(here, found["workdir"])
    mounts = found.get("file_mounts") or {}
    found["file_mounts"] = {
        there: _absolute(here, source) if isinstance(source, str) else source
        for there, source in mounts.items()
    }
    return {
        key: value for key, value in found.items() if key not in NOT_THE_USERS and value not in (None, {})
    }


def _absolute(here: Path, source: str) -> str:
    return source if "://" in source else str(here / Path(source).expanduser())


def given_tiers(options: SkyPilotOptions, template: Mapping[str, Any]) -> Mapping[str, SkyTier]:
    """The tiers of the options; where there are none, one of what the template asks for."""
    if options.tiers:
        return options.tiers
    wanted = _names(_resources(template).get("accelerators"))
    name = wanted[0].partition(":")[0].lower() if wanted else "cpu"
    return {name: SkyTier(slots=options.slots)}


def build(tier: SkyTier, options: SkyPilotOptions, template: Mapping[str, Any]) -> dict[str, Any]:
    """A tier's task, without `run`."""
    resources = {**_resources(template), **options.resources}
    infras = _names(tier.infra) or list(options.infra)
    if infras:
        for key in ("any_of", "ordered", "infra", "cloud", "region", "zone"):
            resources.pop(key, None)
        if len(infras) == 1:
            resources["infra"] = infras[0]
        else:
            resources["any_of"] = [{"infra": infra} for infra in infras]
    if wanted := _names(tier.accelerators):
        counted = [word if ":" in word else f"{word}:{tier.gpus_per_job}" for word in wanted]
        resources["accelerators"] = (
            counted[0] if len(counted) == 1 else {w.split(":")[0]: int(w.split(":")[1]) for w in counted}
        )
    if options.spot if tier.spot is None else tier.spot:
        resources["use_spot"] = True
    if tier.max_price is not None:
        resources["max_hourly_cost"] = tier.max_price
    task = {**template, "name": "arf", "resources": resources}
    setup = [line for line in (template.get("setup"), "\n".join(options.setup)) if line]
    if setup:
        task["setup"] = "\n".join(setup) + "\n"
    return task


def kind(name: str, tier: SkyTier, task: Mapping[str, Any], offer: Offer) -> SkyKind:
    """What a tier's clusters are. Raises BackendError if its numbers do not fit."""
    resources = task["resources"]
    gpus = min((_count(word) for word in _names(resources.get("accelerators"))), default=0)
    jobs = tier.jobs_per_cluster or max(1, gpus // tier.gpus_per_job)
    if gpus and tier.gpus_per_job > gpus:
        raise BackendError(
            f"tier {name}: a job wants {tier.gpus_per_job} GPUs, and a cluster has {gpus}",
            hint=f"write accelerators with a number, such as H100:{tier.gpus_per_job}",
        )
    usd = tier.price if tier.price is not None else offer.usd_per_hour or 0.0
    words = ", ".join(_names(resources.get("accelerators"))) or "no GPU"
    spot = " spot" if resources.get("use_spot") else ""
    return SkyKind(
        tier=Tier(
            name=name,
            slots=tier.slots,
            usd_per_hour=usd / jobs,
            speed=tier.speed,
            memory_gb=tier.memory_gb if tier.memory_gb is not None else offer.memory_gb,
            description=f"{words}{spot} on {offer.infra or 'any infra'}",
        ),
        task=task,
        jobs=jobs,
        gpus=gpus,
        nodes=math.ceil(tier.slots / jobs),
        spot=bool(resources.get("use_spot")),
        usd_per_hour=usd,
    )


def _resources(template: Mapping[str, Any]) -> dict[str, Any]:
    return dict(template.get("resources") or {})


def _names(given: Any) -> list[str]:
    """`H100:8`, a list, or SkyPilot's mapping, as a list of `NAME:COUNT`."""
    if given is None:
        return []
    if isinstance(given, Mapping):
        return [f"{name}:{count}" for name, count in given.items()]
    return [given] if isinstance(given, str) else [str(word) for word in given]


def _count(word: str) -> int:
    return int(float(word.partition(":")[2].rstrip("+") or 1))


def within_price(kinds: Sequence[SkyKind], most: float | None) -> list[SkyKind]:
    """The tiers with as many clusters as a price an hour allows, given out in turn. Raises BackendError."""
    from attrs import evolve

    if most is None:
        return list(kinds)
    counts = [0] * len(kinds)
    left = most
    growing = True
    while growing:
        growing = False
        for i, one in enumerate(kinds):
            if counts[i] < one.nodes and one.usd_per_hour <= left:
                counts[i] += 1
                left -= one.usd_per_hour
                growing = True
    if not any(counts):
        cheapest = min(one.usd_per_hour for one in kinds)
        raise BackendError(
            f"max_usd_per_hour is {most:g}, and the cheapest cluster costs ${cheapest:.2f} an hour",
            hint="raise backend.max_usd_per_hour, or set `spot: true`",
        )
    return [
        evolve(one, nodes=n, tier=evolve(one.tier, slots=min(one.tier.slots, n * one.jobs)))
        for one, n in zip(kinds, counts, strict=True)
        if n
    ]
