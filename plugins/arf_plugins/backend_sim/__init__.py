"""The `sim` backend: machines and training runs that exist in arithmetic only (docs/simulation.md)."""

from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen, validators

from arf.hooks import Declaration, hookimpl
from arf.types import Scalar, Seconds
from arf_plugins.objectives.tails import Tails

_SHARE = [validators.ge(0.0), validators.le(1.0)]
_SPREAD = validators.ge(0.0)
_PHI = [validators.ge(0.0), validators.lt(1.0)]


@frozen(kw_only=True)
class BadNode:
    """What is wrong with a simulated machine. Each slot is a node of its own."""

    slot: int = field(default=1, validator=validators.ge(1), metadata={"help": "Which one, from 1"})
    crashes: float = field(
        default=0.0, validator=_SHARE, metadata={"help": "Share of its runs that crash, whatever they run"}
    )
    lost: float = field(default=0.0, validator=_SHARE, metadata={"help": "Share of its runs that are lost"})
    slow: float = field(
        default=1.0, validator=validators.gt(0.0), metadata={"help": "How many times as long its runs take"}
    )
    offset: float = field(default=0.0, metadata={"help": "Added to each value that is read there"})


@frozen(kw_only=True)
class SimTier:
    """One kind of simulated machine."""

    slots: int = field(default=1, validator=validators.ge(1), metadata={"help": "Jobs at a time"})
    usd_per_hour: float = field(
        default=0.0, validator=validators.ge(0.0), metadata={"help": "Price of a slot for an hour"}
    )
    speed: float = field(
        default=1.0, validator=validators.gt(0.0), metadata={"help": "Training speed against the others"}
    )
    startup_s: Seconds = field(
        default=0.0, validator=validators.ge(0.0), metadata={"help": "Time of a run before it trains"}
    )
    queue_s: Seconds = field(
        default=0.0,
        validator=validators.ge(0.0),
        metadata={"help": "Mean time that a job waits for a machine (exponential)"},
    )
    offset: float = field(
        default=0.0, metadata={"help": "Added to each value that is read here: what the hardware does to it"}
    )
    reversals: Mapping[str, float] = field(
        factory=dict,
        metadata={"help": "By constant: added to the value here where it is moved as far as it can be"},
    )
    bad: BadNode | None = field(default=None, metadata={"help": "One of its machines that is not well"})


@frozen(kw_only=True)
class DisturbanceOptions:
    """What real machines and scripts do to readings besides white noise.

    One sigma is the standard deviation of a run of the unchanged script. What has a sign is added to the
    value: where less is better, -1 reads better.
    """

    drift: float = field(default=0.0, metadata={"help": "Sigmas that readings drift over `span_s`, evenly"})
    step: float = field(default=0.0, metadata={"help": "Sigmas that readings jump, once"})
    step_at: float = field(
        default=0.5, validator=_SHARE, metadata={"help": "When they do, as a share of `span_s`"}
    )
    span_s: Seconds = field(
        default=8 * 3600.0,
        validator=validators.gt(0.0),
        metadata={
            "help": "Time of drifts, by the number of experiments started: as if no slot were ever idle"
        },
    )
    node_offset: float = field(
        default=0.0, validator=_SPREAD, metadata={"help": "Sigmas: standard deviation between nodes"}
    )
    node_speed: float = field(
        default=0.0, validator=_SPREAD, metadata={"help": "Relative standard deviation of the nodes' speeds"}
    )
    ar1: float = field(
        default=0.0,
        validator=_PHI,
        metadata={"help": "Correlation of a node's noise with that of its run before"},
    )
    ar1_share: float = field(
        default=1.0, validator=_SHARE, metadata={"help": "Share of the variance that is so correlated"}
    )
    commit_noise: float = field(
        default=0.0,
        validator=_SPREAD,
        metadata={"help": "Standard deviation of the logarithm of the noise between settings"},
    )
    tails: Tails = field(
        default="normal",
        validator=validators.in_(("normal", "t3", "contaminated", "lognormal")),
        metadata={
            "help": "Shape: t3; contaminated: 1 in 20 off by 5 sigma; lognormal: long to larger values"
        },
    )
    rounding: float = field(
        default=0.0, validator=_SPREAD, metadata={"help": "Sigmas that printed values are rounded to"}
    )
    speed: float = field(
        default=0.0,
        validator=_SPREAD,
        metadata={"help": "Relative standard deviation of a node's speed in time (0.008 on real H200s)"},
    )
    speed_ar1: float = field(
        default=0.9, validator=_PHI, metadata={"help": "Correlation of a node's speed with its run before"}
    )
    speed_drift: float = field(
        default=0.0, metadata={"help": "Relative change of all speeds over `span_s`: -0.02 is 2 % slower"}
    )
    speed_effect: float = field(
        default=6.0,
        metadata={
            "help": "fixed: time: sigmas that a reading is better for 1 % more steps (6 on real H200s)"
        },
    )
    own_speed: float = field(
        default=0.0,
        validator=_SPREAD,
        metadata={
            "help": "Relative standard deviation of the settings' own speeds, which the truth includes"
        },
    )
    steps: int = field(
        default=0,
        validator=validators.ge(0),
        metadata={
            "help": "Steps of a full run, printed as `num_steps`; 0: 1000 where speeds vary, else none"
        },
    )
    same_seed: bool = field(
        default=False, metadata={"help": "Whether the script ignores its seed: replicates are the same run"}
    )

    @property
    def printed_steps(self) -> int:
        """Steps of a full run at average speed; 0 where none are printed."""
        varies = self.speed or self.speed_drift or self.node_speed or self.own_speed
        return self.steps or (1000 if varies else 0)


