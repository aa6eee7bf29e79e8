"""A throw-away Slurm: a real controller and three nodes on this machine, with two kinds of pretended GPUs.

Needs Debian's packages (`PACKAGES`) and root: device files are made, which is what Slurm takes for a GPU.
Nothing outside of its folder is touched, and several can run beside each other.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGES = (
    "slurmctld",
    "slurmd",
    "slurm-client",
    "slurm-wlm-basic-plugins",
    "slurmdbd",
    "munge",
    "mariadb-server",
    "mariadb-client",
)
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
NODES = {"h100-0": ("h100", 4), "h100-1": ("h100", 4), "h200-0": ("h200", 2)}
START_S = 60.0

CONFIG = """
ClusterName=arf
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={home}/munge.sock,cred_expire=10
CredType=cred/munge
MpiDefault=none
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.%n.pid
SlurmdSpoolDir={home}/spool/%n
StateSaveLocation={home}/state
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.%n.log
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=2
MinJobAge=300
SlurmctldTimeout=60
SlurmdTimeout=300
InactiveLimit=0
CompleteWait=0
NodeName=DEFAULT CPUs=32 RealMemory=64000
NodeName=h100-[0-1] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{node0}-{node1}] Gres=gpu:h100:4
NodeName=h200-0 NodeHostname={host} NodeAddr=127.0.0.1 Port={node2} Gres=gpu:h200:2
PartitionName=gpu Nodes=h100-[0-1],h200-0 Default=YES MaxTime=1-00:00:00 PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes=h100-[0-1],h200-0 MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
PartitionName=brief Nodes=h200-0 MaxTime=5 PriorityTier=1 PreemptMode=OFF
"""

DATABASE = """
AuthType=auth/munge
AuthInfo=socket={home}/munge.sock,cred_expire=10
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd}
SlurmUser=root
LogFile={home}/slurmdbd.log
PidFile={home}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
"""


def missing(*, accounting: bool = False) -> str:
    """Why no cluster can be started here; empty if one can."""
    needed = ["slurmctld", "slurmd", "munged", "sbatch"]
    needed += ["slurmdbd", "mariadbd"] if accounting else []
    absent = [name for name in needed if not shutil.which(name, path=PATH)]
    if absent:
        return f"no {', '.join(absent)}: apt-get install {' '.join(PACKAGES)}"
    if os.geteuid() != 0:
        return "a throw-away Slurm needs root, for its device files"
    return ""


def can_hide() -> bool:
    """Whether a node can be started with file systems of its own."""
    words = ("unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt")
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


class Cluster:
    """One throw-away Slurm in a folder of its own."""

    def __init__(self, home: Path, *, accounting: bool = False) -> None:
        self.home = home
        self.accounting = accounting
        self.config = home / "slurm.conf"
        self.unseen = home / "unseen"
        """A folder that the nodes do not see: they have another one there, empty and of their own."""
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        names = ("ctld", "node0", "node1", "node2", "dbd", "sql")
        self._ports = dict(zip(names, _free_ports(len(names)), strict=True))
        self._ports["node1"], self._ports["node2"] = self._ports["node0"] + 1, self._ports["node0"] + 2

    # ---- Beginning and end ------------------------------------------------------------------

    def start(self) -> None:
        """Start all of it, and wait until the nodes can be used."""
        self._write_files()
        self._start("munged", "munged", "-F", "--force", f"--key-file={self.home}/munge.key",
                    f"--socket={self.home}/munge.sock", f"--pid-file={self.home}/munged.pid",
                    f"--log-file={self.home}/munged.log", f"--seed-file={self.home}/munged.seed")  # fmt: skip
        _until(lambda: (self.home / "munge.sock").exists(), "munged does not start")
        if self.accounting:
            self._start_accounting()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait_until_up()

    def stop(self) -> None:
        with contextlib.suppress(subprocess.SubprocessError, AssertionError):
            self.run("scancel", "-u", str(os.getuid()), check=False)
            self.wait_until_empty()
        for name in (
            "slurmd.h100-0",
            "slurmd.h100-1",
            "slurmd.h200-0",
            "slurmctld",
            "slurmdbd",
            "sql",
            "munged",
        ):
            self.end(name, signal.SIGTERM)

    def last_words(self) -> str:
        """The ends of all that the daemons have written."""
        files = sorted([*self.home.glob("*.log"), *self.home.glob("*.out")])
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-1500:]}" for file in files)

    def wait_until_empty(self) -> None:
        """Until no job holds anything."""
        _until(lambda: not self.run("squeue", "-h").strip(), "jobs stay in the queue")

    def wait_until_up(self) -> None:
        """Until all nodes can be used; a controller that has just started does not know them yet."""
        _until(lambda: self.idle_nodes() == len(NODES), "not all nodes are up")

    # ---- What tests do to it ----------------------------------------------------------------

    def start_controller(self) -> None:
        self._start("slurmctld", "slurmctld", "-D")

    def start_node(self, node: str) -> None:
        daemon = ("slurmd", "-D", "-N", node)
        if can_hide():
            hide = f'mount -t tmpfs none {shlex.quote(str(self.unseen))}; exec "$@"'
            daemon = ("unshare", "--mount", "sh", "-ec", hide, "sh", *daemon)
        self._start(f"slurmd.{node}", *daemon)

    def end(self, name: str, number: signal.Signals) -> None:
        """Send a daemon a signal, and wait for its end."""
        daemon = self._daemons.pop(name, None)
        if daemon is not None:
            daemon.send_signal(number)
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def resume(self, node: str) -> None:
        """Let a node that was set down be used again."""
        self.run(
            "scontrol", "update", f"nodename={node}", "state=resume", check=False
        )  # it may be so already
        self.wait_until_up()

    def idle_nodes(self) -> int:
        text = self.run("sinfo", "-h", "-N", "-p", "gpu", "-o", "%T", check=False)
        return sum(line in ("idle", "mixed", "allocated") for line in text.split())

    def jobs(self, form: str = "%i %T %N") -> list[str]:
        """What is in the queue, pending or running."""
        return self.run("squeue", "-h", "-r", "-o", form).splitlines()

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, timeout=60, check=check
        )
        return done.stdout

    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.config), "PATH": PATH}

    # ---- Parts ------------------------------------------------------------------------------

    def _write_files(self) -> None:
        for name in ("state", "spool", "dev", "unseen"):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        (self.home / "munge.key").write_bytes(os.urandom(1024))
        (self.home / "munge.key").chmod(0o400)
        gres = []
        for node, (kind, count) in NODES.items():
            (self.home / "spool" / node).mkdir(exist_ok=True)
            for i in range(count):
                # Slurm takes any character device for a GPU: these are second names of /dev/null.
                os.mknod(self.home / "dev" / f"{node}-{i}", 0o20666, os.makedev(1, 3))
            gres.append(f"NodeName={node} Name=gpu Type={kind} File={self.home}/dev/{node}-[0-{count - 1}]")
        (self.home / "gres.conf").write_text("\n".join(gres) + "\n")
        (self.home / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        names = {"host": socket.gethostname().split(".")[0], "home": self.home, **self._ports}
        text = CONFIG.format(**names)
        if self.accounting:
            text += "AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"
            text += (
                f"AccountingStoragePort={self._ports['dbd']}\nAccountingStoragePass={self.home}/munge.sock\n"
            )
            text += "AccountingStorageEnforce=associations,limits,qos\nAccountingStorageTRES=gres/gpu\n"
            (self.home / "slurmdbd.conf").write_text(DATABASE.format(**names))
            (self.home / "slurmdbd.conf").chmod(0o600)
        else:
            text += "AccountingStorageType=accounting_storage/none\n"
        self.config.write_text(text)

    def _start_accounting(self) -> None:
        data, sock = self.home / "mysql", self.home / "mysql.sock"
        base = ("--no-defaults", "--user=root", f"--datadir={data}")
        self.run("mariadb-install-db", *base, "--auth-root-authentication-method=normal", "--skip-test-db")
        self._start("sql", "mariadbd", *base, f"--socket={sock}", f"--pid-file={self.home}/sql.pid",
                    "--bind-address=127.0.0.1", f"--port={self._ports['sql']}",
                    "--innodb-buffer-pool-size=128M", "--innodb-lock-wait-timeout=900")  # fmt: skip
        ask = ("mariadb", "--no-defaults", "-uroot", "-S", str(sock), "-e")
        _until(lambda: sock.exists() and self._works(*ask, "select 1"), "mariadbd does not start")
        self.run(*ask, "create database slurm_acct; create user slurm@'127.0.0.1' identified by 'slurm'; "
                 "create user slurm@localhost identified by 'slurm'; grant all on slurm_acct.* to "
                 "slurm@'127.0.0.1'; grant all on slurm_acct.* to slurm@localhost")  # fmt: skip
        self._start("slurmdbd", "slurmdbd", "-D")
        _until(lambda: self._works("sacctmgr", "-n", "show", "cluster"), "slurmdbd does not start")
        self.run("sacctmgr", "-i", "add", "cluster", "arf")
        self.run("sacctmgr", "-i", "add", "account", "lab", "cluster=arf")
        self.run("sacctmgr", "-i", "add", "user", "root", "account=lab", check=False)

    def _works(self, *command: str) -> bool:
        return (
            subprocess.run(command, env=self.environment(), capture_output=True, check=False).returncode == 0
        )

    def _start(self, name: str, *command: str) -> None:
        with (self.home / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                command, env=self.environment(), stdout=out, stderr=out, stdin=subprocess.DEVNULL,
                preexec_fn=_end_with_parent,
            )  # fmt: skip


@contextlib.contextmanager
def running(home: Path, *, accounting: bool = False) -> Iterator[Cluster]:
    cluster = _started(home, accounting=accounting)
    try:
        yield cluster
    finally:
        cluster.stop()


def _started(home: Path, *, accounting: bool, attempts: int = 2) -> Cluster:
    """A cluster; if it does not start, another on other ports: somebody may have taken one meanwhile."""
    cluster = Cluster(home / str(attempts), accounting=accounting)
    try:
        cluster.start()
    except BaseException as error:
        cluster.stop()
        if not isinstance(error, Exception):
            raise
        if attempts > 1:
            return _started(home, accounting=accounting, attempts=attempts - 1)
        raise RuntimeError(f"no Slurm starts here: {error}\n{cluster.last_words()}") from error
    return cluster


def _end_with_parent() -> None:
    """A test run that is killed leaves no daemons."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _free_ports(count: int) -> Sequence[int]:
    """Ports in a row that nobody uses, outside of what the system gives to clients."""
    start = 16000 + os.getpid() % 300 * 40
    for base in [*range(start, 28000, 40), *range(16000, start, 40)]:
        sockets = [socket.socket() for _ in range(count + 2)]
        try:
            for i, one in enumerate(sockets):
                one.bind(("127.0.0.1", base + i))
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
        # The nodes' ports must follow each other: the others come after them.
        return [base, base + 1, base + 1, base + 1, base + 4, base + 5]
    raise RuntimeError("no free ports")


def _until(condition: object, what: str) -> None:
    limit = time.monotonic() + START_S
    assert callable(condition)
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.05)
