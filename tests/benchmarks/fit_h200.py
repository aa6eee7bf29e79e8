"""Fits the networks of the objective `h200`, and prints how well they do.

    python tests/benchmarks/fit_h200.py trials.csv.xz OUTPUT.npz

trials.csv.xz is one table of all trials in `results/exp2_benchmark` of the public repository
ferreirafabio/autoresearch-automl (MIT) at commit 338aa0b: method, seed, the 14 constants, val_bpb (empty if
the run failed), error, num_steps, peak_memory_gb and more. Needs torch; takes two minutes on a core. The same
input gives the same networks.

Replicates are one row, with the median of their values. Quality is told twice: on 15 % of the settings,
chosen at random, and on five whole studies of which nothing was seen. Then everything is fitted again with
all rows.
"""

from __future__ import annotations

import csv
import itertools
import lzma
import math
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau, rankdata, spearmanr

from arf_plugins.objectives.h200 import FLOOR, PARAMETERS, Networks, features
from arf_plugins.objectives.objective import Scale

HELD_OUT = ("optuna2", "random1", "cma_es0", "smac1", "centaur_Qwen3_5_27B1")
PATTERNS = next(p.levels for p in PARAMETERS if p.name == "WINDOW_PATTERN")
WIDTH, MEMBERS, EPOCHS, BATCH = 48, 5, 150, 256
CEILING = 2.5
"""Runs that diverged are all as bad as this."""

Row = dict[str, str]


def read(path: Path) -> list[Row]:
    """The runs whose 14 constants are known."""
    with lzma.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    names = [p.name for p in PARAMETERS]
    return [r for r in rows if all(r[n] for n in names) and r["WINDOW_PATTERN"] in PATTERNS]


