"""The things that a plugin can be. Each class states the contract; `arf.testing.suites` tests it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from arf.types import (
    Answer,
    Ask,
    Claim,
    ClaimPlan,
    Draft,
    Experiment,
    Idea,
    Job,
    JobResult,
    Plan,
    Reading,
    Receipt,
    Submission,
    Tier,
    Usage,
    Verdict,
    WorkspaceSettings,
)

if TYPE_CHECKING:
    from arf.study import Study


@frozen(kw_only=True)
class Judgement:
    """What a rule of acceptance says now."""

    verdicts: tuple[tuple[int, Verdict, str], ...] = ()
    """(experiment, verdict, reason for people), in the order in which they are to be recorded."""
    replicates: tuple[Plan, ...] = ()
    """Runs without which something cannot be decided, most wanted first."""
    incumbent: int | None = None
    """The experiment whose commit is the incumbent from now on, where that is none of the accepted ones."""


class AcceptRule(ABC):
    """Says which results are accepted while a study searches, and so what its incumbent is. Made with
    `(options)`.

    To accept is no claim: that something is better than the baseline is claimed by runs of its own.
    """

    def __init__(self, options: Any = None) -> None:
        self.options = options

    @abstractmethod
    def judge(self, study: Study, candidates: Sequence[Experiment]) -> Judgement:
        """Verdicts for candidates that have ended with a value and wait for theirs, oldest first.

        *Keep* accepts one, which is the incumbent from then on; *discard* rejects it; *measured* says that it
        was no candidate after all. One that is not named stays undecided, and something that is under way
        or among the `replicates` must be able to change that: the study does not end before.

        Pure: the same study gives the same answer. It is called after every change, and must cost the same
        however long a study is.
        """


class ClaimRule(ABC):
    """Says how a patch is measured against the baseline, and what is claimed of it. Made with `(options)`.

    A claim is begun at a study's end, at checkpoints, or on request. Everything here is a pure function of
    the study, so that a claim goes on after a crash where it was.
    """

    def __init__(self, options: Any = None) -> None:
        self.options = options

    @property
    def every_s(self) -> float | None:
        """Seconds between checkpoints; None for a claim at the end only."""
        return None

    @property
    def share(self) -> float:
        """The share of a budget, at most, that the search leaves for a claim."""
        return 0.25

    @abstractmethod
    def runs(self, study: Study) -> int:
        """How many runs a claim would take now: what the search leaves of the budget, up to `share` of it."""

    @abstractmethod
    def begin(self, study: Study, patch: Recommendation, runs: int, why: str) -> ClaimPlan | None:
        """The next claim, about a patch, with at most so many runs; None if there is nothing to claim."""

    @abstractmethod
    def plans(self, study: Study, plan: ClaimPlan) -> Sequence[Plan]:
        """The runs that it still lacks, in the order in which they should start; their role is *claim*.

        None, while what runs decides what comes next.
        """

    @abstractmethod
    def result(self, study: Study, plan: ClaimPlan, *, closing: bool = False) -> Claim | None:
        """What came of it; None while runs are missing. `closing`: no more will come."""


@frozen(kw_only=True)
class Recommendation:
    """The patch that a strategy would ship now, and what it expects of it."""

    parent: str
    """The commit that the ideas are applied to: the study's base, or an experiment's commit."""
    ideas: tuple[int, ...] = ()
    """In the order in which they are applied; none: the parent as it is."""
    gain: float
    """Predicted gain over the baseline in units of the objective; positive is better."""
    error: float
    """Its standard error."""
    worth: Mapping[int, float] = field(factory=dict)
    """What each idea adds to the patch, in units of the objective, where that is known."""


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

    def why_ended(self, study: Study) -> str:
        """Why it plans nothing more, for people, once a study has ended by that; empty: nothing is left."""
        return ""

    def recommend(self, study: Study) -> Recommendation | None:
        """The patch that a claim should start from; None: the incumbent.

        Pure, like `decide`, and called rarely: at the end of a study, at a checkpoint, or when somebody
        asks. It need not have run as a whole; runs of its own prune and measure it.
        """
        return None


@frozen(kw_only=True)
class Tried:
    """How a short run of a change went."""

    text: str
    """A few lines on that, for an agent."""
    broke: bool = False
    """Whether the script ended otherwise than well; not if there was no slot to run it on."""


class SubmissionQueue(ABC):
    """Where a running study takes orders from agents and people. The engine's own works in its process;
    `arf.submissions.remote.RemoteQueue` is the same from another process."""

    @abstractmethod
    async def submit(self, key: str, submissions: Sequence[Submission]) -> Sequence[Receipt]:
        """Hand in what is to be run; one receipt for each, refused ones included. Never waits for a run.

        Idempotent in `key`: the same key gives the same receipts, as they stand now, and submits nothing.
        """

    @abstractmethod
    async def known(self, key: str) -> Sequence[Receipt]:
        """What was handed in with a key, as it stands now; empty if nothing was."""

    @abstractmethod
    async def receipts(self, submissions: Sequence[int]) -> Sequence[Receipt]:
        """How submissions stand now. Unknown numbers are left out."""

    @abstractmethod
    async def wait(
        self, submissions: Sequence[int], timeout_s: float, *, any_done: bool = False
    ) -> Sequence[Receipt]:
        """As `receipts`, once all (or one) of them are done or the time is over.

        A submission is done when nothing of it waits and each of its experiments has its verdict.
        """

    @abstractmethod
    async def cancel(self, submissions: Sequence[int], experiments: Sequence[int] = ()) -> str:
        """Withdraw what waits and end what runs; a line that says what was done. Unknown ones are told."""

    @abstractmethod
    async def try_out(self, draft: Draft, base: str, seconds: float) -> Tried:
        """Run a change for so long on a free slot, as a check.

        No experiment, no verdict: it says whether the script starts, trains and keeps within memory. Says so,
        without running, where no slot is free or the change cannot be applied.
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
    workspace: Workspace | None = None
    """For agents that work on files of their own; None in tests that need none."""
    is_editable: Callable[[str], bool] | None = None
    """Whether a path, relative to the workspace, may be changed or made; None: only `files` may."""
    budget_left: Mapping[str, float] = field(factory=dict)
    """What is left of the budgets that are set: `experiments`, `seconds`, `slot_hours`, `usd`, `tokens`."""
    queue: SubmissionQueue | None = None
    """Where an ask for experiments may submit while it is answered; None in tests that need none."""
    complaint: str = ""
    """Why nothing in the agent's last answers could be used; empty if something could."""
    extra: Mapping[str, Any] = field(factory=dict)


