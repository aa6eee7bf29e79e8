"""A comparison as its file describes it: which strategies, on which machines, on what, how often."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import evolve, field, frozen, validators

from arf import __version__
from arf.errors import ConfigError, UsageError, nearest
from arf.sdk.configuration import Budget, Layer, Limits, Noise, read_file
from arf.sdk.engine import Plugins
from arf.types import Seconds
from arf_plugins.backend_sim import DisturbanceOptions, ObjectiveOptions, SimOptions, SimTier
from arf_plugins.objectives.choose import make_objective

_POSITIVE = validators.gt(0.0)
_SHARE = [validators.ge(0.0), validators.le(1.0)]


@frozen(kw_only=True)
class Thinker:
    """An agent, and how long it thinks."""

    agent: str = field(default="offline", metadata={"help": "The agent's name"})
    think_s: Seconds = field(
        default=0.0, validator=validators.ge(0.0), metadata={"help": "Time for an answer (median)"}
    )
    spread: float = field(
        default=0.3, validator=validators.ge(0.0), metadata={"help": "Its relative spread (log-normal)"}
    )
    usd: float = field(default=0.0, validator=validators.ge(0.0), metadata={"help": "Price of an answer"})
    options: Mapping[str, Any] = field(factory=dict, metadata={"help": "The agent's own options"})


@frozen(kw_only=True)
class Searcher:
    """A strategy with its options."""

    strategy: str = field(metadata={"help": "The strategy's name"})
    options: Mapping[str, Any] = field(factory=dict, metadata={"help": "The strategy's own options"})
    waves: bool = field(
        default=False,
        metadata={"help": "Whether it decides only when nothing runs and nobody thinks, as people do"},
    )


@frozen(kw_only=True)
class Machines:
    """A `sim` backend without an objective."""

    tiers: Mapping[str, SimTier] = field(metadata={"help": "As in the options of the backend `sim`"})
    run_s: Seconds = field(default=300.0, validator=_POSITIVE)
    fixed: str = field(default="time", validator=validators.in_(("time", "work")))
    jitter: float = field(default=0.02, validator=_SHARE)
    crashes: float = field(default=0.0, validator=_SHARE)
    preemptions: float = field(default=0.0, validator=validators.ge(0.0))
    stragglers: float = field(default=0.0, validator=_SHARE)
    straggle: float = field(default=3.0, validator=validators.ge(1.0))
    disturbances: DisturbanceOptions = field(factory=DisturbanceOptions)

    def options(self, objective: ObjectiveOptions) -> SimOptions:
        own = {f.name: getattr(self, f.name) for f in attrs.fields(Machines)}
        return SimOptions(objective=objective, **own)


@frozen(kw_only=True)
class ArmChoice:
    """A strategy, machines and an agent by the names that the file gives them."""

    strategy: str
    machines: str = field(default="", metadata={"help": "Empty: the only ones"})
    agent: str = field(default="", metadata={"help": "Empty: the only one"})
    name: str = field(default="", metadata={"help": "What it is called in tables; else its parts"})
    budget: Budget | None = field(default=None, metadata={"help": "Instead of the comparison's"})
    noise: Noise | None = field(default=None, metadata={"help": "Instead of the comparison's"})
    accept: str = field(default="", metadata={"help": "Instead of the comparison's"})
    claim: str = field(default="", metadata={"help": "Instead of the comparison's"})


@frozen(kw_only=True)
class CompareFile:
    """The keys of a comparison."""

    title: str = "A comparison"
    seeds: int = field(default=20, validator=validators.ge(1))
    first_seed: int = field(default=0, validator=validators.ge(0))
    budget: Budget = field(factory=lambda: Budget(max_time=8 * 3600.0))
    noise: Noise = field(factory=Noise)
    accept: str = field(default="evidence", metadata={"help": "The rule of acceptance"})
    claim: str = field(default="interleaved", metadata={"help": "The rule of claims"})
    limits: Limits = field(factory=Limits)
    objectives: Mapping[str, ObjectiveOptions] = field(factory=dict)
    machines: Mapping[str, Machines] = field(factory=dict)
    agents: Mapping[str, Thinker] = field(factory=lambda: {"offline": Thinker()})
    strategies: Mapping[str, Searcher] = field(factory=dict)
    arms: tuple[ArmChoice, ...] = ()
    target: float = field(
        default=0.8,
        validator=[validators.gt(0.0), validators.le(1.0)],
        metadata={"help": "Share of the possible gain whose time and cost is measured"},
    )
    reference: str = field(default="", metadata={"help": "The arm that others are tested against"})
    race: str = field(
        default="", metadata={"help": "The arm whose result at its end the others race to; empty: no race"}
    )


@frozen(kw_only=True)
class Arm:
    """What is compared with other arms."""

    name: str
    searcher_name: str
    """Its name in the file."""
    searcher: Searcher
    machines: Machines
    thinker: Thinker
    budget: Budget
    noise: Noise
    accept: str
    claim: str


@frozen(kw_only=True)
class Run:
    """One simulated study of a comparison."""

    arm: Arm
    objective_name: str
    objective: ObjectiveOptions
    limits: Limits
    seed: int

    @property
    def key(self) -> str:
        """The same for the same run of the same arf: what is done need not be done again."""
        spec = json.dumps([__version__, attrs.asdict(self)], sort_keys=True, default=str)
        return hashlib.sha256(spec.encode()).hexdigest()[:24]


@frozen(kw_only=True)
class Comparison:
    """A comparison that is complete and checked."""

    title: str
    arms: tuple[Arm, ...]
    objectives: Mapping[str, ObjectiveOptions]
    seeds: tuple[int, ...]
    limits: Limits
    target: float
    reference: str
    race: str = ""

    def runs(self) -> Iterator[Run]:
        """Seed by seed, so that an interrupted comparison has whole pairs."""
        for seed in self.seeds:
            for name, objective in self.objectives.items():
                for arm in self.arms:
                    yield Run(
                        arm=arm,
                        objective_name=name,
                        objective=objective,
                        limits=self.limits,
                        seed=seed,
                    )


def read_comparison(path: Path, plugins: Plugins, *, seeds: int | None = None) -> Comparison:
    """Read and check a file. Raises ConfigError or UsageError for the first thing that is wrong."""
    layer = read_file(path)
    known = [f.name for f in attrs.fields(CompareFile)]
    for key in layer.data:
        if key not in known:
            raise layer.error((key,), "unknown key", nearest(key, known))
    told: CompareFile = layer.structure((), CompareFile)
    for key in ("objectives", "machines", "strategies"):
        if not getattr(told, key):
            raise ConfigError(f"{key} is empty", where=str(path), hint="docs/simulation.md has an example")
    told = evolve(told, objectives={n: _located(o, path) for n, o in told.objectives.items()})
    _check_plugins(told, layer, plugins)
    arms = tuple(_arms(told, layer))
    if len({arm.name for arm in arms}) < len(arms):
        twice = next(a.name for a in arms if sum(b.name == a.name for b in arms) > 1)
        raise ConfigError(f"two arms are called {twice!r}", where=str(path), hint="give one a name")
    _check_objectives(told, layer, arms)
    names = [arm.name for arm in arms]
    reference = told.reference or names[0]
    for key, name in (("reference", reference), ("race", told.race)):
        if name and name not in names:
            raise layer.error((key,), f"there is no arm {name!r}", nearest(name, names))
    count = told.seeds if seeds is None else seeds
    return Comparison(
        title=told.title,
        arms=arms,
        objectives=told.objectives,
        seeds=tuple(range(told.first_seed, told.first_seed + count)),
        limits=told.limits,
        target=told.target,
        reference=reference,
        race=told.race,
    )


def _located(objective: ObjectiveOptions, path: Path) -> ObjectiveOptions:
    """A file that it names is relative to the comparison's."""
    if objective.kind not in ("table", "replay") or objective.file == "bundled":
        return objective
    return evolve(objective, file=str((path.parent / Path(objective.file).expanduser()).resolve()))


