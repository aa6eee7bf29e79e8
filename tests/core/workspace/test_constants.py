from __future__ import annotations

import pytest

from arf.errors import UsageError
from arf.types import Scalar
from arf.workspace.constants import Constant, check, read, replace

PYTHON = """\
import os
DEPTH = 8               # number of layers [1..16]
WIDTH: int = 64  # channels [32..512, multiple of HEAD_DIM]
HEAD_DIM = 32  # one head [16 | 32 | 64]
LR = 3e-4  # peak [1e-5..1e-2, log]
BATCH = 2**19 # tokens
TOKENS = 40 * 524288
BITS = 1 << 20
MASK = 0xFF
BIG = 1_000_000
SHIFT = -2
PATTERN = "SSSL" # S: short, L: long ["L" | "SSSL" | "a,b"]
QUIET = 'no'
FLAG = True
BETAS = (0.8, 0.95)
PATH = os.path.join("a", "b")
UNIT = "é"; NEXT = 3  # not of UNIT [1..9]
hidden = 4
rate = 0.1  # lower case with an annotation [0..1]
"""


def constant(source: str, name: str, path: str = "train.py") -> Constant:
    return next(item for item in read(source, path) if item.name == name)


def test_reads_literals_of_a_python_file_with_values_and_lines() -> None:
    found = {item.name: item.value for item in read(PYTHON, "train.py")}
    assert found == {
        "DEPTH": 8,
        "WIDTH": 64,
        "HEAD_DIM": 32,
        "LR": 3e-4,
        "BATCH": 2**19,
        "TOKENS": 40 * 524288,
        "BITS": 1 << 20,
        "MASK": 255,
        "BIG": 1_000_000,
        "SHIFT": -2,
        "PATTERN": "SSSL",
        "QUIET": "no",
        "FLAG": True,
        "BETAS": (0.8, 0.95),
        "UNIT": "é",
        "NEXT": 3,
        "hidden": 4,
        "rate": 0.1,
    }
    assert constant(PYTHON, "LR").line == 5
    assert constant(PYTHON, "NEXT").comment == "not of UNIT [1..9]"
    assert constant(PYTHON, "UNIT").comment == ""
    assert not constant(PYTHON, "BETAS").movable


def test_reads_what_the_annotation_says() -> None:
    width = constant(PYTHON, "WIDTH")
    assert (width.low, width.high, width.multiple_of, width.text) == (32, 512, "HEAD_DIM", "channels")
    rate = constant(PYTHON, "LR")
    assert (rate.low, rate.high, rate.log) == (1e-5, 1e-2, True)
    assert constant(PYTHON, "HEAD_DIM").choices == (16, 32, 64)
    assert constant(PYTHON, "PATTERN").choices == ("L", "SSSL", "a,b")


@pytest.mark.parametrize(
    ("comment", "fields"),
    [
        ("[0.5..]", {"low": 0.5, "high": None}),
        ("[..8]", {"low": None, "high": 8}),
        ("[-1e-3..2**10]", {"low": -1e-3, "high": 1024}),
        ("[step 16, 1_000..2_000]", {"step": 16, "low": 1000, "high": 2000}),
        ("[multiple of 8]", {"multiple_of": 8}),
        ("[True | False]", {"choices": (True, False)}),
        ("[adam | sgd]", {"choices": ("adam", "sgd")}),
        ("shape [batch, seq] of [1..4] heads", {"low": 1, "high": 4, "text": "shape [batch, seq] of heads"}),
        ("[0]", {"low": None, "choices": (), "text": "[0]"}),
        ("see [1], [2]", {"low": None, "choices": (), "text": "see [1], [2]"}),
        ("[1..8, odd]", {"low": None, "text": "[1..8, odd]"}),
        ("[..]", {"low": None, "high": None, "text": "[..]"}),
    ],
)
def test_annotation(comment: str, fields: dict[str, object]) -> None:
    item = constant(f"X = 1  # {comment}", "X")
    assert {name: getattr(item, name) for name in fields} == fields


