"""What the name of a constant says: whether it may be moved, how, and how much it is likely to matter."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache

from attrs import frozen

from arf.seeds import is_seed_name


class Motion(StrEnum):
    """How a number is moved."""

    FACTOR = "factor"
    """A positive number, by factors: learning rates, scales."""
    OPTIONAL = "optional"
    """The same, but 0 turns it off: weight decay, clipping."""
    SHARE = "share"
    """From 0 to 1, both ends included: dropout, parts of a schedule."""
    DECAY = "decay"
    """Below 1, by factors of the distance to 1: betas, momentum."""
    SIZE = "size"
    """A whole number, by factors that keep what it is divisible by: widths, batches."""
    COUNT = "count"
    """A small whole number, one up or down at first: layers."""


@frozen(kw_only=True)
class Family:
    """Constants that are much alike."""

    label: str
    """In the plural, for people."""
    motion: Motion | None = None
    """None where only a switch or an annotation says how to move it."""
    weight: float
    """How much it is likely to matter, against 1 for a learning rate: a prior, not a measurement."""
    lean: int = 0
    """The direction that is tried first: 1 up, -1 down, 0 either."""
    start: float = 0.0
    """A usual value where it is 0, for `OPTIONAL`."""


_F = Motion
_FAMILIES: tuple[tuple[str, Family], ...] = (
    # The first that fits counts, so the special stands before the general.
    (r"warm_?up_(steps|iters|iterations|updates|batches)", Family(label="parts of the schedule", motion=_F.OPTIONAL, weight=0.4, start=100)),
    (r"warm_?(up|down)|cool_?down|(lr|cosine|linear)_decay_(frac|ratio|share|fraction)|(final|min|end)_lr(_\w+)?_(frac|ratio|share|fraction)",
     Family(label="parts of the schedule", motion=_F.SHARE, weight=0.4)),
    (r"(min|final|end)_(lr|learning_rate)", Family(label="final learning rates", motion=_F.OPTIONAL, weight=0.3, start=1e-5)),
    (r"lr_(gamma|decay)", Family(label="decays", motion=_F.DECAY, weight=0.3)),
    (r"lr_(mult|scale|multiplier|factor)|(base|peak|max)?_?(lr|lrs|learning_?rate)", Family(label="learning rates", motion=_F.FACTOR, weight=1.0, lean=1)),
    (r"weight_?decay|wd|l2(_reg)?|l1(_reg)?", Family(label="weight decays", motion=_F.OPTIONAL, weight=0.4, start=0.05)),
    (r"momentum|beta_?[0-9]*|betas|ema(_decay)?|polyak|(gae_)?lambda_gae|decay_rate|discount|gamma", Family(label="decays of averages", motion=_F.DECAY, weight=0.3)),
    (r"drop_?(out|path)(_rate|_prob|_p)?|p_drop|label_smoothing|mixup|mask_(prob|ratio)", Family(label="regularizers", motion=_F.SHARE, weight=0.35)),
    (r"(window_?)?pattern", Family(label="patterns of layers", weight=0.35)),
    (r"head_(dim|size)|d_head|dim_head", Family(label="head sizes", motion=_F.SIZE, weight=0.3)),
    (r"(kv|num_kv|n_kv)_heads?", Family(label="heads", motion=_F.SIZE, weight=0.25)),
    (r"n?_?heads?|(num|attention)_heads", Family(label="heads", motion=_F.SIZE, weight=0.3)),
    (r"aspect(_ratio)?|width_(mult|multiplier|factor)", Family(label="widths", motion=_F.FACTOR, weight=0.9)),
    (r"(mlp|ffn?|ff|expansion|hidden)_(ratio|mult|multiplier|factor|expansion)|expand", Family(label="MLP sizes", motion=_F.COUNT, weight=0.4)),
    (r"(mlp|ffn?|ff|intermediate)_(dim|size|hidden|width)|d_ff", Family(label="MLP sizes", motion=_F.SIZE, weight=0.5)),
    (r"width|n_?embd|n_?embed|d_?model|(model|embed|embedding|hidden|latent|state)_(dim|size|width|channels)|dim|hidden|channels|units|n_hidden", Family(label="widths", motion=_F.SIZE, weight=0.95)),
    (r"depth|(n|num)_?layers?|layers?|(n|num)_?blocks?|blocks", Family(label="depths", motion=_F.COUNT, weight=0.9)),
    (r"(grad(ient)?_)?accum(ulation)?(_steps)?", Family(label="batch sizes", motion=_F.COUNT, weight=0.3)),
    (r"(device|micro|per_device|local)_batch(_size)?", Family(label="batch sizes", motion=_F.SIZE, weight=0.3, lean=-1)),
    (r"(\w+_)?batch(_\w+)?|bs|batchsize", Family(label="batch sizes", motion=_F.SIZE, weight=0.7, lean=-1)),
    (r"(max_)?(seq|sequence|context|block|ctx)(_?len|_?length|_size|_window)?|window(_size)?", Family(label="context lengths", motion=_F.SIZE, weight=0.4, lean=-1)),
    (r"soft_?cap|logit_cap", Family(label="soft caps", motion=_F.OPTIONAL, weight=0.3, start=15.0)),
    (r"(max_)?grad(ient)?_(clip|norm)(_\w+)?|clip(_\w+)?|max_norm", Family(label="clipping", motion=_F.OPTIONAL, weight=0.3, start=1.0)),
    (r"ns_steps|newton_schulz(_steps)?|muon_steps", Family(label="optimizer steps", motion=_F.COUNT, weight=0.15)),
    (r"eps|epsilon", Family(label="epsilons", motion=_F.OPTIONAL, weight=0.08, start=1e-8)),
    (r"(\w+_)?(std|stddev|sigma|scale|init|temperature|temp|tau|alpha|lambda|strength|coef|coeff|coefficient|multiplier|mult|gain|loss_weight|noise)",
     Family(label="scales", motion=_F.OPTIONAL, weight=0.3, start=0.1)),
    (r"rope(_base|_theta)?|rotary(_base)?|theta", Family(label="frequencies", motion=_F.FACTOR, weight=0.15)),
    (r"activation|act|nonlinearity|act_fn", Family(label="activations", weight=0.35)),
    (r"optimi[sz]er|opt", Family(label="optimizers", weight=0.6)),
    (r"norm(ali[sz]ation)?(_type)?|schedule|lr_schedule|init(iali[sz]ation)?", Family(label="choices of method", weight=0.35)),
    (r"(\w+_)?(ratio|fraction|frac|share|prob|probability|rate|pct)", Family(label="shares", motion=_F.SHARE, weight=0.3)),
    (r"rank|experts|top_?k|groups|kernel_size|stride|neighbou?rs|trees|leaves|estimators|max_depth", Family(label="counts", motion=_F.COUNT, weight=0.4)),
)  # fmt: skip

OTHER = Family(label="constants with an annotation", weight=0.3)
SWITCH = Family(label="switches", weight=0.3)

_NEVER = re.compile(
    r"_(?:(?:\w+_)?(?:budget|deadline|timeout)|(?:time|wall|token|flop|compute)s?_(?:\w+_)?limit|time|seconds|minutes|hours"
    r"|(?:max|total|num|n|train|training)_(?:train_|training_)?(?:steps|iters|iterations|epochs|tokens|updates|samples|seconds|time)"
    r"|epochs?|iters|iterations|steps|(?:eval|evaluate|evaluation|val|valid|validation|test|testing|metric|score|holdout|benchmark)(?:_\w+)?"
    r"|\w+_(?:eval|evals|val|evaluation|validation|metric)|(?:log|logging|print|save|saving|checkpoint|ckpt|report|plot|sample|wandb|tensorboard|profile|profiler)(?:_\w+)?"
    r"|(?:\w+_)?(?:verbose|debug|quiet|version|interval|every|freq|frequency|resume|dry_run|download|overwrite|deterministic)"
    r"|(?:\w+_)?(?:dir|directory|path|file|filename|folder|url|uri|host|port|user|key|secret|password|home|root|cache)"
    r"|(?:\w+_)?(?:peak_)?flops|year|date|id|uuid|pid|rank_id|local_rank|world_size|rng(?:_\w+)?|(?:\w+_)?seeds?(?:_\w+)?)_"
)  # fmt: skip
"""Moving these is no research: seeds, budgets, paths, evaluation, logging."""

_UNSURE = re.compile(
    r"_(?:(?:\w+_)?vocab(?:ulary)?(?:_\w+)?|(?:num|n)_(?:classes|labels|outputs|inputs|features|tokens|gpus|devices|workers|threads|proc|procs|processes)"
    r"|(?:input|output|in|out|image|img)_(?:dim|size|channels|features|width|height)|(?:\w+_)?(?:workers|threads|device|devices|dtype|gpus)"
    r"|channels|(?:\w+_)?shards?|buffer(?:_\w+)?|prefetch(?:_\w+)?|pin_memory|target(?:_\w+)?|min_\w+|tolerance|tol|patience)_"
)  # fmt: skip
"""What data or machine fix as often as not; moved only where an annotation says how."""

_EXCEPTION = re.compile(
    r"_(?:drop_path|(?:target|policy|update|sync|actor|critic)_(?:\w+_)?(?:interval|freq|frequency|every))_"
)
"""What looks like one of those and is none: how often something is updated is no logging interval."""


def words(name: str) -> str:
    """A name as `_lower_case_words_`: `train.maxLR` is `_max_lr_`, without the section that it is in."""
    last = name.rpartition(".")[2]
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", last)
    return "_" + re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_") + "_"


def is_seed(name: str) -> bool:
    return is_seed_name(name.rpartition(".")[2])


@lru_cache(maxsize=4096)
def is_forbidden(name: str) -> bool:
    """Whether moving it would be no research."""
    shape = words(name)
    return _NEVER.fullmatch(shape) is not None and not _EXCEPTION.fullmatch(shape)


@lru_cache(maxsize=4096)
def is_unsure(name: str) -> bool:
    """Whether it needs an annotation to be moved."""
    return _UNSURE.fullmatch(words(name)) is not None


_BEFORE = re.compile(r"_(?:(?:the|a|an|number|of|num|how|many|peak|initial|base|max|maximum|model|total)_)*")


@lru_cache(maxsize=4096)
def family_of(name: str, text: str = "") -> Family | None:
    """The family by the name, else by the words that its comment begins with; None if neither says it."""
    shape = words(name)
    for pattern, family in _FAMILIES:
        if re.search(rf"_(?:{pattern})_", shape):
            return family
    hint = _BEFORE.sub("_", "_" + re.sub(r"[^a-z0-9]+", "_", text.lower()[:60]).strip("_") + "_", count=1)
    for pattern, family in _FAMILIES:
        # Wide patterns such as `\w+_rate` would read too much into a sentence.
        if r"\w" not in pattern and re.match(rf"_(?:{pattern})_", hint):
            return family
    return None


def is_width(name: str) -> bool:
    """Whether it is the width of a model that has heads."""
    shape = words(name)
    return re.fullmatch(r"_(?:width|n_?embd|n_?embed|d_?model|(?:model|embed|embedding|hidden)_(?:dim|size|width)|dim)_", shape) is not None  # fmt: skip


def is_heads(name: str) -> bool:
    """Whether it is a number of heads, or the width of one."""
    return re.fullmatch(r"_(?:(?:n|num|attention|kv|num_kv|n_kv|num_attention)_)?heads?(?:_dim|_size)?_", words(name)) is not None  # fmt: skip
