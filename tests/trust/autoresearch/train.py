"""Trains a table of counts. This is the file that experiments edit."""

import os
import random
import time

import prepare

ORDER = 1  # tokens of context [0..4]
SMOOTHING = 1.0  # added to each count [0.01..10]
CHUNK = 200  # tokens between two looks at the clock [10..1000]
SHARE = 0.05  # of each chunk that is counted [0..1]


class Model:
    def __init__(self):
        self.counts = {}

    def update(self, context, token):
        row = self.counts.setdefault(tuple(context[len(context) - ORDER :]), [0] * prepare.VOCAB)
        row[token] += 1

    def probability(self, context, token):
        row = self.counts.get(tuple(context[len(context) - ORDER :]), [0] * prepare.VOCAB)
        return (row[token] + SMOOTHING) / (sum(row) + SMOOTHING * prepare.VOCAB)


draw = random.Random(int(os.environ.get("ARF_SEED", "42")))
model = Model()
began = time.time()
seconds, steps = 0.0, 0
while seconds < prepare.TIME_BUDGET:
    start = draw.randrange(8, len(prepare.TRAIN) - CHUNK)
    for at in range(start, start + max(1, int(SHARE * CHUNK))):
        model.update(prepare.TRAIN[at - 8 : at], prepare.TRAIN[at])
    time.sleep(0.002)
    steps += 1
    seconds = time.time() - began
val_bpb = prepare.evaluate_bpb(model)
print("---")
print(f"val_bpb:          {val_bpb:.6f}")
print(f"training_seconds: {seconds:.3f}")
print(f"total_seconds:    {time.time() - began:.3f}")
print(f"eval_tokens:      {prepare.EVAL_TOKENS}")
print(f"num_steps:        {steps}")
