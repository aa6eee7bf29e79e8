"""What a change must be: of editable files, of valid code, and of more than a seed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import PurePosixPath

from pygit2.enums import FileMode

from arf.errors import UsageError
from arf.workspace.files import Changes, Sources, decode
from arf.workspace.repository import File, Files
from arf.workspace.seeds import is_seed_name, same_but_for_seeds, same_code

_SEED_ONLY = "it changes only a seed, and seeds are arf's to set"
_SEED_HINT = "a lucky seed is no progress; change what the code does"


def check_seed_names(names: Iterable[str]) -> None:
    """Raises UsageError if all constants that are set are seeds."""
    if all(is_seed_name(name) for name in names):
        raise UsageError(_SEED_ONLY, hint=_SEED_HINT)


class Checks:
    """The checks of the changes that an idea makes."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._rules = sources.rules

    def real(self, changes: Changes, listing: Files) -> dict[str, File | None]:
        """Without those that leave a file as it is."""
        return {path: file for path, file in changes.items() if self._sources.file(listing.get(path)) != file}

    def check_path(self, path: str, file: File | None, listing: Files) -> None:
        """Raises UsageError if an idea must not make this change."""
        shown = self._rules.shown(path)
        if not self._rules.is_editable(path):
            kind = "read-only" if self._rules.is_readonly(path) else "not editable"
            raise UsageError(
                f"{shown} is {kind}", hint=f"editable: {', '.join(self._rules.settings.editable)}"
            )
        old = listing.get(path)
        if (old is not None and not old.is_file) or path in self._sources.stand_ins:
            raise UsageError(f"{shown} is a link, a submodule or an LFS file, which ideas cannot change")
        if file is None:
            return
        if file.mode not in (FileMode.BLOB, FileMode.BLOB_EXECUTABLE):
            raise UsageError(f"{shown} would become a link or a submodule, which ideas cannot make")
        for parent in PurePosixPath(path).parents:
            if str(parent) in listing:
                raise UsageError(f"{shown} is inside of {self._rules.shown(str(parent))}, which is no folder")

    def check_python(self, path: str, file: File, listing: Files, flags: int = 0) -> None:
        """Raises UsageError if a Python file compiles no more; with PyCF_ONLY_AST, parses no more."""
        if not path.endswith(".py"):
            return
        problem = _python_problem(file.data, flags)
        old = listing.get(path)
        if problem and (old is None or not _python_problem(self._sources.git.read(old.id), flags)):
            raise UsageError(f"{self._rules.shown(path)}:{problem}", hint="the file must stay valid Python")

    def check_seeds(self, changes: Changes, listing: Files) -> None:
        """Raises UsageError if nothing but seeds changes, or nothing but comments."""
        only_comments = True
        for path, file in changes.items():
            old = listing.get(path)
            if file is None or old is None or file.mode != old.mode:
                return
            before, after = decode(self._sources.git.read(old.id)), decode(file.data)
            python = path.endswith(".py")
            if not same_but_for_seeds(before, after, python=python):
                return
            only_comments = only_comments and python and same_code(before, after)
        if only_comments:
            raise UsageError("it changes only comments or layout", hint="change what the code does")
        raise UsageError(_SEED_ONLY, hint=_SEED_HINT)


def _python_problem(data: bytes, flags: int) -> str:
    """`LINE: what is wrong` with a Python source; empty if it compiles."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(data, "<idea>", "exec", flags, dont_inherit=True)
    except SyntaxError as error:
        return f"{error.lineno or 1}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"1: {error or 'nested too deeply'}"
    return ""
