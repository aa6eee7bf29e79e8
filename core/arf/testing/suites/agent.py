"""What every agent must do: answer an ask with changes that apply, and repeat nothing."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from arf.errors import AgentError, ConflictError, UsageError
from arf.interfaces import Agent, Brief
from arf.plugins.guards import wrong_answer, wrong_cost
from arf.study import Study
from arf.types import Answer, Ask, AskKind, Draft, Factor, FactorDraft, Idea, Tier, WorkspaceSettings
from arf.workspace import open_workspace

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

    blocks_s: ClassVar[float] = 2.0
    """How long it may keep the event loop to itself: nothing else of arf goes on meanwhile."""

    @abstractmethod
    def make(self) -> Agent:
        """An agent as a study would make it."""

    # ---- What the tests are written with ----------------------------------------------------

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self._applied_to: Mapping[str, str] | None = None
        self.blocked_s: list[float] = []

    def study(self) -> Study:
        """The study that the agent is asked about."""
        return Study(name="suite", base=BASE, base_tree="7" * 40, tiers=[Tier(name="cpu", slots=2)])

    def brief(self, study: Study, files: Mapping[str, str] | None = None) -> Brief:
        """What the agent is told; `files` takes the place of the suite's own."""
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
        before = _told(brief.study)
        async with _measured(self.blocked_s):
            answer = await asyncio.wait_for(agent.answer(ask, brief), self.timeout_s)
        assert not wrong_answer(answer)
        given = f"{ask.n} {ask.kind} were asked for"
        assert len(answer.ideas) <= (ask.n if ask.kind is AskKind.IDEAS else 0), given
        assert len(answer.factors) <= (ask.n if ask.kind is AskKind.FACTORS else 0), given
        assert not answer.submissions, given
        assert answer.usage.cached_tokens <= answer.usage.input_tokens
        assert _told(brief.study) == before, "it changed the study"
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
        assert draft.expected is None or math.isfinite(draft.expected)
        if not draft.commit:
            self.apply(draft, files)

    def apply(self, draft: Draft, files: Mapping[str, str]) -> None:
        """Make the commit of a draft, as a study would."""
        folder = self.folder / "workspace"
        if files != self._applied_to:
            shutil.rmtree(folder, ignore_errors=True)
            _make_repository(folder, files)
            self._applied_to = dict(files)
        workspace = open_workspace(folder, WorkspaceSettings(command="true", editable=("**",)))
        try:
            workspace.make_idea(draft, workspace.base_commit(), message="x")
        except (ConflictError, UsageError) as error:
            raise AssertionError(f"{draft.title}: {error}") from error
        finally:
            workspace.close()

    async def asked(self, kind: AskKind, n: int) -> list[Answer]:
        """The answers to `rounds` asks in a row, up to the first that is exhausted."""
        agent, study = self.make(), self.study()
        answers = []
        for _ in range(self.rounds):
            answers.append(await self.ask(agent, Ask(kind=kind, n=n, base=BASE), self.brief(study)))
            if answers[-1].exhausted:
                break
        await agent.aclose()
        least_s = min(self.blocked_s)  # the first may have to import things
        assert least_s <= self.blocks_s, (
            f"it blocks the event loop for {least_s:.1f} s: await, or use a thread"
        )
        return answers

    # ---- The contract -----------------------------------------------------------------------

    def test_answers_as_many_asks_at_a_time_as_it_says(self) -> None:
        async def main() -> None:
            agent, brief = self.make(), self.brief(self.study())
            assert agent.parallel >= 1
            asks = [Ask(n=1, base=BASE) for _ in range(min(agent.parallel, 4))]
            answers = asyncio.gather(*(agent.answer(ask, brief) for ask in asks))
            for answer in await asyncio.wait_for(answers, self.timeout_s):
                assert not wrong_answer(answer)
            await agent.aclose()

        asyncio.run(main())

    def test_checks_and_estimates_before_it_is_asked(self) -> None:
        agent, brief = self.make(), self.brief(self.study())
        agent.check(brief)
        assert not wrong_cost(agent.estimate(brief))
        asyncio.run(agent.aclose())

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


@contextlib.asynccontextmanager
async def _measured(blocked_s: list[float]) -> AsyncIterator[None]:
    """Notes for how long, at most, the event loop stood still."""
    longest_s = 0.0

    async def tick() -> None:
        nonlocal longest_s
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest_s = max(longest_s, time.monotonic() - before)

    ticking = asyncio.ensure_future(tick())
    await asyncio.sleep(0)
    try:
        yield
        await asyncio.sleep(0.02)
    finally:
        ticking.cancel()
        blocked_s.append(longest_s)


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


def _told(study: Study) -> Mapping[str, object]:
    """All that a study holds."""
    return copy.deepcopy(vars(study))


def _make_repository(folder: Path, files: Mapping[str, str]) -> None:
    folder.mkdir()
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    who = ["-c", "user.name=arf", "-c", "user.email=arf@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "--allow-empty", "-m", "suite"]):
        subprocess.run(["git", *command], cwd=folder, check=True, stdin=subprocess.DEVNULL)
