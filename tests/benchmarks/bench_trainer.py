"""What the bundled trainer costs, against a plain loop: `python tests/benchmarks/bench_trainer.py`.

Prints, from one run on one thread:

- tokens per second against a plain nanoGPT-style loop of the same model and the same optimizer, and MFU
  against the matmul peak measured here. Each runs in a process of its own; they take turns, so that a loaded
  machine slows both, and CPU time is compared as well as wall time;
- seconds from the start to the end of the first step, and the share of an experiment outside training, from
  a fresh process and from arf's warm one, taking turns; all must give one val_bpb;
- val_bpb at equal compute against the same plain loop with AdamW in the place of Muon, learning rate and
  momentum of each chosen from a grid of the same size.

The plain loop is written the way nanoGPT (and Muon's reference code) is: a module for each projection, one
matrix at a time through Newton-Schulz, torch.optim.AdamW, batches stacked from slices of a memory map, the
loss read every ten steps. It computes the same function, which `check_same_model` tests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
TRAINER = Path(__file__).resolve().parents[2] / "trainer"
sys.path.insert(0, str(TRAINER))

import numpy as np  # noqa: E402
import prepare  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import train  # noqa: E402
from torch import nn  # noqa: E402

from arf.types import Job, JobState  # noqa: E402
from arf_plugins.backend_local import LocalOptions  # noqa: E402
from arf_plugins.backend_local.backend import LocalBackend  # noqa: E402

DEVICE = torch.device("cpu")

# ------------------------------------------------------------------------------ the plain loop


class PlainBlock(nn.Module):
    def __init__(self, width: int, head_dim: int, mlp_ratio: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)
        self.c_fc = nn.Linear(width, mlp_ratio * width, bias=False)
        self.mlp_proj = nn.Linear(mlp_ratio * width, width, bias=False)

    def forward(self, x, cos, sin):
        B, T, C = x.shape
        h = F.rms_norm(x, (C,))
        q, k, v = self.c_attn(h).split(C, dim=2)
        q, k, v = (t.view(B, T, C // self.head_dim, self.head_dim) for t in (q, k, v))
        q, k = F.rms_norm(q, (self.head_dim,)), F.rms_norm(k, (self.head_dim,))
        q, k = plain_rope(q, cos, sin), plain_rope(k, cos, sin)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
        )
        x = x + self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))
        return x + self.mlp_proj(F.relu(self.c_fc(F.rms_norm(x, (C,)))).square())


def plain_rope(x, cos, sin):
    """The usual form: channel i turns with channel i + D/2."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class PlainGPT(nn.Module):
    """The default model of train.py, written plainly."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        width, head_dim = config["width"], config["head_dim"]
        self.wte = nn.Embedding(config["vocab_size"], width)
        self.blocks = nn.ModuleList(
            PlainBlock(width, head_dim, config["mlp_ratio"]) for _ in range(config["depth"])
        )
        self.lm_head = nn.Linear(width, config["vocab_size"], bias=False)
        angles = torch.outer(
            torch.arange(config["seq_len"]).float(),
            config["rope_base"] ** (-torch.arange(0, head_dim, 2) / head_dim),
        )
        self.register_buffer("cos", angles.cos()[:, None])
        self.register_buffer("sin", angles.sin()[:, None])

    def forward(self, tokens, targets=None):
        x = F.rms_norm(self.wte(tokens), (self.wte.embedding_dim,))
        for block in self.blocks:
            x = block(x, self.cos[: tokens.size(1)], self.sin[: tokens.size(1)])
        logits = self.lm_head(F.rms_norm(x, (self.wte.embedding_dim,)))
        if targets is None:
            return logits
        return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))

    def copy_from(self, model: train.GPT) -> None:
        """Take the weights of train.py's model. There channel 2i turns with 2i + 1, so queries and keys are
        permuted within a head: the same function."""
        C, D = self.wte.embedding_dim, self.blocks[0].head_dim
        in_head = torch.cat([torch.arange(0, D, 2), torch.arange(1, D, 2)])
        heads = torch.arange(0, 2 * C, D)[:, None] + in_head  # of queries and keys
        order = torch.cat([heads.flatten(), torch.arange(2 * C, 3 * C)])
        with torch.no_grad():
            self.wte.weight.copy_(model.embed.weight)
            self.lm_head.weight.copy_(model.head.weight)
            for block, attention, mlp in zip(self.blocks, model.attention, model.mlp, strict=True):
                block.c_attn.weight.copy_(attention.qkv.weight[order])
                block.c_proj.weight.copy_(attention.proj.weight)
                block.c_fc.weight.copy_(mlp.up.weight)
                block.mlp_proj.weight.copy_(mlp.down.weight)


def plain_orthogonalise(g, steps):
    """Muon's reference loop, for one matrix, with the coefficients of train.py."""
    x = g.T if g.size(0) > g.size(1) else g
    x = x / (x.norm() * 1.02 + 1e-6)
    for a, b, c in train.POLAR_EXPRESS[:steps]:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if g.size(0) > g.size(1) else x


