"""What the name of a constant says: whether it may be moved, how, and how much it is likely to matter."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache

from attrs import frozen

from arf.sdk.scripts import is_seed_name


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


def _family(
    label: str, weight: float, motion: Motion | None, *patterns: str, lean: int = 0, start: float = 0.0
) -> tuple[tuple[str, ...], Family]:
    return patterns, Family(label=label, weight=weight, motion=motion, lean=lean, start=start)


KERNELS = "kernel sizes"

# fmt: off
# The first that fits counts, so the special stands before the general. Patterns match whole words of a name.
_FAMILIES = (
    _family("parts of the schedule", 0.4, Motion.OPTIONAL,
            r"warm_?up_(steps|iters|iterations|updates|batches)", start=100),
    _family("parts of the schedule", 0.4, Motion.SHARE, r"warm_?(up|down)", r"cool_?down",
            r"(lr|cosine|linear)_decay_(frac|ratio|share|fraction)",
            r"(final|min|end)_lr(_\w+)?_(frac|ratio|share|fraction)"),
    _family("final learning rates", 0.3, Motion.OPTIONAL, r"(min|final|end)_(lr|learning_rate)",
            start=1e-5),
    _family("decays", 0.3, Motion.DECAY, r"lr_(gamma|decay)"),
    _family("learning rates", 1.0, Motion.FACTOR, r"lr_(mult|scale|multiplier|factor)", r"lrs?\d?",
            r"learning_?rates?", lean=1),
    _family("weight decays", 0.4, Motion.OPTIONAL, r"weight_?decay", r"wd", r"l[12](?!_ratio)(_reg)?",
            start=0.05),
    _family("decays of averages", 0.3, Motion.DECAY, r"momentum", r"beta_?\d*", r"betas", r"ema(_decay)?",
            r"polyak", r"gae_lambda", r"decay_rate", r"discount", r"gamma"),
    _family("regularizers", 0.35, Motion.SHARE, r"drop_?(out|path)(_rate|_prob|_p)?", r"p_drop",
            r"label_smoothing", r"mixup", r"mask_(prob|ratio)", r"sub_?sample", r"colsample(_\w+)?"),
    _family("patterns of layers", 0.35, None, r"(window_?)?pattern"),
    _family("head sizes", 0.3, Motion.SIZE, r"head_(dim|size)", r"d_head", r"dim_head"),
    _family("heads", 0.3, Motion.SIZE, r"(kv|num_kv|n_kv)_heads?", r"n?_?heads?", r"(num|attention)_heads"),
    _family("widths", 0.9, Motion.FACTOR, r"aspect(_ratio)?", r"width_(mult|multiplier|factor)"),
    _family("MLP sizes", 0.4, Motion.COUNT,
            r"(mlp|ffn?|expansion|hidden)_(ratio|mult|multiplier|factor|expansion)", r"expand"),
    _family("MLP sizes", 0.5, Motion.SIZE, r"(mlp|ffn?|intermediate)_(dim|size|hidden|width)", r"d_ff"),
    _family("widths", 0.95, Motion.SIZE, r"width", r"n_?embe?d", r"d_?model", r"dim", r"hidden", r"channels",
            r"units", r"(model|embed|embedding|hidden|latent|state)_(dim|size|width|channels)",
            r"n_hidden"),
    _family("depths", 0.9, Motion.COUNT, r"depth", r"((n|num)_?)?layers?", r"((n|num)_?)?blocks",
            r"(n|num)_?block"),
    _family("batch sizes", 0.3, Motion.COUNT, r"(grad(ient)?_)?accum(ulation)?(_steps)?",
            r"accumulate_grad_batches"),
    _family("batch sizes", 0.3, Motion.SIZE, r"(device|micro|per_device|local)_batch(_size)?", lean=-1),
    _family("batch sizes", 0.7, Motion.SIZE, r"(\w+_)?batch(_\w+)?", r"bs", r"batchsize", lean=-1),
    _family("context lengths", 0.4, Motion.SIZE,
            r"(seq|sequence|context|block|ctx)(_?len|_?length|_size|_window)?", r"window(_size)?", lean=-1),
    _family("soft caps", 0.3, Motion.OPTIONAL, r"soft_?cap", r"logit_cap", start=15.0),
    _family("clipping", 0.3, Motion.OPTIONAL, r"grad(ient)?_(clip|norm)(_\w+)?", r"clip(_\w+)?", r"max_norm",
            start=1.0),
    _family("optimizer steps", 0.15, Motion.COUNT, r"ns_steps", r"newton_schulz(_steps)?", r"muon_steps"),
    _family("epsilons", 0.08, Motion.OPTIONAL, r"eps", r"epsilon", start=1e-8),
    _family("scales", 0.3, Motion.OPTIONAL,
            r"(\w+_)?(std|stddev|sigma|scale|init|temperature|temp|tau|alpha|lambda)",
            r"(\w+_)?(strength|coef|coeff|coefficient|multiplier|mult|gain|loss_weight|noise)", start=0.1),
    _family("frequencies", 0.15, Motion.FACTOR, r"rope(_base|_theta)?", r"rotary(_base)?", r"theta"),
    _family("activations", 0.35, None, r"activation", r"act", r"nonlinearity", r"act_fn"),
    _family("optimizers", 0.6, None, r"optimi[sz]er", r"opt"),
    _family("choices of method", 0.35, None, r"norm(ali[sz]ation)?(_type)?", r"(lr_)?schedule",
            r"initiali[sz]ation"),
    _family("shares", 0.3, Motion.SHARE, r"(\w+_)?(ratio|fraction|frac|share|prob|probability|rate|pct)"),
    _family("counts", 0.4, Motion.SIZE, r"trees", r"leaves", r"leaf_nodes", r"estimators"),
    _family(KERNELS, 0.4, Motion.COUNT, r"kernel(_size)?", r"ksize"),
    _family("counts", 0.4, Motion.COUNT, r"rank", r"experts", r"top_?k", r"groups", r"stride", r"neighbou?rs",
            r"max_depth", r"min_(samples_(leaf|split)|child_(weight|samples)|data_in_leaf)"),
)
# fmt: on

OTHER = Family(label="constants with an annotation", weight=0.3)
SWITCH = Family(label="switches", weight=0.3)

_NEVER = re.compile(
    r"_(?:"
    # Budgets.
    r"(?:\w+_)?(?:budget|deadline|timeout)|(?:time|wall|token|flop|compute)s?_(?:\w+_)?limit"
    r"|time|seconds|minutes|hours|epochs?|iters|iterations|steps"
    r"|(?:max|total|num|n|train|training)_(?:train_|training_)?"
    r"(?:steps|iters|iterations|epochs?|tokens|updates|samples|seconds|time)"
    # Which data are learnt from, and which are held out.
    r"|(?:train|training|data|dataset|split)_(?:set_|data_|split_)?(?:ratio|frac|fraction|share|split|pct|percent|prop|size)"
    r"|train|training|split|(?:n|num|max|min|total|limit|overfit)_(?:\w+_)?(?:samples|examples|points|rows|images"
    r"|files|docs|documents|sequences|sentences|folds|splits|batches)|(?:dataset|data|subset|train_set)_(?:size|len|length)"
    r"|(?:\w+_)?subset(?:_\w+)?|n_train|folds?|cv|fast_dev_run"
    # Evaluation, and what goes with a run rather than with the model.
    r"|(?:eval|evaluate|evaluation|val|valid|validation|test|testing|metric|score|holdout|benchmark)(?:_\w+)?"
    r"|\w+_(?:eval|evals|val|evaluation|validation|metric)"
    r"|\w+_(?:eval|val|evaluation|validation)_(?:\w+_)?(?:batch(?:es)?|size|tokens|steps|samples|interval|only)"
    r"|(?:log|logging|print|report|plot|sample|profiler?)(?:_\w+)?"
    r"|(?:\w+_)?(?:save|saving|checkpoints?|ckpt|wandb|tensorboard|autotune|autotuner|tqdm)(?:_\w+)?"
    r"|init_from|(?:start|load|restore|continue)_from|pretrained|(?:use_|no_)?(?:cuda|mps|tpu|ddp|fsdp|backend)"
    r"|(?:\w+_)?(?:verbose|debug|quiet|version|interval|every|freq|frequency|resume|dry_run|download|overwrite)"
    r"|(?:\w+_)?(?:deterministic|flops|year|date|uuid|pid|local_rank|world_size|seeds?(?:_\w+)?)|rng(?:_\w+)?"
    # Places and names.
    r"|(?:\w+_)?(?:dir|directory|path|file|filename|folder|url|uri|host|port|user|key|secret|password|home|root)"
    r"|(?:\w+_)?cache"
    r")_"
)
"""Moving these is no research."""

_EXCEPTION = re.compile(
    r"_(?:drop_path|(?:\w+_)?clip(?:_\w+)?_val|(?:target|policy|update|sync|actor|critic)_(?:\w+_)?(?:interval|freq|frequency|every))_"
)
"""What looks like one of those and is none: how often something is updated is no logging interval."""

_UNSURE = re.compile(
    r"_(?:(?:\w+_)?vocab(?:ulary)?(?:_\w+)?|channels|(?:\w+_)?shards?|buffer(?:_\w+)?|prefetch(?:_\w+)?|pin_memory"
    r"|(?:num|n)_(?:classes|labels|outputs|inputs|features|gpus|devices|workers|threads|procs?|processes)"
    r"|(?:input|output|in|out|image|img|feature|obs|action)_(?:dim|size|channels|features|width|height)"
    r"|nproc(?:_\w+)?|nnodes|(?:\w+_)?rank_id|node_rank|num_(?:nodes|machines|processes)|(?:\w+_)?(?:workers|threads|device|devices|dtype|gpus)|(?:use_|no_|torch_)?(?:compiled?|jit|amp)|target(?:_\w+)?|tolerance|tol|patience)_"
)
"""What data or machine fix as often as not; moved only where an annotation says how."""

_WIDTH = re.compile(r"_(?:width|n_?embe?d|d_?model|(?:model|embed|embedding|hidden)_(?:dim|size|width)|dim)_")
_HEADS = re.compile(r"_(?:(?:n|num|attention|kv|num_kv|n_kv|num_attention)_)?heads?(?:_dim|_size)?_")


_ASIDE = re.compile(
    r"_(?:eval|evals|evaluate|evaluation|evaluator|evaluating|val|valid|validate|validation|test|tests|testing"
    r"|metrics?|logs?|logger|loggers|logging|wandb|tensorboard|mlflow|comet|checkpoint|checkpoints|checkpointing"
    r"|checkpointer|ckpt|callbacks?|profiler?|profiling|hydra|paths?|hardware|devices?|launcher|slurm|cluster"
    r"|benchmarks?|bench|inference|infer|predict|generate|generation|sampling|serve|serving|deploy|visuali[sz]ation"
    r"|plots?|plotting|seeds?|tokenizer|tokenizers)_"
)
"""Sections, classes and files that are about something else than how a model is learnt."""
_LEARNING = re.compile(r"_(?:train|trainer|training|pretrain|finetune|finetuning|fit|learn|learning)_")


def is_aside(section: str) -> bool:
    """Whether a section, class, flag's group or file is about evaluation, logging, devices and the like."""
    shape = _shape(section)
    return _ASIDE.search(shape) is not None and not _LEARNING.search(shape)


