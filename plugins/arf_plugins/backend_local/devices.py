"""What this machine can run: its GPUs by NVML, else its cores and memory; and how that is cut into slots."""

from __future__ import annotations

import glob
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen

from arf.errors import BackendError, nearest
from arf.types import Tier
from arf_plugins.backend_local import LocalOptions

log = logging.getLogger(__name__)

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
)

GIB = 2**30


@frozen(kw_only=True)
class Gpu:
    """One GPU, or one MIG device, which is to a job what a GPU is."""

    index: str
    """As nvidia-smi numbers it; `0.1` is the second MIG device of the first GPU."""
    uuid: str
    name: str
    """The product, such as `NVIDIA H100 80GB HBM3`."""
    memory_gb: float
    is_mig: bool = False

    @property
    def kind(self) -> str:
        """The name of its tier: `h100-80gb`, `h100-pcie-80gb`, `rtx-4090-24gb`, `h100-mig-1g.10gb`."""
        words = re.sub(r"[^a-z0-9.]+", " ", self.name.lower()).split()
        skipped = r"nvidia|tesla|geforce|quadro|graphics|gpu|sxm\d*|hbm\d*e?"
        words = [word for word in words if not re.fullmatch(skipped, word)]
        if not self.is_mig:
            size = next((word for word in words if re.fullmatch(r"\d+gb", word)), "")
            words = [word for word in words if word != size] + [size or f"{math.ceil(self.memory_gb)}gb"]
        elif "mig" in words:
            cut = words.index("mig")
            words = [word for word in words[:cut] if not re.fullmatch(r"\d+gb", word)] + words[cut:]
        return "-".join(words)


@frozen(kw_only=True)
class Machine:
    """What there is, before any option is looked at."""

    cores: int
    """That this process may use: affinity and cgroup quota count."""
    memory_gb: float
    """Main memory that it may use."""
    gpus: tuple[Gpu, ...] = ()


@frozen(kw_only=True)
class Slot:
    """A place where one job runs at a time."""

    label: str
    """For people, and unique: `cpu:1`, `gpu:0,1`; `gpu:0/2` is the second job on a GPU."""
    tier: str
    env: Mapping[str, str] = field(factory=dict)
    """What tells a job its devices, whatever its own environment says."""


@frozen(kw_only=True)
class Layout:
    """A machine cut into slots."""

    tiers: tuple[Tier, ...]
    """The one with most slots first."""
    slots: tuple[Slot, ...]
    threads: Mapping[str, str]
    """What tells a job how many threads to use, unless its own environment does."""


# ---- What there is --------------------------------------------------------------------------


def discover() -> Machine:
    """This machine."""
    root = Path("/")
    return Machine(cores=cores(root), memory_gb=memory_gb(root), gpus=_nvml_gpus())


def _nvml_gpus() -> tuple[Gpu, ...]:
    """The GPUs that a job could see; none where there is no driver."""
    try:
        import pynvml as nvml
    except ImportError:
        return ()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        if error.value != nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            log.warning("NVML does not work (%s): no GPU is used", error)
        return ()
    try:
        return visible(list(gpus(nvml)), os.environ.get("CUDA_VISIBLE_DEVICES"))
    finally:
        nvml.nvmlShutdown()


def gpus(nvml: Any) -> Iterator[Gpu]:
    """Every GPU that an initialised NVML (the module `pynvml`, or one like it) knows, in PCI bus order.

    A GPU in MIG mode is left out, and its MIG devices are there instead. One that fails (fallen off the
    bus) is logged and left out.
    """
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            if _in_mig_mode(nvml, handle):
                yield from _mig_devices(nvml, handle, index)
            else:
                yield _gpu(nvml, handle, str(index))
        except nvml.NVMLError as error:
            log.warning("GPU %d is left out: %s", index, error)


def _gpu(nvml: Any, handle: Any, index: str, is_mig: bool = False) -> Gpu:
    return Gpu(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        memory_gb=nvml.nvmlDeviceGetMemoryInfo(handle).total / GIB,
        is_mig=is_mig,
    )


def _in_mig_mode(nvml: Any, handle: Any) -> bool:
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:
        return False  # a GPU that has no such mode
    return bool(current)


def _mig_devices(nvml: Any, handle: Any, index: int) -> Iterator[Gpu]:
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            device = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
        except nvml.NVMLError:
            continue  # an empty place
        yield _gpu(nvml, device, f"{index}.{place}", is_mig=True)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value  # bytes before nvidia-ml-py 12


