"""What the name of a metric tells: which way it is better, and how likely it is what a study improves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

from arf.types import Direction


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_WORDS = re.compile(r"[A-Z]{2,}(?![a-z])|[A-Z]?[a-z]+|[A-Z]|\d+")

_UP = _set(
    """
    acc accuracy acc1 f1 f auc auroc auprc ap map precision recall bleu chrf rouge meteor score
    reward rew return returns r2 iou miou dice psnr ssim throughput fps gflops tflops flops mfu
    bandwidth speedup hit hits ndcg mrr kappa mcc spearman pearson pearsonr spearmanr correlation
    top1 top5 win wins winrate solved passed pass likelihood elbo evidence efficiency utilization em
    exact match success
    """
)
_DOWN = _set(
    """
    loss losses bpb bpc bpd ppl perplexity err error errors wer cer ter mse rmse mae mape rmsle
    smape nll ce xent crossentropy entropy latency duration fid kid kl divergence regret distance
    cost logloss l1 l2 hinge brier ece eer misses miss failures memory vram size ms us ns sec secs
    second seconds time runtime
    """
)
_RATES = re.compile(r"(?:/s(?:ec)?|_?per_?s(?:ec(?:ond)?)?|[_/-]ps|/it)\Z", re.IGNORECASE)
_VALIDATION = _set(
    """
    val valid validation eval evaluation test dev heldout holdout ood cv oof
    """
)
_TRAINING = frozenset(["train", "training", "tr"])
_OF_THE_RUN = _set(
    """
    lr learning step steps iter iters iteration iterations epoch epochs episode seed params
    parameters param tokens samples examples batch batches size memory mem vram time seconds sec
    secs ms us ns s minutes hours elapsed runtime duration dt eta mfu flops norm grad gnorm momentum
    wd decay depth layers heads width budget count num n total rank gpu gpus cpu device version pid
    port world threads workers best patience progress percent throughput fps
    """
)


def direction_of(name: str) -> Direction | None:
    """Which way a metric is better, by its name; None if that tells nothing.

    The last telling word counts: `brier_score_loss` is a loss. `val_acc`, `F1`, `tok/s` and `neg_loss` are
    better high; `val_bpb`, `error_rate` and `p99_ms` low.
    """
    words = _words(name)
    if _RATES.search(name):
        return Direction.MAX
    telling = [word for word in words if word in _UP or word in _DOWN]
    if not telling:
        return None
    direction = Direction.MAX if telling[-1] in _UP else Direction.MIN
    if words[0] in ("neg", "negative", "minus", "inverse"):
        return Direction.MIN if direction is Direction.MAX else Direction.MAX
    return direction


def most_likely(names: Iterable[str]) -> list[str]:
    """Metric names, the one that is most likely to be the objective first; of equals, the last printed."""
    ranked = sorted(enumerate(names), key=lambda item: (_rank(item[1]), -item[0]))
    return [name for _, name in ranked]


def is_about_the_run(name: str) -> bool:
    """Whether a number is one of the run, such as a time or a count, rather than of its result."""
    words = _words(name)
    return bool(_RATES.search(name)) or (
        any(word in _OF_THE_RUN for word in words) and not _is_quality(words)
    )


def _rank(name: str) -> int:
    """Lower is likelier: validation, then other qualities, unknown names, training, the run's own."""
    words = _words(name)
    if is_about_the_run(name):
        return 5 if direction_of(name) is None else 4
    if any(word in _TRAINING for word in words):
        return 3
    if _is_validation(words):
        return 0 if _is_quality(words) else 1
    return 1 if _is_quality(words) else 2


def _is_validation(words: list[str]) -> bool:
    return any(word in _VALIDATION for word in words)


def _is_quality(words: list[str]) -> bool:
    return any((word in _UP or word in _DOWN) and word not in _OF_THE_RUN for word in words)


def _words(name: str) -> list[str]:
    """Its words in lower case, also joined with a number that follows (`top1`, `f1`, `r2`)."""
    found = [word.lower() for word in _WORDS.findall(name)]
    joined = [a + b for a, b in pairwise(found) if b.isdigit()]
    whole = [part.lower() for part in re.split(r"[^A-Za-z0-9]+", name) if part]
    return [*found, *joined, *(part for part in whole if part not in found)]
