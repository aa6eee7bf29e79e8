"""The boxes of one study: what each of its jobs may see, and which files of its work tree it may change."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from attrs import evolve, frozen

from arf.config.schema import Sandbox
from arf.sandbox import places
from arf.sandbox.named_data import named_data
from arf.types import Box, SandboxMode

TEMPORARY = ("/tmp", "/var/tmp")
LARGE_FOLDER = 16
"""A folder with more files than this, none of which may change, is read-only as a whole: a mount for each
would cost more than it is worth. In smaller ones a script can write new files beside those of the commit."""
CACHES = ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "MPLCONFIGDIR", "NUMBA_CACHE_DIR")
"""Variables that name folders for caches: a job gets empty ones in their places."""


TOKENS = (".cache/huggingface/token", ".cache/huggingface/stored_tokens")
"""Keys that lie among data."""


class Boxes:
    """Makes boxes.

    `env` is the environment of jobs; `top` is the checkout's folder, which no job sees; `sources` are the
    texts of files that ideas cannot change, and read when the first box is made.
    """

    def __init__(
        self,
        settings: Sandbox,
        *,
        command: str | tuple[str, ...],
        env: Mapping[str, str],
        workspace: Path,
        top: Path,
        linked: Iterable[str] = (),
        private: Iterable[str] = (),
        sources: Iterable[str] = (),
    ) -> None:
        self._settings = settings
        self._command = command
        self._env = env
        self._workspace = workspace
        self._top = top
        self._linked = tuple(linked)
        self._private = tuple(private)
        self._sources = sources
        self._common: Box | None = None
        self._protected: tuple[frozenset[str], Protection] | None = None

    def make(
        self, tree: Path, readonly: Collection[str], others: Collection[str], *, private: bool = False
    ) -> Box | None:
        """The box of a job in a work tree; None where jobs are not confined.

        `readonly` and `others` are its files, relative to it. `private`: it may see what is private.
        """
        if self._settings.mode is SandboxMode.OFF:
            return None
        if self._common is None:
            self._common = self._make_common(tree)
        files = frozenset(readonly)
        if self._protected is None or self._protected[0] != files:
            self._protected = files, protection(files, others)
        found = self._protected[1]
        tree = Path(os.path.abspath(tree))
        return evolve(
            self._common,
            tree=tree,
            read=(*self._common.read, *(self._private_places(tree) if private else ())),
            hide=(*self._common.hide, *(() if private else self._private_places(tree))),
            write=(*self._common.write, str(tree)),
            protect=found.protect,
            hold=found.hold,
            empty=found.empty,
        )

    def _private_places(self, tree: Path) -> tuple[str, ...]:
        """Where private files are, in the work tree and elsewhere; those of the checkout are out of sight."""
        inside = self._workspace.relative_to(self._top) if self._workspace.is_relative_to(self._top) else ""
        own = [path for path in self._private if not path.startswith(("/", "~", "$"))]
        others = [path for path in self._private if path not in own]
        found = [
            *(str(tree / inside / path) for path in own),
            *places.declared(others, self._workspace, self._env),
        ]
        return tuple(match for path in found for match in sorted(glob.glob(path)))

    def _make_common(self, tree: Path) -> Box:
        """What the boxes of all jobs have in common. Asks the interpreter where it is, once."""
        settings, env = self._settings, self._env
        home = os.path.expanduser("~")
        usual = places.readable(self._command, env, network=settings.network)
        usual = tuple(path for path in usual if not self._is_of_checkout(path))
        for folder in (Path(home), self._top, self._top.resolve()):
            usual = places.outside(usual, folder)
        named = [path for path in named_data(self._sources) if os.path.exists(os.path.expanduser(path))]
        declared = places.declared([*settings.read, *named], self._workspace, env)
        scratch = [*TEMPORARY, *(env.get(name, "") for name in CACHES)]
        if os.path.isabs(home) and home != "/":
            scratch.append(home)
        return Box(
            mode=settings.mode,
            tree=tree,
            read=(*usual, *self._linked, *declared),
            write=places.declared(settings.write, self._workspace, env),
            scratch=tuple(dict.fromkeys(filter(os.path.isabs, scratch))),
            hide=(str(self._top), *(os.path.join(home, name) for name in TOKENS)),
            network=settings.network,
            processes=settings.processes,
            file_bytes=None if settings.file_gb is None else int(settings.file_gb * 1e9),
        )

    def _is_of_checkout(self, path: str) -> bool:
        """Whether a path is of the checkout, and not of an environment that somebody has made in it."""
        here = Path(path)
        if not here.is_relative_to(self._top):
            return False
        return not any(
            (folder / "pyvenv.cfg").exists() or (folder / "conda-meta").exists()
            for folder in [here, *here.parents]
            if folder.is_relative_to(self._top) and folder != self._top
        )


@frozen
class Protection:
    """What of a work tree cannot be changed; the three are those of `Box`."""

    protect: tuple[str, ...]
    hold: tuple[str, ...]
    empty: tuple[str, ...]


def protection(readonly: Collection[str], others: Collection[str]) -> Protection:
    """How to make files of a tree read-only, and leave room for what a script writes beside them."""
    mixed = {folder for path in others for folder in _folders(path)}
    inside: dict[str, int] = {}
    for path in readonly:
        for folder in _folders(path):
            inside[folder] = inside.get(folder, 0) + 1
    whole = {folder for folder, count in inside.items() if count > LARGE_FOLDER and folder not in mixed}
    protect: set[str] = set()
    hold: set[str] = set()
    for path in readonly:
        folders = _folders(path)
        covering = next((folder for folder in folders if folder in whole), None)
        protect.add(covering or path)
        hold.update(folder for folder in folders if covering is None or len(folder) < len(covering))
    python = {path.rpartition("/")[0] for path in protect - whole if path.endswith(".py")}
    empty = {f"{folder}/__pycache__".lstrip("/") for folder in python}
    return Protection(tuple(sorted(protect)), tuple(sorted(hold)), tuple(sorted(empty)))


def _folders(path: str) -> list[str]:
    """The folders that hold a path, the topmost first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: number + 1]) for number in range(len(parts))]
