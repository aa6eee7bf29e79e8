"""What runs on nodes: workers, and what looks after them there. Needs Python 3.7 and nothing else.

These modules are sent as one file, `worker.pyz` (`kit.py` makes it), and run there by `main.py`. They import
nothing but each other and the standard library, so they also work where arf is not installed.

What workers and arf tell each other are lines in small files below one folder, HOME. Each file has one
writer, is there before its reader looks for it, and is opened anew for each look, which is what makes a
network file system show what is new:

    HOME/arf                            arf, or a relay that it is connected to, touches it: somebody waits
    HOME/batches/BATCH/batch.json       arf: what these workers are for
    HOME/batches/BATCH/INDEX.orders     arf: `cancel HANDLE`, `drain` (end when nothing is left to do),
                                        `stay`, `leave` (take nothing more), `end` (end at once)
    HOME/batches/BATCH/INDEX.journal    the worker: JSON, a line for each thing that happened, and heartbeats
    HOME/queues/QUEUE                   arf: handles of jobs, in the order in which they are to be taken
    HOME/jobs/HANDLE                    arf: the job
    HOME/claims/HANDLE                  whoever was first: a worker, or arf that cancels; made by link(2)

Where arf reaches that folder (a shared file system), it reads and writes it itself. Where it does not, a
relay does so at the end of a connection, and a foreman keeps a worker for each slot of the node.
"""
