"""The `offline` agent: what it moves, what it leaves alone, and what it learns."""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import statistics
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve, field

from arf.constants import read, replace
from arf.errors import AgentError
from arf.interfaces import Agent, Brief
from arf.plugins import Plugins
from arf.study import Study
from arf.testing.laboratory import Laboratory
from arf.testing.suites import AgentSuite
from arf.types import (
    Answer,
    Ask,
    AskKind,
    Draft,
    Experiment,
    ExperimentState,
    Idea,
    NoiseRule,
    Plan,
    Role,
    Scalar,
    Tier,
    Usage,
    Verdict,
)
from arf_plugins.agent_offline import OfflineOptions
from arf_plugins.agent_offline.agent import OfflineAgent
from arf_plugins.agent_offline.space import read_space
from arf_plugins.strategy_greedy.strategy import Greedy

BASE = "ba5e" * 10

ANNOTATED = """\
# Sizes
DEPTH = 4  # transformer layers [1..16]
WIDTH = 64  # model width, channels [32..512, multiple of HEAD_DIM]
HEAD_DIM = 32  # channels of one attention head [16 | 32 | 64 | 128]
MLP_RATIO = 4  # hidden channels per channel of width [1..8]
ACTIVATION = "relu2"  # ["relu2" | "gelu" | "silu"]
EMBEDS = "none"  # embeddings of values ["none" | "alternate" | "all"]
SOFTCAP = 0.0  # 0 is off [0..50]
BATCH = 6  # sequences [1..512, log]
GRAD_ACCUM = 1  # passes per step [1..16]
LR_MULT = 1.0  # multiplier of every learning rate [0.05..20, log]
MATRIX_LR = 0.02  # Muon [0.001..0.5, log]
EMBED_LR = 0.2  # Adam [0.005..5, log]
WEIGHT_DECAY = 0.0  # decoupled [0..1]
MOMENTUM = 0.95  # Nesterov [0.5..0.99]
BETA2 = 0.95  # Adam [0.8..0.999]
WARMUP_RATIO = 0.1  # share of the budget [0..0.5]
WARMDOWN_RATIO = 0.2  # share of the budget [0..1]
FINAL_LR_FRAC = 0.0  # share of the peak [0..1]
"""

PLAIN = """\
import torch
ASPECT_RATIO = 64       # model_dim = depth * ASPECT_RATIO
HEAD_DIM = 128          # target head dimension for attention
WINDOW_PATTERN = "SSSL" # sliding window pattern: L=full, S=half context
TOTAL_BATCH_SIZE = 2**19 # ~524K tokens per optimizer step
EMBEDDING_LR = 0.6      # learning rate for token embeddings (Adam)
WEIGHT_DECAY = 0.2      # cautious weight decay for Muon
ADAM_BETAS = (0.8, 0.95) # Adam beta1, beta2
WARMUP_RATIO = 0.0      # fraction of time budget for LR warmup
DEPTH = 8               # number of transformer layers
DEVICE_BATCH_SIZE = 128  # per-device batch size (reduce if OOM)
H100_BF16_PEAK_FLOPS = 989.5e12
"""


def new_study(**settings: Any) -> Study:
    return Study(name="s", base=BASE, base_tree="7" * 40, tiers=[Tier(name="cpu", slots=2)], **settings)


def answer(agent: Agent, study: Study, text: str, ask: Ask | None = None, path: str = "train.py") -> Answer:
    brief = Brief(study=study, files={path: text})
    return asyncio.run(agent.answer(ask or Ask(n=200, base=BASE), brief))


def moves(text: str, path: str = "train.py") -> dict[str, list[Scalar]]:
    """What each constant of a script may become by itself."""
    space = read_space({path: text})
    found: dict[str, list[Scalar]] = {name: [] for name in space.scales}
    for name, value in space.moves:
        found[name].append(value)
    return found


class TestOffline(AgentSuite):
    gives_factors = True

    def make(self) -> Agent:
        return OfflineAgent()


