"""The model, the optimizers, the constants, and the GPU profile as far as a CPU can run it."""

import ast
import lzma
import re

import pytest


@pytest.fixture(scope="session")
def torch(prepare):
    return prepare.torch


def model_with(train, monkeypatch, **constants):
    for name, value in constants.items():
        monkeypatch.setattr(train, name, value)
    model = train.build_model(train.model_config(vocab_size=64))
    model.init_weights()
    return model


@pytest.mark.parametrize(
    "constants",
    [
        {},
        {"DEPTH": 1},
        {"WIDTH": 96, "HEAD_DIM": 16, "MLP_RATIO": 3},
        {"ACTIVATION": "gelu"},
        {"ACTIVATION": "silu"},
        {"WINDOW_PATTERN": "SSSL"},
        {"WINDOW_PATTERN": "SL", "DEPTH": 3},
        {"VALUE_EMBEDS": "alternate"},
        {"VALUE_EMBEDS": "all", "SOFTCAP": 15.0},
    ],
    ids=str,
)
def test_every_choice_trains_and_is_causal(prepare, train, torch, monkeypatch, constants):
    model = model_with(train, monkeypatch, **constants)
    x = torch.randint(64, (4, 128))
    optimizers = train.make_optimizers(model)
    losses = []
    for _ in range(4):
        logits = model(x)
        assert logits.shape == (4, 128, 64)
        loss = torch.nn.functional.cross_entropy(logits.view(-1, 64), x.view(-1))
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizers[0].step(1.0, 0.1)
        optimizers[1].step(1.0)
        model.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    rows = torch.randint(64, (4, 129)).numpy()
    with torch.no_grad():
        prepare.assert_causal(model, rows, 64, torch.device("cpu"))


def test_a_short_window_hides_what_is_far(train, torch, monkeypatch):
    model = model_with(train, monkeypatch, WINDOW_PATTERN="S", DEPTH=1)
    model.config["windows"] = [64]
    model.attention[0].window = 64
    model.register_buffer("mask_64", train.build_model({**model.config, "windows": [64]}).mask_64)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x = torch.randint(64, (1, 128))
    far = x.clone()
    far[0, :64] = (far[0, :64] + 1) % 64
    with torch.no_grad():
        a, b = model(x), model(far)
    assert torch.allclose(a[0, 127], b[0, 127], atol=1e-5)  # sees 64..127
    assert not torch.allclose(a[0, 126], b[0, 126], atol=1e-3)  # sees 63..126


def test_own_gradients_are_right(train, torch):
    x = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(train.RMSNorm.apply, x)
    assert torch.autograd.gradcheck(train.SquaredReLU.apply, x)
    assert torch.allclose(train.norm(x), torch.nn.functional.rms_norm(x, (6,)), atol=1e-6)


def test_both_forms_of_the_rotation_agree_and_keep_relative_positions(train, torch):
    model = train.build_model(train.model_config(64))
    x = torch.randn(2, 128, 3, 32)
    turned = train.rotate(x, model.rotation)

    class NotCPU(torch.Tensor):
        """Takes the branch of other devices."""

        @property
        def device(self):
            return torch.device("meta")

    other = train.rotate(x.as_subclass(NotCPU), model.rotation).as_subclass(torch.Tensor)
    assert torch.allclose(turned, other, atol=1e-5)
    same = train.rotate(x[:, :1].expand(-1, 128, -1, -1), model.rotation)  # one vector at all positions
    dot = torch.einsum("bthd,bshd->bhts", same, same)
    assert torch.allclose(dot[0, 0, 5, 3], dot[0, 0, 105, 103], atol=1e-3)


@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 16, 24), (2, 16, 64)])
def test_orthogonalised_matrices_have_singular_values_near_one(train, torch, shape):
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x = train.orthogonalise(g, 5)
    s = torch.linalg.svdvals(x)
    assert s.min() > 0.7
    assert s.max() < 1.3
    exact = torch.linalg.svd(g, full_matrices=False)
    assert (x - exact.U @ exact.Vh).norm() < 0.35 * x.norm()


