"""The `slurm` backend: a cluster's GPUs through sbatch, held by long-lived workers or job by job."""

from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen, validators

from arf.hooks import Declaration, hookimpl
from arf.types import Scalar, Seconds
from arf_plugins.worker_pool.options import PoolOptions


@frozen(kw_only=True)
class SlurmTier:
    """One kind of slot; what is left out is as for the whole backend."""

    partition: str | None = field(default=None, metadata={"help": "Partition to submit to"})
    gres: str | None = field(
        default=None, metadata={"help": "What one slot asks for, such as `gpu:h100:1`; null: no GPU"}
    )
    slots: int | None = field(
        default=None,
        validator=validators.optional(validators.gt(0)),
        metadata={"help": "Jobs at a time; null: as many as the partition's nodes have"},
    )
    price: float = field(
        default=0.0, validator=validators.ge(0), metadata={"help": "US dollars for one slot and hour"}
    )
    speed: float = field(
        default=1.0, validator=validators.gt(0), metadata={"help": "Speed against the first tier, if known"}
    )
    memory_gb: float | None = field(
        default=None,
        validator=validators.optional(validators.gt(0)),
        metadata={"help": "Accelerator memory of one slot, for people and agents to know"},
    )
    directives: Mapping[str, Scalar] = field(
        factory=dict, metadata={"help": "More sbatch directives, over those of the backend"}
    )


@frozen(kw_only=True)
class SlurmOptions(PoolOptions):
    """What the `slurm` backend can be told."""

    form: Literal["pool", "jobs"] = field(
        default="pool",
        validator=validators.in_(("pool", "jobs")),
        metadata={"help": "pool: long-lived workers that take job after job; jobs: one Slurm job each"},
    )
    tiers: Mapping[str, SlurmTier] = field(
        factory=dict,
        metadata={"help": "Kinds of slots by name, the preferred one first; empty: one for each kind of GPU"},
    )
    slots: int = field(
        default=8,
        validator=validators.and_(validators.gt(0), validators.le(100_000)),
        metadata={"help": "Jobs at a time, at most, on each tier that does not say itself"},
    )
    partition: str | None = field(
        default=None, metadata={"help": "Partition to submit to; null: the cluster's default"}
    )
    gpus_per_job: int = field(
        default=1,
        validator=validators.gt(0),
        metadata={"help": "GPUs that one job gets, on tiers that are found by asking"},
    )
    cpus_per_job: int | None = field(
        default=None,
        validator=validators.optional(validators.gt(0)),
        metadata={"help": "CPUs that one job gets; null: what the cluster gives"},
    )
    memory: str | None = field(
        default=None,
        metadata={"help": "Main memory for one job, such as `32G`; null: what the cluster gives"},
    )
    directives: Mapping[str, Scalar] = field(
        factory=dict,
        metadata={
            "help": "More sbatch directives, such as `account: lab` or `constraint: nvlink`; true: a flag"
        },
    )
    srun: tuple[str, ...] = field(
        default=(), metadata={"help": "More arguments for srun, such as `--container-image=...`"}
    )
    setup: tuple[str, ...] = field(
        default=(),
        metadata={"help": "Lines of bash, run once in a worker: modules, conda; what they export counts"},
    )
    wrap: str = field(
        default="",
        metadata={"help": "What the command is put behind, such as `apptainer exec --nv image.sif`"},
    )
    python: str | None = field(
        default=None,
        metadata={
            "help": "Python of the nodes, 3.7 or newer, for arf's runner; null: arf's own, else python3"
        },
    )
    send: bool | None = field(
        default=None,
        metadata={
            "help": "Whether code is sent along with jobs; null: if the nodes do not see the study's folder"
        },
    )
    shared: str | None = field(
        default=None,
        metadata={
            "help": "Folder that the nodes see, to send through; null: `~/.arf/slurm`. If given, code is sent"
        },
    )
    data: Mapping[str, str] = field(
        factory=dict,
        metadata={
            "help": "Where nodes have what workspace.link names, such as `data: /datasets/x`, if code is sent"
        },
    )
    worker_time: Seconds = field(
        default=14400.0,
        validator=validators.ge(60),
        metadata={"help": "How long a worker may hold its slot, at most; then another takes its place"},
    )


@hookimpl
def arf_register_backends() -> list[Declaration]:
    return [
        Declaration(
            name="slurm",
            summary="a Slurm cluster, through submitit: a pool of long-lived workers, or one Slurm job each",
            implementation="arf_plugins.backend_slurm.backend:SlurmBackend",
            options=SlurmOptions,
            extra="arf-research[slurm]",
        )
    ]