def _check_plugins(told: CompareFile, layer: Layer, plugins: Plugins) -> None:
    for kind, section, items in (
        ("strategy", "strategies", told.strategies),
        ("agent", "agents", told.agents),
    ):
        for name, item in items.items():
            key = (section, name, kind)
            try:
                make_part(plugins, kind, getattr(item, kind), item.options)
            except ConfigError:
                raise
            except UsageError as error:
                raise layer.error(key, error.message, error.hint) from None


def make_part(plugins: Plugins, kind: str, name: str, options: Mapping[str, Any]) -> Any:
    """A strategy or an agent with options as a file has them. Raises UsageError."""
    from arf.sdk.configuration import wrapped

    cls = plugins.options(kind, name)
    if cls is None:
        if options:
            raise UsageError(f"the {kind} {name!r} has no options")
        return plugins.make(kind, name)  # type: ignore[call-overload]
    structured = Layer({"options": wrapped(dict(options))}, {}).structure(("options",), cls)
    return plugins.make(kind, name, structured)  # type: ignore[call-overload]


def _arms(told: CompareFile, layer: Layer) -> Iterator[Arm]:
    """The arms that are listed; without a list every strategy with all machines and agents."""
    choices = told.arms or tuple(
        ArmChoice(strategy=strategy, machines=machines, agent=agent)
        for strategy in told.strategies
        for machines in told.machines
        for agent in told.agents
    )
    for index, choice in enumerate(choices):
        parts = {}
        for key, section in (("strategy", "strategies"), ("machines", "machines"), ("agent", "agents")):
            there: Mapping[str, Any] = getattr(told, section)
            wanted = getattr(choice, key) or (next(iter(there)) if len(there) == 1 else "")
            if wanted not in there:
                message = (
                    f"there is no {key} {wanted!r} in {section}" if wanted else f"which of the {section}?"
                )
                raise layer.error(("arms", index, key), message, nearest(wanted, there))
            parts[key] = wanted
        shown = [parts["strategy"]]
        shown += [
            parts[key] for key, n in (("machines", told.machines), ("agent", told.agents)) if len(n) > 1
        ]
        yield Arm(
            name=choice.name or " · ".join(shown),
            searcher_name=parts["strategy"],
            searcher=told.strategies[parts["strategy"]],
            machines=told.machines[parts["machines"]],
            thinker=told.agents[parts["agent"]],
            budget=choice.budget or told.budget,
            noise=choice.noise or told.noise,
            accept=choice.accept or told.accept,
            claim=choice.claim or told.claim,
        )


def _check_objectives(told: CompareFile, layer: Layer, arms: tuple[Arm, ...]) -> None:
    """Every objective on all machines that it meets."""
    for name, options in told.objectives.items():
        for arm in arms:
            try:
                make_objective(options, arm.machines.tiers)
            except UsageError as error:
                raise layer.error(("objectives", name), error.message, error.hint) from None
    for arm in arms:
        budget = arm.budget
        if budget.max_time is None and budget.max_experiments is None and budget.max_slot_hours is None:
            raise ConfigError(
                f"arm {arm.name!r} has no end",
                key="budget",
                hint="set max_time, max_experiments or max_slot_hours",
            )