@frozen(kw_only=True)
class Finding:
    """One thing that was checked, for `arf doctor`."""

    what: str
    detail: str = ""
    problem: str = ""
    """Empty if it is well."""
    hint: str = ""
    """What to do about the problem."""


class Agent(ABC):
    """Has ideas. Made with `(options)`; may hold connections until `aclose`."""

    def __init__(self, options: Any = None) -> None:
        self.options = options

    @property
    def parallel(self) -> int:
        """How many asks it answers well at a time."""
        return 1

    def check(self, brief: Brief) -> None:
        """Raises UsageError if the options do not fit the workspace, or another ArfError if it cannot work at
        all. Called once, before the first job.

        For what cannot be seen when the agent is made: a file relative to the workspace, the name of a
        constant. `brief` is of the study's base.
        """
        return

    def outlook(self, brief: Brief) -> Sequence[Finding]:
        """What it would change in this script and what it would leave alone, for `arf doctor` and `arf init`.

        A finding for each constant, or none where that is not known before it is asked. Must ask nobody.
        """
        return ()

    def estimate(self, brief: Brief) -> Usage | None:
        """What one ask usually costs, for the estimate before a study; None if that is not known.

        Must be quick, and ask nobody. An agent that costs nothing gives `Usage()`.
        """
        return None

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


@frozen(kw_only=True)
class HeldResource:
    """Something that a backend holds whether or not a job runs on it, such as a cluster of machines."""

    name: str
    tier: str = ""
    state: str = ""
    """In the words of what it runs on: `UP`, `STOPPED`, `PENDING`."""
    usd_per_hour: float = 0.0
    """What it costs now, as a whole."""
    since: datetime | None = None
    """When it came up; None if that is not known."""
    detail: str = ""


