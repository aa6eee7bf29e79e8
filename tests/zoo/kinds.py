# ruff: noqa: E501  scripts as one line each are easier to compare than wrapped ones
"""Small workspaces, one for each kind of script that people have: what is in them, and what must be found."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen


@frozen(kw_only=True)
class Kind:
    files: Mapping[str, str]
    moves: frozenset[str] = field(converter=lambda names: frozenset(names.split()))
    """The settings that the offline agent may move, and no others."""
    stays: frozenset[str] = field(default="", converter=lambda names: frozenset(names.split()))
    """Settings that are found, and stay."""
    command: str = ""
    """How it is run, without any package but Python's own; empty: it is only read."""


_END = """
import math, os, random
noise = random.Random(int(os.environ.get("ARF_SEED", 0))).gauss(0, 0.001)
def score(lr, width=64):
    print(f"val_loss: {1 + math.log10(lr / 0.01) ** 2 / 9 + 4 / width + noise:.6f}")
"""

KINDS: dict[str, Kind] = {
    "constants": Kind(
        files={"train.py": _END + "LR = 0.1\nWIDTH = 32\nEVAL_BATCHES = 5\nSEED = 3\nscore(LR, WIDTH)\n"},
        moves="LR WIDTH", stays="EVAL_BATCHES SEED", command="{python} train.py",
    ),
    "lower case": Kind(
        files={"train.py": _END + "lr = 0.1\nmax_iters = 100\nlog_interval = 5\nscore(lr)\n"},
        moves="lr", stays="max_iters log_interval", command="{python} train.py",
    ),
    "argparse": Kind(
        files={
            "train.py": _END + "import argparse\np = argparse.ArgumentParser()\n"
            "p.add_argument('--lr', type=float, default=0.1)\np.add_argument('--val-size', type=int, default=9)\n"
            "p.add_argument('--epochs', type=int, default=2)\na = p.parse_args()\nscore(a.lr)\n"
        },
        moves="lr", stays="val_size epochs", command="{python} train.py",
    ),
    "sub-commands of argparse": Kind(
        files={
            "train.py": _END + "import argparse\np = argparse.ArgumentParser()\ns = p.add_subparsers(dest='c')\n"
            "t = s.add_parser('train')\ne = s.add_parser('evaluate')\n"
            "t.add_argument('--batch', type=int, default=8)\ne.add_argument('--batch', type=int, default=8)\n"
            "t.add_argument('--lr', type=float, default=0.1)\na = p.parse_args()\nscore(a.lr, a.batch * 8)\n"
        },
        moves="lr train.batch", stays="evaluate.batch", command="{python} train.py train",
    ),
    "a dataclass": Kind(
        files={
            "train.py": _END + "from dataclasses import dataclass\n@dataclass\nclass Config:\n    lr: float = 0.1\n"
            "    width: int = 32\n    eval_iters: int = 20\n@dataclass\nclass EvalConfig:\n    width: int = 8\n"
            "c, e = Config(), EvalConfig()\nscore(c.lr, c.width)\n"
        },
        moves="Config.lr Config.width", stays="Config.eval_iters EvalConfig.width", command="{python} train.py",
    ),
    "a nested dict": Kind(
        files={
            "train.py": _END + "config = {'optim': {'lr': 0.1}, 'eval': {'stride': 4}, 'data': {'num_samples': 9}}\n"
            "score(config['optim']['lr'])\n"
        },
        moves="config.optim.lr", stays="config.eval.stride config.data.num_samples", command="{python} train.py",
    ),
    "a holder that is filled afterwards": Kind(
        files={
            "train.py": _END + "class CN:\n    pass\ndef get_config():\n    C = CN()\n    C.optim = CN()\n"
            "    C.optim.lr = 0.1\n    C.eval_steps = 5\n    return C\nscore(get_config().optim.lr)\n"
        },
        moves="C.optim.lr", stays="C.eval_steps", command="{python} train.py",
    ),
    "the parameters of main": Kind(
        files={"train.py": _END + "def main(lr=0.1, width=32, device='cpu'):\n    score(lr, width)\nmain()\n"},
        moves="main.lr main.width", stays="main.device", command="{python} train.py",
    ),
    "variables of main": Kind(
        files={"train.py": _END + "def main():\n    lr = 0.1\n    num_epochs = 3\n    score(lr)\nmain()\n"},
        moves="main.lr", stays="main.num_epochs", command="{python} train.py",
    ),
    "JSON": Kind(
        files={
            "conf.json": '{"optim": {"lr": 0.1}, "eval": {"batch_size": 4}, "seed": 1}\n',
            "train.py": _END + "import json\nscore(json.load(open('conf.json'))['optim']['lr'])\n",
        },
        moves="optim.lr", stays="eval.batch_size seed", command="{python} train.py",
    ),
    "TOML": Kind(
        files={
            "conf.toml": "[optim]\nlr = 0.1\n[validation]\nbatch_size = 4\n",
            "train.py": _END + "import tomllib\nscore(tomllib.load(open('conf.toml', 'rb'))['optim']['lr'])\n",
        },
        moves="optim.lr", stays="validation.batch_size", command="{python} train.py",
    ),
    "YAML with switches": Kind(
        files={"conf.yaml": "optim: {lr: 0.1}\nmodel:\n  use_bias: True\n  tie: no\n  act: null\nlogging: {rank: 8}\n"},
        moves="optim.lr model.use_bias model.tie", stays="logging.rank",
    ),
    "Hydra": Kind(
        files={
            "conf/config.yaml": "defaults:\n  - _self_\n  - optim: adam\n\ntrainer:\n  max_epochs: 3\n",
            "conf/optim/adam.yaml": "lr: 0.1\n",
            "conf/optim/sgd.yaml": "lr: 0.2\nmomentum: 0.9\n",
        },
        moves="lr", stays="trainer.max_epochs",
    ),
    "a shell script": Kind(
        files={
            "run.sh": "#!/bin/sh\nexport EVAL_ITERS=5\n$1 train.py --lr 0.1 --width=32 --seed 1\n",
            "train.py": _END + "import argparse\np = argparse.ArgumentParser()\n"
            "p.add_argument('--lr', type=float, default=9.0)\np.add_argument('--width', type=int, default=9)\n"
            "p.add_argument('--seed', type=int)\na = p.parse_args()\nscore(a.lr, a.width)\n",
        },
        moves="--lr --width", stays="EVAL_ITERS --seed lr width", command="sh run.sh {python}",
    ),
    "absl": Kind(
        files={
            "train.py": "from absl import flags\nflags.DEFINE_float('learning_rate', 0.1, 'Rate.')\n"
            "flags.DEFINE_integer('eval_batches', 10, 'Batches.')\nflags.DEFINE_string('log_dir', 'x', 'Where.')\n"
        },
        moves="learning_rate", stays="eval_batches log_dir",
    ),
    "ml_collections": Kind(
        files={
            "config.py": "import ml_collections\ndef get_config():\n    config = ml_collections.ConfigDict()\n"
            "    config.learning_rate = 0.1\n    config.momentum = 0.9\n    config.num_epochs = 9\n    return config\n"
        },
        moves="config.learning_rate config.momentum", stays="config.num_epochs",
    ),
    "OmegaConf": Kind(
        files={"train.py": "cfg = OmegaConf.create({'optim': {'lr': 0.1}, 'wandb': {'rank': 3}})\n"},
        moves="cfg.optim.lr", stays="cfg.wandb.rank",
    ),
    "tyro": Kind(
        files={"train.py": "@dataclass\nclass Args:\n    lr: float = 0.1\n    save_every: int = 5\na = tyro.cli(Args)\n"},
        moves="Args.lr", stays="Args.save_every",
    ),
    "fire": Kind(
        files={"train.py": "def work(lr=0.1, dropout=0.1, out_dir='x'):\n    pass\nfire.Fire(work)\n"},
        moves="work.lr work.dropout", stays="work.out_dir",
    ),
    "click": Kind(
        files={"train.py": "@click.option('--lr', default=0.1)\n@click.option('--val-split', default=0.1)\ndef f(lr, val_split):\n    pass\n"},
        moves="lr", stays="val_split",
    ),
    "Hugging Face arguments": Kind(
        files={
            "train.py": "@dataclass\nclass ModelArguments:\n    dropout: float = field(default=0.1)\n"
            "@dataclass\nclass DataArguments:\n    max_eval_samples: int = field(default=9)\n"
            "    max_train_samples: int = field(default=9)\n    validation_split_percentage: int = field(default=5)\n"
        },
        moves="ModelArguments.dropout",
        stays="DataArguments.max_eval_samples DataArguments.max_train_samples DataArguments.validation_split_percentage",
    ),
    "TrainingArguments": Kind(
        files={
            "train.py": "args = TrainingArguments(output_dir='x', learning_rate=0.1, weight_decay=0.1, num_train_epochs=3,\n"
            "    per_device_eval_batch_size=8, logging_steps=5, per_device_train_batch_size=8)\n"
        },
        moves="TrainingArguments.learning_rate TrainingArguments.weight_decay "
        "TrainingArguments.per_device_train_batch_size",
        stays="TrainingArguments.per_device_eval_batch_size TrainingArguments.num_train_epochs TrainingArguments.logging_steps",
    ),
    "Lightning": Kind(
        files={
            "train.py": "class Net(L.LightningModule):\n    def __init__(self, lr=0.1, hidden=64):\n        pass\n"
            "class Data(L.LightningDataModule):\n    def __init__(self, batch_size=8, num_workers=4):\n        pass\n"
            "t = L.Trainer(max_epochs=3, gradient_clip_val=1.0, limit_val_batches=0.5, fast_dev_run=1)\nt.fit(Net(), Data())\n"
        },
        moves="Net.lr Net.hidden Data.batch_size Trainer.gradient_clip_val",
        stays="Data.num_workers Trainer.max_epochs Trainer.limit_val_batches Trainer.fast_dev_run",
    ),
    "Keras": Kind(
        files={"train.py": "model.compile(optimizer=Adam(learning_rate=0.1))\nmodel.fit(x, y, batch_size=32, epochs=3, verbose=2)\n"},
        moves="Adam.learning_rate fit.batch_size", stays="fit.epochs fit.verbose",
    ),
    "scikit-learn": Kind(
        files={"train.py": "m = RandomForestClassifier(n_estimators=64, max_depth=6, n_jobs=4, random_state=0)\n"},
        moves="RandomForestClassifier.n_estimators RandomForestClassifier.max_depth",
        stays="RandomForestClassifier.n_jobs RandomForestClassifier.random_state",
    ),
    "xgboost": Kind(
        files={"train.py": "param = {'max_depth': 6, 'learning_rate': 0.3, 'subsample': 0.8, 'nthread': 4, 'seed': 1}\nxgb.train(param, d)\n"},
        moves="param.max_depth param.learning_rate param.subsample", stays="param.nthread param.seed",
    ),
    "C": Kind(
        files={"train.c": "#define LEARNING_RATE 0.1f\n#define WIDTH 64\n#define EVAL_STEPS 5\nint main() { return 0; }\n"},
        moves="LEARNING_RATE WIDTH", stays="EVAL_STEPS",
    ),
    "C++": Kind(
        files={"train.cpp": "constexpr float LEARNING_RATE = 0.1f;\nconst int BATCH_SIZE = 64;  // per step\n"},
        moves="LEARNING_RATE BATCH_SIZE",
    ),
    "CUDA": Kind(
        files={"kernel.cu": "#define TILE 32  // [8 | 16 | 32]\nconstexpr int THREADS = 128;  // [64..512, step 32]\n"},
        moves="TILE THREADS",
    ),
    "Rust": Kind(
        files={"main.rs": "const LEARNING_RATE: f32 = 0.1;\npub const WIDTH: usize = 64;\nconst TEST_SIZE: usize = 9;\n"},
        moves="LEARNING_RATE WIDTH", stays="TEST_SIZE",
    ),
    "Go": Kind(files={"main.go": "const LEARNING_RATE = 0.1\nvar DROPOUT float64 = 0.1\n"}, moves="LEARNING_RATE DROPOUT"),
    "Julia": Kind(files={"main.jl": "const LEARNING_RATE = 0.1\nconst N_TRAIN = 9\n"}, moves="LEARNING_RATE", stays="N_TRAIN"),
    "Lua": Kind(files={"main.lua": "LEARNING_RATE = 0.1 -- rate\nlocal WIDTH = 64\n"}, moves="LEARNING_RATE WIDTH"),
    "make": Kind(files={"Makefile": "LR := 0.1\nSAMPLES ?= 9\nrun:\n\ttrain --lr $(LR)\n"}, moves="LR", stays="SAMPLES"),
    "an environment file": Kind(files={"train.env": "LR=0.1\nTEST_SEED=1\n"}, moves="LR", stays="TEST_SEED"),
    "INI": Kind(files={"train.ini": "[optim]\nlr = 0.1\n[test]\nbatch_size = 4\n"}, moves="optim.lr", stays="test.batch_size"),
    "a file of evaluation": Kind(files={"eval.yaml": "batch_size: 8\n", "train.yaml": "lr: 0.1\n"}, moves="lr", stays="batch_size"),
    "an idea of the script's own": Kind(
        files={"train.py": "MIXING = 3  # how much [1..9]\nWOBBLE = 2\n"}, moves="MIXING", stays="WOBBLE"
    ),
    "a constant that changes in place": Kind(files={"train.py": "LR = 0.1\nLR *= 2\nWIDTH = 64\n"}, moves="WIDTH", stays="LR"),
    "equal names in two files": Kind(files={"a.py": "LR = 0.1\n", "b.py": "LR = 0.2\nWIDTH = 64\n"}, moves="WIDTH", stays="LR"),
}  # fmt: skip
