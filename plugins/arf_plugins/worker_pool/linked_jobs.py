"""Jobs on nodes that arf reaches over a connection each: who gets which, and how they end."""

from __future__ import annotations

import asyncio
import logging
import os
from abc import abstractmethod
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from arf.errors import ArfError, BackendError
from arf.types import Job, JobResult, JobState
from arf_plugins.worker_pool.options import LinkedOptions
from arf_plugins.worker_pool.pool import WorkerPool, end_of, ended_after, signed, state_of
from arf_plugins.worker_pool.remote_node import RemoteNode
from arf_plugins.worker_pool.sent_job import sent_job
from arf_plugins.worker_pool.state_dir import StateDir

log = logging.getLogger(__name__)

FAILURES = 3
"""Foremen or set-ups of a tier that fail in a row, after which the tier is taken to be broken."""


class LinkedJobs(WorkerPool):
    """The jobs of a pool of nodes; `LinkedPool` has the nodes."""

    options: LinkedOptions

    def __init__(self, options: LinkedOptions, directory: Path, *, folder: str) -> None:
        super().__init__(options, directory, poll_interval_s=(options.poll, max(60.0, options.poll)))
        self._directory = Path(os.path.realpath(directory))
        self._state = StateDir(self._directory / folder)
        self._nodes: dict[str, RemoteNode] = {}
        self._set_ups: set[str] = set()
        """The jobs that make a machine ready."""
        self._setups: dict[str, None] = {}
        """Those that have succeeded somewhere: every other node runs them first."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._left_there = 0

    # ---- For the subclass -------------------------------------------------------------------

    @abstractmethod
    def _grow(self, tier: str, mine: Sequence[RemoteNode]) -> None:
        """Make, and wake, as many nodes as what waits can use."""

    @abstractmethod
    async def _restart(self, node: RemoteNode) -> None:
        """A new foreman for a node that is there."""

    @abstractmethod
    async def _retire(self, node: RemoteNode) -> None:
        """Give a node back that was set aside."""

    @abstractmethod
    def _set_node_aside(self, node: RemoteNode, reason: str) -> None:
        """Give it back once its jobs have ended."""

    # ---- Jobs that come ---------------------------------------------------------------------

    def _has(self, handle: str) -> bool:
        return self._state.has(handle)

    async def _keep(self, handle: str, job: Job) -> None:
        fields = sent_job(job, self._directory, self.options)
        self._state.add(handle, fields)
        if fields["set_up"]:
            self._set_ups.add(handle)
        job.log.write_bytes(b"")  # what an earlier job has written there must not be read as this one's
        self._queued[job.tier][handle] = None

    async def cancel(self, handle: str) -> None:
        await self._attach()
        if not self._state.has(handle) or self._result(handle) is not None:
            return
        for queue in self._queued.values():
            if handle in queue:
                self._end_queued(handle, JobState.CANCELLED, "cancelled")
                return
        self._cancels[handle] = self._now()
        node = self._node_of(handle)
        if node is not None and node.link is not None:
            async with node.sending:  # after the job itself
                await node.link.send("cancel", {"handle": handle})

    def notes(self) -> list[str]:
        """What the nodes did, and what could not be had."""
        notes = []
        for name, tally in self._tallies.items():
            if tally.started:
                ends = tally.ends()
                notes.append(f"{name}: {tally.started} nodes were begun" + (f" ({ends})" if ends else ""))
            if problem := tally.refusal or tally.shortage:
                notes.append(f"{name}: {problem}")
        if self._left_there:
            notes.append(
                f"{self._left_there} files that jobs wrote did not come back: they are over backend.return_mb"
            )
        return notes

    def node_of(self, slot: str) -> str:
        return slot.partition(":")[0]

    def _find(self, handle: str) -> None:
        """A job of an earlier process, which has not ended as far as is known."""
        node = self._nodes.get(self._state.given(handle))
        tier = self._state.job(handle).get("tier", "")
        if node is not None:
            node.jobs[handle] = None
            self.follow(handle)
        elif self._state.given(handle) or tier not in self._queued:
            self._end(handle, JobResult(state=JobState.LOST, message="its node is gone"))
        else:
            self._queued[tier][handle] = None
            self.follow(handle)

    def _node_of(self, handle: str) -> RemoteNode | None:
        return next((one for one in self._nodes.values() if handle in one.jobs), None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        one = asyncio.get_running_loop().create_task(self._guard(work))
        self._tasks.add(one)
        one.add_done_callback(self._tasks.discard)
        one.add_done_callback(lambda _: work.close())  # it may be cancelled before it begins
        return one

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except ArfError as error:
            log.warning("%s", error)
        except Exception as error:  # whoever waits must hear of a bug
            log.exception("the backend failed")
            for handle in [*self._open]:
                message = f"arf's backend failed: {type(error).__name__}: {error}"
                self._end(handle, JobResult(state=JobState.LOST, message=message))

    # ---- Who gets which job -----------------------------------------------------------------

    def _assign(self) -> None:
        """Give what waits to the nodes that have room, and see to it that there are enough of them."""
        if self._attached_to is None:
            return
        for tier, queue in self._queued.items():
            mine = [one for one in self._nodes.values() if one.tier == tier]
            for node in mine:
                if node.link is not None and node.ready and not node.aside:
                    self._prepare(node)
                    while queue and node.room > 0 and not self._unprepared(node):
                        self._give(node, next(iter(queue)))
            if queue:
                self._grow(tier, mine)

    def _unprepared(self, node: RemoteNode) -> list[str]:
        return [handle for handle in self._setups if handle not in node.prepared]

    def _prepare(self, node: RemoteNode) -> None:
        """Have a node run what has made the others ready."""
        if not self._set_ups.isdisjoint(node.jobs):
            return
        for handle in self._unprepared(node):
            if handle not in node.preparing:
                node.preparing.add(handle)
                self._send(node, handle)

    def _give(self, node: RemoteNode, handle: str) -> None:
        self._state.give(handle, node.name)
        self._unqueue(handle)
        node.jobs[handle] = None
        self._send(node, handle)

    def _send(self, node: RemoteNode, handle: str) -> None:
        if node.session is not None:
            self._spawn(node.session.send_job(handle, self._cancels))

    # ---- What sessions tell -----------------------------------------------------------------

    def node_connected(self, node: RemoteNode) -> None:
        for handle in [*node.jobs, *node.preparing]:
            self._send(node, handle)
        self._assign()

    def node_spoke(self, node: RemoteNode) -> None:
        self._assign()

    def slots_changed(self, node: RemoteNode) -> None:
        self._assign()

    def foreman_terminated(self, node: RemoteNode) -> None:
        self.soon()

    def foreman_ended(self, node: RemoteNode, token: str) -> None:
        if token == node.token:
            node.ready = False
            if node.jobs or self._queued[node.tier]:
                self._spawn(self._restart(node))

    def worker_died(self, node: RemoteNode, source: str, why: str) -> None:
        handle = node.running.pop(source, "")
        if handle in node.jobs:
            state = JobState.CANCELLED if handle in self._cancels else JobState.LOST
            self._end_on(node, handle, source, state, None, why)

    def files_left(self, count: int) -> None:
        self._left_there += count

    def job_unsendable(self, handle: str, error: BackendError) -> None:
        self._end(handle, JobResult(state=JobState.LOST, message=str(error)))

    def job_ended(self, node: RemoteNode, source: str, line: Mapping[str, Any]) -> None:
        handle, code = line["end"], signed(line["code"])
        if handle in node.preparing or (handle in self._setups and handle not in node.jobs):
            self._take_set_up(node, handle, code)
            return
        if handle not in node.jobs:
            return
        state, message = self._state_of(node, handle, line["why"], code)
        if handle in self._set_ups and state is JobState.SUCCEEDED:
            node.prepared.add(handle)
            self._setups[handle] = None
        self._end_on(node, handle, source, state, code, line["message"] or message, line["seconds"])

    def _take_set_up(self, node: RemoteNode, handle: str, code: int | None) -> None:
        node.preparing.discard(handle)
        tally = self._tally(node.tier)
        if code == 0:
            node.prepared.add(handle)
            tally.failures = 0
        else:
            tally.failures += 1
            message = f"workspace.setup failed on {node.name} with exit code {code}"
            hint = f"its log is there: {node.folder}/logs/{handle}"
            if tally.failures >= FAILURES:
                self._refuse(node.tier, BackendError(message, hint=hint))
            self._set_node_aside(node, message)
        self._assign()

    def _state_of(self, node: RemoteNode, handle: str, why: str, code: int | None) -> tuple[JobState, str]:
        if why in ("term", "gone") and handle in self._cancels:
            return JobState.CANCELLED, "cancelled"
        if why == "term":
            return JobState.PREEMPTED, f"{node.name} was being taken away"
        if why == "gone":
            state = JobState.PREEMPTED if node.kind.spot else JobState.LOST
            return state, f"{node.name} was restarted"
        return state_of(why, code, self._state.job(handle).get("time_limit_s", 0.0))

    def _end_on(
        self,
        node: RemoteNode,
        handle: str,
        source: str,
        state: JobState,
        code: int | None,
        message: str,
        seconds: float = 0.0,
    ) -> None:
        started = node.started.pop(handle, None)
        ended = end_of(started, seconds) if started is not None and seconds else ended_after(started)
        if state is JobState.FAILED and code is None and started is not None:
            code = 126
        slot = node.places.get(source, node.name)
        result = JobResult(
            state=state, exit_code=code, started_at=started, ended_at=ended, slot=slot, message=message
        )
        node.jobs.pop(handle, None)
        self._end(handle, result)
        if node.link is not None and handle not in self._set_ups:
            self._spawn(node.link.send("done", {"handle": handle}))
        if node.aside and not node.jobs:
            self._spawn(self._retire(node))
        self._assign()

    def _end_queued(self, handle: str, state: JobState, message: str) -> None:
        self._end(handle, JobResult(state=state, message=message))

    def _end(self, handle: str, result: JobResult) -> None:
        """A job has ended: write it down, and tell whoever waits."""
        if self._result(handle) is None:
            self._state.end(handle, result)
            self._results[handle] = result
            self._settle({handle: result})
        self._unqueue(handle)
        for node in self._nodes.values():
            node.jobs.pop(handle, None)
        self._cancels.pop(handle, None)

    def _result(self, handle: str) -> JobResult | None:
        return self._results.get(handle) or self._state.result(handle)
