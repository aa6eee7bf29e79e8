"""The program `worker.pyz`.

python worker.pyz worker HOME BATCH [INDEX]         a worker where arf's files are
python worker.pyz remote-worker HOME BATCH [INDEX]  a worker where only HOME is shared
python worker.pyz foreman HOME TOKEN                keeps a worker for each slot of a node
python worker.pyz node-worker HOME TOKEN INDEX      one of those
python worker.pyz relay HOME                        the far end of arf's connection
python worker.pyz probe                             what this machine has, as JSON
"""

from __future__ import annotations

import json
import os

from .foreman import Foreman, NodeWorker
from .gpus import probe
from .relay import Relay
from .remote_worker import RemoteWorker
from .worker import Worker

WORKERS = {"worker": Worker, "remote-worker": RemoteWorker, "node-worker": NodeWorker}


def main(args: list[str]) -> int:
    command, rest = args[0], args[1:]
    if command == "probe":
        print(json.dumps({"probe": probe()}), flush=True)
        return 0
    home = os.path.abspath(rest[0])
    if command == "relay":
        return Relay(home).main()
    if command == "foreman":
        return Foreman(home, rest[1]).main()
    index = rest[2] if len(rest) > 2 else "0"
    return WORKERS[command](home, rest[1], index).main()
