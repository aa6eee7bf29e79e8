"""Data, budget and metric, laid out as autoresearch lays them out, with a model that needs no library."""

import math
import os
import random

TIME_BUDGET = 0.4  # seconds of training
EVAL_TOKENS = 4000
VOCAB = 32
CACHE = os.path.join(os.path.expanduser("~"), ".cache", "toy")


def text(seed, length):
    """Tokens of a noisy chain, in which each depends on the two before it."""
    draw, out = random.Random(seed), [1, 2]
    for _ in range(length):
        a, b = out[-2:]
        out.append((3 * a + 5 * b + draw.choice((0, 0, 0, 1, 7))) % VOCAB)
    return out


TRAIN, VAL = text(1, 200_000), text(2, EVAL_TOKENS)


def evaluate_bpb(model):
    """Bits per token of `model.probability(context, token)` on the text for validation."""
    total = 0.0
    for at in range(8, len(VAL)):
        total -= math.log2(model.probability(VAL[at - 8 : at], VAL[at]))
    return total / (len(VAL) - 8)