def grouped(rows: Sequence[Row], wanted: Callable[[Row], bool]) -> list[list[Row]]:
    """Replicates of each setting."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if wanted(row):
            groups[tuple(row[p.name] for p in PARAMETERS)].append(row)
    return list(groups.values())


def place(row: Row) -> list[float]:
    return features(
        {p.name: row[p.name] if p.name == "WINDOW_PATTERN" else float(row[p.name]) for p in PARAMETERS}
    )


class Fit:
    """A target, its rows and what is fitted to them."""

    def __init__(
        self, groups: list[list[Row]], target: Callable[[Row], float], *, binary: bool = False
    ) -> None:
        self.x = np.array([place(group[0]) for group in groups])
        self.y = np.array([float(np.median([target(row) for row in group])) for group in groups])
        self.study = [group[0]["method"] + group[0]["seed"] for group in groups]
        self.binary = binary

    def train(self, keep: Any, mean: Any, sd: Any, members: int) -> dict[str, Any]:
        """Layers of `members` networks, trained together."""
        torch.manual_seed(0)
        centre, scale = (0.0, 1.0) if self.binary else (self.y[keep].mean(), self.y[keep].std())
        x = torch.tensor((self.x[keep] - mean) / sd, dtype=torch.float32)
        y = torch.tensor((self.y[keep] - centre) / scale, dtype=torch.float32)
        sizes = [x.shape[1], WIDTH, WIDTH, 1]
        weights = [
            torch.nn.Parameter((torch.rand(members, a, b) * 2 - 1) / math.sqrt(a))
            for a, b in itertools.pairwise(sizes)
        ]
        biases = [torch.nn.Parameter(torch.zeros(members, 1, b)) for b in sizes[1:]]
        steps = EPOCHS * (len(x) // BATCH)
        optimizer = torch.optim.AdamW([*weights, *biases], lr=8e-3, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps)
        for _ in range(steps):
            rows = torch.randint(len(x), (members, BATCH))
            out = x[rows]
            for n, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
                out = out @ weight + bias
                out = torch.nn.functional.silu(out) if n < 2 else out
            if self.binary:
                loss = torch.nn.functional.binary_cross_entropy_with_logits(
                    out[..., 0], y[rows], reduction="sum"
                )
            else:
                loss = torch.nn.functional.huber_loss(out[..., 0], y[rows], delta=0.3, reduction="sum")
            optimizer.zero_grad()
            (loss / BATCH).backward()
            optimizer.step()
            schedule.step()
        found = {f"w{n}": w.detach().numpy() for n, w in enumerate(weights)}
        found |= {f"b{n}": b.detach().numpy() for n, b in enumerate(biases)}
        return {**found, "scale": np.array([centre, scale], dtype=np.float32)}


def auc(score: Any, positive: Any) -> float:
    ranks, n = rankdata(score), int(positive.sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(score) - n)))


def tell(name: str, fit: Fit, test: Any, predicted: Any) -> None:
    """Quality on rows that were not seen."""
    y = fit.y[test]
    if fit.binary:
        wrong = float(np.mean((predicted > 0) != (y > 0)))
        print(f"{name:24} {len(y):5} rows  AUC {auc(predicted, y > 0):.4f}  wrong {wrong:.2%}")
        return
    limits = (math.inf, 1.0, 0.985) if "val_bpb" in name else (math.inf,)
    for limit in limits:
        some = FLOOR + np.exp(y) < limit if "val_bpb" in name else np.ones(len(y), bool)
        p, t = predicted[some], y[some]
        r2 = 1 - ((p - t) ** 2).sum() / ((t - t.mean()) ** 2).sum()
        off = float(np.median(abs(np.exp(p) - np.exp(t))))
        print(
            f"{name:24} {some.sum():5} rows below {limit:<6} R2 {r2:.3f}  Spearman {spearmanr(p, t)[0]:.3f}  "
            f"Kendall {kendalltau(p, t)[0]:.3f}  median error {off:.5f}"
        )


def search(networks: Networks) -> float:
    """The lowest val_bpb: coordinate descent from many random starts, then once more on finer grids."""
    rng = random.Random(0)
    grids = {p.name: Scale.of(p).grid(33) for p in PARAMETERS}

    def value(rows: list[dict[str, Any]]) -> Any:
        x = np.array([features(row) for row in rows])
        out = networks.predict("memory_out", x) > 0
        return np.where(out, np.inf, FLOOR + np.exp(networks.predict("val_bpb", x)))

    found = math.inf
    for _ in range(40):
        starts = [{n: rng.choice(g) for n, g in grids.items()} for _ in range(400)]
        at = starts[int(np.argmin(value(starts)))]
        best, before = math.inf, math.inf
        while True:
            for name, grid in grids.items():
                near = [{**at, name: v} for v in grid]
                values = value(near)
                if values.min() < best:
                    at, best = near[int(values.argmin())], float(values.min())
            if best >= before - 1e-7:
                break
            before = best
        found = min(found, best)
    return found


def main(source: Path, output: Path) -> None:
    torch.set_num_threads(1)
    rows = read(source)
    ran = grouped(rows, lambda r: bool(r["val_bpb"] and r["num_steps"]))
    known = grouped(rows, lambda r: bool(r["val_bpb"]) or "memory" in r["error"])
    print(f"{len(rows)} runs, {len(ran)} settings that ran, {len(known)} with those out of memory")
    fits = {
        "val_bpb": (Fit(ran, lambda r: math.log(min(CEILING, float(r["val_bpb"])) - FLOOR)), MEMBERS),
        "memory_out": (Fit(known, lambda r: float("memory" in r["error"]), binary=True), 3),
        "steps": (Fit(ran, lambda r: math.log(float(r["num_steps"]))), 2),
        "memory": (Fit(ran, lambda r: math.log(max(0.1, float(r["peak_memory_gb"])))), 2),
    }
    x = fits["memory_out"][0].x
    mean, sd = x.mean(axis=0), x.std(axis=0)
    arrays: dict[str, Any] = {"mean": mean.astype(np.float32), "sd": sd.astype(np.float32)}
    for name, (fit, members) in fits.items():
        at_random = np.random.default_rng(0).random(len(fit.y)) < 0.15
        for held, test in (
            ("settings", at_random),
            ("studies", np.array([s in HELD_OUT for s in fit.study])),
        ):
            layers = fit.train(~test, mean, sd, members)
            networks = Networks({"mean": mean, "sd": sd, **{f"{name}.{k}": v for k, v in layers.items()}})
            tell(f"{name}, new {held}", fit, test, networks.predict(name, fit.x[test]))
        layers = fit.train(np.ones(len(fit.y), bool), mean, sd, members)
        arrays |= {f"{name}.{key}": layer for key, layer in layers.items()}
    arrays["best"] = np.array(search(Networks(arrays)))
    np.savez_compressed(output, **arrays)
    print(f"best {float(arrays['best']):.5f}; {output.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
