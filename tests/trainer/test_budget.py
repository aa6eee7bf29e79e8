"""The budget: what it counts, when it stops, and what an edited train.py cannot do about it."""

import contextlib
import subprocess
import sys
from itertools import pairwise

import pytest

FEW_STEPS = {"ARF_BUDGET_MODE": "compute", "ARF_BUDGET": "2e10"}  # about eleven steps of the default model


def test_compute_mode_repeats_to_the_last_digit_alone_and_under_load(workspace):
    alone = workspace.block(**FEW_STEPS)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        loaded = workspace.block(**FEW_STEPS)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    same = ["val_bpb", "num_steps", "total_tokens_M", "training_flops", "train_loss", "budget_spent"]
    assert {key: alone[key] for key in same} == {key: loaded[key] for key in same}
    other = workspace.block(**FEW_STEPS, ARF_SEED="7")
    assert other["seed"] == "7"
    assert other["val_bpb"] != alone["val_bpb"]
    assert other["num_steps"] == alone["num_steps"]


def test_a_bigger_model_is_charged_for_its_size(workspace):
    small = workspace.block(**FEW_STEPS)
    workspace.edit(("\nWIDTH = 64 ", "\nWIDTH = 128 "))
    big = workspace.block(**FEW_STEPS)
    assert int(big["num_steps"]) < int(small["num_steps"]) / 2
    for run in (small, big):  # nearest to the budget: off by half a step at most
        assert abs(float(run["budget_spent"]) - 2e10) <= 2e10 / int(run["num_steps"])


def test_a_step_that_is_larger_than_the_budget_is_no_way_round_it(workspace):
    workspace.edit(("\nWIDTH = 64 ", "\nWIDTH = 256 "))
    run = workspace.run(ARF_BUDGET="8e9")
    assert run.returncode == 1
    assert "times the budget is spent after 0 whole steps" in run.stderr  # it was not run to its end
    assert "val_bpb" not in run.stdout


def test_more_passes_in_a_step_cost_more(workspace):
    one = workspace.block(**FEW_STEPS)
    line = "            logits = forward(x)\n"
    workspace.edit((line, "            forward(x).sum().backward()\n" + line))
    two = workspace.block(**FEW_STEPS)
    assert int(two["num_steps"]) <= 0.7 * int(one["num_steps"])


def test_wall_and_steps_modes(workspace):
    steps = workspace.block(ARF_BUDGET_MODE="steps", ARF_BUDGET="20", ARF_BUDGET_SHARE="0.25")
    assert (steps["num_steps"], steps["budget"], steps["budget_mode"]) == ("5", "5", "steps")
    wall = workspace.block(ARF_BUDGET_MODE="wall", ARF_BUDGET="1.5")
    assert 1.4 <= float(wall["training_seconds"]) < 10


@pytest.mark.parametrize(
    "env", [{"ARF_BUDGET_MODE": "nap"}, {"ARF_BUDGET": "-1"}, {"ARF_BUDGET": "much"}, {"ARF_BUDGET": "inf"}]
)
def test_a_wrong_budget_is_refused(workspace, env):
    run = workspace.run(**env)
    assert run.returncode == 1
    assert "ARF_BUDGET" in run.stderr


def test_training_that_never_asks_the_budget_gets_no_data(workspace):
    workspace.edit(("    while budget.step():\n", "    while True:\n"))
    run = workspace.run(**FEW_STEPS)
    assert run.returncode == 1
    assert "outside a step" in run.stderr
    assert "val_bpb" not in run.stdout


STEP = "        train_step(model, forward, optimizers, loader, budget, budget.progress)\n"
KEEP = "        x, y = next(loader)\n"
TRAIN_ON = """    class Free:
        device = budget.device
        log = print
    for batch in KEPT[:3]:
        train_step(model, forward, optimizers, iter([batch]), Free, 0.5)
"""


def test_training_on_after_the_end_with_batches_that_were_kept_fails_the_run(workspace):
    workspace.edit(
        (KEEP, KEEP + "        KEPT.append((x, y))\n"),
        ("def train_step", "KEPT = []\n\n\ndef train_step"),
        (STEP, STEP + TRAIN_ON),
    )
    run = workspace.run(ARF_BUDGET="1e10")
    assert run.returncode == 1
    assert "FAIL: training went on after the budget was spent" in run.stderr
    assert "val_bpb" not in run.stdout


def test_weights_may_be_averaged_after_the_end(workspace):
    average = """        for e, p in zip(ema, model.parameters(), strict=True):
            e.lerp_(p.detach(), 0.5)
    with torch.no_grad():
        for e, p in zip(ema, model.parameters(), strict=True):
            p.copy_(e)
"""
    start = "    while budget.step():\n"
    copies = "    ema = [p.detach().clone() for p in model.parameters()]\n"
    workspace.edit((STEP, STEP + average), (start, copies + start))
    assert float(workspace.block(**FEW_STEPS)["val_bpb"]) < 6