def test_wide_and_square_paths_do_the_same(train, torch):
    """The path for wide matrices in float32 against the plain iteration in float64."""
    g = torch.randn(4, 16, 64, generator=torch.Generator().manual_seed(0))
    x = g.double() / (g.double().norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in train.POLAR_EXPRESS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    assert torch.allclose(train.orthogonalise(g, 5).double(), x, atol=1e-4)


def test_muon_updates_stacked_parameters_as_if_they_were_single(train, torch, monkeypatch):
    monkeypatch.setattr(train, "MUON_MOMENTUM", 0.0)
    qkv, tall = torch.nn.Parameter(torch.randn(48, 16)), torch.nn.Parameter(torch.randn(64, 16))
    qkv.grad, tall.grad = torch.randn(48, 16), torch.randn(64, 16)
    before = qkv.detach().clone(), tall.detach().clone()
    grads = qkv.grad.clone(), tall.grad.clone()
    train.Muon([qkv, tall], 0.1, {qkv: 3, tall: 1}).step(1.0, 0.0)
    for i in range(3):
        part = slice(16 * i, 16 * (i + 1))
        expected = before[0][part] - 0.1 * train.orthogonalise(grads[0][part][None], 5)[0]
        assert torch.allclose(qkv[part], expected, atol=1e-5)
    expected = (
        before[1] - 0.1 * 2 * train.orthogonalise(grads[1].mT[None].contiguous(), 5)[0].mT
    )  # sqrt(64/16)
    assert torch.allclose(tall, expected, atol=1e-4)


def test_adamw_is_torchs(train, torch):
    mine, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    adam = train.AdamW([([mine], 0.1)])
    reference = torch.optim.AdamW(
        [theirs], lr=0.1, betas=(train.ADAM_BETA1, train.ADAM_BETA2), eps=1e-10, weight_decay=0
    )
    for step in range(5):
        mine.grad = theirs.grad = torch.linspace(-1, 1, 5) + 0.1 * step
        adam.step(1.0)
        reference.step()
    assert torch.allclose(mine, theirs, atol=1e-6)


def test_schedule_is_a_trapezoid(train, monkeypatch):
    monkeypatch.setattr(train, "WARMUP_RATIO", 0.1)
    monkeypatch.setattr(train, "WARMDOWN_RATIO", 0.5)
    assert [round(train.lr_scale(p), 3) for p in (0, 0.05, 0.1, 0.5, 0.75, 1)] == [0.01, 0.5, 1, 1, 0.5, 0]
    monkeypatch.setattr(train, "WARMUP_RATIO", 0.0)
    monkeypatch.setattr(train, "WARMDOWN_RATIO", 0.0)
    assert train.lr_scale(0) == train.lr_scale(1) == 1


# ------------------------------------------------------------------------------ the file


def test_the_script_is_readable_and_knows_nothing_of_arf(prepare):
    source = (prepare.HERE / "train.py").read_text()
    assert len(source.splitlines()) <= 600
    imported = {
        alias.name.partition(".")[0] if isinstance(node, ast.Import) else node.module.partition(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported <= {"gc", "importlib", "os", "torch", "prepare", "flash_attn", "flash_attn_interface"}


def test_arf_reads_the_constants_and_their_ranges(prepare):
    constants = pytest.importorskip("arf.workspace.constants")
    source = (prepare.HERE / "train.py").read_text()
    found = {c.name: c for c in constants.read(source, "train.py") if c.movable}
    annotated = {m[1] for m in re.finditer(r"(?m)^([A-Z][A-Z0-9_]*) = .*# .*\[.+\]$", source)}
    assert {"DEPTH", "WIDTH", "BATCH", "LR_MULT", "ACTIVATION"} <= annotated <= set(found)
    for name in annotated:
        constant = found[name]
        assert constant.choices or constant.low is not None, name
        constants.check(found.values(), {name: constant.value})
    assert found["WIDTH"].multiple_of == "HEAD_DIM"
    assert found["LR_MULT"].log
    assert found["ACTIVATION"].choices == ("relu2", "gelu", "silu")


# ------------------------------------------------------------------------------ the gpu profile


def test_profiles_rewrite_the_constants_and_back(workspace, prepare):
    before = {name: (workspace.path / name).read_text() for name in ("train.py", "prepare.py", "arf.yaml")}
    assert workspace.run("--profile", "gpu", script="prepare.py").returncode == 0
    source = (workspace.path / "train.py").read_text()
    for name, value in prepare.CONSTANTS["gpu"].items():
        literal = re.search(rf"(?m)^{name} = (.*?)\s+#", source)[1]
        assert ast.literal_eval(literal) == value
    assert re.search(r'(?m)^PROFILE = "gpu"  # ', (workspace.path / "prepare.py").read_text())
    assert re.search(r"(?m)^  time_limit_s: 15m ", (workspace.path / "arf.yaml").read_text())
    run = workspace.run()
    assert run.returncode == 1
    assert "python prepare.py --data climbmix" in run.stderr
    assert workspace.run("--profile", "laptop", script="prepare.py").returncode == 0
    assert {name: (workspace.path / name).read_text() for name in before} == before


def test_the_gpu_models_shapes_and_cost(prepare, train, torch, monkeypatch):
    """Forward and backward at the sizes of a GPU, on the meta device: shapes and FLOPs, no numbers."""
    monkeypatch.setattr(prepare, "MAX_SEQ_LEN", prepare.PROFILES["gpu"].seq_len)
    for name, value in prepare.CONSTANTS["gpu"].items():
        monkeypatch.setattr(train, name, value)
    with torch.device("meta"):
        model = train.build_model(train.model_config(prepare.PROFILES["gpu"].vocab_size))
        tokens = torch.zeros(train.BATCH, 2048, dtype=torch.int64)
    with prepare.FlopMeter() as meter:
        logits = model(tokens)
        logits.sum().backward()
    assert logits.shape == (128, 2048, 8192)
    matrices = (
        sum(p.numel() for p in [*model.attention.parameters(), *model.mlp.parameters()])
        + model.head.weight.numel()
    )
    dense = 6 * matrices * tokens.numel()
    assert dense < meter.flops < 2 * dense  # the rest is attention
    assert 30e6 < sum(p.numel() for p in model.parameters()) < 80e6


def test_cost_of_a_step_estimated_without_running_it(prepare, train, torch, monkeypatch):
    """On the meta device, which takes the branches of a GPU: the same FLOPs as when it runs here."""
    model = model_with(train, monkeypatch, VALUE_EMBEDS="alternate", WINDOW_PATTERN="SL")
    with prepare.FlopMeter() as meter:
        model(torch.zeros(4, 128, dtype=torch.int64)).sum().backward()
    assert prepare.estimate_flops(model, (4, 128)) == pytest.approx(meter.flops, rel=0.06)


def test_the_compiler_takes_the_model_as_one_graph(train, torch, monkeypatch):
    """The front end of torch.compile, which a GPU run goes through; not the back end that writes kernels."""
    model = model_with(train, monkeypatch, VALUE_EMBEDS="alternate", WINDOW_PATTERN="SL", SOFTCAP=15.0)
    x = torch.randint(64, (2, 128))
    compiled = torch.compile(model, dynamic=False, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(x), model(x), atol=1e-5)


def test_bfloat16_autocast_gives_the_same_function(train, torch, monkeypatch):
    """What CUDA runs under, as far as a CPU has it."""
    model = model_with(train, monkeypatch, VALUE_EMBEDS="alternate", SOFTCAP=15.0)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x = torch.randint(64, (2, 128))
    with torch.no_grad():
        plain = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            low = model(x)
    assert (plain - low).abs().max() < 0.1 * plain.abs().max()


CAPABLE = 'return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)'
STAND_IN = """
    def flash_attn_func(q, k, v, causal, window_size):  # the interface and meaning of the kernel's
        assert causal and window_size[1] == 0 and q.dtype == torch.bfloat16
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        distance = torch.arange(q.size(2))[:, None] - torch.arange(q.size(2))
        mask = (distance >= 0) & (distance <= window_size[0])
        return (F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2), None)
    return flash_attn_func
"""


@pytest.fixture
def gpu_workspace(workspace, server, write_parquet, tmp_path, monkeypatch):
    """A workspace set up as a GPU's is, from a host of shards, but in sizes that a CPU can train."""
    text = (workspace.path / "data/val.txt.xz").read_bytes()
    play = lzma.decompress(text).decode()
    monkeypatch.setattr(workspace, "data_dir", tmp_path / "data")
    sizes = '"gpu": Profile("climbmix", 8192, 2048, 10240, "wall", 300.0),'
    workspace.edit((sizes, '"gpu": Profile("climbmix", 400, 256, 40, "wall", 2.0),'), file="prepare.py")
    constants = '"DEPTH": 8, "WIDTH": 512, "HEAD_DIM": 128,', '"BATCH": 128,'
    workspace.edit(
        (constants[0], '"DEPTH": 4, "WIDTH": 64, "HEAD_DIM": 16,'),
        (constants[1], '"BATCH": 2,'),
        file="prepare.py",
    )
    workspace.edit((CAPABLE, "return True"), file="prepare.py")
    assert workspace.run("--profile", "gpu", script="prepare.py").returncode == 0
    files = {}
    for index in (0, 6541, 6542):
        path = tmp_path / "shard.parquet"
        write_parquet(path, [play[i : i + 5000] for i in range(index % 7 * 5000, 400_000, 15_000)])
        files[f"shard_{index:05d}.parquet"] = path.read_bytes()
    shards = server(files)
    for _ in range(2):  # the corpus of the profile needs no name, and is prepared once
        run = workspace.run("--num-shards", "1", "--base-url", shards.url, script="prepare.py")
        assert run.returncode == 0, run.stderr
    assert len(shards.asked) == 3
    return workspace


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_the_gpu_profile_trains_compiled_in_bfloat16_and_is_verified(gpu_workspace, tmp_path, backend):
    """All of a GPU's run but the device: download, profile, windows, value embeddings, autocast, accumulated
    gradients, compiler, wall budget, checkpoint, verification."""
    compiled = "torch.compile(model, dynamic=False) if may_compile(budget)"
    gpu_workspace.edit((compiled, f'torch.compile(model, dynamic=False, backend="{backend}") if True'))
    checkpoint = tmp_path / "model.pt"
    block = gpu_workspace.block(ARF_CHECKPOINT=str(checkpoint))
    assert (block["corpus"], block["budget_mode"], block["depth"]) == ("climbmix", "wall", "4")
    assert int(block["num_steps"]) > 10
    assert float(block["val_bpb"]) < 5.5
    assert float(block["mfu_percent"]) > 0
    run = gpu_workspace.run("--verify", str(checkpoint), script="prepare.py")
    assert run.returncode == 0, run.stderr
    assert "test_bpb" in run.stdout


def test_the_call_of_flash_attention_means_what_torchs_attention_does(gpu_workspace):
    steps = {"ARF_BUDGET_MODE": "steps", "ARF_BUDGET": "12"}
    plain = gpu_workspace.block(**steps)
    gpu_workspace.edit(
        ("self.flash is not None and x.is_cuda", "self.flash is not None"),
        ("    if not torch.cuda.is_available() or not prepare.has_bfloat16(torch.device(\"cuda\")):\n"
         "        return None\n", STAND_IN),
    )  # fmt: skip
    flash = gpu_workspace.block(**steps)
    assert float(flash["val_bpb"]) == pytest.approx(float(plain["val_bpb"]), abs=0.01)