class PlainMuon(torch.optim.Optimizer):
    """Muon as in its reference code: one matrix after the other; queries, keys and values apart."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                buf = state["momentum"]
                buf.lerp_(p.grad, 1 - train.MUON_MOMENTUM)
                g = p.grad.lerp(buf, train.MUON_MOMENTUM)
                parts = g.chunk(3) if g.size(0) == 3 * g.size(1) else [g]
                for part, target in zip(parts, p.chunk(len(parts)), strict=True):
                    update = plain_orthogonalise(part, train.NS_STEPS)
                    target.add_(update, alpha=-group["lr"] * max(1, part.size(0) / part.size(1)) ** 0.5)


def plain_batches(batch: int, seq_len: int, rows: np.ndarray):
    """nanoGPT's get_batch: random windows of one long array of tokens, stacked one by one."""
    data = np.ascontiguousarray(rows[:, :-1]).reshape(-1)
    generator = torch.Generator().manual_seed(prepare.seed_from_env())
    while True:
        ix = torch.randint(len(data) - seq_len - 1, (batch,), generator=generator)
        x = torch.stack([torch.from_numpy(data[i : i + seq_len].astype(np.int64)) for i in ix])
        y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + seq_len].astype(np.int64)) for i in ix])
        yield x, y


class PlainRun:
    """The plain loop, a step at a time."""

    def __init__(self, corpus: prepare.Corpus, *, muon: bool, lr_mult: float = 1.0) -> None:
        torch.manual_seed(prepare.seed_from_env())
        config = train.model_config(corpus.tokenizer.get_vocab_size())
        source = train.build_model(config)
        source.init_weights()
        self.model = PlainGPT(config)
        self.model.copy_from(source)
        matrices = [p for block in self.model.blocks for p in block.parameters()]
        betas = (train.ADAM_BETA1, train.ADAM_BETA2)
        adam = [
            {"params": [self.model.wte.weight], "lr": train.EMBED_LR * lr_mult},
            {"params": [self.model.lm_head.weight], "lr": train.HEAD_LR * lr_mult},
        ]
        self.optimizers = []
        if muon:
            self.optimizers.append(PlainMuon(matrices, train.MATRIX_LR * lr_mult))
        else:  # 0.003 is near the best of {1e-3, 3e-3, 1e-2}; the multiplier is searched as for Muon
            adam.append({"params": matrices, "lr": 0.003 * lr_mult})
        self.optimizers.append(torch.optim.AdamW(adam, betas=betas, eps=1e-10, weight_decay=0.0))
        self.peaks = [[group["lr"] for group in opt.param_groups] for opt in self.optimizers]
        self.batches = plain_batches(train.BATCH, train.SEQ_LEN, corpus.train[0])
        self.steps = 0

    def step(self, progress: float) -> None:
        scale = train.lr_scale(progress)
        for opt, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(opt.param_groups, peaks, strict=True):
                group["lr"] = peak * scale
        x, y = next(self.batches)
        _, loss = self.model(x, y)
        loss.backward()
        for opt in self.optimizers:
            opt.step()
            opt.zero_grad(set_to_none=True)
        if self.steps % 10 == 0:
            loss.item()
        self.steps += 1

    def turn(self, steps: int) -> None:
        for _ in range(steps):
            self.step(0.5)


