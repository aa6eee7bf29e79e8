"""What crosses a border in arf: frozen values, one word for one idea (docs/design.md lists the words).

Times are UTC datetimes with a zone, durations are seconds, memory is GiB, money is US dollars.
Identifiers of ideas, experiments and asks are integers that count from 1 within a study.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from attrs import field, frozen

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")


def printable(text: str) -> str:
    """Text that others have written, as one line without escape sequences and control characters."""
    plain = _ESCAPES.sub("", text)
    return " ".join("".join(c if c.isprintable() else " " for c in plain).split())


Scalar = bool | int | float | str
"""A value that a constant of a script can have."""

Seconds = Annotated[float, "seconds"]
"""A duration. In a configuration a number of seconds, or text such as `90s`, `30m`, `8h` or `1h30m`."""


class Direction(StrEnum):
    """Which way the objective is better."""

    MIN = "min"
    MAX = "max"


class Pick(StrEnum):
    """Which reading counts where a script prints its objective more than once."""

    ONLY = "only"
    """It must be printed once; two different values without a step make the result invalid."""
    FIRST = "first"
    LAST = "last"
    BEST = "best"


class Role(StrEnum):
    """Why an experiment is run."""

    BASELINE = "baseline"
    """The unchanged script."""
    CANDIDATE = "candidate"
    """A change that is judged against the incumbent."""
    CELL = "cell"
    """A cell of a design: measured for its effects, not judged by itself."""
    PROBE = "probe"
    """A change that is only measured, and can never be kept: so it takes no share of alpha."""
    REPLICATE = "replicate"
    """Another run of a commit that has run before, with another seed."""
    CLAIM = "claim"
    """A run that prunes or measures the patch of a claim: no choice of the search is made by it."""
    PROMOTION = "promotion"
    """A commit that ran on one tier, run on a dearer one."""


class JobState(StrEnum):
    """Where a job is. The last six are ends; they differ in what follows."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    """The command ended with exit code 0."""
    FAILED = "failed"
    """The command ended with another code or by a signal: the experiment crashed."""
    TIMED_OUT = "timed_out"
    """It reached its time limit and was ended: a property of the change, so it is not run again."""
    PREEMPTED = "preempted"
    """The machine was taken away: not the change's fault, so it is run again."""
    LOST = "lost"
    """Nobody knows what became of it: run again, like a preempted one."""
    CANCELLED = "cancelled"
    """arf ended it."""

    @property
    def is_end(self) -> bool:
        """Whether the job runs no more."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


class ExperimentState(StrEnum):
    """Where an experiment is."""

    ACCEPTED = "accepted"
    """Recorded, with its commit; its job may or may not have reached the backend."""
    RUNNING = "running"
    """Its job has a handle."""
    ENDED = "ended"
    """Its job has ended; the verdict may still wait for replicates."""


class Verdict(StrEnum):
    """What became of an experiment."""

    KEEP = "keep"
    """Better than the incumbent by more than the noise allows (or the baseline itself)."""
    DISCARD = "discard"
    """Ran well, and is not proven better."""
    MEASURED = "measured"
    """Ran well as a replicate, a cell, a probe or a promotion: a reading, no decision of its own."""
    CRASH = "crash"
    TIMEOUT = "timeout"
    INVALID = "invalid"
    """It touched what it must not, or its objective cannot be trusted."""
    SUSPECT = "suspect"
    """Better than is believed: not compared until a person accepts it."""
    CANCELLED = "cancelled"


class AskKind(StrEnum):
    """What an agent is asked for."""

    IDEAS = "ideas"
    FACTORS = "factors"
    EXPERIMENTS = "experiments"
    """What to run next: the agent plans by itself and answers with submissions."""


@frozen(kw_only=True)
class Objective:
    """The metric that a study improves."""

    metric: str = "val_bpb"
    direction: Direction = Direction.MIN
    pick: Pick = Pick.ONLY

    def gain(self, old: float, new: float) -> float:
        """How much better `new` is than `old`: positive is better, whatever the direction."""
        return old - new if self.direction is Direction.MIN else new - old


@frozen(kw_only=True)
class Tier:
    """One kind of hardware that a backend offers."""

    name: str
    slots: int
    """How many jobs run on it at a time; at least 1."""
    usd_per_hour: float = 0.0
    """Price of one slot for an hour."""
    speed: float = 1.0
    """Training speed measured or declared against the first tier."""
    memory_gb: float | None = None
    """Accelerator memory (main memory on a CPU) for one slot."""
    description: str = ""


@frozen(kw_only=True)
class Reading:
    """One metric value parsed from a job's output. `value` may be NaN or infinite."""

    name: str
    value: float = field(converter=float)
    step: int | None = None
    """The training step that it belongs to; None for a closing value."""