def words(name: str) -> str:
    """A name as `_lower_case_words_`: `train.maxLR` is `_max_lr_`, without the section that it is in."""
    return _shape(name.rpartition(".")[2])


def _shape(text: str) -> str:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text)
    return "_" + re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_") + "_"


def is_seed(name: str) -> bool:
    return is_seed_name(name.rpartition(".")[2])


@lru_cache(maxsize=4096)
def is_forbidden(name: str) -> bool:
    """Whether moving it would be no research, by its name or by the section that it is in."""
    shape = words(name)
    if any(map(is_aside, name.split(".")[:-1])):
        return True
    return _NEVER.fullmatch(shape) is not None and not _EXCEPTION.fullmatch(shape)


ASIDE = "it is about evaluation, logging, data or devices, by where it stands"


def why_it_stays(name: str) -> str:
    """Why a constant that is not moved by itself is left alone, for people."""
    if is_seed(name):
        return "seeds are arf's to set"
    if any(map(is_aside, name.split(".")[:-1])):
        return ASIDE
    if is_forbidden(name):
        return "a budget, evaluation, data, logging or a name, and no research"
    if is_unsure(name):
        return "data or machine may fix it; say how it may move: `# [1..16]` behind it, or agent.space"
    return "nothing says how it may move: `# [1..16]` behind it, or agent.space"


