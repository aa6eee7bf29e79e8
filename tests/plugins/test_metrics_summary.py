"""The `summary` parser."""

import math
from typing import ClassVar

import pytest

from arf.interfaces import MetricParser
from arf.testing.suites import MetricParserSuite
from arf.types import Reading
from arf_plugins.metrics_summary.parser import LONGEST_LINE, SummaryParser


def at(step: int | None = None, /, **values: float) -> list[Reading]:
    return [Reading(name=name, value=value, step=step) for name, value in values.items()]


class TestSummary(MetricParserSuite):
    examples: ClassVar = {
        # karpathy/autoresearch
        "---": [],
        "val_bpb:          0.997900": at(val_bpb=0.9979),
        "training_seconds: 300.1": at(training_seconds=300.1),
        "peak_vram_mb:     45060.2": at(peak_vram_mb=45060.2),
        "num_params_M:     50.3": at(num_params_M=50.3),
        "depth:            8": at(depth=8.0),
        "\rstep 00010 (12.3%) | loss: 3.210000 | lrm: 1.00 | dt: 283ms | mfu: 39.8% | epoch: 1 | remaining: 200s    ": at(  # noqa: E501
            10, loss=3.21, lrm=1.0, dt=0.283, mfu=39.8, epoch=1.0, remaining=200.0
        ),
        "step 00010 (12.3%) | tok/sec: 1,852,731": [Reading(name="tok/sec", value=1852731.0, step=10)],
        # nanochat
        "Step 00250 | Validation bpb: 1.0234": at(250, Validation_bpb=1.0234),
        "step 00010/21400 (0.05%) | loss: 3.2 | total time: 1.23m": at(10, loss=3.2, total_time=1.23),
        # nanoGPT
        "iter 10: loss 3.2, time 12.31ms, mfu 39.8%": at(10, loss=3.2, time=0.01231, mfu=39.8),
        "step 250: train loss 2.4, val loss 2.5": at(250, train_loss=2.4, val_loss=2.5),
        # modded-nanogpt
        "step:10/1000 val_loss:3.27 train_time:5000ms step_avg:nanms": at(
            10, val_loss=3.27, train_time=5.0, step_avg=math.nan
        ),
        # llm.c
        "step    1/1000 | loss 11.0 (+nanz)| norm 15.2 (+nanz)| lr 6.00e-04 | 1200.1 ms | 40.2% bf16 MFU": at(
            1, loss=11.0, norm=15.2, lr=6e-4
        ),
        # Keras, Lightning and home-made ones
        "Epoch 3/10 - loss: 0.3 - val_loss: 0.25": at(3, loss=0.3, val_loss=0.25),
        "epoch=1 step=200 loss=3.2": at(200, loss=3.2),
        "step: 10, loss: 3.2": at(10, loss=3.2),
        "[2026-01-01 12:00:00] INFO step 1,000 | loss: 3.2 | lr 1e-4": at(1000, loss=3.2, lr=1e-4),
        "global_step=7 loss=inf": at(7, loss=math.inf),
        "val_loss=3.28, val_acc=41.2%": at(val_loss=3.28, val_acc=41.2),
        "a: .5; b: 3. | c: -1E+2": at(a=0.5, b=3.0, c=-100.0),
        "\x1b[1;32mval_bpb: 0.5\x1b[0m": at(val_bpb=0.5),
        "peak: 45,060.2 MB": at(peak=45060.2e6),
        "val_bpb: nan": at(val_bpb=math.nan),
        "val_bpb: -Infinity": at(val_bpb=-math.inf),
        "step: 953": at(step=953.0),
        "num_steps: 953": at(num_steps=953.0),
        # The examples of PyTorch, Hugging Face, Keras, tqdm, boosted trees, stable-baselines
        "Test set: Average loss: 0.0263, Accuracy: 9912/10000 (99%)": at(
            Average_loss=0.0263, Accuracy=0.9912
        ),
        "Train Epoch: 14 [59520/60000 (99%)]\tLoss: 0.012345": at(14, Loss=0.012345),
        "====> Epoch: 5 Average loss: 0.5": at(5, Average_loss=0.5),
        "====> Test set loss: 0.5": at(Test_set_loss=0.5),
        " * Acc@1 76.130 Acc@5 92.862": [
            Reading(name="Acc@1", value=76.13, step=None),
            Reading(name="Acc@5", value=92.862, step=None),
        ],
        "| End of training | test loss  4.10 | test ppl    60.10": at(test_loss=4.1, test_ppl=60.1),
        "Episode 500\tLast reward: 200.00\tAverage reward: 195.12": at(
            500, Last_reward=200.0, Average_reward=195.12
        ),
        "{'eval_loss': 0.45, 'split': 'test', 'epoch': 3.0}": at(3, eval_loss=0.45),
        '{"val_bpb": 0.99, "acc": 0.5}': at(val_bpb=0.99, acc=0.5),
        "{'val_loss': tensor(0.5), 'x': np.float64(0.2)}": at(val_loss=0.5, x=0.2),
        '{"step": 3, "train": {"loss": 1.0}, "val": {"loss": 2.0}, "config": {"lr": 1}, "bpb": 3}': [
            Reading(name=name, value=value, step=3)
            for name, value in {"train/loss": 1.0, "val/loss": 2.0, "bpb": 3.0}.items()
        ],
        '  "val_bpb": 0.99,': at(val_bpb=0.99),
        "1875/1875 [====] - 3s 2ms/step - loss: 0.1 - val_loss: 0.2": at(1875, loss=0.1, val_loss=0.2),
        "1875/1875 ━━━━ 3s 2ms/step - val_loss: 0.2": at(1875, val_loss=0.2),
        " 50%|█████     | 5/10 [00:01<00:01,  4.9it/s, loss=0.5]": at(5, loss=0.5),
        "[99]\ttrain-rmse:0.1\teval-rmse:0.2": [
            Reading(name="train-rmse", value=0.1, step=99),
            Reading(name="eval-rmse", value=0.2, step=99),
        ],
        "|    ep_rew_mean      | 495      |": at(ep_rew_mean=495.0),
        "│  test_loss  │    0.123    │": at(test_loss=0.123),
        "wandb:      val_loss 0.5": at(val_loss=0.5),
        # What people and loggers put around a metric
        "Final accuracy: 95.12%": at(Final_accuracy=95.12),
        "val_loss: 3.2 (best 3.1)": at(val_loss=3.2),
        "mean_reward: 495.3 +/- 12.1": at(mean_reward=495.3),
        "Mean reward: 495.30 ± 12.1": at(Mean_reward=495.3),
        "METRIC val_bpb=0.99": at(val_bpb=0.99),
        "RESULT: val_bpb=0.99": at(val_bpb=0.99),
        "**val_bpb**: 0.99": at(val_bpb=0.99),
        "- val_bpb: `0.99`": at(val_bpb=0.99),
        ">>> val_bpb -> 0.99": at(val_bpb=0.99),
        "=== val_bpb: 0.99 ===": at(val_bpb=0.99),
        "val_bpb ........ 0.99": at(val_bpb=0.99),
        "val_bpb\t0.99": at(val_bpb=0.99),
        "val_bpb: tensor(0.99, device='cuda:0')": at(val_bpb=0.99),
        "val_bpb: [0.99]": at(val_bpb=0.99),
        '[1] "val_bpb: 0.99"': at(1, val_bpb=0.99),
        "[rank0]: val_bpb: 0.99": at(val_bpb=0.99),
        "INFO:root:val_bpb: 0.99": at(val_bpb=0.99),
        "2026-01-01 12:00:00,123 - root - INFO - val_bpb: 0.99": at(val_bpb=0.99),
        "2026-01-01 12:00:00.123 | INFO     | __main__:main:12 - val_bpb: 0.99": at(val_bpb=0.99),
        "I1123 12:00:00.123 7 train.py:12] val_bpb: 0.99": at(val_bpb=0.99),
        "\x1b[?25l\ufeffval_bpb:\u00a00.99\x1b[K": at(val_bpb=0.99),
        "验证损失: 0.5": [Reading(name="验证损失", value=0.5, step=None)],
        "[2026-01-01 12:00:00,123][__main__][INFO] - val_bpb: 0.99": at(val_bpb=0.99),  # Hydra
        "2026-01-01T12:00:00Z [INFO] src/train.py:33 - val_bpb=0.99": at(val_bpb=0.99),
        "[12:00:01] INFO     val_bpb: 0.99                 train.py:33": at(val_bpb=0.99),  # rich
        "[100]\tvalid_0's l2: 0.031\tvalid_1's l2: 0.04": [  # LightGBM
            Reading(name="valid_0's_l2", value=0.031, step=100),
            Reading(name="valid_1's_l2", value=0.04, step=100),
        ],
        # Launchers
        "[1,0]<stdout>:val_bpb: 0.99": at(val_bpb=0.99),
        "0: val_bpb: 0.99": at(val_bpb=0.99),
        "[default0]:val_bpb: 0.99": at(val_bpb=0.99),
        "(Worker pid=7) val_bpb: 0.99": at(val_bpb=0.99),
        "(RayTrainWorker pid=1234, ip=10.0.0.1) val_bpb: 0.99": at(val_bpb=0.99),
        "wandb:             val/loss 0.99": [Reading(name="val/loss", value=0.99, step=None)],
        "INFO .. train.py:33] val_bpb 0.99": at(val_bpb=0.99),
        "313/313 - 1s - 4ms/step - loss: 0.27 - val_loss: 0.29": at(313, loss=0.27, val_loss=0.29),
        # Units
        "latency: 0.98 ms": at(latency=0.00098),
        "latency: 980us": at(latency=0.00098),
        "throughput: 1.5 M ops/s": at(throughput=1.5e6),
        "throughput: 1500 kops/s, params: 2.5M": at(throughput=1.5e6, params=2.5e6),
        "memory: 2 GiB, bandwidth: 1.2 TB/s": at(memory=2.0 * 2**30, bandwidth=1.2e12),
        "perf: 350.5 GFLOPS": at(perf=350.5e9),
        # Benchmark harnesses
        "fib 20                  time:   [26.029 us 26.251 us 26.505 us]": at(fib_20_time=26.251e-6),
        "  Time (mean ± σ):     102.4 ms ±   3.1 ms    [User: 90.2 ms, System: 11.0 ms]": at(time=0.1024),
        "BM_Sort/1024        12345 ns        12300 ns        56789": [
            Reading(name="BM_Sort/1024", value=12345e-9, step=None)
        ],
        "BenchmarkFib-8   \t 5000000\t       312 ns/op\t  16 B/op": [
            Reading(name="BenchmarkFib", value=312e-9, step=None),
            Reading(name="BenchmarkFib_B/op", value=16.0, step=None),
        ],
        "test bench_fib ... bench:       1,234 ns/iter (+/- 56)": at(bench_fib=1234e-9),
        # Records
        "{'val_bpb': '0.99', 'epoch': '1'}": at(1, val_bpb=0.99),  # transformers 5
        '{"metric": "val_bpb", "value": 0.99}': at(val_bpb=0.99),
        '{"metrics": {"val": {"bpb": 0.99}}}': [Reading(name="metrics/val/bpb", value=0.99, step=None)],
        # Dicts behind something
        'RESULT: {"val_bpb": 0.99, "split": "test"}': at(val_bpb=0.99),
        "2026-01-01 12:00:00,123 - INFO - {'val_bpb': 0.99, 'n': {'a': 1}}": at(val_bpb=0.99),
        "Epoch 3: {'val_bpb': 0.99}": at(3, val_bpb=0.99),
        " 66%|##    | 2/3 [00:02<00:01, 1.2s/it]{'val_bpb': 0.99, 'epoch': 2.0}": at(2, val_bpb=0.99),
        "best metrics: {'val_bpb': 0.9}": [],
        "hyperparameters: {'lr': 0.1}": [],
        # Sentences of Keras
        "Epoch 1: val_loss improved from inf to 0.50000, saving model to m.keras": [],
        "Epoch 2: val_loss did not improve from 0.50000": [],
        "val_loss improved from 0.6 to 0.5": [],
        # No metrics
        "Best: val_loss=0.3": [],
        "saved: loss 0.3": [],
        "val_loss: 0,5": [],
        "val_loss: 0,512": [],
        "{}": [],
        "0%|          | 0/10 [00:00<?, ?it/s]": [],
        "step 10/1000": [],
        "time: 12:30": [],
        "version: 1.2.3": [],
        "date: 2026-01-01": [],
        "address: 0x1f": [],
        "12:30:45 hello": [],
        "https://example.org:80": [],
        "a: 12345,678": [],
        "Loading 3 shards: 100 files": [],
        '  File "train.py", line 3': [],
        "val_bpb: ": [],
        "nan: the loss": [],
    }

    def make(self) -> MetricParser:
        return SummaryParser()


def test_a_line_that_is_too_long_to_be_meant_for_people_is_ignored() -> None:
    assert SummaryParser().parse("a: 1" + " " * 2 * LONGEST_LINE) == at(a=1.0)
    assert SummaryParser().parse("a: 1, " * LONGEST_LINE) == ()


@pytest.mark.parametrize(
    "pattern",
    [
        "a_",
        "a.",
        "a:",
        "a ",
        "a: 1 ",
        "1,111",
        "step ",
        "step 1 ",
        "/",
        "-",
        "nan",
        " ",
        "1e",
        "%",
        "[a] ",
        "INFO:",
        "> ",
        "'a': 1, ",
        "{",
        "a b ",
        "(",
        "1/1 [",
        "=",
        "|",
        "a.b:c:1 ",
        "a:1] ",
        "1 ns ",
        "0: a ",
        "(w pid=1",
        "1 M ",
    ],
)
def test_no_line_takes_long(pattern: str) -> None:
    """Each takes milliseconds; an expression that backtracks would run into the time limit of the test."""
    for prefix in ("", "step 1 ", "x: ", "{", "x: 1 (", "INFO - "):
        SummaryParser().parse((prefix + pattern * LONGEST_LINE)[:LONGEST_LINE])