def visible(found: Sequence[Gpu], setting: str | None) -> tuple[Gpu, ...]:
    """The GPUs that a CUDA_VISIBLE_DEVICES leaves, in its order.

    As CUDA reads it: indices, UUIDs or their beginnings; what follows the first that is unknown is ignored.
    None is no setting. Indices are taken in PCI bus order, as nvidia-smi shows them; CUDA's own order
    differs on a machine with several kinds of GPU unless CUDA_DEVICE_ORDER=PCI_BUS_ID is set.
    """
    if setting is None:
        return tuple(found)
    chosen: list[Gpu] = []
    for name in setting.split(","):
        gpu = _find(found, name.strip())
        if gpu is None:
            break
        if gpu not in chosen:
            chosen.append(gpu)
    return tuple(chosen)


def _find(found: Sequence[Gpu], name: str) -> Gpu | None:
    if name.startswith(("GPU-", "MIG-")):
        matches = [gpu for gpu in found if gpu.uuid.startswith(name)]
        return matches[0] if len(matches) == 1 else None
    return next((gpu for gpu in found if gpu.index == name), None)


def cores(root: Path) -> int:
    """Cores that this process may use, at least 1: its affinity and its cgroups' quotas, rounded down.

    `root` is where /proc and /sys are.
    """
    if hasattr(os, "sched_getaffinity"):
        count = float(len(os.sched_getaffinity(0)))
    else:
        count = float(os.cpu_count() or 1)
    for folder in _cgroups(root, "cpu"):
        quota = _read(folder / "cpu.max").split()
        if not quota:
            quota = [
                *_read(folder / "cpu.cfs_quota_us").split(),
                *_read(folder / "cpu.cfs_period_us").split(),
            ]
        if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit():  # else "max", or -1: no limit
            count = min(count, int(quota[0]) / int(quota[1]))
    return max(1, int(count))


def memory_gb(root: Path) -> float:
    """Main memory that this process may use: the machine's, or its cgroups' limit."""
    match = re.search(r"MemTotal:\s+(\d+) kB", _read(root / "proc/meminfo"))
    if match:
        limit = float(match[1]) * 1024
    else:
        limit = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for folder in _cgroups(root, "memory"):
        text = _read(folder / "memory.max").strip() or _read(folder / "memory.limit_in_bytes").strip()
        if text.isdigit():
            limit = min(limit, int(text))
    return limit / GIB


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """The folders that limit this process for a controller, of cgroup v1 and v2, the innermost first."""
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        bases = [mount / controllers, mount / controller] if controllers else [mount, mount / "unified"]
        base = next((base for base in bases if base.is_dir()), mount)
        inner = base / path.lstrip("/")
        # In a container the path may be the host's, which is not there: the mount itself is ours then.
        while inner != base:
            yield inner
            inner = inner.parent
        yield base


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


# ---- How it is cut into slots ---------------------------------------------------------------