class Backend(ABC):
    """Runs jobs. Made with `(options, directory)`; `directory` is its own folder, kept with the study.

    The folder is there when the first job is submitted, and need not be before.
    """

    outlives_host: bool = True
    """Whether a job may go on when the machine that arf runs on goes down.

    A start is then on disk before it is made; else it is a moment later, and a slot waits for no disk.
    """

    def __init__(self, options: Any, directory: Path) -> None:
        self.options = options
        self.directory = directory

    @abstractmethod
    async def tiers(self) -> Sequence[Tier]:
        """What hardware there is, the preferred tier first. At least one. Called before any job, and again
        when a node was set aside.

        Raises BackendError with what to do if nothing can run.
        """

    @abstractmethod
    async def submit(self, job: Job) -> str:
        """Start or queue a job, and give a handle that is worth storing.

        Idempotent in `job.key`: submitting a key that is already there gives its handle again, also in
        another process after a crash, and after an error. Never blocks for the job. Raises BackendError if
        it is refused; it is then submitted again, under the same key.
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

    def node_of(self, slot: str) -> str:
        """The node that a `JobResult.slot` is on: what can be set aside, such as a host, a GPU or a cluster.

        Empty where that cannot be told, or where places differ in nothing, such as the cores of one machine.
        Pure.
        """
        return ""

    def set_aside(self, node: str, why: str) -> bool:
        """Give a node (of `node_of`) no more jobs; what runs there goes on. False: the backend cannot.

        Idempotent. Called once for each node that is found broken, slow or off, and again after a resume;
        `tiers` may be called afterwards and then has as many slots as are left. Never raises; the last place
        of a tier stays in use.
        """
        return False

    def notes(self) -> Sequence[str]:
        """What people may want to know about the jobs so far, a line each; empty if nothing."""
        return ()

    async def check(self) -> Sequence[Finding]:
        """What `arf doctor` tells about it before a job is tried: commands, credentials, folders.

        Never raises for what is missing; that is a finding. Callable before `tiers`.
        """
        return ()

    async def held_resources(self) -> Sequence[HeldResource]:
        """What is up on behalf of this study and may cost money; also in another process, after a crash."""
        return ()

    async def down(self) -> None:
        """Take down all that `held_resources` tells. Idempotent.

        Called at a study's end and by `arf stop --down`. Raises BackendError that names what is still up.
        """
        return

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

    def example(self, metric: str) -> str:
        """A line that it reads as that metric, for error messages."""
        return f"{metric}: 1.23"


@frozen(kw_only=True)
class Composed:
    """Ideas on a parent, as one commit."""

    commit: str
    tree: str
    """As `Workspace.tree_of` gives it."""


@frozen
class SourceFile:
    """A regular file of a commit."""

    data: bytes
    executable: bool = False


class WorkTree(ABC):
    """A folder that holds the files of one commit, made ready for one job after another."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        """Belongs to the work tree alone; it need not exist before the first `fill`."""

    @property
    def cwd(self) -> Path:
        """The workspace's folder in the tree, where the command runs."""
        return self.directory

    @abstractmethod
    def fill(self, commit: str, seed: int | None) -> None:
        """Make the folder hold the commit's files, its links, and nothing else.

        `seed` is written into the files where the workspace sets seeds so; None leaves them as they are.
        What an earlier job left behind is removed, and never followed. Raises WorkspaceError if that cannot
        be done.
        """

    @abstractmethod
    def adopt(self, commit: str, seed: int | None) -> None:
        """Take the folder as filled by an earlier process, so that `tampered` can be asked."""

    @property
    def readonly(self) -> Collection[str]:
        """The files that no run may change, as paths below `directory`; a job gets them read-only."""
        return ()

    @property
    def others(self) -> Collection[str]:
        """All other files and links that `fill` has put there."""
        return ()

    @abstractmethod
    def tampered(self) -> Sequence[str]:
        """The editable and read-only files that are not as they were filled in, relative to the workspace.

        Sorted; missing files are among them. Never raises for what a job did.
        """