class TrainerRun:
    """train.py's loop, a step at a time: what its `main` does between two calls of `budget.step`."""

    def __init__(self, corpus: prepare.Corpus) -> None:
        torch.manual_seed(prepare.seed_from_env())
        self.model = train.build_model(train.model_config(corpus.tokenizer.get_vocab_size()))
        self.model.init_weights()
        self.optimizers = train.make_optimizers(self.model)
        self.loader = prepare.Loader(corpus, train.BATCH, train.SEQ_LEN, prepare.Budget(DEVICE))

    def turn(self, steps: int) -> None:
        """`steps` steps under a budget of their own, its counting of FLOPs included."""
        self.budget = self.loader.budget = prepare.Budget(DEVICE, "steps", steps)
        with contextlib.redirect_stdout(io.StringIO()):
            while self.budget.step():
                train.train_step(self.model, self.model, self.optimizers, self.loader, self.budget, 0.5)


# ------------------------------------------------------------------------------ what is measured


def check_same_model(corpus: prepare.Corpus) -> float:
    """Largest difference of the two models' logits at equal, random weights."""
    config = train.model_config(corpus.tokenizer.get_vocab_size())
    model, plain = train.build_model(config), PlainGPT(config)
    torch.manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p, std=0.1)
    plain.copy_from(model)
    tokens = torch.from_numpy(corpus.val[0][:2, :-1].astype(np.int64))
    with torch.no_grad():
        return (model(tokens) - plain(tokens)).abs().max().item()


def worker(name: str, turns: Connection) -> None:
    """A process for one loop: receives a number of steps, takes them, sends (wall, CPU) seconds."""
    if name == "trainer":
        prepare.setup_device()
        run = TrainerRun(prepare.load_corpus())
    else:  # as the script of a person: one thread, and nothing else set
        torch.set_num_threads(1)
        run = PlainRun(prepare.load_corpus(), muon=True)
    while steps := turns.recv():
        wall, cpu = time.perf_counter(), time.process_time()
        run.turn(steps)
        turns.send((time.perf_counter() - wall, time.process_time() - cpu))
    if name == "trainer":
        turns.send(run.budget.flops / run.budget.steps)


