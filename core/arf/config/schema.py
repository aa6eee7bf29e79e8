"""The configuration of a study: one schema for a workspace's `arf.yaml` and for `--config FILE`.

Layers, each over the one before: the defaults below, what was detected for a workspace without `arf.yaml`,
`arf.yaml`, `--config FILE`, the flags of the command line, and `-o key.path=value`. Mappings are merged key
by key; lists and plain values are replaced. Everything is checked before a study starts, and each error
names the place and the key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

import attrs
from attrs import field, frozen

from arf.config.layers import (
    Layer,
    Leaf,
    described,
    leaf,
    near,
    override,
    read_file,
    single,
    to_yaml,
    wrapped,
)
from arf.config.metric_names import direction_of
from arf.errors import ConfigError, UsageError
from arf.types import Direction, NoiseRule, Objective, SandboxMode, Seconds, WorkspaceSettings

OptionsClass = Callable[[str, str], type | None]
"""The options class of a plugin by kind and name; None if it takes none. Raises UsageError if unknown."""

VERSIONS_KEY = "versions"
"""A key at the top level that `load` ignores: who writes a study's resolved configuration notes there with
which versions it was made."""


# ----------------------------------------------------------------------------------------------- schema


def _in_range(low: float, high: float = math.inf, *, above: bool = False, below: bool = False) -> Any:
    """A validator: None passes; `above` and `below` exclude the bounds themselves."""

    def check(_: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
        if value is None:
            return
        if value < low or value > high or (above and value == low) or (below and value == high):
            wanted = f"must be {'above' if above else 'at least'} {low:g}"
            if high < math.inf:
                wanted += f" and {'below' if below else 'at most'} {high:g}"
            raise ValueError(f"'{attribute.name}' {wanted}, not {value:g}")

    return check


_POSITIVE = _in_range(0, above=True)
_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_study_name(name: str) -> str:
    """The name, if it can name a folder and a git branch. Raises UsageError otherwise."""
    if not _STUDY_NAME.fullmatch(name) or name.endswith((".lock", ".")) or ".." in name:
        raise UsageError(
            f"{name!r} cannot name a study",
            hint="use letters, digits, `.`, `_` and `-`, with a letter or digit first, 100 at most",
        )
    return name


def _study_name(_: object, attribute: attrs.Attribute[Any], value: str | None) -> None:
    try:
        check_study_name(value or "unnamed")
    except UsageError as error:
        raise ValueError(f"'{attribute.name}' cannot be {value!r}: {error.hint}") from None


@frozen(kw_only=True)
class Limits:
    """What one experiment may use."""

    budget_s: Seconds = field(
        default=300.0,
        validator=_POSITIVE,
        metadata={
            "help": "Expected time of one run, for estimates. If only time_limit_s is given, at most that."
        },
    )
    time_limit_s: Seconds = field(
        default=600.0,
        validator=_POSITIVE,
        metadata={"help": "A run that takes longer is ended, and its verdict is timeout."},
    )
    log_mb: float = field(
        default=256.0,
        validator=_POSITIVE,
        metadata={"help": "A run that prints more is ended, and its verdict is crash."},
    )
    stall_s: Seconds | None = field(
        default=None,
        validator=_POSITIVE,
        metadata={"help": "Kill a run that is silent for this long. null: inferred from the baseline."},
    )
    diverge_factor: float | None = field(
        default=3.0,
        validator=_in_range(1, above=True),
        metadata={
            "help": "A loss this many times its first value, and its highest in the baseline, ends the run; "
            "so does a loss that stays NaN. null: never."
        },
    )


@frozen(kw_only=True)
class Sandbox:
    """What jobs can reach. A set-up command is yours, and is not confined."""

    mode: SandboxMode = field(
        default=SandboxMode.AUTO,
        metadata={
            "help": "auto: the best that the machine has, and a warning where it has none; namespaces: that "
            "or nothing; off: jobs run with all your rights."
        },
    )
    network: bool = field(
        default=False, metadata={"help": "Whether jobs have the network. What they download, set-up should."}
    )
    read: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "More files and folders that jobs may read; `~` and $NAME are expanded, relative paths "
            "are the workspace's. System, interpreter and workspace.link are there anyway."
        },
    )
    write: tuple[str, ...] = field(
        default=(),
        metadata={"help": "The same for what they may write, and share: beside their own work tree."},
    )
    processes: int | None = field(
        default=4096,
        validator=_POSITIVE,
        metadata={"help": "Processes of one job at a time. null: no limit."},
    )
    file_gb: float | None = field(
        default=100.0, validator=_POSITIVE, metadata={"help": "How long one file may become. null: no limit."}
    )


@frozen(kw_only=True)
class Evaluation:
    """A command that measures again, outside the code that was edited, what is about to be kept."""

    command: str = field(
        default="",
        metadata={
            "help": "Run in a fresh tree of the commit, with the outputs of the run; what it prints as the "
            "objective must be what the run printed. Empty: none."
        },
    )
    outputs: tuple[str, ...] = field(
        default=(),
        metadata={"help": "Files that a run leaves in the workspace's folder, such as a checkpoint."},
    )
    private: tuple[str, ...] = field(
        default=(),
        metadata={"help": "Files and folders that the evaluation alone can read; paths as in sandbox.read."},
    )
    tolerance: float = field(
        default=0.001,
        validator=_in_range(0),
        metadata={"help": "How far the two values may lie apart, as a share of the larger."},
    )


@frozen(kw_only=True)
class Guards:
    """What a change must keep to be kept: bounds for the mean of its runs, and commands that must succeed."""

    max: Mapping[str, float] = field(factory=dict, metadata={"help": "Highest values by metric."})
    min: Mapping[str, float] = field(factory=dict, metadata={"help": "Lowest values by metric."})
    max_share: Mapping[str, float] = field(
        factory=dict, metadata={"help": "Highest values as shares of the baseline's: 1.05 is 5 % more."}
    )
    min_share: Mapping[str, float] = field(
        factory=dict, metadata={"help": "Lowest values as shares of the baseline's: 0.95 is 5 % less."}
    )
    commands: tuple[str, ...] = field(
        default=(), metadata={"help": "Run in a fresh tree of what is about to be kept, such as `pytest -q`."}
    )


@frozen(kw_only=True)
class Budget:
    """What the whole study may use. null is no limit."""

    max_experiments: int | None = field(
        default=None,
        validator=_in_range(1),
        metadata={"help": "Experiments, the baseline and its replicates included."},
    )
    max_time: Seconds | None = field(
        default=None,
        validator=_POSITIVE,
        metadata={"help": "Wall-clock time, such as 30m or 8h."},
    )
    max_slot_hours: float | None = field(
        default=None,
        validator=_POSITIVE,
        metadata={"help": "Hours of slots in use, summed over slots (GPU-hours where a slot is a GPU)."},
    )
    max_usd: float | None = field(
        default=None,
        validator=_POSITIVE,
        metadata={"help": "US dollars for machines and for agents together."},
    )
    max_tokens: int | None = field(
        default=None,
        validator=_in_range(1),
        metadata={"help": "Tokens that agents read and write."},
    )


MOST_RUNS = 10_000
"""Of one commit: more is a slip of the finger."""


@frozen(kw_only=True)
class Noise(NoiseRule):
    """How sure arf must be before it keeps a change: the rule, with its ranges checked."""

    replicates: int = field(
        default=4,
        validator=_in_range(2, MOST_RUNS),
        metadata={
            "help": "Runs of the baseline on each tier, which measure the noise. Fewer than 4 is a guess."
        },
    )
    alpha: float = field(
        default=0.05,
        validator=_in_range(0, 0.5, above=True, below=True),
        metadata={
            "help": "Chance that a study in which nothing is better claims that something is (with "
            "`accept: proof`, that it accepts anything)."
        },
    )
    max_replicates: int = field(
        default=6,
        validator=_in_range(1, MOST_RUNS),
        metadata={
            "help": "With `accept: proof`: runs of one commit at most, to decide where one run cannot tell."
        },
    )
    exact: bool = field(
        default=False,
        metadata={
            "help": "Nothing in the script is random: that replicates read the same is as it should be, and "
            "gains can be proven all the same."
        },
    )
    steps_metric: str = field(
        default="num_steps",
        metadata={
            "help": "Metric that counts training steps: claims are adjusted for the speed of machines by it, "
            "where training has a fixed time. Empty: they are not."
        },
    )


@frozen(kw_only=True)
class Naming:
    """What the study is called, and what its randomness starts from."""

    name: str | None = field(
        default=None,
        validator=_study_name,
        metadata={"help": "Folder under .arf/studies and part of git refs. null: made from date and time."},
    )
    seed: int = field(
        default=0,
        validator=_in_range(0, 2**31 - 1),
        metadata={"help": "The strategy's randomness and the first seed of the runs come from it."},
    )
    fallback: str | None = field(
        default=None,
        metadata={
            "help": "An agent that needs no options, such as offline, which answers while the study's own "
            "cannot. null: its return is waited for, while what is planned goes on."
        },
    )


@frozen(kw_only=True)
class PluginSettings:
    """Which plugins are left out."""

    disable: tuple[str, ...] = field(
        default=(),
        metadata={"help": "Names of plugins, as `arf plugins` shows them."},
    )


@frozen(kw_only=True)
class Choice:
    """A plugin by name. In a file: the name alone, or a mapping with `name` and the plugin's options."""

    name: str
    options: Any = None
    """An instance of the plugin's options class; None if it takes no options."""


