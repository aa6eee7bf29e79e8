"""What every agent must do: answer an ask with changes that apply, and repeat nothing."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from arf.errors import AgentError
from arf.interfaces import Agent, Brief
from arf.study import Study
from arf.types import Answer, Ask, AskKind, Draft, Factor, FactorDraft, Idea, Tier

SCRIPT = '''\
"""Trains a small model."""

import time

# Architecture
DEPTH = 4  # layers
WIDTH = 128  # a multiple of HEADS
HEADS = 4
DROPOUT = 0.1
ACTIVATION = "gelu"  # one of gelu, relu

# Optimisation
LEARNING_RATE = 3e-4
WEIGHT_DECAY = 0.01
BATCH_SIZE = 32
WARMUP_RATIO = 0.05
USE_BIAS = True


def main() -> None:
    started = time.time()
    loss = (LEARNING_RATE - 1e-3) ** 2 + DROPOUT / DEPTH
    print(f"val_bpb: {loss:.6f}")
    print(f"seconds: {time.time() - started:.1f}")


main()
'''

BASE = "ba5e" * 10


class AgentSuite(ABC):
    """Subclass it, implement `make`, and name it `Test…`.

    An agent that needs other files to have ideas about sets `files`.
    """

    timeout_s: ClassVar[float] = 60.0
    files: Mapping[str, str] = {"train.py": SCRIPT}
    """What it may edit: path and text."""
    gives_ideas: ClassVar[bool] = True
    """Whether it has at least one idea for `files`."""
    gives_factors: ClassVar[bool] = False
    """Whether it has at least one factor for `files`."""
    rounds: ClassVar[int] = 4
    """How many asks in a row are tried; each costs what an answer costs."""

    @abstractmethod
    def make(self) -> Agent:
        """An agent as a study would make it."""

    # ---- What the tests are written with ----------------------------------------------------

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def study(self) -> Study:
        return Study(name="suite", base=BASE, base_tree="7" * 40, tiers=[Tier(name="cpu", slots=2)])

    def brief(self, study: Study, files: Mapping[str, str] | None = None) -> Brief:
        directory = self.folder / "agent"
        directory.mkdir(exist_ok=True)
        return Brief(
            study=study,
            files=self.files if files is None else files,
            program="Make val_bpb small.",
            directory=directory,
        )

    async def ask(self, agent: Agent, ask: Ask, brief: Brief) -> Answer:
        """Ask, check what must hold of every answer, and let the study know of it."""
        answer = await asyncio.wait_for(agent.answer(ask, brief), self.timeout_s)
        assert isinstance(answer, Answer)
        assert len(answer.ideas) <= (ask.n if ask.kind is AskKind.IDEAS else 0)
        assert len(answer.factors) <= (ask.n if ask.kind is AskKind.FACTORS else 0)
        assert answer.usage.usd >= 0
        assert 0 <= answer.usage.cached_tokens <= answer.usage.input_tokens
        assert answer.usage.output_tokens >= 0
        for draft in [*answer.ideas, *(level for factor in answer.factors for level in factor.levels)]:
            self.check(draft, brief.files)
        for factor in answer.factors:
            assert factor.name
            assert factor.levels
        _tell(brief.study, ask, answer)
        return answer

    def check(self, draft: Draft, files: Mapping[str, str]) -> None:
        """A draft is one kind of change, with a title, and it applies."""
        assert draft.title.strip()
        assert len(draft.title.splitlines()) == 1
        kinds = [bool(kind) for kind in (draft.constants, draft.edits, draft.patch, draft.commit)]
        assert kinds.count(True) == 1, f"{draft.title}: a draft is exactly one of the four kinds of change"
        for name in draft.constants:
            assert any(name in text for text in files.values()), f"there is no constant {name}"
        for edit in draft.edits:
            assert edit.old != edit.new
            if edit.old:
                assert files[edit.path].count(edit.old) == 1
            else:
                assert edit.path not in files
        if draft.patch:
            _check_patch(draft.patch, files, self.folder / "patch")

    async def asked(self, kind: AskKind, n: int) -> list[Answer]:
        """The answers to `rounds` asks in a row, up to the first that is exhausted."""
        agent, study = self.make(), self.study()
        answers = []
        for _ in range(self.rounds):
            answers.append(await self.ask(agent, Ask(kind=kind, n=n, base=BASE), self.brief(study)))
            if answers[-1].exhausted:
                break
        await agent.aclose()
        return answers

    # ---- The contract -----------------------------------------------------------------------

    def test_answers_at_least_one_ask_at_a_time(self) -> None:
        assert self.make().parallel >= 1

    @pytest.mark.parametrize("n", [1, 5])
    def test_has_ideas_that_apply(self, n: int) -> None:
        answers = asyncio.run(self.asked(AskKind.IDEAS, n))
        if self.gives_ideas:
            assert answers[0].ideas

    def test_repeats_no_idea(self) -> None:
        answers = asyncio.run(self.asked(AskKind.IDEAS, 4))
        changes = [_change(draft) for answer in answers for draft in answer.ideas]
        assert len(set(changes)) == len(changes)

    def test_a_new_agent_repeats_nothing_that_the_study_has(self) -> None:
        """As after a resume."""

        async def main() -> None:
            study = self.study()
            changes: list[object] = []
            for _ in range(2):
                agent = self.make()
                answer = await self.ask(agent, Ask(n=3, base=BASE), self.brief(study))
                changes += [_change(draft) for draft in answer.ideas]
                await agent.aclose()
            assert len(set(changes)) == len(changes)

        asyncio.run(main())

    def test_answers_factors_with_factors(self) -> None:
        answers = asyncio.run(self.asked(AskKind.FACTORS, 3))
        factors = [factor for answer in answers for factor in answer.factors]
        for answer in answers:
            assert len({factor.name for factor in answer.factors}) == len(answer.factors)
        for factor in factors:
            assert len({_change(level) for level in factor.levels}) == len(factor.levels)
        if self.gives_factors:
            assert factors

    @pytest.mark.parametrize(
        "files",
        [{}, {"train.py": ""}, {"train.py": "def broken(:\n"}, {"run.sh": "#!/bin/sh\necho 1\n"}],
        ids=["no files", "an empty file", "a syntax error", "another language"],
    )
    def test_files_that_it_can_do_nothing_with_end_in_an_empty_answer_or_an_agent_error(
        self, files: Mapping[str, str]
    ) -> None:
        async def main() -> None:
            agent = self.make()
            try:
                brief = self.brief(self.study(), files)
                answer = await asyncio.wait_for(agent.answer(Ask(n=2, base=BASE), brief), self.timeout_s)
                assert isinstance(answer, Answer)
            except AgentError:
                pass  # the one error that an agent may raise
            finally:
                await agent.aclose()

        asyncio.run(main())

    def test_can_be_interrupted(self) -> None:
        async def main() -> None:
            agent = self.make()
            task = asyncio.ensure_future(agent.answer(Ask(n=2, base=BASE), self.brief(self.study())))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task], timeout=self.timeout_s)
            assert task.done()
            await agent.aclose()

        asyncio.run(main())

    def test_can_be_closed_without_having_been_asked(self) -> None:
        asyncio.run(self.make().aclose())


def _change(draft: Draft) -> object:
    """What a draft does, whatever it is called."""
    return tuple(sorted(draft.constants.items())), draft.edits, draft.patch, draft.commit


def _tell(study: Study, ask: Ask, answer: Answer) -> None:
    """Do to the study what the engine does with an answer."""
    number = study.happened + 1
    study.open_ask(number, ask)
    for draft in answer.ideas:
        study.add_idea(_idea(study, draft, ask, number))
    for factor in answer.factors:
        study.add_factor(_factor(study, factor, ask, number))
    study.close_ask(number, answer.usage, answer.exhausted)


def _idea(study: Study, draft: Draft, ask: Ask, number: int) -> Idea:
    id_ = len(study.ideas) + 1
    return Idea(
        id=id_,
        title=draft.title,
        reason=draft.reason,
        base=ask.base,
        commit=draft.commit or f"{id_:040x}",
        constants=draft.constants,
        ask=number,
        expected=draft.expected,
    )


def _factor(study: Study, factor: FactorDraft, ask: Ask, number: int) -> Factor:
    levels = []
    for level in factor.levels:
        idea = _idea(study, level, ask, number)
        study.add_idea(idea)
        levels.append(idea.id)
    return Factor(name=factor.name, levels=tuple(levels), ask=number)


def _check_patch(patch: str, files: Mapping[str, str], folder: Path) -> None:
    """Apply a unified diff to the files with git."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    done = subprocess.run(
        ["git", "apply", "--check", "-"], cwd=folder, input=patch.encode(), capture_output=True, check=False
    )
    assert done.returncode == 0, f"the patch does not apply: {done.stderr.decode(errors='replace')}"