def cut(machine: Machine, options: LocalOptions) -> Layout:
    """The tiers of a machine and their slots.

    Raises BackendError where the options ask for what the machine does not have.
    """
    chosen = _chosen(machine.gpus, options.gpus)
    tiers, slots = _gpu_slots(chosen, options) if chosen else _cpu_slots(machine, options)
    names = [tier.name for tier in tiers]
    for name in options.prices:
        if name not in names:
            raise BackendError(f"backend.prices: there is no tier {name!r}", hint=nearest(name, names))
    threads = options.threads or max(1, machine.cores // len(slots))
    return Layout(
        tiers=tuple(tiers), slots=tuple(slots), threads=dict.fromkeys(THREAD_VARIABLES, str(threads))
    )


def _chosen(found: Sequence[Gpu], names: Sequence[str] | None) -> list[Gpu]:
    if names is None:
        return list(found)
    chosen: list[Gpu] = []
    for name in map(str, names):
        gpu = _find(found, name)
        if gpu is None:
            known = ", ".join(gpu.index for gpu in found)
            raise BackendError(
                f"backend.gpus: there is no GPU {name!r} to use",
                hint=f"there are {known}"
                if known
                else "NVML finds none here; leave `gpus` out to use the cores",
            )
        if gpu not in chosen:
            chosen.append(gpu)
    return chosen


def _cpu_slots(machine: Machine, options: LocalOptions) -> tuple[list[Tier], list[Slot]]:
    borne = max(1, min(machine.cores, int(machine.memory_gb / options.memory_gb)))
    count = options.slots or borne
    tier = Tier(
        name="cpu",
        slots=count,
        usd_per_hour=options.prices.get("cpu", options.price),
        memory_gb=round(machine.memory_gb / count, 1),
        description=f"{machine.cores} cores, {machine.memory_gb:.0f} GB, shared by {count}",
    )
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if machine.gpus else {}
    return [tier], [Slot(label=f"cpu:{i + 1}", tier="cpu", env=hidden) for i in range(count)]


def _gpu_slots(chosen: Sequence[Gpu], options: LocalOptions) -> tuple[list[Tier], list[Slot]]:
    if options.gpus_per_job > 1 and options.jobs_per_gpu > 1:
        raise BackendError(
            "backend: gpus_per_job and jobs_per_gpu are both above 1", hint="choose one of them"
        )
    if options.gpus_per_job > 1:
        chosen = [gpu for gpu in chosen if not gpu.is_mig]  # CUDA gives a process one MIG device at most
    kinds: dict[str, list[Gpu]] = {}
    for gpu in chosen:
        kinds.setdefault(gpu.kind, []).append(gpu)
    slots = [
        slot
        for kind, members in sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0]))
        for slot in _slots_of_kind(kind, members, options)
    ]
    if not slots:
        raise BackendError(
            f"backend.gpus_per_job is {options.gpus_per_job}, and no kind of GPU here has so many",
            hint=", ".join(f"{kind}: {len(members)}" for kind, members in kinds.items())
            or "MIG devices only",
        )
    if options.slots is not None and options.slots > len(slots):
        raise BackendError(
            f"backend.slots is {options.slots}, and the GPUs give {len(slots)}",
            hint="set backend.jobs_per_gpu to share a GPU, or `gpus: []` to use the cores",
        )
    slots = slots[: options.slots]
    names = dict.fromkeys(slot.tier for slot in slots)
    return [
        _gpu_tier(kinds[name][0], sum(slot.tier == name for slot in slots), options) for name in names
    ], slots


def _slots_of_kind(kind: str, members: Sequence[Gpu], options: LocalOptions) -> Iterator[Slot]:
    size = options.gpus_per_job
    if len(members) % size:
        log.warning("%d GPU of kind %s left over: jobs get %d each", len(members) % size, kind, size)
    for start in range(0, len(members) - size + 1, size):
        group = members[start : start + size]
        label = "gpu:" + ",".join(gpu.index for gpu in group)
        # UUIDs, because CUDA numbers GPUs in another order than NVML, and knows MIG devices only by them.
        env = {"CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in group)}
        for share in range(options.jobs_per_gpu):
            shared = f"{label}/{share + 1}" if options.jobs_per_gpu > 1 else label
            yield Slot(label=shared, tier=kind, env=env)


def _gpu_tier(gpu: Gpu, slots: int, options: LocalOptions) -> Tier:
    return Tier(
        name=gpu.kind,
        slots=slots,
        usd_per_hour=options.prices.get(gpu.kind, options.price),
        memory_gb=round(gpu.memory_gb * options.gpus_per_job / options.jobs_per_gpu, 1),
        description=gpu.name,
    )


_DEVICES = (
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
    "/dev/nvidia-uvm-tools",
    "/dev/nvidia-modeset",
    "/dev/nvidia-caps",
)
_DEVICES_AMD = ("/dev/kfd", "/dev/dri")


def device_files(env: Mapping[str, str]) -> list[str]:
    """The device files of the GPUs that an environment names; of all of them where it names none.

    Those of NVIDIA are told apart by what the driver says of each UUID; where it does not, all are given.
    """
    visible = env.get("CUDA_VISIBLE_DEVICES")
    if visible == "":
        return []
    minors = _minors()
    named = (visible or "").split(",")
    if visible and all(name in minors for name in named):
        own = [f"/dev/nvidia{minors[name]}" for name in named]
    else:
        own = sorted(glob.glob("/dev/nvidia[0-9]*"))
    return [path for path in [*own, *(_DEVICES if own else ()), *_DEVICES_AMD] if os.path.exists(path)]


def _minors() -> dict[str, str]:
    """The number of the device file of each NVIDIA GPU, by UUID."""
    found = {}
    for path in glob.glob("/proc/driver/nvidia/gpus/*/information"):
        with open(path, encoding="utf-8", errors="replace") as file:
            fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in file)}
        if "GPU UUID" in fields and "Device Minor" in fields:
            found[fields["GPU UUID"]] = fields["Device Minor"]
    return found
