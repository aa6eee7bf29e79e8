"""A small GPT, trained from scratch under a fixed budget. This is the file that experiments edit.

    python prepare.py && python train.py

Everything may change but what `prepare` holds: data, budget, metric. `build_model(config)` must go on
rebuilding the model from plain values, so that a saved checkpoint can be verified in another process.
"""

import gc
import os
from importlib.util import find_spec

os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

import prepare
import torch
import torch.nn.functional as F
from torch import nn

# ---------------------------------------------------------------------------------------------------------
# Constants. In brackets: what a value may be. Sizes are those of the profile that prepare.py names.
# ---------------------------------------------------------------------------------------------------------

# Model
DEPTH = 4  # transformer layers [1..16]
WIDTH = 64  # model width, channels [32..2048, multiple of HEAD_DIM]
HEAD_DIM = 32  # channels of one attention head [16 | 32 | 64 | 128]
MLP_RATIO = 4  # hidden channels of the MLP per channel of width [1..8]
ACTIVATION = "relu2"  # nonlinearity of the MLP ["relu2" | "gelu" | "silu"]
WINDOW_PATTERN = "L"  # attention span by layer, repeated; the last is long ["L" | "SL" | "SSL" | "SSSL"]
VALUE_EMBEDS = "none"  # layers whose values get a gated token embedding ["none" | "alternate" | "all"]
SOFTCAP = 0.0  # logits are limited to +-SOFTCAP by a tanh; 0 is off [0..50]
ROPE_BASE = 10000.0  # base of the rotary frequencies [100..1000000, log]

# Data
SEQ_LEN = prepare.MAX_SEQ_LEN  # context in training, tokens; a divisor of prepare.MAX_SEQ_LEN
BATCH = 6  # sequences in one forward pass [1..512, log]
GRAD_ACCUM = 1  # forward passes per optimizer step [1..16]

# Optimization. Learning rates are peaks; all are multiplied by LR_MULT.
LR_MULT = 1.0  # multiplier of every learning rate [0.05..20, log]
MATRIX_LR = 0.02  # Muon learning rate of the matrices in the layers [0.001..0.5, log]
EMBED_LR = 0.2  # Adam learning rate of token and value embeddings [0.005..5, log]
HEAD_LR = 0.004  # Adam learning rate of the output head [0.0001..0.1, log]
WEIGHT_DECAY = 0.0  # decoupled weight decay of the matrices, per unit of learning rate [0..1]
MUON_MOMENTUM = 0.95  # momentum of Muon (Nesterov) [0.5..0.99]
NS_STEPS = 5  # Newton-Schulz iterations that orthogonalise an update [1..5]
ADAM_BETA1 = 0.8  # Adam, decay of the mean [0.5..0.95]
ADAM_BETA2 = 0.95  # Adam, decay of the square [0.8..0.999]
WARMUP_RATIO = 0.1  # share of the budget in which the learning rate rises from 0 [0..0.5]
WARMDOWN_RATIO = 0.2  # share of the budget in which it falls to FINAL_LR_FRAC [0..1]
FINAL_LR_FRAC = 0.0  # learning rate at the end, as a share of the peak [0..1]

# ---------------------------------------------------------------------------------------------------------
# Model
# ---------------------------------------------------------------------------------------------------------


class RMSNorm(torch.autograd.Function):
    """x / rms(x) over the last dimension. Torch's own takes a dozen passes backward where four will do."""

    @staticmethod
    def forward(ctx, x):
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(1e-6).reciprocal_()
        inverse.mul_(x.size(-1) ** 0.5)
        y = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(ctx, grad):
        y, inverse = ctx.saved_tensors
        return torch.addcmul(grad, y, (grad * y).mean(-1, keepdim=True), value=-1).mul_(inverse)


class SquaredReLU(torch.autograd.Function):
    """max(x, 0)^2, which keeps one tensor for the way back instead of two."""

    @staticmethod
    def forward(ctx, x):
        y = F.relu(x)
        ctx.save_for_backward(y)
        return y * y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return (grad * y).mul_(2)


def norm(x):
    """RMSNorm over the last dimension, without weights."""
    return RMSNorm.apply(x) if x.device.type == "cpu" else F.rms_norm(x, (x.size(-1),))


def relu2(x):
    return SquaredReLU.apply(x) if x.device.type == "cpu" else F.relu(x).square()


ACTIVATIONS = {"relu2": relu2, "gelu": F.gelu, "silu": F.silu}