class TestOfflineOnAnAnnotatedScript(TestOffline):
    files: Mapping[str, str] = {"train.py": ANNOTATED}


class TestOfflineOnTuplesAndPlainComments(TestOffline):
    files: Mapping[str, str] = {"train.py": PLAIN}


# ------------------------------------------------------------------------------------------- a simulation


def share(value: float) -> float:
    return 10 * math.asin(math.sqrt((value + 0.02) / 1.04))


def truth_of(v: Mapping[str, Any]) -> float:
    """A made-up val_bpb of ANNOTATED: bent in logarithms, with interactions like those of a real training.

    Learning rates stand in for one another and their best value depends on batch and width; depth and width
    compete for one budget. 2.744 as the script is; the best is near 2.46. Too high a learning rate diverges.
    """
    w, d = math.log2(v["WIDTH"] / 64), math.log2(v["DEPTH"] / 4)
    b = math.log2(v["BATCH"] * v["GRAD_ACCUM"] / 6)
    e = math.log2(v["EMBED_LR"] / 0.2)
    rate = math.log2(v["LR_MULT"]) + 0.7 * math.log2(v["MATRIX_LR"] / 0.02) + 0.3 * e
    best = 1.32 + 0.5 * (b + 0.6) - 0.2 * w
    if rate > best + 2.5:
        return math.nan
    loss = 2.5 + 0.055 * (rate - best) ** 2 + 0.01 * (e - 0.5) ** 2
    loss += 0.03 * (2 * w + d + 1) ** 2 + 0.06 * (w - 0.5 * d - 0.3) ** 2 + 0.03 * (b + 0.8) ** 2
    loss += {16: 0.15, 32: 0, 64: 0.02, 128: 0.06}[v["HEAD_DIM"]] + 0.006 * math.log2(v["MLP_RATIO"] / 3) ** 2
    loss += {"relu2": 0, "gelu": 0.004, "silu": 0.006}[v["ACTIVATION"]]
    loss += {"none": 0, "alternate": -0.02, "all": -0.015}[v["EMBEDS"]]
    loss += 0 if v["SOFTCAP"] == 0 else 0.002 * math.log2(v["SOFTCAP"] / 20) ** 2 - 0.004
    loss += 0.25 * (v["WEIGHT_DECAY"] - 0.05) ** 2
    loss += (
        0.01 * (-math.log2(1 - v["MOMENTUM"]) - 4.3) ** 2 + 0.002 * (-math.log2(1 - v["BETA2"]) - 4.6) ** 2
    )
    loss += 0.004 * (share(v["WARMUP_RATIO"]) - share(0.05)) ** 2
    loss += 0.004 * (share(v["WARMDOWN_RATIO"]) - share(0.45)) ** 2
    return loss + 0.002 * (share(v["FINAL_LR_FRAC"]) - share(0.03)) ** 2


def values_of(text: str) -> dict[str, Any]:
    return {constant.name: constant.value for constant in read(text, "train.py")}