def test_a_name_that_changes_at_run_time_is_fixed_and_says_where() -> None:
    source = (
        "A = 1\nif True:\n    A = 2\nB = 1\nB += 1\nC = 1\nfor C in range(3): pass\n"
        "D = 1\ndef f():\n    global D\n"
        "E = 1\nE = 2\nF = 1\nF = f()\nG = 1\n(G := 2)\nH = 1\ndef g():\n    H = 3\n"
    )
    fixed = {item.name: item.fixed for item in read(source, "x.py") if item.fixed}
    assert fixed.keys() == {"A", "B", "C", "D", "F", "G"}
    assert "line 3" in fixed["A"]
    assert constant(source, "E").value == 2
    assert replace(source, {"E": 5}, "x.py").count("E = 5") == 1
    with pytest.raises(UsageError, match=r"x.py:1: A cannot be set by name: line 3"):
        replace(source, {"A": 3}, "x.py")


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("DEPTH", 6, "DEPTH = 6               # number of layers [1..16]"),
        ("DEPTH", 6.0, "DEPTH = 6               # number of layers [1..16]"),
        ("BATCH", 2**18, "BATCH = 2**18 # tokens"),
        ("BATCH", 3, "BATCH = 3 # tokens"),
        ("TOKENS", 10 * 524288, "TOKENS = 10 * 524288"),
        ("BITS", 1 << 21, "BITS = 1 << 21"),
        ("MASK", 16, "MASK = 0x10"),
        ("BIG", 2_000_000, "BIG = 2_000_000"),
        ("SHIFT", 3, "SHIFT = 3"),
        ("LR", 1, "LR = 1.0  # peak [1e-5..1e-2, log]"),
        ("LR", 1e-3, "LR = 0.001  # peak [1e-5..1e-2, log]"),
        ("PATTERN", 'a"b', """PATTERN = 'a"b' # S: short, L: long ["L" | "SSSL" | "a,b"]"""),
        ("QUIET", "yes\n", "QUIET = 'yes\\n'"),
        ("FLAG", False, "FLAG = False"),
        ("NEXT", 4, 'UNIT = "é"; NEXT = 4  # not of UNIT [1..9]'),
    ],
)
def test_replace_writes_in_the_style_of_the_old_value(name: str, value: Scalar, line: str) -> None:
    replaced = replace(PYTHON, {name: value}, "train.py")
    assert line in replaced.splitlines()
    assert len(set(replaced.splitlines()) - set(PYTHON.splitlines())) <= 1
    assert constant(replaced, name).value == value