@frozen(kw_only=True)
class Config:
    """A study's configuration, complete and checked."""

    workspace: WorkspaceSettings
    objective: Objective = field(factory=Objective)
    limits: Limits = Limits()
    sandbox: Sandbox = Sandbox()
    evaluation: Evaluation = Evaluation()
    guards: Guards = Guards()
    budget: Budget = Budget()
    noise: Noise = Noise()
    study: Naming = Naming()
    strategy: Choice = Choice(name="bayes")
    agent: Choice = Choice(name="offline")
    backend: Choice = Choice(name="local")
    parser: Choice = Choice(name="summary")
    accept: Choice = Choice(name="evidence")
    claim: Choice = Choice(name="interleaved")
    plugins: PluginSettings = PluginSettings()
    warnings: tuple[str, ...] = field(default=(), eq=False, metadata={"derived": True})
    """Lines for people on what is allowed and unwise."""


_TYPES = get_type_hints(Config)

CHOICES = tuple(name for name, cls in _TYPES.items() if cls is Choice)
"""The keys that name a plugin; each is also the kind of plugin."""

SECTIONS: Mapping[str, type] = {
    name: cls for name, cls in _TYPES.items() if cls is not Choice and attrs.has(cls)
}
"""The keys that hold a mapping of their own, and its class."""