class SandboxMode(StrEnum):
    """How jobs are confined."""

    AUTO = "auto"
    """The best that the machine has; where it has none, jobs run unconfined, and that is said."""
    NAMESPACES = "namespaces"
    """A file system, processes and a network of their own."""
    OFF = "off"


@frozen(kw_only=True)
class Box:
    """What a job is confined to. Nothing else of the machine's files is there for it.

    Paths are absolute, but for those of the tree, which are relative to `tree`.
    """

    mode: SandboxMode = SandboxMode.AUTO
    tree: Path
    """The top of the work tree, which is writable but for what follows."""
    protect: tuple[str, ...] = ()
    """Files and folders of the tree that are read-only."""
    hold: tuple[str, ...] = ()
    """Folders of the tree that cannot be renamed or removed, since they hold something read-only."""
    empty: tuple[str, ...] = ()
    """Folders of the tree that stay empty: caches of what is read-only."""
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    """Folders that are empty and its own, in memory: temporary files, its home, caches."""
    hide: tuple[str, ...] = ()
    """Folders that are empty and read-only, whatever `read` says of what is above them."""
    network: bool = False
    processes: int | None = None
    """How many it may have at a time."""
    file_bytes: int | None = None
    """How long a file may become."""


@frozen(kw_only=True)
class Job:
    """What a backend runs."""

    key: str
    """Unique in the study, and the same when the same attempt is submitted again after a crash."""
    directory: Path
    """The work tree; the command runs in it, or in the workspace's folder inside it."""
    command: str | tuple[str, ...]
    """A string is given to `/bin/sh -c`; a tuple is executed as it is."""
    env: Mapping[str, str]
    """The whole environment but for what the backend adds (devices, threads)."""
    log: Path
    """Where standard output and error go, together; the backend creates or truncates it."""
    tier: str
    time_limit_s: float
    """Wall-clock from its start; then the job is ended and is `TIMED_OUT`."""
    box: Box | None = None
    """What it is confined to; None: it runs with the rights of arf, as what people wrote themselves may."""
    prepares: bool = False
    """It makes a machine ready for the jobs after it (`workspace.setup`), and its directory stays as it is: a
    backend whose machines share no disk runs it on each of them, before anything else."""


@frozen(kw_only=True)
class JobResult:
    """How a job ended. `state` is an end."""

    state: JobState
    exit_code: int | None = None
    """None where there is none; minus the signal's number where a signal ended it."""
    started_at: datetime | None = None
    """None if it never started."""
    ended_at: datetime | None = None
    slot: str = ""
    """The place where it ran, for people: `cpu:3`, `gpu:0,1`, `node7`."""
    message: str = ""
    """One line for people on what went wrong; empty when nothing did."""


@frozen(kw_only=True)
class Edit:
    """Replace the one occurrence of `old` in a file by `new`. An empty `old` makes a new file."""

    path: str
    """Relative to the workspace, with forward slashes."""
    old: str
    new: str


def _one_line(title: str) -> str:
    return printable(title) if isinstance(title, str) else title  # what is no text is told later, in words


