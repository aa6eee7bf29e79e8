"""What hosts that are reached by SSH cost: one-second experiments on eight slots of two real SSH servers.

Whole studies by `arf run`, with the local backend and with `ssh`; the share of the slots in use, and the
time from one experiment's last line to the next one's first on the same slot.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "ssh"))
import ssh_hosts
from bench_slurm import measure, study


def main() -> None:
    if reason := ssh_hosts.missing():
        print(reason)
        return
    with tempfile.TemporaryDirectory(prefix="arf-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        hosts = ssh_hosts.Hosts(folder / "hosts", "gpu1", "gpu2")
        hosts.start()
        try:
            print(f"{'':<22}seconds   in use  of local  gap: median  95th pct, ms")
            base = measure("arf, local", study(folder / "local", "name: local"))
            ssh = f"name: ssh, hosts: ['gpu1:4', 'gpu2:4'], ssh: [-F, {hosts.config}]"
            measure("arf, ssh", study(folder / "ssh", ssh), base)
        finally:
            hosts.end()


if __name__ == "__main__":
    main()