def speed(rounds: int, steps: int) -> dict[str, float]:
    """Both loops, each in a process of its own, taking turns: medians over rounds."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in ("trainer", "plain"):
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=worker, args=(name, theirs), daemon=True))
        processes[-1].start()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in pipes}
    for round_ in range(rounds + 1):  # the first warms up
        for name, pipe in pipes.items():
            pipe.send(steps)
            seconds = pipe.recv()
            if round_:
                times[name].append(seconds)
    for pipe in pipes.values():
        pipe.send(0)
    flops_per_step = pipes["trainer"].recv()
    for process in processes:
        process.join()
    tokens = steps * train.BATCH * train.SEQ_LEN
    wall = {name: median(w for w, _ in seconds) for name, seconds in times.items()}
    pairs = list(zip(times["plain"], times["trainer"], strict=True))
    return {
        "trainer": tokens / wall["trainer"],
        "plain": tokens / wall["plain"],
        "wall_ratio": median(p[0] / t[0] for p, t in pairs),
        "cpu_ratio": median(p[1] / t[1] for p, t in pairs),
        "gflops": flops_per_step * steps / wall["trainer"] / 1e9,
        "peak_gflops": prepare.peak_flops(DEVICE) / 1e9,
    }


@contextlib.contextmanager
def constants(**values: float) -> Iterator[None]:
    """Other values for constants of train.py, for a while."""
    old = {name: getattr(train, name) for name in values}
    try:
        for name, value in values.items():
            setattr(train, name, value)
        yield
    finally:
        for name, value in old.items():
            setattr(train, name, value)


def plain_bpb(corpus: prepare.Corpus, *, lr_mult: float, flops: float) -> float:
    """val_bpb of the plain loop with AdamW after `flops`, counted as the budget counts them."""
    run = PlainRun(corpus, muon=False, lr_mult=lr_mult)
    with prepare.FlopMeter() as meter:
        run.step(0.0)
    steps = round(flops / meter.flops)
    for i in range(1, steps):
        run.step(i / steps)
    rows = prepare.evaluation_rows(corpus.val, prepare.SETTINGS.eval_rows)
    return prepare.evaluate_bpb(run.model, rows, corpus.tokenizer, DEVICE)


def trainer_bpb(flops: float) -> float:
    """val_bpb of train.py after `flops`, in this process."""
    os.environ["ARF_BUDGET_MODE"], os.environ["ARF_BUDGET"] = "compute", str(flops)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        train.main()
    return float(next(line.split()[1] for line in out.getvalue().splitlines() if line.startswith("val_bpb:")))


async def one_experiment(backend: LocalBackend, tree: Path, name: str) -> dict[str, float | str]:
    """One experiment at the default budget, as arf runs it: seconds since it was submitted, and val_bpb."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("ARF_BUDGET")}
    log = tree.parent / f"{name}.log"
    command = (sys.executable, "train.py")
    job = Job(key=name, directory=tree, command=command, env=env, log=log, tier="cpu", time_limit_s=600.0)
    start = time.perf_counter()
    end = asyncio.ensure_future(backend.wait(await backend.submit(job)))
    first = math.nan
    while not end.done():
        if math.isnan(first) and log.exists() and "step 00000" in log.read_text():
            first = time.perf_counter() - start
        await asyncio.sleep(0.002)
    wall = time.perf_counter() - start
    text = log.read_text()
    if end.result().state is not JobState.SUCCEEDED:
        sys.exit(f"the experiment failed: {text[-500:]}")
    block = dict(line.split(":", 1) for line in text.rpartition("---\n")[2].splitlines())
    training = float(block["training_seconds"])
    return {
        "first": first,
        "wall": wall,
        "eval": float(block["eval_seconds"]),
        "outside": 1 - training / wall,
        "val_bpb": block["val_bpb"].strip(),
    }


async def cold_and_warm(rounds: int) -> dict[str, list[dict[str, float | str]]]:
    """Experiments from fresh processes and from a warm one, taking turns."""
    runs: dict[str, list[dict[str, float | str]]] = {"off": [], "auto": []}
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(TRAINER, tree, ignore=shutil.ignore_patterns("__pycache__"))
        backends = {
            warm: LocalBackend(LocalOptions(slots=1, threads=1, gpus=(), warm=warm), Path(folder) / warm)
            for warm in ("off", "auto")
        }
        for round_ in range(rounds + 1):  # the first one makes the warm process
            for warm, backend in backends.items():
                run = await one_experiment(backend, tree, f"{warm}-{round_}")
                if round_:
                    runs[warm].append(run)
        for backend in backends.values():
            await backend.aclose()
    return runs


def report_start(rounds: int) -> None:
    """Print what an experiment costs beside its training, from a cold and from a warm process."""
    runs = asyncio.run(cold_and_warm(rounds))
    print(f"one experiment at the default budget, medians (and best) of {rounds}, taking turns:")
    print(f"{'':28}{'cold':>16}{'warm':>16}   ratio")
    for key, name, unit in (
        ("first", "start to end of first step", 1.0),
        ("wall", "start to end, s", 1.0),
        ("eval", "evaluation, s", 1.0),
        ("outside", "outside training, %", 100.0),
    ):
        cold, warm = ([unit * float(run[key]) for run in runs[kind]] for kind in ("off", "auto"))
        shown = [f"{median(values):.2f} ({min(values):.2f})" for values in (cold, warm)]
        print(f"{name:28}{shown[0]:>16}{shown[1]:>16}{median(cold) / median(warm):8.2f}")
    print("goals: 0.3 s to the first step and 20 % outside training, both warm")
    values = {run["val_bpb"] for kind in runs.values() for run in kind}
    print(f"val_bpb of all {2 * rounds} runs, cold and warm: {', '.join(map(str, sorted(values)))}")
    if len(values) != 1:
        sys.exit("val_bpb differs between runs of one seed")