@frozen(kw_only=True)
class Draft:
    """An idea as an agent has it, before it is a commit: exactly one of the four kinds of change.

    `constants` are set by name; `edits` are search and replace; `patch` is a unified diff;
    `commit` is a commit that an external agent made in a work tree of its own.
    """

    title: str = field(converter=_one_line)
    reason: str = ""
    constants: Mapping[str, Scalar] = field(factory=dict)
    edits: tuple[Edit, ...] = ()
    patch: str = ""
    commit: str = ""
    expected: float | None = None
    """The gain that the agent expects, in units of the objective."""


@frozen(kw_only=True)
class FactorDraft:
    """A question with two or more answers. The base itself is always a level, not listed here."""

    name: str
    levels: tuple[Draft, ...]


@frozen(kw_only=True)
class Idea:
    """A named, composable change to the editable files, stored as a commit on its base."""

    id: int
    title: str
    reason: str = ""
    base: str
    """The commit that it was made for."""
    commit: str
    """`base` with the change; its only parent is `base`."""
    constants: Mapping[str, Scalar] = field(factory=dict)
    """Set by name when composed; empty for a change of code, which is merged."""
    agent: str = ""
    ask: int | None = None
    expected: float | None = None


@frozen(kw_only=True)
class Factor:
    """A factor as the study has it: its levels are ideas; the base is the level that is not listed."""

    name: str
    levels: tuple[int, ...]
    ask: int


@frozen(kw_only=True)
class Plan:
    """What a strategy wants run."""

    parent: str
    """The commit that the ideas are applied to."""
    ideas: tuple[int, ...] = ()
    constants: Mapping[str, Scalar] = field(factory=dict)
    """Values that are set by name, beside the ideas: the engine adds the idea of each, and makes it where
    the study has none (`Study.idea_that_sets`)."""
    role: Role = Role.CANDIDATE
    tier: str | None = None
    """None: the first tier that has a free slot."""
    seed: int | None = None
    """None: arf numbers the runs of a commit and gives run k of every commit the same seed."""
    budget: float | None = None
    """A share of the full training budget, for cheaper looks; None for all of it."""
    round: str = ""
    """The strategy's own label, such as a design or a rung."""
    title: str = ""
    """For people; the titles of the ideas where empty."""
    order: int | None = None
    """The order that it carries out; only the engine sets it."""


@frozen(kw_only=True)
class Ask:
    """What a strategy wants thought about."""

    kind: AskKind = AskKind.IDEAS
    n: int = 1
    """How many ideas or factors; an agent may give fewer."""
    base: str
    """The commit that they are for."""


@frozen(kw_only=True)
class Usage:
    """What an answer cost."""

    input_tokens: int = 0
    cached_tokens: int = 0
    """Part of `input_tokens` that was read from a cache."""
    output_tokens: int = 0
    usd: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            usd=self.usd + other.usd,
        )


@frozen(kw_only=True)
class Submission:
    """What an agent or a person wants run, whatever the strategy plans: one change, `runs` times.

    Either a new change (`draft`), ideas of the study put together (`ideas`), both, or another run of
    what an experiment ran (`again`).
    """

    draft: Draft | None = None
    ideas: tuple[int, ...] = ()
    """Ideas of the study that are applied, the new one after them."""
    again: int | None = None
    """An experiment whose commit is run again, with the next seeds."""
    base: str = ""
    """The commit that the change is made for and applied to; empty: the incumbent."""
    tier: str | None = None
    """None: the first tier that has a free slot."""
    runs: int = 1
    """How many runs, each with a seed of its own; at least 1."""
    budget: float | None = None
    """A share of the full training budget, for a cheaper look; None for all of it."""


class SubmissionState(StrEnum):
    """Where a submission is."""

    WAITING = "waiting"
    """For a free slot."""
    ACCEPTED = "accepted"
    """All its runs are experiments, which may still be running."""
    REFUSED = "refused"
    """It cannot be run, or not as often as wanted; the problem says why."""
    CANCELLED = "cancelled"