def test_an_edit_that_sets_the_budget_fails_the_run(workspace):
    workspace.edit(("Budget(device)", "Budget(device, 'steps', 3)"))
    run = workspace.run(ARF_BUDGET="6e9")
    assert run.returncode == 1
    assert "FAIL: train.py has set the budget: steps, 3" in run.stderr
    assert "val_bpb" not in run.stdout


def test_an_edit_of_the_environment_sets_nothing(workspace):
    workspace.edit(("    budget = prepare", "    os.environ['ARF_BUDGET'] = '1e12'\n    budget = prepare"))
    assert workspace.block(ARF_BUDGET="6e9")["budget"] == "6e+09"


def test_a_step_that_goes_on_with_batches_is_ended_when_the_budget_is(workspace):
    workspace.edit((STEP, "        while True:\n    " + STEP))
    run = workspace.run(ARF_BUDGET="1e10")
    assert run.returncode == 1
    assert "FAIL: 1.5" in run.stderr


def test_a_step_without_end_is_stopped_from_outside(workspace):
    """With batches it would be counted; this one asks for none."""
    workspace.edit((STEP, STEP + "        while budget.steps == 3:\n            pass\n"))
    workspace.edit(("    CPU_SLACK_S = 60.0\n", "    CPU_SLACK_S = 0.5\n"), file="prepare.py")
    run = workspace.run(ARF_BUDGET_MODE="compute", ARF_BUDGET="9e9")
    assert run.returncode == 4
    assert "far beyond its budget" in run.stderr


def test_divergence_ends_the_run_with_an_error(workspace):
    workspace.edit(("\nLR_MULT = 1.0 ", "\nLR_MULT = 1e30 "))
    run = workspace.run(ARF_BUDGET_MODE="steps", ARF_BUDGET="30")
    assert run.returncode == 1
    assert "FAIL: training diverged" in run.stderr
    assert "val_bpb" not in run.stdout


def test_divergence_in_the_last_steps_is_seen(workspace):
    workspace.edit(("budget.log(loss, ", "budget.log(loss if progress < 0.5 else 1000.0, "))
    run = workspace.run(ARF_BUDGET_MODE="steps", ARF_BUDGET="4")
    assert run.returncode == 1
    assert "FAIL: training diverged at step 4" in run.stderr


def test_steps_too_large_for_the_budget_are_refused_in_every_mode(prepare):
    with budget_of(prepare, "steps", 0.5) as budget:
        budget.step()
        with pytest.raises(SystemExit, match="2 times the budget is spent after 1 whole steps"):
            budget.step()
    with budget_of(prepare, "compute", 1e6) as budget:
        budget.step()
        with pytest.raises(SystemExit, match="after 0 whole steps"):  # within the step
            matmul(prepare.torch, 100)


def test_a_start_from_a_high_loss_is_no_divergence(prepare, capsys):
    with budget_of(prepare, "steps", 100) as budget:
        budget.step()
        for loss in (64.0, 40.0, 25.0):
            budget.log(loss)
        with pytest.raises(SystemExit, match="diverged"):
            budget.log(130.0)


# ------------------------------------------------------------------------------ the account, in this process


@contextlib.contextmanager
def budget_of(prepare, mode, amount):
    budget = prepare.Budget(prepare.torch.device("cpu"), mode, amount)
    try:
        yield budget
    finally:
        budget.close()


def matmul(torch, n):
    return torch.randn(n, n) @ torch.randn(n, n)  # 2 n^3 FLOPs


def test_flops_are_those_that_torch_counts(prepare, train):
    """On what torch's own counter knows; attention on a CPU, which it does not, against the formula."""
    torch = prepare.torch
    from torch.utils.flop_counter import FlopCounterMode

    mlp = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    conv = torch.nn.Conv1d(4, 6, 3)
    x, z = torch.randn(5, 8), torch.randn(2, 4, 10, requires_grad=True)
    with prepare.FlopMeter() as meter:
        mlp(x).sum().backward()
        conv(z).sum().backward()
    with FlopCounterMode(display=False) as counter:
        mlp(x).sum().backward()
        conv(z).sum().backward()
    assert meter.flops == counter.get_total_flops() > 0

    B, H, T, D = 2, 3, 16, 8
    q = torch.randn(B, H, T, D, requires_grad=True)
    with prepare.FlopMeter() as meter:
        torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True).sum().backward()
    forward = 2 * (2 * B * H * T * T * D)
    assert meter.flops == forward + forward * 5 / 2  # backward: the scores again, and four products