def flash_attention():
    """FlashAttention where it is installed and the GPU has it (3 on Hopper, 2 from Ampere on), else None."""
    if not torch.cuda.is_available() or not prepare.has_bfloat16(torch.device("cuda")):
        return None
    try:
        if torch.cuda.get_device_capability()[0] == 9:
            from flash_attn_interface import flash_attn_func
        else:
            from flash_attn import flash_attn_func
    except ImportError:
        return None
    return flash_attn_func


def rotate(x, rotation):
    """Rotary position embedding of x (B, T, heads, D): channels 2i and 2i+1 turn by position * base^(-2i/D).

    `rotation` is (T, 1, D/2, 2), cosine and sine. On a CPU the pairs are multiplied as complex numbers, in
    one pass where real arithmetic takes five; on a GPU the compiler fuses the real form.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if x.device.type == "cpu":
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotation)).flatten(-2)
    (a, b), (cos, sin) = pairs.unbind(-1), rotation.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


class Attention(nn.Module):
    """Causal self-attention with rotary positions, QK-norm and, in some layers, a value embedding."""

    def __init__(self, config, layer):
        super().__init__()
        width = config["width"]
        self.head_dim, self.heads = config["head_dim"], width // config["head_dim"]
        self.window = config["windows"][layer]  # tokens that a position sees, itself included
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.gate = (
            nn.Linear(min(32, width), self.heads, bias=False) if config["value_embeds"][layer] else None
        )
        self.flash = flash_attention()

    def forward(self, x, value_embed, rotation, masks):
        B, T, C = x.shape
        qk, v = self.qkv(x).view(B, T, -1, self.head_dim).split([2 * self.heads, self.heads], dim=2)
        # Queries and keys in one pass; under autocast in bfloat16 again.
        qk = rotate(norm(qk), rotation).type_as(v)
        q, k = qk.split(self.heads, dim=2)
        if self.gate is not None:
            gate = 2 * torch.sigmoid(self.gate(x[..., : self.gate.in_features]))
            v = v + (gate.unsqueeze(-1) * value_embed.view(B, T, self.heads, self.head_dim)).type_as(v)
        if self.flash is not None and x.is_cuda:
            out = self.flash(q, k, v, causal=True, window_size=(self.window - 1, 0))
            out = out[0] if isinstance(out, tuple) else out  # older versions of 3 add the log-sum-exp
        else:
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
            if self.window >= T:
                out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            else:
                out = F.scaled_dot_product_attention(q, k, v, attn_mask=masks[self.window][:T, :T])
            out = out.transpose(1, 2)
        return self.proj(out.reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        hidden = int(config["mlp_ratio"] * config["width"])
        self.up = nn.Linear(config["width"], hidden, bias=False)
        self.down = nn.Linear(hidden, config["width"], bias=False)
        self.activation = ACTIVATIONS[config["activation"]]

    def forward(self, x):
        return self.down(self.activation(self.up(x)))


class GPT(nn.Module):
    """Decoder-only transformer: tokens (B, T) int64 to logits (B, T, vocab)."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        depth, width, vocab = config["depth"], config["width"], config["vocab_size"]
        self.embed = nn.Embedding(vocab, width)
        self.attention = nn.ModuleList(Attention(config, layer) for layer in range(depth))
        self.mlp = nn.ModuleList(MLP(config) for _ in range(depth))
        self.value_embeds = nn.ModuleDict(
            {
                str(layer): nn.Embedding(vocab, width)
                for layer in range(depth)
                if config["value_embeds"][layer]
            }
        )
        self.head = nn.Linear(width, vocab, bias=False)
        positions = torch.arange(config["seq_len"], dtype=torch.float32)
        frequencies = config["rope_base"] ** (-torch.arange(0, config["head_dim"], 2) / config["head_dim"])
        angles = torch.outer(positions, frequencies)
        rotation = torch.stack([angles.cos(), angles.sin()], -1)[:, None]
        self.register_buffer("rotation", rotation, persistent=False)
        distance = positions[:, None] - positions[None, :]  # query minus key
        for window in set(config["windows"]) - {config["seq_len"]}:
            self.register_buffer(f"mask_{window}", (distance >= 0) & (distance < window), persistent=False)

    @torch.no_grad()
    def init_weights(self):
        """Residual branches start at zero, so that the model starts as its embedding and head."""
        bound = (3 / self.config["width"]) ** 0.5  # uniform with standard deviation width^-0.5
        nn.init.normal_(self.embed.weight, std=1.0)
        nn.init.normal_(self.head.weight, std=0.001)
        for attention, mlp in zip(self.attention, self.mlp, strict=True):
            nn.init.uniform_(attention.qkv.weight, -bound, bound)
            nn.init.zeros_(attention.proj.weight)
            nn.init.uniform_(mlp.up.weight, -bound, bound)
            nn.init.zeros_(mlp.down.weight)
            if attention.gate is not None:
                nn.init.zeros_(attention.gate.weight)
        for embed in self.value_embeds.values():
            nn.init.uniform_(embed.weight, -bound, bound)

    def forward(self, tokens):
        rotation = self.rotation[: tokens.size(1)]
        masks = {w: getattr(self, f"mask_{w}", None) for w in set(self.config["windows"])}
        x = norm(self.embed(tokens))
        for layer, (attention, mlp) in enumerate(zip(self.attention, self.mlp, strict=True)):
            value_embed = self.value_embeds[str(layer)](tokens) if attention.gate is not None else None
            x = x + attention(norm(x), value_embed, rotation, masks)
            x = x + mlp(norm(x))
        logits = self.head(norm(x))
        softcap = self.config["softcap"]
        return softcap * torch.tanh(logits.float() / softcap) if softcap else logits


