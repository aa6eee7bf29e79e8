"""The `ssh` backend: machines that you reach by SSH, without a scheduler."""

from attrs import field, frozen, validators

from arf.hooks import Declaration, hookimpl
from arf.types import Seconds
from arf_plugins.worker_pool.options import LinkedOptions


@frozen(kw_only=True)
class SshOptions(LinkedOptions):
    """What the `ssh` backend can be told."""

    hosts: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Machines as ssh knows them: `gpu1`, `user@gpu2`; `gpu3:4` for at most 4 jobs at a time"
        },
    )
    hosts_file: str | None = field(
        default=None, metadata={"help": "A file with more of them, a line each; `#` begins a comment"}
    )
    ssh: tuple[str, ...] = field(
        default=(),
        metadata={"help": "More arguments for ssh, such as `[-F, lab_config]` or `[-J, gateway]`"},
    )
    gpus_per_job: int = field(
        default=1, validator=validators.gt(0), metadata={"help": "GPUs that one job gets"}
    )
    most_gpus: int | None = field(
        default=None,
        validator=validators.optional(validators.gt(0)),
        metadata={"help": "The most GPUs that are used on one host; null: all that are free"},
    )
    busy_mb: float = field(
        default=500.0,
        validator=validators.ge(0),
        metadata={
            "help": "A GPU with a process, or with more memory in use than this, in MiB, is left alone"
        },
    )
    slots: int = field(
        default=1,
        validator=validators.gt(0),
        metadata={"help": "Jobs at a time on a host without GPUs that does not say itself"},
    )
    nice: int = field(
        default=0,
        validator=validators.and_(validators.ge(0), validators.le(19)),
        metadata={"help": "How far jobs stand back for others' processes on the CPU: 0 to 19"},
    )
    setup: tuple[str, ...] = field(
        default=(),
        metadata={"help": "Lines of bash, run once in a worker; what they export counts"},
    )
    conda: str | None = field(
        default=None, metadata={"help": "The conda environment of jobs, by name or path, if there is one"}
    )
    venv: str | None = field(
        default=None, metadata={"help": "The virtual environment of jobs, by its path there"}
    )
    modules: tuple[str, ...] = field(default=(), metadata={"help": "Environment modules that jobs need"})
    wrap: str = field(
        default="",
        metadata={"help": "What the command is put behind, such as `apptainer exec --nv image.sif`"},
    )
    silent: Seconds = field(
        default=600.0,
        validator=validators.gt(0),
        metadata={"help": "How long a host may not be reached before its jobs run elsewhere"},
    )


@hookimpl
def arf_register_backends() -> list[Declaration]:
    return [
        Declaration(
            name="ssh",
            summary="machines reached by SSH, without a scheduler; uses their free GPUs",
            implementation="arf_plugins.backend_ssh.backend:SshBackend",
            options=SshOptions,
        )
    ]
