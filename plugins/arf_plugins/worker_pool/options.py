"""The options that all pools of workers have."""

from __future__ import annotations

from attrs import field, frozen, validators

from arf.types import Seconds


@frozen(kw_only=True)
class PoolOptions:
    """What every pool of workers can be told."""

    send_mb: float = field(
        default=2048.0,
        validator=validators.ge(0),
        metadata={"help": "The most that is sent of one thing that workspace.link names, in MiB"},
    )
    return_mb: float = field(
        default=64.0,
        validator=validators.ge(0),
        metadata={"help": "The most that comes back of the files that one job writes, in MiB"},
    )
    idle: Seconds = field(
        default=600.0,
        validator=validators.ge(1),
        metadata={"help": "How long a worker without a job keeps its slot"},
    )
    start_timeout: Seconds | None = field(
        default=None,
        validator=validators.optional(validators.gt(0)),
        metadata={"help": "How long jobs may wait for a tier on which nothing starts; null: for ever"},
    )
    poll: Seconds = field(
        default=5.0,
        validator=validators.gt(0),
        metadata={"help": "The shortest pause between two questions to those who have the machines"},
    )
    heartbeat: Seconds = field(
        default=10.0,
        validator=validators.gt(0),
        metadata={"help": "How often a worker says that it is alive"},
    )
    silent: Seconds = field(
        default=180.0,
        validator=validators.gt(0),
        metadata={
            "help": "How long a worker or node that is said to run may be silent before it is given up"
        },
    )
    grace: Seconds = field(
        default=10.0,
        validator=validators.ge(0),
        metadata={"help": "Between asking a job to end (SIGTERM) and ending it (SIGKILL)"},
    )


@frozen(kw_only=True)
class LinkedOptions(PoolOptions):
    """What a pool can be told whose nodes share no folder with arf."""

    python: str = field(
        default="python3",
        metadata={"help": "The nodes' Python, for `{python}` in the workspace's commands"},
    )
    pass_env: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Variables of arf's environment that jobs get too; `*` at the end matches any rest. "
            "What the workspace sets or passes, and ARF_*, they get always"
        },
    )