_HOME = {f.name: f"{section}.{f.name}" for section, cls in SECTIONS.items() for f in attrs.fields(cls)}
"""Where a key belongs that is looked for in the wrong place."""


# ------------------------------------------------------------------------------------------------- API


def load(
    *,
    workspace_file: Path | None = None,
    config_file: Path | None = None,
    detected: WorkspaceSettings | None = None,
    overrides: Sequence[tuple[str, str]] = (),
    flags: Mapping[str, object] | None = None,
    options_class: OptionsClass,
) -> Config:
    """The configuration from all layers. `flags` maps dotted keys to values; None is a flag not given.

    Raises ConfigError for the first thing that is wrong.
    """
    merged = _merged(workspace_file, config_file, detected, overrides, flags or {})
    _refuse_unknown_keys(merged)
    parts: dict[str, Any] = {name: merged.structure((name,), cls, _HOME) for name, cls in SECTIONS.items()}
    parts |= {name: _choice(merged, name, options_class) for name in CHOICES}
    config = Config(**parts)
    if merged.at(("limits", "budget_s")) is None and config.limits.budget_s > config.limits.time_limit_s:
        limits = attrs.evolve(config.limits, budget_s=config.limits.time_limit_s)
        config = attrs.evolve(config, limits=limits)
    return attrs.evolve(config, warnings=tuple(_check(config, merged)))