@frozen(kw_only=True)
class Receipt:
    """What became of a submission so far."""

    id: int
    """Its number in the study."""
    title: str = ""
    state: SubmissionState = SubmissionState.WAITING
    experiments: tuple[int, ...] = ()
    """The experiments that it became, in the order of their start."""
    problem: str = ""
    """Why it was refused; one line with what to do."""


@frozen(kw_only=True)
class Order:
    """A submission that the study has taken up."""

    id: int
    key: str
    """The request that it came with; several orders of one request share it."""
    plan: Plan
    """Its first run."""
    runs: int
    """How many it wants; all but the first are replicates of the first."""
    title: str
    state: SubmissionState = SubmissionState.WAITING
    experiments: tuple[int, ...] = ()
    problem: str = ""

    @property
    def runs_left(self) -> int:
        """How many of its runs still wait for a slot."""
        return self.runs - len(self.experiments) if self.state is SubmissionState.WAITING else 0

    @property
    def receipt(self) -> Receipt:
        """What the author of the order may know of it."""
        return Receipt(
            id=self.id,
            title=self.title,
            state=self.state,
            experiments=self.experiments,
            problem=self.problem,
        )


@frozen(kw_only=True)
class Answer:
    """What an agent says to an ask."""

    ideas: tuple[Draft, ...] = ()
    factors: tuple[FactorDraft, ...] = ()
    submissions: tuple[Submission, ...] = ()
    """To an ask for experiments; what was submitted at `Brief.queue` meanwhile is not repeated here."""
    usage: Usage = Usage()
    exhausted: bool = False
    """It has nothing more for this base, now or later: do not ask again until the base changes."""
    note: str = ""
    """A line for the study's log."""


@frozen(kw_only=True)
class Experiment:
    """A plan that was accepted: its commit, its job, its readings, its verdict."""

    id: int
    role: Role
    parent: str
    ideas: tuple[int, ...] = ()
    commit: str
    tree: str
    """The git tree of `commit`: equal trees are the same change, however they came about."""
    tier: str
    seed: int
    budget: float | None = None
    round: str = ""
    title: str = ""
    state: ExperimentState = ExperimentState.ACCEPTED
    attempt: int = 1
    """Counts runs of this experiment: preempted and lost jobs are run again."""
    directory: str = ""
    """Its work tree, relative to the study's folder."""
    handle: str = ""
    job_state: JobState | None = None
    exit_code: int | None = None
    slot: str = ""
    accepted_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    value: float | None = None
    """The objective; None unless the result counts."""
    metrics: Mapping[str, float] = field(factory=dict)
    """The last value of each metric in the log. Never holds NaN or infinity."""
    curve: tuple[tuple[int, float], ...] = ()
    """(step, training loss), thinned to a few dozen points."""
    verdict: Verdict | None = None
    """None until it is decided, which may take replicates."""
    reason: str = ""
    """Why the verdict is what it is, in one line for people."""

    @property
    def slot_s(self) -> float:
        """Seconds that it held a slot; 0 until it has ended."""
        if self.started_at is None or self.ended_at is None:
            return 0.0
        return max(0.0, (self.ended_at - self.started_at).total_seconds())


@frozen(kw_only=True)
class ClaimPlan:
    """A claim that was begun: what is measured against the baseline, and with how many runs."""

    number: int
    """From 1; what its runs' rounds begin with: `claim/1/`."""
    parent: str
    ideas: tuple[int, ...] = ()
    """The patch: these ideas on that commit, in the order in which they are applied."""
    questioned: tuple[int, ...] = ()
    """Those of them that are taken back, each by itself, to see what it is worth."""
    tier: str
    runs_each: int = 0
    """Runs of the patch without each questioned idea."""
    check_pairs: int = 0
    """Pairs of runs of the patch with and without what was found to be worth nothing."""
    pairs: int
    """Pairs of fresh runs of the final patch and of the baseline."""
    alpha: float
    """The chance that it is called proven though it is no better than the baseline."""
    why: str = ""
    """What it was begun for, for people: a checkpoint, the end, a request."""