def test_what_torch_does_not_count_or_counts_wrongly(prepare):
    """LSTMs, grouped convolutions, products with a vector and of groups, decompositions."""
    torch = prepare.torch

    def flops(run):
        with prepare.FlopMeter() as meter:
            run()
        return meter.flops

    x = torch.randn(3, 10, 8, requires_grad=True)
    lstm = torch.nn.LSTM(8, 16, batch_first=True)
    assert flops(lambda: lstm(x)[0].sum().backward()) == 3 * 2 * 30 * (8 + 16) * 64
    grouped = torch.nn.Conv1d(8, 8, 3, groups=8)
    assert flops(lambda: grouped(x.mT).sum().backward()) == 3 * 2 * 3 * 8 * 8 * 3
    transposed = torch.nn.ConvTranspose1d(8, 8, 3, groups=4)
    assert flops(lambda: transposed(x.mT).sum().backward()) == 3 * 2 * 3 * 80 * 2 * 3
    a = torch.randn(4, 6, 6)
    square = a @ a.mT + torch.eye(6)
    assert flops(lambda: a[0] @ torch.randn(6)) == 2 * 36
    assert flops(lambda: torch.linalg.svd(a)) == 21 * 4 * 6**3
    assert flops(lambda: torch.linalg.eigh(square)) == 9 * 4 * 6**3
    assert flops(lambda: torch.linalg.qr(torch.randn(10, 4))) == pytest.approx(8 / 3 * 10 * 4 * 4)
    assert flops(lambda: torch.linalg.inv(square)) == 2 * 4 * 6**3
    if hasattr(torch, "_grouped_mm"):
        b, c = (torch.randn(2, 8, 16).bfloat16(), torch.randn(2, 16, 24).bfloat16())
        assert flops(lambda: torch._grouped_mm(b, c)) == 2 * 2 * 8 * 16 * 24


def test_the_optimizers_products_are_counted(prepare, train, corpus):
    torch = prepare.torch
    model = train.build_model(train.model_config(1024))
    model.init_weights()
    model(torch.zeros(1, 8, dtype=torch.int64)).sum().backward()
    muon, _ = train.make_optimizers(model)
    with prepare.FlopMeter() as meter:
        muon.step(1.0, 0.0)
    assert meter.flops > 1e8


def test_a_change_of_batch_shape_is_counted_at_once(prepare, corpus):
    torch = prepare.torch
    with budget_of(prepare, "compute", 1e12) as budget:
        costs = []
        for batch in (2, 2, 2, 4, 2, 4):
            assert budget.step()
            costs.append(budget.spent)
            budget.on_batch(torch.zeros(batch, 128, dtype=torch.int64))
            matmul(torch, 10 * batch)
        budget.step()
        costs.append(budget.spent)
    assert [b - a for a, b in pairwise(costs)] == [2 * (10 * n) ** 3 for n in (2, 2, 2, 4, 2, 4)]


def test_audits_find_work_that_starts_later(prepare):
    """Steps become ten times as dear after the counted ones: the account follows within a few audits."""
    torch = prepare.torch
    with budget_of(prepare, "compute", 1e15) as budget:
        for step in range(1000):
            budget.step()
            budget.on_batch(torch.zeros(1, 128, dtype=torch.int64))
            matmul(torch, 10 if step < 5 else 20)
        budget.step()
        assert budget.spent == pytest.approx(1000 * 2 * 20**3, rel=0.1)


def test_progress_goes_from_zero_to_one_and_batches_end_with_it(prepare):
    torch = prepare.torch
    with budget_of(prepare, "steps", 4) as budget:
        seen = []
        while budget.step():
            seen.append(budget.progress)
            budget.on_batch(torch.zeros(1, 128, dtype=torch.int64))
        assert seen == [0, 0.25, 0.5, 0.75]
        assert budget.progress == 1
        assert not budget.step()
        with pytest.raises(SystemExit, match="outside a step"):
            budget.on_batch(torch.zeros(1, 128, dtype=torch.int64))


@pytest.mark.parametrize(
    ("seconds_of_steps", "budget_s", "steps"),
    [
        ([60.0, 30.0], 200.0, 200),  # compilation in the first two is free, training in them is not
        ([6.0] * 100, 24.0, 4),  # warm-up ends early where ten steps are longer than the budget
        ([40.0] + [6.0] * 100, 24.0, 4),
    ],
)
def test_wall_mode_charges_warm_up_steps_what_later_ones_cost(
    prepare, monkeypatch, seconds_of_steps, budget_s, steps
):
    """Steps take the seconds that are listed, then one second each."""
    torch = prepare.torch
    clock = [0.0]
    monkeypatch.setattr(prepare.time, "perf_counter", lambda: clock[0])
    with budget_of(prepare, "wall", budget_s) as budget:
        taken = 0
        while budget.step():
            budget.on_batch(torch.zeros(1, 128, dtype=torch.int64))
            clock[0] += seconds_of_steps[taken] if taken < len(seconds_of_steps) else 1.0
            taken += 1
        assert taken == steps
        assert budget.spent == pytest.approx(budget_s)


def test_step_lines_can_be_parsed(workspace):
    run = workspace.run(ARF_BUDGET_MODE="steps", ARF_BUDGET="12")
    lines = [line for line in run.stdout.splitlines() if line.startswith("step ")]
    assert lines[0].startswith("step 00000 (0.0%) | loss: ")
    assert lines[1].startswith("step 00010 (83.3%) | loss: ")
    assert workspace.read_block(run.stdout)["num_steps"] == "12"