def disabled_plugins(
    *,
    workspace_file: Path | None = None,
    config_file: Path | None = None,
    overrides: Sequence[tuple[str, str]] = (),
) -> tuple[str, ...]:
    """`plugins.disable` alone: what must be known before plugins, and with them their options, can be."""
    merged = _merged(workspace_file, config_file, None, overrides, {})
    settings: PluginSettings = merged.structure(("plugins",), PluginSettings)
    return settings.disable


def dump(config: Config) -> str:
    """YAML text that `load` reads back as an equal configuration."""
    plain = _plain(config)
    del plain["warnings"]
    for name in CHOICES:
        options = plain[name].pop("options") or {}
        plain[name] = {"name": plain[name]["name"], **options}
    return to_yaml(plain)


def _plain(instance: Any) -> dict[str, Any]:
    """An attrs instance as what YAML has."""

    def simple(_: object, __: object, value: Any) -> Any:
        if isinstance(value, Enum):
            return value.value
        if isinstance(value, Mapping):
            return dict(value)
        return str(value) if isinstance(value, Path) else value

    return attrs.asdict(instance, value_serializer=simple)


# ----------------------------------------------------------------------------------------------- layers


def _merged(
    workspace_file: Path | None,
    config_file: Path | None,
    detected: WorkspaceSettings | None,
    overrides: Sequence[tuple[str, str]],
    flags: Mapping[str, object],
) -> Layer:
    layers: list[Layer] = []
    if detected is not None:
        layers.append(Layer({"workspace": wrapped(_plain(detected))}, {("workspace",): "detected settings"}))
    layers += [read_file(path) for path in (workspace_file, config_file) if path is not None]
    for key, value in flags.items():
        if value is not None:
            flag = "--" + key.rpartition(".")[2].replace("_", "-")
            layers.append(single(key, wrapped(value), {(): flag}))
    layers += [override(key, text) for key, text in overrides]
    merged = Layer({}, {})
    for layer in layers:
        layer = _with_names(layer)
        for name in CHOICES:
            _drop_other_options(merged, layer, name)
        merged = layer.over(merged)
    return merged


def _with_names(layer: Layer) -> Layer:
    """Drops what is left empty at the top level, and writes `strategy: greedy` as a mapping."""
    data = {k: v for k, v in layer.data.items() if not (isinstance(v, Leaf) and v.value is None)}
    data.pop(VERSIONS_KEY, None)
    data |= _of_version_0_1(data)
    places = dict(layer.places)
    for name in CHOICES:
        if isinstance(data.get(name), Leaf):
            data[name] = {"name": data[name]}
            if (name,) in places:
                places[name, "name"] = places[name,]
    return Layer(data, places)


def _of_version_0_1(data: Mapping[str, Any]) -> dict[str, Any]:
    """`noise.proof` and `noise.confirm`, as arf 0.1 has written them, in today's words."""
    noise = data.get("noise")
    if not isinstance(noise, dict) or not {"proof", "confirm"} & noise.keys():
        return {}
    new: dict[str, Any] = {"noise": {k: v for k, v in noise.items() if k not in ("proof", "confirm")}}
    proof, confirm = noise.get("proof"), noise.get("confirm")
    if isinstance(proof, Leaf) and "accept" not in data:
        new["accept"] = leaf("lower" if proof.value is False else "proof")
    if isinstance(confirm, Leaf) and confirm.value == 0 and "claim" not in data:
        new["claim"] = leaf("none")
    return new


