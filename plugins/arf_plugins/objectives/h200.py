"""autoresearch's train.py on an H200: what a run of any setting of its 14 constants gives.

It is learnt from 16,000 real runs of five minutes of training, those of 14 search methods in the public
repository ferreirafabio/autoresearch-automl (MIT). Small networks were fitted to them for val_bpb (the mean
of five), running out of memory, steps done and peak memory, by `tests/benchmarks/fit_h200.py`, which says
how and prints how well they do on runs that they have not seen. Below 0.978 the error is larger than the
noise: compare searches down to there.
"""

from __future__ import annotations

import itertools
import math
import random
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from attrs import frozen

from arf.types import Scalar
from arf_plugins.objectives.objective import NoCellError, Parameter, SimulatedObjective, Values

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]

FLOOR = 0.95
"""Networks learn log(val_bpb - FLOOR), so that differences among the best count."""
SEQUENCE = 2048
"""Tokens in a row of a batch."""
OUT_OF_MEMORY_S = 32.0
"""The median time until a run is out of memory."""
RESIDUAL = 0.00010
"""Standard deviation of the unchanged script's val_bpb at equal steps (878 runs)."""
SPREAD = ((0.99, 0.00015), (1.015, 0.0005), (1.065, 0.0010), (1.2, 0.0023))
"""(val_bpb, median standard deviation of replicates) of 875 settings that ran twice or more."""

_BATCHES = tuple(2**n for n in range(16, 22))
PARAMETERS = (
    Parameter(name="DEPTH", base=8, about="transformer layers", low=4, high=24),
    Parameter(name="ASPECT_RATIO", base=64, about="model width per layer", low=32, high=128),
    Parameter(name="HEAD_DIM", base=128, about="width of an attention head", levels=(64, 128, 256)),
    Parameter(
        name="WINDOW_PATTERN",
        base="SSSL",
        about="attention windows by layer, short or long",
        levels=("SSSS", "SSSL", "SSLL", "SLSL", "LSSL", "LLLL"),
    ),
    Parameter(name="TOTAL_BATCH_SIZE", base=2**19, about="tokens in a step", levels=_BATCHES),
    Parameter(
        name="DEVICE_BATCH_SIZE", base=128, about="rows in a forward pass", levels=(32, 64, 128, 256)
    ),
    Parameter(name="EMBEDDING_LR", base=0.6, about="of the embeddings, Adam", low=0.01, high=2.0, log=True),
    Parameter(name="UNEMBEDDING_LR", base=0.004, about="of the head, Adam", low=0.0005, high=0.05, log=True),
    Parameter(name="MATRIX_LR", base=0.04, about="of matrices, Muon", low=0.005, high=0.2, log=True),
    Parameter(name="SCALAR_LR", base=0.5, about="of scalars, Adam", low=0.05, high=2.0, log=True),
    Parameter(name="WEIGHT_DECAY", base=0.2, about="decoupled, of matrices", low=0.0, high=0.5),
    Parameter(name="WARMUP_RATIO", base=0.0, about="share of the time", low=0.0, high=0.3),
    Parameter(name="WARMDOWN_RATIO", base=0.5, about="share of the time", low=0.1, high=0.8),
    Parameter(name="FINAL_LR_FRAC", base=0.0, about="of the learning rate, at the end", low=0.0, high=0.2),
)  # fmt: skip


@frozen(kw_only=True)
class Prediction:
    """What a run of a setting gives."""

    val_bpb: float
    """NaN where it is out of memory."""
    steps: float
    memory_gb: float


def features(values: Values) -> list[float]:
    """What the networks see of a setting: sizes as logarithms, with those that follow from others."""
    depth, ratio = float(values["DEPTH"]), float(values["ASPECT_RATIO"])
    head = float(values["HEAD_DIM"])
    width = math.ceil(depth * ratio / head) * head  # as train.py rounds it
    rows = float(values["DEVICE_BATCH_SIZE"])
    tokens = max(float(values["TOTAL_BATCH_SIZE"]), rows * SEQUENCE)  # as the recorded searches mend it
    found = [
        depth,
        ratio,
        math.log2(width),
        math.log2(head),
        math.log2(12 * depth * width**2),
        math.log2(depth),
    ]
    found += [float(letter == "L") for letter in str(values["WINDOW_PATTERN"])]
    found += [math.log2(tokens), math.log2(rows)]
    for name in ("EMBEDDING_LR", "UNEMBEDDING_LR", "MATRIX_LR", "SCALAR_LR"):
        found.append(math.log2(max(1e-6, float(values[name]))))
    for name in ("WEIGHT_DECAY", "WARMUP_RATIO", "WARMDOWN_RATIO", "FINAL_LR_FRAC"):
        found.append(float(values[name]))
    return found


