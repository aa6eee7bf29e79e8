"""What the names of metrics tell."""

import pytest

from arf.config.metric_names import direction_of, most_likely
from arf.types import Direction


def words(text: str) -> list[str]:
    return text.split()


@pytest.mark.parametrize(
    "name",
    words(
        """
        acc val_acc Accuracy top1 test/top5 F1 macro-f1 mAP mAP50-95 auc AUROC R2 r2_score bleu
        ROUGE-L psnr SSIM mean_reward ep_rew_mean episode_return tok/s tokens_per_sec
        samples_per_second it/s GFLOPS mfu IoU win_rate ndcg@10 spearmanr neg_loss
        neg_mean_squared_error log_likelihood eval/exact_match pass@1 val_recall
        """
    ),
)
def test_more_is_better(name: str) -> None:
    assert direction_of(name) is Direction.MAX


@pytest.mark.parametrize(
    "name",
    words(
        """
        loss val_loss val/loss evalLoss bpb val_bpb ppl perplexity error test_error err1 WER CER mse
        RMSE val_mae nll latency latency_us p99_ms duration runtime FID kl_divergence regret logloss
        brier_score_loss cross_entropy time_ms peak_memory_mb l2 test-rmse valid_0_l2
        """
    ),
)
def test_less_is_better(name: str) -> None:
    assert direction_of(name) is Direction.MIN


@pytest.mark.parametrize(
    "name",
    words(
        """
        metric x result final value
        """
    ),
)
def test_a_name_that_tells_nothing_is_not_guessed(name: str) -> None:
    assert direction_of(name) is None


@pytest.mark.parametrize(
    ("names", "objective"),
    [
        (["step", "train_loss", "lr", "val_loss", "total_seconds"], "val_loss"),
        (["val_bpb", "training_seconds", "peak_vram_mb", "mfu_percent", "num_steps", "depth"], "val_bpb"),
        (["loss", "val_loss", "val_acc"], "val_acc"),
        (["epoch", "loss", "accuracy"], "accuracy"),
        (["train/loss", "eval/loss", "eval/runtime", "eval/samples_per_second"], "eval/loss"),
        (["size", "latency_us", "runs"], "latency_us"),
        (["lr", "mystery"], "mystery"),
    ],
)
def test_the_objective_is_a_validation_metric_where_there_is_one(names: list[str], objective: str) -> None:
    assert most_likely(names)[0] == objective