def _drop_other_options(low: Layer, high: Layer, name: str) -> None:
    """Options belong to the plugin that they were given for: naming another one leaves them behind."""
    new, old = high.at((name, "name")), low.at((name, "name"))
    if isinstance(new, Leaf) and new != (old or leaf(_default_name(name))):
        low.data.pop(name, None)


def _default_name(name: str) -> str:
    default: Choice = getattr(attrs.fields(Config), name).default
    return default.name


# -------------------------------------------------------------------------------------------------- checks


def _refuse_unknown_keys(layer: Layer) -> None:
    known = [*SECTIONS, *CHOICES]
    for name in layer.data:
        if name not in known:
            raise layer.error((name,), "unknown key", near(name, known, _HOME))


def _choice(layer: Layer, kind: str, options_class: OptionsClass) -> Choice:
    """The plugin that a key names, with its options structured."""
    value = layer.at((kind,))
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise layer.error((kind,), f"expected a name or keys with values, found {described(value)}")
    named = value.get("name", leaf(_default_name(kind)))
    if not isinstance(named, Leaf) or named.value is None:
        raise layer.error((kind, "name"), f"expected the name of a plugin, found {described(named)}")
    try:
        cls = options_class(kind, named.text)
    except ConfigError:
        raise
    except UsageError as error:
        raise layer.error((kind, "name"), error.message, error.hint) from None
    options = Layer({kind: {key: item for key, item in value.items() if key != "name"}}, layer.places)
    if cls is None:
        for name in options.data[kind]:
            raise layer.error((kind, name), f"unknown key: the {kind} {named.text!r} has no options")
        return Choice(name=named.text)
    return Choice(name=named.text, options=options.structure((kind,), cls))


_SECRET_NAME = re.compile(
    r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:_ID)?$", re.IGNORECASE
)


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name looks like a key, a token or a password."""
    return _SECRET_NAME.search(name) is not None


def _check(config: Config, layer: Layer) -> Iterator[str]:
    """What no single field can know: raises ConfigError, and gives warnings."""
    for name in config.workspace.env:
        if is_secret_name(name):
            raise layer.error(
                ("workspace", "env", name),
                "looks like a secret, and this file and study.yaml are no place for one",
                f"set it in the environment of arf, and write workspace.pass_env: [{name}]",
            )
    command = config.workspace.command
    if not (command.strip() if isinstance(command, str) else command):
        raise layer.error(("workspace", "command"), "is empty", "say how the script is run")
    limits, noise = config.limits, config.noise
    if limits.budget_s > limits.time_limit_s:
        raise layer.error(
            ("limits", "budget_s"),
            f"the expected time is {limits.budget_s:g} s and limits.time_limit_s {limits.time_limit_s:g} s, "
            "so each run would be ended before its end",
            f"set limits.time_limit_s to {2 * limits.budget_s:g}",
        )
    objective = config.objective
    usual = direction_of(objective.metric)
    if usual is not None and usual is not objective.direction:
        side = "high" if usual is Direction.MAX else "low"
        yield (
            f"objective.direction is {objective.direction}, but {objective.metric} sounds better {side}: "
            f"`-o objective.direction={usual}` unless it is meant so"
        )
    if noise.replicates < 4:
        yield (
            f"noise.replicates is {noise.replicates}: the noise measured from fewer than 4 runs is a guess, "
            "so keeps need bigger gains"
        )
    if config.claim.name == "none":
        yield "claim is none: the best is the winner of many, so its gain will look better than it is"
    most = config.budget.max_experiments
    if most is not None and most <= noise.replicates:
        yield f"budget.max_experiments is {most}: the {noise.replicates} runs of the baseline use it up"