@lru_cache(maxsize=4096)
def is_unsure(name: str) -> bool:
    """Whether it needs an annotation to be moved."""
    return _UNSURE.fullmatch(words(name)) is not None


_BEFORE = re.compile(r"_(?:(?:the|a|an|number|of|num|how|many|peak|initial|base|max|maximum|model|total)_)*")


@lru_cache(maxsize=4096)
def family_of(name: str, text: str = "") -> Family | None:
    """The family by the name, else by the words that its comment begins with; None if neither says it."""
    shape = words(name)
    for patterns, family in _FAMILIES:
        if re.search(rf"_(?:{'|'.join(patterns)})_", shape):
            return family
    hint = _BEFORE.sub("_", "_" + re.sub(r"[^a-z0-9]+", "_", text.lower()[:60]).strip("_") + "_", count=1)
    for patterns, family in _FAMILIES:
        # Wide patterns would read too much into a sentence.
        narrow = [pattern for pattern in patterns if r"\w" not in pattern]
        if narrow and re.match(rf"_(?:{'|'.join(narrow)})_", hint):
            return family
    return None


def is_width(name: str) -> bool:
    """Whether it is the width of a model that has heads."""
    return _WIDTH.fullmatch(words(name)) is not None


def is_heads(name: str) -> bool:
    """Whether it is a number of heads, or the width of one."""
    return _HEADS.fullmatch(words(name)) is not None
