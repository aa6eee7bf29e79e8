"""What nodes a cluster has, and the tiers that they make."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from attrs import evolve, frozen

from arf.errors import BackendError, nearest
from arf.types import Tier
from arf_plugins.backend_slurm import SlurmOptions, SlurmTier
from arf_plugins.backend_slurm.commands import run

DEAD_STATES = ("DOWN", "DRAIN", "FAIL", "MAINT", "POWERED_DOWN", "INVAL", "UNKNOWN", "FUTURE")


@frozen(kw_only=True)
class Node:
    """A node in a partition."""

    name: str
    partition: str
    default: bool
    gres: tuple[tuple[str, str, int], ...]
    """(name, type or "", count)."""
    cpus: int
    state: str
    limit_s: float | None
    """The partition's; None: none."""

    @property
    def usable(self) -> bool:
        return not any(self.state.upper().startswith(dead) for dead in DEAD_STATES)


@frozen(kw_only=True)
class SlurmKind:
    """A tier, and how it is asked for."""

    tier: Tier
    given: SlurmTier
    there: tuple[Node, ...]
    """The nodes that it may run on."""
    limit_s: float | None
    """The longest that the partition lets a job run; None: for ever."""


def nodes() -> list[Node]:
    """All nodes, once for each partition that they are in. Blocks. Raises BackendError."""
    text = run("sinfo", "-h", "-N", "-o", "%N|%P|%G|%c|%T|%l")
    return [node for line in text.splitlines() if (node := _node(line)) is not None]


def _node(line: str) -> Node | None:
    parts = line.split("|")
    if len(parts) != 6:
        return None
    name, partition, gres, cpus, state, limit = parts
    return Node(
        name=name,
        partition=partition.rstrip("*"),
        default=partition.endswith("*"),
        gres=parse_gres(gres),
        cpus=int(re.sub(r"\D.*", "", cpus) or 1),
        state=state,
        limit_s=parse_time(limit),
    )


def parse_gres(text: str) -> tuple[tuple[str, str, int], ...]:
    """`gpu:h100:2(S:0-1),nvme:1` as (name, type, count) each; what has no count has one."""
    found = []
    for item in re.sub(r"\([^)]*\)", "", text).split(","):
        name, *rest = item.strip().split(":")
        if not name or name == "null":
            continue
        count = 1
        if rest and (match := re.fullmatch(r"(\d+)([KMG]?)", rest[-1])):
            count = int(match[1]) * {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}[match[2]]
            rest = rest[:-1]
        found.append((name, rest[0] if rest else "", count))
    return tuple(found)


def parse_time(text: str) -> float | None:
    """`1-00:00:00`, `30:00` or `infinite` in seconds; None where there is no limit."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def in_partition(found: Sequence[Node], partition: str | None) -> list[Node]:
    """The nodes of a partition; None: the default one. Raises BackendError, with what there is."""
    known = dict.fromkeys(node.partition for node in found)
    if partition is None:
        default = [node for node in found if node.default]
        if not default and found:
            raise BackendError(
                "this cluster has no default partition", hint=f"set backend.partition: {', '.join(known)}"
            )
        return default
    asked = partition.split(",")
    for name in asked:
        if name not in known:
            raise BackendError(f"there is no Slurm partition {name!r}", hint=nearest(name, known))
    return [node for node in found if node.partition in asked]


def count_slots(found: Sequence[Node], gres: str | None, cpus: int) -> int:
    """How many jobs fit on nodes at a time. Raises BackendError if none of them has such a GRES."""
    usable = {node.name: node for node in found if node.usable}.values()
    wanted = parse_gres(gres) if gres else ()
    slots = 0
    for node in usable:
        fits = [node.cpus // cpus]
        for name, kind, count in wanted:
            have = sum(n for own, own_kind, n in node.gres if own == name and kind in ("", own_kind))
            fits.append(have // max(1, count))
        slots += max(0, min(fits))
    return slots


def gpu_kinds(found: Sequence[Node]) -> list[str]:
    """The types of GPUs, the most numerous first; an empty one where they have no type."""
    totals: dict[str, int] = {}
    for node in {node.name: node for node in found if node.usable}.values():
        for name, kind, count in node.gres:
            if name == "gpu":
                totals[kind] = totals.get(kind, 0) + count
    return sorted(totals, key=lambda kind: -totals[kind])


def found_tiers(options: SlurmOptions, found: Sequence[Node]) -> dict[str, SlurmTier]:
    """A tier for each kind of GPU in the partition; its CPUs where it has none."""
    there = in_partition(found, options.partition)
    kinds = gpu_kinds(there)
    if not kinds:
        return {"cpu": SlurmTier()}
    n = options.gpus_per_job
    return {
        kind.lower() or "gpu": SlurmTier(gres=f"gpu:{kind}:{n}" if kind else f"gpu:{n}") for kind in kinds
    }


def kind_of(options: SlurmOptions, name: str, given: SlurmTier, found: Sequence[Node]) -> SlurmKind:
    partition = given.partition or options.partition
    there = in_partition(found, partition)
    slots = count_slots(there, given.gres, options.cpus_per_job or 1)
    if not slots:
        raise _no_slots(options, name, given, there, partition)
    limits = [node.limit_s for node in there if node.limit_s is not None]
    what = ", ".join(filter(None, (given.gres, f"partition {partition}" if partition else "")))
    tier = Tier(
        name=name,
        slots=given.slots or min(slots, options.slots),
        usd_per_hour=given.price,
        speed=given.speed,
        memory_gb=given.memory_gb,
        description=what,
    )
    return SlurmKind(tier=tier, given=given, there=tuple(there), limit_s=min(limits) if limits else None)


def _no_slots(
    options: SlurmOptions, name: str, given: SlurmTier, there: Sequence[Node], partition: str | None
) -> BackendError:
    place = f"partition {partition}" if partition else "the default partition"
    if not any(node.usable for node in there):
        return BackendError(
            f"tier {name}: no node of {place} is up", hint="`sinfo -R` says why; choose another partition"
        )
    have = sorted({":".join(filter(None, item[:2])) for node in there for item in node.gres})
    return BackendError(
        f"tier {name}: no node of {place} has {given.gres or f'{options.cpus_per_job} CPUs'}",
        hint=f"it has {', '.join(have) or 'no GRES'}; `sinfo -o '%P %G %c'` shows all",
    )


def without(options: SlurmOptions, kind: SlurmKind, aside: Collection[str]) -> SlurmKind | None:
    """A tier without some nodes; None if nothing would be left of it."""
    left = [node for node in kind.there if node.name not in aside]
    slots = count_slots(left, kind.given.gres, options.cpus_per_job or 1) if left else 0
    return evolve(kind, tier=evolve(kind.tier, slots=min(kind.tier.slots, slots))) if slots else None