@define
class Bench(Laboratory):
    """A study in memory of a script whose `truth_of` is known, with the real judge and greedy strategy."""

    agent: Agent = field(factory=OfflineAgent)
    text: str = ANNOTATED
    outcome: Callable[[Mapping[str, Any]], float] = truth_of
    texts: dict[str, str] = field(factory=dict)
    progress: list[float] = field(factory=list)
    """The truth of the incumbent after each experiment that ended."""
    directory: Path | None = None
    answers: list[Answer] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.texts[BASE] = self.text

    def new_study(self) -> Any:
        study = super().new_study()
        study.base = study.incumbent_commit = BASE
        study.incumbent_tree = study.base_tree = self.tree(self.text)
        return study

    def tree(self, text: str) -> str:
        return hashlib.sha1(text.encode()).hexdigest()

    def accept(self, plan: Plan, tier: str) -> None:
        text = self.texts[plan.parent]
        for number in plan.ideas:
            text = replace(text, self.study.ideas[number].constants, "train.py")
        group = self.study.group(self.tree(text), tier, plan.budget)
        if plan.role is Role.CANDIDATE and group is not None:
            self.tell("refuse", plan.parent, plan.ideas, "the same code")
            return
        commit = plan.parent if text == self.texts[plan.parent] else f"c{self.tree(text)[1:]}"
        self.texts.setdefault(commit, text)
        experiment = Experiment(
            id=len(self.study.experiments) + 1,
            role=plan.role,
            parent=plan.parent,
            ideas=plan.ideas,
            commit=commit,
            tree=self.tree(text),
            tier=tier,
            seed=0,
            accepted_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        self.tell("put", experiment)

    def answer(self, number: int) -> None:
        ask = self.study.open_asks[number]
        brief = Brief(study=self.study, files={"train.py": self.texts[ask.base]}, directory=self.directory)
        given = asyncio.run(self.agent.answer(ask, brief))
        self.answers.append(given)
        for draft in given.ideas:
            self.tell("add_idea", idea(self.study, draft, base=ask.base, ask=number))
            self.texts[f"{len(self.study.ideas):040x}"] = replace(
                self.texts[ask.base], draft.constants, "train.py"
            )
        self.tell("close_ask", number, Usage(), given.exhausted)

    def end(self, number: int) -> None:
        experiment = self.study.experiments[number]
        value = self.outcome(values_of(self.texts[experiment.commit])) + self.chance.gauss(0.0, self.sigma)
        crashed = math.isnan(value)
        ended = evolve(
            experiment,
            state=ExperimentState.ENDED,
            value=None if crashed else value,
            verdict=Verdict.CRASH if crashed else None,
        )
        self.tell("put", ended)
        self.progress.append(self.best)

    @property
    def best(self) -> float:
        return self.outcome(values_of(self.texts[self.study.incumbent_commit]))


def idea(study: Study, draft: Draft, **fields: Any) -> Idea:
    number = len(study.ideas) + 1
    return Idea(
        id=number, title=draft.title, reason=draft.reason, commit=f"{number:040x}", constants=draft.constants,
        expected=draft.expected, **{"base": BASE} | fields,
    )  # fmt: skip


class RandomAgent(Agent):
    """Any move of any constant: what an agent that learns is to be compared with."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._given: set[object] = set()

    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        space = read_space(brief.files)
        drafts: list[Draft] = []
        while len(drafts) < ask.n:
            name = self._random.choice(sorted(space.scales))
            value = self._random.choice([value for other, value in space.moves if other == name])
            key = frozenset({**space.values, name: value}.items())
            if key not in self._given:
                self._given.add(key)
                drafts.append(Draft(title=f"{name} {space.values[name]} -> {value}", constants={name: value}))
        return Answer(ideas=tuple(drafts))


def simulated(agent: Agent, seed: int, n: int, sigma: float = 0.009, **settings: Any) -> Bench:
    bench = Bench(
        Greedy(),
        agent=agent,
        seed=seed,
        sigma=sigma,
        tiers=[Tier(name="cpu", slots=2)],
        parallel=1,
        max_experiments=n,
        rule=NoiseRule(confirm=0),
        **settings,
    )
    bench.run()
    return bench


@pytest.mark.slow
def test_gets_further_than_random_moves_in_simulation(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints the figures of docs/agents/offline.md."""
    seeds = range(20)
    agents = {"offline": lambda seed: OfflineAgent(), "random": RandomAgent}
    means: dict[tuple[str, int], float] = {}
    for label, make in agents.items():
        runs = [simulated(make(seed), seed, 60).progress for seed in seeds]
        for k in (20, 40, 60):
            at = [progress[min(k, len(progress)) - 1] for progress in runs]
            means[label, k] = statistics.mean(at)
            with capsys.disabled():
                print(
                    f"\n{label} after {k}: {means[label, k]:.4f} (from {min(at):.4f} to {max(at):.4f})",
                    end="",
                )
    start = truth_of(values_of(ANNOTATED))
    for k in (40, 60):
        assert start - means["offline", k] > 1.2 * (start - means["random", k])