def model_config(vocab_size):
    """The model's configuration from the constants, as plain values."""
    if WIDTH % HEAD_DIM:
        raise SystemExit(f"WIDTH {WIDTH} is not a multiple of HEAD_DIM {HEAD_DIM}")
    spans = {"L": prepare.MAX_SEQ_LEN, "S": prepare.MAX_SEQ_LEN // 2}
    windows = [spans[WINDOW_PATTERN[layer % len(WINDOW_PATTERN)]] for layer in range(DEPTH - 1)] + [
        spans["L"]
    ]
    value_embeds = [
        VALUE_EMBEDS == "all" or (VALUE_EMBEDS == "alternate" and layer % 2 == (DEPTH - 1) % 2)
        for layer in range(DEPTH)
    ]
    return {
        "vocab_size": vocab_size, "seq_len": prepare.MAX_SEQ_LEN, "depth": DEPTH, "width": WIDTH,
        "head_dim": HEAD_DIM, "mlp_ratio": MLP_RATIO, "activation": ACTIVATION, "windows": windows,
        "value_embeds": value_embeds, "softcap": SOFTCAP, "rope_base": ROPE_BASE,
    }  # fmt: skip


def build_model(config):
    """The model of `config`, its weights not yet set. Verification calls this with a checkpoint's config."""
    return GPT(config)


# ---------------------------------------------------------------------------------------------------------
# Optimizer
# ---------------------------------------------------------------------------------------------------------

# Polar Express (arXiv:2505.16932): coefficients of the polynomials that orthogonalise fastest, step by step.
POLAR_EXPRESS = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]


def orthogonalise(g, steps):
    """The nearest matrices with orthonormal rows to g (N, m, n), m <= n: all singular values become about 1.

    A step is x <- p(x x^T) x with p(A) = a + b A + c A^2; baddbmm does sum and product in one pass.
    """
    x = g.bfloat16() if prepare.has_bfloat16(g.device) else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    if not g.is_cuda and x.size(2) >= 2 * x.size(1):
        # Wide: all steps work on the small A = x x^T and the product of the p(A), which commute. 40 % less
        # work at m:n = 1:4, to 1e-4 the same result, but only in float32: it squares the condition number.
        gram, product = x @ x.mT, None
        for a, b, c in POLAR_EXPRESS[:steps]:
            poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            poly.diagonal(dim1=-2, dim2=-1).add_(a)
            product = poly if product is None else poly @ product
            gram = poly @ (gram @ poly)
        return product @ x
    for a, b, c in POLAR_EXPRESS[:steps]:
        gram = x @ x.mT
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a)
    return x.to(g.dtype)


class Muon:
    """Muon (Jordan et al. 2024): momentum, then orthogonalised updates, for matrices of one shape at a time.

    Matrices are stacked into one (N, m, n) tensor, tall ones transposed, so that a step is a few batched
    products however many layers there are. `blocks[p]` says how many matrices a parameter holds on top of
    each other: queries, keys and values are three.
    """

    def __init__(self, params, lr, blocks):
        self.params, self.lr, self.blocks = params, lr, blocks
        self.groups = {}
        for p in params:
            shape = self._wide(p).shape[1:]
            self.groups.setdefault(shape, []).append(p)
        self.momentum = {
            shape: torch.zeros(sum(blocks[p] for p in group), *shape, device=group[0].device)
            for shape, group in self.groups.items()
        }

    def _wide(self, p, like=None):
        """(blocks, m, n) view, m <= n, of the parameter p or of another tensor of its shape."""
        x = (p if like is None else like).unflatten(0, (self.blocks[p], -1))
        return x.mT if x.size(1) > x.size(2) else x

    @torch.no_grad()
    def step(self, scale, weight_decay):
        lr = self.lr * scale
        for shape, group in self.groups.items():
            grad = torch.cat([self._wide(p, p.grad) for p in group])
            momentum = self.momentum[shape].lerp_(grad, 1 - MUON_MOMENTUM)
            update = orthogonalise(grad.lerp_(momentum, MUON_MOMENTUM), NS_STEPS)
            for p, u in zip(group, update.split([self.blocks[p] for p in group]), strict=True):
                aspect = p.size(0) / self.blocks[p] / p.size(1)  # out / in
                self._wide(p).mul_(1 - lr * weight_decay).sub_(u, alpha=lr * max(1.0, aspect) ** 0.5)


