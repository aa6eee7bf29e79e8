"""Runs one job: `python arf_example_supervisor.py FOLDER`, with FOLDER as `arf_example.py` prepares it."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TURN_S = 0.02


def main(folder: Path) -> None:
    if os.fork():
        os._exit(0)
    os.setsid()
    order = json.loads((folder / "order.json").read_text())
    slot = wait_for_slot(folder, order["slots"])
    result: dict[str, Any] = (
        {"state": "cancelled", "started_at": None} if slot is None else run(folder, order)
    )
    result |= {"slot": f"processes:{slot}", "ended_at": datetime.now(UTC).isoformat()}
    (folder / "result.tmp").write_text(json.dumps(result))
    (folder / "result.tmp").rename(folder / "result.json")


def wait_for_slot(folder: Path, slots: int) -> int | None:
    """Lock the first free slot, until this process ends; None if the job is cancelled before its turn."""
    while not (folder / "cancel").exists():
        for slot in range(slots):
            file = os.open(folder.parent / f"slot-{slot}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return slot
            except BlockingIOError:
                os.close(file)
        time.sleep(TURN_S)
    return None


def run(folder: Path, order: dict[str, Any]) -> dict[str, Any]:
    started_at = datetime.now(UTC).isoformat()
    try:
        with open(order["log"], "wb") as log:
            process = subprocess.Popen(
                order["command"],
                shell=isinstance(order["command"], str),
                cwd=order["directory"],
                env=order["env"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
    except OSError as error:
        return {"state": "failed", "exit_code": 127, "started_at": started_at, "message": str(error)}
    state = wait(folder, process, time.monotonic() + order["time_limit_s"])
    code = process.returncode
    message = "" if code == 0 else f"ended with {code}"
    return {"state": state, "exit_code": code, "started_at": started_at, "message": message}


def wait(folder: Path, process: subprocess.Popen[bytes], deadline: float) -> str:
    """Wait for a job's end, or end it; either way none of its processes is left."""
    state = ""
    while process.poll() is None and not state:
        if (folder / "cancel").exists():
            state = "cancelled"
        elif time.monotonic() > deadline:
            state = "timed_out"
        else:
            time.sleep(TURN_S)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # all have ended by themselves
    process.wait()
    return state or ("succeeded" if process.returncode == 0 else "failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
