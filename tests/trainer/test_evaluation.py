"""The metric, the closing block, and verification in another process."""

import math

import numpy as np
import pytest

AUTORESEARCH_KEYS = [
    "val_bpb", "training_seconds", "total_seconds", "peak_vram_mb", "mfu_percent", "total_tokens_M",
    "num_steps", "num_params_M", "depth",
]  # fmt: skip
SHORT = {"ARF_BUDGET_MODE": "steps", "ARF_BUDGET": "3"}


@pytest.fixture(scope="module")
def rows(prepare, corpus):
    return prepare.evaluation_rows(corpus.val, 16)


def bpb(prepare, corpus, rows, function):
    class Model(prepare.torch.nn.Module):
        def forward(self, tokens):
            return function(tokens)

    return prepare.evaluate_bpb(Model(), rows, corpus.tokenizer, prepare.torch.device("cpu"))


def test_a_uniform_model_has_the_bits_of_its_vocabulary(prepare, corpus, rows):
    vocab = corpus.tokenizer.get_vocab_size()
    sizes = corpus.tokenizer.token_bytes()[rows[:, 1:]]
    expected = math.log2(vocab) * (sizes > 0).sum() / sizes.sum()
    torch = prepare.torch
    assert bpb(prepare, corpus, rows, lambda x: torch.zeros(*x.shape, vocab)) == pytest.approx(
        expected, rel=1e-6
    )
    # logits need not be normalised: a constant changes nothing, so scores cannot be pushed up
    assert bpb(prepare, corpus, rows, lambda x: torch.full((*x.shape, vocab), 50.0)) == pytest.approx(
        expected, rel=1e-6
    )


@pytest.mark.parametrize("reach", [1, 40])
def test_a_model_that_looks_ahead_is_refused(prepare, corpus, rows, reach):
    torch = prepare.torch
    vocab = corpus.tokenizer.get_vocab_size()

    def peek(x):
        ahead = torch.cat([x[:, reach:], x[:, :reach]], dim=1)
        return 20.0 * torch.nn.functional.one_hot(ahead, vocab).float()

    with pytest.raises(ValueError, match="not causal"):
        bpb(prepare, corpus, rows, peek)


def test_a_model_that_answers_by_chance_is_told_so(prepare, corpus, rows):
    vocab = corpus.tokenizer.get_vocab_size()
    with pytest.raises(ValueError, match="dropout in evaluation"):
        bpb(prepare, corpus, rows, lambda x: prepare.torch.rand(*x.shape, vocab))


def test_evaluation_rows_are_spread_over_the_split(prepare):
    split = [np.arange(60).reshape(30, 2), np.arange(60, 100).reshape(20, 2)]
    rows = prepare.evaluation_rows(split, 8)
    assert rows[0].tolist() == [0, 1]
    assert rows[-1].tolist() == [98, 99]
    assert len(rows) == 8
    assert len(prepare.evaluation_rows(split, 1000)) == 50


def test_closing_block_has_autoresearchs_names_first_and_in_order(workspace):
    block = workspace.block(**SHORT)
    assert list(block)[: len(AUTORESEARCH_KEYS)] == AUTORESEARCH_KEYS
    assert {"seed", "device", "threads", "budget_mode", "tokens_per_second", "train_loss", "eval_seconds",
            "startup_seconds", "peak_memory_mb", "corpus_hash"} <= set(block)  # fmt: skip
    assert (block["seed"], block["threads"], block["depth"]) == ("42", "1", "4")
    assert 2 < float(block["val_bpb"]) < 6
    assert 50 < float(block["peak_vram_mb"]) < 2000
    assert float(block["eval_seconds"]) < 10


def test_verify_evaluates_a_checkpoint_elsewhere_and_opens_the_test_split(workspace, tmp_path):
    checkpoint = tmp_path / "out" / "model.pt"
    block = workspace.block(**SHORT, ARF_CHECKPOINT=str(checkpoint))
    run = workspace.run("--verify", str(checkpoint), script="prepare.py")
    assert run.returncode == 0, run.stderr
    verified = workspace.read_block("\n" + run.stdout)
    assert float(verified["val_bpb"]) == pytest.approx(float(block["val_bpb"]), abs=1e-5)
    assert abs(float(verified["test_bpb"]) - float(verified["val_bpb"])) < 0.3