COMPILE = """
import time, prepare, torch, train
prepare.setup_device()
model = train.build_model(train.model_config(1024))
model.init_weights()
x = torch.randint(1024, (train.BATCH, train.SEQ_LEN))
start = time.perf_counter()
torch.compile(model, dynamic=False)(x).float().logsumexp(-1).sum().backward()
print(time.perf_counter() - start)
"""


def report_compile() -> None:
    """Print the seconds of a compiled model's first step: an empty cache, then the shared one."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache"}

        def first_step(name: str, *edit: str) -> float:
            tree = Path(folder) / name  # each experiment has a folder of its own
            shutil.copytree(TRAINER, tree, ignore=shutil.ignore_patterns("__pycache__"))
            if edit:
                script = tree / "train.py"
                script.write_text(script.read_text().replace(*edit))
            command = [sys.executable, "-c", COMPILE]
            run = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=True)
            return float(run.stdout)

        cold = first_step("a")
        same = first_step("b")
        deeper = first_step("c", "\nDEPTH = 4 ", "\nDEPTH = 5 ")
    print(
        f"torch.compile on this CPU, to the end of the first step: empty cache {cold:.1f} s; the shared one, "
        f"in another process and folder, {same:.1f} s ({cold / same:.1f}x); a layer more {deeper:.1f} s "
        f"({cold / deeper:.1f}x)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="turns of each loop in the comparison of speed")
    parser.add_argument("--steps", type=int, default=40, help="steps in a turn")
    parser.add_argument("--experiments", type=int, default=5, help="whole experiments, cold and warm each")
    parser.add_argument(
        "--skip-bpb", action="store_true", help="leave out the comparison of val_bpb (80 seconds)"
    )
    parser.add_argument("--compile", action="store_true", help="only what the compile cache saves (a minute)")
    args = parser.parse_args()
    if args.compile:
        report_compile()
        return
    prepare.setup_device()
    corpus = prepare.load_corpus()

    difference = check_same_model(corpus)
    if not difference < 1e-3:
        sys.exit(f"the plain model is not the same: logits differ by {difference:.2e}")
    print(f"same model: logits differ by {difference:.1e}")

    s = speed(args.rounds, args.steps)
    print(
        f"tokens/s: trainer {s['trainer']:,.0f}, plain loop {s['plain']:,.0f} (wall, median of {args.rounds})"
    )
    print(
        f"ratio to the plain loop: {s['wall_ratio']:.2f}x wall, {s['cpu_ratio']:.2f}x CPU time (goal 1.25x)"
    )
    print(
        f"MFU: {100 * s['gflops'] / s['peak_gflops']:.1f} % "
        f"({s['gflops']:.1f} of {s['peak_gflops']:.1f} GFLOP/s)"
    )

    report_start(args.experiments)

    if args.skip_bpb:
        return
    flops = prepare.PROFILES["laptop"].budget
    grid = [(m, decay) for decay in (0.95, 0.8) for m in (1.0, 2.0, 4.0)]
    muon = {}
    for m, decay in grid:
        with constants(LR_MULT=m, MUON_MOMENTUM=decay):
            muon[m, decay] = trainer_bpb(flops)
    adamw = {}
    for m, decay in grid:
        with constants(ADAM_BETA1=decay):
            adamw[m, decay] = plain_bpb(corpus, lr_mult=m, flops=flops)
    print(f"val_bpb at {flops:.3g} FLOPs, the same search for each: learning rate x1, x2, x4 and two momenta")
    for name, bpb in (("trainer (Muon)", muon), ("plain loop, AdamW", adamw)):
        print(f"  {name}: " + ", ".join(f"{v:.4f} (x{m:g}, {decay:g})" for (m, decay), v in bpb.items()))
    ours, theirs = min(muon.values()), min(adamw.values())
    print(f"  best {ours:.4f} and {theirs:.4f}: AdamW is {100 * (theirs / ours - 1):+.1f} % in val_bpb")
    assert math.isfinite(ours)


if __name__ == "__main__":
    main()
