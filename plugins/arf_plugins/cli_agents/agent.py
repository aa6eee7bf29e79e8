"""An agent that is a command-line program with tools of its own, which reaches arf's through MCP."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from attrs import define, field, frozen

from arf.errors import AgentError, PluginError
from arf.interfaces import Agent, Brief
from arf.sdk.configuration import is_secret_name
from arf.types import Answer, Ask, AskKind, Usage
from arf_plugins.cli_agents import process
from arf_plugins.cli_agents.agent_session import Lane
from arf_plugins.cli_agents.limits import reset_s
from arf_plugins.cli_agents.options import CliOptions
from arf_plugins.llm.prompt import render, wanted

log = logging.getLogger(__name__)

RETRY_S = 30.0
"""When a program that failed for no lasting reason is asked again."""
VERSION_S = 30.0
HOW = """\
You are in a copy of the workspace. Change the editable files with your own tools, and hand in each change by
itself with arf's `submit` tool: it takes what you changed and restores the files for the next one. Do not run
the training script and do not use git: machines run what you submit. Look at results, effects and earlier
experiments with arf's tools. What you only say is lost. End with arf's `done` tool."""
PLANNING = """\
What you submit is queued at once, on the hardware that you name. Submit a whole batch, call `done`, and end
your turn: you are asked again, in this same session, when results have come in. Do not wait for long runs."""


@define
class Heard:
    """What a program has said of itself in one run."""

    session: str = ""
    said: str = ""
    """Its last message."""
    usage: Usage = field(factory=Usage)
    finished: bool = False
    """Whether it came to the end of its turn, well or not."""
    problem: str = ""
    """What went wrong, in a line."""
    lasting: bool = False
    """Whether the problem will be there the next time too."""
    hint: str = ""
    note: str = ""


@frozen
class Version:
    """The version that was tried."""

    tried: tuple[int, ...]
    install: str
    """How people get the program."""


class CliAgent(Agent):
    """A subclass knows one program: its command line, its environment, and its lines."""

    provider: ClassVar[str]
    binary: ClassVar[str]
    version: ClassVar[Version]
    own_secrets: ClassVar[tuple[str, ...]]
    """Beginnings of the names of the secrets that the program may see: its own provider's."""

    options: CliOptions

    def __init__(self, options: CliOptions) -> None:
        super().__init__(options)
        self._free = list(range(options.parallel))
        self._known = ""
        self._opened: set[int] = set()
        """The lanes that this process has used."""

    @property
    def parallel(self) -> int:
        return self.options.parallel

    # ---- What a subclass says ---------------------------------------------------------------

    @abstractmethod
    def command(self, lane: Lane, session: str, brief: Brief) -> list[str]:
        """The arguments of the program; `session` is empty for a new one. The prompt comes by stdin."""

    @abstractmethod
    def hear(self, event: Mapping[str, Any], heard: Heard, before: Mapping[str, Any]) -> None:
        """Take in one line that it printed. `before` is what was kept of the session."""

    def environment(self) -> dict[str, str]:
        """More variables for the program."""
        return {}

    def kept(self, heard: Heard, before: Mapping[str, Any]) -> dict[str, Any]:
        """What to keep of the session for the next ask."""
        return {"session": heard.session}

    def check(self, brief: Brief) -> None:
        if shutil.which(self._wanted) is None:
            raise self._missing()
        if find_spec("mcp") is None:
            raise PluginError(
                f"{self.provider} reaches arf through the package mcp", hint="pip install 'arf-research[mcp]'"
            )

    # ---- One ask ----------------------------------------------------------------------------

    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        program = await self._program()
        if not self._free:
            raise AgentError(f"{self.provider} has no free conversation", retry_after_s=RETRY_S)
        number = self._free.pop(0)
        try:
            assert brief.directory is not None, "a study gives its agent a folder"
            lane = Lane(brief.directory / f"{self.provider}-{number}")
            left = None
            if number not in self._opened:
                process.end_left_over(str(lane.folder))  # it would work in the same files
                left = lane.left(ask, brief)
            self._opened.add(number)
            if left is not None:
                return left
            lane.open(ask, brief)
            before = lane.session() if self.options.resume else {}
            heard, ended = await self._run(program, lane, ask, brief, before)
            if before and not heard.session and not lane.has_submitted():
                log.info("%s does not go on with its session, so a new one begins", self.provider)
                lane.forget_session()
                before = {}
                heard, ended = await self._run(program, lane, ask, brief, before)
            if heard.session:
                lane.keep_session(self.kept(heard, before))
            return self._answer(lane, ask, brief, heard, ended)
        finally:
            self._free.append(number)

    async def _run(
        self, program: str, lane: Lane, ask: Ask, brief: Brief, before: Mapping[str, Any]
    ) -> tuple[Heard, process.Ended]:
        heard = Heard()

        def hear(line: str) -> None:
            try:
                event = json.loads(line)
            except ValueError:
                return  # a torn line, or a word of the program's own
            if isinstance(event, dict):
                self.hear(event, heard, before)

        session = str(before.get("session", ""))
        ended = await process.run(
            [program, *self.command(lane, session, brief), *self.options.args],
            text=self._prompt(ask, brief, goes_on=bool(session)),
            cwd=lane.cwd(brief),
            env={**self._env(), process.MARK: str(lane.folder)},
            time_limit_s=self.options.time_limit,
            silence_limit_s=self.options.silence_limit,
            hear=hear,
        )
        return heard, ended

    def _prompt(self, ask: Ask, brief: Brief, *, goes_on: bool) -> str:
        told = render(brief, ask, max_chars=self.options.max_brief_chars)
        parts = [told.current] if goes_on else [told.stable, told.current]
        if goes_on:
            parts.insert(0, "Results have come in. The files are as at the base of this ask again.")
        parts += [f"## What is wanted\n\n{wanted(ask)}", HOW]
        if ask.kind is AskKind.EXPERIMENTS:
            parts.append(PLANNING)
        return "\n\n".join(parts) + "\n"

    def _answer(self, lane: Lane, ask: Ask, brief: Brief, heard: Heard, ended: process.Ended) -> Answer:
        """What came of it. Raises AgentError if it failed and nothing was handed in."""
        problem = heard.problem or ended.stopped
        if not problem and not heard.finished:
            problem = f"ended without a last word (exit code {ended.exit_code})"
        answer = lane.answer(ask, brief, heard.usage, heard.said)
        if problem and not (answer.ideas or answer.factors):
            why = f": {ended.stderr}" if ended.stderr and not heard.problem else ""
            raise AgentError(
                f"{self.provider} {problem}{why}",
                retry_after_s=None if heard.lasting else _retry_after_s(problem, heard),
                usage=heard.usage,
                hint=heard.hint,
            )
        return answer

    @property
    def _wanted(self) -> str:
        return self.options.program or self.binary

    def _missing(self) -> AgentError:
        return AgentError(
            f"there is no program {self._wanted!r}", hint=f"{self.version.install}, or set agent.program"
        )

    # ---- The program ------------------------------------------------------------------------

    async def _program(self) -> str:
        """The program's path, once it was seen to run. Raises AgentError with how to get it."""
        if self._known:
            return self._known
        path = shutil.which(self._wanted)
        if path is None:
            raise self._missing()
        said: list[str] = []
        ended = await process.run(
            [path, "--version"], text="", cwd=Path.cwd(), env=self._env(), time_limit_s=VERSION_S,
            silence_limit_s=VERSION_S, hear=said.append,
        )  # fmt: skip
        found = re.search(r"(\d+)\.(\d+)\.(\d+)", " ".join(said))
        if ended.exit_code or found is None:
            raise AgentError(
                f"{path} --version does not tell a version: {ended.stopped or ended.stderr or said[:1]}",
                hint=self.version.install,
            )
        if tuple(map(int, found.groups())) < self.version.tried:
            tried = ".".join(map(str, self.version.tried))
            log.warning("%s is %s, and was tried with %s or newer", self.provider, found.group(), tried)
        self._known = path
        return path

    def _env(self) -> dict[str, str]:
        """arf's environment without the secrets of others."""
        env = {
            name: value
            for name, value in os.environ.items()
            if not is_secret_name(name) or name.startswith(self.own_secrets)
        }
        return {**env, **self.environment()}


def _retry_after_s(problem: str, heard: Heard) -> float:
    """When to ask again: once the limit that was reached has ended, if that is what is wrong."""
    reset = reset_s(f"{problem} {heard.said}", datetime.now().astimezone())
    return RETRY_S if reset is None else max(RETRY_S, reset)


def mcp_command(lane: Lane) -> Sequence[str]:
    """The command that serves arf's tools for the present ask."""
    start = "import sys; from arf.cli import main; sys.exit(main())"
    return (sys.executable, "-c", start, "mcp", "--ask", str(lane.asked.path))
