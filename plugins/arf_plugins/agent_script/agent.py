"""Gives the ideas that somebody has written down, in order, each once in a study."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from arf.errors import AgentError, UsageError
from arf.interfaces import Agent, Brief
from arf.study import Study
from arf.types import Answer, Ask, AskKind, Draft, FactorDraft, Usage
from arf_plugins.agent_script import ScriptOptions
from arf_plugins.agent_script.reading import read_ideas

_OWN_FOLDER = ".arf"


class ScriptAgent(Agent):
    """What it has given it knows by the titles of the study's ideas, so a resumed study goes on.

    An idea that could not be applied is in no study; it is given again after a resume, when its file may
    have been mended.
    """

    def __init__(self, options: ScriptOptions | None = None) -> None:
        """Reads the ideas at once if they can be found without knowing the workspace. Raises UsageError."""
        super().__init__(options)
        path = (options or ScriptOptions()).path
        if not path:
            hint = "set agent.path to a folder of patches or a list of ideas"
            raise UsageError("the agent 'script' has no ideas", hint=hint)
        self._path = Path(path).expanduser()
        self._drafts: list[Draft] | None = None
        self._study: Study | None = None
        self._given: set[str] = set()
        self._seen = 0
        if self._path.is_absolute() or self._path.exists():
            self._drafts = self._read(self._path)

    def check(self, brief: Brief) -> None:
        self._ideas(brief.directory)

    def estimate(self, brief: Brief) -> Usage:
        return Usage()  # nobody is paid

    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        try:
            ideas = self._ideas(brief.directory)
        except UsageError as error:
            raise AgentError(error.message, hint=error.hint) from None
        self._follow(brief.study)
        left = list(islice((draft for draft in ideas if draft.title not in self._given), ask.n + 1))
        drafts, exhausted = left[: ask.n], len(left) <= ask.n
        self._given.update(draft.title for draft in drafts)
        note = "" if drafts else f"all {len(ideas)} ideas of {self._path} have been given"
        if ask.kind is AskKind.FACTORS:
            factors = tuple(FactorDraft(name=draft.title, levels=(draft,)) for draft in drafts)
            return Answer(factors=factors, exhausted=exhausted, note=note)
        return Answer(ideas=tuple(drafts), exhausted=exhausted, note=note)

    def _follow(self, study: Study) -> None:
        """Count what the study holds as given."""
        if study is not self._study:
            self._study, self._given, self._seen = study, set(), 0
        self._given.update(idea.title for idea in islice(study.ideas.values(), self._seen, None))
        self._seen = len(study.ideas)

    def _ideas(self, directory: Path | None) -> list[Draft]:
        """The ideas by a path relative to the workspace, else to the current directory. Read once."""
        if self._drafts is None or not self._path.is_absolute():
            above = directory.absolute().parents if directory is not None else ()
            places = [*(folder.parent for folder in above if folder.name == _OWN_FOLDER), Path.cwd()]
            found = next((place / self._path for place in places if (place / self._path).exists()), None)
            self._path = found or places[0] / self._path
            self._drafts = self._read(self._path)
        return self._drafts

    def _read(self, path: Path) -> list[Draft]:
        if not path.exists():
            raise UsageError(f"agent.path: there is no {path}", hint="it is relative to the workspace")
        return read_ideas(path)
