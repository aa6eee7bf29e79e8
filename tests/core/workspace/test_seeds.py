from __future__ import annotations

import pytest

from arf.workspace.seeds import is_seed_name, rewrite, same_but_for_seeds, same_code

SEEDED = """\
import torch
torch.manual_seed(42)
torch.cuda.manual_seed_all(42)
SEED = 1
self.seed = 7
rng = np.random.default_rng(seed=5)
torch.manual_seed(1337 + rank)
parser.add_argument("--seed", type=int, default=3)
def f(x, seed=4, *, random_state=5): random.seed(9)
k = jax.random.key(0)
config = {"seed": 11, "x": 2}
r = random.Random(3)
g = torch.Generator().manual_seed(2147483647)
class C: seed: int = field(default=6)
class D: seed: int = Field(6, ge=0)
flags.DEFINE_integer("seed", 42, "x"); DEFINE_integer("data_seed", default=42, help="x")
seed_everything(8); set_seed(8); pl.seed_everything(8, workers=True)
"""


def test_rewrite_sets_every_literal_seed() -> None:
    rewritten = rewrite(SEEDED, 99)
    for text in (
        "torch.manual_seed(99)\n",
        "manual_seed_all(99)",
        "SEED = 99",
        "self.seed = 99",
        "default_rng(seed=99)",
        "manual_seed(99 + rank)",
        "default=99)",
        "f(x, seed=99, *, random_state=99): random.seed(99)",
        "random.key(99)",
        '{"seed": 99, "x": 2}',
        "random.Random(99)",
        "field(default=99)",
        "Field(99, ge=0)",
        "Generator().manual_seed(99)",
        'flags.DEFINE_integer("seed", 99, "x")',
        'DEFINE_integer("data_seed", default=99, help="x")',
        "seed_everything(99); set_seed(99); pl.seed_everything(99, workers=True)",
    ):
        assert text in rewritten
    assert rewrite(rewritten, 99) == rewritten


@pytest.mark.parametrize(
    ("path", "source", "rewritten"),
    [
        ("c.yaml", "data:\n  seed: 3  # x\nseeds: 2\n", "data:\n  seed: 9  # x\nseeds: 2\n"),
        ("c.json", '{"seed": 3, "n": 3}', '{"seed": 9, "n": 3}'),
        ("c.toml", "[a]\nrandom_state = 3\n", "[a]\nrandom_state = 9\n"),
        ("run.sh", "SEED=3\npython train.py --seed $SEED\n", "SEED=9\npython train.py --seed $SEED\n"),
        ("a.c", "#define SEED 3\n#define N 3\n", "#define SEED 9\n#define N 3\n"),
        ("run.sh", "SEED=3\nSEED=4\n", "SEED=3\nSEED=4\n"),
        ("c.yaml", "seed: auto\n", "seed: auto\n"),
        ("a.c", "srand(42u); srand48( 3 ); x = rand();\n", "srand(9u); srand48( 9 ); x = rand();\n"),
        ("a.cpp", "mt19937 gen{42}; torch::manual_seed(3);\n", "mt19937 gen{9}; torch::manual_seed(9);\n"),
        ("a.rs", "let r = StdRng::seed_from_u64(42);\n", "let r = StdRng::seed_from_u64(9);\n"),
        ("a.go", "rand.Seed(1); rand.NewSource(2)\n", "rand.Seed(9); rand.NewSource(9)\n"),
        ("a.R", "set.seed(42)\nseeds <- 3\n", "set.seed(9)\nseeds <- 3\n"),
        ("a.jl", "Random.seed!(42)\n", "Random.seed!(9)\n"),
        ("run.sh", "./t --seed 42 --data-seed=7 -seed 1\n", "./t --seed 9 --data-seed=9 -seed 9\n"),
        ("run.sh", "./t --seeds 3 --seed $SEED\n", "./t --seeds 3 --seed $SEED\n"),
        ("a.c", "srand(time(NULL)); reseed(42); n = 3;\n", "srand(time(NULL)); reseed(42); n = 3;\n"),
    ],
)
def test_rewrite_in_other_languages_sets_what_is_named_like_a_seed(
    path: str, source: str, rewritten: str
) -> None:
    assert rewrite(source, 9, path) == rewritten


