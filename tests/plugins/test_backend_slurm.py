"""The `slurm` backend without a Slurm: what its commands say. tests/slurm has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("submitit", reason="the extra `slurm` is not installed")

from arf.errors import BackendError
from arf_plugins.backend_slurm import commands, kinds
from arf_plugins.backend_slurm.commands import LimitReached
from arf_plugins.backend_slurm.executor import QueueWatcher, WorkerExecutor, parameters
from arf_plugins.backend_slurm.kinds import Node
from arf_plugins.worker_pool.pool import Unreachable


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("gpu:h100:2", (("gpu", "h100", 2),)),
        ("gpu:a100_1g.10gb:7(S:0-1)", (("gpu", "a100_1g.10gb", 7),)),
        ("gpu:4,nvme:1T", (("gpu", "", 4), ("nvme", "1T", 1))),
        ("gpu:h100:8(S:0,1),gpu:h200:1", (("gpu", "h100", 8), ("gpu", "h200", 1))),
        ("gpu", (("gpu", "", 1),)),
        ("(null)", ()),
    ],
)
def test_gres_is_read(text: str, found: tuple[tuple[str, str, int], ...]) -> None:
    assert kinds.parse_gres(text) == found


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1-02:03:04", 93784), ("30:00", 1800), ("4:00:00", 14400), ("infinite", None), ("n/a", None)],
)
def test_time_limits_are_read(text: str, seconds: float | None) -> None:
    assert kinds.parse_time(text) == seconds


def node(name: str, gres: str, *, cpus: int = 16, state: str = "idle", partition: str = "gpu") -> Node:
    return Node(
        name=name, partition=partition, default=partition == "gpu", gres=kinds.parse_gres(gres), cpus=cpus,
        state=state, limit_s=None,
    )  # fmt: skip


def test_slots_are_what_fits_on_nodes_that_are_up() -> None:
    nodes = [
        node("a", "gpu:h100:8"),
        node("b", "gpu:h100:4", state="mixed"),
        node("c", "gpu:h100:8", state="down*"),
        node("d", "gpu:h100:8", state="drained"),
    ]
    assert kinds.count_slots(nodes, "gpu:h100:1", 1) == 12
    assert kinds.count_slots(nodes, "gpu:3", 1) == 3
    assert kinds.count_slots(nodes, "gpu:h100:1", 8) == 4
    assert kinds.count_slots(nodes, "gpu:a100:1", 1) == 0
    assert kinds.gpu_kinds([*nodes, node("e", "gpu:a100:99")]) == ["a100", "h100"]


@pytest.mark.parametrize(
    ("text", "kind", "hint"),
    [
        (
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect)",
            Unreachable,
            "scontrol ping",
        ),
        (
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            Unreachable,
            "",
        ),
        (
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: submission failed: Job "
            "violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            LimitReached,
            "backend.slots",
        ),
        ("sbatch: error: invalid partition specified: x", BackendError, "backend.partition"),
        (
            "sbatch: error: Batch job submission failed: Invalid qos specification",
            BackendError,
            "directives.qos",
        ),
    ],
)
def test_errors_are_explained(text: str, kind: type[BackendError], hint: str) -> None:
    error = commands.explain("sbatch", text)
    assert type(error) is kind
    assert hint in str(error)
    assert "\n" not in str(error)


def test_any_directive_is_passed_on_as_it_is(tmp_path: Path) -> None:
    executor = WorkerExecutor(tmp_path, QueueWatcher("arf-x-"))
    executor.update_parameters(
        **parameters(
            name="arf-x-1", partition="gpu", gres="gpu:h100:1", cpus=4, memory="32G", minutes=60,
            directives={"account": "lab", "licenses": "a:1,b", "exclusive": True, "mail_type": "END"},
            srun=("--container-image=x y",),
        )
    )  # fmt: skip
    script = executor.script(["run"], 3)
    for line in (
        "#SBATCH --account=lab",
        "#SBATCH --licenses=a:1,b",
        "#SBATCH --exclusive",
        "#SBATCH --mail-type=END",
        "#SBATCH --array=0-2%3",
        "#SBATCH --gres=gpu:h100:1",
        "#SBATCH --mem=32G",
        "#SBATCH --time=60",
        "#SBATCH --no-requeue",
    ):
        assert line in script.splitlines()
    assert "'--container-image=x y'" in script
    assert "wckey" not in script
