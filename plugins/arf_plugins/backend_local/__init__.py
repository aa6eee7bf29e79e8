"""The `local` backend: this machine's GPUs or cores, one job a slot."""

from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen, validators

from arf.hooks import Declaration, hookimpl

MOST_SLOTS = 10_000
"""Of one machine: more is a slip of the finger."""


@frozen(kw_only=True)
class LocalOptions:
    """What the `local` backend can be told."""

    slots: int | None = field(
        default=None,
        validator=validators.optional(validators.and_(validators.gt(0), validators.le(MOST_SLOTS))),
        metadata={"help": "Jobs at a time, over all tiers; null: as many as the machine bears"},
    )
    gpus: tuple[str, ...] | None = field(
        default=None,
        metadata={
            "help": "GPUs to use, by nvidia-smi's index or by UUID; null: all that CUDA_VISIBLE_DEVICES "
            "leaves; an empty list: none, use the cores"
        },
    )
    gpus_per_job: int = field(
        default=1, validator=validators.gt(0), metadata={"help": "GPUs that one job gets, all of one kind"}
    )
    jobs_per_gpu: int = field(
        default=1,
        validator=validators.gt(0),
        metadata={"help": "Jobs that share one GPU; not with gpus_per_job above 1"},
    )
    threads: int | None = field(
        default=None,
        validator=validators.optional(validators.gt(0)),
        metadata={
            "help": "CPU threads of one job (OMP_NUM_THREADS and its kind); null: the cores, shared out"
        },
    )
    memory_gb: float = field(
        default=1.0,
        validator=validators.gt(0),
        metadata={
            "help": "Main memory to count on for a job, which limits the slots of a machine without GPUs"
        },
    )
    price: float = field(
        default=0.0, validator=validators.ge(0), metadata={"help": "US dollars for one slot and hour"}
    )
    prices: Mapping[str, float] = field(
        factory=dict, metadata={"help": "Prices by tier, where they differ from `price`"}
    )
    warm: Literal["auto", "on", "off"] = field(
        default="auto",
        validator=validators.in_(("auto", "on", "off")),
        metadata={
            "help": "Start Python scripts from a process that has imported what they import. auto: where it "
            "is exact; on: the same, with a warning where it is not; off: never"
        },
    )
    grace_s: float = field(
        default=10.0,
        validator=validators.ge(0),
        metadata={"help": "Seconds between asking a job to end (SIGTERM) and ending it (SIGKILL)"},
    )


@hookimpl
def arf_register_backends() -> list[Declaration]:
    return [
        Declaration(
            name="local",
            summary="this machine: its GPUs, or its CPU cores if there are none",
            implementation="arf_plugins.backend_local.backend:LocalBackend",
            options=LocalOptions,
        )
    ]