@frozen(kw_only=True)
class Effect:
    """A constant of a response surface, and what it does."""

    base: Scalar = field(metadata={"help": "Its value in the unchanged script"})
    best: float = field(metadata={"help": "Its best value"})
    gain: float = field(
        default=0.0,
        metadata={"help": "The gain at its best; where base is best, the loss at the far end of its range"},
    )
    low: float = field(default=0.0, metadata={"help": "The smallest value"})
    high: float = field(default=1.0, metadata={"help": "The largest value"})
    log: bool = field(default=False, metadata={"help": "Whether it is meant on a logarithmic scale"})
    levels: tuple[float, ...] = field(default=(), metadata={"help": "The values, if only some are possible"})
    crash_above: float | None = field(default=None, metadata={"help": "Runs with more of it crash"})
    about: str = field(default="", metadata={"help": "What it is, for agents"})


@frozen(kw_only=True)
class ObjectiveOptions:
    """What a simulated experiment returns."""

    kind: str = field(
        default="surface",
        metadata={
            "help": "surface, generated, h200, hpo-bench, table, replay, or package.module:Class of your own"
        },
    )
    name: str = field(
        default="",
        metadata={
            "help": "surface: branin, hartmann6 or a shipped one, empty: the keys below; generated: its "
            "kind; hpo-bench: its table"
        },
    )
    file: str = field(
        default="bundled",
        metadata={"help": "table: its file, or `bundled`; replay: the folder of a study"},
    )
    instance: int | None = field(
        default=None, metadata={"help": "generated: which one of its kind; null: the study's seed"}
    )
    noise: float | None = field(
        default=None,
        validator=validators.optional(validators.ge(0.0)),
        metadata={"help": "Standard deviation of a run; null: the objective's own"},
    )
    start: float | None = field(
        default=None, metadata={"help": "surface: the value of the unchanged script; null: its own, or 1"}
    )
    constants: Mapping[str, Effect] = field(factory=dict, metadata={"help": "surface: by name, its effect"})
    interactions: Mapping[str, float] = field(
        factory=dict,
        metadata={"help": "surface: by `NAME*NAME`, the gain that both at their best have on top"},
    )


@frozen(kw_only=True)
class SimOptions:
    """What the `sim` backend can be told."""

    objective: ObjectiveOptions = field(
        default=ObjectiveOptions(name="autoresearch"), metadata={"help": "What an experiment returns"}
    )
    tiers: Mapping[str, SimTier] = field(
        factory=lambda: {"sim": SimTier()}, metadata={"help": "The machines, the preferred kind first"}
    )
    slots: int | None = field(
        default=None,
        validator=validators.optional(validators.and_(validators.ge(1), validators.le(100_000))),
        metadata={"help": "Slots of the first tier; null: as the tier says"},
    )
    run_s: Seconds = field(
        default=300.0, validator=validators.gt(0.0), metadata={"help": "Training time of a run at speed 1"}
    )
    fixed: Literal["time", "work"] = field(
        default="time",
        validator=validators.in_(("time", "work")),
        metadata={"help": "time: a run trains for run_s everywhere; work: for run_s over the tier's speed"},
    )
    jitter: float = field(
        default=0.02,
        validator=_SHARE,
        metadata={"help": "Relative standard deviation of a run's time (log-normal)"},
    )
    crashes: float = field(
        default=0.0, validator=_SHARE, metadata={"help": "Share of changes that crash, anywhere on their way"}
    )
    preemptions: float = field(
        default=0.0, validator=validators.ge(0.0), metadata={"help": "Preemptions of a slot in an hour"}
    )
    stragglers: float = field(
        default=0.0, validator=_SHARE, metadata={"help": "Share of runs that take `straggle` times as long"}
    )
    straggle: float = field(
        default=3.0, validator=validators.ge(1.0), metadata={"help": "How much longer stragglers take"}
    )
    disturbances: DisturbanceOptions = field(
        default=DisturbanceOptions(), metadata={"help": "Drift, nodes, speed, tails and the like"}
    )
    seed: int = field(default=0, metadata={"help": "What all of its randomness comes from"})


@hookimpl
def arf_register_backends() -> list[Declaration]:
    return [
        Declaration(
            name="sim",
            summary="simulated machines and training runs, for experiments with arf itself",
            implementation="arf_plugins.backend_sim.backend:SimBackend",
            options=SimOptions,
        )
    ]


@hookimpl
def arf_register_agents() -> list[Declaration]:
    return [
        Declaration(
            name="random",
            aliases=("dice",),
            summary="random values for random constants: a baseline that learns nothing",
            implementation="arf_plugins.backend_sim.random:RandomAgent",
        )
    ]
