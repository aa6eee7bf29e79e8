"""Which files of a tree of Hydra's configurations a run composes: the others change nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

_LIST = re.compile(r"^defaults:[ \t]*(?:#.*)?\n((?:[ \t]*(?:-.*|#.*)?\n?)+)", re.MULTILINE)
_ENTRY = re.compile(
    r"-\s+(?:optional\s+|override\s+)*(?:(?P<group>/?[\w/.-]+)(?:@[\w.]+)?\s*:\s*)?[\"']?(?P<name>[\w/.-]+)"
)
_SUFFIXES = (".yaml", ".yml")


def unused(files: Mapping[str, str]) -> set[str]:
    """The files in the groups of a tree that no defaults list takes; none where there is no such list."""
    lists = {path: found[1] for path, text in files.items() if (found := _found(path, text))}
    used, groups = set(lists), set()
    for path, text in lists.items():
        here = PurePosixPath(path).parent
        top = min((PurePosixPath(other).parent for other in lists), key=lambda place: len(place.parts))
        for entry in _ENTRY.finditer(text):
            group, name = entry["group"] or "", entry["name"]
            place = top if group.startswith("/") else here
            folder = place / group.strip("/")
            if group:
                groups.add(folder)
            used |= {str(folder / name) + suffix for suffix in _SUFFIXES}
    return {
        path
        for path in files
        if path.endswith(_SUFFIXES) and path not in used and groups & set(PurePosixPath(path).parents)
    }


def _found(path: str, text: str) -> re.Match[str] | None:
    return _LIST.search(text + "\n") if path.endswith(_SUFFIXES) else None
