"""The four things that a plugin can be. Each class states the contract; `arf.testing.suites` tests it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from arf.types import Answer, Ask, Job, JobResult, Plan, Reading, Tier

if TYPE_CHECKING:
    from arf.study import Study


class Strategy(ABC):
    """Decides what to run. Made with `(options)`.

    A strategy has no state of its own: everything that it knows is in the study, so a study can be
    resumed, simulated and replayed.
    """

    def __init__(self, options: Any = None) -> None:
        self.options = options

    @abstractmethod
    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        """What to run and to ask now, most wanted first.

        `free` has, for each tier, how many jobs could start now; a strategy that offers more plans than
        that sees the rest dropped, and is called again after the next change. An empty answer means
        "nothing now"; when nothing runs and no ask is open either, it ends the study.

        Pure: the same study gives the same answer, and randomness comes from `study.random()`. It must
        stay cheap as history grows (use the study's indexes; do not walk over all experiments). A plan
        that was refused (ideas that conflict, a tree that has run before) is in `study.refusals` and must
        not be offered again.
        """


@frozen(kw_only=True)
class Brief:
    """What an agent is told with an ask."""

    study: Study
    """Everything that happened, read-only; it changes while the agent thinks."""
    files: Mapping[str, str]
    """The editable text files at the ask's base: path relative to the workspace, and text."""
    program: str = ""
    """The user's instructions (program.md); empty if there are none."""
    directory: Path | None = None
    """A folder of the agent's own, kept with the study; None in tests that need none."""
    logs: Path | None = None
    """The folder of the runs' logs: experiment 12 wrote `000012.log`."""
    diff: Callable[[str, str], str] | None = None
    """The unified diff of two commits."""
    is_editable: Callable[[str], bool] | None = None
    """Whether a path, relative to the workspace, may be changed or made; None: only `files` may."""
    budget_left: Mapping[str, float] = field(factory=dict)
    """What is left of the budgets that are set: `experiments`, `seconds`, `slot_hours`, `usd`, `tokens`."""
    extra: Mapping[str, Any] = field(factory=dict)


class Agent(ABC):
    """Has ideas. Made with `(options)`; may hold connections until `aclose`."""

    def __init__(self, options: Any = None) -> None:
        self.options = options

    @property
    def parallel(self) -> int:
        """How many asks it answers well at a time."""
        return 1

    def check(self, brief: Brief) -> None:
        """Raises UsageError if the options do not fit the workspace. Called once, before the first job.

        For what cannot be seen when the agent is made: a file relative to the workspace, the name of a
        constant. `brief` is of the study's base.
        """
        return

    @abstractmethod
    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        """Up to `ask.n` ideas or factors for `ask.base`.

        It should repeat nothing that `brief.study` holds. An answer with nothing in it and `exhausted`
        set says that there is nothing more for this base. May take minutes; is cancelled when the study
        stops. Raises AgentError when it cannot answer.
        """

    async def aclose(self) -> None:
        """Release what is held. Called once, at the end."""
        return


class Backend(ABC):
    """Runs jobs. Made with `(options, directory)`; `directory` is its own folder, kept with the study."""

    def __init__(self, options: Any, directory: Path) -> None:
        self.options = options
        self.directory = directory

    @abstractmethod
    async def tiers(self) -> Sequence[Tier]:
        """What hardware there is, the preferred tier first. At least one. Called once, before any job.

        Raises BackendError with what to do if nothing can run.
        """

    @abstractmethod
    async def submit(self, job: Job) -> str:
        """Start or queue a job, and give a handle that is worth storing.

        Idempotent in `job.key`: submitting a key that is already there gives its handle again, also in
        another process after a crash. Never blocks for the job. Raises BackendError if it is refused.
        """

    @abstractmethod
    async def wait(self, handle: str) -> JobResult:
        """The job's end, as soon as it is known. Valid in another process, after a crash.

        An unknown handle gives `LOST`. May be called more than once; cancelling the call leaves the job.
        """

    @abstractmethod
    async def cancel(self, handle: str) -> None:
        """End the job with all its processes. Idempotent; unknown and ended handles are fine.

        `wait` then gives `CANCELLED`, or the end that came first.
        """

    def notes(self) -> Sequence[str]:
        """What people may want to know about the jobs so far, a line each; empty if nothing."""
        return ()

    async def aclose(self) -> None:
        """Release what is held. Jobs go on: whoever wants them ended cancels them first."""
        return


class MetricParser(ABC):
    """Reads metrics from a script's output. Made with `(options)`."""

    def __init__(self, options: Any = None) -> None:
        self.options = options

    @abstractmethod
    def parse(self, line: str) -> Sequence[Reading]:
        """The readings of one line of output (its end is stripped). Pure; never raises.

        A progress bar that ends in a carriage return is a line. Bytes that are not UTF-8 arrive as U+FFFD.
        """