def test_verify_finds_a_checkpoint_of_another_number(workspace, prepare, tmp_path):
    checkpoint = tmp_path / "model.pt"
    workspace.block(**SHORT, ARF_CHECKPOINT=str(checkpoint))
    saved = prepare.torch.load(checkpoint, weights_only=True)
    saved["meta"]["val_bpb"] = 0.5
    prepare.torch.save(saved, checkpoint)
    run = workspace.run("--verify", str(checkpoint), script="prepare.py")
    assert run.returncode == 1
    assert "FAIL: the run recorded val_bpb 0.500000" in run.stderr


FINISH = "    prepare.finish("


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (FINISH, "    prepare.evaluate_bpb = lambda *args: 0.5\n" + FINISH, "changed evaluate_bpb of"),
        (
            FINISH,
            "    prepare.Tokenizer.token_bytes = lambda self: 9\n" + FINISH,
            "changed Tokenizer.token_bytes",
        ),
        (FINISH, "    prepare.MAX_SEQ_LEN = 64\n" + FINISH, "changed MAX_SEQ_LEN"),
        (FINISH, "    prepare.SETTINGS = prepare.PROFILES['gpu']\n" + FINISH, "changed SETTINGS"),
        (FINISH, "    return print('---\\nval_bpb: 0.5')\n" + FINISH, "ended without prepare.finish"),
        (FINISH, "    raise SystemExit(0)\n" + FINISH, "ended without prepare.finish"),
        ("    while budget.step", "    budget.amount *= 2\n    while budget.step", "AttributeError"),
        ("    while budget.step", "    budget.step()\n    1 / 0\n    while budget.step", "ZeroDivisionError"),
    ],
    ids=["evaluation", "tokenizer", "context", "settings", "own block", "leaves", "budget", "crash"],
)
def test_an_edit_that_goes_round_the_evaluation_fails_the_run(workspace, old, new, why):
    workspace.edit((old, new))
    run = workspace.run(**SHORT)
    assert run.returncode == 1
    assert why in run.stderr.splitlines()[-1]
    assert "\nnum_steps:" not in run.stdout


def test_what_an_edit_makes_of_its_own_corpus_or_of_torch_does_not_move_the_metric(workspace):
    plain = workspace.block(**SHORT)
    changes = """    corpus.tokenizer.token_bytes = lambda: 9 * torch.ones(1024).long().numpy()
    corpus.val[:] = [corpus.val[0][:5]]
    real = F.cross_entropy
    F.cross_entropy = lambda *args, **more: 0.1 * real(*args, **more)
"""
    workspace.edit((FINISH, changes + FINISH))
    assert workspace.block(**SHORT)["val_bpb"] == plain["val_bpb"]


def test_a_checkpoint_that_cannot_be_saved_or_used_is_named_in_a_line(workspace, tmp_path):
    (tmp_path / "file").write_text("in the way")
    run = workspace.run(**SHORT, ARF_CHECKPOINT=str(tmp_path / "file" / "model.pt"))
    assert run.returncode == 1
    assert run.stderr.startswith("FAIL: the checkpoint cannot be saved: ")
    run = workspace.run("--verify", str(tmp_path / "file"), script="prepare.py")
    assert run.returncode == 1
    assert run.stderr.startswith(f"FAIL: {tmp_path / 'file'} cannot be read: ")
    assert len(run.stderr.splitlines()) == 1


def test_an_edited_model_is_rebuilt_from_its_own_script(copy, tmp_path):
    edited, original = copy("edited"), copy("original")
    edited.edit(("\nDEPTH = 4 ", "\nDEPTH = 2 "), ('\nVALUE_EMBEDS = "none" ', '\nVALUE_EMBEDS = "all" '))
    checkpoint = tmp_path / "model.pt"
    block = edited.block(**SHORT, ARF_CHECKPOINT=str(checkpoint))
    run = original.run(
        "--verify", str(checkpoint), "--script", str(edited.path / "train.py"), script="prepare.py"
    )
    assert run.returncode == 0, run.stderr
    assert float(edited.read_block("\n" + run.stdout)["val_bpb"]) == pytest.approx(
        float(block["val_bpb"]), abs=1e-5
    )


def test_a_model_without_causal_mask_fails_the_run(workspace):
    workspace.edit(("attention(q, k, v, is_causal=True)", "attention(q, k, v)"))
    run = workspace.run(**SHORT)
    assert run.returncode == 1
    assert "not causal" in run.stderr
    assert "val_bpb" not in run.stdout
