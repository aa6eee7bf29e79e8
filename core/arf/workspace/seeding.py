"""Writes the seed of a run into the files of its work tree."""

from __future__ import annotations

from arf.types import SeedMode
from arf.workspace.files import Sources, encode
from arf.workspace.repository import File
from arf.workspace.seeds import rewrite


class Seeding:
    """How the settings of a workspace say that runs get their seeds."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._mentions: dict[str, bool] = {}

    def seeded(self, commit: str, seed: int) -> dict[str, File]:
        """The files of a work tree that differ from the commit, because their seeds are set."""
        mode = self._sources.rules.settings.seed
        if mode is SeedMode.ENV or (mode is SeedMode.AUTO and self._reads_seed(commit)):
            return {}
        found = {}
        for path, (entry, text) in self._sources.texts(commit).items():
            changed = rewrite(text, seed, path)
            if changed != text:
                found[path] = File(entry.mode, encode(changed))
        return found

    def _reads_seed(self, commit: str) -> bool:
        """Whether a tracked file, documents aside, mentions ARF_SEED."""
        for path, entry in self._sources.git.files(commit).items():
            if entry.id not in self._mentions:
                text = entry.is_file and not path.endswith((".md", ".txt", ".rst", ".yaml", ".yml"))
                self._mentions[entry.id] = text and b"ARF_SEED" in self._sources.git.read(entry.id)
            if self._mentions[entry.id]:
                return True
        return False