class Workspace(ABC):
    """A folder with a script, the versions of its files, and what ideas make of them.

    A *commit* is a version of all files, named by a string that stays valid, also in another process and
    after a crash once it is kept; a *tree* names their content, so that equal trees hold equal files. Paths
    are relative to the workspace, with forward slashes; that of a file beside it begins with `../`. The
    user's own files are written by `apply_to_checkout` alone. Not for more than one thread, `flush` apart.

    `workspace.kind` in the configuration names what opens it: a callable with the arguments of
    `arf.workspace.open_workspace`.
    """

    def __init__(self, directory: Path, settings: WorkspaceSettings) -> None:
        self.directory = directory
        """The folder with the script, symbolic links resolved. Studies are kept in its `.arf`."""
        self.settings = settings

    @property
    def top(self) -> Path:
        """The folder that no job gets to see, but for its work tree: the one that holds the user's files."""
        return self.directory

    # ---- What is there ----------------------------------------------------------------------

    @abstractmethod
    def base_commit(self) -> str:
        """The commit that a study starts from: the user's files as they are."""

    @abstractmethod
    def tree_of(self, commit: str) -> str:
        """The tree of a commit. Raises LostError if the commit is not there."""

    @abstractmethod
    def tracked(self, commit: str) -> Collection[str]:
        """The paths of all files of a commit."""

    @abstractmethod
    def read(self, commit: str, path: str) -> SourceFile | None:
        """A regular file of a commit; None for what is none, such as a link, or is not there."""

    @abstractmethod
    def is_editable(self, path: str) -> bool:
        """Whether ideas may change the file at a path, or make one there."""

    @abstractmethod
    def is_readonly(self, path: str) -> bool:
        """Whether a run that changes the tracked file at a path does not count."""

    def files(self, commit: str) -> dict[str, str]:
        """The editable text files of a commit. What is not UTF-8 reads as U+FFFD."""
        texts = {}
        for path in self.tracked(commit):
            file = self.read(commit, path) if self.is_editable(path) else None
            if file is not None and b"\0" not in file.data:
                texts[path] = file.data.decode("utf-8", "replace")
        return texts

    def program(self, commit: str) -> str:
        """The user's instructions to the agent; empty if there are none."""
        file = self.read(commit, self.settings.program)
        return "" if file is None else file.data.decode("utf-8", "replace")

    @abstractmethod
    def diff(self, old: str, new: str) -> str:
        """The unified diff of two commits."""

    # ---- Ideas ------------------------------------------------------------------------------

    @abstractmethod
    def make_idea(self, draft: Draft, base: str, *, message: str) -> str:
        """The commit of a draft on its base; the same arguments give the same commit.

        Raises UsageError with what is wrong with it: a draft that changes nothing, only a seed, or a file
        that is not editable; one that names what is not there; one of a kind that the workspace cannot read.
        """

    @abstractmethod
    def compose(self, parent: str, ideas: Sequence[Idea], *, message: str) -> Composed:
        """The ideas on a parent, in their order, as one commit. The same arguments give the same commit.

        No idea gives the parent, and one idea on its own base the idea's commit. Raises ConflictError if the
        ideas do not go together, or one of them is lost.
        """

    # ---- What is kept -----------------------------------------------------------------------

    def claim(self, study: str, base: str) -> None:
        """Make the name of a new study its own. Raises NameTakenError if commits of such a study are kept."""
        return

    def release(self, study: str) -> None:
        """Give up a name that was claimed, and under which nothing was kept."""
        return

    @abstractmethod
    def keep(self, study: str, experiment: int, commit: str) -> None:
        """Make the commit of an experiment last. Raises LostError if it has gone."""

    @abstractmethod
    def keep_idea(self, study: str, idea: int, commit: str) -> None:
        """Make the commit of an idea last, whether or not an experiment uses it."""

    def flush(self) -> None:
        """Make what was kept proof against a power failure. Raises WorkspaceError if the disk refuses."""
        return

    def publish_best(self, study: str, commit: str) -> None:
        """Show the best commit to people, as a branch for instance. Never raises; what fails is logged."""
        return

    @abstractmethod
    def apply_to_checkout(self, base: str, commit: str) -> Sequence[str]:
        """Bring what changed from `base` to `commit` into the user's files; gives their paths.

        Raises WorkspaceError if the user's own changes would be lost, ConflictError if they do not go
        together.
        """

    def close(self) -> None:
        """Wait for what is written in the background. Called once, at the end."""
        return

    # ---- Jobs -------------------------------------------------------------------------------

    @abstractmethod
    def work_tree(self, directory: Path) -> WorkTree:
        """The work tree at a folder."""

    def links(self) -> Mapping[str, str]:
        """What each work tree has as symbolic links: path from the tree's `directory`, and target."""
        return {}

    def job_env(self) -> Mapping[str, str]:
        """Environment variables that a job in a work tree needs."""
        return {}