@frozen(kw_only=True)
class Claim:
    """What fresh runs say of a patch against the baseline, on one tier."""

    number: int
    proven: bool
    """Whether a gain like this, or more, has a chance of at most `alpha` where the patch is no better."""
    gain: float
    """Positive is better, in units of the objective."""
    low: float | None
    """The 95 % interval of the gain; None with fewer than two pairs."""
    high: float | None
    p: float | None
    """One-sided."""
    alpha: float
    percent: float | None
    """The gain as a percentage of the baseline; None where that is 0."""
    best: float
    """The mean of the patch's fresh runs."""
    baseline: float
    best_runs: int
    baseline_runs: int
    tier: str
    experiment: int
    """The first run of the patch."""
    ideas: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    """Ideas that were taken back before, because they were found to be worth nothing."""
    note: str = ""
    """What a reader must know besides, such as that runs of the patch take longer."""
    speed: str = ""
    """What was adjusted for the speed of machines, in one line; empty where nothing was."""
    why: str = ""
    text: str = ""
    """All of it in one line for people."""
    fresh: bool = True
    """No choice was made by these runs."""


class SeedMode(StrEnum):
    """How a script learns its seed."""

    AUTO = "auto"
    """`env` where a tracked text file of the workspace mentions `ARF_SEED`, else `rewrite`."""
    ENV = "env"
    """Only by the environment variable `ARF_SEED`; the files stay as they are."""
    REWRITE = "rewrite"
    """Literal seeds in the editable files are replaced in the work tree, never in a commit."""


@frozen(kw_only=True)
class WorkspaceSettings:
    """What a workspace is: the command that is run, and which of its files may change.

    Patterns are relative to the workspace, with forward slashes: `*` stays within a folder (`*.py` is at the
    top only), `**` crosses folders, and a folder's name stands for all that is in it.
    """

    command: str | tuple[str, ...]
    """A string is given to `/bin/sh -c`; a tuple is executed as it is."""
    setup: str = ""
    """A shell command run once in the workspace before the first job (data, tokenizer); empty for none."""
    setup_time_limit_s: Seconds = 3600.0
    editable: tuple[str, ...] = ("train.py",)
    """What ideas may change."""
    readonly: tuple[str, ...] = ()
    """What no run may change, or its result does not count; also exceptions from `editable`.

    Empty: every tracked file that is not editable.
    """
    link: tuple[str, ...] = ()
    """Untracked paths of the workspace, such as `data`, that each work tree gets as symbolic links.

    With `setup`, one that is missing is made: as a folder, unless its name has a suffix.
    """
    env: Mapping[str, str] = field(factory=dict)
    """Environment variables for every job."""
    pass_env: tuple[str, ...] = ()
    """Names of more variables that jobs get from arf's own environment; `*` stands for any text."""
    program: str = "program.md"
    """The instructions to the agent; the file may be missing."""
    seed: SeedMode = SeedMode.AUTO
    kind: str = "git"
    """`git`: a folder in a git repository. Else the `package.module:callable` that opens another kind."""


@frozen(kw_only=True)
class NoiseRule:
    """How sure arf is before it keeps a change."""

    replicates: int = 4
    """Runs of the baseline on each tier; under 4 the noise itself is poorly known."""
    alpha: float = 0.05
    """The chance that a study of nothing but noise keeps anything at all."""
    max_replicates: int = 6
    """Runs of one commit, at most, to decide about it."""
    exact: bool = False
    """Whether readings have no noise at all, because nothing in the script is random."""
    steps_metric: str = "num_steps"
    """The metric that counts training steps, by which claims are adjusted for the speed of machines; empty:
    they are not."""