def test_bytes_that_are_not_utf8_hide_no_seed() -> None:
    source = b"# caf\xe9\nname = '\xe9'; torch.manual_seed(3)\n".decode("utf-8", "surrogateescape")
    assert rewrite(source, 9) == source.replace("3", "9")


@pytest.mark.parametrize(
    "source",
    [
        "n_seeds = 3\nSEED_LEN = 4\nseeds_of_doubt = 5",
        "key(3); Random(3); d.key(3)",
        "torch.manual_seed(seed)",
        "seed = int(os.environ.get('ARF_SEED', 42))",
        "torch.manual_seed(True)",
        "x = = 3; torch.manual_seed(42)",
    ],
)
def test_rewrite_leaves_the_rest_alone(source: str) -> None:
    assert rewrite(source, 99) == source


def test_rewrite_keeps_what_is_around_unicode_and_line_ends() -> None:
    assert (
        rewrite("s = 'é'; torch.manual_seed(1)  # ü\r\nx = 1", 2)
        == "s = 'é'; torch.manual_seed(2)  # ü\r\nx = 1"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torch.manual_seed(42)\nx = 1", "torch.manual_seed(43)\nx = 1  # lucky"),
        ("torch.manual_seed(42)\nx = 1", "x = 1"),
        ("x = 1", "x = 1\nSEED = 7\ntorch.manual_seed(SEED * 3 + 1)"),
        ("seed = int(os.environ['ARF_SEED'])", "seed = 1234"),
        ("def seed_from_env():\n    return 1", "def seed_from_env():\n    return 2"),
        ("def f():\n    random.seed(1)", "def f():\n    pass"),
        ("f(x, seed=1)", "f(x, seed=2)"),
        ("import os\nos.environ['ARF_SEED'] = '1'", "import os\nos.environ['ARF_SEED'] = '2'"),
    ],
)
def test_a_change_of_seed_is_recognised(old: str, new: str) -> None:
    assert same_but_for_seeds(old, new, python=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torch.manual_seed(42)\nx = 1", "torch.manual_seed(43)\nx = 2"),
        ("SEED_LEN = 4", "SEED_LEN = 5"),
        ("lr = 42", "lr = 43"),
        ("f(x, seed=1)", "f(y, seed=1)"),
    ],
)
def test_other_changes_are_not(old: str, new: str) -> None:
    assert not same_but_for_seeds(old, new, python=True)


def test_other_languages_by_their_numbers() -> None:
    assert same_but_for_seeds("srand(42);", "srand(43);", python=False)
    assert same_but_for_seeds("./train --seed 42", "./train --seed=7".replace("=", " "), python=False)
    assert same_but_for_seeds("Random.seed!(1)", "Random.seed!(2)", python=False)
    assert same_but_for_seeds("#define SEED 1", "#define SEED 2", python=False)
    assert not same_but_for_seeds("lr = 42", "lr = 43", python=False)
    assert not same_but_for_seeds("srand(42); n = 1", "srand(42); n = 2", python=False)


def test_same_code_ignores_comments_and_layout_only() -> None:
    assert same_code("x = 1  # a\n", "x  =  1\n\n# b\n")
    assert not same_code("x = 1", "x = 2")
    assert not same_code("x = = 1", "x = = 1")


def test_seed_names() -> None:
    assert all(map(is_seed_name, ["SEED", "seed", "TORCH_SEED", "random_state", "train.seed"]))
    assert not any(map(is_seed_name, ["SEEDS_PER_RUN", "LR", "SEEDING"]))