class Networks:
    """Fitted networks: multilayer perceptrons with SiLU between their layers, on standardised features."""

    def __init__(self, arrays: dict[str, Floats]) -> None:
        """`mean` and `sd` are (features,); for each network and layer `NAME.wN` is (members, in, out) and
        `NAME.bN` (members, 1, out); `NAME.scale` is the (mean, sd) of its target."""
        self._arrays = arrays

    @classmethod
    def load(cls) -> Networks:
        import numpy as np

        with (
            (files("arf_plugins.objectives") / "data" / "h200.npz").open("rb") as file,
            np.load(file) as data,
        ):
            return cls({name: data[name].astype(float) for name in data.files})

    def predict(self, name: str, rows: Floats) -> Floats:
        """(rows, features) to (rows,): the mean over the members of a network."""
        import numpy as np

        a = self._arrays
        x = ((rows - a["mean"]) / a["sd"])[None]
        for layer in range(3):
            x = x @ a[f"{name}.w{layer}"] + a[f"{name}.b{layer}"]
            if layer < 2:
                x = x / (1.0 + np.exp(-x))
        mean, sd = a[f"{name}.scale"]
        predicted: Floats = x[:, :, 0].mean(axis=0) * sd + mean
        return predicted

    @property
    def best(self) -> float:
        """The lowest val_bpb that a search of the networks found."""
        return float(self._arrays["best"])


class H200Objective(SimulatedObjective):
    """Looks runs up in the networks. Only full runs were recorded."""

    parameters = PARAMETERS

    def __init__(self) -> None:
        self._networks = Networks.load()
        self._predicted = lru_cache(maxsize=4096)(self._predict)

    def predict(self, values: Values) -> Prediction:
        return self._predicted(tuple(values[p.name] for p in PARAMETERS))

    def _predict(self, setting: tuple[Scalar, ...]) -> Prediction:
        import numpy as np

        row = np.array([features({p.name: v for p, v in zip(PARAMETERS, setting, strict=True)})])
        gone = self._networks.predict("memory_out", row)[0] > 0.0
        return Prediction(
            val_bpb=math.nan if gone else FLOOR + math.exp(self._networks.predict("val_bpb", row)[0]),
            steps=math.exp(self._networks.predict("steps", row)[0]),
            memory_gb=math.exp(self._networks.predict("memory", row)[0]),
        )

    def truth(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        if share != 1.0:
            raise NoCellError("only full runs were recorded on the H200", hint="leave budgets at 1")
        return self.predict(values).val_bpb

    def sigma(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        """At equal steps: larger where val_bpb is, as replicates say. Machines' speed comes on top of it."""
        value = self.predict(values).val_bpb
        if math.isnan(value) or value <= SPREAD[0][0]:
            return RESIDUAL
        for (low, less), (high, more) in itertools.pairwise(SPREAD):
            if value < high:
                part = (value - low) / (high - low)
                return RESIDUAL * math.exp(math.log(less) * (1 - part) + math.log(more) * part) / SPREAD[0][1]
        return RESIDUAL * SPREAD[-1][1] / SPREAD[0][1]

    def draw(self, values: Values, tier: str, share: float, rng: random.Random) -> float:
        value = self.truth(values, tier, share)
        return value if math.isnan(value) else value + rng.gauss(0.0, self.sigma(values, tier, share))

    def optimum(self, tier: str = "") -> float:
        return self._networks.best

    def seconds_to_crash(self, values: Values) -> float | None:
        return OUT_OF_MEMORY_S

    def also_prints(self, values: Values, share: float = 1.0) -> dict[str, float]:
        predicted = self.predict(values)
        return {"num_steps": predicted.steps, "peak_vram_mb": predicted.memory_gb * 1024.0}