def test_replace_keeps_line_ends_and_is_silent_about_equal_values() -> None:
    source = "A = 1\r\nB = 2 # x\r\nC = 3"
    assert replace(source, {"B": 5, "C": 4}, "x.py") == "A = 1\r\nB = 5 # x\r\nC = 4"
    assert replace("A = 1e-3\n", {"A": 0.001}, "x.py") == "A = 1e-3\n"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DEPHT", 3, "did you mean 'DEPTH'"),
        ("DEPTH", "six", "train.py:2: DEPTH is 8: its value must be a number, not 'six'"),
        ("DEPTH", True, "must be a number"),
        ("FLAG", 1, "must be true or false"),
        ("QUIET", 3, "must be a string"),
        ("LR", float("nan"), "finite"),
        ("BETAS", 3, "it is a tuple"),
    ],
)
def test_replace_refuses(name: str, value: Scalar, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(PYTHON, {name: value}, "train.py")


def test_check_enforces_annotations_together() -> None:
    constants = read(PYTHON, "train.py")
    check(constants, {"WIDTH": 96, "DEPTH": 16, "PATTERN": "L"})
    check(constants, {"WIDTH": 128, "HEAD_DIM": 64})
    for values, message in [
        ({"DEPTH": 17}, "DEPTH = 17 is above 16"),
        ({"LR": 1e-9}, "is below"),
        ({"WIDTH": 100}, "no multiple of HEAD_DIM = 32"),
        ({"WIDTH": 96, "HEAD_DIM": 64}, "no multiple of HEAD_DIM = 64"),
        ({"HEAD_DIM": 48}, "is none of 16, 32, 64"),
        ({"PATTERN": "LL"}, "is none of"),
    ]:
        with pytest.raises(UsageError, match=message):
            check(constants, values)
    with pytest.raises(UsageError, match=r"HEAD_DIM = 64 leaves WIDTH = 32"):
        check(read("WIDTH = 32 # [multiple of HEAD_DIM]\nHEAD_DIM = 32\n", "x.py"), {"HEAD_DIM": 64})


YAML = """\
opt: {{lr: {lr}, 'wd': {wd}}}  # x
betas: [0.9, 1]
text: |
  lr: 3
stages:
  - lr: 1
b: &b {{c: {c}}}
d: *b
"""


@pytest.mark.parametrize(
    ("path", "source", "values", "replaced"),
    [
        (
            "run.sh",
            'LR=0.1 # [1e-4..1]\nexport N="8"\n',
            {"LR": 0.2, "N": 9},
            'LR=0.2 # [1e-4..1]\nexport N="9"\n',
        ),
        ("run.sh", "N=${N:-32}\n", {"N": 64}, "N=${N:-64}\n"),
        ("Makefile", "N ?= 32\nOPT := adam\n", {"N": 64, "OPT": "sgd"}, "N ?= 64\nOPT := sgd\n"),
        ("a.c", "#define N 8 // layers\n#define N_H\n", {"N": 4}, "#define N 4 // layers\n#define N_H\n"),
        (
            "a.cu",
            "constexpr float LR = 1e-3f; /* r */\n",
            {"LR": 0.5},
            "constexpr float LR = 0.5f; /* r */\n",
        ),
        ("a.cpp", "static const unsigned int N = 8u;\n", {"N": 4}, "static const unsigned int N = 4u;\n"),
        ("a.rs", "pub const N: usize = 8_usize;\n", {}, "pub const N: usize = 8_usize;\n"),
        ("a.rs", "pub const LR: f32 = 0.1;\n", {"LR": 1}, "pub const LR: f32 = 1.0;\n"),
        ("a.jl", "const N = 8 # layers\n", {"N": 4}, "const N = 4 # layers\n"),
        ("a.js", "export const ON = true;\n", {"ON": False}, "export const ON = false;\n"),
        (
            "a.toml",
            '[opt]\nlr = 0.1\nname = "a"\n',
            {"opt.lr": 0.2, "opt.name": "b"},
            '[opt]\nlr = 0.2\nname = "b"\n',
        ),
        (
            "a.json",
            '{\n  "opt": {"lr": 1e-3, "on": true, "betas": [0.9, 1], "to": null},\n  "name": "a"\n}\n',
            {"opt.lr": 5e-5, "opt.on": False, "name": "b"},
            '{\n  "opt": {"lr": 5e-05, "on": false, "betas": [0.9, 1], "to": null},\n  "name": "b"\n}\n',
        ),
        ("a.R", "LR <- 0.1 # rate\n", {"LR": 0.2}, "LR <- 0.2 # rate\n"),
        (
            "a.pl",
            "use constant LR => 0.1;\nour $N = 8;\n",
            {"LR": 0.2, "N": 4},
            "use constant LR => 0.2;\nour $N = 4;\n",
        ),
        (
            "a.yaml",
            YAML.format(lr=0.1, wd=0, c=1),
            {"opt.lr": 0.2, "opt.wd": 1, "b.c": 2},
            YAML.format(lr=0.2, wd=1, c=2),
        ),
        ("a.yaml", "{% if x %}\nlr: 0.1 # [0..1]\n", {"lr": 0.2}, "{% if x %}\nlr: 0.2 # [0..1]\n"),
        ("a.yaml", "lr: 0.0001\nwd: 1e-3\n", {"lr": 5e-5, "wd": 1.5e-5}, "lr: 5.0e-05\nwd: 1.5e-05\n"),
        ("a.ini", "[a]\nx=1\n[b]\nx=1\n", {"b.x": 2}, "[a]\nx=1\n[b]\nx=2\n"),
        ("a.yaml", "m:\n  n: 8 # [1..9]\nn: 7\n", {"m.n": 9}, "m:\n  n: 9 # [1..9]\nn: 7\n"),
    ],
)
def test_other_languages(path: str, source: str, values: dict[str, Scalar], replaced: str) -> None:
    assert replace(source, values, path) == replaced


def test_other_languages_leave_code_alone() -> None:
    source = "int main() {\n  int N = 8;\n  LR = 3;\n}\nint K = f(8);\nif (N == 3) {\nfor (;;) N = 4;\n"
    assert read(source, "a.c") == []
    twice = read("N=1\nN=2\n", "a.sh")
    assert [item.fixed for item in twice] == ["it is assigned 2 times"]


@pytest.mark.parametrize(
    "source",
    [
        "X = = 3",
        "X = 1\x00",
        "X = " + "(" * 3000,
        "A = 10**10**10\nB = 2**-5000\nC = 1/0\nD = 1 << 10**9",
        "\ufeff",
        "",
    ],
)
def test_odd_sources_do_no_harm(source: str) -> None:
    assert read(source, "x.py") == []


def test_a_byte_order_mark_is_kept() -> None:
    source = "\ufeffA = 1  # [0..2]\nB = 2\n"
    assert replace(source, {"A": 2, "B": 3}, "x.py") == "\ufeffA = 2  # [0..2]\nB = 3\n"


def test_bytes_that_are_not_utf8_stay_where_they_are() -> None:
    source = b"NAME = 'caf\xe9'; N = 8  # \xe9\n".decode("utf-8", "surrogateescape")
    assert replace(source, {"N": 9}, "train.py") == source.replace("8", "9")


def test_reads_a_name_in_lower_case_unless_something_else_assigns_it() -> None:
    source = (
        "learning_rate = 6e-4 # max learning rate\nbias = False\nbetas = (0.9, 0.95)\n_private = 3\n"
        "iter_num = 0\nbest = 1e9\nwhile True:\n    iter_num += 1\n    best = 3\n"
        "i = 1\nfor i in range(3): pass\nx = 1\nx = f(x)\n"
    )
    assert [item.name for item in read(source, "train.py")] == ["learning_rate", "bias", "betas"]
    assert constant(source, "learning_rate").text == "max learning rate"
    assert replace(source, {"learning_rate": 1e-3}, "train.py").startswith("learning_rate = 0.001 # max")


OPTIONS = """\
import argparse, click
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data", default="here")
    parser.add_argument("-b", "--batch-size", type=int, default=64, metavar="N",
                        help="input batch size "
                             "for training")
    parser.add_argument("--lr", default=1e-3, help="learning rate")  # peak [1e-5..1e-2, log]
    parser.add_argument("--act", default="relu", choices=["relu", "gelu"])
    parser.add_argument("--sizes", nargs="+", default=3)
    parser.add_argument("--steps", default=100)
    parser.add_argument("--wd", dest="weight_decay", default=0.1)
    parser.add_argument("--twice", default=1)
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--unset", default=None)
    args = parser.parse_args()
    args.steps = 5
other.add_argument("--twice", default=2)
@click.option("--dropout", "-d", default=0.1)
def cli(dropout): ...
"""


def test_reads_the_defaults_of_options() -> None:
    assert {item.name: item.value for item in read(OPTIONS, "main.py")} == {
        "batch_size": 64,
        "lr": 1e-3,
        "act": "relu",
        "weight_decay": 0.1,
        "dropout": 0.1,
        "args.steps": 5,
    }
    assert constant(OPTIONS, "batch_size").text == "input batch size for training"
    assert constant(OPTIONS, "batch_size").line == 5
    assert constant(OPTIONS, "act").choices == ("relu", "gelu")
    changed = replace(OPTIONS, {"batch_size": 32, "act": "gelu", "weight_decay": 0.2}, "main.py")
    assert "type=int, default=32, metavar" in changed
    assert 'default="gelu", choices=["relu", "gelu"]' in changed
    assert 'dest="weight_decay", default=0.2)' in changed
    with pytest.raises(UsageError, match="'tanh' is none of"):
        check(read(OPTIONS, "main.py"), {"act": "tanh"})


def test_reads_the_fields_of_a_class_that_is_used_as_it_is() -> None:
    source = """\
@dataclass
class GPTConfig:
    n_layer: int = 12
    dropout: float = 0.1  # [0..0.5]
class Hyperparameters:
    width = 64  # [multiple of HEADS]
    HEADS = 4
    lr: float = field(default=1e-3, metadata={"help": "x"})
    path: str = os.path.join("a", "b")
    steps: int = 10
class Net(nn.Module):
    depth = 3
@dataclass
class Unused:
    rate: float = 0.1
class ModelConfig:
    a: int = 1
class Color(Enum):
    red = 1
args = Hyperparameters()
args.steps = 20
model = GPTConfig(n_layer=args.width // 8)
other = ModelConfig(**vars(args))
"""
    assert [item.name for item in read(source, "train.py")] == [
        "args.steps",
        "GPTConfig.dropout",
        "Hyperparameters.width",
        "Hyperparameters.HEADS",
        "Hyperparameters.lr",
    ]
    assert constant(source, "GPTConfig.dropout").high == 0.5
    assert "width = 32  # [multiple" in replace(source, {"Hyperparameters.width": 32}, "train.py")
    assert "default=0.002, metadata" in replace(source, {"Hyperparameters.lr": 2e-3}, "train.py")
    with pytest.raises(UsageError, match=r"no multiple of Hyperparameters.HEADS = 4"):
        check(read(source, "train.py"), {"Hyperparameters.width": 30})


def test_reads_the_entries_of_a_dict_that_nothing_changes() -> None:
    source = """\
config = {"lr": 1e-3, "depth": 4, "opt": {"beta": 0.9}, "n": None}
config["depth"] = 5
hparams = dict(dropout=0.1, bias=False)
colours = {"depth": 3}
params = {"width": 3}
params.update(load())
train_args = {"width": 3}
train_args = parse(train_args)
"""
    assert {item.name: item.value for item in read(source, "train.py")} == {
        "config.lr": 1e-3,
        "config.depth": 5,
        "config.opt.beta": 0.9,
        "hparams.dropout": 0.1,
        "hparams.bias": False,
    }
    assert replace(source, {"hparams.bias": True}, "train.py").count("bias=True") == 1


def names(source: str) -> list[str]:
    return [item.name for item in read(source, "train.py")]


def test_reads_namespaces_nested_dicts_and_lists() -> None:
    source = """\
CONFIG: dict = {"model": {"width": 64, "act": "relu"}, "optim": {"lr": 0.1, "betas": [0.9, 0.95]}, "seed": 1}
CONFIG["model"]["act"] = "gelu"
cfg = SimpleNamespace(lr=0.1, wd=0.0, steps=10)
cfg.steps = 20
args = OmegaConf.create({"optim": {"lr": 0.2}})
losses = []
"""
    assert names(source) == [
        "CONFIG.model.act",
        "cfg.steps",
        "CONFIG.optim.lr",
        "CONFIG.optim.betas",
        "CONFIG.seed",
        "cfg.lr",
        "cfg.wd",
        "args.optim.lr",
    ]
    assert constant(source, "CONFIG.optim.betas").fixed == "it is a list"
    assert '{"lr": 0.3, "betas"' in replace(source, {"CONFIG.optim.lr": 0.3}, "train.py")


def test_reads_the_defaults_and_limits_of_fields() -> None:
    source = """\
class Settings(BaseModel):
    lr: float = Field(1e-3, gt=0, le=0.1, description="learning rate")
    width: int = Field(default=96, ge=1)
    name: str = Field(...)
run(Settings())
"""
    assert names(source) == ["Settings.lr", "Settings.width"]
    assert (constant(source, "Settings.lr").high, constant(source, "Settings.lr").text) == (
        0.1,
        "learning rate",
    )
    assert constant(source, "Settings.width").low == 1
    assert "Field(0.002, gt=0" in replace(source, {"Settings.lr": 2e-3}, "train.py")
    nested = "class Config:\n    class optim:\n        lr = 0.1\n        wd = 0.2\nc.optim.wd = 3\n"
    assert names(nested) == ["Config.optim.lr"]
    assert names("@dataclass\nclass TrainConfig:\n    lr: float = 0.1\n") == ["TrainConfig.lr"]


def test_reads_the_settings_of_a_script_in_a_function() -> None:
    source = """\
def train(model, lr=0.1, *, clip=1.0, decay=0.9):
    decay = decay / 2
def sweep(width=64, depth=typer.Option(3, min=1)): ...
def helper(rate=0.5): ...
def main():
    batch = 32  # rows
    best = 1e9
    total = 0
    for x in y:
        best = min(best, x)
        total += x
    train(None, lr=0.2)
typer.run(sweep)
@app.command()
def go(dropout: float = 0.1): ...
if __name__ == "__main__":
    momentum = 0.9
    main()
"""
    assert names(source) == [
        "train.clip",
        "sweep.width",
        "sweep.depth",
        "main.batch",
        "go.dropout",
        "momentum",
    ]
    assert constant(source, "sweep.depth").low == 1
    assert "batch = 64  # rows" in replace(source, {"main.batch": 64}, "train.py")


def test_reads_the_numbers_that_one_call_gives_a_class() -> None:
    source = """\
forest = RandomForestClassifier(n_estimators=100, bootstrap=True, criterion="gini", max_depth=None)
opt = torch.optim.SGD(model.parameters(), lr=2 * 1e-2, momentum=-0.9)
a, b = Linear(8, out=3), Linear(8, out=4)
model.fit(x, y, batch_size=32)
print(x, end=3)
"""
    assert names(source) == [
        "RandomForestClassifier.n_estimators",
        "SGD.lr",
        "SGD.momentum",
        "fit.batch_size",
    ]
    assert "lr=0.01, m" in replace(source, {"SGD.lr": 0.01}, "train.py")


def test_bytes_that_are_not_utf8_hide_no_constant() -> None:
    source = b"# caf\xe9\nNAME = 'caf\xe9'; LR = 0.1\nWIDTH = 8\n".decode("utf-8", "surrogateescape")
    changed = replace(source, {"LR": 0.2, "WIDTH": 16}, "train.py")
    assert (
        changed.encode("utf-8", "surrogateescape") == b"# caf\xe9\nNAME = 'caf\xe9'; LR = 0.2\nWIDTH = 16\n"
    )


@pytest.mark.parametrize(
    ("line", "choices"),
    [
        ('ACT = "relu"  # [relu, gelu, silu]', ("relu", "gelu", "silu")),
        ('ACT = "relu"  # activation ["relu", "gelu"]', ("relu", "gelu")),
        ("HEADS = 4  # [2, 4, 8]", (2, 4, 8)),
        ("HEADS = 4  # [2, 8, 16]", ()),
        ("DROP = 0.0  # [0, 1]", ()),
        ("WIDTH = 64  # [batch, time]", ()),
        ('ACT = "relu"  # [gelu, silu]', ()),
    ],
)
def test_a_list_in_brackets_that_has_the_value_is_of_choices(line: str, choices: tuple[object, ...]) -> None:
    assert read(f"{line}\n", "train.py")[0].choices == choices


SETTINGS = {
    "a holder that is filled afterwards": (
        "C = CN()\nC.optim = CN()\nC.optim.lr = 0.1\nC.depth = 4\nif x:\n    C.depth = 5\nmodel.lr = 0.3\n",
        {"C.optim.lr": 0.1},
    ),
    "keys": (
        'config = {}\nconfig["optim"] = {"lr": 0.1}\nconfig["depth"] = 4\n',
        {"config.optim.lr": 0.1, "config.depth": 4},
    ),
    "keys that something may replace": ('config = {}\nconfig["lr"] = 0.1\nconfig.update(load())\n', {}),
    "a function that makes a configuration": (
        "def get_config():\n    c = ConfigDict()\n    c.lr = 0.1\n    return c\n",
        {"c.lr": 0.1},
    ),
    "absl": (
        'flags.DEFINE_float("lr", 0.1, "rate", lower_bound=0.0)\nLR2 = flags.DEFINE_integer("n", 3, "n")\n',
        {"lr": 0.1, "n": 3},
    ),
    "sub-commands": (
        'p = sub.add_parser("train")\nq = sub.add_parser("eval")\n'
        'p.add_argument("--batch", default=8)\nq.add_argument("--batch", default=9)\n'
        'p.add_argument("--lr", default=0.1)\n',
        {"train.batch": 8, "eval.batch": 9, "lr": 0.1},
    ),
    "a Lightning module": (
        "class Net(L.LightningModule):\n    def __init__(self, lr=0.1, width=8):\n        pass\n"
        "net = Net(width=4)\n",
        {"Net.lr": 0.1, "Net.width": 4},
    ),
    "parameters of boosted trees": (
        'param = {"max_depth": 6, "eta": 0.3}\n',
        {"param.max_depth": 6, "param.eta": 0.3},
    ),
}


@pytest.mark.parametrize(("source", "expected"), SETTINGS.values(), ids=SETTINGS)
def test_reads_settings_of_more_kinds(source: str, expected: dict[str, Scalar]) -> None:
    assert {item.name: item.value for item in read(source, "train.py")} == expected


def test_the_switches_of_yaml_flip_in_their_own_style() -> None:
    source = "a: True\nb: false\nc: yes\nd: OFF\ne: null\n"
    assert {item.name: item.value for item in read(source, "c.yaml")} == {
        "a": True,
        "b": False,
        "c": True,
        "d": False,
    }
    flipped = replace(source, {"a": False, "b": True, "c": False, "d": True}, "c.yaml")
    assert flipped == "a: False\nb: true\nc: no\nd: ON\ne: null\n"


def test_what_a_shell_script_gives_its_commands_is_set_there() -> None:
    source = "#!/bin/bash\nLR=0.1\n# --lr 9\n"
    source += "python train.py --dropout=0.1 --batch-size 64 \\\n  --lr $LR optim.wd=1e-2 --wide\n"
    found = {item.name: item.value for item in read(source, "run.sh")}
    assert found == {"LR": 0.1, "--dropout": 0.1, "--batch-size": 64, "optim.wd=": 0.01}
    changed = replace(source, {"--batch-size": 32, "optim.wd=": 0.02}, "run.sh")
    assert "--batch-size 32 \\" in changed
    assert "optim.wd=0.02 --wide" in changed