class AdamW:
    """AdamW (Loshchilov & Hutter 2019) without weight decay, for embeddings, head and gates."""

    def __init__(self, groups):
        self.groups = [(p, lr) for params, lr in groups for p in params]
        self.mean = [torch.zeros_like(p) for p, _ in self.groups]
        self.square = [torch.zeros_like(p) for p, _ in self.groups]
        self.steps = 0

    @torch.no_grad()
    def step(self, scale):
        self.steps += 1
        bias1, bias2 = 1 - ADAM_BETA1**self.steps, 1 - ADAM_BETA2**self.steps
        for (p, lr), mean, square in zip(self.groups, self.mean, self.square, strict=True):
            mean.lerp_(p.grad, 1 - ADAM_BETA1)
            square.mul_(ADAM_BETA2).addcmul_(p.grad, p.grad, value=1 - ADAM_BETA2)
            p.addcdiv_(mean, (square / bias2).sqrt_().add_(1e-10), value=-lr * scale / bias1)


def make_optimizers(model):
    """Muon for the matrices in the layers, AdamW for the rest. Not torch.optim: its import takes a second."""
    matrices, gates = [], []
    for name, p in [*model.attention.named_parameters(), *model.mlp.named_parameters()]:
        (gates if "gate" in name else matrices).append(p)
    blocks = dict.fromkeys(matrices, 1) | {attention.qkv.weight: 3 for attention in model.attention}
    embeds = [model.embed.weight, *model.value_embeds.parameters()]
    muon = Muon(matrices, MATRIX_LR * LR_MULT, blocks)
    adam = AdamW([(embeds, EMBED_LR * LR_MULT), ([model.head.weight, *gates], HEAD_LR * LR_MULT)])
    return muon, adam


def lr_scale(progress):
    """Learning rate as a share of its peak: a trapezoid over the budget's progress, 0 to 1."""
    if progress < WARMUP_RATIO:
        return max(progress / WARMUP_RATIO, 0.01)
    if progress <= 1 - WARMDOWN_RATIO:
        return 1.0
    left = (1 - progress) / WARMDOWN_RATIO
    return left + (1 - left) * FINAL_LR_FRAC


# ---------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------


def train_step(model, forward, optimizers, loader, budget, progress):
    """One optimizer step: GRAD_ACCUM batches forward and backward, then the update.

    `forward` is the model or its compiled form; `progress` is the share of the budget that is spent.
    """
    for _ in range(GRAD_ACCUM):
        x, y = next(loader)
        with prepare.autocast(budget.device):
            logits = forward(x)
        loss = F.cross_entropy(logits.float().view(-1, logits.size(-1)), y.view(-1))
        (loss / GRAD_ACCUM).backward()
    scale = lr_scale(progress)
    muon, adam = optimizers
    muon.step(scale, WEIGHT_DECAY * (1 - progress))
    adam.step(scale)
    model.zero_grad(set_to_none=True)
    budget.log(loss, f"lr: {scale:.2f} | ")


def may_compile(budget):
    """Not under a compute budget, which counts single operations that compiled code no longer has; and not on
    a CPU, where it takes longer than training, nor on a GPU that Triton does not know."""
    if budget.device.type != "cuda" or budget.mode == "compute":
        return False
    return find_spec("triton") is not None and torch.cuda.get_device_capability() >= (7, 0)


def main():
    device = prepare.setup_device()
    corpus = prepare.load_corpus()
    config = model_config(corpus.tokenizer.get_vocab_size())
    model = build_model(config).to(device)
    model.init_weights()
    optimizers = make_optimizers(model)
    budget = prepare.Budget(device)
    loader = prepare.Loader(corpus, BATCH, SEQ_LEN, budget)
    forward = torch.compile(model, dynamic=False) if may_compile(budget) else model
    gc.freeze()  # long-lived objects: the collector need not visit them at each pass
    gc.disable()

    while budget.step():
        train_step(model, forward, optimizers, loader, budget, budget.progress)

    prepare.finish(model, config, corpus, budget)


if __name__ == "__main__":
    main()
